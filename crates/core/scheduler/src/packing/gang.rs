//! Which nodes a request of several ranks goes to: on all of them at once, or on none.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use types::Resources;

use super::{Choice, Openness, Packing, Score, Wishes};
use crate::fit::Who;

impl Packing {
    /// The best nodes for a request of several ranks, one for each; none if it fits fewer.
    ///
    /// Those that are close to each other are taken together: nodes of one failure domain, as a person has labelled them,
    /// are on one switch more often than others, and a gang ends with the first of its nodes wherever they are.
    pub(crate) fn choose_gang(
        &mut self,
        who: Who<'_>,
        wishes: Wishes<'_>,
        allowed: impl Fn(usize, &Resources) -> bool,
        is_open: impl Fn(usize) -> Openness,
    ) -> Option<Vec<Choice>> {
        let ranks = who.request.nodes as usize;
        let mut scores = Vec::new();
        self.rate(who, wishes, &allowed, &is_open, |score| scores.push(score));
        let fitting = scores.len();
        let chosen = self.close_together(scores, ranks)?;
        let choice = |score: Score| {
            Some(Choice {
                at: score.at,
                resources: self.taken(score.at, who, &allowed, &is_open)?,
                fitting,
                next: None,
            })
        };
        chosen.into_iter().map(choice).collect()
    }

    /// So many of the best that are in as few failure domains as can be; none if there are fewer.
    fn close_together(&self, mut scores: Vec<Score>, ranks: usize) -> Option<Vec<Score>> {
        scores.sort_unstable();
        let good = scores.iter().filter(|score| !score.avoided).count();
        if good >= ranks {
            scores.truncate(good); // What is to be avoided sorts behind.
        }
        let mut domains: BTreeMap<&str, Vec<Score>> = BTreeMap::new();
        for score in &scores {
            let domain = self.offers[score.at].labelled_domain();
            domains.entry(domain).or_default().push(*score);
        }
        let mut domains: Vec<_> = domains.into_values().collect();
        let whole = domains.iter().filter(|domain| domain.len() >= ranks);
        if let Some(best) = whole.min_by_key(|domain| domain[ranks - 1]) {
            return Some(best[..ranks].to_vec());
        }
        domains.sort_by_key(|domain| (Reverse(domain.len()), domain[0]));
        let chosen: Vec<_> = domains.into_iter().flatten().take(ranks).collect();
        (chosen.len() == ranks).then_some(chosen)
    }
}

//! What clients did and saw, and what must be true of it in the end.

use std::collections::BTreeMap;
use std::path::Path;

use service::view::{ExperimentList, ExperimentSummary};

use crate::harness::Node;
use crate::linearizable::{self, Operation, Outcome, State};
use crate::traces::{self, Life};

/// A beat may be written while the answer travels: the boot clock of the traces has hundredths of seconds.
const CLOCK_STEP: u64 = 1;
/// Most experiments that a history is made for; the list of a node holds 5,000.
const MAX_EXPERIMENTS: usize = 4_000;

/// One experiment and all that clients did to it.
#[derive(Debug, Default)]
pub(crate) struct Story {
    pub(crate) name: String,
    /// It runs, writes a trace, and prints as many lines as this; otherwise nobody can run it, and its operations are
    /// checked as a register's.
    pub(crate) beats: Option<u32>,
    /// From the acknowledgement.
    pub(crate) id: Option<String>,
    pub(crate) operations: Vec<Operation>,
    /// When it was first seen as over, in nanoseconds since boot.
    pub(crate) seen_over: Option<u64>,
    pub(crate) stop_acknowledged: bool,
}

impl Story {
    /// A look at it: notes when it was over.
    pub(crate) fn saw(&mut self, state: State, at: u64) {
        if matches!(state, State::Ended(_)) {
            self.seen_over.get_or_insert(at);
        }
    }
}

/// How much was done; printed, so that a test that did nothing is seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) operations: usize,
    pub(crate) unanswered: usize,
    pub(crate) acknowledged: usize,
    pub(crate) experiments: usize,
    pub(crate) attempts: usize,
    /// Attempts after the first.
    pub(crate) again: usize,
}

impl std::fmt::Display for Tally {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "{} operations ({} unanswered), {} experiments acknowledged of {}, {} attempts ({} again)",
            self.operations,
            self.unanswered,
            self.acknowledged,
            self.experiments,
            self.attempts,
            self.again,
        )
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.operations += other.operations;
        self.unanswered += other.unanswered;
        self.acknowledged += other.acknowledged;
        self.experiments += other.experiments;
        self.attempts += other.attempts;
        self.again += other.again;
    }
}

/// Everything that is wrong with a history, given what every node lists when all is quiet.
pub(crate) fn violations(
    stories: &[Story],
    lists: &[(&Node, Vec<ExperimentSummary>)],
    shared: &Path,
) -> Vec<String> {
    assert!(
        stories.len() <= MAX_EXPERIMENTS,
        "a list must hold them all"
    );
    let mut found = Vec::new();
    for (node, list) in lists {
        found.extend(listed_wrongly(stories, list).map(|what| format!("on {}: {what}", node.name)));
    }
    let traces = traces::directory(shared);
    for story in stories {
        if story.beats.is_some() {
            let lives = traces::lives(&traces, &story.name);
            found.extend(traces::violations(&story.name, &lives));
            found.extend(alive_after_end(story, &lives));
        } else if let Err(why) = linearizable::check(&story.operations) {
            found.push(format!("{}: {why}", story.name));
        }
    }
    found
}

/// What is missing in a list, or is there and should not be.
fn listed_wrongly<'a>(
    stories: &'a [Story],
    list: &'a [ExperimentSummary],
) -> impl Iterator<Item = String> + 'a {
    let mut by_name: BTreeMap<&str, Vec<&ExperimentSummary>> = BTreeMap::new();
    for one in list {
        by_name.entry(&one.name).or_default().push(one);
    }
    let mut nobodys = by_name.clone();
    let mut found = Vec::new();
    for story in stories {
        nobodys.remove(story.name.as_str());
        let listed = by_name
            .get(story.name.as_str())
            .map_or(&[][..], Vec::as_slice);
        if listed.len() > 1 {
            found.push(format!(
                "{} was submitted {} times",
                story.name,
                listed.len()
            ));
        }
        let Some(id) = &story.id else {
            continue;
        };
        match listed.first() {
            None => found.push(format!(
                "{} was acknowledged as {id} and is lost",
                story.name
            )),
            Some(one) if one.id != *id => {
                found.push(format!(
                    "{} was acknowledged as {id} and is {}",
                    story.name, one.id
                ));
            }
            Some(one) if !is_as_asked(story, one) => {
                found.push(format!(
                    "the stop of {} was acknowledged, and it is {}",
                    story.name, one.state
                ));
            }
            Some(_) => {}
        }
    }
    // Others are a scenario's own.
    nobodys.retain(|name, _| ["far", "job"].iter().any(|kind| name.starts_with(kind)));
    found.extend(
        nobodys
            .keys()
            .map(|name| format!("{name} was never submitted")),
    );
    found.into_iter()
}

fn is_as_asked(story: &Story, listed: &ExperimentSummary) -> bool {
    let over = is_over(&listed.state);
    // It may have come to its end, or failed, before the stop reached it.
    let ended = over && (story.beats.is_some() || listed.state == "stopped");
    !story.stop_acknowledged || ended
}

/// Whether this word for a state says that it is over.
pub(crate) fn is_over(state: &str) -> bool {
    ["finished", "failed", "stopped"].contains(&state)
}

/// An experiment that was over for a client and lived on.
fn alive_after_end(story: &Story, lives: &[Life]) -> Option<String> {
    let over = story.seen_over? / 10_000_000;
    let last = lives.iter().map(|life| life.last).max()?;
    (last > over + CLOCK_STEP).then(|| {
        format!(
            "{} was over at {over} and lived at {last}: {lives:?}",
            story.name
        )
    })
}

/// Counts.
pub(crate) fn tally(stories: &[Story], shared: &Path) -> Tally {
    let traces = traces::directory(shared);
    let mut tally = Tally {
        experiments: stories.len(),
        ..Tally::default()
    };
    for story in stories {
        tally.operations += story.operations.len();
        let open = |operation: &&Operation| operation.outcome == Outcome::Open;
        tally.unanswered += story.operations.iter().filter(open).count();
        tally.acknowledged += usize::from(story.id.is_some());
        let attempts = traces::lives(&traces, &story.name).len();
        tally.attempts += attempts;
        tally.again += attempts.saturating_sub(1);
    }
    tally
}

/// All that a node lists, however long it takes.
pub(crate) fn everything(node: &Node) -> Option<Vec<ExperimentSummary>> {
    let output = node.muster(&["--json", "ls", "--all", "--limit", "5000"]);
    let list: ExperimentList = serde_json::from_str(&output.out).ok()?; // nobody leads yet
    assert_eq!(list.more, 0);
    Some(list.experiments)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn story(id: Option<&str>, beats: Option<u32>) -> Story {
        Story {
            name: "far0".to_owned(),
            beats,
            id: id.map(str::to_owned),
            ..Story::default()
        }
    }

    fn listed(id: &str, state: &str) -> ExperimentSummary {
        serde_json::from_value(serde_json::json!({
            "id": id, "name": "far0", "state": state, "user": "u", "queue": "q0", "node": null, "nodes": [],
            "submitted_at": 0, "started_at": null, "ended_at": null, "attempts": 0, "reason": "", "resources": ""
        }))
        .unwrap()
    }

    fn check(story: Story, list: &[ExperimentSummary]) -> Vec<String> {
        listed_wrongly(&[story], list).collect()
    }

    #[test]
    fn what_was_acknowledged_is_there_once_and_nothing_else() {
        assert!(check(story(Some("1"), None), &[listed("1", "queued")]).is_empty());
        assert!(check(story(None, None), &[]).is_empty());
        assert!(check(story(None, None), &[listed("1", "queued")]).is_empty());
        assert!(check(story(Some("1"), None), &[])[0].contains("is lost"));
        assert!(check(story(Some("1"), None), &[listed("2", "queued")])[0].contains("and is 2"));
        let twice = [listed("1", "queued"), listed("2", "queued")];
        assert!(check(story(None, None), &twice)[0].contains("2 times"));
        assert!(
            listed_wrongly(&[], &[listed("1", "queued")])
                .next()
                .unwrap()
                .contains("never")
        );
    }

    #[test]
    fn an_acknowledged_stop_ends_it() {
        let stopped = |beats| Story {
            stop_acknowledged: true,
            ..story(Some("1"), beats)
        };
        assert!(check(stopped(None), &[listed("1", "stopped")]).is_empty());
        assert!(check(stopped(Some(9)), &[listed("1", "finished")]).is_empty());
        assert!(check(stopped(None), &[listed("1", "queued")])[0].contains("the stop"));
        assert!(check(stopped(Some(9)), &[listed("1", "running")])[0].contains("the stop"));
    }

    #[test]
    fn who_is_over_does_not_live() {
        let mut over = story(Some("1"), Some(9));
        over.saw(State::Waiting(0), 1_000_000_000);
        let lives = |last| {
            [Life {
                attempt: 1,
                node: "a".to_owned(),
                start: 50,
                last,
                whole: false,
            }]
        };
        assert_eq!(alive_after_end(&over, &lives(900)), None);
        over.saw(State::Ended(0), 2_000_000_000);
        assert_eq!(alive_after_end(&over, &lives(200)), None);
        assert!(alive_after_end(&over, &lives(210)).is_some());
    }
}

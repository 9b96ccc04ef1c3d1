//! The time of the cluster: the wall clock, unless the other voters agree that this node's is wrong (invariant 2).

use std::convert::Infallible;
use std::time::Duration;

use membership::{Health, VoterClock, WrongClock, judge_clock};
use types::{NodeId, Timestamp};

use crate::handle::{Handle, lock, now, view_now};

/// Time between two looks at the clocks.
const LOOK: Duration = Duration::from_secs(2);
/// Looks that must agree: until then everybody has reported anew, and one late report is no proof.
const LOOKS: u32 = 4;

impl Handle {
    /// The time to write into the log and to compare with its times: the wall clock, put right by the median of the
    /// voters' clocks if it is far off.
    #[must_use]
    pub fn cluster_time(&self) -> Timestamp {
        let wall = now();
        match self.wrong_clock(wall) {
            Some(wrong) => Timestamp(wall.0.saturating_add_signed(wrong.correction_ms)),
            None => wall,
        }
    }

    /// What the other live voters say about this voter's clock; none if it is right, or nobody can say.
    fn wrong_clock(&self, wall: Timestamp) -> Option<WrongClock> {
        let own = self.node_id();
        let voters = self.inner.consensus.voters();
        if !voters.contains(own) {
            return None;
        }
        let view = lock(&self.inner.view);
        let now = view_now();
        let clock = |node: &NodeId| {
            let known = view.get(node)?;
            Some(VoterClock {
                node: node.clone(),
                told: known.report.taken_at,
                age: now.since(known.received_at),
            })
        };
        let live = voters
            .iter()
            .filter(|node| *node != own && view.health(node, now) == Health::Live);
        let others: Vec<_> = live.filter_map(clock).collect();
        drop(view);
        judge_clock(&others, wall)
    }

    /// Gives up the lead whenever this node's clock is far off the voters' median and one whose clock is right can take
    /// over.
    pub async fn watch_clock(&self) -> Infallible {
        let mut looks = 0;
        loop {
            tokio::time::sleep(LOOK).await;
            let wrong = self.is_leader().then(|| self.wrong_clock(now())).flatten();
            looks = if wrong.is_some() { looks + 1 } else { 0 };
            if let Some(wrong) = wrong.filter(|_| looks >= LOOKS) {
                self.hand_over(&wrong).await;
            }
        }
    }

    async fn hand_over(&self, wrong: &WrongClock) {
        let behind_ms = wrong.correction_ms;
        for node in &wrong.right {
            match self.inner.consensus.transfer_leader(node.clone()).await {
                Ok(()) => {
                    tracing::warn!(node_id = %node, behind_ms, "handed the lead over: the clock of this machine is wrong, set it (timedatectl)");
                    return;
                }
                Err(error) => {
                    tracing::warn!(node_id = %node, %error, "the lead was not taken over")
                }
            }
        }
    }
}

//! Taking over the lead: what a new leader asks before it decides anything.

use consensus::Leadership;
use membership::{Suspicion, Timing};
use tokio::sync::watch;
use types::NodeId;

use crate::handle::Handle;
use crate::peer_message::PeerMessage;

/// Who leads and who led before, for the loop that places.
#[derive(Debug)]
pub struct Succession {
    leadership: watch::Receiver<Leadership>,
    /// The other node that led last.
    before: Option<NodeId>,
}

impl Succession {
    /// Resolves when the lead has changed since [`Handle::takes_over`] looked; none: this node ends.
    pub async fn changed(&mut self) -> Option<()> {
        self.leadership.changed().await.ok() // The sender is gone: nothing changes any more.
    }
}

impl Handle {
    /// Begins to follow who leads.
    #[must_use]
    pub fn succession(&self) -> Succession {
        let mut leadership = self.inner.consensus.leader();
        leadership.mark_changed();
        Succession {
            leadership,
            before: None,
        }
    }

    /// Whether this node leads, and whether that has changed. When it has just begun to, it first asks the leader before it whether it is there: that
    /// one was silent for an election, which is shorter than any silence that gossip tells, and to a new leader it would
    /// look like a machine with room for its first placements.
    pub async fn takes_over(&self, succession: &mut Succession) -> (bool, bool) {
        let changed = succession.leadership.has_changed().unwrap_or(true);
        let now = succession.leadership.borrow_and_update().clone();
        match &now.leader {
            Some(leader) if leader != self.node_id() => succession.before = now.leader,
            Some(_) => {
                if let Some(before) = succession.before.take() {
                    self.doubt(before).await;
                }
            }
            None => {}
        }
        (now.is_self, changed)
    }

    /// One that handed the lead over answers at once. One that only is slow is told, and clears itself.
    async fn doubt(&self, before: NodeId) {
        let within = Timing::named(self.inner.consensus.state().timing()).probe_within;
        let ping = PeerMessage::Ping { in_doubt: false };
        match self.ask(&before, &ping, within.into()).await {
            Ok(_) => self.hear(&before),
            Err(_) => {
                self.suspect(&before, Suspicion::LostLead);
                let handle = self.clone();
                tokio::spawn(async move { handle.ping(&before, within.into(), true).await });
            }
        }
    }
}

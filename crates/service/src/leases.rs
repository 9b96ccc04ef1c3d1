//! The node's side of leases and wanted sets: asking whoever leads.

use std::time::Duration;

use types::{AttemptToken, NodeId, WantedSet};

use crate::error::{ErrorKind, ServiceError};
use crate::handle::Handle;
use crate::peer::{LeaseAnswer, PeerMessage, PeerReply};

/// Time for a lease request: well inside the shortest lease, so that a lost one is asked again.
const LEASE_DEADLINE: Duration = Duration::from_millis(1_500);
/// Time for a push of the leader.
const PUSH_DEADLINE: Duration = Duration::from_secs(2);

impl Handle {
    /// Asks the leader for leases, for what this node should run and for newer members.
    ///
    /// # Errors
    /// Nobody leads, or it does not answer in time.
    pub async fn lease(&self, tokens: &[AttemptToken]) -> Result<LeaseAnswer, ServiceError> {
        let members_version = self.opened_members().map_or(0, |list| list.version);
        if self.is_leader() {
            return self
                .answer_lease(self.node_id(), tokens, members_version)
                .await;
        }
        let message = PeerMessage::Lease {
            tokens: tokens.to_vec(),
            members_version,
        };
        let answer = match self.ask_leader(&message, LEASE_DEADLINE).await? {
            PeerReply::Lease(answer) => answer,
            other => {
                let message = format!("the leader answered {other:?}");
                return Err(ServiceError::new(
                    ErrorKind::Internal,
                    "bad-answer",
                    message,
                ));
            }
        };
        match answer {
            Ok(answer) if answer.wanted.incarnation < self.newest_incarnation() => {
                self.set_leader_hint(None);
                let message = format!(
                    "{} leads an older history of the cluster: nothing it grants counts",
                    answer.leader
                );
                Err(ServiceError::new(
                    ErrorKind::Unavailable,
                    "older-history",
                    message,
                ))
            }
            Ok(mut answer) => {
                self.set_leader_hint(Some(answer.leader.clone()));
                if let Some(members) = answer.members.take() {
                    self.take_members(members);
                }
                Ok(answer)
            }
            Err(error) => Err(self.follow_hint(error)),
        }
    }

    /// Tells a node what it should run; itself too.
    ///
    /// # Errors
    /// It does not answer in time.
    pub async fn push_wanted(&self, node: &NodeId, wanted: WantedSet) -> Result<(), ServiceError> {
        if node == self.node_id() {
            self.take_wanted(wanted, false);
            return Ok(());
        }
        self.ask(node, &PeerMessage::Wanted(wanted), PUSH_DEADLINE)
            .await
            .map(drop)
    }
}

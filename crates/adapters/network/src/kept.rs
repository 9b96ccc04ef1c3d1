//! Which links between members are there without being used.

use std::collections::BTreeSet;
use std::time::Duration;

use types::NodeId;

/// How long a link that is not kept may go unused: the pause between two looks of a person, and far longer than what
/// making a link takes.
pub const LINK_IDLE: Duration = Duration::from_secs(60);

/// The links that a node makes and keeps in the background. To other members it connects for a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// To every member: what holds the state does so, and who has lost touch.
    All,
    /// To these alone.
    Only {
        /// Whom.
        nodes: BTreeSet<NodeId>,
        /// Others are closed when no call, request or bulk connection used them for so long.
        idle: Duration,
    },
}

//! A node tells the cluster that somebody tries to get in.

use serde::{Deserialize, Serialize};

use crate::ledger::Action;
use crate::outcome::{Outcome, RefusalCode};
use crate::state::{ClusterState, Context};

/// Longest source: an IPv6 address with a peer id.
const MAX_SOURCE_BYTES: usize = 128;

/// Where somebody was refused. Appended only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entrance {
    /// Tokens of people, over HTTP.
    Http,
    /// Join tokens, on the control plane.
    Join,
    /// Connections of machines that are no members.
    Connection,
}

/// Refused entries from one source, or from all: counted by a node, which says it seldom (see `service::doorkeeper`), so
/// that nobody fills the ledger by knocking.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoteRefusals {
    /// Where.
    pub entrance: Entrance,
    /// Who: an address, a peer id, or `all sources`.
    pub source: String,
    /// How often since the last word about it.
    pub times: u64,
    /// Locked out for so long; 0: not.
    pub locked_out_ms: u64,
}

impl NoteRefusals {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        let plain = |c: char| c.is_ascii_graphic() || c == ' ';
        if self.source.len() > MAX_SOURCE_BYTES || !self.source.chars().all(plain) {
            let message =
                format!("a source has at most {MAX_SOURCE_BYTES} visible ASCII characters");
            return Outcome::refused(RefusalCode::Invalid, message);
        }
        let what = match self.entrance {
            Entrance::Http => "bad user tokens over HTTP",
            Entrance::Join => "bad join tokens",
            Entrance::Connection => "connections of strangers",
        };
        let mut detail = format!("{} {what} from {}", self.times, self.source);
        if self.locked_out_ms > 0 {
            detail.push_str(&format!(
                ": locked out for {} s",
                self.locked_out_ms / 1_000
            ));
        }
        state.record(context, Action::EntryRefused, None, detail);
        Outcome::Done
    }
}

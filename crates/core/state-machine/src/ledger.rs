//! The ledger: who did what, when, why; hash-chained so that any copy can be checked.

use serde::{Deserialize, Serialize};
use types::{ExperimentId, LogIndex, Timestamp, codec};

/// What was done. Appended only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// The cluster was made.
    ClusterFounded,
    /// A join token was made.
    JoinTokenCreated,
    /// A user token was made.
    UserTokenCreated,
    /// A token was ended.
    TokenRevoked,
    /// A node was let in.
    NodeAdmitted,
    /// A node was taken out.
    NodeRemoved,
    /// A queue was made or changed.
    QueueChanged,
    /// An experiment was submitted.
    ExperimentSubmitted,
    /// An experiment was moved to another queue.
    ExperimentMoved,
    /// Its end was asked for.
    StopRequested,
    /// An attempt was placed.
    AttemptPlaced,
    /// Its process started.
    AttemptStarted,
    /// Its lease was changed.
    LeaseExtended,
    /// It ended.
    AttemptEnded,
    /// A report without a valid token came and was not counted.
    StaleReport,
    /// The experiment is over.
    ExperimentEnded,
    /// All tokens of a person were ended.
    UserRemoved,
    /// Somebody tried to get in and was refused.
    EntryRefused,
    /// A node is to get empty.
    NodeDrained,
    /// A node is in use again.
    NodeUndrained,
    /// A node was given a role, or left to the rule again.
    RolePinned,
    /// A new history began, by restore or by recovery.
    HistoryBegun,
    /// What the history before may have left running is over: placements go on.
    PlacementsReleased,
    /// A copy of everything was made.
    BackupTaken,
    /// A late success was taken for the result.
    LateResultAccepted,
    /// A waiting experiment was held back.
    ExperimentHeld,
    /// A held experiment goes on.
    ExperimentReleased,
    /// A waiting experiment got another place in its queue.
    ExperimentReordered,
    /// A waiting experiment got another priority.
    PriorityChanged,
    /// A user got a part.
    UserWeighed,
    /// A machine got or lost labels.
    NodeLabelled,
    /// A machine is one person's for a time, or everybody's again.
    NodeReserved,
    /// An attempt makes room for another experiment.
    AttemptPreempted,
    /// An attempt holds more GPU memory than it was given, or keeps to it again.
    VramOveruse,
    /// A rank of a gang ended.
    RankEnded,
    /// A group of experiments was submitted.
    GroupSubmitted,
    /// The end of a group was asked for.
    GroupStopRequested,
}

/// One line of history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// Number from 0, without holes.
    pub sequence: u64,
    /// Log entry that caused it.
    pub index: LogIndex,
    /// State time.
    pub at: Timestamp,
    /// user@node.
    pub author: String,
    /// What.
    pub action: Action,
    /// About which experiment.
    pub experiment: Option<ExperimentId>,
    /// The reason or content, for people.
    pub detail: String,
    /// Hash over the predecessor's hash and the fields above.
    pub hash: [u8; 32],
}

impl LedgerEntry {
    /// The hash that this entry must carry after `previous`.
    #[must_use]
    pub fn chain_hash(&self, previous: &[u8; 32]) -> [u8; 32] {
        let fields = (
            self.sequence,
            self.index,
            self.at,
            &self.author,
            self.action,
            self.experiment,
            &self.detail,
        );
        let mut hasher = blake3::Hasher::new();
        hasher.update(previous).update(&codec::encode(&fields));
        *hasher.finalize().as_bytes()
    }
}

/// Checks a run of entries; `previous` is the hash before the first.
///
/// # Errors
/// The sequence number of the first entry that does not follow.
pub fn verify_chain<'a>(
    previous: [u8; 32],
    entries: impl IntoIterator<Item = &'a LedgerEntry>,
) -> Result<[u8; 32], u64> {
    entries.into_iter().try_fold(previous, |previous, entry| {
        if entry.chain_hash(&previous) == entry.hash {
            Ok(entry.hash)
        } else {
            Err(entry.sequence)
        }
    })
}

//! Settings of one replica.

use std::path::PathBuf;
use std::time::Duration;

use types::NodeId;

/// Log entries between snapshots unless told otherwise: at some 300 bytes an entry the log stays near
/// 6 MiB, which keeps sled's memory small and a restart under a second.
const DEFAULT_SNAPSHOT_EVERY_ENTRIES: u64 = 20_000;
/// Log entries kept behind a snapshot, so that a replica that was away for a moment needs no snapshot.
const DEFAULT_KEEP_LOG_ENTRIES: u64 = 2_000;

/// A comparison costs an encoding of the state, in the background: as often as one snapshot or two.
const DEFAULT_COMPARE_EVERY_ENTRIES: u64 = 10_000;
/// Room for some hundred thousand log entries, a snapshot and the time in which a person frees some more.
const DEFAULT_RESERVE_BYTES: u64 = 64 << 20;

/// Settings of one replica.
#[derive(Clone, Debug)]
pub struct Config {
    /// Directory of this replica alone: log, mark, snapshots, archives.
    pub data_directory: PathBuf,
    /// This node.
    pub node: NodeId,
    /// Heartbeats and elections.
    pub timing: Timing,
    /// Log entries between two snapshots. Default 20,000.
    pub snapshot_every_entries: u64,
    /// Log entries kept behind a snapshot. Default 2,000.
    pub keep_log_entries: u64,
    /// Log entries between two comparisons of this replica's state with the others'. Default 10,000; the same on all.
    pub compare_every_entries: u64,
    /// Bytes of the file that keeps room on the disk of the log; 0: none, and the disk is not watched. Default 64 MiB.
    pub reserve_bytes: u64,
    /// There was a store here before: one that is missing is lost, and is not replaced by an empty one.
    pub must_exist: bool,
}

impl Config {
    /// Defaults for a local network.
    #[must_use]
    pub fn new(data_directory: PathBuf, node: NodeId) -> Self {
        Self {
            data_directory,
            node,
            timing: Timing::lan(),
            snapshot_every_entries: DEFAULT_SNAPSHOT_EVERY_ENTRIES,
            keep_log_entries: DEFAULT_KEEP_LOG_ENTRIES,
            compare_every_entries: DEFAULT_COMPARE_EVERY_ENTRIES,
            reserve_bytes: DEFAULT_RESERVE_BYTES,
            must_exist: false,
        }
    }
}

/// Raft's clock settings; the same on all replicas of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Time between two heartbeats of a leader, in ms.
    pub heartbeat_ms: u64,
    /// Shortest silence after which a replica asks for votes, in ms.
    pub election_min_ms: u64,
    /// Longest such silence, in ms.
    pub election_max_ms: u64,
}

impl Timing {
    /// For replicas in one local network.
    #[must_use]
    pub const fn lan() -> Self {
        Self {
            heartbeat_ms: 100,
            election_min_ms: 300,
            election_max_ms: 500,
        }
    }

    /// For replicas across the internet.
    #[must_use]
    pub const fn wan() -> Self {
        Self {
            heartbeat_ms: 600,
            election_min_ms: 1_800,
            election_max_ms: 3_000,
        }
    }

    /// The profile of this name: `wan`, or else the local network's.
    #[must_use]
    pub fn named(profile: &str) -> Self {
        if profile == "wan" {
            Self::wan()
        } else {
            Self::lan()
        }
    }

    /// Longest silence before an election.
    #[must_use]
    pub const fn election_max(&self) -> Duration {
        Duration::from_millis(self.election_max_ms)
    }
}

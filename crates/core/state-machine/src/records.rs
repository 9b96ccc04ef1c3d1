//! What the state holds of nodes, tokens, queues, experiments and attempts.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use types::{
    AttemptToken, Author, Cause, DurationMs, ExperimentId, ExperimentSpec, GroupId, KeptOutputs,
    LogIndex, NodeFacts, NodeId, QueueName, RankPlacement, RequestId, Resources, Role, SegmentRef,
    Timestamp, TokenId,
};

use crate::overuse::VramOveruse;
use crate::queue::Word;

/// A member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Who.
    pub node: NodeId,
    /// Latest facts.
    pub facts: NodeFacts,
    /// When it was admitted.
    pub admitted_at: Timestamp,
    /// By whom (for a token: who made the token).
    pub admitted_by: String,
    /// Takes no new attempts.
    pub draining: bool,
    /// Its labels: those of its facts, with what people have said about them.
    pub labels: Vec<(String, String)>,
}

/// A join token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// Public half.
    pub id: TokenId,
    /// Key that checks proofs.
    pub verifier: [u8; 32],
    /// Admissions left.
    pub uses_left: u32,
    /// When it ends.
    pub expires_at: Timestamp,
    /// Who made it.
    pub created_by: String,
}

/// A token of a person for the TCP port, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserToken {
    /// Public half.
    pub id: TokenId,
    /// BLAKE3 of the secret (256 random bits).
    pub secret_hash: [u8; 32],
    /// Person.
    pub user: String,
    /// What the bearer may do.
    pub role: Role,
    /// When it was made.
    pub created_at: Timestamp,
}

/// What a user token is bound to, and how it is used; tokens of the first version have none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserTokenTerms {
    /// When it ends; none: it is good until it is revoked.
    pub expires_at: Option<Timestamp>,
    /// Last use that a node told of, to within an hour.
    pub last_used_at: Option<Timestamp>,
    /// Who made it.
    pub created_by: String,
}

/// Where an experiment stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExperimentPhase {
    /// Waits for a place since then.
    Queued {
        /// Start of this wait.
        since: Timestamp,
    },
    /// Its last attempt is placed and not over.
    Active,
    /// Over.
    Ended {
        /// Why.
        cause: Cause,
        /// When.
        at: Timestamp,
    },
}

/// A person asked for the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRequest {
    /// user@node.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// An attempt is to end so that another experiment gets its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Yield {
    /// Which.
    pub to: ExperimentId,
    /// When it was decided.
    pub at: Timestamp,
}

/// The place that preemption frees, kept for whom it is freed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptPlace {
    /// Where and what, for each rank.
    pub places: Vec<RankPlacement>,
    /// Attempts that free it.
    pub victims: Vec<AttemptToken>,
    /// Until then.
    pub until: Timestamp,
}

/// Where an experiment is in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupPlace {
    /// Which group.
    pub group: GroupId,
    /// Number in it, from 1.
    pub number: u32,
}

/// An experiment and all its attempts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Experiment {
    /// Id.
    pub id: ExperimentId,
    /// As submitted.
    pub spec: Arc<ExperimentSpec>,
    /// The group that it was submitted with.
    pub group: Option<GroupPlace>,
    /// Who submitted it.
    pub author: Author,
    /// The client's name for the submission.
    pub request: Option<RequestId>,
    /// When.
    pub submitted_at: Timestamp,
    /// Log index of the submission: order among equals.
    pub submitted_index: LogIndex,
    /// Where it waits now (moves change it).
    pub queue: QueueName,
    /// Higher goes first; as submitted, or as a person changed it.
    pub priority: i32,
    /// Place that a person gave it among those of its queue: lower goes first, 0 is ordinary.
    pub rank: i64,
    /// A person wants it to wait.
    pub held: Option<Word>,
    /// Its current attempt makes room for another experiment.
    pub yields: Option<Yield>,
    /// Where it stands.
    pub phase: ExperimentPhase,
    /// Somebody wants it to end.
    pub stop_requested: Option<StopRequest>,
    /// All attempts, oldest first.
    pub attempts: Vec<Attempt>,
}

impl Experiment {
    /// The attempt that is placed and not over.
    #[must_use]
    pub fn current_attempt(&self) -> Option<&Attempt> {
        self.attempts.last().filter(|attempt| attempt.end.is_none())
    }

    /// Not over.
    #[must_use]
    pub fn is_live(&self) -> bool {
        !matches!(self.phase, ExperimentPhase::Ended { .. })
    }

    /// Attempts that ended because their machine failed.
    #[must_use]
    pub fn nodes_lost(&self) -> u32 {
        self.count_ends(Cause::is_node_failure)
    }

    /// Attempts that failed by themselves.
    #[must_use]
    pub fn own_failures(&self) -> u32 {
        self.count_ends(|cause| !cause.is_node_failure() && !cause.is_success() && !cause.is_move())
    }

    fn count_ends(&self, counts: impl Fn(&Cause) -> bool) -> u32 {
        let ends = self
            .attempts
            .iter()
            .filter_map(|attempt| attempt.end.as_ref());
        ends.filter(|end| counts(&end.cause))
            .count()
            .try_into()
            .unwrap_or(u32::MAX)
    }
}

/// One execution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Fencing token.
    pub token: AttemptToken,
    /// When it was placed.
    pub placed_at: Timestamp,
    /// Why there, in the scheduler's words.
    pub reason: String,
    /// Ranks, each on another node; one for an ordinary experiment.
    pub ranks: Vec<RankRecord>,
    /// Keeper of the second copy of its unsealed records; none for a gang, see [`Attempt::mirror_of`].
    pub mirror: Option<NodeId>,
    /// Length of its lease.
    pub lease_ms: DurationMs,
    /// Sealed records of all ranks, those of each in order.
    pub segments: Vec<SegmentRef>,
    /// Frames of a short attempt that travelled inside the report (≤ 4 KiB).
    pub inline_records: Bytes,
    /// How it ended.
    pub end: Option<AttemptEnd>,
    /// A result that came after the attempt was given up, kept for a person to accept.
    pub late: Option<AttemptEnd>,
}

impl Attempt {
    /// A start that its node told by a wall clock that may be an hour off: not before it was placed, and not to come. The
    /// lease of long work is counted from it.
    pub(crate) fn plausible_start(&self, told: Timestamp, now: Timestamp) -> Timestamp {
        told.min(now).max(self.placed_at)
    }

    /// The same of an end: not to come, and not before its start.
    pub(crate) fn plausible_end(&self, told: Timestamp, now: Timestamp) -> Timestamp {
        let started = self.ranks.iter().find_map(|rank| rank.started_at);
        told.min(now).max(started.unwrap_or_default())
    }

    /// What was kept of the directories of its ranks, by rank; what came late is after what was known.
    pub fn kept(&self) -> impl Iterator<Item = (u32, &KeptOutputs)> {
        let of_all = [self.end.as_ref(), self.late.as_ref()];
        let of_all = of_all.into_iter().flatten().map(|end| (0, end));
        let ranks = self.numbered();
        let of_ranks = ranks.filter_map(|(number, rank)| Some((number, rank.end.as_ref()?)));
        of_ranks
            .chain(of_all)
            .filter_map(|(number, end)| Some((number, end.outputs.as_deref()?)))
    }

    /// Names sealed segments of a rank that were not named before.
    pub(crate) fn add_segments(&mut self, rank: u32, segments: &[SegmentRef]) {
        for segment in segments {
            let same = |known: &SegmentRef| known.hash == segment.hash && known.rank == rank;
            if !self.segments.iter().any(same) {
                let segment = segment.clone();
                self.segments.push(SegmentRef { rank, ..segment });
            }
        }
    }
}

/// One rank of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankRecord {
    /// Where and how much.
    pub placement: RankPlacement,
    /// Its process started then.
    pub started_at: Option<Timestamp>,
    /// It is surely over and holds nothing any more.
    pub ended: bool,
    /// GPUs of which it holds, or held, more memory than it was given; one entry each.
    pub overuses: Vec<VramOveruse>,
    /// How it ended, if there are others: an only rank ends as its attempt does.
    pub end: Option<AttemptEnd>,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptEnd {
    /// Why.
    pub cause: Cause,
    /// When the process ended, or when it was given up.
    pub at: Timestamp,
    /// Most memory it used; 0 unknown.
    pub peak_memory_bytes: u64,
    /// Most GPU memory it used, on all its GPUs together; 0 unknown, or no GPU.
    pub peak_vram_bytes: u64,
    /// Processor time it used.
    pub cpu_ms: DurationMs,
    /// How the process tree was ended, as the holder did it; empty if it ended by itself.
    pub tree_kill_method: String,
    /// What was kept of its directory; none: nothing was asked for, or nothing is known.
    pub outputs: Option<Box<KeptOutputs>>,
}

/// After a new history began: experiments of the old one may still run on its leases, and are not placed meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementHold {
    /// Experiments submitted up to this index are held.
    pub submitted_until: LogIndex,
    /// How long a leader must wait before it may release them.
    pub length: DurationMs,
}

/// What active attempts book on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Booking {
    /// Thousandths of cores.
    pub cpu_milli: u64,
    /// Memory.
    pub memory_bytes: u64,
    /// Disk.
    pub disk_bytes: u64,
    /// Per GPU index: (thousandths, bytes).
    pub gpus: imbl::OrdMap<u32, (u64, u64)>,
    /// Which attempts.
    pub attempts: imbl::OrdSet<AttemptToken>,
}

impl Booking {
    /// Adds what a rank books, or names a sum that does not fit into 64 bits; then the rest is not to be used.
    pub(crate) fn add(&mut self, booked: &Resources) -> Result<(), &'static str> {
        let add = |sum: &mut u64, more: u64, what| {
            *sum = sum.checked_add(more).ok_or(what)?;
            Ok(())
        };
        add(&mut self.cpu_milli, booked.cpu_milli, "cpus")?;
        add(&mut self.memory_bytes, booked.memory_bytes, "memory")?;
        add(&mut self.disk_bytes, booked.disk_bytes, "disk")?;
        for share in &booked.gpus {
            let (milli, vram_bytes) = self.gpus.entry(share.index.0).or_default();
            add(milli, share.milli, "gpu")?;
            add(vram_bytes, share.vram_bytes, "gpu")?;
        }
        Ok(())
    }

    /// Takes away what [`Self::add`] added.
    pub(crate) fn subtract(&mut self, booked: &Resources) {
        self.cpu_milli -= booked.cpu_milli;
        self.memory_bytes -= booked.memory_bytes;
        self.disk_bytes -= booked.disk_bytes;
        for share in &booked.gpus {
            if let Some(sums) = self.gpus.get_mut(&share.index.0) {
                sums.0 -= share.milli;
                sums.1 -= share.vram_bytes;
                if *sums == (0, 0) {
                    self.gpus.remove(&share.index.0);
                }
            }
        }
    }
}

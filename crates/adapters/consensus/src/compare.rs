//! Replicas compare their states at fixed log indexes (invariant 2): one that differs from the majority stops itself.
//!
//! Equal logs give equal states, so a difference means damaged memory, a damaged disk that no checksum covers, or a
//! mistake in `apply`. Each replica hashes its own state in the background, asks the others for theirs at the same
//! index, and believes what a majority of the voters says.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::future::join_all;
use state_machine::ClusterState;
use tokio::sync::mpsc;
use types::NodeId;

use crate::handle::{Handle, Inner};
use crate::wire::{Request, Response};

/// Hashes kept for others that are behind.
const KEPT: usize = 16;
/// States that wait to be hashed; more are skipped, since a busy replica must not be slowed by its own control.
const QUEUE: usize = 2;
/// Rounds of questions about one index; others may be behind or away.
const ROUNDS: usize = 10;
/// Time between two rounds.
const PAUSE: Duration = Duration::from_secs(3);
/// Time for one answer.
const DEADLINE: Duration = Duration::from_secs(2);

pub(crate) type StateHash = [u8; 32];

/// The hashes of this replica's states.
#[derive(Clone, Debug)]
pub(crate) struct Hashes {
    every: u64,
    known: Arc<Mutex<VecDeque<(u64, StateHash)>>>,
    queue: mpsc::Sender<(u64, ClusterState)>,
}

/// States to be hashed.
pub(crate) type Queued = mpsc::Receiver<(u64, ClusterState)>;

impl Hashes {
    /// Compares at each multiple of `every`.
    pub(crate) fn new(every: u64) -> (Self, Queued) {
        let (queue, queued) = mpsc::channel(QUEUE);
        let known = Arc::default();
        (
            Self {
                every: every.max(1),
                known,
                queue,
            },
            queued,
        )
    }

    /// Takes note of the state after `index`, if it is one to compare. A clone shares its parts with the state.
    pub(crate) fn note(&self, index: u64, state: &ClusterState) {
        if index > 0 && index.is_multiple_of(self.every) && self.queue.capacity() > 0 {
            // Full or closed: this index is skipped here.
            drop(self.queue.try_send((index, state.clone())));
        }
    }

    fn known(&self) -> MutexGuard<'_, VecDeque<(u64, StateHash)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The hash after `index`, if it is still known.
    pub(crate) fn at(&self, index: u64) -> Option<StateHash> {
        let known = self.known();
        let found = known.iter().find(|(at, _)| *at == index);
        found.map(|(_, hash)| *hash)
    }

    fn remember(&self, index: u64, hash: StateHash) {
        let mut known = self.known();
        known.retain(|(at, _)| *at != index);
        known.push_back((index, hash));
        if known.len() > KEPT {
            known.pop_front();
        }
    }
}

/// What the voters' hashes say of one's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Agreed,
    /// A majority of the voters has another state.
    Odd,
    /// Not enough answers yet.
    Open,
    /// All have answered and no majority agrees: nobody can tell who is right.
    Split,
}

fn judge(own: StateHash, voters: usize, of_voters: &[StateHash]) -> Verdict {
    let mut counts: BTreeMap<StateHash, usize> = BTreeMap::new();
    for hash in of_voters {
        *counts.entry(*hash).or_default() += 1;
    }
    let majority = voters / 2 + 1;
    match counts.iter().find(|(_, count)| **count >= majority) {
        Some((hash, _)) if *hash == own => Verdict::Agreed,
        Some(_) => Verdict::Odd,
        None if of_voters.len() >= voters && voters > 0 => Verdict::Split,
        None => Verdict::Open,
    }
}

/// Hashes and compares until this replica is shut down.
pub(crate) async fn run(inner: Weak<Inner>, mut queued: Queued) {
    while let Some((index, state)) = queued.recv().await {
        let Ok(hash) = tokio::task::spawn_blocking(move || state.state_hash()).await else {
            tracing::error!(index, "hashing the state panicked");
            continue;
        };
        let Some(replica) = inner.upgrade() else {
            return;
        };
        replica.receiver.stores.hashes.remember(index, hash);
        drop(replica);
        tokio::spawn(compare(inner.clone(), index, hash));
    }
}

async fn compare(inner: Weak<Inner>, index: u64, own: StateHash) {
    for _ in 0..ROUNDS {
        let Some(inner) = inner.upgrade() else {
            return;
        };
        if inner.stop.is_cancelled() {
            return;
        }
        let handle = Handle { inner };
        let voters = handle.voters();
        let hashes = ask(&handle, index, own).await;
        match judge(own, voters.len(), &hashes) {
            Verdict::Agreed => {
                tracing::debug!(index, voters = hashes.len(), "states agree");
                return;
            }
            Verdict::Odd => {
                let stores = &handle.inner.receiver.stores;
                stores.failure.report(odd_one(&handle, index));
                return;
            }
            Verdict::Split => {
                tracing::error!(
                    index,
                    "the voters' states differ and none has a majority: compare `muster audit verify` on them"
                );
                return;
            }
            Verdict::Open => {}
        }
        drop(handle);
        tokio::time::sleep(PAUSE).await;
    }
    tracing::debug!(index, "too few voters answered to compare states");
}

fn odd_one(handle: &Handle, index: u64) -> String {
    format!(
        "the state of this replica in {} after log entry {index} is not the one that the majority of the voters has: \
         its memory or its disk is damaged; {}",
        handle.inner.config.data_directory.display(),
        crate::error::REMEDY
    )
}

/// The hashes of the voters that answer, one's own among them if this node votes.
async fn ask(handle: &Handle, index: u64, own: StateHash) -> Vec<StateHash> {
    let mut others = handle.voters();
    let votes = others.remove(&handle.inner.config.node);
    let asking = others
        .into_iter()
        .map(|node: NodeId| ask_one(handle, node, index));
    let answers = join_all(asking).await;
    let mut hashes: Vec<_> = answers.into_iter().flatten().collect();
    hashes.extend(votes.then_some(own));
    hashes
}

async fn ask_one(handle: &Handle, node: NodeId, index: u64) -> Option<StateHash> {
    let request = Request::StateHash { index }.encode();
    let transport = &handle.inner.receiver.transport;
    let answer = transport.call(node, request, DEADLINE).await.ok()?; // Asked again in the next round.
    match Response::decode(&answer) {
        Ok(Response::StateHash(hash)) => hash,
        Ok(_) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_majority_of_the_voters_decides_who_is_odd() {
        let (a, b, c) = ([1; 32], [2; 32], [3; 32]);
        assert_eq!(judge(a, 3, &[a, a]), Verdict::Agreed);
        assert_eq!(judge(a, 3, &[a, b, b]), Verdict::Odd);
        assert_eq!(judge(a, 3, &[a, b]), Verdict::Open);
        assert_eq!(judge(a, 3, &[a, b, c]), Verdict::Split);
        assert_eq!(judge(a, 1, &[b]), Verdict::Odd, "a learner of one voter");
        assert_eq!(judge(a, 1, &[a]), Verdict::Agreed);
        assert_eq!(judge(a, 0, &[]), Verdict::Open);
    }

    #[test]
    fn old_hashes_are_forgotten() {
        let (hashes, _queued) = Hashes::new(10);
        for index in 0..40 {
            hashes.remember(index * 10, [u8::try_from(index).unwrap(); 32]);
        }
        assert_eq!(hashes.at(390), Some([39; 32]));
        assert_eq!(hashes.at(10), None);
    }
}

//! Messages between nodes: late, lost, twice, in any order, long after, or not at all across a cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use state_machine::{Command, Outcome};
use tokio::sync::oneshot;
use types::{AttemptToken, DurationMs, NodeReport, RequestId, WantedSet};

use crate::raft_types::{RaftSnapshot, RaftVote, Types};
use crate::random::Random;
use crate::runtime::{lock, spawn};
use crate::world::{World, index};

/// Whoever is no node: people.
pub(crate) const PERSON: u64 = u64::MAX;
/// Longest time until a packet that was lost sight of comes after all.
const LATE_MS: u64 = 40_000;

/// What nodes ask of each other.
#[derive(Clone)]
pub(crate) enum Request {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<Types>),
    PreVote(VoteRequest<Types>),
    Snapshot(Box<(RaftVote, RaftSnapshot)>),
    Transfer(TransferLeaderRequest<Types>),
    ReadIndex,
    Lease(Vec<AttemptToken>),
    /// A node's own command.
    Propose(Box<Command>),
    /// A person's command.
    Call(RequestId, Box<Command>),
    /// A person looks at the state.
    Read,
    Wanted(Box<WantedSet>),
    /// From the leader: as of this index the receiver holds no replica.
    Released(u64),
    Report(Box<NodeReport>),
}

/// The answer to a request for leases.
pub(crate) struct LeaseAnswer {
    pub(crate) granted: Vec<(AttemptToken, DurationMs)>,
    pub(crate) refused: Vec<(AttemptToken, String)>,
    pub(crate) wanted: WantedSet,
}

/// What they answer.
pub(crate) enum Response {
    Append(AppendEntriesResponse<Types>),
    Vote(VoteResponse<Types>),
    Snapshot(SnapshotResponse<Types>),
    Transfer(TransferLeaderResponse<Types>),
    Index(u64),
    Lease(Box<LeaseAnswer>),
    Outcome(u64, Outcome),
    Done,
    NotLeader(Option<u64>),
    Failed,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// Nothing listens there.
    Refused,
    /// Not in time.
    Silence,
}

/// State of the network.
pub(crate) struct Links {
    /// Directed cuts: nothing passes from the first to the second.
    pub(crate) cut: BTreeSet<(u64, u64)>,
    /// Directed clogs: what is sent arrives, all together, when they open.
    pub(crate) clogged: BTreeMap<(u64, u64), u64>,
    pub(crate) loss_permille: u64,
    pub(crate) twice_permille: u64,
    pub(crate) late_permille: u64,
    pub(crate) longest_delay_ms: u64,
}

impl Default for Links {
    fn default() -> Self {
        Self {
            cut: BTreeSet::new(),
            clogged: BTreeMap::new(),
            loss_permille: 1,
            twice_permille: 2,
            late_permille: 2,
            longest_delay_ms: 6,
        }
    }
}

impl Links {
    /// Delays of the copies that will arrive if nothing is cut by then.
    fn route(&self, from: u64, to: u64, now: u64, random: &mut Random) -> Vec<u64> {
        if from == to {
            return vec![0];
        }
        let mut delays = Vec::new();
        if !random.chance(self.loss_permille) {
            delays.push(random.range(1..self.longest_delay_ms + 1));
        }
        if random.chance(self.twice_permille) {
            delays.push(random.range(1..self.longest_delay_ms + 1));
        }
        if let Some(open_at) = self.clogged.get(&(from, to)) {
            let held = open_at.saturating_sub(now);
            delays
                .iter_mut()
                .for_each(|delay| *delay = (*delay).max(held));
        }
        if random.chance(self.late_permille) {
            delays.push(random.range(1_000..LATE_MS));
        }
        delays
    }
}

type Answer = Result<Response, NoAnswer>;

/// A request under way; copies share the one place for an answer.
#[derive(Clone)]
struct Envelope {
    from: u64,
    to: u64,
    request: Request,
    answer: Arc<Mutex<Option<oneshot::Sender<Answer>>>>,
}

impl World {
    /// Sends and waits.
    pub(crate) async fn call(
        self: &Arc<Self>,
        from: u64,
        to: u64,
        request: Request,
        deadline: Duration,
    ) -> Answer {
        let (sender, answered) = oneshot::channel();
        let envelope = Envelope {
            from,
            to,
            request,
            answer: Arc::new(Mutex::new(Some(sender))),
        };
        for delay in self.delays(from, to) {
            let (world, envelope) = (Arc::clone(self), envelope.clone());
            spawn(async move { world.carry(envelope, delay).await });
        }
        drop(envelope);
        match tokio::time::timeout(deadline, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_lost)) => {
                // All copies are gone; whoever waits does not know it.
                tokio::time::sleep(deadline / 2).await;
                Err(NoAnswer::Silence)
            }
            Err(_elapsed) => Err(NoAnswer::Silence),
        }
    }

    fn delays(&self, from: u64, to: u64) -> Vec<u64> {
        let now = self.now();
        self.with(|inner| {
            let delays = inner.links.route(from, to, now, &mut inner.random);
            inner.counts.messages += 1;
            let late = delays.iter().filter(|delay| **delay >= 1_000).count();
            inner.counts.late_messages += late as u64;
            delays
        })
    }

    /// Whether messages pass from `from` to `to`.
    fn connected(&self, from: u64, to: u64) -> bool {
        self.with(|inner| {
            let off = |node: u64| node != PERSON && !inner.hosts[index(node)].is_on;
            !inner.links.cut.contains(&(from, to)) && !off(from) && !off(to)
        })
    }

    fn carry(self: Arc<Self>, envelope: Envelope, delay: u64) -> BoxFuture<'static, ()> {
        // Boxed, since an answer may be the start of another request.
        self.carry_there(envelope, delay).boxed()
    }

    async fn carry_there(self: Arc<Self>, envelope: Envelope, delay: u64) {
        let Envelope {
            from,
            to,
            request,
            answer,
        } = envelope;
        pause(delay).await;
        if !self.connected(from, to) {
            return;
        }
        let Some((node, life)) = self.running(to) else {
            self.carry_back((from, to), answer, Err(NoAnswer::Refused))
                .await;
            return;
        };
        let world = Arc::clone(&self);
        // The handler dies with its node; the answer under way does not.
        life.spawn(async move {
            let response = node.answer(from, request).await;
            spawn(async move { world.carry_back((from, to), answer, Ok(response)).await });
        });
    }

    async fn carry_back(
        self: Arc<Self>,
        (from, to): (u64, u64),
        place: Arc<Mutex<Option<oneshot::Sender<Answer>>>>,
        answer: Answer,
    ) {
        let Some(delay) = self.delays(to, from).first().copied() else {
            return;
        };
        pause(delay).await;
        if !self.connected(to, from) {
            return;
        }
        if let Some(sender) = lock(&place).take() {
            // Whoever asked may have given up.
            drop(sender.send(answer));
        }
    }
}

async fn pause(delay_ms: u64) {
    if delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
    }
}

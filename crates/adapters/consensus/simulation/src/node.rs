//! One node process: the real Raft, who leads, and the answers to other nodes. Where it decides about leases, reads and
//! proposals it does what `service` and `consensus` do, line for line.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent::Input;
use agent::leases::LeaseTable;
use membership::View;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::{Instant as _, ServerState, SnapshotPolicy};
use state_machine::ClusterState;
use tokio::sync::{Notify, mpsc};
use types::{Timestamp, WantedSet};

use crate::disk::Disk;
use crate::duties;
use crate::log_store::{LogStore, flush};
use crate::machine::{Machine, Published};
use crate::network::{Request, Response};
use crate::plant::Plant;
use crate::raft_network::Network;
use crate::raft_types::{Raft, RaftSnapshot};
use crate::runtime::{Life, lock};
use crate::watch;
use crate::worker;
use crate::world::{World, index};

/// Heartbeats and elections as in the profile `lan`.
const HEARTBEAT_MS: u64 = 100;
const ELECTION_MIN_MS: u64 = 300;
const ELECTION_MAX_MS: u64 = 500;
/// Longest silence before an election.
pub(crate) const ELECTION_MAX: Duration = Duration::from_millis(ELECTION_MAX_MS);
/// Answers that wait for the agent.
const INPUT_QUEUE: usize = 256;

/// Who leads, as this node sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leadership {
    pub(crate) leader: Option<u64>,
    pub(crate) term: u64,
    pub(crate) is_self: bool,
}

/// A node process that has opened its store.
pub(crate) struct Node {
    pub(crate) world: Arc<World>,
    pub(crate) number: u64,
    pub(crate) raft: Raft,
    pub(crate) published: Arc<Published>,
    leadership: watch::Sender<Leadership>,
    /// Index of the membership of which a leader said that this node holds no replica any more.
    released_at: AtomicU64,
    /// Where a node that sees no leader asks next.
    pub(crate) hint: Mutex<Option<u64>>,
    view: Mutex<View>,
    pub(crate) view_changed: Notify,
    leases: Mutex<(u64, LeaseTable)>,
    pub(crate) leases_changed: Notify,
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) wanted: watch::Sender<Option<(WantedSet, bool)>>,
}

/// The settings of `consensus`, with snapshots far more often.
fn settings(world: &World) -> openraft::Config {
    let every = world.snapshot_every;
    openraft::Config {
        cluster_name: "muster".to_owned(),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MIN_MS,
        election_timeout_max: ELECTION_MAX_MS,
        install_snapshot_timeout: 600_000,
        max_payload_entries: 512,
        replication_lag_threshold: every * 2,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(every),
        max_in_snapshot_log_to_keep: every / 10,
        purge_batch_size: 1 + every / 20,
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(false),
        broadcast_submitted_on_append: Some(true),
        ..openraft::Config::default()
    }
}

/// Opens the store, runs Raft and all loops of the node.
pub(crate) async fn start(world: Arc<World>, number: u64, disk: Disk, life: Life) {
    let log = LogStore {
        world: Arc::clone(&world),
        node: number,
        disk: disk.clone(),
    };
    life.spawn(flush(log.clone()));
    let published = Arc::new(Published::new());
    let machine = Machine::new(Arc::clone(&world), number, disk, Arc::clone(&published));
    let network = Network {
        world: Arc::clone(&world),
        node: number,
    };
    let settings = settings(&world).validate().expect("they are consistent");
    let raft = match Raft::new(number, Arc::new(settings), network, log, machine).await {
        Ok(raft) => raft,
        Err(error) => return world.fail(&format!("n{number} does not open: {error}")),
    };
    let (inputs, answers) = mpsc::channel(INPUT_QUEUE);
    let node = Arc::new(Node {
        world: Arc::clone(&world),
        number,
        raft,
        published,
        leadership: watch::Sender::new(Leadership::default()),
        released_at: AtomicU64::new(0),
        hint: Mutex::new(None),
        view: Mutex::new(View::default()),
        view_changed: Notify::new(),
        leases: Mutex::new((0, LeaseTable::new())),
        leases_changed: Notify::new(),
        inputs,
        wanted: watch::Sender::new(None),
    });
    life.spawn(watch_leadership(Arc::clone(&node)));
    duties::run(&node, &life);
    life.spawn(worker::run_agent(Arc::clone(&node), life.clone(), answers));
    life.spawn(worker::gossip(Arc::clone(&node)));
    world.with(|inner| inner.hosts[index(number)].node = Some(node));
}

async fn watch_leadership(node: Arc<Node>) {
    let mut server = node.raft.server_metrics();
    let mut applied = node.published.applied();
    loop {
        let waits_for_apply = node.refresh();
        tokio::select! {
            biased;
            changed = server.changed() => if changed.is_err() {
                return node.world.fail(&format!("Raft of n{} has ended by itself", node.number));
            },
            changed = applied.changed(), if waits_for_apply => if changed.is_err() { return },
            () = tokio::time::sleep(Duration::from_millis(HEARTBEAT_MS)) => {}
        }
    }
}

impl Node {
    /// Publishes the newest view; true if this node leads but has not applied its first entry.
    fn refresh(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        if let Err(fatal) = &metrics.running_state {
            self.world
                .fail(&format!("Raft of n{} stopped: {fatal}", self.number));
        }
        let term = metrics.current_term;
        let leads = metrics.state == ServerState::Leader && metrics.running_state.is_ok();
        let applied = self.published.term() == term;
        let alone = metrics.membership_config.voter_ids().nth(1).is_none();
        let answered = metrics
            .last_quorum_acked
            .as_ref()
            .is_some_and(|at| at.elapsed() < ELECTION_MAX * 2);
        let is_self = leads && applied && (alone || answered);
        let leader = metrics
            .current_leader
            .filter(|leader| *leader != self.number || is_self);
        drop(metrics);
        let new = Leadership {
            leader,
            term,
            is_self,
        };
        self.leadership
            .send_if_modified(|now| std::mem::replace(now, new) != new);
        leads && !applied
    }

    pub(crate) fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    /// Whether Raft still replicates to this node. One that was released while it was away hears nothing of it from Raft.
    fn is_replica(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = &metrics.membership_config;
        let listed = membership.membership().get_node(&self.number).is_some();
        let changed_at = membership.log_id().as_ref().map_or(0, |id| id.index);
        let released_at = self.released_at.load(Ordering::Relaxed);
        listed && (released_at == 0 || changed_at > released_at)
    }

    /// The leader, as far as this node knows.
    pub(crate) fn leader(&self) -> Option<u64> {
        let known = self
            .leadership
            .borrow()
            .leader
            .filter(|_| self.is_replica());
        known.or_else(|| *lock(&self.hint))
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.leadership.borrow().is_self
    }

    pub(crate) fn state(&self) -> ClusterState {
        self.published.state()
    }

    pub(crate) fn view(&self) -> View {
        lock(&self.view).clone()
    }

    /// The clock of the view.
    pub(crate) fn view_now(&self) -> Timestamp {
        Timestamp(self.world.clock(self.number))
    }

    /// The leader's table of leases, up to date with the state. In a new term it begins by holding every lease for its
    /// full length (invariant 11).
    pub(crate) fn with_leases<T>(&self, act: impl FnOnce(&mut LeaseTable, u64) -> T) -> T {
        let term = self.leadership.borrow().term;
        let state = self.state();
        let now = self.world.clock(self.number);
        let mut leases = lock(&self.leases);
        if leases.0 == term {
            leases.1.refresh(&state, now);
        } else {
            *leases = (term, LeaseTable::new());
            leases.1.hold_all(&state, now);
            if self.world.plant == Plant::NoHold {
                for (_, attempt) in state.active() {
                    leases.1.expire((attempt.token, 0));
                }
            }
        }
        act(&mut leases.1, now)
    }

    /// Answers another node, or a person.
    pub(crate) async fn answer(self: Arc<Self>, from: u64, request: Request) -> Response {
        let raft = &self.raft;
        match request {
            Request::Append(rpc) => respond(raft.append_entries(rpc).await, Response::Append),
            Request::Vote(rpc) => respond(raft.vote(rpc).await, Response::Vote),
            Request::PreVote(rpc) => respond(raft.pre_vote(rpc).await, Response::Vote),
            Request::Transfer(rpc) => {
                respond(raft.handle_transfer_leader(rpc).await, Response::Transfer)
            }
            Request::Snapshot(parts) => {
                let (vote, RaftSnapshot { meta, snapshot }) = *parts;
                let installed = raft
                    .install_full_snapshot(vote, RaftSnapshot { meta, snapshot })
                    .await;
                respond(installed, Response::Snapshot)
            }
            Request::ReadIndex => self.answer_read_index().await,
            Request::Lease(tokens) => self.answer_lease(from, &tokens).await,
            Request::Propose(command) => self.answer_propose(from, *command).await,
            Request::Call(request, command) => self.answer_call(from, request, *command).await,
            Request::Read => self.answer_read().await,
            Request::Wanted(wanted) => {
                *lock(&self.hint) = Some(from);
                self.take_wanted(*wanted, false);
                Response::Done
            }
            Request::Released(at) => {
                self.released_at.fetch_max(at, Ordering::Relaxed);
                Response::Done
            }
            Request::Report(report) => {
                let now = self.view_now();
                if lock(&self.view).observe(*report, now) {
                    self.view_changed.notify_one();
                }
                Response::Done
            }
        }
    }

    /// Takes in a wanted set; the agent decides what it means.
    pub(crate) fn take_wanted(&self, wanted: WantedSet, confirmed: bool) {
        let position = |wanted: &WantedSet| (wanted.incarnation, wanted.index);
        self.wanted.send_if_modified(|current| {
            let newer = current.as_ref().is_none_or(|(known, was_confirmed)| {
                let (new, old) = (position(&wanted), position(known));
                new > old || new == old && confirmed && !was_confirmed
            });
            if newer {
                *current = Some((wanted, confirmed));
            }
            newer
        });
    }
}

fn respond<T, E>(result: Result<T, E>, wrap: impl FnOnce(T) -> Response) -> Response {
    result.map_or(Response::Failed, wrap)
}

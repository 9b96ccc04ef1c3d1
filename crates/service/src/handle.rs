//! The handle that surfaces and loops share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::backup::session::Sessions;
use crate::copies::{CopyTimes, NameCache};
use crate::doorkeeper::Doorkeeper;
use crate::liveness::Liveness;
use crate::metrics::MetricCache;
use crate::packages::Packages;
use crate::placing::Learned;
use crate::samples::SampleCache;
use agent::leases::LeaseTable;
use membership::View;
use tokio::sync::Notify;
use types::{
    BlobHash, NodeFacts, NodeId, NodeReport, Overuse, SignedMemberList, Timestamp, WantedSet,
};

/// Stores a cluster key durably, readable by the node alone.
pub type KeepClusterKey = Box<dyn Fn(&[u8]) -> std::io::Result<()> + Send + Sync>;

/// What the service needs to know about its node.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the node.
    pub node_name: String,
    /// How long a write waits for a leader before it is refused.
    pub write_patience: Duration,
    /// When copies of blobs are looked after.
    pub copies: CopyTimes,
    /// What is done here with an attempt that holds more GPU memory than it was given.
    pub vram_overuse: Overuse,
    /// Where it is remembered which packages are kept: `<data dir>/packages`. Made with the first.
    pub packages_directory: std::path::PathBuf,
}

/// The use cases over the adapters' handles. Cloneable.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) network: network::Handle,
    pub(crate) consensus: consensus::Handle,
    pub(crate) blobs: blobs::Handle,
    pub(crate) executor: executor::Handle,
    pub(crate) mirror: executor::mirror::Mirror,
    pub(crate) telemetry: telemetry::Handle,
    pub(crate) cluster_key: Mutex<Option<network::ClusterKey>>,
    pub(crate) members: Mutex<Option<SignedMemberList>>,
    pub(crate) leader_hint: Mutex<Option<NodeId>>,
    pub(crate) view: Mutex<View>,
    pub(crate) view_changed: Notify,
    /// The term that the table belongs to, and the table.
    pub(crate) leases: Mutex<(u64, LeaseTable)>,
    pub(crate) leases_changed: Notify,
    pub(crate) wanted: tokio::sync::watch::Sender<Option<(WantedSet, bool)>>,
    pub(crate) replicated_trees: Mutex<BTreeMap<BlobHash, u64>>,
    pub(crate) members_pushed: Notify,
    pub(crate) told_replicas: Mutex<crate::reach::ToldReplicas>,
    pub(crate) keep_cluster_key: KeepClusterKey,
    pub(crate) backups: Sessions,
    pub(crate) archived_names: NameCache,
    pub(crate) samples: Mutex<SampleCache>,
    pub(crate) experience: Mutex<Option<Learned>>,
    pub(crate) metrics: Mutex<MetricCache>,
    pub(crate) started_at: tokio::time::Instant,
    pub(crate) liveness: Mutex<Liveness>,
    pub(crate) speak_up: Notify,
    /// Since this log index this node holds no replica, by the leader's word; its own Raft was not told.
    pub(crate) released_at: AtomicU64,
    /// When a member last said that it does not know this node, on the clock since boot.
    pub(crate) refused_at: AtomicU64,
    /// By whom and why this node was taken out of the cluster.
    pub(crate) removed: tokio::sync::watch::Sender<Option<String>>,
    pub(crate) doorkeeper: Mutex<Doorkeeper>,
    /// Where the interface of this node is, for its jobs.
    pub(crate) api_url: std::sync::OnceLock<String>,
    pub(crate) packages: Packages,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("node", self.network.node_id())
            .finish_non_exhaustive()
    }
}

/// The adapters that a service is made over.
pub struct Adapters {
    /// libp2p.
    pub network: network::Handle,
    /// openraft and sled.
    pub consensus: consensus::Handle,
    /// Content-addressed store.
    pub blobs: blobs::Handle,
    /// Attempts of this node.
    pub executor: executor::Handle,
    /// Tails of other nodes' attempts.
    pub mirror: executor::mirror::Mirror,
    /// What the machine does.
    pub telemetry: telemetry::Handle,
    /// The cluster's signing key, on voters.
    pub cluster_key: Option<network::ClusterKey>,
    /// Last known member list.
    pub members: Option<SignedMemberList>,
    /// Stores a cluster key that the leader handed over, durably and readable by the node alone.
    pub keep_cluster_key: KeepClusterKey,
}

impl std::fmt::Debug for Adapters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Adapters")
    }
}

impl Handle {
    /// Makes the service of a node.
    #[must_use]
    pub fn new(config: Config, adapters: Adapters) -> Self {
        let inner = Inner {
            packages: Packages::new(config.packages_directory.clone()),
            config,
            network: adapters.network,
            consensus: adapters.consensus,
            blobs: adapters.blobs,
            executor: adapters.executor,
            mirror: adapters.mirror,
            telemetry: adapters.telemetry,
            cluster_key: Mutex::new(adapters.cluster_key),
            members: Mutex::new(adapters.members),
            leader_hint: Mutex::new(None),
            view: Mutex::new(View::default()),
            view_changed: Notify::new(),
            leases: Mutex::new((0, LeaseTable::new())),
            leases_changed: Notify::new(),
            wanted: tokio::sync::watch::Sender::new(None),
            replicated_trees: Mutex::new(BTreeMap::new()),
            members_pushed: Notify::new(),
            told_replicas: Mutex::default(),
            keep_cluster_key: adapters.keep_cluster_key,
            backups: Sessions::default(),
            archived_names: NameCache::default(),
            samples: Mutex::default(),
            experience: Mutex::default(),
            metrics: Mutex::default(),
            started_at: tokio::time::Instant::now(),
            liveness: Mutex::new(Liveness::new()),
            speak_up: Notify::new(),
            released_at: AtomicU64::new(0),
            refused_at: AtomicU64::new(0),
            removed: tokio::sync::watch::Sender::new(None),
            doorkeeper: Mutex::default(),
            api_url: std::sync::OnceLock::new(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// This node.
    #[must_use]
    pub fn node_id(&self) -> &NodeId {
        self.inner.network.node_id()
    }

    /// The network adapter.
    #[must_use]
    pub fn network(&self) -> &network::Handle {
        &self.inner.network
    }

    /// The consensus adapter.
    #[must_use]
    pub fn consensus(&self) -> &consensus::Handle {
        &self.inner.consensus
    }

    /// The executor adapter.
    #[must_use]
    pub fn executor(&self) -> &executor::Handle {
        &self.inner.executor
    }

    /// The blob store.
    #[must_use]
    pub fn blob_store(&self) -> &blobs::Handle {
        &self.inner.blobs
    }

    /// Whether this node holds the replicated state (votes or learns).
    #[must_use]
    pub fn is_replica(&self) -> bool {
        let me = self.node_id();
        let consensus = &self.inner.consensus;
        let listed = consensus.voters().contains(me) || consensus.learners().contains(me);
        let released_at = self.inner.released_at.load(Ordering::Relaxed);
        listed && (released_at == 0 || consensus.membership_index().0 > released_at)
    }

    /// Whether this node leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.inner.consensus.leader().borrow().is_self
    }

    /// The leader, as far as this node knows.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        let known = self
            .is_replica()
            .then(|| self.inner.consensus.leader().borrow().leader.clone())
            .flatten();
        known.or_else(|| lock(&self.inner.leader_hint).clone())
    }

    /// Remembers who said that it leads; for nodes without state.
    pub fn set_leader_hint(&self, leader: Option<NodeId>) {
        *lock(&self.inner.leader_hint) = leader;
    }

    /// Takes in a node's report: `from` is the connection's peer.
    pub fn observe(&self, from: &NodeId, report: NodeReport) {
        if report.node != *from {
            tracing::warn!(node_id = %from, claimed = %report.node, "report of another node dropped");
            return;
        }
        self.tell_detector(membership::Input::Heard(from.clone()));
        if lock(&self.inner.view).observe(report, view_now()) {
            self.inner.view_changed.notify_one();
        }
    }

    /// What the reports say now.
    #[must_use]
    pub fn view(&self) -> View {
        lock(&self.inner.view).clone()
    }

    /// Resolves when a report changed something that a scheduler cares for.
    pub async fn view_changed(&self) {
        self.inner.view_changed.notified().await;
    }

    /// The leader's table of leases in `term`, up to date with the state. In a new term it begins by holding every lease
    /// for its full length: nobody knows what the leader before has granted (invariant 11). None on a node that does not
    /// lead in that term: a candidate that began to hold before its election would hold too short, and what was asked or
    /// found out in a term says nothing in the next.
    pub fn with_leases<T>(
        &self,
        term: u64,
        act: impl FnOnce(&mut LeaseTable, u64) -> T,
    ) -> Option<T> {
        let leader = self.inner.consensus.leader();
        let leads = {
            let leadership = leader.borrow();
            leadership.is_self && leadership.term == term
        };
        if !leads {
            return None;
        }
        let state = self.inner.consensus.state();
        let now = executor::boottime_ms();
        let mut leases = lock(&self.inner.leases);
        if leases.0 == term {
            leases.1.refresh(&state, now);
        } else if leases.0 < term {
            *leases = (term, LeaseTable::new());
            leases.1.hold_all(&state, now);
        } else {
            return None; // Somebody else has seen the next term between.
        }
        Some(act(&mut leases.1, now))
    }

    /// Wakes whoever waits for the next lease to run out.
    pub(crate) fn leases_have_changed(&self) {
        self.inner.leases_changed.notify_one();
    }

    /// Resolves when a lease was granted, held or removed.
    pub async fn leases_changed(&self) {
        self.inner.leases_changed.notified().await;
    }

    /// What this node should run, as pushed or confirmed by a leader.
    #[must_use]
    pub fn wanted(&self) -> tokio::sync::watch::Receiver<Option<(WantedSet, bool)>> {
        self.inner.wanted.subscribe()
    }

    /// Names and facts of members: from the state, or from the last signed list on a node without state.
    #[must_use]
    pub fn member_facts(&self) -> BTreeMap<NodeId, NodeFacts> {
        if self.is_replica() {
            let state = self.inner.consensus.state();
            return state
                .nodes()
                .map(|node| (node.node.clone(), node.facts.clone()))
                .collect();
        }
        let members = self
            .opened_members()
            .map(|list| list.members)
            .unwrap_or_default();
        members
            .into_iter()
            .map(|member| (member.node, member.facts))
            .collect()
    }
}

/// The clock of the view: since boot, so that a jump of the wall clock makes no node look dead.
#[must_use]
pub fn view_now() -> Timestamp {
    Timestamp(executor::boottime_ms())
}

/// The wall clock of the shell; the core is told the time.
#[must_use]
pub fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Locks; a panic elsewhere does not make the data worse than it is.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Starting a replica: lock, check, replay, run.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::SnapshotPolicy;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::archives::{Archives, blocking};
use crate::compare::{self, Hashes};
use crate::config::Config;
use crate::directory::Layout;
use crate::error::{Error, chain};
use crate::failure::Failure;
use crate::generation::{self, Seen};
use crate::hand_over;
use crate::handle::{
    Asker, Handle, Inner, Leadership, ReadQueue, Watcher, serve_reads, watch_leadership,
};
use crate::log_store::{LogStore, open_log};
use crate::machine::{Machine, Snapshots, Stores};
use crate::published::Published;
use crate::raft_network::{Acknowledged, Network};
use crate::raft_types::{Raft, Replica};
use crate::receiver::{Gate, Receiver};
use crate::reserve::{Reserve, watch_disk};
use crate::stamped::{Door, Stamped};
use crate::transport::Transport;
use crate::{scrub, spare};

/// Entries in one append message: more would make a follower's fsync late for the next heartbeat.
const MAX_APPEND_ENTRIES: u64 = 512;
/// Entries that a purge waits for, so that purges are few.
const PURGE_BATCH_ENTRIES: u64 = 512;
/// A reopened replica listens for so many of the longest election timeouts before it takes part in elections.
const QUIET_ELECTIONS: u32 = 2;
/// Time to send and install a whole snapshot.
const SNAPSHOT_DEADLINE: Duration = Duration::from_mins(10);

/// Opens the replica in `config.data_directory`, or makes an empty one, and starts it. On return the
/// state is that of the last snapshot and the log known to be committed.
///
/// # Errors
/// In use, damaged, another node's, or a file operation failed.
pub async fn open(config: Config, transport: Arc<dyn Transport>) -> Result<Handle, Error> {
    let failure = Failure::new();
    let (settings, reported) = (config.clone(), failure.clone());
    let on_disk = blocking("open the data directory", move || {
        open_stores(&settings, reported)
    })
    .await?;
    let OnDisk {
        lock,
        log,
        snapshots,
        archives,
        reserve,
        door,
        used,
    } = on_disk;
    let slow = hand_over::slow_micros(&config.timing);
    log.counters()
        .slow_above_micros
        .store(slow, Ordering::Relaxed);
    let (hashes, to_hash) = Hashes::new(config.compare_every_entries);
    let stores = Stores {
        snapshots,
        archives,
        published: Arc::new(Published::new()),
        hashes,
        failure,
    };
    let transport: Arc<dyn Transport> = Arc::new(Stamped {
        inner: transport,
        door: door.clone(),
    });
    let raft = match start_raft(&config, &transport, &log, &stores).await {
        Ok(raft) => raft,
        Err(error) => {
            log.close().await;
            return Err(error);
        }
    };
    let started = Started {
        raft,
        log,
        stores,
        lock,
        reserve,
        door,
        to_hash,
        used,
    };
    Ok(start_tasks(config, transport, started).await)
}

/// The files of a replica, checked, and nothing running yet.
struct OnDisk {
    lock: std::fs::File,
    log: LogStore,
    snapshots: Snapshots,
    archives: Archives,
    reserve: Reserve,
    door: Door,
    /// The store was there before this opening.
    used: bool,
}

fn open_stores(config: &Config, failure: Failure) -> Result<OnDisk, Error> {
    let layout = Layout {
        root: config.data_directory.clone(),
    };
    let file = layout.log().join("db");
    let used = file.exists();
    if config.must_exist && !used {
        let (key, what) = ("the file".into(), "it is missing".into());
        return Err(Error::Damaged { file, key, what });
    }
    spare::hold();
    layout.create()?;
    let lock = layout.lock()?;
    let reserve = Reserve::open(&layout.root, config.reserve_bytes);
    // The generation comes first: a log without one is damaged.
    let own = generation::next(&layout, used)?;
    let seen = Seen::open(&layout)?;
    let log = open_log(&layout, &config.node, failure.clone(), reserve.clone())?;
    let snapshots = Snapshots::open(&layout)?;
    check_no_gap(&layout, &log, &snapshots)?;
    let archives = Archives::open(&layout)?;
    let directory = layout.root.as_path().into();
    let door = Door {
        own,
        seen,
        failure,
        directory,
        refused: Arc::default(),
    };
    Ok(OnDisk {
        lock,
        log,
        snapshots,
        archives,
        reserve,
        door,
        used,
    })
}

/// The log was purged up to where a snapshot stood: one that ends before is not the newest that there was.
fn check_no_gap(layout: &Layout, log: &LogStore, snapshots: &Snapshots) -> Result<(), Error> {
    let Some(purged) = log.purged_index() else {
        return Ok(());
    };
    let current = snapshots.current();
    let covered = current.and_then(|snapshot| snapshot.meta.last_log_id);
    if covered.is_some_and(|last| last.index >= purged) {
        return Ok(());
    }
    let end = covered.map_or_else(
        || "there is none".to_owned(),
        |last| format!("it ends at entry {}", last.index),
    );
    Err(Error::Damaged {
        file: layout.snapshots(),
        key: "the newest snapshot".into(),
        what: format!("{end}, but the log begins after entry {purged}"),
    })
}

fn raft_config(config: &Config) -> Result<openraft::Config, Error> {
    let raft = openraft::Config {
        cluster_name: "muster".to_owned(),
        heartbeat_interval: config.timing.heartbeat_ms,
        election_timeout_min: config.timing.election_min_ms,
        election_timeout_max: config.timing.election_max_ms,
        install_snapshot_timeout: u64::try_from(SNAPSHOT_DEADLINE.as_millis()).unwrap_or(u64::MAX),
        max_payload_entries: MAX_APPEND_ENTRIES,
        replication_lag_threshold: config.snapshot_every_entries.saturating_mul(2),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(config.snapshot_every_entries),
        max_in_snapshot_log_to_keep: config.keep_log_entries,
        purge_batch_size: PURGE_BATCH_ENTRIES.min(config.snapshot_every_entries),
        enable_pre_vote: Some(true),
        // A restarted leader asks for votes again: its state may be older than what it once showed.
        enable_leader_restore: Some(false),
        broadcast_submitted_on_append: Some(true),
        ..openraft::Config::default()
    };
    raft.validate().map_err(Error::Settings)
}

async fn start_raft(
    config: &Config,
    transport: &Arc<dyn Transport>,
    log: &LogStore,
    stores: &Stores,
) -> Result<Raft, Error> {
    let network = Network {
        acknowledged: Acknowledged::default(),
        transport: Arc::clone(transport),
        append_deadline: config.timing.election_max(),
    };
    let node = Replica(config.node.clone());
    let machine = Machine::new(stores.clone());
    let started = Raft::new(
        node,
        Arc::new(raft_config(config)?),
        network,
        log.clone(),
        machine,
    )
    .await;
    started.map_err(|fatal| Error::Stopped {
        why: stores.failure.why().unwrap_or_else(|| chain(&fatal)),
    })
}

struct Started {
    raft: Raft,
    log: LogStore,
    stores: Stores,
    lock: std::fs::File,
    reserve: Reserve,
    door: Door,
    to_hash: compare::Queued,
    used: bool,
}

async fn start_tasks(config: Config, transport: Arc<dyn Transport>, started: Started) -> Handle {
    let Started {
        raft,
        log,
        stores,
        lock,
        reserve,
        door,
        to_hash,
        used,
    } = started;
    let stop = CancellationToken::new();
    let leadership = watch::Sender::new(Leadership::unknown());
    let watcher = Watcher {
        node: config.node.clone(),
        timing: config.timing,
        failure: stores.failure.clone(),
        stop: stop.clone(),
    };
    let watching = watch_leadership(
        raft.clone(),
        Arc::clone(&stores.published),
        leadership.clone(),
        watcher,
    );
    tokio::spawn(watching);
    let (reads, queued) = ReadQueue::new();
    let asker = Asker {
        raft: raft.clone(),
        transport: Arc::clone(&transport),
        failure: stores.failure.clone(),
        deadline: config.timing.election_max(),
    };
    tokio::spawn(
        stop.clone()
            .run_until_cancelled_owned(serve_reads(asker, queued)),
    );
    let quiet_until = begin_elections(&config, &raft, used, &stop).await;
    let gate = Gate {
        reserve: reserve.clone(),
        quiet_until,
    };
    if config.reserve_bytes > 0 {
        tokio::spawn(watch_disk(reserve.clone(), stop.clone()));
    }
    let receiver = Receiver::new(raft.clone(), stores, transport, gate);
    let inner = Arc::new(Inner {
        config,
        raft,
        log,
        receiver,
        reads,
        leadership,
        changing: tokio::sync::Mutex::new(()),
        stop,
        reserve,
        door,
        lock: Mutex::new(Some(lock)),
    });
    tokio::spawn(compare::run(Arc::downgrade(&inner), to_hash));
    tokio::spawn(hand_over::run(Arc::downgrade(&inner)));
    tokio::spawn(scrub::run(Arc::downgrade(&inner)));
    Handle { inner }
}

/// Lets this replica ask for votes: at once if it is the only voter or new, else after it has listened for a leader.
/// Returns until when it gives no vote either. A store that was put back from a copy has forgotten what it voted and
/// acknowledged; a leader in office notices, an election would not.
async fn begin_elections(
    config: &Config,
    raft: &Raft,
    used: bool,
    stop: &CancellationToken,
) -> Instant {
    let now = Instant::now();
    let alone = raft
        .voter_ids()
        .map(|replica| replica.0)
        .eq([config.node.clone()]);
    if alone {
        if let Err(error) = raft.trigger().elect(false).await {
            // The only voter need not wait for an election timeout; if this fails it does.
            tracing::warn!(error = chain(&error), "cannot start an election");
        }
        return now;
    }
    if !used || raft.voter_ids().next().is_none() {
        return now;
    }
    let quiet_until = now + config.timing.election_max() * QUIET_ELECTIONS;
    raft.runtime_config().elect(false);
    let (raft, stop) = (raft.clone(), stop.clone());
    tokio::spawn(async move {
        let quiet = tokio::time::sleep_until(quiet_until);
        if stop.run_until_cancelled_owned(quiet).await.is_some() {
            raft.runtime_config().elect(true);
        }
    });
    quiet_until
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::FutureExt as _;
    use state_machine::{Command, CreateQueue, LogEntry};
    use types::{Author, NodeId, Timestamp};

    use super::*;
    use crate::error::ProposeError;
    use crate::transport::{BoxFuture, TransportError};

    /// Nobody else is there.
    struct Alone;

    impl Transport for Alone {
        fn call(
            &self,
            _: NodeId,
            _: Bytes,
            _: Duration,
        ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
            async {
                Err(TransportError::Unreachable {
                    why: "alone".into(),
                })
            }
            .boxed()
        }

        fn bulk(
            &self,
            to: NodeId,
            bytes: Bytes,
            time: Duration,
        ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
            self.call(to, bytes, time)
        }
    }

    fn entry(node: &NodeId, name: &str) -> LogEntry {
        let command = Command::CreateQueue(CreateQueue {
            name: name.parse().unwrap(),
            priority: 0,
        });
        LogEntry {
            time: Timestamp(1),
            author: Author::node(node.clone()),
            request: None,
            command,
        }
    }

    #[tokio::test]
    async fn a_store_that_is_gone_is_not_replaced_by_an_empty_one() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::new(directory.path().join("raft"), "a".parse().unwrap());
        config.must_exist = true;
        let error = open(config, Arc::new(Alone)).await.unwrap_err();
        assert!(error.to_string().contains("--rejoin"), "{error}");
        assert!(!directory.path().join("raft").exists());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn failed_sync_stops_the_replica_with_one_line_and_the_write_is_not_acknowledged() {
        let directory = tempfile::tempdir().unwrap();
        let node: NodeId = "a".parse().unwrap();
        let config = Config::new(directory.path().to_owned(), node.clone());
        let handle = open(config.clone(), Arc::new(Alone)).await.unwrap();
        handle.initialize().await.unwrap();
        handle.leader().wait_for(|now| now.is_self).await.unwrap();
        handle.propose(entry(&node, "kept")).await.unwrap();

        handle.inner.log.fail_next_sync();
        let error = handle.propose(entry(&node, "lost")).await.unwrap_err();
        assert!(matches!(error, ProposeError::Stopped { .. }), "{error}");
        let mut failed = handle.failed();
        let why = failed
            .wait_for(Option::is_some)
            .await
            .unwrap()
            .clone()
            .unwrap();
        assert!(
            why.contains("cannot sync") && why.contains("injected"),
            "{why}"
        );
        let again = handle.propose(entry(&node, "again")).await.unwrap_err();
        assert_eq!(again, ProposeError::Stopped { why });
        handle.leader().wait_for(|now| !now.is_self).await.unwrap();
        let commits = handle.inner.log.counters().commits.load(Ordering::Relaxed);
        handle.shutdown().await;
        assert_eq!(
            handle.inner.log.counters().commits.load(Ordering::Relaxed),
            commits,
            "nothing is retried"
        );

        // sled is never closed after that, since it would sync: the file stays locked until the process ends.
        let copy = tempfile::tempdir().unwrap();
        for name in ["log", "snapshots", "archives"] {
            std::fs::create_dir(copy.path().join(name)).unwrap();
        }
        for name in ["log/db", "log/conf", "commit.mark", "generation"] {
            std::fs::copy(directory.path().join(name), copy.path().join(name)).unwrap();
        }
        let config = Config::new(copy.path().to_owned(), node);
        let handle = open(config, Arc::new(Alone)).await.unwrap();
        handle.read_index(Duration::from_secs(30)).await.unwrap();
        assert!(handle.state().queue(&"kept".parse().unwrap()).is_some());
        handle.shutdown().await;
    }
}

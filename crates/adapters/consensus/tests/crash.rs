//! kill -9 of a replica while it writes: what it acknowledged is there afterwards, and it opens.

#[cfg(test)]
mod crash {
    use std::collections::BTreeSet;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::path::Path;
    use std::process::{Command as Process, Stdio};
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;
    use consensus::{BoxFuture, Config, Handle, Transport, TransportError, open};
    use futures::{FutureExt as _, StreamExt as _};
    use rand::Rng as _;
    use state_machine::{Command, CreateQueue, LogEntry};
    use types::{Author, NodeId, Timestamp};

    /// Tells the child where to write.
    const DIRECTORY: &str = "CONSENSUS_CRASH_DIRECTORY";
    const ROUNDS: u64 = 12;
    const PATIENCE: Duration = Duration::from_secs(30);

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

    async fn start(directory: &Path) -> Handle {
        let node: NodeId = "a".parse().unwrap();
        // Small, so that kills also hit snapshots and purges.
        let config = Config {
            snapshot_every_entries: 300,
            keep_log_entries: 20,
            ..Config::new(directory.to_owned(), node)
        };
        let handle = open(config, Arc::new(Alone)).await.unwrap();
        if !handle.is_initialized().await.unwrap() {
            handle.initialize().await.unwrap();
        }
        let mut leader = handle.leader();
        tokio::time::timeout(PATIENCE, leader.wait_for(|now| now.is_self))
            .await
            .unwrap()
            .unwrap();
        handle
    }

    fn entry(name: &str) -> LogEntry {
        LogEntry {
            time: Timestamp(1),
            author: Author::node("a".parse().unwrap()),
            request: None,
            command: Command::CreateQueue(CreateQueue {
                name: name.parse().unwrap(),
                priority: 1,
            }),
        }
    }

    /// The child's part; does nothing in an ordinary run.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn child_writes_until_it_is_killed() {
        let Some(directory) = std::env::var_os(DIRECTORY) else {
            return;
        };
        let handle = start(Path::new(&directory)).await;
        let run: u32 = rand::rng().random();
        let proposals = (0_u64..).map(|number| {
            let (handle, name) = (&handle, format!("q-{run}-{number}"));
            async move { handle.propose(entry(&name)).await.map(|_| name) }
        });
        let mut acknowledged =
            std::pin::pin!(futures::stream::iter(proposals).buffer_unordered(16));
        while let Some(name) = acknowledged.next().await {
            let mut out = std::io::stdout().lock();
            writeln!(out, "ack {}", name.unwrap()).unwrap();
            out.flush().unwrap();
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn acknowledged_writes_survive_kill_minus_nine() {
        let directory = tempfile::tempdir().unwrap();
        let mut acknowledged = BTreeSet::new();
        for round in 0..ROUNDS {
            let mut child = Process::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "crash::child_writes_until_it_is_killed",
                    "--nocapture",
                ])
                .env(DIRECTORY, directory.path())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            // Killed after a number of writes; every fourth time at a random moment, maybe while it opens.
            let limit = rand::rng().random_range(1..600);
            let at_once = round % 4 == 3;
            if at_once {
                tokio::time::sleep(Duration::from_millis(rand::rng().random_range(1..200))).await;
                child.kill().unwrap();
            }
            let mut seen = 0;
            for line in lines {
                let line = line.unwrap();
                let Some((_, name)) = line.split_once("ack ") else {
                    continue;
                };
                acknowledged.insert(name.to_owned());
                seen += 1;
                if seen == limit && !at_once {
                    child.kill().unwrap();
                }
            }
            child.wait().unwrap();
            assert!(
                at_once || seen >= limit,
                "round {round}: the replica ended by itself after {seen} writes"
            );
        }
        let handle = start(directory.path()).await;
        handle.read_index(PATIENCE).await.unwrap();
        let state = handle.state();
        let lost: Vec<_> = acknowledged
            .iter()
            .filter(|name| state.queue(&name.parse().unwrap()).is_none())
            .collect();
        assert!(
            lost.is_empty(),
            "{} of {} acknowledged writes are lost: {lost:?}",
            lost.len(),
            acknowledged.len()
        );
        assert!(
            acknowledged.len() > 100,
            "only {} writes were acknowledged",
            acknowledged.len()
        );
        handle.shutdown().await;
    }
}

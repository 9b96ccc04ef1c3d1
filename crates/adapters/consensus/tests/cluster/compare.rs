//! Replicas compare their states: one that differs stops, the others do not.

use std::path::{Path, PathBuf};

use crate::harness::{Cluster, PATIENCE, has_queue, node, propose, propose_many};

/// Bytes before a codec's payload: version and checksum.
const CODEC_HEADER: usize = 5;

fn newest_snapshot(directory: &Path) -> PathBuf {
    let mut names: Vec<_> = std::fs::read_dir(directory.join("snapshots"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();
    names.pop().unwrap()
}

fn seal(record: &mut [u8]) {
    let checksum = crc32fast::hash(&record[CODEC_HEADER..]);
    record[1..CODEC_HEADER].copy_from_slice(&checksum.to_le_bytes());
}

/// Rewrites the snapshot with another state under checksums that all fit: as a mistake in `apply` or bad memory would.
fn alter(snapshot: &Path, from: &[u8], to: &[u8]) {
    let bytes = std::fs::read(snapshot).unwrap();
    let header_length = u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
    let (mut header, mut state) = (
        bytes[4..4 + header_length].to_vec(),
        bytes[4 + header_length..].to_vec(),
    );
    let mut at = 0;
    let mut altered = 0;
    while let Some(found) = state[at..]
        .windows(from.len())
        .position(|bytes| bytes == from)
    {
        at += found;
        state[at..at + to.len()].copy_from_slice(to);
        altered += 1;
    }
    assert!(altered > 0, "the state does not hold it");
    seal(&mut state);
    // The header ends with the hash of the state.
    let end = header.len();
    header[end - 32..].copy_from_slice(blake3::hash(&state).as_bytes());
    seal(&mut header);
    std::fs::write(snapshot, [&bytes[..4], &header, &state].concat()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_state_differs_from_the_majoritys_stops_itself() {
    let mut cluster = Cluster::new();
    cluster.snapshot_every_entries = 200;
    cluster.keep_log_entries = 10;
    cluster.compare_every_entries = 100;
    let handles = cluster.of(3).await;
    propose(&handles[0], "zz-right").await.unwrap();
    propose_many(&handles[0], 500, 32).await;
    let last = propose(&handles[0], "before").await.unwrap();
    handles[2].wait_applied(last.index, PATIENCE).await.unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while handles[2].metrics().purged.0 < 200 {
        assert!(tokio::time::Instant::now() < deadline, "no snapshot");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    cluster.stop(2).await;
    alter(
        &newest_snapshot(&cluster.directory(&node(2))),
        b"zz-right",
        b"zz-wrong",
    );
    let odd = cluster.start(2).await;
    assert!(has_queue(&odd, "zz-wrong") && !has_queue(&odd, "zz-right"));
    propose_many(&handles[0], 300, 32).await;
    let mut failed = odd.failed();
    let why = tokio::time::timeout(PATIENCE, failed.wait_for(Option::is_some))
        .await
        .expect("it must notice")
        .unwrap()
        .clone()
        .unwrap();
    assert!(
        why.contains("not the one that the majority") && why.contains("--rejoin"),
        "{why}"
    );
    assert_eq!(*handles[0].failed().borrow(), None);
    assert_eq!(*handles[1].failed().borrow(), None);
    propose(&handles[0], "after").await.unwrap();
}

//! Alone in its process, because it measures it: a large blob does not need large memory.

use blobs::{Config, Handle, open};
use std::path::Path;
use tokio::io::{AsyncReadExt as _, duplex};

const BLOB_BYTES: u64 = 256 << 20;
/// Stream buffers, pipe and the allocator's slack; a fifth of the blob would already be too much.
const ALLOWED_BYTES: u64 = 40 << 20;

fn store(directory: &Path) -> Handle {
    open(Config {
        reserve_free_bytes: 0,
        ..Config::new(directory.to_path_buf())
    })
    .expect("a fresh directory opens")
}

fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("it has the peak");
    let kib = line.trim().trim_end_matches("kB").trim();
    kib.parse::<u64>().expect("a number") << 10
}

#[tokio::test]
async fn memory_does_not_grow_with_the_blob() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (source, target) = (store(a.path()), store(b.path()));
    let before = peak_bytes();
    let (hash, length) = source
        .put_stream(None, tokio::io::repeat(7).take(BLOB_BYTES))
        .await
        .unwrap();
    assert_eq!(length, BLOB_BYTES);
    let (mut near, far) = duplex(64 << 10);
    let serving = tokio::spawn(async move { source.serve(far).await });
    assert_eq!(target.fetch(&mut near, &[hash]).await.unwrap(), vec![hash]);
    drop(near);
    serving.await.unwrap().unwrap();
    assert_eq!(target.chunk_index(&hash).await.unwrap().len(), 64);
    let grown = peak_bytes() - before;
    assert!(grown < ALLOWED_BYTES, "grew by {grown} bytes");
}

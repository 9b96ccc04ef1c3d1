//! Two stores and a byte stream between them.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use blobs::{Config, Error, Handle, open};
use bytes::Bytes;
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf, duplex,
};
use tokio::task::JoinHandle;
use types::{BlobHash, codec};

/// Small, so that both ends wait for each other often: a deadlock would show.
const PIPE_BYTES: usize = 4096;

fn store(directory: &Path) -> Handle {
    open(Config {
        reserve_free_bytes: 0,
        ..Config::new(directory.to_path_buf())
    })
    .expect("a fresh directory opens")
}

fn noise(length: usize, seed: u64) -> Bytes {
    let mut bytes = vec![0; length];
    let mut output = blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof();
    output.fill(&mut bytes);
    bytes.into()
}

/// Serves `store` at the other end of the returned stream.
fn serve(store: &Handle) -> (DuplexStream, JoinHandle<Result<(), Error>>) {
    let (near, far) = duplex(PIPE_BYTES);
    let store = store.clone();
    (near, tokio::spawn(async move { store.serve(far).await }))
}

/// A stream that breaks after some bytes were read, and counts them.
struct Breaking {
    inner: DuplexStream,
    left: usize,
    read: usize,
}

impl AsyncRead for Breaking {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        let count = buffer.filled().len() - before;
        self.read += count;
        self.left = self.left.saturating_sub(count);
        polled
    }
}

impl AsyncWrite for Breaking {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[tokio::test]
async fn fetch_brings_small_and_large_and_leaves_out_what_is_not_there() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (source, target) = (store(a.path()), store(b.path()));
    let mut hashes = Vec::new();
    for i in 0..300 {
        hashes.push(source.put_bytes(noise(i * 11, i as u64)).await.unwrap());
    }
    for seed in [1000, 1001] {
        hashes.push(source.put_bytes(noise(5 << 20, seed)).await.unwrap());
    }
    let absent = BlobHash::of(b"nobody has this");
    let mut asked = hashes.clone();
    asked.insert(7, absent);
    let (mut stream, serving) = serve(&source);
    assert_eq!(source.ask(&mut stream, &asked).await.unwrap(), hashes);
    let got = target.fetch(&mut stream, &asked).await.unwrap();
    assert_eq!(got, hashes);
    // The stream is usable again, and nothing is fetched twice.
    assert_eq!(target.fetch(&mut stream, &asked).await.unwrap(), hashes);
    for hash in &hashes {
        let there = source.get_bytes(hash, 8 << 20).await.unwrap();
        assert_eq!(target.get_bytes(hash, 8 << 20).await.unwrap(), there);
    }
    drop(stream);
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn push_brings_what_the_peer_lacks() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (source, target) = (store(a.path()), store(b.path()));
    let mut hashes = Vec::new();
    for i in 0..100 {
        hashes.push(source.put_bytes(noise(i * 500, i as u64)).await.unwrap());
    }
    hashes.push(source.put_bytes(noise(3 << 20, 1000)).await.unwrap());
    target.put_bytes(noise(500, 1)).await.unwrap();
    let (mut stream, serving) = serve(&target);
    source.push(&mut stream, &hashes).await.unwrap();
    assert_eq!(target.missing(&hashes), Vec::new());
    source.push(&mut stream, &hashes).await.unwrap();
    let absent = BlobHash::of(b"absent");
    let pushed = source.push(&mut stream, &[absent]).await;
    assert!(matches!(pushed, Err(Error::Missing { hash }) if hash == absent));
    drop(stream);
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn broken_fetch_of_a_large_blob_is_resumed() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (source, target) = (store(a.path()), store(b.path()));
    let bytes = noise(12 << 20, 1);
    let hash = source.put_bytes(bytes.clone()).await.unwrap();
    let (near, _serving) = serve(&source);
    let mut breaking = Breaking {
        inner: near,
        left: 9 << 20,
        read: 0,
    };
    let broken = target.fetch(&mut breaking, &[hash]).await;
    assert!(matches!(broken, Err(Error::Stream(_))), "{broken:?}");
    assert!(!target.has(&hash));
    // Also after a restart of the node.
    drop(target);
    let target = store(b.path());
    let (near, _serving) = serve(&source);
    let mut counting = Breaking {
        inner: near,
        left: usize::MAX,
        read: 0,
    };
    let got = target.fetch(&mut counting, &[hash]).await.unwrap();
    assert_eq!(got, vec![hash]);
    assert!(
        counting.read < 5 << 20,
        "read {} bytes again",
        counting.read
    );
    assert_eq!(
        target.get_bytes(&hash, 16 << 20).await.unwrap(),
        Some(bytes)
    );
    let partials = fs::read_dir(b.path().join("partial")).unwrap().count();
    assert_eq!(partials, 0);
}

#[tokio::test]
async fn spoiled_partial_is_fetched_again_from_the_start() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (source, target) = (store(a.path()), store(b.path()));
    let mut hashes = Vec::new();
    for (seed, partial) in [(1, 1000), (2, 1000)] {
        let hash = source.put_bytes(noise(3 << 20, seed)).await.unwrap();
        let path = b.path().join("partial").join(hash.to_string());
        fs::write(path, vec![0; partial]).unwrap();
        hashes.push(hash);
    }
    let (mut stream, _serving) = serve(&source);
    let mut got = target.fetch(&mut stream, &hashes).await.unwrap();
    got.sort();
    hashes.sort();
    assert_eq!(got, hashes);
}

#[tokio::test]
async fn partial_longer_than_the_blob_does_not_hang() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (source, target) = (store(a.path()), store(b.path()));
    let hash = source.put_bytes(noise(2 << 20, 1)).await.unwrap();
    let path = b.path().join("partial").join(hash.to_string());
    fs::write(path, vec![0; 3 << 20]).unwrap();
    let (mut stream, _serving) = serve(&source);
    assert_eq!(
        target.fetch(&mut stream, &[hash]).await.unwrap(),
        vec![hash]
    );
}

#[tokio::test]
async fn damage_at_the_source_is_not_served() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (source, target) = (store(a.path()), store(b.path()));
    let mut hashes = Vec::new();
    for (seed, length) in [(1, 1000), (2, 3 << 20), (3, 1000)] {
        hashes.push(source.put_bytes(noise(length, seed)).await.unwrap());
    }
    for hash in &hashes[..2] {
        let path = source.path(hash);
        let mut bytes = fs::read(&path).unwrap();
        bytes[500] ^= 1;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&path, bytes).unwrap();
    }
    let (mut stream, _serving) = serve(&source);
    let got = target.fetch(&mut stream, &hashes).await.unwrap();
    assert_eq!(got, hashes[2..]);
    assert_eq!(target.missing(&hashes), hashes[..2]);
    assert_eq!(source.missing(&hashes), hashes[..2], "moved aside");
}

#[tokio::test]
async fn peer_that_lies_about_the_bytes_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let target = store(directory.path());
    let (near, mut far) = duplex(1 << 20);
    let lying = tokio::spawn(async move {
        let mut request = [0; 4];
        far.read_exact(&mut request).await.unwrap();
        // Reply::Found { length: 4 }, four bytes, Reply::Sent { intact: true }.
        for message in [
            codec::encode(&(1_u32, 4_u64)),
            codec::encode(&(3_u32, true)),
        ] {
            let length = u32::try_from(message.len()).unwrap();
            far.write_all(&length.to_le_bytes()).await.unwrap();
            far.write_all(&message).await.unwrap();
            if message.len() > 12 {
                far.write_all(b"evil").await.unwrap();
            }
        }
        far
    });
    let mut near = near;
    let fetched = target.fetch(&mut near, &[BlobHash::of(b"good")]).await;
    assert!(
        matches!(fetched, Err(Error::HashMismatch { .. })),
        "{fetched:?}"
    );
    drop(lying.await.unwrap());
}

#[tokio::test]
async fn hostile_frames_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let target = store(directory.path());
    for bytes in [
        &u32::MAX.to_le_bytes()[..],
        b"\x05\0\0\0\x01\0\0\0\0",
        b"\x06\0\0\0garbag",
        b"\x06\0",
    ] {
        let (mut stream, serving) = serve(&target);
        stream.write_all(bytes).await.unwrap();
        drop(stream);
        let ended = serving.await.unwrap();
        assert!(
            matches!(
                ended,
                Err(Error::FrameTooLong { .. } | Error::Frame(_) | Error::Stream(_))
            ),
            "{ended:?}"
        );
    }
}

#[tokio::test]
async fn peer_that_cannot_store_says_why() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = store(a.path());
    let full = open(Config {
        reserve_free_bytes: u64::MAX,
        ..Config::new(b.path().to_path_buf())
    })
    .unwrap();
    let small = source.put_bytes(noise(1000, 1)).await.unwrap();
    let large = source.put_bytes(noise(12 << 20, 2)).await.unwrap();
    for hashes in [vec![small], vec![large], vec![large, small]] {
        let (mut stream, serving) = serve(&full);
        let pushed = source.push(&mut stream, &hashes).await;
        let Err(Error::Refused { reason }) = pushed else {
            panic!("{pushed:?}");
        };
        assert!(reason.contains("below the reserve"), "{reason}");
        drop(stream);
        let served = serving.await.unwrap();
        assert!(matches!(served, Err(Error::BelowReserve { .. })));
    }
}

#[tokio::test]
async fn two_fetches_of_the_same_large_blob_both_succeed() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (source, target) = (store(a.path()), store(b.path()));
    let hash = source.put_bytes(noise(6 << 20, 1)).await.unwrap();
    let fetch_on_a_task = || {
        let ((mut stream, _serving), target) = (serve(&source), target.clone());
        tokio::spawn(async move {
            let got = target.fetch(&mut stream, &[hash]).await;
            target.push(&mut stream, &[hash]).await.map(|()| got)
        })
    };
    let (one, two) = tokio::join!(fetch_on_a_task(), fetch_on_a_task());
    let (one, two) = (one.unwrap().unwrap(), two.unwrap().unwrap());
    assert_eq!((one.unwrap(), two.unwrap()), (vec![hash], vec![hash]));
}

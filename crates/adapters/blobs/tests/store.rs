//! One store: what goes in comes out, or is refused with a reason.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use blobs::{Config, Error, Handle, open};
use bytes::Bytes;
use proptest::prelude::*;
use types::{BlobHash, Timestamp};

fn small_reserve(directory: &Path) -> Config {
    Config {
        reserve_free_bytes: 0,
        ..Config::new(directory.to_path_buf())
    }
}

fn store(directory: &Path) -> Handle {
    open(small_reserve(directory)).expect("a fresh directory opens")
}

/// Bytes that repeat nowhere, so that chunk boundaries are found.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut output = blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof();
    output.fill(&mut bytes);
    bytes
}

fn files_below(directory: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).expect("the store's directory is readable") {
        let path = entry.expect("an entry is readable").path();
        if path.is_dir() {
            names.extend(files_below(&path));
        } else {
            names.push(path.display().to_string());
        }
    }
    names
}

fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("the clock is after 1970");
    Timestamp(u64::try_from(since.as_millis()).expect("it fits"))
}

#[tokio::test]
async fn what_was_put_is_got_and_is_read_only() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let bytes = Bytes::from_static(b"muster");
    let hash = store.put_bytes(bytes.clone()).await.unwrap();
    assert_eq!(hash, BlobHash::of(b"muster"));
    assert!(store.has(&hash));
    assert_eq!(store.size(&hash), Some(6));
    assert_eq!(store.get_bytes(&hash, 6).await.unwrap(), Some(bytes));
    let mode = fs::metadata(store.path(&hash))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o444);
    let other = BlobHash::of(b"other");
    assert_eq!(store.missing(&[other, hash]), vec![other]);
    assert_eq!(store.get_bytes(&other, 6).await.unwrap(), None);
    assert!(store.open_read(&other).await.unwrap().is_none());
    assert!(matches!(
        store.get_bytes(&hash, 5).await,
        Err(Error::TooLarge { bytes: 6, limit: 5 })
    ));
}

#[tokio::test]
async fn empty_blob_is_a_blob() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let hash = store.put_bytes(Bytes::new()).await.unwrap();
    assert_eq!(store.get_bytes(&hash, 0).await.unwrap(), Some(Bytes::new()));
    let (streamed, length) = store.put_stream(None, &b""[..]).await.unwrap();
    assert_eq!((streamed, length), (hash, 0));
}

#[tokio::test]
async fn blobs_outlive_the_process_and_unfinished_writes_do_not() {
    let directory = tempfile::tempdir().unwrap();
    let first = store(directory.path());
    let hash = first.put_bytes(Bytes::from_static(b"kept")).await.unwrap();
    drop(first);
    fs::write(directory.path().join("drafts/77"), b"half").unwrap();
    let again = store(directory.path());
    assert!(again.has(&hash));
    assert!(!directory.path().join("drafts/77").exists());
    // Put again: adopted, although this process did not write it.
    assert_eq!(
        again.put_bytes(Bytes::from_static(b"kept")).await.unwrap(),
        hash
    );
}

#[tokio::test]
async fn second_process_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let _first = store(directory.path());
    let error = open(small_reserve(directory.path())).unwrap_err();
    assert!(matches!(error, Error::InUse { .. }), "{error}");
}

#[tokio::test]
async fn damage_is_told_moved_aside_and_never_served() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let hash = store
        .put_bytes(Bytes::from_static(b"good bytes"))
        .await
        .unwrap();
    let path = store.path(&hash);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&path, b"evil bytes").unwrap();
    let error = store.get_bytes(&hash, 100).await.unwrap_err();
    let text = error.to_string();
    let Error::Damaged { quarantined, .. } = error else {
        panic!("{text}");
    };
    assert!(text.contains(&quarantined.display().to_string()), "{text}");
    assert_eq!(fs::read(&quarantined).unwrap(), b"evil bytes");
    assert!(!store.has(&hash));
    assert_eq!(store.get_bytes(&hash, 100).await.unwrap(), None);
    // A good copy takes its place again.
    store
        .put_bytes(Bytes::from_static(b"good bytes"))
        .await
        .unwrap();
    assert!(store.get_bytes(&hash, 100).await.unwrap().is_some());
}

#[tokio::test]
async fn grown_or_shortened_file_is_damage_too() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    for content in [&b"good"[..], b"good bytes and more", b""] {
        let hash = store
            .put_bytes(Bytes::from_static(b"good bytes"))
            .await
            .unwrap();
        fs::set_permissions(store.path(&hash), fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(store.path(&hash), content).unwrap();
        let got = store.get_bytes(&hash, 100).await;
        assert!(matches!(got, Err(Error::Damaged { .. })), "{content:?}");
    }
}

#[tokio::test]
async fn bytes_of_another_name_are_refused_and_leave_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let expected = BlobHash::of(b"this");
    let streamed = store.put_stream(Some(expected), &b"that"[..]).await;
    assert!(matches!(streamed, Err(Error::HashMismatch { .. })));
    let many = store
        .put_many(vec![
            (BlobHash::of(b"good"), Bytes::from_static(b"good")),
            (expected, Bytes::from_static(b"that")),
        ])
        .await;
    assert!(matches!(many, Err(Error::HashMismatch { .. })));
    assert_eq!(files_below(directory.path()), Vec::<String>::new());
}

#[tokio::test]
async fn many_are_stored_few_or_lots_with_repeats() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    for count in [0, 1, 7, 8, 500] {
        let mut blobs: Vec<_> = (0..count)
            .map(|i| Bytes::from(noise(100 + i, i as u64)))
            .map(|bytes| (BlobHash::of(&bytes), bytes))
            .collect();
        blobs.extend(blobs.first().cloned());
        store.put_many(blobs.clone()).await.unwrap();
        for (hash, bytes) in blobs {
            assert_eq!(store.get_bytes(&hash, 1 << 20).await.unwrap(), Some(bytes));
            let metadata = fs::metadata(store.path(&hash)).unwrap();
            assert_eq!(metadata.permissions().mode() & 0o777, 0o444);
        }
    }
    assert_eq!(files_below(directory.path()).len(), 500);
}

#[tokio::test]
async fn concurrent_puts_of_the_same_blob_all_succeed() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let bytes = Bytes::from(noise(300_000, 1));
    let hash = BlobHash::of(&bytes);
    let mut tasks = tokio::task::JoinSet::new();
    for round in 0..24 {
        let (store, bytes) = (store.clone(), bytes.clone());
        tasks.spawn(async move {
            match round % 3 {
                0 => store.put_bytes(bytes).await,
                1 => store.put_many(vec![(hash, bytes)]).await.map(|()| hash),
                _ => {
                    let put = store.put_stream(Some(hash), &bytes[..]).await;
                    put.map(|(hash, _length)| hash)
                }
            }
        });
    }
    for put in tasks.join_all().await {
        assert_eq!(put.unwrap(), hash);
    }
    assert_eq!(files_below(directory.path()).len(), 1);
    assert_eq!(store.get_bytes(&hash, 1 << 20).await.unwrap(), Some(bytes));
}

#[tokio::test]
async fn too_large_and_below_the_reserve_are_refused_before_writing() {
    let directory = tempfile::tempdir().unwrap();
    let small = open(Config {
        max_blob_bytes: 4,
        ..small_reserve(&directory.path().join("small"))
    })
    .unwrap();
    let put = small.put_bytes(Bytes::from_static(b"12345")).await;
    assert!(matches!(put, Err(Error::TooLarge { bytes: 5, limit: 4 })));
    let put = small.put_stream(None, &b"12345"[..]).await;
    assert!(matches!(put, Err(Error::TooLarge { .. })));
    let two = [&b"1234"[..], b"5678"].map(|b| (BlobHash::of(b), Bytes::from_static(b)));
    small.put_many(two.to_vec()).await.unwrap();

    let full = open(Config {
        reserve_free_bytes: u64::MAX,
        ..small_reserve(&directory.path().join("full"))
    })
    .unwrap();
    let error = full.put_bytes(Bytes::from_static(b"1")).await.unwrap_err();
    assert!(matches!(error, Error::BelowReserve { .. }));
    assert!(error.to_string().contains("lower the reserve"), "{error}");
    let many = full.put_many(two.to_vec()).await;
    assert!(matches!(many, Err(Error::BelowReserve { .. })));
    let file = full.put_file(&small.path(&two[0].0)).await;
    assert!(matches!(file, Err(Error::BelowReserve { .. })));
    assert!(files_below(&directory.path().join("full")).is_empty());
}

#[tokio::test]
async fn file_is_copied_and_a_missing_one_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory.path().join("store"));
    let source = directory.path().join("source");
    let bytes = noise(3 << 20, 2);
    fs::write(&source, &bytes).unwrap();
    let (hash, length) = store.put_file(&source).await.unwrap();
    assert_eq!((hash, length), (BlobHash::of(&bytes), 3 << 20));
    fs::write(&source, b"changed").unwrap();
    assert_eq!(
        store.get_bytes(&hash, 4 << 20).await.unwrap().unwrap(),
        bytes
    );
    let error = store.put_file(Path::new("/none")).await.unwrap_err();
    assert!(error.to_string().contains("/none"), "{error}");
}

#[tokio::test]
async fn only_unwanted_and_unpinned_blobs_are_collected() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let mut hashes = Vec::new();
    for text in ["wanted", "pinned", "put again", "unwanted"] {
        hashes.push(store.put_bytes(Bytes::from(text)).await.unwrap());
    }
    let wanted = |hash: BlobHash| hash == hashes[0];
    // Fresh: everything is pinned.
    assert_eq!(store.collect(&wanted, now()).unwrap().blobs, 0);
    let day = Duration::from_secs(24 * 3600);
    for hash in &hashes {
        let file = fs::File::open(store.path(hash)).unwrap();
        file.set_modified(SystemTime::now() - 2 * day).unwrap();
    }
    let until = Timestamp(now().0 + 60_000);
    assert!(store.pin(&hashes[1], until).unwrap());
    assert_eq!(store.pinned_until(&hashes[1]), Some(until));
    assert!(!store.pin(&BlobHash::of(b"absent"), until).unwrap());
    store.put_bytes(Bytes::from("put again")).await.unwrap();
    let collected = store.collect(&wanted, now()).unwrap();
    assert_eq!((collected.blobs, collected.bytes), (1, 8));
    assert_eq!(store.missing(&hashes), vec![hashes[3]]);
    // A shorter pin does not shorten.
    assert!(store.pin(&hashes[1], Timestamp(0)).unwrap());
    assert_eq!(store.pinned_until(&hashes[1]), Some(until));
    let later = Timestamp(until.0 + 1);
    assert_eq!(store.collect(&wanted, later).unwrap().blobs, 1);
    assert_eq!(store.missing(&hashes), vec![hashes[1], hashes[3]]);
}

#[tokio::test]
async fn chunks_cover_the_blob_and_shared_content_shares_chunks() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let mut bytes = noise(20 << 20, 3);
    let hash = store.put_bytes(Bytes::from(bytes.clone())).await.unwrap();
    let chunks = store.chunk_index(&hash).await.unwrap();
    assert!(chunks.len() > 8, "{}", chunks.len());
    let mut end = 0;
    for chunk in &chunks {
        assert_eq!(chunk.offset, end);
        end += u64::from(chunk.length);
        let from = usize::try_from(chunk.offset).unwrap();
        let part = &bytes[from..from + chunk.length as usize];
        assert_eq!(chunk.hash, BlobHash::of(part));
    }
    assert_eq!(end, 20 << 20);
    assert_eq!(store.chunk_index(&hash).await.unwrap(), chunks, "cached");

    // A torn cache is computed again.
    let mut cache = store.path(&hash).into_os_string();
    cache.push(".chunks");
    fs::write(&cache, b"torn").unwrap();
    assert_eq!(store.chunk_index(&hash).await.unwrap(), chunks);

    // One inserted byte changes few chunks.
    bytes.insert(10 << 20, 7);
    let changed = store.put_bytes(Bytes::from(bytes)).await.unwrap();
    let changed = store.chunk_index(&changed).await.unwrap();
    let old: BTreeSet<_> = chunks.iter().map(|chunk| chunk.hash).collect();
    let new = changed.iter().filter(|c| !old.contains(&c.hash)).count();
    assert!(new <= 3, "{new} of {} chunks are new", changed.len());

    let small = store.put_bytes(Bytes::from_static(b"small")).await.unwrap();
    assert_eq!(store.chunk_index(&small).await.unwrap().len(), 1);
    let absent = store.chunk_index(&BlobHash::of(b"absent")).await;
    assert!(matches!(absent, Err(Error::Missing { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_bytes_by_any_way_come_back(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let store = store(directory.path());
            let (hash, length) = store.put_stream(None, &bytes[..]).await.unwrap();
            prop_assert_eq!(length, bytes.len() as u64);
            prop_assert_eq!(store.put_bytes(Bytes::from(bytes.clone())).await.unwrap(), hash);
            prop_assert_eq!(store.get_bytes(&hash, 1 << 20).await.unwrap().unwrap(), bytes);
            Ok(())
        })?;
    }
}

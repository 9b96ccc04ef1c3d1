//! Hashing files on several threads.

use std::fs::File;
use std::io::Read as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use types::BlobHash;

use super::entries::{FileStat, FoundFile, FoundKind};
use super::stat_cache::StatCache;
use crate::error::Error;
use crate::terminal::Progress;

/// Most threads: beyond, the disk is what one waits for.
const THREADS_LIMIT: usize = 8;
/// Files for which another thread pays: starting one costs as much as hashing some small files.
const FILES_PER_THREAD: usize = 16;
/// Bytes read at once: large enough for BLAKE3's wide instructions.
const READ_BYTES: usize = 128 << 10;
/// A file that changed so shortly ago may change again without a new time: FAT's clock ticks each 2 s.
const SETTLED_NS: i128 = 2_000_000_000;

/// The hash of each file, none for what is no file. Those that `cache` knows unchanged are not read.
///
/// # Errors
/// A file cannot be read, or its size changed since it was looked at.
pub(super) fn hash_files(
    found: &[FoundFile],
    cache: &mut StatCache,
    progress: &Progress,
) -> Result<Vec<Option<BlobHash>>, Error> {
    let mut hashes = vec![None; found.len()];
    let mut unknown: Vec<(usize, &FoundFile, FileStat)> = Vec::new();
    for (index, file) in found.iter().enumerate() {
        if let FoundKind::File(stat) = &file.kind {
            hashes[index] = cache.recall(&file.path, stat);
            if hashes[index].is_none() {
                unknown.push((index, file, *stat));
            }
        }
    }
    progress.expect(unknown.iter().map(|(_, _, stat)| stat.size).sum());
    let now_ns = now_ns();
    for (index, hash) in hash_unknown(&unknown, progress)? {
        let (index, file, stat) = unknown[index];
        hashes[index] = Some(hash);
        if stat.changed_ns.max(stat.modified_ns) + SETTLED_NS < now_ns {
            cache.remember(&file.path, stat, hash);
        }
    }
    Ok(hashes)
}

fn hash_unknown(
    unknown: &[(usize, &FoundFile, FileStat)],
    progress: &Progress,
) -> Result<Vec<(usize, BlobHash)>, Error> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = unknown
        .len()
        .div_ceil(FILES_PER_THREAD)
        .min(cores)
        .clamp(1, THREADS_LIMIT);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some((_, file, stat)) = unknown.get(index) else {
                return Ok(done);
            };
            done.push((index, hash_file(file, stat, progress)?));
        }
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut done = work()?;
        for other in others {
            done.extend(other.join().expect("hashing does not panic")?);
        }
        Ok(done)
    })
}

fn hash_file(found: &FoundFile, stat: &FileStat, progress: &Progress) -> Result<BlobHash, Error> {
    let failed = |source| Error::Source {
        step: "read",
        path: found.location.clone(),
        source,
    };
    let mut file = File::open(&found.location).map_err(failed)?;
    let mut hasher = blake3::Hasher::new();
    let room = usize::try_from(stat.size).unwrap_or(READ_BYTES) + 1;
    let mut buffer = vec![0; READ_BYTES.min(room)];
    let mut size = 0;
    loop {
        let count = file.read(&mut buffer).map_err(failed)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        size += count as u64;
        progress.add(count as u64);
    }
    if size != stat.size {
        return Err(Error::Changed {
            path: found.path.clone(),
        });
    }
    Ok(BlobHash(*hasher.finalize().as_bytes()))
}

fn now_ns() -> i128 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i128::try_from(since.as_nanos()).unwrap_or(i128::MAX)
}

//! Room on the disk of the log: a reserve file that is given up before the disk is full, and what is refused when.
//!
//! A store cannot even be opened on a full disk, so some of it is kept aside in a file of real blocks. While the
//! file is there, little free space outside it means [`DiskRoom::Low`]: people's writes are refused here and
//! leadership goes elsewhere. Before the space outside is gone the file is removed and the log lives on its blocks.
//! When those run out too, nothing more is appended ([`DiskRoom::Full`]), so that no append fails half-way.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Name of the file in the replica's directory.
const NAME: &str = "reserve";
/// Time between two looks: at 200 MB/s of somebody else's writing the default reserve lasts longer.
const LOOK: Duration = Duration::from_millis(250);
/// The file is given up when less than this part of it is free outside.
const GIVE_UP_PART: u64 = 8;
/// Without the file, appends end when less than this part of its size is free.
const FULL_PART: u64 = 4;
/// Time until the file is tried again after it could not be made.
const TRY_AGAIN: Duration = Duration::from_mins(1);
/// Bytes written at a time where blocks cannot be reserved otherwise.
const WRITE_BYTES: usize = 1 << 20;
/// Room is there again when this part of the reserve more is free than when it ran low.
const MARGIN_PART: u64 = 4;

/// How much room the log's disk has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskRoom {
    /// Enough.
    Enough,
    /// People's writes are refused and leadership is handed over.
    Low {
        /// Bytes free outside the reserve file.
        free_bytes: u64,
    },
    /// Nothing is appended any more.
    Full {
        /// Bytes free.
        free_bytes: u64,
    },
}

impl DiskRoom {
    /// The line for a person, unless there is room.
    #[must_use]
    pub fn problem(self, directory: &Path) -> Option<String> {
        let (free_bytes, what) = match self {
            Self::Enough => return None,
            Self::Low { free_bytes } => (free_bytes, "nearly full"),
            Self::Full { free_bytes } => (free_bytes, "full"),
        };
        Some(format!(
            "the disk of the log in {} is {what} ({} MiB free): free some space there, and this node goes on by itself",
            directory.display(),
            free_bytes >> 20
        ))
    }
}

#[derive(Debug)]
struct Held {
    /// The file is there.
    file: bool,
    /// When it could not be made although there was room.
    failed_at: Option<Instant>,
}

impl Held {
    fn may_try(&self) -> bool {
        self.failed_at.is_none_or(|at| at.elapsed() >= TRY_AGAIN)
    }
}

/// What is known of the disk, and whether the reserve file is there.
#[derive(Clone, Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
    bytes: u64,
    room: watch::Sender<DiskRoom>,
    /// One look at a time.
    held: Arc<Mutex<Held>>,
}

/// Gives up the reserve file in `directory` if fewer than `needed_bytes` are free: first of all things at a start,
/// since nothing can be written on a full disk. Returns whether it did.
///
/// # Errors
/// The file is there and cannot be removed.
pub fn release_reserve(directory: &Path, needed_bytes: u64) -> io::Result<bool> {
    let path = directory.join(NAME);
    if free_bytes(directory).is_ok_and(|free| free >= needed_bytes) {
        return Ok(false);
    }
    match fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn free_bytes(directory: &Path) -> io::Result<u64> {
    let stat = statvfs(directory)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

impl Reserve {
    /// Looks at the disk before the log is opened; a reserve of 0 bytes is none. Blocks.
    pub(crate) fn open(directory: &Path, bytes: u64) -> Self {
        let path = directory.join(NAME);
        let held = fs::metadata(&path).is_ok_and(|found| found.len() == bytes && bytes > 0);
        if !held {
            // Of another size, or half made.
            drop(fs::remove_file(&path));
        }
        let this = Self {
            path,
            bytes,
            room: watch::Sender::new(DiskRoom::Enough),
            held: Arc::new(Mutex::new(Held {
                file: held,
                failed_at: None,
            })),
        };
        this.look();
        this
    }

    pub(crate) fn room(&self) -> DiskRoom {
        *self.room.borrow()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<DiskRoom> {
        self.room.subscribe()
    }

    pub(crate) fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    /// Measures, gives up or makes the file, and tells. Blocks.
    pub(crate) fn look(&self) -> DiskRoom {
        if self.bytes == 0 {
            return DiskRoom::Enough;
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(free) = free_bytes(self.directory()) else {
            // A disk that cannot be asked fails by its own errors.
            return self.room();
        };
        if held.file && free < self.bytes / GIVE_UP_PART {
            self.give_up(&mut held);
        }
        if !held.file && free >= enough_to_make(self.bytes) && held.may_try() {
            self.make(&mut held);
        }
        let free = free_bytes(self.directory()).unwrap_or(free);
        let room = judge(self.room(), held.file, free, self.bytes);
        self.tell(room);
        room
    }

    fn make(&self, held: &mut Held) {
        match preallocate(&self.path, self.bytes) {
            Ok(()) => held.file = true,
            Err(error) => {
                tracing::warn!(%error, path = %self.path.display(), "cannot make the disk reserve");
                drop(fs::remove_file(&self.path));
                held.failed_at = Some(Instant::now());
            }
        }
    }

    /// Gives the file up at once if the space outside is gone: the log's thread asks before each group. Never waits.
    pub(crate) fn guard(&self) {
        let Ok(mut held) = self.held.try_lock() else {
            return;
        };
        let short = |free: u64| free < self.bytes / GIVE_UP_PART;
        if held.file && free_bytes(self.directory()).is_ok_and(short) {
            self.give_up(&mut held);
        }
    }

    fn give_up(&self, held: &mut Held) {
        match fs::remove_file(&self.path) {
            Ok(()) => tracing::warn!(path = %self.path.display(), "the disk reserve is given up"),
            Err(error) => {
                tracing::warn!(%error, path = %self.path.display(), "cannot give up the disk reserve");
            }
        }
        held.file = false;
    }

    fn tell(&self, room: DiskRoom) {
        let kind = std::mem::discriminant(&room);
        let before = self.room.send_replace(room);
        if std::mem::discriminant(&before) != kind {
            match room.problem(self.directory()) {
                Some(problem) => tracing::warn!(problem, "disk of the log"),
                None => tracing::info!("the disk of the log has room again"),
            }
        }
    }
}

/// Free bytes at which the file is made: so that room is not low at once.
fn enough_to_make(reserve: u64) -> u64 {
    2 * reserve + reserve / MARGIN_PART
}

/// What `free` bytes mean, given what was told before.
fn judge(before: DiskRoom, held: bool, free_bytes: u64, reserve: u64) -> DiskRoom {
    let low = match before {
        DiskRoom::Enough => reserve,
        DiskRoom::Low { .. } | DiskRoom::Full { .. } => reserve + reserve / MARGIN_PART,
    };
    let full = match before {
        DiskRoom::Full { .. } => reserve / FULL_PART + reserve / GIVE_UP_PART,
        DiskRoom::Enough | DiskRoom::Low { .. } => reserve / FULL_PART,
    };
    if held {
        return if free_bytes < low {
            DiskRoom::Low { free_bytes }
        } else {
            DiskRoom::Enough
        };
    }
    if free_bytes >= enough_to_make(reserve) {
        // The file cannot be made for another reason: there is room all the same.
        DiskRoom::Enough
    } else if free_bytes < full {
        DiskRoom::Full { free_bytes }
    } else {
        DiskRoom::Low { free_bytes }
    }
}

/// Takes real blocks, durably.
fn preallocate(path: &Path, bytes: u64) -> io::Result<()> {
    let file: File = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .open(path)?;
    match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => {}
        Err(rustix::io::Errno::OPNOTSUPP) => write_blocks(&file, bytes)?,
        Err(error) => return Err(error.into()),
    }
    file.sync_all()
}

/// For file systems that cannot preallocate.
fn write_blocks(mut file: &File, bytes: u64) -> io::Result<()> {
    let piece = vec![0; WRITE_BYTES];
    let mut left = bytes;
    while left > 0 {
        let count = left.min(WRITE_BYTES as u64);
        file.write_all(&piece[..usize::try_from(count).unwrap_or(WRITE_BYTES)])?;
        left -= count;
    }
    Ok(())
}

/// Looks at the disk until cancelled.
pub(crate) async fn watch_disk(reserve: Reserve, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let looking = reserve.clone();
        if tokio::task::spawn_blocking(move || looking.look())
            .await
            .is_err()
        {
            tracing::error!("the look at the disk panicked");
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_file_takes_real_blocks_and_is_given_up_only_when_space_is_needed() {
        let directory = tempfile::tempdir().unwrap();
        let reserve = Reserve::open(directory.path(), MIB);
        assert_eq!(reserve.room(), DiskRoom::Enough);
        let file = directory.path().join(NAME);
        use std::os::unix::fs::MetadataExt as _;
        assert_eq!(fs::metadata(&file).unwrap().blocks() * 512, MIB);
        assert!(!release_reserve(directory.path(), 1).unwrap());
        assert!(release_reserve(directory.path(), u64::MAX).unwrap());
        assert!(!file.exists());
        assert!(!release_reserve(directory.path(), u64::MAX).unwrap());
    }

    #[test]
    fn where_blocks_cannot_be_reserved_they_are_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(NAME);
        let file = File::create(&path).unwrap();
        write_blocks(&file, 2 * MIB + 5).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 2 * MIB + 5);
    }

    #[test]
    fn room_runs_low_then_out_and_comes_back_with_a_margin() {
        let (enough, reserve) = (DiskRoom::Enough, 64 * MIB);
        let kind = |room: DiskRoom| match room {
            DiskRoom::Enough => "enough",
            DiskRoom::Low { .. } => "low",
            DiskRoom::Full { .. } => "full",
        };
        let mut before = enough;
        for (held, free, expected) in [
            (true, 64 * MIB, "enough"),
            (true, 64 * MIB - 1, "low"),
            (true, 70 * MIB, "low"),
            (false, 60 * MIB, "low"),
            (false, 16 * MIB - 1, "full"),
            (false, 20 * MIB, "full"),
            (false, 24 * MIB, "low"),
            (true, 79 * MIB, "low"),
            (true, 80 * MIB, "enough"),
            (false, 144 * MIB - 1, "low"),
            (false, 144 * MIB, "enough"),
        ] {
            before = judge(before, held, free, reserve);
            assert_eq!(kind(before), expected, "{} MiB, {held}", free / MIB);
        }
    }

    #[test]
    fn the_line_says_where_and_what_to_do() {
        let full = DiskRoom::Full {
            free_bytes: 3 * MIB,
        };
        let text = full.problem(Path::new("/data/raft")).unwrap();
        assert!(
            text.contains("/data/raft") && text.contains("3 MiB") && text.contains("free some"),
            "{text}"
        );
        assert_eq!(DiskRoom::Enough.problem(Path::new("/")), None);
    }
}

//! Which opening of which copy of a store speaks: so that an old copy put back is not taken for the store it once was.
//!
//! Each opening counts the generation up and draws a new mark, durably and before anything is sent. Every message
//! between replicas carries both; each replica remembers, durably, the newest it has seen of each other one. A copy
//! made before the last start comes back with a number that was used already under another mark, and is refused by
//! whoever has heard its successor.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use types::{NodeId, codec};

use crate::directory::{Layout, write_durably};
use crate::error::Error;
use crate::failpoint;

/// File of this store's generation.
const OWN: &str = "generation";
/// File of what was seen of others.
const SEEN: &str = "seen";
/// Largest of both files: 256 replicas of some 70 bytes.
const MAX_FILE_BYTES: usize = 64 << 10;
/// Replicas remembered; a cluster has at most seven at a time, and each new key is a new one.
const MAX_SEEN: usize = 256;

/// One opening of one copy of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    /// Counted up by each opening.
    pub(crate) number: u64,
    /// Drawn at random by each opening.
    pub(crate) mark: u64,
}

#[derive(Serialize, Deserialize)]
enum OwnRecord {
    V1(Stamp),
}

#[derive(Serialize, Deserialize)]
enum SeenRecord {
    V1(BTreeMap<NodeId, Stamp>),
}

/// Starts the next generation of the store, durably. `used`: the store has a log.
pub(crate) fn next(layout: &Layout, used: bool) -> Result<Stamp, Error> {
    let file = layout.root.join(OWN);
    let before = match read(&file)? {
        Some(bytes) => {
            let OwnRecord::V1(stamp) = decode(&file, &bytes)?;
            stamp.number
        }
        None if used => return Err(damaged(&file, "it is missing beside a log that was used")),
        None => 0,
    };
    // Seeded by the operating system's random source for each state.
    let mark = std::hash::RandomState::new().build_hasher().finish();
    let number = before + 1;
    let stamp = Stamp { number, mark };
    write_durably(&layout.root, OWN, &[&codec::encode(&OwnRecord::V1(stamp))])?;
    failpoint::reached("generation.after_write");
    Ok(stamp)
}

fn read(file: &PathBuf) -> Result<Option<Vec<u8>>, Error> {
    match std::fs::read(file) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::file("read", file)(source)),
    }
}

fn decode<T: DeserializeOwned>(file: &std::path::Path, bytes: &[u8]) -> Result<T, Error> {
    codec::decode(bytes, MAX_FILE_BYTES).map_err(|error| damaged(file, &error.to_string()))
}

fn damaged(file: &std::path::Path, what: &str) -> Error {
    Error::Damaged {
        file: file.to_owned(),
        key: "the record".into(),
        what: what.to_owned(),
    }
}

/// What a stamp says of the replica that carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The newest seen of it.
    Current,
    /// Newer than anything seen of it before.
    Newer,
    /// An older opening, or another copy, than the one seen.
    Stale {
        /// What was seen.
        seen: Stamp,
    },
}

/// The newest stamp seen of each other replica.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    directory: PathBuf,
    stamps: Arc<Mutex<BTreeMap<NodeId, Stamp>>>,
    writing: Arc<Mutex<()>>,
}

impl Seen {
    /// Reads what was seen before the restart.
    pub(crate) fn open(layout: &Layout) -> Result<Self, Error> {
        let file = layout.root.join(SEEN);
        let stamps = match read(&file)? {
            Some(bytes) => {
                let SeenRecord::V1(stamps) = decode(&file, &bytes)?;
                stamps
            }
            None => BTreeMap::new(),
        };
        Ok(Self {
            directory: layout.root.clone(),
            stamps: Arc::new(Mutex::new(stamps)),
            writing: Arc::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Stamp>> {
        self.stamps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Judges the stamp of a message of `node`, and remembers a newer one.
    pub(crate) fn judge(&self, node: &NodeId, stamp: Stamp) -> Verdict {
        let mut stamps = self.lock();
        match stamps.get(node) {
            Some(seen) if *seen == stamp => Verdict::Current,
            Some(seen) if seen.number >= stamp.number => Verdict::Stale { seen: *seen },
            None if stamps.len() >= MAX_SEEN => Verdict::Current,
            Some(_) | None => {
                stamps.insert(node.clone(), stamp);
                Verdict::Newer
            }
        }
    }

    /// Makes what was seen durable. Blocks.
    pub(crate) fn keep(&self) -> Result<(), Error> {
        let _one_writer = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let record = codec::encode(&SeenRecord::V1(self.lock().clone()));
        write_durably(&self.directory, SEEN, &[&record]).map(drop)
    }
}

/// One of each stored record, for the test that holds their bytes still.
/// Reads bytes as each of both files.
#[cfg(fuzzing)]
pub(crate) fn fuzz(bytes: &[u8]) {
    let file = std::path::Path::new("fuzz");
    if let Ok(OwnRecord::V1(stamp)) = decode(file, bytes) {
        let again = codec::encode(&OwnRecord::V1(stamp));
        assert_eq!(again[codec::HEADER_BYTES..], bytes[codec::HEADER_BYTES..]);
    }
    if let Ok(SeenRecord::V1(stamps)) = decode(file, bytes) {
        let again = codec::encode(&SeenRecord::V1(stamps.clone()));
        let SeenRecord::V1(same) = decode(file, &again).expect("what was encoded");
        assert_eq!(same, stamps);
    }
}

#[cfg(test)]
pub(crate) fn golden_records(node: NodeId) -> Vec<(&'static str, Vec<u8>)> {
    let stamp = Stamp { number: 3, mark: 9 };
    vec![
        ("generation", codec::encode(&OwnRecord::V1(stamp))),
        (
            "seen",
            codec::encode(&SeenRecord::V1(BTreeMap::from([(node, stamp)]))),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(directory: &tempfile::TempDir) -> Layout {
        Layout {
            root: directory.path().to_owned(),
        }
    }

    #[test]
    fn each_opening_is_a_new_generation_and_a_copy_of_an_old_one_is_stale() {
        let directory = tempfile::tempdir().unwrap();
        let first = next(&layout(&directory), false).unwrap();
        let copy = std::fs::read(directory.path().join(OWN)).unwrap();
        let second = next(&layout(&directory), true).unwrap();
        assert_eq!(second.number, first.number + 1);
        std::fs::write(directory.path().join(OWN), copy).unwrap();
        let again = next(&layout(&directory), true).unwrap();
        assert_eq!(again.number, second.number);

        let node: NodeId = "b".parse().unwrap();
        let seen = Seen::open(&layout(&directory)).unwrap();
        assert_eq!(seen.judge(&node, second), Verdict::Newer);
        seen.keep().unwrap();
        let seen = Seen::open(&layout(&directory)).unwrap();
        assert_eq!(seen.judge(&node, second), Verdict::Current);
        for stale in [first, again] {
            assert_eq!(seen.judge(&node, stale), Verdict::Stale { seen: second });
        }
    }

    #[test]
    fn a_lost_or_damaged_generation_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let text = next(&layout(&directory), true).unwrap_err().to_string();
        assert!(
            text.contains("generation") && text.contains("rejoin"),
            "{text}"
        );
        next(&layout(&directory), false).unwrap();
        std::fs::write(directory.path().join(OWN), b"damaged").unwrap();
        assert!(next(&layout(&directory), true).is_err());
    }
}

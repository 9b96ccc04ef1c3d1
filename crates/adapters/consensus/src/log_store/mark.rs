//! `commit.mark`: how far the log was when it was last made durable, in a file of its own.
//!
//! A log that lost its tail still looks like a log. The mark says where it must reach: two slots in a
//! preallocated file, written in turn after each group commit and synced before anything of the group
//! is acknowledged. A torn write costs one slot; the other is at most one group older.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use types::codec;

use super::record::{CHAIN_START, ChainHash};
use crate::directory::write_durably;
use crate::error::Error;

/// Distance of the two slots: a page, so that a torn write never touches both.
const SLOT_BYTES: usize = 4_096;
/// Largest encoded mark.
const MAX_MARK_BYTES: usize = 256;

/// What must be found at the next start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// One past the last index.
    pub(super) next_index: u64,
    /// Chain hash of the last entry.
    pub(super) chain: ChainHash,
    /// Votes saved.
    pub(super) saves: u64,
}

impl Position {
    pub(super) const START: Self = Self {
        next_index: 0,
        chain: CHAIN_START,
        saves: 0,
    };
}

#[derive(Serialize, Deserialize)]
enum SlotRecord {
    V1 {
        sequence: u64,
        next_index: u64,
        chain: ChainHash,
        saves: u64,
    },
}

/// The open file.
#[derive(Debug)]
pub(super) struct Mark {
    file: File,
    sequence: u64,
}

impl Mark {
    /// Makes a new file in `directory`, durably.
    pub(super) fn create(directory: &Path, name: &str) -> Result<Self, Error> {
        let mut bytes = vec![0; 2 * SLOT_BYTES];
        put(&mut bytes[SLOT_BYTES..], 1, Position::START);
        let path = write_durably(directory, name, &[&bytes])?;
        Ok(Self {
            file: open(&path)?,
            sequence: 1,
        })
    }

    /// Opens the file and reads the newer slot.
    pub(super) fn open(path: &Path) -> Result<(Self, Position), Error> {
        let file = open(path)?;
        let mut newest: Option<(u64, Position)> = None;
        for slot in 0..2 {
            let mut bytes = vec![0; SLOT_BYTES];
            file.read_exact_at(&mut bytes, slot * SLOT_BYTES as u64)
                .map_err(|source| damaged(path, &source))?;
            if let Some(found) = parse(&bytes)
                && newest.is_none_or(|(sequence, _)| sequence < found.0)
            {
                newest = Some(found);
            }
        }
        let (sequence, position) =
            newest.ok_or_else(|| damaged(path, &"neither slot is readable"))?;
        Ok((Self { file, sequence }, position))
    }

    /// Writes `position` over the older slot and makes it durable.
    pub(super) fn write(&mut self, position: Position) -> io::Result<()> {
        self.sequence += 1;
        let mut bytes = vec![0; MAX_MARK_BYTES];
        put(&mut bytes, self.sequence, position);
        self.file
            .write_all_at(&bytes, (self.sequence % 2) * SLOT_BYTES as u64)?;
        self.file.sync_data()
    }
}

fn open(path: &Path) -> Result<File, Error> {
    File::options()
        .read(true)
        .write(true)
        .open(path)
        .map_err(Error::file("open", path))
}

fn damaged(path: &Path, what: &dyn ToString) -> Error {
    Error::Damaged {
        file: path.to_owned(),
        key: "both slots".into(),
        what: what.to_string(),
    }
}

/// Layout of a slot: length as u16 LE, then the codec's bytes.
fn put(slot: &mut [u8], sequence: u64, position: Position) {
    let Position {
        next_index,
        chain,
        saves,
    } = position;
    let record = codec::encode(&SlotRecord::V1 {
        sequence,
        next_index,
        chain,
        saves,
    });
    let length = u16::try_from(record.len()).expect("a mark has a fixed size under 256 bytes");
    slot[..2].copy_from_slice(&length.to_le_bytes());
    slot[2..2 + record.len()].copy_from_slice(&record);
}

fn parse(slot: &[u8]) -> Option<(u64, Position)> {
    let length = usize::from(u16::from_le_bytes([slot[0], slot[1]]));
    let record = slot.get(2..2 + length)?;
    // A slot that does not decode is a torn write or damage: the other slot decides.
    let SlotRecord::V1 {
        sequence,
        next_index,
        chain,
        saves,
    } = codec::decode(record, MAX_MARK_BYTES).ok()?;
    Some((
        sequence,
        Position {
            next_index,
            chain,
            saves,
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(next_index: u64) -> Position {
        Position {
            next_index,
            chain: [7; 32],
            saves: 3,
        }
    }

    #[test]
    fn newest_position_survives_reopening() {
        let directory = tempfile::tempdir().unwrap();
        let mut mark = Mark::create(directory.path(), "mark").unwrap();
        for next_index in 1..=5 {
            mark.write(position(next_index)).unwrap();
            let (_, found) = Mark::open(&directory.path().join("mark")).unwrap();
            assert_eq!(found, position(next_index));
        }
    }

    #[test]
    fn torn_slot_falls_back_to_the_one_before_and_two_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mark");
        let mut mark = Mark::create(directory.path(), "mark").unwrap();
        mark.write(position(1)).unwrap();
        mark.write(position(2)).unwrap();
        let newest = (mark.sequence % 2) * SLOT_BYTES as u64;
        mark.file.write_all_at(&[0xff; 20], newest + 10).unwrap();
        assert_eq!(Mark::open(&path).unwrap().1, position(1));
        mark.file
            .write_all_at(&[0xff; 20], SLOT_BYTES as u64 - newest + 10)
            .unwrap();
        let text = Mark::open(&path).unwrap_err().to_string();
        assert!(text.contains("mark") && text.contains("rejoin"), "{text}");
    }
}

/// See [`super::fuzz`].
#[cfg(fuzzing)]
pub(super) fn fuzz(bytes: &[u8]) {
    let mut slot = bytes.to_vec();
    slot.resize(SLOT_BYTES, 0);
    parse(&slot);
}

//! The stored form of the log: keys, rows of at most 4 KiB, and the hash chain.

use serde::{Deserialize, Serialize};
use sled::{Batch, IVec};
use types::{NodeId, codec};

use crate::raft_types::{RaftEntry, RaftLogId, RaftVote};

/// Largest log entry that is written: commands are at most 64 KiB (larger things are blobs), and a
/// membership change or a report is smaller.
pub(crate) const MAX_ENTRY_BYTES: usize = 256 << 10;
/// Largest encoded record: an entry and its frame.
const MAX_RECORD_BYTES: usize = MAX_ENTRY_BYTES + 4_096;
/// Bytes in one row. sled writes larger values into files that it does not fsync.
const ROW_BYTES: usize = 3_500;
/// Limit of the small records.
const MAX_META_BYTES: usize = 64 << 10;

const ENTRY_PREFIX: u8 = b'e';
/// Key of whose log this is.
pub(super) const OWNER_KEY: &[u8] = b"m/owner";
/// Key of the vote.
pub(super) const VOTE_KEY: &[u8] = b"m/vote";
/// Key of the last committed log id.
pub(super) const COMMITTED_KEY: &[u8] = b"m/committed";
/// Key of the end of the purged part.
pub(super) const PURGED_KEY: &[u8] = b"m/purged";

/// BLAKE3 of a record, which holds the hash of the record before.
pub(super) type ChainHash = [u8; 32];

/// Before the first entry.
pub(super) const CHAIN_START: ChainHash = [0; 32];

#[derive(Serialize)]
enum EntryRecordRef<'a> {
    V1 {
        previous: ChainHash,
        entry: &'a RaftEntry,
    },
}

#[derive(Deserialize)]
enum EntryRecord {
    V1 {
        previous: ChainHash,
        entry: RaftEntry,
    },
}

/// Whose log this is.
#[derive(Serialize, Deserialize)]
pub(super) enum OwnerRecord {
    V1 { node: NodeId },
}

/// The vote and how often one was saved; the mark knows the least number that must be found.
#[derive(Serialize, Deserialize)]
pub(super) enum VoteRecord {
    V1 { vote: RaftVote, saves: u64 },
}

#[derive(Serialize, Deserialize)]
pub(super) enum CommittedRecord {
    V1 { log_id: RaftLogId },
}

/// The newest purged entry and its chain hash, from which the first kept entry goes on.
#[derive(Serialize, Deserialize)]
pub(super) enum PurgedRecord {
    V1 { log_id: RaftLogId, chain: ChainHash },
}

pub(super) fn decode_meta<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, codec::Error> {
    codec::decode(bytes, MAX_META_BYTES)
}

/// First key of the rows of `index`; the keys of an index sort by row.
pub(super) fn first_key(index: u64) -> [u8; 11] {
    key(index, 0)
}

fn key(index: u64, row: u16) -> [u8; 11] {
    let mut key = [0; 11];
    key[0] = ENTRY_PREFIX;
    key[1..9].copy_from_slice(&index.to_be_bytes());
    key[9..].copy_from_slice(&row.to_be_bytes());
    key
}

/// One past the last possible entry key.
pub(super) const ENTRIES_END: &[u8] = &[ENTRY_PREFIX + 1];

fn parse_key(key: &[u8]) -> Option<(u64, u16)> {
    let key: &[u8; 11] = key.try_into().ok()?;
    let index = u64::from_be_bytes(key[1..9].try_into().ok()?);
    let row = u16::from_be_bytes([key[9], key[10]]);
    (key[0] == ENTRY_PREFIX).then_some((index, row))
}

/// Puts `entry` after the record whose hash is `previous`; returns its own hash and size.
pub(super) fn insert(
    batch: &mut Batch,
    previous: ChainHash,
    entry: &RaftEntry,
) -> (ChainHash, usize) {
    let record = codec::encode(&EntryRecordRef::V1 { previous, entry });
    for (row, piece) in (0_u16..).zip(record.chunks(ROW_BYTES)) {
        batch.insert(&key(entry.log_id.index, row), piece);
    }
    (*blake3::hash(&record).as_bytes(), record.len())
}

/// An entry as found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) entry: RaftEntry,
    pub(super) previous: ChainHash,
    pub(super) chain: ChainHash,
    pub(super) bytes: usize,
}

/// Whether sled says that its files are not what it wrote, rather than that the system failed it: what comes from
/// the system has a number.
pub(super) fn is_damage(error: &sled::Error) -> bool {
    match error {
        sled::Error::Io(error) => error.raw_os_error().is_none(),
        sled::Error::Corruption { .. }
        | sled::Error::ReportableBug(_)
        | sled::Error::Unsupported(_)
        | sled::Error::CollectionNotFound(_) => true,
    }
}

/// Why stored entries were refused.
#[derive(Debug)]
pub(super) enum ReadFault {
    /// sled could not read.
    Sled(sled::Error),
    /// Not what was written.
    Damaged { key: String, what: String },
}

impl ReadFault {
    pub(super) fn damaged(index: u64, what: impl Into<String>) -> Self {
        Self::Damaged {
            key: format!("log entry {index}"),
            what: what.into(),
        }
    }
}

/// Reads entries in order of their index and checks rows, codec and chain. Ends after an error.
pub(super) struct Entries<I: Iterator> {
    rows: std::iter::Peekable<I>,
    last: Option<(u64, ChainHash)>,
}

impl<I: Iterator<Item = sled::Result<(IVec, IVec)>>> Entries<I> {
    pub(super) fn new(rows: I) -> Self {
        Self {
            rows: rows.peekable(),
            last: None,
        }
    }

    fn next_record(&mut self) -> Result<Option<(u64, Vec<u8>)>, ReadFault> {
        let mut found: Option<(u64, Vec<u8>)> = None;
        let mut rows = 0_u16;
        while let Some(row) = self.rows.peek() {
            let (key, _) = match row {
                Ok(row) => row,
                Err(error) => return Err(ReadFault::Sled(error.clone())),
            };
            let Some((index, row)) = parse_key(key) else {
                return Err(ReadFault::Damaged {
                    key: format!("key {key:?}"),
                    what: "the key is malformed".into(),
                });
            };
            if found.as_ref().is_some_and(|(current, _)| *current != index) {
                break;
            }
            if row != rows {
                return Err(ReadFault::damaged(index, format!("row {rows} is missing")));
            }
            let Some(Ok((_, piece))) = self.rows.next() else {
                break;
            };
            found
                .get_or_insert_with(|| (index, Vec::new()))
                .1
                .extend_from_slice(&piece);
            rows += 1;
        }
        Ok(found)
    }

    fn next_entry(&mut self) -> Result<Option<Found>, ReadFault> {
        let Some((index, record)) = self.next_record()? else {
            return Ok(None);
        };
        let EntryRecord::V1 { previous, entry } = codec::decode(&record, MAX_RECORD_BYTES)
            .map_err(|error| ReadFault::damaged(index, error.to_string()))?;
        if entry.log_id.index != index {
            let what = format!("it holds entry {}", entry.log_id.index);
            return Err(ReadFault::damaged(index, what));
        }
        if let Some((last, chain)) = self.last {
            if index != last + 1 {
                return Err(ReadFault::damaged(last + 1, "the entry is missing"));
            }
            if previous != chain {
                return Err(ReadFault::damaged(
                    index,
                    "it does not follow from the entry before (hash chain)",
                ));
            }
        }
        let chain = *blake3::hash(&record).as_bytes();
        self.last = Some((index, chain));
        Ok(Some(Found {
            entry,
            previous,
            chain,
            bytes: record.len(),
        }))
    }
}

impl<I: Iterator<Item = sled::Result<(IVec, IVec)>>> Iterator for Entries<I> {
    type Item = Result<Found, ReadFault>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_entry().transpose()
    }
}

/// One of each stored record, for the test that holds their bytes still.
#[cfg(test)]
pub(crate) fn golden_records(vote: RaftVote, entry: &RaftEntry) -> Vec<(&'static str, Vec<u8>)> {
    let (previous, log_id) = ([5; 32], entry.log_id);
    let owner = OwnerRecord::V1 {
        node: vote.leader_id.voted_for.0.clone(),
    };
    vec![
        (
            "entry",
            codec::encode(&EntryRecordRef::V1 { previous, entry }),
        ),
        ("owner", codec::encode(&owner)),
        ("vote", codec::encode(&VoteRecord::V1 { vote, saves: 4 })),
        ("committed", codec::encode(&CommittedRecord::V1 { log_id })),
        (
            "purged",
            codec::encode(&PurgedRecord::V1 {
                log_id,
                chain: previous,
            }),
        ),
    ]
}

/// See [`super::fuzz`].
#[cfg(fuzzing)]
pub(super) fn fuzz(bytes: &[u8]) {
    let mut rows = Vec::new();
    let mut rest = bytes;
    while let Some((head, tail)) = rest.split_first_chunk::<4>() {
        let length = usize::from(u16::from_le_bytes([head[2], head[3]])).min(tail.len());
        let (content, tail) = tail.split_at(length);
        let key = if head[1] & 0x80 == 0 {
            IVec::from(&key(u64::from(head[0]), u16::from(head[1])))
        } else {
            IVec::from(content)
        };
        rows.push(Ok((key, IVec::from(content))));
        rest = tail;
    }
    let found = Entries::new(rows.into_iter()).take_while(Result::is_ok);
    assert!(found.count() <= bytes.len());
    drop(decode_meta::<OwnerRecord>(bytes));
    drop(decode_meta::<VoteRecord>(bytes));
    drop(decode_meta::<CommittedRecord>(bytes));
    drop(decode_meta::<PurgedRecord>(bytes));
}

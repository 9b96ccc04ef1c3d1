//! Opening a log: every record is read and checked before anything is served.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use sled::{Db, IVec, Tree};
use types::{NodeId, codec};

use super::flusher::{Counters, Flusher, Write};
use super::mark::{Mark, Position};
use super::record::{
    self, CHAIN_START, COMMITTED_KEY, ChainHash, CommittedRecord, ENTRIES_END, Entries, OWNER_KEY,
    OwnerRecord, PURGED_KEY, PurgedRecord, ReadFault, VOTE_KEY, VoteRecord,
};
use super::{LogStore, QUEUE, Shared, TAIL_BYTES, Trees, View};
use crate::directory::{Layout, sync_directory};
use crate::error::Error;
use crate::failure::Failure;
use crate::raft_types::RaftLogId;
use crate::reserve::Reserve;

/// sled's page cache. The log is short and its young end is in our own memory, so this is only for
/// restarts and replicas that lag; the whole node has 40 MiB.
const CACHE_BYTES: u64 = 8 << 20;

/// Opens the log of `node` or makes an empty one. Blocks: reads the whole log.
///
/// # Errors
/// Damaged, cut off, another node's, or a file operation failed.
pub(crate) fn open_log(
    layout: &Layout,
    node: &NodeId,
    failure: Failure,
    reserve: Reserve,
) -> Result<LogStore, Error> {
    let path = layout.log();
    let had_log = path.join("db").exists();
    let had_mark = layout.mark().exists();
    if had_mark && !had_log {
        return Err(Error::Damaged {
            file: path.join("db"),
            key: "the file".into(),
            what: "it is missing".into(),
        });
    }
    let db = open_sled(&path)?;
    let trees = Trees {
        raft: open_tree(&db, &path, "raft")?,
        db,
    };
    let db_path = path.join("db");
    let db_file = File::options()
        .read(true)
        .write(true)
        .open(&db_path)
        .map_err(Error::file("open", &db_path))?;
    let reader = Reader {
        raft: &trees.raft,
        path: &path,
    };
    claim(&reader, &trees, &db_file, layout, node)?;
    let (contents, position) = reader.contents()?;
    let mark = open_mark(layout, had_mark, &contents, position, &reader)?;
    let purged_next = contents
        .view
        .purged
        .as_ref()
        .map_or(0, |purged| purged.index + 1);
    let committed = contents.view.committed;
    let shared = Arc::new(Shared {
        view: Mutex::new(contents.view),
        trees: Mutex::new(Some(trees.clone())),
        counters: Counters::default(),
        failure,
        reserve,
        sync_failed: AtomicBool::new(false),
        log_path: path.clone(),
        mark_path: layout.mark(),
        #[cfg(test)]
        fail_next_sync: AtomicBool::new(false),
    });
    let (queue, waiting) = sync_channel(QUEUE);
    let flusher = Flusher {
        shared: Arc::clone(&shared),
        db: trees.db,
        raft: trees.raft,
        db_file,
        mark,
        position,
        purged_next,
        committed,
        purge_target: None,
        path: path.clone(),
    };
    start_flusher(flusher, waiting, Arc::clone(&shared))?;
    Ok(LogStore { shared, queue })
}

/// sled panics on some damage that it meets late; that must stop the node like any other failure.
fn start_flusher(
    flusher: Flusher,
    queue: Receiver<Write>,
    shared: Arc<Shared>,
) -> Result<(), Error> {
    let path = shared.log_path.clone();
    let thread = move || {
        let run = std::panic::AssertUnwindSafe(move || flusher.run(&queue));
        if std::panic::catch_unwind(run).is_err() {
            let path = shared.log_path.display();
            shared.failure.report(format!(
                "the thread that writes the raft log in {path} panicked"
            ));
        }
    };
    let builder = std::thread::Builder::new().name("raft-log".into());
    builder
        .spawn(thread)
        .map(drop)
        .map_err(Error::file("start the log thread for", path))
}

/// Longest wait for the threads of a closed sled.
const UNLOCK_PATIENCE: Duration = Duration::from_secs(10);
/// Time between two looks.
const UNLOCK_PAUSE: Duration = Duration::from_millis(10);

/// sled reports damage by an error or by a panic, depending on where it is.
pub(super) fn open_sled(path: &Path) -> Result<Db, Error> {
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None);
    let opening = std::thread::Builder::new()
        .name("raft-log-open".into())
        .spawn(move || open_when_unlocked(&config))
        .map_err(Error::file("start a thread for", path))?;
    let damaged = |what: String| Error::Damaged {
        file: path.join("db"),
        key: "sled's pages".into(),
        what,
    };
    match opening.join() {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(error)) if record::is_damage(&error) => Err(damaged(error.to_string())),
        Ok(Err(error)) => Err(Error::Log {
            step: "open",
            path: path.to_owned(),
            source: error.into(),
        }),
        Err(_panic) => Err(damaged("sled panicked while it read them".into())),
    }
}

/// The directory's own lock is this process's by now, so what still holds sled's is a log of this process that has
/// just been closed: its threads let go of it a moment later.
fn open_when_unlocked(config: &sled::Config) -> sled::Result<Db> {
    let deadline = Instant::now() + UNLOCK_PATIENCE;
    loop {
        match config.open() {
            Err(sled::Error::Io(error))
                if error.to_string().contains("could not acquire lock")
                    && Instant::now() < deadline =>
            {
                std::thread::park_timeout(UNLOCK_PAUSE);
            }
            opened => return opened,
        }
    }
}

fn open_tree(db: &Db, path: &Path, name: &str) -> Result<Tree, Error> {
    db.open_tree(name).map_err(|error| {
        if record::is_damage(&error) {
            return Error::Damaged {
                file: path.join("db"),
                key: format!("tree {name}"),
                what: error.to_string(),
            };
        }
        Error::Log {
            step: "open a tree of",
            path: path.to_owned(),
            source: error.into(),
        }
    })
}

/// Checks whose log it is; an empty one becomes `node`'s, durably, before the mark exists.
fn claim(
    reader: &Reader<'_>,
    trees: &Trees,
    db_file: &File,
    layout: &Layout,
    node: &NodeId,
) -> Result<(), Error> {
    if let Some(OwnerRecord::V1 { node: stored }) = reader.meta(OWNER_KEY)? {
        if stored == *node {
            return Ok(());
        }
        return Err(Error::OtherNode {
            directory: layout.root.clone(),
            stored,
            given: node.clone(),
        });
    }
    if !trees.raft.is_empty() || layout.mark().exists() {
        return Err(reader.damaged("m/owner", "the record is missing"));
    }
    let record = codec::encode(&OwnerRecord::V1 { node: node.clone() });
    let sled_error = |error: sled::Error| Error::Log {
        step: "write",
        path: reader.path.to_owned(),
        source: error.into(),
    };
    trees.raft.insert(OWNER_KEY, record).map_err(sled_error)?;
    trees.db.flush().map_err(sled_error)?;
    db_file
        .sync_all()
        .map_err(Error::file("sync", reader.path.join("db")))?;
    sync_directory(reader.path)?;
    sync_directory(&layout.root)
}

fn open_mark(
    layout: &Layout,
    had_mark: bool,
    contents: &Contents,
    found: Position,
    reader: &Reader<'_>,
) -> Result<Mark, Error> {
    if !had_mark {
        if contents.view.vote.is_some() || contents.view.last.is_some() {
            let what = "it is missing beside a log that was used".into();
            return Err(Error::Damaged {
                file: layout.mark(),
                key: "the file".into(),
                what,
            });
        }
        return Mark::create(&layout.root, "commit.mark");
    }
    let (mark, marked) = Mark::open(&layout.mark())?;
    if found.next_index < marked.next_index {
        let what = format!(
            "the log ends before entry {}, but entries up to {} were acknowledged",
            found.next_index,
            marked.next_index - 1
        );
        return Err(reader.damaged("its end", what));
    }
    if found.saves < marked.saves {
        let what = format!(
            "vote number {} is stored, but number {} was cast",
            found.saves, marked.saves
        );
        return Err(reader.damaged("m/vote", what));
    }
    if let Some(chain) = contents.chain_at(marked.next_index, reader)?
        && chain != marked.chain
    {
        let what = "it is not the entry that was acknowledged (hash chain)";
        return Err(reader.damaged(
            &format!("log entry {}", marked.next_index.saturating_sub(1)),
            what,
        ));
    }
    Ok(mark)
}

struct Reader<'a> {
    raft: &'a Tree,
    path: &'a Path,
}

/// A whole log as read.
struct Contents {
    view: View,
    purged_chain: ChainHash,
}

impl Contents {
    /// Chain hash before `next_index`, if that is still known.
    fn chain_at(&self, next_index: u64, reader: &Reader<'_>) -> Result<Option<ChainHash>, Error> {
        let purged_next = self
            .view
            .purged
            .as_ref()
            .map_or(0, |purged| purged.index + 1);
        if next_index == purged_next {
            return Ok(Some(self.purged_chain));
        }
        if next_index < purged_next {
            return Ok(None);
        }
        let rows = reader
            .raft
            .range(record::first_key(next_index - 1)..record::first_key(next_index));
        let found = Entries::new(rows)
            .next()
            .transpose()
            .map_err(|fault| reader.fault(fault))?;
        Ok(found.map(|found| found.chain))
    }
}

impl Reader<'_> {
    fn damaged(&self, key: &str, what: impl Into<String>) -> Error {
        Error::Damaged {
            file: self.path.join("db"),
            key: key.to_owned(),
            what: what.into(),
        }
    }

    fn fault(&self, fault: ReadFault) -> Error {
        match fault {
            ReadFault::Sled(error) if record::is_damage(&error) => {
                self.damaged("sled's pages", error.to_string())
            }
            ReadFault::Sled(error) => Error::Log {
                step: "read",
                path: self.path.to_owned(),
                source: error.into(),
            },
            ReadFault::Damaged { key, what } => self.damaged(&key, what),
        }
    }

    fn meta<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, Error> {
        let found: Option<IVec> = self
            .raft
            .get(key)
            .map_err(|source| self.fault(ReadFault::Sled(source)))?;
        let decode = |bytes: IVec| {
            record::decode_meta(&bytes)
                .map_err(|error| self.damaged(&String::from_utf8_lossy(key), error.to_string()))
        };
        found.map(decode).transpose()
    }

    /// Reads and checks everything.
    fn contents(&self) -> Result<(Contents, Position), Error> {
        let mut view = View::default();
        let mut saves = 0;
        if let Some(VoteRecord::V1 {
            vote,
            saves: stored,
        }) = self.meta(VOTE_KEY)?
        {
            view.vote = Some(vote);
            saves = stored;
        }
        view.committed = self
            .meta(COMMITTED_KEY)?
            .map(|CommittedRecord::V1 { log_id }| log_id);
        let mut chain = CHAIN_START;
        if let Some(PurgedRecord::V1 {
            log_id,
            chain: stored,
        }) = self.meta(PURGED_KEY)?
        {
            view.first = log_id.index + 1;
            view.last = Some(log_id);
            view.purged = Some(log_id);
            chain = stored;
        }
        let purged_chain = chain;
        self.entries(&mut view, &mut chain)?;
        view.flushed = view.next_index();
        let position = Position {
            next_index: view.next_index(),
            chain,
            saves,
        };
        Ok((Contents { view, purged_chain }, position))
    }

    fn entries(&self, view: &mut View, chain: &mut ChainHash) -> Result<(), Error> {
        let mut before: Option<RaftLogId> = view.purged;
        let from = record::first_key(view.first);
        for found in Entries::new(self.raft.range(from.as_slice()..ENTRIES_END)) {
            let found = found.map_err(|fault| self.fault(fault))?;
            let index = found.entry.log_id.index;
            if found.previous != *chain {
                let what = "it does not follow from the entry before (hash chain)";
                return Err(self.damaged(&format!("log entry {index}"), what));
            }
            match &before {
                None => view.first = index,
                Some(before) if before.index + 1 != index => {
                    return Err(self.damaged(
                        &format!("log entry {}", before.index + 1),
                        "the entry is missing",
                    ));
                }
                Some(_) => {}
            }
            *chain = found.chain;
            before = Some(found.entry.log_id);
            view.push(found.entry);
            if view.tail_bytes > TAIL_BYTES {
                view.pop_front();
            }
        }
        Ok(())
    }
}

//! Every file of a used store damaged in every way that a disk knows: it opens with all that was acknowledged, or
//! refuses with file and remedy. Never does it open with less.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use consensus::{Config, Error, Handle, open};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::harness::{Cluster, PATIENCE, copy_directory, leads, node, propose, propose_many};

/// What may happen to a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    FlippedBit,
    ZeroedSector,
    CutTail,
    Emptied,
    Removed,
}

/// Damages per file and kind where the place is of chance.
const PLACES: usize = 12;

/// A replica with snapshots, a purged log, archives and a young log; what it showed before it was stopped.
struct Used {
    cluster: Cluster,
    directory: PathBuf,
    last: String,
    hash: [u8; 32],
    archives: Vec<(String, bytes::Bytes)>,
}

async fn used_store() -> Used {
    let mut cluster = Cluster::new();
    cluster.snapshot_every_entries = 3_000;
    cluster.keep_log_entries = 200;
    let handle = cluster.start(0).await;
    handle.initialize().await.unwrap();
    leads(&handle).await;
    propose_many(&handle, 9_500, 128).await;
    let last = "the-last-acknowledged".to_owned();
    propose(&handle, &last).await.unwrap();
    let state = handle.state();
    let mut archives = Vec::new();
    for (name, _) in state.archives() {
        let bytes = handle.archive(name).await.unwrap().unwrap();
        archives.push((name.to_owned(), bytes));
    }
    assert!(!archives.is_empty(), "nothing is archived");
    cluster.stop(0).await;
    let directory = cluster.directory(&node(0));
    // What a reopened store shows; its log has the entries of a new leader on top.
    let handle = cluster.start(0).await;
    let hash = content(&handle).await;
    cluster.stop(0).await;
    Used {
        cluster,
        directory,
        last,
        hash,
        archives,
    }
}

/// The hash of what people put in: the queues and the ledger's head, without what each start adds.
async fn content(handle: &Handle) -> [u8; 32] {
    handle.read_index(PATIENCE).await.unwrap();
    let state = handle.state();
    let shown = format!(
        "{:?} {:?}",
        state.queues().collect::<Vec<_>>(),
        state.ledger_head()
    );
    *blake3::hash(shown.as_bytes()).as_bytes()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.metadata().unwrap().len() > 0 {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn damage(file: &Path, kind: Damage, chance: &mut StdRng) -> String {
    let length = fs::metadata(file).unwrap().len();
    let opened = fs::File::options()
        .read(true)
        .write(true)
        .open(file)
        .unwrap();
    match kind {
        Damage::FlippedBit => {
            let (at, bit) = (chance.random_range(0..length), chance.random_range(0..8_u8));
            let mut byte = [0];
            opened.read_exact_at(&mut byte, at).unwrap();
            opened.write_all_at(&[byte[0] ^ (1 << bit)], at).unwrap();
            format!("bit {bit} of byte {at}")
        }
        Damage::ZeroedSector => {
            let at = chance.random_range(0..length.div_ceil(512)) * 512;
            let count = usize::try_from(512.min(length - at)).unwrap();
            opened.write_all_at(&vec![0; count], at).unwrap();
            format!("512 bytes at {at}")
        }
        Damage::CutTail => {
            let rest = chance.random_range(0..length);
            opened.set_len(rest).unwrap();
            format!("cut to {rest} of {length}")
        }
        Damage::Emptied => {
            opened.set_len(0).unwrap();
            "emptied".to_owned()
        }
        Damage::Removed => {
            fs::remove_file(file).unwrap();
            "removed".to_owned()
        }
    }
}

/// Opens the copy and says how it went: `Ok(true)` with everything, `Ok(false)` refused in words; else what is wrong.
async fn verdict(used: &Used, copy: &Path) -> Result<bool, String> {
    let config = Config {
        data_directory: copy.to_owned(),
        must_exist: true,
        ..used.cluster.config(&node(0))
    };
    let handle = match open(config, used.cluster.line(&node(0))).await {
        Ok(handle) => handle,
        Err(error) => return refused(&error),
    };
    let checked = check(used, &handle).await;
    handle.shutdown().await;
    checked
}

fn refused(error: &Error) -> Result<bool, String> {
    let text = error.to_string();
    let named = match error {
        Error::Damaged { .. } | Error::OtherNode { .. } => text.contains('/'),
        // Raft found it when it read the snapshot; the words are those of the damage.
        Error::Stopped { .. } => text.contains("damaged at"),
        _ => false,
    };
    if named && (text.contains("--rejoin") || text.contains("belongs to")) {
        Ok(false)
    } else {
        Err(format!("refused without file, key and remedy: {text}"))
    }
}

async fn check(used: &Used, handle: &Handle) -> Result<bool, String> {
    if let Err(error) = handle.read_index(PATIENCE).await {
        let why = handle.failed().borrow().clone();
        return match why {
            Some(why) if why.contains("--rejoin") => Ok(false),
            why => Err(format!("{error}, {why:?}")),
        };
    }
    let hash = content(handle).await;
    if hash != used.hash || handle.state().queue(&used.last.parse().unwrap()).is_none() {
        return Err("it opened without something acknowledged".to_owned());
    }
    for (name, bytes) in &used.archives {
        match handle.archive(name).await {
            Ok(Some(found)) if found == *bytes => {}
            Ok(found) => {
                return Err(format!(
                    "archive {name}: {:?} bytes",
                    found.map(|b| b.len())
                ));
            }
            Err(error) if error.to_string().contains("--rejoin") => return Ok(false),
            Err(error) => return Err(format!("archive {name}: {error}")),
        }
    }
    Ok(true)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_damage_to_any_file_loses_anything_silently() {
    let used = used_store().await;
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    let (mut whole, mut refusals, mut wrong) = (0, 0, Vec::new());
    for file in files(&used.directory) {
        let name = file.strip_prefix(&used.directory).unwrap().to_owned();
        // The lock says who runs, the reserve holds nothing.
        if name == Path::new("lock") || name == Path::new("reserve") {
            continue;
        }
        let places = [Damage::FlippedBit, Damage::ZeroedSector, Damage::CutTail];
        let once = [Damage::Emptied, Damage::Removed];
        let all = places.iter().flat_map(|kind| [kind; PLACES]).chain(&once);
        for kind in all {
            let copy = tempfile::tempdir().unwrap();
            copy_directory(&used.directory, copy.path());
            let what = damage(&copy.path().join(&name), *kind, &mut chance);
            match verdict(&used, copy.path()).await {
                Ok(true) => whole += 1,
                Ok(false) => refusals += 1,
                Err(why) => wrong.push(format!("{} ({what}): {why}", name.display())),
            }
        }
    }
    println!("{whole} opened with everything, {refusals} refused");
    assert!(wrong.is_empty(), "seed {seed}: {wrong:#?}");
    assert!(refusals > 50 && whole > 0, "{whole} {refusals}");
}

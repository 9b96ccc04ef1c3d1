//! Bringing the blobs of a capture to the node that lack there.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use rest::wire::BlobHashes;
use tokio::sync::mpsc;
use types::BlobHash;

use crate::capture::{Blob, Content};
use crate::client::{Client, Payload, Request, parse};
use crate::error::Error;
use crate::retry::while_unavailable;
use crate::terminal::{Progress, Terminal};

/// Hashes of one question: 67 bytes of JSON each, so that the body stays under half of its limit of 1 MiB.
const HASHES_PER_QUESTION: usize = 7_000;
/// Largest blob that travels in a batch.
const SMALL_BYTES: u64 = 1 << 20;
/// Largest body of a batch, frames included.
const BATCH_BYTES: u64 = 8 << 20;
/// Hash and length before the bytes of a frame.
const FRAME_HEAD_BYTES: u64 = 36;
/// Pieces of a large blob: one system call each.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces that wait for the connection: one is sent, one waits, one is read.
const PIECES_WAITING: usize = 2;
/// How long a node that is away is tried again; a stored blob needs no leader.
const WINDOW: Duration = Duration::from_secs(5);

const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// Uploads what the node lacks.
///
/// # Errors
/// The node fails, or a file changed since it was captured ([`Error::Changed`]).
pub(crate) async fn upload(
    blobs: &[Blob],
    client: &Client,
    terminal: &Terminal,
) -> Result<(), Error> {
    let blobs: BTreeMap<BlobHash, &Blob> = blobs.iter().map(|blob| (blob.hash, blob)).collect();
    let mut missing = Vec::new();
    for hash in missing_hashes(&blobs, client, terminal).await? {
        missing.extend(blobs.get(&hash).copied());
    }
    let progress = Arc::new(terminal.progress("storing the code"));
    progress.expect(missing.iter().map(|blob| blob.bytes).sum());
    let (small, large): (Vec<&Blob>, Vec<&Blob>) = missing
        .into_iter()
        .partition(|blob| blob.bytes <= SMALL_BYTES);
    for batch in batches(&small) {
        let body = encode_batch(batch.into_iter().cloned().collect()).await?;
        let put = async || {
            let request = Request::new(Method::POST, "/blobs/batch".to_owned(), body.clone())
                .header(CONTENT_TYPE, OCTETS);
            client.ask(request).await
        };
        while_unavailable(WINDOW, terminal, put).await?;
        progress.add(body.len() as u64);
    }
    for blob in large {
        let put = async || put(blob, client, &progress).await;
        while_unavailable(WINDOW, terminal, put).await?;
    }
    Ok(())
}

async fn missing_hashes(
    blobs: &BTreeMap<BlobHash, &Blob>,
    client: &Client,
    terminal: &Terminal,
) -> Result<Vec<BlobHash>, Error> {
    let hashes: Vec<String> = blobs.keys().map(BlobHash::to_string).collect();
    let mut missing = Vec::new();
    for hashes in hashes.chunks(HASHES_PER_QUESTION) {
        let question = BlobHashes {
            hashes: hashes.to_vec(),
        };
        let ask = async || client.ask(Request::json("/blobs/missing", &question)).await;
        let bytes = while_unavailable(WINDOW, terminal, ask).await?;
        let answer: BlobHashes = parse(&bytes, "a list of blobs")?;
        // What is no hash, or was not asked about, is not ours to send.
        missing.extend(
            answer
                .hashes
                .iter()
                .filter_map(|hash| hash.parse::<BlobHash>().ok()),
        );
    }
    Ok(missing)
}

/// Groups small blobs so that each group fits into one body.
fn batches<'a>(small: &[&'a Blob]) -> Vec<Vec<&'a Blob>> {
    let mut batches: Vec<Vec<&Blob>> = Vec::new();
    let mut room = 0;
    for &blob in small {
        let bytes = blob.bytes + FRAME_HEAD_BYTES;
        if bytes > room {
            batches.push(Vec::new());
            room = BATCH_BYTES;
        }
        room -= bytes;
        batches.last_mut().expect("one was pushed").push(blob);
    }
    batches
}

async fn encode_batch(blobs: Vec<Blob>) -> Result<Bytes, Error> {
    let encode = move || {
        let mut body = Vec::new();
        for blob in &blobs {
            let bytes = read(blob)?;
            body.extend_from_slice(&blob.hash.0);
            let length = u32::try_from(bytes.len()).expect("small blobs are at most 1 MiB");
            body.extend_from_slice(&length.to_le_bytes());
            body.extend_from_slice(&bytes);
        }
        Ok(Bytes::from(body))
    };
    tokio::task::spawn_blocking(encode)
        .await
        .map_err(Error::Worker)?
}

/// The bytes of a small blob, which still have its hash.
fn read(blob: &Blob) -> Result<Bytes, Error> {
    let path = match &blob.content {
        Content::Memory(bytes) => return Ok(bytes.clone()),
        Content::File(path) => path,
    };
    let read = std::fs::File::open(path).and_then(|file| {
        let mut bytes = Vec::new();
        file.take(blob.bytes + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    let bytes = read.map_err(|source| unreadable(path, source))?;
    match BlobHash::of(&bytes) == blob.hash {
        true => Ok(bytes.into()),
        false => Err(Error::Changed {
            path: path.display().to_string(),
        }),
    }
}

/// Sends a large blob as it is read.
async fn put(blob: &Blob, client: &Client, progress: &Arc<Progress>) -> Result<(), Error> {
    let path = format!("/blobs/{}", blob.hash);
    let request =
        |payload| Request::new(Method::PUT, path.clone(), payload).header(CONTENT_TYPE, OCTETS);
    let file = match &blob.content {
        Content::Memory(bytes) => {
            client.ask(request(Payload::from(bytes.clone()))).await?;
            progress.add(blob.bytes);
            return Ok(());
        }
        Content::File(file) => file.clone(),
    };
    let (sender, receiver) = mpsc::channel(PIECES_WAITING);
    let (expected, progress) = (blob.bytes, Arc::clone(progress));
    let reading = tokio::task::spawn_blocking({
        let file = file.clone();
        move || send_pieces(&file, expected, &sender, &progress)
    });
    let payload = Payload::Pieces {
        receiver,
        left: blob.bytes,
    };
    let sent = client.ask(request(payload)).await;
    let hash = reading.await.map_err(Error::Worker)?;
    match (sent, hash) {
        (Ok(_), _) => Ok(()),
        // The node tells a wrong hash as well, but not that the file is the reason.
        (Err(_), Ok(Some(hash))) if hash != blob.hash => Err(Error::Changed {
            path: file.display().to_string(),
        }),
        (Err(_), Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(Error::Changed {
                path: file.display().to_string(),
            })
        }
        (Err(_), Err(source)) => Err(unreadable(&file, source)),
        (Err(error), Ok(_)) => Err(error),
    }
}

/// Reads `expected` bytes piece by piece; their hash, or none if nobody wants them any more.
fn send_pieces(
    path: &PathBuf,
    expected: u64,
    sender: &mpsc::Sender<io::Result<Bytes>>,
    progress: &Progress,
) -> io::Result<Option<BlobHash>> {
    let mut hasher = blake3::Hasher::new();
    let mut read_all = || -> io::Result<bool> {
        let mut file = std::fs::File::open(path)?;
        let mut left = expected;
        while left > 0 {
            let size = usize::try_from(left)
                .unwrap_or(PIECE_BYTES)
                .min(PIECE_BYTES);
            let mut piece = vec![0; size];
            file.read_exact(&mut piece)?;
            hasher.update(&piece);
            if sender.blocking_send(Ok(piece.into())).is_err() {
                return Ok(false);
            }
            progress.add(size as u64);
            left -= size as u64;
        }
        Ok(true)
    };
    match read_all() {
        Ok(true) => Ok(Some(BlobHash(*hasher.finalize().as_bytes()))),
        Ok(false) => Ok(None),
        Err(error) => {
            // The request must fail rather than wait for the rest; if it failed already, nobody listens.
            drop(sender.blocking_send(Err(error.kind().into())));
            Err(error)
        }
    }
}

fn unreadable(path: &std::path::Path, source: io::Error) -> Error {
    Error::Source {
        step: "read",
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;

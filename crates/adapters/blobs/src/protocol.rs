//! What two stores say to each other over one byte stream.
//!
//! A frame is `length: u32 LE | codec bytes`. The bytes of a blob travel bare, after the frame that tells
//! their number. Requests are answered in order, so that many can be under way at once.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use types::{BlobHash, codec};

use crate::Error;

/// Most hashes in one request: 128 KiB of names.
pub(crate) const MAX_HASHES: usize = 4096;
/// Largest frame: a full list of hashes and room for its head.
const MAX_FRAME_BYTES: usize = 256 << 10;
/// Longest reason of a refusal that is sent.
const MAX_REASON_BYTES: usize = 1 << 10;
/// A blob up to this size is held in memory and stored in a batch; a larger one is streamed to its file.
pub(crate) const SMALL_BYTES: u64 = 1 << 20;
/// A batch of small blobs is stored when it holds this many bytes.
pub(crate) const BATCH_BYTES: u64 = 16 << 20;
/// Silence of the peer in the middle of an exchange after which it counts as stuck. It may be flushing a slow
/// disk meanwhile; a peer that is gone is noticed by the connection, not by this.
pub(crate) const IDLE: Duration = Duration::from_secs(120);

/// What is asked. Sent: variants are only appended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Which of these are there? Answered with `Have`.
    Has(Vec<BlobHash>),
    /// Which of these should be put? Those already there are pinned. Answered with `Have`.
    Offer(Vec<BlobHash>),
    /// Send this blob from `offset` on. Answered with `Missing`, or `Found`, the bytes and `Sent`.
    Get { hash: BlobHash, offset: u64 },
    /// `length` bytes follow. Not answered, unless refused.
    Put { hash: BlobHash, length: u64 },
    /// Make all put blobs durable. Answered with `Stored` or `Refused`.
    Commit,
}

/// What is answered. Sent: variants are only appended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// One flag per asked hash.
    Have(Vec<bool>),
    /// The blob has `length` bytes in all; those from the asked offset follow (none if it is beyond), then `Sent`.
    Found { length: u64 },
    /// The blob is not there.
    Missing,
    /// The bytes were all sent; if not `intact` they are damaged at the sender, which has moved them aside.
    Sent { intact: bool },
    /// Everything put is durable.
    Stored,
    /// What was put cannot be stored; the stream ends.
    Refused { reason: String },
}

impl Reply {
    /// A refusal in the words of `error` and its causes.
    pub(crate) fn refused(error: &Error) -> Self {
        let mut reason = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            reason = format!("{reason}: {cause}");
            source = cause.source();
        }
        reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
        Self::Refused { reason }
    }
}

/// The bytes of a frame.
pub(crate) fn frame<T: Serialize>(message: &T) -> Vec<u8> {
    let payload = codec::encode(message);
    let length = u32::try_from(payload.len()).expect("a message of this protocol is under 256 KiB");
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend_from_slice(&payload);
    bytes
}

/// Writes a frame; the caller flushes.
pub(crate) async fn write_frame<W: AsyncWrite + Unpin, T: Serialize>(
    writer: &mut W,
    message: &T,
) -> Result<(), Error> {
    write_all(writer, &frame(message)).await
}

/// Writes bytes to a peer that must take them within [`IDLE`].
pub(crate) async fn write_all<W: AsyncWrite + Unpin>(
    writer: &mut W,
    bytes: &[u8],
) -> Result<(), Error> {
    within_idle(writer.write_all(bytes)).await
}

/// Flushes to a peer that must take the bytes within [`IDLE`].
pub(crate) async fn flush<W: AsyncWrite + Unpin>(writer: &mut W) -> Result<(), Error> {
    within_idle(writer.flush()).await
}

/// Reads a frame; none if the stream ended before it.
pub(crate) async fn read_frame<R: AsyncRead + Unpin, T: DeserializeOwned>(
    reader: &mut R,
) -> Result<Option<T>, Error> {
    let mut length = [0; 4];
    if reader.read(&mut length[..1]).await.map_err(Error::Stream)? == 0 {
        return Ok(None);
    }
    within_idle(reader.read_exact(&mut length[1..])).await?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_FRAME_BYTES {
        return Err(Error::FrameTooLong {
            bytes: length as u64,
            limit: MAX_FRAME_BYTES as u64,
        });
    }
    let mut payload = vec![0; length];
    within_idle(reader.read_exact(&mut payload)).await?;
    codec::decode(&payload, MAX_FRAME_BYTES)
        .map(Some)
        .map_err(Error::Frame)
}

/// Reads the reply that must come within [`IDLE`].
pub(crate) async fn read_reply<R: AsyncRead + Unpin>(reader: &mut R) -> Result<Reply, Error> {
    tokio::time::timeout(IDLE, next_reply(reader))
        .await
        .unwrap_or_else(|_elapsed| Err(Error::stalled()))
}

/// Reads the next reply, whenever it comes.
pub(crate) async fn next_reply<R: AsyncRead + Unpin>(reader: &mut R) -> Result<Reply, Error> {
    match read_frame(reader).await? {
        Some(Reply::Refused { reason }) => Err(Error::Refused { reason }),
        Some(reply) => Ok(reply),
        None => Err(Error::Stream(std::io::ErrorKind::UnexpectedEof.into())),
    }
}

/// Awaits a step of an exchange that must make progress within [`IDLE`].
pub(crate) async fn within_idle<T>(
    step: impl Future<Output = std::io::Result<T>>,
) -> Result<T, Error> {
    match tokio::time::timeout(IDLE, step).await {
        Ok(result) => result.map_err(Error::Stream),
        Err(_elapsed) => Err(Error::stalled()),
    }
}

//! The asking half: getting blobs from a peer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::TryFutureExt as _;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use types::BlobHash;

use super::Batch;
use crate::draft::Draft;
use crate::protocol::{
    IDLE, MAX_HASHES, Reply, Request, SMALL_BYTES, flush, frame, read_reply, within_idle, write_all,
};
use crate::store::blocking;
use crate::write::fill;
use crate::{Error, Handle};

/// Partial files that one fetch holds open: more are left for the next round.
const MAX_PARTIALS: usize = 64;

impl Handle {
    /// Gets blobs from the peer at the other end, which answers with [`Handle::serve`]. Each is checked and
    /// durable; a large one continues where an earlier fetch broke off. Returns those of `hashes` that are in
    /// this store afterwards: what the peer does not have, or has only damaged, is left out. The stream can be
    /// used again after `Ok`.
    ///
    /// # Errors
    /// The stream or the disk fails, or the peer sends bytes that do not match their name. What arrived whole
    /// before is kept.
    pub async fn fetch<S: AsyncRead + AsyncWrite + Unpin + Send>(
        &self,
        stream: &mut S,
        hashes: &[BlobHash],
    ) -> Result<Vec<BlobHash>, Error> {
        let (reader, mut writer) = tokio::io::split(stream);
        let mut reader = BufReader::new(reader);
        let absent: BTreeSet<BlobHash> = self.missing(hashes).into_iter().collect();
        let absent: Vec<BlobHash> = absent.into_iter().collect();
        for window in absent.chunks(MAX_HASHES) {
            let spoiled = self.fetch_window(&mut reader, &mut writer, window).await?;
            // Their partials did not match and are gone: once more from the start. Should another fetch have left
            // a bad one again meanwhile, the blob counts as not had, and the caller asks again.
            self.fetch_window(&mut reader, &mut writer, &spoiled)
                .await?;
        }
        let here = |hash: &&BlobHash| self.has(hash);
        Ok(hashes.iter().filter(here).copied().collect())
    }

    /// Which of `hashes` the peer has now.
    ///
    /// # Errors
    /// The stream fails or the peer breaks the protocol.
    pub async fn ask<S: AsyncRead + AsyncWrite + Unpin + Send>(
        &self,
        stream: &mut S,
        hashes: &[BlobHash],
    ) -> Result<Vec<BlobHash>, Error> {
        let mut had = Vec::new();
        for window in hashes.chunks(MAX_HASHES) {
            write_all(stream, &frame(&Request::Has(window.to_vec()))).await?;
            flush(stream).await?;
            let flags = read_flags(stream, window.len()).await?;
            had.extend(
                window
                    .iter()
                    .zip(flags)
                    .filter_map(|(hash, has)| has.then_some(*hash)),
            );
        }
        Ok(had)
    }

    /// Gets blobs; returns those whose partial turned out wrong.
    async fn fetch_window<R: AsyncRead + Unpin + Send, W: AsyncWrite + Unpin>(
        &self,
        reader: &mut R,
        writer: &mut W,
        hashes: &[BlobHash],
    ) -> Result<Vec<BlobHash>, Error> {
        let partials = self.open_partials(hashes).await?;
        let requests: Vec<u8> = hashes
            .iter()
            .flat_map(|&hash| {
                let offset = partials.get(&hash).map_or(0, Draft::written);
                frame(&Request::Get { hash, offset })
            })
            .collect();
        // Both at once: neither side may wait for the other to read. The peer takes requests only as fast as it
        // answers, so that sending has no deadline of its own.
        let send = async {
            writer.write_all(&requests).await?;
            writer.flush().await
        }
        .map_err(Error::Stream);
        let receive = self.receive(reader, hashes, partials);
        let ((), spoiled) = tokio::try_join!(send, receive)?;
        Ok(spoiled)
    }

    /// What earlier fetches left of these.
    async fn open_partials(&self, hashes: &[BlobHash]) -> Result<BTreeMap<BlobHash, Draft>, Error> {
        let (store, hashes) = (Arc::clone(&self.store), hashes.to_vec());
        blocking(move || {
            let mut partials = BTreeMap::new();
            for hash in hashes {
                if partials.len() == MAX_PARTIALS {
                    break;
                }
                if store.partial_path(&hash).exists()
                    && let Some(draft) = Draft::resume(&store, hash)?
                {
                    partials.insert(hash, draft);
                }
            }
            Ok(partials)
        })
        .await
    }

    async fn receive<R: AsyncRead + Unpin + Send>(
        &self,
        reader: &mut R,
        hashes: &[BlobHash],
        mut partials: BTreeMap<BlobHash, Draft>,
    ) -> Result<Vec<BlobHash>, Error> {
        let mut batch = Batch::default();
        let mut spoiled = Vec::new();
        for &hash in hashes {
            let partial = partials.remove(&hash);
            match read_reply(reader).await? {
                Reply::Missing => {}
                Reply::Found { length } if partial.is_none() && length <= SMALL_BYTES => {
                    self.receive_small(reader, hash, length, &mut batch).await?;
                }
                Reply::Found { length } => {
                    if !self.receive_large(reader, hash, length, partial).await? {
                        spoiled.push(hash);
                    }
                }
                _ => return Err(Error::OutOfTurn { expected: "a blob" }),
            }
        }
        batch.store(self).await?;
        Ok(spoiled)
    }

    async fn receive_small<R: AsyncRead + Unpin + Send>(
        &self,
        reader: &mut R,
        hash: BlobHash,
        length: u64,
        batch: &mut Batch,
    ) -> Result<(), Error> {
        self.store.check_length(length)?;
        let mut bytes = vec![0; usize::try_from(length).expect("a small blob has at most 1 MiB")];
        within_idle(reader.read_exact(&mut bytes)).await?;
        if read_sent(reader).await? {
            batch.add(self, hash, Bytes::from(bytes)).await?;
        }
        Ok(())
    }

    /// Streams a blob to its file; false if it did not match because of what was there before.
    async fn receive_large<R: AsyncRead + Unpin + Send>(
        &self,
        reader: &mut R,
        hash: BlobHash,
        length: u64,
        partial: Option<Draft>,
    ) -> Result<bool, Error> {
        self.store.check_length(length)?;
        let draft = match partial {
            Some(draft) => draft,
            None => self.new_partial(hash, length).await?,
        };
        let offset = draft.written();
        let Some(left) = length.checked_sub(offset) else {
            draft.discard();
            read_sent(reader).await?;
            return Ok(false);
        };
        let draft = fill(draft, reader, left, Some(IDLE)).await?;
        if draft.written() != length {
            return Err(Error::Stream(std::io::ErrorKind::UnexpectedEof.into()));
        }
        if !read_sent(reader).await? {
            draft.discard();
            return Ok(true);
        }
        match blocking(move || draft.finish(Some(hash))).await {
            Ok(_) => Ok(true),
            Err(Error::HashMismatch { .. }) if offset > 0 => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A draft that survives a broken stream, or an ordinary one if another fetch holds the partial.
    async fn new_partial(&self, hash: BlobHash, length: u64) -> Result<Draft, Error> {
        let store = Arc::clone(&self.store);
        blocking(move || {
            store.check_room(length)?;
            match Draft::resume(&store, hash)? {
                Some(draft) if draft.written() == 0 => Ok(draft),
                Some(_) | None => Draft::new(store, length),
            }
        })
        .await
    }
}

async fn read_sent<R: AsyncRead + Unpin>(reader: &mut R) -> Result<bool, Error> {
    match read_reply(reader).await? {
        Reply::Sent { intact } => Ok(intact),
        _ => Err(Error::OutOfTurn {
            expected: "the end of a blob",
        }),
    }
}

/// Reads one flag per asked hash.
pub(super) async fn read_flags<R: AsyncRead + Unpin>(
    reader: &mut R,
    asked: usize,
) -> Result<Vec<bool>, Error> {
    match read_reply(reader).await? {
        Reply::Have(flags) if flags.len() == asked => Ok(flags),
        _ => Err(Error::OutOfTurn {
            expected: "one flag per hash",
        }),
    }
}

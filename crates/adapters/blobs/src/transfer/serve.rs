//! The answering half.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, BufReader, BufWriter};
use types::BlobHash;

use super::{Batch, Outgoing};
use crate::draft::Draft;
use crate::protocol::{
    IDLE, MAX_HASHES, Reply, Request, SMALL_BYTES, flush, read_frame, within_idle, write_all,
    write_frame,
};
use crate::store::blocking;
use crate::write::fill;
use crate::{Error, Handle};

/// After a refusal the peer's remaining bytes are read for this long, so that the refusal reaches it instead of
/// a broken stream.
const DRAIN: Duration = Duration::from_secs(10);

impl Handle {
    /// Answers a peer's requests until it closes the stream.
    ///
    /// # Errors
    /// The stream fails, the peer breaks the protocol, or what it put cannot be stored (it is told why).
    pub async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send>(
        &self,
        stream: S,
    ) -> Result<(), Error> {
        let (reader, writer) = tokio::io::split(stream);
        let mut session = Session {
            store: self,
            reader: BufReader::new(reader),
            writer: BufWriter::new(writer),
            batch: Batch::default(),
        };
        loop {
            if session.reader.buffer().is_empty() {
                flush(&mut session.writer).await?;
            }
            let Some(request) = read_frame(&mut session.reader).await? else {
                return Ok(());
            };
            session.answer(request).await?;
        }
    }
}

struct Session<'a, R, W> {
    store: &'a Handle,
    reader: BufReader<R>,
    writer: BufWriter<W>,
    /// Put but not yet committed.
    batch: Batch,
}

impl<R: AsyncRead + Unpin + Send, W: AsyncWrite + Unpin + Send> Session<'_, R, W> {
    async fn answer(&mut self, request: Request) -> Result<(), Error> {
        match request {
            Request::Has(hashes) => self.has(hashes, false).await,
            Request::Offer(hashes) => self.has(hashes, true).await,
            Request::Get { hash, offset } => self.get(hash, offset).await,
            Request::Put { hash, length } => {
                let stored = self.put(hash, length).await;
                self.or_refuse(stored).await
            }
            Request::Commit => {
                let stored = self.batch.store(self.store).await;
                self.or_refuse(stored).await?;
                write_frame(&mut self.writer, &Reply::Stored).await
            }
        }
    }

    async fn has(&mut self, hashes: Vec<BlobHash>, pin: bool) -> Result<(), Error> {
        if hashes.len() > MAX_HASHES {
            return Err(Error::OutOfTurn {
                expected: "at most 4096 hashes",
            });
        }
        let store = Arc::clone(&self.store.store);
        let have = blocking(move || {
            hashes
                .iter()
                .map(|hash| {
                    if pin {
                        store.adopt(hash)
                    } else {
                        Ok(store.has(hash))
                    }
                })
                .collect()
        })
        .await?;
        write_frame(&mut self.writer, &Reply::Have(have)).await
    }

    async fn get(&mut self, hash: BlobHash, offset: u64) -> Result<(), Error> {
        match self.store.size(&hash) {
            Some(length) if length < offset => {
                write_frame(&mut self.writer, &Reply::Found { length }).await?;
                write_frame(&mut self.writer, &Reply::Sent { intact: true }).await
            }
            None => write_frame(&mut self.writer, &Reply::Missing).await,
            Some(length) if length <= SMALL_BYTES => self.get_small(hash, offset).await,
            Some(_) => self.get_large(hash, offset).await,
        }
    }

    async fn get_small(&mut self, hash: BlobHash, offset: u64) -> Result<(), Error> {
        let bytes = match self.store.get_bytes(&hash, SMALL_BYTES).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) | Err(Error::Damaged { .. }) => {
                return write_frame(&mut self.writer, &Reply::Missing).await;
            }
            Err(error) => return Err(error),
        };
        let length = bytes.len() as u64;
        let rest = usize::try_from(offset).ok().and_then(|at| bytes.get(at..)); // out of range: it shrank meanwhile
        let Some(rest) = rest else {
            return write_frame(&mut self.writer, &Reply::Missing).await;
        };
        write_frame(&mut self.writer, &Reply::Found { length }).await?;
        write_all(&mut self.writer, rest).await?;
        write_frame(&mut self.writer, &Reply::Sent { intact: true }).await
    }

    async fn get_large(&mut self, hash: BlobHash, offset: u64) -> Result<(), Error> {
        let store = Arc::clone(&self.store.store);
        let path = store.path(&hash);
        let opened = blocking(move || {
            let Some((file, length)) = store.open_blob(&hash)? else {
                return Ok(None);
            };
            Outgoing::new(file, path, offset).map(|outgoing| Some((outgoing, length)))
        })
        .await?;
        let Some((outgoing, length)) = opened else {
            return write_frame(&mut self.writer, &Reply::Missing).await;
        };
        write_frame(&mut self.writer, &Reply::Found { length }).await?;
        let sent = outgoing
            .send(&mut self.writer, length.saturating_sub(offset))
            .await?;
        // A resumed transfer cannot be checked here; the receiver checks the whole.
        let intact = offset > 0 || sent == hash;
        if !intact {
            let store = Arc::clone(&self.store.store);
            blocking(move || store.quarantine(hash)).await?;
        }
        write_frame(&mut self.writer, &Reply::Sent { intact }).await
    }

    async fn put(&mut self, hash: BlobHash, length: u64) -> Result<(), Error> {
        self.store.store.check_length(length)?;
        if length > SMALL_BYTES {
            let store = Arc::clone(&self.store.store);
            let draft = blocking(move || Draft::new(store, length)).await?;
            let draft = fill(draft, &mut self.reader, length, Some(IDLE)).await?;
            if draft.written() != length {
                return Err(Error::Stream(std::io::ErrorKind::UnexpectedEof.into()));
            }
            blocking(move || draft.finish(Some(hash))).await?;
            return Ok(());
        }
        let mut bytes = vec![0; usize::try_from(length).expect("a small blob has at most 1 MiB")];
        within_idle(self.reader.read_exact(&mut bytes)).await?;
        self.batch.add(self.store, hash, Bytes::from(bytes)).await
    }

    /// Tells the peer why its blobs are not stored.
    async fn or_refuse(&mut self, stored: Result<(), Error>) -> Result<(), Error> {
        let Err(error) = stored else {
            return Ok(());
        };
        if !matches!(error, Error::Stream(_) | Error::Stalled { .. }) {
            write_frame(&mut self.writer, &Reply::refused(&error)).await?;
            flush(&mut self.writer).await?;
            let mut sink = tokio::io::sink();
            let drain = tokio::io::copy(&mut self.reader, &mut sink);
            // Whether the rest came, broke off or took too long: the refusal is what counts.
            drop(tokio::time::timeout(DRAIN, drain).await);
        }
        Err(error)
    }
}

//! The asking half: giving blobs to a peer.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use types::BlobHash;

use super::Outgoing;
use super::fetch::read_flags;
use crate::protocol::{
    IDLE, MAX_HASHES, Reply, Request, SMALL_BYTES, flush, frame, next_reply, write_all, write_frame,
};
use crate::store::blocking;
use crate::{Error, Handle};

impl Handle {
    /// Gives blobs to the peer at the other end, which answers with [`Handle::serve`]. `Ok` means that the peer
    /// has them all, durable and pinned for 24 h. The stream can be used again after `Ok`.
    ///
    /// # Errors
    /// A blob is not here or damaged, the stream fails, or the peer refuses (disk full …).
    pub async fn push<S: AsyncRead + AsyncWrite + Unpin + Send>(
        &self,
        stream: &mut S,
        hashes: &[BlobHash],
    ) -> Result<(), Error> {
        let (mut reader, mut writer) = tokio::io::split(stream);
        for window in hashes.chunks(MAX_HASHES) {
            write_frame(&mut writer, &Request::Offer(window.to_vec())).await?;
            flush(&mut writer).await?;
            let flags = read_flags(&mut reader, window.len()).await?;
            let lacking: Vec<BlobHash> = window
                .iter()
                .zip(flags)
                .filter_map(|(hash, has)| (!has).then_some(*hash))
                .collect();
            if !lacking.is_empty() {
                self.put_window(&mut reader, &mut writer, &lacking).await?;
            }
        }
        Ok(())
    }

    /// Sends blobs and awaits that they are durable; a refusal ends the sending at once.
    async fn put_window<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &self,
        reader: &mut R,
        writer: &mut W,
        hashes: &[BlobHash],
    ) -> Result<(), Error> {
        let mut send = std::pin::pin!(self.send_window(writer, hashes));
        let mut answer = std::pin::pin!(read_refusal_or_stored(reader));
        let sent = tokio::select! {
            biased;
            answered = &mut answer => return answered,
            sent = &mut send => sent,
        };
        match sent {
            Ok(()) => answer_in_time(answer).await,
            // A peer that refuses may close its end first: its words tell more than the broken stream.
            Err(error @ Error::Stream(_)) => match answer_in_time(answer).await {
                Err(refused @ Error::Refused { .. }) => Err(refused),
                Ok(()) | Err(_) => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    async fn send_window<W: AsyncWrite + Unpin>(
        &self,
        writer: &mut W,
        hashes: &[BlobHash],
    ) -> Result<(), Error> {
        for &hash in hashes {
            let length = self.size(&hash).ok_or(Error::Missing { hash })?;
            if length <= SMALL_BYTES {
                let bytes = self.get_bytes(&hash, SMALL_BYTES).await?;
                let bytes = bytes.ok_or(Error::Missing { hash })?;
                let length = bytes.len() as u64;
                let mut message = frame(&Request::Put { hash, length });
                message.extend_from_slice(&bytes);
                write_all(writer, &message).await?;
            } else {
                self.send_large(writer, hash).await?;
            }
        }
        write_frame(writer, &Request::Commit).await?;
        flush(writer).await
    }

    async fn send_large<W: AsyncWrite + Unpin>(
        &self,
        writer: &mut W,
        hash: BlobHash,
    ) -> Result<(), Error> {
        let store = Arc::clone(&self.store);
        let (outgoing, length) = blocking(move || {
            let (file, length) = store.open_blob(&hash)?.ok_or(Error::Missing { hash })?;
            let path = store.path(&hash);
            Ok((Outgoing::new(file, path, 0)?, length))
        })
        .await?;
        write_frame(writer, &Request::Put { hash, length }).await?;
        let sent = outgoing.send(writer, length).await?;
        if sent != hash {
            let store = Arc::clone(&self.store);
            return Err(blocking(move || store.quarantine(hash)).await?);
        }
        Ok(())
    }
}

async fn read_refusal_or_stored<R: AsyncRead + Unpin>(reader: &mut R) -> Result<(), Error> {
    match next_reply(reader).await? {
        Reply::Stored => Ok(()),
        _ => Err(Error::OutOfTurn {
            expected: "that the blobs are stored",
        }),
    }
}

/// The answer once everything is sent.
async fn answer_in_time(answer: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    tokio::time::timeout(IDLE, answer)
        .await
        .unwrap_or_else(|_elapsed| Err(Error::stalled()))
}

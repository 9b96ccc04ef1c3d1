//! Copying blobs between two stores over any byte stream.

mod fetch;
mod push;
mod serve;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use bytes::Bytes;
use tokio::io::AsyncWrite;
use types::BlobHash;

use crate::protocol::{BATCH_BYTES, MAX_HASHES, write_all};
use crate::store::blocking;
use crate::{Error, Handle};

/// Bytes that are read from a file and handed to the stream at once.
const SEND_BUFFER_BYTES: usize = 1 << 20;

/// Small blobs that arrived and are stored together.
#[derive(Debug, Default)]
struct Batch {
    blobs: Vec<(BlobHash, Bytes)>,
    bytes: u64,
}

impl Batch {
    /// Adds a blob; a full batch is stored.
    async fn add(&mut self, store: &Handle, hash: BlobHash, bytes: Bytes) -> Result<(), Error> {
        self.bytes += bytes.len() as u64;
        self.blobs.push((hash, bytes));
        if self.bytes >= BATCH_BYTES || self.blobs.len() >= MAX_HASHES {
            self.store(store).await?;
        }
        Ok(())
    }

    /// Stores what is in it, durably.
    async fn store(&mut self, store: &Handle) -> Result<(), Error> {
        self.bytes = 0;
        store.put_many(std::mem::take(&mut self.blobs)).await
    }
}

/// A file that is sent in pieces.
struct Outgoing {
    file: File,
    path: PathBuf,
    hasher: blake3::Hasher,
}

impl Outgoing {
    fn new(mut file: File, path: PathBuf, offset: u64) -> Result<Self, Error> {
        file.seek(SeekFrom::Start(offset))
            .map_err(|e| Error::read(&path, e))?;
        Ok(Self {
            file,
            path,
            hasher: blake3::Hasher::new(),
        })
    }

    /// Sends exactly `length` bytes; returns their hash.
    async fn send<W: AsyncWrite + Unpin>(
        mut self,
        writer: &mut W,
        length: u64,
    ) -> Result<BlobHash, Error> {
        let mut left = length;
        let mut buffer = Vec::new();
        while left > 0 {
            (self, buffer) = blocking(move || self.read(buffer, left)).await?;
            write_all(writer, &buffer).await?;
            left -= buffer.len() as u64;
        }
        Ok(BlobHash(*self.hasher.finalize().as_bytes()))
    }

    fn read(mut self, mut buffer: Vec<u8>, left: u64) -> Result<(Self, Vec<u8>), Error> {
        buffer.clear();
        let wanted = left.min(SEND_BUFFER_BYTES as u64);
        let read = (&mut self.file).take(wanted).read_to_end(&mut buffer);
        let count = read.map_err(|e| Error::read(&self.path, e))?;
        if count as u64 != wanted {
            let short = std::io::ErrorKind::UnexpectedEof.into();
            return Err(Error::read(&self.path, short));
        }
        self.hasher.update(&buffer);
        Ok((self, buffer))
    }
}

//! Making a backup: each call returns the bytes to append to the file.

use bytes::Bytes;

use super::{BackupHeader, BackupPart, BackupSummary, Frame, MAGIC, Tally, VERSION};
use crate::codec;

/// A backup under way.
#[derive(Debug)]
pub struct BackupWriter {
    header: BackupHeader,
    tally: Tally,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    part: BackupPart,
    name: String,
    bytes: u64,
    hasher: blake3::Hasher,
}

impl BackupWriter {
    /// Starts a file.
    #[must_use]
    pub fn start(header: BackupHeader) -> (Self, Vec<u8>) {
        let frame = codec::encode(&Frame::Header(header.clone()));
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        put(&mut bytes, &frame);
        let writer = Self {
            header,
            tally: Tally::start(&frame),
            open: None,
        };
        (writer, bytes)
    }

    /// Starts a part of exactly so many bytes.
    pub fn begin(&mut self, part: BackupPart, name: &str, bytes: u64) -> Vec<u8> {
        self.open = Some(Open {
            part,
            name: name.to_owned(),
            bytes,
            hasher: blake3::Hasher::new(),
        });
        frame(&Frame::Begin {
            part,
            name: name.to_owned(),
            bytes,
        })
    }

    /// The next bytes of the part, at most [`super::MAX_BACKUP_DATA_BYTES`].
    pub fn data(&mut self, bytes: Bytes) -> Vec<u8> {
        if let Some(open) = &mut self.open {
            open.hasher.update(&bytes);
        }
        frame(&Frame::Data(bytes))
    }

    /// Ends the part.
    pub fn end(&mut self) -> Vec<u8> {
        let Some(open) = self.open.take() else {
            return Vec::new();
        };
        let hash = *open.hasher.finalize().as_bytes();
        let chain = self.tally.part(open.part, &open.name, open.bytes, &hash);
        frame(&Frame::End { hash, chain })
    }

    /// Ends the file.
    #[must_use]
    pub fn finish(self) -> (BackupSummary, Vec<u8>) {
        let trailer = Frame::Trailer {
            parts: self.tally.parts,
            chain: self.tally.chain,
        };
        (self.tally.summary(self.header), frame(&trailer))
    }
}

fn frame(value: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, &codec::encode(value));
    bytes
}

fn put(bytes: &mut Vec<u8>, frame: &[u8]) {
    let length = u32::try_from(frame.len()).expect("a frame is at most some 1 MiB");
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(frame);
}

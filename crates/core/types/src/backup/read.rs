//! Reading a backup: bytes are pushed in, checked items come out.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{
    BackupHeader, BackupPart, BackupSummary, Frame, MAGIC, MAX_FRAME_BYTES, Tally, VERSION,
};
use crate::codec;

/// Bytes before the first frame.
const PREFIX_BYTES: usize = MAGIC.len() + 4;

/// Why a backup was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    /// Something else.
    #[error("this is no backup of muster: it does not start like one")]
    NotABackup,
    /// Another layout, or formats of a newer program.
    #[error(
        "this backup has format {found}, and this muster reads up to {known}: use the muster that wrote it ({program}), or a newer one"
    )]
    Newer {
        /// Found.
        found: u32,
        /// Highest that is read.
        known: u32,
        /// Version of the program that wrote it, or `unknown`.
        program: String,
    },
    /// Not what was written.
    #[error("the backup is damaged in {part}: {what}; use another copy of it")]
    Damaged {
        /// Which part.
        part: String,
        /// How.
        what: String,
    },
    /// The end is missing.
    #[error("the backup is cut off in {part}: use a whole copy of it")]
    CutOff {
        /// Which part.
        part: String,
    },
}

/// What comes out, in this order: header, then for each part its start, data, and end, then the end of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackupItem {
    /// The first.
    Header(BackupHeader),
    /// A part of so many bytes starts.
    Begin {
        /// What it holds.
        part: BackupPart,
        /// Name of the archive, hash of the blob.
        name: String,
        /// Bytes that follow.
        bytes: u64,
    },
    /// The next bytes of the part. Not to be trusted before its end has come.
    Data(Bytes),
    /// The part is whole.
    End,
    /// The backup is whole; nothing follows.
    Whole(BackupSummary),
}

/// A backup being read.
#[derive(Debug, Default)]
pub struct BackupReader {
    buffer: VecDeque<u8>,
    started: bool,
    header: Option<BackupHeader>,
    tally: Tally,
    open: Option<Open>,
    whole: bool,
}

#[derive(Debug)]
struct Open {
    part: BackupPart,
    name: String,
    bytes: u64,
    seen: u64,
    hasher: blake3::Hasher,
}

impl BackupReader {
    /// Takes in the next bytes of the file; call [`Self::next_item`] until it has no more before pushing again.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend(bytes);
    }

    /// The next checked item; none: push more.
    ///
    /// # Errors
    /// It is no backup, of a newer format, or damaged: then nothing more can be read.
    pub fn next_item(&mut self) -> Result<Option<BackupItem>, BackupError> {
        if !self.started && !self.take_prefix()? {
            return Ok(None);
        }
        if self.whole && !self.buffer.is_empty() {
            return Err(self.damaged("bytes follow its end"));
        }
        let Some(frame) = self.take_frame()? else {
            return Ok(None);
        };
        let decoded = codec::decode(&frame, MAX_FRAME_BYTES);
        let decoded = decoded.map_err(|error| self.damaged(error.to_string()))?;
        self.take(decoded, &frame).map(Some)
    }

    /// The file has ended.
    ///
    /// # Errors
    /// The backup has not.
    pub fn finish(&self) -> Result<(), BackupError> {
        if self.whole && self.buffer.is_empty() {
            return Ok(());
        }
        if !self.started && self.buffer.is_empty() {
            return Err(BackupError::NotABackup);
        }
        Err(BackupError::CutOff { part: self.place() })
    }

    fn take_prefix(&mut self) -> Result<bool, BackupError> {
        let known = self.buffer.iter().zip(MAGIC);
        if known.clone().any(|(found, wanted)| found != wanted) {
            return Err(BackupError::NotABackup);
        }
        if self.buffer.len() < PREFIX_BYTES {
            return Ok(false);
        }
        self.buffer.drain(..MAGIC.len());
        let found = self.take_u32();
        if found != VERSION {
            return Err(BackupError::Newer {
                found,
                known: VERSION,
                program: "unknown".to_owned(),
            });
        }
        self.started = true;
        Ok(true)
    }

    fn take_u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        for (at, byte) in bytes.iter_mut().zip(self.buffer.drain(..4)) {
            *at = byte;
        }
        u32::from_le_bytes(bytes)
    }

    fn take_frame(&mut self) -> Result<Option<Vec<u8>>, BackupError> {
        if self.buffer.len() < 4 {
            return Ok(None);
        }
        let mut length = [0; 4];
        for (at, byte) in length.iter_mut().zip(&self.buffer) {
            *at = *byte;
        }
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length > MAX_FRAME_BYTES {
            return Err(self.damaged(format!("a frame claims {length} bytes")));
        }
        if self.buffer.len() < 4 + length {
            return Ok(None);
        }
        self.buffer.drain(..4);
        Ok(Some(self.buffer.drain(..length).collect()))
    }

    fn take(&mut self, frame: Frame, bytes: &[u8]) -> Result<BackupItem, BackupError> {
        match (frame, &mut self.open) {
            (Frame::Header(header), None) if self.header.is_none() => {
                if header.data_level > codec::DATA_LEVEL {
                    return Err(BackupError::Newer {
                        found: header.data_level,
                        known: codec::DATA_LEVEL,
                        program: header.program,
                    });
                }
                self.tally = Tally::start(bytes);
                self.header = Some(header.clone());
                Ok(BackupItem::Header(header))
            }
            (Frame::Begin { part, name, bytes }, None) if self.header.is_some() => {
                if (part == BackupPart::State) != (self.tally.parts == 0) {
                    return Err(self.damaged(format!("a part {part} stands in the wrong place")));
                }
                self.open = Some(Open {
                    part,
                    name: name.clone(),
                    bytes,
                    seen: 0,
                    hasher: blake3::Hasher::new(),
                });
                Ok(BackupItem::Begin { part, name, bytes })
            }
            (Frame::Data(bytes), Some(open)) => {
                open.seen += bytes.len() as u64;
                open.hasher.update(&bytes);
                if open.seen > open.bytes {
                    return Err(self.damaged("it is longer than it says"));
                }
                Ok(BackupItem::Data(bytes))
            }
            (Frame::End { hash, chain }, Some(_)) => self.take_end(hash, chain),
            (Frame::Trailer { parts, chain }, None) => match self.header.clone() {
                Some(header)
                    if parts > 0 && (parts, chain) == (self.tally.parts, self.tally.chain) =>
                {
                    self.whole = true;
                    Ok(BackupItem::Whole(self.tally.summary(header)))
                }
                Some(_) | None => Err(self.damaged("parts are missing before its end")),
            },
            _ => Err(self.damaged("its frames are out of order")),
        }
    }

    fn take_end(&mut self, hash: [u8; 32], chain: [u8; 32]) -> Result<BackupItem, BackupError> {
        let Some(open) = self.open.as_ref() else {
            return Err(self.damaged("its frames are out of order"));
        };
        if open.seen != open.bytes {
            return Err(self.damaged("it is shorter than it says"));
        }
        if *open.hasher.finalize().as_bytes() != hash {
            return Err(self.damaged("its bytes do not have the hash that it names"));
        }
        let (part, name, bytes) = (open.part, open.name.clone(), open.bytes);
        if self.tally.part(part, &name, bytes, &hash) != chain {
            return Err(self.damaged("it does not follow the part before (hash chain)"));
        }
        self.open = None;
        Ok(BackupItem::End)
    }

    /// Where the reader is, in words.
    fn place(&self) -> String {
        match (&self.open, &self.header) {
            (Some(open), _) if open.name.is_empty() => {
                format!("part {}, the {}", self.tally.parts + 1, open.part)
            }
            (Some(open), _) => format!(
                "part {}, the {} {}",
                self.tally.parts + 1,
                open.part,
                open.name
            ),
            (None, None) => "its header".to_owned(),
            (None, Some(_)) => format!("what follows part {}", self.tally.parts),
        }
    }

    fn damaged(&self, what: impl Into<String>) -> BackupError {
        BackupError::Damaged {
            part: self.place(),
            what: what.into(),
        }
    }
}

//! What node and holder say to each other over the holder's socket: `length: u32 LE | codec bytes`.

use std::io;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use types::{GpuUse, MetricPoint, Timestamp, codec};

use crate::stored::{Ended, Usage};

/// Largest message: the end with its 16 evidence lines of 512 bytes fits eight times.
pub(crate) const MAX_MESSAGE_BYTES: usize = 64 << 10;

/// Why an attempt is to be stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopReason {
    /// A person asked for it.
    Requested {
        /// user@node.
        by: String,
    },
    /// The experiment's time limit.
    TimeLimit,
    /// The node may not run it any more.
    LeaseLost,
    /// It holds more GPU memory than it was given, and is to be ended for that.
    VramOveruse {
        /// What it holds and what it was given, in words.
        figures: String,
    },
    /// A GPU that it was given has failed.
    GpuFailed {
        /// Its number on the node.
        gpu: u32,
        /// In words.
        problem: String,
    },
    /// A metric met the rule by which it ends itself.
    RuleMet {
        /// The rule, and the value that met it.
        rule: String,
    },
}

/// From the node to the holder. New messages are appended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Push the lease forward; an earlier deadline than the known one is ignored.
    Extend {
        /// New deadline.
        deadline_boottime_ms: u64,
    },
    /// End the tree.
    Stop {
        /// Why.
        reason: StopReason,
        /// Between SIGTERM and SIGKILL.
        grace_ms: u64,
    },
    /// What the tree uses of the GPUs now, which only the node can ask the driver.
    Gpus(GpuUse),
    /// Points of metrics for its records; answered by [`Notice::PointsTaken`].
    Points {
        /// Names the answer.
        lot: u64,
        /// At most some hundred.
        points: Vec<MetricPoint>,
    },
}

/// From the holder to each connected node. New messages are appended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Notice {
    /// The command runs.
    Started {
        /// Its process id.
        pid: u32,
        /// Wall clock.
        at: Timestamp,
        /// Lease as the holder knows it.
        deadline_boottime_ms: u64,
    },
    /// Records were written.
    Tail {
        /// Number of the open segment: all lower ones are complete.
        segment: u32,
        /// Number after the last record.
        next_sequence: u64,
    },
    /// A new resource sample.
    Usage(Usage),
    /// The attempt ended; its end is durable.
    Ended(Ended),
    /// Points came.
    PointsTaken {
        /// Which.
        lot: u64,
        /// They are left to be written; else so much waits for the disk that they were not taken.
        taken: bool,
    },
}

/// Frames one message.
pub(crate) fn frame<T: Serialize>(message: &T) -> Vec<u8> {
    let bytes = codec::encode(message);
    let length = u32::try_from(bytes.len()).expect("messages are bounded by their fields");
    let mut frame = Vec::with_capacity(4 + bytes.len());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&bytes);
    frame
}

/// Takes the first whole request off `buffer`.
///
/// # Errors
/// The other side speaks something else: cut it off.
pub(crate) fn take_request(buffer: &mut Vec<u8>) -> io::Result<Option<Request>> {
    let Some((head, rest)) = buffer.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*head) as usize;
    if length > MAX_MESSAGE_BYTES {
        return Err(too_long(length));
    }
    let Some(bytes) = rest.get(..length) else {
        return Ok(None);
    };
    let request = codec::decode(bytes, MAX_MESSAGE_BYTES).map_err(io::Error::other)?;
    buffer.drain(..4 + length);
    Ok(Some(request))
}

/// Reads notices; keeps what it has when the reading future is dropped, so that it can stand in a `select!`.
#[derive(Debug)]
pub(crate) struct NoticeReader<R> {
    reader: R,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> NoticeReader<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self {
            reader,
            buffer: Vec::new(),
        }
    }

    /// The next notice; none when the holder has closed.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Notice>> {
        loop {
            if let Some((head, rest)) = self.buffer.split_first_chunk::<4>() {
                let length = u32::from_le_bytes(*head) as usize;
                if length > MAX_MESSAGE_BYTES {
                    return Err(too_long(length));
                }
                if let Some(bytes) = rest.get(..length) {
                    let notice =
                        codec::decode(bytes, MAX_MESSAGE_BYTES).map_err(io::Error::other)?;
                    self.buffer.drain(..4 + length);
                    return Ok(Some(notice));
                }
            }
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }
}

fn too_long(length: usize) -> io::Error {
    io::Error::other(format!("a message of {length} bytes is over the limit"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_cut_anywhere_arrive_whole() {
        let stop = Request::Stop {
            reason: StopReason::Requested {
                by: "ann@lab".to_owned(),
            },
            grace_ms: 5,
        };
        let bytes = frame(&stop);
        for cut in 0..bytes.len() {
            let mut buffer = bytes[..cut].to_vec();
            assert_eq!(take_request(&mut buffer).unwrap(), None);
            buffer.extend_from_slice(&bytes[cut..]);
            assert_eq!(take_request(&mut buffer).unwrap(), Some(stop.clone()));
        }
        let notice = Notice::Usage(Usage::default());
        let twice = [frame(&notice), frame(&notice)].concat();
        let mut reader = NoticeReader::new(&twice[..]);
        assert_eq!(reader.next().await.unwrap(), Some(notice.clone()));
        assert_eq!(reader.next().await.unwrap(), Some(notice));
        assert_eq!(reader.next().await.unwrap(), None);
    }

    #[test]
    fn a_hostile_length_is_refused() {
        assert!(take_request(&mut vec![255; 8]).is_err());
    }
}

//! Frames of a long-lived stream: `length: u32 LE | id: u64 LE | status: u8 | body`.

use std::io;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::io::BufReader;
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use crate::wire::{Outcome, length, length_field, read_body};

/// Bytes before the body.
const HEADER_BYTES: usize = 13;
/// Frames are gathered up to this many bytes before a write; a larger body is written on its own.
const GATHER_BYTES: usize = 32 << 10;
/// Read ahead: a header and a small body in one go.
const READ_BUFFER_BYTES: usize = 4 << 10;

/// One call or one answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) id: u64,
    status: u8,
    body: Bytes,
}

impl Frame {
    pub(crate) fn request(id: u64, body: Bytes) -> Self {
        Self::answer(id, &Outcome::Answer(body))
    }

    pub(crate) fn answer(id: u64, outcome: &Outcome) -> Self {
        let status = outcome.status();
        let body = outcome.body();
        Self { id, status, body }
    }

    pub(crate) fn into_body(self) -> Bytes {
        self.body
    }

    pub(crate) fn into_outcome(self) -> io::Result<Outcome> {
        Outcome::new(self.status, self.body)
    }
}

/// Reads frames one by one.
pub(crate) struct FrameReader<R> {
    io: BufReader<R>,
    limit: usize,
}

impl<R: AsyncRead + Unpin + Send> FrameReader<R> {
    pub(crate) fn new(io: R, limit: usize) -> Self {
        let io = BufReader::with_capacity(READ_BUFFER_BYTES, io);
        Self { io, limit }
    }

    /// The next frame, or none at the end of the stream. Not to be cancelled half way.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Frame>> {
        let mut header = [0; HEADER_BYTES];
        if self.io.read(&mut header[..1]).await? == 0 {
            return Ok(None);
        }
        self.io.read_exact(&mut header[1..]).await?;
        let length = length(&header, self.limit)?;
        let id = header[4..12].try_into().expect("these are eight bytes");
        let body = read_body(&mut self.io, length).await?;
        Ok(Some(Frame {
            id: u64::from_le_bytes(id),
            status: header[12],
            body,
        }))
    }
}

/// Writes the frames of a queue until it closes, gathering those that are there at once.
/// `wanted` says whether a frame is still worth its bytes.
pub(crate) async fn write_frames<W, F>(
    mut io: W,
    queue: &mut mpsc::Receiver<Frame>,
    wanted: F,
) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
    F: Fn(&Frame) -> bool,
{
    let mut gathered = BytesMut::new();
    while let Some(first) = queue.recv().await {
        let mut next = Some(first);
        while let Some(frame) = next.take() {
            if !wanted(&frame) {
                next = queue.try_recv().ok();
                continue;
            }
            gathered.put_u32_le(length_field(frame.body.len())?);
            gathered.put_u64_le(frame.id);
            gathered.put_u8(frame.status);
            if frame.body.len() > GATHER_BYTES {
                io.write_all(&gathered).await?;
                gathered.clear();
                io.write_all(&frame.body).await?;
            } else {
                gathered.put_slice(&frame.body);
            }
            if gathered.len() < GATHER_BYTES {
                next = queue.try_recv().ok();
            }
        }
        io.write_all(&gathered).await?;
        gathered.clear();
        io.flush().await?;
    }
    io.close().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use futures::io::Cursor;

    #[test]
    fn frames_of_any_size_arrive_in_order_and_unwanted_ones_do_not() {
        block_on(async {
            let (sender, mut queue) = mpsc::channel(8);
            let sizes = [0, 10, GATHER_BYTES, GATHER_BYTES + 1, 5, 300_000];
            for (id, size) in (0_u64..).zip(sizes) {
                let body = vec![7; size].into();
                sender.send(Frame::request(id, body)).await.unwrap();
            }
            drop(sender);
            let mut io = Cursor::new(Vec::new());
            write_frames(&mut io, &mut queue, |frame| frame.id != 4)
                .await
                .unwrap();
            let mut reader = FrameReader::new(Cursor::new(io.into_inner()), 1 << 20);
            let mut read = Vec::new();
            while let Some(frame) = reader.next().await.unwrap() {
                read.push((frame.id, frame.into_body().len()));
            }
            let expected: Vec<_> = (0..).zip(sizes).filter(|(id, _)| *id != 4).collect();
            assert_eq!(read, expected);
        });
    }

    #[test]
    fn a_cut_frame_and_one_over_the_limit_are_errors() {
        block_on(async {
            let (sender, mut queue) = mpsc::channel(1);
            let body = vec![7; 100].into();
            sender.send(Frame::request(1, body)).await.unwrap();
            drop(sender);
            let mut io = Cursor::new(Vec::new());
            write_frames(&mut io, &mut queue, |_| true).await.unwrap();
            let bytes = io.into_inner();
            let mut cut = FrameReader::new(Cursor::new(bytes[..50].to_vec()), 100);
            assert!(cut.next().await.is_err());
            let mut over = FrameReader::new(Cursor::new(bytes), 99);
            assert!(over.next().await.is_err());
        });
    }
}

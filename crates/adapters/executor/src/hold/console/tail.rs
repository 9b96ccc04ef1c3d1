//! The last of what a job said, in the order in which it came, for the diagnosis of its end.

use std::collections::VecDeque;

use diagnosis::Said;
use types::{ConsoleStream, DurationMs};

/// What is kept of each stream: the longest traceback that Python prints of itself, with room for what follows it.
const STREAM_BYTES: usize = 32 << 10;
/// What comes within this time counts as said at once.
const SAME_TIME_MS: u64 = 100;
/// Longest piece that more is added to.
const PIECE_BYTES: usize = 4 << 10;
/// Most pieces: a job that writes letter by letter to both streams in turn must not take the holder's memory.
const MAX_PIECES: usize = 2_048;

/// Pieces of both streams, oldest first.
#[derive(Debug, Default)]
pub(super) struct Tail {
    pieces: VecDeque<Piece>,
    /// Bytes of standard output and of standard error.
    held: [usize; 2],
}

#[derive(Debug)]
struct Piece {
    stream: ConsoleStream,
    at_ms: u64,
    bytes: Vec<u8>,
}

fn place(stream: ConsoleStream) -> usize {
    match stream {
        ConsoleStream::Stdout | ConsoleStream::Muster | ConsoleStream::Build => 0,
        ConsoleStream::Stderr => 1,
    }
}

impl Tail {
    pub(super) fn add(&mut self, stream: ConsoleStream, bytes: &[u8], now_ms: u64) {
        let bytes = &bytes[bytes.len().saturating_sub(STREAM_BYTES)..];
        self.held[place(stream)] += bytes.len();
        let last = self.pieces.back_mut().filter(|last| {
            let is_at_once = now_ms < last.at_ms + SAME_TIME_MS;
            last.stream == stream && is_at_once && last.bytes.len() < PIECE_BYTES
        });
        match last {
            Some(last) => last.bytes.extend_from_slice(bytes),
            None => self.pieces.push_back(Piece {
                stream,
                at_ms: now_ms,
                bytes: bytes.to_vec(),
            }),
        }
        self.forget(stream);
        if self.pieces.len() > MAX_PIECES
            && let Some(oldest) = self.pieces.pop_front()
        {
            self.held[place(oldest.stream)] -= oldest.bytes.len();
        }
    }

    /// Forgets the oldest of a stream beyond what is kept.
    fn forget(&mut self, stream: ConsoleStream) {
        loop {
            let surplus = self.held[place(stream)].saturating_sub(STREAM_BYTES);
            let mut pieces = self.pieces.iter();
            let oldest = pieces.position(|piece| piece.stream == stream);
            let Some(oldest) = oldest.filter(|_| surplus > 0) else {
                return;
            };
            let length = self.pieces[oldest].bytes.len();
            if length > surplus {
                self.pieces[oldest].bytes.drain(..surplus);
                self.held[place(stream)] -= surplus;
                return;
            }
            self.pieces.remove(oldest);
            self.held[place(stream)] -= length;
        }
    }

    pub(super) fn said(&self, now_ms: u64) -> Vec<Said> {
        let pieces = self.pieces.iter();
        let said = pieces.map(|piece| Said {
            stream: piece.stream,
            before_end: DurationMs(now_ms.saturating_sub(piece.at_ms)),
            bytes: piece.bytes.clone(),
        });
        said.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(tail: &Tail, stream: ConsoleStream) -> Vec<u8> {
        let said = tail.said(0).into_iter();
        let bytes = said.filter(|said| said.stream == stream);
        bytes.flat_map(|said| said.bytes).collect()
    }

    #[test]
    fn the_last_of_each_stream_is_kept_whatever_the_other_says() {
        let mut tail = Tail::default();
        tail.add(ConsoleStream::Stderr, b"the reason", 0);
        for number in 0..10_000_u64 {
            tail.add(
                ConsoleStream::Stdout,
                format!("{number:015}\n").as_bytes(),
                number,
            );
            tail.add(ConsoleStream::Stdout, &[b'x'; 99], number);
        }
        tail.add(ConsoleStream::Stdout, &[b'y'; 100_000], 10_000);
        tail.add(ConsoleStream::Stdout, b"end", 10_500);
        let out = text(&tail, ConsoleStream::Stdout);
        assert_eq!(out.len(), STREAM_BYTES);
        assert!(out.ends_with(b"yyyend"));
        assert_eq!(text(&tail, ConsoleStream::Stderr), b"the reason");
        assert_eq!(tail.said(11_000)[0].before_end, DurationMs(11_000));
    }

    #[test]
    fn letters_to_both_streams_in_turn_take_little_memory() {
        let mut tail = Tail::default();
        for number in 0..100_000 {
            tail.add(ConsoleStream::Stdout, b"o", number);
            tail.add(ConsoleStream::Stderr, b"e", number);
        }
        assert!(tail.pieces.len() <= MAX_PIECES);
        let held = tail
            .pieces
            .iter()
            .map(|piece| piece.bytes.len())
            .sum::<usize>();
        assert_eq!(held, tail.held.iter().sum::<usize>());
    }
}

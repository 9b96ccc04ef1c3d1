//! Records as items for readers, with whole characters.

use types::{ConsoleStream, Record, RecordBody};

use super::Part;
use crate::view::LogItem;

/// Text of standard output, standard error, muster's own lines and those of a build, of one rank.
#[derive(Default)]
pub(super) struct Texts([Text; 4]);

impl Texts {
    pub(super) fn item_of(&mut self, part: Part, record: Record) -> Option<LogItem> {
        let (sequence, at) = (record.sequence, record.at.0);
        let (attempt, rank) = (part.attempt, part.is_gang.then_some(part.rank));
        match record.body {
            RecordBody::Console { stream, bytes } => {
                let (stream, slot) = match stream {
                    ConsoleStream::Stdout => ("stdout", 0),
                    ConsoleStream::Stderr => ("stderr", 1),
                    ConsoleStream::Muster => ("muster", 2),
                    ConsoleStream::Build => ("build", 3),
                };
                let text = self.0[slot].push(&bytes);
                Some(LogItem::Console {
                    attempt,
                    rank,
                    sequence,
                    at,
                    stream: stream.to_owned(),
                    text,
                })
            }
            RecordBody::Scalar {
                name,
                step,
                value_bits,
            } => Some(LogItem::Scalar {
                attempt,
                rank,
                sequence,
                at,
                name,
                step,
                value: f64::from_bits(value_bits),
            }),
            RecordBody::Gap { bytes } => Some(LogItem::Gap {
                attempt,
                rank,
                bytes,
            }),
            RecordBody::Sample(_) => None,
        }
    }
}

/// Text out of bytes that were cut anywhere: a character over two records comes out whole.
#[derive(Default)]
struct Text {
    /// At most three bytes of an unfinished character.
    rest: Vec<u8>,
}

impl Text {
    fn push(&mut self, bytes: &[u8]) -> String {
        self.rest.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(&self.rest) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            // Later bytes may be cut too: look at the last three only.
            Err(_) => unfinished_from(&self.rest),
            Ok(text) => text.len(),
        };
        let rest = self.rest.split_off(whole);
        let text = String::from_utf8_lossy(&self.rest).into_owned();
        self.rest = rest;
        text
    }
}

/// Where an unfinished character at the end begins; the length if there is none.
fn unfinished_from(bytes: &[u8]) -> usize {
    let start = bytes.len().saturating_sub(3);
    let begins = |at: &usize| {
        std::str::from_utf8(&bytes[*at..])
            .is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
    };
    (start..bytes.len()).find(begins).unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_cut_by_a_record_comes_out_whole() {
        let mut text = Text::default();
        let euro = "a€b".as_bytes();
        let parts: String = [&euro[..2], &euro[2..3], &euro[3..]]
            .iter()
            .map(|part| text.push(part))
            .collect();
        assert_eq!(parts, "a€b");
        assert_eq!(text.push(b"\xff\xfe!"), "\u{fffd}\u{fffd}!");
        assert_eq!(
            text.push(b"\xffok\xe2\x82") + &text.push(b"\xac"),
            "\u{fffd}ok€"
        );
    }
}

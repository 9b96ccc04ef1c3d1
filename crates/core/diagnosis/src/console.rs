//! Clean lines of text from whatever a command wrote.

use types::ConsoleStream;

use crate::Said;

/// Most lines of a stream that are looked at, the last ones: tracebacks of deep recursion are shortened by Python.
const MAX_LINES: usize = 2_000;
/// Longest line that is looked at; the rest of it is not.
const MAX_LINE_BYTES: usize = 2_048;

/// A line without escapes and control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) text: String,
    /// How long before the end it was begun.
    pub(crate) before_end_ms: u64,
    /// Place of the piece in which it was begun among all pieces of both streams.
    pub(crate) piece: usize,
}

/// Both streams apart.
#[derive(Debug, Default)]
pub(crate) struct Console {
    pub(crate) out: Vec<Line>,
    pub(crate) err: Vec<Line>,
}

impl Console {
    pub(crate) fn read(said: &[Said]) -> Self {
        Self {
            out: lines(said, ConsoleStream::Stdout),
            err: lines(said, ConsoleStream::Stderr),
        }
    }
}

fn lines(said: &[Said], stream: ConsoleStream) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut partial: Option<(Vec<u8>, u64, usize)> = None;
    for (piece, said) in said.iter().enumerate() {
        if said.stream != stream {
            continue;
        }
        for part in said.bytes.split_inclusive(|byte| *byte == b'\n') {
            let (bytes, ..) = partial.get_or_insert_with(|| (Vec::new(), said.before_end.0, piece));
            // What overwrites a line in place, such as a progress bar, leaves the last of it to be seen.
            bytes.extend_from_slice(part);
            if part.ends_with(b"\n") {
                lines.extend(partial.take().map(line));
            }
        }
    }
    lines.extend(partial.take().map(line));
    let surplus = lines.len().saturating_sub(MAX_LINES);
    lines.drain(..surplus);
    lines
}

fn line((bytes, before_end_ms, piece): (Vec<u8>, u64, usize)) -> Line {
    let whole = bytes.trim_ascii_end();
    let shown = whole.rsplit(|byte| *byte == b'\r').next();
    let shown = shown.unwrap_or_default();
    let shown = &shown[..shown.len().min(MAX_LINE_BYTES)];
    Line {
        text: clean(&String::from_utf8_lossy(shown)),
        before_end_ms,
        piece,
    }
}

/// Without terminal escapes, control characters and marks that turn the direction of text; tabs become spaces.
pub(crate) fn clean(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\u{1b}' => match letters.next() {
                // CSI: parameters, then one letter (ECMA-48, 5.4).
                Some('[') => while letters.next_if(|c| !('@'..='~').contains(c)).is_some() {},
                // OSC and its like: to the bell or the string terminator (ECMA-48, 8.3.89).
                Some(']' | 'P' | 'X' | '^' | '_') => {
                    while letters
                        .next_if(|c| *c != '\u{7}' && *c != '\u{1b}')
                        .is_some()
                    {}
                    if letters.peek() == Some(&'\u{1b}') {
                        letters.next();
                    }
                }
                Some(_) | None => continue,
            },
            '\t' => {
                cleaned.push(' ');
                continue;
            }
            _ if letter.is_control() || turns(letter) => continue,
            _ => {
                cleaned.push(letter);
                continue;
            }
        }
        // The letter that ends an escape.
        letters.next();
    }
    cleaned.truncate(cleaned.trim_end().len());
    cleaned
}

fn turns(letter: char) -> bool {
    matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// At most so many bytes of a text, at the edge of a letter.
pub(crate) fn short(text: &str, most_bytes: usize) -> String {
    match text.floor_char_boundary(most_bytes) {
        end if end < text.len() => format!("{}…", &text[..end]),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use types::DurationMs;

    use super::*;

    fn said(stream: ConsoleStream, text: &str) -> Said {
        Said {
            stream,
            before_end: DurationMs(7),
            bytes: text.as_bytes().to_vec(),
        }
    }

    #[test]
    fn lines_are_put_together_from_pieces_and_streams_kept_apart() {
        let pieces = [
            said(ConsoleStream::Stderr, "one\ntw"),
            said(ConsoleStream::Stdout, "other\n"),
            said(ConsoleStream::Stderr, "o\r\nlast"),
        ];
        let console = Console::read(&pieces);
        let texts: Vec<_> = console.err.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(texts, ["one", "two", "last"]);
        assert_eq!(console.err[1].piece, 0);
        assert_eq!(console.err[2].piece, 2);
        assert_eq!(console.out[0].text, "other");
    }

    #[test]
    fn what_a_terminal_would_obey_is_left_out() {
        assert_eq!(clean("\u{1b}[1;31mred\u{1b}[0m end"), "red end");
        assert_eq!(clean("\u{1b}]0;title\u{7}a\u{1b}]8;;x\u{1b}\\b"), "ab");
        assert_eq!(clean("a\u{0}b\u{202e}c\u{1b}"), "abc");
        let bar = said(ConsoleStream::Stderr, " 10%|#  |\r100%|###|\n");
        assert_eq!(Console::read(&[bar]).err[0].text, "100%|###|");
    }
}

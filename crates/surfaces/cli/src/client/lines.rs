//! Cutting a stream of bytes into lines.

use crate::error::Error;

/// Longest line: a record of 1 MiB with every byte escaped as `\u00xx`.
const LINE_LIMIT_BYTES: u64 = 8 << 20;

/// Bytes of which only whole lines are handed out.
#[derive(Debug, Default)]
pub(crate) struct LineBuffer {
    bytes: Vec<u8>,
    /// Up to here there is no line end.
    searched: usize,
}

impl LineBuffer {
    /// Appends what came.
    ///
    /// # Errors
    /// The line is over the limit.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if (self.bytes.len() + bytes.len()) as u64 > LINE_LIMIT_BYTES {
            return Err(Error::AnswerTooLong {
                limit: LINE_LIMIT_BYTES,
            });
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Takes the next line without its end (LF or CR LF).
    pub(crate) fn next_line(&mut self) -> Option<String> {
        let found = self.bytes[self.searched..]
            .iter()
            .position(|&byte| byte == b'\n');
        let Some(found) = found else {
            self.searched = self.bytes.len();
            return None;
        };
        let end = self.searched + found;
        let line = self.bytes[..end]
            .strip_suffix(b"\r")
            .unwrap_or(&self.bytes[..end]);
        let line = String::from_utf8_lossy(line).into_owned();
        self.bytes.drain(..=end);
        self.searched = 0;
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_however_they_came_in() {
        let text = "first\r\n\nsécond\nrest".as_bytes();
        for size in 1..text.len() {
            let mut buffer = LineBuffer::default();
            let mut lines = Vec::new();
            for piece in text.chunks(size) {
                buffer.push(piece).unwrap();
                while let Some(line) = buffer.next_line() {
                    lines.push(line);
                }
            }
            assert_eq!(lines, ["first", "", "sécond"], "pieces of {size}");
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut buffer = LineBuffer::default();
        let piece = vec![b'x'; 1 << 20];
        let refused = (0..9).find(|_| buffer.push(&piece).is_err());
        assert_eq!(refused, Some(8));
    }
}

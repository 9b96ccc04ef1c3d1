//! Metric lines on standard output: `metric: loss=0.25 accuracy=0.9 step=120`, or a JSON object that has a step:
//! `{"step": 120, "loss": 0.25, "val": {"accuracy": 0.9}}`.

mod json;

use types::{MetricPoint, RecordBody};

/// Longest line that is looked at for metrics: such lines are short.
const MAX_LINE_BYTES: usize = 4 << 10;
/// What such a line starts with.
const PREFIX: &[u8] = b"metric:";
/// What a line of JSON starts with.
const JSON_PREFIX: &[u8] = b"{";

/// Puts lines together from whatever pieces the pipe gave.
#[derive(Debug, Default)]
pub(super) struct MetricLines {
    partial: Vec<u8>,
    /// The line in hand cannot be a metric line: wait for its end.
    skip: bool,
}

impl MetricLines {
    /// Takes console bytes and returns the scalars of the lines that they complete.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Vec<RecordBody> {
        let mut scalars = Vec::new();
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (content, complete) = match piece.strip_suffix(b"\n") {
                Some(content) => (content, true),
                None => (piece, false),
            };
            self.extend(content);
            if complete {
                if !self.skip {
                    let line = String::from_utf8_lossy(&self.partial);
                    scalars.extend(match line.starts_with('{') {
                        true => json::parse(&line),
                        false => parse(&line),
                    });
                }
                self.partial.clear();
                self.skip = false;
            }
        }
        scalars
    }

    fn extend(&mut self, content: &[u8]) {
        if self.skip {
            return;
        }
        let room = MAX_LINE_BYTES.saturating_sub(self.partial.len());
        let too_long = content.len() > room;
        self.partial
            .extend_from_slice(&content[..content.len().min(room)]);
        let begins = |prefix: &[u8]| {
            let seen = self.partial.len().min(prefix.len());
            self.partial[..seen] == prefix[..seen]
        };
        if too_long || !(begins(PREFIX) || begins(JSON_PREFIX)) {
            self.skip = true;
            self.partial.clear();
        }
    }
}

/// The scalars of one line; none unless every word is `name=number`.
fn parse(line: &str) -> Vec<RecordBody> {
    let Some(words) = line.trim_end().strip_prefix("metric:") else {
        return Vec::new();
    };
    let mut step = 0;
    let mut points = Vec::new();
    for word in words.split_ascii_whitespace() {
        let Some((name, value)) = word.split_once('=') else {
            return Vec::new();
        };
        if name == "step" {
            match value.parse() {
                Ok(number) => step = number,
                Err(_not_a_step) => return Vec::new(),
            }
            continue;
        }
        match value.parse::<f64>() {
            Ok(number) if MetricPoint::is_name(name) => {
                points.push((name.to_owned(), number));
            }
            Ok(_) | Err(_) => return Vec::new(),
        }
    }
    let scalar = |(name, value): (String, f64)| RecordBody::Scalar {
        name,
        step,
        value_bits: value.to_bits(),
    };
    points.into_iter().map(scalar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalar(name: &str, step: i64, value: f64) -> RecordBody {
        RecordBody::Scalar {
            name: name.to_owned(),
            step,
            value_bits: value.to_bits(),
        }
    }

    #[test]
    fn a_line_cut_anywhere_gives_the_same_scalars() {
        let text = b"epoch 1\nmetric: loss=0.5 val/acc=1e-1 step=3\nmetric: oops\n";
        for cut in 0..text.len() {
            let mut lines = MetricLines::default();
            let mut found = lines.take(&text[..cut]);
            found.extend(lines.take(&text[cut..]));
            assert_eq!(found, [scalar("loss", 3, 0.5), scalar("val/acc", 3, 0.1)]);
        }
    }

    #[test]
    fn lines_of_json_with_a_step_are_metrics_and_others_are_not() {
        let text =
            br#"{"step": 3, "loss": 0.5, "val": {"acc": 1e-1, "n": 7}, "note": "x", "ok": true}
{"loss": 0.5}
{"step": 4, "loss": NaN, "scale": -Infinity, "text": "NaN"}
{"step": "five", "loss": 1}
{"step": 1.5, "loss": 1}
{"step": 6.0, "loss": 2
not {"step": 7, "loss": 3}
"#;
        for cut in [0, 1, 20, 100, text.len()] {
            let mut lines = MetricLines::default();
            let mut found = lines.take(&text[..cut]);
            found.extend(lines.take(&text[cut..]));
            let found: Vec<String> = found.iter().map(|scalar| format!("{scalar:?}")).collect();
            let expected = [
                scalar("loss", 3, 0.5),
                scalar("val/acc", 3, 0.1),
                scalar("val/n", 3, 7.0),
                scalar("loss", 4, f64::NAN),
                scalar("scale", 4, f64::NEG_INFINITY),
            ];
            let expected = expected.map(|scalar| format!("{scalar:?}"));
            assert_eq!(found, expected, "cut at {cut}");
        }
    }

    #[test]
    fn a_line_without_end_keeps_memory_small() {
        let mut lines = MetricLines::default();
        let mut long = b"metric: ".to_vec();
        long.resize(1 << 20, b'x');
        assert!(lines.take(&long).is_empty());
        assert!(lines.partial.capacity() <= 2 * MAX_LINE_BYTES);
        assert_eq!(lines.take(b"\nmetric: a=1\n"), [scalar("a", 0, 1.0)]);
    }
}

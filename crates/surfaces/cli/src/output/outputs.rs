//! `muster get --list`: what an attempt left.

use rest::wire::{KeptView, OutputView, OutputsView};

use super::amounts::{bytes, plain};
use super::look::{Look, Mood};

/// Digits of a hash that are shown: enough to compare two by eye.
const HASH_DIGITS: usize = 16;

/// The list: a line per entry, then what was left out.
pub(crate) fn outputs(view: &OutputsView, look: &Look) -> String {
    let id = plain(&view.experiment);
    let mut text = look.bold(&format!("{id}  attempt {}", view.attempt));
    text.push('\n');
    let is_gang = view.entries.iter().any(|entry| entry.rank > 0);
    for entry in &view.entries {
        let rank = match is_gang {
            true => format!("rank {:<3} ", entry.rank),
            false => String::new(),
        };
        text.push_str(&format!("  {rank}{}\n", line(entry)));
    }
    if view.entries.is_empty() {
        text.push_str("  nothing was kept\n");
    }
    for line in &view.left_out {
        let head = look.paint(Mood::Busy, "not kept");
        text.push_str(&format!("  {head}: {}\n", plain(line)));
    }
    text
}

fn line(entry: &OutputView) -> String {
    let path = plain(&entry.path);
    match entry.kind.as_str() {
        "file" => {
            let digits = entry.hash.get(..HASH_DIGITS).unwrap_or(&entry.hash);
            let mark = if entry.executable { "*" } else { "" };
            format!(
                "{:>10}  {digits}  {:<5}  {path}{mark}",
                bytes(entry.bytes),
                entry.holds
            )
        }
        "link" => format!(
            "{:>10}  {:HASH_DIGITS$}  {:<5}  {path} -> {}",
            "link",
            "",
            "",
            plain(&entry.target)
        ),
        _ => format!("{:>10}  {:HASH_DIGITS$}  {:<5}  {path}/", "empty", "", ""),
    }
}

/// What was kept of a rank, in a line.
pub(crate) fn kept(kept: &KeptView) -> String {
    let files = if kept.files == 1 { "file" } else { "files" };
    format!("{} {files}, {}", kept.files, bytes(kept.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entry_has_a_line_and_what_is_missing_says_why() {
        let file = OutputView {
            path: "out/model.pt".into(),
            kind: "file".into(),
            holds: "model".into(),
            bytes: 2_048,
            hash: "0123456789abcdef0123".into(),
            ..OutputView::default()
        };
        let link = OutputView {
            path: "out/latest".into(),
            kind: "link".into(),
            target: "model.pt".into(),
            ..OutputView::default()
        };
        let view = OutputsView {
            experiment: "0a1b2c3d".into(),
            attempt: 1,
            entries: vec![file, link],
            left_out: vec!["big.bin (it is not there)".into()],
        };
        let text = outputs(&view, &Look::plain_at(0));
        let expected = "0a1b2c3d  attempt 1\n       2 KiB  0123456789abcdef  model  out/model.pt\n        link                           out/latest -> model.pt\n  not kept: big.bin (it is not there)\n";
        assert_eq!(text, expected, "{text}");
    }
}

//! `muster audit`, and the history of `muster show`.

use rest::wire::{LedgerEntryView, LedgerHead};

use super::amounts::{ago, plain};
use super::look::Look;
use super::sheet::{Sheet, cell};

/// The table of ledger entries.
pub(crate) fn ledger(entries: &[LedgerEntryView], look: &Look) -> String {
    let heads = ["NUMBER", "WHEN", "WHO", "WHAT", "EXPERIMENT", "DETAILS"];
    let mut sheet = Sheet::new(&heads, look);
    for entry in entries {
        sheet.row(vec![
            cell(entry.sequence.to_string()),
            cell(ago(look.now_ms, entry.at)),
            cell(&entry.author),
            cell(&entry.action),
            cell(entry.experiment.as_deref().unwrap_or("-")),
            cell(&entry.detail),
        ]);
    }
    sheet.text()
}

/// What a check of the whole history found, which was good.
pub(crate) fn audit_report(head: &LedgerHead, what: &str) -> String {
    let mut text = format!(
        "{what}: {} records, and none was changed, removed, added or moved\ncluster {}\nhead    {}\n",
        head.length, head.cluster, head.hash
    );
    for one in &head.attestations {
        text.push_str(&format!(
            "signed  by {} ({})\n",
            plain(&one.name),
            plain(&one.node)
        ));
    }
    for one in &head.silent {
        text.push_str(&format!(
            "not signed by {}: {}\n",
            plain(&one.name),
            plain(&one.why)
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_say_who_did_what_and_when() {
        let entry = LedgerEntryView {
            sequence: 7,
            at: 0,
            author: "ana@n1".into(),
            action: "submit".into(),
            experiment: Some("0a1b2c3d".into()),
            detail: "digits".into(),
        };
        let text = ledger(&[entry], &Look::plain_at(7_200_000));
        let expected = "\
NUMBER  WHEN     WHO     WHAT    EXPERIMENT  DETAILS
7       2 h ago  ana@n1  submit  0a1b2c3d    digits
";
        assert_eq!(text, expected, "\n{text}");
    }
}

//! `muster why`.

use rest::wire::WhyView;

use super::amounts::plain;
use super::look::{Look, Mood};
use super::sheet::{Sheet, cell, lines, word};

/// Why an experiment waits, runs where it runs, or ended.
pub(crate) fn why(view: &WhyView, look: &Look) -> String {
    let state = look.paint(Mood::of(&view.state), &plain(&view.state));
    let mut text = format!("{} is {state}: {}\n", plain(&view.id), plain(&view.summary));
    if view.position > 0 {
        text.push_str(&format!("place {} in the waiting order\n", view.position));
        for (head, what) in [("rule", &view.rule), ("start", &view.estimate)] {
            if !what.is_empty() {
                text.push_str(&format!("{head}: {}\n", plain(what)));
            }
        }
    }
    if !view.possible_ever {
        let warning = look.paint(Mood::Bad, "the cluster could never run it");
        text.push_str(&format!("{warning}, not even empty\n"));
    }
    for warning in &view.warnings {
        let head = look.paint(Mood::Busy, "warning:");
        text.push_str(&format!("{head} {}\n", plain(warning)));
    }
    if let Some(cause) = &view.cause {
        for evidence in &cause.evidence {
            text.push_str(&format!("  {}\n", plain(evidence)));
        }
        for advice in &cause.advice {
            text.push_str(&format!("advice: {}\n", plain(advice)));
        }
    }
    let besides = view.cause.iter().flat_map(|cause| &cause.findings);
    for finding in view.findings.iter().chain(besides) {
        let said = plain(&format!("{}: {}", finding.text, finding.evidence));
        let head = look.paint(Mood::Bad, "warning");
        text.push_str(&format!("{head}: {said}\n"));
        text.push_str(&format!("advice: {}\n", plain(&finding.advice)));
    }
    if view.nodes.is_empty() {
        return text;
    }
    text.push('\n');
    let mut sheet = Sheet::new(&["NODE", "VERDICT", "REASONS"], look);
    for node in &view.nodes {
        sheet.row(vec![
            cell(&node.node.name),
            word(&node.verdict),
            lines(&node.reasons),
        ]);
    }
    text.push_str(&sheet.text());
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use rest::wire::{CauseView, FindingView, NodeRefView, WhyNodeView};

    #[test]
    fn each_node_says_what_it_lacks() {
        let node = |name: &str, verdict: &str, reasons: &[&str]| WhyNodeView {
            node: NodeRefView {
                id: name.into(),
                name: name.into(),
            },
            verdict: verdict.into(),
            reasons: reasons.iter().map(|&reason| reason.to_owned()).collect(),
        };
        let view = WhyView {
            id: "0a1b2c3d".into(),
            state: "queued".into(),
            summary: "no node has 8 free cpus".into(),
            position: 2,
            rule: "class 0".into(),
            estimate: "in 1 h".into(),
            possible_ever: false,
            nodes: vec![
                node(
                    "n1",
                    "short",
                    &["needs 8 cpus, has 2 of 4 free", "needs 1 gpu, has none"],
                ),
                node("n2", "impossible", &["needs 8 cpus, has 4"]),
            ],
            warnings: vec!["holds 30 GiB".into()],
            cause: None,
            findings: vec![],
        };
        let text = why(&view, &Look::plain_at(0));
        let expected = "\
0a1b2c3d is queued: no node has 8 free cpus
place 2 in the waiting order
rule: class 0
start: in 1 h
the cluster could never run it, not even empty
warning: holds 30 GiB

NODE  VERDICT     REASONS
n1    short       needs 8 cpus, has 2 of 4 free
                  needs 1 gpu, has none
n2    impossible  needs 8 cpus, has 4
";
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn an_end_shows_its_evidence_what_to_do_and_what_was_seen_besides() {
        let finding = FindingView {
            kind: "nan-loss".into(),
            text: "the loss became NaN".into(),
            evidence: "metric loss is NaN since step 3".into(),
            advice: "clip gradients".into(),
        };
        let view = WhyView {
            id: "0a1b2c3d".into(),
            state: "failed".into(),
            summary: "import failed: einops".into(),
            position: 0,
            rule: String::new(),
            estimate: String::new(),
            possible_ever: true,
            nodes: vec![],
            warnings: vec![],
            cause: Some(CauseView {
                kind: "import-failed".into(),
                text: "import failed: einops".into(),
                evidence: vec!["exit code 1 after 2 s".into()],
                exit_code: 1,
                advice: vec!["add it".into()],
                findings: vec![finding],
            }),
            findings: vec![],
        };
        let text = why(&view, &Look::plain_at(0));
        let expected = "\
0a1b2c3d is failed: import failed: einops
  exit code 1 after 2 s
advice: add it
warning: the loss became NaN: metric loss is NaN since step 3
advice: clip gradients
";
        assert_eq!(text, expected, "\n{text}");
    }
}

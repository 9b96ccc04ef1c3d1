use super::*;
use crate::output::experiments::tests::summary;
use rest::wire::{EnvironmentView, FindingView, KeptView, LedgerEntryView, NodeRefView};

fn node(name: &str) -> NodeRefView {
    NodeRefView {
        id: name.into(),
        name: name.into(),
    }
}

fn lost_attempt() -> AttemptView {
    AttemptView {
        number: 1,
        nodes: vec![node("n2")],
        ranks: Vec::new(),
        mirror: Some(node("n3")),
        reason: "fewest left over".into(),
        placed_at: 1_005_000,
        started_at: Some(1_010_000),
        ended_at: Some(1_070_000),
        cause: Some(CauseView {
            kind: "node-lost".into(),
            text: "the node was lost".into(),
            evidence: vec!["no report for 45 s".into()],
            exit_code: 1,
            advice: vec!["look at its power".into()],
            findings: vec![FindingView {
                kind: "leak-suspected".into(),
                text: "memory leak suspected".into(),
                evidence: "memory grew by 1 MiB per minute".into(),
                advice: "keep less".into(),
            }],
        }),
        late: None,
        lease_ms: 30_000,
        peak_memory_bytes: 3 << 29,
        cpu_ms: 61_000,
        tree_kill_method: String::new(),
        outputs: vec![KeptView {
            rank: 0,
            files: 1,
            bytes: 4_096,
            left_out: vec!["log.txt (it is not there)".into()],
            tree: "00".into(),
        }],
        segments: 2,
        record_bytes: 2_048,
        warnings: Vec::new(),
    }
}

fn detail() -> ExperimentDetail {
    let words = ["python3", "train.py", "--lr", "0.05"];
    ExperimentDetail {
        summary: summary("0a1b2c3d", "queued"),
        submitted_by: "ana@n1".into(),
        command: words.map(str::to_owned).to_vec(),
        filled_command: words.map(str::to_owned).to_vec(),
        origin: None,
        stop_when: String::new(),
        outputs: vec!["out".into(), "log.txt".into()],
        working_directory: "examples/digits".into(),
        variables: vec![("SEED".into(), "1".into())],
        parameters: vec![],
        source: Some(SourceView {
            tree: "00".into(),
            files: 12,
            bytes: 4_096,
            revision: "0123456789abcdef+".into(),
            remote: "https://example.org/x.git".into(),
        }),
        environment: Some(EnvironmentView {
            spec: "00".into(),
            summary: "uv.lock, 3 packages, with hashes".into(),
        }),
        resources: ResourcesView {
            gpu_models: vec!["H100".into(), "A100".into()],
            ..ResourcesView::default()
        },
        retries_node_lost: 3,
        retries_failed: 0,
        time_limit_ms: 7_200_000,
        priority: 5,
        attempts: vec![lost_attempt()],
        cause: None,
        stop_requested_by: None,
        history: vec![LedgerEntryView {
            sequence: 1,
            at: 1_000_000,
            author: "ana@n1".into(),
            action: "submit".into(),
            experiment: Some("0a1b2c3d".into()),
            detail: String::new(),
        }],
    }
}

#[test]
fn the_page_says_what_where_why_and_how_it_went() {
    let used = [("memory", "1.2 GiB of 4 GiB (30 %) at most".to_owned())];
    let text = experiment_page(&detail(), &used, &Look::plain_at(1_200_000));
    let expected = "\
digits  0a1b2c3d  queued
  why           needs 8 cpus, 4 are free
  command       python3 train.py --lr 0.05
  directory     examples/digits
  needs         1 cpus, 1 GiB memory, gpu model H100 or A100
  code          commit 0123456789ab with changes of https://example.org/x.git, 12 files, 4 KiB
  packages      uv.lock, 3 packages, with hashes
  variables     SEED=1
  keeps         out, log.txt
  submitted     3 min ago by ana@n1
  queue         default, priority 5
  limits        retries: 3 for lost nodes, 0 for own failures; time: 2 h 0 min

Attempt 1
  where         n2, records mirrored on n3
  why there     fewest left over
  placed        3 min ago
  started       3 min ago, ran 1 min 0 s
  used          1.5 GiB memory at most, 1 min 1 s processor time
  records       2 KiB in 2 sealed segments
  outputs       1 file, 4 KiB
    not kept    log.txt (it is not there)
  ended         the node was lost (exit code 1)
    evidence    no report for 45 s
    advice      look at its power
    also        memory leak suspected: memory grew by 1 MiB per minute
    advice      keep less

Resources of attempt 1
  memory        1.2 GiB of 4 GiB (30 %) at most

History
  3 min ago     submit by ana@n1
";
    assert_eq!(text, expected, "\n{text}");
}

#[test]
fn an_end_shows_its_exit_code_and_who_stopped_it() {
    let mut detail = detail();
    detail.stop_requested_by = Some("bo".into());
    detail.cause = Some(CauseView {
        kind: "stopped".into(),
        text: "stopped by bo".into(),
        evidence: vec![],
        exit_code: 143,
        advice: vec![],
        findings: vec![],
    });
    let text = experiment_page(&detail, &[], &Look::plain_at(1_200_000));
    assert!(text.contains("  stop asked by bo\n"), "{text}");
    assert!(
        text.contains("  ended         stopped by bo, exit code 143\n"),
        "{text}"
    );
}

#[test]
fn a_warning_is_told_with_its_attempt() {
    let mut detail = detail();
    detail.attempts[0].warnings = vec!["holds 30 GiB of GPU 0".into()];
    let text = experiment_page(&detail, &[], &Look::plain_at(1_200_000));
    assert!(
        text.contains("  warning       holds 30 GiB of GPU 0\n"),
        "{text}"
    );
}

//! What the state holds of an experiment, as people see it.

use state_machine::{
    Attempt, AttemptEnd, ClusterState, Experiment, ExperimentPhase, LedgerEntry, RankRecord,
};
use types::{Cause, CauseKind, Finding, NodeId};

use crate::outputs::kept_views;
use crate::overuse;
use crate::view::{AttemptView, CauseView, FindingView, LedgerEntryView, NodeRefView, RankView};

/// Where an experiment stands, in one word.
pub(crate) fn state_word(experiment: &Experiment) -> &'static str {
    match &experiment.phase {
        ExperimentPhase::Queued { .. } => "queued",
        ExperimentPhase::Active
            if experiment.stop_requested.is_some() || experiment.yields.is_some() =>
        {
            "stopping"
        }
        ExperimentPhase::Active => {
            let attempt = experiment.current_attempt();
            if attempt.is_some_and(|attempt| attempt.broken_by().is_some()) {
                "stopping"
            } else if attempt.is_some_and(|attempt| attempt.all_started_at().is_some()) {
                "running"
            } else {
                "placed"
            }
        }
        ExperimentPhase::Ended { cause, .. } => match cause.kind {
            CauseKind::Finished => "finished",
            CauseKind::Stopped { .. } | CauseKind::RuleMet { .. } => "stopped",
            _ => "failed",
        },
    }
}

/// Who or what limit keeps it from being placed whatever room there is; none: nobody does.
pub(crate) fn not_before(state: &ClusterState, experiment: &Experiment) -> Option<String> {
    let over = || state.over_limit(experiment).map(|over| over.to_string());
    let why = state.held(experiment).or_else(over)?;
    Some(with_names(state, &why))
}

/// Why it is where it is.
pub(crate) fn reason(state: &ClusterState, experiment: &Experiment) -> String {
    match &experiment.phase {
        ExperimentPhase::Queued { .. } => {
            not_before(state, experiment).unwrap_or_else(|| "waits for a place".to_owned())
        }
        ExperimentPhase::Active => {
            let Some(attempt) = experiment.current_attempt() else {
                return String::new();
            };
            let nodes = attempt
                .ranks
                .iter()
                .map(|rank| node_ref(state, &rank.placement.node).name);
            let goes = experiment.yields.as_ref();
            let goes = goes.map(|other| format!("makes room for {}", other.to));
            format!(
                "attempt {} on {}: {}",
                attempt.token.attempt,
                nodes.collect::<Vec<_>>().join(", "),
                goes.as_ref().unwrap_or(&attempt.reason)
            )
        }
        ExperimentPhase::Ended { cause, .. } if cause.is_node_failure() => {
            format!(
                "{cause} ({} attempts lost with their machine)",
                experiment.nodes_lost()
            )
        }
        ExperimentPhase::Ended { cause, .. } => {
            let text = cause.to_string() + &broken_by(experiment);
            with_names(state, &text)
        }
    }
}

/// ` (rank 2 on 3GmFYWCd)`, where the end of a rank was that of its experiment, or nothing.
fn broken_by(experiment: &Experiment) -> String {
    let attempt = experiment.attempts.last().filter(|attempt| {
        let asked = experiment.stop_requested.is_some();
        attempt.is_gang() && !asked
    });
    let broken = attempt.and_then(|attempt| {
        let (rank, _) = attempt.broken_by()?;
        Some((rank, attempt.rank(rank)?.placement.node.short()))
    });
    broken.map_or_else(String::new, |(rank, node)| {
        format!(" (rank {rank} on {node})")
    })
}

pub(crate) fn node_ref(state: &ClusterState, node: &NodeId) -> NodeRefView {
    let name = state.node(node).map_or_else(
        || node.short().to_owned(),
        |record| record.facts.name.clone(),
    );
    NodeRefView {
        id: node.to_string(),
        name,
    }
}

pub(crate) fn attempt_view(state: &ClusterState, attempt: &Attempt) -> AttemptView {
    let end = attempt.end.as_ref();
    AttemptView {
        number: attempt.token.attempt,
        nodes: attempt
            .ranks
            .iter()
            .map(|rank| node_ref(state, &rank.placement.node))
            .collect(),
        ranks: match attempt.is_gang() {
            true => attempt
                .numbered()
                .map(|(number, rank)| rank_view(state, number, rank))
                .collect(),
            false => Vec::new(),
        },
        mirror: attempt.mirror.as_ref().map(|node| node_ref(state, node)),
        reason: attempt.reason.clone(),
        placed_at: attempt.placed_at.0,
        started_at: attempt.all_started_at().map(|at| at.0),
        ended_at: end.map(|end| end.at.0),
        cause: end.map(|end| named_cause_view(state, &end.cause)),
        late: attempt
            .late
            .as_ref()
            .map(|late: &AttemptEnd| cause_view(&late.cause)),
        lease_ms: attempt.lease_ms.0,
        peak_memory_bytes: end.map_or(0, |end| end.peak_memory_bytes),
        cpu_ms: end.map_or(0, |end| end.cpu_ms.0),
        tree_kill_method: end
            .map(|end| end.tree_kill_method.clone())
            .unwrap_or_default(),
        outputs: kept_views(attempt),
        segments: attempt.segments.len() as u64,
        record_bytes: attempt
            .segments
            .iter()
            .map(|segment| segment.summary.bytes)
            .sum::<u64>()
            + attempt.inline_records.len() as u64,
        warnings: overuse::of_attempt(state, attempt),
    }
}

fn rank_view(state: &ClusterState, number: u32, rank: &RankRecord) -> RankView {
    let end = rank.end.as_ref();
    RankView {
        rank: number,
        node: node_ref(state, &rank.placement.node),
        started_at: rank.started_at.map(|at| at.0),
        ended_at: end.map(|end| end.at.0),
        cause: end.map(|end| named_cause_view(state, &end.cause)),
    }
}

/// The same with the names of nodes instead of the ends of their ids.
pub(crate) fn named_cause_view(state: &ClusterState, cause: &Cause) -> CauseView {
    let view = cause_view(cause);
    let evidence = view
        .evidence
        .iter()
        .map(|line| with_names(state, line))
        .collect();
    CauseView {
        text: with_names(state, &view.text),
        evidence,
        ..view
    }
}

/// A text of the state for people: `root@3GmFYWCd` becomes `root@berta`, where that node is a member.
pub(crate) fn with_names(state: &ClusterState, text: &str) -> String {
    let known = state
        .nodes()
        .filter(|node| text.contains(node.node.short()));
    known.fold(text.to_owned(), |text, node| {
        text.replace(node.node.short(), &node.facts.name)
    })
}

pub(crate) fn cause_view(cause: &Cause) -> CauseView {
    CauseView {
        kind: kind_word(&cause.kind).to_owned(),
        text: cause.to_string(),
        evidence: cause.evidence.clone(),
        exit_code: cause.exit_code(),
        advice: cause.advice.clone(),
        findings: cause.findings.iter().map(finding_view).collect(),
    }
}

pub(crate) fn finding_view(finding: &Finding) -> FindingView {
    FindingView {
        kind: kind_word(&finding.kind).to_owned(),
        text: finding.kind.to_string(),
        evidence: finding.evidence.clone(),
        advice: finding.advice.clone(),
    }
}

fn kind_word(kind: &CauseKind) -> &'static str {
    match kind {
        CauseKind::Finished => "finished",
        CauseKind::ExitCode(_) => "exit-code",
        CauseKind::Signal(_) => "signal",
        CauseKind::CommandNotFound { .. } => "command-not-found",
        CauseKind::SourceTree => "source-tree",
        CauseKind::HostOutOfMemory => "host-out-of-memory",
        CauseKind::DiskFull => "disk-full",
        CauseKind::Stopped { .. } => "stopped",
        CauseKind::NodeLost => "node-lost",
        CauseKind::LeaseExpired => "lease-expired",
        CauseKind::TimeLimit => "time-limit",
        CauseKind::NodeRestarted => "node-restarted",
        CauseKind::HolderFailed => "holder-failed",
        CauseKind::RefusedByNode => "refused-by-node",
        CauseKind::Moved { .. } => "moved",
        CauseKind::HistoryReplaced => "history-replaced",
        CauseKind::Preempted { .. } => "preempted",
        CauseKind::VramOveruse => "vram-overuse",
        CauseKind::RankEnded { .. } => "rank-ended",
        CauseKind::GpuFailed { .. } => "gpu-failed",
        CauseKind::PermissionDenied { .. } => "permission-denied",
        CauseKind::CudaOutOfMemory => "cuda-out-of-memory",
        CauseKind::GpuXid { .. } => "gpu-xid",
        CauseKind::NanLoss => "nan-loss",
        CauseKind::NoProgress => "no-progress",
        CauseKind::NcclTimeout => "nccl-timeout",
        CauseKind::ImportFailed { .. } => "import-failed",
        CauseKind::EnvironmentBuild => "environment-build",
        CauseKind::LeakSuspected => "leak-suspected",
        CauseKind::DataStarved => "data-starved",
        CauseKind::GpuUnderused => "gpu-underused",
        CauseKind::RuleMet { .. } => "rule-met",
    }
}

pub(crate) fn ledger_view(state: &ClusterState, entry: &LedgerEntry) -> LedgerEntryView {
    LedgerEntryView {
        sequence: entry.sequence,
        at: entry.at.0,
        author: with_names(state, &entry.author),
        action: kebab(&format!("{:?}", entry.action)),
        experiment: entry.experiment.map(|id| id.to_string()),
        detail: with_names(state, &entry.detail),
    }
}

/// `AttemptPlaced` becomes `attempt-placed`.
fn kebab(camel: &str) -> String {
    let mut text = String::with_capacity(camel.len() + 4);
    for (at, letter) in camel.char_indices() {
        if letter.is_ascii_uppercase() && at > 0 {
            text.push('-');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

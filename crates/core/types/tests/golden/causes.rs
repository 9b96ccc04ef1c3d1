//! Why attempts ended.

use types::{Cause, CauseKind, Finding};

use super::hold;

#[test]
fn causes() {
    let kinds = [
        ("cause-finished", CauseKind::Finished),
        ("cause-exit-code", CauseKind::ExitCode(-1)),
        ("cause-signal", CauseKind::Signal(9)),
        (
            "cause-command-not-found",
            CauseKind::CommandNotFound {
                command: "x".to_owned(),
            },
        ),
        ("cause-source-tree", CauseKind::SourceTree),
        ("cause-host-out-of-memory", CauseKind::HostOutOfMemory),
        ("cause-disk-full", CauseKind::DiskFull),
        (
            "cause-stopped",
            CauseKind::Stopped {
                by: "ann@box1".to_owned(),
            },
        ),
        ("cause-node-lost", CauseKind::NodeLost),
        ("cause-lease-expired", CauseKind::LeaseExpired),
        ("cause-time-limit", CauseKind::TimeLimit),
        ("cause-node-restarted", CauseKind::NodeRestarted),
        ("cause-holder-failed", CauseKind::HolderFailed),
        ("cause-refused-by-node", CauseKind::RefusedByNode),
        (
            "cause-moved",
            CauseKind::Moved {
                by: "ann@nodea".to_owned(),
            },
        ),
        ("cause-history-replaced", CauseKind::HistoryReplaced),
    ];
    let causes = kinds.map(|(name, kind)| (name, Cause::new(kind, vec!["line".to_owned()])));
    hold(&causes);
}

#[test]
fn diagnosed_causes() {
    let what = || "x".to_owned();
    let kinds = [
        ("cause-preempted", CauseKind::Preempted { by: what() }),
        ("cause-vram-overuse", CauseKind::VramOveruse),
        ("cause-rank-ended", CauseKind::RankEnded { rank: 3 }),
        (
            "cause-gpu-failed",
            CauseKind::GpuFailed {
                gpu: 2,
                problem: what(),
            },
        ),
        (
            "cause-permission-denied",
            CauseKind::PermissionDenied { what: what() },
        ),
        ("cause-cuda-out-of-memory", CauseKind::CudaOutOfMemory),
        ("cause-gpu-xid", CauseKind::GpuXid { xid: 31 }),
        ("cause-nan-loss", CauseKind::NanLoss),
        ("cause-no-progress", CauseKind::NoProgress),
        ("cause-nccl-timeout", CauseKind::NcclTimeout),
        (
            "cause-import-failed",
            CauseKind::ImportFailed { what: what() },
        ),
        ("cause-environment-build", CauseKind::EnvironmentBuild),
        ("cause-leak-suspected", CauseKind::LeakSuspected),
        ("cause-data-starved", CauseKind::DataStarved),
        ("cause-gpu-underused", CauseKind::GpuUnderused),
        ("cause-rule-met", CauseKind::RuleMet { rule: what() }),
    ];
    let causes = kinds.map(|(name, kind)| {
        let cause = Cause {
            advice: vec!["do".to_owned()],
            findings: vec![Finding {
                kind: kind.clone(),
                evidence: "seen".to_owned(),
                advice: "look".to_owned(),
            }],
            shell_code: Some(1),
            ..Cause::new(kind, vec!["line".to_owned()])
        };
        (name, cause)
    });
    hold(&causes);
}

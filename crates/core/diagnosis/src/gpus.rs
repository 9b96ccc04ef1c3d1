//! What only the node knows: what happened to the GPUs of an attempt while it ran, and who else is on them.

use types::{Bytes, Cause, CauseKind};

use crate::GpuFacts;
use crate::advice::advice;
use crate::xid::xid_meaning;

/// Holders of a GPU that are told: more would crowd out the rest.
const MAX_HOLDERS: usize = 3;

/// Whether what the driver tells can say more of this end: of one that muster made, that went well, or that names something
/// else, it changes nothing.
#[must_use]
pub fn may_be_of_gpus(cause: &Cause) -> bool {
    matches!(
        cause.kind,
        CauseKind::ExitCode(_)
            | CauseKind::Signal(_)
            | CauseKind::CudaOutOfMemory
            | CauseKind::NanLoss
            | CauseKind::NcclTimeout
    )
}

/// The cause with what the node knows of the attempt's GPUs: one that failed, or an error that its driver reported, is why
/// it ended, if [`may_be_of_gpus`].
#[must_use]
pub fn with_gpus(cause: Cause, gpus: &[GpuFacts]) -> Cause {
    if !may_be_of_gpus(&cause) {
        return cause;
    }
    if let Some((gpu, problem)) = gpus.iter().find_map(broken) {
        let line = format!("{}: {problem}", named(gpu));
        let kind = CauseKind::GpuFailed {
            gpu: gpu.number,
            problem,
        };
        return instead(cause, kind, line);
    }
    if cause.kind == CauseKind::CudaOutOfMemory {
        return with_holders(cause, gpus);
    }
    match gpus.iter().find_map(|gpu| Some((gpu, first_known(gpu)?))) {
        Some((gpu, xid)) => {
            let meaning = xid_meaning(xid).map_or("", |known| known.meaning);
            let line = format!("{}: XID {xid}: {meaning}", named(gpu));
            instead(cause, CauseKind::GpuXid { xid }, line)
        }
        None => cause,
    }
}

/// The first event that says why; others follow from it. That its work was taken off it (45) follows from any end.
fn first_known(gpu: &GpuFacts) -> Option<u32> {
    let mut known = gpu.xids.iter().copied();
    known.find(|xid| *xid != 45 && xid_meaning(*xid).is_some())
}

fn broken(gpu: &GpuFacts) -> Option<(&GpuFacts, String)> {
    let meanings = gpu
        .xids
        .iter()
        .filter_map(|xid| Some((*xid, xid_meaning(*xid)?)));
    let by_event = meanings
        .filter(|(_, known)| known.is_broken)
        .map(|(xid, known)| format!("XID {xid}: {}; {}", known.meaning, known.remedy))
        .next();
    Some((gpu, by_event.or_else(|| gpu.problem.clone())?))
}

fn instead(cause: Cause, kind: CauseKind, line: String) -> Cause {
    let mut evidence = vec![line];
    evidence.extend(cause.evidence);
    let whole = Cause {
        advice: advice(&kind),
        kind,
        evidence,
        ..cause
    };
    whole.cut()
}

/// `GPU 3 (NVIDIA H100, GPU-5a2c)`.
fn named(gpu: &GpuFacts) -> String {
    let known = [gpu.model.as_str(), gpu.uuid.as_str()].into_iter();
    let known: Vec<&str> = known.filter(|text| !text.is_empty()).collect();
    match known.is_empty() {
        true => format!("GPU {}", gpu.number),
        false => format!("GPU {} ({})", gpu.number, known.join(", ")),
    }
}

fn with_holders(cause: Cause, gpus: &[GpuFacts]) -> Cause {
    let mut evidence = cause.evidence.clone();
    for gpu in gpus.iter().filter(|gpu| !gpu.holders.is_empty()) {
        let holders: Vec<&str> = gpu
            .holders
            .iter()
            .take(MAX_HOLDERS)
            .map(String::as_str)
            .collect();
        let line = format!(
            "{} has {} of {} in use after it ended, by {}",
            named(gpu),
            Bytes(gpu.vram_used_bytes),
            Bytes(gpu.vram_total_bytes),
            holders.join(", ")
        );
        // After how it ended, before what it said.
        evidence.insert(1.min(evidence.len()), line);
    }
    cause.with_evidence(evidence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(xids: &[u32]) -> GpuFacts {
        GpuFacts {
            number: 3,
            model: "NVIDIA H100".to_owned(),
            uuid: "GPU-5a2c".to_owned(),
            xids: xids.to_vec(),
            ..GpuFacts::default()
        }
    }

    fn exit() -> Cause {
        Cause {
            shell_code: Some(1),
            ..Cause::new(CauseKind::ExitCode(1), vec!["code 1".to_owned()])
        }
    }

    #[test]
    fn what_the_driver_reported_is_why() {
        let lost = with_gpus(exit(), &[gpu(&[]), gpu(&[45, 79])]);
        let CauseKind::GpuFailed { gpu: 3, problem } = &lost.kind else {
            panic!("{lost:?}");
        };
        assert!(problem.contains("fallen off the bus"), "{problem}");
        assert!(
            lost.evidence[0].starts_with("GPU 3 (NVIDIA H100, GPU-5a2c): XID 79"),
            "{lost:?}"
        );
        assert_eq!(lost.evidence[1], "code 1");
        assert!(lost.is_node_failure());
        let program = with_gpus(exit(), &[gpu(&[13, 45])]);
        assert_eq!(program.kind, CauseKind::GpuXid { xid: 13 });
        assert!(
            program.advice[0].contains("CUDA_LAUNCH_BLOCKING"),
            "{program:?}"
        );
        assert!(!program.is_node_failure());
        assert_eq!(program.exit_code(), 1);
    }

    #[test]
    fn a_gpu_that_no_driver_lists_any_more_is_why_with_its_name() {
        let gone = GpuFacts {
            model: String::new(),
            problem: Some("it is gone".to_owned()),
            ..gpu(&[])
        };
        let cause = with_gpus(exit(), &[gone]);
        assert_eq!(cause.evidence[0], "GPU 3 (GPU-5a2c): it is gone");
        assert!(cause.is_node_failure(), "{cause:?}");
    }

    #[test]
    fn what_says_nothing_changes_nothing() {
        for xids in [&[][..], &[45], &[7, 999]] {
            assert_eq!(with_gpus(exit(), &[gpu(xids)]), exit());
        }
        let done = Cause::new(CauseKind::Finished, vec!["well".to_owned()]);
        assert_eq!(with_gpus(done.clone(), &[gpu(&[79])]), done);
    }

    #[test]
    fn who_else_holds_the_memory_is_told() {
        let full = GpuFacts {
            vram_used_bytes: 20 << 30,
            vram_total_bytes: 24 << 30,
            holders: vec!["python (pid 7, ann): 20 GiB".to_owned()],
            ..gpu(&[])
        };
        let cause = Cause::new(CauseKind::CudaOutOfMemory, vec!["code 1".to_owned()]);
        let cause = with_gpus(cause, &[full]);
        assert_eq!(
            cause.evidence[1],
            "GPU 3 (NVIDIA H100, GPU-5a2c) has 20 GiB of 24 GiB in use after it ended, by python (pid 7, ann): 20 GiB"
        );
    }
}

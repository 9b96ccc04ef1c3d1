//! What happened to the GPUs of an attempt of this node, for the diagnosis of its end.

use std::time::Duration;

use diagnosis::{GpuFacts, may_be_of_gpus, with_gpus, xid_meaning};
use executor::{BookedGpu, GpuTenant};
use telemetry::{GpuDetail, GpuProcess};
use tokio::time::{interval, timeout};
use types::{AttemptToken, Bytes, Cause, GpuShare, Timestamp};

use crate::gpu_watch::VANISHED;
use crate::handle::Handle;

/// Answers of the driver after an end that show what happened to a GPU: the first may be from before.
const LOOKS: u64 = 2;
/// How long the report of an end waits for them: a driver that hangs must not keep an end from being told.
const LOOK_PATIENCE: Duration = Duration::from_secs(6);
/// Time between two looks for a new answer.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Thousandths of a whole GPU.
const WHOLE_MILLI: u64 = 1_000;

impl Handle {
    /// The cause of an end that was not muster's doing, with what the driver told of the attempt's GPUs since it started:
    /// a program whose GPU fails dies with some exit code, before the driver has told of the failure. So the driver is
    /// heard first.
    pub async fn with_gpu_facts(
        &self,
        token: AttemptToken,
        started_at: Timestamp,
        cause: Cause,
    ) -> Cause {
        let Some(GpuTenant { terms, .. }) = self.executor().gpu_tenant(&token) else {
            return cause;
        };
        let telemetry = &self.inner.telemetry;
        let first = telemetry.gpu_look();
        if terms.gpus.is_empty() || !may_be_of_gpus(&cause) || first.age.is_none() {
            return cause;
        }
        let new_answers = async {
            let mut looks = interval(LOOK_INTERVAL);
            while telemetry.gpu_look().number < first.number + LOOKS {
                looks.tick().await;
            }
        };
        if timeout(LOOK_PATIENCE, new_answers).await.is_err() {
            tracing::warn!(%token, "the driver does not say what happened to its GPUs");
        }
        let details = telemetry.gpu_details();
        if telemetry.gpu_look().age.is_none() {
            return cause; // The driver as a whole is gone: that says nothing of a GPU.
        }
        let gpus = terms.gpus.iter();
        let facts = gpus.filter_map(|gpu| facts_of(token, started_at, gpu, &details));
        with_gpus(cause, &facts.collect::<Vec<_>>())
    }
}

/// None of a GPU that is only declared: nobody says anything of it.
fn facts_of(
    token: AttemptToken,
    since: Timestamp,
    gpu: &BookedGpu,
    details: &[GpuDetail],
) -> Option<GpuFacts> {
    // By its name: a node process that started anew may count otherwise.
    let uuid = gpu.uuid.as_ref()?;
    match details.iter().find(|detail| detail.uuid == *uuid) {
        Some(detail) => Some(facts(token, since, &gpu.share, detail)),
        None => Some(GpuFacts {
            number: gpu.share.index.0,
            uuid: uuid.clone(),
            problem: Some(VANISHED.to_owned()),
            ..GpuFacts::default()
        }),
    }
}

fn facts(token: AttemptToken, since: Timestamp, share: &GpuShare, gpu: &GpuDetail) -> GpuFacts {
    let name = token.to_string();
    let others = gpu.processes.iter();
    let others = others.filter(|process| process.attempt.as_deref() != Some(name.as_str()));
    let events = std::iter::zip(&gpu.xids, &gpu.xids_at);
    let during = events.filter(|(_, at)| **at >= since.0);
    let numbers = during.filter_map(|(xid, _)| u32::try_from(*xid).ok());
    // The driver does not tell whose kernel went wrong: on a GPU that others share, or have instances of, it may be theirs.
    let is_alone = share.milli >= WHOLE_MILLI && gpu.part_of.is_none();
    let is_broken = |xid: u32| xid_meaning(xid).is_some_and(|known| known.is_broken);
    GpuFacts {
        number: share.index.0,
        model: gpu.model.clone(),
        uuid: gpu.uuid.clone(),
        xids: numbers.filter(|xid| is_alone || is_broken(*xid)).collect(),
        problem: gpu.problem.clone(),
        vram_total_bytes: gpu.vram_total_bytes,
        vram_used_bytes: gpu.vram_used_bytes,
        holders: others.filter_map(holder).collect(),
    }
}

/// None of a process that holds nothing.
fn holder(process: &GpuProcess) -> Option<String> {
    let held = Bytes(process.vram_bytes.filter(|bytes| *bytes > 0)?);
    let name = process.name.as_deref().unwrap_or("a process");
    let whose = match (&process.attempt, &process.user) {
        (Some(attempt), _) => format!(", {attempt}"),
        (None, Some(user)) => format!(", {user}, not of muster"),
        (None, None) => String::new(),
    };
    Some(format!("{name} (pid {}{whose}): {held}", process.pid))
}

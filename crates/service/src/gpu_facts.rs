//! What happened to the GPUs of an attempt of this node, for the diagnosis of its end.

use std::time::Duration;

use diagnosis::{GpuFacts, may_be_of_gpus, with_gpus, xid_meaning};
use telemetry::{GpuDetail, GpuProcess, MachineSample};
use tokio::time::{MissedTickBehavior, interval, timeout};
use types::{AttemptToken, Bytes, Cause, GpuShare, Timestamp};

use crate::handle::Handle;

/// How long a report waits for a look at the GPUs that is younger than the end: they are looked at each second, and a
/// driver that hangs must not keep an end from being told.
const LOOK_PATIENCE: Duration = Duration::from_secs(3);
/// How often that is tried.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Thousandths of a whole GPU.
const WHOLE_MILLI: u64 = 1_000;

impl Handle {
    /// The cause of an end with what the driver told of the attempt's GPUs while it ran.
    pub async fn with_gpu_facts(
        &self,
        token: AttemptToken,
        (started_at, ended_at): (Timestamp, Timestamp),
        cause: Cause,
    ) -> Cause {
        let shares = self.gpu_shares(token);
        let has_driver = self.inner.telemetry.machine().gpus_age_ms.is_some();
        if shares.is_empty() || !may_be_of_gpus(&cause) || !has_driver {
            return cause;
        }
        let look = self.look_after(ended_at);
        if timeout(LOOK_PATIENCE, look).await.is_err() {
            tracing::warn!(%token, "the GPUs were not looked at since it ended");
        }
        let machine = self.inner.telemetry.machine();
        let facts = shares.iter().filter_map(|share| {
            let place = usize::try_from(share.index.0).ok()?; // no machine has more
            Some(facts(token, started_at, share, machine.gpus.get(place)?))
        });
        with_gpus(cause, &facts.collect::<Vec<_>>())
    }

    /// What was booked for it here; nothing if it is not wanted any more.
    fn gpu_shares(&self, token: AttemptToken) -> Vec<GpuShare> {
        let wanted = self.inner.wanted.borrow();
        let attempts = wanted.iter().flat_map(|(set, _confirmed)| &set.attempts);
        let mut mine = attempts.filter(|attempt| attempt.token == token);
        let booked = mine.next().map(|attempt| attempt.resources.gpus.clone());
        booked.unwrap_or_default()
    }

    async fn look_after(&self, at: Timestamp) {
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while looked_at(&self.inner.telemetry.machine()) <= at {
            looks.tick().await;
        }
    }
}

fn looked_at(machine: &MachineSample) -> Timestamp {
    let age_ms = machine.gpus_age_ms.unwrap_or_default();
    Timestamp(machine.taken_at.saturating_sub(age_ms))
}

fn facts(token: AttemptToken, since: Timestamp, share: &GpuShare, gpu: &GpuDetail) -> GpuFacts {
    let name = token.to_string();
    let others = gpu.processes.iter();
    let others = others.filter(|process| process.attempt.as_deref() != Some(name.as_str()));
    let events = std::iter::zip(&gpu.xids, &gpu.xids_at);
    let during = events.filter(|(_, at)| **at >= since.0);
    let numbers = during.filter_map(|(xid, _)| u32::try_from(*xid).ok());
    // The driver does not tell whose kernel went wrong: on a GPU that others share it may be theirs.
    let is_alone = share.milli >= WHOLE_MILLI;
    let is_broken = |xid: u32| xid_meaning(xid).is_some_and(|known| known.is_broken);
    GpuFacts {
        number: share.index.0,
        model: gpu.model.clone(),
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

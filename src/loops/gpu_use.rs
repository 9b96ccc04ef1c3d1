//! What attempts use of the GPUs: the driver is open here, their records are written by their holders.

use std::time::Duration;

use service::Handle;
use telemetry::OwnTree;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// As often as the GPUs are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Older figures of a driver that hangs are told to nobody.
const OLD_MS: u64 = 3_000;

/// Tells telemetry whose processes are whose, and the holders what theirs use.
pub(crate) async fn run(handle: Handle, telemetry: telemetry::Handle, cancel: CancellationToken) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = looks.tick() => {}
        }
        let trees = handle.executor().trees();
        let own = trees.iter().map(|(token, root_pid)| OwnTree {
            attempt: token.to_string(),
            root_pid: *root_pid,
        });
        telemetry.set_trees(own.collect());
        let age_ms = telemetry.machine().gpus_age_ms;
        if trees.is_empty() || age_ms.is_none_or(|age_ms| age_ms > OLD_MS) {
            continue;
        }
        let used = telemetry.attempts_gpus();
        for (token, _root_pid) in &trees {
            let name = token.to_string();
            let Some(used) = used.iter().find(|used| used.attempt == name) else {
                continue; // It began after the last look at the GPUs.
            };
            let told =
                handle
                    .executor()
                    .tell_gpus(token, used.vram_bytes, used.utilisation_percent);
            if let Err(error) = told {
                tracing::debug!(%token, %error, "its use of the GPUs is not told: it has ended");
            }
        }
    }
}

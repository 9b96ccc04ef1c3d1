//! Telemetry to gossip.

use bytes::Bytes;
use service::Handle;
use tokio_util::sync::CancellationToken;
use types::codec;

/// Publishes each report of this node, and takes it in itself.
pub(crate) async fn run(handle: Handle, telemetry: telemetry::Handle, cancel: CancellationToken) {
    let mut latest = telemetry.latest();
    loop {
        let mut report = latest.borrow_and_update().as_ref().clone();
        if let Some(problem) = handle.consensus().disk_problem() {
            report.warnings.push(problem);
            report.refuses_work = true;
        }
        let bytes = Bytes::from(codec::encode(&report));
        handle.observe(handle.node_id(), report);
        handle.network().publish(bytes).await;
        tokio::select! {
            () = cancel.cancelled() => return,
            () = handle.asked_to_speak_up() => {
                telemetry.speak_up();
                if latest.changed().await.is_err() { return }
            }
            changed = latest.changed() => if changed.is_err() { return },
        }
    }
}

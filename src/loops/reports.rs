//! Telemetry to gossip.

use bytes::Bytes;
use service::Handle;
use tokio_util::sync::CancellationToken;
use types::codec;

/// Publishes each report of this node, and takes it in itself.
pub(crate) async fn run(handle: Handle, telemetry: telemetry::Handle, cancel: CancellationToken) {
    let mut latest = telemetry.latest();
    loop {
        let report = latest.borrow_and_update().as_ref().clone();
        let bytes = Bytes::from(codec::encode(&report));
        handle.observe(handle.node_id(), report);
        handle.network().publish(bytes).await;
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = latest.changed() => if changed.is_err() { return },
        }
    }
}

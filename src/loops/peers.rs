//! What other nodes say, handed to whoever answers it.

use bytes::Bytes;
use network::{Event, RaftCall};
use service::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use types::{NodeReport, codec};

use crate::raft_transport::RAFT_BULK;

/// Largest report: 8 GPUs take about 1 KiB.
const MAX_REPORT_BYTES: usize = 8 << 10;

/// Dispatches network events until cancelled.
pub(crate) async fn run(
    handle: Handle,
    mut events: mpsc::Receiver<Event>,
    cancel: CancellationToken,
) {
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            event = events.recv() => match event {
                Some(event) => dispatch(&handle, event),
                None => return,
            },
        }
    }
}

/// Answers Raft calls until cancelled; apart from all else, since elections hang on them.
pub(crate) async fn run_raft(
    consensus: consensus::Handle,
    mut calls: mpsc::Receiver<RaftCall>,
    cancel: CancellationToken,
) {
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            call = calls.recv() => {
                let Some(call) = call else { return };
                let consensus = consensus.clone();
                tokio::spawn(async move { call.reply.send(consensus.handle_call(&call.from, call.request).await) });
            }
        }
    }
}

fn dispatch(handle: &Handle, event: Event) {
    let handle = handle.clone();
    match event {
        Event::Rpc {
            from,
            request,
            reply,
        } => {
            tokio::spawn(async move { reply.send(handle.answer_peer(&from, &request).await) });
        }
        Event::BulkCall {
            from,
            request,
            reply,
        } => {
            tokio::spawn(async move {
                let answer: Bytes = if request.first() == Some(&RAFT_BULK) {
                    handle
                        .consensus()
                        .handle_call(&from, request.slice(1..))
                        .await
                } else {
                    handle.answer_bulk(&from, &request).await
                };
                reply.send(answer);
            });
        }
        Event::BulkStream { from, stream } => {
            tokio::spawn(async move {
                if let Err(error) = handle.blob_store().serve(stream).await {
                    tracing::debug!(node_id = %from, %error, "blob stream ended");
                }
            });
        }
        Event::Join {
            from,
            source,
            request,
            reply,
        } => {
            tokio::spawn(async move {
                reply.send(handle.answer_join(&from, &source, &request).await);
            });
        }
        Event::Report { from, bytes } => {
            match codec::decode::<NodeReport>(&bytes, MAX_REPORT_BYTES) {
                Ok(report) => handle.observe(&from, report),
                Err(error) => tracing::warn!(node_id = %from, %error, "unreadable report dropped"),
            }
        }
        Event::PeerUp { node } => tracing::info!(node_id = %node, "peer connected"),
        Event::PeerDown { node } => tracing::info!(node_id = %node, "peer disconnected"),
        Event::Discovered { node, .. } => tracing::debug!(node_id = %node, "peer discovered"),
        Event::StrangersRefused {
            count,
            node,
            source,
            reason,
        } => handle.note_strangers(count, node.as_ref(), &source, &reason),
    }
}

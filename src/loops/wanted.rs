//! The leader tells nodes what they should run as soon as it is decided. A lost push costs latency: nodes also ask.

use service::Handle;
use state_machine::{ClusterState, Event};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use types::{AttemptToken, NodeId};

/// Pushes wanted sets until cancelled.
pub(crate) async fn run(handle: Handle, cancel: CancellationToken) {
    let mut events = handle.consensus().subscribe();
    loop {
        let event = tokio::select! {
            () = cancel.cancelled() => return,
            event = events.recv() => event,
        };
        let nodes = match event {
            Ok(_) if !handle.is_leader() => continue,
            Ok((_, event)) => concerned(&handle.consensus().state(), &event),
            Err(RecvError::Lagged(_)) => handle
                .consensus()
                .state()
                .nodes()
                .map(|record| record.node.clone())
                .collect(),
            Err(RecvError::Closed) => return,
        };
        for node in nodes {
            let handle = handle.clone();
            tokio::spawn(async move { push(&handle, &node).await });
        }
    }
}

fn concerned(state: &ClusterState, event: &Event) -> Vec<NodeId> {
    match event {
        Event::AttemptPlaced { nodes, .. } => nodes.clone(),
        Event::AttemptChanged(token) | Event::RankEnded(token) | Event::AttemptEnded(token) => {
            nodes_of(state, token)
        }
        Event::ExperimentQueued(_)
        | Event::AttemptStarted(_)
        | Event::ExperimentEnded(_)
        | Event::MembersChanged
        | Event::QueuesChanged
        | Event::TokensChanged => Vec::new(),
    }
}

fn nodes_of(state: &ClusterState, token: &AttemptToken) -> Vec<NodeId> {
    let attempts = state
        .experiment(token.experiment)
        .map(|experiment| experiment.attempts.as_slice());
    let attempt = attempts
        .unwrap_or_default()
        .iter()
        .find(|attempt| attempt.token == *token);
    attempt
        .map(|attempt| {
            attempt
                .ranks
                .iter()
                .map(|rank| rank.placement.node.clone())
                .collect()
        })
        .unwrap_or_default()
}

/// Sends the newest set; tried again once, then the node's own asking has to do.
async fn push(handle: &Handle, node: &NodeId) {
    for _ in 0..2 {
        let wanted = handle.consensus().state().wanted_set(node);
        match handle.push_wanted(node, wanted).await {
            Ok(()) => return,
            Err(error) => tracing::debug!(node_id = %node, %error, "wanted set not delivered"),
        }
    }
}

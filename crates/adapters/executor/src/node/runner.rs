//! The run loop: one task per attempt.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::adopt::Found;
use super::attempt::{Attempt, finish, launch, supervise};
use super::{Shared, StartAttempt};
use crate::protocol::Request;

/// An accepted start on its way to its task.
#[derive(Debug)]
pub(super) struct Launch {
    pub(super) attempt: Arc<Attempt>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) start: Box<StartAttempt>,
}

/// The executor's loop; see [`Runner::run`].
#[derive(Debug)]
pub struct Runner {
    shared: Arc<Shared>,
    launches: mpsc::Receiver<Launch>,
    found: Vec<Found>,
}

impl Runner {
    pub(super) fn new(
        shared: Arc<Shared>,
        launches: mpsc::Receiver<Launch>,
        found: Vec<Found>,
    ) -> Self {
        Self {
            shared,
            launches,
            found,
        }
    }

    /// Starts, adopts and watches until `shutdown`. Holders live on.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut tasks = JoinSet::new();
        for found in std::mem::take(&mut self.found) {
            tasks.spawn(adopt(Arc::clone(&self.shared), found));
        }
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                launched = self.launches.recv() => match launched {
                    Some(Launch { attempt, requests, start }) => {
                        tasks.spawn(launch(Arc::clone(&self.shared), attempt, start, requests));
                    }
                    None => return,
                },
                Some(ended) = tasks.join_next() => report(ended),
            }
        }
    }
}

async fn adopt(shared: Arc<Shared>, found: Found) {
    let Found {
        attempt,
        mut requests,
        ended,
    } = found;
    match ended {
        Some(ended) => finish(&shared, &attempt, ended).await,
        None => supervise(&shared, &attempt, None, &mut requests).await,
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "task of an attempt ended early");
    }
}

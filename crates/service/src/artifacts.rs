//! Artifacts: plots, tables, texts and files that come by requests and are kept with the outputs of an attempt.

use std::time::Duration;

use tokio::io::AsyncRead;
use types::{AttemptToken, BlobHash, Role, validate_tree_path};

use crate::author::Caller;
use crate::call::ReadOptions;
use crate::error::{ErrorKind, ServiceError};
use crate::handle::Handle;
use crate::peer_message::{BulkMessage, BulkReply};
use crate::points::{Job, place_of};
use crate::view::ArtifactAccepted;

/// Time for the node that runs it to fetch one and to store it.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where an artifact goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArtifactName<'a> {
    /// A path such as `plots/loss.png`.
    pub name: &'a str,
    /// Rank of an experiment on several nodes.
    pub rank: u32,
}

impl Handle {
    /// Adds an artifact that a job sends of itself.
    ///
    /// # Errors
    /// It is of another experiment, its name is none, or it cannot be stored.
    pub async fn add_artifact_of_job<R: AsyncRead + Unpin + Send>(
        &self,
        (job, id): (&Job, &str),
        name: &str,
        content: R,
    ) -> Result<ArtifactAccepted, ServiceError> {
        job.check(id)?;
        check_name(name)?;
        let (hash, bytes) = self.store_artifact(content).await?;
        self.add_artifact_here(job.token(), name, hash).await?;
        Ok(accepted(job.token(), name, (hash, bytes)))
    }

    /// Adds an artifact to the attempt of an experiment that runs now, wherever that is.
    ///
    /// # Errors
    /// It does not run, is somebody else's, or its node does not answer; the name is none.
    pub async fn add_artifact<R: AsyncRead + Unpin + Send>(
        &self,
        (caller, id): (&Caller, &str),
        artifact: ArtifactName<'_>,
        content: R,
    ) -> Result<ArtifactAccepted, ServiceError> {
        let ArtifactName { name, rank } = artifact;
        check_name(name)?;
        if caller.role < Role::Member {
            let message = "a viewer may read but not change anything";
            return Err(ServiceError::new(
                ErrorKind::Forbidden,
                "read-only",
                message,
            ));
        }
        let experiment = self.record(caller, id, ReadOptions::default()).await?;
        let (attempt, node) = place_of(caller, &experiment, rank)?;
        let token = attempt.token;
        let (hash, bytes) = self.store_artifact(content).await?;
        if node == self.node_id() {
            self.add_artifact_here(&token, name, hash).await?;
        } else {
            let message = BulkMessage::Artifact {
                token,
                name: name.to_owned(),
                hash,
            };
            match self.ask_bulk(node, &message, PATIENCE).await? {
                BulkReply::Done => {}
                other => {
                    let message = format!("{node} answered {other:?}");
                    return Err(ServiceError::new(ErrorKind::Internal, "artifact", message));
                }
            }
        }
        Ok(accepted(&token, name, (hash, bytes)))
    }

    async fn store_artifact<R: AsyncRead + Unpin + Send>(
        &self,
        content: R,
    ) -> Result<(BlobHash, u64), ServiceError> {
        let stored = self.inner.blobs.put_stream(None, content).await;
        stored.map_err(|error| crate::blobs::blob_error(&error))
    }

    /// For the node at which it came in.
    pub(crate) async fn answer_artifact(
        &self,
        token: &AttemptToken,
        name: &str,
        hash: BlobHash,
    ) -> Result<BulkReply, String> {
        let added = self.add_artifact_here(token, name, hash).await;
        added
            .map(|()| BulkReply::Done)
            .map_err(|error| error.message)
    }

    async fn add_artifact_here(
        &self,
        token: &AttemptToken,
        name: &str,
        hash: BlobHash,
    ) -> Result<(), ServiceError> {
        self.fetch_blobs(&[hash], &[]).await?;
        let content = self.blob_store().path(&hash);
        let executor = &self.inner.executor;
        let added = executor.add_artifact(token, name.to_owned(), content).await;
        added.map_err(|error| {
            let (kind, code) = match error {
                executor::Error::HasEnded { .. } | executor::Error::UnknownAttempt { .. } => {
                    (ErrorKind::Conflict, "not-running")
                }
                executor::Error::Artifact { .. } => (ErrorKind::Invalid, "bad-artifact"),
                _ => (ErrorKind::Internal, "artifact"),
            };
            ServiceError::new(kind, code, error.to_string())
        })
    }
}

fn check_name(name: &str) -> Result<(), ServiceError> {
    validate_tree_path(name).map_err(|_error| {
        let message = format!("{name:?} cannot name an artifact");
        let error = ServiceError::new(ErrorKind::Invalid, "bad-name", message);
        error.hint("write a path such as plots/loss.png, without `.` and `..`")
    })
}

fn accepted(token: &AttemptToken, name: &str, (hash, bytes): (BlobHash, u64)) -> ArtifactAccepted {
    ArtifactAccepted {
        experiment: token.experiment.to_string(),
        attempt: token.attempt,
        path: format!("artifacts/{name}"),
        bytes,
        hash: hash.to_string(),
    }
}

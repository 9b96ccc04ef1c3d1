//! Records of attempts between nodes: live tails, mirrors, sealed segments (flow 4).

use std::time::Duration;

use bytes::Bytes;
use executor::mirror::MirrorChunk;
use membership::Health;
use state_machine::Attempt;
use types::{AttemptToken, NodeId, Role, SegmentRef};

use crate::author::{Caller, CallerProof};
use crate::call::ReadOptions;
use crate::error::{ErrorKind, ServiceError};
use crate::handle::{Handle, lock, view_now};
use crate::peer_message::{BulkMessage, BulkReply};

/// Bytes of frames in one answer.
const TAIL_CHUNK: usize = 1 << 20;
/// Longest wait for news that a peer may ask for.
const MAX_TAIL_WAIT_MS: u64 = 20_000;
/// Wait before an empty mirror is looked at again: mirrors grow each second.
const MIRROR_WAIT_MS: u64 = 250;
/// Time for a peer to answer beyond the wait it was allowed.
const TAIL_PATIENCE: Duration = Duration::from_secs(3);
/// Time for a mirror to seal what it kept, while the experiment waits for its next attempt.
const SEAL_PATIENCE: Duration = Duration::from_secs(2);
/// The same for a mirror that is suspect, so that the loss of a machine and of its mirror at one time costs no more: with
/// the short lease, which ends 5.2 s after the last grant, it is placed again within 7 s.
const SUSPECT_SEAL_PATIENCE: Duration = Duration::from_millis(500);

impl Handle {
    pub(crate) async fn answer_bulk_message(
        &self,
        from: &NodeId,
        message: BulkMessage,
    ) -> BulkReply {
        let answer = match message {
            BulkMessage::Tail {
                token,
                rank,
                from_sequence,
                wait_ms,
            } => {
                let wait_ms = wait_ms.min(MAX_TAIL_WAIT_MS);
                self.local_tail((token, rank), from_sequence, wait_ms).await
            }
            BulkMessage::Mirror {
                token,
                segment,
                first_sequence,
                offset,
                bytes,
            } => {
                let chunk = MirrorChunk {
                    segment,
                    first_sequence,
                    offset,
                    bytes,
                };
                let kept = self.inner.mirror.append(token, chunk).await;
                kept.map(|at| BulkReply::Mirrored {
                    segment: at.segment,
                    length: at.length,
                })
                .map_err(|error| error.to_string())
            }
            BulkMessage::SealMirror { token } => {
                tracing::info!(node_id = %from, %token, "sealing the mirrored records of a lost attempt");
                self.seal_mirror_here(&token)
                    .await
                    .map(BulkReply::Sealed)
                    .map_err(|error| error.message)
            }
            BulkMessage::BackupPiece {
                session,
                source,
                offset,
            } => self
                .backup_piece(from, session, &source, offset)
                .await
                .map(|(bytes, total)| BulkReply::Piece { bytes, total })
                .map_err(|error| error.message),
            BulkMessage::BlobNames => self
                .answer_blob_names()
                .await
                .map(BulkReply::BlobNames)
                .map_err(|error| error.message),
            BulkMessage::CloseBackup { session } => {
                self.close_backup(from, session);
                Ok(BulkReply::Done)
            }
            BulkMessage::Artifact { token, name, hash } => {
                self.answer_artifact(&token, &name, hash).await
            }
            BulkMessage::Points { token, points } => self.answer_points(&token, &points).await,
            BulkMessage::DropMirror { token } => self
                .inner
                .mirror
                .remove(token)
                .await
                .map(|()| BulkReply::Done)
                .map_err(|error| error.to_string()),
        };
        answer.unwrap_or_else(BulkReply::Failed)
    }

    /// Frames of a rank that runs here or is mirrored here; this node may run one and keep the copy of another.
    async fn local_tail(
        &self,
        (token, rank): (AttemptToken, u32),
        from_sequence: u64,
        wait_ms: u64,
    ) -> Result<BulkReply, String> {
        let executor = &self.inner.executor;
        if !executor
            .running()
            .iter()
            .any(|attempt| attempt.token == token && attempt.rank == rank)
        {
            let read = self
                .inner
                .mirror
                .read(token, from_sequence, TAIL_CHUNK)
                .await;
            let read = read.map_err(|error| error.to_string())?;
            if read.frames.is_empty() && !read.ended {
                // Nobody tells when a mirror grows, or when an attempt gets here.
                tokio::time::sleep(Duration::from_millis(wait_ms.min(MIRROR_WAIT_MS))).await;
            }
            return Ok(BulkReply::Tail {
                frames: read.frames,
                next_sequence: read.next_sequence,
                ended: read.ended,
            });
        }
        let mut changed = executor
            .tail_changed(&token)
            .map_err(|error| error.to_string())?;
        let deadline = tokio::time::Instant::now() + Duration::from_millis(wait_ms);
        loop {
            changed.mark_unchanged();
            let read = executor
                .read_tail(&token, from_sequence, TAIL_CHUNK)
                .await
                .map_err(|error| error.to_string())?;
            if !read.frames.is_empty() || read.ended {
                return Ok(BulkReply::Tail {
                    frames: read.frames,
                    next_sequence: read.next_sequence,
                    ended: read.ended,
                });
            }
            match tokio::time::timeout_at(deadline, changed.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => {
                    return Ok(BulkReply::Tail {
                        frames: Bytes::new(),
                        next_sequence: from_sequence,
                        ended: false,
                    });
                }
            }
        }
    }

    /// Frames of a rank of an active attempt from its owner, or from its mirror when the owner does not answer.
    pub(crate) async fn tail(
        &self,
        (attempt, rank): (&Attempt, u32),
        from_sequence: u64,
        wait_ms: u64,
    ) -> Result<(Bytes, u64, bool), ServiceError> {
        let owner = attempt.rank(rank).map(|rank| &rank.placement.node);
        let mut last = ServiceError::new(
            ErrorKind::Unavailable,
            "no-tail",
            "nobody has the output now",
        );
        for node in owner.into_iter().chain(attempt.mirror_of(rank)) {
            let message = BulkMessage::Tail {
                token: attempt.token,
                rank,
                from_sequence,
                wait_ms,
            };
            let reply = if node == self.node_id() {
                match self.answer_bulk_message(node, message).await {
                    BulkReply::Failed(why) => {
                        Err(ServiceError::new(ErrorKind::Conflict, "peer-failed", why))
                    }
                    reply => Ok(reply),
                }
            } else {
                self.ask_bulk(
                    node,
                    &message,
                    Duration::from_millis(wait_ms) + TAIL_PATIENCE,
                )
                .await
            };
            match reply {
                Ok(BulkReply::Tail {
                    frames,
                    next_sequence,
                    ended,
                }) => return Ok((frames, next_sequence, ended)),
                Ok(_) => {}
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Has the mirror of a lost rank seal what it kept; empty when there is none or it does not answer.
    pub async fn seal_mirror_of(&self, attempt: &Attempt, rank: u32) -> Vec<SegmentRef> {
        let Some(mirror) = attempt.mirror_of(rank) else {
            return Vec::new();
        };
        let token = attempt.token;
        let sealed = if mirror == self.node_id() {
            self.seal_mirror_here(&token).await
        } else {
            let health = lock(&self.inner.view).health(mirror, view_now());
            let patience = match health {
                Health::Live => SEAL_PATIENCE,
                Health::Suspect | Health::Unknown => SUSPECT_SEAL_PATIENCE,
            };
            match self
                .ask_bulk(mirror, &BulkMessage::SealMirror { token }, patience)
                .await
            {
                Ok(BulkReply::Sealed(segments)) => Ok(segments),
                Ok(_) => Ok(Vec::new()),
                Err(error) => Err(error),
            }
        };
        sealed.unwrap_or_else(|error| {
            tracing::warn!(%token, %error, "the mirror of a lost attempt could not seal its records");
            Vec::new()
        })
    }

    async fn seal_mirror_here(
        &self,
        token: &AttemptToken,
    ) -> Result<Vec<SegmentRef>, ServiceError> {
        let internal = |error: String| ServiceError::new(ErrorKind::Internal, "mirror", error);
        let sealed = self
            .inner
            .mirror
            .seal(*token)
            .await
            .map_err(|error| internal(error.to_string()))?;
        let mut segments = Vec::new();
        for segment in sealed {
            let stored = self
                .inner
                .blobs
                .put_file(&segment.path)
                .await
                .map_err(|error| internal(error.to_string()))?;
            let copies = vec![self.node_id().clone()];
            segments.push(SegmentRef {
                rank: 0, // Who names them says which.
                hash: stored.0,
                summary: segment.summary,
                copies,
            });
        }
        Ok(segments)
    }

    /// Forgets the mirrored tails of attempts that are over: their records are blobs by then.
    ///
    /// # Errors
    /// The mirror's directory cannot be read.
    pub async fn clean_mirrors(&self) -> Result<(), ServiceError> {
        let internal = |error: executor::Error| {
            ServiceError::new(ErrorKind::Internal, "mirror", error.to_string())
        };
        let caller = Caller {
            user: "node".to_owned(),
            role: Role::Viewer,
            proof: CallerProof::Socket,
        };
        for token in self.inner.mirror.attempts().await.map_err(internal)? {
            let Ok(experiment) = self
                .record(
                    &caller,
                    &token.experiment.to_string(),
                    ReadOptions::default(),
                )
                .await
            else {
                continue; // No majority now, or in the archive of another incarnation: looked at again.
            };
            let attempt = experiment
                .attempts
                .iter()
                .find(|attempt| attempt.token == token);
            if attempt.is_none_or(|attempt| attempt.end.is_some()) {
                self.inner.mirror.remove(token).await.map_err(internal)?;
            }
        }
        Ok(())
    }

    /// Stores a sealed segment of this node as a blob here and on a storage node.
    ///
    /// # Errors
    /// It cannot be stored here; a missing second copy is only logged by the caller's ledger.
    pub async fn store_segment(
        &self,
        sealed: &executor::SealedSegment,
        rank: u32,
    ) -> Result<SegmentRef, ServiceError> {
        let internal = |error: String| ServiceError::new(ErrorKind::Internal, "segment", error);
        let (hash, _) = self
            .inner
            .blobs
            .put_file(&sealed.path)
            .await
            .map_err(|error| internal(error.to_string()))?;
        let mut copies = match self.copy_to_storage(&hash, &[hash]).await {
            Ok(copies) => copies,
            Err(error) => {
                tracing::warn!(blob = %hash, %error, "segment has one copy only");
                Vec::new()
            }
        };
        if !copies.contains(self.node_id()) {
            copies.push(self.node_id().clone());
        }
        Ok(SegmentRef {
            rank,
            hash,
            summary: sealed.summary.clone(),
            copies,
        })
    }
}

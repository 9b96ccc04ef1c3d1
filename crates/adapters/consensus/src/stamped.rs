//! Messages between replicas with the stamp of the sender's store, both ways.
//!
//! A message of an older opening of a store is not answered, and its answer is not taken: whatever that store has
//! acknowledged since is not in it. The replica itself is told, and stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use serde::{Deserialize, Serialize};
use types::{NodeId, codec};

use crate::archives::blocking;
use crate::error::chain;
use crate::failure::Failure;
use crate::generation::{Seen, Stamp, Verdict};
use crate::transport::{BoxFuture, Transport, TransportError};

/// A message as it travels. Frozen: variants are appended, never changed.
#[derive(Serialize, Deserialize)]
pub(crate) enum Envelope {
    V1 {
        stamp: Stamp,
        message: Bytes,
    },
    /// `refused` is an older copy of a store of which `seen` was heard.
    Stale {
        stamp: Stamp,
        refused: Stamp,
        seen: Stamp,
    },
}

/// The end of this replica.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    pub(crate) own: Stamp,
    pub(crate) seen: Seen,
    pub(crate) failure: Failure,
    /// Directory of the store, for the message to a person.
    pub(crate) directory: Arc<std::path::Path>,
    /// Another replica said that this store is an older copy. It says nothing more, although its process needs a
    /// moment to end: who has never heard the other copy would take this one for the newest.
    pub(crate) refused: Arc<AtomicBool>,
}

impl Door {
    /// Puts a message into its envelope.
    pub(crate) fn seal(&self, message: Bytes) -> Bytes {
        let stamp = self.own;
        codec::encode(&Envelope::V1 { stamp, message }).into()
    }

    fn refuse(&self, refused: Stamp, seen: Stamp) -> Bytes {
        let stamp = self.own;
        let envelope = Envelope::Stale {
            stamp,
            refused,
            seen,
        };
        codec::encode(&envelope).into()
    }

    /// The message of `from`, or what to answer instead.
    pub(crate) async fn receive(&self, from: &NodeId, bytes: &[u8]) -> Result<Bytes, Bytes> {
        if self.is_refused() {
            return Err(Bytes::new());
        }
        match codec::decode(bytes, codec::MAX_MESSAGE_BYTES) {
            Ok(Envelope::V1 { stamp, message }) => match self.judge(from, stamp).await {
                Ok(()) => Ok(message),
                Err(seen) => Err(self.refuse(stamp, seen)),
            },
            Ok(Envelope::Stale { refused, seen, .. }) => {
                self.hear(from, refused, seen);
                Err(Bytes::new())
            }
            Err(error) => {
                tracing::debug!(node_id = %from, %error, "unreadable message of a replica");
                Err(Bytes::new())
            }
        }
    }

    async fn judge(&self, node: &NodeId, stamp: Stamp) -> Result<(), Stamp> {
        match self.seen.judge(node, stamp) {
            Verdict::Current => Ok(()),
            Verdict::Newer => {
                let seen = self.seen.clone();
                let kept = blocking("remember a replica's store", move || seen.keep());
                if let Err(error) = kept.await {
                    // Known until the restart at least.
                    tracing::warn!(error = chain(&error), "cannot remember a replica's store");
                }
                Ok(())
            }
            Verdict::Stale { seen } => {
                tracing::warn!(
                    node_id = %node,
                    generation = stamp.number,
                    seen = seen.number,
                    "a message of an older copy of a store is refused"
                );
                Err(seen)
            }
        }
    }

    /// Opens the answer of `from`.
    async fn open(&self, from: &NodeId, bytes: &[u8]) -> Result<Bytes, Unopened> {
        let failed = |why: String| Err(Unopened { why, notice: None });
        match codec::decode(bytes, codec::MAX_MESSAGE_BYTES) {
            Ok(Envelope::V1 { stamp, message }) => match self.judge(from, stamp).await {
                Ok(()) => Ok(message),
                Err(seen) => Err(Unopened {
                    why: "it runs on an older copy of its store".into(),
                    notice: Some(self.refuse(stamp, seen)),
                }),
            },
            Ok(Envelope::Stale { refused, seen, .. }) => {
                self.hear(from, refused, seen);
                failed("it refuses this node's store as an older copy".into())
            }
            Err(error) => failed(error.to_string()),
        }
    }

    /// Only what was said of this very opening: an answer to a process before it is no news.
    fn hear(&self, from: &NodeId, refused: Stamp, seen: Stamp) {
        if refused == self.own && seen != self.own {
            self.refused.store(true, Ordering::Relaxed);
            self.failure.report(self.stale(from, seen));
        }
    }

    fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    fn stale(&self, from: &NodeId, seen: Stamp) -> String {
        format!(
            "the store in {} is an older copy, or a second copy, of this node's: opening {} of it is running here, \
             and node {from} has heard opening {} of another copy; what was acknowledged since is not here; if the other \
             copy runs, stop this one; else {}",
            self.directory.display(),
            self.own.number,
            seen.number,
            crate::error::REMEDY
        )
    }
}

/// Why an answer was not taken.
struct Unopened {
    why: String,
    /// What the other replica must hear: it may only ever be asked, and then never learns that nobody believes it.
    notice: Option<Bytes>,
}

/// Time for a notice, whose answer says nothing.
const NOTICE_DEADLINE: Duration = Duration::from_secs(1);

/// A transport that seals what it sends and opens what comes back.
pub(crate) struct Stamped {
    pub(crate) inner: Arc<dyn Transport>,
    pub(crate) door: Door,
}

impl Transport for Stamped {
    fn call(
        &self,
        to: NodeId,
        request: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        if self.door.is_refused() {
            return silenced();
        }
        let (door, inner) = (self.door.clone(), self.inner.clone());
        let asking = inner.call(to.clone(), door.seal(request), deadline);
        async move { unwrap(&door, &inner, &to, &asking.await?).await }.boxed()
    }

    fn bulk(
        &self,
        to: NodeId,
        request: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        if self.door.is_refused() {
            return silenced();
        }
        let (door, inner) = (self.door.clone(), self.inner.clone());
        let asking = inner.bulk(to.clone(), door.seal(request), deadline);
        async move { unwrap(&door, &inner, &to, &asking.await?).await }.boxed()
    }
}

fn silenced() -> BoxFuture<'static, Result<Bytes, TransportError>> {
    let why = "this node's store is refused as an older copy".to_owned();
    std::future::ready(Err(TransportError::Unreachable { why })).boxed()
}

/// Opens an answer, and tells a replica that runs on an older copy of its store that it does.
async fn unwrap(
    door: &Door,
    inner: &Arc<dyn Transport>,
    to: &NodeId,
    answer: &[u8],
) -> Result<Bytes, TransportError> {
    match door.open(to, answer).await {
        Ok(message) => Ok(message),
        Err(Unopened { why, notice }) => {
            if let Some(notice) = notice {
                // It is told again with the next answer.
                drop(inner.call(to.clone(), notice, NOTICE_DEADLINE).await);
            }
            Err(TransportError::Failed { why })
        }
    }
}

/// Reads bytes as another replica's envelope.
#[cfg(fuzzing)]
pub(crate) fn fuzz(bytes: &[u8]) {
    if let Ok(envelope) = codec::decode::<Envelope>(bytes, codec::MAX_MESSAGE_BYTES) {
        let again = codec::encode(&envelope);
        assert_eq!(again[codec::HEADER_BYTES..], bytes[codec::HEADER_BYTES..]);
        if let Envelope::V1 { message, .. } = envelope {
            assert!(message.len() <= bytes.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::directory::Layout;

    /// Replicas of whom one refuses this store, and the others have never heard of another copy.
    struct Replicas {
        refuses: NodeId,
        seen: Stamp,
        asked: AtomicUsize,
    }

    impl Transport for Replicas {
        fn call(
            &self,
            to: NodeId,
            request: Bytes,
            _deadline: Duration,
        ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let Ok(Envelope::V1 { stamp, message }) =
                codec::decode(&request, codec::MAX_MESSAGE_BYTES)
            else {
                panic!("no message");
            };
            let (seen, own) = (self.seen, Stamp { number: 1, mark: 1 });
            let answer = if to == self.refuses {
                Envelope::Stale {
                    stamp: own,
                    refused: stamp,
                    seen,
                }
            } else {
                Envelope::V1 {
                    stamp: own,
                    message,
                }
            };
            std::future::ready(Ok(codec::encode(&answer).into())).boxed()
        }

        fn bulk(
            &self,
            to: NodeId,
            request: Bytes,
            deadline: Duration,
        ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
            self.call(to, request, deadline)
        }
    }

    #[tokio::test]
    async fn a_copy_that_was_refused_says_nothing_more_to_anybody() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout {
            root: directory.path().to_owned(),
        };
        layout.create().unwrap();
        let [refuses, other]: [NodeId; 2] = ["n1", "n2"].map(|id| id.parse().unwrap());
        let stamp = |number, mark| Stamp { number, mark };
        let replicas = Arc::new(Replicas {
            refuses: refuses.clone(),
            seen: stamp(2, 7),
            asked: AtomicUsize::new(0),
        });
        let stamped = Stamped {
            inner: replicas.clone(),
            door: Door {
                own: stamp(2, 8),
                seen: Seen::open(&layout).unwrap(),
                failure: Failure::new(),
                directory: directory.path().into(),
                refused: Arc::default(),
            },
        };
        let call = |to: &NodeId| stamped.call(to.clone(), "vote".into(), Duration::from_secs(1));
        assert_eq!(call(&other).await.unwrap(), "vote");
        call(&refuses).await.unwrap_err();
        let why = stamped.door.failure.why().unwrap();
        assert!(why.contains("second copy"), "{why}");
        let asked = replicas.asked.load(Ordering::Relaxed);
        let error = call(&other).await.unwrap_err().to_string();
        assert!(error.contains("older copy"), "{error}");
        assert_eq!(replicas.asked.load(Ordering::Relaxed), asked);
        // Nor does it answer.
        let asks = stamped.door.seal("append".into());
        let answer = stamped.door.receive(&other, &asks).await;
        assert_eq!(answer.unwrap_err(), Bytes::new());
    }
}

//! The way from a handle to a swarm: connect to a member, open a stream to it.

use std::sync::Arc;
use std::time::Duration;

use futures::AsyncReadExt as _;
use libp2p::{PeerId, Stream, StreamProtocol};
use libp2p_stream::OpenStreamError;
use tokio::sync::{mpsc, oneshot};
use types::NodeId;

use crate::CallError;
use crate::admission::Admission;
use crate::dialer::DialError;
use crate::identity::peer_id;
use crate::links::Links;
use crate::plane::Command;

/// The first byte of an accepted stream, from the end that accepts: without it the stream was
/// dropped on arrival, which libp2p-stream does when many come at once.
pub(crate) const ACCEPTED: u8 = 1;
/// Tries to open one stream: a connection may just be closing, or the arrival queue full.
const OPEN_TRIES: u32 = 4;
/// Wait between them.
const OPEN_PAUSE: Duration = Duration::from_millis(20);

/// One plane, as handles see it.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) streams: libp2p_stream::Control,
    pub(crate) admission: Arc<Admission>,
    pub(crate) links: Arc<Links>,
}

impl Connector {
    /// The peer, if it is a member.
    pub(crate) fn member(&self, to: &NodeId) -> Result<PeerId, CallError> {
        peer_id(to)
            .filter(|peer| self.admission.is_member(peer))
            .ok_or_else(|| CallError::NotMember { to: to.clone() })
    }

    /// Sends a command to the swarm task.
    pub(crate) async fn command(&self, command: Command) -> Result<(), CallError> {
        let sent = self.commands.send(command).await;
        sent.map_err(|_closed| CallError::Stopped)
    }

    /// Makes sure that there is a connection to a member.
    pub(crate) async fn connect(&self, to: &NodeId, peer: PeerId) -> Result<(), CallError> {
        if self.links.is_connected(&peer) {
            return Ok(());
        }
        let (done, result) = oneshot::channel();
        self.command(Command::Connect { peer, done }).await?;
        match result.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(DialError::Refused)) => Err(CallError::Refused { to: to.clone() }),
            Ok(Err(DialError::Failed(reason))) => Err(CallError::Unreachable {
                to: to.clone(),
                reason,
            }),
            // It was removed meanwhile, or the swarm stopped.
            Err(_dropped) => Err(match self.member(to) {
                Err(error) => error,
                Ok(_) => CallError::Stopped,
            }),
        }
    }

    /// Opens a stream to a member that the member has accepted.
    pub(crate) async fn open(
        &self,
        to: &NodeId,
        protocol: &StreamProtocol,
    ) -> Result<Stream, CallError> {
        let mut streams = self.streams.clone();
        let mut reason = String::new();
        for attempt in 0..OPEN_TRIES {
            if attempt > 0 {
                tokio::time::sleep(OPEN_PAUSE).await;
            }
            let peer = self.member(to)?;
            self.connect(to, peer).await?;
            let mut stream = match streams.open_stream(peer, protocol.clone()).await {
                Ok(stream) => stream,
                Err(OpenStreamError::UnsupportedProtocol(_)) => {
                    return Err(CallError::Refused { to: to.clone() });
                }
                Err(error) => {
                    reason = error.to_string();
                    continue;
                }
            };
            let mut accepted = [0];
            match stream.read_exact(&mut accepted).await {
                Ok(()) if accepted == [ACCEPTED] => return Ok(stream),
                Ok(()) => "the stream began with an unknown byte".clone_into(&mut reason),
                Err(error) => reason = format!("the stream was not accepted: {error}"),
            }
        }
        Err(CallError::Closed {
            to: to.clone(),
            reason,
        })
    }
}

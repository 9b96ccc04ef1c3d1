//! Links that nobody uses: closed after a while, unless they are kept.

use std::collections::HashSet;
use std::time::Duration;

use libp2p::PeerId;
use libp2p::request_response::OutboundFailure;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::requests::Waiting;
use super::{Command, Plane};
use crate::wire::Request;

impl Plane {
    pub(super) fn keep(&mut self, only: Option<HashSet<PeerId>>, idle: Option<Duration>) {
        self.state.idle = idle;
        self.links.close_after(idle.unwrap_or(crate::LINK_IDLE));
        self.dialer.keep(only, Instant::now());
    }

    /// Closes links that are not kept and were not used. Both ends do so by their own clocks; a call that the other end
    /// begins at that moment is not read here, so that it can safely send it again over a new connection.
    pub(super) fn close_unused(&mut self) {
        let Some(idle) = self.state.idle else { return };
        for peer in self.links.unused_for(idle) {
            if self.dialer.keeps(&peer) || self.state.requests.is_open(&peer) {
                continue;
            }
            if self.bulk_links.is_connected(&peer) {
                self.links.sent(&peer);
                continue;
            }
            tracing::debug!(peer_id = %peer, "not used, closing the connection");
            for connection in self.links.get(&peer).unwrap_or_default().connections {
                if self.swarm.close_connection(connection.id) {
                    self.state.closing.insert(connection.id);
                }
            }
        }
    }

    /// Asks over a connection that is there: one that was closed since the caller looked is dialled again by the caller,
    /// not by libp2p, which does not know where.
    pub(super) fn ask_connected(&mut self, peer: PeerId, request: Request, done: Waiting) {
        if self.links.is_connected(&peer) {
            self.ask(peer, request, Some(done));
        } else {
            // A caller whose deadline passed is gone.
            drop(done.send(Err(OutboundFailure::DialFailure)));
        }
    }

    /// Whoever has a bulk connection also has a control connection: only its pings tell of a silent peer.
    pub(super) fn link_control(&self, peer: PeerId) {
        let (done, _nobody_waits) = oneshot::channel();
        let connect = Command::Connect { peer, done };
        if let Some(control) = &self.control
            && let Err(mpsc::error::TrySendError::Full(_)) = control.try_send(connect)
        {
            tracing::debug!(peer_id = %peer, "no control connection beside the bulk one");
        }
    }
}

//! The gate as libp2p sees it: the inner behaviours for members, a tripwire for strangers.

use std::future::Future as _;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::derive_prelude::Either;
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};

use super::stranger::{Spoke, StrangerHandler};
use super::{Action, Gate, GateEvent};

impl<B: NetworkBehaviour> NetworkBehaviour for Gate<B> {
    type ConnectionHandler = Either<THandler<B>, StrangerHandler>;
    type ToSwarm = GateEvent<B::ToSwarm>;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.begin(id, remote)?;
        self.inner
            .handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.crowd.end(id);
        if !self.admit(id, peer, remote, true)? {
            return Ok(Either::Right(StrangerHandler::default()));
        }
        self.inner
            .handle_established_inbound_connection(id, peer, local, remote)
            .map(Either::Left)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let mut known = self
            .inner
            .handle_pending_outbound_connection(id, peer, addresses, role)?;
        if let Some(peer) = peer {
            known.extend(self.admission.addresses(&peer, self.plane));
        }
        Ok(known)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if !self.admit(id, peer, address, false)? {
            return Ok(Either::Right(StrangerHandler::default()));
        }
        self.inner
            .handle_established_outbound_connection(id, peer, address, role, port_use)
            .map(Either::Left)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(event) => self.established(event),
            FromSwarm::ConnectionClosed(event) => self.closed(event),
            FromSwarm::AddressChange(change) if !self.is_admitted(change.connection_id) => {}
            FromSwarm::DialFailure(failure) => {
                if self.denied(failure.connection_id) {
                    self.inner.on_swarm_event(event);
                }
            }
            FromSwarm::ListenFailure(failure) => {
                if self.denied(failure.connection_id) {
                    self.inner.on_swarm_event(event);
                }
            }
            _ => self.inner.on_swarm_event(event),
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {
            Either::Left(event) => self.inner.on_connection_handler_event(peer, id, event),
            Either::Right(Spoke(protocol)) => {
                // Whom this node is asking to be admitted may be first to know that it is.
                if !self.holds.contains_key(&peer) && !self.admission.knocks.hear(peer) {
                    self.hear_stranger(id, protocol.as_ref());
                }
            }
        }
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        while let Some(sweep) = &mut self.sweep {
            if sweep.as_mut().poll(context).is_pending() {
                break;
            }
            self.look_at_strangers();
        }
        match self.actions.pop_front() {
            Some(Action::Close(peer_id, id)) => Poll::Ready(ToSwarm::CloseConnection {
                peer_id,
                connection: CloseConnection::One(id),
            }),
            Some(Action::Report {
                peer,
                address,
                reason,
            }) => Poll::Ready(ToSwarm::GenerateEvent(GateEvent::Refused {
                peer,
                address,
                reason,
            })),
            None => self
                .inner
                .poll(context)
                .map(|action| action.map_out(GateEvent::Inner).map_in(Either::Left)),
        }
    }
}

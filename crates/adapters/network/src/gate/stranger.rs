//! What a stranger's connection carries besides the join protocol: a tripwire on the member protocols.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use libp2p::StreamProtocol;
use libp2p::core::upgrade::{DeniedUpgrade, InboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedInbound};
use libp2p::swarm::{ConnectionHandler, ConnectionHandlerEvent, SubstreamProtocol};

use crate::protocol::MEMBER_PROTOCOLS;

/// Reports the name of each member protocol that the stranger opens, and serves none.
#[derive(Debug, Default)]
pub(crate) struct StrangerHandler {
    spoken: VecDeque<Spoke>,
}

/// A stranger spoke what only members may.
#[derive(Debug)]
pub(crate) struct Spoke(pub(crate) StreamProtocol);

impl ConnectionHandler for StrangerHandler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Spoke;
    type InboundProtocol = Tripwire;
    type OutboundProtocol = DeniedUpgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Tripwire> {
        SubstreamProtocol::new(Tripwire, ())
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<DeniedUpgrade, (), Spoke>> {
        match self.spoken.pop_front() {
            Some(spoke) => Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(spoke)),
            None => Poll::Pending,
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Tripwire, DeniedUpgrade>) {
        // The first word is enough: the connection is about to close.
        if let ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. }) =
            event
            && self.spoken.is_empty()
        {
            self.spoken.push_back(Spoke(protocol));
        }
    }
}

/// Accepts the member protocols by name and drops the stream.
#[derive(Clone, Debug)]
pub(crate) struct Tripwire;

impl UpgradeInfo for Tripwire {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        MEMBER_PROTOCOLS.to_vec().into_iter()
    }
}

impl<C> InboundUpgrade<C> for Tripwire {
    type Output = StreamProtocol;
    type Error = Infallible;
    type Future = Ready<Result<StreamProtocol, Infallible>>;

    fn upgrade_inbound(self, _: C, protocol: StreamProtocol) -> Self::Future {
        ready(Ok(protocol))
    }
}

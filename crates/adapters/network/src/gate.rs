//! The admission gate: the protocols inside it exist only on connections of members.
//!
//! libp2p's own allow list denies a stranger's whole connection, and then nobody could ever join.
//! Here a stranger's connection is kept, shortly and within limits, but carries none of the inner
//! protocols. When a peer becomes a member its old connections are closed, so that new ones carry
//! them; when it stops being one, all are closed at once.

mod behaviour;
mod crowd;
mod stranger;

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished};
use libp2p::swarm::{ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour};
use libp2p::{Multiaddr, PeerId};
use tokio::time::{Instant, Sleep, sleep};

use crate::admission::{Admission, PlaneKind};
use crowd::Crowd;
pub(crate) use crowd::Source;

/// A stranger that asks nothing is cut off after this.
const STRANGER_IDLE: Duration = Duration::from_secs(5);
/// A stranger is cut off after this even while it waits for an answer.
const STRANGER_LIFE: Duration = Duration::from_secs(60);
/// A stranger that speaks what is for members is cut off after this. Not at once: one that was a member, and does not
/// know that it is none any more, does so before it can ask, and is to be told (invariant 8).
const WORD_GRACE: Duration = Duration::from_secs(1);
/// Nor does a former member say more than this at a time.
const MAX_WORDS: u32 = 16;
/// How often strangers are looked at, while there are any.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Wraps the behaviours that are for members only.
pub(crate) struct Gate<B: NetworkBehaviour> {
    pub(crate) inner: B,
    admission: Arc<Admission>,
    plane: PlaneKind,
    connections: HashMap<ConnectionId, Connection>,
    /// Established connections that the inner behaviours know.
    admitted: HashMap<PeerId, usize>,
    /// Join requests under way.
    holds: HashMap<PeerId, usize>,
    crowd: Crowd,
    actions: VecDeque<Action>,
    sweep: Option<Pin<Box<Sleep>>>,
}

/// What the gate or the behaviours inside report.
#[derive(Debug)]
pub(crate) enum GateEvent<E> {
    Inner(E),
    /// A stranger that dialled us was cut off.
    Refused {
        peer: PeerId,
        address: Multiaddr,
        reason: String,
    },
}

#[derive(Debug)]
enum Action {
    Close(PeerId, ConnectionId),
    Report {
        peer: PeerId,
        address: Multiaddr,
        reason: String,
    },
}

#[derive(Debug)]
struct Connection {
    peer: PeerId,
    address: Multiaddr,
    admitted: bool,
    inbound: bool,
    since: Instant,
    /// When it came, or its last join request ended.
    last_held: Instant,
    /// When it first spoke what is for members, what that was, and how often it did.
    spoke: Option<(Instant, String, u32)>,
    closing: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("strangers are not let onto the {0} plane, or there are too many")]
struct NoStrangers(&'static str);

impl<B: NetworkBehaviour> Gate<B> {
    pub(crate) fn new(inner: B, admission: Arc<Admission>, plane: PlaneKind) -> Self {
        Self {
            inner,
            admission,
            plane,
            connections: HashMap::new(),
            admitted: HashMap::new(),
            holds: HashMap::new(),
            crowd: Crowd::default(),
            actions: VecDeque::new(),
            sweep: None,
        }
    }

    /// Whether the member protocols exist on this connection.
    pub(crate) fn is_admitted(&self, id: ConnectionId) -> bool {
        self.connections
            .get(&id)
            .is_some_and(|connection| connection.admitted)
    }

    /// A join request from or to the peer is under way: its connections stay until [`Self::release`].
    pub(crate) fn hold(&mut self, peer: PeerId) {
        *self.holds.entry(peer).or_default() += 1;
    }

    /// The join request is done; true if no other with this peer is under way.
    pub(crate) fn release(&mut self, peer: PeerId) -> bool {
        if let Some(holds) = self.holds.get_mut(&peer) {
            *holds -= 1;
            if *holds == 0 {
                self.holds.remove(&peer);
            }
        }
        let now = Instant::now();
        for connection in self.connections.values_mut() {
            if connection.peer == peer {
                connection.last_held = now;
            }
        }
        self.recheck();
        !self.holds.contains_key(&peer)
    }

    /// Closes what the members table no longer, or only now, allows.
    pub(crate) fn recheck(&mut self) {
        for (id, connection) in &mut self.connections {
            let member = self.admission.is_member(&connection.peer);
            let wrong = connection.admitted != member;
            let answering = member && self.holds.contains_key(&connection.peer);
            if wrong && !answering && !connection.closing {
                connection.closing = true;
                self.actions.push_back(Action::Close(connection.peer, *id));
            }
        }
    }

    fn admit(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        inbound: bool,
    ) -> Result<bool, ConnectionDenied> {
        let admitted = self.admission.is_member(&peer);
        if !admitted {
            let source = Source::of_address(address);
            let shut = self.plane == PlaneKind::Bulk;
            if shut || inbound && !self.crowd.enter(id, source) {
                return Err(ConnectionDenied::new(NoStrangers(self.plane.name())));
            }
            self.sweep
                .get_or_insert_with(|| Box::pin(sleep(SWEEP_INTERVAL)));
        }
        let now = Instant::now();
        let connection = Connection {
            peer,
            address: address.clone(),
            admitted,
            inbound,
            since: now,
            last_held: now,
            spoke: None,
            closing: false,
        };
        self.connections.insert(id, connection);
        Ok(admitted)
    }

    /// Whether a handshake from `remote` may begin.
    fn begin(&mut self, id: ConnectionId, remote: &Multiaddr) -> Result<(), ConnectionDenied> {
        let Some(source) = Source::of_address(remote) else {
            return Ok(());
        };
        if self.admission.is_known(&source) || self.crowd.begin(id, source) {
            return Ok(());
        }
        Err(ConnectionDenied::new(NoStrangers(self.plane.name())))
    }

    /// Where an established connection comes from.
    pub(crate) fn source_of(&self, id: ConnectionId) -> Option<Source> {
        Source::of_address(&self.connections.get(&id)?.address)
    }

    fn cut_off(&mut self, id: ConnectionId, reason: &str) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if std::mem::replace(&mut connection.closing, true) {
            return;
        }
        let peer = connection.peer;
        self.actions.push_back(Action::Close(peer, id));
        if connection.inbound {
            let address = connection.address.clone();
            let reason = reason.to_owned();
            self.actions.push_back(Action::Report {
                peer,
                address,
                reason,
            });
        }
    }

    /// A stranger has opened a stream of a member protocol, which was dropped unread.
    fn hear_stranger(&mut self, id: ConnectionId, protocol: &str) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let now = Instant::now();
        let reason = || format!("spoke {protocol}, which is for members");
        let (_, first, words) = connection.spoke.get_or_insert_with(|| (now, reason(), 0));
        *words += 1;
        if *words > MAX_WORDS {
            let reason = first.clone();
            self.cut_off(id, &reason);
        }
    }

    /// Cuts off strangers that idle, stay too long, or spoke what is for members.
    fn look_at_strangers(&mut self) {
        let now = Instant::now();
        let strangers = self.connections.iter().filter(|(_, c)| !c.admitted);
        let spoke: Vec<_> = strangers
            .filter(|(_, connection)| !self.holds.contains_key(&connection.peer))
            .filter_map(|(id, connection)| Some((*id, connection.spoke.as_ref()?)))
            .filter(|(_, (at, ..))| now - *at >= WORD_GRACE)
            .map(|(id, (_, reason, _))| (id, reason.clone()))
            .collect();
        for (id, reason) in spoke {
            self.cut_off(id, &reason);
        }
        let strangers = self.connections.iter().filter(|(_, c)| !c.admitted);
        let over: Vec<_> = strangers
            .filter(|(_, connection)| {
                let held = self.holds.contains_key(&connection.peer);
                let idle = !held && now - connection.last_held >= STRANGER_IDLE;
                idle || now - connection.since >= STRANGER_LIFE
            })
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            self.cut_off(id, "asked nothing in time");
        }
        let any = self.connections.values().any(|c| !c.admitted);
        self.sweep = any.then(|| Box::pin(sleep(SWEEP_INTERVAL)));
    }

    fn established(&mut self, event: ConnectionEstablished<'_>) {
        if !self.is_admitted(event.connection_id) {
            return;
        }
        let known = self.admitted.entry(event.peer_id).or_default();
        let other_established = *known;
        *known += 1;
        let event = ConnectionEstablished {
            other_established,
            ..event
        };
        self.inner
            .on_swarm_event(FromSwarm::ConnectionEstablished(event));
        // The table may have changed since the gate let it in.
        self.recheck();
    }

    fn closed(&mut self, event: ConnectionClosed<'_>) {
        self.crowd.leave(event.connection_id);
        let connection = self.connections.remove(&event.connection_id);
        if let Some(stranger) = connection
            .as_ref()
            .filter(|connection| !connection.admitted)
        {
            self.left(stranger);
        }
        if !connection.is_some_and(|connection| connection.admitted) {
            return;
        }
        let known = self.admitted.entry(event.peer_id).or_default();
        *known = known.saturating_sub(1);
        let remaining_established = *known;
        if remaining_established == 0 {
            self.admitted.remove(&event.peer_id);
        }
        let event = ConnectionClosed {
            remaining_established,
            ..event
        };
        self.inner
            .on_swarm_event(FromSwarm::ConnectionClosed(event));
    }

    /// A stranger went by itself: what it spoke is told as if it had been cut off.
    fn left(&mut self, stranger: &Connection) {
        if let Some((_, reason, _)) = stranger.spoke.as_ref().filter(|_| !stranger.closing)
            && stranger.inbound
        {
            self.actions.push_back(Action::Report {
                peer: stranger.peer,
                address: stranger.address.clone(),
                reason: reason.clone(),
            });
        }
    }

    /// Forgets a connection that was denied after the gate had let it in; whether the inner ones knew it.
    fn denied(&mut self, id: ConnectionId) -> bool {
        self.crowd.end(id);
        self.crowd.leave(id);
        self.connections
            .remove(&id)
            .is_none_or(|connection| connection.admitted)
    }
}

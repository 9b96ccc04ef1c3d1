//! Puts the two planes together and sets them going.

use std::sync::Arc;
use std::time::Duration;

use libp2p::{StreamProtocol, Swarm};
use libp2p_stream::IncomingStreams;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::{Admission, PlaneKind};
use crate::bulk_stream::SendLimit;
use crate::connector::Connector;
use crate::dialer::Dialer;
use crate::event::{Event, RaftCall};
use crate::finder::{FOUND_QUEUE, Finder};
use crate::handle::{Handle, Shared};
use crate::links::Links;
use crate::outbox::Outbox;
use crate::pipe::Pipes;
use crate::plane::{Listening, Plane, Sightings, State};
use crate::protocol::{
    BULK_CALL, BULK_STREAM, COMMAND_QUEUE, EVENT_QUEUE, MAX_BULK_FRAME_BYTES, MAX_RAFT_FRAME_BYTES,
    RAFT,
};
use crate::serve::{Purpose, Server};
use crate::swarm::{self, Behaviour};
use crate::{Config, Error, Identity};

/// How often connections are looked at for silence.
const PULSE: Duration = Duration::from_secs(2);

/// A running network.
#[derive(Debug)]
pub struct Network {
    /// The door to it, for any number of owners.
    pub handle: Handle,
    /// What happens, in order. Not taking it delays calls of others, never the swarms.
    pub events: mpsc::Receiver<Event>,
    /// Raft calls of members, apart from all else.
    pub raft: mpsc::Receiver<RaftCall>,
    /// Cancel it to stop: listeners and connections close.
    pub shutdown: CancellationToken,
    /// Ends once all tasks of the network have ended.
    pub task: JoinHandle<()>,
}

/// Loads or makes the identity, listens on both planes and runs them on the current runtime. Nobody
/// is a member until [`Handle::set_members`].
///
/// # Errors
/// The key file is unusable, an address is none or taken, or the transports cannot be set up.
///
/// # Panics
/// Outside a tokio runtime.
pub async fn start(config: Config) -> Result<Network, Error> {
    let key_file = config.key_file.clone();
    let identity = tokio::task::spawn_blocking(move || Identity::load_or_create(&key_file))
        .await
        .expect("loading a key does not panic, and nobody aborts it")?;
    let mut parts = Parts::new(&config);
    let mut control = parts.plane(PlaneKind::Control, &config, &identity)?;
    let mut bulk = parts.plane(PlaneKind::Bulk, &config, &identity)?;
    introduce(&mut control, &mut bulk);
    let Parts {
        server,
        sightings,
        events,
        raft,
        ..
    } = parts;

    let tasks = server.tasks.clone();
    let shutdown = server.stop.clone();
    if config.mdns {
        tasks.spawn(control.find()?.run(shutdown.clone()));
    }
    let bulk_limit = server.limit.clone();
    let raft_pipes = Pipes::new(
        control.connector.clone(),
        RAFT,
        MAX_RAFT_FRAME_BYTES,
        None,
        tasks.clone(),
        shutdown.clone(),
    );
    let bulk_pipes = Pipes::new(
        bulk.connector.clone(),
        BULK_CALL,
        MAX_BULK_FRAME_BYTES,
        Some(bulk_limit.clone()),
        tasks.clone(),
        shutdown.clone(),
    );
    let handle = Handle {
        shared: Arc::new(Shared {
            identity,
            admission: Arc::clone(&server.admission),
            control: control.connector,
            bulk: bulk.connector,
            raft_pipes,
            bulk_pipes,
            bulk_limit,
            control_listening: control.listening,
            bulk_listening: bulk.listening,
            sightings,
        }),
    };
    for (incoming, purpose) in control.incoming.into_iter().chain(bulk.incoming) {
        tasks.spawn(server.clone().accept(incoming, purpose));
    }
    tasks.spawn(control.plane.run());
    tasks.spawn(bulk.plane.run());
    if config.gossip_subscribe {
        handle.set_subscribed(true).await;
    }
    tasks.close();
    let task = tokio::spawn(async move { tasks.wait().await });
    Ok(Network {
        handle,
        events,
        raft,
        shutdown,
        task,
    })
}

/// What both planes share.
struct Parts {
    server: Server,
    /// Bulk connections are prepared by the round trips that control measures.
    control_links: Arc<Links>,
    /// Control connections stay while a bulk connection needs their pings.
    bulk_links: Arc<Links>,
    sightings: Arc<Sightings>,
    events: mpsc::Receiver<Event>,
    raft: mpsc::Receiver<RaftCall>,
}

/// One plane before it runs.
struct Built {
    /// On the heap: the future that starts a node holds both for a while.
    plane: Box<Plane>,
    connector: Connector,
    listening: watch::Receiver<Listening>,
    incoming: Vec<(IncomingStreams, Purpose)>,
}

impl Built {
    /// Gives the plane ears for multicast DNS.
    fn find(&mut self) -> Result<Finder, Error> {
        let (found, heard) = mpsc::channel(FOUND_QUEUE);
        self.plane.found = heard;
        let own = *self.plane.swarm.local_peer_id();
        let links = Arc::clone(&self.plane.links);
        let finder = Finder::new(own, self.plane.listening.subscribe(), links, found);
        finder.map_err(|source| Error::Transport {
            plane: self.plane.kind.name(),
            source: source.into(),
        })
    }
}

/// Lets each plane ask the other for what only that one can do.
fn introduce(control: &mut Built, bulk: &mut Built) {
    control.plane.bulk = Some(bulk.connector.commands.clone());
    bulk.plane.control = Some(control.connector.commands.clone());
}

impl Parts {
    fn new(config: &Config) -> Self {
        let (events_sender, events) = mpsc::channel(EVENT_QUEUE);
        let (raft_sender, raft) = mpsc::channel(EVENT_QUEUE);
        let server = Server {
            admission: Arc::default(),
            limit: SendLimit::new(config.bulk_bytes_per_second),
            events: events_sender,
            raft: raft_sender,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        Self {
            server,
            control_links: Arc::default(),
            bulk_links: Arc::default(),
            sightings: Arc::default(),
            events,
            raft,
        }
    }

    fn plane(
        &mut self,
        kind: PlaneKind,
        config: &Config,
        identity: &Identity,
    ) -> Result<Built, Error> {
        let admission: &Arc<Admission> = &self.server.admission;
        let links = match kind {
            PlaneKind::Control => Arc::clone(&self.control_links),
            PlaneKind::Bulk => Arc::clone(&self.bulk_links),
        };
        let (swarm, waiting_for) =
            swarm::build(kind, config, identity, admission, &self.control_links)?;
        let (sender, commands) = mpsc::channel(COMMAND_QUEUE);
        let (listening, listening_now) = watch::channel(Listening {
            waiting_for,
            addresses: Vec::new(),
        });
        let connector = Connector {
            commands: sender,
            streams: swarm.behaviour().gate.inner.streams.new_control(),
            admission: Arc::clone(admission),
            links: Arc::clone(&links),
        };
        let purposes = match kind {
            PlaneKind::Control => vec![(RAFT, Purpose::Raft)],
            PlaneKind::Bulk => vec![
                (BULK_CALL, Purpose::BulkCall),
                (BULK_STREAM, Purpose::BulkStream),
            ],
        };
        let purposes = purposes.into_iter();
        let incoming = purposes.map(|(protocol, purpose)| (incoming(&swarm, protocol), purpose));
        let incoming = incoming.collect();
        let dialer = Dialer::new(*swarm.local_peer_id(), kind == PlaneKind::Control);
        let plane = Box::new(Plane {
            kind,
            swarm,
            commands,
            admission: Arc::clone(admission),
            links,
            sightings: Arc::clone(&self.sightings),
            found: mpsc::channel(1).1,
            listening,
            outbox: Outbox::new(self.server.events.clone()),
            dialer,
            stop: self.server.stop.clone(),
            bulk: None,
            control: None,
            bulk_links: Arc::clone(&self.bulk_links),
            pulse: tokio::time::interval(PULSE),
            state: State::default(),
        });
        Ok(Built {
            plane,
            connector,
            listening: listening_now,
            incoming,
        })
    }
}

fn incoming(swarm: &Swarm<Behaviour>, protocol: StreamProtocol) -> IncomingStreams {
    let mut control = swarm.behaviour().gate.inner.streams.new_control();
    control
        .accept(protocol)
        .expect("each protocol is accepted once")
}

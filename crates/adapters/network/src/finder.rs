//! Multicast DNS in a task of its own, so that what anyone may send costs no heartbeat.
//!
//! libp2p's behaviour takes all that has come in before it lets its swarm go on, and compares each answer with all
//! before. On the control swarm a flood of port 5353 would hold up Raft. Here it holds up nothing else, and who
//! claims to be too many is forgotten together with all that was heard.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use libp2p::core::transport::ListenerId;
use libp2p::swarm::behaviour::{ExpiredListenAddr, NewListenAddr};
use libp2p::swarm::{FromSwarm, NetworkBehaviour as _, ToSwarm};
use libp2p::{Multiaddr, PeerId, mdns};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval};
use tokio_util::sync::CancellationToken;

use crate::links::Links;
use crate::plane::Listening;

/// A node without a link asks again so often, in case a packet was lost.
const QUERY_INTERVAL: Duration = Duration::from_secs(60);
/// One that has had a link for so long asks no more: each question is answered by every node, to every node, which for
/// a cluster of many would be more than all the rest that it sends.
const QUIET_AFTER: Duration = Duration::from_secs(15);
/// libp2p asks in any case, at intervals that it doubles until they are as long as this.
const QUIET_INTERVAL: Duration = Duration::from_secs(86_400);
/// Looks for links.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Addresses of others that it holds: above, somebody floods, and each answer is compared with all of them.
const MAX_HELD: usize = 1_024;
/// How long it stays deaf then.
const DEAF: Duration = Duration::from_secs(5);
/// Findings that the control plane has not taken yet; more wait on the network.
pub(crate) const FOUND_QUEUE: usize = 64;

/// What was heard.
#[derive(Debug)]
pub(crate) enum Found {
    /// Nodes came or went.
    Event(mdns::Event),
    /// Nothing that was said before counts any more.
    Forgotten,
}

/// Listens and announces.
pub(crate) struct Finder {
    own: PeerId,
    behaviour: mdns::tokio::Behaviour,
    /// Where the control plane listens.
    listening: watch::Receiver<Listening>,
    announced: Vec<Multiaddr>,
    /// Name of the one listener for which all addresses are announced.
    listener: ListenerId,
    found: mpsc::Sender<Found>,
    /// Of the control plane.
    links: Arc<Links>,
    look: Interval,
    linked_since: Option<Instant>,
    is_quiet: bool,
}

impl Finder {
    /// Opens the sockets.
    pub(crate) fn new(
        own: PeerId,
        listening: watch::Receiver<Listening>,
        links: Arc<Links>,
        found: mpsc::Sender<Found>,
    ) -> io::Result<Self> {
        Ok(Self {
            own,
            behaviour: behaviour(own, QUERY_INTERVAL)?,
            listening,
            announced: Vec::new(),
            listener: ListenerId::next(),
            found,
            links,
            look: tokio::time::interval(LOOK_INTERVAL),
            linked_since: None,
            is_quiet: false,
        })
    }

    /// Runs until stopped.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.work() => {}
        }
    }

    /// Until nobody listens to it any more.
    async fn work(&mut self) {
        loop {
            self.announce();
            let heard = tokio::select! {
                changed = self.listening.changed() => match changed {
                    Ok(()) => continue,
                    Err(_stopped) => return,
                },
                heard = poll_fn(|context| self.behaviour.poll(context)) => heard,
                _ = self.look.tick() => match self.change_pace() {
                    true if self.found.send(Found::Forgotten).await.is_err() => return,
                    _ => continue,
                },
            };
            let ToSwarm::GenerateEvent(event) = heard else {
                continue; // Hints for a swarm's address book.
            };
            if self.found.send(Found::Event(event)).await.is_err() {
                return;
            }
            if self.behaviour.discovered_nodes().len() > MAX_HELD && !self.begin_anew().await {
                return;
            }
        }
    }

    /// Falls silent some time after there is a link, and asks again when there is none; true if it begins anew for that.
    fn change_pace(&mut self) -> bool {
        let is_linked = !self.links.up_peers().is_empty();
        let since = self.linked_since.filter(|_| is_linked);
        self.linked_since = is_linked.then(|| since.unwrap_or_else(Instant::now));
        let quiet = since.is_some_and(|since| since.elapsed() >= QUIET_AFTER);
        if quiet == self.is_quiet || (is_linked && !quiet) {
            return false;
        }
        let interval = if quiet {
            QUIET_INTERVAL
        } else {
            QUERY_INTERVAL
        };
        match behaviour(self.own, interval) {
            Ok(fresh) => {
                self.behaviour = fresh;
                self.announced.clear();
                self.is_quiet = quiet;
                true
            }
            Err(error) => {
                tracing::debug!(%error, "multicast DNS goes on as before");
                false
            }
        }
    }

    /// Says where this node listens, as far as that has changed.
    fn announce(&mut self) {
        let own = self.own;
        let plain = |address: &Multiaddr| {
            let named = libp2p::multiaddr::Protocol::P2p(own);
            address.iter().filter(|part| *part != named).collect()
        };
        let now: Vec<Multiaddr> = self
            .listening
            .borrow_and_update()
            .addresses
            .iter()
            .map(plain)
            .collect();
        let listener_id = self.listener;
        for addr in self.announced.iter().filter(|old| !now.contains(old)) {
            let gone = ExpiredListenAddr { listener_id, addr };
            self.behaviour
                .on_swarm_event(FromSwarm::ExpiredListenAddr(gone));
        }
        for addr in now.iter().filter(|new| !self.announced.contains(new)) {
            let new = NewListenAddr { listener_id, addr };
            self.behaviour.on_swarm_event(FromSwarm::NewListenAddr(new));
        }
        self.announced = now;
    }

    /// Forgets all and stays deaf for a while; false if nobody listens to it any more.
    async fn begin_anew(&mut self) -> bool {
        tracing::warn!(
            held = MAX_HELD,
            deaf_s = DEAF.as_secs(),
            "somebody floods multicast DNS; what was heard is forgotten"
        );
        if self.found.send(Found::Forgotten).await.is_err() {
            return false;
        }
        loop {
            tokio::time::sleep(DEAF).await;
            match behaviour(self.own, QUERY_INTERVAL) {
                Ok(fresh) => {
                    self.behaviour = fresh;
                    self.announced.clear();
                    self.is_quiet = false;
                    return true;
                }
                Err(error) => tracing::warn!(%error, "multicast DNS not opened again yet"),
            }
        }
    }
}

fn behaviour(own: PeerId, query_interval: Duration) -> io::Result<mdns::tokio::Behaviour> {
    let config = mdns::Config {
        query_interval,
        ..mdns::Config::default()
    };
    mdns::tokio::Behaviour::new(config, own)
}

//! Strangers that were refused, told of as a sum: a flood of them must not become a flood of events.

use libp2p::PeerId;
use tokio::time::{Duration, Instant};

use super::Plane;
use crate::event::Event;
use crate::gate::Source;
use crate::identity::node_id;

/// Between two words about strangers.
const WORD_INTERVAL: Duration = Duration::from_secs(2);

/// What is still to be told.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    count: u64,
    last: Option<(Option<PeerId>, Option<Source>, String)>,
    told: Option<Instant>,
}

impl Plane {
    /// Takes note of a refused stranger, and says so at once if it is the first for a while.
    pub(super) fn refuse_stranger(
        &mut self,
        peer: Option<PeerId>,
        source: Option<Source>,
        reason: &str,
    ) {
        let refusals = &mut self.state.refusals;
        refusals.count += 1;
        refusals.last = Some((peer, source, reason.to_owned()));
        self.tell_refusals();
    }

    /// Says how many strangers were refused, not too often.
    pub(super) fn tell_refusals(&mut self) {
        let refusals = &mut self.state.refusals;
        let recent = refusals.told.is_some_and(|at| at.elapsed() < WORD_INTERVAL);
        let Some((peer, source, reason)) = refusals.last.take_if(|_| !recent) else {
            return;
        };
        refusals.told = Some(Instant::now());
        let count = std::mem::take(&mut refusals.count);
        self.outbox.push(Event::StrangersRefused {
            count,
            node: peer.as_ref().map(node_id),
            source: name_of(source),
            reason,
        });
    }
}

/// A source in words.
pub(super) fn name_of(source: Option<Source>) -> String {
    source.map_or_else(
        || "an unknown address".to_owned(),
        |source| source.to_string(),
    )
}

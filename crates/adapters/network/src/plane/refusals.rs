//! Strangers that were refused, told of as a sum: a flood of them must not become a flood of events.

use libp2p::PeerId;
use tokio::time::{Duration, Instant};

use super::Plane;
use crate::event::Event;
use crate::gate::Source;
use crate::identity::node_id;

/// Between a refusal and the word about it, and between two words. A node that has just joined is known to others before
/// it knows them, and so are they to it: who turns out to be a member meanwhile was no stranger.
const WORD_INTERVAL: Duration = Duration::from_secs(3);
/// Strangers told apart until the next word; of more only the number is known.
const MAX_TOLD_APART: usize = 64;

/// What is still to be told.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    heard: Vec<Refused>,
    /// Of those that are not told apart.
    others: Option<Refused>,
    /// When the first of them came.
    since: Option<Instant>,
}

/// One stranger, and how often it was refused.
#[derive(Debug)]
struct Refused {
    peer: Option<PeerId>,
    source: Option<Source>,
    reason: String,
    count: u64,
}

impl Refusals {
    fn hear(&mut self, refused: Refused, now: Instant) {
        self.since.get_or_insert(now);
        let known = self.heard.iter_mut().find(|other| {
            other.peer.is_some() && other.peer == refused.peer && other.source == refused.source
        });
        if let Some(known) = known {
            known.count += refused.count;
        } else if refused.peer.is_some() && self.heard.len() < MAX_TOLD_APART {
            self.heard.push(refused);
        } else {
            let before = self.others.as_ref().map_or(0, |others| others.count);
            let count = before + refused.count;
            self.others = Some(Refused { count, ..refused });
        }
    }

    /// All that is due as one word about the last of them, without those that are members by now.
    fn take(&mut self, now: Instant, is_member: impl Fn(&PeerId) -> bool) -> Option<Refused> {
        self.since.take_if(|since| now - *since >= WORD_INTERVAL)?;
        let strangers = self.heard.drain(..).chain(self.others.take());
        strangers
            .filter(|refused| !refused.peer.as_ref().is_some_and(&is_member))
            .reduce(|before, last| Refused {
                count: before.count + last.count,
                ..last
            })
    }
}

impl Plane {
    /// Takes note of a refused stranger.
    pub(super) fn refuse_stranger(
        &mut self,
        peer: Option<PeerId>,
        source: Option<Source>,
        reason: &str,
    ) {
        let refused = Refused {
            peer,
            source,
            reason: reason.to_owned(),
            count: 1,
        };
        self.state.refusals.hear(refused, Instant::now());
    }

    /// Says how many strangers were refused, when it is time.
    pub(super) fn tell_refusals(&mut self) {
        let admission = &self.admission;
        let due = self
            .state
            .refusals
            .take(Instant::now(), |peer| admission.is_member(peer));
        let Some(refused) = due else {
            return;
        };
        self.outbox.push(Event::StrangersRefused {
            count: refused.count,
            node: refused.peer.as_ref().map(node_id),
            source: name_of(refused.source),
            reason: refused.reason,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(peer: Option<PeerId>) -> Refused {
        Refused {
            peer,
            source: None,
            reason: "asked nothing in time".to_owned(),
            count: 1,
        }
    }

    #[test]
    fn who_turns_out_to_be_a_member_was_no_stranger() {
        let mut refusals = Refusals::default();
        let (late, stranger) = (PeerId::random(), PeerId::random());
        let now = Instant::now();
        refusals.hear(refused(Some(late)), now);
        assert!(refusals.take(now, |_| false).is_none(), "not yet due");
        let due = now + WORD_INTERVAL;
        assert!(refusals.take(due, |peer| *peer == late).is_none());

        refusals.hear(refused(Some(stranger)), due);
        refusals.hear(refused(Some(stranger)), due);
        refusals.hear(refused(Some(late)), due);
        let told = refusals.take(due + WORD_INTERVAL, |peer| *peer == late);
        let told = told.expect("a stranger");
        assert_eq!((told.peer, told.count), (Some(stranger), 2));
        assert!(refusals.take(due + WORD_INTERVAL * 2, |_| false).is_none());
    }

    #[test]
    fn a_flood_is_counted_and_held_in_little() {
        let mut refusals = Refusals::default();
        let now = Instant::now();
        for _ in 0..10_000 {
            refusals.hear(refused(Some(PeerId::random())), now);
            refusals.hear(refused(None), now);
        }
        assert_eq!(refusals.heard.len(), MAX_TOLD_APART);
        let told = refusals.take(now + WORD_INTERVAL, |_| false);
        assert_eq!(told.expect("strangers").count, 20_000);
    }
}

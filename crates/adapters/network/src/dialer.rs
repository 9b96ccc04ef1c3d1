//! When to dial which member: at once for a call, else with back-off, and rarely if it refused us.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use libp2p::PeerId;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// First wait after a failed dial or a lost connection.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Longest wait after failed dials.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// First wait after a refusal: its member list may be a moment behind ours.
const FIRST_REFUSED_WAIT: Duration = Duration::from_secs(1);
/// Longest wait after refusals, unless the members change or it calls us.
const LONGEST_REFUSED_WAIT: Duration = Duration::from_secs(600);
/// How much later than the lower id the higher one starts, so that seldom both connect.
const POLITE_WAIT: Duration = Duration::from_millis(200);

/// What a call should do that finds no connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ForCall {
    /// Dial now.
    Dial,
    /// A dial is under way.
    Wait,
    /// The last one just failed.
    Failed(String),
    /// It does not know us.
    Refused,
}

/// Why there was no connection in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DialError {
    Failed(String),
    Refused,
}

pub(crate) type Waiting = oneshot::Sender<Result<(), DialError>>;

/// The dialling state of every member of one plane.
#[derive(Debug)]
pub(crate) struct Dialer {
    own: PeerId,
    /// Dials by itself; else for calls only.
    background: bool,
    /// By itself only these; none: all.
    only: Option<HashSet<PeerId>>,
    peers: HashMap<PeerId, Entry>,
}

#[derive(Debug, Default)]
struct Entry {
    next: Option<Instant>,
    dialing: bool,
    failures: u32,
    refusals: u32,
    /// Until then calls get the last error, or "refused".
    quiet_until: Option<Instant>,
    last_error: String,
    waiting: Vec<Waiting>,
}

impl Dialer {
    pub(crate) fn new(own: PeerId, background: bool) -> Self {
        Self {
            own,
            background,
            only: None,
            peers: HashMap::new(),
        }
    }

    /// Takes over the members, none of which is dialled before `now`. A `newer` list pardons refusals.
    pub(crate) fn set_members(&mut self, members: &[PeerId], newer: bool, now: Instant) {
        self.peers.retain(|peer, _| members.contains(peer));
        for peer in members {
            let first = now + self.politeness(*peer);
            let entry = self.peers.entry(*peer).or_insert_with(|| Entry {
                next: Some(first),
                ..Entry::default()
            });
            if newer && entry.refusals > 0 {
                entry.refusals = 0;
                entry.quiet_until = None;
                entry.next = Some(first);
            }
        }
    }

    /// From now on only these are dialled without a call; none: all. Who is new among them is dialled at once.
    pub(crate) fn keep(&mut self, only: Option<HashSet<PeerId>>, now: Instant) {
        let before: HashSet<_> = self
            .peers
            .keys()
            .filter(|peer| self.keeps(peer))
            .copied()
            .collect();
        self.only = only;
        let added = self
            .peers
            .keys()
            .filter(|peer| self.keeps(peer) && !before.contains(*peer));
        for peer in added.copied().collect::<Vec<_>>() {
            let first = now + self.politeness(peer);
            if let Some(entry) = self.peers.get_mut(&peer) {
                entry.next = entry.next.map(|next| next.max(first));
            }
        }
    }

    /// Whether a link to this member is there without being used.
    pub(crate) fn keeps(&self, peer: &PeerId) -> bool {
        self.background && self.only.as_ref().is_none_or(|only| only.contains(peer))
    }

    /// When [`Self::due`] has something next.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let kept = self.peers.iter().filter(|(peer, _)| self.keeps(peer));
        let idle = kept.filter(|(_, entry)| !entry.dialing);
        idle.filter_map(|(_, entry)| entry.next).min()
    }

    /// Members to be dialled now.
    pub(crate) fn due(&self, now: Instant) -> Vec<PeerId> {
        let due = |entry: &Entry| !entry.dialing && entry.next.is_some_and(|next| next <= now);
        let due = self
            .peers
            .iter()
            .filter(|(peer, entry)| due(entry) && self.keeps(peer));
        due.map(|(peer, _)| *peer).collect()
    }

    /// What a call to an unconnected member should do.
    pub(crate) fn for_call(&self, peer: &PeerId, now: Instant) -> ForCall {
        let Some(entry) = self.peers.get(peer) else {
            return ForCall::Failed("it is not a member".to_owned());
        };
        let quiet = entry.quiet_until.is_some_and(|until| now < until);
        match (entry.dialing, quiet) {
            (true, _) => ForCall::Wait,
            (false, true) if entry.refusals > 0 => ForCall::Refused,
            (false, true) => ForCall::Failed(entry.last_error.clone()),
            (false, false) => ForCall::Dial,
        }
    }

    /// Notes a dial; the number of failures before it.
    pub(crate) fn dialing(&mut self, peer: &PeerId) -> u32 {
        self.peers.get_mut(peer).map_or(0, |entry| {
            entry.dialing = true;
            entry.failures
        })
    }

    /// Answers `waiting` when the dial under way ends.
    pub(crate) fn wait(&mut self, peer: &PeerId, waiting: Waiting) {
        if let Some(entry) = self.peers.get_mut(peer) {
            entry.waiting.retain(|other| !other.is_closed());
            entry.waiting.push(waiting);
        }
    }

    /// A connection is there, dialled by either end.
    pub(crate) fn connected(&mut self, peer: &PeerId) {
        if let Some(entry) = self.peers.get_mut(peer) {
            entry.dialing = false;
            entry.next = None;
            settle(entry, &Ok(()));
        }
    }

    /// The peer answered as a member: all is well.
    pub(crate) fn came_up(&mut self, peer: &PeerId) {
        if let Some(entry) = self.peers.get_mut(peer) {
            entry.failures = 0;
            entry.refusals = 0;
            entry.quiet_until = None;
        }
    }

    /// A dial failed.
    pub(crate) fn failed(&mut self, peer: &PeerId, error: String, now: Instant) {
        let Some(entry) = self.peers.get_mut(peer) else {
            return;
        };
        entry.dialing = false;
        entry.failures = entry.failures.saturating_add(1);
        entry.next = Some(now + doubled(FIRST_WAIT, entry.failures, LONGEST_WAIT));
        entry.quiet_until = Some(now + FIRST_WAIT);
        settle(entry, &Err(DialError::Failed(error.clone())));
        entry.last_error = error;
    }

    /// It closed the connection without ever answering as a member.
    pub(crate) fn refused(&mut self, peer: &PeerId, now: Instant) {
        let Some(entry) = self.peers.get_mut(peer) else {
            return;
        };
        entry.refusals = entry.refusals.saturating_add(1);
        let wait = doubled(FIRST_REFUSED_WAIT, entry.refusals, LONGEST_REFUSED_WAIT);
        entry.next = Some(now + wait);
        entry.quiet_until = entry.next;
        settle(entry, &Err(DialError::Refused));
    }

    /// The last connection, which was well, is gone.
    pub(crate) fn lost(&mut self, peer: &PeerId, now: Instant) {
        let politeness = self.politeness(*peer);
        if let Some(entry) = self.peers.get_mut(peer) {
            entry.next = Some(now + FIRST_WAIT + politeness);
        }
    }

    /// A new address of it was seen.
    pub(crate) fn seen(&mut self, peer: &PeerId, now: Instant) {
        if let Some(entry) = self.peers.get_mut(peer)
            && entry.next.is_some()
            && entry.refusals == 0
        {
            entry.next = Some(now);
        }
    }

    fn politeness(&self, peer: PeerId) -> Duration {
        if self.own < peer {
            Duration::ZERO
        } else {
            POLITE_WAIT
        }
    }
}

fn settle(entry: &mut Entry, result: &Result<(), DialError>) {
    for waiting in entry.waiting.drain(..) {
        // A caller whose deadline passed is gone.
        drop(waiting.send(result.clone()));
    }
}

fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    let factor = 1_u32 << times.saturating_sub(1).min(16);
    first.saturating_mul(factor).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialer() -> (Dialer, PeerId, Instant) {
        let (own, peer) = (PeerId::random(), PeerId::random());
        let now = Instant::now();
        let mut dialer = Dialer::new(own, true);
        dialer.set_members(&[peer], true, now);
        (dialer, peer, now)
    }

    #[test]
    fn failures_are_retried_with_growing_waits_up_to_the_longest() {
        let (mut dialer, peer, now) = dialer();
        let mut waits = Vec::new();
        for _ in 0..9 {
            dialer.dialing(&peer);
            assert_eq!(dialer.next_due(), None);
            dialer.failed(&peer, "refused".to_owned(), now);
            waits.push(dialer.next_due().unwrap() - now);
        }
        assert_eq!(waits[..3], [100, 200, 400].map(Duration::from_millis));
        assert_eq!(waits[8], LONGEST_WAIT);
        let later = now + FIRST_WAIT;
        assert_eq!(dialer.for_call(&peer, later), ForCall::Dial);
    }

    #[test]
    fn a_refusal_silences_calls_until_the_members_change() {
        let (mut dialer, peer, now) = dialer();
        dialer.dialing(&peer);
        dialer.connected(&peer);
        dialer.refused(&peer, now);
        assert_eq!(dialer.for_call(&peer, now), ForCall::Refused);
        dialer.set_members(&[peer], false, now);
        assert_eq!(dialer.for_call(&peer, now), ForCall::Refused);
        dialer.set_members(&[peer], true, now);
        assert_eq!(dialer.for_call(&peer, now), ForCall::Dial);
    }

    #[test]
    fn callers_are_told_how_the_dial_ended() {
        let (mut dialer, peer, now) = dialer();
        let (waiting, mut told) = oneshot::channel();
        dialer.dialing(&peer);
        assert_eq!(dialer.for_call(&peer, now), ForCall::Wait);
        dialer.wait(&peer, waiting);
        dialer.failed(&peer, "no route".to_owned(), now);
        let failed = DialError::Failed("no route".to_owned());
        assert_eq!(told.try_recv().unwrap(), Err(failed));
        let (waiting, mut told) = oneshot::channel();
        dialer.wait(&peer, waiting);
        dialer.connected(&peer);
        assert_eq!(told.try_recv().unwrap(), Ok(()));
    }

    #[test]
    fn who_is_not_kept_is_dialled_for_calls_alone() {
        let (mut dialer, peer, now) = dialer();
        dialer.keep(Some(HashSet::new()), now);
        let later = now + LONGEST_WAIT;
        assert_eq!((dialer.next_due(), dialer.due(later)), (None, vec![]));
        assert_eq!(dialer.for_call(&peer, now), ForCall::Dial);
        dialer.dialing(&peer);
        dialer.connected(&peer);
        dialer.lost(&peer, now);
        assert_eq!((dialer.next_due(), dialer.due(later)), (None, vec![]));
        assert_eq!(dialer.for_call(&peer, now), ForCall::Dial);
    }

    #[test]
    fn who_becomes_kept_is_dialled_at_once_but_politely() {
        let (mut dialer, peer, now) = dialer();
        dialer.keep(Some(HashSet::new()), now);
        let later = now + LONGEST_WAIT;
        dialer.keep(Some(HashSet::from([peer])), later);
        let first = later + dialer.politeness(peer);
        assert_eq!(dialer.next_due(), Some(first));
        assert_eq!(dialer.due(first), [peer]);
        // Keeping it again changes no wait, and a link that is there is not dialled.
        dialer.keep(Some(HashSet::from([peer])), later + LONGEST_WAIT);
        assert_eq!(dialer.next_due(), Some(first));
        dialer.dialing(&peer);
        dialer.connected(&peer);
        dialer.keep(Some(HashSet::new()), later);
        dialer.keep(None, later);
        assert_eq!(dialer.next_due(), None);
    }

    #[test]
    fn a_removed_member_is_not_dialled_and_its_callers_are_let_go() {
        let (mut dialer, peer, now) = dialer();
        let (waiting, mut told) = oneshot::channel();
        dialer.dialing(&peer);
        dialer.wait(&peer, waiting);
        dialer.set_members(&[], true, now);
        assert!(dialer.due(now + LONGEST_WAIT).is_empty());
        assert_eq!(
            told.try_recv().unwrap_err(),
            oneshot::error::TryRecvError::Closed
        );
    }
}

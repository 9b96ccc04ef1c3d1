//! Strangers that speak as members do while this node has lost touch with its cluster: they may be the members of today,
//! and know where home is.
//!
//! A node that slept while all members it knew were replaced takes the present ones for strangers. They dial it, since it
//! is in their list; without an address of theirs that connection is its only way to ask.

use std::sync::{Mutex, MutexGuard, PoisonError};

use libp2p::PeerId;

/// Strangers remembered until the owner asks: anyone can knock.
const MAX_KNOCKS: usize = 16;

/// Who knocked since the owner looked last.
#[derive(Debug, Default)]
pub(crate) struct Knocks {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    listens: bool,
    heard: Vec<PeerId>,
}

impl Knocks {
    /// Begins or ends to remember who knocks.
    pub(crate) fn listen(&self, listens: bool) {
        let mut state = self.lock();
        state.listens = listens;
        if !listens {
            state.heard.clear();
        }
    }

    /// A stranger spoke as members do. True: its connection stays as long as that of any idle stranger.
    pub(crate) fn hear(&self, peer: PeerId) -> bool {
        let mut state = self.lock();
        if !state.listens || state.heard.len() >= MAX_KNOCKS {
            return false;
        }
        if !state.heard.contains(&peer) {
            state.heard.push(peer);
        }
        true
    }

    /// Those that knocked since the last call.
    pub(crate) fn take(&self) -> Vec<PeerId> {
        std::mem::take(&mut self.lock().heard)
    }

    // Each change leaves the list whole, so a panic elsewhere does no harm.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knocks_are_heard_only_by_the_lost_and_are_bounded() {
        let knocks = Knocks::default();
        let peer = PeerId::random();
        assert!(!knocks.hear(peer));
        knocks.listen(true);
        assert!(knocks.hear(peer) && knocks.hear(peer));
        assert_eq!(knocks.take(), [peer]);
        let heard = (0..100).filter(|_| knocks.hear(PeerId::random()));
        assert_eq!(heard.count(), MAX_KNOCKS);
        knocks.listen(false);
        assert!(knocks.take().is_empty() && !knocks.hear(peer));
    }
}

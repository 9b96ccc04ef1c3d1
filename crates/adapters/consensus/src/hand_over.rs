//! A leader whose own disk is slow or nearly full hands leadership to a voter that is better off.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use types::NodeId;

use crate::config::Timing;
use crate::handle::{Handle, Inner};
use crate::reserve::DiskRoom;
use crate::wire::{Request, Response};

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// Time until leadership is offered again after an offer that nobody took.
const PAUSE: Duration = Duration::from_secs(5);
/// A voter must sync so many times faster to be given what a slow leader has.
const CLEARLY_FASTER: u64 = 3;
/// Slow syncs in a row before a disk is called slow: one hiccup is none.
const SLOW_STREAK: u64 = 4;

/// What a replica says of its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fitness {
    /// Its disk has room.
    pub(crate) roomy: bool,
    /// Smoothed time of its group commits.
    pub(crate) sync_micros: u64,
}

/// A commit that takes longer than this is slow: with it a follower can just answer before the next heartbeats.
pub(crate) fn slow_micros(timing: &Timing) -> u64 {
    timing.election_min_ms * 1_000 / 2
}

/// Why a leader should not lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    NoRoom,
    SlowDisk,
}

fn reason(own: Fitness, streak: u64) -> Option<Reason> {
    if !own.roomy {
        return Some(Reason::NoRoom);
    }
    (streak >= SLOW_STREAK).then_some(Reason::SlowDisk)
}

/// Who takes over: one with room, and for a slow leader clearly faster; the fastest of them.
fn choose(
    own: Fitness,
    reason: Reason,
    others: impl IntoIterator<Item = (NodeId, Fitness)>,
) -> Option<NodeId> {
    let fits = |other: &Fitness| {
        other.roomy
            && (reason == Reason::NoRoom
                || other.sync_micros.saturating_mul(CLEARLY_FASTER) < own.sync_micros)
    };
    others
        .into_iter()
        .filter(|(_, fitness)| fits(fitness))
        .min_by_key(|(_, fitness)| fitness.sync_micros)
        .map(|(node, _)| node)
}

impl Inner {
    /// What this replica answers when it is asked.
    pub(crate) fn fitness(&self) -> Fitness {
        Fitness {
            roomy: self.reserve.room() == DiskRoom::Enough,
            sync_micros: self.log.counters().sync_micros(),
        }
    }
}

/// Watches this replica while it leads, until it is shut down.
pub(crate) async fn run(inner: std::sync::Weak<Inner>) {
    loop {
        let pause = match inner.upgrade() {
            None => return,
            Some(inner) if inner.stop.is_cancelled() => return,
            Some(inner) => look(&Handle { inner }).await,
        };
        tokio::time::sleep(pause).await;
    }
}

async fn look(handle: &Handle) -> Duration {
    let inner = &handle.inner;
    if !inner.leadership.borrow().is_self {
        return LOOK;
    }
    let own = inner.fitness();
    let Some(why) = reason(own, inner.log.counters().slow_streak()) else {
        return LOOK;
    };
    let others = ask_others(handle).await;
    if others.is_empty() {
        return LOOK;
    }
    let Some(to) = choose(own, why, others) else {
        return PAUSE;
    };
    tracing::warn!(node_id = %to, ?why, sync_micros = own.sync_micros, "handing leadership over");
    match handle.transfer_leader(to).await {
        Ok(()) => LOOK,
        Err(error) => {
            tracing::warn!(%error, "leadership not handed over");
            PAUSE
        }
    }
}

async fn ask_others(handle: &Handle) -> Vec<(NodeId, Fitness)> {
    let inner = &handle.inner;
    let mut others = handle.voters();
    others.remove(&inner.config.node);
    let deadline = inner.config.timing.election_max();
    let asking = others.into_iter().map(|node| {
        let transport = Arc::clone(&inner.receiver.transport);
        async move {
            let request = Request::Fitness.encode();
            let answer = transport.call(node.clone(), request, deadline).await.ok()?; // Not reached: no candidate.
            match Response::decode(&answer) {
                Ok(Response::Fitness { roomy, sync_micros }) => {
                    Some((node, Fitness { roomy, sync_micros }))
                }
                Ok(_) | Err(_) => None,
            }
        }
    });
    join_all(asking).await.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fitness(roomy: bool, sync_micros: u64) -> Fitness {
        Fitness { roomy, sync_micros }
    }

    fn others(all: [(&str, Fitness); 2]) -> Vec<(NodeId, Fitness)> {
        all.map(|(name, fitness)| (name.parse().unwrap(), fitness))
            .into()
    }

    #[test]
    fn a_slow_leader_gives_way_only_to_one_that_is_clearly_faster() {
        let own = fitness(true, 400_000);
        assert_eq!(reason(own, 3), None);
        assert_eq!(reason(own, 4), Some(Reason::SlowDisk));
        let equal = others([("b", fitness(true, 390_000)), ("c", fitness(true, 200_000))]);
        assert_eq!(choose(own, Reason::SlowDisk, equal), None);
        let fast = others([("b", fitness(true, 9_000)), ("c", fitness(true, 2_000))]);
        assert_eq!(
            choose(own, Reason::SlowDisk, fast),
            Some("c".parse().unwrap())
        );
    }

    #[test]
    fn a_leader_without_room_gives_way_to_any_that_has_some() {
        let own = fitness(false, 1_000);
        assert_eq!(reason(own, 0), Some(Reason::NoRoom));
        let full = others([("b", fitness(false, 10)), ("c", fitness(false, 10))]);
        assert_eq!(choose(own, Reason::NoRoom, full), None);
        let one = others([("b", fitness(false, 10)), ("c", fitness(true, 9_000))]);
        assert_eq!(choose(own, Reason::NoRoom, one), Some("c".parse().unwrap()));
    }
}

//! Holders and their processes, as far as leases see them: they belong to the machine and outlive the node process.

use std::sync::Arc;
use std::time::Duration;

use agent::{AttemptPhase, Input, LocalAttempt};
use state_machine::{AttemptEnd, AttemptReport};
use types::{AttemptToken, Cause, CauseKind, DurationMs};

use crate::seen::Seen;
use crate::world::{World, index};

/// Longest time that killing a process tree takes; less than the agent's margin.
const KILL_MS: u64 = 100;
/// Work that outlasts the ten minutes after which a lease gets long.
const LONG_WORK_MS: std::ops::Range<u64> = 610_000..680_000;

/// A holder with its process tree.
#[derive(Clone, Debug)]
pub(crate) struct Holding {
    phase: AttemptPhase,
    /// On the machine's clock.
    deadline: u64,
    /// Why it ended, or would if nothing else ended it.
    cause: CauseKind,
}

impl Holding {
    /// Power is gone; true if a process was running.
    pub(crate) fn end_with_machine(&mut self) -> bool {
        let was_running = self.phase == AttemptPhase::Running;
        if self.phase != AttemptPhase::Ended {
            self.phase = AttemptPhase::Ended;
            self.cause = CauseKind::NodeRestarted;
        }
        was_running
    }
}

/// What a process does if nobody stops it.
struct Plan {
    prepare_ms: u64,
    work_ms: u64,
    cause: CauseKind,
}

impl World {
    pub(crate) fn holdings(&self, node: u64) -> Vec<LocalAttempt> {
        self.with(|inner| {
            let holdings = inner.hosts[index(node)].holdings.iter();
            let local = |(token, holding): (&AttemptToken, &Holding)| LocalAttempt {
                token: *token,
                rank: 0,
                phase: holding.phase,
            };
            holdings.map(local).collect()
        })
    }

    /// A holder starts to prepare; it is not killed with the node process.
    pub(crate) fn hold(
        self: &Arc<Self>,
        node: u64,
        token: AttemptToken,
        deadline: u64,
        is_long: bool,
    ) {
        let plan = self.with(|inner| {
            let host = &mut inner.hosts[index(node)];
            if host.holdings.contains_key(&token) {
                return None; // The executor knows each token once.
            }
            let random = &mut inner.random;
            let cause = match random.range(0..10) {
                0 => CauseKind::ExitCode(1),
                1 => CauseKind::Signal(9),
                _ => CauseKind::Finished,
            };
            let work_ms = match random.range(0..10) {
                _ if is_long => random.range(LONG_WORK_MS),
                0..2 => random.range(1..50),
                _ => random.range(500..25_000),
            };
            // A large source tree takes longer than a lease.
            let longest = if random.chance(60) { 12_000 } else { 300 };
            let prepare_ms = random.range(5..longest);
            let holding = Holding {
                phase: AttemptPhase::Preparing,
                deadline,
                cause: cause.clone(),
            };
            host.holdings.insert(token, holding);
            Some((
                host.life.clone(),
                Plan {
                    prepare_ms,
                    work_ms,
                    cause,
                },
            ))
        });
        let Some((life, plan)) = plan else { return };
        let world = Arc::clone(self);
        life.spawn(async move { world.work(node, token, plan).await });
        let world = Arc::clone(self);
        life.spawn(async move { world.watch_deadline(node, token).await });
    }

    async fn work(self: Arc<Self>, node: u64, token: AttemptToken, plan: Plan) {
        tokio::time::sleep(Duration::from_millis(plan.prepare_ms)).await;
        let began = self.change(node, token, |holding| {
            let begins = holding.phase == AttemptPhase::Preparing;
            if begins {
                holding.phase = AttemptPhase::Running;
            }
            begins
        });
        if !began {
            return;
        }
        self.with(|inner| inner.counts.processes += 1);
        self.see(&Seen::Started { node, token });
        self.tell_agent(node, Input::Started { token });
        tokio::time::sleep(Duration::from_millis(plan.work_ms)).await;
        self.end(node, token, plan.cause);
    }

    /// The holder's own clock ends the tree, node alive or not.
    async fn watch_deadline(self: Arc<Self>, node: u64, token: AttemptToken) {
        loop {
            let deadline = self.with(|inner| {
                let holding = inner.hosts[index(node)].holdings.get(&token);
                let alive = holding.filter(|holding| holding.phase != AttemptPhase::Ended);
                alive.map(|holding| holding.deadline)
            });
            let Some(deadline) = deadline else { return };
            let clock = self.clock(node);
            if clock >= deadline {
                break;
            }
            // A clock that runs slow shows the deadline later, a fast one sooner: never sleep past it.
            let left = deadline - clock;
            let step = (left - left / 100).max(1);
            tokio::time::sleep(Duration::from_millis(step)).await;
        }
        let killing = self.range(1..KILL_MS);
        tokio::time::sleep(Duration::from_millis(killing)).await;
        self.end(node, token, CauseKind::LeaseExpired);
    }

    pub(crate) fn extend(&self, node: u64, token: AttemptToken, deadline: u64) {
        self.change(node, token, |holding| {
            holding.deadline = holding.deadline.max(deadline);
            true
        });
    }

    pub(crate) fn kill(
        self: &Arc<Self>,
        node: u64,
        token: AttemptToken,
        cause: CauseKind,
        grace: DurationMs,
    ) {
        let delay = self.range(1..KILL_MS) + self.range(0..grace.0 + 1);
        let life = self.with(|inner| inner.hosts[index(node)].life.clone());
        let world = Arc::clone(self);
        life.spawn(async move {
            tokio::time::sleep(Duration::from_millis(delay)).await;
            world.end(node, token, cause);
        });
    }

    fn change(
        &self,
        node: u64,
        token: AttemptToken,
        act: impl FnOnce(&mut Holding) -> bool,
    ) -> bool {
        self.with(|inner| {
            let holding = inner.hosts[index(node)].holdings.get_mut(&token);
            holding.is_some_and(act)
        })
    }

    /// The tree is gone, and its holder has stored why.
    fn end(&self, node: u64, token: AttemptToken, cause: CauseKind) {
        let mut was_running = false;
        let ended = self.change(node, token, |holding| {
            was_running = holding.phase == AttemptPhase::Running;
            let ends = holding.phase != AttemptPhase::Ended;
            if ends {
                holding.phase = AttemptPhase::Ended;
                holding.cause = cause;
            }
            ends
        });
        if was_running {
            self.see(&Seen::Ended { node, token });
        }
        if ended {
            self.tell_agent(node, Input::Ended { token });
        }
    }

    pub(crate) fn release(&self, node: u64, token: AttemptToken) {
        self.with(|inner| inner.hosts[index(node)].holdings.remove(&token));
    }

    fn tell_agent(&self, node: u64, input: Input) {
        if let Some((node, _)) = self.running(node) {
            // A full queue loses nothing: the holder's state is read again at the next look.
            drop(node.inputs.try_send(input));
        }
    }

    pub(crate) fn end_report(&self, node: u64, token: AttemptToken) -> AttemptReport {
        let cause = self.with(|inner| {
            let holding = inner.hosts[index(node)].holdings.get(&token);
            holding.map_or(CauseKind::HolderFailed, |holding| holding.cause.clone())
        });
        self.ended_report(node, cause)
    }

    pub(crate) fn ended_report(&self, node: u64, cause: CauseKind) -> AttemptReport {
        AttemptReport::Ended {
            end: AttemptEnd {
                cause: Cause::new(cause, vec!["seen by the simulated holder".to_owned()]),
                at: self.wall(node),
                peak_memory_bytes: 0,
                peak_vram_bytes: 0,
                cpu_ms: DurationMs(0),
                tree_kill_method: String::new(),
                outputs: None,
            },
            segments: Vec::new(),
            inline_records: bytes::Bytes::new(),
        }
    }
}

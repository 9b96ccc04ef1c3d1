//! One machine: its clock, its disk, the node process on it, and what survives that process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use types::{AttemptToken, Timestamp};

use crate::disk::Disk;
use crate::holding::Holding;
use crate::node::{self, Node};
use crate::plant::Plant;
use crate::random::Random;
use crate::runtime::{Life, spawn};
use crate::seen::Seen;
use crate::world::{World, index};

/// A machine and whatever survives its node process.
pub(crate) struct Host {
    pub(crate) number: u64,
    /// Speed of its clock over true time, in millionths: any two are within 1 %.
    drift_ppm: i64,
    /// Its wall clock minus true time.
    wall_offset_ms: u64,
    /// Raised by each start of the machine.
    pub(crate) boot: u64,
    /// Raised by each start of the node process.
    pub(crate) start: u64,
    /// The machine has power.
    pub(crate) is_on: bool,
    pub(crate) disk: Disk,
    pub(crate) slow_disk: bool,
    /// Holders and their processes.
    pub(crate) life: Life,
    pub(crate) holdings: BTreeMap<AttemptToken, Holding>,
    /// Tasks of the node process, from its first instruction on.
    process: Option<Life>,
    /// The node, once it has opened its store.
    pub(crate) node: Option<Arc<Node>>,
    /// Last index and term that were durable when the process ended.
    durable: (Option<u64>, u64),
}

impl Host {
    pub(crate) fn new(number: u64, random: &mut Random) -> Self {
        let drift = i64::try_from(random.range(0..9_900)).expect("small");
        Self {
            number,
            drift_ppm: drift - 4_950,
            wall_offset_ms: random.range(0..4_000),
            boot: 1,
            start: 0,
            is_on: true,
            disk: Disk::default(),
            slow_disk: false,
            life: Life::default(),
            holdings: BTreeMap::new(),
            process: None,
            node: None,
            durable: (None, 0),
        }
    }

    /// Its clock since boot (it goes on over restarts here: nothing compares across them).
    pub(crate) fn clock(&self, now: u64) -> u64 {
        let now = i64::try_from(now).expect("a few hours");
        u64::try_from(now + now * self.drift_ppm / 1_000_000).expect("drift is small")
    }

    pub(crate) fn wall(&self, now: u64) -> Timestamp {
        Timestamp(1_000_000_000 + now + self.wall_offset_ms)
    }

    /// True milliseconds from `now` until its clock shows `clock`.
    pub(crate) fn until(&self, now: u64, clock: u64) -> u64 {
        let left = clock.saturating_sub(self.clock(now));
        // One per cent more and a bit, so that the clock has surely come there.
        if left == 0 { 0 } else { left + left / 100 + 1 }
    }
}

impl World {
    pub(crate) fn clock(&self, node: u64) -> u64 {
        let now = self.now();
        self.with(|inner| inner.hosts[index(node)].clock(now))
    }

    pub(crate) fn wall(&self, node: u64) -> Timestamp {
        let now = self.now();
        self.with(|inner| inner.hosts[index(node)].wall(now))
    }

    /// True time until the clock of `node` shows `clock`.
    pub(crate) fn until(&self, node: u64, clock: u64) -> Duration {
        let now = self.now();
        Duration::from_millis(self.with(|inner| inner.hosts[index(node)].until(now, clock)))
    }

    /// The node and its tasks, if it runs.
    pub(crate) fn running(&self, node: u64) -> Option<(Arc<Node>, Life)> {
        self.with(|inner| {
            let host = &inner.hosts[index(node)];
            let node = host.node.clone()?;
            Some((node, host.process.clone()?))
        })
    }

    /// Starts the node process: it opens its store and adopts what the holders have.
    pub(crate) fn start(self: &Arc<Self>, number: u64) {
        let found = self.with(|inner| {
            let host = &mut inner.hosts[index(number)];
            if !host.is_on || host.process.is_some() {
                return None;
            }
            host.start += 1;
            let life = Life::default();
            host.process = Some(life.clone());
            Some((life, host.disk.clone(), host.durable))
        });
        let Some((life, disk, (durable, durable_term))) = found else {
            return;
        };
        let (found, found_term) = disk.view(|image| {
            let term = image.vote.map_or(0, |vote| vote.leader_id.term);
            (image.last().map(|id| id.index), term)
        });
        self.see(&Seen::Opened {
            node: number,
            durable,
            found,
            durable_term,
            found_term,
        });
        let world = Arc::clone(self);
        let starting = life.clone();
        life.spawn(async move { node::start(world, number, disk, starting).await });
    }

    /// The node process ends here and now; with `power`, everything on the machine does.
    pub(crate) fn crash(self: &Arc<Self>, number: u64, power: bool) {
        let plant = self.plant;
        let (process, holders, running) = self.with(|inner| {
            let host = &mut inner.hosts[index(number)];
            let process = host.process.take();
            let node = host.node.take();
            host.durable = host.disk.synced(|image| {
                let term = image.vote.map_or(0, |vote| vote.leader_id.term);
                (image.last().map(|id| id.index), term)
            });
            match plant {
                Plant::LyingDisk => host.disk.crash_losing_all(),
                Plant::WipedStore if power && inner.random.chance(300) => {
                    host.disk = Disk::default();
                }
                _ => host.disk.crash(&mut inner.random),
            }
            let mut holders = None;
            let mut running = Vec::new();
            if power {
                host.is_on = false;
                host.boot += 1;
                holders = Some(std::mem::take(&mut host.life));
                for (token, holding) in &mut host.holdings {
                    if holding.end_with_machine() {
                        running.push(*token);
                    }
                }
            }
            ((process, node), holders, running)
        });
        let (life, node) = process;
        if let Some(life) = life {
            life.end();
        }
        if let Some(life) = holders {
            life.end();
        }
        drop(node);
        for token in running {
            self.see(&Seen::Ended {
                node: number,
                token,
            });
        }
    }

    /// Power and process come back after a while, at the latest when the faults end.
    pub(crate) fn restart_after(self: &Arc<Self>, number: u64, down_ms: u64) {
        let world = Arc::clone(self);
        spawn(async move {
            tokio::time::sleep(Duration::from_millis(down_ms)).await;
            world.with(|inner| inner.hosts[index(number)].is_on = true);
            world.start(number);
        });
    }
}

//! What goes wrong, and its repair.

use crate::network::Weather;
use crate::world::{Event, FAULTS_END, World};

/// Something that is broken and will be repaired.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The node process is gone; its holders are not.
    NodeProcess { node: usize },
    /// The machine is off, and everything on it.
    Machine { node: usize },
    /// The machine sleeps.
    Sleep { node: usize },
    /// Some nodes are cut off from the others.
    Partition,
    /// A node hears and is not heard.
    Mute { node: usize },
    /// The network is slow and loses messages.
    Weather,
    /// A disk takes long to acknowledge.
    SlowDisk { node: usize },
    /// A disk has no room for new work.
    FullDisk { node: usize },
}

impl World {
    /// One fault now, the next one soon, until all faults end.
    pub(crate) fn fault(&mut self) {
        if self.now >= FAULTS_END {
            return;
        }
        self.faults += 1;
        let node = self.random.index(self.hosts.len());
        match self.random.range(0..100) {
            0..20 => self.stop_process_of(node),
            20..35 => self.stop_machine(node),
            35..52 => self.partition(),
            52..60 => self.mute(node),
            60..68 => self.storm(),
            68..76 => self.change_leader(),
            76..82 => self.sleep(node),
            82..88 => self.slow_disk(node),
            88..91 => self.fill_disk(node),
            91..95 => self.jump_clock(node),
            _ => self.repeat_old_messages(),
        }
        self.review_leader();
        let pause = self.random.range(500..12_000);
        self.after(pause, Event::Fault);
    }

    /// Repairs come at the latest when the faults end.
    fn plan_repair(&mut self, after: u64, fault: Fault) {
        let latest = FAULTS_END.saturating_sub(self.now);
        self.after(after.min(latest), Event::Repair(fault));
    }

    fn stop_process_of(&mut self, node: usize) {
        self.hosts[node].stop_node();
        self.lose_memory(node);
        let down = self.random.range(50..20_000);
        self.plan_repair(down, Fault::NodeProcess { node });
    }

    fn stop_machine(&mut self, node: usize) {
        self.on_host(node, crate::host::Host::power_off);
        self.lose_memory(node);
        let down = self.random.range(1_000..60_000);
        self.plan_repair(down, Fault::Machine { node });
    }

    fn sleep(&mut self, node: usize) {
        self.hosts[node].suspend();
        let lasts = self.random.range(500..40_000);
        self.plan_repair(lasts, Fault::Sleep { node });
    }

    fn partition(&mut self) {
        for node in 0..self.groups.len() {
            self.groups[node] = self.random.range(0..2);
        }
        let cut = self.random.range(200..30_000);
        self.plan_repair(cut, Fault::Partition);
    }

    fn mute(&mut self, node: usize) {
        self.muted[node] = true;
        let lasts = self.random.range(200..20_000);
        self.plan_repair(lasts, Fault::Mute { node });
    }

    fn storm(&mut self) {
        self.weather = Weather {
            loss_permille: self.random.range(0..400),
            repeat_permille: self.random.range(0..200),
            longest_delay_ms: self.random.range(50..9_000),
        };
        let lasts = self.random.range(1_000..15_000);
        self.plan_repair(lasts, Fault::Weather);
    }

    /// Another leader without anything being down: an operator, a vote that was lost.
    fn change_leader(&mut self) {
        self.depose();
    }

    fn slow_disk(&mut self, node: usize) {
        self.slow[node] = true;
        let lasts = self.random.range(1_000..30_000);
        self.plan_repair(lasts, Fault::SlowDisk { node });
    }

    fn fill_disk(&mut self, node: usize) {
        self.hosts[node].disk_full = true;
        let lasts = self.random.range(1_000..30_000);
        self.plan_repair(lasts, Fault::FullDisk { node });
    }

    /// Somebody sets the wall clock, by up to an hour; no lease may notice.
    fn jump_clock(&mut self, node: usize) {
        let jump = i64::try_from(self.random.range(0..7_200_000)).expect("two hours") - 3_600_000;
        self.hosts[node].wall_offset_ms = jump;
    }

    /// Requests and answers of long ago come once more.
    fn repeat_old_messages(&mut self) {
        for (from, to, message) in std::mem::take(&mut self.kept) {
            let delay = self.random.range(1..5_000);
            self.after(delay, Event::Deliver { from, to, message });
        }
    }

    /// Machines that are no members any more are switched off for good.
    pub(crate) fn take_removed_out(&mut self) {
        for node in 0..self.hosts.len() {
            if !self.removed[node] && self.state.node(&self.hosts[node].id).is_none() {
                self.removed[node] = true;
                self.on_host(node, crate::host::Host::power_off);
            }
        }
    }

    pub(crate) fn repair(&mut self, fault: Fault) {
        match fault {
            Fault::NodeProcess { node } => self.start_node(node),
            Fault::Machine { node } if self.removed[node] => {}
            Fault::Machine { node } => {
                let before = self.hosts[node].start;
                self.on_host(node, crate::host::Host::power_on);
                self.begin_rounds(node, before);
            }
            Fault::Sleep { node } => {
                let before = self.hosts[node].start;
                self.on_host(node, crate::host::Host::resume);
                self.begin_rounds(node, before);
            }
            Fault::Mute { node } => self.muted[node] = false,
            Fault::Partition => self.groups.fill(0),
            Fault::Weather => self.weather = Weather::fair(),
            Fault::SlowDisk { node } => self.slow[node] = false,
            Fault::FullDisk { node } => self.hosts[node].disk_full = false,
        }
        self.review_leader();
    }
}

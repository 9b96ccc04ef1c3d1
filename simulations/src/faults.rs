//! What goes wrong, and its repair.

use agent::AttemptPhase;
use types::CauseKind;

use crate::network::Weather;
use crate::world::{Event, FAULTS_END, World};

/// Something that is broken and will be repaired.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The node process is gone; its holders are not.
    NodeProcess { node: usize },
    /// The machine is off, and everything on it.
    Machine { node: usize },
    /// Some nodes are cut off from the others.
    Partition,
    /// A node hears and is not heard.
    Mute { node: usize },
    /// The network is slow and loses messages.
    Weather,
}

impl World {
    /// One fault now, the next one soon, until all faults end.
    pub(crate) fn fault(&mut self) {
        if self.now >= FAULTS_END {
            return;
        }
        let node = self.random.index(self.machines.len());
        match self.random.range(0..100) {
            0..25 => self.stop_process_of(node),
            25..45 => self.stop_machine(node),
            45..65 => self.partition(),
            65..75 => self.mute(node),
            75..85 => self.storm(),
            _ => self.change_leader(),
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
        self.machines[node].agent = None;
        let down = self.random.range(50..20_000);
        self.plan_repair(down, Fault::NodeProcess { node });
    }

    fn stop_machine(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        machine.agent = None;
        machine.machine_up = false;
        machine.boot += 1;
        let live = machine
            .processes
            .iter()
            .filter(|(_, process)| process.phase != AttemptPhase::Ended);
        let tokens: Vec<_> = live.map(|(token, _)| *token).collect();
        for token in tokens {
            self.end_process(node, token, Some(CauseKind::NodeRestarted));
        }
        let down = self.random.range(1_000..60_000);
        self.plan_repair(down, Fault::Machine { node });
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

    /// Another leader without anything being down: a slow disk, an operator.
    fn change_leader(&mut self) {
        if let Some(leader) = self.leader.take() {
            self.depose(leader);
        }
    }

    pub(crate) fn repair(&mut self, fault: Fault) {
        match fault {
            Fault::NodeProcess { node } => self.start_process(node),
            Fault::Machine { node } => {
                self.machines[node].machine_up = true;
                self.start_process(node);
            }
            Fault::Mute { node } => self.muted[node] = false,
            Fault::Partition => self.groups.fill(0),
            Fault::Weather => self.weather = Weather::fair(),
        }
        self.review_leader();
    }
}

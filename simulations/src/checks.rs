//! What must hold after each step, and at the end.

use agent::{AttemptPhase, StopReason};
use state_machine::{ExperimentPhase, check_invariants};
use types::{AttemptToken, CauseKind};

use crate::world::World;

impl World {
    /// Invariant 11: at most one attempt of an experiment runs at any time, and none runs twice.
    pub(crate) fn check_start(&mut self, node: usize, token: AttemptToken) -> Result<(), String> {
        let running = self.running.entry(token.experiment).or_default();
        if let Some((other_node, other)) = running.first() {
            let (one, two) = (&self.machines[node].id, &self.machines[*other_node].id);
            return Err(format!(
                "{token} starts on {one} while {other} runs on {two}"
            ));
        }
        running.push((node, token));
        let times = self.ran.entry(token).or_default();
        *times += 1;
        if *times > 1 {
            return Err(format!("{token} ran {times} times"));
        }
        Ok(())
    }

    /// What the node takes for stale must be so: nothing may end the work of a current attempt by mistake.
    pub(crate) fn check_stop(&mut self, token: AttemptToken, reason: &StopReason) {
        let mut active = self.state.active();
        let current = active.any(|(_, attempt)| attempt.token == token);
        if let StopReason::Stale { why } = reason
            && current
        {
            self.wrong = Some(format!("{token} is current and is stopped as stale: {why}"));
        }
    }

    /// After each entry: the state agrees with itself, and nothing is booked over what its node has.
    pub(crate) fn check_state(&self) -> Result<(), String> {
        check_invariants(&self.state)?;
        for machine in &self.machines {
            let booking = self.state.booking(&machine.id);
            if booking.cpu_milli > 4_000 || booking.memory_bytes > 8 << 30 {
                return Err(format!(
                    "{} is booked over its size: {booking:?}",
                    machine.id
                ));
            }
        }
        Ok(())
    }

    /// All submissions are answered, all experiments over, and nothing runs or waits to be reported.
    pub(crate) fn all_done(&self) -> bool {
        self.clients
            .iter()
            .all(|client| client.experiment.is_some())
            && self
                .state
                .experiments()
                .all(|experiment| !experiment.is_live())
            && self
                .machines
                .iter()
                .all(|machine| machine.processes.is_empty())
    }

    /// At the end: replicas agree, every acknowledged submission is there once, ends are of the named kinds.
    pub(crate) fn check_end(&self) -> Result<(), String> {
        if self.state.state_hash() != self.replica.state_hash() {
            return Err("the replica's state differs at the end".to_owned());
        }
        let known = self.state.experiments().count();
        if known != self.clients.len() {
            return Err(format!(
                "{} submissions made {known} experiments",
                self.clients.len()
            ));
        }
        let view = &self.machines[0].view;
        if !autoscaler::demand(&self.state, view, self.machines[0].wall(self.now)).is_empty() {
            return Err("everything is over and something is still in demand".to_owned());
        }
        for client in &self.clients {
            let found = client.experiment.and_then(|id| self.state.experiment(id));
            let Some(experiment) = found else {
                return Err(format!("an acknowledged submission is lost: {client:?}"));
            };
            let ExperimentPhase::Ended { cause, .. } = &experiment.phase else {
                return Err(format!("{} is not over", experiment.id));
            };
            let stopped = matches!(cause.kind, CauseKind::Stopped { .. });
            if stopped && experiment.stop_requested.is_none() {
                return Err(format!("{} was stopped by nobody: {cause}", experiment.id));
            }
            if cause.is_node_failure() && experiment.stop_requested.is_none() {
                return Err(format!(
                    "{} ended for a lost node in spite of its retries: {cause}",
                    experiment.id
                ));
            }
        }
        Ok(())
    }

    /// What is missing, for people.
    pub(crate) fn unfinished(&self) -> String {
        let live = self
            .state
            .experiments()
            .filter(|experiment| experiment.is_live());
        let live: Vec<_> = live
            .map(|experiment| format!("{} {:?}", experiment.id, experiment.phase))
            .collect();
        let unanswered = self
            .clients
            .iter()
            .filter(|client| client.experiment.is_none())
            .count();
        let held: Vec<_> = self
            .machines
            .iter()
            .flat_map(|machine| {
                machine
                    .processes
                    .iter()
                    .map(move |(token, process)| (machine.number, token, process.phase))
            })
            .map(|(node, token, phase)| {
                format!(
                    "{token} on {node} is {}",
                    if phase == AttemptPhase::Ended {
                        "unreported"
                    } else {
                        "running"
                    }
                )
            })
            .collect();
        format!(
            "{unanswered} submissions unanswered; live: [{}]; held: [{}]",
            live.join(", "),
            held.join(", ")
        )
    }
}

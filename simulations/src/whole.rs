//! After the faults: everything over, everybody up to date, nothing left.

use agent::AttemptPhase;
use scheduler::{SchedulerConfig, explain};
use state_machine::Experiment;
use types::Timestamp;

use crate::world::World;

impl World {
    /// All submissions are answered, all experiments over, nothing runs or waits to be reported, and every voter has
    /// the whole log.
    pub(crate) fn all_done(&self) -> bool {
        let leads = self.leader.as_ref().is_some_and(|leader| leader.ready);
        leads
            && self
                .clients
                .iter()
                .all(|client| client.experiment.is_some())
            && self
                .state
                .experiments()
                .all(|experiment| !experiment.is_live())
            && self
                .hosts
                .iter()
                .all(|host| self.removed[host.number] || host.held().next().is_none())
            && self.voters_are_whole()
    }

    fn voters_are_whole(&self) -> bool {
        let Some(leader) = self.leader.as_ref().map(|leader| leader.node) else {
            return false;
        };
        let voters = self.log.voters_of(leader);
        let length = self.log.replicas[leader].entries.len();
        voters.len() % 2 == 1
            && self.log.committed.len() == length
            && voters
                .iter()
                .all(|voter| self.log.shared(leader, *voter) == length)
    }

    /// Nothing was made that nobody asked for, and nothing is in demand.
    pub(crate) fn check_whole(&self) -> Result<(), String> {
        let known = self.state.experiments().count();
        if known != self.clients.len() {
            return Err(format!(
                "{} submissions made {known} experiments",
                self.clients.len()
            ));
        }
        let Some(leader) = &self.leader else {
            return Err("nobody leads".to_owned());
        };
        let wall = self.hosts[leader.node].wall(self.now);
        if !autoscaler::demand(&self.state, &self.views[leader.node], wall).is_empty() {
            return Err("everything is over and something is still in demand".to_owned());
        }
        Ok(())
    }

    /// Why an experiment waits, as the leader sees it.
    fn why(&self, experiment: &Experiment) -> String {
        let Some(leader) = self.leader.as_ref().map(|leader| leader.node) else {
            return "nobody leads".to_owned();
        };
        let clock = Timestamp(self.hosts[leader].clock(self.now));
        let config = SchedulerConfig::default();
        let why = explain(&self.state, &self.views[leader], clock, experiment, &config);
        format!("{}; {:?}", why.summary, why.nodes)
    }

    /// What is missing, for people.
    pub(crate) fn unfinished(&self) -> String {
        let live = self
            .state
            .experiments()
            .filter(|experiment| experiment.is_live());
        let live: Vec<_> = live
            .map(|experiment| {
                let (id, phase) = (experiment.id, &experiment.phase);
                format!("{id} {phase:?}: {}", self.why(experiment))
            })
            .collect();
        let unanswered = self
            .clients
            .iter()
            .filter(|client| client.experiment.is_none())
            .count();
        let held: Vec<_> = self
            .hosts
            .iter()
            .flat_map(|host| host.held().map(move |held| (host.number, held)))
            .map(|(node, (token, phase))| {
                let state = if phase == AttemptPhase::Ended {
                    "unreported"
                } else {
                    "running"
                };
                format!("{token} on {node} is {state}")
            })
            .collect();
        let leader = self.leader.as_ref().map(|leader| leader.node);
        let voters = leader.map(|leader| self.log.voters_of(leader));
        format!(
            "{unanswered} submissions unanswered; live: [{}]; held: [{}]; leader {leader:?}, voters {voters:?}",
            live.join(", "),
            held.join(", ")
        )
    }
}

//! Invariant 8, the core's part: members come in by a token that lives and has uses left, and only members are given
//! work or heard. (The gate itself is the network adapter's.)

use std::collections::BTreeSet;

use state_machine::{Command, Event, Outcome};
use types::NodeId;

use super::{Fact, Invariant, Scene};

#[derive(Debug, Default)]
pub(super) struct Admitted {
    members: BTreeSet<NodeId>,
    /// Those that were taken out too: a repeat of what they had reported before is no news.
    ever: BTreeSet<NodeId>,
}

impl Invariant for Admitted {
    fn note(&mut self, fact: &Fact<'_>, scene: &Scene<'_>) -> Result<(), String> {
        let Fact::Applied {
            index,
            entry,
            applied,
            ..
        } = fact
        else {
            return Ok(());
        };
        let members: BTreeSet<_> = scene.state.nodes().map(|node| node.node.clone()).collect();
        let done = !matches!(applied.outcome, Outcome::Refused(_));
        for new in members.difference(&self.members) {
            let by_rule = match &entry.command {
                Command::FoundCluster(found) => found.founder == *new,
                Command::AdmitNode(admit) => admit.node == *new,
                _ => false,
            };
            if !(by_rule && done) {
                return Err(format!("entry {index} let {new} in: {:?}", entry.command));
            }
        }
        for event in &applied.events {
            if let Event::AttemptPlaced { token, nodes } = event
                && let Some(stranger) = nodes.iter().find(|node| !members.contains(node))
            {
                return Err(format!(
                    "{token} was placed on {stranger}, which is no member"
                ));
            }
        }
        if let Command::ReportAttempt(report) = &entry.command
            && done
            && !self.ever.contains(&report.node)
        {
            return Err(format!("entry {index}: the report of a stranger counted"));
        }
        self.ever.extend(members.iter().cloned());
        self.members = members;
        Ok(())
    }
}

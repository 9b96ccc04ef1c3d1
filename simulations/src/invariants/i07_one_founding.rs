//! Invariant 7: one node makes a cluster, the first; nobody makes another of it later.

use state_machine::{Command, Outcome};
use types::ClusterId;

use super::{Fact, Invariant, Scene};

#[derive(Debug, Default)]
pub(super) struct OneFounding {
    cluster: Option<ClusterId>,
}

impl Invariant for OneFounding {
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
        let known = self.cluster;
        self.cluster = scene.state.cluster();
        if known.is_some() && known != self.cluster {
            return Err(format!("entry {index} made another cluster of it"));
        }
        let founds = matches!(entry.command, Command::FoundCluster(_));
        if founds && known.is_some() && !matches!(applied.outcome, Outcome::Refused(_)) {
            return Err(format!("entry {index} founded the cluster again"));
        }
        Ok(())
    }
}

//! Invariant 11: at most one attempt of an experiment runs at any time, and none runs twice. (Gray and Cheriton 1989;
//! Burrows, "The Chubby Lock Service", OSDI 2006, section 2.4.) A machine that slept over the end of its lease is the
//! stated exception: what it does until its holder has killed it is fenced. Looked at twice: by what starts and ends, and
//! after every step by what the machines have.

use std::collections::BTreeMap;

use agent::AttemptPhase;
use types::{AttemptToken, ExperimentId, NodeId};

use super::{Fact, Invariant, Scene};

#[derive(Debug, Default)]
pub(super) struct OneAtATime {
    running: BTreeMap<ExperimentId, Vec<(usize, AttemptToken)>>,
    ran: BTreeMap<AttemptToken, u32>,
}

impl Invariant for OneAtATime {
    fn note(&mut self, fact: &Fact<'_>, scene: &Scene<'_>) -> Result<(), String> {
        match fact {
            Fact::Started { host, token } => self.start(*host, *token, scene),
            Fact::Over { host, token } => {
                if let Some(running) = self.running.get_mut(&token.experiment) {
                    running.retain(|other| *other != (*host, *token));
                }
                Ok(())
            }
            Fact::Step => look(scene),
            _ => Ok(()),
        }
    }
}

/// What the machines have, whatever was said of it: of each experiment one process at most.
fn look(scene: &Scene<'_>) -> Result<(), String> {
    let mut runs: Vec<(AttemptToken, &NodeId)> = Vec::new();
    for host in scene.hosts {
        for (token, phase) in host.held() {
            if phase != AttemptPhase::Running || host.is_fenced(scene.now, &token) {
                continue;
            }
            let beside = runs
                .iter()
                .find(|(held, _)| held.experiment == token.experiment);
            if let Some((held, other)) = beside {
                return Err(format!(
                    "{token} runs on {} while {held} runs on {other}",
                    host.id
                ));
            }
            runs.push((token, &host.id));
        }
    }
    Ok(())
}

impl OneAtATime {
    fn start(&mut self, host: usize, token: AttemptToken, scene: &Scene<'_>) -> Result<(), String> {
        let running = self.running.entry(token.experiment).or_default();
        let beside = running
            .iter()
            .find(|(other, held)| !scene.hosts[*other].is_fenced(scene.now, held));
        if let Some((other, held)) = beside {
            let (one, two) = (&scene.hosts[host].id, &scene.hosts[*other].id);
            return Err(format!(
                "{token} starts on {one} while {held} runs on {two}"
            ));
        }
        running.push((host, token));
        let times = self.ran.entry(token).or_default();
        *times += 1;
        if *times > 1 {
            return Err(format!("{token} ran {times} times"));
        }
        Ok(())
    }
}

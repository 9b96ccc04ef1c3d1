//! Invariant 11: at most one attempt of an experiment runs at any time, and no rank of one runs twice. (Gray and Cheriton 1989;
//! Burrows, "The Chubby Lock Service", OSDI 2006, section 2.4.) A machine that slept over the end of its lease is the
//! stated exception: what it does until its holder has killed it is fenced. Looked at twice: by what starts and ends, and
//! after every step by what the machines have.

use std::collections::BTreeMap;

use agent::AttemptPhase;
use types::{AttemptToken, ExperimentId};

use super::{Fact, Invariant, Scene};

#[derive(Debug, Default)]
pub(super) struct OneAtATime {
    running: BTreeMap<ExperimentId, Vec<(usize, AttemptToken)>>,
    ran: BTreeMap<(AttemptToken, Option<u32>), u32>,
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

/// What the machines have, whatever was said of it: of each experiment one attempt, and of that one process for each rank.
fn look(scene: &Scene<'_>) -> Result<(), String> {
    let mut runs: Vec<(AttemptToken, usize)> = Vec::new();
    for host in scene.hosts {
        for (token, phase) in host.held() {
            if phase != AttemptPhase::Running || host.is_fenced(scene.now, &token) {
                continue;
            }
            if let Some((held, other)) = runs
                .iter()
                .find(|held| clash(scene, **held, (token, host.number)))
            {
                let other = &scene.hosts[*other].id;
                return Err(format!(
                    "{token} runs on {} while {held} runs on {other}",
                    host.id
                ));
            }
            runs.push((token, host.number));
        }
    }
    Ok(())
}

/// Both are of one experiment, and not two ranks of one attempt.
fn clash(scene: &Scene<'_>, one: (AttemptToken, usize), other: (AttemptToken, usize)) -> bool {
    let rank = |(token, host): (AttemptToken, usize)| scene.hosts[host].rank_of(&token);
    one.0.experiment == other.0.experiment && (one.0 != other.0 || rank(one) == rank(other))
}

impl OneAtATime {
    fn start(&mut self, host: usize, token: AttemptToken, scene: &Scene<'_>) -> Result<(), String> {
        let running = self.running.entry(token.experiment).or_default();
        let beside = running.iter().find(|(other, held)| {
            !scene.hosts[*other].is_fenced(scene.now, held)
                && clash(scene, (*held, *other), (token, host))
        });
        if let Some((other, held)) = beside {
            let (one, two) = (&scene.hosts[host].id, &scene.hosts[*other].id);
            return Err(format!(
                "{token} starts on {one} while {held} runs on {two}"
            ));
        }
        running.push((host, token));
        let rank = scene.hosts[host].rank_of(&token);
        let times = self.ran.entry((token, rank)).or_default();
        *times += 1;
        if *times > 1 {
            return Err(format!("{token} ran {times} times, rank {rank:?}"));
        }
        Ok(())
    }
}

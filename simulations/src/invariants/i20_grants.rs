//! Invariant 20: a start needs a lease grant, and absence from a wanted set stops nothing until a leader-confirmed
//! read agrees: what a node takes for stale is so.

use std::collections::BTreeSet;

use agent::StopReason;
use types::AttemptToken;

use super::{Fact, Invariant, Scene};

#[derive(Debug, Default)]
pub(super) struct Grants {
    granted: BTreeSet<(usize, AttemptToken)>,
}

impl Invariant for Grants {
    fn note(&mut self, fact: &Fact<'_>, scene: &Scene<'_>) -> Result<(), String> {
        match fact {
            Fact::Granted { host, token } => {
                self.granted.insert((*host, *token));
                Ok(())
            }
            Fact::Started { host, token } if !self.granted.contains(&(*host, *token)) => {
                Err(format!(
                    "{token} starts on {} without a grant",
                    scene.hosts[*host].id
                ))
            }
            Fact::Stopped {
                host,
                token,
                reason: StopReason::Stale { why },
            } => {
                let mut active = scene.state.active();
                let id = &scene.hosts[*host].id;
                if active
                    .any(|(_, attempt)| attempt.token == *token && attempt.rank_on(id).is_some())
                {
                    return Err(format!("{token} is current and is stopped as stale: {why}"));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

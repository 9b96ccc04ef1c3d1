//! Invariant 10: suspect is not dead. A rank is given up only when its lease has run out, and then its process is
//! gone: at the moment of the decision nothing of it runs anywhere. (Gray and Cheriton, "Leases", SOSP 1989,
//! section 2.) A person who says `--is-dead` of a machine that lives is believed: that attempt is named stale there.

use std::collections::BTreeSet;

use agent::AttemptPhase;
use state_machine::{Command, Outcome};

use super::{Fact, Invariant, Scene};

#[derive(Debug, Default)]
pub(super) struct Suspect;

impl Invariant for Suspect {
    fn note(&mut self, fact: &Fact<'_>, scene: &Scene<'_>) -> Result<(), String> {
        let Fact::Applied { entry, applied, .. } = fact else {
            return Ok(());
        };
        let Command::LoseAttempt(lose) = &entry.command else {
            return Ok(());
        };
        if matches!(applied.outcome, Outcome::Refused(_)) {
            return Ok(());
        }
        let runs: BTreeSet<_> = scene
            .hosts
            .iter()
            .filter(|host| !host.is_fenced(scene.now, &lose.token))
            .filter(|host| {
                host.rank_of(&lose.token) == Some(lose.rank)
                    && host
                        .held()
                        .any(|(token, phase)| token == lose.token && phase == AttemptPhase::Running)
            })
            .map(|host| host.id.clone())
            .collect();
        if runs.is_empty() {
            Ok(())
        } else {
            Err(format!(
                "{} was given up while it runs on {runs:?}",
                lose.token
            ))
        }
    }
}

//! Invariant 2: `apply` is total, deterministic and pure; state time never goes back. Two replicas, one of which goes
//! through snapshots, must do the same and have the same bytes. (Schneider, "Implementing Fault-Tolerant Services
//! Using the State Machine Approach", ACM Computing Surveys 22(4), 1990, section 2.)

use types::Timestamp;

use super::{Fact, Invariant, Scene};

/// Entries between two comparisons of all bytes: hashing the state costs as much as twenty entries.
const COMPARED_EVERY: u64 = 64;

#[derive(Debug, Default)]
pub(super) struct Deterministic {
    time: Timestamp,
}

impl Invariant for Deterministic {
    fn note(&mut self, fact: &Fact<'_>, scene: &Scene<'_>) -> Result<(), String> {
        let Fact::Applied {
            index,
            applied,
            twin,
            ..
        } = fact
        else {
            return Ok(());
        };
        if applied != twin {
            return Err(format!(
                "replicas disagree on entry {index}: {applied:?} and {twin:?}"
            ));
        }
        if scene.state.time() < self.time {
            return Err(format!("state time went back at entry {index}"));
        }
        self.time = scene.state.time();
        if index.0.is_multiple_of(COMPARED_EVERY) {
            return compare(scene);
        }
        Ok(())
    }

    fn at_the_end(&mut self, scene: &Scene<'_>) -> Result<(), String> {
        compare(scene)
    }
}

fn compare(scene: &Scene<'_>) -> Result<(), String> {
    if scene.state.state_hash() == scene.twin.state_hash() {
        Ok(())
    } else {
        Err(format!(
            "the states of two replicas differ at index {}",
            scene.state.applied()
        ))
    }
}

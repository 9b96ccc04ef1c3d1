//! Invariant 4: a repeated request is answered with the first outcome and done once. (Ongaro 2014, section 6.3:
//! client sessions make commands linearizable.)

use std::collections::BTreeMap;

use state_machine::Outcome;
use types::RequestId;

use super::{Fact, Invariant, Scene};

#[derive(Debug, Default)]
pub(super) struct Repeats {
    first: BTreeMap<RequestId, Outcome>,
}

impl Invariant for Repeats {
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
        let Some(request) = entry.request else {
            return Ok(());
        };
        match self.first.get(&request) {
            Some(first) if *first != applied.outcome || !applied.events.is_empty() => Err(format!(
                "entry {index} repeats {request:?}: {:?} first, {:?} now",
                first, applied.outcome
            )),
            Some(_) => Ok(()),
            None => {
                self.first.insert(request, applied.outcome.clone());
                Ok(())
            }
        }
        .and_then(|()| {
            let made = scene.state.experiments();
            let made = made
                .filter(|experiment| experiment.request == Some(request))
                .count();
            if made > 1 {
                return Err(format!("{request:?} made {made} experiments"));
            }
            Ok(())
        })
    }
}

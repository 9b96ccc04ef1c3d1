//! Invariant 1: a write is acknowledged only when it is durable on a majority of the voters, and none is ever lost.
//! (Ongaro 2014, section 3.6: leader completeness, committed entries never change.)

use types::{ExperimentId, RequestId};

use super::{Fact, Invariant, Scene};
use state_machine::Outcome;

#[derive(Debug, Default)]
pub(super) struct Durable {
    /// Length of the committed log.
    committed: u64,
    acknowledged: Vec<(RequestId, ExperimentId)>,
}

impl Invariant for Durable {
    fn note(&mut self, fact: &Fact<'_>, scene: &Scene<'_>) -> Result<(), String> {
        match fact {
            Fact::Committed {
                index,
                on_disk,
                voters,
            } => {
                self.committed += 1;
                if *index != self.committed {
                    return Err(format!(
                        "entry {index} is committed as number {}",
                        self.committed
                    ));
                }
                if 2 * on_disk <= *voters {
                    return Err(format!(
                        "entry {index} is committed on {on_disk} of {voters} disks"
                    ));
                }
            }
            Fact::Elected { holds, committed } if holds < committed => {
                return Err(format!(
                    "a leader was elected that has {holds} of {committed} committed entries"
                ));
            }
            Fact::Acknowledged {
                request,
                index,
                outcome,
            } => {
                if index.0 > self.committed {
                    return Err(format!(
                        "entry {index} was acknowledged before it was committed"
                    ));
                }
                if let Outcome::Submitted(id) = outcome {
                    self.acknowledged.push((*request, *id));
                }
            }
            Fact::Applied { .. } => {
                let lost = self
                    .acknowledged
                    .iter()
                    .find(|(_, id)| scene.state.experiment(*id).is_none());
                if let Some((request, id)) = lost {
                    return Err(format!("the acknowledged {id} ({request:?}) is lost"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

//! An attempt that holds more of a GPU's memory than it was given: what its node has seen.

use serde::{Deserialize, Serialize};
use types::{AttemptToken, Bytes, GpuIndex, Timestamp};

use crate::event::Event;
use crate::ledger::Action;
use crate::outcome::{Outcome, RefusalCode};
use crate::records::{Attempt, Experiment, RankRecord};
use crate::state::{ClusterState, Context};

/// Most GPUs of one rank for which this is kept: more than any machine has.
const MAX_OVERUSES: usize = 64;

/// One GPU of which an attempt holds, or held, more memory than it was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VramOveruse {
    /// Which GPU of the node.
    pub gpu: GpuIndex,
    /// Bytes that it was given; 0: it was not given this GPU at all.
    pub granted_bytes: u64,
    /// Most bytes that its processes held.
    pub used_bytes: u64,
    /// Since then, on the node's wall clock; believed between the placement and the time of the log.
    pub since: Timestamp,
    /// It has kept to what it was given again since then; none: it still holds more.
    pub until: Option<Timestamp>,
    /// The node ends the attempt for it.
    pub is_stopped: bool,
}

impl VramOveruse {
    /// Figures for people: `30 GiB of GPU 0 and was given 12 GiB`.
    #[must_use]
    pub fn figures(&self) -> String {
        let (used, gpu) = (Bytes(self.used_bytes), self.gpu.0);
        match self.granted_bytes {
            0 => format!("{used} of GPU {gpu} and was given none of it"),
            granted => format!("{used} of GPU {gpu} and was given {}", Bytes(granted)),
        }
    }
}

impl Attempt {
    /// All that ranks of it hold, or held, beyond what they were given.
    pub fn overuses(&self) -> impl Iterator<Item = (&RankRecord, &VramOveruse)> {
        let ranks = self.ranks.iter();
        ranks.flat_map(|rank| rank.overuses.iter().map(move |overuse| (rank, overuse)))
    }
}

/// Takes what a node says of one GPU into the record of a rank that has not ended.
pub(crate) fn note(
    state: &mut ClusterState,
    context: &mut Context<'_>,
    mut experiment: Experiment,
    (token, rank): (AttemptToken, u32),
    told: &VramOveruse,
) -> Outcome {
    let attempt = experiment.attempts.last_mut();
    let attempt = attempt.expect("the caller found the rank in it");
    let plausible = |at: Timestamp| attempt.plausible_start(at, context.now);
    let told = VramOveruse {
        since: plausible(told.since),
        until: told.until.map(plausible),
        ..told.clone()
    };
    let rank = attempt.rank_mut(rank);
    let known = &mut rank.expect("the caller found it").overuses;
    let place = known.iter().position(|known| known.gpu == told.gpu);
    let number = token.attempt;
    let detail = match (place, told.until) {
        (Some(place), until) if known[place].until.is_none() => {
            let known = &mut known[place];
            known.used_bytes = known.used_bytes.max(told.used_bytes);
            known.until = until;
            let is_stopped = told.is_stopped && !known.is_stopped;
            known.is_stopped |= told.is_stopped;
            match until {
                Some(_) => Some(format!(
                    "attempt {number} keeps to what it was given again; it held up to {}",
                    known.figures()
                )),
                None if is_stopped => Some(begun(number, known)),
                None => None,
            }
        }
        // It was over already, or was never told of: a node that started anew says so to be sure.
        (_, Some(_)) => return Outcome::Done,
        (Some(place), None) => {
            known[place] = told.clone();
            Some(begun(number, &told))
        }
        (None, None) if known.len() == MAX_OVERUSES => {
            let message = format!("{token} is said to use more than {MAX_OVERUSES} GPUs");
            return Outcome::refused(RefusalCode::Invalid, message);
        }
        (None, None) => {
            known.push(told.clone());
            Some(begun(number, &told))
        }
    };
    state.put(experiment);
    if let Some(detail) = detail {
        state.record(context, Action::VramOveruse, Some(token.experiment), detail);
    }
    context.events.push(Event::AttemptChanged(token));
    Outcome::Done
}

fn begun(attempt: u32, overuse: &VramOveruse) -> String {
    let action = match overuse.is_stopped {
        true => "ends it",
        false => "warns",
    };
    let figures = overuse.figures();
    format!("attempt {attempt} holds {figures}; its node {action}")
}

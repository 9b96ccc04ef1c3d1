//! Which waiting experiment goes where, and why the others wait.
//!
//! [`place_next`] is a pure function of state, view and time; it proposes, and `PlaceAttempt` checks again when it is
//! applied. [`explain`] asks the same question of each node and says what is short, so that `muster why` cannot disagree
//! with the decision (invariant 17).

mod amount;
mod backfill;
mod closeness;
mod experience;
mod explain;
mod fit;
mod line;
mod mirror;
mod misfits;
mod offer;
mod packing;
mod place;
mod preempt;
mod round;
mod shares;
mod shortfall;

pub use experience::{Accepted, Experience, Profile, Room};
pub use explain::{Explanation, NodeExplanation, Verdict, explain};
pub use fit::{Who, could_ever_fit, could_ever_run, fits};
pub use offer::{GpuOffer, NODE_LABEL, NodeOffer, Tenants, offers};
pub use packing::{Choice, Openness, Packing, Wishes};
pub use place::{
    Memory, SchedulerConfig, keeps_nodes_free, place_new, place_next, place_next_with,
};
pub use preempt::preempt_next;
pub use shortfall::{Amounts, GpuShortfall, Shortfall};

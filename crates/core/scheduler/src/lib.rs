//! Which waiting experiment goes where, and why the others wait.
//!
//! [`place_next`] is a pure function of state, view and time; it proposes, and `PlaceAttempt` checks again when it is
//! applied. [`explain`] asks the same question of each node and says what is short, so that `muster why` cannot disagree
//! with the decision (invariant 17).

mod amount;
mod experience;
mod explain;
mod fit;
mod offer;
mod packing;
mod place;
mod shortfall;

pub use experience::{Accepted, Experience, Profile, Room};
pub use explain::{Explanation, NodeExplanation, Verdict, explain};
pub use fit::{could_ever_fit, fits};
pub use offer::{GpuOffer, NodeOffer, offers};
pub use packing::{Choice, Packing};
pub use place::{SchedulerConfig, keeps_nodes_free, place_new, place_next};
pub use shortfall::{Amounts, GpuShortfall, Shortfall};

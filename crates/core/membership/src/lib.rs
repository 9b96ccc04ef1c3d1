//! Who is there: node reports and answers make a view; members make a choice of voters.
//!
//! Nothing here is logged or reads a clock. A view is soft state of one node: a scheduler places by it,
//! but nothing is ever taken from a node because of it (invariant 10: suspect is not dead).

mod candidate;
mod change;
mod clocks;
mod detector;
mod roles;
mod timing;
mod view;
mod voters;

pub use candidate::{Candidate, Presence, candidates, failure_domain};
pub use change::{Change, Progress, next_change};
pub use clocks::{MAX_CLOCK_OFFSET, VoterClock, WrongClock, judge_clock};
pub use detector::{Action, Detector, HELPERS, Input};
pub use roles::{Role, role_of, stop_risk};
pub use timing::Timing;
pub use view::{Health, MAX_REPORT_INTERVAL, Observed, SUSPECT_AFTER, Suspicion, View};
pub use voters::{MAX_LEARNERS, Replicas, VoterPlan, choose_voters, size_for};

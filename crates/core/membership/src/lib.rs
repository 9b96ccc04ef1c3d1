//! Who is there: node reports and the time they came make a view; members make a choice of voters.
//!
//! Nothing here is logged or reads a clock. A view is soft state of one node: a scheduler places by it,
//! but nothing is ever taken from a node because of it (invariant 10: suspect is not dead).

mod view;
mod voters;

pub use view::{Health, MAX_REPORT_INTERVAL, Observed, SUSPECT_AFTER, View};
pub use voters::{Candidate, MAX_LEARNERS, VoterPlan, candidates, choose_voters, failure_domain};

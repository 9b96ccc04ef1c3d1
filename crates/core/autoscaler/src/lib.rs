//! What the queue needs and the nodes cannot give.
//!
//! Starting and stopping machines for it is the autoscaler proper and not built yet; `muster why` and
//! `muster queue ls` already say what a machine would be asked for.

mod demand;

pub use demand::{Unmet, demand, summary};

//! The loops of a node, one file per flow. Events wake them, state decides; a lost event costs latency, not truth.

pub(crate) mod attempt;
pub(crate) mod execution;
pub(crate) mod leases;
pub(crate) mod links;
pub(crate) mod membership;
pub(crate) mod peers;
pub(crate) mod records;
pub(crate) mod reports;
pub(crate) mod scheduling;
pub(crate) mod wanted;

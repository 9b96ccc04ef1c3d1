//! The node's side of running attempts, and the lease arithmetic of both sides.
//!
//! [`Agent`] compares what the node should run with what it runs and says what to do; [`leases::LeaseTable`] is
//! the leader's memory of who may still be running. Together they keep invariant 11: at most one attempt of an
//! experiment runs at any time. [`GpuWatch`] sees who holds more GPU memory than it was given, and whose GPU has failed.
//! None of them reads a clock or does anything.

mod action;
mod agent;
mod gpu_watch;
pub mod leases;
mod local;

pub use action::{Action, AttemptPhase, Input, LocalAttempt, StopReason};
pub use agent::{Agent, AgentConfig};
pub use gpu_watch::{GpuAction, GpuLook, GpuPart, GpuWatch};

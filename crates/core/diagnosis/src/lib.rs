//! Why an attempt ended: from everything that was seen to one cause of a closed list, lines that a person can check, and
//! what to do about it. Pure.
//!
//! Several causes may hold at once. What the kernel, the driver or muster itself counted comes first, then what the
//! command said last, then how it ended; the rest become findings. What a command said in passing is no cause: a caught
//! exception that it logged, a word such as `killed`, a warning that it went on after.

mod advice;
mod claims;
mod console;
mod course;
mod diagnose;
mod facts;
mod findings;
mod gpus;
mod loss;
mod python;
mod stacks;
mod xid;

pub use advice::advice;
pub use course::Course;
pub use diagnose::diagnose;
pub use facts::{Disk, Exit, Facts, GpuFacts, LaunchFailure, Memory, Request, Said};
pub use findings::{findings, is_without_progress};
pub use gpus::{may_be_of_gpus, with_gpus};
pub use loss::LossWatch;
pub use xid::{XidMeaning, xid_meaning};

//! Runs attempts on this node and keeps their records until they are stored elsewhere.
//!
//! Each attempt has a holder process ([`hold`], the same binary) that owns the job's processes, pipes,
//! exit status and lease deadline, and outlives the node process. The node's side ([`start`],
//! [`Handle`]) lays out the source tree, starts holders, adopts those that outlived an earlier node
//! process, and reads the records that they write. [`mirror`] keeps a second copy of other nodes' tails.
//!
//! Linux only: holders need pidfds, `CLOCK_BOOTTIME` timers, child subreapers and, where there are some, cgroups.

mod attempt_directory;
mod cgroup;
mod clock;
mod durable_file;
mod environments;
mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
mod hold;
mod job_user;
mod layout;
pub mod mirror;
mod node;
mod outputs;
mod process_tree;
mod process_use;
mod protocol;
mod python;
mod remove_tree;
mod segment;
mod stored;
mod tail;

pub use clock::{boot_id, boottime_ms};
pub use environments::{EnvironmentConfig, IndexError, OfferedFile, PackageIndex};
pub use error::Error;
pub use hold::hold;
pub use job_user::{JOB_ACCOUNT, JobUser};
pub use node::{
    AttemptStatus, Config, Event, GpuTenant, Handle, Phase, Runner, StartAttempt, UnsealedRead,
    protections, start,
};
pub use outputs::{Left, LeftEntry, LeftKind};
pub use protocol::StopReason;
pub use segment::SealedSegment;
pub use stored::{BookedGpu, Ended, GpuTerms, Usage};
pub use tail::TailRead;

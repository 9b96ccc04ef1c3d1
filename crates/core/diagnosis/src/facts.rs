//! What was seen of an attempt and its end.

use types::{CauseKind, ConsoleStream, DurationMs};

use crate::{Course, LossWatch};

/// Everything that its holder knows.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Program and arguments.
    pub command: &'a [String],
    /// How the main process ended.
    pub exit: Exit,
    /// How long it ran.
    pub ran: DurationMs,
    /// Why it was never started.
    pub launch: Option<&'a LaunchFailure>,
    /// What the holder itself failed at.
    pub failure: Option<&'a (CauseKind, String)>,
    /// The first reason why muster ended it, and what was done.
    pub stop: Option<(&'a CauseKind, &'a str)>,
    /// What the kernel counted of its memory.
    pub memory: Memory,
    /// How often it was not let make another process or thread; none if nobody counts.
    pub refused_forks: Option<u64>,
    /// Limit of processes and threads.
    pub max_processes: u32,
    /// The file system of its directory; none if it could not be asked.
    pub disk: Option<Disk>,
    /// The last of what it said, in the order in which it came.
    pub console: &'a [Said],
    /// What it used over time.
    pub course: &'a Course,
    /// What its metric lines said of its losses.
    pub losses: &'a LossWatch,
    /// What it was given.
    pub request: Request,
}

/// How the main process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself.
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// Not at all: it could not be killed.
    Never,
}

impl Exit {
    /// What a shell says of it.
    #[must_use]
    pub fn shell_code(self) -> Option<i32> {
        match self {
            Self::Code(code) => Some(code),
            Self::Signal(signal) => Some(signal.saturating_add(128)),
            Self::Never => None,
        }
    }
}

/// Why the command was never started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaunchFailure {
    /// There is no such program.
    Command(String),
    /// It, or the way to it, is not for this user.
    NotAllowed(String),
    /// Where it should start.
    WorkingDirectory(String),
    /// Muster's own part.
    Preparation(String),
}

/// What the kernel counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Kills by the limit of its control group; none if nobody counts.
    pub kills: Option<u64>,
    /// Kills for lack of memory on the whole machine while it ran; none if nobody counts.
    pub machine_kills: Option<u64>,
    /// The limit; 0: none.
    pub limit_bytes: u64,
    /// The most that it held.
    pub peak_bytes: u64,
}

/// A file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// Bytes that may still be written.
    pub free_bytes: u64,
    /// Files that may still be made; none where there is no such limit.
    pub free_files: Option<u64>,
}

/// A piece of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Where.
    pub stream: ConsoleStream,
    /// How long before the end.
    pub before_end: DurationMs,
    /// What, as it came: not necessarily whole lines, nor text.
    pub bytes: Vec<u8>,
}

/// What an attempt was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Thousandths of cores.
    pub cpu_milli: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Thousandths of GPUs.
    pub gpu_milli: u64,
    /// Bytes of memory on them; 0: not said.
    pub vram_bytes: u64,
}

/// What the node knows of a GPU that the attempt had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuFacts {
    /// Its number on the node.
    pub number: u32,
    /// Its model.
    pub model: String,
    /// As the driver calls it; empty where nobody knows.
    pub uuid: String,
    /// XID events while the attempt ran, oldest first.
    pub xids: Vec<u32>,
    /// Why it does not work any more.
    pub problem: Option<String>,
    /// Bytes of its memory, and how many of them are in use.
    pub vram_total_bytes: u64,
    /// As above.
    pub vram_used_bytes: u64,
    /// Who holds memory on it, other than this attempt, as a person reads it: `python (pid 7, ann): 12 GiB`.
    pub holders: Vec<String>,
}

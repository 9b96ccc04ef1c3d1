//! What keeps a request off a node, in words.

use std::fmt;

use types::{DurationMs, ExperimentId};

use crate::amount::{bytes, cpus, whole};

/// One thing that keeps a request off a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shortfall {
    /// The node takes no attempts at all.
    TakesNoWork,
    /// It is being emptied.
    Draining,
    /// It refuses work just now.
    Refuses(String),
    /// It has been silent.
    Silent,
    /// It never reported.
    NeverReported,
    /// It is one person's for a time.
    Reserved {
        /// Whose.
        user: String,
        /// For how long still.
        left: DurationMs,
    },
    /// Something that wants the node alone runs there.
    TakenAlone,
    /// It wants the node alone, and others run there.
    NotEmpty {
        /// How many.
        attempts: usize,
    },
    /// Room is kept for one that was there before.
    KeptFor(ExperimentId),
    /// It lacks a label.
    Label {
        /// Name of the label.
        name: String,
        /// Value that is asked for.
        value: String,
    },
    /// Thousandths of cores.
    Cpu(Amounts),
    /// Bytes of memory.
    Memory(Amounts),
    /// Bytes of disk.
    Disk(Amounts),
    /// GPUs.
    Gpu(GpuShortfall),
}

/// What is asked for and what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amounts {
    /// Asked for.
    pub need: u64,
    /// Left.
    pub free: u64,
    /// In all.
    pub total: u64,
}

/// How the GPUs of a node fall short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuShortfall {
    /// Thousandths of GPUs asked for.
    pub need_milli: u64,
    /// Bytes of memory asked for on each; 0: what the share implies.
    pub need_vram_bytes: u64,
    /// GPUs that are asked for.
    pub need: usize,
    /// GPUs that could serve now.
    pub free: usize,
    /// GPUs that could serve if nobody else used them.
    pub suitable: usize,
    /// All GPUs.
    pub total: usize,
    /// MIG instances among them that do not count, since several GPUs are asked for.
    pub instances: usize,
    /// Accepted models, when no GPU of the node is of one.
    pub models: Vec<String>,
    /// Most bytes that processes outside muster use on a suitable GPU.
    pub unbooked_vram_bytes: u64,
}

impl Shortfall {
    /// It stays so however long one waits, as long as the node is what it is.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::TakesNoWork | Self::Label { .. } => true,
            Self::Draining
            | Self::Refuses(_)
            | Self::Silent
            | Self::NeverReported
            | Self::Reserved { .. }
            | Self::TakenAlone
            | Self::NotEmpty { .. }
            | Self::KeptFor(_) => false,
            Self::Cpu(amounts) | Self::Memory(amounts) | Self::Disk(amounts) => {
                amounts.need > amounts.total
            }
            Self::Gpu(gpu) => gpu.suitable < gpu.need,
        }
    }
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TakesNoWork => f.write_str("takes no work (started with --no-work)"),
            Self::Draining => f.write_str("is draining: takes no new attempts"),
            Self::Refuses(why) => f.write_str(why),
            Self::Silent => f.write_str("is suspect: no report came for 15 s"),
            Self::NeverReported => f.write_str("has not reported yet"),
            Self::Reserved { user, left } => {
                write!(f, "is reserved for {user} for another {left}")
            }
            Self::TakenAlone => f.write_str("runs an experiment that asked to be alone there"),
            Self::NotEmpty { attempts } => {
                write!(
                    f,
                    "is not empty, and it asks to be alone: {attempts} run there"
                )
            }
            Self::KeptFor(id) => write!(f, "is kept for {id}, which is before it in line"),
            Self::Label { name, value } => write!(f, "has no label {name}={value}"),
            Self::Cpu(amounts) => amounts.write(f, &cpus(amounts.need), whole),
            Self::Memory(amounts) => {
                amounts.write(f, &format!("{} memory", bytes(amounts.need)), bytes)
            }
            Self::Disk(amounts) => {
                amounts.write(f, &format!("{} disk", bytes(amounts.need)), bytes)
            }
            Self::Gpu(gpu) => gpu.fmt(f),
        }
    }
}

impl Amounts {
    fn write(
        &self,
        f: &mut fmt::Formatter<'_>,
        need: &str,
        text: fn(u64) -> String,
    ) -> fmt::Result {
        if self.need > self.total {
            write!(f, "needs {need}, has {} in all", text(self.total))
        } else {
            write!(
                f,
                "needs {need}, has {} of {} free",
                text(self.free),
                text(self.total)
            )
        }
    }
}

impl fmt::Display for GpuShortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.need_milli == 1_000 { "" } else { "s" };
        write!(f, "needs {} gpu{plural}", whole(self.need_milli))?;
        if self.need_vram_bytes > 0 {
            write!(f, " with {} vram", bytes(self.need_vram_bytes))?;
        }
        if self.total == 0 {
            return f.write_str(", has none");
        }
        if !self.models.is_empty() {
            return write!(f, ", has none of model {}", self.models.join(" or "));
        }
        if self.suitable < self.need {
            write!(f, ", has {} such in all", self.suitable)?;
            if self.instances > 0 {
                let count = self.instances;
                write!(
                    f,
                    " ({count} MIG instances do not count: CUDA gives a process only one)"
                )?;
            }
            return Ok(());
        }
        write!(f, ", has {} of {} free", self.free, self.suitable)?;
        if self.unbooked_vram_bytes > 0 {
            write!(
                f,
                " (processes outside muster use {} of vram)",
                bytes(self.unbooked_vram_bytes)
            )?;
        }
        Ok(())
    }
}

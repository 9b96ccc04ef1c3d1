//! Whether a request fits a node, and what is short if not.

use std::fmt;

use membership::Health;
use types::{GpuShare, ResourceRequest, Resources};

use crate::amount::{bytes, cpus, whole};
use crate::offer::{GpuOffer, NodeOffer};

/// Part of a GPU's memory that others may use while the GPU still counts as free for requests that name no amount:
/// a driver and a display take up to 3 % of the smallest cards.
const FOREIGN_VRAM_TOLERANCE_PERCENT: u64 = 5;

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
    /// Accepted models, when no GPU of the node is of one.
    pub models: Vec<String>,
    /// Most bytes that processes outside muster use on a suitable GPU.
    pub foreign_vram_bytes: u64,
}

impl Shortfall {
    /// It stays so however long one waits, as long as the node is what it is.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::TakesNoWork | Self::Label { .. } => true,
            Self::Draining | Self::Refuses(_) | Self::Silent | Self::NeverReported => false,
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
            return write!(f, ", has {} such in all", self.suitable);
        }
        write!(f, ", has {} of {} free", self.free, self.suitable)?;
        if self.foreign_vram_bytes > 0 {
            write!(
                f,
                " (processes outside muster use {} of vram)",
                bytes(self.foreign_vram_bytes)
            )?;
        }
        Ok(())
    }
}

/// Everything that keeps the request off the node now; empty: it fits.
pub(crate) fn shortfalls(offer: &NodeOffer, request: &ResourceRequest) -> Vec<Shortfall> {
    let mut short = Vec::new();
    if !offer.takes_work {
        short.push(Shortfall::TakesNoWork);
    }
    if offer.draining {
        short.push(Shortfall::Draining);
    }
    if let Some(why) = &offer.refuses_work {
        short.push(Shortfall::Refuses(why.clone()));
    }
    match offer.health {
        Health::Live => {}
        Health::Suspect => short.push(Shortfall::Silent),
        Health::Unknown => {
            short.push(Shortfall::NeverReported);
            return short; // Its size is not known: nothing more can be said.
        }
    }
    let labels = request
        .constraints
        .iter()
        .filter(|label| !offer.labels.contains(label));
    short.extend(
        labels
            .cloned()
            .map(|(name, value)| Shortfall::Label { name, value }),
    );
    let (free, total) = (&offer.free, &offer.capacity);
    let amounts = |need, free, total| (need > free).then_some(Amounts { need, free, total });
    let cpu = amounts(request.cpu_milli, free.cpu_milli, total.cpu_milli);
    short.extend(cpu.map(Shortfall::Cpu));
    let memory = amounts(request.memory_bytes, free.memory_bytes, total.memory_bytes);
    short.extend(memory.map(Shortfall::Memory));
    let disk = amounts(request.disk_bytes, free.disk_bytes, total.disk_bytes);
    short.extend(disk.map(Shortfall::Disk));
    if request.gpu_milli > 0 && choose_gpus(offer, request).is_none() {
        short.push(Shortfall::Gpu(gpu_shortfall(offer, request)));
    }
    short
}

/// What the request would book on the node now, if it fits.
#[must_use]
pub fn fits(offer: &NodeOffer, request: &ResourceRequest) -> Option<Resources> {
    let free = &offer.free;
    let room = offer.is_open()
        && request.cpu_milli <= free.cpu_milli
        && request.memory_bytes <= free.memory_bytes
        && request.disk_bytes <= free.disk_bytes
        && carries_labels(offer, request);
    if !room {
        return None;
    }
    let gpus = if request.gpu_milli == 0 {
        Vec::new()
    } else {
        choose_gpus(offer, request)?
    };
    Some(Resources {
        cpu_milli: request.cpu_milli,
        memory_bytes: request.memory_bytes,
        disk_bytes: request.disk_bytes,
        gpus,
    })
}

/// Whether the node could run it if it had nothing else to do.
#[must_use]
pub fn could_ever_fit(offer: &NodeOffer, request: &ResourceRequest) -> bool {
    let total = &offer.capacity;
    offer.takes_work
        && offer.health != Health::Unknown
        && request.cpu_milli <= total.cpu_milli
        && request.memory_bytes <= total.memory_bytes
        && request.disk_bytes <= total.disk_bytes
        && carries_labels(offer, request)
        && (request.gpu_milli == 0 || suitable(offer, request).count() >= Want::of(request).count)
}

fn carries_labels(offer: &NodeOffer, request: &ResourceRequest) -> bool {
    request
        .constraints
        .iter()
        .all(|label| offer.labels.contains(label))
}

/// The GPUs that a request asks for.
struct Want {
    count: usize,
    milli_each: u64,
}

impl Want {
    fn of(request: &ResourceRequest) -> Self {
        let count = usize::try_from(request.gpu_milli.div_ceil(1_000)).unwrap_or(usize::MAX);
        Self {
            count,
            milli_each: request.gpu_milli.min(1_000),
        }
    }

    fn vram_on(&self, gpu: &GpuOffer, request: &ResourceRequest) -> u64 {
        if request.vram_bytes > 0 {
            request.vram_bytes
        } else {
            // Rounded down, so that shares that make up a whole never book more than there is.
            let share = u128::from(gpu.vram_total_bytes) * u128::from(self.milli_each) / 1_000;
            u64::try_from(share).unwrap_or(u64::MAX)
        }
    }

    fn fits(&self, gpu: &GpuOffer, request: &ResourceRequest) -> bool {
        let vram = self.vram_on(gpu, request);
        let room = gpu.booked_milli.saturating_add(self.milli_each) <= 1_000
            && gpu.vram_booked_bytes.saturating_add(vram) <= gpu.vram_total_bytes;
        let tolerated = gpu.vram_total_bytes / 100 * FOREIGN_VRAM_TOLERANCE_PERCENT;
        room && if request.vram_bytes > 0 {
            gpu.vram_used_bytes.saturating_add(vram) <= gpu.vram_total_bytes
                || gpu.foreign_vram_bytes() == 0
        } else {
            gpu.foreign_vram_bytes() <= tolerated
        }
    }
}

/// GPUs that could serve the request if nobody used them.
fn suitable<'a>(
    offer: &'a NodeOffer,
    request: &'a ResourceRequest,
) -> impl Iterator<Item = &'a GpuOffer> {
    let models = &request.gpu_models;
    offer.gpus.iter().filter(move |gpu| {
        (models.is_empty() || models.contains(&gpu.model))
            && request.vram_bytes <= gpu.vram_total_bytes
    })
}

/// The tightest GPUs that fit: a share goes where most is booked already, a whole request to the smallest memory.
fn choose_gpus(offer: &NodeOffer, request: &ResourceRequest) -> Option<Vec<GpuShare>> {
    let want = Want::of(request);
    let mut found: Vec<_> = suitable(offer, request)
        .filter(|gpu| want.fits(gpu, request))
        .collect();
    found.sort_by_key(|gpu| {
        (
            1_000_u64.saturating_sub(gpu.booked_milli),
            gpu.vram_total_bytes,
            gpu.index,
        )
    });
    if found.len() < want.count {
        return None;
    }
    let share = |gpu: &&GpuOffer| GpuShare {
        index: gpu.index,
        milli: want.milli_each,
        vram_bytes: want.vram_on(gpu, request),
    };
    Some(found.iter().take(want.count).map(share).collect())
}

fn gpu_shortfall(offer: &NodeOffer, request: &ResourceRequest) -> GpuShortfall {
    let want = Want::of(request);
    let models = &request.gpu_models;
    let no_model = !models.is_empty() && offer.gpus.iter().all(|gpu| !models.contains(&gpu.model));
    let fitting = suitable(offer, request).filter(|gpu| want.fits(gpu, request));
    GpuShortfall {
        need_milli: request.gpu_milli,
        need_vram_bytes: request.vram_bytes,
        need: want.count,
        free: fitting.count(),
        suitable: suitable(offer, request).count(),
        total: offer.gpus.len(),
        models: if no_model { models.clone() } else { Vec::new() },
        foreign_vram_bytes: suitable(offer, request)
            .map(GpuOffer::foreign_vram_bytes)
            .max()
            .unwrap_or_default(),
    }
}

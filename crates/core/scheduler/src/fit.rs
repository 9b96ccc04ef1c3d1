//! Whether a request fits a node, and what it would book.

use std::collections::BTreeSet;

use membership::Health;
use types::{GpuShare, ResourceRequest, Resources};

use crate::offer::{GpuOffer, NodeOffer};
use crate::shortfall::{Amounts, GpuShortfall, Shortfall};

/// Part of a GPU's memory that others may use while the GPU still counts as free for requests that name no amount:
/// a driver and a display take up to 3 % of the smallest cards.
const FOREIGN_VRAM_TOLERANCE_PERCENT: u64 = 5;

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
            vram <= gpu.free().vram_bytes
        } else {
            gpu.unbooked_vram_bytes() <= tolerated
        }
    }
}

/// GPUs that could serve the request if nobody used them. One without memory is broken: it only keeps its number.
fn suitable<'a>(
    offer: &'a NodeOffer,
    request: &'a ResourceRequest,
) -> impl Iterator<Item = &'a GpuOffer> {
    let models = &request.gpu_models;
    offer.gpus.iter().filter(move |gpu| {
        gpu.vram_total_bytes > 0
            && (models.is_empty() || models.contains(&gpu.model))
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

/// The ways in which a request can be put on a node now: one booking for each GPU that makes a difference to what is left.
pub(crate) fn ways(offer: &NodeOffer, request: &ResourceRequest) -> Vec<Resources> {
    let Some(first) = fits(offer, request) else {
        return Vec::new();
    };
    let want = Want::of(request);
    if want.count != 1 {
        return vec![first];
    }
    let mut alike = BTreeSet::new();
    suitable(offer, request)
        .filter(|gpu| want.fits(gpu, request))
        .filter(|gpu| alike.insert((gpu.booked_milli, gpu.free().vram_bytes, gpu.model.as_str())))
        .map(|gpu| Resources {
            gpus: vec![GpuShare {
                index: gpu.index,
                milli: want.milli_each,
                vram_bytes: want.vram_on(gpu, request),
            }],
            ..first.clone()
        })
        .collect()
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
        unbooked_vram_bytes: suitable(offer, request)
            .map(GpuOffer::unbooked_vram_bytes)
            .max()
            .unwrap_or_default(),
    }
}

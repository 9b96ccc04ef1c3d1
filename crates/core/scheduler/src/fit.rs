//! Whether a request fits a node, and what it would book.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use membership::Health;
use types::{GpuShare, ResourceRequest, Resources, Timestamp};

use crate::closeness::{closest, company};
use crate::experience::WHOLE;
use crate::offer::{GpuOffer, NodeOffer};
use crate::shortfall::{Amounts, GpuShortfall, Shortfall};

/// Everything that keeps the request off the node now; empty: it fits.
pub(crate) fn shortfalls(offer: &NodeOffer, who: Who<'_>) -> Vec<Shortfall> {
    let mut short = Vec::new();
    // It breaks off where no more can be said.
    let (ControlFlow::Continue(()) | ControlFlow::Break(())) =
        each_shortfall(offer, who, &mut |why| {
            short.push(why());
            ControlFlow::Continue(())
        });
    short
}

/// Tells one by one what keeps the request off the node now, until the listener has heard enough. The decision listens to
/// the first only, `why` to all: so both go by the same.
fn each_shortfall(offer: &NodeOffer, who: Who<'_>, tell: Listener<'_>) -> ControlFlow<()> {
    let request = who.request;
    each_refusal(offer, who, tell)?;
    let labels = request.constraints.iter();
    for (name, value) in labels.filter(|label| !offer.carries(label)) {
        tell(&|| Shortfall::Label {
            name: name.clone(),
            value: value.clone(),
        })?;
    }
    let (free, total) = (&offer.free, &offer.capacity);
    let amounts = |need, free, total| (need > free).then_some(Amounts { need, free, total });
    if let Some(cpu) = amounts(request.cpu_milli, free.cpu_milli, total.cpu_milli) {
        tell(&|| Shortfall::Cpu(cpu))?;
    }
    if let Some(memory) = amounts(request.memory_bytes, free.memory_bytes, total.memory_bytes) {
        tell(&|| Shortfall::Memory(memory))?;
    }
    if let Some(disk) = amounts(request.disk_bytes, free.disk_bytes, total.disk_bytes) {
        tell(&|| Shortfall::Disk(disk))?;
    }
    if wants_gpus(request) {
        let want = Want::of(request);
        let free = suitable(offer, request).filter(|gpu| want.fits(gpu, request));
        if free.take(want.count).count() < want.count {
            tell(&|| Shortfall::Gpu(gpu_shortfall(offer, request)))?;
        }
    }
    ControlFlow::Continue(())
}

/// Hears what is short, made only if it is wanted, and says whether to go on.
type Listener<'l> = &'l mut dyn FnMut(&dyn Fn() -> Shortfall) -> ControlFlow<()>;

/// Why the node takes nothing, or nothing of theirs.
fn each_refusal(offer: &NodeOffer, who: Who<'_>, tell: Listener<'_>) -> ControlFlow<()> {
    if !offer.takes_work {
        tell(&|| Shortfall::TakesNoWork)?;
    }
    if offer.draining {
        tell(&|| Shortfall::Draining)?;
    }
    if let Some(why) = &offer.refuses_work {
        tell(&|| Shortfall::Refuses(why.clone()))?;
    }
    match offer.health {
        Health::Live => {}
        Health::Suspect => tell(&|| Shortfall::Silent)?,
        // Its size is not known: what else is short nobody can say.
        Health::Unknown => {
            tell(&|| Shortfall::NeverReported)?;
            return ControlFlow::Break(());
        }
    }
    if let Some(reserved) = offer.reserved.as_ref().filter(|one| one.user != who.user) {
        tell(&|| Shortfall::Reserved {
            user: reserved.user.clone(),
            left: reserved.until.since(who.now),
        })?;
    }
    if offer.tenants.alone {
        tell(&|| Shortfall::TakenAlone)?;
    } else if who.request.exclusive && !offer.is_empty() {
        let attempts = offer.tenants.attempts;
        tell(&|| Shortfall::NotEmpty { attempts })?;
    }
    ControlFlow::Continue(())
}

/// Who asks, and when on the clock of the state.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// What is asked for.
    pub request: &'a ResourceRequest,
    /// The user, without a node.
    pub user: &'a str,
    /// State time.
    pub now: Timestamp,
}

/// The ways in which a request can be put on a node now: one booking for each GPU, or set of GPUs, that makes a
/// difference to what is left. None: it does not fit.
#[must_use]
pub fn fits(offer: &NodeOffer, who: Who<'_>) -> Vec<Resources> {
    let request = who.request;
    if each_shortfall(offer, who, &mut |_| ControlFlow::Break(())).is_break() {
        return Vec::new();
    }
    let booking = |gpus| Resources {
        cpu_milli: request.cpu_milli,
        memory_bytes: request.memory_bytes,
        disk_bytes: request.disk_bytes,
        gpus,
    };
    if !wants_gpus(request) {
        return vec![booking(Vec::new())];
    }
    choices(offer, request).into_iter().map(booking).collect()
}

/// Whether there are enough nodes for all ranks of it, if they had nothing else to do.
#[must_use]
pub fn could_ever_run(offers: &[NodeOffer], request: &ResourceRequest) -> bool {
    let large = offers.iter().filter(|offer| could_ever_fit(offer, request));
    let ranks = request.nodes as usize;
    large.take(ranks).count() == ranks
}

/// Whether the node could run a rank of it if it had nothing else to do.
#[must_use]
pub fn could_ever_fit(offer: &NodeOffer, request: &ResourceRequest) -> bool {
    let total = &offer.capacity;
    offer.takes_work
        && offer.health != Health::Unknown
        && request.cpu_milli <= total.cpu_milli
        && request.memory_bytes <= total.memory_bytes
        && request.disk_bytes <= total.disk_bytes
        && carries_labels(offer, request)
        && (!wants_gpus(request) || suitable(offer, request).count() >= Want::of(request).count)
}

fn carries_labels(offer: &NodeOffer, request: &ResourceRequest) -> bool {
    request.constraints.iter().all(|label| offer.carries(label))
}

/// The GPUs that a request asks for.
struct Want {
    count: usize,
    /// Of each; none: the part of a GPU that its memory is.
    milli_each: Option<u64>,
}

/// Whether it asks for GPUs at all, by number or by memory.
pub(crate) fn wants_gpus(request: &ResourceRequest) -> bool {
    request.gpu_milli > 0 || request.vram_bytes > 0
}

impl Want {
    fn of(request: &ResourceRequest) -> Self {
        if request.gpu_milli == 0 && request.vram_bytes > 0 {
            return Self {
                count: 1,
                milli_each: None,
            };
        }
        let count = usize::try_from(request.gpu_milli.div_ceil(WHOLE)).unwrap_or(usize::MAX);
        Self {
            count,
            milli_each: Some(request.gpu_milli.min(WHOLE)),
        }
    }

    fn milli_on(&self, gpu: &GpuOffer, request: &ResourceRequest) -> u64 {
        self.milli_each.unwrap_or_else(|| {
            let total = u128::from(gpu.vram_total_bytes.max(1));
            let part = (u128::from(request.vram_bytes) * u128::from(WHOLE)).div_ceil(total);
            u64::try_from(part).unwrap_or(WHOLE).clamp(1, WHOLE)
        })
    }

    fn vram_on(&self, gpu: &GpuOffer, request: &ResourceRequest) -> u64 {
        if request.vram_bytes > 0 {
            request.vram_bytes
        } else {
            // Rounded down, so that shares that make up a whole never book more than there is.
            let milli = self.milli_on(gpu, request);
            let share = u128::from(gpu.vram_total_bytes) * u128::from(milli) / u128::from(WHOLE);
            u64::try_from(share).unwrap_or(u64::MAX)
        }
    }

    fn fits(&self, gpu: &GpuOffer, request: &ResourceRequest) -> bool {
        let vram = self.vram_on(gpu, request);
        let room = gpu.booked_milli.saturating_add(self.milli_on(gpu, request)) <= WHOLE
            && gpu.vram_booked_bytes.saturating_add(vram) <= gpu.vram_total_bytes;
        room && if request.vram_bytes > 0 {
            vram <= gpu.free().vram_bytes
        } else {
            gpu.unbooked_vram_bytes() <= gpu.tolerated_vram_bytes()
        }
    }
}

/// GPUs that could serve the request if nobody used them. One without memory is broken: it only keeps its number.
fn suitable<'a>(
    offer: &'a NodeOffer,
    request: &'a ResourceRequest,
) -> impl Iterator<Item = &'a GpuOffer> {
    let mut last: Option<(&str, bool)> = None;
    let wants_several = request.gpu_milli > WHOLE;
    offer.gpus.iter().filter(move |gpu| {
        // The GPUs of a node are mostly of one model.
        let known = last.filter(|(model, _)| *model == gpu.model);
        let accepted = known.map_or_else(|| request.accepts_model(&gpu.model), |(_, known)| known);
        last = Some((&gpu.model, accepted));
        accepted
            && !(wants_several && gpu.is_instance)
            && gpu.vram_total_bytes > 0
            && request.vram_bytes <= gpu.vram_total_bytes
    })
}

/// GPUs that the request could have now.
fn free_gpus<'a>(offer: &'a NodeOffer, request: &'a ResourceRequest) -> Vec<&'a GpuOffer> {
    let want = Want::of(request);
    suitable(offer, request)
        .filter(|gpu| want.fits(gpu, request))
        .collect()
}

/// Sets of GPUs to choose from: for one GPU, or a share, each that has another amount left, else the set that is closest
/// together. Among equals the better one is in front: the fullest, then who leaves the fewest neighbours alone.
fn choices(offer: &NodeOffer, request: &ResourceRequest) -> Vec<Vec<GpuShare>> {
    let want = Want::of(request);
    let found = free_gpus(offer, request);
    if found.len() < want.count {
        return Vec::new();
    }
    let share = |gpu: &GpuOffer| GpuShare {
        index: gpu.index,
        milli: want.milli_on(gpu, request),
        vram_bytes: want.vram_on(gpu, request),
    };
    if want.count != 1 {
        let closest = closest(&found, want.count);
        return vec![closest.into_iter().map(share).collect()];
    }
    let key = |gpu: &GpuOffer| {
        (
            gpu.free().milli,
            gpu.vram_total_bytes,
            company(gpu, &found),
            gpu.index,
        )
    };
    let mut ordered = found.clone();
    ordered.sort_by_cached_key(|gpu| key(gpu));
    let mut choices = Vec::new();
    let mut seen = BTreeSet::new();
    for gpu in ordered {
        if seen.insert((gpu.booked_milli, gpu.free().vram_bytes, gpu.model.as_str())) {
            choices.push(vec![share(gpu)]);
        }
    }
    choices
}

fn gpu_shortfall(offer: &NodeOffer, request: &ResourceRequest) -> GpuShortfall {
    let want = Want::of(request);
    let models = &request.gpu_models;
    let no_model = offer
        .gpus
        .iter()
        .all(|gpu| !request.accepts_model(&gpu.model));
    let fitting = suitable(offer, request).filter(|gpu| want.fits(gpu, request));
    GpuShortfall {
        need_milli: request.gpu_milli,
        need_vram_bytes: request.vram_bytes,
        need: want.count,
        free: fitting.count(),
        suitable: suitable(offer, request).count(),
        total: offer.gpus.len(),
        instances: match want.count {
            0 | 1 => 0,
            _ => offer.gpus.iter().filter(|gpu| gpu.is_instance).count(),
        },
        models: if no_model { models.clone() } else { Vec::new() },
        unbooked_vram_bytes: suitable(offer, request)
            .map(GpuOffer::unbooked_vram_bytes)
            .max()
            .unwrap_or_default(),
    }
}

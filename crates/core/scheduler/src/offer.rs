//! What each node has left to give.

use membership::{Health, View, failure_domain};
use state_machine::{Booking, ClusterState, NodeRecord, Reserved};
use types::{ExperimentId, GpuIndex, GpuShare, NodeId, NodeReport, Resources, Timestamp};

use crate::experience::{Accepted, Profile, Room, WHOLE};

/// One GPU of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuOffer {
    /// Number on its node.
    pub index: GpuIndex,
    /// Model name.
    pub model: String,
    /// Bytes of its memory.
    pub vram_total_bytes: u64,
    /// Bytes that attempts have booked.
    pub vram_booked_bytes: u64,
    /// Bytes in use by processes that muster did not start, at the last report.
    pub vram_foreign_bytes: u64,
    /// Thousandths that attempts have booked.
    pub booked_milli: u64,
    /// GPUs of one group above 0 are joined by NVLink.
    pub link_group: u8,
    /// GPUs of one number above 0 hang on the same PCIe root.
    pub root: u8,
}

impl GpuOffer {
    /// Thousandths that nobody has booked and no process outside muster keeps: of those, as much as its memory.
    #[must_use]
    pub fn free_milli(&self) -> u64 {
        let whole = self.vram_total_bytes.max(1);
        let foreign = u128::from(self.vram_foreign_bytes) * u128::from(WHOLE) / u128::from(whole);
        let foreign = u64::try_from(foreign).unwrap_or(WHOLE);
        // What a driver keeps for itself is not counted: a GPU is whole although some of its memory is taken.
        let foreign = if foreign * 100 <= WHOLE * 5 {
            0
        } else {
            foreign
        };
        WHOLE
            .saturating_sub(self.booked_milli)
            .saturating_sub(foreign)
    }

    /// What is left of it.
    #[must_use]
    pub fn free(&self) -> GpuShare {
        let taken = self
            .vram_booked_bytes
            .saturating_add(self.vram_foreign_bytes);
        GpuShare {
            index: self.index,
            milli: 1_000_u64.saturating_sub(self.booked_milli),
            vram_bytes: self.vram_total_bytes.saturating_sub(taken),
        }
    }
}

/// A member as the scheduler sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeOffer {
    /// Who.
    pub node: NodeId,
    /// Host name.
    pub name: String,
    /// All that it gives to attempts. Disk is what was free at the last report, so what attempts have written since they
    /// were placed counts twice: to the safe side.
    pub capacity: Resources,
    /// What no attempt has booked and, for GPU memory, nobody else uses.
    pub free: Resources,
    /// Its GPUs.
    pub gpus: Vec<GpuOffer>,
    /// Labels from its configuration.
    pub labels: Vec<(String, String)>,
    /// Start of the node process whose report this is.
    pub node_started_at: Timestamp,
    /// Whether it can be counted on.
    pub health: Health,
    /// Takes no new attempts until told otherwise.
    pub draining: bool,
    /// Takes attempts at all.
    pub takes_work: bool,
    /// Keeps blob copies.
    pub keeps_blobs: bool,
    /// Why it refuses work just now.
    pub refuses_work: Option<String>,
    /// What fails together with it.
    pub failure_domain: String,
    /// Whose it is just now; none: everybody's.
    pub reserved: Option<Reserved>,
    /// Attempts on it.
    pub attempts: usize,
    /// One of them wants it alone.
    pub taken_alone: bool,
    /// Places that preemption has freed and keeps for somebody; they are not in what is free.
    pub kept: Vec<(ExperimentId, Resources)>,
}

impl NodeOffer {
    /// New attempts may be placed on it now, if they fit.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.takes_work
            && !self.draining
            && self.refuses_work.is_none()
            && self.health == Health::Live
    }

    /// What is left for typical requests.
    pub(crate) fn room(&self) -> Room {
        Room {
            cpu_milli: self.free.cpu_milli,
            memory_bytes: self.free.memory_bytes,
            gpus: self.gpus.iter().map(GpuOffer::free_milli).collect(),
        }
    }

    /// Which of its GPUs typical requests accept.
    pub(crate) fn accepted(&self, profile: &Profile) -> Accepted {
        profile.accepted(self.gpus.iter().map(|gpu| gpu.model.as_str()))
    }

    /// Takes the resources of a placement that is not applied yet off what is left.
    pub(crate) fn book(&mut self, resources: &Resources) {
        self.attempts += 1;
        self.free.cpu_milli = self.free.cpu_milli.saturating_sub(resources.cpu_milli);
        self.free.memory_bytes = self
            .free
            .memory_bytes
            .saturating_sub(resources.memory_bytes);
        self.free.disk_bytes = self.free.disk_bytes.saturating_sub(resources.disk_bytes);
        for share in &resources.gpus {
            if let Some(gpu) = self.gpus.iter_mut().find(|gpu| gpu.index == share.index) {
                gpu.booked_milli += share.milli;
                gpu.vram_booked_bytes += share.vram_bytes;
            }
        }
        self.free.gpus = self.gpus.iter().map(GpuOffer::free).collect();
    }

    /// Gives back what an attempt holds.
    pub(crate) fn unbook(&mut self, resources: &Resources) {
        let back = |free: u64, held: u64, all: u64| free.saturating_add(held).min(all);
        let (free, all) = (&mut self.free, &self.capacity);
        self.attempts = self.attempts.saturating_sub(1);
        self.taken_alone &= self.attempts > 0;
        free.cpu_milli = back(free.cpu_milli, resources.cpu_milli, all.cpu_milli);
        free.memory_bytes = back(free.memory_bytes, resources.memory_bytes, all.memory_bytes);
        free.disk_bytes = back(free.disk_bytes, resources.disk_bytes, all.disk_bytes);
        for share in &resources.gpus {
            if let Some(gpu) = self.gpus.iter_mut().find(|gpu| gpu.index == share.index) {
                gpu.booked_milli = gpu.booked_milli.saturating_sub(share.milli);
                gpu.vram_booked_bytes = gpu.vram_booked_bytes.saturating_sub(share.vram_bytes);
            }
        }
        self.free.gpus = self.gpus.iter().map(GpuOffer::free).collect();
    }
}

/// All members with what they have left, by id. A member that never reported has nothing to give.
#[must_use]
pub fn offers(state: &ClusterState, view: &View, now: Timestamp) -> Vec<NodeOffer> {
    state
        .nodes()
        .map(|record| {
            let observed = view.get(&record.node);
            let health = view.health(&record.node, now);
            let mut offer = offer(
                record,
                observed.map(|observed| &observed.report),
                health,
                &state.booking(&record.node),
            );
            add_claims(state, &mut offer);
            offer
        })
        .collect()
}

fn offer(
    record: &NodeRecord,
    report: Option<&NodeReport>,
    health: Health,
    booking: &Booking,
) -> NodeOffer {
    let gpus = report.map_or_else(Vec::new, |report| gpu_offers(report, booking));
    let whole = |gpu: &GpuOffer| GpuShare {
        index: gpu.index,
        milli: 1_000,
        vram_bytes: gpu.vram_total_bytes,
    };
    let capacity = Resources {
        cpu_milli: report.map_or(0, |report| report.cpu_milli),
        memory_bytes: report.map_or(0, |report| report.memory_bytes),
        disk_bytes: report.map_or(0, |report| report.disk_free_bytes),
        gpus: gpus.iter().map(whole).collect(),
    };
    let free = Resources {
        cpu_milli: capacity.cpu_milli.saturating_sub(booking.cpu_milli),
        memory_bytes: capacity.memory_bytes.saturating_sub(booking.memory_bytes),
        disk_bytes: capacity.disk_bytes.saturating_sub(booking.disk_bytes),
        gpus: gpus.iter().map(GpuOffer::free).collect(),
    };
    let refusing = report.filter(|report| report.refuses_work);
    NodeOffer {
        node: record.node.clone(),
        name: record.facts.name.clone(),
        capacity,
        free,
        gpus,
        labels: record.labels.clone(),
        node_started_at: report.map_or(Timestamp(0), |report| report.node_started_at),
        health,
        draining: record.draining,
        takes_work: record.facts.takes_work,
        keeps_blobs: record.facts.keeps_blobs,
        refuses_work: refusing.map(|report| match report.warnings.first() {
            Some(warning) => format!("refuses work: {warning}"),
            None => "refuses work".to_owned(),
        }),
        failure_domain: failure_domain(&record.node, &record.labels),
        reserved: None,
        attempts: 0,
        taken_alone: false,
        kept: Vec::new(),
    }
}

/// What people and preemption have said about the node, and who wants it alone.
fn add_claims(state: &ClusterState, offer: &mut NodeOffer) {
    offer.reserved = state.reserved(&offer.node).cloned();
    let booking = state.booking(&offer.node);
    offer.attempts = booking.attempts.len();
    offer.taken_alone = booking.attempts.iter().any(|token| {
        let experiment = state.experiment(token.experiment);
        experiment.is_some_and(|one| one.spec.resources.exclusive)
    });
    offer.kept = state.kept_on(&offer.node).collect();
    for (_, kept) in offer.kept.clone() {
        offer.book(&kept);
        offer.attempts -= 1;
    }
}

fn gpu_offers(report: &NodeReport, booking: &Booking) -> Vec<GpuOffer> {
    let offer = |(index, gpu): (u32, &types::GpuReport)| {
        let (milli, vram) = booking.gpus.get(&index).copied().unwrap_or_default();
        GpuOffer {
            index: GpuIndex(index),
            model: gpu.model.clone(),
            vram_total_bytes: gpu.vram_total_bytes,
            vram_booked_bytes: vram,
            vram_foreign_bytes: gpu.vram_foreign_bytes,
            booked_milli: milli,
            link_group: gpu.link_group,
            root: gpu.root,
        }
    };
    (0..).zip(&report.gpus).map(offer).collect()
}

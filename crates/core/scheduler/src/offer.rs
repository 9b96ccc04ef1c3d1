//! What each node has left to give.

use membership::{Health, View, failure_domain};
use state_machine::{Booking, ClusterState, NodeRecord, Reserved};
use types::{ExperimentId, GpuIndex, GpuShare, NodeId, NodeReport, Resources, Timestamp};

use crate::experience::{Room, WHOLE};

/// Part of a GPU's memory that may be used unbooked while it still counts as free.
const TOLERATED_VRAM_PERCENT: u64 = 5;

/// Begins NVML's names of MIG instances.
const INSTANCE: &str = "MIG-";

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
    /// Bytes in use by anybody at the last report.
    pub vram_used_bytes: u64,
    /// Bytes in use at the last report by processes that muster did not start.
    pub vram_foreign_bytes: u64,
    /// Thousandths that attempts have booked.
    pub booked_milli: u64,
    /// It is a MIG instance: CUDA gives a process one of them at most, so that it serves nobody who asks for several GPUs.
    pub is_instance: bool,
    /// Bit mask of the GPUs of its node that NVLink joins it to, by index.
    pub links: u32,
    /// Its memory node; none: not told.
    pub numa_node: Option<u8>,
}

impl GpuOffer {
    /// Bytes in use that no attempt has booked: of processes that muster did not start, of the driver, or of an attempt
    /// that takes more than it asked for. Those processes count in full while attempts do not use all of theirs yet.
    #[must_use]
    pub fn unbooked_vram_bytes(&self) -> u64 {
        let beyond = self.vram_used_bytes.saturating_sub(self.vram_booked_bytes);
        beyond.max(self.vram_foreign_bytes)
    }

    /// What a driver and a display may use while the GPU still counts as free for requests that name no amount: up to 3 %
    /// of the smallest cards.
    pub(crate) fn tolerated_vram_bytes(&self) -> u64 {
        self.vram_total_bytes / 100 * TOLERATED_VRAM_PERCENT
    }

    /// Thousandths that nobody has booked and nobody else keeps: of what is used unbooked, as much as its memory. One
    /// without memory is broken: it has none.
    #[must_use]
    pub fn free_milli(&self) -> u64 {
        if self.vram_total_bytes == 0 {
            return 0;
        }
        let unbooked = self.unbooked_vram_bytes();
        let kept = if unbooked <= self.tolerated_vram_bytes() {
            0
        } else {
            let whole = u128::from(self.vram_total_bytes);
            u64::try_from(u128::from(unbooked) * u128::from(WHOLE) / whole).unwrap_or(WHOLE)
        };
        WHOLE.saturating_sub(self.booked_milli).saturating_sub(kept)
    }

    /// What is left of it.
    #[must_use]
    pub fn free(&self) -> GpuShare {
        let taken = self
            .vram_booked_bytes
            .saturating_add(self.unbooked_vram_bytes());
        GpuShare {
            index: self.index,
            milli: WHOLE.saturating_sub(self.booked_milli),
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
    /// Who runs on it.
    pub tenants: Tenants,
    /// Places that preemption has freed and keeps for somebody; they are not in what is free.
    pub kept: Vec<(ExperimentId, Resources)>,
}

/// The label that every node carries besides its own: its name.
pub const NODE_LABEL: &str = "node";

/// Who runs on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tenants {
    /// Attempts on it.
    pub attempts: usize,
    /// One of them wants it alone.
    pub alone: bool,
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

    /// The failure domain that a person gave it; empty: none did.
    pub(crate) fn labelled_domain(&self) -> &str {
        if self.failure_domain == self.node.as_str() {
            ""
        } else {
            &self.failure_domain
        }
    }

    /// It has this label. Its name counts as one: `node=NAME` is that node alone.
    #[must_use]
    pub fn carries(&self, label: &(String, String)) -> bool {
        let (name, value) = label;
        self.labels.contains(label) || name == NODE_LABEL && *value == self.name
    }

    /// Nothing runs on it, and it is kept for nobody.
    pub(crate) fn is_empty(&self) -> bool {
        self.tenants.attempts == 0 && self.kept.is_empty()
    }

    /// What is left for typical requests.
    pub(crate) fn room(&self) -> Room {
        Room {
            cpu_milli: self.free.cpu_milli,
            memory_bytes: self.free.memory_bytes,
            gpus: self.gpus.iter().map(GpuOffer::free_milli).collect(),
        }
    }

    /// Takes the resources of a placement that is not applied yet off what is left.
    pub(crate) fn book(&mut self, resources: &Resources) {
        self.tenants.attempts += 1;
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

    /// Takes places that are kept for somebody off what is left.
    pub(crate) fn keep(&mut self, kept: Vec<(ExperimentId, Resources)>) {
        for (_, resources) in &kept {
            self.book(resources);
            self.tenants.attempts -= 1;
        }
        self.kept.extend(kept);
    }

    /// Gives back what an attempt holds.
    pub(crate) fn unbook(&mut self, resources: &Resources) {
        let back = |free: u64, held: u64, all: u64| free.saturating_add(held).min(all);
        let (free, all) = (&mut self.free, &self.capacity);
        self.tenants.attempts = self.tenants.attempts.saturating_sub(1);
        self.tenants.alone &= self.tenants.attempts > 0;
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
            let booking = state.booking(&record.node);
            let report = observed.map(|observed| &observed.report);
            let mut offer = offer(record, report, health, &booking);
            add_claims(state, &mut offer, &booking);
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
        tenants: Tenants::default(),
        kept: Vec::new(),
    }
}

/// What people and preemption have said about the node, and who wants it alone.
fn add_claims(state: &ClusterState, offer: &mut NodeOffer, booking: &Booking) {
    offer.reserved = state.reserved(&offer.node).cloned();
    offer.tenants.attempts = booking.attempts.len();
    // Who wants a node alone has no neighbours there.
    let only = match booking.attempts.len() {
        1 => booking.attempts.get_min(),
        _ => None,
    };
    offer.tenants.alone = only.is_some_and(|token| {
        let experiment = state.experiment(token.experiment);
        experiment.is_some_and(|one| one.spec.resources.exclusive)
    });
    let kept = state.kept_on(&offer.node).collect();
    offer.keep(kept);
    // What is kept for one that wants the node alone is kept whole.
    offer.tenants.alone |= offer.kept.iter().any(|(id, _)| {
        let experiment = state.experiment(*id);
        experiment.is_some_and(|one| one.spec.resources.exclusive)
    });
}

fn gpu_offers(report: &NodeReport, booking: &Booking) -> Vec<GpuOffer> {
    let offer = |(index, gpu): (u32, &types::GpuReport)| {
        let (milli, vram) = booking.gpus.get(&index).copied().unwrap_or_default();
        GpuOffer {
            index: GpuIndex(index),
            model: gpu.model.clone(),
            vram_total_bytes: gpu.vram_total_bytes,
            vram_booked_bytes: vram,
            vram_used_bytes: gpu.vram_used_bytes,
            vram_foreign_bytes: gpu.vram_foreign_bytes,
            booked_milli: milli,
            is_instance: gpu.uuid.starts_with(INSTANCE),
            links: gpu.links,
            numa_node: gpu.numa_node,
        }
    };
    (0..).zip(&report.gpus).map(offer).collect()
}

//! What each node has left to give.

use crate::experience::Room;
use membership::{Health, View, failure_domain};
use state_machine::{Booking, ClusterState, NodeRecord};
use types::{GpuIndex, GpuShare, NodeId, NodeReport, Resources, Timestamp};

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
}

impl GpuOffer {
    /// Bytes in use that no attempt has booked: of processes that muster did not start, of the driver, or of an attempt
    /// that takes more than it asked for. Those processes count in full while attempts do not use all of theirs yet.
    #[must_use]
    pub fn unbooked_vram_bytes(&self) -> u64 {
        let beyond = self.vram_used_bytes.saturating_sub(self.vram_booked_bytes);
        beyond.max(self.vram_foreign_bytes)
    }

    /// What is left of it.
    #[must_use]
    pub fn free(&self) -> GpuShare {
        let taken = self
            .vram_booked_bytes
            .saturating_add(self.unbooked_vram_bytes());
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
            gpus: self.gpus.iter().map(|gpu| gpu.free().milli).collect(),
        }
    }

    /// Takes the resources of a placement that is not applied yet off what is left.
    pub(crate) fn book(&mut self, resources: &Resources) {
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
            offer(
                record,
                observed.map(|observed| &observed.report),
                health,
                &booking,
            )
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
        labels: record.facts.labels.clone(),
        node_started_at: report.map_or(Timestamp(0), |report| report.node_started_at),
        health,
        draining: record.draining,
        takes_work: record.facts.takes_work,
        keeps_blobs: record.facts.keeps_blobs,
        refuses_work: refusing.map(|report| match report.warnings.first() {
            Some(warning) => format!("refuses work: {warning}"),
            None => "refuses work".to_owned(),
        }),
        failure_domain: failure_domain(&record.node, &record.facts),
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
            vram_used_bytes: gpu.vram_used_bytes,
            vram_foreign_bytes: gpu.vram_foreign_bytes,
            booked_milli: milli,
        }
    };
    (0..).zip(&report.gpus).map(offer).collect()
}

//! The scheduler of muster itself: its packing, with the experience of the task list.

use std::sync::Arc;

use membership::Health;
use scheduler::{Choice, Experience, GpuOffer, NodeOffer, Openness, Packing, Tenants, Who, Wishes};
use types::{GpuIndex, GpuShare, NodeId, ResourceRequest, Resources, Timestamp};

use super::Chooser;
use super::cluster::{Cluster, Place};
use super::trace::{Task, Trace, TraceNode, WHOLE};

/// The packing of one run.
pub(super) struct Ours {
    packing: Packing,
    requests: Vec<ResourceRequest>,
    /// What was chosen last, to be booked when it is placed.
    chosen: Option<Choice>,
}

impl Ours {
    pub(super) fn new(trace: &Trace, order: &[usize]) -> Self {
        let requests: Vec<_> = trace.tasks.iter().map(request).collect();
        let experience = Experience::of_requests(&requests);
        let offers = order.iter().zip(0_u32..);
        let offers = offers.map(|(at, number)| offer(&trace.nodes[*at], number));
        Self {
            packing: Packing::new(offers.collect(), Arc::new(experience)),
            requests,
            chosen: None,
        }
    }
}

impl Chooser for Ours {
    fn choose(&mut self, _: &Cluster, task: usize) -> Option<Place> {
        let who = Who {
            request: &self.requests[task],
            user: "trace",
            now: Timestamp(0),
        };
        let wishes = Wishes::default();
        let choice = self
            .packing
            .choose(who, wishes, |_, _| true, |_| Openness::Open)?;
        let gpu = choice.resources.gpus.first();
        let gpu = gpu.map_or(0, |share| usize::try_from(share.index.0).unwrap_or(0));
        let node = choice.at;
        self.chosen = Some(choice);
        Some(Place { node, gpu })
    }

    fn placed(&mut self, _: Place, _: usize) {
        if let Some(choice) = self.chosen.take() {
            self.packing.book(choice.at, &choice.resources);
        }
    }
}

fn request(task: &Task) -> ResourceRequest {
    ResourceRequest {
        cpu_milli: task.cpu_milli,
        memory_bytes: task.memory_mib << 20,
        gpu_milli: task.gpu_milli(),
        gpu_models: task.models.clone(),
        ..ResourceRequest::default()
    }
}

fn offer(node: &TraceNode, number: u32) -> NodeOffer {
    // Ids in the run's order of nodes, since the first of equals is taken by id.
    let id: NodeId = format!("n{}", 1_000_000 + number)
        .replace('0', "z")
        .parse()
        .expect("without zeros it is base58");
    // Of a trace only thousandths are known: as many bytes stand for the memory.
    let vram_bytes = WHOLE;
    let indexes = (0..).take(node.gpus).map(GpuIndex);
    let gpus: Vec<_> = indexes
        .map(|index| GpuOffer {
            index,
            model: node.model.clone(),
            vram_total_bytes: vram_bytes,
            vram_booked_bytes: 0,
            vram_used_bytes: 0,
            vram_foreign_bytes: 0,
            booked_milli: 0,
            is_instance: false,
            links: 0,
            numa_node: None,
        })
        .collect();
    let all = Resources {
        cpu_milli: node.cpu_milli,
        memory_bytes: node.memory_mib << 20,
        disk_bytes: 0,
        gpus: gpus
            .iter()
            .map(|gpu| GpuShare {
                index: gpu.index,
                milli: WHOLE,
                vram_bytes,
            })
            .collect(),
    };
    NodeOffer {
        name: id.to_string(),
        node: id,
        capacity: all.clone(),
        free: all,
        gpus,
        labels: Vec::new(),
        node_started_at: Timestamp(0),
        health: Health::Live,
        draining: false,
        takes_work: true,
        keeps_blobs: false,
        refuses_work: None,
        failure_domain: String::new(),
        reserved: None,
        tenants: Tenants::default(),
        kept: Vec::new(),
    }
}

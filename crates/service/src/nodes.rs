//! Nodes and the cluster as people see them.

use std::time::Duration;

use membership::{Candidate, Health, Replicas, VoterPlan};
use state_machine::{Booking, ClusterState, Drain, NodeRecord, Pin, PinnedRole};
use types::{GpuIndex, NodeId};

use crate::author::Caller;
use crate::call::{ReadOptions, Reply, Request};
use crate::error::ServiceError;
use crate::experiment_views::{node_ref, with_names};
use crate::handle::{Handle, view_now};
use crate::members::reserved_text;
use crate::overuse;
use crate::submit::unexpected;
use crate::view::{Answer, ClusterView, GpuView, NodeRefView, NodeView, NodesView};

impl Handle {
    /// All nodes with what they give and do.
    ///
    /// # Errors
    /// No majority answers (unless a stale answer will do).
    pub async fn nodes(
        &self,
        caller: &Caller,
        read: ReadOptions,
    ) -> Result<Answer<NodesView>, ServiceError> {
        match self.call(caller, Request::Nodes(read), None).await? {
            Reply::Nodes(answer) => Ok(answer),
            other => Err(unexpected(&other)),
        }
    }

    /// All queues.
    ///
    /// # Errors
    /// No majority answers (unless a stale answer will do).
    pub async fn queues(
        &self,
        caller: &Caller,
        read: ReadOptions,
    ) -> Result<Answer<Vec<crate::view::QueueView>>, ServiceError> {
        match self.call(caller, Request::Queues(read), None).await? {
            Reply::Queues(answer) => Ok(answer),
            other => Err(unexpected(&other)),
        }
    }

    /// The cluster as this node sees it; always answers.
    pub fn cluster(&self) -> ClusterView {
        let state = self.inner.consensus.state();
        let facts = self.member_facts();
        let name = |node: &NodeId| NodeRefView {
            id: node.to_string(),
            name: facts
                .get(node)
                .map_or_else(|| node.short().to_owned(), |facts| facts.name.clone()),
        };
        let (leader, term) = {
            let leadership = self.inner.consensus.leader();
            let leadership = leadership.borrow();
            (leadership.leader.clone(), leadership.term)
        };
        let cluster = state
            .cluster()
            .or_else(|| self.opened_members().map(|list| list.cluster));
        let own = NodeRefView {
            id: self.node_id().to_string(),
            name: self.inner.config.node_name.clone(),
        };
        ClusterView {
            cluster: cluster.map(|cluster| cluster.to_string()),
            incarnation: state.incarnation().0,
            node: own,
            leader: leader.or_else(|| self.leader()).as_ref().map(name),
            term,
            members: facts.len() as u64,
            voters: self.inner.consensus.voters().iter().map(name).collect(),
            waiting: state.waiting_count() as u64,
            active: state.active().count() as u64,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            problem: self
                .problem()
                .map(|(message, hint)| format!("{message}; {hint}")),
        }
    }

    pub(crate) async fn read_nodes(
        &self,
        read: ReadOptions,
    ) -> Result<Answer<NodesView>, ServiceError> {
        let age_ms = self.freshen(read).await?;
        let state = self.inner.consensus.state();
        let plan = self.voter_plan(&state);
        let nodes: Vec<_> = state
            .nodes()
            .map(|record| self.node_view(&state, record, &plan))
            .collect();
        let warnings = self.cluster_warnings(&state);
        Ok(Answer {
            index: state.applied().0,
            age_ms,
            body: NodesView { nodes, warnings },
        })
    }

    fn node_view(
        &self,
        state: &ClusterState,
        record: &NodeRecord,
        (members, now, plan): &(Vec<Candidate>, Replicas, VoterPlan),
    ) -> NodeView {
        let view = self.view();
        let node = &record.node;
        let observed = view.get(node);
        let report = observed.map(|observed| &observed.report);
        let booking = state.booking(node);
        let peers = self.inner.network.peers();
        let peer = peers.iter().find(|peer| peer.node == *node);
        let round_trip = peer.and_then(|peer| peer.round_trip);
        let gpus = report
            .map(|report| report.gpus.as_slice())
            .unwrap_or_default();
        let standing = state.standing(node);
        let member = members.iter().find(|member| member.node == *node);
        let role = member.map_or(
            membership::Role {
                word: "worker",
                why: "it joined just now".to_owned(),
            },
            |member| membership::role_of(member, now, plan),
        );
        let mut warnings = report
            .map(|report| report.warnings.clone())
            .unwrap_or_default();
        warnings.extend(slow_link(state, round_trip));
        NodeView {
            id: node.to_string(),
            name: record.facts.name.clone(),
            role: role.word.to_owned(),
            role_reason: with_names(state, &role.why),
            pinned: standing.pin.map(|pin| pin_text(state, &pin)),
            draining: standing.drain.map(|drain| drain_text(state, &drain)),
            suspicion: view.suspicion(node, view_now()).map(|why| why.to_string()),
            disk: disk_word(report.is_some_and(|report| report.refuses_work)).to_owned(),
            health: health_word(view.health(node, view_now())).to_owned(),
            report_age_ms: observed.map(|observed| view_now().since(observed.received_at).0),
            round_trip_us: round_trip
                .map(|trip| u64::try_from(trip.as_micros()).unwrap_or(u64::MAX)),
            takes_work: record.facts.takes_work,
            labels: record
                .labels
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect(),
            reserved: reserved_text(state, node),
            cpu_milli: report.map_or(0, |report| report.cpu_milli),
            cpu_booked_milli: booking.cpu_milli,
            cpu_busy_milli: report.map_or(0, |report| report.cpu_busy_milli),
            memory_bytes: report.map_or(0, |report| report.memory_bytes),
            memory_booked_bytes: booking.memory_bytes,
            memory_used_bytes: report.map_or(0, |report| report.memory_used_bytes),
            disk_free_bytes: report.map_or(0, |report| report.disk_free_bytes),
            gpus: gpu_views(state, node, gpus, &booking),
            declared: report
                .map(|report| report.declared.clone())
                .unwrap_or_default(),
            attempts: booking.attempts.iter().map(ToString::to_string).collect(),
            version: record.facts.version.clone(),
            addresses: record.facts.control_addresses.clone(),
            warnings,
        }
    }

    /// What a person should know about the cluster as a whole.
    pub(crate) fn cluster_warnings(&self, state: &ClusterState) -> Vec<String> {
        let mut warnings = Vec::new();
        if state.nodes().count() == 1 {
            warnings.push("this cluster has one machine: add others with `muster up --join <token>` (`muster token new` makes one)".to_owned());
        } else {
            warnings.extend(self.stop_risk(state));
        }
        warnings.extend(
            self.problem()
                .map(|(message, hint)| format!("{message}; {hint}")),
        );
        warnings
    }

    /// Whose absence alone would stop the cluster (invariant 9).
    pub(crate) fn stop_risk(&self, state: &ClusterState) -> Option<String> {
        let (members, now, _) = self.voter_plan(state);
        membership::stop_risk(&members, &now.voters, |node| node_ref(state, node).name)
    }
}

fn gpu_views(
    state: &ClusterState,
    node: &NodeId,
    gpus: &[types::GpuReport],
    booking: &Booking,
) -> Vec<GpuView> {
    let view = |(index, gpu): (u32, &types::GpuReport)| {
        let (booked_milli, booked_vram_bytes) =
            booking.gpus.get(&index).copied().unwrap_or_default();
        GpuView {
            index,
            uuid: gpu.uuid.clone(),
            model: gpu.model.clone(),
            vram_total_bytes: gpu.vram_total_bytes,
            vram_used_bytes: gpu.vram_used_bytes,
            vram_foreign_bytes: gpu.vram_foreign_bytes,
            utilisation_percent: gpu.utilisation_percent,
            booked_milli,
            booked_vram_bytes,
            warnings: overuse::of_gpu(state, node, GpuIndex(index)),
        }
    };
    (0..).zip(gpus).map(view).collect()
}

const fn health_word(health: Health) -> &'static str {
    match health {
        Health::Live => "live",
        Health::Suspect => "suspect",
        Health::Unknown => "unknown",
    }
}

const fn disk_word(refuses_work: bool) -> &'static str {
    if refuses_work { "full" } else { "ok" }
}

/// What a slow link does to elections.
fn slow_link(state: &ClusterState, round_trip: Option<Duration>) -> Option<String> {
    let heartbeat_ms = consensus::Timing::named(state.timing()).heartbeat_ms;
    let slow = round_trip.filter(|trip| *trip > Duration::from_millis(heartbeat_ms / 2))?;
    Some(format!(
        "round trip of {} ms is over half the heartbeat: use `timing = \"wan\"`",
        slow.as_millis()
    ))
}

fn pin_text(state: &ClusterState, pin: &Pin) -> String {
    let role = match pin.role {
        PinnedRole::Voter => "voter",
        PinnedRole::Worker => "worker",
    };
    with_names(state, &format!("{role}, by {}", pin.by))
}

fn drain_text(state: &ClusterState, drain: &Drain) -> String {
    let mut text = with_names(state, &drain.by);
    if drain.evacuate {
        text.push_str(", what runs is moved");
    }
    if !drain.reason.is_empty() {
        text = format!("{text}: {}", drain.reason);
    }
    text
}

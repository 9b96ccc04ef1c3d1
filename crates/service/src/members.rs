//! What admins do with machines: drained, in use again, given a role, taken out.

use std::time::Duration;

use membership::Health;
use serde::{Deserialize, Serialize};
use state_machine::{
    ClusterState, Command, DrainNode, EvictNode, EvictedAttempts, LabelNode, NodeRecord, PinRole,
    PinnedRole, RemoveNode, ReserveNode, ResolveNodeError, UndrainNode,
};
use tokio::time::Instant;
use types::{Author, DurationMs, NodeId, RequestId, Role};

use crate::author::Caller;
use crate::call::{Reply, Request};
use crate::error::{ErrorKind, ServiceError};
use crate::experiment_views::{node_ref, with_names};
use crate::handle::{Handle, now, view_now};
use crate::steer::small;
use crate::submit::{invalid, unexpected};
use crate::view::{
    Answer, DrainRequest, LabelRequest, NodeChangeView, PinRequest, RemoveNodeRequest,
    ReserveRequest,
};

/// How long a removal waits for the node's vote to be given back: some elections, and less than a forwarded request has.
const VOTE_PATIENCE: Duration = Duration::from_secs(4);
/// Time between two looks whether the vote is back.
const VOTE_LOOK: Duration = Duration::from_millis(50);
/// Longest reason that is kept, in bytes: a line.
const MAX_REASON_BYTES: usize = 200;

/// What is to become of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum NodeChange {
    Drain(DrainRequest),
    Undrain,
    Pin(Option<PinnedRole>),
    Label(LabelRequest),
    Reserve(Option<ReserveRequest>),
    Remove(RemoveNodeRequest),
}

impl Handle {
    /// Lets a node get empty and gives its vote back.
    ///
    /// # Errors
    /// The caller is no admin, no such node, or no majority answers.
    pub async fn drain_node(
        &self,
        caller: &Caller,
        node: &str,
        request: DrainRequest,
    ) -> Result<Answer<NodeChangeView>, ServiceError> {
        self.change_node(caller, node, NodeChange::Drain(request))
            .await
    }

    /// Takes a node into use again.
    ///
    /// # Errors
    /// The caller is no admin, no such node, or no majority answers.
    pub async fn undrain_node(
        &self,
        caller: &Caller,
        node: &str,
    ) -> Result<Answer<NodeChangeView>, ServiceError> {
        self.change_node(caller, node, NodeChange::Undrain).await
    }

    /// Makes a node vote, or not vote, or leaves it to the rule again.
    ///
    /// # Errors
    /// The caller is no admin, no such node or role, the node may not vote, or no majority answers.
    pub async fn pin_node(
        &self,
        caller: &Caller,
        node: &str,
        request: &PinRequest,
    ) -> Result<Answer<NodeChangeView>, ServiceError> {
        let role = match request.role.as_deref() {
            None => None,
            Some("voter") => Some(PinnedRole::Voter),
            Some("worker") => Some(PinnedRole::Worker),
            Some(other) => {
                return Err(invalid(&format!(
                    "there is no role {other:?} to give: voter, worker, or none"
                )));
            }
        };
        self.change_node(caller, node, NodeChange::Pin(role)).await
    }

    /// Takes a node out of the cluster.
    ///
    /// # Errors
    /// The caller is no admin, no such node, it runs something, it answers though it is said to be dead, its vote cannot
    /// be given back, or no majority answers.
    pub async fn remove_node(
        &self,
        caller: &Caller,
        node: &str,
        request: RemoveNodeRequest,
    ) -> Result<Answer<NodeChangeView>, ServiceError> {
        self.change_node(caller, node, NodeChange::Remove(request))
            .await
    }

    /// Gives labels to a node, or takes them off.
    ///
    /// # Errors
    /// The caller is no admin, no such node, a label makes no sense, or no majority answers.
    pub async fn label_node(
        &self,
        caller: &Caller,
        node: &str,
        request: LabelRequest,
    ) -> Result<Answer<NodeChangeView>, ServiceError> {
        self.change_node(caller, node, NodeChange::Label(request))
            .await
    }

    /// Gives a node to one person for a time, or to all again.
    ///
    /// # Errors
    /// The caller is no admin, no such node, or no majority answers.
    pub async fn reserve_node(
        &self,
        caller: &Caller,
        node: &str,
        request: Option<ReserveRequest>,
    ) -> Result<Answer<NodeChangeView>, ServiceError> {
        self.change_node(caller, node, NodeChange::Reserve(request))
            .await
    }

    async fn change_node(
        &self,
        caller: &Caller,
        node: &str,
        change: NodeChange,
    ) -> Result<Answer<NodeChangeView>, ServiceError> {
        let request = Request::ChangeNode(node.to_owned(), change);
        match self.call(caller, request, None).await? {
            Reply::NodeChanged(answer) => Ok(answer),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn execute_change_node(
        &self,
        author: &Author,
        request_id: RequestId,
        text: &str,
        change: NodeChange,
    ) -> Result<Answer<NodeChangeView>, ServiceError> {
        if author.role < Role::Admin {
            let message = format!("{author} is no admin: ask one to do it");
            return Err(ServiceError::new(
                ErrorKind::Forbidden,
                "not-allowed",
                message,
            ));
        }
        let state = self.inner.consensus.state();
        let node = state
            .resolve_node(text)
            .map_err(|error| not_found(&error))?;
        let name = node_ref(&state, &node).name;
        let command = match change {
            NodeChange::Drain(request) => Command::DrainNode(DrainNode {
                node: node.clone(),
                evacuate: request.now,
                reason: line(request.reason)?,
            }),
            NodeChange::Undrain => Command::UndrainNode(UndrainNode { node: node.clone() }),
            NodeChange::Pin(role) => Command::PinRole(PinRole {
                node: node.clone(),
                role,
            }),
            NodeChange::Label(request) => Command::LabelNode(LabelNode {
                node: node.clone(),
                labels: request.labels.into_iter().collect(),
            }),
            NodeChange::Reserve(request) => {
                let until = |request: ReserveRequest| {
                    let until = self.cluster_time() + DurationMs(request.for_ms);
                    (request.user, until)
                };
                Command::ReserveNode(ReserveNode {
                    node: node.clone(),
                    reserved: request.map(until),
                })
            }
            NodeChange::Remove(request) => {
                return self
                    .execute_remove(author, request_id, &node, request)
                    .await;
            }
        };
        let is_drain = matches!(command, Command::DrainNode(_));
        let is_mark = matches!(command, Command::LabelNode(_) | Command::ReserveNode(_));
        let (index, _) = self
            .propose(author, Some(request_id), small(command)?)
            .await?;
        let state = self.inner.consensus.state();
        let text = if is_drain {
            drained(&state, &node, &name)
        } else if is_mark {
            marked(&state, &node, &name)
        } else {
            self.what_comes(&state, &node, &name)
        };
        Ok(Answer {
            index: index.0,
            age_ms: 0,
            body: NodeChangeView {
                node: node_ref(&state, &node),
                text,
            },
        })
    }

    /// The role that the rule now gives, in words.
    fn what_comes(&self, state: &ClusterState, node: &NodeId, name: &str) -> String {
        let (members, now, plan) = self.voter_plan(state);
        let member = members.iter().find(|member| member.node == *node);
        let role = member.map(|member| membership::role_of(member, &now, &plan));
        role.map_or_else(
            || format!("{name} is no member"),
            |role| with_names(state, &format!("{name} is a {}: {}", role.word, role.why)),
        )
    }

    async fn execute_remove(
        &self,
        author: &Author,
        request_id: RequestId,
        node: &NodeId,
        request: RemoveNodeRequest,
    ) -> Result<Answer<NodeChangeView>, ServiceError> {
        let reason = line(request.reason)?;
        let state = self.inner.consensus.state();
        let record = state.node(node).cloned().ok_or_else(|| {
            ServiceError::new(
                ErrorKind::NotFound,
                "unknown-node",
                "it was removed just now",
            )
        })?;
        let name = record.facts.name.clone();
        self.check_removal(&state, &record, request.now, request.is_dead)?;
        self.take_vote_back(author, node, &name).await?;
        let state = self.inner.consensus.state();
        let running = state.booking(node).attempts.len();
        let command = if request.is_dead {
            let mut sealed = Vec::new();
            for (_, attempt) in state.active() {
                if let Some(rank) = attempt.rank_on(node) {
                    sealed.push((attempt.token, self.seal_mirror_of(attempt, rank).await));
                }
            }
            evict(node, reason, EvictedAttempts::Now(sealed))
        } else if request.now {
            evict(node, reason, EvictedAttempts::WhenLeasesEnd)
        } else {
            Command::RemoveNode(RemoveNode {
                node: node.clone(),
                reason,
            })
        };
        let (index, _) = self.propose(author, Some(request_id), command).await?;
        let text = match (running, request.is_dead) {
            (0, _) => format!("{name} is no member any more"),
            (_, true) => {
                format!("{name} is no member any more; its {running} attempts are placed again now")
            }
            (_, false) => format!(
                "{name} is no member any more; its {running} attempts are placed again when their leases are over"
            ),
        };
        let node = crate::view::NodeRefView {
            id: node.to_string(),
            name,
        };
        Ok(Answer {
            index: index.0,
            age_ms: 0,
            body: NodeChangeView { node, text },
        })
    }

    /// Refuses, before anything is done, what would be refused in the end.
    fn check_removal(
        &self,
        state: &ClusterState,
        record: &NodeRecord,
        now: bool,
        is_dead: bool,
    ) -> Result<(), ServiceError> {
        let conflict = |code, message, hint| {
            Err(ServiceError::new(ErrorKind::Conflict, code, message).hint(hint))
        };
        let (node, name) = (&record.node, &record.facts.name);
        if state.nodes().count() == 1 {
            let message = format!("{name} is the only machine of the cluster");
            let hint =
                "without it there is no cluster: stop muster there and delete its data directory";
            return conflict("last-node", message, hint.to_owned());
        }
        let running = state.booking(node).attempts.len();
        if running > 0 && !now && !is_dead {
            let message = format!("{name} still runs {running} attempts");
            let hint = format!(
                "`muster node drain {name} --wait` lets them finish; --now gives them up when their leases are over; --is-dead at once, if the machine will never run again"
            );
            return conflict("node-in-use", message, hint);
        }
        if is_dead && self.is_there(node) {
            let message = format!("{name} is not dead: it answers");
            let hint = "what it runs would run twice: remove it without --is-dead".to_owned();
            return conflict("node-alive", message, hint);
        }
        let (mut members, replicas, _) = self.voter_plan(state);
        let leaving = members.iter_mut().find(|member| member.node == *node);
        if let Some(member) = leaving {
            member.barred = Some("it is removed".to_owned());
        }
        if membership::choose_voters(&members, &replicas)
            .voters
            .contains(node)
        {
            let message = format!("{name} holds the only vote, and no other member can take it");
            let hint = "add a machine that may vote, or start one that is down".to_owned();
            return conflict("last-voter", message, hint);
        }
        Ok(())
    }

    fn is_there(&self, node: &NodeId) -> bool {
        let peers = self.inner.network.peers();
        let connected = peers
            .iter()
            .any(|peer| peer.node == *node && peer.connected);
        *node == *self.node_id()
            || connected && self.view().health(node, view_now()) == Health::Live
    }

    /// Drains the node and waits until it neither votes nor stands by, so that its absence is missed by nobody. The leader
    /// itself hands over on the way: then the next leader is asked again.
    async fn take_vote_back(
        &self,
        author: &Author,
        node: &NodeId,
        name: &str,
    ) -> Result<(), ServiceError> {
        let consensus = &self.inner.consensus;
        let is_replica = || {
            let (voters, learners) = (consensus.voters(), consensus.learners());
            voters.contains(node) || learners.contains(node)
        };
        if !is_replica() {
            return Ok(());
        }
        let drain = Command::DrainNode(DrainNode {
            node: node.clone(),
            evacuate: false,
            reason: "to be removed".to_owned(),
        });
        // Not under the request's id: that is for the removal itself.
        self.propose(author, None, drain).await?;
        let deadline = Instant::now() + VOTE_PATIENCE;
        while is_replica() {
            if !self.is_leader() {
                return Err(self.not_leader());
            }
            if Instant::now() >= deadline {
                let message = format!("{name} has not given its vote back yet");
                return Err(ServiceError::new(ErrorKind::Conflict, "still-voting", message)
                    .hint("it is drained, and another machine takes its place: try again in a moment; `muster nodes` shows it"));
            }
            tokio::time::sleep(VOTE_LOOK).await;
        }
        Ok(())
    }
}

fn evict(node: &NodeId, reason: String, attempts: EvictedAttempts) -> Command {
    Command::EvictNode(Box::new(EvictNode {
        node: node.clone(),
        reason,
        attempts,
    }))
}

fn drained(state: &ClusterState, node: &NodeId, name: &str) -> String {
    let running = state.booking(node).attempts.len();
    let drain = state.standing(node).drain;
    match (running, drain.is_some_and(|drain| drain.evacuate)) {
        (0, _) => format!("{name} takes nothing new; nothing runs there"),
        (_, true) => format!("{name} takes nothing new; its {running} attempts are moved"),
        (_, false) => format!(
            "{name} takes nothing new; its {running} attempts finish there (--now moves them)"
        ),
    }
}

/// What people have said about a node.
fn marked(state: &ClusterState, node: &NodeId, name: &str) -> String {
    let labels = state.node(node).map_or_else(Vec::new, |record| {
        let labels = record.labels.iter();
        labels
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    });
    let labels = match labels.is_empty() {
        true => "no labels".to_owned(),
        false => labels.join(" "),
    };
    let whose = reserved_text(state, node).unwrap_or_else(|| "everybody's".to_owned());
    format!("{name} carries {labels}; it is {whose}")
}

/// Whose a node is, in words; none: everybody's.
pub(crate) fn reserved_text(state: &ClusterState, node: &NodeId) -> Option<String> {
    let reserved = state.reserved(node)?;
    let left = reserved.until.since(now());
    let (user, by) = (&reserved.user, with_names(state, &reserved.by));
    Some(format!("reserved for {user} for another {left} (by {by})"))
}

pub(crate) fn line(text: String) -> Result<String, ServiceError> {
    if text.len() > MAX_REASON_BYTES || text.contains(char::is_control) {
        return Err(invalid(&format!(
            "a reason is one line of at most {MAX_REASON_BYTES} bytes"
        )));
    }
    Ok(text)
}

fn not_found(error: &ResolveNodeError) -> ServiceError {
    let (kind, code) = match error {
        ResolveNodeError::Unknown { .. } => (ErrorKind::NotFound, "unknown-node"),
        ResolveNodeError::Departed { .. } => (ErrorKind::NotFound, "removed"),
        ResolveNodeError::Ambiguous { .. } => (ErrorKind::Conflict, "ambiguous"),
    };
    ServiceError::new(kind, code, error.to_string())
}

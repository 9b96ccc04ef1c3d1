//! One file per command: its stored form and what it does.

mod accept_late;
mod create_queue;
mod create_tokens;
mod evict_node;
mod extend_lease;
mod found_cluster;
mod hold_experiment;
mod late_report;
mod lose_attempt;
mod mark_node;
mod move_experiment;
mod node_standing;
mod nodes;
mod note_backup;
mod note_refusals;
mod order_experiment;
mod place_attempt;
mod preempt_for;
mod release_placements;
mod report_attempt;
mod seal_segment;
mod shape_queue;
mod stop_experiment;
mod stop_group;
mod submit_experiment;
mod submit_group;
mod user_tokens;

pub use accept_late::AcceptLate;
pub use create_queue::CreateQueue;
pub use create_tokens::{CreateJoinToken, CreateUserToken, RevokeToken};
pub use evict_node::{EvictNode, EvictedAttempts, ReplaceNode};
pub use extend_lease::ExtendLease;
pub use found_cluster::FoundCluster;
pub use hold_experiment::{HoldExperiment, ReleaseExperiment};
pub use lose_attempt::LoseAttempt;
pub use mark_node::{LabelNode, ReserveNode};
pub use move_experiment::MoveExperiment;
pub use node_standing::{DrainNode, PinRole, UndrainNode};
pub use nodes::{AdmitNode, RemoveNode, UpdateNode};
pub use note_backup::NoteBackup;
pub use note_refusals::{Entrance, NoteRefusals};
pub use order_experiment::{LinePlace, MAX_MEMBER_PRIORITY, OrderExperiment, SetPriority};
pub use place_attempt::{PlaceAttempt, RankCapacity};
pub use preempt_for::PreemptFor;
pub use release_placements::ReleasePlacements;
pub use report_attempt::{AttemptReport, ReportAttempt};
pub use seal_segment::SealSegment;
pub use shape_queue::{PauseQueue, ShapeQueue, WeighUser};
pub use stop_experiment::StopExperiment;
pub use stop_group::StopGroup;
pub use submit_experiment::SubmitExperiment;
pub use submit_group::{MAX_GROUP_MEMBERS, SubmitGroup};
pub use user_tokens::{IssueUserToken, NoteTokenUses, RemoveUser};

pub(crate) use report_attempt::with_evidence;

use types::{AttemptToken, Author, AuthorProof, ExperimentId, Role, TokenId};

use crate::command::Command;
use crate::outcome::{Outcome, RefusalCode};
use crate::records::{Experiment, ExperimentPhase};
use crate::state::{ClusterState, Context};

impl Command {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        if context.author.role < self.needed_role() {
            let message = match self.needed_role() {
                Role::Admin => format!("{} is no admin: ask one to do it", context.author),
                Role::Viewer | Role::Member => {
                    format!(
                        "{} may only read: ask an admin for a member's token",
                        context.author
                    )
                }
            };
            return Outcome::refused(RefusalCode::NotAllowed, message);
        }
        if let AuthorProof::Token { token } = &context.author.proof
            && !is_good(state, token, context)
        {
            let message =
                format!("the token {token} was revoked or has expired: ask an admin for another");
            return Outcome::refused(RefusalCode::NotAllowed, message);
        }
        match self {
            Self::FoundCluster(command) => command.apply(state, context),
            Self::CreateJoinToken(command) => command.apply(state, context),
            Self::RevokeToken(command) => command.apply(state, context),
            Self::AdmitNode(command) => command.apply(state, context),
            Self::UpdateNode(command) => command.apply(state, context),
            Self::RemoveNode(command) => command.apply(state, context),
            Self::SubmitExperiment(command) => command.apply(state, context),
            Self::StopExperiment(command) => command.apply(state, context),
            Self::PlaceAttempt(command) => command.apply(state, context),
            Self::ReportAttempt(command) => command.apply(state, context),
            Self::ExtendLease(command) => command.apply(state, context),
            Self::LoseAttempt(command) => command.apply(state, context),
            Self::SealSegment(command) => command.apply(state, context),
            Self::CreateQueue(command) => command.apply(state, context),
            Self::MoveExperiment(command) => command.apply(state, context),
            Self::CreateUserToken(command) => command.apply(state, context),
            Self::IssueUserToken(command) => command.apply(state, context),
            Self::RemoveUser(command) => command.apply(state, context),
            Self::NoteTokenUses(command) => command.apply(state, context),
            Self::NoteRefusals(command) => command.apply(state, context),
            Self::ReleasePlacements(command) => command.apply(state, context),
            Self::DrainNode(command) => command.apply(state, context),
            Self::UndrainNode(command) => command.apply(state, context),
            Self::PinRole(command) => command.apply(state, context),
            Self::EvictNode(command) => command.apply(state, context),
            Self::ReplaceNode(command) => command.apply(state, context),
            Self::AcceptLate(command) => command.apply(state, context),
            Self::NoteBackup(command) => command.apply(state, context),
            Self::HoldExperiment(command) => command.apply(state, context),
            Self::ReleaseExperiment(command) => command.apply(state, context),
            Self::OrderExperiment(command) => command.apply(state, context),
            Self::SetPriority(command) => command.apply(state, context),
            Self::PauseQueue(command) => command.apply(state, context),
            Self::ShapeQueue(command) => command.apply(state, context),
            Self::WeighUser(command) => command.apply(state, context),
            Self::LabelNode(command) => command.apply(state, context),
            Self::ReserveNode(command) => command.apply(state, context),
            Self::PreemptFor(command) => command.apply(state, context),
            Self::SubmitGroup(command) => command.apply(state, context),
            Self::StopGroup(command) => command.apply(state, context),
        }
    }

    fn needed_role(&self) -> Role {
        match self {
            Self::SubmitExperiment(_)
            | Self::SubmitGroup(_)
            | Self::StopGroup(_)
            | Self::StopExperiment(_)
            | Self::MoveExperiment(_)
            | Self::HoldExperiment(_)
            | Self::ReleaseExperiment(_)
            | Self::OrderExperiment(_)
            | Self::SetPriority(_)
            | Self::AcceptLate(_) => Role::Member,
            Self::FoundCluster(_)
            | Self::CreateJoinToken(_)
            | Self::RevokeToken(_)
            | Self::AdmitNode(_)
            | Self::UpdateNode(_)
            | Self::RemoveNode(_)
            | Self::PlaceAttempt(_)
            | Self::ReportAttempt(_)
            | Self::ExtendLease(_)
            | Self::LoseAttempt(_)
            | Self::SealSegment(_)
            | Self::CreateQueue(_)
            | Self::CreateUserToken(_)
            | Self::IssueUserToken(_)
            | Self::RemoveUser(_)
            | Self::NoteTokenUses(_)
            | Self::NoteRefusals(_)
            | Self::ReleasePlacements(_)
            | Self::NoteBackup(_)
            | Self::DrainNode(_)
            | Self::UndrainNode(_)
            | Self::PinRole(_)
            | Self::EvictNode(_)
            | Self::PauseQueue(_)
            | Self::ShapeQueue(_)
            | Self::WeighUser(_)
            | Self::LabelNode(_)
            | Self::ReserveNode(_)
            | Self::PreemptFor(_)
            | Self::ReplaceNode(_) => Role::Admin,
        }
    }
}

/// The token that vouches for the author is still what it was when the leader looked: it may have been revoked since.
fn is_good(state: &ClusterState, token: &TokenId, context: &Context<'_>) -> bool {
    let known = state.user_token(token);
    let same = known.is_some_and(|known| {
        known.user == context.author.user && known.role == context.author.role
    });
    let end = state.user_token_terms(token).expires_at;
    same && end.is_none_or(|end| context.now < end)
}

/// A member steers own experiments, an admin all.
fn may_steer(author: &Author, experiment: &Experiment) -> bool {
    author.role == Role::Admin || author.user == experiment.author.user
}

fn unknown_experiment(id: ExperimentId) -> Outcome {
    let message =
        format!("there is no experiment {id} that can still change: `muster ls --all` lists them");
    Outcome::refused(RefusalCode::UnknownExperiment, message)
}

/// A working copy of a waiting experiment that the author may steer.
fn waiting_of(
    state: &ClusterState,
    context: &Context<'_>,
    id: ExperimentId,
    verb: &str,
) -> Result<Experiment, Outcome> {
    let Some(experiment) = state.experiments.get(&id) else {
        return Err(unknown_experiment(id));
    };
    if !may_steer(context.author, experiment) {
        let message = format!(
            "{id} belongs to {}: they or an admin can {verb} it",
            experiment.author
        );
        return Err(Outcome::refused(RefusalCode::NotAllowed, message));
    }
    if !matches!(experiment.phase, ExperimentPhase::Queued { .. }) {
        let message = format!("{id} is not waiting: nothing to {verb}");
        return Err(Outcome::refused(RefusalCode::NotWaiting, message));
    }
    Ok(experiment.as_ref().clone())
}

/// A working copy of the experiment if `token` is its current attempt's.
fn current(state: &ClusterState, token: &AttemptToken) -> Option<Experiment> {
    let experiment = state.experiments.get(&token.experiment)?;
    let attempt = experiment.current_attempt()?;
    (attempt.token == *token).then(|| experiment.as_ref().clone())
}

fn stale(token: &AttemptToken) -> Outcome {
    Outcome::refused(
        RefusalCode::Stale,
        format!("{token} is not the current attempt of its experiment"),
    )
}

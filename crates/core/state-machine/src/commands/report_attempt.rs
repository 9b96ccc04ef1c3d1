//! What a node says of an attempt that it runs.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use types::{AttemptToken, Cause, CauseKind, NodeId, SegmentRef, Timestamp};

use crate::commands::current;
use crate::event::Event;
use crate::ledger::Action;
use crate::outcome::{Outcome, RefusalCode};
use crate::overuse::{self, VramOveruse};
use crate::records::{Attempt, AttemptEnd, Experiment, ExperimentPhase};
use crate::state::{ClusterState, Context};

/// Most record bytes that travel inside a report instead of as a blob.
const MAX_INLINE_RECORDS: usize = 4 << 10;

/// How it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttemptReport {
    /// The process runs since then.
    Started {
        /// Wall clock of the node; believed between the placement and the time of the log.
        at: Timestamp,
    },
    /// It is over; all its records are named and on their copies.
    Ended {
        /// How.
        end: AttemptEnd,
        /// Sealed records that were not named before.
        segments: Vec<SegmentRef>,
        /// Or the records themselves, when they are few.
        inline_records: Bytes,
    },
    /// It holds more of a GPU's memory than it was given, or keeps to it again.
    VramOveruse(VramOveruse),
}

/// A node reports on a rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportAttempt {
    /// Fencing token.
    pub token: AttemptToken,
    /// Sender, known by its connection.
    pub node: NodeId,
    /// Rank.
    pub rank: u32,
    /// What.
    pub report: AttemptReport,
}

impl ReportAttempt {
    pub(crate) fn apply(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        let Some(mut experiment) = current(state, &self.token) else {
            return self.apply_late(state, context);
        };
        let attempt = experiment
            .attempts
            .last_mut()
            .expect("current() found an attempt");
        let at = match &self.report {
            AttemptReport::Started { at } => attempt.plausible_start(*at, context.now),
            AttemptReport::Ended { end, .. } => attempt.plausible_end(end.at, context.now),
            AttemptReport::VramOveruse(_) => context.now,
        };
        let several = attempt.is_gang();
        let Some(rank) = attempt
            .rank_mut(self.rank)
            .filter(|rank| rank.placement.node == self.node)
        else {
            return self.refuse_sender(state, context);
        };
        if rank.ended {
            return self.keep_rank(state, context);
        }
        match &self.report {
            AttemptReport::Started { .. } => {
                if rank.started_at.is_none() {
                    rank.started_at = Some(at);
                    let mut detail =
                        format!("attempt {} on {}", self.token.attempt, self.node.short());
                    if several {
                        detail.push_str(&format!(", rank {}", self.rank));
                    }
                    state.put(experiment);
                    state.record(
                        context,
                        Action::AttemptStarted,
                        Some(self.token.experiment),
                        detail,
                    );
                    context.events.push(Event::AttemptStarted(self.token));
                }
            }
            AttemptReport::Ended {
                end,
                segments,
                inline_records,
            } => {
                if inline_records.len() > most_inline(attempt) {
                    return too_many_inline(inline_records);
                }
                attempt.add_segments(self.rank, segments);
                attempt.inline_records = inline_records.clone();
                let outputs = end.outputs.as_deref().cloned();
                let outputs = outputs.map(|kept| Box::new(kept.cut()));
                let end = AttemptEnd {
                    at,
                    outputs,
                    ..end.clone()
                };
                state.end_rank(context, experiment, self.rank, end);
            }
            AttemptReport::VramOveruse(overuse) => {
                return overuse::note(state, context, experiment, (self.token, self.rank), overuse);
            }
        }
        Outcome::Done
    }

    fn refuse_sender(&self, state: &mut ClusterState, context: &mut Context<'_>) -> Outcome {
        let message = format!(
            "rank {} of {} is not on {}",
            self.rank, self.token, self.node
        );
        let id = Some(self.token.experiment);
        state.record(context, Action::StaleReport, id, message.clone());
        Outcome::refused(RefusalCode::NotAllowed, message)
    }
}

/// Many ranks with a few bytes each were many bytes in the log: those of a gang are blobs (invariant 6).
pub(super) fn most_inline(attempt: &Attempt) -> usize {
    if attempt.is_gang() {
        0
    } else {
        MAX_INLINE_RECORDS
    }
}

pub(super) fn too_many_inline(inline_records: &Bytes) -> Outcome {
    let message = format!(
        "{} bytes of records belong into a blob",
        inline_records.len()
    );
    Outcome::refused(RefusalCode::Invalid, message)
}

/// The cause, cut to its limits and never without evidence, whatever the sender left out.
pub(crate) fn with_evidence(cause: &Cause, context: &Context<'_>) -> Cause {
    let mut evidence = cause.evidence.clone();
    if evidence.is_empty() && !cause.is_success() {
        evidence.push(format!("{} gave no evidence", context.author));
    }
    cause.clone().with_evidence(evidence)
}

/// Whoever stopped it gets what they asked for, also when the machine was lost before it could say so.
fn as_stop(experiment: &Experiment, cause: Cause) -> Cause {
    match &experiment.stop_requested {
        Some(stop) if cause.is_node_failure() => {
            let mut evidence = vec![format!("its machine did not report the end: {cause}")];
            evidence.extend(cause.evidence);
            let by = stop.by.clone();
            Cause::new(CauseKind::Stopped { by }, evidence)
        }
        _ => cause,
    }
}

impl ClusterState {
    /// Ends the current attempt and decides what becomes of the experiment.
    pub(crate) fn end_attempt(
        &mut self,
        context: &mut Context<'_>,
        mut experiment: Experiment,
        mut end: AttemptEnd,
    ) {
        let id = experiment.id;
        let Some(attempt) = experiment.attempts.last_mut() else {
            return;
        };
        let token = attempt.token;
        end.cause = with_evidence(&end.cause, context);
        if experiment.stop_requested.is_none() {
            end.cause = self.as_move(attempt, experiment.yields.as_ref(), end.cause);
        };
        let cause = end.cause.clone();
        attempt.end = Some(end);
        experiment.yields = None;
        if let Some(attempt) = experiment.attempts.last() {
            self.charge(&experiment, attempt, context.now);
            self.learn(&experiment, attempt);
        }
        self.record(
            context,
            Action::AttemptEnded,
            Some(id),
            format!("attempt {}: {cause}", token.attempt),
        );
        context.events.push(Event::AttemptEnded(token));
        let policy = &experiment.spec.policy;
        let again = !cause.is_success()
            && !cause.is_stop()
            && experiment.stop_requested.is_none()
            && if cause.is_move() {
                true // A person asked for each one.
            } else if cause.is_node_failure() {
                experiment.nodes_lost() <= policy.retries_node_lost
            } else {
                experiment.own_failures() <= policy.retries_failed
            };
        if again {
            experiment.phase = ExperimentPhase::Queued { since: context.now };
            self.put(experiment);
            context.events.push(Event::ExperimentQueued(id));
        } else {
            let cause = as_stop(&experiment, cause);
            self.end(context, experiment, cause);
        }
    }

    /// Ends the experiment.
    pub(crate) fn end(
        &mut self,
        context: &mut Context<'_>,
        mut experiment: Experiment,
        cause: Cause,
    ) {
        let id = experiment.id;
        let detail = cause.to_string();
        experiment.phase = ExperimentPhase::Ended {
            cause,
            at: context.now,
        };
        self.put(experiment);
        self.ended.push_back(id);
        self.record(context, Action::ExperimentEnded, Some(id), detail);
        context.events.push(Event::ExperimentEnded(id));
    }
}

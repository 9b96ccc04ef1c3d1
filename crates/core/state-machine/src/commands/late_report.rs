//! Reports of attempts that are not current: refused, kept as history, and counted only while nothing has come after.

use types::{AttemptToken, Cause, CauseKind};

use crate::commands::report_attempt::{
    AttemptReport, ReportAttempt, most_inline, too_many_inline, with_evidence,
};
use crate::commands::stale;
use crate::ledger::Action;
use crate::outcome::{Outcome, RefusalCode};
use crate::records::{Attempt, AttemptEnd, Experiment, ExperimentPhase};
use crate::state::{ClusterState, Context};

impl ReportAttempt {
    /// A report of an attempt that is not current.
    pub(super) fn apply_late(
        &self,
        state: &mut ClusterState,
        context: &mut Context<'_>,
    ) -> Outcome {
        let id = self.token.experiment;
        let Some(experiment) = state.experiments.get(&id) else {
            return stale(&self.token); // Its record is in an archive, and so is what became of it.
        };
        let attempt = find(experiment, &self.token);
        let Some(attempt) = attempt.filter(|attempt| self.is_of(attempt)) else {
            let who = self.node.short();
            let what = format!("{who} reported on {}, which it never had", self.token);
            state.record(context, Action::StaleReport, Some(id), what);
            return stale(&self.token);
        };
        if attempt.is_gang() {
            return self.keep_rank(state, context);
        }
        let given_up = attempt
            .end
            .as_ref()
            .is_some_and(|end| end.cause.is_node_failure());
        match &self.report {
            AttemptReport::Started { .. } if given_up && !self.is_known_start(attempt) => {
                let what = format!(
                    "attempt {} said that it runs after it was given up",
                    self.token.attempt
                );
                state.record(context, Action::StaleReport, Some(id), what);
                stale(&self.token)
            }
            AttemptReport::Started { .. } | AttemptReport::VramOveruse(_) => stale(&self.token),
            AttemptReport::Ended { .. } if attempt.late.is_some() => stale(&self.token),
            // A repeat of the report that ended it.
            AttemptReport::Ended { .. } if !given_up => Outcome::Done,
            AttemptReport::Ended { inline_records, .. }
                if inline_records.len() > most_inline(attempt) =>
            {
                too_many_inline(inline_records)
            }
            AttemptReport::Ended { end, .. } => {
                let experiment = experiment.as_ref().clone();
                self.keep_late(state, context, experiment, end)
            }
        }
    }

    /// Keeps the records of a rank that was given up. What it came to counts no more: its attempt needed all of them.
    pub(super) fn keep_rank(&self, state: &mut ClusterState, context: &Context<'_>) -> Outcome {
        let id = self.token.experiment;
        let Some(experiment) = state.experiments.get(&id) else {
            return stale(&self.token);
        };
        let mut experiment = experiment.as_ref().clone();
        let mut attempts = experiment.attempts.iter_mut();
        let attempt = attempts.find(|attempt| attempt.token == self.token);
        let Some(attempt) = attempt else {
            return stale(&self.token);
        };
        let end = attempt.rank(self.rank).and_then(|rank| rank.end.as_ref());
        let given_up = end.is_none_or(|end| end.cause.kind == CauseKind::NodeLost);
        let detail = match &self.report {
            AttemptReport::Started { .. } | AttemptReport::VramOveruse(_) => {
                return stale(&self.token);
            }
            AttemptReport::Ended { inline_records, .. }
                if inline_records.len() > most_inline(attempt) =>
            {
                return too_many_inline(inline_records);
            }
            // A repeat of the report that ended it.
            AttemptReport::Ended { .. } if !given_up => return Outcome::Done,
            AttemptReport::Ended { end, segments, .. } => {
                attempt.add_segments(self.rank, segments);
                let (number, rank) = (self.token.attempt, self.rank);
                format!("attempt {number}, rank {rank} ended late: {}", end.cause)
            }
        };
        state.put(experiment);
        state.record(context, Action::StaleReport, Some(id), detail);
        let message = format!(
            "rank {} of {} was given up before; its records are kept",
            self.rank, self.token
        );
        Outcome::refused(RefusalCode::Stale, message)
    }

    fn is_of(&self, attempt: &Attempt) -> bool {
        let mut ranks = attempt.ranks.iter();
        ranks.any(|rank| rank.placement.node == self.node)
    }

    fn is_known_start(&self, attempt: &Attempt) -> bool {
        let rank = usize::try_from(self.rank).unwrap_or(usize::MAX);
        let rank = attempt.ranks.get(rank);
        rank.is_some_and(|rank| rank.started_at.is_some())
    }

    /// Keeps the end of an attempt that was given up. Until a successor is placed it counts (invariant 11): a success
    /// ends the experiment, and so does a failure of its own that it may not try again.
    fn keep_late(
        &self,
        state: &mut ClusterState,
        context: &mut Context<'_>,
        mut experiment: Experiment,
        end: &AttemptEnd,
    ) -> Outcome {
        let AttemptReport::Ended {
            segments,
            inline_records,
            ..
        } = &self.report
        else {
            return stale(&self.token);
        };
        let newest = experiment.attempts.last().map(|attempt| attempt.token);
        let cause = with_evidence(&end.cause, context);
        let outputs = end.outputs.as_deref().cloned();
        let outputs = outputs.map(|kept| Box::new(kept.cut()));
        let attempts = experiment.attempts.iter_mut();
        for attempt in attempts.filter(|attempt| attempt.token == self.token) {
            attempt.late = Some(AttemptEnd {
                cause: cause.clone(),
                at: attempt.plausible_end(end.at, context.now),
                outputs: outputs.clone(),
                ..end.clone()
            });
            attempt.add_segments(self.rank, segments);
            if attempt.inline_records.is_empty() {
                attempt.inline_records = inline_records.clone();
            }
        }
        let id = self.token.experiment;
        let detail = format!("attempt {} ended late: {cause}", self.token.attempt);
        state.record(context, Action::StaleReport, Some(id), detail);
        let waits = matches!(experiment.phase, ExperimentPhase::Queued { .. });
        if waits && newest == Some(self.token) && decides(&experiment, &cause) {
            state.end(context, experiment, cause);
            return Outcome::Done;
        }
        state.put(experiment);
        let message = format!(
            "{} was given up before; its result is kept as late",
            self.token
        );
        Outcome::refused(RefusalCode::Stale, message)
    }
}

fn find<'a>(experiment: &'a Experiment, token: &AttemptToken) -> Option<&'a Attempt> {
    let mut attempts = experiment.attempts.iter();
    attempts.find(|attempt| attempt.token == *token)
}

/// Whether an end after which nothing was placed yet is the end of the experiment.
fn decides(experiment: &Experiment, cause: &Cause) -> bool {
    let tried = experiment.own_failures().saturating_add(1);
    cause.is_success()
        || (!cause.is_node_failure() && tried > experiment.spec.policy.retries_failed)
}

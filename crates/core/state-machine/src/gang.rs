//! Attempts of several ranks, each on a node of its own: placed together, over when all of them are.
//!
//! A rank that ends otherwise than well breaks its attempt: the others are told to stop, and the attempt ends when the
//! last of them surely has. Until then nothing of the experiment is placed anew (invariant 11), while each node is free
//! again as soon as its own rank is over.

use std::cmp::Reverse;

use types::{Cause, CauseKind, DurationMs, Finding, NodeId, Timestamp};

use crate::commands::with_evidence;
use crate::event::Event;
use crate::ledger::Action;
use crate::records::{Attempt, AttemptEnd, Experiment, RankRecord};
use crate::state::{ClusterState, Context};

impl AttemptEnd {
    /// The end of something whose node could say nothing of it any more.
    pub(crate) fn lost(cause: Cause, at: Timestamp) -> Self {
        Self {
            cause,
            at,
            peak_memory_bytes: 0,
            peak_vram_bytes: 0,
            cpu_ms: DurationMs(0),
            tree_kill_method: String::new(),
            outputs: None,
        }
    }
}

impl Attempt {
    /// It has several ranks, which go on together or not at all.
    #[must_use]
    pub fn is_gang(&self) -> bool {
        self.ranks.len() > 1
    }

    /// A rank by its number.
    #[must_use]
    pub fn rank(&self, number: u32) -> Option<&RankRecord> {
        self.ranks.get(usize::try_from(number).ok()?) // 32 bits: no machine has that many
    }

    pub(crate) fn rank_mut(&mut self, number: u32) -> Option<&mut RankRecord> {
        self.ranks.get_mut(usize::try_from(number).ok()?) // as above
    }

    /// Its ranks with their numbers.
    pub fn numbered(&self) -> impl Iterator<Item = (u32, &RankRecord)> {
        (0..).zip(&self.ranks)
    }

    /// Ranks that may still be running, with their numbers.
    pub fn open_ranks(&self) -> impl Iterator<Item = (u32, &RankRecord)> {
        self.numbered().filter(|(_, rank)| !rank.ended)
    }

    /// The number of the rank that a node holds and that is not over.
    #[must_use]
    pub fn rank_on(&self, node: &NodeId) -> Option<u32> {
        let mut open = self.open_ranks();
        open.find(|(_, rank)| rank.placement.node == *node)
            .map(|(number, _)| number)
    }

    /// Keeper of the second copy of a rank's unsealed records: of a gang the node of the next rank, so that no node keeps
    /// its own, nor those of two.
    #[must_use]
    pub fn mirror_of(&self, rank: u32) -> Option<&NodeId> {
        if !self.is_gang() {
            return self.mirror.as_ref();
        }
        let next = (usize::try_from(rank).ok()? + 1) % self.ranks.len(); // 32 bits: no machine has that many
        Some(&self.ranks[next].placement.node)
    }

    /// When the last of its ranks started; none: not all have.
    #[must_use]
    pub fn all_started_at(&self) -> Option<Timestamp> {
        let started = self.ranks.iter().map(|rank| rank.started_at);
        started.max().filter(|_| {
            let mut ranks = self.ranks.iter();
            ranks.all(|rank| rank.started_at.is_some())
        })?
    }

    /// The rank of a gang whose end the others follow, if one ended otherwise than well.
    ///
    /// A process that loses touch with another one fails, and so do those that are ended one after the other: what people,
    /// its rule and the scheduler asked for goes before the end of a machine, and both before what a process made of it; who says
    /// only that it waited for others in vain comes after those. Among equals the first by the clocks of their nodes.
    #[must_use]
    pub fn broken_by(&self) -> Option<(u32, &AttemptEnd)> {
        let ends = self
            .numbered()
            .filter_map(|(number, rank)| Some((number, rank.end.as_ref()?)));
        ends.filter(|(_, end)| !end.cause.is_success())
            .min_by_key(|(number, end)| (Reverse(weight(&end.cause)), end.at, *number))
    }

    /// Nodes that failed under it.
    pub fn failed_nodes(&self) -> impl Iterator<Item = &NodeId> {
        let whole = self.end.as_ref();
        let failed = move |rank: &&RankRecord| {
            let end = rank.end.as_ref().or(whole);
            end.is_some_and(|end| end.cause.is_node_failure())
        };
        self.ranks
            .iter()
            .filter(failed)
            .map(|rank| &rank.placement.node)
    }

    /// Its end, when all ranks of it are over.
    fn end_of_all(&self) -> Option<AttemptEnd> {
        let ends = || self.ranks.iter().filter_map(|rank| rank.end.as_ref());
        let first = match self.broken_by() {
            Some((_, first)) => first,
            None => ends().next()?,
        };
        let cpu_ms = ends().fold(0_u64, |sum, end| sum.saturating_add(end.cpu_ms.0));
        Some(AttemptEnd {
            cause: self.cause_of_all(),
            at: ends().map(|end| end.at).max()?,
            peak_memory_bytes: ends().map(|end| end.peak_memory_bytes).max()?,
            peak_vram_bytes: ends().map(|end| end.peak_vram_bytes).max()?,
            cpu_ms: DurationMs(cpu_ms),
            tree_kill_method: first.tree_kill_method.clone(),
            outputs: None, // Each rank has its own.
        })
    }

    /// The cause of the rank that broke it, with what was seen there and how the others ended.
    fn cause_of_all(&self) -> Cause {
        let Some((first, end)) = self.broken_by() else {
            return Cause {
                findings: self.findings_of_all(0),
                ..Cause::new(CauseKind::Finished, Vec::new())
            }
            .cut();
        };
        let line = |number: u32, end: &AttemptEnd| {
            let on = self
                .rank(number)
                .map_or("", |rank| rank.placement.node.short());
            format!("rank {number} on {on}: {}", end.cause)
        };
        let mut evidence = vec![line(first, end)];
        evidence.extend(end.cause.evidence.iter().cloned());
        let others = self.numbered().filter(|(number, _)| *number != first);
        let others = others.filter_map(|(number, rank)| Some((number, rank.end.as_ref()?)));
        evidence.extend(others.map(|(number, end)| line(number, end)));
        let findings = self.findings_of_all(first);
        Cause {
            evidence,
            findings,
            ..end.cause.clone()
        }
        .cut()
    }

    /// What was seen of its ranks besides, of this one first.
    fn findings_of_all(&self, first: u32) -> Vec<Finding> {
        let mut ends: Vec<(u32, &AttemptEnd)> = self
            .numbered()
            .filter_map(|(number, rank)| Some((number, rank.end.as_ref()?)))
            .collect();
        ends.sort_by_key(|(number, _)| (*number != first, *number));
        let found = |(number, end): (u32, &AttemptEnd)| {
            let findings = end.cause.findings.iter();
            let named = findings.map(|finding| Finding {
                evidence: format!("rank {number}: {}", finding.evidence),
                ..finding.clone()
            });
            named.collect::<Vec<_>>()
        };
        ends.into_iter().flat_map(found).collect()
    }
}

/// How far a cause explains those of other ranks of the same attempt.
fn weight(cause: &Cause) -> u8 {
    if cause.is_stop() {
        5
    } else if cause.is_move() {
        4
    } else if cause.is_node_failure() {
        3
    } else if matches!(cause.kind, CauseKind::RankEnded { .. }) {
        0
    } else if cause.kind == CauseKind::NcclTimeout {
        1
    } else {
        2
    }
}

impl ClusterState {
    /// Ends a rank of the current attempt, and the attempt with the last of them.
    pub(crate) fn end_rank(
        &mut self,
        context: &mut Context<'_>,
        mut experiment: Experiment,
        number: u32,
        end: AttemptEnd,
    ) {
        let Some(attempt) = experiment.attempts.last() else {
            return;
        };
        let cause = with_evidence(&end.cause, context);
        let cause = self.as_rank_end(&experiment, attempt, cause);
        let (token, is_gang) = (attempt.token, attempt.is_gang());
        let attempt = experiment.attempts.last_mut();
        let Some(rank) = attempt.and_then(|attempt| attempt.rank_mut(number)) else {
            return;
        };
        rank.ended = true;
        if !is_gang {
            return self.end_attempt(context, experiment, end);
        }
        let on = rank.placement.node.short();
        let detail = format!("attempt {}, rank {number} on {on}: {cause}", token.attempt);
        rank.end = Some(AttemptEnd { cause, ..end });
        let id = Some(token.experiment);
        self.record(context, Action::RankEnded, id, detail);
        context.events.push(Event::RankEnded(token));
        let attempt = experiment.attempts.last();
        let all = attempt.filter(|attempt| attempt.open_ranks().next().is_none());
        match all.and_then(Attempt::end_of_all) {
            Some(end) => self.end_attempt(context, experiment, end),
            None => self.put(experiment),
        }
    }

    /// What the end of a rank of a gang is when nobody asked for it: a move, or the end of another rank.
    fn as_rank_end(&self, experiment: &Experiment, attempt: &Attempt, cause: Cause) -> Cause {
        if !attempt.is_gang() || experiment.stop_requested.is_some() {
            return cause;
        }
        let cause = self.as_move(attempt, experiment.yields.as_ref(), cause);
        match attempt.broken_by() {
            Some((rank, _)) if matches!(cause.kind, CauseKind::Stopped { .. }) => {
                let kind = CauseKind::RankEnded { rank };
                Cause { kind, ..cause }
            }
            _ => cause,
        }
    }

    /// Who or what wants the current attempt of an experiment to end, in words.
    pub(crate) fn stop_of(&self, experiment: &Experiment, attempt: &Attempt) -> Option<String> {
        if let Some(stop) = &experiment.stop_requested {
            return Some(stop.by.clone());
        }
        if let Some(other) = &experiment.yields {
            return Some(format!("the scheduler, to make room for {}", other.to));
        }
        let mut nodes = attempt.ranks.iter().map(|rank| &rank.placement.node);
        if let Some(by) = nodes.find_map(|node| self.evacuated_by(node)) {
            return Some(by.to_owned());
        }
        let (rank, end) = attempt.broken_by()?;
        Some(format!("muster, since rank {rank} ended ({})", end.cause))
    }
}

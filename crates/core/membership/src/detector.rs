//! Finds out soon who is gone, and suspects nobody for being slow: SWIM with the local health awareness of Lifeguard.
//!
//! A member that was silent for a while is asked; if it does not answer, others are asked to ask it; if they do not reach
//! it either, it is in doubt, is told so with each further question, and has some time to clear itself; only then is it
//! suspect. The more others have missed it, the shorter that time. A node that is slow itself (its questions go
//! unanswered, its helpers say nothing, it is in doubt with others, it wakes late) takes all these times longer: its own
//! slowness looks like that of others. Das, Gupta, Motivala, "SWIM", DSN 2002; Dadgar, Phillips, Currey, "Lifeguard",
//! DSN-W 2018.

use std::collections::{BTreeMap, BTreeSet};

use types::{DurationMs, NodeId, Timestamp};

use crate::timing::Timing;

/// Members that are asked to ask for this node: of three at least one answers, unless much more is wrong. SWIM's `k`.
pub const HELPERS: usize = 3;
/// Most that a node mistrusts itself: times up to nine times as long. Lifeguard's `S`.
const WORST_HEALTH: u64 = 8;
/// Questions that one node sends: at most one in so many ms, however many members there are.
const QUESTION_SPACING_MS: u64 = 10;

/// What the detector is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Time has come to look; it should have come so much earlier.
    Look {
        /// How late it is: a node that wakes late is slow itself.
        late: DurationMs,
    },
    /// A sign of life of a member: a report, a request, an answer, also one that comes late.
    Heard(NodeId),
    /// A question failed before its time was over: no connection.
    Failed(NodeId),
    /// A helper reached the member, or said that it did not.
    Helper {
        /// Who was asked for.
        node: NodeId,
        /// Who asked.
        helper: NodeId,
        /// What it found; none: it said nothing itself.
        reached: Option<bool>,
    },
    /// Another node is in doubt about this one.
    InDoubt,
}

/// What the detector asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the member; its answer is [`Input::Heard`], an error [`Input::Failed`].
    Ask {
        /// Whom.
        node: NodeId,
        /// Wait for so long.
        within: DurationMs,
        /// Tell it that it is in doubt, so that it speaks up.
        in_doubt: bool,
    },
    /// Let others ask it; each one's word is [`Input::Helper`].
    AskThrough {
        /// Whom.
        node: NodeId,
        /// These.
        helpers: Vec<NodeId>,
        /// Wait for so long.
        within: DurationMs,
    },
    /// It is suspect from now on, until its next sign of life.
    Suspect(NodeId),
}

/// Where one member stands.
#[derive(Clone, Debug)]
struct Watched {
    heard_at: Timestamp,
    stage: Stage,
}

#[derive(Clone, Debug)]
enum Stage {
    /// All is well, as far as is known.
    Quiet,
    /// It was asked.
    Asked { until: Timestamp },
    /// Others ask it.
    AskedThrough {
        until: Timestamp,
        asked: BTreeSet<NodeId>,
        answered: BTreeSet<NodeId>,
        missed_by: usize,
    },
    /// It may clear itself until then.
    Doubted { until: Timestamp, ask_at: Timestamp },
    /// Said; asked again now and then, so that it is found when it is back.
    Suspect { ask_at: Timestamp },
}

/// Watches all members for one node. Soft state: a new one knows nothing and suspects nobody.
#[derive(Clone, Debug)]
pub struct Detector {
    timing: Timing,
    members: BTreeMap<NodeId, Watched>,
    /// Local health: 0 is well.
    unwell: u64,
    /// Where the search for helpers begins: another one each time.
    turn: usize,
    /// Leads: asks earlier.
    leads: bool,
}

impl Detector {
    /// One that knows nobody yet.
    #[must_use]
    pub fn new(timing: Timing) -> Self {
        Self {
            timing,
            members: BTreeMap::new(),
            unwell: 0,
            turn: 0,
            leads: false,
        }
    }

    /// Takes over the times of the cluster.
    pub fn keep_time(&mut self, timing: Timing) {
        self.timing = timing;
    }

    /// Watches exactly these, as a leader or not; who is new counts as heard of now.
    pub fn watch(
        &mut self,
        members: impl IntoIterator<Item = NodeId>,
        leads: bool,
        now: Timestamp,
    ) {
        let wanted: BTreeSet<_> = members.into_iter().collect();
        self.members.retain(|node, _| wanted.contains(node));
        for node in wanted {
            self.members.entry(node).or_insert(Watched {
                heard_at: now,
                stage: Stage::Quiet,
            });
        }
        self.leads = leads;
    }

    /// How unwell this node is itself: 0 is well, all times are this plus one times as long.
    #[must_use]
    pub fn unwell(&self) -> u64 {
        self.unwell
    }

    /// Takes `input` in at `now` and says what to do.
    pub fn step(&mut self, now: Timestamp, input: Input) -> Vec<Action> {
        match input {
            Input::Look { late } => return self.look(now, late),
            Input::Heard(node) => self.hear(&node, now),
            Input::Failed(node) => {
                let watched = self.members.get_mut(&node);
                if let Some(Stage::Asked { until }) = watched.map(|watched| &mut watched.stage) {
                    *until = now;
                }
            }
            Input::Helper {
                node,
                helper,
                reached,
            } => self.take_help(&node, helper, reached, now),
            Input::InDoubt => self.worsen(),
        }
        Vec::new()
    }

    fn hear(&mut self, node: &NodeId, now: Timestamp) {
        let Some(watched) = self.members.get_mut(node) else {
            return;
        };
        watched.heard_at = watched.heard_at.max(now);
        let was_asked = !matches!(watched.stage, Stage::Quiet);
        watched.stage = Stage::Quiet;
        if was_asked {
            self.unwell = self.unwell.saturating_sub(1);
        }
    }

    fn take_help(&mut self, node: &NodeId, helper: NodeId, reached: Option<bool>, now: Timestamp) {
        if reached == Some(true) {
            return self.hear(node, now);
        }
        let watched = self.members.get_mut(node);
        let Some(Stage::AskedThrough {
            until,
            asked,
            answered,
            missed_by,
        }) = watched.map(|watched| &mut watched.stage)
        else {
            return;
        };
        if !asked.contains(&helper) || !answered.insert(helper) {
            return;
        }
        *missed_by += usize::from(reached == Some(false));
        if answered.len() == asked.len() {
            *until = now;
        }
    }

    fn look(&mut self, now: Timestamp, late: DurationMs) -> Vec<Action> {
        if late > self.times(self.timing.probe_within) {
            self.worsen();
        }
        let spacing = DurationMs(QUESTION_SPACING_MS.saturating_mul(self.members.len() as u64));
        let patience = if self.leads {
            self.timing.probe_after
        } else {
            self.timing.probe_after_as_follower
        };
        let patience = patience.max(spacing);
        let mut actions = Vec::new();
        let nodes: Vec<_> = self.members.keys().cloned().collect();
        for node in nodes {
            let Some(mut watched) = self.members.remove(&node) else {
                continue;
            };
            // What was answered while this node slept is read only now.
            watched.stage.put_off(late);
            let (stage, action) = self.advance(&node, &watched, patience, now);
            watched.stage = stage;
            self.members.insert(node, watched);
            actions.extend(action);
        }
        actions
    }

    fn advance(
        &mut self,
        node: &NodeId,
        watched: &Watched,
        patience: DurationMs,
        now: Timestamp,
    ) -> (Stage, Option<Action>) {
        let within = self.times(self.timing.probe_within);
        let ask = |in_doubt| Action::Ask {
            node: node.clone(),
            within,
            in_doubt,
        };
        match watched.stage.clone() {
            Stage::Quiet if now.since(watched.heard_at) >= patience => {
                let until = now + within;
                (Stage::Asked { until }, Some(ask(false)))
            }
            Stage::Asked { until } if until <= now => self.ask_through(node, now),
            Stage::AskedThrough {
                until,
                asked,
                answered,
                missed_by,
            } if until <= now => {
                // A helper that does not even say that it reached nobody: perhaps nothing comes through to this node.
                if answered.len() < asked.len() {
                    self.worsen();
                }
                let until = now + self.doubt(missed_by, asked.len());
                let ask_at = now + within;
                (Stage::Doubted { until, ask_at }, Some(ask(true)))
            }
            Stage::Doubted { until, .. } if until <= now => {
                let ask_at = now + within;
                (
                    Stage::Suspect { ask_at },
                    Some(Action::Suspect(node.clone())),
                )
            }
            Stage::Doubted { until, ask_at } if ask_at <= now => {
                let ask_at = now + within;
                (Stage::Doubted { until, ask_at }, Some(ask(true)))
            }
            Stage::Suspect { ask_at } if ask_at <= now => {
                let ask_at = now + self.times(self.timing.probe_after);
                (Stage::Suspect { ask_at }, Some(ask(true)))
            }
            waiting => (waiting, None),
        }
    }

    fn ask_through(&mut self, node: &NodeId, now: Timestamp) -> (Stage, Option<Action>) {
        let helpers = self.helpers();
        let until = if helpers.is_empty() {
            now
        } else {
            now + self.times(self.timing.indirect_within)
        };
        let within = self.times(self.timing.indirect_within);
        let action = (!helpers.is_empty()).then(|| Action::AskThrough {
            node: node.clone(),
            helpers: helpers.clone(),
            within,
        });
        let stage = Stage::AskedThrough {
            until,
            asked: helpers.into_iter().collect(),
            answered: BTreeSet::new(),
            missed_by: 0,
        };
        (stage, action)
    }

    /// Members that are well, others each time.
    fn helpers(&mut self) -> Vec<NodeId> {
        let well = self
            .members
            .iter()
            .filter(|(_, watched)| matches!(watched.stage, Stage::Quiet));
        let well: Vec<_> = well.map(|(node, _)| node.clone()).collect();
        self.turn = self.turn.wrapping_add(1);
        let turn = self.turn.checked_rem(well.len()).unwrap_or_default();
        let from = well.iter().cycle().skip(turn);
        from.take(well.len().min(HELPERS)).cloned().collect()
    }

    /// From the longest time, when nobody else missed it, to the shortest, when all who were asked did.
    fn doubt(&self, missed_by: usize, asked: usize) -> DurationMs {
        let (longest, shortest) = (self.timing.doubt_longest, self.timing.doubt_shortest);
        let span = longest.0.saturating_sub(shortest.0);
        let off = (span * missed_by as u64)
            .checked_div(asked as u64)
            .unwrap_or(0);
        self.times(DurationMs(longest.0 - off.min(span)))
    }

    fn times(&self, span: DurationMs) -> DurationMs {
        DurationMs(span.0.saturating_mul(self.unwell + 1))
    }

    fn worsen(&mut self) {
        self.unwell = (self.unwell + 1).min(WORST_HEALTH);
    }
}

impl Stage {
    fn put_off(&mut self, late: DurationMs) {
        match self {
            Self::Quiet | Self::Suspect { .. } => {}
            Self::Asked { until }
            | Self::AskedThrough { until, .. }
            | Self::Doubted { until, .. } => *until = *until + late,
        }
    }
}

//! What the nodes said last, and when it came.

use std::collections::BTreeMap;
use std::fmt;

use types::{DurationMs, NodeId, NodeReport, Timestamp};

/// Longest time between two reports of a node that has nothing new to say.
pub const MAX_REPORT_INTERVAL: DurationMs = DurationMs::from_secs(5);
/// Silence after which a node is suspect whatever else is known: three reports in a row did not come. Where a
/// [`crate::Detector`] runs it is found out much earlier.
pub const SUSPECT_AFTER: DurationMs = DurationMs::from_secs(15);

/// Room that must come free on a GPU or disk before the scheduler is woken for it: less is noise of
/// allocators and logs, and no experiment asks for so little.
const NOTABLE_BYTES: u64 = 256 << 20;

/// What the silence of a node means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// It gave a sign of life within [`SUSPECT_AFTER`], and is not suspected.
    Live,
    /// It has been silent for longer, or did not answer when it was asked; it may run its attempts all the same.
    Suspect,
    /// It never reported here.
    Unknown,
}

/// Why a node is suspect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Suspicion {
    /// Nothing has come from it for [`SUSPECT_AFTER`].
    Silent,
    /// It did not answer when it was asked, nor did it through others.
    NoAnswer,
    /// It did not renew the lease of what it runs.
    LeaseOver,
    /// It led, was silent for an election, and did not answer its successor.
    LostLead,
}

impl fmt::Display for Suspicion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => write!(f, "nothing has come from it for {SUSPECT_AFTER}"),
            Self::NoAnswer => {
                f.write_str("it does not answer, neither directly nor through others")
            }
            Self::LeaseOver => f.write_str("it did not renew the lease of what it ran"),
            Self::LostLead => f.write_str("it lost the lead and did not answer the next leader"),
        }
    }
}

/// A report and when it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The newest report.
    pub report: NodeReport,
    /// When it came, on the clock of the node that keeps this view.
    pub received_at: Timestamp,
    /// The last sign of life: a report, an answer, a request.
    heard_at: Timestamp,
    /// Signs of life have come without a break since then.
    there_since: Timestamp,
    /// Why it is suspected in spite of its last sign of life; the next one clears it.
    suspected: Option<Suspicion>,
    /// The report of which a scheduler was told last.
    told: NodeReport,
}

impl Observed {
    fn is_suspect(&self, now: Timestamp) -> bool {
        self.suspected.is_some() || now.since(self.heard_at) >= SUSPECT_AFTER
    }

    fn hear(&mut self, at: Timestamp) {
        if self.is_suspect(at) {
            self.there_since = at;
        }
        self.suspected = None;
        self.heard_at = self.heard_at.max(at);
    }
}

/// The newest report of each node.
#[derive(Clone, Debug, Default)]
pub struct View {
    nodes: BTreeMap<NodeId, Observed>,
}

impl View {
    /// Takes a report in; an older one than the known is dropped. Returns whether a scheduler could now decide
    /// otherwise: a node came (back), restarted, gives other resources, refuses or accepts work again, or has notably
    /// more room.
    pub fn observe(&mut self, report: NodeReport, received_at: Timestamp) -> bool {
        let Some(known) = self.nodes.get_mut(&report.node) else {
            let told = report.clone();
            let node = report.node.clone();
            self.nodes.insert(
                node,
                Observed {
                    report,
                    received_at,
                    heard_at: received_at,
                    there_since: received_at,
                    suspected: None,
                    told,
                },
            );
            return true;
        };
        let was_silent = received_at.since(known.received_at) >= SUSPECT_AFTER;
        let was_suspect = known.is_suspect(received_at);
        let order = |report: &NodeReport| (report.node_started_at, report.sequence);
        // After a long silence a lower start is a machine whose wall clock was set back, not an old message.
        if order(&report) <= order(&known.report) && !was_silent {
            return false;
        }
        known.received_at = received_at;
        known.hear(received_at);
        let changed = was_silent || was_suspect || matters(&known.told, &report);
        if changed {
            known.told = report.clone();
        }
        known.report = report;
        changed
    }

    /// Takes in another sign of life than a report. Returns whether the node was suspect: a scheduler may count on it
    /// again.
    pub fn hear(&mut self, node: &NodeId, at: Timestamp) -> bool {
        let Some(known) = self.nodes.get_mut(node) else {
            return false; // What it has to give is not known yet.
        };
        let was_suspect = known.is_suspect(at);
        known.hear(at);
        was_suspect
    }

    /// Suspects a node until its next sign of life. Returns whether it was live until now.
    pub fn suspect(&mut self, node: &NodeId, at: Timestamp, why: Suspicion) -> bool {
        let Some(known) = self.nodes.get_mut(node) else {
            return false;
        };
        let was_live = !known.is_suspect(at);
        known.suspected = Some(why);
        was_live
    }

    /// Why the node is suspect at `now`; none: it is not, or it is not known.
    #[must_use]
    pub fn suspicion(&self, node: &NodeId, now: Timestamp) -> Option<Suspicion> {
        let known = self.nodes.get(node)?;
        let silent = known.is_suspect(now).then_some(Suspicion::Silent);
        known.suspected.or(silent)
    }

    /// The last sign of life of a node.
    #[must_use]
    pub fn heard_at(&self, node: &NodeId) -> Option<Timestamp> {
        self.nodes.get(node).map(|known| known.heard_at)
    }

    /// Since when a node has given signs of life without a break.
    #[must_use]
    pub fn there_since(&self, node: &NodeId) -> Option<Timestamp> {
        self.nodes.get(node).map(|known| known.there_since)
    }

    /// Drops what is known of a node that left the cluster.
    pub fn forget(&mut self, node: &NodeId) {
        self.nodes.remove(node);
    }

    /// The newest report of a node.
    #[must_use]
    pub fn get(&self, node: &NodeId) -> Option<&Observed> {
        self.nodes.get(node)
    }

    /// All nodes that ever reported, by id.
    pub fn iter(&self) -> impl Iterator<Item = (&NodeId, &Observed)> {
        self.nodes.iter()
    }

    /// Whether the node can be counted on at `now`.
    #[must_use]
    pub fn health(&self, node: &NodeId, now: Timestamp) -> Health {
        match self.nodes.get(node) {
            None => Health::Unknown,
            Some(known) if known.is_suspect(now) => Health::Suspect,
            Some(_) => Health::Live,
        }
    }

    /// When the next live node turns suspect if it stays silent: a time to wake at.
    #[must_use]
    pub fn next_suspicion(&self, now: Timestamp) -> Option<Timestamp> {
        let ends = self
            .nodes
            .values()
            .map(|known| known.heard_at + SUSPECT_AFTER);
        ends.filter(|end| *end > now).min()
    }
}

fn matters(told: &NodeReport, new: &NodeReport) -> bool {
    let more = |before: u64, after: u64| after >= before.saturating_add(NOTABLE_BYTES);
    told.node_started_at != new.node_started_at
        || told.boot_id != new.boot_id
        || told.cpu_milli != new.cpu_milli
        || told.memory_bytes != new.memory_bytes
        || told.refuses_work != new.refuses_work
        || more(told.disk_free_bytes, new.disk_free_bytes)
        || told.gpus.len() != new.gpus.len()
        || told.gpus.iter().zip(&new.gpus).any(|(told, new)| {
            told.uuid != new.uuid
                || told.vram_total_bytes != new.vram_total_bytes
                || more(new.vram_used_bytes, told.vram_used_bytes)
                || more(new.vram_foreign_bytes, told.vram_foreign_bytes)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::GpuReport;

    fn report(started: u64, sequence: u64) -> NodeReport {
        NodeReport {
            node: "nodea".parse().unwrap(),
            node_started_at: Timestamp(started),
            sequence,
            taken_at: Timestamp(0),
            boot_id: 1,
            cpu_milli: 4_000,
            cpu_busy_milli: 0,
            memory_bytes: 8 << 30,
            memory_used_bytes: 0,
            disk_free_bytes: 100 << 30,
            gpus: vec![GpuReport {
                uuid: "gpu".to_owned(),
                model: "H100".to_owned(),
                vram_total_bytes: 80 << 30,
                vram_used_bytes: 10 << 30,
                vram_foreign_bytes: 0,
                utilisation_percent: 0,
                links: 0,
                numa_node: None,
            }],
            declared: Vec::new(),
            warnings: Vec::new(),
            refuses_work: false,
        }
    }

    #[test]
    fn an_older_report_never_replaces_a_newer_one() {
        let mut view = View::default();
        assert!(view.observe(report(5, 9), Timestamp(0)));
        assert!(!view.observe(report(5, 8), Timestamp(1)));
        assert!(!view.observe(report(4, 99), Timestamp(1)));
        let node = "nodea".parse().unwrap();
        assert_eq!(view.get(&node).unwrap().report.sequence, 9);
        assert_eq!(view.get(&node).unwrap().received_at, Timestamp(0));
    }

    #[test]
    fn a_clock_set_back_does_not_silence_a_node_for_ever() {
        let mut view = View::default();
        view.observe(report(500, 9), Timestamp(0));
        assert!(view.observe(report(5, 1), Timestamp(SUSPECT_AFTER.0)));
    }

    #[test]
    fn silence_makes_suspect_and_a_report_makes_live() {
        let mut view = View::default();
        let node = "nodea".parse().unwrap();
        assert_eq!(view.health(&node, Timestamp(0)), Health::Unknown);
        view.observe(report(1, 1), Timestamp(1_000));
        assert_eq!(view.health(&node, Timestamp(15_999)), Health::Live);
        assert_eq!(
            view.next_suspicion(Timestamp(1_000)),
            Some(Timestamp(16_000))
        );
        assert_eq!(view.health(&node, Timestamp(16_000)), Health::Suspect);
        assert!(view.observe(report(1, 2), Timestamp(16_000)));
        assert_eq!(view.health(&node, Timestamp(16_001)), Health::Live);
    }

    #[test]
    fn only_what_a_scheduler_cares_for_counts_as_change() {
        let mut view = View::default();
        view.observe(report(1, 1), Timestamp(0));
        let mut same = report(1, 2);
        same.cpu_busy_milli = 3_000;
        assert!(!view.observe(same, Timestamp(1)));
        let mut refusing = report(1, 3);
        refusing.refuses_work = true;
        assert!(view.observe(refusing, Timestamp(2)));
    }

    #[test]
    fn room_that_comes_free_bit_by_bit_is_noticed() {
        let mut view = View::default();
        view.observe(report(1, 1), Timestamp(0));
        let mut told = 0;
        for step in 1..=8_u64 {
            let mut next = report(1, 1 + step);
            next.gpus[0].vram_used_bytes -= step * (64 << 20);
            told += u32::from(view.observe(next, Timestamp(step)));
        }
        assert_eq!(told, 2);
    }
}

//! How many points of metrics are kept of an attempt, and of how many names: all that a training reports, not all that a
//! loop reports by mistake.

use std::collections::BTreeSet;

use types::RecordBody;

/// Kept at once, whatever the rate: hours of a training that reports each step of ten metrics. 60 bytes each.
const BURST_POINTS: u64 = 4_000_000;
/// Kept on average beyond that.
const POINTS_PER_SECOND: u64 = 2_000;
/// Different names: a metric for each layer of a large model, and no name for each sample.
const MAX_NAMES: usize = 2_000;

/// What an attempt may still report.
#[derive(Debug)]
pub(super) struct PointQuota {
    names: BTreeSet<String>,
    available: u64,
    filled_ms: u64,
    /// Dropped since it was told last.
    dropped: u64,
    /// Whether it was told that there are too many names.
    has_told_names: bool,
}

/// Whether a point is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is; before it this is to be said, if anything.
    Keep(Option<String>),
    /// It is not; this is to be said, if anything.
    Drop(Option<String>),
}

impl PointQuota {
    pub(super) fn new(now_ms: u64) -> Self {
        Self {
            names: BTreeSet::new(),
            available: BURST_POINTS,
            filled_ms: now_ms,
            dropped: 0,
            has_told_names: false,
        }
    }

    /// Judges a record; what is no point is kept.
    pub(super) fn judge(&mut self, record: &RecordBody, now_ms: u64) -> Verdict {
        let RecordBody::Scalar { name, .. } = record else {
            return Verdict::Keep(None);
        };
        if !self.names.contains(name) {
            if self.names.len() >= MAX_NAMES {
                let first = !std::mem::replace(&mut self.has_told_names, true);
                let said = format!(
                    "metrics of more than {MAX_NAMES} names: those of new names, as {name}, are dropped"
                );
                return Verdict::Drop(first.then_some(said));
            }
            self.names.insert(name.clone());
        }
        self.fill(now_ms);
        if self.available == 0 {
            self.dropped += 1;
            let said = "points of metrics come too fast: some are dropped from here on".to_owned();
            return Verdict::Drop((self.dropped == 1).then_some(said));
        }
        self.available -= 1;
        let dropped = match self.available {
            0 => 0, // Told when there is room for more than this one.
            _ => std::mem::take(&mut self.dropped),
        };
        Verdict::Keep((dropped > 0).then(|| format!("{dropped} points of metrics were dropped")))
    }

    fn fill(&mut self, now_ms: u64) {
        let elapsed_ms = now_ms.saturating_sub(self.filled_ms);
        let new = elapsed_ms.saturating_mul(POINTS_PER_SECOND) / 1_000;
        // Once it was empty: in lots, so that a flood has a few lines about it a second and not one for each point.
        let least = if self.dropped > 0 {
            POINTS_PER_SECOND
        } else {
            1
        };
        if new >= least {
            self.available = self.available.saturating_add(new).min(BURST_POINTS);
            self.filled_ms = now_ms;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(name: &str) -> RecordBody {
        RecordBody::Scalar {
            name: name.to_owned(),
            step: 0,
            value_bits: 0,
        }
    }

    #[test]
    fn what_trainings_report_is_all_kept() {
        let mut quota = PointQuota::new(0);
        let loss = point("loss");
        for number in 0..6_000_000_u64 {
            assert_eq!(quota.judge(&loss, number / 2), Verdict::Keep(None));
        }
    }

    #[test]
    fn a_flood_of_points_is_cut_and_says_how_many_were_dropped() {
        let mut quota = PointQuota::new(0);
        let loss = point("loss");
        let (mut kept, mut said) = (0_u64, Vec::new());
        // 100 s of 100,000 points a second.
        for number in 0..10_000_000_u64 {
            match quota.judge(&loss, number / 100) {
                Verdict::Keep(line) => {
                    kept += 1;
                    said.extend(line);
                }
                Verdict::Drop(line) => said.extend(line),
            }
        }
        let most = BURST_POINTS + 100 * POINTS_PER_SECOND;
        assert!(kept <= most && kept > BURST_POINTS, "{kept}");
        assert!(
            (2..=200).contains(&said.len()),
            "{}: {:?}",
            said.len(),
            said.first()
        );
        assert!(said[0].contains("come too fast"), "{}", said[0]);
        assert!(
            said.iter().any(|line| line.contains("were dropped")),
            "{said:?}"
        );
    }

    #[test]
    fn names_without_end_are_cut_off_and_known_ones_go_on() {
        let mut quota = PointQuota::new(0);
        let (mut kept, mut said) = (0, 0);
        for number in 0..100_000 {
            match quota.judge(&point(&format!("m{number}")), 0) {
                Verdict::Keep(_) => kept += 1,
                Verdict::Drop(line) => said += usize::from(line.is_some()),
            }
        }
        assert_eq!((kept, said), (MAX_NAMES, 1));
        assert_eq!(quota.judge(&point("m7"), 0), Verdict::Keep(None));
    }
}

//! The XID events of a card: what the driver reported of it, and whether it may still be used.

use diagnosis::xid_meaning;

/// Events that are kept of each card.
const KEPT: usize = 16;

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heard {
    /// NVIDIA's number.
    pub(super) xid: u64,
    /// Wall clock, milliseconds since 1970.
    pub(super) at: u64,
}

/// Numbers and times of events, as a card tells them.
pub(super) fn apart(events: &[Heard]) -> (Vec<u64>, Vec<u64>) {
    events.iter().map(|event| (event.xid, event.at)).unzip()
}

/// The events of one card.
#[derive(Debug, Default)]
pub(super) struct XidLog {
    /// Oldest first.
    last: Vec<Heard>,
    /// The last one that broke it, however long ago.
    broken: Option<u64>,
    /// The driver was closed while the card did not answer.
    is_lost: bool,
}

impl XidLog {
    pub(super) fn add(&mut self, xid: u64, at: u64) {
        if self.last.len() == KEPT {
            self.last.remove(0);
        }
        self.last.push(Heard { xid, at });
        if meaning(xid).is_some() {
            self.broken = Some(xid);
        }
    }

    /// The card did not answer when the driver was closed.
    pub(super) fn lose(&mut self) {
        self.is_lost = true;
    }

    /// The card answers a driver that was opened anew. If it was lost before, it was reset since.
    pub(super) fn find(&mut self) {
        if self.is_lost {
            *self = Self::default();
        }
    }

    /// The last events, oldest first.
    pub(super) fn last(&self) -> &[Heard] {
        &self.last
    }

    /// Why the card must not be used, and what to do.
    pub(super) fn problem(&self) -> Option<String> {
        self.broken.and_then(meaning)
    }
}

/// None of an event after which the card goes on.
fn meaning(xid: u64) -> Option<String> {
    let known = xid_meaning(u32::try_from(xid).ok()?)?; // the catalogue ends far below
    let words = || format!("XID {xid}: {}; {}", known.meaning, known.remedy);
    known.is_broken.then(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn application_errors_do_not_break_a_card() {
        let mut log = XidLog::default();
        for xid in [13, 31, 43, 45, 63, 69, 92, 94] {
            log.add(xid, 7);
        }
        assert_eq!(log.problem(), None);
        let (xids, at) = apart(log.last());
        assert_eq!(xids, [13, 31, 43, 45, 63, 69, 92, 94]);
        assert_eq!(at, [7; 8]);
    }

    #[test]
    fn broken_card_stays_broken_however_many_events_follow() {
        let mut log = XidLog::default();
        log.add(79, 0);
        for xid in 0..30 {
            log.add(200 + xid, xid);
        }
        assert_eq!(log.last().len(), KEPT);
        assert_eq!(log.last().last(), Some(&Heard { xid: 229, at: 29 }));
        let problem = log.problem().unwrap();
        assert!(
            problem.starts_with("XID 79: the GPU has fallen off the bus; restart the machine"),
            "{problem}"
        );
    }
}

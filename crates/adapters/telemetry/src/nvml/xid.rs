//! What XID numbers mean: "Analyzing Xid Errors with the Xid Catalog", NVIDIA, r575
//! (<https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html>).

/// Events that are kept of each card.
const KEPT: usize = 16;

/// What helps.
#[derive(Clone, Copy, Debug)]
enum Remedy {
    Reset,
    Restart,
    Cables,
}

impl Remedy {
    fn words(self) -> &'static str {
        match self {
            Self::Reset => {
                "reset it (`nvidia-smi --gpu-reset`, with this node stopped) or restart the machine"
            }
            Self::Restart => "restart the machine, and have the card looked at if it happens again",
            Self::Cables => "stop the machine and look at its power cables",
        }
    }
}

/// Events after which a card must not be used until something is done: those whose immediate action in the catalogue
/// is `RESET_GPU`, `RESTART_BM` or `CHECK_MECHANICALS`, and those with a workflow that ends in a reset (48, 74, 144 to
/// 150). All others are the application's fault (13, 31, 43, 45, 69 …), contained (63, 94) or a hint (92).
const BROKEN: [(u64, &str, Remedy); 21] = [
    (
        48,
        "its memory has an error that cannot be corrected",
        Remedy::Reset,
    ),
    (54, "its power cable is not connected", Remedy::Cables),
    (62, "its micro-controller has halted", Remedy::Reset),
    (
        64,
        "a bad part of its memory could not be set aside",
        Remedy::Reset,
    ),
    (74, "its NVLink has failed", Remedy::Reset),
    (79, "the GPU has fallen off the bus", Remedy::Restart),
    (
        95,
        "an error of its memory may have reached every process on it",
        Remedy::Reset,
    ),
    (109, "it hung between two processes", Remedy::Reset),
    (110, "its security processor has failed", Remedy::Reset),
    (119, "its system processor does not answer", Remedy::Reset),
    (120, "its system processor has failed", Remedy::Reset),
    (136, "its NVLink could not be set up", Remedy::Reset),
    (
        140,
        "its memory has an error that was not recovered from",
        Remedy::Reset,
    ),
    (143, "it could not be initialised", Remedy::Reset),
    (144, "its NVLink has failed", Remedy::Reset),
    (145, "its NVLink has failed", Remedy::Reset),
    (146, "its NVLink has failed", Remedy::Reset),
    (147, "its NVLink has failed", Remedy::Reset),
    (148, "its NVLink has failed", Remedy::Reset),
    (149, "its NVLink has failed", Remedy::Reset),
    (150, "its NVLink has failed", Remedy::Reset),
];

/// The events of one card.
#[derive(Debug, Default)]
pub(super) struct XidLog {
    /// Oldest first.
    last: Vec<u64>,
    /// The last one that broke it, however long ago.
    broken: Option<u64>,
    /// The driver was closed while the card did not answer.
    is_lost: bool,
}

impl XidLog {
    pub(super) fn add(&mut self, xid: u64) {
        if self.last.len() == KEPT {
            self.last.remove(0);
        }
        self.last.push(xid);
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
    pub(super) fn last(&self) -> &[u64] {
        &self.last
    }

    /// Why the card must not be used, and what to do.
    pub(super) fn problem(&self) -> Option<String> {
        self.broken.and_then(meaning)
    }
}

fn meaning(xid: u64) -> Option<String> {
    let (_, meaning, remedy) = BROKEN.iter().find(|(number, ..)| *number == xid)?;
    Some(format!("XID {xid}: {meaning}; {}", remedy.words()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn application_errors_do_not_break_a_card() {
        let mut log = XidLog::default();
        for xid in [13, 31, 43, 45, 63, 69, 92, 94] {
            log.add(xid);
        }
        assert_eq!(log.problem(), None);
        assert_eq!(log.last(), [13, 31, 43, 45, 63, 69, 92, 94]);
    }

    #[test]
    fn broken_card_stays_broken_however_many_events_follow() {
        let mut log = XidLog::default();
        log.add(79);
        for xid in 0..30 {
            log.add(200 + xid);
        }
        assert_eq!(log.last().len(), KEPT);
        assert_eq!(log.last().last(), Some(&229));
        let problem = log.problem().unwrap();
        assert!(
            problem.starts_with("XID 79: the GPU has fallen off the bus; restart the machine"),
            "{problem}"
        );
    }
}

//! How much of a job's output is kept: all of what people print, not all of what a loop prints by mistake.

/// Kept at once, whatever the rate: hours of a chatty training.
const BURST_BYTES: u64 = 64 << 20;
/// Kept on average beyond that: 2,500 lines a second.
const BYTES_PER_SECOND: u64 = 256 << 10;
/// Kept of one attempt at that rate: a day of it, and what a disk can spare.
const PLENTY_BYTES: u64 = 16 << 30;
/// Kept on average from then on, so that the end can still be seen.
const BYTES_PER_SECOND_AFTER_PLENTY: u64 = 16 << 10;
/// Once something was dropped, so much must have come free before anything is kept: one mark a second, not one a line.
const RESUME_BYTES: u64 = 256 << 10;
/// Rest after a read that was dropped: 64 MiB a second are thrown away at most, which leaves the processors to others.
const REST_MS: u64 = 1;

/// What to do with what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Keep it, after a mark for so many bytes if there are any.
    Keep {
        /// Dropped since the last mark.
        dropped: u64,
    },
    /// Throw it away.
    Drop,
}

/// A bucket of bytes, on the clock since boot.
#[derive(Debug)]
pub(super) struct Allowance {
    available: u64,
    filled_ms: u64,
    kept: u64,
    dropped: u64,
    rest_until_ms: u64,
}

impl Allowance {
    pub(super) fn new(now_ms: u64) -> Self {
        Self {
            available: BURST_BYTES,
            filled_ms: now_ms,
            kept: 0,
            dropped: 0,
            rest_until_ms: 0,
        }
    }

    /// Judges a read of so many bytes.
    pub(super) fn judge(&mut self, bytes: u64, now_ms: u64) -> Verdict {
        self.fill(now_ms);
        let needed = if self.dropped > 0 {
            bytes.max(RESUME_BYTES)
        } else {
            bytes
        };
        if self.available < needed {
            self.dropped += bytes;
            self.rest_until_ms = now_ms + REST_MS;
            return Verdict::Drop;
        }
        self.available -= bytes;
        self.kept += bytes;
        Verdict::Keep {
            dropped: std::mem::take(&mut self.dropped),
        }
    }

    /// What was dropped and not marked yet, at the end of the output.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// Until when nothing is to be read.
    pub(super) fn rest_until_ms(&self, now_ms: u64) -> Option<u64> {
        (self.rest_until_ms > now_ms).then_some(self.rest_until_ms)
    }

    fn fill(&mut self, now_ms: u64) {
        let rate = if self.kept < PLENTY_BYTES {
            BYTES_PER_SECOND
        } else {
            BYTES_PER_SECOND_AFTER_PLENTY
        };
        let elapsed_ms = now_ms.saturating_sub(self.filled_ms);
        let new = elapsed_ms.saturating_mul(rate) / 1_000;
        if new > 0 {
            self.available = self.available.saturating_add(new).min(BURST_BYTES);
            self.filled_ms = now_ms;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: u64 = 64 << 10;

    #[test]
    fn what_people_print_is_all_kept() {
        let mut allowance = Allowance::new(0);
        for second in 0..80_000 {
            let kept = Verdict::Keep { dropped: 0 };
            assert_eq!(allowance.judge(200_000, second * 1_000), kept);
        }
    }

    #[test]
    fn a_flood_is_cut_to_the_rate_and_every_dropped_byte_is_marked() {
        let mut allowance = Allowance::new(0);
        let (mut kept, mut marked, mut marks, mut read) = (0, 0, 0, 0);
        // A minute of 64 MiB a second.
        for now_ms in 0..60_000 {
            read += READ;
            match allowance.judge(READ, now_ms) {
                Verdict::Keep { dropped } => {
                    kept += READ;
                    marked += dropped;
                    marks += u64::from(dropped > 0);
                }
                Verdict::Drop => assert!(allowance.rest_until_ms(now_ms).is_some()),
            }
        }
        marked += allowance.take_dropped();
        assert_eq!(kept + marked, read);
        assert!(kept <= BURST_BYTES + 60 * BYTES_PER_SECOND, "{kept}");
        assert!(kept >= BURST_BYTES + 55 * BYTES_PER_SECOND, "{kept}");
        assert!((50..=61).contains(&marks), "{marks}");
    }

    #[test]
    fn after_plenty_the_rate_is_small_but_not_nothing() {
        let mut allowance = Allowance::new(0);
        allowance.kept = PLENTY_BYTES;
        allowance.available = 0;
        let mut kept = 0;
        for now_ms in 0..600_000 {
            if let Verdict::Keep { .. } = allowance.judge(READ, now_ms) {
                kept += READ;
            }
        }
        let most = 600 * BYTES_PER_SECOND_AFTER_PLENTY;
        assert!(kept > most / 2 && kept <= most, "{kept}");
    }
}

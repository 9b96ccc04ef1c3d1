//! What a node remembers of those who come to its doors: bad tokens, uses of good ones, and what it told the cluster.

use std::collections::BTreeMap;

use state_machine::{Command, Entrance, NoteRefusals, NoteTokenUses};
use types::{NodeId, Timestamp, TokenId};

use crate::error::{ErrorKind, ServiceError};
use crate::handle::{Handle, lock, now};
use crate::lockout::{Began, LockOut};

/// A use is told to the cluster once in this time: who reads `muster user` wants the day, not the second.
const TELL_USE_EVERY_MS: u64 = 3_600_000;
/// Tokens whose use is remembered.
const MAX_USED: usize = 4_096;
/// Words about refusals to the ledger within [`LEDGER_WINDOW_MS`]: nobody fills it by knocking. All are in the log of the node.
const LEDGER_WORDS: u32 = 6;
/// An hour.
const LEDGER_WINDOW_MS: u64 = 3_600_000;
/// Strangers are told of in the log at most so often.
const STRANGER_WORD_EVERY_MS: u64 = 60_000;

/// No copy of this program is older: a clock that shows less is wrong, and tokens cannot be checked by it. Milliseconds of
/// 2026-11-01, 00:00 UTC.
pub(crate) const BUILT_AFTER: Timestamp = Timestamp(1_793_491_200_000);

/// One for each node.
#[derive(Debug, Default)]
pub(crate) struct Doorkeeper {
    http: LockOut,
    join: LockOut,
    /// Last use, and what of it was told.
    used: BTreeMap<TokenId, (Timestamp, Timestamp)>,
    /// Begin of the hour, words in it.
    ledger: (u64, u32),
    strangers: Strangers,
}

/// Strangers since the last word about them.
#[derive(Debug, Default)]
struct Strangers {
    count: u64,
    last_word: Option<u64>,
}

impl Strangers {
    /// Counts some; the sum to tell of, if a word is due.
    fn add(&mut self, count: u64, now: u64) -> Option<u64> {
        self.count += count;
        let due = self
            .last_word
            .is_none_or(|last| now.saturating_sub(last) >= STRANGER_WORD_EVERY_MS);
        if !due {
            return None;
        }
        self.last_word = Some(now);
        Some(std::mem::take(&mut self.count))
    }
}

impl Doorkeeper {
    fn lock_out(&mut self, entrance: Entrance) -> &mut LockOut {
        match entrance {
            Entrance::Http => &mut self.http,
            Entrance::Join | Entrance::Connection => &mut self.join,
        }
    }

    /// Whether one more word may go to the ledger.
    fn may_tell(&mut self, now: u64) -> bool {
        if now.saturating_sub(self.ledger.0) >= LEDGER_WINDOW_MS {
            self.ledger = (now, 0);
        }
        self.ledger.1 += 1;
        self.ledger.1 <= LEDGER_WORDS
    }

    /// Takes note of a use; all that the cluster is to be told now.
    fn used(&mut self, token: &TokenId, at: Timestamp) -> Vec<(TokenId, Timestamp)> {
        if self.used.len() >= MAX_USED && !self.used.contains_key(token) {
            self.used.clear(); // Told again too early, which costs one entry.
        }
        let entry = self.used.entry(token.clone()).or_insert((at, Timestamp(0)));
        entry.0 = at;
        if at.since(entry.1).0 < TELL_USE_EVERY_MS {
            return Vec::new();
        }
        let untold = self.used.iter_mut().filter(|(_, (last, told))| last > told);
        let mut uses = Vec::new();
        for (token, (last, told)) in untold {
            uses.push((token.clone(), *last));
            *told = *last;
        }
        uses
    }
}

impl Handle {
    /// Refuses a source that is locked out, unless it brings what has worked here before.
    pub(crate) fn refuse_locked_out(
        &self,
        entrance: Entrance,
        source: &str,
        key: &[u8; 32],
    ) -> Result<(), ServiceError> {
        let mut keeper = lock(&self.inner.doorkeeper);
        let lock_out = keeper.lock_out(entrance);
        match lock_out.wait_ms(source, executor::boottime_ms()) {
            Some(wait_ms) if !lock_out.has_worked(key) => {
                let seconds = wait_ms.div_ceil(1_000);
                let message = format!("too many bad tokens came from here: wait {seconds} s");
                Err(
                    ServiceError::new(ErrorKind::TooMany, "locked-out", message).hint(
                        "check the token meanwhile: `muster user` on a machine of the cluster lists those that are good",
                    ),
                )
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Takes note of a bad token; a lock-out that begins is told to the cluster.
    pub(crate) fn note_bad_token(&self, entrance: Entrance, source: &str) {
        let at = executor::boottime_ms();
        let mut keeper = lock(&self.inner.doorkeeper);
        let began = keeper.lock_out(entrance).bad(source, at);
        let began: Vec<_> = began
            .into_iter()
            .map(|began| (keeper.may_tell(at), began))
            .collect();
        drop(keeper);
        for (may_tell, began) in began {
            let Began {
                source,
                tries,
                length_ms,
            } = began;
            tracing::warn!(?entrance, %source, tries, length_ms, "locked out after bad tokens");
            if may_tell {
                self.tell(Command::NoteRefusals(NoteRefusals {
                    entrance,
                    source,
                    times: u64::from(tries),
                    locked_out_ms: length_ms,
                }));
            }
        }
    }

    /// Takes note of a good token.
    pub(crate) fn note_good_token(&self, token: &TokenId, key: [u8; 32]) {
        let mut keeper = lock(&self.inner.doorkeeper);
        keeper.http.good(key, executor::boottime_ms());
        let uses = keeper.used(token, now());
        drop(keeper);
        if !uses.is_empty() {
            self.tell(Command::NoteTokenUses(NoteTokenUses { uses }));
        }
    }

    /// Takes note of strangers that were cut off; says so seldom, whatever their number.
    pub fn note_strangers(&self, count: u64, node: Option<&NodeId>, source: &str, reason: &str) {
        let at = executor::boottime_ms();
        let mut keeper = lock(&self.inner.doorkeeper);
        let Some(count) = keeper.strangers.add(count, at) else {
            return;
        };
        let may_tell = keeper.may_tell(at);
        drop(keeper);
        let node = node.map(NodeId::short);
        tracing::warn!(count, node_id = ?node, %source, reason, "stranger cut off: it is no member");
        if may_tell {
            self.tell(Command::NoteRefusals(NoteRefusals {
                entrance: Entrance::Connection,
                source: source.to_owned(),
                times: count,
                locked_out_ms: 0,
            }));
        }
    }

    /// Tells the cluster in the background; without a leader it is not told, and the node's log has it.
    fn tell(&self, command: Command) {
        let handle = self.clone();
        tokio::spawn(async move {
            if let Err(error) = handle.propose_as_node(command).await {
                tracing::debug!(%error, "what happened at the door was not written down");
            }
        });
    }
}

/// Refuses to judge the life of a token by a clock that cannot be right.
pub(crate) fn refuse_wrong_clock() -> Result<(), ServiceError> {
    refuse_wrong_clock_at(now())
}

fn refuse_wrong_clock_at(now: Timestamp) -> Result<(), ServiceError> {
    if now >= BUILT_AFTER {
        return Ok(());
    }
    let message = format!(
        "the clock of this machine is wrong: it shows {} days after 1970-01-01, which is before this program was made, so no token can be checked",
        now.0 / 86_400_000
    );
    Err(
        ServiceError::new(ErrorKind::Unavailable, "wrong-clock", message).hint(
            "set the machine's clock (`timedatectl`, `chronyc makestep` or `date`) and try again",
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_is_told_at_once_and_then_once_an_hour_with_all_others() {
        let mut keeper = Doorkeeper::default();
        let [a, b]: [TokenId; 2] = ["t-1", "t-2"].map(|id| id.parse().unwrap());
        let start = BUILT_AFTER.0;
        assert_eq!(keeper.used(&a, Timestamp(start)).len(), 1);
        assert!(keeper.used(&a, Timestamp(start + 1_000)).is_empty());
        assert_eq!(keeper.used(&b, Timestamp(start + 2_000)).len(), 2);
        assert!(keeper.used(&a, Timestamp(start + 1_000_000)).is_empty());
        let told = keeper.used(&a, Timestamp(start + 1_000 + TELL_USE_EVERY_MS));
        assert_eq!(told, [(a, Timestamp(start + 1_000 + TELL_USE_EVERY_MS))]);
    }

    #[test]
    fn knocking_writes_few_lines() {
        let mut keeper = Doorkeeper::default();
        let told = (0..1_000)
            .filter(|second| keeper.may_tell(second * 1_000))
            .count();
        assert_eq!(u32::try_from(told), Ok(LEDGER_WORDS));
        assert!(keeper.may_tell(LEDGER_WINDOW_MS));
        let mut strangers = Strangers::default();
        let words: Vec<_> = (0..120)
            .filter_map(|second| strangers.add(10, second * 1_000))
            .collect();
        assert_eq!(words, [10, 600]);
    }

    #[test]
    fn no_token_is_judged_by_a_clock_from_before_this_program() {
        let day = 86_400_000;
        let error = refuse_wrong_clock_at(Timestamp(day)).unwrap_err();
        assert_eq!(error.code, "wrong-clock");
        assert!(error.message.contains("1 days after 1970-01-01"), "{error}");
        assert!(error.hint.contains("timedatectl"));
        assert!(refuse_wrong_clock_at(BUILT_AFTER).is_ok());
    }
}

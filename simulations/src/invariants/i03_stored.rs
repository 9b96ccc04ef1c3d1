//! Invariant 3, the core's part: what is stored reads back as it was or not at all, cut off it is refused, and the
//! ledger's chain holds over every entry ever made. (Checksums, syncs and files are the adapter's: its own tests.)

use state_machine::{ClusterState, LogEntry, check_invariants, verify_chain};
use types::codec;

use super::{Fact, Invariant, Scene};

/// Entries between two checks of the state against itself, which encodes all of it.
const CHECKED_EVERY: u64 = 16;

#[derive(Debug, Default)]
pub(super) struct Stored {
    head: [u8; 32],
    length: u64,
}

impl Invariant for Stored {
    fn note(&mut self, fact: &Fact<'_>, scene: &Scene<'_>) -> Result<(), String> {
        let Fact::Applied { index, entry, .. } = fact else {
            return Ok(());
        };
        let bytes = codec::encode(entry);
        let back: LogEntry = codec::decode(&bytes, usize::MAX)
            .map_err(|error| format!("entry {index} does not read back: {error}"))?;
        if back != **entry {
            return Err(format!("entry {index} reads back as another: {back:?}"));
        }
        if codec::decode::<LogEntry>(&bytes[..bytes.len() - 1], usize::MAX).is_ok() {
            return Err(format!(
                "entry {index} reads back though its end is missing"
            ));
        }
        self.follow_ledger(scene.state)?;
        if index.0.is_multiple_of(CHECKED_EVERY) {
            check_invariants(scene.state)?;
        }
        Ok(())
    }

    fn at_the_end(&mut self, scene: &Scene<'_>) -> Result<(), String> {
        check_invariants(scene.state)
    }
}

impl Stored {
    /// Each new entry must hash to what came before it, also over the sealing of archives.
    fn follow_ledger(&mut self, state: &ClusterState) -> Result<(), String> {
        let (head, length) = state.ledger_head();
        let new = usize::try_from(length - self.length).unwrap_or(usize::MAX);
        let mut entries: Vec<_> = state.ledger().rev().take(new).collect();
        entries.reverse();
        let found = verify_chain(self.head, entries)
            .map_err(|sequence| format!("the ledger breaks at {sequence}"))?;
        if found != head {
            return Err("the ledger's head is not the hash of its last entry".to_owned());
        }
        (self.head, self.length) = (head, length);
        Ok(())
    }
}

//! Invariant 6: nothing over 64 KiB of an experiment enters the state, and sealed archives chain without a hole.

use state_machine::{ArchiveContent, Command, Outcome};
use types::{BlobHash, codec};

use super::{Fact, Invariant, Scene};

const MAX_SPEC_BYTES: usize = 64 << 10;

#[derive(Debug, Default)]
pub(super) struct SmallLog {
    ledger: Option<BlobHash>,
    experiments: Option<BlobHash>,
}

impl Invariant for SmallLog {
    fn note(&mut self, fact: &Fact<'_>, _scene: &Scene<'_>) -> Result<(), String> {
        let Fact::Applied {
            index,
            entry,
            applied,
            ..
        } = fact
        else {
            return Ok(());
        };
        if let Command::SubmitExperiment(submit) = &entry.command {
            let bytes = codec::encode(&submit.spec).len();
            if bytes > MAX_SPEC_BYTES && matches!(applied.outcome, Outcome::Submitted(_)) {
                return Err(format!("entry {index} put {bytes} bytes into the state"));
            }
        }
        for archive in &applied.archives {
            if BlobHash::of(&archive.bytes) != archive.hash {
                return Err(format!("{} does not hash to its name", archive.name));
            }
            let content: ArchiveContent = codec::decode(&archive.bytes, usize::MAX)
                .map_err(|error| format!("{} does not read back: {error}", archive.name))?;
            let (last, previous) = match content {
                ArchiveContent::Ledger { previous, .. } => (&mut self.ledger, previous),
                ArchiveContent::Experiments { previous, .. } => (&mut self.experiments, previous),
            };
            if last.is_some_and(|last| last != previous) {
                return Err(format!(
                    "{} does not follow the one before it",
                    archive.name
                ));
            }
            *last = Some(archive.hash);
        }
        Ok(())
    }
}

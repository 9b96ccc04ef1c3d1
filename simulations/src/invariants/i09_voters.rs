//! Invariant 9: at most five voters, one change at a time, each committed before the next. (Ongaro 2014, section 4.1.)

use std::collections::BTreeSet;

use super::{Fact, Invariant, Scene};

#[derive(Debug, Default)]
pub(super) struct Voters;

impl Invariant for Voters {
    fn note(&mut self, fact: &Fact<'_>, _scene: &Scene<'_>) -> Result<(), String> {
        let Fact::Voters {
            before,
            after,
            settled,
        } = fact
        else {
            return Ok(());
        };
        let old: BTreeSet<_> = before.iter().collect();
        let new: BTreeSet<_> = after.iter().collect();
        if !before.is_empty() && old.symmetric_difference(&new).count() != 1 {
            return Err(format!(
                "the voters went from {before:?} to {after:?} at once"
            ));
        }
        if !settled {
            return Err(format!(
                "the voters change to {after:?} before the last change is committed"
            ));
        }
        if new.is_empty() || new.len() > 6 {
            return Err(format!("{} voters: {after:?}", new.len()));
        }
        Ok(())
    }
}

//! Invariant 9: at most five voters, one change at a time, each committed before the next. (Ongaro 2014, section 4.1.)

use std::collections::BTreeSet;

use super::{Fact, Invariant, Scene};

/// Most voters, also between two steps.
const MOST_VOTERS: usize = 5;

#[derive(Debug, Default)]
pub(super) struct Voters;

impl Invariant for Voters {
    fn note(&mut self, fact: &Fact<'_>, _scene: &Scene<'_>) -> Result<(), String> {
        match fact {
            Fact::Voters {
                before,
                after,
                settled,
            } => check(before, after, *settled),
            _ => Ok(()),
        }
    }
}

fn check(before: &[usize], after: &[usize], settled: bool) -> Result<(), String> {
    let old: BTreeSet<_> = before.iter().collect();
    let new: BTreeSet<_> = after.iter().collect();
    if old.symmetric_difference(&new).count() != 1 {
        return Err(format!(
            "the voters went from {before:?} to {after:?} at once"
        ));
    }
    if !settled {
        return Err(format!(
            "the voters change to {after:?} before the last change is committed"
        ));
    }
    if new.is_empty() || new.len() > MOST_VOTERS {
        return Err(format!("{} voters: {after:?}", new.len()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_voter_comes_or_goes_at_a_time_and_there_are_one_to_five() {
        assert_eq!(check(&[0, 1, 2], &[0, 1, 2, 3], true), Ok(()));
        assert_eq!(check(&[0, 1, 2, 3, 4], &[0, 1, 2, 3], true), Ok(()));
        for (before, after, settled, why) in [
            (&[0, 1, 2][..], &[0, 1, 3][..], true, "at once"),
            (&[0, 1, 2], &[0, 1, 2], true, "at once"),
            (&[0, 1, 2], &[0, 1, 2, 3], false, "before the last change"),
            (&[0, 1, 2, 3, 4], &[0, 1, 2, 3, 4, 5], true, "6 voters"),
            (&[0], &[], true, "0 voters"),
        ] {
            let said = check(before, after, settled).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }
}

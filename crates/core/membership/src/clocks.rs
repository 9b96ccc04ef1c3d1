//! Whose wall clock is wrong (invariant 2).
//!
//! Nothing that must be safe depends on a wall clock: elections and leases count on clocks since boot. But the log
//! carries the leader's time, from which people read when things happened and tokens end. So a leader whose clock is
//! far off the voters' median uses the median, and gives way to one whose clock is right.

use types::{DurationMs, NodeId, Timestamp};

/// How far a leader's clock may be from the median of the voters' clocks: more than any delay of a report, less than
/// what a person would call wrong.
pub const MAX_CLOCK_OFFSET: DurationMs = DurationMs::from_secs(5);
/// Clocks below which nobody can say which of them is wrong.
const LEAST_CLOCKS: usize = 3;

/// What a voter said about its clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoterClock {
    /// The voter.
    pub node: NodeId,
    /// Its wall clock when it spoke.
    pub told: Timestamp,
    /// How long ago that was.
    pub age: DurationMs,
}

/// This node's clock is off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongClock {
    /// The median of the voters' clocks minus this one, in milliseconds: positive if this one is slow.
    pub correction_ms: i64,
    /// Voters whose clocks are right, nearest to the median first.
    pub right: Vec<NodeId>,
}

/// Compares a voter's wall clock with those of the other live voters; none if it is right or if too few can be compared.
#[must_use]
pub fn judge_clock(others: &[VoterClock], wall: Timestamp) -> Option<WrongClock> {
    let offsets: Vec<_> = others
        .iter()
        .filter_map(|clock| Some((&clock.node, offset_ms(clock, wall)?)))
        .collect();
    if offsets.len() + 1 < LEAST_CLOCKS {
        return None;
    }
    let mut all: Vec<_> = offsets.iter().map(|(_, offset)| *offset).collect();
    all.push(0);
    all.sort_unstable();
    // Of two in the middle the one that speaks for this clock.
    let (low, high) = (all[(all.len() - 1) / 2], all[all.len() / 2]);
    let median = 0_i64.clamp(low, high);
    if median.unsigned_abs() <= MAX_CLOCK_OFFSET.0 {
        return None;
    }
    let mut right: Vec<_> = offsets
        .into_iter()
        .map(|(node, offset)| (median.abs_diff(offset), node.clone()))
        .filter(|(distance, _)| *distance <= MAX_CLOCK_OFFSET.0)
        .collect();
    right.sort();
    Some(WrongClock {
        correction_ms: median,
        right: right.into_iter().map(|(_, node)| node).collect(),
    })
}

/// A voter's wall clock minus this one's.
fn offset_ms(clock: &VoterClock, wall: Timestamp) -> Option<i64> {
    let theirs = clock.told + clock.age;
    let difference = i128::from(theirs.0) - i128::from(wall.0);
    i64::try_from(difference).ok() // A clock that is off by more than all time tells nothing.
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;
    /// Wall clock of those whose clocks are right.
    const WALL: u64 = 1_000 * HOUR;

    /// Judges a clock by voters with their wall clocks of now and how long ago they told them.
    fn judge(voters: &[(&str, u64, u64)], own_wall: u64) -> Option<WrongClock> {
        let clock = |(name, wall, ago): &(&str, u64, u64)| VoterClock {
            node: name.parse().unwrap(),
            told: Timestamp(wall - ago),
            age: DurationMs(*ago),
        };
        let others: Vec<_> = voters.iter().map(clock).collect();
        judge_clock(&others, Timestamp(own_wall))
    }

    #[test]
    fn a_clock_an_hour_off_is_wrong_and_the_others_are_right() {
        let others = [("a", WALL + 30, 4_000), ("b", WALL, 100)];
        let ahead = judge(&others, WALL + HOUR).unwrap();
        assert_eq!(ahead.correction_ms, 30 - 3_600_000);
        let names: Vec<NodeId> = ["a", "b"].map(|name| name.parse().unwrap()).into();
        assert_eq!(ahead.right, names);
        let behind = judge(&others, WALL - HOUR).unwrap();
        assert_eq!(behind.correction_ms, 3_600_000);
    }

    #[test]
    fn the_right_ones_do_not_include_another_that_is_wrong() {
        let others = [
            ("a", WALL, 0),
            ("b", WALL - HOUR, 0),
            ("c", WALL + 2, 0),
            ("d", WALL + 1, 0),
        ];
        let wrong = judge(&others, WALL + HOUR).unwrap();
        let names: Vec<NodeId> = ["d", "a", "c"].map(|name| name.parse().unwrap()).into();
        assert_eq!(wrong.right, names, "the median itself comes first");
    }

    #[test]
    fn a_clock_that_is_right_stays_right_beside_a_wrong_one() {
        for wrong in [WALL + HOUR, WALL - HOUR, 86_400_000] {
            let others = [("a", wrong, 1_000), ("b", WALL + 4_000, 100)];
            assert_eq!(judge(&others, WALL), None);
        }
    }

    #[test]
    fn two_clocks_judge_nobody() {
        assert_eq!(judge(&[("a", WALL, 100)], WALL + HOUR), None);
        assert_eq!(judge(&[], WALL + HOUR), None);
    }

    #[test]
    fn of_an_even_number_two_pairs_that_differ_judge_nobody() {
        let others = [
            ("a", WALL + HOUR, 100),
            ("b", WALL, 100),
            ("c", WALL + HOUR, 100),
        ];
        assert_eq!(judge(&others, WALL), None);
        assert_eq!(judge(&others[..2], WALL + HOUR), None);
        let three = [("a", WALL, 100), ("b", WALL, 100), ("c", WALL, 100)];
        assert!(judge(&three, WALL + HOUR).is_some());
    }
}

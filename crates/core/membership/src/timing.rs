//! How patient a cluster is with its machines.

use types::DurationMs;

/// The times of a cluster's membership; the same on all its replicas, named by its timing profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Silence of a member after which the leader asks whether it is there.
    pub probe_after: DurationMs,
    /// Silence after which the other replicas ask: longer than two reports are apart, so that they ask only where the
    /// leader sees something too.
    pub probe_after_as_follower: DurationMs,
    /// Time for its answer.
    pub probe_within: DurationMs,
    /// Time for its answer through others.
    pub indirect_within: DurationMs,
    /// How long a member that did not answer may clear itself when nobody else has missed it.
    pub doubt_longest: DurationMs,
    /// The same when all who were asked have missed it too.
    pub doubt_shortest: DurationMs,
    /// A voter that is gone for longer gives its place to a healthy member, if there is one. A restart of a machine
    /// takes longer and costs it the vote; the machine itself stays a member.
    pub replace_voter_after: DurationMs,
    /// A member that was there for so long without a break may take the place of a worse placed voter.
    pub settled_after: DurationMs,
}

impl Timing {
    /// For machines in one local network. A dead machine is suspect after 3.5 s, of which the doubt is 1 s: before its
    /// shortest leases are over (5 s), so that what it ran is not placed on it again.
    #[must_use]
    pub const fn lan() -> Self {
        Self {
            probe_after: DurationMs(1_000),
            probe_after_as_follower: DurationMs(11_000),
            probe_within: DurationMs(500),
            indirect_within: DurationMs(1_000),
            doubt_longest: DurationMs(2_500),
            doubt_shortest: DurationMs(1_000),
            replace_voter_after: DurationMs::from_secs(30),
            settled_after: DurationMs::from_secs(60),
        }
    }

    /// For machines across the internet.
    #[must_use]
    pub const fn wan() -> Self {
        Self {
            probe_after: DurationMs(2_000),
            probe_after_as_follower: DurationMs(13_000),
            probe_within: DurationMs(1_500),
            indirect_within: DurationMs(3_000),
            doubt_longest: DurationMs(8_000),
            doubt_shortest: DurationMs(3_000),
            replace_voter_after: DurationMs::from_secs(120),
            settled_after: DurationMs::from_secs(300),
        }
    }

    /// The profile of this name: `wan`, or else the local network's.
    #[must_use]
    pub fn named(profile: &str) -> Self {
        if profile == "wan" {
            Self::wan()
        } else {
            Self::lan()
        }
    }
}

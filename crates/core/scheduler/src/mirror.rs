//! Who keeps the second copy of an attempt's records.

use std::collections::BTreeMap;

use types::ExperimentId;

use crate::offer::NodeOffer;

/// What the choice looks at, for each node by its place; made once a round.
#[derive(Debug)]
pub(crate) struct Mirrors(Vec<Candidate>);

#[derive(Clone, Copy, Debug)]
struct Candidate {
    /// Is there, and takes work.
    is_fit: bool,
    /// Less is better: is being emptied, keeps no blobs.
    standing: (bool, bool),
    /// Which failure domain, by number.
    domain: usize,
    /// Of its id.
    hash: u64,
}

impl Mirrors {
    pub(crate) fn of(offers: &[NodeOffer]) -> Self {
        let mut domains: BTreeMap<&str, usize> = BTreeMap::new();
        let candidate = |offer: &NodeOffer| Candidate {
            is_fit: offer.health == membership::Health::Live && offer.refuses_work.is_none(),
            standing: (offer.draining, !offer.keeps_blobs),
            domain: 0,
            hash: fnv(offer.node.as_str().as_bytes()),
        };
        let mut candidates: Vec<_> = offers.iter().map(candidate).collect();
        for (candidate, offer) in candidates.iter_mut().zip(offers) {
            let next = domains.len();
            candidate.domain = *domains.entry(&offer.failure_domain).or_insert(next);
        }
        Self(candidates)
    }

    /// Another live node than `on`, rather a storage node, rather in another failure domain; among equals by a hash of both
    /// names (rendezvous), so that the load spreads and stays when nodes come and go.
    pub(crate) fn best(&self, experiment: ExperimentId, on: usize) -> Option<usize> {
        let domain = self.0[on].domain;
        let others = self.0.iter().enumerate();
        let others = others.filter(|(at, one)| *at != on && one.is_fit);
        let best = others.min_by_key(|(_, one)| {
            (
                one.standing,
                one.domain == domain,
                mix(one.hash ^ experiment.bits()),
            )
        });
        best.map(|(at, _)| at)
    }
}

/// FNV-1a.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Spreads bits (the finalizer of `SplitMix64`: Steele, Lea and Flood, OOPSLA 2014).
fn mix(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

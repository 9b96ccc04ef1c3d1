//! Invariant 6, second half: the log forgets only what a durable snapshot holds. Raft (Ongaro, 2014) §5.1.

use crate::seen::Seen;

pub(crate) fn see(seen: &Seen<'_>) -> Result<(), String> {
    match seen {
        Seen::Purged {
            node,
            upto,
            snapshot,
        } if snapshot.is_none_or(|snapshot| snapshot < *upto) => Err(format!(
            "invariant 6: n{node} purges up to {upto} with a durable snapshot of {snapshot:?}"
        )),
        _ => Ok(()),
    }
}

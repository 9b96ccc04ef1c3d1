//! Invariant 3: what was durable is there at the next start; a log that ends before it must not be used.

use crate::seen::Seen;

pub(crate) fn see(seen: &Seen<'_>) -> Result<(), String> {
    let Seen::Opened {
        node,
        durable,
        found,
        durable_term,
        found_term,
    } = seen
    else {
        return Ok(());
    };
    if found < durable || found_term < durable_term {
        return Err(format!(
            "invariant 3: n{node} starts from {found:?} in term {found_term}, although {durable:?} in term {durable_term} was durable"
        ));
    }
    Ok(())
}

//! Invariant 5: a read shows all that anybody was shown or told before it began. Reads and writes are ordered by log
//! index, so this is linearizability (Herlihy and Wing, 1990): real time order respects the order of the log. Raft
//! (Ongaro, 2014) §6.4.

use crate::seen::Seen;

pub(crate) fn see(seen: &Seen<'_>) -> Result<(), String> {
    match seen {
        Seen::Read { floor, index } if index < floor => Err(format!(
            "invariant 5: a read shows the state of {index} after somebody had seen {floor}"
        )),
        _ => Ok(()),
    }
}

//! Invariant 10: suspect is not dead. An attempt is given up only when its lease ran out, and by then its process tree is
//! gone.

use crate::invariants::one_attempt_at_a_time::OneAttemptAtATime;
use crate::seen::Seen;

pub(crate) fn see(seen: &Seen<'_>, running: &OneAttemptAtATime) -> Result<(), String> {
    let Seen::GivenUp { token } = seen else {
        return Ok(());
    };
    match running.runs(token) {
        Some(node) => Err(format!(
            "invariant 10: {token} is given up while it runs on n{node}"
        )),
        None => Ok(()),
    }
}

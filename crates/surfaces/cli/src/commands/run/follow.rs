//! The following of `muster run -f`.

use std::process::ExitCode;

use rest::wire::SubmitReply;

use crate::error::Error;
use crate::logs::{Follower, LogPrinter, LogQuery};
use crate::output::amounts::plain;

use super::super::logs::followed;
use super::super::{INTERRUPTED, Session};

/// Prints the output until the end and gives the experiment's exit code. Ctrl-C leaves it running.
pub(in crate::commands) async fn follow(
    reply: &SubmitReply,
    session: &Session,
) -> Result<ExitCode, Error> {
    let id = plain(&reply.id);
    let mut follower = Follower::new(
        &session.client,
        LogQuery::all_of(&reply.id),
        &session.terminal,
    );
    let mut printer = LogPrinter::new(&session.terminal, false, true);
    let goes_on = |why: &str| {
        session.terminal.note(&format!(
            "{why}; {id} goes on: `muster logs -f {id}` follows it again, `muster stop {id}` stops it"
        ));
    };
    match followed(&mut follower, &mut printer).await {
        Ok(Some(code)) => Ok(code),
        Ok(None) => {
            goes_on("detached");
            Ok(ExitCode::from(INTERRUPTED))
        }
        Err(error) => {
            if error.may_pass() {
                goes_on("the node is lost");
            }
            Err(error)
        }
    }
}

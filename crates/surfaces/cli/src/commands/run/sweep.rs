//! `muster run --sweep`.

use hyper::header::HeaderValue;
use rest::wire::{GroupReply, GroupRequest, SubmitRequest};

use crate::client::{Request, parse};
use crate::error::Error;
use crate::output::amounts::plain;
use crate::retry::while_unavailable;

use super::super::{IDEMPOTENCY_KEY, Session, WRITE_WINDOW};
use super::arguments::Sweep;

/// Submits one experiment for each combination, and prints the id of the group.
pub(super) async fn submit(
    experiment: SubmitRequest,
    (text, sweep): (&str, &Sweep),
    key: &HeaderValue,
    session: &Session,
) -> Result<(), Error> {
    let request = GroupRequest {
        experiment,
        sweep: text.to_owned(),
        samples: sweep.samples,
        seed: sweep.seed,
    };
    let ask = async || {
        let request = Request::json("/groups", &request).header(IDEMPOTENCY_KEY, key.clone());
        session.client.ask(request).await
    };
    let terminal = &session.terminal;
    let bytes = while_unavailable(WRITE_WINDOW, terminal, ask).await?;
    let reply: GroupReply = parse(&bytes, "a sweep's answer")?;
    for warning in &reply.warnings {
        terminal.warn(&plain(warning));
    }
    for learned in &reply.learned {
        terminal.note(&format!("each asks for {}", plain(learned)));
    }
    if terminal.json {
        return terminal.print(&String::from_utf8_lossy(&bytes));
    }
    let (id, name, count) = (
        plain(&reply.id),
        plain(&reply.name),
        reply.experiments.len(),
    );
    terminal.note(&format!("{count} experiments: {}", plain(&reply.sweep)));
    if terminal.out.is_terminal {
        return terminal.print(&format!("{id}  {name}  (muster show {id})"));
    }
    terminal.print(&id)
}

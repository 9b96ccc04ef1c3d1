//! `muster accept`.

use hyper::Method;
use rest::wire::ExperimentSummary;

use crate::client::{Payload, Request, encode};
use crate::error::Error;
use crate::output::amounts::plain;

use super::Session;

/// Options of `muster accept`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Id, start of an id, or name
    experiment: String,
    /// Number of the attempt; default: the newest that succeeded late
    #[arg(long, value_name = "N")]
    attempt: Option<u32>,
}

/// Takes a success that came after its attempt was given up for the result.
pub(super) async fn run(arguments: &Arguments, session: &Session) -> Result<(), Error> {
    let mut path = format!("/experiments/{}/accept", encode(&arguments.experiment));
    if let Some(attempt) = arguments.attempt {
        path = format!("{path}?attempt={attempt}");
    }
    let accept = || Request::new(Method::POST, path.clone(), Payload::empty());
    let bytes = session.change(accept).await?;
    session.print(
        &bytes,
        "an experiment",
        |accepted: &ExperimentSummary, _look| {
            let (id, state) = (plain(&accepted.id), plain(&accepted.state));
            format!("{id}  {}  {state}", plain(&accepted.name))
        },
    )
}

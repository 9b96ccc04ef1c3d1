//! `muster stop`.

use std::process::ExitCode;

use hyper::Method;
use rest::wire::ExperimentSummary;

use crate::client::{Payload, Request, encode};
use crate::error::Error;
use crate::output;
use crate::output::amounts::plain;

use super::{GROUP_PREFIX, Session};

/// Options of `muster stop`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Ids, starts of ids, or names; or ids of groups
    #[arg(required = true)]
    experiments: Vec<String>,
}

/// Stops each; one that cannot be stopped does not save the others.
pub(super) async fn run(arguments: &Arguments, session: &Session) -> Result<ExitCode, Error> {
    let mut code = ExitCode::SUCCESS;
    for experiment in &arguments.experiments {
        match stop(experiment, session).await {
            Ok(()) => {}
            Err(error) if error.is_closed_output() => return Err(error),
            Err(error) => {
                session.terminal.error(&error);
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

async fn stop(text: &str, session: &Session) -> Result<(), Error> {
    if !text.starts_with(GROUP_PREFIX) {
        return stop_experiment(text, session).await;
    }
    match stop_group(text, session).await {
        // A person may have named an experiment so.
        Err(error) if error.is_unknown() => match stop_experiment(text, session).await {
            Err(other) if other.is_unknown() => Err(error),
            stopped => stopped,
        },
        stopped => stopped,
    }
}

async fn stop_group(group: &str, session: &Session) -> Result<(), Error> {
    let path = format!("/groups/{}/stop", encode(group));
    let stop = || Request::new(Method::POST, path.clone(), Payload::empty());
    let bytes = session.change(stop).await?;
    let text = |stopped: &_, _look: &_| output::stopped_group(stopped);
    session.print(&bytes, "a group", text)
}

async fn stop_experiment(experiment: &str, session: &Session) -> Result<(), Error> {
    let path = format!("/experiments/{}/stop", encode(experiment));
    let stop = || Request::new(Method::POST, path.clone(), Payload::empty());
    let bytes = session.change(stop).await?;
    session.print(
        &bytes,
        "an experiment",
        |stopped: &ExperimentSummary, _look| {
            let (id, state) = (plain(&stopped.id), plain(&stopped.state));
            format!("{id}  {}  {state}", plain(&stopped.name))
        },
    )
}

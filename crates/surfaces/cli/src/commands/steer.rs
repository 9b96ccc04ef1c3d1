//! `muster hold`, `muster release`, `muster priority`.

use hyper::Method;
use rest::wire::{ExperimentSummary, HoldRequest, PriorityRequest};

use crate::client::{Payload, Request, encode};
use crate::error::Error;
use crate::output::amounts::plain;

use super::Session;

/// Options of `muster hold`.
#[derive(Debug, clap::Args)]
pub struct Hold {
    /// Id, the start of one, or a name
    experiment: String,
    /// Why, for the others
    #[arg(long, default_value = "")]
    reason: String,
}

/// Options of `muster release`.
#[derive(Debug, clap::Args)]
pub struct Release {
    /// Id, the start of one, or a name
    experiment: String,
}

/// Options of `muster priority`.
#[derive(Debug, clap::Args)]
pub struct Priority {
    /// Id, the start of one, or a name
    experiment: String,
    /// Higher goes first
    #[arg(allow_negative_numbers = true)]
    priority: i32,
}

pub(super) async fn hold(arguments: &Hold, session: &Session) -> Result<(), Error> {
    let path = format!("/experiments/{}/hold", encode(&arguments.experiment));
    let body = HoldRequest {
        reason: arguments.reason.clone(),
    };
    change(session, || Request::json(&path, &body)).await
}

pub(super) async fn release(arguments: &Release, session: &Session) -> Result<(), Error> {
    let path = format!("/experiments/{}/release", encode(&arguments.experiment));
    change(session, || {
        Request::new(Method::POST, path.clone(), Payload::empty())
    })
    .await
}

pub(super) async fn priority(arguments: &Priority, session: &Session) -> Result<(), Error> {
    let path = format!("/experiments/{}/priority", encode(&arguments.experiment));
    let body = PriorityRequest {
        priority: arguments.priority,
    };
    change(session, || Request::json(&path, &body)).await
}

async fn change(session: &Session, request: impl Fn() -> Request) -> Result<(), Error> {
    let bytes = session.change(request).await?;
    session.print(
        &bytes,
        "an experiment",
        |changed: &ExperimentSummary, _look| {
            let (id, state) = (plain(&changed.id), plain(&changed.state));
            format!(
                "{id}  {}  {state}: {}",
                plain(&changed.name),
                plain(&changed.reason)
            )
        },
    )
}

//! Artifacts of experiments: plots, tables, texts and files, sent while they run and kept with what they leave.

#![expect(
    unused_qualifications,
    reason = "`utoipa::path` writes `<T as …>::` around the types in `params`"
)]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use service::ArtifactName;
use service::view::ArtifactAccepted;
use tokio_util::io::StreamReader;
use utoipa::IntoParams;

use super::Api;
use crate::answer::Parameters;
use crate::body::{self, Patience};
use crate::error::Refusal;
use crate::identity::Reporter;

/// What it is called.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ArtifactQuery {
    /// A path such as `plots/loss.png`; another one of that name is replaced.
    name: String,
    /// Rank of an experiment on several nodes; 0 by default. A job's own token tells.
    #[serde(default)]
    rank: u32,
}

/// Adds the body as an artifact to the attempt that runs: a plot, a table, a text, any file. It is kept with the outputs when
/// the attempt has ended, as `artifacts/NAME`. A job may write `self` for its id and use the token in `MUSTER_TOKEN`.
#[utoipa::path(put, path = "/api/v1/experiments/{id}/artifacts", tag = "experiments",
    params(("id" = String, Path, description = "Id, unique prefix, or name; `self` for the token of a job"), ArtifactQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, description = "It is on the disk of the node that runs the attempt", body = ArtifactAccepted)))]
pub(super) async fn add(
    State(api): State<Arc<Api>>,
    reporter: Reporter,
    Path(id): Path<String>,
    Parameters(query): Parameters<ArtifactQuery>,
    request: Request,
) -> Result<Response, Refusal> {
    let (frames, too_slow) = body::paced(request.into_body(), Patience::default());
    let content = StreamReader::new(Box::pin(frames));
    let (service, name) = (&api.service, query.name.as_str());
    let added = match &reporter {
        Reporter::Person(caller) => {
            let rank = query.rank;
            let artifact = ArtifactName { name, rank };
            service.add_artifact((caller, &id), artifact, content).await
        }
        Reporter::Job(job) => service.add_artifact_of_job((job, &id), name, content).await,
    };
    if too_slow.load(Ordering::Relaxed) {
        return Err(Refusal::body_too_slow());
    }
    Ok(axum::Json(added?).into_response())
}

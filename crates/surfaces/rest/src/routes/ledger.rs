//! Who did what, when, from where.

#![expect(
    unused_qualifications,
    reason = "`utoipa::path` writes `<T as …>::` around the types in `params`"
)]

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use service::view::LedgerEntryView;
use utoipa::IntoParams;

use super::Api;
use crate::answer::{self, Consistency, Parameters, SeenIndex};
use crate::error::Refusal;
use crate::identity::Authenticated;

/// Lines of history when the client names no limit: a few screens.
const DEFAULT_LIMIT: u64 = 100;

/// Which lines, and how current.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct LedgerQuery {
    /// Only about this experiment.
    experiment: Option<String>,
    /// At most so many; 100 by default.
    limit: Option<u64>,
    /// How current the answer must be; `linearizable` by default.
    #[param(inline)]
    consistency: Consistency,
}

/// Lists the history.
#[utoipa::path(get, path = "/api/v1/ledger", tag = "ledger", params(LedgerQuery, SeenIndex),
    responses((status = 200, description = "The lines", body = [LedgerEntryView])))]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Parameters(query): Parameters<LedgerQuery>,
    seen: SeenIndex,
) -> Result<Response, Refusal> {
    let read = seen.read(query.consistency);
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    let experiment = query.experiment.as_deref();
    let entries = api
        .service
        .ledger(&caller.0, experiment, limit, read)
        .await?;
    Ok(answer::of_read(&entries, query.consistency))
}

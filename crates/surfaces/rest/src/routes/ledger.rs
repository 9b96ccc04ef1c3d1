//! Who did what, when, from where; and what it takes to check that.

#![expect(
    unused_qualifications,
    reason = "`utoipa::path` writes `<T as …>::` around the types in `params`"
)]

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use service::view::{LedgerEntryView, LedgerFilter, LedgerHead, LedgerPage};
use utoipa::IntoParams;

use super::Api;
use crate::answer::{self, Consistency, Parameters, SeenIndex};
use crate::error::Refusal;
use crate::identity::Authenticated;

/// Which lines, and how current.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct LedgerQuery {
    /// Only about this experiment.
    experiment: Option<String>,
    /// Only by this user, node, or user@node.
    by: Option<String>,
    /// Only this action, as `attempt-placed`.
    action: Option<String>,
    /// Only from this time on, in milliseconds since the epoch.
    since: Option<u64>,
    /// At most so many, the newest; 100 by default.
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
    let filter = LedgerFilter {
        experiment: query.experiment,
        by: query.by,
        action: query.action,
        since: query.since,
        limit: query.limit.unwrap_or_default(),
    };
    let entries = api.service.ledger(&caller.0, filter, read).await?;
    Ok(answer::of_read(&entries, query.consistency))
}

/// From which record on.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct RecordsQuery {
    /// Number of the first record.
    from: u64,
    /// At most so many; a page may be shorter.
    limit: Option<u64>,
    /// How current the answer must be; `linearizable` by default.
    #[param(inline)]
    consistency: Consistency,
}

/// Gives records as they are stored, with their hashes.
#[utoipa::path(get, path = "/api/v1/ledger/records", tag = "ledger", params(RecordsQuery, SeenIndex),
    responses((status = 200, description = "The records", body = LedgerPage)))]
pub(super) async fn records(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Parameters(query): Parameters<RecordsQuery>,
    seen: SeenIndex,
) -> Result<Response, Refusal> {
    let read = seen.read(query.consistency);
    let limit = query.limit.unwrap_or(u64::MAX);
    let page = api
        .service
        .ledger_records(&caller.0, query.from, limit, read)
        .await?;
    Ok(answer::of_read(&page, query.consistency))
}

/// How current the head must be.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct HeadQuery {
    /// How current the answer must be; `linearizable` by default.
    #[param(inline)]
    consistency: Consistency,
}

/// Gives the end of the ledger, signed by the replicas that have the same.
#[utoipa::path(get, path = "/api/v1/ledger/head", tag = "ledger", params(HeadQuery, SeenIndex),
    responses((status = 200, description = "The head", body = LedgerHead)))]
pub(super) async fn head(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Parameters(query): Parameters<HeadQuery>,
    seen: SeenIndex,
) -> Result<Response, Refusal> {
    let read = seen.read(query.consistency);
    let head = api.service.ledger_head(&caller.0, read).await?;
    Ok(answer::of_read(&head, query.consistency))
}

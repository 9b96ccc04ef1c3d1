//! What machines do at this moment.

#![expect(
    unused_qualifications,
    reason = "`utoipa::path` writes `<T as …>::` around the types in `params`"
)]

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use service::view::MachinesView;
use utoipa::IntoParams;

use super::Api;
use crate::answer::{self, Consistency, Parameters, SeenIndex};
use crate::error::Refusal;
use crate::identity::Authenticated;

/// Which machines to ask.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct MachinesQuery {
    /// Names, ids, or starts of either, with commas between them; all machines by default.
    node: Option<String>,
    /// How current the list of machines must be; `linearizable` by default. What a machine says of itself is of this
    /// moment in any case.
    #[param(inline)]
    consistency: Consistency,
}

/// Asks each machine what it does: processors, memory, disks, network, GPUs, and who uses them.
#[utoipa::path(get, path = "/api/v1/machines", tag = "machines", params(MachinesQuery, SeenIndex),
    responses((status = 200, description = "The machines; one that does not answer within 2 s says so in `silent`", body = MachinesView)))]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Authenticated,
    Parameters(query): Parameters<MachinesQuery>,
    seen: SeenIndex,
) -> Result<Response, Refusal> {
    let wanted: Vec<_> = query
        .node
        .iter()
        .flat_map(|names| names.split(','))
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    let read = seen.read(query.consistency);
    let machines = api.service.machines(&caller.0, &wanted, read).await?;
    Ok(answer::of_read(&machines, query.consistency))
}

//! Every route and the document that describes them, made from the same list.

mod again;
mod artifacts;
mod backup;
mod blobs;
mod cluster;
mod experiments;
mod groups;
mod ledger;
mod logs;
mod machines;
mod metrics;
mod nodes;
mod outputs;
mod page;
mod queues;
mod samples;
mod steering;
mod tokens;
mod users;

use std::sync::Arc;

use axum::Router;
use axum::http::Uri;
use service::view::ErrorView;
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi as _;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi, PathItem, Ref, ResponseBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::error::Refusal;

/// What the handlers share.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    /// The one door to the cluster.
    pub(crate) service: service::Handle,
    /// Ends bodies that would not end by themselves.
    pub(crate) shutdown: CancellationToken,
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "muster",
        description = "The native API of a node. Over TCP each request carries a token; over the Unix socket the user of the connecting process is known. Answers of the state carry X-Muster-Index; a request that sends the highest one back never goes back in time."
    ),
    components(schemas(ErrorView))
)]
struct Base;

/// The `OpenAPI` document of every route.
#[must_use]
pub fn openapi() -> OpenApi {
    let (_, mut document) = documented().split_for_parts();
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(TOKEN, SecurityScheme::Http(scheme));
    for item in document.paths.paths.values_mut() {
        operations(item).for_each(complete);
    }
    document
}

/// Name of the security scheme in the document.
const TOKEN: &str = "token";

/// Adds what is the same everywhere: the token, unless the route says otherwise, the error body, and the group
/// to the name, which must be the only one of the document.
fn complete(operation: &mut Operation) {
    let tag = operation.tags.iter().flatten().next();
    let name = tag.zip(operation.operation_id.as_ref());
    operation.operation_id = name.map(|(tag, verb)| format!("{tag}_{verb}"));
    if operation.security.is_none() {
        let no_scopes: [&str; 0] = [];
        operation.security = Some(vec![SecurityRequirement::new(TOKEN, no_scopes)]);
    }
    let body = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("ErrorView")))
        .build();
    let response = ResponseBuilder::new()
        .description("What is wrong and what to do")
        .content("application/json", body)
        .build();
    operation
        .responses
        .responses
        .insert("default".to_owned(), response.into());
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem {
        get,
        put,
        post,
        delete,
        ..
    } = item;
    [get, put, post, delete].into_iter().flatten()
}

fn documented() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::with_openapi(Base::openapi())
        .routes(routes!(cluster::health))
        .routes(routes!(cluster::document))
        .routes(routes!(cluster::show))
        .routes(routes!(cluster::nodes))
        .routes(routes!(machines::list))
        .routes(routes!(nodes::drain))
        .routes(routes!(nodes::undrain))
        .routes(routes!(nodes::pin))
        .routes(routes!(nodes::remove))
        .routes(routes!(nodes::label))
        .routes(routes!(nodes::reserve))
        .routes(routes!(nodes::unreserve))
        .routes(routes!(queues::list, queues::create))
        .routes(routes!(queues::pause))
        .routes(routes!(queues::resume))
        .routes(routes!(queues::shape))
        .routes(routes!(experiments::list, experiments::submit))
        .routes(routes!(experiments::show))
        .routes(routes!(experiments::why))
        .routes(routes!(experiments::stop))
        .routes(routes!(experiments::move_to))
        .routes(routes!(steering::hold))
        .routes(routes!(steering::release))
        .routes(routes!(steering::order))
        .routes(routes!(steering::priority))
        .routes(routes!(experiments::accept))
        .routes(routes!(again::make_clone))
        .routes(routes!(again::rerun))
        .routes(routes!(again::compare))
        .routes(routes!(groups::list, groups::submit))
        .routes(routes!(groups::show))
        .routes(routes!(groups::stop))
        .routes(routes!(logs::read))
        .routes(routes!(samples::samples))
        .routes(routes!(metrics::metrics, metrics::add_metrics))
        .routes(routes!(metrics::metric_series))
        .routes(routes!(artifacts::add))
        .routes(routes!(outputs::outputs))
        .routes(routes!(outputs::output_file))
        .routes(routes!(backup::take))
        .routes(routes!(ledger::list))
        .routes(routes!(ledger::records))
        .routes(routes!(ledger::head))
        .routes(routes!(tokens::list_join, tokens::create_join))
        .routes(routes!(users::me))
        .routes(routes!(users::list, users::create))
        .routes(routes!(users::remove))
        .routes(routes!(steering::weigh))
        .routes(routes!(tokens::revoke))
        .routes(routes!(blobs::missing))
        .routes(routes!(blobs::put, blobs::get))
        .routes(routes!(blobs::put_batch))
}

/// All routes, answering from `service`.
pub(crate) fn router(service: service::Handle, shutdown: CancellationToken) -> Router {
    let (router, _) = documented().split_for_parts();
    router
        .route("/", axum::routing::get(page::show))
        .fallback(async |uri: Uri| Refusal::no_such_route(uri.path()))
        .method_not_allowed_fallback(async || Refusal::wrong_method())
        .with_state(Arc::new(Api { service, shutdown }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const ROUTES: [&str; 59] = [
        "GET /health",
        "GET /openapi.json",
        "GET /cluster",
        "GET /nodes",
        "POST /nodes/{id}/drain",
        "POST /nodes/{id}/undrain",
        "POST /nodes/{id}/pin",
        "POST /nodes/{id}/remove",
        "POST /nodes/{id}/label",
        "POST /nodes/{id}/reserve",
        "POST /nodes/{id}/unreserve",
        "POST /queues/{name}/pause",
        "POST /queues/{name}/resume",
        "POST /queues/{name}/shape",
        "POST /experiments/{id}/hold",
        "POST /experiments/{id}/release",
        "POST /experiments/{id}/order",
        "POST /experiments/{id}/priority",
        "POST /users/{name}/weight",
        "GET /queues",
        "POST /queues",
        "GET /experiments",
        "POST /experiments",
        "GET /experiments/{id}",
        "GET /experiments/{id}/why",
        "POST /experiments/{id}/stop",
        "POST /experiments/{id}/move",
        "POST /experiments/{id}/accept",
        "POST /experiments/{id}/clone",
        "POST /experiments/{id}/rerun",
        "GET /compare",
        "GET /groups",
        "POST /groups",
        "GET /groups/{id}",
        "POST /groups/{id}/stop",
        "GET /experiments/{id}/logs",
        "GET /experiments/{id}/samples",
        "GET /experiments/{id}/metrics",
        "POST /experiments/{id}/metrics",
        "GET /experiments/{id}/metrics/series",
        "PUT /experiments/{id}/artifacts",
        "GET /experiments/{id}/outputs",
        "GET /experiments/{id}/outputs/file",
        "GET /backup",
        "GET /ledger",
        "GET /ledger/records",
        "GET /ledger/head",
        "GET /join-tokens",
        "POST /join-tokens",
        "GET /me",
        "GET /user-tokens",
        "DELETE /users/{name}",
        "POST /user-tokens",
        "DELETE /tokens/{id}",
        "POST /blobs/missing",
        "PUT /blobs/{hash}",
        "GET /blobs/{hash}",
        "POST /blobs/batch",
        "GET /machines",
    ];

    #[test]
    fn the_document_lists_every_route_with_its_method() {
        let mut document = openapi();
        let mut found = BTreeSet::new();
        for (path, item) in &mut document.paths.paths {
            let PathItem {
                get,
                put,
                post,
                delete,
                ..
            } = item;
            for (method, operation) in [
                ("GET", get),
                ("PUT", put),
                ("POST", post),
                ("DELETE", delete),
            ] {
                if operation.is_some() {
                    found.insert(format!(
                        "{method} {}",
                        path.strip_prefix("/api/v1").unwrap()
                    ));
                }
            }
        }
        assert_eq!(found, ROUTES.map(str::to_owned).into());
    }

    #[test]
    fn every_reference_of_the_document_leads_somewhere_and_every_error_is_described() {
        let text = serde_json::to_string(&openapi()).unwrap();
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        for part in text.split("\"$ref\":\"#").skip(1) {
            let pointer = part.split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer} is missing");
        }
        assert!(text.contains("#/components/schemas/ErrorView"));
        let mut names = BTreeSet::new();
        for item in openapi().paths.paths.values_mut() {
            for operation in operations(item) {
                let name = operation.operation_id.clone().unwrap();
                assert!(names.insert(name.clone()), "{name} twice");
                assert!(operation.responses.responses.contains_key("default"));
                assert!(operation.security.is_some());
            }
        }
    }
}

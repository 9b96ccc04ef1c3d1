//! The way of every request: is it meant for us, which route, and the headers that every answer carries.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use tower::Service;

use crate::error::in_our_shape;
use crate::identity::Door;
use crate::origin::{HostNames, check_origin};

/// Nothing that we answer is meant to run in a browser, except what the page itself allows.
const NO_CONTENT_SOURCES: HeaderValue =
    HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");

/// The routes behind the checks. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Front {
    router: Router,
    hosts: Arc<HostNames>,
}

impl Front {
    /// Puts the checks before `router`.
    pub(crate) fn new(router: Router, hosts: HostNames) -> Self {
        Self {
            router,
            hosts: Arc::new(hosts),
        }
    }

    /// Answers `request`, which came through `door`.
    pub(crate) async fn answer(self, door: Door, request: Request) -> Response {
        let mut response = in_our_shape(self.checked(door, request).await).await;
        let headers = response.headers_mut();
        headers.insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers
            .entry(header::CONTENT_SECURITY_POLICY)
            .or_insert(NO_CONTENT_SOURCES);
        response
    }

    async fn checked(mut self, door: Door, mut request: Request) -> Response {
        // A browser can't reach a Unix socket, so there the name does not matter.
        if let Door::Tcp { local, .. } = door
            && let Err(refusal) = self.hosts.check(request.uri(), request.headers(), local)
        {
            return refusal.into_response();
        }
        if let Err(refusal) = check_origin(request.headers()) {
            return refusal.into_response();
        }
        request.extensions_mut().insert(door);
        match self.router.call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;

    use super::*;

    fn tcp() -> Door {
        Door::Tcp {
            source: [127, 0, 0, 1].into(),
            local: None,
        }
    }

    async fn ask(door: Door, pairs: &[(&str, &str)]) -> Response {
        let front = Front::new(
            Router::new().route("/", get(async || "here")),
            HostNames::new(&[]),
        );
        let mut request = Request::builder().uri("/");
        for (name, value) in pairs {
            request = request.header(*name, *value);
        }
        front
            .answer(door, request.body(Body::empty()).unwrap())
            .await
    }

    #[tokio::test]
    async fn foreign_names_and_origins_do_not_reach_a_route_over_tcp() {
        let host = ("host", "localhost:7717");
        assert_eq!(ask(tcp(), &[host]).await.status(), 200);
        assert_eq!(ask(tcp(), &[("host", "evil.test")]).await.status(), 421);
        assert_eq!(ask(tcp(), &[]).await.status(), 421);
        assert_eq!(
            ask(tcp(), &[host, ("origin", "http://evil.test")])
                .await
                .status(),
            403
        );
    }

    #[tokio::test]
    async fn the_unix_socket_takes_any_name() {
        let door = Door::of_user(0).await;
        assert_eq!(ask(door.clone(), &[("host", "muster")]).await.status(), 200);
        let foreign = [("host", "muster"), ("origin", "http://evil.test")];
        assert_eq!(ask(door, &foreign).await.status(), 403);
    }

    #[tokio::test]
    async fn refusals_and_answers_carry_the_safety_headers() {
        for host in ["localhost", "evil.test"] {
            let response = ask(tcp(), &[("host", host)]).await;
            let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
            assert_eq!(header("x-content-type-options"), "nosniff");
            assert_eq!(header("cache-control"), "no-store");
            assert!(header("content-security-policy").contains("default-src 'none'"));
        }
    }

    #[tokio::test]
    async fn refusals_of_the_libraries_below_have_our_shape() {
        let number =
            async |axum::extract::Path(number): axum::extract::Path<u8>| number.to_string();
        let router = Router::new().route("/{number}", axum::routing::post(number));
        let front = Front::new(router, HostNames::new(&[]));
        for (method, path, status) in [
            ("POST", "/x", 400),
            ("POST", "/%ff", 400),
            ("GET", "/1", 405),
            ("POST", "/a/b", 404),
        ] {
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header("host", "localhost");
            let request = request.body(Body::empty()).unwrap();
            let response = front.clone().answer(tcp(), request).await;
            assert_eq!(response.status(), status, "{method} {path}");
            let body = axum::body::to_bytes(response.into_body(), 10_000)
                .await
                .unwrap();
            let view: service::view::ErrorView = serde_json::from_slice(&body).unwrap();
            assert!(
                !view.code.is_empty() && !view.message.is_empty(),
                "{view:?}"
            );
        }
    }
}

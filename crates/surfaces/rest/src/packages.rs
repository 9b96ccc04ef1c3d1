//! The package index for the builds of this machine (PEP 503 and 691), on a loopback port of its own. Whoever does not know
//! its password gets nothing: the machine's indexes may be private.

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use serde_json::json;
use service::{PackageLine, ServiceError, normal_project};
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;

/// What pip and uv ask for; the other form is for programs that know nothing newer.
const JSON: &str = "application/vnd.pypi.simple.v1+json";
const HTML: &str = "text/html; charset=utf-8";

/// The port, with the password of this process.
#[derive(Debug)]
pub struct PackagePort {
    listener: tokio::net::TcpListener,
    login: String,
}

impl PackagePort {
    /// Takes any free port of loopback.
    ///
    /// # Errors
    /// There is none.
    pub async fn bind(password: &str) -> std::io::Result<Self> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let login = format!("muster:{password}");
        Ok(Self { listener, login })
    }

    /// The index as pip and uv are told of it.
    ///
    /// # Errors
    /// The port is gone.
    pub fn url(&self) -> std::io::Result<String> {
        let address = self.listener.local_addr()?;
        Ok(format!("http://{}@{address}/simple", self.login))
    }
}

/// Serves packages until `shutdown`.
///
/// # Errors
/// The port cannot be used any more.
pub async fn serve_packages(
    port: PackagePort,
    service: service::Handle,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let authorization = format!("Basic {}", base64(port.login.as_bytes()));
    let router = Router::new()
        .route("/simple/{project}/", get(page))
        .route("/simple/{project}", get(to_page))
        .route("/files/{project}/{filename}", get(file))
        .layer(from_fn_with_state(authorization, check))
        .with_state(service);
    let stopped = shutdown.cancelled_owned();
    axum::serve(port.listener, router)
        .with_graceful_shutdown(stopped)
        .await
}

async fn check(State(authorization): State<String>, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION);
    if given.is_some_and(|given| given.as_bytes() == authorization.as_bytes()) {
        return next.run(request).await;
    }
    let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"muster packages\"")];
    let why = "this index is for the builds of this machine's node only\n";
    (StatusCode::UNAUTHORIZED, challenge, why).into_response()
}

async fn to_page(Path(project): Path<String>) -> Redirect {
    Redirect::permanent(&format!("/simple/{}/", normal_project(&project)))
}

async fn page(
    State(service): State<service::Handle>,
    Path(project): Path<String>,
    headers: HeaderMap,
) -> Response {
    let lines = match service.package_page(&project).await {
        Ok(lines) => lines,
        Err(error) => return refused(&error),
    };
    let project = normal_project(&project);
    let accept = headers.get(header::ACCEPT);
    let wants_json = accept.is_some_and(|accept| {
        let text = String::from_utf8_lossy(accept.as_bytes());
        text.contains(JSON)
    });
    match wants_json {
        true => ([(header::CONTENT_TYPE, JSON)], json_page(&project, &lines)).into_response(),
        false => ([(header::CONTENT_TYPE, HTML)], html_page(&project, &lines)).into_response(),
    }
}

async fn file(
    State(service): State<service::Handle>,
    Path((project, filename)): Path<(String, String)>,
) -> Response {
    match service.package_file(&project, &filename).await {
        Ok((length, file)) => {
            let headers = [
                (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
                (header::CONTENT_LENGTH, length.to_string()),
            ];
            (headers, Body::from_stream(ReaderStream::new(file))).into_response()
        }
        Err(error) => refused(&error),
    }
}

/// Always as an answer that is not tried again: pip repeats others five times, and this node has asked everybody.
fn refused(error: &ServiceError) -> Response {
    tracing::info!(%error, "a build wants a package that is not to be had");
    let mut text = error.message.clone();
    text.push('\n');
    (StatusCode::NOT_FOUND, text).into_response()
}

fn json_page(project: &str, lines: &[PackageLine]) -> String {
    let file = |line: &PackageLine| {
        let mut hashes = serde_json::Map::new();
        if !line.sha256.is_empty() {
            hashes.insert("sha256".to_owned(), json!(line.sha256));
        }
        let mut file = json!({
            "filename": line.filename,
            "url": format!("/files/{project}/{}", line.filename),
            "hashes": hashes,
            "yanked": line.yanked,
        });
        if !line.requires_python.is_empty() {
            file["requires-python"] = json!(line.requires_python);
        }
        file
    };
    let files: Vec<_> = lines.iter().map(file).collect();
    let page = json!({"meta": {"api-version": "1.0"}, "name": project, "files": files});
    page.to_string()
}

fn html_page(project: &str, lines: &[PackageLine]) -> String {
    let link = |line: &PackageLine| {
        let hash = match line.sha256.as_str() {
            "" => String::new(),
            hash => format!("#sha256={hash}"),
        };
        let python = match line.requires_python.as_str() {
            "" => String::new(),
            python => format!(" data-requires-python=\"{}\"", escaped(python)),
        };
        let yanked = if line.yanked { " data-yanked=\"\"" } else { "" };
        let name = escaped(&line.filename);
        format!(
            "<a href=\"/files/{project}/{name}{}\"{python}{yanked}>{name}</a><br>\n",
            escaped(&hash)
        )
    };
    let links: String = lines.iter().map(link).collect();
    format!("<!DOCTYPE html>\n<html><body>\n{links}</body></html>\n")
}

/// As RFC 4648 writes it.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |three: &[u8]| {
        let byte = |place: usize| u32::from(three.get(place).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        let digit = move |place: usize| match place <= three.len() {
            true => char::from(DIGITS[(bits >> (18 - 6 * place) & 63) as usize]),
            false => '=',
        };
        [digit(0), digit(1), digit(2), digit(3)]
    };
    bytes.chunks(3).flat_map(group).collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_written_as_clients_write_them() {
        let known = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("muster:x", "bXVzdGVyOng="),
        ];
        for (text, written) in known {
            assert_eq!(base64(text.as_bytes()), written);
        }
    }

    #[test]
    fn both_forms_of_a_page_say_the_same() {
        let lines = [PackageLine {
            filename: "tiny-1.0-py3-none-any.whl".to_owned(),
            sha256: "00".repeat(32),
            requires_python: ">=3.8".to_owned(),
            yanked: false,
        }];
        let html = html_page("tiny", &lines);
        let link = format!(
            "href=\"/files/tiny/tiny-1.0-py3-none-any.whl#sha256={}\" data-requires-python=\"&gt;=3.8\"",
            "00".repeat(32)
        );
        assert!(html.contains(&link), "{html}");
        let page: serde_json::Value = serde_json::from_str(&json_page("tiny", &lines)).unwrap();
        let file = &page["files"][0];
        assert_eq!(file["url"], "/files/tiny/tiny-1.0-py3-none-any.whl");
        assert_eq!(file["hashes"]["sha256"], "00".repeat(32));
        assert_eq!(file["requires-python"], ">=3.8");
        assert_eq!(page["meta"]["api-version"], "1.0");
    }
}

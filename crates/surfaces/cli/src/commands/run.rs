//! `muster run`.

mod arguments;
mod follow;
mod parameters;
mod request;
mod sweep;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bytes::Bytes;
use hyper::header::HeaderValue;
use rest::wire::{SubmitReply, SubmitRequest};

use crate::capture::{Capture, CaptureOptions, capture};
use crate::client::{Client, Request, header_value, parse};
use crate::environment::{CapturedEnvironment, EnvironmentOptions, find};
use crate::error::Error;
use crate::output::amounts::plain;
use crate::retry::while_unavailable;
use crate::terminal::Terminal;
use crate::upload::upload;

use super::{IDEMPOTENCY_KEY, Session, WRITE_WINDOW};

pub(super) use arguments::{Arguments, Needs, pair};
pub(super) use follow::follow;
pub(super) use parameters::parameters;
pub(super) use request::resources;

/// How often a capture is begun again because files change under it: an editor saves once, a build goes on.
const CAPTURE_ATTEMPTS: u32 = 3;

/// Submits, prints the id, and follows if asked to.
pub(super) async fn run(arguments: Arguments, session: &Session) -> Result<ExitCode, Error> {
    let key = header_value(&key_of(arguments.key.as_deref()), "--key")?;
    let given = parameters(arguments.sweep.params.as_deref(), &arguments.parameters)?;
    let source = match arguments.source.without_code() {
        true => None,
        false => Some(store_code(&arguments, session).await?),
    };
    let environment = store_environment(&arguments, source.as_ref(), session).await?;
    let mut request = request::request(&arguments, source.as_ref(), environment.as_ref());
    request.parameters = given;
    if let Some(text) = &arguments.sweep.sweep {
        sweep::submit(request, (text, &arguments.sweep), &key, session).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let bytes = submit(&request, &key, &session.client, &session.terminal).await?;
    let reply: SubmitReply = parse(&bytes, "a submission's answer")?;
    announce(arguments.follow, &reply, &bytes, session)?;
    match arguments.follow {
        true => follow(&reply, session).await,
        false => Ok(ExitCode::SUCCESS),
    }
}

/// Names this submission, so that asking twice submits once.
pub(super) fn key_of(given: Option<&str>) -> String {
    let made = || uuid::Uuid::new_v4().to_string();
    given.map_or_else(made, str::to_owned)
}

/// Captures the code and brings it to the node. A file that changes meanwhile begins it again.
async fn store_code(arguments: &Arguments, session: &Session) -> Result<Capture, Error> {
    let options = CaptureOptions {
        directory: directory(arguments.source.directory())?,
        max_file_bytes: arguments.source.max_file_size,
        max_tree_bytes: arguments.source.max_tree_size,
        cache_directory: session.surroundings.cache_directory.clone(),
    };
    let mut attempt = 1;
    loop {
        match store_code_once(&options, session).await {
            Err(Error::Changed { .. }) if attempt < CAPTURE_ATTEMPTS => attempt += 1,
            Ok(captured) => {
                for warning in &captured.warnings {
                    session.terminal.warn(&plain(warning));
                }
                return Ok(captured);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Finds the packages, says in a line which, and brings their description to the node.
async fn store_environment(
    arguments: &Arguments,
    source: Option<&Capture>,
    session: &Session,
) -> Result<Option<CapturedEnvironment>, Error> {
    let options = EnvironmentOptions {
        mode: arguments.packages.mode,
        file: arguments.packages.file.clone(),
        root: source.map(|captured| captured.root.clone()),
        working_directory: source
            .map(|captured| captured.working_directory.clone())
            .unwrap_or_default(),
    };
    let found = tokio::task::spawn_blocking(move || find(&options))
        .await
        .map_err(Error::Worker)??;
    for warning in &found.warnings {
        session.terminal.warn(&plain(warning));
    }
    session
        .terminal
        .note(&format!("packages: {}", plain(&found.summary)));
    let captured = found.captured()?;
    if let Some(captured) = &captured {
        let blobs = std::slice::from_ref(&captured.blob);
        upload(blobs, &session.client, &session.terminal).await?;
    }
    Ok(captured)
}

async fn store_code_once(options: &CaptureOptions, session: &Session) -> Result<Capture, Error> {
    let progress = session.terminal.progress("reading the code");
    let options = options.clone();
    let captured = tokio::task::spawn_blocking(move || capture(&options, &progress))
        .await
        .map_err(Error::Worker)??;
    upload(&captured.blobs, &session.client, &session.terminal).await?;
    Ok(captured)
}

fn directory(given: Option<&Path>) -> Result<PathBuf, Error> {
    match given {
        Some(directory) => Ok(directory.to_owned()),
        None => std::env::current_dir().map_err(|source| Error::Source {
            step: "find the directory",
            path: ".".into(),
            source,
        }),
    }
}

/// Submits with the same key until the cluster has a leader that answers.
pub(super) async fn submit(
    request: &SubmitRequest,
    key: &HeaderValue,
    client: &Client,
    terminal: &Terminal,
) -> Result<Bytes, Error> {
    let submit = async || {
        let request = Request::json("/experiments", request).header(IDEMPOTENCY_KEY, key.clone());
        client.ask(request).await
    };
    while_unavailable(WRITE_WINDOW, terminal, submit).await
}

/// Prints the id: alone where a program reads it, and to standard error where the experiment's output follows.
pub(super) fn announce(
    follows: bool,
    reply: &SubmitReply,
    bytes: &Bytes,
    session: &Session,
) -> Result<(), Error> {
    let terminal = &session.terminal;
    for warning in &reply.warnings {
        terminal.warn(&plain(warning));
    }
    for learned in &reply.learned {
        terminal.note(&format!("asks for {}", plain(learned)));
    }
    let (id, name) = (plain(&reply.id), plain(&reply.name));
    if terminal.json {
        return terminal.print(&String::from_utf8_lossy(bytes));
    }
    if follows {
        terminal.note(&format!("submitted {name} as {id}"));
        return Ok(());
    }
    if terminal.out.is_terminal {
        return terminal.print(&format!("{id}  {name}  (muster logs -f {id})"));
    }
    terminal.print(&id)
}

#[cfg(test)]
mod tests;

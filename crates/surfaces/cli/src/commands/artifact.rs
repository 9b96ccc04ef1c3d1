//! `muster artifact`.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use hyper::Method;
use rest::wire::ArtifactAccepted;
use tokio::sync::mpsc;

use crate::client::{Payload, Request, encode, parse};
use crate::error::Error;
use crate::output::amounts::bytes;

use super::Session;

/// Bytes read at a time.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces that wait for the connection.
const PIECES_WAITING: usize = 4;

/// Options of `muster artifact`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Id, the start of one, or a name; it must be running
    experiment: String,
    /// The file: a plot, a table, a text, anything
    file: PathBuf,
    /// What it is called (default: the name of the file)
    #[arg(long, value_name = "PATH")]
    name: Option<String>,
    /// Rank of an experiment on several nodes; default: the first
    #[arg(long, value_name = "NUMBER")]
    rank: Option<u32>,
}

pub(super) async fn run(arguments: &Arguments, session: &Session) -> Result<(), Error> {
    let file = &arguments.file;
    let own = file.file_name().and_then(|name| name.to_str());
    let name = arguments.name.as_deref().or(own).unwrap_or_default();
    let mut path = format!(
        "/experiments/{}/artifacts?name={}",
        encode(&arguments.experiment),
        encode(name)
    );
    if let Some(rank) = arguments.rank {
        path.push_str(&format!("&rank={rank}"));
    }
    let opened = File::open(file).and_then(|open| Ok((open.metadata()?.len(), open)));
    let (left, open) = opened.map_err(unreadable(file))?;
    let (sender, receiver) = mpsc::channel(PIECES_WAITING);
    let reading = tokio::task::spawn_blocking(move || send_pieces(open, left, &sender));
    let payload = Payload::Pieces { receiver, left };
    let sent = session
        .client
        .ask(Request::new(Method::PUT, path, payload))
        .await;
    reading
        .await
        .map_err(Error::Worker)?
        .map_err(unreadable(file))?;
    let answer = sent?;
    if session.terminal.json {
        return session.terminal.print(&String::from_utf8_lossy(&answer));
    }
    let kept: ArtifactAccepted = parse(&answer, "an artifact's answer")?;
    let (path, id) = (&kept.path, &kept.experiment);
    let text = format!(
        "{path} of attempt {} of {id} ({}): `muster get {id} {path}` fetches it when that has ended",
        kept.attempt,
        bytes(kept.bytes)
    );
    session.terminal.print(&text)
}

fn send_pieces(
    mut file: File,
    mut left: u64,
    sender: &mpsc::Sender<std::io::Result<Bytes>>,
) -> std::io::Result<()> {
    while left > 0 {
        let size = usize::try_from(left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        let mut piece = vec![0; size];
        if let Err(error) = file.read_exact(&mut piece) {
            // The request must fail rather than wait for the rest.
            drop(sender.blocking_send(Err(error.kind().into())));
            return Err(error);
        }
        if sender.blocking_send(Ok(piece.into())).is_err() {
            return Ok(()); // The request failed, and says why.
        }
        left -= size as u64;
    }
    Ok(())
}

fn unreadable(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Source {
        step: "read",
        path,
        source,
    }
}

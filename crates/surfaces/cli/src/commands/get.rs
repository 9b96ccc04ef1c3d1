//! `muster get`.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use hyper::Method;
use rest::wire::{OutputView, OutputsView};
use types::{link_stays_inside, validate_tree_path};

use crate::client::{Payload, Request, encode, next_piece, parse};
use crate::download::{Download, make_link, place};
use crate::error::Error;
use crate::output;
use crate::output::amounts::bytes;
use crate::retry::while_unavailable;

use super::{READ_WINDOW, Session};

/// Options of `muster get`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Id, the start of one, or a name
    experiment: String,
    /// Only this file, or what is below this directory
    path: Option<String>,
    /// Where to (default: a directory with the id as its name); - prints one file
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// Of this attempt; default: the last one that left something
    #[arg(long, value_name = "NUMBER")]
    attempt: Option<u32>,
    /// List what is there, and fetch nothing
    #[arg(short, long)]
    list: bool,
}

pub(super) async fn run(arguments: &Arguments, session: &Session) -> Result<(), Error> {
    let mut path = format!("/experiments/{}/outputs", encode(&arguments.experiment));
    if let Some(attempt) = arguments.attempt {
        path.push_str(&format!("?attempt={attempt}"));
    }
    let get = async || session.client.get(&path).await;
    let bytes = while_unavailable(READ_WINDOW, &session.terminal, get).await?;
    if arguments.list && arguments.path.is_none() {
        return session.print(&bytes, "a list of outputs", output::outputs);
    }
    let view: OutputsView = parse(&bytes, "a list of outputs")?;
    let wanted = select(&view, arguments.path.as_deref())?;
    if arguments.list {
        let part = OutputsView {
            entries: wanted.into_iter().cloned().collect(),
            ..view.clone()
        };
        let text = serde_json::to_vec(&part).expect("wire types have string keys only");
        return session.print(&text.into(), "a list of outputs", output::outputs);
    }
    if arguments.to.as_deref() == Some(Path::new("-")) {
        return print_one(&wanted, session).await;
    }
    let default = || PathBuf::from(&view.experiment);
    let to = arguments.to.clone().unwrap_or_else(default);
    fetch(&view, &wanted, &to, session).await
}

/// The entries that a path names; all without one.
fn select<'a>(view: &'a OutputsView, path: Option<&str>) -> Result<Vec<&'a OutputView>, Error> {
    let Some(asked) = path else {
        return Ok(view.entries.iter().collect());
    };
    let inside = asked.trim_end_matches('/').trim_start_matches("./");
    let is_meant = |entry: &&OutputView| {
        let rest = entry.path.strip_prefix(inside);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let found: Vec<_> = view.entries.iter().filter(is_meant).collect();
    if found.is_empty() {
        return Err(Error::NoSuchOutput {
            path: asked.to_owned(),
            experiment: view.experiment.clone(),
            attempt: view.attempt,
        });
    }
    Ok(found)
}

/// Where an entry goes below the destination: ranks of an experiment on several nodes do not mix.
fn place_of(view: &OutputsView, entry: &OutputView) -> String {
    match view.entries.iter().any(|entry| entry.rank > 0) {
        true => format!("rank-{}/{}", entry.rank, entry.path),
        false => entry.path.clone(),
    }
}

/// The list comes from another machine, which may be anybody's by now: nothing is written outside the destination.
fn check(view: &OutputsView) -> Result<(), Error> {
    for entry in &view.entries {
        let bad = |problem: String| Error::Download {
            path: entry.path.clone(),
            problem,
        };
        validate_tree_path(&entry.path).map_err(|error| bad(error.to_string()))?;
        let same_rank = view.entries.iter().filter(|one| one.rank == entry.rank);
        if entry.kind == "link" {
            let links = same_rank.filter(|one| one.kind == "link");
            let links: BTreeSet<&str> = links.map(|one| one.path.as_str()).collect();
            if !link_stays_inside(&entry.path, &entry.target, &links) {
                return Err(bad("it is a link that leads out".to_owned()));
            }
        }
    }
    Ok(())
}

async fn fetch(
    view: &OutputsView,
    wanted: &[&OutputView],
    to: &Path,
    session: &Session,
) -> Result<(), Error> {
    check(view)?;
    let total: u64 = wanted.iter().map(|entry| entry.bytes).sum();
    let progress = session.terminal.progress("outputs");
    let (mut fetched, mut there) = (0_u64, 0_u64);
    for entry in wanted {
        let name = place_of(view, entry);
        match entry.kind.as_str() {
            "directory" => place(to, &format!("{name}/."))?,
            "file" => match Download::begin(to, &name, entry)? {
                Some(mut download) => {
                    stream(&entry.hash, session, |piece| download.write(piece)).await?;
                    download.finish()?;
                    fetched += 1;
                }
                None => there += 1,
            },
            _ => {}
        }
    }
    // Links last, so that nothing is written through one.
    for entry in wanted.iter().filter(|entry| entry.kind == "link") {
        make_link(to, &place_of(view, entry), &entry.target)?;
    }
    drop(progress);
    for line in &view.left_out {
        session.terminal.warn(&format!("not kept: {line}"));
    }
    let (id, attempt, to) = (&view.experiment, view.attempt, to.display());
    let already = match there {
        0 => String::new(),
        there => format!(", {there} were there already"),
    };
    let files = if fetched == 1 { "file" } else { "files" };
    let text = format!(
        "{fetched} {files} of attempt {attempt} of {id} in {to} ({} in all{already})",
        bytes(total)
    );
    if session.terminal.json {
        let report = serde_json::json!({
            "experiment": id, "attempt": attempt, "to": to.to_string(), "fetched": fetched,
            "already_there": there, "bytes": total, "left_out": view.left_out,
        });
        return session.terminal.print(&report.to_string());
    }
    session.terminal.print(&text)
}

/// Prints the only file among these.
async fn print_one(wanted: &[&OutputView], session: &Session) -> Result<(), Error> {
    let files: Vec<_> = wanted.iter().filter(|one| one.kind == "file").collect();
    let [only] = files.as_slice() else {
        return Err(Error::NotOneFile { count: files.len() });
    };
    let mut out = std::io::stdout().lock();
    let write = |piece: &[u8]| out.write_all(piece).map_err(Error::Output);
    stream(&only.hash, session, write).await?;
    std::io::stdout().flush().map_err(Error::Output)
}

/// The bytes of a blob, piece by piece.
async fn stream(
    hash: &str,
    session: &Session,
    mut take: impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let path = format!("/blobs/{}", encode(hash));
    let request = Request::new(Method::GET, path, Payload::empty());
    let response = session.client.open(request).await?;
    let mut body = response.into_body();
    while let Some(piece) = next_piece(&mut body).await? {
        take(&piece)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(rank: u32, path: &str, kind: &str, target: &str) -> OutputView {
        OutputView {
            rank,
            path: path.to_owned(),
            kind: kind.to_owned(),
            target: target.to_owned(),
            ..OutputView::default()
        }
    }

    fn view(entries: Vec<OutputView>) -> OutputsView {
        OutputsView {
            experiment: "0a1b2c3d".to_owned(),
            attempt: 2,
            entries,
            left_out: Vec::new(),
        }
    }

    #[test]
    fn a_path_names_a_file_or_what_is_below_a_directory() {
        let all = ["out/a", "out/b", "outer/c", "d"].map(|path| entry(0, path, "file", ""));
        let view = view(all.to_vec());
        let paths = |asked: &str| -> Vec<String> {
            let found = select(&view, Some(asked)).unwrap();
            found.iter().map(|entry| entry.path.clone()).collect()
        };
        assert_eq!(paths("out/"), ["out/a", "out/b"]);
        assert_eq!(paths("./d"), ["d"]);
        assert_eq!(select(&view, None).unwrap().len(), 4);
        let refused = select(&view, Some("ou")).unwrap_err();
        assert!(refused.hint().contains("--list"), "{}", refused.hint());
    }

    #[test]
    fn a_list_that_leads_out_of_the_destination_is_refused() {
        for bad in [
            entry(0, "../x", "file", ""),
            entry(0, "/etc/x", "file", ""),
            entry(0, "out/l", "link", "../../x"),
            entry(0, "out/l", "link", "/etc/passwd"),
        ] {
            assert!(check(&view(vec![bad.clone()])).is_err(), "{bad:?}");
        }
        check(&view(vec![entry(0, "out/l", "link", "../a")])).unwrap();
    }

    #[test]
    fn ranks_do_not_mix() {
        let view = view(vec![entry(0, "a", "file", ""), entry(1, "a", "file", "")]);
        let places: Vec<_> = view
            .entries
            .iter()
            .map(|one| place_of(&view, one))
            .collect();
        assert_eq!(places, ["rank-0/a", "rank-1/a"]);
    }
}

//! The package indexes that this machine is set up for, read by its own Python: its certificates, proxies and logins.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Command;

use super::{Environments, index, python};

/// Reads pages and files.
const PROGRAM: &str = include_str!("upstream.py");
/// Carries what it is to do.
const WORDS_VARIABLE: &str = "MUSTER_INDEX_WORDS";
/// What both pip and uv use if nobody says otherwise.
const DEFAULT_INDEX: &str = "https://pypi.org/simple";
/// The program's word for a project that no index has.
const NOT_FOUND: i32 = 3;
/// Longest time for a page; a node without a way out is told so within it.
const PAGE_PATIENCE: Duration = Duration::from_secs(60);
/// Longest time for a file: 3 GB at 20 Mbit/s.
const FILE_PATIENCE: Duration = Duration::from_mins(20);
/// Largest page that is read: of the largest projects at pypi.org 10 MB.
const MAX_PAGE_BYTES: usize = 64 << 20;

/// A Python, and what this machine is told about indexes.
pub(super) type Settings = (String, Vec<(String, String)>);

/// A file that an index offers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct OfferedFile {
    /// Its name, which says project, version and platform.
    pub filename: String,
    /// Where it is; may hold a password.
    pub url: String,
    /// SHA-256 of its bytes; empty: the index does not tell.
    pub sha256: String,
    /// Which Python it needs, as PEP 440 writes it; empty: any.
    pub requires_python: String,
    /// Taken back by its author.
    pub yanked: bool,
}

/// Why an index gives nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// It has no such project.
    #[error("the machine's package index has no such project")]
    NotFound,
    /// Nobody answers, or not as an index does.
    #[error("{0}")]
    Unreachable(String),
}

impl Environments {
    /// The files that the machine's indexes offer for a project.
    ///
    /// # Errors
    /// None of them has the project, or none answers.
    pub(crate) async fn offered_files(
        &self,
        host: &[(String, String)],
        project: &str,
    ) -> Result<Vec<OfferedFile>, IndexError> {
        let settings = self.index_settings(host).await?;
        let urls = urls(&settings);
        if urls.is_empty() {
            let why = "no package index is to be used on this machine (PIP_NO_INDEX)";
            return Err(IndexError::Unreachable(why.to_owned()));
        }
        let pages = urls.iter().map(|url| format!("{url}/{project}/"));
        let words: Vec<String> = std::iter::once("page".to_owned()).chain(pages).collect();
        let output = read_index(host, &settings, &words, PAGE_PATIENCE).await?;
        if output.status.code() == Some(NOT_FOUND) {
            return Err(IndexError::NotFound);
        }
        let told = succeeded(output)?;
        if told.len() > MAX_PAGE_BYTES {
            return Err(IndexError::Unreachable("its page is too long".to_owned()));
        }
        serde_json::from_slice(&told).map_err(|error| IndexError::Unreachable(error.to_string()))
    }

    /// Stores the file at an address of [`Self::offered_files`] as `path`.
    ///
    /// # Errors
    /// Nobody answers, or the disk is full.
    pub(crate) async fn download_package(
        &self,
        host: &[(String, String)],
        url: &str,
        path: &Path,
    ) -> Result<(), IndexError> {
        let settings = self.index_settings(host).await?;
        let words = ["file", url, &path.to_string_lossy()].map(str::to_owned);
        let output = read_index(host, &settings, &words, FILE_PATIENCE).await?;
        succeeded(output).map(drop)
    }

    /// The settings of the node's process and of pip, kept for as long as it runs.
    async fn index_settings(&self, host: &[(String, String)]) -> Result<Settings, IndexError> {
        let settings = self.settings.get_or_try_init(|| async {
            let python = python::find("", host).await;
            let python = python.map_err(|lines| IndexError::Unreachable(lines.join("; ")))?;
            let settings = index::settings(&python, &self.index, host).await;
            Ok((python.executable, settings))
        });
        settings.await.cloned()
    }
}

async fn read_index(
    host: &[(String, String)],
    (python, settings): &Settings,
    words: &[String],
    patience: Duration,
) -> Result<Output, IndexError> {
    let variables = host.iter().chain(settings);
    let run = Command::new(python)
        .args(["-I", "-c", PROGRAM])
        .env_clear()
        .envs(variables.map(|(name, value)| (name, value)))
        .env(WORDS_VARIABLE, serde_json::json!(words).to_string())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(patience, run).await {
        Ok(output) => output.map_err(|error| IndexError::Unreachable(error.to_string())),
        Err(_late) => {
            let why = format!("no answer within {} s", patience.as_secs());
            Err(IndexError::Unreachable(why))
        }
    }
}

fn succeeded(output: Output) -> Result<Vec<u8>, IndexError> {
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said.lines().rfind(|line| !line.trim().is_empty());
    let line = line.unwrap_or("the program that reads it failed without a word");
    Err(IndexError::Unreachable(line.to_owned()))
}

/// Addresses of the indexes, the first first; none where there is to be none.
fn urls((_, settings): &Settings) -> Vec<String> {
    let value = |name: &str| {
        let found = settings.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    };
    if value("PIP_NO_INDEX").is_some_and(|value| !["", "0", "false"].contains(&value)) {
        return Vec::new();
    }
    let first = value("PIP_INDEX_URL").unwrap_or(DEFAULT_INDEX);
    let more = value("PIP_EXTRA_INDEX_URL").unwrap_or_default();
    // uv may give an index a name: `name=https://…`.
    let address = |word: &str| match word.split_once('=') {
        Some((name, url)) if !name.contains(['/', ':']) => url.to_owned(),
        _ => word.to_owned(),
    };
    let all = std::iter::once(first).chain(more.split_ascii_whitespace());
    all.map(|word| address(word).trim_end_matches('/').to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_indexes_of_the_machine_are_asked_the_first_first() {
        let told = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            let pairs = pairs.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            urls(&(String::new(), pairs.collect()))
        };
        assert_eq!(told(&[]), [DEFAULT_INDEX]);
        let several = [
            ("PIP_INDEX_URL", "http://a.example/simple/"),
            (
                "PIP_EXTRA_INDEX_URL",
                "http://b.example/x own=http://c.example/y",
            ),
        ];
        let all = [
            "http://a.example/simple",
            "http://b.example/x",
            "http://c.example/y",
        ];
        assert_eq!(told(&several), all);
        assert!(told(&[("PIP_NO_INDEX", "1")]).is_empty());
        assert_eq!(told(&[("PIP_NO_INDEX", "false")]), [DEFAULT_INDEX]);
    }
}

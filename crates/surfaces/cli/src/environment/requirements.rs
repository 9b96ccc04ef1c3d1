//! Requirements files: what they include, what of them is local, and what must not be sent.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use types::{EnvironmentFile, validate_tree_path};

use super::problem;
use crate::error::Error;

/// Most files that one may include: a cycle ends earlier, as each is read once.
const MAX_FILES: usize = 64;
/// Largest of them.
const MAX_FILE_BYTES: u64 = 8 << 20;

/// Files as they are sent.
#[derive(Debug, Default)]
pub(super) struct Files {
    files: BTreeMap<String, String>,
    /// Directories of the code that were named as packages.
    pub(super) local: Vec<String>,
    /// Requirements in all of them.
    pub(super) count: usize,
    /// Some line has a hash.
    pub(super) hashed: bool,
    pub(super) warnings: Vec<String>,
}

impl Files {
    /// Adds a file as it is, but for passwords.
    pub(super) fn add(&mut self, root: &Path, path: &str) -> Result<String, Error> {
        let text = read(root, path)?;
        let clean = without_credentials(&text);
        if clean != text {
            self.warnings.push(format!("{path} holds passwords of package indexes, which are not sent: the machine that builds uses its own settings for pip or uv"));
        }
        self.files.insert(path.to_owned(), clean.clone());
        Ok(clean)
    }

    /// Adds a requirements file and those that it includes.
    pub(super) fn add_requirements(&mut self, root: &Path, path: &str) -> Result<(), Error> {
        let mut waiting = vec![path.to_owned()];
        while let Some(path) = waiting.pop() {
            if self.files.contains_key(&path) {
                continue;
            }
            if self.files.len() == MAX_FILES {
                return Err(problem(
                    format!("{path} is one file too many: {MAX_FILES} are taken"),
                    "write them into one",
                ));
            }
            let text = self.add(root, &path)?;
            let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
            let mut kept = String::with_capacity(text.len());
            for line in text.lines() {
                match Line::of(line) {
                    Line::Include(other) => waiting.push(joined(directory, &other)?),
                    Line::Local(other) => {
                        self.local.push(joined(directory, &other)?);
                        kept.push_str("# in the code: ");
                    }
                    Line::Requirement => self.count += 1,
                    Line::Other => {}
                }
                self.hashed |= line.contains("--hash");
                kept.push_str(line);
                kept.push('\n');
            }
            self.files.insert(path, kept);
        }
        Ok(())
    }

    /// Adds a file that is not in the code.
    pub(super) fn add_made(&mut self, path: &str, content: String) {
        self.files.insert(path.to_owned(), content);
    }

    /// Sorted by path.
    pub(super) fn finish(self) -> Vec<EnvironmentFile> {
        let file = |(path, content)| EnvironmentFile {
            path,
            content: Bytes::from(String::into_bytes(content)),
        };
        self.files.into_iter().map(file).collect()
    }
}

/// What a line of a requirements file says.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    /// Another file belongs to it.
    Include(String),
    /// A directory as a package.
    Local(String),
    Requirement,
    /// A comment, an option, a line that goes on.
    Other,
}

impl Line {
    fn of(line: &str) -> Self {
        let line = line.split(" #").next().unwrap_or_default().trim();
        for option in ["-r", "--requirement", "-c", "--constraint"] {
            if let Some(value) = option_value(line, option) {
                return Self::Include(value);
            }
        }
        for option in ["-e", "--editable"] {
            if let Some(value) = option_value(line, option) {
                return match value.contains("://") && !value.starts_with("file:") {
                    true => Self::Requirement,
                    false => Self::Local(path_of(&value)),
                };
            }
        }
        let starts_path = line == "." || line.starts_with("./") || line.starts_with("../");
        if starts_path || line.starts_with("file:") {
            return Self::Local(path_of(line));
        }
        let is_name = line.starts_with(|c: char| c.is_ascii_alphanumeric());
        if is_name {
            Self::Requirement
        } else {
            Self::Other
        }
    }
}

fn option_value(line: &str, option: &str) -> Option<String> {
    let rest = line.strip_prefix(option)?;
    let separated = rest.starts_with([' ', '\t', '=']) || (option.len() == 2 && !rest.is_empty());
    let value = rest.trim_start_matches(['=', ' ', '\t']).trim();
    (separated && !value.is_empty()).then(|| value.to_owned())
}

/// The path without extras and scheme: `./pkg[gpu]` is `./pkg`.
fn path_of(text: &str) -> String {
    let text = text
        .trim_start_matches("file://")
        .trim_start_matches("file:");
    text.split(['[', ';'])
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// `path` as seen from the root, where `directory` is; empty: the root itself.
fn joined(directory: &str, path: &str) -> Result<String, Error> {
    let outside = || {
        problem(
            format!("{path} is not in the code, so that it cannot go along"),
            "put it into the code, or install it here and take the active Python's packages with --env-mode live",
        )
    };
    if path.starts_with('/') || path.contains("://") {
        return Err(outside());
    }
    let mut parts: Vec<&str> = directory
        .split('/')
        .filter(|part| !part.is_empty())
        .collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop().ok_or_else(outside)?;
            }
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    if !joined.is_empty() {
        validate_tree_path(&joined).map_err(|_bad| outside())?;
    }
    Ok(joined)
}

/// A file of the code as text.
pub(super) fn read(root: &Path, path: &str) -> Result<String, Error> {
    let file = root.join(path);
    let failed = |source| Error::Source {
        step: "read",
        path: file.clone(),
        source,
    };
    if file.metadata().map_err(failed)?.len() > MAX_FILE_BYTES {
        return Err(problem(
            format!("{path} has over {} MiB", MAX_FILE_BYTES >> 20),
            "is it a list of packages?",
        ));
    }
    std::fs::read_to_string(&file).map_err(failed)
}

/// The text without what stands before `@` in addresses of http and https.
pub(super) fn without_credentials(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        clean.push_str(before);
        let end = after
            .find(|c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\'' | ',' | '#' | '?'))
            .unwrap_or(after.len());
        let (authority, tail) = after.split_at(end);
        let is_http = before.ends_with("http://") || before.ends_with("https://");
        let host = match authority.rsplit_once('@') {
            Some((_, host)) if is_http => host,
            _ => authority,
        };
        clean.push_str(host);
        rest = tail;
    }
    clean.push_str(rest);
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_apart() {
        let path = |text: &str| text.to_owned();
        for (line, what) in [
            ("numpy==1.26.4", Line::Requirement),
            (
                "  torch>=2 ; python_version < '3.12'  # gpu",
                Line::Requirement,
            ),
            ("-r base.txt", Line::Include(path("base.txt"))),
            ("--constraint=limits.txt", Line::Include(path("limits.txt"))),
            ("-rbase.txt", Line::Include(path("base.txt"))),
            ("-e .", Line::Local(path("."))),
            ("-e ./pkg[gpu]", Line::Local(path("./pkg"))),
            ("-e git+https://host/x.git#egg=x", Line::Requirement),
            ("./wheels/own", Line::Local(path("./wheels/own"))),
            ("# a comment", Line::Other),
            ("    --hash=sha256:00", Line::Other),
            ("--index-url https://host/simple", Line::Other),
            ("--require-hashes", Line::Other),
            ("", Line::Other),
        ] {
            assert_eq!(Line::of(line), what, "{line}");
        }
    }

    #[test]
    fn passwords_of_indexes_are_not_sent_and_the_rest_stays() {
        for (text, clean) in [
            (
                "-i https://ann:secret@host/simple\nx==1\n",
                "-i https://host/simple\nx==1\n",
            ),
            (
                "url = \"https://${TOKEN}@host:8080/s\"",
                "url = \"https://host:8080/s\"",
            ),
            (
                "x @ git+ssh://git@host/x.git@v1",
                "x @ git+ssh://git@host/x.git@v1",
            ),
            (
                "x @ git+https://host/x.git@v1",
                "x @ git+https://host/x.git@v1",
            ),
            ("mail@example.org", "mail@example.org"),
        ] {
            assert_eq!(without_credentials(text), clean);
        }
    }

    #[test]
    fn included_files_come_along_and_what_is_outside_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| std::fs::write(root.path().join(path), text).unwrap();
        std::fs::create_dir(root.path().join("reqs")).unwrap();
        write(
            "reqs/gpu.txt",
            "-r ../base.txt\n-c limits.txt\ntorch\n-e ..\n",
        );
        write("base.txt", "-r reqs/gpu.txt\nnumpy==1 --hash=sha256:00\n");
        write("reqs/limits.txt", "numpy<2\n");
        let mut files = Files::default();
        files.add_requirements(root.path(), "reqs/gpu.txt").unwrap();
        assert_eq!((files.count, files.hashed), (3, true));
        assert_eq!(files.local, [String::new()]);
        let files = files.finish();
        let paths: Vec<_> = files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["base.txt", "reqs/gpu.txt", "reqs/limits.txt"]);
        assert!(files[1].content.ends_with(b"torch\n# in the code: -e ..\n"));
        for bad in ["-r ../outside.txt\n", "-r /etc/passwd\n", "-e ../own\n"] {
            write("bad.txt", bad);
            let mut files = Files::default();
            let error = files.add_requirements(root.path(), "bad.txt").unwrap_err();
            assert!(error.to_string().contains("not in the code"), "{error}");
        }
    }
}

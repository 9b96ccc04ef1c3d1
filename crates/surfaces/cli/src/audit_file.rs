//! The exported history: one JSON object a line, a first line that says what it is, the records, and the signed head.

use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};

use rest::wire::{LedgerHead, LedgerRecord};
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// First line of every such file.
const TITLE: &str = r#"{"muster_ledger":1}"#;
/// Longest line: a record's detail is part of a command, which has at most 64 KiB; JSON can make six bytes of one.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// A line after the first.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Record(LedgerRecord),
    Head(LedgerHead),
}

/// A file that is read.
#[derive(Debug)]
pub(crate) struct AuditFile {
    path: PathBuf,
    lines: BufReader<File>,
    number: usize,
    head: Option<LedgerHead>,
}

impl AuditFile {
    /// Opens a file and reads its first line.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|source| Error::Source {
            step: "open",
            path: path.to_owned(),
            source,
        })?;
        let mut file = Self {
            path: path.to_owned(),
            lines: BufReader::new(file),
            number: 0,
            head: None,
        };
        match file.line()?.as_deref() {
            Some(TITLE) => Ok(file),
            _ => Err(file.wrong("it was not made by `muster audit export` of this version")),
        }
    }

    /// The next record; `None` at the head, after which nothing may come.
    pub(crate) fn next_record(&mut self) -> Result<Option<LedgerRecord>, Error> {
        let Some(line) = self.line()? else {
            return Err(self.wrong("it ends without a head: its end is missing"));
        };
        match serde_json::from_str(&line) {
            Ok(Line::Record(record)) => Ok(Some(record)),
            Ok(Line::Head(head)) => {
                self.head = Some(head);
                match self.line()? {
                    None => Ok(None),
                    Some(_) => Err(self.wrong("something follows the head")),
                }
            }
            Err(error) => Err(self.wrong(&error.to_string())),
        }
    }

    /// The head, when all records were read.
    pub(crate) fn head(self) -> Result<LedgerHead, Error> {
        let missing = self.wrong("it has no head");
        self.head.ok_or(missing)
    }

    fn line(&mut self) -> Result<Option<String>, Error> {
        let mut line = String::new();
        let read = self
            .lines
            .by_ref()
            .take(MAX_LINE_BYTES)
            .read_line(&mut line);
        self.number += 1;
        match read {
            Ok(0) => Ok(None),
            Ok(_) if line.ends_with('\n') => {
                line.pop();
                Ok(Some(line))
            }
            Ok(_) => Err(self.wrong("the line is cut off or too long")),
            Err(source) => Err(Error::Source {
                step: "read",
                path: self.path.clone(),
                source,
            }),
        }
    }

    fn wrong(&self, problem: &str) -> Error {
        Error::AuditFile {
            path: self.path.clone(),
            line: self.number,
            problem: problem.to_owned(),
        }
    }
}

/// A file that is written: under another name until it is whole.
#[derive(Debug)]
pub(crate) struct AuditWriter {
    path: PathBuf,
    partial: PathBuf,
    file: BufWriter<File>,
}

impl AuditWriter {
    /// Begins a file; `path` must not exist.
    pub(crate) fn create(path: &Path) -> Result<Self, Error> {
        let mut name = path.as_os_str().to_owned();
        name.push(".partial");
        let partial = PathBuf::from(name);
        if path.exists() {
            let source = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
            return Err(written(path)(source));
        }
        let file = File::create(&partial).map_err(written(&partial))?;
        let mut writer = Self {
            path: path.to_owned(),
            partial,
            file: BufWriter::new(file),
        };
        writeln!(writer.file, "{TITLE}").map_err(written(&writer.partial))?;
        Ok(writer)
    }

    /// Adds a record.
    pub(crate) fn record(&mut self, record: &LedgerRecord) -> Result<(), Error> {
        self.line(&Line::Record(record.clone()))
    }

    /// Ends the file and gives it its name.
    pub(crate) fn finish(mut self, head: &LedgerHead) -> Result<(), Error> {
        self.line(&Line::Head(head.clone()))?;
        let file = self
            .file
            .into_inner()
            .map_err(std::io::IntoInnerError::into_error);
        file.and_then(|file| file.sync_all())
            .and_then(|()| std::fs::rename(&self.partial, &self.path))
            .map_err(written(&self.path))
    }

    fn line(&mut self, line: &Line) -> Result<(), Error> {
        let text = serde_json::to_string(line).expect("wire types have string keys only");
        writeln!(self.file, "{text}").map_err(written(&self.partial))
    }
}

fn written(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Source {
        step: "write",
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(sequence: u64) -> LedgerRecord {
        LedgerRecord {
            sequence,
            index: sequence,
            at: 5,
            author: "ana@n1".into(),
            action: "NodeAdmitted".into(),
            experiment: None,
            detail: "two\nlines".into(),
            hash: "00".repeat(32),
        }
    }

    fn head() -> LedgerHead {
        LedgerHead {
            cluster: "11".repeat(32),
            length: 2,
            hash: "00".repeat(32),
            attestations: Vec::new(),
            silent: Vec::new(),
        }
    }

    #[test]
    fn what_is_written_is_read_and_a_cut_anywhere_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history");
        let mut writer = AuditWriter::create(&path).unwrap();
        writer.record(&record(0)).unwrap();
        writer.record(&record(1)).unwrap();
        writer.finish(&head()).unwrap();
        assert!(AuditWriter::create(&path).is_err(), "never written over");

        let mut file = AuditFile::open(&path).unwrap();
        assert_eq!(file.next_record().unwrap(), Some(record(0)));
        assert_eq!(file.next_record().unwrap(), Some(record(1)));
        assert_eq!(file.next_record().unwrap(), None);
        assert_eq!(file.head().unwrap(), head());

        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let read = AuditFile::open(&path).and_then(|mut file| {
                while file.next_record()?.is_some() {}
                file.head()
            });
            let error = read.expect_err("a cut file is not whole");
            assert!(error.to_string().contains("line"), "{error}");
        }
    }
}

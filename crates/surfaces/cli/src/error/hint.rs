//! What to do about each error.

use std::path::PathBuf;

use rest::wire::SamplesView;

use super::Error;

/// What to do about `error`; empty if there is nothing to say.
pub(super) fn hint(error: &Error) -> String {
    match error {
            Error::NoNode { searched, left_over } => no_node_hint(searched, left_over),
            Error::SeveralNodes { names } => {
                let first = names.first().map_or("NAME", String::as_str);
                format!("say which one with --node {first} or MUSTER_NODE={first}")
            }
            Error::NoSuchNode { present, .. } if present.is_empty() => {
                "start one with `muster up`; a path or a URL works here too".to_owned()
            }
            Error::NoSuchNode { present, .. } => format!("these run: {}", present.join(", ")),
            Error::NodeAddress { .. } => {
                "write a name, the path of a socket, http://127.0.0.1:7717, or https://HOST:7717 with --pin".to_owned()
            }
            Error::NoTrust | Error::Pin { .. } | Error::Tls { .. } | Error::ReadableSecret { .. } => {
                trust_hint(error)
            }
            Error::ForeignDirectory { .. } => {
                "give the socket of your node with --node PATH".to_owned()
            }
            Error::Connect { .. } | Error::Talk { .. } | Error::TimedOut { .. } | Error::StreamEnded => {
                "is the node running? `muster up` starts it; --node chooses another".to_owned()
            }
            Error::Refused { view, .. } | Error::StreamFailed { view } => view.hint.clone(),
            Error::Environment { hint, .. } => hint.clone(),
            Error::NoSamples { view } => no_samples_hint(view),
            Error::Unreadable { .. } => "are the node and this muster of the same version?".to_owned(),
            Error::FileTooLarge { path, size, .. } => format!(
                "allow it with --max-file-size {}, or leave it out by a line /{path} in .musterignore",
                raised(*size)
            ),
            Error::TreeTooLarge { size, largest, .. } => format!(
                "allow it with --max-tree-size {}, or leave things out by lines such as /{largest} in .musterignore",
                raised(*size)
            ),
            Error::TooManyFiles { .. } => {
                "run from the directory of the code, or leave things out by lines in .musterignore".to_owned()
            }
            Error::LinkLeavesTree { path, .. } | Error::BadPath { path, .. } => {
                format!("leave it out by a line /{path} in .musterignore")
            }
            Error::Changed { .. } => "try again when nothing writes to it".to_owned(),
            Error::IgnoreFile { .. } => {
                "patterns are paths with *, ** and ?, with / at the front (from the root) or at the end (a directory), or ! in front (not ignored)".to_owned()
            }
            Error::GitStart { .. } => "install git, or submit without the code by --no-source".to_owned(),
            Error::Git { .. } => "--no-source submits without the code".to_owned(),
            Error::GitOutput { .. } => {
                "commit the large changes, or allow more with --max-file-size".to_owned()
            }
            Error::AuditFile { .. } => "export it again with `muster audit export FILE`, or use the original".to_owned(),
            Error::LedgerBroken { source: rest::audit::Broken::Unsigned, .. } => {
                "nothing of it can be trusted; export it again while a voter of the cluster can be reached, or compare with an earlier export".to_owned()
            }
            Error::LedgerBroken { .. } => {
                "nothing after that record can be trusted; compare with another node: `muster audit verify --node OTHER`, or with an earlier export".to_owned()
            }
            Error::NoSuchOutput { .. } | Error::NotOneFile { .. } | Error::Download { .. } => get_hint(error),
            Error::FileExists { .. } => "write to another name, or remove it first".to_owned(),
            Error::BadBackup { .. } => {
                "nothing of it was changed; a backup that breaks off while it is made says why in the node's log".to_owned()
            }
            Error::HeaderValue { .. }
            | Error::AnswerTooLong { .. }
            | Error::Source { .. }
            | Error::Parameters { .. } // says it itself
            | Error::Worker(_)
            | Error::Signal(_)
            | Error::Output(_) => String::new(),
        }
}

/// For `muster get`.
fn get_hint(error: &Error) -> String {
    match error {
        Error::NoSuchOutput { experiment, .. } => {
            format!("`muster get {experiment} --list` says what it left")
        }
        Error::NotOneFile { .. } => {
            "name the file after the experiment, or fetch them into --to DIR".to_owned()
        }
        _ => "try another node with --node: each keeps copies of its own".to_owned(),
    }
}

/// What to do where a node or a secret cannot be trusted.
fn trust_hint(error: &Error) -> String {
    match error {
        Error::NoTrust => "give the fingerprint that `muster up` printed on that machine with --pin sha256:… (MUSTER_PIN), or the file of the authority that signed the certificate with --ca FILE (MUSTER_CA)".to_owned(),
        Error::Pin { .. } => "it is sha256: and 64 hexadecimal digits, as `muster up` prints them".to_owned(),
        Error::ReadableSecret { path, .. } => format!(
            "run `chmod 600 {}`, and revoke the token if somebody may have read it",
            path.display()
        ),
        _ => "does the node speak TLS there, and is the certificate the one that `muster up` told of on that machine? If it is not, somebody may stand between".to_owned(),
    }
}

/// When the first sample is due.
fn no_samples_hint(view: &SamplesView) -> String {
    let id = &view.experiment;
    match (view.started_at, view.ended_at) {
        (None, Some(_)) => format!("it never ran: `muster why {id}` says how it ended"),
        (Some(_), Some(_)) => {
            format!("its machine was lost before the first was kept: `muster why {id}` says more")
        }
        (Some(_), None) => {
            "the first comes 5 s after the start, or at the end: try again in a few seconds"
                .to_owned()
        }
        (None, None) => format!("it has not started: `muster why {id}` says what it waits for"),
    }
}

fn no_node_hint(searched: &[PathBuf], left_over: &[PathBuf]) -> String {
    let list = |paths: &[PathBuf]| {
        let texts: Vec<String> = paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        texts.join(", ")
    };
    let mut hint = format!("start one with `muster up` (looked in {}", list(searched));
    if !left_over.is_empty() {
        hint.push_str("; nobody listens on ");
        hint.push_str(&list(left_over));
    }
    hint.push(')');
    hint
}

/// The next whole GiB, as an option takes it.
fn raised(size: u64) -> String {
    format!("{}GiB", size.div_ceil(1 << 30).max(1))
}

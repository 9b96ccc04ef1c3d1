//! Which Python of this machine an environment is built with.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Command;
use types::python_fits;

/// What an interpreter says about itself: of an environment, the one that it was made from.
const QUESTION: &str = "import json, platform, sys; print(json.dumps({'executable': getattr(sys, '_base_executable', None) or sys.executable, 'version': platform.python_version(), 'platform': platform.platform() + ' ' + platform.machine()}))";
/// The names of interpreters: the machine's own first, then the newest.
const NAMES: [&str; 9] = [
    "python3",
    "python3.15",
    "python3.14",
    "python3.13",
    "python3.12",
    "python3.11",
    "python3.10",
    "python3.9",
    "python",
];
/// Longest time for an interpreter to answer: one on a network file system is slow the first time.
const PATIENCE: Duration = Duration::from_secs(30);

/// An interpreter.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Python {
    pub(super) executable: String,
    pub(super) version: String,
    /// System, libc and processor: packages are made for one.
    pub(super) platform: String,
}

/// The first interpreter on `path` that is what `wanted` says.
///
/// # Errors
/// There is none: what there is, and what to do.
pub(super) async fn find(
    wanted: &str,
    variables: &[(String, String)],
) -> Result<Python, Vec<String>> {
    let path = variables.iter().rev().find(|(name, _)| name == "PATH");
    let path = path.map_or("", |(_, value)| value.as_str());
    let mut others = Vec::new();
    for name in NAMES {
        let Some(program) = on_path(name, path) else {
            continue;
        };
        let Some(python) = ask(&program, variables).await else {
            others.push(format!("{} does not answer", program.display()));
            continue;
        };
        match python_fits(wanted, &python.version) {
            Some(true) => return Ok(python),
            Some(false) => others.push(format!("{} is {}", program.display(), python.version)),
            None => {
                return Err(vec![format!(
                    "{wanted:?} is no version of Python that muster can read: write 3.11 or >=3.10,<3.13"
                )]);
            }
        }
    }
    let wish = if wanted.is_empty() {
        "a Python"
    } else {
        wanted
    };
    let mut lines = vec![format!(
        "this machine has no Python that fits: wanted is {wish}; install it here, or let the experiment run where it is (--prefer-node, --constraint)"
    )];
    lines.extend(others);
    Err(lines)
}

async fn ask(program: &PathBuf, variables: &[(String, String)]) -> Option<Python> {
    let answer = Command::new(program)
        .args(["-I", "-c", QUESTION])
        .env_clear()
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    // One that hangs, fails or says something else is none that could be used: none, told by the caller.
    let output = tokio::time::timeout(PATIENCE, answer).await.ok()?.ok()?;
    serde_json::from_slice(&output.stdout).ok()
}

/// The file that a shell would run.
pub(super) fn on_path(name: &str, path: &str) -> Option<PathBuf> {
    let mut files = path
        .split(':')
        .filter(|directory| directory.starts_with('/'))
        .map(|directory| PathBuf::from(directory).join(name));
    files.find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables() -> Vec<(String, String)> {
        std::env::vars()
            .filter(|(name, _)| name == "PATH" || name == "HOME")
            .collect()
    }

    #[tokio::test]
    async fn what_python_is_wanted_is_found_or_said_to_be_missing() {
        let any = find("", &variables()).await.unwrap();
        assert!(any.version.starts_with("3."), "{any:?}");
        assert_eq!(find(">=3.6", &variables()).await.unwrap(), any);
        let missing = find("2.4", &variables()).await.unwrap_err();
        assert!(missing[0].contains("wanted is 2.4"), "{missing:?}");
        assert!(
            missing.iter().any(|line| line.contains(&any.version)),
            "{missing:?}"
        );
        let nonsense = find("latest", &variables()).await.unwrap_err();
        assert!(nonsense[0].contains("no version of Python"), "{nonsense:?}");
    }
}

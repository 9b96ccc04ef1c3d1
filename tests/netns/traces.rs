//! What experiments write about themselves: when they started and that they live, on the boot clock, which all hosts
//! here share. So it shows whether two attempts ran at one time, whatever the cluster believes.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::harness::read_lossy;

/// The directory of the traces, one file per experiment named as it is. Whoever experiments run as may write there.
pub(crate) fn directory(shared: &Path) -> PathBuf {
    let directory = shared.join("traces");
    fs::create_dir_all(&directory).expect("a directory");
    fs::set_permissions(&directory, Permissions::from_mode(0o1777)).expect("it is ours");
    directory
}

/// A script that writes its trace every tenth of a second, so many times, and prints a number each time.
/// `/proc/uptime` is the boot clock, and the name of the node is in the path of the working directory.
pub(crate) fn script(traces: &Path, name: &str, beats: u32) -> String {
    let shared = traces.parent().expect("a directory in another");
    format!(
        "node=${{PWD#{}/}}; node=${{node%%/*}}
mark() {{ read up _ < /proc/uptime; echo \"$1 $MUSTER_ATTEMPT $node $up\" >> {}; }}
mark start; i=0
while [ $i -lt {beats} ]; do sleep 0.1; mark beat; i=$((i+1)); echo $i; done
mark end",
        shared.display(),
        traces.join(name).display()
    )
}

/// One attempt on one node, as it saw itself. Times are hundredths of seconds since boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) attempt: u32,
    pub(crate) node: String,
    pub(crate) start: u64,
    /// When it is known to have lived last; it may have lived a beat longer.
    pub(crate) last: u64,
    /// It came to its end by itself.
    pub(crate) whole: bool,
}

/// The lives of an experiment in the order of their starts.
pub(crate) fn lives(traces: &Path, name: &str) -> Vec<Life> {
    parse(&read_lossy(&traces.join(name)))
}

fn parse(text: &str) -> Vec<Life> {
    // A second start of the same attempt is another life.
    let mut lives: Vec<Life> = Vec::new();
    let mut current: BTreeMap<(u32, String), usize> = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let [word, attempt, node, up] = words.as_slice() else {
            panic!("a damaged trace: {line:?} in {text}");
        };
        let attempt = attempt.parse().expect("a number");
        let at = up.replace('.', "").parse().expect("a time");
        let key = (attempt, (*node).to_owned());
        if *word == "start" {
            current.insert(key, lives.len());
            lives.push(Life {
                attempt,
                node: (*node).to_owned(),
                start: at,
                last: at,
                whole: false,
            });
        } else {
            let life = &mut lives[current[&key]];
            life.last = at;
            life.whole |= *word == "end";
        }
    }
    lives.sort_by_key(|life| life.start);
    lives
}

/// Everything that must not be in the lives of one experiment: two at one time, or one attempt that ran twice.
pub(crate) fn violations(name: &str, lives: &[Life]) -> Vec<String> {
    let mut found = Vec::new();
    for (at, one) in lives.iter().enumerate() {
        for other in &lives[at + 1..] {
            if other.start < one.last {
                found.push(format!(
                    "{name} ran twice at one time: {one:?} and {other:?}"
                ));
            } else if other.attempt <= one.attempt {
                found.push(format!(
                    "{name} ran attempts again or out of order: {one:?} and {other:?}"
                ));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Vec<String> {
        violations("x", &parse(text))
    }

    #[test]
    fn attempts_one_after_the_other_are_fine() {
        let text =
            "start 1 a 10.00\nbeat 1 a 10.10\nstart 2 b 10.10\nbeat 2 b 10.30\nend 2 b 10.31\n";
        assert_eq!(check(text), Vec::<String>::new());
        let lives = parse(text);
        assert_eq!((lives[0].last, lives[0].whole), (1010, false));
        assert_eq!((lives[1].last, lives[1].whole), (1031, true));
    }

    #[test]
    fn two_attempts_at_one_time_are_found() {
        let found = check("start 1 a 10.00\nstart 2 b 10.20\nbeat 1 a 10.21\n");
        assert!(found[0].contains("twice at one time"), "{found:?}");
    }

    #[test]
    fn an_attempt_that_runs_twice_is_found() {
        for node in ["a", "b"] {
            let found = check(&format!(
                "start 1 a 10.00\nbeat 1 a 10.10\nstart 1 {node} 11.00\n"
            ));
            assert!(found[0].contains("ran attempts again"), "{found:?}");
        }
    }
}

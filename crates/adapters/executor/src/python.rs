//! Where the Python programs of a job are when somebody must know: each writes its stacks to standard error when asked.
//!
//! They can be asked because [`lay_out`] puts a module before all others that Python imports at its start
//! (`site.execsitecustomize`) and that registers `faulthandler` for a signal that nothing else is known to use. Who has not
//! imported it, such as `python -I`, is not asked: the signal would end it.

use std::io;
use std::path::{Path, PathBuf};

use rustix::event::poll;
use rustix::process::Signal;
use rustix::time::Timespec;

use crate::process_tree::{self, Process};

/// 16: no kernel sends it (signal(7)), and no library that computes is known to.
const ASK: Signal = Signal::STKFLT;
const MODULE: &str = include_str!("python/sitecustomize.py");
/// More say no more.
const MOST_ASKED: usize = 16;
/// A stack is written in well under a millisecond.
const BETWEEN: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 5_000_000,
};
/// Where Python looks for modules.
const PATH_VARIABLE: &str = "PYTHONPATH";
/// A job that has this set to 0 keeps Python's start as it is.
const SWITCH_VARIABLE: &str = "MUSTER_STACKS";

/// Writes the module below the job's temporary directory.
pub(crate) fn lay_out(temporary: &Path) -> io::Result<()> {
    let directory = directory(temporary);
    std::fs::create_dir(&directory)?;
    std::fs::write(directory.join("sitecustomize.py"), MODULE)
}

/// Puts the module before all others, unless the job's own variables say no.
pub(crate) fn name_in(variables: &mut Vec<(String, String)>, temporary: &Path) {
    let last = |name: &str| {
        let mut named = variables.iter().rev().filter(|(known, _)| known == name);
        named.next().map(|(_, value)| value.clone())
    };
    if last(SWITCH_VARIABLE).as_deref() == Some("0") {
        return;
    }
    let directory = directory(temporary);
    let Some(directory) = directory.to_str() else {
        return; // no variable can hold it
    };
    // An empty part would mean the working directory.
    let path = match last(PATH_VARIABLE).filter(|path| !path.is_empty()) {
        Some(path) => format!("{directory}:{path}"),
        None => directory.to_owned(),
    };
    variables.push((PATH_VARIABLE.to_owned(), path));
}

fn directory(temporary: &Path) -> PathBuf {
    temporary.join(".muster")
}

/// Asks those who can answer below `root`, oldest first; how many there are. One after the other, at most 80 ms in all:
/// they write piece by piece, mostly into the same pipe.
pub(crate) fn ask_for_stacks(root: u32) -> io::Result<usize> {
    let mut tree = process_tree::descendants(root)?;
    tree.sort_by_key(|process| (process.start_ticks, process.pid));
    let mut asked = 0;
    for process in tree.iter().filter(|process| answers(process)) {
        if asked > 0 {
            poll(&mut [], Some(&BETWEEN))?;
        }
        asked += usize::from(process_tree::signal(process, ASK)?);
        if asked == MOST_ASKED {
            break;
        }
    }
    Ok(asked)
}

/// In words.
pub(crate) fn processes(count: usize) -> String {
    match count {
        1 => "1 Python process".to_owned(),
        count => format!("{count} Python processes"),
    }
}

/// A Python that has a handler for the signal: for others it would be the end, or mean something else.
fn answers(process: &Process) -> bool {
    let program = std::fs::read_link(format!("/proc/{}/exe", process.pid));
    // Not readable: another user's or gone.
    let name = program.ok().and_then(|path| {
        let name = path.file_name()?.to_str()?;
        Some(name.to_owned())
    });
    name.is_some_and(|name| name.starts_with("python") || name.starts_with("pypy"))
        && catches(process.pid, ASK)
}

/// Whether the process has a handler of its own for a signal (`SigCgt` of proc(5)).
fn catches(pid: u32, signal: Signal) -> bool {
    // Not readable means gone.
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()); // the kernel writes a number
    mask.unwrap_or(0) >> (signal.as_raw() - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _};
    use std::process::{Command, Stdio};

    use super::*;

    /// A Python that has said a word, its standard error, and what came of it.
    fn python(arguments: &[&str], variables: &[(String, String)]) -> std::process::Child {
        let mut child = Command::new("python3")
            .args(arguments)
            .envs(variables.iter().cloned())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut word = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut word).unwrap();
        assert_eq!(word, "ready\n");
        child
    }

    const PROGRAM: &str = "
import sys, time
def deep():
    print('ready', flush=True)
    time.sleep(60)
deep()
";

    fn variables(directory: &Path, own: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut variables = Vec::new();
        for (name, value) in own {
            variables.push((name.to_string(), value.to_string()));
        }
        name_in(&mut variables, directory);
        variables
    }

    #[test]
    fn a_python_says_where_it_is_and_lives_on_and_who_cannot_is_not_asked() {
        let directory = tempfile::tempdir().unwrap();
        lay_out(directory.path()).unwrap();
        let with = variables(directory.path(), &[]);
        let mut asked = python(&["-c", PROGRAM], &with);
        let mut isolated = python(&["-I", "-c", PROGRAM], &with);
        let switched_off = variables(directory.path(), &[(SWITCH_VARIABLE, "0")]);
        assert!(switched_off.iter().all(|(name, _)| name != PATH_VARIABLE));
        assert!(ask_for_stacks(std::process::id()).unwrap() >= 1);
        let mut said = String::new();
        let mut lines = BufReader::new(asked.stderr.take().unwrap()).lines();
        while !said.contains("in <module>") {
            said.push_str(&lines.next().unwrap().unwrap());
            said.push('\n');
        }
        assert!(said.contains("most recent call first"), "{said}");
        assert!(said.contains("line 5 in deep"), "{said}");
        for child in [&mut asked, &mut isolated] {
            assert!(child.try_wait().unwrap().is_none());
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[test]
    fn a_module_of_the_same_name_runs_as_before_and_the_path_is_left_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        lay_out(directory.path()).unwrap();
        let own = directory.path().join("own");
        std::fs::create_dir(&own).unwrap();
        std::fs::write(
            own.join("sitecustomize.py"),
            "import builtins; builtins.mine = 7",
        )
        .unwrap();
        let own = own.to_str().unwrap();
        let program = "import sys, sitecustomize
print('ready', flush=True)
print(mine, sitecustomize.__file__, sys.path, file=sys.stderr)";
        let mut child = python(
            &["-c", program],
            &variables(directory.path(), &[("PYTHONPATH", own)]),
        );
        let mut said = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert!(child.wait().unwrap().success(), "{said}");
        assert!(
            said.starts_with("7 ") && said.contains(&format!("{own}/sitecustomize.py")),
            "{said}"
        );
        assert!(!said.contains(".muster"), "{said}");
        // And without one of that name.
        let alone = variables(directory.path(), &[]);
        let program = "import sys; print('ready', flush=True); print(sys.path, file=sys.stderr)";
        let mut child = python(&["-c", program], &alone);
        let mut said = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert!(child.wait().unwrap().success(), "{said}");
        assert!(
            !said.contains(".muster") && !said.contains("Traceback"),
            "{said}"
        );
    }

    #[test]
    fn the_module_and_the_program_speak_of_the_same_signal() {
        assert!(MODULE.contains(&format!("register({}, ", ASK.as_raw())));
    }
}

//! As whom jobs run, and what of the node they cannot read.

use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::hold;

/// The account that is taken first where the node runs as root and nobody has said another.
pub const JOB_ACCOUNT: &str = "muster-job";
/// The account that every system has.
const NOBODY: &str = "nobody";
/// Smallest user id of people: `UID_MIN` of every common login.defs(5). Below it are daemons.
const FIRST_PERSON: u32 = 1_000;
/// `CAP_CHOWN`, `CAP_SETGID` and `CAP_SETUID` of capabilities(7): what a node needs to become another user.
const NEEDED_CAPABILITIES: u64 = 1 | 1 << 6 | 1 << 7;

/// As whom jobs shall run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum JobUser {
    /// Where the node is root: as `muster-job` if there is that account, else as `nobody`. Else as the node.
    #[default]
    Automatic,
    /// As this account.
    Account(String),
    /// As the account of this machine that is named as the submitter, if it is a person's; else as for `Automatic`.
    Submitter,
    /// As the node itself.
    Node,
}

impl JobUser {
    /// What a settings file says: `auto`, `submitter`, `node`, or the name of an account.
    #[must_use]
    pub fn named(text: &str) -> Self {
        match text {
            "auto" => Self::Automatic,
            "submitter" => Self::Submitter,
            "node" => Self::Node,
            account => Self::Account(account.to_owned()),
        }
    }
}

/// A user that a process can become.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// What keeps a job from the node; part of the stored order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Confinement {
    /// Becomes this user.
    pub(crate) account: Option<Account>,
    /// Sees nothing of this directory but its own work in it: path as text.
    pub(crate) hidden: Option<String>,
    /// Directories below the hidden one that it sees but cannot change: paths as text.
    pub(crate) visible: Vec<String>,
    /// Processes and threads that it may have at once.
    pub(crate) max_processes: u32,
}

/// What was found out at the start of the node.
#[derive(Clone, Debug)]
pub(crate) struct Protection {
    choice: JobUser,
    /// As whom jobs run whose submitter has no account here.
    account: Option<Account>,
    hidden: Option<String>,
    /// For people: jobs can read the node's keys, and why.
    pub(crate) warning: Option<String>,
}

impl Protection {
    /// Decides once for all attempts. `private` is the directory with the node's keys; attempts are below it.
    pub(crate) fn find(
        choice: &JobUser,
        private: Option<&Path>,
        attempts: &Path,
        holder: &hold::Program,
    ) -> Result<Self, Error> {
        let mut protection = Self {
            choice: choice.clone(),
            account: None,
            hidden: None,
            warning: None,
        };
        if rustix::process::geteuid().is_root() {
            protection.find_account(attempts)?;
        } else if matches!(choice, JobUser::Account(_) | JobUser::Submitter) {
            return Err(Error::JobUser {
                why: "only a node that runs as root can run experiments as somebody else: leave job_user out, or run the node as root".to_owned(),
            });
        }
        // Root in a namespace of its own could take the cover off again.
        if !rustix::process::geteuid().is_root()
            && let Some(private) = private
        {
            protection.hide(private, holder);
        }
        Ok(protection)
    }

    fn find_account(&mut self, attempts: &Path) -> Result<(), Error> {
        let refused = |why: String| Error::JobUser { why };
        let (account, asked) = match &self.choice {
            JobUser::Node => {
                self.warning = Some(
                    "experiments run as root and can read this node's keys (job_user = \"node\")"
                        .to_owned(),
                );
                return Ok(());
            }
            JobUser::Account(name) => {
                let account = look_up(name).map_err(|why| refused(format!("job_user: {why}")))?;
                (account, true)
            }
            JobUser::Automatic | JobUser::Submitter => {
                let account = look_up(JOB_ACCOUNT).or_else(|_none| look_up(NOBODY));
                (account.map_err(refused)?, self.choice == JobUser::Submitter)
            }
        };
        if account.uid == 0 {
            return Err(refused(format!(
                "job_user: {} is root: experiments would read this node's keys; say job_user = \"node\" if that is meant",
                account.name
            )));
        }
        match obstacle(&account, attempts) {
            None => self.account = Some(account),
            Some(why) if asked => return Err(refused(why)),
            Some(why) => {
                self.warning = Some(format!(
                    "experiments run as root and can read this node's keys: {why}"
                ));
            }
        }
        Ok(())
    }

    fn hide(&mut self, private: &Path, holder: &hold::Program) {
        let Some(text) = private.to_str() else {
            return; // Not text: refused elsewhere.
        };
        match hold::can_hide(holder, private) {
            Ok(()) => self.hidden = Some(text.to_owned()),
            Err(why) => {
                self.warning = Some(format!(
                    "experiments run as this node's user and can read its keys: the kernel lets no user make a namespace here ({why}); run the node as root, with an account {JOB_ACCOUNT} for experiments"
                ));
            }
        }
    }

    /// What the job of `submitter` (user@node) becomes and sees.
    pub(crate) fn confine(&self, submitter: &str, max_processes: u32) -> Confinement {
        let own = (self.choice == JobUser::Submitter).then(|| person(submitter));
        Confinement {
            account: own.flatten().or_else(|| self.account.clone()),
            hidden: self.hidden.clone(),
            visible: Vec::new(),
            max_processes,
        }
    }

    /// Directories on the way to an attempt's work must let its user through.
    pub(crate) fn others_pass(&self) -> bool {
        self.account.is_some()
    }

    /// A line for a person.
    pub(crate) fn describe(&self) -> String {
        match (&self.account, &self.hidden) {
            (Some(account), _) if self.choice == JobUser::Submitter => format!(
                "experiments run as their submitter where it has an account, else as {}",
                account.name
            ),
            (Some(account), _) => {
                format!("experiments run as {} (uid {})", account.name, account.uid)
            }
            (None, Some(path)) => {
                format!("experiments run as this node's user and do not see {path}")
            }
            (None, None) => "experiments run as this node's user".to_owned(),
        }
    }
}

/// The submitter's own account on this machine, if it is a person's.
fn person(submitter: &str) -> Option<Account> {
    let name = submitter.split('@').next()?;
    let account = look_up(name).ok()?; // No account: the one for everybody is taken.
    (account.uid >= FIRST_PERSON && account.name != NOBODY).then_some(account)
}

/// Asks the system, so that accounts of a directory service count too.
fn look_up(name: &str) -> Result<Account, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.starts_with('-') || name.len() > 64 || !name.chars().all(plain) {
        return Err(format!("{name:?} cannot name an account"));
    }
    let unknown = || {
        format!(
            "there is no account {name} on this machine: `useradd --system --no-create-home --shell /usr/sbin/nologin {name}` makes one"
        )
    };
    let entry = answer("getent", &["passwd", name])?.ok_or_else(unknown)?;
    let mut account = parse_passwd(&entry).ok_or_else(unknown)?;
    let groups = answer("id", &["-G", &account.name])?.unwrap_or_default();
    let groups = groups.split_ascii_whitespace();
    account.groups = groups.filter_map(|group| group.parse().ok()).collect();
    // Whatever the account is a member of: the group of root opens files that are root's.
    account.groups.retain(|group| *group != 0);
    Ok(account)
}

fn parse_passwd(entry: &str) -> Option<Account> {
    let mut fields = entry.lines().next()?.split(':');
    let name = fields.next()?.to_owned();
    let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
    let home = fields.nth(1)?.to_owned();
    Some(Account {
        name,
        uid,
        gid,
        groups: Vec::new(),
        home,
    })
}

/// What a program prints; none if it knows nothing.
fn answer(program: &str, arguments: &[&str]) -> Result<Option<String>, String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program} cannot be run: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok((output.status.success() && !text.trim().is_empty()).then_some(text))
}

/// Why jobs cannot run as this user here.
fn obstacle(account: &Account, attempts: &Path) -> Option<String> {
    if effective_capabilities() & NEEDED_CAPABILITIES != NEEDED_CAPABILITIES {
        return Some(
            "this container lacks the capabilities SETUID, SETGID and CHOWN, without which nobody becomes another user".to_owned(),
        );
    }
    // Root of a user namespace, as in a container without root: it may become only whom the namespace knows.
    for (map, id) in [("uid_map", account.uid), ("gid_map", account.gid)] {
        let known = std::fs::read_to_string(format!("/proc/self/{map}")).unwrap_or_default();
        if !is_mapped(&known, id) {
            let name = &account.name;
            return Some(format!(
                "this user namespace knows no {name} ({id} is not in /proc/self/{map})"
            ));
        }
    }
    // The node makes its own directories passable; the way to them is the machine's.
    let above = attempts.parent().and_then(Path::parent)?;
    let closed = closed_to(account, above)?;
    Some(format!(
        "{} may not enter {}: put the data directory where it may (--data-dir), or open the way with chmod o+x",
        account.name,
        closed.display()
    ))
}

/// Whether a user namespace has this number: lines of first number inside, first outside, how many.
fn is_mapped(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let words: Vec<u64> = line
            .split_whitespace()
            .filter_map(|word| word.parse().ok()) // the kernel writes nothing but numbers
            .collect();
        matches!(words[..], [first, _, count] if (first..first + count).contains(&u64::from(id)))
    })
}

fn effective_capabilities() -> u64 {
    // Not told: as if there were none, which is said.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or_default()
}

/// The directories of a `PATH` that the account may enter: one that it may not would make a command that is nowhere look
/// forbidden.
pub(crate) fn open_path(account: &Account, path: &str) -> String {
    let open = |directory: &&str| closed_to(account, Path::new(directory)).is_none();
    path.split(':').filter(open).collect::<Vec<_>>().join(":")
}

/// The first directory on the way to `path` that the account may not pass.
fn closed_to(account: &Account, path: &Path) -> Option<PathBuf> {
    let path = path.canonicalize().unwrap_or_else(|_gone| path.to_owned());
    let mut way: Vec<&Path> = path.ancestors().collect();
    way.reverse();
    let closed = way.into_iter().find(|directory| {
        let Ok(facts) = directory.metadata() else {
            return false; // Not there yet: made by the node, passable.
        };
        let mine = |group| group == account.gid || account.groups.contains(&group);
        let bit = if facts.uid() == account.uid {
            0o100
        } else if mine(facts.gid()) {
            0o010
        } else {
            0o001
        };
        facts.mode() & bit == 0
    });
    closed.map(Path::to_owned)
}

/// Lets everybody pass through a directory, and nobody but its owner look into it.
pub(crate) fn make_passable(directory: &Path) -> io::Result<()> {
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o711))
}

/// Gives a tree that no untrusted process has seen yet to its user; links themselves, not what they name.
pub(crate) fn give(path: &Path, account: &Account) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() {
        for entry in std::fs::read_dir(path)? {
            give(&entry?.path(), account)?;
        }
    }
    std::os::unix::fs::lchown(path, Some(account.uid), Some(account.gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_read_as_the_system_tells_them() {
        let account = parse_passwd("ann:x:1007:1008:Ann,,,:/home/ann:/bin/bash\n").unwrap();
        assert_eq!((account.uid, account.gid), (1_007, 1_008));
        assert_eq!(account.home, "/home/ann");
        assert_eq!(parse_passwd("broken"), None);
        let root = look_up("root").unwrap();
        assert_eq!((root.uid, root.groups), (0, Vec::new()));
        assert!(
            look_up("no-such-account-here")
                .unwrap_err()
                .contains("useradd")
        );
        for bad in ["", "--help", "a b", "x;y", "../x"] {
            assert!(look_up(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_user_namespace_knows_only_whom_it_maps() {
        assert!(is_mapped("         0          0 4294967295\n", 65_534));
        assert!(!is_mapped("0 1000 1\n", 65_534));
        assert!(is_mapped("0 1000 1\n1 100000 65536\n", 65_534));
        assert!(!is_mapped("", 0));
    }

    #[test]
    fn daemons_are_no_submitters() {
        for name in [
            "root@here",
            "daemon@here",
            "nobody@here",
            "no-such-account@here",
            "",
        ] {
            assert_eq!(person(name), None, "{name}");
        }
    }

    #[test]
    fn a_closed_directory_on_the_way_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let closed = directory.path().join("closed");
        std::fs::create_dir_all(closed.join("open")).unwrap();
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let account = Account {
            name: "somebody".to_owned(),
            uid: 3_999_999,
            gid: 3_999_999,
            groups: Vec::new(),
            home: String::new(),
        };
        mode(directory.path(), 0o711);
        mode(&closed, 0o700);
        let way = closed.join("open");
        assert_eq!(
            closed_to(&account, &way),
            Some(closed.canonicalize().unwrap())
        );
        mode(&closed, 0o711);
        assert_eq!(closed_to(&account, &way), None);
    }
}

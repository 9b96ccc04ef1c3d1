//! Hides the node's directory from a job that runs as the node's own user: in a user and mount namespace of its own the
//! job sees an empty, read-only directory in its place, with nothing but its own work in it. As that user has no rights
//! over the namespace once it runs its command, it cannot take the cover off; and since the node's processes are
//! outside, it can neither trace them nor look through their `/proc` entries (`user_namespaces(7)`, `ptrace(2)`).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::thread::UnshareFlags;
use sys_mount::{Mount, MountFlags};

use super::{ROLE_PROBE, ROLE_VARIABLE};

/// Room for the cover: some directory names.
const COVER_OPTIONS: &str = "size=64k,mode=0755";

/// How a holder is started: the program and its arguments before the directory.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) arguments: Vec<String>,
}

/// Covers `directory`, except the directories `kept` below it, and `visible` ones, which cannot be changed. This process
/// must have one thread.
pub(super) fn hide(directory: &Path, kept: &[PathBuf], visible: &[String]) -> io::Result<()> {
    enter_namespaces()?;
    let paths = || {
        kept.iter()
            .map(PathBuf::as_path)
            .chain(visible.iter().map(Path::new))
    };
    let open: Vec<File> = paths().map(File::open).collect::<io::Result<_>>()?;
    // Seen in here alone: the mounts of a namespace with fewer rights are slaves of those outside (`mount_namespaces(7)`).
    Mount::builder()
        .fstype("tmpfs")
        .data(COVER_OPTIONS)
        .flags(MountFlags::NOSUID | MountFlags::NODEV)
        .mount("tmpfs", directory)?;
    for (file, path) in open.iter().zip(paths()) {
        std::fs::create_dir_all(path)?;
        let source = format!("/proc/self/fd/{}", file.as_raw_fd());
        Mount::builder()
            .flags(MountFlags::BIND)
            .mount(source, path)?;
    }
    for path in visible {
        let flags = MountFlags::REMOUNT | MountFlags::BIND | MountFlags::RDONLY;
        Mount::builder()
            .flags(flags | MountFlags::NOSUID | MountFlags::NODEV)
            .mount("none", path)?;
    }
    let flags = MountFlags::REMOUNT | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    Mount::builder()
        .fstype("tmpfs")
        .data(COVER_OPTIONS)
        .flags(flags)
        .mount("tmpfs", directory)
        .map(drop)
}

/// In the new user namespace this user is itself, and nobody else is anybody.
fn enter_namespaces() -> io::Result<()> {
    let (user, group) = (rustix::process::getuid(), rustix::process::getgid());
    #[expect(
        deprecated,
        reason = "unsafe only for a shared table of files, which neither flag unshares"
    )]
    rustix::thread::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS)?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    let same = |id: u32| format!("{id} {id} 1");
    std::fs::write("/proc/self/uid_map", same(user.as_raw()))?;
    std::fs::write("/proc/self/gid_map", same(group.as_raw()))
}

/// Whether this works on this machine: a process tries it.
pub(crate) fn can_hide(holder: &Program, directory: &Path) -> Result<(), String> {
    let output = Command::new(&holder.path)
        .args(&holder.arguments)
        .arg(directory)
        .env(ROLE_VARIABLE, ROLE_PROBE)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(said.lines().last().unwrap_or("no reason given").to_owned())
}

/// The process that tries it: nobody sees what it does.
pub(super) fn probe(directory: &Path) -> io::Result<()> {
    hide(directory, &[], &[])?;
    let left = std::fs::read_dir(directory)?.count();
    if left == 0 {
        Ok(())
    } else {
        Err(io::Error::other(format!("{left} entries are still seen")))
    }
}

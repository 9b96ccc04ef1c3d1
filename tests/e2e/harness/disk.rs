//! A file system of a machine's own that can be filled and freed: a tmpfs in a mount namespace.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{Node, PATIENCE, skip, wait_until};

/// The namespace lives as long as the process that holds it.
pub(crate) struct Disk {
    holder: Child,
    /// As processes of the namespace see it.
    path: PathBuf,
}

impl Disk {
    /// Mounts one over `path`, a directory of `node`'s machine, and has the node run where it is seen. `None` where
    /// this is not permitted; it says so.
    pub(crate) fn mount(node: &mut Node, path: &Path, mebibytes: u32) -> Option<Self> {
        fs::create_dir_all(path).expect("a directory to mount on");
        let ready = node.home.join("mounted");
        let script = format!(
            "mount -t tmpfs -o size={mebibytes}m none \"$0\" && : >\"$1\" && exec sleep 3600"
        );
        let holder = Command::new("unshare")
            .args(["--mount", "sh", "-ec", &script])
            .args([path, &ready])
            .env("HOME", &node.home)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut holder) = holder else {
            skip("there is no program unshare");
            return None;
        };
        let mounted = wait_until(PATIENCE, "the disk is mounted or refused", || {
            if ready.exists() {
                return Some(true);
            }
            let ended = holder.try_wait().expect("its end can be asked for");
            ended.map(|_| false)
        });
        if !mounted {
            skip("no file system can be mounted here: it takes root");
            return None;
        }
        let namespace = format!("--mount=/proc/{}/ns/mnt", holder.id());
        node.wrapper = vec!["nsenter".to_owned(), namespace];
        let path = path.to_owned();
        Some(Self { holder, path })
    }

    fn outside(&self) -> PathBuf {
        let inside = self.path.strip_prefix("/").expect("an absolute path");
        Path::new(&format!("/proc/{}/root", self.holder.id())).join(inside)
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.outside()).expect("it is mounted");
        stat.f_bavail * stat.f_frsize
    }

    /// Leaves `free_bytes` free.
    pub(crate) fn fill(&self, free_bytes: u64) {
        let path = self.outside().join("filler");
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .expect("a file that fills");
        while let Some(more) = self
            .free_bytes()
            .checked_sub(free_bytes)
            .filter(|more| *more > 0)
        {
            let piece = vec![1; usize::try_from(more.min(1 << 20)).expect("a MiB")];
            if file.write(&piece).is_err() {
                return; // Somebody else took the rest.
            }
        }
    }

    pub(crate) fn make_room(&self) {
        fs::remove_file(self.outside().join("filler")).expect("it was filled");
    }

    /// Whether a file is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.outside().join(name).exists()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Gone already is as good.
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}

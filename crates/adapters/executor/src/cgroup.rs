//! Control groups: where this process may make some, in v2, v1, both or none.

mod job;

use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use serde::{Deserialize, Serialize};

pub(crate) use job::{CgroupLimits, JobCgroups};

/// Controllers that attempts use.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// Controllers of v2 that a directory passes on to its children.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Passed {
    pub(crate) memory: bool,
    pub(crate) cpu: bool,
    pub(crate) pids: bool,
}

impl Passed {
    fn by(directory: &Path) -> Self {
        let passed = read_words(&directory.join("cgroup.subtree_control"));
        let passes = |name: &str| passed.iter().any(|one| one == name);
        Self {
            memory: passes("memory"),
            cpu: passes("cpu"),
            pids: passes("pids"),
        }
    }
}

/// Directories in which an attempt's cgroups are made, and the name that they get. Text, as it is stored in the order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CgroupPlan {
    /// Name of the attempt's cgroup in each hierarchy.
    pub(crate) name: String,
    /// v2: kills the tree, counts processor time; limits if it has controllers.
    pub(crate) unified: Option<String>,
    /// What the v2 directory passes on; v1 has the rest, where it is mounted.
    pub(crate) unified_limits: Passed,
    /// v1 memory.
    pub(crate) memory: Option<String>,
    /// v1 cpu.
    pub(crate) cpu: Option<String>,
    /// v1 pids.
    pub(crate) pids: Option<String>,
    /// v1 freezer.
    pub(crate) freezer: Option<String>,
}

impl CgroupPlan {
    /// Looks where this process may make cgroups: only below its own.
    pub(crate) fn discover() -> Self {
        // Without these files there are no cgroups here: an empty plan says so.
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut plan = Self::from_text(&mounts, &own);
        for directory in [
            &mut plan.unified,
            &mut plan.memory,
            &mut plan.cpu,
            &mut plan.pids,
            &mut plan.freezer,
        ] {
            directory.take_if(|path| access(path.as_str(), Access::WRITE_OK).is_err());
        }
        let unified = plan.unified.as_ref();
        plan.unified_limits = unified.map_or(Passed::default(), |path| Passed::by(Path::new(path)));
        plan
    }

    fn from_text(mounts: &str, own: &str) -> Self {
        let find = |controller| {
            let path = own_directory(mounts, own, controller)?;
            path.to_str().map(str::to_owned)
        };
        Self {
            name: String::new(),
            unified: find(None),
            unified_limits: Passed::default(),
            memory: find(Some("memory")),
            cpu: find(Some("cpu")),
            pids: find(Some("pids")),
            freezer: find(Some("freezer")),
        }
    }

    /// The same places with the name of one attempt's cgroup.
    pub(crate) fn named(&self, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..self.clone()
        }
    }

    /// Tries to let this process's v2 cgroup pass its controllers on: this process moves to a child `node`
    /// first, because only leaves may hold processes. Does nothing where that is not this process's to do
    /// (no controllers, no rights, others in the same cgroup) or already done.
    pub(crate) fn pass_controllers_on(&mut self) {
        let Some(own) = self.unified.as_ref().map(PathBuf::from) else {
            return;
        };
        let own = match own.file_name() {
            // A node process before this one, or the service manager, made the leaf.
            Some(name) if name == "node" => own.parent().map_or(own.clone(), Path::to_owned),
            Some(_) | None => own,
        };
        let mut offered = read_words(&own.join("cgroup.controllers"));
        offered.retain(|name| CONTROLLERS.contains(&name.as_str()));
        let is_root = !own.join("cgroup.type").exists();
        if is_root || offered.is_empty() {
            return;
        }
        let passed = read_words(&own.join("cgroup.subtree_control"));
        if !offered.iter().all(|name| passed.contains(name)) {
            let leaf = own.join("node");
            let wanted: Vec<_> = offered.iter().map(|name| format!("+{name}")).collect();
            let moved = std::fs::create_dir_all(&leaf)
                .and_then(|()| std::fs::write(leaf.join("cgroup.procs"), "0"));
            let enabled = moved.and_then(|()| {
                std::fs::write(own.join("cgroup.subtree_control"), wanted.join(" "))
            });
            if let Err(error) = enabled {
                tracing::info!(%error, path = %own.display(), "cgroup v2 limits are not available");
                return;
            }
        }
        self.unified_limits = Passed::by(&own);
        self.unified = own.to_str().map(str::to_owned);
    }

    /// How a process tree is killed under this plan.
    pub(crate) fn tree_kill_method(&self) -> &'static str {
        match (&self.unified, &self.freezer) {
            (Some(_), _) => job::KILL_UNIFIED,
            (None, Some(_)) => job::KILL_FREEZER,
            (None, None) => job::KILL_WALK,
        }
    }

    /// Lines for a person: what protects attempts on this node.
    pub(crate) fn describe(&self) -> Vec<String> {
        let limit = |name: &str, v2: bool, v1: &Option<String>| match (v2, v1) {
            (true, _) => format!("{name}: cgroup v2"),
            (false, Some(path)) => format!("{name}: cgroup v1 below {path}"),
            (false, None) => format!("{name}: none, no writable cgroup has the controller"),
        };
        let v2 = self.unified_limits;
        vec![
            format!("end of a process tree: {}", self.tree_kill_method()),
            limit("memory limit", v2.memory, &self.memory),
            limit("cpu weight", v2.cpu, &self.cpu),
            limit("process limit", v2.pids, &self.pids),
        ]
    }

    /// What a person should know of limits that this node cannot set; none: it sets all.
    pub(crate) fn warning(&self) -> Option<String> {
        let v2 = self.unified_limits;
        let missing = [
            ("memory", v2.memory || self.memory.is_some()),
            ("cores", v2.cpu || self.cpu.is_some()),
            ("number of processes", v2.pids || self.pids.is_some()),
        ];
        let missing = missing.iter().filter(|(_, is_there)| !is_there);
        let missing: Vec<_> = missing.map(|(what, _)| *what).collect();
        (!missing.is_empty()).then(|| {
            let what = missing.join(", ");
            format!("experiments are not held to their {what} here: no cgroup with that controller is writable for muster (deploy/README.md)")
        })
    }
}

fn read_words(path: &Path) -> Vec<String> {
    // No such file: no words.
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

/// The directory of this process's own cgroup: of the v1 hierarchy with `controller`, of v2 if none.
fn own_directory(mounts: &str, own: &str, controller: Option<&str>) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (number, names, path) = (fields.next()?, fields.next()?, fields.next()?);
        match controller {
            None => (number == "0" && names.is_empty()).then_some(path),
            Some(wanted) => names.split(',').any(|name| name == wanted).then_some(path),
        }
    })?;
    mounts.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mount: Vec<&str> = mount.split(' ').collect();
        let filesystem: Vec<&str> = filesystem.split(' ').collect();
        let fits = match controller {
            None => *filesystem.first()? == "cgroup2",
            Some(wanted) => {
                *filesystem.first()? == "cgroup"
                    && filesystem.get(2)?.split(',').any(|name| name == wanted)
            }
        };
        let (root, point) = (*mount.get(3)?, *mount.get(4)?);
        let below = Path::new(path).strip_prefix(root).ok()?; // not below this mount: not visible through it
        fits.then(|| Path::new(point).join(below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID_MOUNTS: &str = "\
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn hybrid_gives_own_directories_in_both_hierarchies() {
        let own = "4:memory:/jobs/7\n2:cpu,cpuacct:/\n0::/\n";
        let plan = CgroupPlan::from_text(HYBRID_MOUNTS, own);
        assert_eq!(plan.memory.as_deref(), Some("/sys/fs/cgroup/memory/jobs/7"));
        assert_eq!(plan.cpu.as_deref(), Some("/sys/fs/cgroup/cpu/"));
        assert_eq!(plan.unified.as_deref(), Some("/sys/fs/cgroup/unified/"));
        assert_eq!(
            (plan.pids.as_deref(), plan.freezer.as_deref()),
            (None, None)
        );
    }

    #[test]
    fn pure_v2_and_none_are_understood() {
        let mounts = "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let plan = CgroupPlan::from_text(mounts, "0::/system.slice/muster.service\n");
        assert_eq!(
            plan.unified.as_deref(),
            Some("/sys/fs/cgroup/system.slice/muster.service")
        );
        assert_eq!(plan.memory, None);
        assert_eq!(CgroupPlan::from_text("", ""), CgroupPlan::default());
        assert_eq!(CgroupPlan::default().tree_kill_method(), job::KILL_WALK);
    }

    #[test]
    fn a_cgroup_outside_the_mounted_part_is_not_used() {
        let mounts = "35 31 0:32 /docker/a /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let plan = |own| CgroupPlan::from_text(mounts, own).memory;
        assert_eq!(plan("4:memory:/elsewhere\n"), None);
        assert_eq!(
            plan("4:memory:/docker/a/b\n").as_deref(),
            Some("/sys/fs/cgroup/memory/b")
        );
    }

    #[test]
    fn limits_that_cannot_be_set_are_named_for_people() {
        let some = || Some("/sys/fs/cgroup/x".to_owned());
        let mut plan = CgroupPlan {
            memory: some(),
            unified_limits: Passed {
                pids: true,
                ..Passed::default()
            },
            ..CgroupPlan::default()
        };
        let warning = plan.warning().unwrap();
        assert!(
            warning.contains("not held to their cores here"),
            "{warning}"
        );
        plan.cpu = some();
        assert_eq!(plan.warning(), None);
        let none = CgroupPlan::default().warning().unwrap();
        let all = "not held to their memory, cores, number of processes here";
        assert!(none.contains(all), "{none}");
    }
}

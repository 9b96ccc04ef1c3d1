//! The cgroups of one attempt.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::poll;
use rustix::process::Signal;

use super::{CgroupPlan, Passed};
use crate::process_tree;

/// Kill by writing `cgroup.kill` (Linux 5.14).
pub(super) const KILL_UNIFIED: &str = "cgroup v2 cgroup.kill";
/// Freeze, SIGKILL each, thaw.
pub(super) const KILL_FREEZER: &str = "cgroup v1 freezer and SIGKILL";
/// Walk `/proc` below the subreaper.
pub(super) const KILL_WALK: &str = "walk over /proc below the child subreaper";
/// Longest wait for a v1 freezer to freeze; then SIGKILL goes out all the same.
const FREEZE_LIMIT: Duration = Duration::from_millis(200);

/// What one attempt may have; 0 is no limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CgroupLimits {
    pub(crate) memory_bytes: u64,
    pub(crate) cpu_milli: u64,
    /// Processes and threads.
    pub(crate) max_processes: u32,
}

/// The attempt's own cgroup in each hierarchy that has one.
#[derive(Debug, Default)]
pub(crate) struct JobCgroups {
    unified: Option<PathBuf>,
    unified_limits: Passed,
    memory: Option<PathBuf>,
    cpu: Option<PathBuf>,
    pids: Option<PathBuf>,
    freezer: Option<PathBuf>,
}

impl JobCgroups {
    /// The cgroups that a plan names, whether they are there or not.
    pub(crate) fn existing(plan: &CgroupPlan) -> Self {
        let at = |base: &Option<String>| {
            let path = Path::new(base.as_ref()?).join(&plan.name);
            path.is_dir().then_some(path)
        };
        Self {
            unified: at(&plan.unified),
            unified_limits: plan.unified_limits,
            memory: at(&plan.memory),
            cpu: at(&plan.cpu),
            pids: at(&plan.pids),
            freezer: at(&plan.freezer),
        }
    }

    /// Makes the cgroups and sets the limits. What cannot be made is told in the second part, one line each.
    pub(crate) fn create(plan: &CgroupPlan, limits: &CgroupLimits) -> (Self, Vec<String>) {
        let mut problems = Vec::new();
        let mut bases = vec![&plan.unified];
        let v2 = plan.unified_limits;
        let v1 = [
            (v2.memory, &plan.memory),
            (v2.cpu, &plan.cpu),
            (v2.pids, &plan.pids),
        ];
        let v1 = v1.into_iter().filter(|(is_in_v2, _)| !is_in_v2);
        bases.extend(v1.map(|(_, base)| base));
        if plan.unified.is_none() {
            bases.push(&plan.freezer);
        }
        for base in bases.into_iter().flatten() {
            let path = Path::new(base).join(&plan.name);
            if let Err(error) = std::fs::create_dir_all(&path) {
                problems.push(format!("cgroup {} cannot be made: {error}", path.display()));
            }
        }
        let cgroups = Self::existing(plan);
        for (path, value) in cgroups.files(limits) {
            if let Err(error) = std::fs::write(&path, &value) {
                problems.push(format!(
                    "limit {} = {value} is not set: {error}",
                    path.display()
                ));
            }
        }
        (cgroups, problems)
    }

    fn files(&self, wanted: &CgroupLimits) -> Vec<(PathBuf, String)> {
        let (memory_bytes, cpu_milli) = (wanted.memory_bytes, wanted.cpu_milli);
        let mut limits = Vec::new();
        let mut set = |directory: &Option<PathBuf>, file: &str, value: String| {
            if let Some(directory) = directory {
                limits.push((directory.join(file), value));
            }
        };
        let passed = self.unified_limits;
        let unified = |is_passed: bool| self.unified.clone().filter(|_path| is_passed);
        let (memory, cpu, pids) = (
            unified(passed.memory),
            unified(passed.cpu),
            unified(passed.pids),
        );
        if memory_bytes > 0 {
            set(
                &self.memory,
                "memory.limit_in_bytes",
                memory_bytes.to_string(),
            );
            set(&memory, "memory.max", memory_bytes.to_string());
            set(&memory, "memory.oom.group", "1".to_owned());
        }
        if cpu_milli > 0 {
            // A weight, not a cap: idle cores may be used, busy ones are shared as asked.
            // 1,024 shares (v1) and 100 (v2) are one core's worth, the kernel's defaults.
            let shares = (cpu_milli * 1_024 / 1_000).clamp(2, 262_144);
            set(&self.cpu, "cpu.shares", shares.to_string());
            let weight = (cpu_milli / 10).clamp(1, 10_000);
            set(&cpu, "cpu.weight", weight.to_string());
        }
        if wanted.max_processes > 0 {
            let most = wanted.max_processes.to_string();
            set(&self.pids, "pids.max", most.clone());
            set(&pids, "pids.max", most);
        }
        limits.extend(self.no_swap(memory_bytes));
        limits
    }

    /// Keeps the memory limit from being met by swapping, where swap is counted: then it is the limit that it says.
    fn no_swap(&self, memory_bytes: u64) -> Vec<(PathBuf, String)> {
        let v1 = self.memory.iter().map(|path| {
            let file = path.join("memory.memsw.limit_in_bytes");
            (file, memory_bytes.to_string())
        });
        let v2 = self.unified.iter().map(|path| {
            let file = path.join("memory.swap.max");
            (file, "0".to_owned())
        });
        let files = v1.chain(v2).filter(|_| memory_bytes > 0);
        files.filter(|(file, _)| file.exists()).collect()
    }

    fn all(&self) -> impl Iterator<Item = &PathBuf> {
        [
            &self.unified,
            &self.memory,
            &self.cpu,
            &self.pids,
            &self.freezer,
        ]
        .into_iter()
        .flatten()
    }

    /// Moves a process in. The first move waits for a grace period of the kernel (about 10 ms), so this
    /// happens after the start, not before.
    pub(crate) fn join(&self, pid: u32) -> io::Result<()> {
        for path in self.all() {
            match std::fs::write(path.join("cgroup.procs"), pid.to_string()) {
                // ESRCH: it ended meanwhile.
                Err(error)
                    if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {}
                written => written?,
            }
        }
        Ok(())
    }

    /// Processes inside, by any hierarchy; none known without cgroups.
    pub(crate) fn members(&self) -> Option<Vec<u32>> {
        let path = self.all().next()?;
        // Gone means empty.
        let text = std::fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
        Some(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Kills everything inside. Says how, or none if there is no cgroup for it.
    pub(crate) fn kill(&self) -> io::Result<Option<&'static str>> {
        if let Some(unified) = &self.unified {
            match std::fs::write(unified.join("cgroup.kill"), "1") {
                Ok(()) => return Ok(Some(KILL_UNIFIED)),
                // Older kernels have no such file: the other ways remain.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        if let Some(freezer) = &self.freezer {
            kill_frozen(freezer)?;
            return Ok(Some(KILL_FREEZER));
        }
        Ok(None)
    }

    /// How [`Self::kill`] would go about it, the walk if there is no cgroup.
    pub(crate) fn kill_method(&self) -> &'static str {
        let unified = self.unified.as_ref().map(|path| path.join("cgroup.kill"));
        match (unified, &self.freezer) {
            (Some(file), _) if file.exists() => KILL_UNIFIED,
            (_, Some(_)) => KILL_FREEZER,
            (_, None) => KILL_WALK,
        }
    }

    /// How often the kernel's memory limit killed something inside; none if no cgroup counts it.
    pub(crate) fn memory_kills(&self) -> Option<u64> {
        let v1 = self
            .memory
            .as_ref()
            .map(|path| path.join("memory.oom_control"));
        let v2 = self.unified.as_ref().map(|path| path.join("memory.events"));
        [v1, v2]
            .into_iter()
            .flatten()
            .find_map(|path| read_field(&path, "oom_kill"))
    }

    /// How often the limit of processes was met; none if no cgroup counts it.
    pub(crate) fn refused_forks(&self) -> Option<u64> {
        let places = [&self.pids, &self.unified].into_iter().flatten();
        places
            .map(|path| path.join("pids.events"))
            .find_map(|path| read_field(&path, "max"))
    }

    /// Most memory ever held inside, page cache included; none if no cgroup counts it.
    pub(crate) fn peak_memory(&self) -> Option<u64> {
        let v1 = self
            .memory
            .as_ref()
            .map(|path| path.join("memory.max_usage_in_bytes"));
        let v2 = self.unified.as_ref().map(|path| path.join("memory.peak"));
        [v1, v2]
            .into_iter()
            .flatten()
            .find_map(|path| read_number(&path))
    }

    /// Memory held inside, without page cache that the kernel would give up first; none if no cgroup counts it.
    pub(crate) fn memory(&self) -> Option<u64> {
        let places = [
            (&self.memory, "memory.usage_in_bytes", "total_inactive_file"),
            (&self.unified, "memory.current", "inactive_file"),
        ];
        places.into_iter().find_map(|(directory, held, cache)| {
            let directory = directory.as_ref()?;
            let held = read_number(&directory.join(held))?;
            let cache = read_field(&directory.join("memory.stat"), cache).unwrap_or_default();
            Some(held.saturating_sub(cache))
        })
    }

    /// Processor time of everything that ever ran inside, in milliseconds; none if no cgroup counts it.
    pub(crate) fn cpu_ms(&self) -> Option<u64> {
        let microseconds = read_field(&self.unified.as_ref()?.join("cpu.stat"), "usage_usec")?;
        Some(microseconds / 1_000)
    }

    /// Removes the cgroups; true when none is left. They must be empty.
    pub(crate) fn remove(&self) -> io::Result<bool> {
        let mut removed = true;
        for path in self.all() {
            match std::fs::remove_dir(path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => removed = false,
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }
}

fn kill_frozen(freezer: &Path) -> io::Result<()> {
    let state = freezer.join("freezer.state");
    std::fs::write(&state, "FROZEN")?;
    let started = Instant::now();
    while std::fs::read_to_string(&state)?.trim() != "FROZEN" && started.elapsed() < FREEZE_LIMIT {
        pause(Duration::from_millis(1))?;
    }
    let members = std::fs::read_to_string(freezer.join("cgroup.procs"))?;
    for pid in members.lines().filter_map(|line| line.parse().ok()) {
        if let Some(process) = process_tree::read(pid) {
            process_tree::signal(&process, Signal::KILL)?;
        }
    }
    std::fs::write(&state, "THAWED")
}

/// Waits in a process without runtime, where nothing else can be done meanwhile.
fn pause(time: Duration) -> io::Result<()> {
    let time = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: time.subsec_nanos().into(),
    };
    match poll(&mut [], Some(&time)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn read_number(path: &Path) -> Option<u64> {
    // A file that is not there counts nothing: none, as documented by each caller.
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn read_field(path: &Path, name: &str) -> Option<u64> {
    // As above.
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        line.strip_prefix(name)?
            .strip_prefix(' ')?
            .trim()
            .parse()
            .ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Over ordinary directories, which take any file.
    #[test]
    fn each_limit_is_set_in_the_hierarchy_that_has_its_controller() {
        let root = tempfile::tempdir().unwrap();
        let base = |name: &str| {
            let path = root.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path.to_str().map(str::to_owned)
        };
        let plan = CgroupPlan {
            unified: base("unified"),
            unified_limits: Passed {
                memory: true,
                pids: true,
                cpu: false,
            },
            memory: base("memory"),
            cpu: base("cpu"),
            pids: base("pids"),
            freezer: base("freezer"),
            name: "job".to_owned(),
        };
        let swap = root.path().join("unified/job/memory.swap.max");
        std::fs::create_dir(swap.parent().unwrap()).unwrap();
        std::fs::write(&swap, "max").unwrap();
        let limits = CgroupLimits {
            memory_bytes: 4_096,
            cpu_milli: 2_000,
            max_processes: 7,
        };
        let (_cgroups, problems) = JobCgroups::create(&plan, &limits);
        assert_eq!(problems, Vec::<String>::new());
        let set = |path: &str| std::fs::read_to_string(root.path().join(path)).ok();
        let expected = [
            ("unified/job/memory.max", "4096"),
            ("unified/job/memory.swap.max", "0"),
            ("unified/job/pids.max", "7"),
            ("cpu/job/cpu.shares", "2048"),
        ];
        for (path, value) in expected {
            assert_eq!(set(path).as_deref(), Some(value), "{path}");
        }
        for path in ["memory/job", "pids/job", "unified/job/cpu.weight"] {
            assert!(!root.path().join(path).exists(), "{path}");
        }
    }
}

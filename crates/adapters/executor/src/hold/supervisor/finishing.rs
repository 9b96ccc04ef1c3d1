//! The holder's last acts: the end, stored and told, and the cgroups removed.

use diagnosis::{Facts, Memory, Request, Said, diagnose};
use rustix::event::poll;
use rustix::time::Timespec;
use types::DurationMs;

use super::Supervisor;
use crate::clock::{boottime_ms, wall_clock};
use crate::hold::ending;
use crate::hold::launch::read_launch_error;
use crate::hold::{HoldError, log};
use crate::protocol::Notice;
use crate::stored::Ended;

/// How long the removal of cgroups is tried: the kernel empties them some milliseconds after the last process.
const CGROUP_REMOVAL_LIMIT_MS: u64 = 1_000;

impl Supervisor {
    pub(super) fn finish(mut self) -> Result<(), HoldError> {
        self.sampler.see_console(self.console.take_written());
        let sample = self.sampler.finish(&self.cgroups, boottime_ms());
        self.recorder.append(sample);
        self.console.close(&mut self.recorder);
        // Now: how long ago something was said counts, and a disk may take its time.
        let console = self.console.last_words();
        let ran_ms = boottime_ms().saturating_sub(self.job.started_boottime_ms);
        if let Err(error) = self.recorder.finish() {
            self.fail_records(&error);
        }
        let ended = self.ended(&console, DurationMs(ran_ms));
        let tail = self.tail();
        self.subscribers.tell(&tail);
        let stored = self.directory.write_exit(&ended).map_err(HoldError::Exit);
        // A full disk may keep the end from being stored; a node that listens can still pass it on.
        self.subscribers.tell(&Notice::Ended(ended));
        self.remove_cgroups();
        stored
    }

    fn ended(&self, console: &[Said], ran: DurationMs) -> Ended {
        let launch = read_launch_error(&self.directory).map(ending::launch_failure);
        let reason = self.stopping.reason_with_evidence();
        let stop = reason.map(|(reason, done)| (ending::kind_of(reason), done));
        let (gpu_milli, vram_bytes) = self.gpu_terms.amounts();
        let cause = diagnose(&Facts {
            command: &self.order.command,
            exit: ending::exit(self.job.exit),
            ran,
            launch: launch.as_ref(),
            failure: self.failure.as_ref(),
            stop: stop.as_ref().map(|(kind, done)| (kind, done.as_str())),
            memory: Memory {
                kills: self.cgroups.memory_kills(),
                machine_kills: ending::kills_since(self.machine_kills),
                limit_bytes: self.order.memory_bytes,
                peak_bytes: self.sampler.peak_memory_bytes,
            },
            refused_forks: self.cgroups.refused_forks(),
            max_processes: self.confinement.max_processes,
            disk: ending::disk(&self.directory),
            console,
            course: &self.sampler.course,
            losses: &self.console.losses,
            request: Request {
                cpu_milli: self.order.cpu_milli,
                memory_bytes: self.order.memory_bytes,
                gpu_milli,
                vram_bytes,
            },
        });
        Ended {
            cause,
            started_at: self.job.started_at,
            ended_at: wall_clock(),
            peak_memory_bytes: self.sampler.peak_memory_bytes,
            peak_vram_bytes: self.sampler.peak_vram_bytes,
            cpu_ms: self.sampler.cpu_ms,
            tree_kill_method: self.cgroups.kill_method().to_owned(),
            records: self.recorder.written().next_sequence,
        }
    }

    fn remove_cgroups(&self) {
        let limit_ms = boottime_ms() + CGROUP_REMOVAL_LIMIT_MS;
        let pause = Timespec {
            tv_sec: 0,
            tv_nsec: 2_000_000,
        };
        loop {
            match self.cgroups.remove() {
                Ok(true) => return,
                Ok(false) if boottime_ms() < limit_ms => {}
                Ok(false) => return log("the attempt's cgroups stay busy and are left"),
                Err(error) => return log(&format!("the attempt's cgroups stay: {error}")),
            }
            if let Err(error) = poll(&mut [], Some(&pause)) {
                return log(&format!("the attempt's cgroups stay: {error}"));
            }
        }
    }
}

//! The holder's loop: pipes into records, requests into deadlines, deadlines into signals, the end into a
//! file. One thread, one `poll`, one timer; while the job runs it touches no disk, so that none can delay a kill.

mod finishing;
mod stopping;
mod waiting;

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
use types::{CauseKind, ConsoleStream, MetricPoint};

use super::HoldError;
use super::console::{Console, say};
use super::ending;
use super::job::Job;
use super::recorder::Recorder;
use super::sampler::Sampler;
use super::subscribers::Subscribers;
use crate::attempt_directory::AttemptDirectory;
use crate::cgroup::{CgroupLimits, JobCgroups};
use crate::clock::boottime_ms;
use crate::job_user::Confinement;
use crate::process_tree;
use crate::protocol::{Notice, Request, StopReason};
use crate::python;
use crate::segment::SegmentLimits;
use crate::stored::{GpuTerms, OrderV1, Status, WholeOrder};
use stopping::Stopping;

/// Followers are told of new records at most this often: below what a person sees, above what a flood costs.
const TELL_INTERVAL_MS: u64 = 20;
/// Stacks that were asked for are written within this time.
const ANSWERS_LIMIT_MS: u64 = 3_000;
/// How long the pipes may stay open after the tree is gone: someone outside it holds them.
const DRAIN_LIMIT_MS: u64 = 1_000;

/// Everything that a running holder knows.
#[derive(Debug)]
pub(super) struct Supervisor {
    directory: AttemptDirectory,
    order: OrderV1,
    confinement: Confinement,
    /// What it was given of the GPUs.
    gpu_terms: GpuTerms,
    job: Job,
    subscribers: Subscribers,
    recorder: Recorder,
    console: Console,
    cgroups: JobCgroups,
    sampler: Sampler,
    timer: OwnedFd,
    stopping: Stopping,
    told_at_ms: u64,
    untold: bool,
    gone_since_ms: Option<u64>,
    failure: Option<(CauseKind, String)>,
    /// It does nothing, and was asked where it is.
    is_stuck: bool,
    /// Until then what it writes is the answer to that, and no progress.
    answers_until_ms: u64,
    /// Kills for lack of memory on the whole machine when it started.
    machine_kills: Option<u64>,
}

impl Supervisor {
    /// Tells the node that the job runs, then does what the start need not wait for.
    pub(super) fn new(
        directory: AttemptDirectory,
        (order, confinement, gpu_terms): WholeOrder,
        job: Job,
        listener: UnixListener,
        node: Option<UnixStream>,
    ) -> Result<Self, HoldError> {
        let limits = SegmentLimits {
            max_bytes: order.segment_max_bytes,
            max_age_ms: order.segment_max_age_ms,
        };
        let now_ms = boottime_ms();
        let status = Status::V1 {
            holder_pid: std::process::id(),
            pid: job.pid,
            started_at: job.started_at,
        };
        let recorder =
            Recorder::start(directory.clone(), status, limits).map_err(HoldError::Records)?;
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC)
            .map_err(HoldError::Wait)?;
        let mut supervisor = Self {
            subscribers: Subscribers::new(listener, node),
            recorder,
            console: Console::new(order.stop_rule.clone()),
            cgroups: JobCgroups::default(),
            sampler: Sampler::new(now_ms),
            timer,
            stopping: Stopping::new(&order, job.started_boottime_ms),
            told_at_ms: 0,
            untold: false,
            gone_since_ms: None,
            failure: None,
            is_stuck: false,
            answers_until_ms: 0,
            machine_kills: ending::machine_kills(),
            directory,
            order,
            confinement,
            gpu_terms: gpu_terms.unwrap_or_default(),
            job,
        };
        for notice in supervisor.greeting() {
            supervisor.subscribers.tell(&notice);
        }
        supervisor.confine()?;
        Ok(supervisor)
    }

    /// Makes the cgroups and moves the tree in. The job runs already: the first move waits for a grace
    /// period of the kernel, about 10 ms, that no start should pay. What it forked meanwhile is moved too.
    fn confine(&mut self) -> Result<(), HoldError> {
        let order = &self.order;
        let limits = CgroupLimits {
            memory_bytes: order.memory_bytes,
            cpu_milli: order.cpu_milli,
            max_processes: self.confinement.max_processes,
        };
        let (cgroups, problems) = JobCgroups::create(&order.cgroups, &limits);
        for problem in problems {
            self.recorder.log(&problem);
            say(&mut self.recorder, &problem);
        }
        self.cgroups = cgroups;
        if let Err(error) = self.cgroups.join(self.job.pid) {
            let problem = format!("the job could not be moved into its cgroups: {error}");
            self.recorder.log(&problem);
            say(&mut self.recorder, &problem);
            return Ok(());
        }
        while let Some(inside) = self.cgroups.members() {
            let tree = process_tree::descendants(std::process::id()).map_err(HoldError::Signal)?;
            let outside = tree.iter().filter(|process| !inside.contains(&process.pid));
            let mut moved = false;
            for process in outside {
                moved |= self.cgroups.join(process.pid).is_ok();
            }
            if !moved {
                break;
            }
        }
        Ok(())
    }

    /// Runs until the end is durable and told.
    pub(super) fn run(mut self) -> Result<(), HoldError> {
        loop {
            let now_ms = boottime_ms();
            self.read_console(now_ms)?;
            self.serve(now_ms)?;
            self.job.reap().map_err(HoldError::Signal)?;
            self.enforce(now_ms)?;
            self.sample(now_ms);
            self.keep_records(now_ms);
            if self.is_over(now_ms) {
                return self.finish();
            }
            self.wait()?;
        }
    }

    fn greeting(&self) -> [Notice; 2] {
        [
            Notice::Started {
                pid: self.job.pid,
                at: self.job.started_at,
                deadline_boottime_ms: self.stopping.deadline_ms,
            },
            self.tail(),
        ]
    }

    fn tail(&self) -> Notice {
        let written = self.recorder.written();
        Notice::Tail {
            segment: written.segment,
            next_sequence: written.next_sequence,
        }
    }

    fn read_console(&mut self, now_ms: u64) -> Result<(), HoldError> {
        let pipes = [
            (&mut self.job.stdout, ConsoleStream::Stdout),
            (&mut self.job.stderr, ConsoleStream::Stderr),
        ];
        for (pipe, stream) in pipes {
            if let Err(error) = self.console.read(pipe, stream, &mut self.recorder) {
                *pipe = None;
                let problem = format!("reading the job's output failed: {error}");
                self.failure
                    .get_or_insert((CauseKind::HolderFailed, problem));
            }
        }
        match self.console.take_met_rule() {
            Some(rule) => {
                let grace_ms = self.order.stop_grace_ms;
                self.stop(StopReason::RuleMet { rule }, grace_ms, now_ms)
            }
            None => Ok(()),
        }
    }

    fn serve(&mut self, now_ms: u64) -> Result<(), HoldError> {
        let greeting = self.greeting();
        self.subscribers
            .accept(&greeting)
            .map_err(HoldError::Socket)?;
        for request in self.subscribers.requests() {
            match request {
                Request::Extend {
                    deadline_boottime_ms,
                } => self.stopping.extend(deadline_boottime_ms),
                Request::Stop { reason, grace_ms } => self.stop(reason, grace_ms, now_ms)?,
                Request::Gpus(told) => self.sampler.tell_gpus(told, now_ms),
                Request::Points { lot, points } => self.take_points(lot, points),
            }
        }
        self.subscribers.flush();
        Ok(())
    }

    /// Points that came by a request. While the disk does not keep up they are not taken: whoever sends them waits, as the
    /// job does with its output.
    fn take_points(&mut self, lot: u64, points: Vec<MetricPoint>) {
        let taken = !self.recorder.is_full();
        if taken {
            self.console.take_points(points, &mut self.recorder);
        }
        self.subscribers.tell(&Notice::PointsTaken { lot, taken });
    }

    fn sample(&mut self, now_ms: u64) {
        if now_ms < self.sampler.next_look_ms() || self.job.tree_is_gone {
            return;
        }
        let written = self.console.take_written();
        if now_ms >= self.answers_until_ms {
            self.sampler.see_console(written);
        }
        match self.sampler.look(&self.cgroups, now_ms) {
            Ok(usage) => self.subscribers.tell(&Notice::Usage(usage)),
            Err(error) => self.recorder.log(&format!("sampling failed: {error}")),
        }
        // With a full desk the interval goes on: its record comes late and covers more.
        if !self.recorder.is_full()
            && let Some(sample) = self.sampler.record(now_ms)
        {
            self.recorder.append(sample);
            self.look_for_progress(now_ms);
        }
    }

    /// Asks once, when it has done nothing for long, where it is.
    fn look_for_progress(&mut self, now_ms: u64) {
        let was_stuck = self.is_stuck;
        self.is_stuck = diagnosis::is_without_progress(&self.sampler.course);
        if !self.is_stuck || was_stuck {
            return;
        }
        self.answers_until_ms = now_ms.saturating_add(ANSWERS_LIMIT_MS);
        match python::ask_for_stacks(std::process::id()) {
            Ok(0) => {}
            Ok(asked) => say(
                &mut self.recorder,
                &format!(
                    "it does nothing: asked {} for stacks",
                    python::processes(asked)
                ),
            ),
            Err(error) => self
                .recorder
                .log(&format!("no stacks were asked for: {error}")),
        }
    }

    fn keep_records(&mut self, now_ms: u64) {
        match self.recorder.news() {
            Ok(wrote) => self.untold |= wrote,
            Err(error) => self.fail_records(&error),
        }
        if self.untold && now_ms >= self.told_at_ms + TELL_INTERVAL_MS {
            let tail = self.tail();
            self.subscribers.tell(&tail);
            self.told_at_ms = now_ms;
            self.untold = false;
        }
    }

    fn fail_records(&mut self, error: &std::io::Error) {
        let kind = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                CauseKind::DiskFull
            }
            _ => CauseKind::HolderFailed,
        };
        let problem = format!("the records could not be written: {error}");
        self.recorder.log(&problem);
        self.failure.get_or_insert((kind, problem));
    }

    fn is_over(&mut self, now_ms: u64) -> bool {
        if self.stopping.gave_up(now_ms) {
            return true;
        }
        if !(self.job.exit.is_some() && self.job.tree_is_gone) {
            return false;
        }
        if self.recorder.is_full() {
            // The pipes are left alone until the disk has taken what waits: their last words are still to be read.
            self.gone_since_ms = None;
            return false;
        }
        let gone_since_ms = *self.gone_since_ms.get_or_insert(now_ms);
        let drained = self.job.stdout.is_none() && self.job.stderr.is_none();
        drained || now_ms >= gone_since_ms + DRAIN_LIMIT_MS
    }
}

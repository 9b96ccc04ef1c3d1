//! The holder's loop: pipes into records, requests into deadlines, deadlines into signals, the end into a
//! file. One thread, one `poll`, one timer.

mod stopping;

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use types::{CauseKind, ConsoleStream, DurationMs, codec};

use super::console::{Console, say};
use super::ending::{Facts, cause};
use super::job::Job;
use super::launch::read_launch_error;
use super::sampler::{SAMPLE_INTERVAL_MS, Sampler, record};
use super::subscribers::Subscribers;
use super::{HoldError, log};
use crate::attempt_directory::AttemptDirectory;
use crate::cgroup::JobCgroups;
use crate::clock::{boottime_ms, wall_clock};
use crate::durable_file;
use crate::process_tree;
use crate::protocol::{Notice, Request};
use crate::segment::{SegmentLimits, SegmentWriter};
use crate::stored::{Ended, OrderV1, Status};
use stopping::Stopping;

/// Followers are told of new records at most this often: below what a person sees, above what a flood costs.
const TELL_INTERVAL_MS: u64 = 20;
/// How long the pipes may stay open after the tree is gone: someone outside it holds them.
const DRAIN_LIMIT_MS: u64 = 1_000;
/// How long the removal of cgroups is tried: the kernel empties them some milliseconds after the last process.
const CGROUP_REMOVAL_LIMIT_MS: u64 = 1_000;

/// Everything that a running holder knows.
#[derive(Debug)]
pub(super) struct Supervisor {
    directory: AttemptDirectory,
    order: OrderV1,
    job: Job,
    subscribers: Subscribers,
    writer: SegmentWriter,
    console: Console,
    cgroups: JobCgroups,
    sampler: Sampler,
    timer: OwnedFd,
    stopping: Stopping,
    next_sample_ms: u64,
    told_at_ms: u64,
    untold: bool,
    gone_since_ms: Option<u64>,
    failure: Option<(CauseKind, String)>,
}

impl Supervisor {
    /// Tells the node that the job runs, then does what the start need not wait for.
    pub(super) fn new(
        directory: AttemptDirectory,
        order: OrderV1,
        job: Job,
        listener: UnixListener,
        node: Option<UnixStream>,
    ) -> Result<Self, HoldError> {
        let limits = SegmentLimits {
            max_bytes: order.segment_max_bytes,
            max_age_ms: order.segment_max_age_ms,
        };
        let now_ms = boottime_ms();
        let writer = SegmentWriter::create(&directory.records(), limits, now_ms)
            .map_err(HoldError::Records)?;
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC)
            .map_err(HoldError::Wait)?;
        let mut supervisor = Self {
            subscribers: Subscribers::new(listener, node),
            writer,
            console: Console::new(),
            cgroups: JobCgroups::default(),
            sampler: Sampler::default(),
            timer,
            stopping: Stopping::new(&order, job.started_boottime_ms),
            next_sample_ms: now_ms,
            told_at_ms: 0,
            untold: false,
            gone_since_ms: None,
            failure: None,
            directory,
            order,
            job,
        };
        for notice in supervisor.greeting() {
            supervisor.subscribers.tell(&notice);
        }
        supervisor.store_status()?;
        supervisor.confine()?;
        Ok(supervisor)
    }

    fn store_status(&self) -> Result<(), HoldError> {
        let status = Status::V1 {
            holder_pid: std::process::id(),
            pid: self.job.pid,
            started_at: self.job.started_at,
        };
        durable_file::create(&self.directory.status(), &codec::encode(&status))
            .map(drop)
            .map_err(HoldError::Status)
    }

    /// Makes the cgroups and moves the tree in. The job runs already: the first move waits for a grace
    /// period of the kernel, about 10 ms, that no start should pay. What it forked meanwhile is moved too.
    fn confine(&mut self) -> Result<(), HoldError> {
        let order = &self.order;
        let (cgroups, problems) =
            JobCgroups::create(&order.cgroups, order.memory_bytes, order.cpu_milli);
        for problem in problems {
            log(&problem);
            say(&mut self.writer, &problem);
        }
        self.cgroups = cgroups;
        if let Err(error) = self.cgroups.join(self.job.pid) {
            let problem = format!("the job could not be moved into its cgroups: {error}");
            log(&problem);
            say(&mut self.writer, &problem);
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
            self.read_console();
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
        Notice::Tail {
            segment: self.writer.segment,
            next_sequence: self.writer.next_sequence,
        }
    }

    fn read_console(&mut self) {
        let pipes = [
            (&mut self.job.stdout, ConsoleStream::Stdout),
            (&mut self.job.stderr, ConsoleStream::Stderr),
        ];
        for (pipe, stream) in pipes {
            if let Err(error) = self.console.read(pipe, stream, &mut self.writer) {
                *pipe = None;
                let problem = format!("reading the job's output failed: {error}");
                self.failure
                    .get_or_insert((CauseKind::HolderFailed, problem));
            }
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
            }
        }
        self.subscribers.flush();
        Ok(())
    }

    fn sample(&mut self, now_ms: u64) {
        if now_ms < self.next_sample_ms || self.job.tree_is_gone {
            return;
        }
        self.next_sample_ms = now_ms + SAMPLE_INTERVAL_MS;
        match self.sampler.sample(&self.cgroups, now_ms) {
            Ok(usage) => {
                self.writer.append(record(usage));
                self.subscribers.tell(&Notice::Usage(usage));
            }
            Err(error) => log(&format!("sampling failed: {error}")),
        }
    }

    fn keep_records(&mut self, now_ms: u64) {
        let written = self.writer.flush(now_ms);
        let kept = written.and_then(|wrote| self.writer.tick(now_ms).map(|()| wrote));
        match kept {
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
        log(&problem);
        self.writer.stop();
        self.failure.get_or_insert((kind, problem));
    }

    fn is_over(&mut self, now_ms: u64) -> bool {
        if self.stopping.gave_up(now_ms) {
            return true;
        }
        if !(self.job.exit.is_some() && self.job.tree_is_gone) {
            return false;
        }
        let gone_since_ms = *self.gone_since_ms.get_or_insert(now_ms);
        let drained = self.job.stdout.is_none() && self.job.stderr.is_none();
        drained || now_ms >= gone_since_ms + DRAIN_LIMIT_MS
    }

    fn wait(&mut self) -> Result<(), HoldError> {
        self.arm_timer()?;
        let mut watched = vec![
            PollFd::new(&self.timer, PollFlags::IN),
            PollFd::new(&self.subscribers.listener, PollFlags::IN),
        ];
        if self.job.exit.is_none() {
            watched.push(PollFd::new(&self.job.pidfd, PollFlags::IN));
        }
        for pipe in [&self.job.stdout, &self.job.stderr].into_iter().flatten() {
            watched.push(PollFd::new(pipe, PollFlags::IN));
        }
        for subscriber in &self.subscribers.connected {
            let out = if subscriber.has_unsent() {
                PollFlags::OUT
            } else {
                PollFlags::empty()
            };
            watched.push(PollFd::new(&subscriber.stream, PollFlags::IN | out));
        }
        // Who woke it does not matter: the loop looks at everything, without blocking.
        match poll(&mut watched, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(HoldError::Wait(error)),
        }
    }

    fn arm_timer(&self) -> Result<(), HoldError> {
        let now_ms = boottime_ms();
        let sample = (!self.job.tree_is_gone).then_some(self.next_sample_ms);
        let tell = self.untold.then_some(self.told_at_ms + TELL_INTERVAL_MS);
        let drain = self.gone_since_ms.map(|since| since + DRAIN_LIMIT_MS);
        let at_ms = [sample, tell, drain, self.writer.next_tick_ms()]
            .into_iter()
            .flatten()
            .chain(self.stopping.next_wake_ms(self.job.exit.is_some(), now_ms))
            .min();
        // A timer in the past fires at once; zero would disarm it, so with nothing due it is zero.
        let at_ms = at_ms.unwrap_or(0);
        let seconds = i64::try_from(at_ms / 1_000).unwrap_or(i64::MAX);
        let nanoseconds = i64::try_from(at_ms % 1_000 * 1_000_000).expect("less than a second");
        let value = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec {
                tv_sec: seconds,
                tv_nsec: nanoseconds,
            },
        };
        timerfd_settime(self.timer.as_fd(), TimerfdTimerFlags::ABSTIME, &value)
            .map(drop)
            .map_err(HoldError::Wait)
    }

    fn finish(mut self) -> Result<(), HoldError> {
        self.sampler.finish(&self.cgroups);
        if let Err(error) = self.writer.finish(boottime_ms()) {
            self.fail_records(&error);
        }
        let ended = self.ended();
        let tail = self.tail();
        self.subscribers.tell(&tail);
        let stored = self.directory.write_exit(&ended).map_err(HoldError::Exit);
        // A full disk may keep the end from being stored; a node that listens can still pass it on.
        self.subscribers.tell(&Notice::Ended(ended));
        self.remove_cgroups();
        stored
    }

    fn ended(&mut self) -> Ended {
        let facts = Facts {
            command: &self.order.command,
            exit: self.job.exit,
            launch_error: read_launch_error(&self.directory),
            failure: self.failure.take(),
            stop: self.stopping.reason_with_evidence(),
            memory_kills: self.cgroups.memory_kills(),
            memory_limit_bytes: self.order.memory_bytes,
            peak_memory_bytes: self.sampler.peak_memory_bytes,
            ran: DurationMs(boottime_ms().saturating_sub(self.job.started_boottime_ms)),
            stderr_lines: self.console.last_stderr_lines(),
        };
        Ended {
            cause: cause(facts),
            started_at: self.job.started_at,
            ended_at: wall_clock(),
            peak_memory_bytes: self.sampler.peak_memory_bytes,
            cpu_ms: self.sampler.cpu_ms,
            tree_kill_method: self.cgroups.kill_method().to_owned(),
            records: self.writer.next_sequence,
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

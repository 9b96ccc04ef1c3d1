//! What the holder's loop sleeps on: everything that can wake it, and the next moment at which something is due.

use std::os::fd::AsFd as _;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};

use super::{DRAIN_LIMIT_MS, Supervisor, TELL_INTERVAL_MS};
use crate::clock::boottime_ms;
use crate::hold::HoldError;

impl Supervisor {
    pub(super) fn wait(&mut self) -> Result<(), HoldError> {
        self.arm_timer()?;
        let mut watched = vec![
            PollFd::new(&self.timer, PollFlags::IN),
            PollFd::new(self.recorder.wake(), PollFlags::IN),
            PollFd::new(&self.subscribers.listener, PollFlags::IN),
        ];
        if self.job.exit.is_none() {
            watched.push(PollFd::new(&self.job.pidfd, PollFlags::IN));
        }
        let pipes = [&self.job.stdout, &self.job.stderr].into_iter().flatten();
        let rests = self.console.rest_until_ms().is_some() || self.recorder.is_full();
        for pipe in pipes.filter(|_| !rests) {
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
        let sample = (!self.job.tree_is_gone).then_some(self.sampler.next_look_ms());
        let tell = self.untold.then_some(self.told_at_ms + TELL_INTERVAL_MS);
        let drain = self.gone_since_ms.map(|since| since + DRAIN_LIMIT_MS);
        let rest = self.console.rest_until_ms();
        let at_ms = [sample, tell, drain, rest]
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
}

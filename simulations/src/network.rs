//! Messages: late, lost, twice, or not at all across a cut.

use agent::Input;
use state_machine::ReportAttempt;
use types::{AttemptToken, DurationMs, NodeReport, WantedSet};

use crate::world::{Event, World};

/// What nodes say to each other.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    LeaseRequest {
        tokens: Vec<AttemptToken>,
        sent_at: u64,
    },
    LeaseAnswer {
        sent_at: u64,
        answers: Vec<(AttemptToken, Result<DurationMs, String>)>,
    },
    WantedRequest,
    Wanted {
        set: WantedSet,
        confirmed: bool,
    },
    Report(Box<ReportAttempt>),
    ReportDone {
        token: AttemptToken,
        start: bool,
    },
    NodeReport(Box<NodeReport>),
}

/// How bad the network is.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    pub(crate) loss_permille: u64,
    pub(crate) repeat_permille: u64,
    pub(crate) longest_delay_ms: u64,
}

impl Weather {
    pub(crate) fn fair() -> Self {
        Self {
            loss_permille: 2,
            repeat_permille: 2,
            longest_delay_ms: 10,
        }
    }
}

impl World {
    pub(crate) fn send(&mut self, from: usize, to: usize, message: Message) {
        if self.random.chance(self.weather.loss_permille) {
            return;
        }
        if self.random.chance(self.weather.repeat_permille) {
            self.send_once(from, to, message.clone());
        }
        self.send_once(from, to, message);
    }

    fn send_once(&mut self, from: usize, to: usize, message: Message) {
        let longest = self.weather.longest_delay_ms;
        let delay = if from == to {
            0
        } else {
            self.random.range(1..longest + 1)
        };
        self.after(delay, Event::Deliver { from, to, message });
    }

    /// Whether messages pass from `one` to `other`.
    pub(crate) fn connected(&self, one: usize, other: usize) -> bool {
        one == other || (self.groups[one] == self.groups[other] && !self.muted[one])
    }

    pub(crate) fn deliver(
        &mut self,
        from: usize,
        to: usize,
        message: Message,
    ) -> Result<(), String> {
        if !self.connected(from, to) || !self.machines[to].is_up() {
            return Ok(());
        }
        match message {
            Message::LeaseRequest { .. } | Message::WantedRequest => self.ask(to, from, message),
            Message::Report(report) => self.take_report(to, from, *report),
            Message::NodeReport(report) => self.observe(to, *report),
            Message::Wanted { set, confirmed } => {
                self.tell_agent(to, Input::Wanted(set, confirmed))
            }
            Message::ReportDone { token, start: true } => {
                self.tell_agent(to, Input::StartCommitted { token })
            }
            Message::ReportDone {
                token,
                start: false,
            } => self.tell_agent(to, Input::ReportCommitted { token }),
            Message::LeaseAnswer { sent_at, answers } => self.take_leases(to, sent_at, answers),
        }
        Ok(())
    }
}

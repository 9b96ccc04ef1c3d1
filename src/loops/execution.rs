//! The node's side of running attempts: the agent decides, this loop does what it says.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent::{Action, Agent, AgentConfig, AttemptPhase, Input, LocalAttempt};
use executor::{Event, Phase};
use service::{Handle, now};
use state_machine::AttemptReport;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use types::{AttemptToken, Cause, CauseKind, DurationMs, WantedAttempt};

use crate::loops::attempt::{Preparing, end_without_process, ended, lock, send_report};
use crate::loops::records::Sealed;

/// Answers that wait for the loop; then the tasks that bring them wait.
const INPUT_QUEUE: usize = 256;
/// Time between two looks at the leader's wanted set when nothing is running: what a lost push costs.
const HELLO: Duration = Duration::from_secs(5);

/// Runs what this node should run until cancelled; attempts go on without it.
pub(crate) async fn run(
    handle: Handle,
    mut events: mpsc::Receiver<Event>,
    sealed: mpsc::Sender<Sealed>,
    cancel: CancellationToken,
) {
    let (inputs, mut answers) = mpsc::channel(INPUT_QUEUE);
    let mut wanted = handle.wanted();
    let mut agent = Agent::new(AgentConfig::default());
    let execution = Execution {
        handle,
        inputs,
        preparing: Preparing::default(),
        reporting: Arc::default(),
    };
    let mut hello = tokio::time::interval(HELLO);
    hello.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut input = Some(execution.local_attempts());
    loop {
        if let Some(input) = input.take() {
            for action in agent.step(executor::boottime_ms(), input) {
                execution.perform(action);
            }
        }
        let wake = agent
            .next_wake()
            .map(|at| at.saturating_sub(executor::boottime_ms()));
        tokio::select! {
            () = cancel.cancelled() => return,
            Some(answer) = answers.recv() => input = Some(answer),
            Some(event) = events.recv() => input = take_event(event, &sealed),
            changed = wanted.changed() => match changed {
                Ok(()) => input = wanted.borrow_and_update().clone().map(|(set, confirmed)| Input::Wanted(set, confirmed)),
                Err(_closed) => return,
            },
            _ = hello.tick() => execution.request_leases(Vec::new()),
            () = tokio::time::sleep(wake.map_or(HELLO, Duration::from_millis)) => input = Some(Input::Tick),
        }
    }
}

fn take_event(event: Event, sealed: &mpsc::Sender<Sealed>) -> Option<Input> {
    match event {
        Event::Started { token, .. } => Some(Input::Started { token }),
        Event::Ended { token, .. } => Some(Input::Ended { token }),
        Event::SegmentSealed { token, segment } => {
            // Full: the segment is stored with the report at the latest.
            if sealed.try_send(Sealed { token, segment }).is_err() {
                tracing::debug!(%token, "sealed segment is stored later");
            }
            None
        }
        Event::TailGrew { .. } => None,
    }
}

struct Execution {
    handle: Handle,
    inputs: mpsc::Sender<Input>,
    preparing: Preparing,
    /// Reports under way, of the start or of the end: a slow one is not begun twice.
    reporting: Arc<Mutex<BTreeSet<(AttemptToken, bool)>>>,
}

impl Execution {
    fn local_attempts(&self) -> Input {
        let local = |status: executor::AttemptStatus| LocalAttempt {
            token: status.token,
            rank: status.rank,
            phase: match status.phase {
                Phase::Preparing => AttemptPhase::Preparing,
                Phase::Running => AttemptPhase::Running,
                Phase::Ended(_) => AttemptPhase::Ended,
            },
        };
        Input::Running(
            self.handle
                .executor()
                .running()
                .into_iter()
                .map(local)
                .collect(),
        )
    }

    fn perform(&self, action: Action) {
        tracing::debug!(?action, "agent");
        match action {
            Action::RequestLease { tokens } => self.request_leases(tokens),
            Action::Start(wanted, deadline) => self.start(*wanted, deadline),
            Action::Extend {
                token,
                deadline_boottime_ms,
            } => {
                self.preparing.extend(&token, deadline_boottime_ms);
                self.spawn_logged(token, "lease not extended", move |handle| async move {
                    handle
                        .executor()
                        .extend_lease(&token, deadline_boottime_ms)
                        .await
                });
            }
            Action::Stop {
                token,
                reason,
                grace,
            } => self.stop(token, &reason, grace),
            Action::ReportStarted { token, rank } => self.report_started(token, rank),
            Action::ReportEnded { token, rank } => self.report_ended(token, rank),
            Action::ReportNeverStarted { token, rank, by } => {
                let evidence = vec!["it had not started on its node yet".to_owned()];
                let end = end_without_process(Cause::new(CauseKind::Stopped { by }, evidence));
                self.report(token, Input::ReportCommitted { token }, move |handle| async move {
                    send_report(&handle, token, rank, ended(end)).await
                });
            }
            Action::Release { token } => {
                self.preparing.forget(&token);
                self.spawn_logged(token, "attempt not released", move |handle| async move {
                    handle.executor().release(&token).await
                });
            }
        }
    }

    fn request_leases(&self, tokens: Vec<AttemptToken>) {
        let (handle, inputs) = (self.handle.clone(), self.inputs.clone());
        tokio::spawn(async move {
            let sent_at_boottime_ms = executor::boottime_ms();
            let answer = match handle.lease(&tokens).await {
                Ok(answer) => answer,
                Err(error) => return tracing::debug!(%error, "no lease yet"),
            };
            let granted = answer
                .granted
                .into_iter()
                .map(|(token, length)| Input::LeaseGranted {
                    token,
                    sent_at_boottime_ms,
                    length,
                });
            let refused = answer
                .refused
                .into_iter()
                .map(|(token, why)| Input::LeaseRefused { token, why });
            for input in granted.chain(refused) {
                if inputs.send(input).await.is_err() {
                    return;
                }
            }
            // Also for the loop that mirrors records; this loop hears of it from there.
            handle.take_wanted(answer.wanted, true);
        });
    }

    fn start(&self, wanted: WantedAttempt, deadline: u64) {
        let (handle, inputs, preparing) = (
            self.handle.clone(),
            self.inputs.clone(),
            self.preparing.clone(),
        );
        tokio::spawn(async move {
            let token = wanted.token;
            if preparing.start(&handle, wanted, deadline).await {
                drop(inputs.send(Input::Ended { token }).await); // The loop is over: nothing to tell.
            }
        });
    }

    fn stop(&self, token: AttemptToken, reason: &agent::StopReason, grace: DurationMs) {
        let evidence = vec!["its source tree was still on its way to the node".to_owned()];
        if self
            .preparing
            .cancel(&token, Cause::new(reason.cause(), evidence))
        {
            return;
        }
        let reason = match reason {
            agent::StopReason::Requested { by } => {
                executor::StopReason::Requested { by: by.clone() }
            }
            agent::StopReason::Stale { .. } | agent::StopReason::LeaseExpired => {
                tracing::warn!(%token, %reason, "stopping attempt");
                executor::StopReason::LeaseLost
            }
        };
        self.spawn_logged(token, "stop not delivered", move |handle| async move {
            handle.executor().stop(&token, reason, grace).await
        });
    }

    fn report_started(&self, token: AttemptToken, rank: u32) {
        let running = self.handle.executor().running();
        let status = running.iter().find(|status| status.token == token);
        let at = status
            .and_then(|status| status.started_at)
            .unwrap_or_else(now);
        self.report(
            token,
            Input::StartCommitted { token },
            move |handle| async move {
                send_report(&handle, token, rank, AttemptReport::Started { at }).await
            },
        );
    }

    fn report_ended(&self, token: AttemptToken, rank: u32) {
        let preparing = self.preparing.clone();
        self.report(
            token,
            Input::ReportCommitted { token },
            move |handle| async move { preparing.report_end(&handle, token, rank).await },
        );
    }

    /// Sends a report; when it is in the log, tells the agent so. Otherwise the agent asks again.
    fn report<F>(
        &self,
        token: AttemptToken,
        committed: Input,
        send: impl FnOnce(Handle) -> F + Send + 'static,
    ) where
        F: Future<Output = bool> + Send,
    {
        let (handle, inputs) = (self.handle.clone(), self.inputs.clone());
        let is_end = matches!(committed, Input::ReportCommitted { .. });
        let reporting = Arc::clone(&self.reporting);
        if !lock(&reporting).insert((token, is_end)) {
            return;
        }
        tokio::spawn(async move {
            let is_committed = send(handle).await;
            lock(&reporting).remove(&(token, is_end));
            if is_committed && inputs.send(committed).await.is_err() {
                tracing::debug!(%token, "the loop is over; the next node process reports again");
            }
        });
    }

    fn spawn_logged<F>(
        &self,
        token: AttemptToken,
        what: &'static str,
        act: impl FnOnce(Handle) -> F + Send + 'static,
    ) where
        F: Future<Output = Result<(), executor::Error>> + Send,
    {
        let handle = self.handle.clone();
        tokio::spawn(async move {
            if let Err(error) = act(handle).await {
                tracing::debug!(%token, %error, what);
            }
        });
    }
}

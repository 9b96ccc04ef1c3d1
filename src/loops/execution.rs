//! The node's side of running attempts: the agent decides, this loop does what it says.

use std::collections::BTreeMap;
use std::time::Duration;

use agent::{Action, Agent, AgentConfig, AttemptPhase, Input, LocalAttempt};
use executor::{Event, Phase, StartAttempt};
use service::{ErrorKind, Handle, ServiceError};
use state_machine::{AttemptEnd, AttemptReport, Command, ReportAttempt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use types::{
    AttemptToken, BlobHash, Cause, CauseKind, DurationMs, SourceTree, TreeEntryKind, WantedAttempt,
    WantedSet,
};

use crate::clock::now;
use crate::loops::records::Sealed;

/// Answers that wait for the loop; then the tasks that bring them wait.
const INPUT_QUEUE: usize = 256;
/// Time between two looks at the leader's wanted set when nothing is running: what a lost push costs.
const HELLO: Duration = Duration::from_secs(5);
/// Records of a short attempt that travel inside its report.
const MAX_INLINE_RECORDS: usize = 4 << 10;

struct Execution {
    handle: Handle,
    inputs: mpsc::Sender<Input>,
    /// Attempts that failed before the executor had them.
    unstarted: BTreeMap<AttemptToken, AttemptEnd>,
    wanted: Option<WantedSet>,
}

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
    let mut execution = Execution {
        handle,
        inputs,
        unstarted: BTreeMap::new(),
        wanted: None,
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
        let wake = agent.next_wake().map_or(HELLO, |at| {
            Duration::from_millis(at.saturating_sub(executor::boottime_ms()))
        });
        tokio::select! {
            () = cancel.cancelled() => return,
            Some(answer) = answers.recv() => input = Some(execution.note(answer)),
            Some(event) = events.recv() => input = execution.take_event(event, &sealed),
            changed = wanted.changed() => match changed {
                Ok(()) => input = execution.take_wanted(&mut wanted),
                Err(_closed) => return,
            },
            _ = hello.tick() => execution.request_leases(Vec::new()),
            () = tokio::time::sleep(wake) => input = Some(Input::Tick),
        }
    }
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

    fn note(&mut self, answer: Input) -> Input {
        if let Input::Wanted(set, _) = &answer {
            self.wanted = Some(set.clone());
        }
        answer
    }

    fn take_wanted(
        &mut self,
        wanted: &mut tokio::sync::watch::Receiver<Option<(WantedSet, bool)>>,
    ) -> Option<Input> {
        let (set, confirmed) = wanted.borrow_and_update().clone()?;
        self.wanted = Some(set.clone());
        Some(Input::Wanted(set, confirmed))
    }

    fn take_event(&mut self, event: Event, sealed: &mpsc::Sender<Sealed>) -> Option<Input> {
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

    fn perform(&mut self, action: Action) {
        tracing::debug!(?action, "agent");
        match action {
            Action::RequestLease { tokens } => self.request_leases(tokens),
            Action::Start(wanted, deadline) => self.start(*wanted, deadline),
            Action::Extend {
                token,
                deadline_boottime_ms,
            } => {
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
                let cause = Cause::new(
                    CauseKind::Stopped { by },
                    vec!["it had not started on its node yet".to_owned()],
                );
                self.report(
                    token,
                    rank,
                    end_without_process(cause),
                    Vec::new(),
                    bytes::Bytes::new(),
                );
            }
            Action::Release { token } => {
                self.unstarted.remove(&token);
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
            for input in granted
                .chain(refused)
                .chain([Input::Wanted(answer.wanted, true)])
            {
                if inputs.send(input).await.is_err() {
                    return;
                }
            }
        });
    }

    fn start(&mut self, wanted: WantedAttempt, deadline: u64) {
        let (handle, inputs) = (self.handle.clone(), self.inputs.clone());
        tokio::spawn(async move {
            let (token, rank) = (wanted.token, wanted.rank);
            tracing::info!(%token, name = wanted.spec.name, "starting attempt");
            if let Err(error) = prepare(&handle, wanted, deadline).await {
                tracing::warn!(%token, %error, "attempt could not start");
                let cause = Cause::new(CauseKind::SourceTree, vec![error.message, error.hint]);
                let end = end_without_process(cause);
                if send_report(
                    &handle,
                    token,
                    rank,
                    AttemptReport::Ended {
                        end,
                        segments: Vec::new(),
                        inline_records: bytes::Bytes::new(),
                    },
                )
                .await
                {
                    drop(inputs.send(Input::ReportCommitted { token }).await); // The loop is over: nothing to tell.
                }
            }
        });
    }

    fn stop(&self, token: AttemptToken, reason: &agent::StopReason, grace: DurationMs) {
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
        let at = running
            .iter()
            .find(|status| status.token == token)
            .and_then(|status| status.started_at)
            .unwrap_or_else(now);
        let (handle, inputs) = (self.handle.clone(), self.inputs.clone());
        tokio::spawn(async move {
            if send_report(&handle, token, rank, AttemptReport::Started { at }).await {
                drop(inputs.send(Input::StartCommitted { token }).await); // The loop is over: nothing to tell.
            }
        });
    }

    fn report_ended(&self, token: AttemptToken, rank: u32) {
        let running = self.handle.executor().running();
        let Some(status) = running.into_iter().find(|status| status.token == token) else {
            return;
        };
        let Phase::Ended(ended) = status.phase else {
            return;
        };
        let end = AttemptEnd {
            cause: ended.cause,
            at: ended.ended_at,
            peak_memory_bytes: ended.peak_memory_bytes,
            cpu_ms: DurationMs(ended.cpu_ms),
            tree_kill_method: ended.tree_kill_method,
        };
        let (handle, inputs) = (self.handle.clone(), self.inputs.clone());
        tokio::spawn(async move {
            let (segments, inline_records) = match collect_records(&handle, token).await {
                Ok(records) => records,
                Err(error) => {
                    return tracing::warn!(%token, %error, "records not stored yet; the report waits");
                }
            };
            if send_report(
                &handle,
                token,
                rank,
                AttemptReport::Ended {
                    end,
                    segments,
                    inline_records,
                },
            )
            .await
            {
                drop(inputs.send(Input::ReportCommitted { token }).await); // The loop is over: nothing to tell.
            }
        });
    }

    fn report(
        &self,
        token: AttemptToken,
        rank: u32,
        end: AttemptEnd,
        segments: Vec<types::SegmentRef>,
        inline_records: bytes::Bytes,
    ) {
        let (handle, inputs) = (self.handle.clone(), self.inputs.clone());
        tokio::spawn(async move {
            if send_report(
                &handle,
                token,
                rank,
                AttemptReport::Ended {
                    end,
                    segments,
                    inline_records,
                },
            )
            .await
            {
                drop(inputs.send(Input::ReportCommitted { token }).await); // The loop is over: nothing to tell.
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

/// Brings the source tree here and hands the attempt to the executor.
async fn prepare(
    handle: &Handle,
    wanted: WantedAttempt,
    deadline_boottime_ms: u64,
) -> Result<(), ServiceError> {
    let mut files = BTreeMap::new();
    let mut tree = None;
    if let Some(source) = &wanted.spec.source {
        let fetched = handle.source_tree(source.tree, &[]).await?;
        let hashes = file_blobs(&fetched);
        handle.fetch_blobs(&hashes, &[]).await?;
        files = hashes
            .into_iter()
            .map(|hash| (hash, handle.blob_store().path(&hash)))
            .collect();
        tree = Some(fetched);
    }
    let start = StartAttempt {
        wanted,
        tree,
        files,
        deadline_boottime_ms,
        variables: Vec::new(),
    };
    handle
        .executor()
        .start_attempt(start)
        .await
        .map_err(|error| ServiceError::new(ErrorKind::Internal, "executor", error.to_string()))
}

fn file_blobs(tree: &SourceTree) -> Vec<BlobHash> {
    let SourceTree::V1 { entries, .. } = tree;
    let files = entries.iter().filter_map(|entry| match &entry.kind {
        TreeEntryKind::File { hash, .. } => Some(*hash),
        TreeEntryKind::Symlink { .. } | TreeEntryKind::Directory => None,
    });
    files.collect()
}

/// All records of an ended attempt: inline when few, else as blobs on their copies.
async fn collect_records(
    handle: &Handle,
    token: AttemptToken,
) -> Result<(Vec<types::SegmentRef>, bytes::Bytes), ServiceError> {
    let internal = |error: executor::Error| {
        ServiceError::new(ErrorKind::Internal, "records", error.to_string())
    };
    let sealed = handle
        .executor()
        .sealed_segments(&token)
        .map_err(internal)?;
    let total: u64 = sealed.iter().map(|segment| segment.summary.bytes).sum();
    if total <= MAX_INLINE_RECORDS as u64 {
        let read = handle
            .executor()
            .read_tail(&token, 0, MAX_INLINE_RECORDS)
            .await
            .map_err(internal)?;
        return Ok((Vec::new(), read.frames));
    }
    let mut segments = Vec::with_capacity(sealed.len());
    for segment in &sealed {
        segments.push(handle.store_segment(segment).await?);
    }
    Ok((segments, bytes::Bytes::new()))
}

/// True when the report is in the log or was refused for good.
async fn send_report(
    handle: &Handle,
    token: AttemptToken,
    rank: u32,
    report: AttemptReport,
) -> bool {
    let node = handle.node_id().clone();
    let command = Command::ReportAttempt(Box::new(ReportAttempt {
        token,
        node,
        rank,
        report,
    }));
    match handle.propose_as_node(command).await {
        Ok(_) => true,
        Err(error) if error.kind == ErrorKind::Unavailable => false,
        Err(error) => {
            tracing::warn!(%token, %error, "report refused");
            true
        }
    }
}

fn end_without_process(cause: Cause) -> AttemptEnd {
    AttemptEnd {
        cause,
        at: now(),
        peak_memory_bytes: 0,
        cpu_ms: DurationMs(0),
        tree_kill_method: String::new(),
    }
}

//! What an attempt said, from its first record to the last, live or sealed.

mod last_lines;
mod text;

use std::pin::Pin;
use std::sync::Mutex;

use futures::Stream;
use futures::future::try_join_all;
use state_machine::{Attempt, Experiment, ExperimentPhase};
use tokio::sync::mpsc;
use types::{Record, RecordBody};

use crate::attempt_records::RecordReader;
use crate::author::Caller;
use crate::call::{ReadOptions, Reply, Request};
use crate::error::{ErrorKind, ServiceError};
use crate::experiment_views::{cause_view, state_word};
use crate::handle::{Handle, lock};
use crate::submit::unexpected;
use crate::view::LogItem;
use text::Texts;

/// Which records to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on until the experiment is over.
    pub follow: bool,
    /// Start with this attempt; default: the last one, or the first when following from the start.
    pub attempt: Option<u32>,
    /// Only this rank; default: all of them.
    pub rank: Option<u32>,
    /// Start with these records of that attempt, by rank; those that are not named from the first on.
    pub from: Vec<u64>,
    /// Start with the last so many lines of each rank of the attempt; by default of the last attempt.
    pub last_lines: Option<u64>,
    /// What this replica knows will do: reads without a majority.
    pub stale: bool,
}

/// Records as they come.
pub type LogStream = Pin<Box<dyn Stream<Item = Result<LogItem, ServiceError>> + Send>>;

/// Items that wait for a slow reader; then the source waits.
const STREAM_QUEUE: usize = 256;
/// Longest wait for news of a live tail before the state is looked at again.
const TAIL_WAIT_MS: u64 = 2_000;
/// Most lines from the end: more than anybody reads.
const MAX_LAST_LINES: u64 = 1_000_000;
/// Pause before an unreachable owner is asked again, or the state by a node that has none.
const RETRY_PAUSE: std::time::Duration = std::time::Duration::from_millis(250);

impl Handle {
    /// Streams the records of an experiment.
    ///
    /// # Errors
    /// Nothing or several fit the text, or no majority answers. Later errors are items.
    pub async fn logs(
        &self,
        caller: &Caller,
        id: &str,
        options: LogOptions,
    ) -> Result<LogStream, ServiceError> {
        let read = ReadOptions {
            stale: options.stale,
            min_index: 0,
        };
        let experiment = self.record(caller, id, read).await?;
        if let Some(rank) = options.rank {
            check_rank(&experiment, rank)?;
        }
        if let Some(lines) = options.last_lines {
            check_lines(lines)?;
        }
        let (sender, receiver) = mpsc::channel(STREAM_QUEUE);
        let reader = Reader {
            handle: self.clone(),
            caller: caller.clone(),
            sender,
            state: Mutex::default(),
        };
        tokio::spawn(reader.run(experiment, options));
        Ok(Box::pin(tokio_stream::wrappers::ReceiverStream::new(
            receiver,
        )))
    }

    pub(crate) async fn record(
        &self,
        caller: &Caller,
        id: &str,
        read: ReadOptions,
    ) -> Result<Experiment, ServiceError> {
        match self
            .call(caller, Request::Record(id.to_owned(), read), None)
            .await?
        {
            Reply::Record(answer) => Ok(answer.body),
            other => Err(unexpected(&other)),
        }
    }
}

/// One follower. Ends when its receiver is dropped.
struct Reader {
    handle: Handle,
    caller: Caller,
    sender: mpsc::Sender<Result<LogItem, ServiceError>>,
    /// The state that was told last.
    state: Mutex<String>,
}

/// What is to be read of one rank of an attempt.
#[derive(Clone, Copy)]
struct Part {
    /// Number of the attempt.
    attempt: u32,
    rank: u32,
    /// There are others.
    is_gang: bool,
    /// First record.
    from: u64,
    /// Bytes of output in it that are not wanted.
    skip: usize,
    follow: bool,
    /// Changes of state are told by one of them.
    tells_state: bool,
}

/// The reader went away.
struct Gone;

impl Reader {
    async fn run(self, experiment: Experiment, options: LogOptions) {
        if let Err(error) = self.read(experiment, options).await {
            match error {
                Some(error) => drop(self.sender.send(Err(error)).await), // Gone readers need no error.
                None => tracing::debug!("log reader went away"),
            }
        }
    }

    async fn read(
        &self,
        mut experiment: Experiment,
        mut options: LogOptions,
    ) -> Result<(), Option<ServiceError>> {
        let last = u32::try_from(experiment.attempts.len()).unwrap_or(u32::MAX);
        let follows_all = options.follow && options.last_lines.is_none();
        let first = if follows_all { 1 } else { last };
        let mut number = options.attempt.unwrap_or(first).max(1);
        loop {
            self.tell_state(&experiment, options.follow).await?;
            let Some(attempt) = experiment.attempts.get(number as usize - 1) else {
                if let ExperimentPhase::Ended { cause, .. } = &experiment.phase {
                    return self
                        .send(LogItem::End {
                            cause: cause_view(cause),
                        })
                        .await
                        .map_err(|Gone| None);
                }
                if !options.follow {
                    return Ok(());
                }
                experiment = self.refresh(&experiment).await?;
                continue;
            };
            let mut parts = parts(attempt, number, &options);
            if let Some(lines) = options.last_lines.take() {
                let at = (number, lines);
                (experiment, parts) = self.start_at_last(experiment, at, &options).await?;
            }
            experiment = self.read_attempt(experiment, parts).await?;
            // Other ranks than those that are read may go on.
            while !is_over(&experiment, number) {
                if !options.follow {
                    return Ok(());
                }
                experiment = self.refresh(&experiment).await?;
                self.tell_state(&experiment, true).await?;
            }
            number += 1;
            options.from.clear();
        }
    }

    /// Reads parts of an attempt: as they come when following, else one after the other. The experiment as it was seen
    /// last.
    async fn read_attempt(
        &self,
        experiment: Experiment,
        parts: Vec<Part>,
    ) -> Result<Experiment, Option<ServiceError>> {
        let mut newest = experiment.clone();
        if parts.iter().all(|part| part.follow) {
            let reads = parts
                .iter()
                .map(|part| self.read_part(experiment.clone(), *part));
            for seen in try_join_all(reads).await? {
                newest = newer(newest, seen);
            }
        } else {
            for part in parts {
                let seen = self.read_part(newest.clone(), part).await?;
                newest = newer(newest, seen);
            }
        }
        Ok(newest)
    }

    /// Reads a rank until it is over, or to what is there now.
    async fn read_part(
        &self,
        mut experiment: Experiment,
        part: Part,
    ) -> Result<Experiment, Option<ServiceError>> {
        let mut next = part.from;
        let mut texts = Texts::default();
        loop {
            if part.tells_state {
                self.tell_state(&experiment, part.follow).await?;
            }
            let Some(attempt) = experiment.attempts.get(part.attempt as usize - 1).cloned() else {
                return Ok(experiment);
            };
            let mut reader = RecordReader::new(&self.handle, (&attempt, part.rank), next);
            while let Some(piece) = reader.next_piece() {
                let records = reader.read(piece).await.map_err(Some)?;
                self.send_records(part, &mut texts, records).await?;
            }
            next = reader.next();
            if reader.is_over() {
                return Ok(experiment);
            }
            let wait_ms = if part.follow { TAIL_WAIT_MS } else { 0 };
            match reader.tail(wait_ms).await {
                Ok((records, ended)) => {
                    let quiet = records.is_empty();
                    next = reader.next();
                    self.send_records(part, &mut texts, records).await?;
                    if quiet && !part.follow {
                        return Ok(experiment);
                    }
                    if quiet || ended {
                        experiment = self.refresh_after(&experiment, ended && quiet).await?;
                    }
                }
                Err(error) if !part.follow => return Err(Some(error)),
                Err(error) => {
                    tracing::debug!(%error, "no live tail");
                    experiment = self.refresh_after(&experiment, true).await?;
                }
            }
        }
    }

    /// Sends the records of a piece that are for readers of output.
    async fn send_records(
        &self,
        part: Part,
        texts: &mut Texts,
        records: Vec<Record>,
    ) -> Result<(), Option<ServiceError>> {
        for mut record in records {
            if record.sequence == part.from
                && let RecordBody::Console { bytes, .. } = &mut record.body
            {
                drop(bytes.split_to(part.skip.min(bytes.len())));
            }
            if let Some(item) = texts.item_of(part, record) {
                self.send(item).await.map_err(|Gone| None)?;
            }
        }
        Ok(())
    }

    async fn tell_state(
        &self,
        experiment: &Experiment,
        follow: bool,
    ) -> Result<(), Option<ServiceError>> {
        let state = state_word(experiment);
        let attempt = experiment.attempts.len();
        let told = format!("{state} {attempt}");
        // The end has an item of its own.
        if !follow || !experiment.is_live() {
            return Ok(());
        }
        let before = std::mem::replace(&mut *lock(&self.state), told.clone());
        if before == told {
            return Ok(());
        }
        let reason = experiment
            .current_attempt()
            .map(|attempt| attempt.reason.clone())
            .unwrap_or_default();
        self.send(LogItem::State {
            state: state.to_owned(),
            reason,
        })
        .await
        .map_err(|Gone| None)
    }

    /// The experiment once the state moved on (or soon, on a node without state).
    async fn refresh(&self, experiment: &Experiment) -> Result<Experiment, Option<ServiceError>> {
        let mut applied = self.handle.consensus().applied();
        if self.handle.is_replica() {
            applied.mark_unchanged();
            let known = self
                .handle
                .consensus()
                .state()
                .experiment(experiment.id)
                .cloned();
            if let Some(known) = known.filter(|known| **known != *experiment) {
                return Ok(known.as_ref().clone());
            }
        }
        tokio::select! {
            _ = applied.changed() => {}
            () = tokio::time::sleep(RETRY_PAUSE) => {}
            () = self.sender.closed() => return Err(None),
        }
        if let Some(known) = self
            .handle
            .consensus()
            .state()
            .experiment(experiment.id)
            .filter(|_| self.handle.is_replica())
        {
            return Ok(known.as_ref().clone());
        }
        match self
            .handle
            .record(
                &self.caller,
                &experiment.id.to_string(),
                ReadOptions::default(),
            )
            .await
        {
            Ok(experiment) => Ok(experiment),
            Err(error) if error.kind == ErrorKind::Unavailable => Ok(experiment.clone()),
            Err(error) => Err(Some(error)),
        }
    }

    async fn refresh_after(
        &self,
        experiment: &Experiment,
        wait: bool,
    ) -> Result<Experiment, Option<ServiceError>> {
        if wait || !self.handle.is_replica() {
            return self.refresh(experiment).await;
        }
        let known = self
            .handle
            .consensus()
            .state()
            .experiment(experiment.id)
            .cloned();
        Ok(known.map_or_else(|| experiment.clone(), |known| known.as_ref().clone()))
    }

    async fn send(&self, item: LogItem) -> Result<(), Gone> {
        self.sender.send(Ok(item)).await.map_err(|_closed| Gone)
    }
}

/// Says so before anything is streamed when there is no such rank.
fn check_rank(experiment: &Experiment, rank: u32) -> Result<(), ServiceError> {
    let nodes = experiment.spec.resources.nodes;
    if rank < nodes {
        return Ok(());
    }
    let message = format!("experiment {} has no rank {rank}", experiment.id);
    let error = ServiceError::new(ErrorKind::NotFound, "no-rank", message);
    Err(error.hint(match nodes {
        1 => "it runs on one node: leave out --rank".to_owned(),
        several => format!("its ranks are 0 to {}", several - 1),
    }))
}

/// A page is short; what is longer is read from a record on.
fn check_lines(lines: u64) -> Result<(), ServiceError> {
    if (1..=MAX_LAST_LINES).contains(&lines) {
        return Ok(());
    }
    let message = format!("the last {lines} lines cannot be had");
    let error = ServiceError::new(ErrorKind::Invalid, "bad-tail", message);
    Err(error.hint(format!(
        "ask for 1 to {MAX_LAST_LINES}, or leave it out for all"
    )))
}

/// What is to be read of an attempt: one rank, or all.
fn parts(attempt: &Attempt, number: u32, options: &LogOptions) -> Vec<Part> {
    let ranks = attempt.numbered().map(|(rank, _)| rank);
    let wanted = ranks.filter(|rank| options.rank.is_none_or(|only| only == *rank));
    let part = |(place, rank): (usize, u32)| Part {
        attempt: number,
        rank,
        is_gang: attempt.is_gang(),
        from: options.from.get(rank as usize).copied().unwrap_or(0),
        skip: 0,
        follow: options.follow,
        tells_state: place == 0,
    };
    wanted.enumerate().map(part).collect()
}

fn is_over(experiment: &Experiment, attempt: u32) -> bool {
    let attempt = experiment.attempts.get(attempt as usize - 1);
    attempt.is_none_or(|attempt| attempt.end.is_some())
}

/// The one of two views of an experiment that has seen more of it.
fn newer(one: Experiment, other: Experiment) -> Experiment {
    let seen = |experiment: &Experiment| {
        let ended = |attempt: &Attempt| attempt.end.is_some();
        let ends = experiment.attempts.iter().filter(|one| ended(one)).count();
        (!experiment.is_live(), experiment.attempts.len(), ends)
    };
    if seen(&other) > seen(&one) {
        other
    } else {
        one
    }
}

//! What an attempt said, from its first record to the last, live or sealed.

use std::pin::Pin;

use futures::Stream;
use state_machine::{Attempt, Experiment, ExperimentPhase};
use tokio::sync::mpsc;
use types::{ConsoleStream, Record, RecordBody};

use crate::attempt_records::RecordReader;
use crate::author::Caller;
use crate::call::{ReadOptions, Reply, Request};
use crate::error::{ErrorKind, ServiceError};
use crate::experiment_views::{cause_view, state_word};
use crate::handle::Handle;
use crate::submit::unexpected;
use crate::view::LogItem;

/// Which records to show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on until the experiment is over.
    pub follow: bool,
    /// Start with this attempt; default: the last one, or the first when following from the start.
    pub attempt: Option<u32>,
    /// Start with this record of that attempt.
    pub from_sequence: u64,
    /// What this replica knows will do: reads without a majority.
    pub stale: bool,
}

/// Records as they come.
pub type LogStream = Pin<Box<dyn Stream<Item = Result<LogItem, ServiceError>> + Send>>;

/// Items that wait for a slow reader; then the source waits.
const STREAM_QUEUE: usize = 256;
/// Longest wait for news of a live tail before the state is looked at again.
const TAIL_WAIT_MS: u64 = 2_000;
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
        let (sender, receiver) = mpsc::channel(STREAM_QUEUE);
        let reader = Reader {
            handle: self.clone(),
            caller: caller.clone(),
            sender,
            state: String::new(),
            text: Default::default(),
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
    state: String,
    /// Of standard output, standard error and muster's own lines.
    text: [Text; 3],
}

/// The reader went away.
struct Gone;

impl Reader {
    async fn run(mut self, experiment: Experiment, options: LogOptions) {
        if let Err(error) = self.read(experiment, options).await {
            match error {
                Some(error) => drop(self.sender.send(Err(error)).await), // Gone readers need no error.
                None => tracing::debug!("log reader went away"),
            }
        }
    }

    async fn read(
        &mut self,
        mut experiment: Experiment,
        options: LogOptions,
    ) -> Result<(), Option<ServiceError>> {
        let last = u32::try_from(experiment.attempts.len()).unwrap_or(u32::MAX);
        let mut number = options
            .attempt
            .unwrap_or(if options.follow { 1 } else { last })
            .max(1);
        let mut next = options.from_sequence;
        loop {
            self.tell_state(&experiment, options.follow).await?;
            let Some(attempt) = experiment.attempts.get(number as usize - 1).cloned() else {
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
            let handle = self.handle.clone();
            let mut reader = RecordReader::new(&handle, &attempt, next);
            while let Some(piece) = reader.next_piece() {
                let records = reader.read(piece).await.map_err(Some)?;
                self.send_records(&attempt, records).await?;
            }
            next = reader.next();
            if attempt.end.is_some() {
                (number, next) = (number + 1, 0);
                continue;
            }
            let wait_ms = if options.follow { TAIL_WAIT_MS } else { 0 };
            match reader.tail(wait_ms).await {
                Ok((records, ended)) => {
                    let quiet = records.is_empty();
                    next = reader.next();
                    self.send_records(&attempt, records).await?;
                    if quiet && !options.follow {
                        return Ok(());
                    }
                    if quiet || ended {
                        experiment = self.refresh_after(&experiment, ended && quiet).await?;
                    }
                }
                Err(error) if !options.follow => return Err(Some(error)),
                Err(error) => {
                    tracing::debug!(%error, "no live tail");
                    experiment = self.refresh_after(&experiment, true).await?;
                }
            }
        }
    }

    /// Sends the records of a piece that are for readers of output.
    async fn send_records(
        &mut self,
        attempt: &Attempt,
        records: Vec<Record>,
    ) -> Result<(), Option<ServiceError>> {
        for record in records {
            if let Some(item) = self.item_of(attempt.token.attempt, record) {
                self.send(item).await.map_err(|Gone| None)?;
            }
        }
        Ok(())
    }

    async fn tell_state(
        &mut self,
        experiment: &Experiment,
        follow: bool,
    ) -> Result<(), Option<ServiceError>> {
        let state = state_word(experiment);
        let attempt = experiment.attempts.len();
        let told = format!("{state} {attempt}");
        // The end has an item of its own.
        if !follow || told == self.state || !experiment.is_live() {
            return Ok(());
        }
        self.state = told;
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

    fn item_of(&mut self, attempt: u32, record: Record) -> Option<LogItem> {
        let (sequence, at) = (record.sequence, record.at.0);
        match record.body {
            RecordBody::Console { stream, bytes } => {
                let (stream, slot) = match stream {
                    ConsoleStream::Stdout => ("stdout", 0),
                    ConsoleStream::Stderr => ("stderr", 1),
                    ConsoleStream::Muster => ("muster", 2),
                };
                let text = self.text[slot].push(&bytes);
                Some(LogItem::Console {
                    attempt,
                    sequence,
                    at,
                    stream: stream.to_owned(),
                    text,
                })
            }
            RecordBody::Scalar {
                name,
                step,
                value_bits,
            } => Some(LogItem::Scalar {
                attempt,
                sequence,
                at,
                name,
                step,
                value: f64::from_bits(value_bits),
            }),
            RecordBody::Gap { bytes } => Some(LogItem::Gap { attempt, bytes }),
            RecordBody::Sample(_) => None,
        }
    }
}

/// Text out of bytes that were cut anywhere: a character over two records comes out whole.
#[derive(Default)]
struct Text {
    /// At most three bytes of an unfinished character.
    rest: Vec<u8>,
}

impl Text {
    fn push(&mut self, bytes: &[u8]) -> String {
        self.rest.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(&self.rest) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            // Later bytes may be cut too: look at the last three only.
            Err(_) => unfinished_from(&self.rest),
            Ok(text) => text.len(),
        };
        let rest = self.rest.split_off(whole);
        let text = String::from_utf8_lossy(&self.rest).into_owned();
        self.rest = rest;
        text
    }
}

/// Where an unfinished character at the end begins; the length if there is none.
fn unfinished_from(bytes: &[u8]) -> usize {
    let start = bytes.len().saturating_sub(3);
    let begins = |at: &usize| {
        std::str::from_utf8(&bytes[*at..])
            .is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
    };
    (start..bytes.len()).find(begins).unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_cut_by_a_record_comes_out_whole() {
        let mut text = Text::default();
        let euro = "a€b".as_bytes();
        let parts: String = [&euro[..2], &euro[2..3], &euro[3..]]
            .iter()
            .map(|part| text.push(part))
            .collect();
        assert_eq!(parts, "a€b");
        assert_eq!(text.push(b"\xff\xfe!"), "\u{fffd}\u{fffd}!");
        assert_eq!(
            text.push(b"\xffok\xe2\x82") + &text.push(b"\xac"),
            "\u{fffd}ok€"
        );
    }
}

//! What an attempt printed last of each metric, live or sealed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use state_machine::{Attempt, Experiment};
use tokio::time::Instant;
use types::{AttemptToken, Record, RecordBody, decode_frames};

use crate::attempt_records::{RecordReader, segment_bytes};
use crate::error::{ErrorKind, ServiceError};
use crate::handle::{Handle, lock};
use crate::view::MetricView;

/// Sealed segments that are looked through from the end, 16 MiB each: what has printed no metric for so long prints none.
const MAX_SEGMENTS: usize = 4;
/// Reads of the open tail, of up to 1 MiB each: a tail is at most a segment.
const MAX_TAIL_ROUNDS: u32 = 32;
/// Metrics of one attempt that are shown: a table has no room for more.
const MAX_METRICS: usize = 64;
/// Attempts that are over whose last metrics are kept, about 10 MB.
const MAX_CACHED: usize = 10_000;
/// Experiments that are asked for theirs at the same time.
const AT_ONCE: usize = 16;
/// How long an answer about several experiments waits for all of them: less than a forwarded request may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// The last step and value of each metric.
type Last = BTreeMap<String, (i64, f64)>;

/// Last metrics of attempts that are over. Emptied when full: who looks again fills it again.
#[derive(Debug, Default)]
pub(crate) struct MetricCache(BTreeMap<AttemptToken, Arc<Last>>);

/// Metrics, or why they are not known.
pub(crate) type Metrics = (Vec<MetricView>, String);

impl Handle {
    /// The last metrics of each of these; what cannot be read in time says so.
    pub(crate) async fn last_metrics(&self, experiments: &[&Experiment]) -> Vec<Metrics> {
        let deadline = Instant::now() + PATIENCE;
        let read = experiments.iter();
        // Boxed: the compiler does not see otherwise that they may be polled on any thread.
        let read: Vec<_> = read
            .map(|experiment| self.metrics_until(experiment, deadline).boxed())
            .collect();
        futures::stream::iter(read)
            .buffered(AT_ONCE)
            .collect()
            .await
    }

    async fn metrics_until(&self, experiment: &Experiment, deadline: Instant) -> Metrics {
        match tokio::time::timeout_at(deadline, self.metrics_of(experiment)).await {
            Ok(Ok(metrics)) => (metrics, String::new()),
            Ok(Err(error)) => (Vec::new(), error.message),
            Err(_late) => {
                let why = "its machine did not tell them in time: ask again".to_owned();
                (Vec::new(), why)
            }
        }
    }

    async fn metrics_of(&self, experiment: &Experiment) -> Result<Vec<MetricView>, ServiceError> {
        let Some(attempt) = experiment.attempts.last() else {
            return Ok(Vec::new());
        };
        let known = lock(&self.inner.metrics).0.get(&attempt.token).cloned();
        let last = match known {
            Some(last) => last,
            None => {
                let last = Arc::new(self.read_first(attempt).await?);
                if attempt.end.is_some() {
                    self.keep_metrics(attempt.token, &last);
                }
                last
            }
        };
        let view = |(name, (step, value)): (&String, &(i64, f64))| MetricView {
            name: name.clone(),
            step: *step,
            value: *value,
        };
        Ok(last.iter().take(MAX_METRICS).map(view).collect())
    }

    fn keep_metrics(&self, token: AttemptToken, last: &Arc<Last>) {
        let mut cache = lock(&self.inner.metrics);
        if cache.0.len() >= MAX_CACHED {
            cache.0.clear();
        }
        cache.0.insert(token, Arc::clone(last));
    }

    /// Of a gang those of the first rank that has any: mostly only the first prints metrics, and where all do these are
    /// the same or of one part of the work.
    async fn read_first(&self, attempt: &Attempt) -> Result<Last, ServiceError> {
        for (number, _rank) in attempt.numbered() {
            let last = self.read_last(attempt, number).await?;
            if !last.is_empty() {
                return Ok(last);
            }
        }
        Ok(Last::new())
    }

    /// From the end: the open tail or what travelled in the report, then sealed segments until one has metrics.
    async fn read_last(&self, attempt: &Attempt, rank: u32) -> Result<Last, ServiceError> {
        let mut last = Last::new();
        let segments = attempt.segments.iter();
        let mut segments: Vec<_> = segments.filter(|segment| segment.rank == rank).collect();
        segments.sort_by_key(|segment| segment.summary.end_sequence);
        let sealed = segments.last();
        let next = sealed.map_or(0, |segment| segment.summary.end_sequence);
        let mut reader = RecordReader::new(self, (attempt, rank), next);
        if !reader.is_over() {
            for _round in 0..MAX_TAIL_ROUNDS {
                let (records, ended) = reader.tail(0).await?;
                let is_last = records.is_empty() || ended;
                last.extend(scalars(records));
                if is_last {
                    break;
                }
            }
        } else {
            last.extend(scalars(decoded(&attempt.inline_records)?));
        }
        for segment in segments.into_iter().rev().take(MAX_SEGMENTS) {
            if !last.is_empty() {
                break;
            }
            let bytes = segment_bytes(self, segment).await?;
            last.extend(scalars(decoded(&bytes)?));
        }
        Ok(last)
    }
}

fn decoded(frames: &[u8]) -> Result<Vec<Record>, ServiceError> {
    let decoded = decode_frames(frames)
        .map_err(|error| ServiceError::new(ErrorKind::Internal, "segment", error.to_string()))?;
    Ok(decoded.0)
}

/// Name, step and value of each point, oldest first.
fn scalars(records: Vec<Record>) -> impl Iterator<Item = (String, (i64, f64))> {
    records.into_iter().filter_map(|record| match record.body {
        RecordBody::Scalar {
            name,
            step,
            value_bits,
        } => Some((name, (step, f64::from_bits(value_bits)))),
        RecordBody::Console { .. } | RecordBody::Sample(_) | RecordBody::Gap { .. } => None,
    })
}

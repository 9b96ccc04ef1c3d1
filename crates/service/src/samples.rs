//! What an attempt used: its samples, live or sealed, reduced to what a chart shows.

mod reduce;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use diagnosis::{Course, Request, findings};
use futures::future::join_all;
use state_machine::{Attempt, Experiment, RankRecord};
use types::{AttemptSample, BlobHash, Record, RecordBody, SegmentRef, Timestamp};

use self::reduce::{points, summary};
use crate::attempt_records::{Piece, RecordReader};
use crate::author::Caller;
use crate::call::ReadOptions;
use crate::error::{ErrorKind, ServiceError};
use crate::experiment_views::finding_view;
use crate::handle::{Handle, lock};
use crate::view::{FindingView, RequestedView, SamplesView, WhyView};

/// Points of an answer that asks for no number: about the width of a chart.
const DEFAULT_POINTS: u32 = 200;
/// Most points of an answer: more than a screen has columns, and under 1 MiB of JSON.
const MAX_POINTS: u32 = 2_000;
/// Reads of the open tail for one answer, of up to 1 MiB each: a tail is at most a segment.
const MAX_TAIL_ROUNDS: u32 = 32;
/// Samples of sealed segments that are kept, 13 MB: the segments are mostly console output, which a chart that is drawn
/// again each few seconds should not read again.
const MAX_CACHED_SAMPLES: usize = 100_000;

/// How long an answer to `muster why` waits for samples.
const FINDINGS_PATIENCE: Duration = Duration::from_secs(2);

/// Which samples to show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SampleOptions {
    /// Of this attempt; default: the last one.
    pub attempt: Option<u32>,
    /// Of this rank of it; default: the first.
    pub rank: Option<u32>,
    /// At most so many points, from 1 to 2,000; default 200.
    pub points: Option<u32>,
    /// What this replica knows will do: reads without a majority.
    pub stale: bool,
}

/// A sample of a record.
#[derive(Clone, Debug)]
struct Taken {
    /// Number of the record.
    sequence: u64,
    at: Timestamp,
    sample: AttemptSample,
}

/// Samples of sealed segments, by blob. Emptied when full: who looks at it again fills it again.
#[derive(Debug, Default)]
pub(crate) struct SampleCache {
    segments: BTreeMap<BlobHash, Arc<[Taken]>>,
    samples: usize,
}

impl SampleCache {
    fn keep(&mut self, segment: BlobHash, samples: &Arc<[Taken]>) {
        // A segment without samples takes room too.
        let room = samples.len() + 1;
        if self.samples + room > MAX_CACHED_SAMPLES {
            *self = Self::default();
        }
        if self.segments.insert(segment, Arc::clone(samples)).is_none() {
            self.samples += room;
        }
    }
}

impl Handle {
    /// What an attempt of an experiment used.
    ///
    /// # Errors
    /// Nothing or several fit the text, there is no such attempt, the number of points is out of bounds, or nobody who has
    /// the samples answers.
    pub async fn samples(
        &self,
        caller: &Caller,
        id: &str,
        options: SampleOptions,
    ) -> Result<SamplesView, ServiceError> {
        let wanted = options.points.unwrap_or(DEFAULT_POINTS);
        if !(1..=MAX_POINTS).contains(&wanted) {
            let message = format!("{wanted} points cannot be had");
            return Err(ServiceError::new(ErrorKind::Invalid, "bad-points", message)
                .hint(format!("ask for 1 to {MAX_POINTS}")));
        }
        let read = ReadOptions {
            stale: options.stale,
            min_index: 0,
        };
        let experiment = self.record(caller, id, read).await?;
        let attempt = find_attempt(&experiment, options.attempt)?;
        let number = options.rank.unwrap_or(0);
        let rank = attempt.rank(number).ok_or_else(|| {
            let (id, last) = (experiment.id, attempt.ranks.len().saturating_sub(1));
            let message = format!("an attempt of {id} has no rank {number}");
            let error = ServiceError::new(ErrorKind::NotFound, "no-rank", message);
            error.hint(format!("its ranks are 0 to {last}"))
        })?;
        let samples = self.samples_of(attempt, number).await?;
        let warnings = self.warnings_of(caller, attempt, read).await?;
        Ok(SamplesView {
            experiment: experiment.id.to_string(),
            attempt: attempt.token.attempt,
            rank: number,
            started_at: rank.started_at.map(|at| at.0),
            ended_at: rank
                .end
                .as_ref()
                .or(attempt.end.as_ref())
                .map(|end| end.at.0),
            points: points(&samples, wanted as usize),
            findings: found(&samples, &requested(rank)),
            summary: summary(&samples, requested(rank)),
            warnings,
        })
    }

    /// What `show` says of it; only who has GPUs, or took some, is worth the question.
    async fn warnings_of(
        &self,
        caller: &Caller,
        attempt: &Attempt,
        read: ReadOptions,
    ) -> Result<Vec<String>, ServiceError> {
        let mut ranks = attempt.ranks.iter();
        if ranks.all(|rank| rank.placement.resources.gpus.is_empty() && rank.overuses.is_empty()) {
            return Ok(Vec::new());
        }
        let id = attempt.token.experiment.to_string();
        let detail = self.experiment(caller, &id, read).await?.body;
        let mut attempts = detail.attempts.into_iter();
        let found = attempts.find(|one| one.number == attempt.token.attempt);
        Ok(found.map(|one| one.warnings).unwrap_or_default())
    }

    /// What the samples of a running experiment say; nothing of one that does not run, or whose machine does not answer at
    /// once: the answer about it is wanted without them too.
    pub(crate) async fn live_findings(&self, caller: &Caller, why: &WhyView) -> Vec<FindingView> {
        if why.state != "running" {
            return Vec::new();
        }
        let read = ReadOptions {
            stale: true,
            min_index: 0,
        };
        let experiment = match self.record(caller, &why.id, read).await {
            Ok(experiment) => experiment,
            Err(error) => {
                tracing::debug!(%error, experiment_id = why.id, "no findings");
                return Vec::new();
            }
        };
        let Some(attempt) = experiment.attempts.last() else {
            return Vec::new();
        };
        let ranks = attempt.open_ranks();
        let found = ranks.map(|(number, rank)| self.findings_of(attempt, number, rank));
        join_all(found).await.concat()
    }

    /// Of one rank; nothing if its machine does not answer at once.
    async fn findings_of(
        &self,
        attempt: &Attempt,
        number: u32,
        rank: &RankRecord,
    ) -> Vec<FindingView> {
        let token = attempt.token;
        let read = self.samples_of(attempt, number);
        let samples = match tokio::time::timeout(FINDINGS_PATIENCE, read).await {
            Ok(Ok(samples)) => samples,
            Ok(Err(error)) => {
                tracing::debug!(%error, %token, rank = number, "no findings");
                return Vec::new();
            }
            Err(_elapsed) => return Vec::new(),
        };
        let mut found = found(&samples, &requested(rank));
        if attempt.is_gang() {
            for finding in &mut found {
                finding.evidence = format!("rank {number}: {}", finding.evidence);
            }
        }
        found
    }

    /// All samples, oldest first.
    async fn samples_of(&self, attempt: &Attempt, rank: u32) -> Result<Vec<Taken>, ServiceError> {
        let mut samples = Vec::new();
        let mut reader = RecordReader::new(self, (attempt, rank), 0);
        while let Some(piece) = reader.next_piece() {
            let Piece::Segment(segment) = piece else {
                samples.extend(only_samples(reader.read(piece).await?));
                continue;
            };
            // Segments of one attempt may overlap, where its node was lost and came back.
            let next = reader.next();
            let found = self.samples_in(&mut reader, segment).await?;
            let is_new = |taken: &&Taken| taken.sequence >= next;
            samples.extend(found.iter().filter(is_new).cloned());
        }
        if reader.is_over() {
            return Ok(samples);
        }
        // What a talkative job writes meanwhile is for the next question.
        for _round in 0..MAX_TAIL_ROUNDS {
            let (records, ended) = reader.tail(0).await?;
            let is_last = records.is_empty() || ended;
            samples.extend(only_samples(records));
            if is_last {
                break;
            }
        }
        Ok(samples)
    }

    async fn samples_in(
        &self,
        reader: &mut RecordReader<'_>,
        segment: &SegmentRef,
    ) -> Result<Arc<[Taken]>, ServiceError> {
        let known = lock(&self.inner.samples)
            .segments
            .get(&segment.hash)
            .cloned();
        if let Some(known) = known {
            reader.skip(segment);
            return Ok(known);
        }
        let is_whole = segment.summary.first_sequence >= reader.next();
        let records = reader.read(Piece::Segment(segment)).await?;
        let found = only_samples(records).collect();
        if is_whole {
            lock(&self.inner.samples).keep(segment.hash, &found);
        }
        Ok(found)
    }
}

fn only_samples(records: Vec<Record>) -> impl Iterator<Item = Taken> {
    let taken = |record: Record| match record.body {
        RecordBody::Sample(sample) => Some(Taken {
            sequence: record.sequence,
            at: record.at,
            sample,
        }),
        RecordBody::Console { .. } | RecordBody::Scalar { .. } | RecordBody::Gap { .. } => None,
    };
    records.into_iter().filter_map(taken)
}

/// The attempt of this number, or the last.
pub(crate) fn find_attempt(
    experiment: &Experiment,
    number: Option<u32>,
) -> Result<&Attempt, ServiceError> {
    let id = experiment.id;
    let missing = |message: String, hint: String| {
        ServiceError::new(ErrorKind::NotFound, "no-attempt", message).hint(hint)
    };
    let Some(last) = experiment.attempts.last() else {
        return Err(missing(
            format!("experiment {id} was not placed yet, so it used nothing"),
            format!("muster why {id} says what it waits for"),
        ));
    };
    let Some(number) = number else {
        return Ok(last);
    };
    let mut attempts = experiment.attempts.iter();
    let found = attempts.find(|attempt| attempt.token.attempt == number);
    found.ok_or_else(|| {
        let count = experiment.attempts.len();
        missing(
            format!("experiment {id} has no attempt {number}"),
            format!("it has attempts 1 to {count}"),
        )
    })
}

/// What the course of the run says of it.
fn found(samples: &[Taken], requested: &RequestedView) -> Vec<FindingView> {
    let mut course = Course::default();
    for taken in samples {
        course.push(&taken.sample);
    }
    let request = Request {
        cpu_milli: requested.cpu_milli,
        memory_bytes: requested.memory_bytes,
        gpu_milli: requested.gpu_milli,
        vram_bytes: requested.vram_bytes,
    };
    let found = findings(&course, &request);
    found.iter().map(finding_view).collect()
}

/// What a rank booked.
fn requested(rank: &RankRecord) -> RequestedView {
    let booked = &rank.placement.resources;
    RequestedView {
        cpu_milli: booked.cpu_milli,
        memory_bytes: booked.memory_bytes,
        gpu_milli: booked.gpus.iter().map(|share| share.milli).sum(),
        vram_bytes: booked.gpus.iter().map(|share| share.vram_bytes).sum(),
    }
}

//! Metrics of an attempt over steps and time, live or sealed, read piece by piece.

mod buckets;

use std::collections::BTreeMap;

use state_machine::{Attempt, Experiment};
use types::{Record, RecordBody};

use self::buckets::{Bucket, Buckets, Point, Range};
use crate::attempt_records::RecordReader;
use crate::author::Caller;
use crate::call::ReadOptions;
use crate::error::{ErrorKind, ServiceError};
use crate::handle::Handle;
use crate::samples::find_attempt;
use crate::view::{MetricSummary, MetricsView, PointsView, SeriesView};

pub use self::buckets::Axis;

/// Points of an answer that asks for no number: about the width of a chart.
const DEFAULT_POINTS: u32 = 200;
/// Most points of an answer: more than a screen has columns, and under 1 MiB of JSON.
const MAX_POINTS: u32 = 2_000;
/// Reads of the open tail for one answer, of up to 1 MiB each: a tail is at most a segment.
const MAX_TAIL_ROUNDS: u32 = 32;
/// Names in one answer: a holder keeps no more of an attempt.
const MAX_NAMES: usize = 2_000;

/// Which points to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeriesOptions {
    /// Of this attempt; default: the last one.
    pub attempt: Option<u32>,
    /// Of this rank of it; default: the first.
    pub rank: Option<u32>,
    /// Along what.
    pub by: Axis,
    /// From there on, by that.
    pub from: Option<i64>,
    /// Up to there, by that.
    pub to: Option<i64>,
    /// At most so many points, from 2 to 2,000; default 200.
    pub points: Option<u32>,
    /// What this replica knows will do: reads without a majority.
    pub stale: bool,
}

impl Handle {
    /// All metrics of an attempt, each in a line.
    ///
    /// # Errors
    /// Nothing or several fit the text, there is no such attempt, or nobody who has its records answers.
    pub async fn metrics(
        &self,
        caller: &Caller,
        id: &str,
        options: &SeriesOptions,
    ) -> Result<MetricsView, ServiceError> {
        let experiment = self.experiment_with(caller, id, options).await?;
        let (attempt, rank) = part_of(&experiment, options)?;
        let mut all: BTreeMap<String, Bucket> = BTreeMap::new();
        self.each_point((attempt, rank), |name, point| {
            let new = Bucket::of(point);
            if let Some(known) = all.get_mut(name) {
                known.add(&new);
            } else if all.len() < MAX_NAMES {
                all.insert(name.to_owned(), new);
            }
        })
        .await?;
        let metrics = all.into_iter().map(|(name, bucket)| MetricSummary {
            name,
            points: points_view(&bucket),
        });
        Ok(MetricsView {
            experiment: experiment.id.to_string(),
            attempt: attempt.token.attempt,
            rank,
            metrics: metrics.collect(),
        })
    }

    /// One metric over steps or time.
    ///
    /// # Errors
    /// As for [`Self::metrics`]; the attempt reported no such metric, or the number of points is out of bounds.
    pub async fn series(
        &self,
        caller: &Caller,
        id: &str,
        name: &str,
        options: &SeriesOptions,
    ) -> Result<SeriesView, ServiceError> {
        let wanted = options.points.unwrap_or(DEFAULT_POINTS);
        if !(2..=MAX_POINTS).contains(&wanted) {
            let message = format!("{wanted} points cannot be had");
            return Err(ServiceError::new(ErrorKind::Invalid, "bad-points", message)
                .hint(format!("ask for 2 to {MAX_POINTS}")));
        }
        let experiment = self.experiment_with(caller, id, options).await?;
        let (attempt, rank) = part_of(&experiment, options)?;
        let range = Range {
            from: options.from.unwrap_or(i64::MIN),
            to: options.to.unwrap_or(i64::MAX),
        };
        let mut buckets = Buckets::new(options.by, range, wanted as usize);
        self.each_point((attempt, rank), |found, point| {
            if found == name {
                buckets.push(point);
            }
        })
        .await?;
        if buckets.seen == 0 {
            let (id, number) = (experiment.id, attempt.token.attempt);
            let message = format!("attempt {number} of {id} reported no metric {name:?}");
            let error = ServiceError::new(ErrorKind::NotFound, "no-metric", message);
            return Err(error.hint(format!("`muster metrics {id}` lists those that it did")));
        }
        let by = match options.by {
            Axis::Step => "step",
            Axis::Time => "time",
        };
        Ok(SeriesView {
            experiment: experiment.id.to_string(),
            attempt: attempt.token.attempt,
            rank,
            name: name.to_owned(),
            by: by.to_owned(),
            total: buckets.seen,
            points: buckets.buckets().map(points_view).collect(),
        })
    }

    async fn experiment_with(
        &self,
        caller: &Caller,
        id: &str,
        options: &SeriesOptions,
    ) -> Result<Experiment, ServiceError> {
        let read = ReadOptions {
            stale: options.stale,
            min_index: 0,
        };
        self.record(caller, id, read).await
    }

    /// Reads all points of a rank in order; of its records no more than a segment is in memory.
    async fn each_point(
        &self,
        of: (&Attempt, u32),
        mut take: impl FnMut(&str, Point),
    ) -> Result<(), ServiceError> {
        let mut reader = RecordReader::new(self, of, 0);
        while let Some(piece) = reader.next_piece() {
            let records = reader.read(piece).await?;
            points_of(&records, &mut take);
            // A long run takes a while to read through: others want the processor too.
            tokio::task::yield_now().await;
        }
        if reader.is_over() {
            return Ok(());
        }
        // What comes meanwhile is for the next question.
        for _round in 0..MAX_TAIL_ROUNDS {
            let (records, ended) = reader.tail(0).await?;
            points_of(&records, &mut take);
            if records.is_empty() || ended {
                break;
            }
        }
        Ok(())
    }
}

fn points_of(records: &[Record], take: &mut impl FnMut(&str, Point)) {
    for record in records {
        if let RecordBody::Scalar {
            name,
            step,
            value_bits,
        } = &record.body
        {
            let point = Point {
                step: *step,
                at: record.at.0,
                value: f64::from_bits(*value_bits),
            };
            take(name, point);
        }
    }
}

/// The attempt that is meant and the rank of it.
fn part_of<'a>(
    experiment: &'a Experiment,
    options: &SeriesOptions,
) -> Result<(&'a Attempt, u32), ServiceError> {
    let attempt = find_attempt(experiment, options.attempt)?;
    let number = options.rank.unwrap_or(0);
    if attempt.rank(number).is_none() {
        let (id, last) = (experiment.id, attempt.ranks.len().saturating_sub(1));
        let message = format!("an attempt of {id} has no rank {number}");
        let error = ServiceError::new(ErrorKind::NotFound, "no-rank", message);
        return Err(error.hint(format!("its ranks are 0 to {last}")));
    }
    Ok((attempt, number))
}

fn points_view(bucket: &Bucket) -> PointsView {
    PointsView {
        count: bucket.count,
        nans: bucket.nans,
        first_step: bucket.first.step,
        last_step: bucket.last.step,
        first_at: bucket.first.at,
        last_at: bucket.last.at,
        last: bucket.last.value,
        min: bucket.min.value,
        min_step: bucket.min.step,
        max: bucket.max.value,
        max_step: bucket.max.step,
        mean: bucket.mean(),
    }
}

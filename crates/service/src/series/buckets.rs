//! Few points out of many, in one pass and bounded memory: buckets of equal width that keep the least and the greatest
//! value, so that no spike is lost. Pure.
//!
//! Where the points begin and end is not known before the last has been read. So buckets are narrow at first, and whenever
//! there are too many, each two neighbours become one: widths are powers of two.

use std::collections::BTreeMap;

/// A value of a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    /// As the job counts.
    pub(super) step: i64,
    /// Wall clock of its node.
    pub(super) at: u64,
    pub(super) value: f64,
}

/// Points of about the same place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bucket {
    /// Points in it.
    pub(super) count: u64,
    /// Of these no number.
    pub(super) nans: u64,
    pub(super) first: Point,
    pub(super) last: Point,
    /// The least; that of the first point if none is a number.
    pub(super) min: Point,
    /// The greatest; likewise.
    pub(super) max: Point,
    /// Of those that are numbers.
    sum: f64,
}

impl Bucket {
    pub(super) fn of(point: Point) -> Self {
        let is_nan = point.value.is_nan();
        Self {
            count: 1,
            nans: u64::from(is_nan),
            first: point,
            last: point,
            min: point,
            max: point,
            sum: if is_nan { 0.0 } else { point.value },
        }
    }

    /// The mean of those that are numbers; NaN if none is.
    pub(super) fn mean(&self) -> f64 {
        let numbers = self.count - self.nans;
        #[expect(
            clippy::cast_precision_loss,
            reason = "an attempt has far fewer than 2^52 points"
        )]
        let numbers = numbers as f64;
        self.sum / numbers
    }

    /// Takes in what came after it.
    pub(super) fn add(&mut self, later: &Self) {
        self.count += later.count;
        self.nans += later.nans;
        self.last = later.last;
        self.sum += later.sum;
        let is_less = |one: f64, other: f64| one < other || other.is_nan();
        if is_less(later.min.value, self.min.value) {
            self.min = later.min;
        }
        if later.max.value > self.max.value || self.max.value.is_nan() {
            self.max = later.max;
        }
    }
}

/// What is along the axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Axis {
    /// Steps, as the job counts them.
    #[default]
    Step,
    /// Milliseconds of the wall clock.
    Time,
}

impl Axis {
    fn place(self, point: &Point) -> i64 {
        match self {
            Self::Step => point.step,
            Self::Time => i64::try_from(point.at).unwrap_or(i64::MAX),
        }
    }
}

/// Part of an axis, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) from: i64,
    pub(super) to: i64,
}

/// Takes points in the order in which they came.
#[derive(Clone, Debug)]
pub(super) struct Buckets {
    axis: Axis,
    range: Range,
    most: usize,
    /// Their width is two to this power.
    width_bits: u32,
    buckets: BTreeMap<i64, Bucket>,
    /// All points, in the range or not.
    pub(super) seen: u64,
}

impl Buckets {
    /// At most `most` buckets, at least two.
    pub(super) fn new(axis: Axis, range: Range, most: usize) -> Self {
        Self {
            axis,
            range,
            most: most.max(2),
            width_bits: 0,
            buckets: BTreeMap::new(),
            seen: 0,
        }
    }

    pub(super) fn push(&mut self, point: Point) {
        self.seen += 1;
        let place = self.axis.place(&point);
        if !(self.range.from..=self.range.to).contains(&place) {
            return;
        }
        self.put(place >> self.width_bits, &Bucket::of(point));
        while self.buckets.len() > self.most {
            self.width_bits += 1;
            for (place, bucket) in std::mem::take(&mut self.buckets) {
                self.put(place >> 1, &bucket);
            }
        }
    }

    fn put(&mut self, place: i64, new: &Bucket) {
        match self.buckets.get_mut(&place) {
            Some(known) => known.add(new),
            None => drop(self.buckets.insert(place, *new)),
        }
    }

    /// Those that have points, along the axis.
    pub(super) fn buckets(&self) -> impl Iterator<Item = &Bucket> {
        self.buckets.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Range = Range {
        from: i64::MIN,
        to: i64::MAX,
    };

    fn point(step: i64, value: f64) -> Point {
        let at = u64::try_from(step.max(0)).unwrap().saturating_mul(10);
        Point { step, at, value }
    }

    #[test]
    fn a_million_points_keep_their_spikes_in_few_buckets() {
        let mut buckets = Buckets::new(Axis::Step, ALL, 200);
        for step in 0..1_000_000_i64 {
            let value = match step {
                123_456 => -1_000.0,
                765_432 => 1_000.0,
                _ => (step as f64 / 1_000.0).sin(),
            };
            buckets.push(point(step, value));
            assert!(buckets.buckets.len() <= 200);
        }
        let all: Vec<_> = buckets.buckets().collect();
        assert!((101..=200).contains(&all.len()), "{}", all.len());
        assert_eq!(all.iter().map(|one| one.count).sum::<u64>(), 1_000_000);
        assert!(all.iter().any(|one| one.min == point(123_456, -1_000.0)));
        assert!(all.iter().any(|one| one.max == point(765_432, 1_000.0)));
        let ends = |one: &&Bucket| (one.first.step, one.last.step);
        let mut next = 0;
        for (first, last) in all.iter().map(ends) {
            assert_eq!(first, next, "no gap and no overlap");
            next = last + 1;
        }
        assert_eq!(next, 1_000_000);
        let quiet = all.iter().find(|one| one.first.step == 0).unwrap();
        assert!(quiet.mean() >= quiet.min.value && quiet.mean() <= quiet.max.value);
    }

    #[test]
    fn few_points_are_themselves_and_a_range_is_finer() {
        let mut whole = Buckets::new(Axis::Step, ALL, 10);
        let mut part = Buckets::new(Axis::Step, Range { from: 100, to: 104 }, 10);
        for step in 0..1_000 {
            whole.push(point(step, 1.0));
            part.push(point(step, 1.0));
        }
        assert!(whole.buckets().all(|one| one.count > 60));
        let steps: Vec<_> = part.buckets().map(|one| one.first.step).collect();
        assert_eq!(steps, [100, 101, 102, 103, 104]);
        assert_eq!(part.seen, 1_000);
    }

    #[test]
    fn steps_may_go_back_and_be_negative_or_far_apart() {
        let mut buckets = Buckets::new(Axis::Step, ALL, 4);
        for step in [i64::MAX, -5, 7, i64::MIN, -5, 3] {
            buckets.push(point(step, 0.0));
        }
        let counts: Vec<_> = buckets.buckets().map(|one| one.count).collect();
        assert_eq!(counts.iter().sum::<u64>(), 6);
        assert!(counts.len() <= 4);
    }

    #[test]
    fn what_is_no_number_is_counted_and_hides_nothing() {
        let mut buckets = Buckets::new(Axis::Time, ALL, 2);
        for (step, value) in [(1, f64::NAN), (2, 3.0), (3, 1.0), (4, f64::NAN)] {
            buckets.push(Point { step, at: 5, value });
        }
        let one = buckets.buckets().next().unwrap();
        assert_eq!((one.count, one.nans), (4, 2));
        assert_eq!((one.min.value, one.max.value, one.mean()), (1.0, 3.0, 2.0));
        let mut all_nan = Bucket::of(point(1, f64::NAN));
        all_nan.add(&Bucket::of(point(2, f64::NAN)));
        assert!(all_nan.mean().is_nan() && all_nan.min.value.is_nan());
    }
}

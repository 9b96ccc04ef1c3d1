//! Numbers out of samples.

/// Samples in one unit, sorted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn new(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The value that `percent` of the samples do not exceed; NaN without samples.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let last = self.0.len().saturating_sub(1);
        self.0
            .get(last * percent.min(100) / 100)
            .copied()
            .unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&self) -> f64 {
        self.percentile(50)
    }

    pub(crate) fn worst(&self) -> f64 {
        self.percentile(100)
    }

    pub(crate) fn best(&self) -> f64 {
        self.percentile(0)
    }
}

/// A count as a fraction's part. Exact below 2^53.
pub(crate) fn number(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::from(u32::MAX), f64::from)
}

/// Mebibytes, exact to a kibibyte.
pub(crate) fn mebibytes(bytes: u64) -> f64 {
    u32::try_from(bytes / 1_024).map_or(f64::INFINITY, f64::from) / 1_024.0
}

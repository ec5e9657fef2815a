//! Durations and sizes in upstream's buckets.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// The upper bounds of the buckets that upstream's request and storage durations share, in seconds.
pub(super) const BOUNDS_SECONDS: [f64; 24] = [
    0.005,
    0.025,
    0.05,
    0.1,
    0.2,
    0.4,
    0.6,
    0.8,
    1.0,
    1.25,
    1.5,
    2.0,
    3.0,
    4.0,
    5.0,
    6.0,
    8.0,
    10.0,
    15.0,
    20.0,
    30.0,
    45.0,
    60.0,
    f64::INFINITY,
];

/// The upper bounds of the buckets of upstream's response sizes, in bytes.
pub(super) const BOUNDS_BYTES: [f64; 8] = [1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, f64::INFINITY];

/// How many values fell into each bucket, and their sum, in a unit that its user knows.
struct Buckets<const N: usize> {
    counts: [AtomicU64; N],
    sum: AtomicU64,
}

impl<const N: usize> Default for Buckets<N> {
    fn default() -> Self {
        Buckets {
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            sum: AtomicU64::new(0),
        }
    }
}

impl<const N: usize> Buckets<N> {
    fn observe(&self, bounds: &[f64; N], value: f64, units: u64) {
        let at = bounds.partition_point(|bound| *bound < value);
        self.counts[at.min(N - 1)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(units, Ordering::Relaxed);
    }

    /// How many values are not above each bound, as Prometheus wants them.
    fn cumulative(&self) -> [u64; N] {
        let mut total = 0;
        std::array::from_fn(|at| {
            total += self.counts[at].load(Ordering::Relaxed);
            total
        })
    }
}

/// Durations, summed in microseconds.
#[derive(Default)]
pub(super) struct Durations(Buckets<{ BOUNDS_SECONDS.len() }>);

impl Durations {
    pub(super) fn observe(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.0.observe(&BOUNDS_SECONDS, duration.as_secs_f64(), micros);
    }

    pub(super) fn cumulative(&self) -> [u64; BOUNDS_SECONDS.len()] {
        self.0.cumulative()
    }

    pub(super) fn sum_seconds(&self) -> f64 {
        self.0.sum.load(Ordering::Relaxed) as f64 / 1e6
    }

    pub(super) fn count(&self) -> u64 {
        self.cumulative()[BOUNDS_SECONDS.len() - 1]
    }
}

/// Sizes in bytes.
#[derive(Default)]
pub(super) struct Sizes(Buckets<{ BOUNDS_BYTES.len() }>);

impl Sizes {
    pub(super) fn observe(&self, bytes: u64) {
        self.0.observe(&BOUNDS_BYTES, bytes as f64, bytes);
    }

    pub(super) fn cumulative(&self) -> [u64; BOUNDS_BYTES.len()] {
        self.0.cumulative()
    }

    pub(super) fn sum_bytes(&self) -> f64 {
        self.0.sum.load(Ordering::Relaxed) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_belong_to_their_bucket() {
        let histogram = Durations::default();
        for millis in [1, 5, 6, 100_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let counts = histogram.cumulative();
        assert_eq!((counts[0], counts[1], counts[22], counts[23]), (2, 3, 3, 4));
        assert!((histogram.sum_seconds() - 100.012).abs() < 1e-9);
    }
}

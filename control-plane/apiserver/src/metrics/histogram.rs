//! Durations in upstream's buckets.

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

/// How many durations fell into each bucket, and their sum.
#[derive(Default)]
pub(super) struct Histogram {
    buckets: [AtomicU64; BOUNDS_SECONDS.len()],
    sum_micros: AtomicU64,
}

impl Histogram {
    pub(super) fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let at = BOUNDS_SECONDS.partition_point(|bound| *bound < seconds);
        self.buckets[at.min(BOUNDS_SECONDS.len() - 1)].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// How many durations are not above each bound, as Prometheus wants them.
    pub(super) fn cumulative(&self) -> [u64; BOUNDS_SECONDS.len()] {
        let mut total = 0;
        std::array::from_fn(|at| {
            total += self.buckets[at].load(Ordering::Relaxed);
            total
        })
    }

    pub(super) fn sum_seconds(&self) -> f64 {
        self.sum_micros.load(Ordering::Relaxed) as f64 / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_belong_to_their_bucket() {
        let histogram = Histogram::default();
        for millis in [1, 5, 6, 100_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let counts = histogram.cumulative();
        assert_eq!((counts[0], counts[1], counts[22], counts[23]), (2, 3, 3, 4));
        assert!((histogram.sum_seconds() - 100.012).abs() < 1e-9);
    }
}

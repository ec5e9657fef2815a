//! Histograms in upstream's buckets.

use std::{
    marker::PhantomData,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// What a histogram measures: its buckets, and how finely it is summed up.
pub(crate) trait Scale {
    /// The upper bounds of the buckets, in the unit of the metric; above the last there is one more.
    const BOUNDS: &'static [f64];
    /// Into how many steps a unit is divided for the sum.
    const STEPS: f64;
}

/// Durations of requests and of the store, in seconds: upstream's are the same for both.
pub(crate) struct RequestSeconds;

impl Scale for RequestSeconds {
    const BOUNDS: &'static [f64] = &[
        0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0,
        15.0, 20.0, 30.0, 45.0, 60.0,
    ];
    const STEPS: f64 = 1e6;
}

/// How long it takes to find out who asks, in seconds.
pub(crate) struct AuthenticationSeconds;

impl Scale for AuthenticationSeconds {
    const BOUNDS: &'static [f64] = &[
        0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192,
        16.384,
    ];
    // It is a matter of microseconds.
    const STEPS: f64 = 1e9;
}

/// Sizes of answers, in bytes.
pub(crate) struct ResponseBytes;

impl Scale for ResponseBytes {
    const BOUNDS: &'static [f64] = &[1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
    const STEPS: f64 = 1.0;
}

/// Sizes of watch events, in bytes.
pub(crate) struct WatchEventBytes;

impl Scale for WatchEventBytes {
    const BOUNDS: &'static [f64] = &[
        1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0, 131_072.0,
    ];
    const STEPS: f64 = 1.0;
}

/// How many values fell into each bucket, and their sum.
pub(crate) struct Histogram<S> {
    counts: Box<[AtomicU64]>,
    sum_steps: AtomicU64,
    scale: PhantomData<S>,
}

impl<S: Scale> Default for Histogram<S> {
    fn default() -> Self {
        Histogram {
            counts: (0..=S::BOUNDS.len()).map(|_| AtomicU64::new(0)).collect(),
            sum_steps: AtomicU64::new(0),
            scale: PhantomData,
        }
    }
}

impl<S: Scale> Histogram<S> {
    /// Counts a value, in the unit of the metric.
    pub(crate) fn observe(&self, value: f64) {
        let at = S::BOUNDS.partition_point(|bound| *bound < value);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.sum_steps
            .fetch_add((value * S::STEPS).round() as u64, Ordering::Relaxed);
    }

    /// Counts a duration, where the unit is the second.
    pub(crate) fn observe_duration(&self, duration: Duration) {
        self.observe(duration.as_secs_f64());
    }

    /// How many values are not above each bound, as Prometheus wants them; the last is all.
    pub(super) fn cumulative(&self) -> Vec<u64> {
        let mut total = 0;
        let counts = self.counts.iter().map(|count| {
            total += count.load(Ordering::Relaxed);
            total
        });
        counts.collect()
    }

    /// The sum of all values, in the unit of the metric.
    pub(super) fn sum(&self) -> f64 {
        self.sum_steps.load(Ordering::Relaxed) as f64 / S::STEPS
    }

    /// How many values there were.
    pub(crate) fn count(&self) -> u64 {
        self.counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_belong_to_their_bucket() {
        let histogram = Histogram::<RequestSeconds>::default();
        for millis in [1, 5, 6, 100_000] {
            histogram.observe_duration(Duration::from_millis(millis));
        }
        let counts = histogram.cumulative();
        assert_eq!((counts[0], counts[1], counts[22], counts[23]), (2, 3, 3, 4));
        assert!((histogram.sum() - 100.012).abs() < 1e-9);
        assert_eq!(histogram.count(), 4);
    }
}

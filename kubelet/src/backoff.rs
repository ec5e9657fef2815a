//! How long failing things are put off.

use std::time::{Duration, Instant};

/// The first delay, upstream's `backOffPeriod`.
pub const INITIAL: Duration = Duration::from_secs(10);
/// No delay is longer, upstream's `MaxCrashLoopBackOff` and `MaxContainerBackOff`.
pub const MAX: Duration = Duration::from_secs(300);
/// A container that ran longer than this starts again at once, and its history of crashes is forgotten.
pub const CRASH_RESET: Duration = Duration::from_secs(600);

/// The delay after `delay`: ten seconds, doubling up to five minutes.
pub fn next_delay(delay: Duration) -> Duration {
    if delay.is_zero() {
        INITIAL
    } else {
        (delay * 2).min(MAX)
    }
}

/// The first delay after a container could not be made or started.
const START_FIRST: Duration = Duration::from_millis(500);

/// The failed starts in a row of one container, which the runtime knows nothing of.
///
/// A failed try wakes its own worker, by the status that is written and by the runtime's events; without a memory of it the
/// next try would follow at once. It is tried again sooner than upstream does, whose workers wait for [`INITIAL`].
#[derive(Debug, Default)]
pub struct StartFailures {
    /// `metadata.generation` of the pod that failed: a new spec may have mended the cause.
    generation: Option<i64>,
    delay: Duration,
    retry_at: Option<tokio::time::Instant>,
}

impl StartFailures {
    /// Until when the container is left alone.
    pub fn held_until(
        &self,
        generation: Option<i64>,
        now: tokio::time::Instant,
    ) -> Option<tokio::time::Instant> {
        self.retry_at
            .filter(|at| self.generation == generation && now < *at)
    }

    /// Counts a failure and returns when the next try is due: after half a second, doubling up to [`INITIAL`].
    pub fn failed(&mut self, generation: Option<i64>, now: tokio::time::Instant) -> tokio::time::Instant {
        self.delay = if self.retry_at.is_some() && self.generation == generation {
            (self.delay * 2).min(INITIAL)
        } else {
            START_FIRST
        };
        self.generation = generation;
        let at = now + self.delay;
        self.retry_at = Some(at);
        at
    }
}

/// The first and the longest wait of a watch that broke.
const WATCH_FIRST: Duration = Duration::from_millis(100);
const WATCH_LAST: Duration = Duration::from_secs(2);

/// A watch that held this long starts over with the first wait.
const WATCH_HELD: Duration = Duration::from_secs(10);

/// How long a broken watch waits before it is made again.
///
/// Shorter than the default of the watch library, which waits up to 30 s: a node has to follow soon after the control
/// plane is back, and its few watches are no burden to it. Spread out, since all nodes lose their watches at once.
#[derive(Debug, Default)]
pub struct WatchBackoff {
    failures: u32,
    last: Option<Instant>,
}

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self.last.is_some_and(|last| last.elapsed() > WATCH_HELD) {
            self.failures = 0;
        }
        self.last = Some(Instant::now());
        let delay = WATCH_FIRST
            .saturating_mul(1 << self.failures.min(10))
            .min(WATCH_LAST);
        self.failures = self.failures.saturating_add(1);
        Some(delay.mul_f64(rand::random_range(0.75..1.25)))
    }
}

impl kube::runtime::utils::Backoff for WatchBackoff {
    /// Does nothing: the library calls it before each attempt to list too, which says nothing about success.
    fn reset(&mut self) {}
}

/// A duration as Go prints it (`10s`, `2m40s`), since messages carry delays.
pub fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, minutes, seconds) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_five_minutes() {
        let mut delay = Duration::ZERO;
        let delays: Vec<String> = (0..7)
            .map(|_| {
                delay = next_delay(delay);
                go_duration(delay)
            })
            .collect();
        assert_eq!(delays, ["10s", "20s", "40s", "1m20s", "2m40s", "5m0s", "5m0s"]);
    }

    #[test]
    fn failed_starts_are_put_off_whatever_wakes_the_worker() {
        let begin = tokio::time::Instant::now();
        let mut failures = StartFailures::default();
        assert_eq!(failures.held_until(Some(1), begin), None);
        let mut now = begin;
        let delays: Vec<Duration> = (0..7)
            .map(|_| {
                let at = failures.failed(Some(1), now);
                assert_eq!(failures.held_until(Some(1), now), Some(at));
                assert_eq!(failures.held_until(Some(1), at), None, "due");
                let delay = at - now;
                now = at;
                delay
            })
            .collect();
        assert_eq!(
            delays,
            [500, 1000, 2000, 4000, 8000, 10_000, 10_000].map(Duration::from_millis)
        );
        let at = failures.failed(Some(1), now);
        assert!(at > now);
        assert_eq!(failures.held_until(Some(2), now), None, "another spec");
        assert_eq!(failures.failed(Some(2), now) - now, START_FIRST);
    }
}

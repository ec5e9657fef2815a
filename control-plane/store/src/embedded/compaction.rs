//! When history is forgotten.

use std::time::{Duration, Instant};

use crate::Revision;

/// Decides, from the times and revisions it is shown, up to where to compact: like kube-apiserver, once an interval up to
/// the revision of one interval before, so that at least the last interval's history can be read.
#[derive(Debug)]
pub(super) struct Schedule {
    interval: Duration,
    since: Instant,
    /// The revision at `since`.
    revision: Revision,
}

impl Schedule {
    pub(super) fn new(interval: Duration, now: Instant, revision: Revision) -> Schedule {
        Schedule {
            interval,
            since: now,
            revision,
        }
    }

    /// When [`Self::due`] is to be asked next.
    pub(super) fn next(&self) -> Instant {
        self.since + self.interval
    }

    /// The revision to compact to, when the time has come.
    pub(super) fn due(&mut self, now: Instant, revision: Revision) -> Option<Revision> {
        if now < self.next() {
            return None;
        }
        self.since = now;
        Some(std::mem::replace(&mut self.revision, revision))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_interval() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut schedule = Schedule::new(Duration::from_secs(300), start, 10);
        assert_eq!(schedule.due(at(299), 20), None);
        assert_eq!(schedule.due(at(300), 30), Some(10));
        assert_eq!(schedule.due(at(301), 31), None);
        assert_eq!(schedule.next(), at(600));
        // Late is late once, not twice.
        assert_eq!(schedule.due(at(2000), 40), Some(30));
        assert_eq!(schedule.due(at(2100), 50), None);
        assert_eq!(schedule.due(at(2300), 60), Some(40));
    }
}

//! Services that take long to plan: one that changes all the time must not keep the changes of others waiting. Pure.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::desired::ObjectName;

/// Planning less than this is no work that anybody waits for.
const SHORT: Duration = Duration::from_millis(10);
/// After it was planned, a Service rests for so many times as long as that took: at most a tenth of the time goes to it.
const REST: u32 = 9;

/// The Services that rest, and until when.
#[derive(Debug, Default)]
pub struct Pace {
    resting: BTreeMap<ObjectName, Instant>,
}

impl Pace {
    /// Notes how long planning took, of Services with so many backends.
    pub fn planned<'a>(
        &mut self,
        now: Instant,
        took: Duration,
        services: impl Iterator<Item = (&'a ObjectName, usize)> + Clone,
    ) {
        self.resting.retain(|_, until| *until > now);
        let total: usize = services.clone().map(|(_, backends)| backends).sum();
        for (service, backends) in services {
            let part = took.mul_f64(backends as f64 / total.max(1) as f64);
            if part > SHORT {
                self.resting.insert(service.clone(), now + part * REST);
            }
        }
    }

    /// Until when a Service rests, if it does.
    pub fn rests_until(&self, service: &ObjectName, now: Instant) -> Option<Instant> {
        self.resting.get(service).copied().filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_long_rests_for_long() {
        let [giant, large, small] = ["giant", "large", "small"].map(|name| ObjectName::new("default", name));
        let mut pace = Pace::default();
        let now = Instant::now();
        let services = [(&giant, 900), (&large, 99), (&small, 1)];
        pace.planned(now, Duration::from_secs(1), services.into_iter());
        let rests = |pace: &Pace, name, at| {
            let until = pace.rests_until(name, at);
            until.map_or(0, |until| (until - at).as_millis())
        };
        assert_eq!(rests(&pace, &giant, now), 8100);
        assert_eq!(rests(&pace, &large, now), 891);
        assert_eq!(rests(&pace, &small, now), 0);
        let later = now + Duration::from_secs(1);
        assert_eq!(rests(&pace, &giant, later), 7100);
        assert_eq!(rests(&pace, &large, later), 0);
        // Thousands together may take long, none of them does.
        let names: Vec<_> = (0..1000)
            .map(|number| ObjectName::new("default", &format!("{number}")))
            .collect();
        pace.planned(later, Duration::from_secs(5), names.iter().map(|name| (name, 3)));
        assert!(names.iter().all(|name| pace.rests_until(name, later).is_none()));
        assert_eq!(rests(&pace, &giant, later), 7100);
        // Nothing to plan takes no time.
        pace.planned(later, Duration::from_secs(5), std::iter::once((&small, 0)));
        assert_eq!(rests(&pace, &small, later), 0);
        pace.planned(now + Duration::from_secs(9), Duration::ZERO, std::iter::empty());
        assert_eq!(pace.resting.len(), 0);
    }
}

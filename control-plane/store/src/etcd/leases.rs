//! Leases, which make etcd delete keys after a time. Like upstream's, one lease serves many keys whose time is up at about
//! the same moment: a cluster writes thousands of Events an hour, and etcd renews, replicates and revokes each lease.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::{api::LeaseGrantRequest, members::Members};
use crate::Result;

/// How much later than asked a key may go, so that leases can be shared: upstream's 60 s, but never above a 20th.
const SLACK: Duration = Duration::from_secs(60);
/// How many keys one lease may have, so that its revocation is no avalanche: upstream's number.
const KEYS_MAX: usize = 1000;

/// The leases that can still be given to keys.
#[derive(Debug, Default)]
pub(super) struct Leases {
    granted: Mutex<Vec<Lease>>,
}

#[derive(Debug)]
struct Lease {
    id: i64,
    /// It lasts at least until then.
    expires: Instant,
    keys: usize,
}

impl Leases {
    /// A lease that lasts at least `ttl`, and hardly longer.
    pub(super) async fn lease_for(&self, members: &Members, ttl: Duration) -> Result<i64> {
        // Held while a lease is granted, so that those who want the same wait for it instead of granting their own.
        let mut granted = self.granted.lock().await;
        let now = Instant::now();
        granted.retain(|lease| lease.expires > now && lease.keys < KEYS_MAX);
        if let Some(lease) = granted.iter_mut().find(|lease| lease.fits(ttl, now)) {
            lease.keys += 1;
            return Ok(lease.id);
        }
        let request = LeaseGrantRequest {
            ttl_seconds: seconds_to_grant(ttl),
        };
        // A lease that nobody heard of goes by itself: this may be sent twice.
        let answer = members
            .read("grant a lease", |api| api.grant_lease(request.clone()))
            .await?;
        let lasts = Duration::from_secs(answer.ttl_seconds.try_into().unwrap_or_default());
        granted.push(Lease {
            id: answer.id,
            expires: now.checked_add(lasts).unwrap_or(now),
            keys: 1,
        });
        Ok(answer.id)
    }

    /// The server says that the lease is no more.
    pub(super) async fn forget(&self, id: i64) {
        self.granted.lock().await.retain(|lease| lease.id != id);
    }
}

impl Lease {
    fn fits(&self, ttl: Duration, now: Instant) -> bool {
        let lasts = self.expires.saturating_duration_since(now);
        ttl <= lasts && lasts <= ttl.saturating_add(slack(ttl))
    }
}

fn slack(ttl: Duration) -> Duration {
    SLACK.min(ttl / 20)
}

/// Etcd knows whole seconds only.
fn seconds_to_grant(ttl: Duration) -> i64 {
    let lasts = ttl.saturating_add(slack(ttl));
    let seconds = lasts
        .as_secs()
        .saturating_add(u64::from(lasts.subsec_nanos() > 0));
    i64::try_from(seconds.max(1)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_granted_with_slack_in_whole_seconds() {
        for (ttl_ms, seconds) in [
            (0, 1),
            (30, 1),
            (1000, 2),
            (15_000, 16),
            (3_600_000, 3660),
            (36_000_000, 36_060),
        ] {
            assert_eq!(
                seconds_to_grant(Duration::from_millis(ttl_ms)),
                seconds,
                "{ttl_ms}"
            );
        }
        assert_eq!(seconds_to_grant(Duration::MAX), i64::MAX);
    }

    #[test]
    fn leases_are_shared_while_they_are_neither_too_short_nor_too_long() {
        let now = Instant::now();
        let hour = Duration::from_secs(3600);
        let lease = Lease {
            id: 1,
            expires: now + Duration::from_secs(3660),
            keys: 1,
        };
        assert!(lease.fits(hour, now));
        assert!(lease.fits(hour, now + Duration::from_secs(60)));
        assert!(!lease.fits(hour, now + Duration::from_secs(61)), "ends too soon");
        assert!(!lease.fits(hour / 2, now), "ends much too late");
    }
}

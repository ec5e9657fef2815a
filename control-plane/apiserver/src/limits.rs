//! How many requests are answered at the same time. Those above the limit wait for their turn, and when too many wait
//! already, they are told to come back later: memory stays bounded whatever clients do.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use http::{HeaderValue, StatusCode, header};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{
    authn::{SYSTEM_MASTERS, UserInfo},
    respond::{HttpResponse, text},
};

/// So many requests may wait for each of the two limits; a waiting request is little more than its headers.
const WAITING_MAX: usize = 4096;
/// Nobody waits longer for a turn.
const WAIT_MAX: Duration = Duration::from_secs(15);
/// What a client that is sent away is told to wait, in seconds.
const RETRY_AFTER_SECONDS: u32 = 1;

/// The limits, one for requests that change something and one for the others. Streams count for neither.
pub(crate) struct Limits {
    read_only: Turns,
    mutating: Turns,
}

struct Turns {
    permits: Option<Semaphore>,
    waiting: AtomicUsize,
}

/// A request's turn; dropping it lets the next one in.
pub(crate) struct Turn<'a>(#[expect(dead_code, reason = "held for its drop")] Option<SemaphorePermit<'a>>);

/// Too many requests wait already.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Overloaded;

impl Limits {
    /// 0 means no limit.
    pub(crate) fn new(read_only: usize, mutating: usize) -> Self {
        let turns = |limit: usize| Turns {
            permits: (limit > 0).then(|| Semaphore::new(limit.min(Semaphore::MAX_PERMITS))),
            waiting: AtomicUsize::new(0),
        };
        Limits {
            read_only: turns(read_only),
            mutating: turns(mutating),
        }
    }

    /// Waits for a turn. Cluster administrators need none: they are the ones who can help.
    pub(crate) async fn turn(&self, user: &UserInfo, mutating: bool) -> Result<Turn<'_>, Overloaded> {
        let turns = if mutating { &self.mutating } else { &self.read_only };
        match &turns.permits {
            Some(permits) if !user.in_group(SYSTEM_MASTERS) => turns.wait(permits).await,
            _ => Ok(Turn(None)),
        }
    }
}

impl Turns {
    async fn wait<'a>(&'a self, permits: &'a Semaphore) -> Result<Turn<'a>, Overloaded> {
        if let Ok(permit) = permits.try_acquire() {
            return Ok(Turn(Some(permit)));
        }
        let _waits = Waits::new(&self.waiting)?;
        match tokio::time::timeout(WAIT_MAX, permits.acquire()).await {
            Ok(Ok(permit)) => Ok(Turn(Some(permit))),
            _ => Err(Overloaded),
        }
    }
}

/// Counts a request as waiting, also when it is given up.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn new(waiting: &'a AtomicUsize) -> Result<Self, Overloaded> {
        let waits = Waits(waiting);
        if waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            return Err(Overloaded);
        }
        Ok(waits)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The 429, in the plain text that upstream's filter answers with.
pub(crate) fn too_many_requests() -> HttpResponse {
    let message = "Too many requests, please try again later.\n".to_owned();
    let mut response = text(StatusCode::TOO_MANY_REQUESTS, message);
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test(start_paused = true)]
    async fn who_waits_and_who_does_not() {
        let limits = Limits::new(1, 0);
        let (jane, admin) = (
            UserInfo::new("jane", &[]),
            UserInfo::new("admin", &[SYSTEM_MASTERS]),
        );
        let first = limits.turn(&jane, false).await.ok().unwrap();
        let mut second = Box::pin(limits.turn(&jane, false));
        assert!(second.as_mut().now_or_never().is_none());
        assert!(limits.turn(&admin, false).now_or_never().is_some());
        assert!(limits.turn(&jane, true).now_or_never().is_some(), "0 is no limit");
        drop(first);
        assert!(second.await.is_ok());
        let held = limits.turn(&jane, false).await.ok().unwrap();
        assert!(limits.turn(&jane, false).await.is_err(), "nobody waits for ever");
        drop(held);
    }

    #[tokio::test]
    async fn only_so_many_wait() {
        let limits = Limits::new(1, 0);
        let jane = UserInfo::new("jane", &[]);
        let _held = limits.turn(&jane, false).await.ok().unwrap();
        let mut waiting: Vec<_> = (0..WAITING_MAX)
            .map(|_| Box::pin(limits.turn(&jane, false)))
            .collect();
        assert!(
            waiting
                .iter_mut()
                .all(|turn| turn.as_mut().now_or_never().is_none())
        );
        assert!(
            limits
                .turn(&jane, false)
                .now_or_never()
                .is_some_and(|turn| turn.is_err())
        );
        drop(waiting);
        assert_eq!(limits.read_only.waiting.load(Ordering::Relaxed), 0);
    }
}

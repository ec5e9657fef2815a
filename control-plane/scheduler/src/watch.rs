//! Watching a kind for ever.

use std::{fmt::Debug, time::Duration};

use futures::Stream;
use kube::{
    Api, Resource,
    runtime::{
        WatchStreamExt,
        utils::{Backoff, ResetTimerBackoff},
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;

/// The first wait after a failure is short: when a whole cluster starts, the API server is but a moment away.
const WAIT_MIN: Duration = Duration::from_millis(50);
const WAIT_MAX: Duration = Duration::from_secs(10);
/// A watch that has lasted this long is well again.
const RESET_AFTER: Duration = Duration::from_secs(30);

/// All changes of a kind, beginning with a list. Errors are passed on to be logged; the stream goes on after a wait.
pub(crate) fn watch<K>(
    api: Api<K>,
    config: watcher::Config,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    watcher(api, config).backoff(ResetTimerBackoff::new(Doubling(WAIT_MIN), RESET_AFTER))
}

/// Waits that double up to a maximum.
struct Doubling(Duration);

impl Iterator for Doubling {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = self.0;
        self.0 = (wait * 2).min(WAIT_MAX);
        Some(wait)
    }
}

impl Backoff for Doubling {
    fn reset(&mut self) {
        self.0 = WAIT_MIN;
    }
}

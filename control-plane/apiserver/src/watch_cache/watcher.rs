//! One watch: what it missed, then what happens, in order, each change once.

use std::{collections::VecDeque, sync::Arc};

use store::{Revision, WatchStream};
use tokio::sync::mpsc;

use super::{
    Change, Error, Event, Filter, Object, ResourceCache, WatchCache, next_past_batch, resource::Watcher,
};

/// How many changes may wait for a watcher before it is cut off. Its client then starts again where it stopped.
const WATCHER_BUFFER: usize = 1024;

/// From where a watch tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Since {
    /// All that exists, as additions, then the changes.
    Now,
    /// The changes after a revision.
    Revision(Revision),
}

/// What [`Watch::next`] yields.
pub(crate) type Item = (Change, Arc<Event>);

/// A running watch.
pub(crate) struct Watch {
    cache: Arc<ResourceCache>,
    filter: Filter,
    initial: std::vec::IntoIter<Arc<Object>>,
    past: Option<Past>,
    live: mpsc::Receiver<Item>,
    /// The revision at which the watch went live.
    pub(crate) synced_at: Revision,
}

struct Past {
    stream: WatchStream,
    until: Revision,
    ready: VecDeque<Arc<store::Event>>,
}

impl Watch {
    /// Starts a watch. The cache must already have reached the revision it starts from.
    pub(crate) async fn start(
        cache: &WatchCache,
        resource: &Arc<ResourceCache>,
        filter: Filter,
        since: Since,
    ) -> Result<Self, Error> {
        let (deliver, live) = mpsc::channel(WATCHER_BUFFER);
        let (initial, missed, synced_at) = {
            let mut watchers = resource.watchers.lock();
            let state = resource.state.read();
            // Whatever progress says has been applied; what comes later finds the watcher registered.
            let synced_at = cache.progress().max(state.last_change);
            let (initial, missed, after): (Vec<_>, _, _) = match since {
                Since::Now => {
                    let matching = resource.matching(&state, &filter, None);
                    (matching.cloned().collect(), None, synced_at)
                }
                Since::Revision(after) => {
                    let missed = (after < state.last_change).then_some(after);
                    (Vec::new(), missed, after.max(state.last_change))
                }
            };
            if !cache.is_closed() {
                watchers.push(Watcher {
                    filter: filter.clone(),
                    after,
                    deliver,
                });
            }
            (initial, missed, synced_at)
        };
        let past = match missed {
            Some(after) => {
                let stream = cache.store.watch(&resource.prefix, after).await?;
                Some(Past {
                    stream,
                    until: synced_at,
                    ready: VecDeque::new(),
                })
            }
            None => None,
        };
        Ok(Watch {
            cache: resource.clone(),
            filter,
            initial: initial.into_iter(),
            past,
            live,
            synced_at,
        })
    }

    /// The next object of the initial state.
    pub(crate) fn next_initial(&mut self) -> Option<Arc<Object>> {
        self.initial.next()
    }

    /// The next change; `None` when the watch was cut off. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Result<Option<Item>, store::Error> {
        while let Some(past) = &mut self.past {
            while let Some(event) = past.ready.pop_front() {
                if event.revision() > past.until {
                    // Live events take over here.
                    break;
                }
                let event = Arc::new(self.cache.past_event(&event));
                if let Some(change) = self.filter.classify(&event) {
                    return Ok(Some((change, event)));
                }
            }
            match next_past_batch(&mut past.stream, past.until).await {
                Some(batch) => {
                    past.ready = batch?.into();
                    if past
                        .ready
                        .front()
                        .is_some_and(|event| event.revision() > past.until)
                    {
                        self.past = None;
                    }
                }
                None => self.past = None,
            }
        }
        Ok(self.live.recv().await)
    }

    /// A change that already waits, without waiting for one.
    pub(crate) fn try_next(&mut self) -> Option<Item> {
        if self.past.is_some() {
            return None;
        }
        self.live.try_recv().ok()
    }

    /// Whether everything that was missed has been told.
    pub(crate) fn is_live(&self) -> bool {
        self.past.is_none() && self.initial.len() == 0
    }
}

//! Everything the API server knows, in memory: each object once, as the bytes that clients get.
//!
//! One task follows the store from the root and applies its events in order; lists, gets and watches are served from
//! here. Because the task sees every revision, its progress says how fresh the cache is, and a consistent read is: ask
//! the store for its newest revision, wait until progress has reached it (microseconds, usually), read memory.
//!
//! History is not kept here. A watch that starts in the past reads what it missed from the store's log and then joins
//! the live events; the border is fixed under the lock, so nothing is lost or told twice.

mod chunk;
mod churn;
mod event;
mod facts;
mod filter;
mod kept;
mod object;
mod objects;
mod resource;
mod text;
mod watcher;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use api::registry::{Registry, Verb};
use futures::StreamExt;
use store::{ListOptions, Revision, WatchStream};
use tokio::sync::watch;

use self::{churn::Churn, objects::Objects};
pub(crate) use self::{
    event::{Event, frame},
    filter::{Change, Filter},
    object::{
        Object, convert_from, convert_to, encode, encode_unversioned, set_resource_version, without_type,
    },
    resource::ResourceCache,
    watcher::{Item, Since, Watch},
};
use crate::storage::{ROOT, Storage};

/// How long a read waits for the cache to reach a revision, as upstream.
const FRESH_TIMEOUT: Duration = Duration::from_secs(3);
/// How many objects are read at once when the cache is filled.
const LOAD_PAGE: usize = 500;

/// The cache of all resources.
pub(crate) struct WatchCache {
    pub(crate) store: Storage,
    resources: HashMap<Arc<str>, Arc<ResourceCache>>,
    progress: watch::Sender<Revision>,
    ready: AtomicBool,
    closed: AtomicBool,
    churn: Arc<Churn>,
}

/// Why the cache cannot answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The revision was not reached in time.
    #[error("Too large resource version: {requested}, current: {current}")]
    TooLarge { requested: Revision, current: Revision },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl WatchCache {
    /// An empty cache; [`run`](Self::run) fills it.
    pub(crate) fn new(store: Storage, registry: &Registry) -> Self {
        let mut resources: HashMap<Arc<str>, Arc<ResourceCache>> = HashMap::new();
        for resource in registry.resources() {
            let prefix: Arc<str> = Arc::from(&*resource.storage.prefix);
            // Several versions may share a prefix; the cache holds the one that is stored. Reviews are never stored.
            if resource.verbs.contains(Verb::Get) && resource.gvk() == resource.storage.version {
                let cache = ResourceCache::new(prefix.clone(), resource.clone());
                resources.insert(prefix, Arc::new(cache));
            }
        }
        WatchCache {
            store,
            resources,
            progress: watch::Sender::new(0),
            ready: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            churn: Arc::default(),
        }
    }

    /// Whether the cache has been filled.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Ends every watch; those that start later end at once.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        for cached in self.resources.values() {
            cached.watchers.lock().clear();
        }
    }

    /// Whether [`close`](Self::close) was called.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// The objects below a prefix; `None` when no resource of the registry is stored there.
    pub(crate) fn resource(&self, prefix: &str) -> Option<&Arc<ResourceCache>> {
        self.resources.get(prefix)
    }

    /// The caches of all resources.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<ResourceCache>> {
        self.resources.values()
    }

    /// The revision up to which every event has been applied.
    pub(crate) fn progress(&self) -> Revision {
        *self.progress.borrow()
    }

    /// Tells of every further batch of events.
    pub(crate) fn changes(&self) -> watch::Receiver<Revision> {
        self.progress.subscribe()
    }

    /// Waits until the cache shows everything that was written before this call; returns that revision.
    pub(crate) async fn fresh(&self) -> Result<Revision, Error> {
        let revision = self.store.current_revision().await?;
        self.reach(revision).await?;
        Ok(revision)
    }

    /// Waits until the cache has reached a revision.
    pub(crate) async fn reach(&self, revision: Revision) -> Result<(), Error> {
        if self.is_ready() && self.progress() >= revision {
            return Ok(());
        }
        let mut progress = self.progress.subscribe();
        let reached = progress.wait_for(|progress| *progress >= revision && self.is_ready());
        match tokio::time::timeout(FRESH_TIMEOUT, reached).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Error::TooLarge {
                requested: revision,
                current: self.progress(),
            }),
        }
    }

    /// Follows the store until it closes.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            match self.follow().await {
                Err(store::Error::Closed) => return,
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "watch cache starts over"
                    );
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Ok(never) => match never {},
            }
        }
    }

    async fn follow(&self) -> Result<std::convert::Infallible, store::Error> {
        let revision = self.load().await?;
        let mut stream = self.store.watch(ROOT, revision).await?;
        self.ready.store(true, Ordering::Release);
        self.progress.send_replace(revision);
        loop {
            // Others may write to the same etcd: progress comes with and without events of ours.
            let batch = stream.advance(self.progress()).await?;
            let mut bytes = 0;
            for revision in batch.chunk_by(|one, next| one.revision() == next.revision()) {
                bytes += self.apply(revision);
            }
            self.progress.send_replace(stream.delivered());
            self.churn.note(bytes);
        }
    }

    /// Applies the changes of one revision. In etcd several keys may share one: when a lease ends, or a transaction of
    /// somebody else wrote them. Returns how large the objects are that came or went.
    fn apply(&self, events: &[Arc<store::Event>]) -> usize {
        let mut bytes = 0;
        let mut rest: Vec<_> = events
            .iter()
            .filter_map(|event| Some((self.resource_of(event.key())?, &**event)))
            .collect();
        while let Some((cache, _)) = rest.first() {
            let cache = *cache;
            let (its, others): (Vec<_>, Vec<_>) =
                rest.into_iter().partition(|(of, _)| Arc::ptr_eq(of, cache));
            let its: Vec<_> = its.into_iter().map(|(_, event)| event).collect();
            bytes += cache.apply(&its);
            rest = others;
        }
        bytes
    }

    /// Reads everything at one revision and replaces what the cache held; watches are ended, their clients come back.
    async fn load(&self) -> Result<Revision, store::Error> {
        let mut fresh: HashMap<&str, Objects> = HashMap::new();
        let mut options = ListOptions {
            limit: LOAD_PAGE,
            uncounted: true,
            ..ListOptions::default()
        };
        let mut bytes = 0;
        let revision = loop {
            let page = self.store.list(ROOT, options.clone()).await?;
            for item in &page.items {
                let Some(cache) = self.resource_of(&item.key) else {
                    continue;
                };
                match Object::from_store(&cache.resource, &cache.prefix, item) {
                    Some(object) => {
                        bytes += object.size();
                        let objects = fresh.entry(&*cache.prefix).or_default();
                        objects.insert(Arc::new(object));
                    }
                    None => tracing::error!(key = %item.key, "stored value is not an object, ignored"),
                }
            }
            options.revision = Some(page.revision);
            options.after = page.items.last().map(|item| item.key.to_string());
            if page.remaining == 0 {
                break page.revision;
            }
        };
        for cache in self.resources.values() {
            let mut watchers = cache.watchers.lock();
            let mut state = cache.state.write();
            state.objects = fresh.remove(&*cache.prefix).unwrap_or_default();
            state.last_change = revision;
            watchers.clear();
            let loaded = state.objects.len();
            cache.counters.listed_from_store(loaded, loaded);
        }
        self.churn.note(bytes);
        Ok(revision)
    }

    fn resource_of(&self, key: &str) -> Option<&Arc<ResourceCache>> {
        // `/registry/pods/…` or `/registry/services/specs/…`: the prefix ends at the first or second slash after the root.
        let rest = key.strip_prefix(ROOT)?;
        rest.match_indices('/')
            .take(2)
            .find_map(|(at, _)| self.resources.get(&key[..ROOT.len() + at + 1]))
    }
}

/// Reads a stream of the store's log up to a revision, and no further.
pub(crate) async fn next_past_batch(
    stream: &mut WatchStream,
    until: Revision,
) -> Option<store::Result<Vec<Arc<store::Event>>>> {
    futures::future::poll_fn(|cx| match stream.poll_next_unpin(cx) {
        std::task::Poll::Ready(batch) => std::task::Poll::Ready(batch),
        // Nothing below the prefix is left up to there.
        std::task::Poll::Pending if stream.delivered() >= until => std::task::Poll::Ready(None),
        std::task::Poll::Pending => std::task::Poll::Pending,
    })
    .await
}

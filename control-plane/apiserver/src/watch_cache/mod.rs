//! Everything the API server knows, in memory: each object once, as the bytes that clients get.
//!
//! One task follows the store from the root and applies its events in order; lists, gets and watches are served from
//! here. Because the task sees every revision, its progress says how fresh the cache is, and a consistent read is: ask
//! the store for its newest revision, wait until progress has reached it (microseconds, usually), read memory.
//!
//! History is not kept here. A watch that starts in the past reads what it missed from the store's log and then joins
//! the live events; the border is fixed under the lock, so nothing is lost or told twice.

mod filter;
mod object;
mod objects;
mod watcher;

use std::{
    collections::HashMap,
    ops::Bound,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use api::registry::{Registry, Resource, Verb};
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use store::{ListOptions, Revision, WatchStream};
use tokio::sync::{mpsc, watch};

use self::objects::Objects;
pub(crate) use self::{
    filter::{Change, Filter},
    object::{Object, convert_from, convert_to, encode, set_resource_version, without_type},
    watcher::{Item, Since, Watch},
};
use crate::{
    negotiation::Encoding,
    protobuf::encode as protobuf_encode,
    respond::protobuf_object,
    storage::{ROOT, Storage},
};

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
}

/// The cached objects of one storage prefix.
pub(crate) struct ResourceCache {
    pub(crate) prefix: Arc<str>,
    /// The resource in its storage version.
    pub(crate) resource: Arc<Resource>,
    /// Locked before `state`, and for as long as an event is handed out: reads need not wait for that.
    watchers: Mutex<Vec<Watcher>>,
    state: RwLock<State>,
    counters: Counters,
}

/// What has happened to a resource since the server started.
#[derive(Default)]
pub(crate) struct Counters {
    received: AtomicU64,
    dispatched: AtomicU64,
    terminated: AtomicU64,
    /// Objects sent as the initial state of watches.
    pub(crate) initial: AtomicU64,
    /// Events written to watchers.
    pub(crate) sent: AtomicU64,
}

/// What `/metrics` tells of a resource.
pub(crate) struct Counts {
    pub(crate) objects: u64,
    pub(crate) watchers: u64,
    pub(crate) received: u64,
    pub(crate) dispatched: u64,
    pub(crate) terminated: u64,
    pub(crate) initial: u64,
    pub(crate) sent: u64,
}

#[derive(Default)]
struct State {
    objects: Objects,
    /// No event of this prefix is newer than this; the objects are as they stood at any revision from here to now.
    last_change: Revision,
}

/// A watch as the cache sees it.
struct Watcher {
    filter: Filter,
    /// Events up to here are not for this watch.
    after: Revision,
    deliver: mpsc::Sender<(Change, Arc<Event>)>,
}

/// One change of one object, shared by everybody who watches it.
pub(crate) struct Event {
    pub(crate) revision: Revision,
    pub(crate) current: Option<Arc<Object>>,
    pub(crate) previous: Option<Arc<Object>>,
    frames: [OnceLock<Bytes>; 3],
    protobuf_frames: [OnceLock<Bytes>; 3],
}

impl Event {
    fn new(revision: Revision, current: Option<Arc<Object>>, previous: Option<Arc<Object>>) -> Self {
        Event {
            revision,
            current,
            previous,
            frames: Default::default(),
            protobuf_frames: Default::default(),
        }
    }

    /// The object's bytes as the change shows them.
    pub(crate) fn body(&self, change: Change) -> Bytes {
        match (change, &self.current, &self.previous) {
            (Change::Added | Change::Modified, Some(current), _) => current.body.clone(),
            (_, _, Some(previous)) => previous.body_at(self.revision),
            (_, Some(current), None) => current.body.clone(),
            (_, None, None) => Bytes::new(),
        }
    }

    /// The watch frame in plain JSON or in protobuf, encoded when the first watcher asks.
    pub(crate) fn frame(&self, change: Change, encoding: Encoding, resource: &Resource) -> Bytes {
        let at = change as usize;
        let frame = match encoding {
            Encoding::Protobuf => self.protobuf_frames[at].get_or_init(|| {
                let value: Value = serde_json::from_slice(&self.body(change)).unwrap_or_default();
                protobuf_encode::watch_frame(change.name(), &protobuf_object(resource.schema, &value)).into()
            }),
            _ => self.frames[at].get_or_init(|| frame(change.name(), &self.body(change))),
        };
        frame.clone()
    }
}

/// A watch event as a line of JSON.
pub(crate) fn frame(kind: &str, object: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(object.len() + kind.len() + 24);
    out.extend_from_slice(br#"{"type":""#);
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(br#"","object":"#);
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
    out.into()
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
                let cache = ResourceCache {
                    prefix: prefix.clone(),
                    resource: resource.clone(),
                    watchers: Mutex::default(),
                    state: RwLock::default(),
                    counters: Counters::default(),
                };
                resources.insert(prefix, Arc::new(cache));
            }
        }
        WatchCache {
            store,
            resources,
            progress: watch::Sender::new(0),
            ready: AtomicBool::new(false),
            closed: AtomicBool::new(false),
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
            for event in &batch {
                if let Some(cache) = self.resource_of(event.key()) {
                    cache.apply(event);
                }
            }
            self.progress.send_replace(stream.delivered());
        }
    }

    /// Reads everything at one revision and replaces what the cache held; watches are ended, their clients come back.
    async fn load(&self) -> Result<Revision, store::Error> {
        let mut fresh: HashMap<&str, Objects> = HashMap::new();
        let mut options = ListOptions {
            limit: LOAD_PAGE,
            ..ListOptions::default()
        };
        let revision = loop {
            let page = self.store.list(ROOT, options.clone()).await?;
            for item in &page.items {
                let Some(cache) = self.resource_of(&item.key) else {
                    continue;
                };
                match Object::from_store(&cache.resource, &cache.prefix, item) {
                    Some(object) => {
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
        }
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

impl ResourceCache {
    /// The object at a key.
    pub(crate) fn get(&self, key: &str) -> Option<Arc<Object>> {
        self.state.read().objects.get(key).cloned()
    }

    /// The objects that match, in key order.
    pub(crate) fn list(&self, filter: &Filter) -> Vec<Arc<Object>> {
        let state = self.state.read();
        self.matching(&state, filter, None).cloned().collect()
    }

    /// A page of the matching objects after a key. (A limit of 0 is none.)
    pub(crate) fn page(&self, filter: &Filter, after: Option<&str>, limit: usize) -> Page {
        let state = self.state.read();
        let mut matching = self.matching(&state, filter, after);
        let page = if limit > 0 { limit } else { usize::MAX };
        let objects: Vec<_> = matching.by_ref().take(page).cloned().collect();
        let remaining = match objects.last() {
            _ if limit == 0 => 0,
            // How many more match, nobody is told; finding out would cost a look at each of them.
            _ if filter.selects() => usize::from(matching.next().is_some()),
            Some(last) => {
                let (_, end) = self.bounds(filter);
                state
                    .objects
                    .count(Bound::Excluded(&*last.key), Bound::Excluded(&*end))
            }
            None => 0,
        };
        Page {
            objects,
            remaining: remaining as u64,
            revision_from: state.last_change,
        }
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(crate) fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (objects, watchers) = {
            let objects = self.state.read().objects.len();
            (objects as u64, self.watchers.lock().len() as u64)
        };
        Counts {
            objects,
            watchers,
            received: read(&self.counters.received),
            dispatched: read(&self.counters.dispatched),
            terminated: read(&self.counters.terminated),
            initial: read(&self.counters.initial),
            sent: read(&self.counters.sent),
        }
    }

    /// Runs over all objects while the cache is locked; for quick look-ups only.
    pub(crate) fn any(&self, predicate: impl FnMut(&&Arc<Object>) -> bool) -> bool {
        self.state.read().objects.iter().find(predicate).is_some()
    }

    /// The objects that match, in key order, from the one after a key on.
    fn matching<'a>(
        &self,
        state: &'a State,
        filter: &'a Filter,
        after: Option<&str>,
    ) -> impl Iterator<Item = &'a Arc<Object>> + use<'a> {
        let (start, end) = self.bounds(filter);
        let start = match after {
            Some(after) if *after >= *start => Bound::Excluded(after),
            _ => Bound::Included(&*start),
        };
        let range = state.objects.range(start, Bound::Excluded(&*end));
        range.filter(move |object| filter.matches(object))
    }

    /// The first key that a filter can mean, and the first one behind them all: a single key when it names one object.
    fn bounds(&self, filter: &Filter) -> (String, String) {
        let mut start = self.prefix.to_string();
        if !filter.namespace.is_empty() {
            start.push_str(&filter.namespace);
            start.push('/');
        }
        let whole_key = !filter.namespace.is_empty() || !self.resource.namespaced;
        if let Some(name) = filter.name().filter(|_| whole_key) {
            start.push_str(name);
            let end = format!("{start}\0");
            return (start, end);
        }
        // The character after the slash.
        let end = format!("{}0", &start[..start.len() - 1]);
        (start, end)
    }

    fn apply(&self, event: &store::Event) {
        let decoded = match event {
            store::Event::Put { current, .. } => Object::from_store(&self.resource, &self.prefix, current),
            store::Event::Delete { .. } => None,
        };
        self.counters.received.fetch_add(1, Ordering::Relaxed);
        let current = decoded.map(Arc::new);
        let mut watchers = self.watchers.lock();
        let previous = {
            let mut state = self.state.write();
            state.last_change = event.revision();
            match &current {
                Some(object) => state.objects.insert(object.clone()),
                None => state.objects.remove(event.key()),
            }
        };
        if watchers.is_empty() || (current.is_none() && previous.is_none()) {
            return;
        }
        let event = Arc::new(Event::new(event.revision(), current, previous));
        watchers.retain(|watcher| match watcher.offer(&event) {
            Offer::Passed => true,
            Offer::Taken => {
                self.counters.dispatched.fetch_add(1, Ordering::Relaxed);
                true
            }
            Offer::TooSlow => {
                self.counters.terminated.fetch_add(1, Ordering::Relaxed);
                false
            }
            Offer::Gone => false,
        });
    }

    /// An event read from the store's log instead of the live stream.
    fn past_event(&self, event: &store::Event) -> Event {
        let decode = |item| Object::from_store(&self.resource, &self.prefix, item).map(Arc::new);
        match event {
            store::Event::Put { current, previous } => Event::new(
                current.mod_revision,
                decode(current),
                previous.as_ref().and_then(decode),
            ),
            store::Event::Delete { previous, revision } => Event::new(*revision, None, decode(previous)),
        }
    }
}

/// A page of a list.
#[derive(Default)]
pub(crate) struct Page {
    pub(crate) objects: Vec<Arc<Object>>,
    /// How many more objects match after this page; with selectors only whether there are any.
    pub(crate) remaining: u64,
    /// The page is what a read at any revision from here on would have seen.
    pub(crate) revision_from: Revision,
}

/// What became of an event that was offered to a watcher.
enum Offer {
    /// It is not for this watcher.
    Passed,
    Taken,
    /// So many events wait already that the watch ends here; its client starts again where it stopped.
    TooSlow,
    /// The watch has ended.
    Gone,
}

impl Watcher {
    fn offer(&self, event: &Arc<Event>) -> Offer {
        if self.deliver.is_closed() {
            return Offer::Gone;
        }
        if event.revision <= self.after {
            return Offer::Passed;
        }
        match self.filter.classify(event) {
            Some(change) => match self.deliver.try_send((change, event.clone())) {
                Ok(()) => Offer::Taken,
                Err(mpsc::error::TrySendError::Full(_)) => Offer::TooSlow,
                Err(mpsc::error::TrySendError::Closed(_)) => Offer::Gone,
            },
            None => Offer::Passed,
        }
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

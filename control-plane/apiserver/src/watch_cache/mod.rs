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
mod watcher;

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use api::registry::{Registry, Resource, Verb};
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::RwLock;
use serde_json::Value;
use store::{ListOptions, Revision, WatchStream};
use tokio::sync::{mpsc, watch};

pub(crate) use self::{
    filter::{Change, Filter},
    object::{Object, convert_from, convert_to, encode, set_resource_version, without_type},
    watcher::{Since, Watch},
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
}

/// The cached objects of one storage prefix.
pub(crate) struct ResourceCache {
    pub(crate) prefix: Arc<str>,
    /// The resource in its storage version.
    pub(crate) resource: Arc<Resource>,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<Arc<str>, Arc<Object>>,
    /// No event of this prefix is newer than this; the objects are as they stood at any revision from here to now.
    last_change: Revision,
    watchers: Vec<Watcher>,
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
                    state: RwLock::default(),
                };
                resources.insert(prefix, Arc::new(cache));
            }
        }
        WatchCache {
            store,
            resources,
            progress: watch::Sender::new(0),
            ready: AtomicBool::new(false),
        }
    }

    /// Whether the cache has been filled.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// The objects below a prefix; `None` when no resource of the registry is stored there.
    pub(crate) fn resource(&self, prefix: &str) -> Option<&Arc<ResourceCache>> {
        self.resources.get(prefix)
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
        let mut fresh: HashMap<&str, BTreeMap<Arc<str>, Arc<Object>>> = HashMap::new();
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
                        objects.insert(object.key.clone(), Arc::new(object));
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
            let mut state = cache.state.write();
            state.objects = fresh.remove(&*cache.prefix).unwrap_or_default();
            state.last_change = revision;
            state.watchers.clear();
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
        self.below(&state, filter)
            .filter(|object| filter.matches(object))
            .cloned()
            .collect()
    }

    /// A page of the matching objects after a key, whether more match, and how many objects of any kind follow.
    pub(crate) fn page(&self, filter: &Filter, after: Option<&str>, limit: usize) -> Page {
        let state = self.state.read();
        let mut page = Page {
            revision_from: state.last_change,
            ..Page::default()
        };
        let following = self
            .below(&state, filter)
            .filter(|object| after.is_none_or(|after| &*object.key > after) && filter.matches(object));
        for object in following {
            if limit > 0 && page.objects.len() == limit {
                page.remaining += 1;
            } else {
                page.objects.push(object.clone());
            }
        }
        page
    }

    /// Runs over all objects while the cache is locked; for quick look-ups only.
    pub(crate) fn any(&self, predicate: impl FnMut(&&Arc<Object>) -> bool) -> bool {
        self.state.read().objects.values().find(predicate).is_some()
    }

    fn below<'a>(
        &self,
        state: &'a State,
        filter: &Filter,
    ) -> impl Iterator<Item = &'a Arc<Object>> + use<'a> {
        let start = match filter.namespace.as_str() {
            "" => self.prefix.to_string(),
            namespace => format!("{}{namespace}/", self.prefix),
        };
        let range = (Bound::Included(start.as_str()), Bound::Unbounded);
        let range = state.objects.range::<str, _>(range);
        range
            .take_while(move |(key, _)| key.starts_with(&start))
            .map(|(_, object)| object)
    }

    fn apply(&self, event: &store::Event) {
        let decoded = match event {
            store::Event::Put { current, .. } => Object::from_store(&self.resource, &self.prefix, current),
            store::Event::Delete { .. } => None,
        };
        let mut state = self.state.write();
        let current = decoded.map(Arc::new);
        let previous = match &current {
            Some(object) => state.objects.insert(object.key.clone(), object.clone()),
            None => state.objects.remove(&**event.key()),
        };
        state.last_change = event.revision();
        if state.watchers.is_empty() || (current.is_none() && previous.is_none()) {
            return;
        }
        let event = Arc::new(Event::new(event.revision(), current, previous));
        state.watchers.retain(|watcher| watcher.offer(&event));
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
    /// How many more objects match after this page.
    pub(crate) remaining: u64,
    /// The page is what a read at any revision from here on would have seen.
    pub(crate) revision_from: Revision,
}

impl Watcher {
    /// Hands an event over; `false` ends the watch: it has gone, or it is too slow.
    fn offer(&self, event: &Arc<Event>) -> bool {
        if self.deliver.is_closed() {
            return false;
        }
        if event.revision <= self.after {
            return true;
        }
        match self.filter.classify(event) {
            Some(change) => self.deliver.try_send((change, event.clone())).is_ok(),
            None => true,
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

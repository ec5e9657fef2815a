//! One list and watch per kind, shared by all controllers that read it.
//!
//! The informer holds the current state of a kind and tells subscribers that something changed. Subscribers
//! only work out which keys to wake; reconcilers read the store.
//!
//! The store also knows the newest resource version it has seen. Resource versions of one kind only grow, so
//! "has my write arrived?" is a comparison. A reconciler that wrote waits for that ([`Informer::seen`],
//! [`Informer::deletion_seen`]) before it ends: the next one never works from a state older than its own
//! writes. That replaces upstream's expectations.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::AsyncBufReadExt as _;
use parking_lot::RwLock;
use rand::RngExt as _;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::objects::Object;
use crate::queue::Key;
use crate::rest::{Error, Rest, chain};

/// Objects per list request, as in client-go's pager.
const PAGE_SIZE: usize = 500;
/// Shortest time that a watch is asked to last; the longest is twice that. client-go uses the same range.
const WATCH_SECONDS_MIN: u64 = 300;
/// The server ends a watch at its time-out; a connection silent for longer than this after it is dead.
const WATCH_SLACK: Duration = Duration::from_secs(30);
/// How long a reconciler waits for its own writes to come back; upstream's `ExpectationsTimeout`.
const CATCH_UP_MAX: Duration = Duration::from_secs(300);
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// What happened to one object.
pub(crate) struct Change<'a, T> {
    /// `None` if the object is new.
    pub(crate) old: Option<&'a Arc<T>>,
    /// `None` if the object is gone.
    pub(crate) new: Option<&'a Arc<T>>,
}

impl<'a, T> Change<'a, T> {
    /// The state before and after, as far as there is one.
    pub(crate) fn states(&self) -> impl Iterator<Item = &'a Arc<T>> + use<'a, T> {
        self.old.into_iter().chain(self.new)
    }

    /// The newest state known.
    pub(crate) fn latest(&self) -> Option<&'a Arc<T>> {
        self.new.or(self.old)
    }
}

type Subscriber<T> = Box<dyn Fn(&Change<'_, T>) + Send + Sync>;
type IndexFn<T> = fn(&T) -> Option<String>;

/// The shared cache of one kind.
pub(crate) struct Informer<T> {
    store: RwLock<Store<T>>,
    subscribers: RwLock<Vec<Subscriber<T>>>,
    seen_version: watch::Sender<u64>,
    synced: watch::Sender<bool>,
    /// Restricts list and watch to one namespace; empty for all.
    namespace: &'static str,
    /// Appended to list and watch queries, for example a field selector.
    query: &'static str,
}

struct Store<T> {
    objects: BTreeMap<Key, Arc<T>>,
    indexes: Vec<Index<T>>,
}

struct Index<T> {
    value: IndexFn<T>,
    keys: HashMap<String, BTreeSet<Key>>,
}

impl<T: Object> Store<T> {
    fn insert(&mut self, object: Arc<T>) -> Option<Arc<T>> {
        let key = object.key();
        for index in &mut self.indexes {
            if let Some(value) = (index.value)(&object) {
                index.keys.entry(value).or_default().insert(key.clone());
            }
        }
        let old = self.objects.insert(key.clone(), object.clone());
        if let Some(old) = &old {
            for index in &mut self.indexes {
                let before = (index.value)(old);
                if before != (index.value)(&object) {
                    index.remove(before, &key);
                }
            }
        }
        old
    }

    fn remove(&mut self, key: &Key) -> Option<Arc<T>> {
        let old = self.objects.remove(key)?;
        for index in &mut self.indexes {
            let value = (index.value)(&old);
            index.remove(value, key);
        }
        Some(old)
    }
}

impl<T> Index<T> {
    fn remove(&mut self, value: Option<String>, key: &Key) {
        let Some(value) = value else { return };
        if let Some(keys) = self.keys.get_mut(&value) {
            keys.remove(key);
            if keys.is_empty() {
                self.keys.remove(&value);
            }
        }
    }
}

impl<T: Object> Informer<T> {
    /// An informer over all objects of the kind, with indexes to be named by position in [`Informer::indexed`].
    pub(crate) fn new(indexes: &[IndexFn<T>]) -> Self {
        Self::restricted("", "", indexes)
    }

    /// An informer over a part of the objects.
    pub(crate) fn restricted(namespace: &'static str, query: &'static str, indexes: &[IndexFn<T>]) -> Self {
        let indexes = indexes
            .iter()
            .map(|value| Index {
                value: *value,
                keys: HashMap::new(),
            })
            .collect();
        Self {
            store: RwLock::new(Store {
                objects: BTreeMap::new(),
                indexes,
            }),
            subscribers: RwLock::new(Vec::new()),
            seen_version: watch::Sender::new(0),
            synced: watch::Sender::new(false),
            namespace,
            query,
        }
    }

    /// Calls `subscriber` after each change from now on. It must not block.
    pub(crate) fn subscribe(&self, subscriber: impl Fn(&Change<'_, T>) + Send + Sync + 'static) {
        self.subscribers.write().push(Box::new(subscriber));
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<T>> {
        self.store.read().objects.get(key).cloned()
    }

    /// The objects of a namespace, by name.
    pub(crate) fn in_namespace(&self, namespace: &str) -> Vec<Arc<T>> {
        let store = self.store.read();
        let from = Key::new(namespace, "");
        store
            .objects
            .range(from..)
            .take_while(|(key, _)| &*key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    pub(crate) fn all(&self) -> Vec<Arc<T>> {
        self.store.read().objects.values().cloned().collect()
    }

    /// The objects for which index number `index` yields `value`.
    pub(crate) fn indexed(&self, index: usize, value: &str) -> Vec<Arc<T>> {
        let store = self.store.read();
        let keys = store.indexes.get(index).and_then(|index| index.keys.get(value));
        keys.into_iter()
            .flatten()
            .filter_map(|key| store.objects.get(key).cloned())
            .collect()
    }

    /// Waits until the store is at least as new as resource version `version`.
    pub(crate) async fn seen(&self, version: &str) {
        // An opaque version of a foreign server cannot be compared, hence not waited for.
        let Ok(version) = version.parse::<u64>() else {
            return;
        };
        let mut versions = self.seen_version.subscribe();
        let seen = versions.wait_for(|seen| *seen >= version);
        if tokio::time::timeout(CATCH_UP_MAX, seen).await.is_err() {
            tracing::warn!(kind = %T::resource().kind, version, "the watch does not catch up");
        }
    }

    /// Waits until the store shows the object with `uid` as deleted, or being deleted.
    pub(crate) async fn deletion_seen(&self, key: &Key, uid: &str) {
        let mut versions = self.seen_version.subscribe();
        let seen = versions.wait_for(|_| {
            self.get(key)
                .is_none_or(|object| *object.meta().uid != *uid || object.meta().is_deleted())
        });
        if tokio::time::timeout(CATCH_UP_MAX, seen).await.is_err() {
            tracing::warn!(kind = %T::resource().kind, %key, "the watch does not show the deletion");
        }
    }

    /// Waits until the first list is complete.
    pub(crate) async fn synced(&self) {
        // The sender lives in self, so waiting cannot fail.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Keeps the store current until cancelled. Restarts list and watch forever.
    pub(crate) async fn run(&self, rest: Rest, cancel: CancellationToken) {
        let work = async {
            let mut backoff = BACKOFF_MIN;
            let mut version = None;
            loop {
                match self.list_and_watch(&rest, &mut version).await {
                    Ok(()) => backoff = BACKOFF_MIN,
                    Err(error) => {
                        if error.is_gone() {
                            version = None;
                        }
                        tracing::debug!(kind = %T::resource().kind, error = chain(&error), "watch broken, starting again");
                        let jitter = rand::rng().random_range(0.5..1.0);
                        tokio::time::sleep(backoff.mul_f64(jitter)).await;
                        backoff = (backoff * 2).min(BACKOFF_MAX);
                    }
                }
            }
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = work => {}
        }
    }

    /// Lists unless `version` says where to go on, then watches until the watch ends.
    async fn list_and_watch(&self, rest: &Rest, version: &mut Option<String>) -> Result<(), Error> {
        let from = match version {
            Some(version) => version.clone(),
            None => version.insert(self.relist(rest).await?).clone(),
        };
        self.watch(rest, from, version).await
    }

    async fn relist(&self, rest: &Rest) -> Result<String, Error> {
        let mut present = HashSet::new();
        let mut continue_ = String::new();
        loop {
            let query = format!("limit={PAGE_SIZE}&continue={continue_}&{}", self.query);
            let page = rest
                .list::<T>(T::resource(), self.namespace, &query, "application/json")
                .await?;
            for object in page.items {
                present.insert(object.key());
                // A list comes in the order of names: the version of one object says nothing about the others.
                self.insert(Arc::new(object), None);
            }
            if page.metadata.continue_.is_empty() {
                self.forget_all_but(&present);
                self.note_version(&page.metadata.resource_version);
                self.synced.send_replace(true);
                return Ok(page.metadata.resource_version);
            }
            continue_ = page.metadata.continue_;
        }
    }

    async fn watch(&self, rest: &Rest, from: String, version: &mut Option<String>) -> Result<(), Error> {
        let seconds = rand::rng().random_range(WATCH_SECONDS_MIN..WATCH_SECONDS_MIN * 2);
        let query = format!(
            "allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={from}&{}",
            self.query
        );
        let stream = rest
            .watch(T::resource(), self.namespace, &query, "application/json")
            .await?;
        let mut lines = WatchLines::new(stream, Duration::from_secs(seconds) + WATCH_SLACK);
        while let Some(line) = lines.next().await {
            match WatchEvent::<T>::parse(line)? {
                WatchEvent::Applied(object) => {
                    *version = Some(object.meta().resource_version.to_string());
                    self.apply(object);
                }
                WatchEvent::Deleted(object) => {
                    *version = Some(object.meta().resource_version.to_string());
                    self.remove(&object.key(), &object.meta().resource_version);
                }
                WatchEvent::Bookmark(at) => {
                    self.note_version(&at);
                    *version = Some(at);
                }
            }
        }
        Ok(())
    }

    /// Takes over the state of one object from a watch event.
    pub(crate) fn apply(&self, object: T) {
        let version = object.meta().resource_version.clone();
        self.insert(Arc::new(object), Some(&version));
    }

    fn insert(&self, new: Arc<T>, version: Option<&str>) {
        let old = self.store.write().insert(new.clone());
        // Before the subscribers: a reconciler that they wake may wait for this version.
        version.into_iter().for_each(|version| self.note_version(version));
        if let Some(old) = &old
            && old.meta().uid == new.meta().uid
            && old.meta().resource_version == new.meta().resource_version
        {
            return;
        }
        self.notify(old.as_ref(), Some(&new));
    }

    fn remove(&self, key: &Key, version: &str) {
        let old = self.store.write().remove(key);
        self.note_version(version);
        if old.is_some() {
            self.notify(old.as_ref(), None);
        }
    }

    fn forget_all_but(&self, present: &HashSet<Key>) {
        let gone: Vec<_> = self
            .store
            .read()
            .objects
            .keys()
            .filter(|key| !present.contains(*key))
            .cloned()
            .collect();
        for key in gone {
            self.remove(&key, "");
        }
    }

    fn note_version(&self, version: &str) {
        if let Ok(version) = version.parse::<u64>() {
            // Deletions are waited for by looking at the store: wake those that wait even if the version is not new.
            self.seen_version.send_modify(|seen| *seen = version.max(*seen));
        }
    }

    fn notify(&self, old: Option<&Arc<T>>, new: Option<&Arc<T>>) {
        let change = Change { old, new };
        for subscriber in self.subscribers.read().iter() {
            subscriber(&change);
        }
    }
}

/// A watch event with what the store needs of it.
pub(crate) enum WatchEvent<T> {
    Applied(T),
    Deleted(T),
    Bookmark(String),
}

impl<T: for<'de> Deserialize<'de>> WatchEvent<T> {
    /// Decodes a line of a watch. An ERROR event becomes the error that it carries.
    pub(crate) fn parse(line: &str) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Envelope<'a> {
            #[serde(rename = "type")]
            type_: &'a str,
            #[serde(borrow)]
            object: &'a RawValue,
        }
        #[derive(Deserialize)]
        struct Bookmark {
            metadata: BookmarkMeta,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct BookmarkMeta {
            resource_version: String,
        }
        let decode = |source| Error::Decode {
            operation: "watch".to_owned(),
            source,
        };
        let event: Envelope<'_> = serde_json::from_str(line).map_err(decode)?;
        let object = event.object.get();
        match event.type_ {
            "ADDED" | "MODIFIED" => serde_json::from_str(object).map(Self::Applied).map_err(decode),
            "DELETED" => serde_json::from_str(object).map(Self::Deleted).map_err(decode),
            "BOOKMARK" => {
                let bookmark: Bookmark = serde_json::from_str(object).map_err(decode)?;
                Ok(Self::Bookmark(bookmark.metadata.resource_version))
            }
            _ => {
                let status: kube::core::Status = serde_json::from_str(object).map_err(decode)?;
                Err(Error::Request {
                    operation: "watch".to_owned(),
                    source: Box::new(kube::Error::Api(Box::new(status))),
                })
            }
        }
    }
}

/// The lines of a watch, ended by the server, by a broken connection or by silence beyond its time-out.
pub(crate) struct WatchLines<R> {
    reader: std::pin::Pin<Box<R>>,
    line: String,
    deadline: tokio::time::Instant,
}

impl<R: futures::AsyncBufRead> WatchLines<R> {
    pub(crate) fn new(reader: R, longest: Duration) -> Self {
        Self {
            reader: Box::pin(reader),
            line: String::new(),
            deadline: tokio::time::Instant::now() + longest,
        }
    }

    pub(crate) async fn next(&mut self) -> Option<&str> {
        /// A line buffer grown beyond this by one large object is not kept for the small ones after it.
        const KEEP_BYTES: usize = 16 << 10;
        if self.line.capacity() > KEEP_BYTES {
            self.line = String::new();
        }
        loop {
            self.line.clear();
            let read = tokio::time::timeout_at(self.deadline, self.reader.read_line(&mut self.line)).await;
            match read {
                Ok(Ok(bytes)) if bytes > 0 && self.line.ends_with('\n') => {
                    if !self.line.trim().is_empty() {
                        break;
                    }
                }
                // The end, an incomplete last line, a broken connection, or silence: watch again from the last version.
                _ => return None,
            }
        }
        Some(self.line.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Pod;
    use parking_lot::Mutex;

    fn pod(namespace: &str, name: &str, node: &str, version: &str) -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": namespace, "name": name, "uid": name, "resourceVersion": version},
            "spec": {"nodeName": node},
        }))
        .unwrap()
    }

    fn by_node(pod: &Pod) -> Option<String> {
        Some(pod.spec.node_name.to_string())
    }

    fn names(pods: Vec<Arc<Pod>>) -> Vec<String> {
        pods.iter().map(|pod| pod.metadata.name.to_string()).collect()
    }

    #[test]
    fn namespaces_and_indexes_follow_changes() {
        let informer = Informer::new(&[by_node]);
        informer.apply(pod("a", "x", "n1", "1"));
        informer.apply(pod("a", "y", "n1", "2"));
        informer.apply(pod("ab", "z", "n2", "3"));
        assert_eq!(names(informer.in_namespace("a")), ["x", "y"]);
        assert_eq!(names(informer.in_namespace("ab")), ["z"]);
        assert_eq!(names(informer.indexed(0, "n1")), ["x", "y"]);
        informer.apply(pod("a", "x", "n2", "4"));
        assert_eq!(names(informer.indexed(0, "n1")), ["y"]);
        assert_eq!(names(informer.indexed(0, "n2")), ["x", "z"]);
        informer.remove(&Key::new("a", "x"), "5");
        assert_eq!(names(informer.indexed(0, "n2")), ["z"]);
        assert_eq!(names(informer.in_namespace("a")), ["y"]);
    }

    #[test]
    fn a_relist_reports_changes_only() {
        let informer = Informer::<Pod>::new(&[]);
        informer.apply(pod("a", "same", "n", "1"));
        informer.apply(pod("a", "gone", "n", "2"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        informer.subscribe(move |change| {
            let describe = |pod: Option<&Arc<Pod>>| pod.map(|pod| pod.metadata.name.to_string());
            log.lock().push((describe(change.old), describe(change.new)));
        });
        informer.apply(pod("a", "same", "n", "1"));
        informer.apply(pod("a", "new", "n", "3"));
        informer.forget_all_but(&HashSet::from([Key::new("a", "same"), Key::new("a", "new")]));
        assert_eq!(
            *seen.lock(),
            [(None, Some("new".into())), (Some("gone".into()), None)]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_is_waited_for() {
        let informer = Arc::new(Informer::<Pod>::new(&[]));
        informer.note_version("7");
        informer.note_version("opaque");
        informer.seen("7").await;
        informer.seen("opaque").await;
        let waiter = tokio::spawn({
            let informer = informer.clone();
            async move { informer.seen("8").await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!waiter.is_finished());
        informer.apply(pod("a", "x", "n", "9"));
        waiter.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_deletion_is_waited_for() {
        let informer = Arc::new(Informer::<Pod>::new(&[]));
        informer.apply(pod("a", "x", "n", "1"));
        let waiter = tokio::spawn({
            let informer = informer.clone();
            async move { informer.deletion_seen(&Key::new("a", "x"), "x").await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!waiter.is_finished());
        informer.remove(&Key::new("a", "x"), "2");
        waiter.await.unwrap();
    }

    #[test]
    fn events() {
        let applied = r#"{"type":"ADDED","object":{"metadata":{"name":"a"}}}"#;
        assert!(
            matches!(WatchEvent::<Pod>::parse(applied), Ok(WatchEvent::Applied(pod)) if &*pod.metadata.name == "a")
        );
        let bookmark = r#"{"type":"BOOKMARK","object":{"kind":"Pod","metadata":{"resourceVersion":"9"}}}"#;
        assert!(matches!(WatchEvent::<Pod>::parse(bookmark), Ok(WatchEvent::Bookmark(at)) if at == "9"));
        let error = r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}"#;
        assert!(matches!(WatchEvent::<Pod>::parse(error), Err(error) if error.is_gone()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cut_line_ends_the_watch() {
        let text: &[u8] = b"one\n\ntwo\nthr";
        let mut lines = WatchLines::new(text, Duration::from_secs(1));
        assert_eq!(lines.next().await, Some("one"));
        assert_eq!(lines.next().await, Some("two"));
        assert_eq!(lines.next().await, None);
    }
}

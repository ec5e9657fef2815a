//! The cached objects of one resource, and who watches them.

use std::{
    cell::Cell,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use api::registry::Resource;
use parking_lot::{Mutex, RwLock};
use store::Revision;
use tokio::sync::mpsc;

use super::{Change, Event, Filter, Object, objects::Objects};
use crate::metrics::{Histogram, WatchEventBytes};

/// The cached objects of one storage prefix.
pub(crate) struct ResourceCache {
    pub(crate) prefix: Arc<str>,
    /// The resource in its storage version.
    pub(crate) resource: Arc<Resource>,
    /// Locked before `state`, and for as long as an event is handed out: reads need not wait for that.
    pub(super) watchers: Mutex<Vec<Watcher>>,
    pub(super) state: RwLock<State>,
    pub(super) counters: Counters,
}

/// What has happened to a resource since the server started.
#[derive(Default)]
pub(crate) struct Counters {
    received: AtomicU64,
    dispatched: AtomicU64,
    terminated: AtomicU64,
    /// Objects sent as the initial state of watches.
    pub(crate) initial: AtomicU64,
    /// How large the events are that were written to watchers.
    pub(crate) sent: Histogram<WatchEventBytes>,
    cache_lists: Lists,
    store_lists: Lists,
}

/// Lists that were answered from the same place.
#[derive(Default)]
struct Lists {
    total: AtomicU64,
    fetched: AtomicU64,
    returned: AtomicU64,
}

impl Lists {
    fn note(&self, fetched: usize, returned: usize) {
        self.total.fetch_add(1, Ordering::Relaxed);
        self.fetched.fetch_add(fetched as u64, Ordering::Relaxed);
        self.returned.fetch_add(returned as u64, Ordering::Relaxed);
    }

    fn counts(&self) -> ListCounts {
        ListCounts {
            total: self.total.load(Ordering::Relaxed),
            fetched: self.fetched.load(Ordering::Relaxed),
            returned: self.returned.load(Ordering::Relaxed),
        }
    }
}

impl Counters {
    /// A list was answered from memory, by looking at so many objects.
    pub(crate) fn listed_from_cache(&self, fetched: usize, returned: usize) {
        self.cache_lists.note(fetched, returned);
    }

    /// A list was answered from the store, by reading so many objects.
    pub(crate) fn listed_from_store(&self, fetched: usize, returned: usize) {
        self.store_lists.note(fetched, returned);
    }
}

/// What lists have cost.
pub(crate) struct ListCounts {
    pub(crate) total: u64,
    /// Objects looked at.
    pub(crate) fetched: u64,
    /// Objects that were in the answers.
    pub(crate) returned: u64,
}

/// What `/metrics` tells of a resource.
pub(crate) struct Counts {
    pub(crate) objects: u64,
    pub(crate) watchers: u64,
    pub(crate) received: u64,
    pub(crate) dispatched: u64,
    pub(crate) terminated: u64,
    pub(crate) initial: u64,
    pub(crate) cache_lists: ListCounts,
    pub(crate) store_lists: ListCounts,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) objects: Objects,
    /// No event of this prefix is newer than this; the objects are as they stood at any revision from here to now.
    pub(super) last_change: Revision,
}

/// A watch as the cache sees it.
pub(super) struct Watcher {
    pub(super) filter: Filter,
    /// Events up to here are not for this watch.
    pub(super) after: Revision,
    pub(super) deliver: mpsc::Sender<(Change, Arc<Event>)>,
}

impl ResourceCache {
    /// Without objects; `resource` in its storage version.
    pub(super) fn new(prefix: Arc<str>, resource: Arc<Resource>) -> Self {
        ResourceCache {
            prefix,
            resource,
            watchers: Mutex::default(),
            state: RwLock::default(),
            counters: Counters::default(),
        }
    }

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
        let fetched = Cell::new(0);
        let mut matching = self
            .range(&state, filter, after)
            .inspect(|_| fetched.set(fetched.get() + 1))
            .filter(|object| filter.matches(object));
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
            fetched: fetched.get(),
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
            cache_lists: self.counters.cache_lists.counts(),
            store_lists: self.counters.store_lists.counts(),
        }
    }

    /// Runs over all objects while the cache is locked; for quick look-ups only.
    pub(crate) fn any(&self, predicate: impl FnMut(&&Arc<Object>) -> bool) -> bool {
        self.state.read().objects.iter().find(predicate).is_some()
    }

    /// The objects that match, in key order, from the one after a key on.
    pub(super) fn matching<'a>(
        &self,
        state: &'a State,
        filter: &'a Filter,
        after: Option<&str>,
    ) -> impl Iterator<Item = &'a Arc<Object>> + use<'a> {
        let range = self.range(state, filter, after);
        range.filter(move |object| filter.matches(object))
    }

    /// The objects among which those that match are.
    fn range<'a>(
        &self,
        state: &'a State,
        filter: &Filter,
        after: Option<&str>,
    ) -> impl Iterator<Item = &'a Arc<Object>> + use<'a> {
        let (start, end) = self.bounds(filter);
        let start = match after {
            Some(after) if *after >= *start => Bound::Excluded(after),
            _ => Bound::Included(&*start),
        };
        state.objects.range(start, Bound::Excluded(&*end))
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

    /// Applies all that one revision changed here, at once: whoever reads or starts a watch meanwhile finds all of it or
    /// nothing. A watch that began between two events of its revision would take the second for known. Returns how many bytes
    /// the objects have that came or went.
    pub(super) fn apply(&self, events: &[&store::Event]) -> usize {
        let mut bytes = 0;
        let decoded: Vec<_> = events.iter().map(|event| self.decode(event)).collect();
        self.counters
            .received
            .fetch_add(events.len() as u64, Ordering::Relaxed);
        let mut watchers = self.watchers.lock();
        let mut changes = Vec::with_capacity(events.len());
        {
            let mut state = self.state.write();
            for (event, current) in events.iter().zip(decoded) {
                state.last_change = event.revision();
                let previous = match &current {
                    Some(object) => state.objects.insert(object.clone()),
                    None => state.objects.remove(event.key()),
                };
                bytes += current
                    .as_ref()
                    .or(previous.as_ref())
                    .map_or(0, |object| object.size());
                if current.is_some() || previous.is_some() {
                    changes.push((event.revision(), current, previous));
                }
            }
        }
        if watchers.is_empty() {
            return bytes;
        }
        for (revision, current, previous) in changes {
            let event = Arc::new(Event::new(revision, current, previous));
            watchers.retain(|watcher| self.hand_out(watcher, &event));
        }
        bytes
    }

    /// The object as the change left it.
    fn decode(&self, event: &store::Event) -> Option<Arc<Object>> {
        match event {
            store::Event::Put { current, .. } => {
                Object::from_store(&self.resource, &self.prefix, current).map(Arc::new)
            }
            store::Event::Delete { .. } => None,
        }
    }

    /// Returns whether the watch goes on.
    fn hand_out(&self, watcher: &Watcher, event: &Arc<Event>) -> bool {
        match watcher.offer(event) {
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
        }
    }

    /// An event read from the store's log instead of the live stream.
    pub(super) fn past_event(&self, event: &store::Event) -> Event {
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
    /// How many objects were looked at for them.
    pub(crate) fetched: usize,
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    /// Both objects are written by every revision, as by a transaction on etcd.
    #[test]
    fn a_revision_is_seen_whole_or_not_at_all() {
        let registry = api::registry::Registry::builtin();
        let resource = registry
            .resources()
            .find(|resource| &*resource.storage.prefix == "/registry/configmaps/");
        let resource = resource.unwrap().clone();
        let prefix: Arc<str> = "/registry/configmaps/".into();
        let cache = ResourceCache::new(prefix, resource);
        let put = |name: &str, revision| {
            let object = format!(
                r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"namespace":"a","name":"{name}"}}}}"#
            );
            store::Event::Put {
                current: store::KeyValue {
                    key: format!("/registry/configmaps/a/{name}").into(),
                    value: object.into(),
                    create_revision: 1,
                    mod_revision: revision,
                },
                previous: None,
            }
        };
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for revision in 1..500 {
                    let [one, two] = ["one", "two"].map(|name| put(name, revision));
                    cache.apply(&[&one, &two]);
                }
                done.store(true, Ordering::Relaxed);
            });
            while !done.load(Ordering::Relaxed) {
                let found = cache.list(&Filter::default());
                let revisions: Vec<_> = found.iter().map(|object| object.revision).collect();
                assert!(
                    revisions.is_empty() || revisions[0] == revisions[1],
                    "{revisions:?}"
                );
            }
        });
        assert_eq!(cache.list(&Filter::default()).len(), 2);
    }
}

//! What `/metrics` tells, under upstream's names and labels.
//!
//! A series is looked up once for a request and is counters from then on. Labels come from the registry and from this
//! file, never from a client, so the number of series is bounded.

mod authentication;
mod histogram;
mod process;
mod text;

use std::{
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use api::registry::Resource;
use indexmap::{Equivalent, IndexMap, IndexSet};
use parking_lot::{Mutex, RwLock};

use self::{
    authentication::Authentication,
    histogram::{RequestSeconds, ResponseBytes},
};
pub(crate) use self::{
    authentication::Outcome,
    histogram::{Histogram, WatchEventBytes},
    text::render,
};
use crate::request_info::RequestInfo;

/// What the server counts.
#[derive(Default)]
pub(crate) struct Metrics {
    requests: RwLock<IndexMap<Key, Arc<Series>>>,
    read_only: AtomicI64,
    mutating: AtomicI64,
    store: RwLock<IndexMap<Operation, Arc<StoreSeries>>>,
    pub(crate) authentication: Authentication,
    /// Which resources and subresources that are to go away were asked for.
    deprecated: RwLock<IndexSet<Deprecated>>,
}

/// Group, version, resource and subresource.
type Deprecated = [Box<str>; 4];

/// An operation of the store, and the prefix of the keys it was about.
type Operation = (&'static str, Arc<str>);

/// What requests are told apart by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    verb: &'static str,
    scope: &'static str,
    group: Box<str>,
    version: Box<str>,
    resource: Box<str>,
    subresource: Box<str>,
    dry_run: bool,
}

/// [`Key`], borrowed: looking a series up allocates nothing.
#[derive(Hash)]
pub(crate) struct Labels<'a> {
    verb: &'static str,
    scope: &'static str,
    group: &'a str,
    version: &'a str,
    resource: &'a str,
    subresource: &'a str,
    dry_run: bool,
}

impl Equivalent<Key> for Labels<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.verb == key.verb
            && self.scope == key.scope
            && self.group == &*key.group
            && self.version == &*key.version
            && self.resource == &*key.resource
            && self.subresource == &*key.subresource
            && self.dry_run == key.dry_run
    }
}

impl<'a> Labels<'a> {
    /// The labels of a request. `known` says that the registry has the resource and the subresource; what it has not
    /// counts together, under empty names.
    pub(crate) fn new(info: &'a RequestInfo, known: bool, applies: bool, dry_run: bool) -> Self {
        let path = |path: &'a str| if is_document(path) { path } else { "" };
        let (group, version, resource, subresource) = match (info.is_resource, known) {
            (true, true) => (
                info.group.as_str(),
                info.version.as_str(),
                info.resource.as_str(),
                info.subresource.as_str(),
            ),
            (true, false) => ("", "", "", ""),
            (false, _) => ("", "", "", path(&info.path)),
        };
        let scope = match (info.is_resource, &*info.name, &*info.namespace) {
            (false, _, _) => "",
            (true, name, _) if !name.is_empty() => "resource",
            (true, _, namespace) if !namespace.is_empty() => "namespace",
            (true, _, _) => "cluster",
        };
        Labels {
            verb: verb(info, applies),
            scope,
            group,
            version,
            resource,
            subresource,
            dry_run,
        }
    }

    fn to_key(&self) -> Key {
        Key {
            verb: self.verb,
            scope: self.scope,
            group: self.group.into(),
            version: self.version.into(),
            resource: self.resource.into(),
            subresource: self.subresource.into(),
            dry_run: self.dry_run,
        }
    }
}

/// The paths about the server itself that are counted by name.
fn is_document(path: &str) -> bool {
    matches!(
        path,
        "/" | "/api" | "/apis" | "/healthz" | "/livez" | "/readyz" | "/metrics" | "/version" | "/openapi/v2"
    )
}

/// The verb as upstream reports it.
fn verb(info: &RequestInfo, applies: bool) -> &'static str {
    match (info.subresource.as_str(), info.verb.as_str()) {
        ("exec" | "attach" | "portforward" | "proxy" | "log", _) if info.is_resource => "CONNECT",
        (_, "patch") if applies => "APPLY",
        (_, "get" | "head") => "GET",
        (_, "list") => "LIST",
        (_, "watch") => "WATCH",
        (_, "create" | "post") => "POST",
        (_, "update" | "put") => "PUT",
        (_, "patch") => "PATCH",
        (_, "delete") => "DELETE",
        (_, "deletecollection") => "DELETECOLLECTION",
        _ => "other",
    }
}

/// The counters of requests with the same labels.
#[derive(Default)]
pub(crate) struct Series {
    codes: Mutex<Vec<(u16, u64)>>,
    duration: Histogram<RequestSeconds>,
    /// How long answers are, of those that say so beforehand.
    sizes: Histogram<ResponseBytes>,
    long_running: AtomicI64,
}

impl Series {
    /// A request has been answered; streams, whose time says nothing about the server, give none.
    /// `length` is that of its body, in bytes, where it is known.
    pub(crate) fn answered(&self, code: u16, took: Option<Duration>, length: Option<u64>) {
        {
            let mut codes = self.codes.lock();
            match codes.iter_mut().find(|(known, _)| *known == code) {
                Some((_, count)) => *count += 1,
                None => codes.push((code, 1)),
            }
        }
        if let Some(took) = took {
            self.duration.observe_duration(took);
        }
        if let Some(length) = length {
            self.sizes.observe(length as f64);
        }
    }
}

/// A stream that is running; leaving it behind counts it as ended.
pub(crate) struct LongRunning(Arc<Series>);

impl LongRunning {
    pub(crate) fn new(series: Arc<Series>) -> Self {
        series.long_running.fetch_add(1, Ordering::Relaxed);
        LongRunning(series)
    }
}

impl Drop for LongRunning {
    fn drop(&mut self) {
        self.0.long_running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request that is being answered; leaving it behind counts it as done.
pub(crate) struct InFlight<'a>(&'a AtomicI64);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The counters of one operation on the keys below one prefix.
#[derive(Default)]
struct StoreSeries {
    duration: Histogram<RequestSeconds>,
    errors: AtomicU64,
}

impl Metrics {
    /// The counters of requests with these labels.
    pub(crate) fn series(&self, labels: &Labels<'_>) -> Arc<Series> {
        if let Some(series) = self.requests.read().get(labels) {
            return series.clone();
        }
        self.requests.write().entry(labels.to_key()).or_default().clone()
    }

    pub(crate) fn begin(&self, mutating: bool) -> InFlight<'_> {
        let gauge = if mutating { &self.mutating } else { &self.read_only };
        gauge.fetch_add(1, Ordering::Relaxed);
        InFlight(gauge)
    }

    /// Something that a later release takes away was asked for. The names are the registry's.
    pub(crate) fn deprecated(&self, resource: &Resource, subresource: &str) {
        let names = [
            &*resource.group,
            &*resource.version,
            &*resource.plural,
            subresource,
        ];
        let same = |known: &Deprecated| known.iter().zip(names).all(|(known, name)| **known == *name);
        if !self.deprecated.read().iter().any(same) {
            self.deprecated.write().insert(names.map(Box::from));
        }
    }

    /// The store answered.
    pub(crate) fn stored(&self, operation: &'static str, prefix: &str, took: Duration, failed: bool) {
        let known = {
            let store = self.store.read();
            store.get(&StoreKey(operation, prefix)).cloned()
        };
        let series = known.unwrap_or_else(|| {
            let key = (operation, Arc::from(prefix));
            self.store.write().entry(key).or_default().clone()
        });
        series.duration.observe_duration(took);
        if failed {
            series.errors.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[derive(Hash)]
struct StoreKey<'a>(&'static str, &'a str);

impl Equivalent<Operation> for StoreKey<'_> {
    fn equivalent(&self, key: &Operation) -> bool {
        self.0 == key.0 && self.1 == &*key.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    #[test]
    fn labels_are_what_the_registry_knows() {
        let metrics = Metrics::default();
        let uri = "/api/v1/namespaces/n/pods/p?dryRun=All".parse().unwrap();
        let info = RequestInfo::new(&Method::PATCH, &uri);
        let series = metrics.series(&Labels::new(&info, true, true, true));
        series.answered(200, Some(Duration::from_millis(30)), Some(10));
        let same = metrics.series(&Labels::new(&info, true, true, true));
        assert!(Arc::ptr_eq(&series, &same));
        let keys: Vec<Key> = metrics.requests.read().keys().cloned().collect();
        let expect = ("APPLY", "resource", "pods", true);
        assert_eq!(
            (keys[0].verb, keys[0].scope, &*keys[0].resource, keys[0].dry_run),
            expect
        );
        let uri = "/apis/made.up/v1/things".parse().unwrap();
        let info = RequestInfo::new(&Method::GET, &uri);
        metrics.series(&Labels::new(&info, false, false, false));
        let unknown = metrics.requests.read().keys().last().cloned().unwrap();
        assert_eq!((&*unknown.group, &*unknown.resource), ("", ""));
    }
}

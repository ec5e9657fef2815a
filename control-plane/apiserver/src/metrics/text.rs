//! The counters in Prometheus' text form.

use std::{
    fmt::Write,
    sync::{Arc, atomic::Ordering},
};

use super::{
    Key, Metrics,
    histogram::{Histogram, Scale},
    process::Process,
};
use crate::{
    authn::service_account::Uses,
    documents::KUBERNETES_VERSION,
    watch_cache::{ResourceCache, WatchCache},
};

/// A text that grows by metrics. (Writing to a string cannot fail.)
#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn value(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = match labels {
            "" => writeln!(self.0, "{name} {value}"),
            labels => writeln!(self.0, "{name}{{{labels}}} {value}"),
        };
    }

    fn histogram<S: Scale>(&mut self, name: &str, labels: &str, histogram: &Histogram<S>) {
        let counts = histogram.cumulative();
        let bounds = S::BOUNDS.iter().map(|bound| number(*bound));
        let bounds = bounds.chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(&counts) {
            let _ = writeln!(self.0, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}");
        }
        let _ = writeln!(self.0, "{name}_sum{{{labels}}} {}", histogram.sum());
        let _ = writeln!(
            self.0,
            "{name}_count{{{labels}}} {}",
            counts.last().copied().unwrap_or(0)
        );
    }
}

/// A bound as Go prints it: with an exponent from a million on.
fn number(bound: f64) -> String {
    match bound {
        large if large >= 1e6 && large.log10().fract() == 0.0 => format!("1e+{:02}", large.log10()),
        bound => bound.to_string(),
    }
}

/// Everything.
///
/// `store_bytes` is how large the store is, where it is known; `tokens` how tokens were used, where there are any.
pub(crate) fn render(
    metrics: &Metrics,
    cache: &WatchCache,
    tokens: Option<&Uses>,
    store_bytes: Option<u64>,
) -> String {
    let mut page = Page::default();
    requests(&mut page, metrics);
    authentication(&mut page, metrics);
    if let Some(uses) = tokens {
        for (name, help, count) in [
            (
                "serviceaccount_stale_tokens_total",
                "Uses of projected tokens that should have been renewed.",
                &uses.stale,
            ),
            (
                "serviceaccount_valid_tokens_total",
                "Uses of projected tokens in their time.",
                &uses.valid,
            ),
        ] {
            page.head(name, "counter", help);
            page.value(name, "", count.load(Ordering::Relaxed));
        }
    }
    store(&mut page, metrics, cache);
    let name = "apiserver_storage_size_bytes";
    page.head(name, "gauge", "Size of the store's database, in bytes.");
    if let Some(bytes) = store_bytes {
        // There is one store; upstream numbers them.
        page.value(name, "storage_cluster_id=\"etcd-0\"", bytes);
    }
    caches(&mut page, cache);
    process(&mut page, &Process::read());
    page.0
}

fn requests(page: &mut Page, metrics: &Metrics) {
    let series: Vec<_> = metrics
        .requests
        .read()
        .iter()
        .map(|(key, series)| (labels(key, true), series.clone()))
        .collect();
    page.head(
        "apiserver_request_total",
        "counter",
        "Requests by their labels and the answer's code.",
    );
    for (labels, series) in &series {
        for (code, count) in series.codes.lock().iter() {
            page.value(
                "apiserver_request_total",
                &format!("{labels},code=\"{code}\""),
                count,
            );
        }
    }
    let name = "apiserver_request_duration_seconds";
    page.head(
        name,
        "histogram",
        "Time to the answer, of requests that are no streams.",
    );
    for (labels, series) in &series {
        page.histogram(name, labels, &series.duration);
    }
    let name = "apiserver_longrunning_requests";
    page.head(
        name,
        "gauge",
        "Streams that are running: watches, logs, commands, forwarded ports, proxied requests.",
    );
    for (key, series) in metrics.requests.read().iter() {
        let running = series.long_running.load(Ordering::Relaxed);
        if running != 0 {
            page.value(name, &labels(key, false), running);
        }
    }
    let name = "apiserver_response_sizes";
    page.head(
        name,
        "histogram",
        "Size of answers to reads, in bytes, where it is known before they are sent.",
    );
    for (key, series) in metrics.requests.read().iter() {
        if matches!(key.verb, "GET" | "LIST") {
            page.histogram(name, &labels(key, false), &series.sizes);
        }
    }
    let name = "apiserver_current_inflight_requests";
    page.head(
        name,
        "gauge",
        "Requests that are being answered and are no streams.",
    );
    for (kind, gauge) in [("mutating", &metrics.mutating), ("readOnly", &metrics.read_only)] {
        let labels = format!("request_kind=\"{kind}\"");
        page.value(name, &labels, gauge.load(Ordering::Relaxed));
    }
}

fn authentication(page: &mut Page, metrics: &Metrics) {
    let authentication = &metrics.authentication;
    let name = "authentication_attempts";
    page.head(name, "counter", "Requests whose credentials were looked at.");
    for (result, durations) in authentication.durations() {
        page.value(name, &format!("result=\"{result}\""), durations.count());
    }
    let name = "authentication_duration_seconds";
    page.head(name, "histogram", "Time that it took to look at the credentials.");
    for (result, durations) in authentication.durations() {
        page.histogram(name, &format!("result=\"{result}\""), durations);
    }
    let name = "authenticated_user_requests";
    page.head(
        name,
        "counter",
        "Requests with good credentials, by kinds of users.",
    );
    for (user, count) in authentication.users() {
        page.value(name, &format!("username=\"{user}\""), count);
    }
    let name = "apiserver_requested_deprecated_apis";
    page.head(
        name,
        "gauge",
        "Deprecated APIs that were asked for, with the release that takes them away.",
    );
    for [group, version, resource, subresource] in metrics.deprecated.read().iter() {
        let labels = format!(
            "group=\"{group}\",version=\"{version}\",resource=\"{resource}\",subresource=\"{subresource}\",\
             removed_release=\"\""
        );
        page.value(name, &labels, 1);
    }
}

/// Only some metrics tell dry runs apart.
fn labels(key: &Key, with_dry_run: bool) -> String {
    let dry_run = match (with_dry_run, key.dry_run) {
        (false, _) => "",
        (true, false) => "dry_run=\"\",",
        (true, true) => "dry_run=\"All\",",
    };
    format!(
        "verb=\"{}\",{dry_run}group=\"{}\",version=\"{}\",resource=\"{}\",subresource=\"{}\",scope=\"{}\",\
         component=\"apiserver\"",
        key.verb, key.group, key.version, key.resource, key.subresource, key.scope
    )
}

fn store(page: &mut Page, metrics: &Metrics, cache: &WatchCache) {
    let series: Vec<_> = metrics
        .store
        .read()
        .iter()
        .map(|((operation, prefix), series)| {
            let of = cache.resource(prefix).map(|cached| group_and_resource(cached));
            let of = of.unwrap_or_else(|| "group=\"\",resource=\"\"".to_owned());
            (format!("operation=\"{operation}\",{of}"), series.clone())
        })
        .collect();
    let name = "etcd_request_duration_seconds";
    page.head(
        name,
        "histogram",
        "Time that the store took, whichever store it is.",
    );
    for (labels, series) in &series {
        page.histogram(name, labels, &series.duration);
    }
    let name = "etcd_requests_total";
    page.head(name, "counter", "Requests to the store.");
    for (labels, series) in &series {
        page.value(name, labels, series.duration.count());
    }
    let name = "etcd_request_errors_total";
    page.head(
        name,
        "counter",
        "Requests that the store could not answer; conflicts are answers.",
    );
    for (labels, series) in &series {
        page.value(name, labels, series.errors.load(Ordering::Relaxed));
    }
}

fn group_and_resource(cached: &ResourceCache) -> String {
    let resource = &cached.resource;
    format!("group=\"{}\",resource=\"{}\"", resource.group, resource.plural)
}

/// One metric of every watch cache: its name, type and help, and how to read it.
type PerCache = (
    &'static str,
    &'static str,
    &'static str,
    fn(&ResourceCache) -> u64,
);

const PER_CACHE: &[PerCache] = &[
    (
        "apiserver_resource_objects",
        "gauge",
        "Stored objects.",
        |cache| cache.counts().objects,
    ),
    (
        "apiserver_watch_cache_events_received_total",
        "counter",
        "Changes that came from the store.",
        |cache| cache.counts().received,
    ),
    (
        "apiserver_watch_cache_events_dispatched_total",
        "counter",
        "Changes handed to watchers.",
        |cache| cache.counts().dispatched,
    ),
    (
        "apiserver_terminated_watchers_total",
        "counter",
        "Watchers cut off because they were too slow.",
        |cache| cache.counts().terminated,
    ),
    (
        "apiserver_init_events_total",
        "counter",
        "Objects sent to watchers as their initial state.",
        |cache| cache.counts().initial,
    ),
    (
        "apiserver_cache_list_returned_objects_total",
        "counter",
        "Objects in the answers to lists from the watch cache.",
        |cache| cache.counts().cache_lists.returned,
    ),
    (
        "apiserver_storage_list_total",
        "counter",
        "Lists that were read from the store.",
        |cache| cache.counts().store_lists.total,
    ),
    (
        "apiserver_storage_list_fetched_objects_total",
        "counter",
        "Objects read from the store for lists.",
        |cache| cache.counts().store_lists.fetched,
    ),
    (
        "apiserver_storage_list_evaluated_objects_total",
        "counter",
        "Objects read from the store for lists and held against their selectors: all that are read.",
        |cache| cache.counts().store_lists.fetched,
    ),
    (
        "apiserver_storage_list_returned_objects_total",
        "counter",
        "Objects in the answers to lists from the store.",
        |cache| cache.counts().store_lists.returned,
    ),
];

/// Those that tell by which index the objects were found: the cache has none but the order of keys, upstream's empty name.
const PER_INDEX: &[PerCache] = &[
    (
        "apiserver_cache_list_total",
        "counter",
        "Lists answered from the watch cache.",
        |cache| cache.counts().cache_lists.total,
    ),
    (
        "apiserver_cache_list_fetched_objects_total",
        "counter",
        "Objects of the watch cache looked at for lists.",
        |cache| cache.counts().cache_lists.fetched,
    ),
];

fn caches(page: &mut Page, cache: &WatchCache) {
    let caches: Vec<_> = cache.all().collect();
    for (name, kind, help, read) in PER_CACHE {
        page.head(name, kind, help);
        for cached in &caches {
            page.value(name, &group_and_resource(cached), read(cached));
        }
    }
    for (name, kind, help, read) in PER_INDEX {
        page.head(name, kind, help);
        for cached in &caches {
            let labels = format!("{},index=\"\"", group_and_resource(cached));
            page.value(name, &labels, read(cached));
        }
    }
    let name = "apiserver_storage_objects";
    page.head(
        name,
        "gauge",
        "Stored objects, under the name of releases before 1.34.",
    );
    for cached in &caches {
        let resource = &cached.resource;
        let full = match resource.group.is_empty() {
            true => resource.plural.to_string(),
            false => format!("{}.{}", resource.plural, resource.group),
        };
        page.value(name, &format!("resource=\"{full}\""), cached.counts().objects);
    }
    watchers(page, &caches);
    let name = "apiserver_watch_cache_resource_version";
    page.head(
        name,
        "gauge",
        "Store revision that the watch cache has reached, its last 15 digits.",
    );
    for cached in &caches {
        page.value(
            name,
            &group_and_resource(cached),
            cache.progress() % 1_000_000_000_000_000,
        );
    }
}

fn watchers(page: &mut Page, caches: &[&Arc<ResourceCache>]) {
    let of = |cached: &ResourceCache, name: &str, value: &str| {
        let resource = &cached.resource;
        let (group, version) = (&resource.group, &resource.version);
        format!("group=\"{group}\",version=\"{version}\",{name}=\"{value}\"")
    };
    let name = "apiserver_registered_watchers";
    page.head(name, "gauge", "Watches that are running.");
    for cached in caches {
        let labels = of(cached, "kind", &cached.resource.kind);
        page.value(name, &labels, cached.counts().watchers);
    }
    let name = "apiserver_watch_events_total";
    page.head(name, "counter", "Events written to watchers.");
    for cached in caches {
        let labels = of(cached, "resource", &cached.resource.plural);
        page.value(name, &labels, cached.counters().sent.count());
    }
    let name = "apiserver_watch_events_sizes";
    page.head(name, "histogram", "Size of events written to watchers, in bytes.");
    for cached in caches.iter().filter(|cached| cached.counters().sent.count() != 0) {
        let labels = of(cached, "resource", &cached.resource.plural);
        page.histogram(name, &labels, &cached.counters().sent);
    }
}

fn process(page: &mut Page, process: &Process) {
    page.head(
        "kubernetes_build_info",
        "gauge",
        "The version whose API is served.",
    );
    let labels = format!("git_version=\"{KUBERNETES_VERSION}\"");
    page.value("kubernetes_build_info", &labels, 1);
    page.head(
        "process_cpu_seconds_total",
        "counter",
        "Time on processors, in seconds.",
    );
    page.value("process_cpu_seconds_total", "", process.cpu_seconds);
    for (name, help, value) in [
        (
            "process_resident_memory_bytes",
            "Resident memory.",
            process.resident_bytes as f64,
        ),
        (
            "process_virtual_memory_bytes",
            "Virtual memory.",
            process.virtual_bytes as f64,
        ),
        (
            "process_start_time_seconds",
            "Start, in seconds since 1970.",
            process.start_seconds,
        ),
        ("process_open_fds", "Open files.", process.open_files as f64),
    ] {
        page.head(name, "gauge", help);
        page.value(name, "", value);
    }
}

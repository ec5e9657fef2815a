//! The counters in Prometheus' text form.

use std::{fmt::Write, sync::atomic::Ordering};

use super::{
    Key, Metrics,
    histogram::{BOUNDS_BYTES, BOUNDS_SECONDS, Durations, Sizes},
    process::Process,
};
use crate::{
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

    fn histogram(&mut self, name: &str, labels: &str, histogram: &Durations) {
        let counts = histogram.cumulative();
        self.buckets(name, labels, &BOUNDS_SECONDS, &counts, histogram.sum_seconds());
    }

    fn histogram_of(&mut self, name: &str, labels: &str, histogram: &Sizes) {
        let counts = histogram.cumulative();
        self.buckets(name, labels, &BOUNDS_BYTES, &counts, histogram.sum_bytes());
    }

    fn buckets(&mut self, name: &str, labels: &str, bounds: &[f64], counts: &[u64], sum: f64) {
        for (bound, count) in bounds.iter().zip(counts) {
            let bound = match bound.is_finite() {
                true => number(*bound),
                false => "+Inf".to_owned(),
            };
            let _ = writeln!(self.0, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}");
        }
        let _ = writeln!(self.0, "{name}_sum{{{labels}}} {sum}");
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
pub(crate) fn render(metrics: &Metrics, cache: &WatchCache) -> String {
    let mut page = Page::default();
    requests(&mut page, metrics);
    store(&mut page, metrics, cache);
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
            page.histogram_of(name, &labels(key, false), &series.sizes);
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
];

fn caches(page: &mut Page, cache: &WatchCache) {
    let caches: Vec<_> = cache.all().collect();
    for (name, kind, help, read) in PER_CACHE {
        page.head(name, kind, help);
        for cached in &caches {
            page.value(name, &group_and_resource(cached), read(cached));
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
    for (name, kind, help) in [
        (
            "apiserver_registered_watchers",
            "gauge",
            "Watches that are running.",
        ),
        (
            "apiserver_watch_events_total",
            "counter",
            "Events written to watchers.",
        ),
    ] {
        page.head(name, kind, help);
        for cached in &caches {
            let (resource, counts) = (&cached.resource, cached.counts());
            let of = format!("group=\"{}\",version=\"{}\",", resource.group, resource.version);
            match kind {
                "gauge" => page.value(name, &format!("{of}kind=\"{}\"", resource.kind), counts.watchers),
                _ => page.value(
                    name,
                    &format!("{of}resource=\"{}\"", resource.plural),
                    counts.sent,
                ),
            }
        }
    }
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

//! Prometheus metrics: those of kube-proxy under their names, and how full the maps are.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use tokio::net::TcpListener;

use crate::http::{self, Response};

/// The values. Clones are the same ones.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Mutex<Values>>);

#[derive(Debug)]
struct Values {
    sync_duration: Histogram,
    network_programming: Histogram,
    last_sync: Option<SystemTime>,
    service_changes: u64,
    endpoint_changes: u64,
    sync_failures: u64,
    sockets_ended: Arc<AtomicU64>,
    conflicts: usize,
    maps: Vec<MapUse>,
}

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapUse {
    /// The map.
    pub name: &'static str,
    /// Number of entries.
    pub entries: usize,
    /// Number of entries that it has room for.
    pub max_entries: u32,
}

/// Counts of observations by upper bounds, in seconds.
#[derive(Debug)]
struct Histogram {
    bounds: Vec<f64>,
    /// How many fell under each bound and above the one before.
    counts: Vec<u64>,
    sum: f64,
    count: u64,
}

impl Default for Values {
    fn default() -> Self {
        Self {
            // Both as kube-proxy has them, so that its dashboards fit.
            sync_duration: Histogram::new((0..15).map(|power| 0.001 * f64::from(1 << power))),
            network_programming: Histogram::new(
                [0.25, 0.5]
                    .into_iter()
                    .chain((1..60).map(f64::from))
                    .chain((60..120).step_by(5).map(f64::from))
                    .chain((120..=300).step_by(30).map(f64::from)),
            ),
            last_sync: None,
            service_changes: 0,
            endpoint_changes: 0,
            sync_failures: 0,
            sockets_ended: Arc::default(),
            conflicts: 0,
            maps: Vec::new(),
        }
    }
}

impl Histogram {
    fn new(bounds: impl Iterator<Item = f64>) -> Self {
        let bounds: Vec<_> = bounds.collect();
        Self {
            counts: vec![0; bounds.len()],
            bounds,
            sum: 0.0,
            count: 0,
        }
    }

    fn observe(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        if let Some(index) = self.bounds.iter().position(|bound| seconds <= *bound) {
            self.counts[index] += 1;
        }
        self.sum += seconds;
        self.count += 1;
    }
}

impl Metrics {
    /// So many Services have changed.
    pub fn services_changed(&self, count: u64) {
        self.values().service_changes += count;
    }

    /// So many EndpointSlices have changed.
    pub fn endpoints_changed(&self, count: u64) {
        self.values().endpoint_changes += count;
    }

    /// The maps could not be written.
    pub fn sync_failed(&self) {
        self.values().sync_failures += 1;
    }

    /// The maps are in step with the API again, after `took`; `triggers` are the times of the changes that led to it.
    pub fn synced(&self, now: SystemTime, took: Duration, triggers: &[SystemTime]) {
        let mut values = self.values();
        values.sync_duration.observe(took);
        values.last_sync = Some(now);
        for trigger in triggers {
            // Another machine's clock may be ahead.
            let latency = now.duration_since(*trigger).unwrap_or_default();
            values.network_programming.observe(latency);
        }
    }

    /// What is so now.
    pub fn set_state(&self, maps: Vec<MapUse>, conflicts: usize) {
        let mut values = self.values();
        values.maps = maps;
        values.conflicts = conflicts;
    }

    /// Where to count the sockets that are ended.
    pub fn sockets_ended(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.values().sockets_ended)
    }

    /// Answers `/metrics` until the future is dropped.
    pub async fn serve(self, address: SocketAddr) -> Result<()> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("listen on {address} (--metrics-bind-address)"))?;
        http::serve(listener, move |path| match path {
            "/metrics" => Response {
                content_type: "text/plain; version=0.0.4; charset=utf-8",
                ..Response::text("200 OK", self.text())
            },
            _ => Response::text("404 Not Found", "only /metrics is here"),
        })
        .await;
        Ok(())
    }

    fn text(&self) -> String {
        let values = self.values();
        let mut text = Text::default();
        text.histogram(
            "kubeproxy_sync_proxy_rules_duration_seconds",
            "How long it took to plan and write the maps",
            &values.sync_duration,
        );
        text.histogram(
            "kubeproxy_network_programming_duration_seconds",
            "Time from the change of a pod or Service to its effect on this node",
            &values.network_programming,
        );
        let last_sync = values
            .last_sync
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let last_sync = last_sync.unwrap_or_default().as_secs_f64();
        for (name, kind, help, value) in [
            (
                "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
                "gauge",
                "When the maps were last brought in step with the API",
                last_sync,
            ),
            (
                "kubeproxy_sync_proxy_rules_service_changes_total",
                "counter",
                "Changes of Services",
                values.service_changes as f64,
            ),
            (
                "kubeproxy_sync_proxy_rules_endpoint_changes_total",
                "counter",
                "Changes of EndpointSlices",
                values.endpoint_changes as f64,
            ),
            (
                "proxy_ebpf_sync_failures_total",
                "counter",
                "Times that the maps could not be written",
                values.sync_failures as f64,
            ),
            (
                "proxy_ebpf_sockets_ended_total",
                "counter",
                "Connected datagram sockets ended because their backend had left its Service",
                values.sockets_ended.load(Ordering::Relaxed) as f64,
            ),
            (
                "proxy_ebpf_conflicts",
                "gauge",
                "Services that want an address which another one has",
                values.conflicts as f64,
            ),
        ] {
            text.header(name, kind, help);
            text.line(format_args!("{name} {value}"));
        }
        let maps = |text: &mut Text, name: &str, help, value: fn(&MapUse) -> f64| {
            text.header(name, "gauge", help);
            for map in &values.maps {
                text.line(format_args!("{name}{{map=\"{}\"}} {}", map.name, value(map)));
            }
        };
        maps(&mut text, "proxy_ebpf_map_entries", "Entries of a map", |map| {
            map.entries as f64
        });
        maps(
            &mut text,
            "proxy_ebpf_map_max_entries",
            "Entries that a map has room for before it is replaced by a larger one",
            |map| f64::from(map.max_entries),
        );
        maps(
            &mut text,
            "proxy_ebpf_map_pressure",
            "Share of a map's room that is used",
            |map| map.entries as f64 / f64::from(map.max_entries.max(1)),
        );
        text.0
    }

    fn values(&self) -> MutexGuard<'_, Values> {
        // Every change is one assignment or addition after the other: a panic leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Prometheus' text format.
#[derive(Default)]
struct Text(String);

impl Text {
    fn header(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.header(name, "histogram", help);
        let mut total = 0;
        for (bound, count) in histogram.bounds.iter().zip(&histogram.counts) {
            total += count;
            self.line(format_args!("{name}_bucket{{le=\"{bound}\"}} {total}"));
        }
        self.line(format_args!("{name}_bucket{{le=\"+Inf\"}} {}", histogram.count));
        self.line(format_args!("{name}_sum {}", histogram.sum));
        self.line(format_args!("{name}_count {}", histogram.count));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_says_what_was_observed() {
        let metrics = Metrics::default();
        let now = UNIX_EPOCH + Duration::from_secs(1_000);
        let triggers = [
            now - Duration::from_millis(300),
            now + Duration::from_secs(5),
            now - Duration::from_secs(999),
        ];
        metrics.synced(now, Duration::from_millis(3), &triggers);
        metrics.services_changed(1);
        let map = MapUse {
            name: "SLOTS",
            entries: 3,
            max_entries: 4,
        };
        metrics.set_state(vec![map], 1);
        metrics.sockets_ended().fetch_add(2, Ordering::Relaxed);
        let text = metrics.text();
        for line in [
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"0.002\"} 0",
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"0.004\"} 1",
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"+Inf\"} 1",
            "kubeproxy_sync_proxy_rules_duration_seconds_sum 0.003",
            "kubeproxy_network_programming_duration_seconds_bucket{le=\"0.25\"} 1",
            "kubeproxy_network_programming_duration_seconds_bucket{le=\"0.5\"} 2",
            "kubeproxy_network_programming_duration_seconds_bucket{le=\"300\"} 2",
            "kubeproxy_network_programming_duration_seconds_count 3",
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds 1000",
            "kubeproxy_sync_proxy_rules_service_changes_total 1",
            "kubeproxy_sync_proxy_rules_endpoint_changes_total 0",
            "proxy_ebpf_sockets_ended_total 2",
            "proxy_ebpf_map_pressure{map=\"SLOTS\"} 0.75",
            "# TYPE proxy_ebpf_map_pressure gauge",
        ] {
            assert!(
                text.lines().any(|other| other == line),
                "{line} is not in\n{text}"
            );
        }
    }
}

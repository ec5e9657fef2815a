//! Prometheus metrics: those of kube-proxy under their names, and how full the maps are.

mod text;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use proxy_ebpf_common::{DropCount, DropReason};
use serde::Serialize;

use crate::http::{self, Listen, Response};
use text::{Histogram, Text};

/// Reads how much has been dropped for which reason. The programs count; nobody else keeps the numbers.
pub type ReadDrops = Box<dyn Fn() -> Vec<(DropReason, DropCount)> + Send>;

/// The values. Clones are the same ones.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Mutex<Values>>);

struct Values {
    sync_duration: Histogram,
    full_sync_duration: Histogram,
    partial_sync_duration: Histogram,
    network_programming: Histogram,
    last_queued: Option<SystemTime>,
    last_sync: Option<SystemTime>,
    service_changes: Changes,
    endpoint_changes: Changes,
    sync_failures: u64,
    sockets_ended: Arc<AtomicU64>,
    state: State,
    maps: Vec<MapUse>,
    /// Answers to probes, by path and status code.
    probes: BTreeMap<(&'static str, &'static str), u64>,
    read_drops: Option<ReadDrops>,
}

/// Objects that have changed.
#[derive(Clone, Copy, Debug, Default)]
struct Changes {
    total: u64,
    /// Those that are not in the maps yet.
    pending: u64,
}

/// How a plan was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Everything was compared.
    Full,
    /// Only what had changed was looked at.
    Partial,
}

/// What of the API's objects is not in the maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Services that want an address which another one has.
    pub conflicts: usize,
    /// Services that are too large for the maps.
    pub refused: usize,
    /// Endpoints that no traffic may be sent to.
    pub ignored_endpoints: usize,
}

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MapUse {
    /// The map.
    pub name: &'static str,
    /// Number of entries.
    pub entries: usize,
    /// Number of entries that it has room for.
    pub max_entries: u32,
}

impl Default for Values {
    fn default() -> Self {
        Self {
            // All as kube-proxy has them, so that its dashboards fit.
            sync_duration: sync_durations(),
            full_sync_duration: sync_durations(),
            partial_sync_duration: sync_durations(),
            network_programming: Histogram::new(
                [0.25, 0.5]
                    .into_iter()
                    .chain((1..60).map(f64::from))
                    .chain((60..120).step_by(5).map(f64::from))
                    .chain((120..=300).step_by(30).map(f64::from)),
            ),
            last_queued: None,
            last_sync: None,
            service_changes: Changes::default(),
            endpoint_changes: Changes::default(),
            sync_failures: 0,
            sockets_ended: Arc::default(),
            state: State::default(),
            maps: Vec::new(),
            probes: BTreeMap::new(),
            read_drops: None,
        }
    }
}

fn sync_durations() -> Histogram {
    Histogram::new((0..15).map(|power| 0.001 * f64::from(1 << power)))
}

impl Metrics {
    /// So many Services have changed.
    pub fn services_changed(&self, count: u64, now: SystemTime) {
        let mut values = self.values();
        let values = &mut *values;
        values.service_changes.add(count, &mut values.last_queued, now);
    }

    /// So many EndpointSlices have changed.
    pub fn endpoints_changed(&self, count: u64, now: SystemTime) {
        let mut values = self.values();
        let values = &mut *values;
        values.endpoint_changes.add(count, &mut values.last_queued, now);
    }

    /// The maps could not be written.
    pub fn sync_failed(&self) {
        self.values().sync_failures += 1;
    }

    /// The maps are in step with the API again, after `took`; `triggers` are the times of the changes that led to it.
    pub fn synced(&self, sync: Sync, now: SystemTime, took: Duration, triggers: &[SystemTime]) {
        let mut values = self.values();
        values.sync_duration.observe(took);
        match sync {
            Sync::Full => values.full_sync_duration.observe(took),
            Sync::Partial => values.partial_sync_duration.observe(took),
        }
        values.service_changes.pending = 0;
        values.endpoint_changes.pending = 0;
        values.last_sync = Some(now);
        for trigger in triggers {
            // Another machine's clock may be ahead.
            let latency = now.duration_since(*trigger).unwrap_or_default();
            values.network_programming.observe(latency);
        }
    }

    /// What is so now.
    pub fn set_state(&self, maps: Vec<MapUse>, state: State) {
        let mut values = self.values();
        values.maps = maps;
        values.state = state;
    }

    /// From where the counts of what was dropped are read whenever somebody asks.
    pub fn set_drops(&self, read: ReadDrops) {
        self.values().read_drops = Some(read);
    }

    /// A probe was answered.
    pub(crate) fn probed(&self, path: &str, status: &'static str) {
        let path = match path {
            "/healthz" => "healthz",
            "/livez" => "livez",
            _ => return,
        };
        let code = status.split(' ').next().unwrap_or(status);
        *self.values().probes.entry((path, code)).or_default() += 1;
    }

    /// Where to count the sockets that are ended.
    pub fn sockets_ended(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.values().sockets_ended)
    }

    /// Answers `/metrics`, and kube-proxy's other paths beside it, until the future is dropped.
    pub async fn serve(self, listen: Listen) -> Result<()> {
        let listener = listen.bind().await?;
        http::serve(listener, move |path| match path {
            "/metrics" => Response {
                content_type: "text/plain; version=0.0.4; charset=utf-8",
                ..Response::text("200 OK", self.text())
            },
            "/healthz" => Response::text("200 OK", "ok"),
            "/proxyMode" => Response::text("200 OK", "ebpf"),
            _ => Response::text("404 Not Found", "only /metrics, /healthz and /proxyMode are here"),
        })
        .await;
        Ok(())
    }

    fn text(&self) -> String {
        let values = self.values();
        let mut text = Text::default();
        values.histograms(&mut text);
        values.numbers(&mut text);
        values.probes(&mut text);
        values.drops(&mut text);
        values.maps(&mut text);
        text.0
    }

    fn values(&self) -> MutexGuard<'_, Values> {
        // Every change is one assignment or addition after the other: a panic leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Changes {
    fn add(&mut self, count: u64, last_queued: &mut Option<SystemTime>, now: SystemTime) {
        self.total += count;
        self.pending += count;
        if count > 0 {
            *last_queued = Some(now);
        }
    }
}

impl Values {
    fn histograms(&self, text: &mut Text) {
        for (name, help, histogram) in [
            (
                "kubeproxy_sync_proxy_rules_duration_seconds",
                "How long it took to plan and write the maps",
                &self.sync_duration,
            ),
            (
                "kubeproxy_sync_full_proxy_rules_duration_seconds",
                "The same, when everything was compared",
                &self.full_sync_duration,
            ),
            (
                "kubeproxy_sync_partial_proxy_rules_duration_seconds",
                "The same, when only what had changed was looked at",
                &self.partial_sync_duration,
            ),
            (
                "kubeproxy_network_programming_duration_seconds",
                "Time from the change of a pod or Service to its effect on this node",
                &self.network_programming,
            ),
        ] {
            text.histogram(name, help, histogram);
        }
    }

    fn numbers(&self, text: &mut Text) {
        let seconds = |time: Option<SystemTime>| {
            let since = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            since.unwrap_or_default().as_secs_f64()
        };
        for (name, kind, help, value) in [
            (
                "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
                "gauge",
                "When the maps were last brought in step with the API",
                seconds(self.last_sync),
            ),
            (
                "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
                "gauge",
                "When something last changed that has to get into the maps",
                seconds(self.last_queued),
            ),
            (
                "kubeproxy_sync_proxy_rules_service_changes_total",
                "counter",
                "Changes of Services",
                self.service_changes.total as f64,
            ),
            (
                "kubeproxy_sync_proxy_rules_service_changes_pending",
                "gauge",
                "Changes of Services that are not in the maps yet",
                self.service_changes.pending as f64,
            ),
            (
                "kubeproxy_sync_proxy_rules_endpoint_changes_total",
                "counter",
                "Changes of EndpointSlices",
                self.endpoint_changes.total as f64,
            ),
            (
                "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
                "gauge",
                "Changes of EndpointSlices that are not in the maps yet",
                self.endpoint_changes.pending as f64,
            ),
            (
                "proxy_ebpf_sync_failures_total",
                "counter",
                "Times that the maps could not be written",
                self.sync_failures as f64,
            ),
            (
                "proxy_ebpf_sockets_ended_total",
                "counter",
                "Connected datagram sockets ended because their backend had left its Service",
                self.sockets_ended.load(Ordering::Relaxed) as f64,
            ),
            (
                "proxy_ebpf_conflicts",
                "gauge",
                "Services that want an address which another one has",
                self.state.conflicts as f64,
            ),
            (
                "proxy_ebpf_refused_services",
                "gauge",
                "Services that are left out because a map is full, must not grow any more, and they are the largest",
                self.state.refused as f64,
            ),
            (
                "proxy_ebpf_ignored_endpoints",
                "gauge",
                "Endpoints that no traffic is sent to: on loopback, link-local, multicast or no address at all",
                self.state.ignored_endpoints as f64,
            ),
        ] {
            text.header(name, kind, help);
            text.line(format_args!("{name} {value}"));
        }
    }

    fn probes(&self, text: &mut Text) {
        for path in ["healthz", "livez"] {
            let name = format!("kubeproxy_proxy_{path}_total");
            text.header(&name, "counter", &format!("Answers of /{path} by status"));
            for ((_, code), count) in self.probes.iter().filter(|((other, _), _)| *other == path) {
                text.line(format_args!("{name}{{code=\"{code}\"}} {count}"));
            }
        }
    }

    fn drops(&self, text: &mut Text) {
        let drops = self.read_drops.as_ref().map(|read| read()).unwrap_or_default();
        let counts = |text: &mut Text, name: &str, help, value: fn(&DropCount) -> u64| {
            text.header(name, "counter", help);
            for (reason, count) in &drops {
                text.line(format_args!(
                    "{name}{{reason=\"{}\"}} {}",
                    reason.name(),
                    value(count)
                ));
            }
        };
        let help = "Packets that were dropped, and socket calls that were refused, by reason";
        counts(text, "proxy_ebpf_drops_total", help, |count| count.packets);
        let help = "Bytes of the packets that were dropped, by reason";
        counts(text, "proxy_ebpf_drop_bytes_total", help, |count| count.bytes);
    }

    fn maps(&self, text: &mut Text) {
        let maps = |text: &mut Text, name: &str, help, value: fn(&MapUse) -> f64| {
            text.header(name, "gauge", help);
            for map in &self.maps {
                text.line(format_args!("{name}{{map=\"{}\"}} {}", map.name, value(map)));
            }
        };
        maps(text, "proxy_ebpf_map_entries", "Entries of a map", |map| {
            map.entries as f64
        });
        maps(
            text,
            "proxy_ebpf_map_max_entries",
            "Entries that a map has room for before it is replaced by a larger one",
            |map| f64::from(map.max_entries),
        );
        maps(
            text,
            "proxy_ebpf_map_pressure",
            "Share of a map's room that is used",
            |map| map.entries as f64 / f64::from(map.max_entries.max(1)),
        );
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
        metrics.services_changed(2, now);
        metrics.synced(Sync::Full, now, Duration::from_millis(3), &triggers);
        metrics.services_changed(1, now + Duration::from_secs(1));
        metrics.services_changed(0, now + Duration::from_secs(2));
        metrics.probed("/healthz", "503 Service Unavailable");
        metrics.probed("/nonsense", "404 Not Found");
        let count = DropCount {
            packets: 7,
            bytes: 420,
        };
        metrics.set_drops(Box::new(move || vec![(DropReason::SourceRange, count)]));
        let map = MapUse {
            name: "SLOTS",
            entries: 3,
            max_entries: 4,
        };
        let state = State {
            conflicts: 1,
            refused: 2,
            ignored_endpoints: 5,
        };
        metrics.set_state(vec![map], state);
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
            "kubeproxy_sync_full_proxy_rules_duration_seconds_count 1",
            "kubeproxy_sync_partial_proxy_rules_duration_seconds_count 0",
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds 1001",
            "kubeproxy_sync_proxy_rules_service_changes_total 3",
            "kubeproxy_sync_proxy_rules_service_changes_pending 1",
            "kubeproxy_proxy_healthz_total{code=\"503\"} 1",
            "proxy_ebpf_drops_total{reason=\"source_range\"} 7",
            "proxy_ebpf_drop_bytes_total{reason=\"source_range\"} 420",
            "kubeproxy_sync_proxy_rules_endpoint_changes_total 0",
            "proxy_ebpf_sockets_ended_total 2",
            "proxy_ebpf_conflicts 1",
            "proxy_ebpf_refused_services 2",
            "proxy_ebpf_ignored_endpoints 5",
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

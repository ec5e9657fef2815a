//! Counters for `/metrics`.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;

/// What the server counts.
#[derive(Default)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<(String, String, u16), u64>>,
    in_flight: AtomicU64,
}

/// A request that is being served; leaving it behind counts it as done.
pub(crate) struct InFlight<'a>(&'a Metrics);

impl Metrics {
    pub(crate) fn begin(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self)
    }

    pub(crate) fn count(&self, verb: &str, resource: &str, code: u16) {
        let key = (verb.to_owned(), resource.to_owned(), code);
        *self.requests.lock().entry(key).or_default() += 1;
    }

    /// The counters in Prometheus' text form.
    pub(crate) fn render(&self, revision: u64) -> String {
        let mut out = String::from(
            "# HELP apiserver_request_total Requests by verb, resource and code.\n# TYPE apiserver_request_total \
             counter\n",
        );
        for ((verb, resource, code), count) in self.requests.lock().iter() {
            // Writing to a string cannot fail.
            let _ = writeln!(
                out,
                "apiserver_request_total{{verb=\"{verb}\",resource=\"{resource}\",code=\"{code}\"}} {count}"
            );
        }
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        let _ = write!(
            out,
            "# HELP apiserver_current_inflight_requests Requests being served.\n# TYPE \
             apiserver_current_inflight_requests gauge\napiserver_current_inflight_requests {in_flight}\n# HELP \
             apiserver_watch_cache_revision Store revision that the watch cache has reached.\n# TYPE \
             apiserver_watch_cache_revision gauge\napiserver_watch_cache_revision {revision}\n"
        );
        out
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

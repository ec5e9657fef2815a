//! `/healthz` and `/livez`, as load balancers and the kubelet ask for them, with kube-proxy's answers.
//!
//! Healthy is who has written what the API told within [`LATE`]. `/healthz` says moreover whether the node should get traffic
//! from outside: not one that is being deleted, and, stricter than kube-proxy, not one whose maps have never been filled.
//! After a restart the maps of the agent before are served from, which is as good as synced.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use anyhow::Result;

use crate::{
    http::{self, Listen, Response},
    metrics::Metrics,
};

/// A change that is not in the maps for so long is stuck: twice kube-proxy's default period of synchronization, as there.
const LATE: Duration = Duration::from_secs(60);

/// How the agent is. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<State>>);

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// Whether Services are translated by what the maps hold.
    serving: bool,
    last_updated: Option<SystemTime>,
    pending_since: Option<Instant>,
    /// The Node is being deleted, by the API or by an autoscaler.
    leaving: bool,
}

impl Health {
    /// The maps hold what an agent before has left.
    pub fn taken_over(&self) {
        self.state().serving = true;
    }

    /// The maps are in step with the API.
    pub fn synced(&self, now: SystemTime) {
        let mut state = self.state();
        state.serving = true;
        state.last_updated = Some(now);
        state.pending_since = None;
    }

    /// The API has told something that is not in the maps.
    pub fn pending(&self, now: Instant) {
        self.state().pending_since.get_or_insert(now);
    }

    /// Whether the Node is about to go.
    pub fn set_leaving(&self, leaving: bool) {
        self.state().leaving = leaving;
    }

    /// Whether changes get into the maps.
    pub fn is_healthy(&self) -> bool {
        self.state().is_healthy(Instant::now())
    }

    /// Answers until the future is dropped.
    pub async fn serve(self, listen: Listen, metrics: Metrics) -> Result<()> {
        let listener = listen.bind().await?;
        http::serve(listener, move |path| {
            let response = self.state().respond(path, Instant::now(), SystemTime::now());
            metrics.probed(path, response.status);
            response
        })
        .await;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is one assignment after the other: a panic leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_healthy(&self, now: Instant) -> bool {
        self.pending_since
            .is_none_or(|since| now.saturating_duration_since(since) < LATE)
    }

    fn respond(&self, path: &str, now: Instant, wall_clock: SystemTime) -> Response {
        let healthy = self.is_healthy(now);
        let (good, eligible) = match path {
            "/livez" => (healthy, None),
            "/healthz" => (healthy && self.serving && !self.leaving, Some(!self.leaving)),
            _ => return Response::text("404 Not Found", "only /healthz and /livez are here"),
        };
        // As kube-proxy has it since it stopped syncing without changes: who is healthy was updated just now.
        let last_updated = if good { Some(wall_clock) } else { self.last_updated };
        let mut body = serde_json::json!({
            "lastUpdated": last_updated.map_or_else(|| "0001-01-01 00:00:00 +0000 UTC".to_owned(), go_time),
            "currentTime": go_time(wall_clock),
        });
        if let Some(eligible) = eligible {
            body["nodeEligible"] = eligible.into();
        }
        Response {
            content_type: "application/json",
            header: Some("X-Content-Type-Options: nosniff".to_owned()),
            ..Response::text(
                if good { "200 OK" } else { "503 Service Unavailable" },
                body.to_string(),
            )
        }
    }
}

/// A time as Go prints one.
fn go_time(time: SystemTime) -> String {
    let time = jiff::Timestamp::try_from(time).unwrap_or_default();
    time.strftime("%Y-%m-%d %H:%M:%S%.f +0000 UTC").to_string()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn the_answers_are_those_of_kube_proxy() {
        let now = Instant::now() + LATE;
        let fresh = State::default();
        let synced = State {
            serving: true,
            last_updated: Some(UNIX_EPOCH),
            ..fresh
        };
        let pending = |seconds| State {
            pending_since: Some(now - Duration::from_secs(seconds)),
            ..synced
        };
        let leaving = State {
            leaving: true,
            ..synced
        };
        let rows = [
            // Nothing is known yet: alive, but no place to send traffic to.
            (fresh, "503", "200"),
            (synced, "200", "200"),
            (pending(59), "200", "200"),
            (pending(60), "503", "503"),
            (leaving, "503", "200"),
        ];
        for (state, healthz, livez) in rows {
            for (path, expected) in [("/healthz", healthz), ("/livez", livez)] {
                let status = state.respond(path, now, UNIX_EPOCH).status;
                assert!(status.starts_with(expected), "{state:?} {path}: {status}");
            }
        }
        assert_eq!(fresh.respond("/", now, UNIX_EPOCH).status, "404 Not Found");
    }

    #[test]
    fn the_body_says_when() {
        let state = State {
            serving: true,
            ..State::default()
        };
        let body = state.respond("/healthz", Instant::now(), UNIX_EPOCH).body;
        let expected = serde_json::json!({
            "lastUpdated": "1970-01-01 00:00:00 +0000 UTC",
            "currentTime": "1970-01-01 00:00:00 +0000 UTC",
            "nodeEligible": true,
        });
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&body).expect("JSON"),
            expected
        );
    }
}

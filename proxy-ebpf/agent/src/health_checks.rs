//! The servers of `healthCheckNodePort`: a load balancer asks them which nodes have endpoints of a Service whose
//! externalTrafficPolicy is Local, and sends its clients to those only.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle, time::Instant};
use tracing::{info, warn};

use crate::{
    desired::{HealthCheck, ObjectName},
    healthz::Health,
    http::{self, Response},
};

/// A port that another process has is not given up by it in milliseconds.
const RETRY: Duration = Duration::from_secs(5);

/// All servers of this node.
#[derive(Debug, Default)]
pub struct HealthChecks {
    health: Health,
    wanted: HashMap<ObjectName, HealthCheck>,
    servers: BTreeMap<u16, Server>,
    retry: Option<Instant>,
}

#[derive(Debug)]
struct Server {
    service: ObjectName,
    local_endpoints: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl HealthChecks {
    /// Nothing is wanted yet. Who is not healthy sends no clients here, whatever endpoints there are.
    pub fn new(health: Health) -> Self {
        Self {
            health,
            ..Self::default()
        }
    }

    /// Takes in what a Service wants now. Nothing listens before [`Self::reconcile`].
    pub fn set(&mut self, service: &ObjectName, wanted: Option<HealthCheck>) {
        match wanted {
            Some(check) => self.wanted.insert(service.clone(), check),
            None => self.wanted.remove(service),
        };
    }

    /// Forgets what every Service wants, to be told anew.
    pub fn clear(&mut self) {
        self.wanted.clear();
    }

    /// When to reconcile again although nothing changed.
    pub fn retry(&self) -> Option<Instant> {
        self.retry
    }

    /// Starts and ends servers. Those that go on keep their port.
    pub async fn reconcile(&mut self) {
        self.retry = None;
        let mut wanted = BTreeMap::new();
        for (service, check) in &self.wanted {
            // The API server gives a port to one Service only; should two have it, which one is answered for is stable.
            let owner = wanted.entry(check.port).or_insert((service, check));
            if service < owner.0 {
                *owner = (service, check);
            }
        }
        self.servers.retain(|port, server| {
            wanted
                .get(port)
                .is_some_and(|(service, _)| **service == server.service)
        });
        for (port, (service, check)) in wanted {
            if let Some(server) = self.servers.get(&port) {
                server
                    .local_endpoints
                    .store(check.local_endpoints, Ordering::Relaxed);
                continue;
            }
            match listen(port).await {
                Ok(listener) => {
                    let local_endpoints = Arc::new(AtomicUsize::new(check.local_endpoints));
                    let (name, count) = (service.clone(), Arc::clone(&local_endpoints));
                    let health = self.health.clone();
                    let task = tokio::spawn(http::serve(listener, move |_| {
                        respond(&name, count.load(Ordering::Relaxed), health.is_healthy())
                    }));
                    info!(%service, port, "answering health checks");
                    let service = service.clone();
                    self.servers.insert(
                        port,
                        Server {
                            service,
                            local_endpoints,
                            task,
                        },
                    );
                }
                Err(error) => {
                    warn!(%service, port, %error, "cannot listen on the healthCheckNodePort, will retry");
                    self.retry = Some(Instant::now() + RETRY);
                }
            }
        }
    }
}

/// Listens on all addresses of both families, or of IPv4 where the kernel has no other.
async fn listen(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await
        }
        result => result,
    }
}

/// The answer in kube-proxy's form, on every path.
fn respond(service: &ObjectName, local_endpoints: usize, healthy: bool) -> Response {
    let body = json!({
        "service": { "namespace": service.namespace(), "name": service.name() },
        "localEndpoints": local_endpoints,
        "serviceProxyHealthy": healthy,
    });
    Response {
        status: if local_endpoints > 0 && healthy {
            "200 OK"
        } else {
            "503 Service Unavailable"
        },
        content_type: "application/json",
        header: Some(format!("X-Load-Balancing-Endpoint-Weight: {local_endpoints}")),
        body: body.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_endpoints_is_unavailable() {
        let service = ObjectName::new("default", "web");
        let answer = respond(&service, 2, true);
        assert_eq!(answer.status, "200 OK");
        assert_eq!(
            answer.header.as_deref(),
            Some("X-Load-Balancing-Endpoint-Weight: 2")
        );
        let body: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
        let expected = json!({
            "service": { "namespace": "default", "name": "web" }, "localEndpoints": 2, "serviceProxyHealthy": true,
        });
        assert_eq!(body, expected);
        for (local_endpoints, healthy) in [(0, true), (2, false)] {
            let status = respond(&service, local_endpoints, healthy).status;
            assert_eq!(status, "503 Service Unavailable");
        }
    }

    #[tokio::test]
    async fn servers_follow_what_is_wanted() {
        // A port that is free now; nobody else asks for this one by number.
        let port = TcpListener::bind("127.0.0.1:0")
            .await
            .and_then(|listener| listener.local_addr())
            .expect("a port")
            .port();
        let (web, other) = (
            ObjectName::new("default", "web"),
            ObjectName::new("default", "other"),
        );
        let check = |local_endpoints| {
            Some(HealthCheck {
                port,
                local_endpoints,
            })
        };
        let mut checks = HealthChecks::default();
        checks.set(&web, check(0));
        checks.reconcile().await;
        assert_eq!(checks.retry(), None);
        assert_eq!(checks.servers[&port].service, web);
        checks.set(&web, check(3));
        checks.reconcile().await;
        assert_eq!(checks.servers[&port].local_endpoints.load(Ordering::Relaxed), 3);
        checks.set(&web, None);
        checks.reconcile().await;
        assert!(checks.servers.is_empty());
        // Somebody else has the port: it is tried again until it is free.
        let taken = loop {
            // The server that was aborted closes its socket when the runtime gets to it.
            match listen(port).await {
                Ok(listener) => break listener,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        checks.set(&other, check(1));
        checks.reconcile().await;
        assert!(checks.retry().is_some() && checks.servers.is_empty());
        drop(taken);
        checks.reconcile().await;
        assert_eq!((checks.retry(), checks.servers.len()), (None, 1));
    }
}

//! The clients.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures::future::try_join_all;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::client::{Body, ConfigExt};
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::{net::TcpStream, sync::mpsc, task::JoinSet};
use tokio_rustls::TlsConnector;

/// How long each request took.
pub(crate) type Latencies = Vec<Duration>;

const PODS: &str = "/api/v1/namespaces/default/pods";
/// Small objects, of which there may be many.
pub(crate) const OBJECTS: &str = "/api/v1/namespaces/kube-public/configmaps";

/// The path of a numbered object.
pub(crate) type Numbered = fn(usize) -> String;
pub(crate) const POD: Numbered = |number| format!("{PODS}/pod-{number:06}");
pub(crate) const OBJECT: Numbered = |number| format!("{OBJECTS}/object-{number:06}");

/// So many changes are sent to all watchers.
const FAN_OUT_CHANGES: usize = 100;
/// How many requests fill the server, where latency is not measured.
const FILLERS: usize = 64;

/// Some clients, each with connections of its own.
pub(crate) struct Load {
    clients: Vec<kube::Client>,
    config: kube::Config,
}

impl Load {
    /// Connects, waits until the server is ready, and makes what pods need.
    pub(crate) async fn connect(kubeconfig: &Path, clients: usize) -> Result<Self> {
        let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig)?;
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
        config.read_timeout = None;
        let clients = (0..clients.max(FILLERS)).map(|_| kube::Client::try_from(config.clone()));
        let load = Load {
            clients: clients.collect::<Result<_, _>>()?,
            config,
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        while let Err(error) = send(&load.clients[0], Method::GET, "/readyz", &[], None).await {
            if Instant::now() > deadline {
                return Err(error).context("the server does not become ready");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let account = json!({"metadata": {"name": "default"}});
        let accounts = "/api/v1/namespaces/default/serviceaccounts";
        send(&load.clients[0], Method::POST, accounts, &[], Some(&account)).await?;
        Ok(load)
    }

    /// Has `clients` of the clients send requests until `next` says that it is enough.
    async fn run<F, Fut>(&self, clients: usize, request: F) -> Result<Latencies>
    where
        F: Fn(kube::Client, usize) -> Option<Fut> + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        let next = Arc::new(AtomicUsize::new(0));
        let workers = self.clients.iter().take(clients).map(|client| {
            let (client, next, request) = (client.clone(), next.clone(), request.clone());
            let work = async move {
                let mut latencies = Vec::new();
                while let Some(sent) = request(client.clone(), next.fetch_add(1, Ordering::Relaxed)) {
                    let begun = Instant::now();
                    sent.await?;
                    latencies.push(begun.elapsed());
                }
                anyhow::Ok(latencies)
            };
            async move { tokio::spawn(work).await? }
        });
        Ok(try_join_all(workers).await?.concat())
    }

    /// As many requests as fit into a time.
    async fn during<F, Fut>(&self, duration: Duration, clients: usize, request: F) -> Result<Latencies>
    where
        F: Fn(kube::Client, usize) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        let until = Instant::now() + duration;
        self.run(clients, move |client, number| {
            (Instant::now() < until).then(|| request(client, number))
        })
        .await
    }

    pub(crate) async fn create_pods(&self, count: usize) -> Result<Latencies> {
        self.run(16, move |client, number| {
            (number < count).then_some(async move {
                let pod = pod(number);
                send(&client, Method::POST, PODS, &[], Some(&pod)).await.map(drop)
            })
        })
        .await
    }

    /// Makes small objects until there are so many. Those that exist already are no error.
    pub(crate) async fn create_objects(&self, count: usize) -> Result<()> {
        let filled = self.run(FILLERS, move |client, number| {
            (number < count).then_some(async move {
                match send(&client, Method::POST, OBJECTS, &[], Some(&object(number))).await {
                    Err(error) if error.to_string().contains("409") => Ok(()),
                    other => other.map(drop),
                }
            })
        });
        filled.await.map(drop)
    }

    pub(crate) async fn get(&self, duration: Duration, path: Numbered, count: usize) -> Result<Latencies> {
        self.during(duration, 16, move |client, number| async move {
            let path = path(scattered(number, count));
            send(&client, Method::GET, &path, &[], None).await.map(drop)
        })
        .await
    }

    /// Replaces pods, each time with another label.
    pub(crate) async fn update(&self, duration: Duration, count: usize) -> Result<Latencies> {
        self.during(duration, 16, move |client, number| async move {
            let path = POD(scattered(number, count));
            let change = json!({"metadata": {"labels": {"change": number.to_string()}}});
            let kind = [(header::CONTENT_TYPE, "application/merge-patch+json")];
            send(&client, Method::PATCH, &path, &kind, Some(&change))
                .await
                .map(drop)
        })
        .await
    }

    pub(crate) async fn create_and_delete(&self, duration: Duration) -> Result<Latencies> {
        self.during(duration, 16, move |client, number| async move {
            // Between the others, not behind them.
            let mut object = object(number);
            let name = format!("object-{:06}-x{number}", scattered(number, 1000));
            object["metadata"]["name"] = name.as_str().into();
            send(&client, Method::POST, OBJECTS, &[], Some(&object)).await?;
            send(&client, Method::DELETE, &format!("{OBJECTS}/{name}"), &[], None)
                .await
                .map(drop)
        })
        .await
    }

    /// Lists, one client after the other: what one list costs, not how many fit.
    pub(crate) async fn list(&self, duration: Duration, path: &str) -> Result<Latencies> {
        self.list_as(duration, path.to_owned(), "application/json").await
    }

    pub(crate) async fn list_protobuf(&self, duration: Duration, path: &str) -> Result<Latencies> {
        self.list_as(duration, path.to_owned(), "application/vnd.kubernetes.protobuf")
            .await
    }

    async fn list_as(&self, duration: Duration, path: String, accept: &'static str) -> Result<Latencies> {
        self.during(duration, 1, move |client, _| {
            let path = path.clone();
            async move {
                send(&client, Method::GET, &path, &[(header::ACCEPT, accept)], None)
                    .await
                    .map(drop)
            }
        })
        .await
    }

    /// The second page, again and again.
    pub(crate) async fn later_page(&self, duration: Duration) -> Result<Latencies> {
        let first = format!("{OBJECTS}?limit=100");
        let first = send(&self.clients[0], Method::GET, &first, &[], None).await?;
        let first: Value = serde_json::from_slice(&first)?;
        let token = first["metadata"]["continue"]
            .as_str()
            .context("there is only one page")?;
        self.list(duration, &format!("{OBJECTS}?limit=100&continue={token}"))
            .await
    }

    /// Starts watches of all pods, each on a connection of its own (as kube-rs does), or `shared` by some HTTP/2 connections
    /// (as client-go does), and waits until each has begun.
    pub(crate) async fn watchers(&self, count: usize, shared: Option<usize>) -> Result<Watchers> {
        let (told, events) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        // Its own clients: a pool that has watches on its connections opens further ones for other requests.
        let client = kube::Client::try_from(self.config.clone())?;
        let list = send(&client, Method::GET, &format!("{PODS}?limit=1"), &[], None).await?;
        let list: Value = serde_json::from_slice(&list)?;
        let since = list["metadata"]["resourceVersion"]
            .as_str()
            .context("a list without a version")?;
        let path = format!("{PODS}?watch=true&resourceVersion={since}");
        let mut connections = Vec::new();
        for _ in 0..shared.unwrap_or_default() {
            connections.push(self.connect_http2(&mut tasks).await?);
        }
        for number in 0..count {
            let told = told.clone();
            if connections.is_empty() {
                let response = client.send(Request::get(&path).body(Body::empty())?).await?;
                begun(response.status())?;
                tasks.spawn(listen(response.into_body(), told));
            } else {
                let at = number % connections.len();
                let uri = format!(
                    "{}{path}",
                    self.config.cluster_url.to_string().trim_end_matches('/')
                );
                let request = Request::get(uri).body(Empty::<Bytes>::new())?;
                let response = connections[at].send_request(request).await?;
                begun(response.status())?;
                tasks.spawn(listen(response.into_body(), told));
            }
        }
        Ok(Watchers {
            count,
            events,
            _tasks: tasks,
        })
    }

    /// A connection for many requests.
    async fn connect_http2(&self, tasks: &mut JoinSet<()>) -> Result<http2::SendRequest<Empty<Bytes>>> {
        let url = &self.config.cluster_url;
        let host = url.host().context("a server without a host")?;
        let stream = TcpStream::connect((host, url.port_u16().context("a server without a port")?)).await?;
        let mut tls = self.config.rustls_client_config()?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::try_from(host.to_owned())?;
        let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tasks.spawn(async move {
            // Ends with its watches.
            let _ = connection.await;
        });
        Ok(sender)
    }
}

fn begun(status: StatusCode) -> Result<()> {
    if !status.is_success() {
        bail!("watch: {status}");
    }
    Ok(())
}

/// Tells when each event of a watch came.
async fn listen<B>(mut body: B, told: mpsc::UnboundedSender<Instant>)
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    while let Some(Ok(frame)) = body.frame().await {
        let now = Instant::now();
        let lines = frame
            .data_ref()
            .map_or(0, |data| data.iter().filter(|byte| **byte == b'\n').count());
        for _ in 0..lines {
            if told.send(now).is_err() {
                return;
            }
        }
    }
}

/// Watches that run.
pub(crate) struct Watchers {
    count: usize,
    /// When any of them was told of a change.
    events: mpsc::UnboundedReceiver<Instant>,
    _tasks: JoinSet<()>,
}

impl Watchers {
    /// Changes a pod, waits until everybody knows, and changes it again: from sending a change to each watcher's being told.
    pub(crate) async fn fan_out(mut self, load: &Load) -> Result<Latencies> {
        let mut latencies = Vec::with_capacity(self.count * FAN_OUT_CHANGES);
        for number in 0..FAN_OUT_CHANGES {
            let begun = Instant::now();
            let change = json!({"metadata": {"labels": {"fan-out": number.to_string()}}});
            let kind = [(header::CONTENT_TYPE, "application/merge-patch+json")];
            send(&load.clients[0], Method::PATCH, &POD(0), &kind, Some(&change)).await?;
            for _ in 0..self.count {
                let told = tokio::time::timeout(Duration::from_secs(30), self.events.recv()).await;
                let told = told
                    .context("a watcher was not told")?
                    .context("the watches ended")?;
                latencies.push(told.duration_since(begun));
            }
        }
        Ok(latencies)
    }
}

/// Numbers in an order that jumps over the whole range.
fn scattered(number: usize, count: usize) -> usize {
    number.wrapping_mul(7919) % count.max(1)
}

async fn send(
    client: &kube::Client,
    method: Method,
    path: &str,
    headers: &[(header::HeaderName, &str)],
    body: Option<&Value>,
) -> Result<Vec<u8>> {
    let mut request = Request::builder().method(&method).uri(path);
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    if body.is_some() && headers.is_empty() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string().into_bytes()));
    let response = client.send(request.body(body)?).await?;
    let code = response.status();
    let bytes = response.into_body().collect().await?.to_bytes();
    if !code.is_success() {
        bail!("{method} {path}: {code} {}", String::from_utf8_lossy(&bytes));
    }
    Ok(bytes.into())
}

fn object(number: usize) -> Value {
    json!({"metadata": {"name": format!("object-{number:06}")}, "data": {"key": number.to_string()}})
}

/// A pod of a usual size: two containers with ports, resources, probes and environments.
fn pod(number: usize) -> Value {
    let container = |name: &str| {
        json!({
            "name": name,
            "image": format!("registry.example/{name}:1.2.3"),
            "args": ["--listen=:8080", "--log-level=info", format!("--shard={number}")],
            "ports": [{"name": "http", "containerPort": 8080}],
            "env": [{"name": "SHARD", "value": number.to_string()}, {"name": "MODE", "value": "production"}],
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
            "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 5},
            "livenessProbe": {"httpGet": {"path": "/healthz", "port": "http"}},
        })
    };
    json!({
        "metadata": {
            "name": format!("pod-{number:06}"),
            "labels": {"app": "bench", "shard": (number % 100).to_string(), "tier": "web"},
            "annotations": {"example.com/description": "one of many pods that are alike"},
        },
        "spec": {"schedulerName": "nobody", "containers": [container("web"), container("sidecar")]},
    })
}

//! Content from the API: ConfigMaps as they change and tokens as they age, against a scripted API server.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::broadcast;

use super::*;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// An API server with at most one ConfigMap, `ns/cm`, and tokens of a given age.
struct Api {
    object: Mutex<Option<Value>>,
    changes: broadcast::Sender<Value>,
    open_watches: AtomicUsize,
    tokens_made: AtomicUsize,
    /// Seconds since a token was issued and until it expires, from now; without it no tokens are given.
    token_age: Mutex<Option<(i64, i64)>>,
}

struct OpenWatch(Arc<Api>);

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.0.open_watches.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Api {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            object: Mutex::default(),
            changes: broadcast::channel(16).0,
            open_watches: AtomicUsize::new(0),
            tokens_made: AtomicUsize::new(0),
            token_age: Mutex::new(Some((0, 3600))),
        })
    }

    fn client(self: &Arc<Self>) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(&request)) }
        });
        kube::Client::new(service, "default")
    }

    fn answer(self: &Arc<Self>, request: &Request<kube::client::Body>) -> Response<Body> {
        let query = request.uri().query().unwrap_or_default();
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/api/v1/namespaces/ns/configmaps") => {
                assert!(query.contains("fieldSelector=metadata.name%3Dcm"), "{query}");
                if query.contains("watch=") {
                    return self.watch();
                }
                let items: Vec<Value> = self
                    .object
                    .lock()
                    .expect("no panic elsewhere")
                    .iter()
                    .cloned()
                    .collect();
                json_body(
                    StatusCode::OK,
                    &json!({
                        "apiVersion": "v1", "kind": "ConfigMapList", "metadata": {"resourceVersion": "1"}, "items": items
                    }),
                )
            }
            (&Method::POST, "/api/v1/namespaces/ns/serviceaccounts/robot/token") => self.token(),
            (method, path) => panic!("unexpected {method} {path}"),
        }
    }

    fn watch(self: &Arc<Self>) -> Response<Body> {
        self.open_watches.fetch_add(1, Ordering::SeqCst);
        let state = (self.changes.subscribe(), OpenWatch(self.clone()));
        let events = stream::unfold(state, |(mut changes, open)| async move {
            let event = changes.recv().await.ok()?;
            Some((Bytes::from(format!("{event}\n")), (changes, open)))
        });
        let frames = events.map(|line| Ok(Frame::data(line)));
        Response::new(BodyExt::boxed_unsync(StreamBody::new(frames)))
    }

    fn token(&self) -> Response<Body> {
        let Some((issued_ago, expires_in)) = *self.token_age.lock().expect("no panic elsewhere") else {
            let status = json!({"kind": "Status", "status": "Failure", "message": "not now", "code": 500});
            return json_body(StatusCode::INTERNAL_SERVER_ERROR, &status);
        };
        let number = self.tokens_made.fetch_add(1, Ordering::SeqCst) + 1;
        let now = Timestamp::now().as_second();
        let claims = json!({"iat": now - issued_ago, "exp": now + expires_in, "jti": number}).to_string();
        let token = format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims));
        json_body(
            StatusCode::CREATED,
            &json!({
                "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": []},
                "status": {"token": token, "expirationTimestamp": "2100-01-01T00:00:00Z"}
            }),
        )
    }

    fn set(&self, version: &str, color: Option<&str>) {
        let mut object = self.object.lock().expect("no panic elsewhere");
        let new = |color: &str| {
            json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": "cm", "namespace": "ns", "uid": "o1", "resourceVersion": version},
                "data": {"color": color}
            })
        };
        let event = match (&*object, color) {
            (None, Some(color)) => json!({"type": "ADDED", "object": new(color)}),
            (Some(_), Some(color)) => json!({"type": "MODIFIED", "object": new(color)}),
            (Some(old), None) => json!({"type": "DELETED", "object": old}),
            (None, None) => return,
        };
        *object = color.map(new);
        self.changes.send(event).expect("somebody watches");
    }
}

fn json_body(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())).boxed_unsync());
    *response.status_mut() = status;
    response
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..3000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited 30 s for {what}");
}

#[tokio::test]
async fn a_changed_config_map_arrives() {
    let api = Api::new();
    let node = Node::with_client(api.client());
    let pod = pod(json!({
        "volumes": [{"name": "v", "configMap": {"name": "cm", "defaultMode": 256}}],
        "containers": []
    }));
    let wakes = || node.woken.lock().expect("no panic elsewhere").len();
    let color = || fs::read_to_string(node.pod_dir().join("volumes/kubernetes.io~configmap/v/color")).ok();
    let error = node.manager.mount(&pod).await.expect_err("there is none yet");
    assert_eq!(
        error.to_string(),
        "MountVolume.SetUp failed for volume \"v\" : configmap \"cm\" not found"
    );
    until("the watch", || api.open_watches.load(Ordering::SeqCst) == 1).await;

    api.set("2", Some("red"));
    until("a wake", || wakes() == 1).await;
    node.manager.mount(&pod).await.expect("mounted");
    assert_eq!(color().as_deref(), Some("red"));
    api.set("3", Some("blue"));
    until("a wake", || wakes() == 2).await;
    node.manager.mount(&pod).await.expect("refreshed");
    assert_eq!(color().as_deref(), Some("blue"));

    api.set("4", None);
    until("a wake", || wakes() == 3).await;
    node.manager.mount(&pod).await.expect_err("it is gone");
    assert_eq!(color().as_deref(), Some("blue"), "what containers see stays");
    assert_eq!(
        api.open_watches.load(Ordering::SeqCst),
        1,
        "one watch for all of that"
    );

    node.manager.unmount_all("u1").await.expect("removed");
    until("the watch's end", || api.open_watches.load(Ordering::SeqCst) == 0).await;
    assert!(!node.pod_dir().exists());
}

#[tokio::test]
async fn tokens_are_replaced_in_time_and_kept_while_the_server_is_away() {
    if !is_root() {
        return;
    }
    let api = Api::new();
    let node = Node::with_client(api.client());
    let pod = pod(json!({
        "serviceAccountName": "robot",
        "volumes": [{"name": "v", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
            {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}}
        ]}}],
        "containers": [{"name": "c"}],
        "securityContext": {"runAsUser": 1234}
    }));
    let volume = node.pod_dir().join("volumes/kubernetes.io~projected/v");
    let token = || fs::read_to_string(volume.join("token")).expect("a token");
    let set_age = |age| *api.token_age.lock().expect("no panic elsewhere") = age;
    let made = || api.tokens_made.load(Ordering::SeqCst);

    // One that is due as soon as it is there.
    set_age(Some((3000, 600)));
    node.manager.mount(&pod).await.expect("mounted");
    let first = token();
    let metadata = fs::metadata(volume.join("token")).expect("stat");
    assert_eq!(
        (metadata.mode() & 0o7777, metadata.uid()),
        (0o600, 1234),
        "for the pod's user alone"
    );
    assert_eq!(fs::read_to_string(volume.join("name")).expect("read"), "p");

    set_age(None);
    node.manager.mount(&pod).await.expect("the old one still works");
    assert_eq!(token(), first);

    set_age(Some((0, 3600)));
    node.manager.mount(&pod).await.expect("replaced");
    assert_ne!(token(), first);
    assert_eq!(made(), 2);
    // A restarted kubelet finds it on disk.
    let again = VolumeManager::new(
        node.manager.config.clone(),
        api.client(),
        ObjectCache::new(api.client(), node.manager.wake.clone()),
        node.manager.wake.clone(),
    );
    again.mount(&pod).await.expect("nothing to do");
    assert_eq!(made(), 2);

    // Expired, and nobody to ask.
    set_age(Some((3600, 0)));
    let mut content = fs::read_link(volume.join("..data"))
        .map(|link| volume.join(link))
        .expect("link");
    content.push("token");
    fs::write(&content, "e30.eyJpYXQiOjAsImV4cCI6MX0.sig").expect("write");
    set_age(None);
    let error = node.manager.mount(&pod).await.expect_err("no token");
    assert_eq!(
        error.to_string(),
        "MountVolume.SetUp failed for volume \"v\" : failed to fetch token: not now"
    );
}

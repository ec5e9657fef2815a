//! Over a real etcd: what is stored where, and reads that see what another API server wrote.

use std::sync::Arc;

use http_body_util::BodyExt;
use serde_json::{Value, json};
use store::{Etcd, EtcdOptions};
use tests::EtcdServers;

use super::{Request, Server, UserInfo, config, config_map, pod};

const PATH: &str = "/api/v1/namespaces/kube-public/configmaps";

/// An API server over an etcd that others may use too.
struct Over {
    server: Server,
    _directory: tempfile::TempDir,
}

impl Over {
    async fn new(servers: &EtcdServers, prefix: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = EtcdOptions {
            prefix: prefix.to_owned(),
            ..EtcdOptions::new(servers.endpoints())
        };
        let store = Arc::new(Etcd::connect(options).await.unwrap());
        Over {
            server: Server::new(config(directory.path()), store).await.unwrap(),
            _directory: directory,
        }
    }

    async fn ok(&self, method: &str, path: &str, body: impl Into<Option<Value>>) -> Value {
        let body = body.into().map(|body| body.to_string().into_bytes());
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", "application/json")
            .body(kube::client::Body::from(body.unwrap_or_default()))
            .unwrap();
        let client = self.server.client(UserInfo::new("admin", &["system:masters"]));
        let response = client.send(request).await.unwrap();
        let code = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        assert!(code.is_success(), "{method} {path}: {code} {bytes:?}");
        serde_json::from_slice(&bytes).unwrap()
    }
}

/// As `etcdctl get /registry --prefix` shows it of upstream's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_in_etcd_are_upstreams() {
    let dir = tempfile::tempdir().unwrap();
    let servers = EtcdServers::single(dir.path()).unwrap();
    let over = Over::new(&servers, "/registry").await;
    let named =
        |kind: &str, version: &str| json!({"kind": kind, "apiVersion": version, "metadata": {"name": "a"}});
    let with = |mut object: Value, field: &str, value: Value| {
        object[field] = value;
        object
    };
    let labels = json!({"matchLabels": {"a": "b"}});
    let template = json!({
        "metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    });
    let deployment = json!({"selector": labels, "template": template});
    over.ok(
        "POST",
        "/api/v1/namespaces/default/serviceaccounts",
        with(
            named("ServiceAccount", "v1"),
            "metadata",
            json!({"name": "default"}),
        ),
    )
    .await;
    for (path, object, key) in [
        ("/api/v1/namespaces", named("Namespace", "v1"), "namespaces/a"),
        ("/api/v1/nodes", named("Node", "v1"), "minions/a"),
        ("/api/v1/namespaces/default/pods", pod("a"), "pods/default/a"),
        (
            "/api/v1/namespaces/default/services",
            with(named("Service", "v1"), "spec", json!({"ports": [{"port": 80}]})),
            "services/specs/default/a",
        ),
        (
            "/api/v1/namespaces/default/endpoints",
            named("Endpoints", "v1"),
            "services/endpoints/default/a",
        ),
        (
            "/api/v1/namespaces/default/secrets",
            named("Secret", "v1"),
            "secrets/default/a",
        ),
        (
            "/apis/apps/v1/namespaces/default/deployments",
            with(named("Deployment", "apps/v1"), "spec", deployment),
            "deployments/default/a",
        ),
        (
            "/apis/coordination.k8s.io/v1/namespaces/default/leases",
            named("Lease", "coordination.k8s.io/v1"),
            "leases/default/a",
        ),
        (
            "/apis/rbac.authorization.k8s.io/v1/clusterroles",
            named("ClusterRole", "rbac.authorization.k8s.io/v1"),
            "clusterroles/a",
        ),
        (
            "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies",
            with(
                named("NetworkPolicy", "networking.k8s.io/v1"),
                "spec",
                json!({"podSelector": {}}),
            ),
            "networkpolicies/default/a",
        ),
    ] {
        over.ok("POST", path, object).await;
        let shown = servers.etcdctl(&["get", "/registry", "--prefix", "--keys-only"]);
        let shown = shown.unwrap();
        let key = format!("/registry/{key}");
        assert!(shown.lines().any(|line| line == key), "{key} is not in\n{shown}");
        let value = servers.etcdctl(&["get", &key, "--print-value-only"]).unwrap();
        let value: Value = serde_json::from_str(&value).unwrap();
        assert_eq!(value["metadata"]["name"], "a");
        assert_eq!(value["metadata"].get("resourceVersion"), None, "{value}");
    }
    // Nothing lies elsewhere.
    let all = servers
        .etcdctl(&["get", "", "--from-key", "--keys-only"])
        .unwrap();
    let others = all
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with("/registry/") && *line != "compact_rev_key");
    assert_eq!(others.collect::<Vec<_>>(), Vec::<&str>::new());
}

/// Two API servers and one etcd: each shows at once what the other acknowledged, by get, list and watch, and both count
/// with the same versions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_are_consistent_across_api_servers() {
    let dir = tempfile::tempdir().unwrap();
    let servers = EtcdServers::single(dir.path()).unwrap();
    let (one, other) = (
        Over::new(&servers, "/registry").await,
        Over::new(&servers, "/registry").await,
    );
    for round in 0..25 {
        let (writer, reader) = if round % 2 == 0 {
            (&one, &other)
        } else {
            (&other, &one)
        };
        let name = format!("n{round:02}");
        let created = writer.ok("POST", PATH, config_map(&name, "1")).await;
        let version = &created["metadata"]["resourceVersion"];
        // The list is answered from the reader's cache, which has to have heard of the write by then.
        let list = reader.ok("GET", PATH, None).await;
        let items = list["items"].as_array().unwrap();
        assert_eq!(items.len(), round + 1);
        assert_eq!(&items[round]["metadata"]["resourceVersion"], version);
        assert_eq!(&list["metadata"]["resourceVersion"], version);
        let found = reader.ok("GET", &format!("{PATH}/{name}"), None).await;
        assert_eq!(&found["metadata"]["resourceVersion"], version);
        // Pages of the first server go on at the second.
        let page = writer.ok("GET", &format!("{PATH}?limit=1"), None).await;
        if let Some(token) = page["metadata"]["continue"].as_str() {
            let rest = reader.ok("GET", &format!("{PATH}?continue={token}"), None).await;
            assert_eq!(rest["items"].as_array().unwrap().len(), round);
        }
    }
}

/// Another prefix is another cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prefixes_keep_clusters_apart() {
    let dir = tempfile::tempdir().unwrap();
    let servers = EtcdServers::single(dir.path()).unwrap();
    let one = Over::new(&servers, "/registry").await;
    let other = Over::new(&servers, "/other/cluster").await;
    one.ok("POST", PATH, config_map("a", "1")).await;
    let written = other.ok("POST", PATH, config_map("b", "1")).await;
    let shown = servers.etcdctl(&["get", "/other/cluster/configmaps", "--prefix", "--keys-only"]);
    assert_eq!(shown.unwrap().trim(), "/other/cluster/configmaps/kube-public/b");
    let list = one.ok("GET", PATH, None).await;
    let names: Vec<_> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| &item["metadata"]["name"])
        .collect();
    assert_eq!(names, ["a"]);
    // The version is that of the whole etcd all the same.
    assert_eq!(
        list["metadata"]["resourceVersion"],
        written["metadata"]["resourceVersion"]
    );
}

//! The controllers against the real API server and store, in one process.
//!
//! There is no kubelet: where a story needs one, [`Cluster::play_kubelet`] reports what it would report.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use apiserver::{Server, UserInfo};
use controllers::Config;
use serde_json::{Value, json};
use store::{Embedded, EmbeddedOptions};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Far longer than anything here takes; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(30);
const NODE: &str = "node1";

struct Cluster {
    client: kube::Client,
    shutdown: CancellationToken,
    controllers: JoinHandle<anyhow::Result<()>>,
    _dir: tempfile::TempDir,
}

impl Cluster {
    async fn start(config: Config) -> Self {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        // Another test of this process may have been first.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_test_writer()
            .try_init();
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(EmbeddedOptions::new(dir.path().join("store"))).unwrap();
        let server = Server::new(apiserver::Config::default(), Arc::new(store))
            .await
            .unwrap();
        let shutdown = config.shutdown.clone();
        let user = UserInfo::new("system:kube-controller-manager", &[]);
        let controllers = tokio::spawn(controllers::run(server.client(user), config));
        let admin = UserInfo::new("kubernetes-admin", &["system:masters"]);
        Self {
            client: server.client(admin),
            shutdown,
            controllers,
            _dir: dir,
        }
    }

    async fn default() -> Self {
        Self::start(Config {
            root_ca: "PEM".into(),
            ..Config::default()
        })
        .await
    }

    /// Shuts the controllers down and checks that they end well.
    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.controllers)
            .await
            .expect("must end")
            .unwrap()
            .unwrap();
    }

    async fn call(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: &Value,
    ) -> Result<Value, kube::Error> {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content_type)
            .body(if body.is_null() {
                Vec::new()
            } else {
                serde_json::to_vec(body).unwrap()
            })
            .unwrap();
        self.client.request(request).await
    }

    async fn get(&self, path: &str) -> Option<Value> {
        match self.call("GET", path, "application/json", &Value::Null).await {
            Ok(object) => Some(object),
            Err(kube::Error::Api(status)) if status.code == 404 => None,
            Err(error) => panic!("GET {path}: {error}"),
        }
    }

    async fn items(&self, path: &str) -> Vec<Value> {
        let list = self.get(path).await.unwrap_or_else(|| panic!("no list {path}"));
        list["items"].as_array().unwrap().clone()
    }

    async fn create(&self, path: &str, object: Value) -> Value {
        let created = self.call("POST", path, "application/json", &object).await;
        created.unwrap_or_else(|error| panic!("POST {path} {object}: {error}"))
    }

    async fn merge(&self, path: &str, patch: Value) -> Value {
        let patched = self
            .call("PATCH", path, "application/merge-patch+json", &patch)
            .await;
        patched.unwrap_or_else(|error| panic!("PATCH {path} {patch}: {error}"))
    }

    async fn delete(&self, path: &str, options: Value) {
        let deleted = self.call("DELETE", path, "application/json", &options).await;
        deleted.unwrap_or_else(|error| panic!("DELETE {path}: {error}"));
    }

    /// Waits until `probe` yields something.
    async fn wait<T, F: Future<Output = Option<T>>>(&self, what: &str, mut probe: impl FnMut() -> F) -> T {
        let work = async {
            loop {
                if let Some(found) = probe().await {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, work)
            .await
            .unwrap_or_else(|_| panic!("gave up waiting: {what}"))
    }

    async fn wait_gone(&self, path: &str) {
        self.wait(&format!("{path} gone"), async || {
            self.get(path).await.is_none().then_some(())
        })
        .await;
    }

    /// The object at `path` once `accept` says that it is as wanted.
    async fn wait_for(&self, path: &str, accept: impl Fn(&Value) -> bool) -> Value {
        self.wait(path, async || {
            self.get(path).await.filter(|object| accept(object))
        })
        .await
    }

    async fn wait_items(&self, path: &str, accept: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        self.wait(path, async || {
            Some(self.items(path).await).filter(|items| accept(items))
        })
        .await
    }

    async fn add_node(&self) {
        self.create(
            "/api/v1/nodes",
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}),
        )
        .await;
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady",
            "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        self.merge(&format!("/api/v1/nodes/{NODE}/status"), ready).await;
    }

    /// Binds pods, reports them as running and ready, and confirms the end of those that are deleted, until dropped.
    fn play_kubelet(&self) -> Kubelet {
        let client = self.client.clone();
        Kubelet(tokio::spawn(async move {
            let mut next_ip = 1;
            loop {
                let _ = kubelet_round(&client, &mut next_ip).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }))
    }
}

struct Kubelet(JoinHandle<()>);

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn kubelet_round(client: &kube::Client, next_ip: &mut u32) -> Result<(), kube::Error> {
    let send =
        async |method: &str, path: String, content_type: &str, body: Value| -> Result<Value, kube::Error> {
            let request = http::Request::builder()
                .method(method)
                .uri(path)
                .header("content-type", content_type)
                .body(if body.is_null() {
                    Vec::new()
                } else {
                    serde_json::to_vec(&body).unwrap()
                })
                .unwrap();
            client.request(request).await
        };
    let pods = send("GET", "/api/v1/pods".into(), "application/json", Value::Null).await?;
    for pod in pods["items"].as_array().into_iter().flatten() {
        let (namespace, name) = (
            pod["metadata"]["namespace"].as_str().unwrap(),
            pod["metadata"]["name"].as_str().unwrap(),
        );
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        // Any of these may fail because the pod changed meanwhile; the next round sees that.
        let _ = if pod["metadata"]["deletionTimestamp"].is_string() {
            send(
                "DELETE",
                path,
                "application/json",
                json!({"gracePeriodSeconds": 0}),
            )
            .await
        } else if pod["spec"]["nodeName"].is_null() {
            let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
                "target": {"kind": "Node", "name": NODE}});
            send("POST", format!("{path}/binding"), "application/json", binding).await
        } else if pod["status"]["phase"] == "Pending" {
            let ip = format!("10.244.0.{next_ip}");
            *next_ip += 1;
            let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions":
                [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
            send(
                "PATCH",
                format!("{path}/status"),
                "application/merge-patch+json",
                status,
            )
            .await
        } else {
            continue;
        };
    }
    Ok(())
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn deployment(replicas: i32, image: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template(image)}})
}

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const WEB: &str = "/apis/apps/v1/namespaces/default/deployments/web";
const SETS: &str = "/apis/apps/v1/namespaces/default/replicasets";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn is_complete(deployment: &Value) -> bool {
    let progressing = deployment["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|one| one["type"] == "Progressing" && one["reason"] == "NewReplicaSetAvailable");
    let wanted = &deployment["spec"]["replicas"];
    let counts = [
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
    ];
    progressing
        && deployment["status"]["observedGeneration"] == deployment["metadata"]["generation"]
        && counts.iter().all(|count| deployment["status"][count] == *wanted)
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn namespaces_are_furnished_and_emptied() {
    let cluster = Cluster::default().await;
    let _kubelet = cluster.play_kubelet();
    cluster
        .create(
            "/api/v1/namespaces",
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}),
        )
        .await;
    let account = "/api/v1/namespaces/a/serviceaccounts/default";
    let root_ca = "/api/v1/namespaces/a/configmaps/kube-root-ca.crt";
    cluster.wait_for(account, |_| true).await;
    cluster
        .wait_for(root_ca, |map| map["data"] == json!({"ca.crt": "PEM"}))
        .await;

    cluster
        .merge(root_ca, json!({"data": {"ca.crt": "forged", "more": "x"}}))
        .await;
    cluster
        .wait_for(root_ca, |map| map["data"] == json!({"ca.crt": "PEM"}))
        .await;
    let uid = cluster.get(account).await.unwrap()["metadata"]["uid"].clone();
    cluster.delete(account, Value::Null).await;
    cluster
        .wait_for(account, |account| account["metadata"]["uid"] != uid)
        .await;

    let pod =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": template("x")["spec"]});
    cluster.create("/api/v1/namespaces/a/pods", pod).await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "finalizers": ["example.com/hold"]}});
    cluster.create("/api/v1/namespaces/a/secrets", secret).await;
    cluster.delete("/api/v1/namespaces/a", Value::Null).await;
    let held = cluster
        .wait_for("/api/v1/namespaces/a", |namespace| {
            namespace["status"]["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|one| one["type"] == "NamespaceFinalizersRemaining" && one["status"] == "True")
        })
        .await;
    assert_eq!(held["status"]["phase"], "Terminating");
    assert!(
        cluster.get("/api/v1/namespaces/a/pods/p").await.is_none(),
        "pods go first"
    );
    cluster
        .merge(
            "/api/v1/namespaces/a/secrets/s",
            json!({"metadata": {"finalizers": null}}),
        )
        .await;
    cluster.wait_gone("/api/v1/namespaces/a").await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_deployment_rolls_forward_and_back() {
    let cluster = Cluster::default().await;
    cluster.add_node().await;
    let _kubelet = cluster.play_kubelet();
    cluster.create(DEPLOYMENTS, deployment(3, "one")).await;
    let first = cluster.wait_for(WEB, is_complete).await;
    assert_eq!(
        first["metadata"]["annotations"]["deployment.kubernetes.io/revision"],
        "1"
    );
    let pods = cluster.items(PODS).await;
    assert_eq!(pods.len(), 3);
    let first_set = name(&cluster.items(SETS).await[0]);
    for pod in &pods {
        assert!(name(pod).starts_with(&format!("{first_set}-")), "{}", name(pod));
        assert_eq!(pod["metadata"]["ownerReferences"][0]["kind"], "ReplicaSet");
    }

    cluster
        .merge(WEB, json!({"spec": {"template": template("two")}}))
        .await;
    let second = cluster
        .wait_for(WEB, |web| {
            web["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "2" && is_complete(web)
        })
        .await;
    assert!(
        second["metadata"]["generation"].as_i64() == Some(2),
        "the controller's own writes are no change of the spec"
    );
    cluster
        .wait_items(PODS, |pods| {
            pods.len() == 3
                && pods
                    .iter()
                    .all(|pod| pod["spec"]["containers"][0]["image"] == "two")
        })
        .await;
    assert_eq!(cluster.items(SETS).await.len(), 2);

    // What `kubectl rollout undo` does: the old template again.
    cluster
        .merge(WEB, json!({"spec": {"template": template("one")}}))
        .await;
    cluster
        .wait_for(WEB, |web| {
            web["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "3" && is_complete(web)
        })
        .await;
    let back = cluster.get(&format!("{SETS}/{first_set}")).await.unwrap();
    assert_eq!(
        back["metadata"]["annotations"]["deployment.kubernetes.io/revision"],
        "3"
    );
    assert_eq!(
        back["metadata"]["annotations"]["deployment.kubernetes.io/revision-history"],
        "1"
    );

    cluster
        .merge(&format!("{WEB}/scale"), json!({"spec": {"replicas": 5}}))
        .await;
    cluster
        .wait_for(WEB, |web| web["spec"]["replicas"] == 5 && is_complete(web))
        .await;
    cluster
        .merge(&format!("{WEB}/scale"), json!({"spec": {"replicas": 1}}))
        .await;
    cluster
        .wait_for(WEB, |web| web["spec"]["replicas"] == 1 && is_complete(web))
        .await;
    cluster.wait_items(PODS, |pods| pods.len() == 1).await;

    let reasons: BTreeSet<String> = cluster
        .items("/api/v1/namespaces/default/events")
        .await
        .iter()
        .map(|event| event["reason"].as_str().unwrap().to_owned())
        .collect();
    for reason in ["ScalingReplicaSet", "SuccessfulCreate", "SuccessfulDelete"] {
        assert!(reasons.contains(reason), "{reason} of {reasons:?}");
    }

    // Deleting the deployment takes its sets and pods along.
    cluster
        .delete(WEB, json!({"propagationPolicy": "Background"}))
        .await;
    cluster.wait_items(SETS, <[Value]>::is_empty).await;
    cluster.wait_items(PODS, <[Value]>::is_empty).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_steady_cluster_is_silent() {
    let cluster = Cluster::default().await;
    cluster.add_node().await;
    let kubelet = cluster.play_kubelet();
    cluster.create(DEPLOYMENTS, deployment(2, "one")).await;
    cluster
        .create(
            "/api/v1/namespaces/default/services",
            json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}),
        )
        .await;
    cluster.wait_for(WEB, is_complete).await;
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io/service-name=web";
    cluster
        .wait_items(slices, |slices| {
            slices
                .iter()
                .flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten())
                .count()
                == 2
        })
        .await;
    cluster
        .wait_for("/api/v1/namespaces/default/endpoints/web", |endpoints| {
            endpoints["subsets"][0]["addresses"]
                .as_array()
                .is_some_and(|addresses| addresses.len() == 2)
        })
        .await;
    drop(kubelet);
    // Whatever is still on its way arrives; from then on nothing may be written.
    let version = async || {
        let mut versions = Vec::new();
        for path in [
            DEPLOYMENTS,
            SETS,
            PODS,
            "/apis/discovery.k8s.io/v1/endpointslices",
            "/api/v1/endpoints",
            "/api/v1/nodes",
            "/api/v1/namespaces",
        ] {
            for item in cluster.items(path).await {
                versions.push((name(&item), item["metadata"]["resourceVersion"].clone()));
            }
        }
        versions
    };
    let mut before = version().await;
    let settled = async {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let after = version().await;
            if after == before {
                return;
            }
            before = after;
        }
    };
    tokio::time::timeout(PATIENCE, settled)
        .await
        .expect("the controllers write for ever");
    cluster.stop().await;
}

#[tokio::test]
async fn pods_are_adopted_released_and_replaced() {
    let cluster = Cluster::default().await;
    cluster.add_node().await;
    let _kubelet = cluster.play_kubelet();
    let orphan = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "orphan", "labels": {"app": "web"}},
        "spec": template("x")["spec"]});
    cluster.create(PODS, orphan).await;
    let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "rs"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template("x")}});
    cluster.create(SETS, set).await;
    let adopted = cluster
        .wait_for(&format!("{PODS}/orphan"), |pod| {
            pod["metadata"]["ownerReferences"].is_array()
        })
        .await;
    assert_eq!(adopted["metadata"]["ownerReferences"][0]["controller"], true);
    cluster
        .wait_for(&format!("{SETS}/rs"), |set| {
            set["status"]["availableReplicas"] == 2
        })
        .await;
    assert_eq!(cluster.items(PODS).await.len(), 2);

    cluster
        .merge(
            &format!("{PODS}/orphan"),
            json!({"metadata": {"labels": {"app": "other"}}}),
        )
        .await;
    cluster
        .wait_for(&format!("{PODS}/orphan"), |pod| {
            pod["metadata"]["ownerReferences"]
                .as_array()
                .is_none_or(Vec::is_empty)
        })
        .await;
    cluster.wait_items(PODS, |pods| pods.len() == 3).await;
    cluster
        .delete(&format!("{SETS}/rs"), json!({"propagationPolicy": "Orphan"}))
        .await;
    cluster.wait_gone(&format!("{SETS}/rs")).await;
    let pods = cluster.items(PODS).await;
    assert_eq!(pods.len(), 3);
    assert!(pods.iter().all(|pod| {
        pod["metadata"]["ownerReferences"]
            .as_array()
            .is_none_or(Vec::is_empty)
    }));
    cluster.stop().await;
}

#[tokio::test]
async fn foreground_deletion_goes_from_the_leaves() {
    let cluster = Cluster::default().await;
    cluster.add_node().await;
    let kubelet = cluster.play_kubelet();
    cluster.create(DEPLOYMENTS, deployment(2, "one")).await;
    cluster.wait_for(WEB, is_complete).await;
    drop(kubelet);
    cluster
        .delete(WEB, json!({"propagationPolicy": "Foreground"}))
        .await;
    cluster
        .wait_items(PODS, |pods| {
            pods.iter()
                .all(|pod| pod["metadata"]["deletionTimestamp"].is_string())
        })
        .await;
    assert!(
        cluster.get(WEB).await.is_some(),
        "it waits for its pods, which nobody has ended yet"
    );
    let _kubelet = cluster.play_kubelet();
    cluster.wait_gone(WEB).await;
    assert_eq!(cluster.items(SETS).await, Vec::<Value>::new());
    cluster.stop().await;
}

#[tokio::test]
async fn an_object_with_an_absent_owner_is_garbage() {
    let cluster = Cluster::default().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let owner = cluster
        .create(
            maps,
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owner"}}),
        )
        .await;
    let owned = |name: &str, uid: &Value| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "ownerReferences":
            [{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}]}})
    };
    cluster
        .create(maps, owned("kept", &owner["metadata"]["uid"]))
        .await;
    cluster
        .create(
            maps,
            owned("stale", &json!("00000000-0000-0000-0000-000000000000")),
        )
        .await;
    cluster.wait_gone(&format!("{maps}/stale")).await;
    assert!(cluster.get(&format!("{maps}/kept")).await.is_some());
    cluster.delete(&format!("{maps}/owner"), Value::Null).await;
    cluster.wait_gone(&format!("{maps}/kept")).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_silent_node_is_tainted_and_its_pods_leave_their_service() {
    let config = Config {
        cluster_cidrs: vec![
            "10.244.0.0/16".parse().unwrap(),
            "fd00:10:244::/56".parse().unwrap(),
        ],
        node_monitor_grace_period: Duration::from_secs(2),
        ..Config::default()
    };
    let cluster = Cluster::start(config).await;
    cluster.add_node().await;
    let node = format!("/api/v1/nodes/{NODE}");
    let allocated = cluster
        .wait_for(&node, |node| node["spec"]["podCIDRs"].is_array())
        .await;
    assert_eq!(
        allocated["spec"]["podCIDRs"],
        json!(["10.244.0.0/24", "fd00:10:244::/64"])
    );
    assert_eq!(allocated["spec"]["podCIDR"], "10.244.0.0/24");
    let _kubelet = cluster.play_kubelet();
    let pod =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": template("x")["spec"]});
    cluster.create(PODS, pod).await;
    cluster
        .wait_for(&format!("{PODS}/p"), |pod| pod["status"]["phase"] == "Running")
        .await;
    let ready_is = |object: &Value, status: &str| {
        let conditions = object["status"]["conditions"].as_array();
        conditions
            .into_iter()
            .flatten()
            .any(|one| one["type"] == "Ready" && one["status"] == status)
    };
    let unknown = cluster
        .wait_for(&node, |node| {
            ready_is(node, "Unknown") && node["spec"]["taints"].is_array()
        })
        .await;
    assert_eq!(
        unknown["spec"]["taints"][0]["key"],
        "node.kubernetes.io/unreachable"
    );
    assert_eq!(
        unknown["spec"]["taints"].as_array().unwrap().len(),
        1,
        "the only node is not emptied"
    );
    cluster
        .wait_for(&format!("{PODS}/p"), |pod| ready_is(pod, "False"))
        .await;

    cluster
        .merge(&node, json!({"spec": {"unschedulable": true}}))
        .await;
    cluster
        .wait_for(&node, |node| {
            node["spec"]["taints"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|one| one["key"] == "node.kubernetes.io/unschedulable")
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_no_execute_taint_drives_pods_away() {
    let cluster = Cluster::default().await;
    cluster.add_node().await;
    let _kubelet = cluster.play_kubelet();
    let pod = |name: &str, tolerations: Value| {
        let mut spec = template("x")["spec"].clone();
        spec["tolerations"] = tolerations;
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
    };
    cluster.create(PODS, pod("goes", json!([]))).await;
    cluster
        .create(PODS, pod("stays", json!([{"key": "sick", "operator": "Exists"}])))
        .await;
    cluster
        .create(
            PODS,
            pod(
                "goes-later",
                json!([{"key": "sick", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}]),
            ),
        )
        .await;
    cluster
        .wait_items(PODS, |pods| {
            pods.iter().all(|pod| pod["status"]["phase"] == "Running")
        })
        .await;
    let node = format!("/api/v1/nodes/{NODE}");
    cluster
        .merge(
            &node,
            json!({"spec": {"taints": [{"key": "sick", "effect": "NoExecute"}]}}),
        )
        .await;
    cluster.wait_gone(&format!("{PODS}/goes")).await;
    cluster.wait_gone(&format!("{PODS}/goes-later")).await;
    assert!(cluster.get(&format!("{PODS}/stays")).await.is_some());
    cluster.stop().await;
}

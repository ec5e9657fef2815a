//! The scheduler against the real API server over the real store, in one process. There is no kubelet: a bound pod stays
//! as it is.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc, time::Duration};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Event, Node, Pod, ServiceAccount};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use store::{Embedded, EmbeddedOptions};

/// Long enough for the slowest machine: what is waited for comes by an event.
const PATIENCE: Duration = Duration::from_secs(60);

/// An API server with one namespace, and a scheduler.
struct Cluster {
    client: Client,
    scheduler: tokio::task::JoinHandle<anyhow::Result<()>>,
    _dir: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(EmbeddedOptions::new(dir.path())).unwrap();
        let server = apiserver::Server::new(apiserver::Config::default(), Arc::new(store))
            .await
            .unwrap();
        let client = server.client(user("kubernetes-admin", &["system:masters"]));
        // Usually the service account controller's work.
        let account = json!({"metadata": {"name": "default"}});
        create::<ServiceAccount>(&client, account).await;
        let scheduler = server.client(user("system:kube-scheduler", &[]));
        let scheduler = tokio::spawn(scheduler::run(scheduler, scheduler::Config::default()));
        Cluster {
            client,
            scheduler,
            _dir: dir,
        }
    }

    async fn node(&self, name: &str, cpu: &str) -> Node {
        let amounts = json!({"cpu": cpu, "memory": "8Gi", "pods": "110"});
        let node =
            json!({"metadata": {"name": name}, "status": {"allocatable": amounts, "capacity": amounts}});
        let nodes = Api::<Node>::all(self.client.clone());
        let node: Node = serde_json::from_value(node).unwrap();
        nodes.create(&PostParams::default(), &node).await.unwrap();
        // Admission taints a new node until somebody finds it ready; here nobody does.
        let ready = json!({"spec": {"taints": null}});
        nodes
            .patch(name, &PatchParams::default(), &Patch::Merge(ready))
            .await
            .unwrap()
    }

    async fn pod(&self, name: &str, cpu: &str, spec: Value) -> Pod {
        let mut spec = spec;
        spec["containers"] = json!([{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]);
        create(&self.client, json!({"metadata": {"name": name}, "spec": spec})).await
    }

    /// Waits until the pod, as a watch shows it, is as wanted.
    async fn pod_until(&self, name: &str, wanted: impl Fn(&Pod) -> bool) -> Pod {
        let pods = Api::<Pod>::default_namespaced(self.client.clone());
        let fields = watcher::Config::default().fields(&format!("metadata.name={name}"));
        until(watcher(pods, fields).applied_objects(), wanted).await
    }

    async fn bound(&self, name: &str) -> String {
        let pod = self.pod_until(name, |pod| node_of(pod).is_some()).await;
        node_of(&pod).unwrap()
    }

    async fn event(&self, pod: &str, wanted: impl Fn(&Event) -> bool) -> Event {
        let events = Api::<Event>::default_namespaced(self.client.clone());
        let wanted = |event: &Event| event.involved_object.name.as_deref() == Some(pod) && wanted(event);
        until(
            watcher(events, watcher::Config::default()).applied_objects(),
            wanted,
        )
        .await
    }

    async fn patch<K>(&self, api: Api<K>, name: &str, patch: Value)
    where
        K: kube::Resource + Clone + DeserializeOwned + Debug,
    {
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.scheduler.abort();
    }
}

fn user(name: &str, groups: &[&str]) -> apiserver::UserInfo {
    apiserver::UserInfo {
        name: name.to_owned(),
        groups: groups.iter().map(|group| group.to_string()).collect(),
        ..apiserver::UserInfo::default()
    }
}

async fn create<K>(client: &Client, object: Value) -> K
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope> + Clone + Debug,
    K: serde::Serialize + DeserializeOwned,
    K::DynamicType: Default,
{
    let object: K = serde_json::from_value(object).unwrap();
    Api::default_namespaced(client.clone())
        .create(&PostParams::default(), &object)
        .await
        .unwrap()
}

async fn until<K>(stream: impl futures::Stream<Item = watcher::Result<K>>, wanted: impl Fn(&K) -> bool) -> K {
    let found = stream.try_filter(|object| std::future::ready(wanted(object)));
    let mut found = std::pin::pin!(found);
    let first = tokio::time::timeout(PATIENCE, found.next()).await;
    first
        .expect("what the test waits for comes")
        .expect("watches do not end")
        .unwrap()
}

fn node_of(pod: &Pod) -> Option<String> {
    pod.spec
        .as_ref()?
        .node_name
        .clone()
        .filter(|node| !node.is_empty())
}

/// Status, reason and message of the condition `PodScheduled`.
fn condition(pod: &Pod) -> Option<(&str, &str, &str)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions
        .iter()
        .find(|condition| condition.type_ == "PodScheduled")?;
    let reason = condition.reason.as_deref().unwrap_or_default();
    Some((
        &condition.status,
        reason,
        condition.message.as_deref().unwrap_or_default(),
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_gets_its_node() {
    let cluster = Cluster::start().await;
    cluster.node("node1", "4").await;
    cluster.pod("web", "1", json!({})).await;
    assert_eq!(cluster.bound("web").await, "node1");
    let event = cluster
        .event("web", |event| event.reason.as_deref() == Some("Scheduled"))
        .await;
    assert_eq!(
        event.message.as_deref(),
        Some("Successfully assigned default/web to node1")
    );
    assert_eq!(
        event.source.and_then(|source| source.component).as_deref(),
        Some("default-scheduler")
    );
    let pod = cluster.pod_until("web", |pod| condition(pod).is_some()).await;
    assert_eq!(condition(&pod), Some(("True", "", "")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_fits_nowhere_says_why_and_waits() {
    let cluster = Cluster::start().await;
    cluster.pod("web", "2", json!({})).await;
    let no_nodes = "no nodes available to schedule pods";
    cluster
        .event("web", |event| event.message.as_deref() == Some(no_nodes))
        .await;

    cluster.node("small", "1").await;
    // Nothing has changed for the first pod, so only a second one tells of the node.
    cluster.pod("other", "2", json!({})).await;
    let expected = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are \
                    available: 1 Preemption is not helpful for scheduling.";
    let event = cluster
        .event("other", |event| {
            event.reason.as_deref() == Some("FailedScheduling")
        })
        .await;
    assert_eq!(
        (event.message.as_deref(), event.type_.as_deref()),
        (Some(expected), Some("Warning"))
    );
    let pod = cluster.pod_until("other", |pod| condition(pod).is_some()).await;
    assert_eq!(condition(&pod), Some(("False", "Unschedulable", expected)));

    cluster.node("large", "4").await;
    assert_eq!(cluster.bound("web").await, "large");
    assert_eq!(cluster.bound("other").await, "large");
    let pod = cluster
        .pod_until("other", |pod| condition(pod).is_some_and(|it| it.0 == "True"))
        .await;
    assert_eq!(condition(&pod), Some(("True", "", "")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_pod_makes_room() {
    let cluster = Cluster::start().await;
    cluster.node("node1", "2").await;
    cluster.pod("first", "2", json!({})).await;
    cluster.bound("first").await;
    cluster.pod("second", "2", json!({})).await;
    let expected = "1 No preemption victims found for incoming pod.";
    cluster
        .event("second", |event| {
            event
                .message
                .as_deref()
                .is_some_and(|text| text.ends_with(expected))
        })
        .await;
    let pods = Api::<Pod>::default_namespaced(cluster.client.clone());
    pods.delete("first", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    assert_eq!(cluster.bound("second").await, "node1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uncordoning_wakes() {
    let cluster = Cluster::start().await;
    cluster.node("node1", "2").await;
    let nodes = Api::<Node>::all(cluster.client.clone());
    cluster
        .patch(nodes.clone(), "node1", json!({"spec": {"unschedulable": true}}))
        .await;
    cluster.pod("web", "1", json!({})).await;
    let expected = "0/1 nodes are available: 1 node(s) were unschedulable. ";
    cluster
        .event("web", |event| {
            event
                .message
                .as_deref()
                .is_some_and(|text| text.starts_with(expected))
        })
        .await;
    cluster
        .patch(nodes, "node1", json!({"spec": {"unschedulable": null}}))
        .await;
    assert_eq!(cluster.bound("web").await, "node1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gates_hold_a_pod_back() {
    let cluster = Cluster::start().await;
    cluster.node("node1", "2").await;
    cluster
        .pod(
            "gated",
            "1",
            json!({"schedulingGates": [{"name": "example.com/quota"}]}),
        )
        .await;
    let pod = cluster.pod_until("gated", |pod| condition(pod).is_some()).await;
    let message = "Scheduling is blocked due to non-empty scheduling gates";
    assert_eq!(condition(&pod), Some(("False", "SchedulingGated", message)));
    // One behind it in the queue is through, so the gated one was passed over.
    cluster.pod("free", "1", json!({})).await;
    cluster.bound("free").await;
    let pods = Api::<Pod>::default_namespaced(cluster.client.clone());
    assert_eq!(node_of(&pods.get("gated").await.unwrap()), None);
    cluster
        .patch(pods, "gated", json!({"spec": {"schedulingGates": null}}))
        .await;
    assert_eq!(cluster.bound("gated").await, "node1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_schedulers_pods_are_left_alone() {
    let cluster = Cluster::start().await;
    cluster.node("node1", "2").await;
    cluster.pod("other", "1", json!({"schedulerName": "other"})).await;
    cluster.pod("ours", "1", json!({})).await;
    cluster.bound("ours").await;
    let pods = Api::<Pod>::default_namespaced(cluster.client.clone());
    assert_eq!(node_of(&pods.get("other").await.unwrap()), None);
}

/// More pods than the watches can have told about at any moment: what was decided and not yet seen must count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_fills_the_nodes_and_no_more() {
    const NODES: usize = 5;
    const PODS_PER_NODE: usize = 20;
    let cluster = Cluster::start().await;
    for node in 0..NODES {
        cluster
            .node(&format!("node{node}"), &PODS_PER_NODE.to_string())
            .await;
    }
    let names = (0..NODES * PODS_PER_NODE + 1).map(|pod| format!("pod{pod}"));
    futures::future::join_all(names.map(async |name| cluster.pod(&name, "1", json!({})).await)).await;
    // Exactly one is left over, whichever it is; when it is told so, all others are decided.
    let failed = "FailedScheduling";
    let events = Api::<Event>::default_namespaced(cluster.client.clone());
    let events = watcher(events, watcher::Config::default()).applied_objects();
    until(events, |event| event.reason.as_deref() == Some(failed)).await;
    let pods = Api::<Pod>::default_namespaced(cluster.client.clone());
    let is_bound = |pod: &&Pod| node_of(pod).is_some();
    let bound = async || {
        pods.list(&ListParams::default())
            .await
            .unwrap()
            .items
            .iter()
            .filter(is_bound)
            .count()
    };
    let mut changes = std::pin::pin!(watcher(pods.clone(), watcher::Config::default()));
    while bound().await < NODES * PODS_PER_NODE {
        tokio::time::timeout(PATIENCE, changes.next())
            .await
            .expect("all that fit are bound")
            .unwrap()
            .unwrap();
    }
    let mut per_node = BTreeMap::<_, usize>::new();
    for pod in pods.list(&ListParams::default()).await.unwrap() {
        match node_of(&pod) {
            Some(node) => *per_node.entry(node).or_default() += 1,
            None => assert!(
                condition(&pod).is_none_or(|it| it.1 == "Unschedulable"),
                "{}",
                pod.name_any()
            ),
        }
    }
    assert_eq!(
        per_node.values().copied().collect::<Vec<_>>(),
        [PODS_PER_NODE; NODES]
    );
}

//! The objects that controllers read, reduced to the fields that some controller reads.
//!
//! A full `k8s_openapi` Pod is several kilobytes before its first string; the control plane's memory target
//! leaves no room for that. Fields that are not named here are skipped while decoding and never stored. Pod
//! templates stay the JSON text they were: they are compared and copied, seldom looked into.
//!
//! Nothing decoded into these types may be written back whole; see [`crate::rest`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::LazyLock;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DeploymentStatus, DeploymentStrategy, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    EndpointSubset, NamespaceCondition, NodeCondition, ServicePort, Taint, Toleration,
};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, MicroTime, OwnerReference, Time};
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::queue::Key;
use crate::rest::{Resource, null_as_default};

/// A kind that an informer can hold.
pub(crate) trait Object: DeserializeOwned + Send + Sync + 'static {
    /// Where the API serves it.
    fn resource() -> &'static Resource;
    fn meta(&self) -> &Meta;

    fn key(&self) -> Key {
        Key::new(&self.meta().namespace, &self.meta().name)
    }
}

/// Object metadata without what no controller reads, such as `managedFields`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Meta {
    /// Empty for cluster-scoped objects.
    pub(crate) namespace: Box<str>,
    pub(crate) name: Box<str>,
    pub(crate) uid: Box<str>,
    pub(crate) resource_version: Box<str>,
    pub(crate) generation: i64,
    pub(crate) labels: Labels,
    pub(crate) annotations: Labels,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) owner_references: Vec<OwnerReference>,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) finalizers: Vec<String>,
    pub(crate) creation_timestamp: Option<Time>,
    pub(crate) deletion_timestamp: Option<Time>,
    pub(crate) deletion_grace_period_seconds: Option<i64>,
}

impl Meta {
    /// The owner that manages this object, if one does.
    pub(crate) fn controller(&self) -> Option<&OwnerReference> {
        self.owner_references
            .iter()
            .find(|owner| owner.controller == Some(true))
    }

    pub(crate) fn is_controlled_by(&self, uid: &str) -> bool {
        self.controller().is_some_and(|owner| owner.uid == uid)
    }

    pub(crate) fn is_deleted(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    /// Creation time; objects that were never stored count as the oldest.
    pub(crate) fn created(&self) -> Timestamp {
        self.creation_timestamp
            .as_ref()
            .map_or(Timestamp::UNIX_EPOCH, |time| time.0)
    }
}

/// A small sorted string map: labels or annotations. A `BTreeMap` of two labels takes ten times the memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Labels(Box<[(Box<str>, Box<str>)]>);

impl Labels {
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        let index = self
            .0
            .binary_search_by(|(candidate, _)| (**candidate).cmp(key))
            .ok()?;
        Some(&self.0[index].1)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: Into<Box<str>>, V: Into<Box<str>>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(iter: I) -> Self {
        let mut entries: Vec<_> = iter
            .into_iter()
            .map(|(key, value)| (key.into(), value.into()))
            .collect();
        entries.sort();
        Self(entries.into_boxed_slice())
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Labels;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
                let mut entries = Vec::new();
                // To Go, null in a map of strings is the empty string.
                while let Some((key, value)) = map.next_entry::<Box<str>, Option<Box<str>>>()? {
                    entries.push((key, value.unwrap_or_default()));
                }
                Ok(entries.into_iter().collect())
            }

            fn visit_unit<E: serde::de::Error>(self) -> Result<Labels, E> {
                Ok(Labels::default())
            }
        }
        deserializer.deserialize_any(Entries)
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

/// Declares where a kind is served and how its metadata is reached.
macro_rules! object {
    ($type:ty, $group:literal, $version:literal, $kind:literal, $plural:literal, $namespaced:literal) => {
        impl Object for $type {
            fn resource() -> &'static Resource {
                static RESOURCE: LazyLock<Resource> =
                    LazyLock::new(|| Resource::new($group, $version, $kind, $plural, $namespaced));
                &RESOURCE
            }

            fn meta(&self) -> &Meta {
                &self.metadata
            }
        }
    };
}

object!(Pod, "", "v1", "Pod", "pods", true);
object!(Node, "", "v1", "Node", "nodes", false);
object!(Service, "", "v1", "Service", "services", true);
object!(Namespace, "", "v1", "Namespace", "namespaces", false);
object!(Endpoints, "", "v1", "Endpoints", "endpoints", true);
object!(
    EndpointSlice,
    "discovery.k8s.io",
    "v1",
    "EndpointSlice",
    "endpointslices",
    true
);
object!(Deployment, "apps", "v1", "Deployment", "deployments", true);
object!(ReplicaSet, "apps", "v1", "ReplicaSet", "replicasets", true);
object!(
    ReplicationController,
    "",
    "v1",
    "ReplicationController",
    "replicationcontrollers",
    true
);
object!(Lease, "coordination.k8s.io", "v1", "Lease", "leases", true);
object!(
    ServiceAccount,
    "",
    "v1",
    "ServiceAccount",
    "serviceaccounts",
    true
);
object!(ConfigMap, "", "v1", "ConfigMap", "configmaps", true);
object!(
    ServiceCidr,
    "networking.k8s.io",
    "v1",
    "ServiceCIDR",
    "servicecidrs",
    false
);
object!(
    IpAddress,
    "networking.k8s.io",
    "v1",
    "IPAddress",
    "ipaddresses",
    false
);

/// A Pod.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Pod {
    pub(crate) metadata: Meta,
    pub(crate) spec: PodSpec,
    pub(crate) status: PodStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodSpec {
    /// Empty while the pod is not scheduled.
    pub(crate) node_name: Box<str>,
    pub(crate) hostname: Box<str>,
    pub(crate) subdomain: Box<str>,
    pub(crate) restart_policy: Box<str>,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) tolerations: Vec<Toleration>,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) containers: Box<[Container]>,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) init_containers: Box<[Container]>,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) scheduling_gates: Box<[serde::de::IgnoredAny]>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Container {
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) ports: Box<[ContainerPort]>,
    pub(crate) restart_policy: Box<str>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ContainerPort {
    pub(crate) name: Box<str>,
    pub(crate) protocol: Box<str>,
    pub(crate) container_port: i32,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodStatus {
    pub(crate) phase: Box<str>,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) conditions: Box<[PodCondition]>,
    #[serde(rename = "podIPs", deserialize_with = "null_as_default")]
    pub(crate) pod_ips: Box<[PodIp]>,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) container_statuses: Box<[ContainerStatus]>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodCondition {
    #[serde(rename = "type")]
    pub(crate) type_: Box<str>,
    pub(crate) status: Box<str>,
    pub(crate) last_transition_time: Option<Time>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct PodIp {
    pub(crate) ip: Box<str>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ContainerStatus {
    pub(crate) restart_count: i32,
}

impl Pod {
    pub(crate) fn condition(&self, type_: &str) -> Option<&PodCondition> {
        self.status
            .conditions
            .iter()
            .find(|condition| &*condition.type_ == type_)
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.condition("Ready")
            .is_some_and(|condition| &*condition.status == "True")
    }

    /// Since when the pod has been ready.
    pub(crate) fn ready_since(&self) -> Option<Timestamp> {
        let ready = self
            .condition("Ready")
            .filter(|condition| &*condition.status == "True")?;
        ready.last_transition_time.as_ref().map(|time| time.0)
    }

    /// Whether the pod has been ready for at least `min_ready_seconds`.
    pub(crate) fn is_available(&self, min_ready_seconds: i32, now: Timestamp) -> bool {
        if !self.is_ready() {
            return false;
        }
        if min_ready_seconds <= 0 {
            return true;
        }
        self.ready_since().is_some_and(|since| {
            now.duration_since(since) >= jiff::SignedDuration::from_secs(i64::from(min_ready_seconds))
        })
    }

    /// Succeeded or Failed: it never runs again.
    pub(crate) fn is_terminal(&self) -> bool {
        matches!(&*self.status.phase, "Succeeded" | "Failed")
    }

    /// Neither finished nor on its way out.
    pub(crate) fn is_active(&self) -> bool {
        !self.is_terminal() && !self.metadata.is_deleted()
    }
}

/// A Node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Node {
    pub(crate) metadata: Meta,
    pub(crate) spec: NodeSpec,
    pub(crate) status: NodeStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NodeSpec {
    #[serde(rename = "podCIDR")]
    pub(crate) pod_cidr: Box<str>,
    #[serde(rename = "podCIDRs", deserialize_with = "null_as_default")]
    pub(crate) pod_cidrs: Vec<Box<str>>,
    pub(crate) unschedulable: bool,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) taints: Vec<Taint>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NodeStatus {
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) conditions: Vec<NodeCondition>,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) allocatable: Allocatable,
}

/// What pods may use of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Allocatable {
    pub(crate) cpu: MilliCpu,
}

/// Thousandths of a CPU. What is no quantity counts as none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct MilliCpu(pub(crate) i64);

impl<'de> Deserialize<'de> for MilliCpu {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Option::<Box<str>>::deserialize(deserializer)?.unwrap_or_default();
        let quantity = api::quantity::Quantity::parse(&text);
        Ok(Self(quantity.map_or(0, |quantity| quantity.milli_value())))
    }
}

/// A Lease: only when it was renewed last.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Lease {
    pub(crate) metadata: Meta,
    pub(crate) spec: LeaseSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct LeaseSpec {
    pub(crate) renew_time: Option<MicroTime>,
}

/// A Namespace.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Namespace {
    pub(crate) metadata: Meta,
    pub(crate) spec: NamespaceSpec,
    pub(crate) status: NamespaceStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct NamespaceSpec {
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) finalizers: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct NamespaceStatus {
    pub(crate) phase: Box<str>,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) conditions: Vec<NamespaceCondition>,
}

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Service {
    pub(crate) metadata: Meta,
    pub(crate) spec: ServiceSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ServiceSpec {
    #[serde(rename = "type")]
    pub(crate) type_: Box<str>,
    #[serde(rename = "clusterIP")]
    pub(crate) cluster_ip: Box<str>,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) ip_families: Vec<Box<str>>,
    /// `None` if there is no selector at all: then the endpoints are somebody else's.
    pub(crate) selector: Option<Labels>,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) ports: Vec<ServicePort>,
    pub(crate) publish_not_ready_addresses: bool,
    pub(crate) traffic_distribution: Box<str>,
}

/// An EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct EndpointSlice {
    pub(crate) metadata: Meta,
    pub(crate) address_type: Box<str>,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) endpoints: Vec<Endpoint>,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) ports: Vec<EndpointPort>,
}

/// An Endpoints object.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Endpoints {
    pub(crate) metadata: Meta,
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) subsets: Vec<EndpointSubset>,
}

/// A ServiceAccount; that it exists is all that matters here.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct ServiceAccount {
    pub(crate) metadata: Meta,
}

/// A ConfigMap.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct ConfigMap {
    pub(crate) metadata: Meta,
    pub(crate) data: BTreeMap<String, String>,
}

/// A ServiceCIDR.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct ServiceCidr {
    pub(crate) metadata: Meta,
    pub(crate) spec: ServiceCidrSpec,
    pub(crate) status: ServiceCidrStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct ServiceCidrSpec {
    pub(crate) cidrs: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct ServiceCidrStatus {
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) conditions: Vec<Condition>,
}

/// A condition as `meta/v1` has it, without what no controller reads.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Condition {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) status: String,
    pub(crate) reason: String,
}

/// An IPAddress: its name is the address.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct IpAddress {
    pub(crate) metadata: Meta,
}

impl IpAddress {
    /// The address, if the API server's allocator made it; others are nobody's business.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        let maker = self.metadata.labels.get("ipaddress.kubernetes.io/managed-by");
        maker.filter(|maker| *maker == "ipallocator.k8s.io")?;
        self.metadata.name.parse().ok()
    }
}

/// A pod template as the JSON text that the API server sent.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct PodTemplate(Box<RawValue>);

impl PodTemplate {
    /// The template as a value to look into or to build from.
    pub(crate) fn to_value(&self) -> serde_json::Value {
        // The text was parsed once as part of its object, so it cannot be malformed.
        serde_json::from_str(self.0.get()).unwrap_or_default()
    }
}

impl Default for PodTemplate {
    fn default() -> Self {
        Self(RawValue::NULL.to_owned())
    }
}

impl From<&serde_json::Value> for PodTemplate {
    fn from(value: &serde_json::Value) -> Self {
        Self(serde_json::value::to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned()))
    }
}

impl PartialEq for PodTemplate {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

/// A Deployment.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Deployment {
    pub(crate) metadata: Meta,
    pub(crate) spec: DeploymentSpec,
    pub(crate) status: DeploymentStatus,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DeploymentSpec {
    pub(crate) replicas: i32,
    pub(crate) selector: LabelSelector,
    pub(crate) template: PodTemplate,
    pub(crate) strategy: DeploymentStrategy,
    pub(crate) min_ready_seconds: i32,
    pub(crate) revision_history_limit: Option<i32>,
    pub(crate) paused: bool,
    pub(crate) progress_deadline_seconds: Option<i32>,
}

impl Default for DeploymentSpec {
    fn default() -> Self {
        Self {
            replicas: 1,
            selector: LabelSelector::default(),
            template: PodTemplate::default(),
            strategy: DeploymentStrategy::default(),
            min_ready_seconds: 0,
            revision_history_limit: None,
            paused: false,
            progress_deadline_seconds: None,
        }
    }
}

/// A ReplicaSet.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct ReplicaSet {
    pub(crate) metadata: Meta,
    pub(crate) spec: ReplicaSetSpec,
    pub(crate) status: ReplicaSetStatus,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ReplicaSetSpec {
    pub(crate) replicas: i32,
    pub(crate) min_ready_seconds: i32,
    pub(crate) selector: LabelSelector,
    pub(crate) template: PodTemplate,
}

impl Default for ReplicaSetSpec {
    fn default() -> Self {
        Self {
            replicas: 1,
            min_ready_seconds: 0,
            selector: LabelSelector::default(),
            template: PodTemplate::default(),
        }
    }
}

/// A ReplicationController: a ReplicaSet whose selector is a plain map.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct ReplicationController {
    pub(crate) metadata: Meta,
    pub(crate) spec: ReplicationControllerSpec,
    pub(crate) status: ReplicaSetStatus,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ReplicationControllerSpec {
    pub(crate) replicas: i32,
    pub(crate) min_ready_seconds: i32,
    pub(crate) selector: Labels,
    pub(crate) template: PodTemplate,
}

impl Default for ReplicationControllerSpec {
    fn default() -> Self {
        Self {
            replicas: 1,
            min_ready_seconds: 0,
            selector: Labels::default(),
            template: PodTemplate::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_a_sorted_map() {
        let labels: Labels = serde_json::from_str(r#"{"b":"2","a":"1"}"#).unwrap();
        assert_eq!(
            (labels.get("a"), labels.get("b"), labels.get("c")),
            (Some("1"), Some("2"), None)
        );
        assert_eq!(serde_json::to_string(&labels).unwrap(), r#"{"a":"1","b":"2"}"#);
        assert!(serde_json::from_str::<Labels>("null").unwrap().is_empty());
        assert_eq!(
            serde_json::from_str::<Labels>(r#"{"a":null}"#).unwrap().get("a"),
            Some("")
        );
    }

    #[test]
    fn a_slice_from_go_may_have_null_lists() {
        let slice: EndpointSlice = serde_json::from_str(
            r#"{"metadata":{"name":"a"},"addressType":"IPv4","endpoints":null,"ports":null}"#,
        )
        .unwrap();
        assert!(slice.endpoints.is_empty() && slice.ports.is_empty());
    }

    #[test]
    fn a_template_keeps_fields_that_nobody_here_knows() {
        let set: ReplicaSet = serde_json::from_str(
            r#"{"metadata":{"name":"a","namespace":"b"},"spec":{"replicas":2,"selector":{},"template":{"spec":{"new":1}}}}"#,
        )
        .unwrap();
        assert_eq!(
            set.spec.template.to_value(),
            serde_json::json!({"spec": {"new": 1}})
        );
    }

    #[test]
    fn availability_counts_from_the_transition_to_ready() {
        let pod = |since: &str| -> Pod {
            serde_json::from_value(serde_json::json!({"status": {"conditions":
                [{"type": "Ready", "status": "True", "lastTransitionTime": since}]}}))
            .unwrap()
        };
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        assert!(pod("2026-01-01T00:00:30Z").is_available(30, now));
        assert!(!pod("2026-01-01T00:00:31Z").is_available(30, now));
        assert!(pod("2026-01-01T00:00:59Z").is_available(0, now));
        assert!(!Pod::default().is_available(0, now));
    }
}

//! Upstream's table columns per kind: what `kubectl get` and `kubectl get -o wide` show.
//!
//! A printer is data (the columns) and one function (the cells of a row). Kinds without a printer get the columns NAME and
//! CREATED AT, as upstream's default does. Source of the columns: `pkg/printers/internalversion/printers.go`.

mod age;
mod config;
mod core;
mod network;
mod node;
mod pod;
mod policy;
mod storage;
#[cfg(test)]
mod tests;
mod workload;

use jiff::Timestamp;
use serde_json::Value;

pub use age::{human_duration, since};

use crate::table::Column;

/// What the row of an object says besides its cells, as a list of `TableRowCondition`; most say nothing.
pub fn row_conditions(group: &str, kind: &str, object: &Value) -> Option<Value> {
    match (group, kind) {
        ("", "Pod") => pod::conditions(object),
        _ => None,
    }
}

/// How objects of one kind are shown.
#[derive(Debug, Clone, Copy)]
pub struct Printer {
    /// The columns, wide ones included.
    pub columns: &'static [Column],
    /// The cells of one object, one per column.
    pub row: fn(&Value, Timestamp) -> Vec<Value>,
}

/// What upstream writes for a value that is not there.
const NONE: &str = "<none>";
/// What upstream writes for a value that cannot be known.
const UNKNOWN: &str = "<unknown>";

/// The printer of a built-in kind; kinds that upstream has none for get the default one.
pub fn printer(group: &str, kind: &str) -> Printer {
    match (group, kind) {
        ("", "Pod") => pod::POD,
        ("", "Node") => node::NODE,
        ("", "Namespace") => core::NAMESPACE,
        ("", "ConfigMap") => core::CONFIG_MAP,
        ("", "Secret") => core::SECRET,
        ("", "ServiceAccount") => core::SERVICE_ACCOUNT,
        ("", "Event") | ("events.k8s.io", "Event") => core::EVENT,
        ("", "PodTemplate") => core::POD_TEMPLATE,
        ("", "ResourceQuota") => core::RESOURCE_QUOTA,
        ("", "ComponentStatus") => core::COMPONENT_STATUS,
        ("", "Service") => network::SERVICE,
        ("", "Endpoints") => network::ENDPOINTS,
        ("discovery.k8s.io", "EndpointSlice") => network::ENDPOINT_SLICE,
        ("networking.k8s.io", "Ingress") => network::INGRESS,
        ("networking.k8s.io", "IngressClass") => network::INGRESS_CLASS,
        ("networking.k8s.io", "NetworkPolicy") => network::NETWORK_POLICY,
        ("networking.k8s.io", "IPAddress") => network::IP_ADDRESS,
        ("networking.k8s.io", "ServiceCIDR") => network::SERVICE_CIDR,
        ("", "ReplicationController") => workload::REPLICATION_CONTROLLER,
        ("apps", "ReplicaSet") => workload::REPLICA_SET,
        ("apps", "Deployment") => workload::DEPLOYMENT,
        ("apps", "StatefulSet") => workload::STATEFUL_SET,
        ("apps", "DaemonSet") => workload::DAEMON_SET,
        ("apps", "ControllerRevision") => workload::CONTROLLER_REVISION,
        ("batch", "Job") => workload::JOB,
        ("batch", "CronJob") => workload::CRON_JOB,
        ("autoscaling", "Scale") => workload::SCALE,
        ("autoscaling", "HorizontalPodAutoscaler") => workload::HORIZONTAL_POD_AUTOSCALER,
        ("", "PersistentVolume") => storage::PERSISTENT_VOLUME,
        ("", "PersistentVolumeClaim") => storage::PERSISTENT_VOLUME_CLAIM,
        ("storage.k8s.io", "StorageClass") => storage::STORAGE_CLASS,
        ("storage.k8s.io", "VolumeAttributesClass") => storage::VOLUME_ATTRIBUTES_CLASS,
        ("storage.k8s.io", "CSIDriver") => storage::CSI_DRIVER,
        ("storage.k8s.io", "CSINode") => storage::CSI_NODE,
        ("storage.k8s.io", "CSIStorageCapacity") => storage::CSI_STORAGE_CAPACITY,
        ("storage.k8s.io", "VolumeAttachment") => storage::VOLUME_ATTACHMENT,
        ("policy", "PodDisruptionBudget") => policy::POD_DISRUPTION_BUDGET,
        ("rbac.authorization.k8s.io", "RoleBinding") => policy::ROLE_BINDING,
        ("rbac.authorization.k8s.io", "ClusterRoleBinding") => policy::CLUSTER_ROLE_BINDING,
        ("certificates.k8s.io", "CertificateSigningRequest") => policy::CERTIFICATE_SIGNING_REQUEST,
        ("certificates.k8s.io", "ClusterTrustBundle") => policy::CLUSTER_TRUST_BUNDLE,
        ("scheduling.k8s.io", "PriorityClass") => config::PRIORITY_CLASS,
        ("coordination.k8s.io", "Lease") => config::LEASE,
        ("node.k8s.io", "RuntimeClass") => config::RUNTIME_CLASS,
        (
            "admissionregistration.k8s.io",
            "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration",
        ) => config::WEBHOOKS,
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => config::VALIDATING_ADMISSION_POLICY,
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy") => config::MUTATING_ADMISSION_POLICY,
        (
            "admissionregistration.k8s.io",
            "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding",
        ) => config::ADMISSION_POLICY_BINDING,
        ("apiregistration.k8s.io", "APIService") => config::API_SERVICE,
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => config::FLOW_SCHEMA,
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => config::PRIORITY_LEVEL,
        ("resource.k8s.io", "ResourceClaim") => config::RESOURCE_CLAIM,
        ("resource.k8s.io", "ResourceSlice") => config::RESOURCE_SLICE,
        ("resource.k8s.io", "DeviceClass" | "ResourceClaimTemplate") => config::NAME_AND_AGE,
        _ => DEFAULT,
    }
}

/// What every kind has: its name and when it was made.
const DEFAULT: Printer = Printer {
    columns: &[
        NAME,
        Column {
            name: "Created At",
            ty: "date",
            format: "",
            priority: 0,
            describes: Some((OBJECT_META, "creationTimestamp")),
        },
    ],
    row: |object, _| vec![name(object), object["metadata"]["creationTimestamp"].clone()],
};

/// The column that every table begins with.
const NAME: Column = Column {
    name: "Name",
    ty: "string",
    format: "name",
    priority: 0,
    describes: Some((OBJECT_META, "name")),
};
const AGE: Column = string("Age").of(OBJECT_META, "creationTimestamp");
const OBJECT_META: &str = "meta.v1.ObjectMeta";

/// A column of text that is always shown.
const fn string(name: &'static str) -> Column {
    Column {
        name,
        ty: "string",
        format: "",
        priority: 0,
        describes: None,
    }
}

/// A column of numbers that is always shown.
const fn integer(name: &'static str) -> Column {
    Column {
        name,
        ty: "integer",
        format: "",
        priority: 0,
        describes: None,
    }
}

/// A column of truth values that is always shown.
const fn boolean(name: &'static str) -> Column {
    Column {
        name,
        ty: "boolean",
        format: "",
        priority: 0,
        describes: None,
    }
}

/// A column that only `-o wide` shows.
const fn wide(name: &'static str) -> Column {
    Column {
        name,
        ty: "string",
        format: "",
        priority: 1,
        describes: None,
    }
}

fn name(object: &Value) -> Value {
    object["metadata"]["name"].clone()
}

/// The object's age, from its creation.
fn age(object: &Value, now: Timestamp) -> Value {
    since(&object["metadata"]["creationTimestamp"], now).into()
}

/// A text field; empty when absent.
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

/// A text field, or `<none>`.
fn text_or_none(value: &Value) -> Value {
    match text(value) {
        "" => NONE.into(),
        present => present.into(),
    }
}

/// A number field; 0 when absent.
fn number(value: &Value) -> Value {
    value.as_i64().unwrap_or(0).into()
}

/// A list field; empty when absent.
fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The texts that `field` picks from a list, joined by commas.
fn joined<'a>(items: &'a [Value], field: impl Fn(&'a Value) -> &'a str) -> String {
    items.iter().map(field).collect::<Vec<_>>().join(",")
}

/// A comma-separated list cut after `most` entries, as upstream's `+ 2 more...` does.
fn cut(items: &[String], most: usize) -> String {
    if items.is_empty() {
        return NONE.to_owned();
    }
    let shown = items[..items.len().min(most)].join(",");
    match items.len().checked_sub(most) {
        Some(more) if more > 0 => format!("{shown} + {more} more..."),
        _ => shown,
    }
}

/// `a=b,c=d`, or `<none>` for an empty map: labels and simple selectors.
fn labels(value: &Value) -> String {
    let pairs: Vec<String> = value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", text(value)))
        .collect();
    if pairs.is_empty() {
        NONE.to_owned()
    } else {
        pairs.join(",")
    }
}

/// A `LabelSelector` in the notation of `kubectl -l`, ordered by key; `<none>` when it selects everything.
fn label_selector(value: &Value) -> String {
    let labels = value["matchLabels"].as_object().into_iter().flatten();
    let labels = labels.map(|(key, value)| (key.as_str(), format!("{key}={}", text(value))));
    let expressions = list(&value["matchExpressions"]).iter().map(|requirement| {
        let key = text(&requirement["key"]);
        let mut values: Vec<&str> = list(&requirement["values"]).iter().map(text).collect();
        values.sort_unstable();
        let values = values.join(",");
        let shown = match text(&requirement["operator"]) {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        };
        (key, shown)
    });
    let mut parts: Vec<(&str, String)> = labels.chain(expressions).collect();
    parts.sort_by_key(|(key, _)| *key);
    if parts.is_empty() {
        return NONE.to_owned();
    }
    let parts: Vec<String> = parts.into_iter().map(|(_, shown)| shown).collect();
    parts.join(",")
}

/// The names and the images of a pod template's containers.
fn containers(spec: &Value) -> (String, String) {
    let containers = list(&spec["containers"]);
    (
        joined(containers, |c| text(&c["name"])),
        joined(containers, |c| text(&c["image"])),
    )
}

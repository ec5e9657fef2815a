//! The Node's status. Pure.

use std::{cmp::Reverse, collections::BTreeMap};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        ContainerImage, DaemonEndpoint, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeRuntimeHandler,
        NodeStatus,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::Time},
};
use serde_json::{Value, json};

use super::{Health, Machine};
use crate::config::Config;

/// Upstream's `nodeStatusMaxImages`.
const IMAGES_MAX: usize = 50;
/// Upstream lists no more names per image.
const IMAGE_NAMES_MAX: usize = 5;

/// What a status is built from.
pub(super) struct Input<'a> {
    pub(super) config: &'a Config,
    pub(super) machine: &'a Machine,
    pub(super) health: &'a Health,
    pub(super) images: &'a [k8s_cri::v1::Image],
    pub(super) runtime_version: &'a str,
    pub(super) previous: Option<&'a NodeStatus>,
    pub(super) now: Timestamp,
}

/// The labels that the kubelet keeps.
pub(super) fn labels(config: &Config, machine: &Machine) -> BTreeMap<String, String> {
    let mut labels = config.node_labels.clone();
    for (key, value) in [
        ("kubernetes.io/hostname", &config.node_name),
        ("kubernetes.io/os", &machine.info.operating_system),
        ("kubernetes.io/arch", &machine.info.architecture),
        ("beta.kubernetes.io/os", &machine.info.operating_system),
        ("beta.kubernetes.io/arch", &machine.info.architecture),
    ] {
        labels.insert(key.to_owned(), value.clone());
    }
    labels
}

/// Builds the status.
pub(super) fn build(input: &Input<'_>) -> NodeStatus {
    let (machine, file) = (input.machine, &input.config.file);
    let allocatable = machine.allocatable(file);
    let resources = |cpu_milli: i64, memory: i64, storage: String| {
        let mut list = BTreeMap::from([
            ("cpu".to_owned(), cpu(cpu_milli)),
            ("memory".to_owned(), Quantity(format!("{}Ki", memory / 1024))),
            ("ephemeral-storage".to_owned(), Quantity(storage)),
            ("pods".to_owned(), Quantity(file.max_pods.to_string())),
        ]);
        for (kib, bytes) in &machine.huge_pages {
            let size = if kib % (1 << 20) == 0 {
                format!("{}Gi", kib >> 20)
            } else if kib % 1024 == 0 {
                format!("{}Mi", kib >> 10)
            } else {
                format!("{kib}Ki")
            };
            let amount = if *bytes == 0 {
                "0".to_owned()
            } else {
                format!("{}Mi", bytes >> 20)
            };
            list.insert(format!("hugepages-{size}"), Quantity(amount));
        }
        list
    };
    let mut info = machine.info.clone();
    let previous_info = input.previous.and_then(|status| status.node_info.as_ref());
    info.container_runtime_version = match (input.runtime_version, previous_info) {
        ("", Some(previous)) => previous.container_runtime_version.clone(),
        (version, _) => version.to_owned(),
    };
    let mut addresses: Vec<NodeAddress> = input
        .config
        .node_ips
        .iter()
        .map(|ip| NodeAddress {
            type_: "InternalIP".into(),
            address: ip.to_string(),
        })
        .collect();
    addresses.push(NodeAddress {
        type_: "Hostname".into(),
        address: input.config.node_name.clone(),
    });
    let known_images = images(input.images);
    NodeStatus {
        addresses: Some(addresses),
        capacity: Some(resources(
            machine.cpu_milli,
            machine.memory_bytes,
            format!("{}Ki", machine.storage_bytes / 1024),
        )),
        allocatable: Some(resources(
            allocatable.cpu_milli,
            allocatable.memory,
            allocatable.ephemeral_storage.to_string(),
        )),
        conditions: Some(conditions(input)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint {
                port: i32::from(file.port),
            }),
        }),
        images: match known_images.is_empty() {
            true => input.previous.and_then(|previous| previous.images.clone()),
            false => Some(known_images),
        },
        node_info: Some(info),
        runtime_handlers: Some(vec![NodeRuntimeHandler {
            name: Some(String::new()),
            features: None,
        }]),
        ..Default::default()
    }
}

fn cpu(milli: i64) -> Quantity {
    Quantity(if milli % 1000 == 0 {
        (milli / 1000).to_string()
    } else {
        format!("{milli}m")
    })
}

/// The largest images, as upstream lists them: the scheduler prefers nodes that have them.
fn images(present: &[k8s_cri::v1::Image]) -> Vec<ContainerImage> {
    let mut sorted: Vec<&k8s_cri::v1::Image> = present.iter().collect();
    sorted.sort_by_key(|image| (Reverse(image.size), image.id.clone()));
    sorted
        .into_iter()
        .take(IMAGES_MAX)
        .map(|image| ContainerImage {
            names: Some(
                image
                    .repo_digests
                    .iter()
                    .chain(&image.repo_tags)
                    .take(IMAGE_NAMES_MAX)
                    .cloned()
                    .collect(),
            ),
            size_bytes: i64::try_from(image.size).ok(),
        })
        .collect()
}

fn conditions(input: &Input<'_>) -> Vec<NodeCondition> {
    let ready = input.health.is_ready();
    let rows = [
        (
            "MemoryPressure",
            false,
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available".to_owned(),
        ),
        (
            "DiskPressure",
            false,
            "KubeletHasNoDiskPressure",
            "kubelet has no disk pressure".to_owned(),
        ),
        (
            "PIDPressure",
            false,
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available".to_owned(),
        ),
        match ready {
            true => (
                "Ready",
                true,
                "KubeletReady",
                "kubelet is posting ready status".to_owned(),
            ),
            false => ("Ready", false, "KubeletNotReady", input.health.message()),
        },
    ];
    rows.into_iter()
        .map(|(type_, status, reason, message)| {
            let status = if status { "True" } else { "False" };
            let before = input
                .previous
                .and_then(|previous| previous.conditions.as_ref())
                .and_then(|conditions| conditions.iter().find(|condition| condition.type_ == type_));
            let since = before
                .filter(|before| before.status == status)
                .and_then(|before| before.last_transition_time.clone());
            NodeCondition {
                type_: type_.into(),
                status: status.into(),
                reason: Some(reason.into()),
                message: Some(message),
                last_heartbeat_time: Some(Time(input.now)),
                last_transition_time: Some(since.unwrap_or(Time(input.now))),
            }
        })
        .collect()
}

/// Whether `wanted` says something new, heartbeats aside. Conditions of other writers do not count.
pub(super) fn differs(current: Option<&NodeStatus>, wanted: &NodeStatus) -> bool {
    let Some(current) = current else { return true };
    let mut mine = wanted.clone();
    let mut theirs = NodeStatus {
        addresses: current.addresses.clone(),
        capacity: current.capacity.clone(),
        allocatable: current.allocatable.clone(),
        conditions: current.conditions.clone(),
        daemon_endpoints: current.daemon_endpoints.clone(),
        images: current.images.clone(),
        node_info: current.node_info.clone(),
        runtime_handlers: mine.runtime_handlers.clone(),
        ..Default::default()
    };
    let ours: Vec<String> = mine
        .conditions
        .iter()
        .flatten()
        .map(|condition| condition.type_.clone())
        .collect();
    for status in [&mut mine, &mut theirs] {
        if let Some(conditions) = &mut status.conditions {
            conditions.retain(|condition| ours.contains(&condition.type_));
            conditions.sort_by(|left, right| left.type_.cmp(&right.type_));
            for condition in conditions {
                condition.last_heartbeat_time = None;
                condition.last_transition_time = None;
            }
        }
    }
    mine != theirs
}

/// A strategic merge patch that sets the status, addresses included when one goes away.
pub(super) fn patch(wanted: &NodeStatus) -> Value {
    let mut patch = json!(wanted);
    if let Some(Value::Array(addresses)) = patch.get_mut("addresses") {
        addresses.insert(0, json!({"$patch": "replace"}));
    }
    patch
}

/// Which conditions the node's events have told of.
pub(super) struct Transitions(BTreeMap<String, String>);

impl Transitions {
    /// What the API held before this kubelet.
    pub(super) fn of(status: Option<&NodeStatus>) -> Self {
        let conditions = status.and_then(|status| status.conditions.as_ref());
        Self(
            conditions
                .into_iter()
                .flatten()
                .map(|condition| (condition.type_.clone(), condition.status.clone()))
                .collect(),
        )
    }

    /// Reason and message of the events due.
    pub(super) fn update(&mut self, node_name: &str, status: &NodeStatus) -> Vec<(&'static str, String)> {
        let mut due = Vec::new();
        for condition in status.conditions.iter().flatten() {
            let before = self.0.insert(condition.type_.clone(), condition.status.clone());
            if before.as_ref() == Some(&condition.status) {
                continue;
            }
            let reason = match (condition.type_.as_str(), condition.status.as_str()) {
                ("MemoryPressure", "False") => "NodeHasSufficientMemory",
                ("DiskPressure", "False") => "NodeHasNoDiskPressure",
                ("PIDPressure", "False") => "NodeHasSufficientPID",
                ("Ready", "True") => "NodeReady",
                ("Ready", _) if before.is_some() => "NodeNotReady",
                _ => continue,
            };
            due.push((reason, format!("Node {node_name} status is now: {reason}")));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::FileConfig;

    fn config() -> Config {
        Config {
            kubeconfig: "/k".into(),
            node_name: "node1".into(),
            node_ips: vec![
                "172.31.0.11".parse().expect("an address"),
                "fd00:31::11".parse().expect("an address"),
            ],
            root_dir: "/r".into(),
            node_labels: [("zone".to_owned(), "a".to_owned())].into(),
            register_with_taints: Vec::new(),
            runtime_socket: "/s".into(),
            file: FileConfig::default(),
        }
    }

    fn machine() -> Machine {
        let mut machine = Machine {
            cpu_milli: 2000,
            memory_bytes: 1 << 30,
            storage_bytes: 1_000_000 * 1024,
            huge_pages: vec![(2048, 0), (1 << 20, 1 << 30)],
            ..Default::default()
        };
        machine.info.operating_system = "linux".into();
        machine.info.architecture = "amd64".into();
        machine
    }

    fn build_with(health: &Health, previous: Option<&NodeStatus>) -> NodeStatus {
        build(&Input {
            config: &config(),
            machine: &machine(),
            health,
            images: &[],
            runtime_version: "containerd://1.6.20",
            previous,
            now: "2026-01-01T00:00:00Z".parse().expect("a timestamp"),
        })
    }

    fn ready(status: &NodeStatus) -> NodeCondition {
        let found = status
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == "Ready");
        found.cloned().expect("Ready is there")
    }

    #[test]
    fn resources_and_addresses() {
        let status = build_with(
            &Health {
                known: true,
                ..Default::default()
            },
            None,
        );
        let capacity = status.capacity.clone().unwrap_or_default();
        assert_eq!(capacity["cpu"].0, "2");
        assert_eq!(capacity["memory"].0, "1048576Ki");
        assert_eq!(capacity["hugepages-1Gi"].0, "1024Mi");
        assert_eq!(capacity["hugepages-2Mi"].0, "0");
        let allocatable = status.allocatable.clone().unwrap_or_default();
        assert_eq!(allocatable["memory"].0, "946176Ki");
        assert_eq!(allocatable["pods"].0, "110");
        let addresses: Vec<String> = status
            .addresses
            .unwrap_or_default()
            .into_iter()
            .map(|address| address.address)
            .collect();
        assert_eq!(addresses, ["172.31.0.11", "fd00:31::11", "node1"]);
        assert_eq!(labels(&config(), &machine())["kubernetes.io/hostname"], "node1");
    }

    #[test]
    fn ready_and_why_not() {
        let healthy = Health {
            known: true,
            ..Default::default()
        };
        assert_eq!(
            ready(&build_with(&healthy, None)).reason.as_deref(),
            Some("KubeletReady")
        );
        let network = "container runtime network not ready: NetworkReady=false \
            reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized";
        let no_network = Health {
            network: Some(network.into()),
            ..healthy.clone()
        };
        let condition = ready(&build_with(&no_network, None));
        assert_eq!(
            (condition.reason.as_deref(), condition.message.as_deref()),
            (Some("KubeletNotReady"), Some(network))
        );
    }

    #[test]
    fn only_news_is_written() {
        let healthy = Health {
            known: true,
            ..Default::default()
        };
        let first = build_with(&healthy, None);
        let second = build_with(&healthy, Some(&first));
        assert!(!differs(Some(&first), &second));
        let down = Health {
            runtime: Some("container runtime is down".into()),
            ..healthy
        };
        let third = build_with(&down, Some(&first));
        assert!(differs(Some(&first), &third));
        let mut transitions = Transitions::of(Some(&first));
        let due = transitions.update("node1", &third);
        assert_eq!(
            due,
            [(
                "NodeNotReady",
                "Node node1 status is now: NodeNotReady".to_owned()
            )]
        );
    }
}

//! What the scheduler keeps of a Node, and what the pods there take from it.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::{Node, Taint};

use crate::{
    pod::{Demand, HostPort},
    resources::{Resources, allowed_pods},
};

/// A node and its use.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct NodeInfo {
    pub(crate) name: Arc<str>,
    pub(crate) properties: NodeProperties,
    pub(crate) usage: Usage,
}

/// The fields of a Node that decide whether a pod goes there. A heartbeat changes none of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct NodeProperties {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) taints: Vec<Taint>,
    pub(crate) unschedulable: bool,
    pub(crate) allocatable: Resources,
    pub(crate) allowed_pods: i64,
}

impl NodeProperties {
    pub(crate) fn of(node: &Node) -> NodeProperties {
        let allocatable = node
            .status
            .as_ref()
            .and_then(|status| status.allocatable.as_ref());
        let spec = node.spec.as_ref();
        NodeProperties {
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: spec.and_then(|spec| spec.taints.clone()).unwrap_or_default(),
            unschedulable: spec.and_then(|spec| spec.unschedulable).unwrap_or_default(),
            allocatable: Resources::of(allocatable),
            allowed_pods: allowed_pods(allocatable),
        }
    }
}

/// What the pods on a node take, those included that were only just decided to go there.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Usage {
    pub(crate) pods: i64,
    pub(crate) requests: Resources,
    pub(crate) non_zero_requests: Resources,
    pub(crate) host_ports: Vec<HostPort>,
}

impl Usage {
    pub(crate) fn add(&mut self, demand: &Demand) {
        self.pods += 1;
        self.requests.add(&demand.requests);
        self.non_zero_requests.add(&demand.non_zero_requests);
        self.host_ports.extend_from_slice(&demand.host_ports);
    }

    /// Takes back what [`Self::add`] with the same demand has added.
    pub(crate) fn subtract(&mut self, demand: &Demand) {
        self.pods -= 1;
        self.requests.subtract(&demand.requests);
        self.non_zero_requests.subtract(&demand.non_zero_requests);
        for port in &demand.host_ports {
            if let Some(index) = self.host_ports.iter().position(|taken| taken == port) {
                self.host_ports.swap_remove(index);
            }
        }
    }
}

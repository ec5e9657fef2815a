//! The plugins, in upstream's default order: a node is rejected with the reasons of the first filter that does.
//!
//! Upstream's `NodeName` has nothing to do here: a pod that names its node never comes to the scheduler.

pub(crate) mod node_affinity;
mod node_ports;
mod node_resources_balanced_allocation;
mod node_resources_fit;
mod node_unschedulable;
mod taint_toleration;

#[cfg(test)]
pub(crate) mod testing;

use self::{
    node_affinity::NodeAffinity, node_ports::NodePorts,
    node_resources_balanced_allocation::NodeResourcesBalancedAllocation,
    node_resources_fit::NodeResourcesFit, node_unschedulable::NodeUnschedulable,
    taint_toleration::TaintToleration,
};
use crate::{
    framework::{Filter, Rejection, Score},
    node::NodeInfo,
    pod::PodInfo,
};

pub(crate) const SCORES: [&dyn Score; 4] = [
    &TaintToleration,
    &NodeAffinity,
    &NodeResourcesFit,
    &NodeResourcesBalancedAllocation,
];

const FILTERS: [&dyn Filter; 5] = [
    &NodeUnschedulable,
    &TaintToleration,
    &NodeAffinity,
    &NodePorts,
    &NodeResourcesFit,
];

/// Whether a pod can run on a node, by all filters.
pub(crate) fn filter(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    FILTERS.iter().try_for_each(|plugin| plugin.filter(pod, node))
}

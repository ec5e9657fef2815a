//! `NodeResourcesBalancedAllocation`: prefers the node whose CPU and memory the pod makes more evenly used.

use crate::{
    framework::{MAX_NODE_SCORE, Score},
    node::NodeInfo,
    pod::PodInfo,
    resources::Resources,
};

pub(crate) struct NodeResourcesBalancedAllocation;

impl Score for NodeResourcesBalancedAllocation {
    fn weight(&self) -> i64 {
        1
    }

    /// Above 75 when the pod improves the balance, below when it worsens it. A pod without requests changes nothing.
    fn score(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let wanted = &pod.demand.requests;
        if wanted.milli_cpu == 0 && wanted.memory_bytes == 0 {
            return 0;
        }
        let mut with = node.usage.requests.clone();
        with.add(wanted);
        let change = balance(&with, node) - balance(&node.usage.requests, node);
        MAX_NODE_SCORE / 2 + (MAX_NODE_SCORE / 2 + change) / 2
    }
}

/// How even the shares of the node's resources are that are taken, in percent: 100 less their standard deviation.
fn balance(taken: &Resources, node: &NodeInfo) -> i64 {
    let allocatable = &node.properties.allocatable;
    let share = |taken: i64, allocatable: i64| {
        (allocatable > 0).then(|| (taken as f64 / allocatable as f64).min(1.0))
    };
    let cpu = share(taken.milli_cpu, allocatable.milli_cpu);
    let memory = share(taken.memory_bytes, allocatable.memory_bytes);
    // The deviation of two values is half their difference; one alone has none.
    let deviation = cpu
        .zip(memory)
        .map_or(0.0, |(cpu, memory)| ((cpu - memory) / 2.0).abs());
    ((1.0 - deviation) * MAX_NODE_SCORE as f64) as i64
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{node, pod};

    fn requesting(cpu: &str, memory: &str) -> PodInfo {
        let requests = json!({"cpu": cpu, "memory": memory});
        pod(json!({"containers": [{"name": "c", "resources": {"requests": requests}}]}))
    }

    fn with(allocatable: Value, used: &PodInfo) -> NodeInfo {
        let mut node = node(json!({"status": {"allocatable": allocatable}}));
        node.usage.add(&used.demand);
        node
    }

    #[test]
    fn evener_is_better() {
        let allocatable = json!({"cpu": "10", "memory": "1000"});
        let score = |used: &PodInfo, wanted: &PodInfo| {
            NodeResourcesBalancedAllocation.score(wanted, &with(allocatable.clone(), used))
        };
        let (none, cpu, memory) = (requesting("0", "0"), requesting("4", "0"), requesting("0", "400"));
        assert_eq!(score(&none, &none), 0);
        assert_eq!(score(&none, &requesting("4", "400")), 75);
        // Shares 0.4 and 0 deviate by 0.2.
        assert_eq!(score(&none, &cpu), 65);
        assert_eq!(score(&cpu, &memory), 85);
        let no_memory = with(json!({"cpu": "10"}), &none);
        assert_eq!(NodeResourcesBalancedAllocation.score(&cpu, &no_memory), 75);
    }
}

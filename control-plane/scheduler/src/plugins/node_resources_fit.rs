//! `NodeResourcesFit`: what a pod requests must be free on the node; among nodes, the least allocated is best.

use std::borrow::Cow;

use crate::{
    framework::{Code, Filter, MAX_NODE_SCORE, Rejection, Score},
    node::NodeInfo,
    pod::PodInfo,
};

pub(crate) struct NodeResourcesFit;

impl Filter for NodeResourcesFit {
    /// All that lacks is named, unlike between plugins, where the first ends it.
    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        let (allocatable, used) = (&node.properties.allocatable, &node.usage.requests);
        let wanted = &pod.demand.requests;
        let mut reasons = Vec::new();
        let mut code = Code::Unschedulable;
        if node.usage.pods + 1 > node.properties.allowed_pods {
            reasons.push(Cow::Borrowed("Too many pods"));
        }
        let mut check = |wanted: i64, allocatable: i64, used: i64, reason: &dyn Fn() -> Cow<'static, str>| {
            if wanted > 0 && wanted > allocatable - used {
                reasons.push(reason());
                if wanted > allocatable {
                    // Not even the empty node has that much.
                    code = Code::UnschedulableAndUnresolvable;
                }
            }
        };
        check(wanted.milli_cpu, allocatable.milli_cpu, used.milli_cpu, &|| {
            "Insufficient cpu".into()
        });
        check(
            wanted.memory_bytes,
            allocatable.memory_bytes,
            used.memory_bytes,
            &|| "Insufficient memory".into(),
        );
        check(
            wanted.ephemeral_storage_bytes,
            allocatable.ephemeral_storage_bytes,
            used.ephemeral_storage_bytes,
            &|| "Insufficient ephemeral-storage".into(),
        );
        for (name, amount) in &wanted.scalar {
            let of = |resources: &std::collections::BTreeMap<String, i64>| {
                resources.get(name).copied().unwrap_or(0)
            };
            check(*amount, of(&allocatable.scalar), of(&used.scalar), &|| {
                format!("Insufficient {name}").into()
            });
        }
        if reasons.is_empty() {
            Ok(())
        } else {
            Err(Rejection { code, reasons })
        }
    }
}

impl Score for NodeResourcesFit {
    fn weight(&self) -> i64 {
        1
    }

    /// The mean of what stays free of CPU and memory, in percent; a resource that the node lacks does not count.
    fn score(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let (allocatable, used) = (&node.properties.allocatable, &node.usage.non_zero_requests);
        let wanted = &pod.demand.non_zero_requests;
        let free = |allocatable: i64, requested: i64| match allocatable {
            ..=0 => None,
            _ if requested > allocatable => Some(0),
            _ => Some((allocatable - requested) * MAX_NODE_SCORE / allocatable),
        };
        let scores = [
            free(allocatable.milli_cpu, used.milli_cpu + wanted.milli_cpu),
            free(allocatable.memory_bytes, used.memory_bytes + wanted.memory_bytes),
        ];
        match scores.iter().flatten().count() as i64 {
            0 => 0,
            count => scores.iter().flatten().sum::<i64>() / count,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{node, pod};

    fn requesting(requests: Value) -> PodInfo {
        pod(json!({"containers": [{"name": "c", "resources": {"requests": requests}}]}))
    }

    fn with(allocatable: Value, used: Value) -> NodeInfo {
        let mut node = node(json!({"status": {"allocatable": allocatable}}));
        node.usage.add(&requesting(used).demand);
        node
    }

    /// Rows as in `TestEnoughRequests` (v1.34): a node with 10 CPUs, 20 bytes and 32 pods.
    #[test]
    fn fits() {
        let allocatable = json!({"cpu": "10", "memory": "20", "pods": "32", "ephemeral-storage": "20", "example.com/a": "5"});
        let amount = |cpu: i64, memory: i64| json!({"cpu": cpu.to_string(), "memory": memory.to_string()});
        let (later, never) = (Code::Unschedulable, Code::UnschedulableAndUnresolvable);
        for (wanted, used, expected) in [
            (json!({}), amount(10, 20), None),
            (
                amount(1, 1),
                amount(10, 20),
                Some((later, &["Insufficient cpu", "Insufficient memory"][..])),
            ),
            (amount(1, 1), amount(5, 5), None),
            (
                amount(1, 2),
                amount(5, 19),
                Some((later, &["Insufficient memory"])),
            ),
            (amount(5, 1), amount(5, 19), None),
            (amount(11, 1), json!({}), Some((never, &["Insufficient cpu"]))),
            (
                json!({"ephemeral-storage": "25"}),
                json!({}),
                Some((never, &["Insufficient ephemeral-storage"])),
            ),
            (
                json!({"example.com/a": "3"}),
                json!({"example.com/a": "3"}),
                Some((later, &["Insufficient example.com/a"])),
            ),
            (json!({"example.com/a": "3"}), json!({"example.com/a": "2"}), None),
            (
                json!({"example.com/b": "1"}),
                json!({}),
                Some((never, &["Insufficient example.com/b"])),
            ),
        ] {
            let expected = match expected {
                None => Ok(()),
                Some((code, reasons)) => Err(Rejection {
                    code,
                    reasons: reasons.iter().map(|reason| Cow::Borrowed(*reason)).collect(),
                }),
            };
            let node = with(allocatable.clone(), used.clone());
            assert_eq!(
                NodeResourcesFit.filter(&requesting(wanted.clone()), &node),
                expected,
                "{wanted} on {used}"
            );
        }
        let full = with(json!({"cpu": "10", "memory": "20", "pods": "1"}), json!({}));
        let rejection = Rejection::unschedulable("Too many pods");
        assert_eq!(
            NodeResourcesFit.filter(&requesting(json!({})), &full),
            Err(rejection)
        );
    }

    /// Rows as in `TestLeastAllocatedScoringStrategy` (v1.34).
    #[test]
    fn the_least_allocated_is_best() {
        let node = |cpu: i64, memory: i64, used: Value| {
            with(
                json!({"cpu": format!("{cpu}m"), "memory": memory.to_string()}),
                used,
            )
        };
        let of = |cpu: &str, memory: &str| json!({"cpu": cpu, "memory": memory});
        for (wanted, node, expected) in [
            (of("3", "5000"), node(4000, 10000, of("1m", "1")), (24 + 49) / 2),
            (of("3", "5000"), node(6000, 10000, of("1m", "1")), (49 + 49) / 2),
            (of("3", "5000"), node(2000, 10000, of("1m", "1")), 49 / 2),
            (of("3", "5000"), node(0, 0, of("1m", "1")), 0),
        ] {
            assert_eq!(
                NodeResourcesFit.score(&requesting(wanted.clone()), &node),
                expected,
                "{wanted}"
            );
        }
    }
}

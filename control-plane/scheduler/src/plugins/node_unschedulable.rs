//! `NodeUnschedulable`: a cordoned node takes no pod but one that tolerates the taint that stands for it.

use k8s_openapi::api::core::v1::Taint;

use super::taint_toleration::tolerates;
use crate::{
    framework::{Filter, Rejection},
    node::NodeInfo,
    pod::PodInfo,
};

const REASON: &str = "node(s) were unschedulable";

pub(crate) struct NodeUnschedulable;

impl Filter for NodeUnschedulable {
    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        // The node lifecycle controller sets the taint too, but later than the cordon.
        let taint = || Taint {
            key: "node.kubernetes.io/unschedulable".to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        };
        if node.properties.unschedulable && !tolerates(&pod.constraints.tolerations, &taint()) {
            return Err(Rejection::unresolvable(REASON));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::{node, pod};

    #[test]
    fn cordoned_nodes() {
        let cordoned = node(json!({"spec": {"unschedulable": true}}));
        let plain = pod(json!({}));
        assert_eq!(NodeUnschedulable.filter(&plain, &node(json!({}))), Ok(()));
        assert_eq!(
            NodeUnschedulable.filter(&plain, &cordoned),
            Err(Rejection::unresolvable(REASON))
        );
        let daemon = json!([{"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"}]);
        assert_eq!(
            NodeUnschedulable.filter(&pod(json!({"tolerations": daemon})), &cordoned),
            Ok(())
        );
    }
}

//! `NodePorts`: two pods cannot have the same port of the same host address.

use crate::{
    framework::{Filter, Rejection},
    node::NodeInfo,
    pod::{HostPort, PodInfo},
};

const REASON: &str = "node(s) didn't have free ports for the requested pod ports";
const ALL_ADDRESSES: &str = "0.0.0.0";

pub(crate) struct NodePorts;

impl Filter for NodePorts {
    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        let is_taken = |wanted: &HostPort| node.usage.host_ports.iter().any(|taken| conflict(wanted, taken));
        if pod.demand.host_ports.iter().any(is_taken) {
            return Err(Rejection::unschedulable(REASON));
        }
        Ok(())
    }
}

fn conflict(one: &HostPort, other: &HostPort) -> bool {
    one.port == other.port
        && one.protocol == other.protocol
        && (one.ip == other.ip || one.ip == ALL_ADDRESSES || other.ip == ALL_ADDRESSES)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{node, pod};

    fn with_ports(ports: &[&str]) -> PodInfo {
        let port = |text: &&str| -> Value {
            let [protocol, ip, port] = text.split('/').collect::<Vec<_>>()[..] else {
                panic!("{text}")
            };
            json!({"containerPort": 1, "protocol": protocol, "hostIP": ip, "hostPort": port.parse::<i32>().unwrap()})
        };
        let ports: Vec<_> = ports.iter().map(port).collect();
        pod(json!({"containers": [{"name": "c", "ports": ports}]}))
    }

    /// Rows as in `TestNodePorts` (v1.34).
    #[test]
    fn ports() {
        for (wanted, taken, fits) in [
            (&[][..], &[][..], true),
            (&["UDP/127.0.0.1/8080"], &["UDP/127.0.0.1/9090"], true),
            (&["UDP/127.0.0.1/8080"], &["UDP/127.0.0.1/8080"], false),
            (&["TCP/127.0.0.1/8080"], &["UDP/127.0.0.1/8080"], true),
            (&["TCP/127.0.0.1/8080"], &["TCP/127.0.0.2/8080"], true),
            (&["TCP/0.0.0.0/8080"], &["TCP/127.0.0.1/8080"], false),
            (&["TCP/127.0.0.1/8080"], &["TCP//8080"], false),
            (
                &["TCP/0.0.0.0/8001", "UDP/0.0.0.0/8080"],
                &["TCP/127.0.0.1/8001"],
                false,
            ),
            (&["TCP/0.0.0.0/8001"], &["UDP/127.0.0.1/8001"], true),
        ] {
            let mut node = node(json!({}));
            node.usage.add(&with_ports(taken).demand);
            let expected = if fits {
                Ok(())
            } else {
                Err(Rejection::unschedulable(REASON))
            };
            assert_eq!(
                NodePorts.filter(&with_ports(wanted), &node),
                expected,
                "{wanted:?} beside {taken:?}"
            );
            node.usage.subtract(&with_ports(taken).demand);
            assert_eq!(node.usage.host_ports, []);
        }
    }
}

//! Gives every Node its part of the cluster's pod addresses, one range per family.
//!
//! What is taken is read from the Nodes themselves, so there is no second book to fall out of step. One worker
//! does all of it, and waits for its own writes: two Nodes can never be given the same range.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::cidr::Cidr;
use crate::context::{Context, Next, spawn_workers, wake_on_change};
use crate::event::{EventType, Reference};
use crate::objects::{Node, Object};
use crate::queue::{Key, Queue};
use crate::rest::{Error, Patch, Result};

const NAME: &str = "node-ipam-controller";

/// Where ranges come from.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    /// The cluster's ranges and the prefix of a node's part of each.
    pub(crate) clusters: Vec<(Cidr, u8)>,
    /// Never given to nodes, such as the ranges of services.
    pub(crate) reserved: Vec<Cidr>,
}

pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>, pool: Pool) {
    let queue = Arc::new(Queue::new());
    wake_on_change(&context.informers.nodes, &queue);
    let reconciler = context.clone();
    let pool = Arc::new(pool);
    spawn_workers(NAME, context, tasks, 1, queue, move |key| {
        let (context, pool) = (reconciler.clone(), pool.clone());
        async move { reconcile(&context, &pool, &key).await }
    });
}

/// The ranges for a node that has none. `Err` names the cluster range that is used up.
fn plan(pool: &Pool, nodes: &[Arc<Node>]) -> std::result::Result<Vec<Cidr>, Cidr> {
    let mut used: Vec<Cidr> = nodes
        .iter()
        .flat_map(|node| {
            node.spec
                .pod_cidrs
                .iter()
                .chain(std::iter::once(&node.spec.pod_cidr))
        })
        .filter_map(|range| range.parse().ok())
        .collect();
    used.extend(&pool.reserved);
    pool.clusters
        .iter()
        .map(|(cluster, prefix)| cluster.first_free(*prefix, &used).ok_or(*cluster))
        .collect()
}

async fn reconcile(context: &Context, pool: &Pool, key: &Key) -> Result<Next> {
    let nodes = &context.informers.nodes;
    let Some(node) = nodes.get(key) else {
        return Ok(Next::Idle);
    };
    if !node.spec.pod_cidr.is_empty() || !node.spec.pod_cidrs.is_empty() || node.metadata.is_deleted() {
        return Ok(Next::Idle);
    }
    let ranges = match plan(pool, &nodes.all()) {
        Ok(ranges) => ranges,
        Err(full) => {
            let recorder = context.recorder.with_component("cidrAllocator");
            let message = format!("Node {key} status is now: CIDRNotAvailable");
            recorder.publish(
                Reference::to(&*node),
                EventType::Normal,
                "CIDRNotAvailable",
                message,
            );
            return Err(Error::Unfinished(format!("no free range is left in {full}")));
        }
    };
    let ranges: Vec<_> = ranges.iter().map(Cidr::to_string).collect();
    let Some(first) = ranges.first() else {
        return Ok(Next::Idle);
    };
    let patch = json!({
        "metadata": {"uid": node.metadata.uid},
        "spec": {"podCIDR": first, "podCIDRs": ranges},
    });
    let patched: Result<Value> = context
        .rest
        .patch(Node::resource(), "", &key.name, "", Patch::StrategicMerge(&patch))
        .await;
    match patched {
        Ok(object) => {
            nodes
                .seen(object["metadata"]["resourceVersion"].as_str().unwrap_or_default())
                .await;
            tracing::info!(node = %key, ranges = ranges.join(","), "pod addresses allocated");
            Ok(Next::Idle)
        }
        Err(error) if error.is_not_found() => Ok(Next::Idle),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(ranges: &[&str]) -> Arc<Node> {
        Arc::new(serde_json::from_value(json!({"spec": {"podCIDRs": ranges}})).unwrap())
    }

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    fn texts(ranges: &[Cidr]) -> Vec<String> {
        ranges.iter().map(Cidr::to_string).collect()
    }

    /// Rows follow upstream's `TestAllocateOrOccupyCIDRSuccess`.
    #[test]
    fn the_lowest_free_of_each_family() {
        let dual = Pool {
            clusters: vec![(cidr("10.244.0.0/16"), 24), (cidr("fd00:10:244::/56"), 64)],
            reserved: vec![],
        };
        assert_eq!(
            texts(&plan(&dual, &[]).unwrap()),
            ["10.244.0.0/24", "fd00:10:244::/64"]
        );
        let taken = [
            node(&["10.244.0.0/24", "fd00:10:244::/64"]),
            node(&["10.244.2.0/24", "fd00:10:244:1::/64"]),
            node(&[]),
        ];
        assert_eq!(
            texts(&plan(&dual, &taken).unwrap()),
            ["10.244.1.0/24", "fd00:10:244:2::/64"]
        );
        let reserved = Pool {
            clusters: vec![(cidr("10.96.0.0/12"), 24)],
            reserved: vec![cidr("10.96.0.0/16")],
        };
        assert_eq!(texts(&plan(&reserved, &[]).unwrap()), ["10.97.0.0/24"]);
    }

    #[test]
    fn a_full_range_is_named() {
        let small = Pool {
            clusters: vec![(cidr("10.0.0.0/24"), 24)],
            reserved: vec![],
        };
        assert_eq!(plan(&small, &[node(&["10.0.0.0/24"])]), Err(cidr("10.0.0.0/24")));
    }
}

//! The nodes and what runs on them, as the watches tell it, and ahead of them by the pods that were decided but not seen.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{
    node::{NodeInfo, NodeProperties, Usage},
    pod::Demand,
};

/// Every node, and every pod that takes room on one.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    nodes: Vec<NodeInfo>,
    /// Where a node is in `nodes`.
    index: HashMap<Arc<str>, usize>,
    /// What pods take from nodes that are not known (yet, or any more).
    absent: HashMap<Arc<str>, Usage>,
    /// By uid.
    pods: HashMap<Arc<str>, CachedPod>,
}

#[derive(Debug)]
struct CachedPod {
    node: Arc<str>,
    demand: Arc<Demand>,
    /// Decided here, and not yet seen to be so.
    assumed: bool,
}

impl Cache {
    pub(crate) fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    pub(crate) fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.index.get(name).map(|index| &self.nodes[*index])
    }

    /// Takes in a node. Returns whether it is new or changed in anything that matters.
    pub(crate) fn set_node(&mut self, name: &str, properties: NodeProperties) -> bool {
        if let Some(index) = self.index.get(name) {
            let node = &mut self.nodes[*index];
            let changed = node.properties != properties;
            node.properties = properties;
            return changed;
        }
        let name: Arc<str> = name.into();
        let usage = self.absent.remove(&name).unwrap_or_default();
        self.index.insert(name.clone(), self.nodes.len());
        self.nodes.push(NodeInfo {
            name,
            properties,
            usage,
        });
        true
    }

    pub(crate) fn remove_node(&mut self, name: &str) {
        let Some(index) = self.index.remove(name) else {
            return;
        };
        let node = self.nodes.swap_remove(index);
        if let Some(moved) = self.nodes.get(index) {
            self.index.insert(moved.name.clone(), index);
        }
        if node.usage.pods > 0 {
            self.absent.insert(node.name, node.usage);
        }
    }

    /// After a list: forgets the nodes that are not in it.
    pub(crate) fn retain_nodes(&mut self, names: &HashSet<Arc<str>>) {
        let gone = self.nodes.iter().filter(|node| !names.contains(&node.name));
        let gone: Vec<_> = gone.map(|node| node.name.clone()).collect();
        gone.iter().for_each(|name| self.remove_node(name));
    }

    /// Takes in a pod that has a node. Returns the node on which this made room, if any.
    pub(crate) fn set_pod(
        &mut self,
        uid: &Arc<str>,
        node: Arc<str>,
        demand: Arc<Demand>,
    ) -> Option<Arc<str>> {
        if let Some(known) = self.pods.get_mut(uid)
            && known.node == node
            && known.demand == demand
        {
            known.assumed = false;
            return None;
        }
        let before = self.remove_pod(uid);
        self.add_pod(
            uid.clone(),
            CachedPod {
                node,
                demand,
                assumed: false,
            },
        );
        before
    }

    /// Lets a pod count on a node from now on, until it is seen there or [`Self::forget`] takes it back.
    pub(crate) fn assume(&mut self, uid: &Arc<str>, node: Arc<str>, demand: Arc<Demand>) {
        self.remove_pod(uid);
        self.add_pod(
            uid.clone(),
            CachedPod {
                node,
                demand,
                assumed: true,
            },
        );
    }

    /// Takes an assumption back, unless the pod was seen on its node after all. Returns the node that has room again.
    pub(crate) fn forget(&mut self, uid: &str) -> Option<Arc<str>> {
        if self.pods.get(uid)?.assumed {
            self.remove_pod(uid)
        } else {
            None
        }
    }

    /// Returns the node that has room again, if the pod was on one.
    pub(crate) fn remove_pod(&mut self, uid: &str) -> Option<Arc<str>> {
        let pod = self.pods.remove(uid)?;
        match self.index.get(&pod.node) {
            Some(index) => self.nodes[*index].usage.subtract(&pod.demand),
            None => {
                if let Some(usage) = self.absent.get_mut(&pod.node) {
                    usage.subtract(&pod.demand);
                    if usage.pods == 0 {
                        self.absent.remove(&pod.node);
                    }
                }
            }
        }
        Some(pod.node)
    }

    /// After a list: forgets the pods that are not in it. Returns the nodes that have room again.
    pub(crate) fn retain_pods(&mut self, uids: &HashSet<Arc<str>>) -> Vec<Arc<str>> {
        let gone: Vec<_> = self
            .pods
            .keys()
            .filter(|uid| !uids.contains(*uid))
            .cloned()
            .collect();
        gone.iter().filter_map(|uid| self.remove_pod(uid)).collect()
    }

    fn add_pod(&mut self, uid: Arc<str>, pod: CachedPod) {
        let usage = match self.index.get(&pod.node) {
            Some(index) => &mut self.nodes[*index].usage,
            None => self.absent.entry(pod.node.clone()).or_default(),
        };
        usage.add(&pod.demand);
        self.pods.insert(uid, pod);
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::{pod::HostPort, resources::Resources};

    fn demand(milli_cpu: i64) -> Arc<Demand> {
        let requests = Resources {
            milli_cpu,
            ..Resources::default()
        };
        let port = HostPort {
            ip: "0.0.0.0".into(),
            protocol: "TCP".into(),
            port: milli_cpu as i32,
        };
        Arc::new(Demand {
            requests: requests.clone(),
            non_zero_requests: requests,
            host_ports: vec![port],
        })
    }

    fn cpu(cache: &Cache, node: &str) -> (i64, i64) {
        let usage = &cache.node(node).unwrap().usage;
        (usage.pods, usage.requests.milli_cpu)
    }

    #[test]
    fn an_assumed_pod_counts_once() {
        let mut cache = Cache::default();
        let (pod, node): (Arc<str>, Arc<str>) = ("pod".into(), "a".into());
        assert!(cache.set_node("a", NodeProperties::default()));
        cache.assume(&pod, node.clone(), demand(5));
        assert_eq!(cpu(&cache, "a"), (1, 5));
        assert_eq!(cache.set_pod(&pod, node.clone(), demand(5)), None);
        assert_eq!(cpu(&cache, "a"), (1, 5));
        assert_eq!(cache.forget("pod"), None, "it was seen on its node");
        assert_eq!(cache.remove_pod("pod"), Some(node.clone()));
        cache.assume(&pod, node.clone(), demand(5));
        assert_eq!(cache.forget("pod"), Some(node));
        assert_eq!(cpu(&cache, "a"), (0, 0));
    }

    #[test]
    fn a_pod_bound_elsewhere_moves() {
        let mut cache = Cache::default();
        cache.set_node("a", NodeProperties::default());
        cache.set_node("b", NodeProperties::default());
        cache.assume(&"pod".into(), "a".into(), demand(5));
        assert_eq!(
            cache.set_pod(&"pod".into(), "b".into(), demand(7)).as_deref(),
            Some("a")
        );
        assert_eq!((cpu(&cache, "a"), cpu(&cache, "b")), ((0, 0), (1, 7)));
    }

    #[test]
    fn pods_wait_for_their_node() {
        let mut cache = Cache::default();
        cache.set_pod(&"pod".into(), "a".into(), demand(5));
        cache.set_node("a", NodeProperties::default());
        assert_eq!(cpu(&cache, "a"), (1, 5));
        cache.remove_node("a");
        assert!(cache.set_node("a", NodeProperties::default()));
        assert_eq!(cpu(&cache, "a"), (1, 5));
    }

    /// After any history the usage is what the pods that are left add up to.
    #[test]
    fn usage_is_the_sum_of_the_pods() {
        let mut random = StdRng::seed_from_u64(1);
        let mut cache = Cache::default();
        for step in 0..5000 {
            let node = format!("node-{}", random.random_range(0..6));
            let uid: Arc<str> = format!("pod-{}", random.random_range(0..20)).into();
            let demand = demand(random.random_range(0..4));
            match random.random_range(0..8) {
                0 => drop(cache.set_node(&node, NodeProperties::default())),
                1 => cache.remove_node(&node),
                2 => drop(cache.forget(&uid)),
                3 => drop(cache.remove_pod(&uid)),
                4 if step % 10 == 0 => {
                    let kept = cache
                        .pods
                        .keys()
                        .filter(|_| random.random_bool(0.5))
                        .cloned()
                        .collect();
                    cache.retain_pods(&kept);
                }
                4 | 5 => cache.assume(&uid, node.into(), demand),
                _ => drop(cache.set_pod(&uid, node.into(), demand)),
            }
            for node in &cache.nodes {
                let pods = cache.pods.values().filter(|pod| pod.node == node.name);
                let expected = pods.fold(Usage::default(), |mut usage, pod| {
                    usage.add(&pod.demand);
                    usage
                });
                assert_eq!(
                    (node.usage.pods, &node.usage.requests),
                    (expected.pods, &expected.requests)
                );
                assert_eq!(node.usage.host_ports.len(), expected.host_ports.len());
                assert_eq!(cache.nodes[cache.index[&node.name]].name, node.name);
            }
        }
    }
}

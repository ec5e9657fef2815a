//! One scheduling cycle: which node a pod goes to, as a function of the cache and chance.

use std::sync::Arc;

use rand::{Rng, RngExt};

use crate::{
    cache::Cache,
    diagnosis::Diagnosis,
    node::NodeInfo,
    plugins::{self, node_affinity::required_node_names},
    pod::PodInfo,
};

/// Below so many nodes all are looked at; upstream's `minFeasibleNodesToFind`.
const MIN_FEASIBLE_NODES: usize = 100;
/// Even in the largest cluster so many percent are looked at.
const MIN_FEASIBLE_PERCENT: usize = 5;

/// Finds the best node for a pod among those that can run it.
///
/// In a large cluster the search ends once enough candidates are found, and `start` says where it begins; it is moved on
/// so that all nodes get their turn. Among equals chance decides.
pub(crate) fn schedule(
    pod: &PodInfo,
    cache: &Cache,
    start: &mut usize,
    random: &mut impl Rng,
) -> Result<Arc<str>, Diagnosis> {
    let mut diagnosis = Diagnosis::new(pod, cache.nodes().len());
    let candidates = match required_node_names(&pod.constraints) {
        Some(names) => {
            let named: Vec<_> = names.into_iter().filter_map(|name| cache.node(name)).collect();
            diagnosis.rule_out(cache.nodes().len() - named.len(), "NodeAffinity");
            feasible(pod, named.into_iter(), usize::MAX, &mut diagnosis).0
        }
        None => {
            let nodes = cache.nodes();
            let begin = start.checked_rem(nodes.len()).unwrap_or(0);
            let in_turn = nodes[begin..].iter().chain(&nodes[..begin]);
            let (candidates, seen) = feasible(pod, in_turn, enough(nodes.len()), &mut diagnosis);
            *start = begin + seen;
            candidates
        }
    };
    best(pod, &candidates, random).ok_or(diagnosis)
}

/// The first `enough` nodes that can run the pod, and how many were looked at.
fn feasible<'a>(
    pod: &PodInfo,
    nodes: impl Iterator<Item = &'a NodeInfo>,
    enough: usize,
    diagnosis: &mut Diagnosis,
) -> (Vec<&'a NodeInfo>, usize) {
    let mut candidates = Vec::new();
    let mut seen = 0;
    for node in nodes {
        seen += 1;
        match plugins::filter(pod, node) {
            Ok(()) => candidates.push(node),
            Err(rejection) => diagnosis.reject(&rejection),
        }
        if candidates.len() == enough {
            break;
        }
    }
    (candidates, seen)
}

/// How many candidates are enough to choose from, as upstream decides without `percentageOfNodesToScore`.
fn enough(nodes: usize) -> usize {
    let percent = 50_usize.saturating_sub(nodes / 125).max(MIN_FEASIBLE_PERCENT);
    (nodes * percent / 100).max(MIN_FEASIBLE_NODES)
}

fn best(pod: &PodInfo, candidates: &[&NodeInfo], random: &mut impl Rng) -> Option<Arc<str>> {
    let [_, _, ..] = candidates else {
        return candidates.first().map(|node| node.name.clone());
    };
    let mut totals = vec![0; candidates.len()];
    for plugin in plugins::SCORES {
        let mut scores: Vec<_> = candidates.iter().map(|node| plugin.score(pod, node)).collect();
        plugin.normalize(&mut scores);
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += plugin.weight() * score;
        }
    }
    let highest = totals.iter().copied().max()?;
    let equals: Vec<_> = (0..totals.len())
        .filter(|index| totals[*index] == highest)
        .collect();
    let chosen = equals[random.random_range(0..equals.len())];
    Some(candidates[chosen].name.clone())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::{SeedableRng, rngs::StdRng};
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{node, pod};

    fn cache(nodes: impl IntoIterator<Item = (String, Value)>) -> Cache {
        let mut cache = Cache::default();
        for (name, mut status) in nodes {
            status["metadata"] = json!({"name": name, "labels": {"name": name}});
            cache.set_node(&name, node(status).properties);
        }
        cache
    }

    fn sized(cpu: &str) -> Value {
        json!({"status": {"allocatable": {"cpu": cpu, "memory": "4294967296", "pods": "110"}}})
    }

    fn requesting(cpu: &str) -> PodInfo {
        let requests = json!({"cpu": cpu, "memory": "1"});
        pod(json!({"containers": [{"name": "c", "resources": {"requests": requests}}]}))
    }

    #[test]
    fn the_emptier_node_is_chosen() {
        let mut random = StdRng::seed_from_u64(0);
        let mut cache = cache([("small".to_owned(), sized("2")), ("large".to_owned(), sized("8"))]);
        for (expected, uid) in [("large", "a"), ("large", "b"), ("large", "c")] {
            let pod = requesting("1");
            let node = schedule(&pod, &cache, &mut 0, &mut random).unwrap();
            assert_eq!(&*node, expected);
            cache.assume(&uid.into(), node, pod.demand.clone());
        }
        let error = schedule(&requesting("9"), &cache, &mut 0, &mut random).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("0/2 nodes are available: 2 Insufficient cpu. "),
            "{error}"
        );
    }

    #[test]
    fn equals_are_chosen_by_chance() {
        let mut random = StdRng::seed_from_u64(0);
        let cache = cache((0..4).map(|node| (format!("node-{node}"), sized("2"))));
        let mut chosen = BTreeMap::<_, usize>::new();
        for _ in 0..400 {
            *chosen
                .entry(schedule(&requesting("1"), &cache, &mut 0, &mut random).unwrap())
                .or_default() += 1;
        }
        assert!(
            chosen.len() == 4 && chosen.values().all(|count| *count > 50),
            "{chosen:?}"
        );
    }

    #[test]
    fn a_named_node_is_the_only_one_looked_at() {
        let mut random = StdRng::seed_from_u64(0);
        let cache = cache((0..3).map(|node| (format!("node-{node}"), sized("1"))));
        let named = |name: &str, cpu: &str| {
            let fields = json!([{"key": "metadata.name", "operator": "In", "values": [name]}]);
            let required = json!({"nodeSelectorTerms": [{"matchFields": fields}]});
            let affinity =
                json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}});
            let container = json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
            pod(json!({"affinity": affinity, "containers": [container]}))
        };
        assert_eq!(
            &*schedule(&named("node-1", "1"), &cache, &mut 0, &mut random).unwrap(),
            "node-1"
        );
        let error = schedule(&named("node-1", "2"), &cache, &mut 0, &mut random)
            .unwrap_err()
            .to_string();
        let expected =
            "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity].";
        assert!(error.starts_with(expected), "{error}");
    }

    #[test]
    fn a_large_cluster_is_searched_in_turns() {
        assert_eq!(
            [0, 99, 1000, 5000, 20_000].map(enough),
            [100, 100, 420, 500, 1000]
        );
        let mut random = StdRng::seed_from_u64(0);
        let cache = cache((0..1000).map(|node| (format!("node-{node}"), sized("2"))));
        let mut start = 0;
        for expected in [420, 840, 260 + 1000] {
            schedule(&requesting("1"), &cache, &mut start, &mut random).unwrap();
            assert_eq!(start % 1000, expected % 1000);
        }
    }

    /// `cargo test --release -p scheduler --lib -- --ignored --nocapture cycles`
    #[test]
    #[ignore = "a measurement"]
    fn cycles_per_second_at_5000_nodes() {
        const PODS: usize = 10_000;
        let mut random = StdRng::seed_from_u64(0);
        let mut cache = cache((0..5000).map(|node| (format!("node-{node}"), sized("4"))));
        let pod = requesting("1");
        let (mut start, begun) = (0, std::time::Instant::now());
        for index in 0..PODS {
            let node = schedule(&pod, &cache, &mut start, &mut random).unwrap();
            cache.assume(&format!("pod-{index}").into(), node, pod.demand.clone());
        }
        println!("{:.0} cycles/s", PODS as f64 / begun.elapsed().as_secs_f64());
    }
}

//! Addresses over the life of many pods: what DEL does without help, and what happens when it never comes.

use std::collections::HashSet;
use std::time::Duration;

use orlop_cni::bench::Scene;
use serde_json::json;

use crate::support::{Node, addresses, links};

#[test]
fn del_needs_neither_namespace_nor_previous_result() {
    let node = Node::new();
    let pod = node.pod("a");
    node.add(&pod).unwrap();
    node.run("DEL", "a", None, &node.config).unwrap();
    assert_eq!(node.residue(), Vec::<String>::new());
    assert_eq!(links(&pod.netns), ["lo"]);
    node.run("DEL", "never-added", None, &node.config).unwrap();
}

#[test]
fn del_works_when_the_namespace_is_gone() {
    let node = Node::new();
    let pod = node.pod("a");
    let (id, path) = (pod.id.clone(), pod.path.clone());
    node.add(&pod).unwrap();
    drop(pod);
    node.run("DEL", &id, Some(&path), &node.config).unwrap();
    assert_eq!(node.residue(), Vec::<String>::new());
}

#[test]
fn del_works_when_the_records_are_lost() {
    let node = Node::new();
    let pod = node.pod("a");
    node.add(&pod).unwrap();
    std::fs::remove_dir_all(node.dir.path().join("data")).unwrap();
    node.del(&pod).unwrap();
    assert_eq!(node.residue(), Vec::<String>::new());
    assert_eq!(links(&pod.netns), ["lo"]);
}

#[test]
fn an_address_is_not_given_again_at_once() {
    let node = Node::new();
    let mut seen = HashSet::new();
    for n in 0..10 {
        let pod = node.pod(&format!("p{n}"));
        let result = node.add(&pod).unwrap();
        assert!(
            addresses(&result).into_iter().all(|address| seen.insert(address)),
            "{result}"
        );
        node.del(&pod).unwrap();
    }
}

#[test]
fn pods_whose_del_never_came_do_not_starve_others() {
    let mut node = Node::new();
    node.config["ranges"] = json!(["10.1.0.0/29"]);
    for n in 0..20 {
        // Five addresses, twenty pods that vanish with their namespaces.
        let pod = node.pod(&format!("p{n}"));
        node.add(&pod).unwrap();
    }
}

#[test]
fn many_pods_at_once_get_distinct_addresses() {
    let node = Node::new();
    let pods: Vec<_> = (0..40).map(|n| node.pod(&format!("p{n}"))).collect();
    let all: Vec<String> = std::thread::scope(|scope| {
        let adds: Vec<_> = pods
            .iter()
            .map(|pod| scope.spawn(|| addresses(&node.add(pod).unwrap())))
            .collect();
        adds.into_iter().flat_map(|add| add.join().unwrap()).collect()
    });
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), 80);
    std::thread::scope(|scope| {
        for pod in &pods {
            scope.spawn(|| node.del(pod).unwrap());
        }
    });
    assert_eq!(node.residue(), Vec::<String>::new());
}

#[test]
fn the_benchmark_measures_every_call() {
    let dir = tempfile::tempdir().unwrap();
    let plugin = env!("CARGO_BIN_EXE_orlop-cni").as_ref();
    let scene = Scene::new(12, 4).unwrap();
    for latencies in [
        scene.add(plugin, dir.path()),
        scene.version(plugin),
        scene.bare_pairs(),
    ] {
        let latencies = latencies.unwrap();
        assert!(latencies.percentile(50) > Duration::ZERO);
        assert!(latencies.percentile(50) <= latencies.percentile(99));
        assert!(latencies.percentile(99) <= latencies.total);
    }
    // A pod that is attached already cannot be attached again, nor by a program that does not exist.
    assert!(scene.add(plugin, dir.path()).is_err());
    assert!(scene.version("/nonexistent".as_ref()).is_err());
}

//! Addresses over the life of many pods: what DEL does without help, and what happens when it never comes.

use std::collections::HashSet;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
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
    const PODS: usize = 250;
    // Namespaces, and two pipes for each plugin at work.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let node = Node::new();
    let pods: Vec<_> = (0..PODS).map(|n| node.pod(&format!("p{n}"))).collect();
    let all: Vec<String> = std::thread::scope(|scope| {
        let adds: Vec<_> = pods
            .iter()
            .map(|pod| scope.spawn(|| addresses(&node.add(pod).unwrap())))
            .collect();
        adds.into_iter().flat_map(|add| add.join().unwrap()).collect()
    });
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), 2 * PODS);
    // Each end is in its own pod's namespace, and each address has its route.
    for pod in &pods {
        assert_eq!(links(&pod.netns).len(), 2, "{}", pod.id);
    }
    assert_eq!(node.residue().len(), 2 * PODS);
    std::thread::scope(|scope| {
        for pod in &pods {
            scope.spawn(|| node.del(pod).unwrap());
        }
    });
    assert_eq!(node.residue(), Vec::<String>::new());
}

#[test]
fn a_pods_next_sandbox_takes_over_from_those_whose_del_never_came() {
    let mut node = Node::new();
    node.config["ranges"] = json!(["10.1.0.0/29"]);
    let bystander = node.pod("bystander");
    node.pod_uid = Some("5e0c1d34-0000-0000-0000-000000000001");
    let kept = node.add(&bystander).unwrap();

    node.pod_uid = Some("5e0c1d34-0000-0000-0000-000000000002");
    // A pod that crashes again and again, whose runtime keeps every namespace and never calls DEL: five addresses would do for
    // four of them.
    let sandboxes: Vec<_> = (0..20)
        .map(|n| {
            let sandbox = node.pod(&format!("sandbox{n}"));
            let result = node.add(&sandbox).unwrap();
            assert_eq!(node.records().len(), 2);
            (sandbox, result)
        })
        .collect();
    let (last, earlier) = sandboxes.split_last().unwrap();
    node.check(&last.0, &last.1).unwrap();
    for (sandbox, _) in earlier {
        assert_eq!(links(&sandbox.netns), ["lo"], "{}", sandbox.id);
        // DELs that come after all are about nothing any more.
        node.del(sandbox).unwrap();
    }
    node.check(&last.0, &last.1).unwrap();
    node.pod_uid = None;
    node.check(&bystander, &kept).unwrap();
}

#[test]
fn records_of_an_earlier_boot_hold_nothing() {
    let mut node = Node::new();
    node.config["ranges"] = json!(["10.1.0.0/30"]);
    node.config["cniVersion"] = "1.1.0".into();
    let pod = node.pod("a");
    let before = node.add(&pod).unwrap();
    // What a reboot leaves: the records, under the boot id of then, and no namespace.
    let network = node.dir.path().join("data/orlop");
    let boots = || {
        let entries = std::fs::read_dir(&network)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        entries.filter(|path| path.is_dir()).collect::<Vec<_>>()
    };
    std::fs::rename(&boots()[0], network.join("11111111-2222-3333-4444-555555555555")).unwrap();
    let link = before["interfaces"][0]["name"].as_str().unwrap().to_owned();
    node.netns
        .run(|| Ok::<_, orlop_cni::Error>(orlop_cni::netlink::Socket::open()?.delete_link(&link)?))
        .unwrap();
    drop(pod);

    node.run("STATUS", "", None, &node.config).unwrap();
    // The DEL that the runtime still owes, and the next pod, which gets the only address.
    node.run("DEL", "a", Some("/gone".as_ref()), &node.config)
        .unwrap();
    let next = node.pod("b");
    assert_eq!(addresses(&node.add(&next).unwrap()), addresses(&before));
    assert_eq!(boots().len(), 1, "the earlier boot's are gone");
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

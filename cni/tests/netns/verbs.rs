//! CHECK, STATUS, VERSION, GC, `loopback`, and how errors are reported.

use orlop_cni::Error;
use orlop_cni::netlink::Socket;
use serde_json::json;

use crate::support::{Node, addresses, links};

#[test]
fn version_lists_what_is_supported_in_the_version_of_the_question() {
    let node = Node::new();
    let answer = node
        .run("VERSION", "", None, &json!({"cniVersion": "0.4.0"}))
        .unwrap();
    assert_eq!(answer["cniVersion"], "0.4.0");
    assert_eq!(
        answer["supportedVersions"],
        json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
    );
}

#[test]
fn every_version_gets_a_result_of_its_own() {
    let mut node = Node::new();
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        node.config["cniVersion"] = version.into();
        let pod = node.pod(&format!("v{version}"));
        let result = node.add(&pod).unwrap();
        assert_eq!(result["cniVersion"], version);
        node.check(&pod, &result).unwrap();
        node.del(&pod).unwrap();
    }
    node.config["cniVersion"] = "0.2.0".into();
    let pod = node.pod("old");
    let (code, message) = node.add(&pod).unwrap_err();
    assert_eq!(code, 1);
    assert!(
        message.contains("\"0.2.0\" is not supported; supported: 0.3.0"),
        "{message}"
    );
}

#[test]
fn check_names_what_is_missing() {
    let node = Node::new();
    let pod = node.pod("a");
    let result = node.add(&pod).unwrap();
    node.check(&pod, &result).unwrap();

    // Without, or with somebody else's, previous result.
    let (_, message) = node.run("CHECK", "a", Some(&pod.path), &node.config).unwrap_err();
    assert!(message.contains("prevResult: is required"), "{message}");
    let mut other = result.clone();
    other["ips"][0]["address"] = "10.244.0.77/32".into();
    let (code, message) = node.check(&pod, &other).unwrap_err();
    assert_eq!(code, 101);
    assert!(
        message.contains("prevResult does not list 10.244.0.2"),
        "{message}"
    );

    // With the pod's interface gone, and with it the node's end and its routes.
    pod.netns
        .run(|| Ok::<_, Error>(Socket::open()?.delete_link("eth0")?))
        .unwrap();
    let (_, message) = node.check(&pod, &result).unwrap_err();
    assert!(
        message.contains("interface eth0 is missing") && message.contains("interface orl"),
        "{message}"
    );

    node.del(&pod).unwrap();
    let (_, message) = node.check(&pod, &result).unwrap_err();
    assert!(message.contains("has no record"), "{message}");
}

#[test]
fn status_reports_an_exhausted_range() {
    let mut node = Node::new();
    node.config["cniVersion"] = "1.1.0".into();
    node.config["ranges"] = json!(["10.1.0.0/30"]);
    node.run("STATUS", "", None, &node.config).unwrap();
    let pod = node.pod("a");
    node.add(&pod).unwrap();
    let (code, message) = node.run("STATUS", "", None, &node.config).unwrap_err();
    assert_eq!(code, 50);
    assert!(
        message.contains("range 10.1.0.0/30 has no free address"),
        "{message}"
    );
    let (code, _) = node.add(&node.pod("b")).unwrap_err();
    assert_eq!(code, 50);
    node.del(&pod).unwrap();
    node.run("STATUS", "", None, &node.config).unwrap();
}

#[test]
fn status_reports_an_unwritable_directory() {
    let mut node = Node::new();
    let file = node.dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    node.config["dataDir"] = file.join("below").to_str().unwrap().into();
    let (code, message) = node.run("STATUS", "", None, &node.config).unwrap_err();
    assert_eq!(code, 5);
    assert!(
        message.contains("cannot open") && message.contains("file/below"),
        "{message}"
    );
}

#[test]
fn gc_removes_what_is_not_listed() {
    let node = Node::new();
    let (keep, drop) = (node.pod("keep"), node.pod("drop"));
    let kept = node.add(&keep).unwrap();
    node.add(&drop).unwrap();
    let mut config = node.config.clone();
    config["cniVersion"] = "1.1.0".into();
    let (code, message) = node.run("GC", "", None, &config).unwrap_err();
    assert_eq!(
        (code, message.contains("cni.dev/valid-attachments: is required")),
        (7, true),
        "{message}"
    );
    config["cni.dev/valid-attachments"] = json!([{"containerID": "keep", "ifname": "eth0"}]);
    node.run("GC", "", None, &config).unwrap();
    assert_eq!(links(&drop.netns), ["lo"]);
    assert_eq!(node.records().len(), 1);
    node.check(&keep, &kept).unwrap();
}

#[test]
fn as_loopback_it_raises_lo() {
    let node = Node::new();
    let pod = node.pod("a");
    let config = json!({"cniVersion": "0.3.1", "name": "cni-loopback", "type": "loopback"});
    let run = |command: &str| node.run_for(command, "a", "lo", Some(&pod.path), &config);
    let (code, message) = run("CHECK").unwrap_err();
    assert_eq!((code, message.contains("lo lacks up")), (101, true), "{message}");
    let result = run("ADD").unwrap();
    assert_eq!(addresses(&result), ["127.0.0.1", "::1"]);
    assert_eq!(result["ips"][0]["version"], "4");
    run("CHECK").unwrap();
    run("DEL").unwrap();
}

#[test]
fn errors_are_documents_on_stdout_that_name_the_mistake() {
    let node = Node::new();
    let pod = node.pod("a");
    let mut config = node.config.clone();
    config["mtu"] = 9.into();
    config["ranges"] = json!(["10.0.0.1/24"]);
    let (code, message) = node.run("ADD", "a", Some(&pod.path), &config).unwrap_err();
    assert_eq!(code, 7);
    assert!(
        message.contains("mtu: 9") && message.contains("ranges[0]:"),
        "{message}"
    );
    // What was misconfigured after ADD must not keep a pod from ending.
    node.run("DEL", "a", Some(&pod.path), &config).unwrap();

    let (code, message) = node.run("ADD", "", Some(&pod.path), &node.config).unwrap_err();
    assert_eq!(
        (code, message.contains("CNI_CONTAINERID is not set")),
        (4, true),
        "{message}"
    );
    let (code, message) = node
        .run("ADD", "a", Some("/nonexistent".as_ref()), &node.config)
        .unwrap_err();
    assert_eq!(
        (code, message.contains("cannot open /nonexistent")),
        (4, true),
        "{message}"
    );
    let (code, message) = node
        .run("ADD", "a", Some("/etc/passwd".as_ref()), &node.config)
        .unwrap_err();
    assert_eq!(
        (code, message.contains("is not a network namespace")),
        (4, true),
        "{message}"
    );
    let (code, _) = node.run("ADD", "a", Some(&pod.path), &json!([])).unwrap_err();
    assert_eq!(code, 6);
    assert_eq!(node.residue(), Vec::<String>::new());
}

//! The data plane installed as on anyone's cluster: by the manifests in `deploy/`, from its image, as a pod.
//!
//! There is no DaemonSet controller yet, so the test does its work for the one node: it makes the Pod that the DaemonSet's
//! template describes. The paths of the host are this node's own, of which a machine has several.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Value, json};
use tests::{Cluster, Component};

use crate::{
    World, expect_contains,
    service::{Connections, cluster_ip},
};

const NAMESPACE: &str = "kube-system";

pub(crate) fn installs_and_uninstalls(world: &World<'_>) -> Result<()> {
    let cluster = world.cluster;
    import_image(cluster)?;
    take_away(cluster)?;
    let outcome = install(world).and_then(|()| uninstall(world));
    let cleaned = delete_manifests(world);
    // Puts back what every cluster of the harness has: the agent as a process of the node, and the plugin.
    let repaired = Cluster::start(cluster.config().clone(), &mut |_| {}).map(drop);
    outcome.and(cleaned).and(repaired)
}

fn install(world: &World<'_>) -> Result<()> {
    let cluster = world.cluster;
    world
        .kubectl
        .run(&["apply", "-f", &manifest("proxy-ebpf.yaml")])?;
    let control_plane = json!({ "data": { "kubernetes-service-host": "172.31.0.1" } }).to_string();
    let patch = [
        "-n",
        NAMESPACE,
        "patch",
        "configmap",
        "proxy-ebpf",
        "--type=merge",
        "-p",
        &control_plane,
    ];
    world.kubectl.run(&patch)?;
    create_pod(world, "proxy-ebpf", may_use_service_account(world)?)?;
    let ready = [
        "-n",
        NAMESPACE,
        "wait",
        "--for=condition=Ready",
        "--timeout=90s",
        "pod/proxy-ebpf-node1",
    ];
    world
        .kubectl
        .run(&ready)
        .with_context(|| logs(world, "proxy-ebpf"))?;
    ensure!(
        cluster.layout().cni_bin_dir(1).join("orlop-cni").exists(),
        "the init container has installed no plugin"
    );
    cluster.wait_for_node(1)?;

    world.start_web(2)?;
    world.start_client("client")?;
    let answered = || -> Result<()> {
        let target = format!("{}:80", cluster_ip(world, "web")?);
        let connect = [
            "exec", "client", "--", "/test", "connect", &target, "--count", "100",
        ];
        Connections::parse(&world.run(&connect)?)?.check(100, 2)
    };
    world.until("the Service to answer", answered)?;
    for (subcommand, expected) in [("status", "agent: running"), ("service list", ":80/TCP")] {
        let mut exec = vec![
            "-n",
            NAMESPACE,
            "exec",
            "proxy-ebpf-node1",
            "--",
            "/usr/bin/proxy-ebpf",
        ];
        exec.extend(subcommand.split(' '));
        exec.push("--bpf-dir=/sys/fs/bpf/node1");
        expect_contains(subcommand, &world.kubectl.run(&exec)?, expected)?;
    }
    // Programs and tables outlive the pod.
    world.kubectl.run(&[
        "-n",
        NAMESPACE,
        "delete",
        "pod",
        "proxy-ebpf-node1",
        "--timeout=90s",
    ])?;
    answered().context("without the agent")
}

fn uninstall(world: &World<'_>) -> Result<()> {
    let layout = world.cluster.layout();
    let plugin = layout.cni_bin_dir(1).join("orlop-cni");
    world
        .kubectl
        .run(&["apply", "-f", &manifest("proxy-ebpf-cleanup.yaml")])?;
    let cleaned = || {
        create_pod(world, "proxy-ebpf-cleanup", true)?;
        let log = || {
            world
                .kubectl
                .run(&["-n", NAMESPACE, "logs", "proxy-ebpf-cleanup-node1"])
        };
        world.until("the clean-up to be done", || {
            expect_contains("the log", &log()?, "done; waiting to be terminated")
        })?;
        let said = log()?;
        let delete = [
            "-n",
            NAMESPACE,
            "delete",
            "pod",
            "proxy-ebpf-cleanup-node1",
            "--timeout=90s",
        ];
        world.kubectl.run(&delete)?;
        Ok::<_, anyhow::Error>(said)
    };
    let conflist = layout.cni_conf_dir(1).join("10-orlop.conflist");
    expect_contains("the first log", &cleaned()?, "network: kept, since ")?;
    ensure!(
        !layout.bpf_dir(1).exists(),
        "{} is left behind",
        layout.bpf_dir(1).display()
    );
    for needed in [&plugin, &conflist] {
        ensure!(needed.exists(), "{} is gone while pods need it", needed.display());
    }
    world.run(&[
        "delete",
        "deployment/web",
        "pod/client",
        "--wait",
        "--timeout=90s",
    ])?;
    world.until("the pods to be gone", || {
        let pods = world.get(&["pods"])?;
        match pods["items"].as_array().map_or(0, Vec::len) {
            0 => Ok(()),
            count => bail!("there are {count}"),
        }
    })?;
    let said = cleaned()?;
    expect_contains(
        "the second log",
        &said,
        "plugin: removed the program and its records",
    )?;
    for gone in [&plugin, &conflist] {
        ensure!(!gone.exists(), "{} is left behind", gone.display());
    }
    Ok(())
}

/// Ends the agent that the harness has started, and removes what it has set up.
fn take_away(cluster: &Cluster) -> Result<()> {
    let layout = cluster.layout();
    if let Some(agent) = cluster.process(Component::ProxyEbpf(1)) {
        agent.terminate(Duration::from_secs(10))?;
    }
    let program = cluster.config().binaries.directory.join("proxy-ebpf");
    let output = tests::Place::Node(1)
        .command(cluster, &program)?
        .arg("cleanup")
        .args(["--bpf-dir".as_ref(), layout.bpf_dir(1).as_os_str()])
        .args(["--cni-conf-dir".as_ref(), layout.cni_conf_dir(1).as_os_str()])
        .args(["--cni-bin-dir".as_ref(), layout.cni_bin_dir(1).as_os_str()])
        .args([
            "--cni-data-dir".as_ref(),
            layout.node_state(1).join("cni/data").as_os_str(),
        ])
        .output()
        .context("start proxy-ebpf cleanup")?;
    ensure!(
        output.status.success(),
        "proxy-ebpf cleanup: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// The Pod that a DaemonSet's template describes, on the one node.
fn create_pod(world: &World<'_>, daemon_set: &str, as_service_account: bool) -> Result<()> {
    let layout = world.cluster.layout();
    let object = world.kubectl.get(&["-n", NAMESPACE, "daemonset", daemon_set])?;
    let mut pod = object["spec"]["template"].clone();
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["name"] = format!("{daemon_set}-node1").into();
    pod["metadata"]["namespace"] = NAMESPACE.into();
    pod["spec"]["nodeName"] = layout.node_name(1).into();
    let state = layout.node_state(1);
    let cgroup = unified_mount()?.join(layout.node_cgroup(1).trim_start_matches('/'));
    let paths = BTreeMap::from([
        ("bpf", layout.run().join("bpf")),
        ("cgroup", cgroup),
        ("cni-bin", layout.cni_bin_dir(1)),
        ("cni-conf", layout.cni_conf_dir(1)),
        ("var-lib", state.join("cni")),
        ("sysctl", state.join("cni/sysctl.d")),
    ]);
    let data = state.join("cni/data").display().to_string();
    let volumes = array(&mut pod["spec"]["volumes"])?;
    for volume in volumes.iter_mut() {
        let name = volume["name"].as_str().unwrap_or_default().to_owned();
        if let Some(path) = paths.get(name.as_str()) {
            volume["hostPath"]["path"] = path.display().to_string().into();
        }
    }
    if !as_service_account {
        let kubeconfig = state.join("proxy.kubeconfig");
        volumes.push(json!({ "name": "identity", "hostPath": { "path": kubeconfig.display().to_string() } }));
    }
    let container = &mut pod["spec"]["containers"][0];
    for argument in array(&mut container["args"])? {
        let replaced = match argument.as_str().unwrap_or_default() {
            "--bpf-dir=/sys/fs/bpf/orlop" => "--bpf-dir=/sys/fs/bpf/node1".to_owned(),
            "--cni-data-dir=/var/lib/orlop-cni" => format!("--cni-data-dir={data}"),
            "--cni-data-dir=/host/var/lib/orlop-cni" => "--cni-data-dir=/host/var/lib/data".to_owned(),
            _ => continue,
        };
        *argument = replaced.into();
    }
    if !as_service_account {
        array(&mut container["args"])?.push("--kubeconfig=/identity/kubeconfig".into());
        array(&mut container["volumeMounts"])?
            .push(json!({ "name": "identity", "mountPath": "/identity/kubeconfig" }));
    }
    for mount in array(&mut container["volumeMounts"])? {
        // The harness has mounted the BPF file system, and not such that a pod's mounts would be seen outside.
        if mount["name"] == "bpf" {
            mount["mountPropagation"] = Value::Null;
        }
    }
    world
        .kubectl
        .run_with_input(&["create", "-f", "-"], pod.to_string().as_bytes())
        .map(drop)
}

/// Whether the ClusterRole of the manifest is in effect for its service account. Until then the pod is given the kubeconfig that
/// the harness makes for agents.
fn may_use_service_account(world: &World<'_>) -> Result<bool> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": "system:serviceaccount:kube-system:proxy-ebpf",
            "groups": ["system:serviceaccounts", "system:authenticated"],
            "resourceAttributes": { "verb": "list", "group": "discovery.k8s.io", "resource": "endpointslices" },
        },
    });
    let answer = world.kubectl.run_with_input(
        &["create", "-f", "-", "-o", "json"],
        review.to_string().as_bytes(),
    )?;
    let answer: Value = serde_json::from_str(&answer).context("read the review")?;
    Ok(answer["status"]["allowed"] == true)
}

fn delete_manifests(world: &World<'_>) -> Result<()> {
    for pod in ["proxy-ebpf-node1", "proxy-ebpf-cleanup-node1"] {
        let delete = [
            "-n",
            NAMESPACE,
            "delete",
            "pod",
            pod,
            "--ignore-not-found",
            "--timeout=90s",
        ];
        world.kubectl.run(&delete)?;
    }
    for name in ["proxy-ebpf.yaml", "proxy-ebpf-cleanup.yaml"] {
        world
            .kubectl
            .run(&["delete", "--ignore-not-found", "-f", &manifest(name)])?;
    }
    Ok(())
}

fn import_image(cluster: &Cluster) -> Result<()> {
    let archive = target().join("images/programs/proxy-ebpf.tar");
    ensure!(
        archive.exists(),
        "{} is missing; run: cargo xtask images",
        archive.display()
    );
    let output = Command::new("ctr")
        .arg("--address")
        .arg(cluster.layout().containerd_socket(1))
        .args(["--namespace", "k8s.io", "images", "import"])
        .arg(&archive)
        .output()
        .context("start ctr")?;
    ensure!(
        output.status.success(),
        "import {}: {}",
        archive.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn logs(world: &World<'_>, daemon_set: &str) -> String {
    let pod = format!("{daemon_set}-node1");
    let logs = world
        .kubectl
        .run(&["-n", NAMESPACE, "logs", &pod, "--all-containers"]);
    let described = world
        .kubectl
        .run(&["-n", NAMESPACE, "get", "pod", &pod, "-o", "yaml"]);
    [logs, described]
        .map(|text| text.unwrap_or_else(|error| format!("{error:#}")))
        .join("\n")
}

fn array(value: &mut Value) -> Result<&mut Vec<Value>> {
    let shown = value.to_string();
    value
        .as_array_mut()
        .ok_or_else(|| anyhow!("a list is wanted, not {shown}"))
}

fn manifest(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name);
    path.display().to_string()
}

fn unified_mount() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "));
    let path = mount.and_then(|line| line.split(' ').nth(4));
    path.map(PathBuf::from).context("no cgroup2 hierarchy is mounted")
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
        PathBuf::from,
    )
}

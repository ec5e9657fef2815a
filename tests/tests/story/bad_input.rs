//! Mistakes, and where their reasons are told: in the place where users of Kubernetes look.

use std::{net::TcpListener, process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use tests::{Cluster, ClusterConfig, Component, Layout};

use crate::{IMAGE, World, expect_contains};

pub(crate) fn unknown_image(world: &World<'_>) -> Result<()> {
    world.run(&["run", "lost", "--image=localhost/no/such:1"])?;
    world.until("ErrImagePull or ImagePullBackOff", || {
        let waiting =
            world.get(&["pod", "lost"])?["status"]["containerStatuses"][0]["state"]["waiting"].clone();
        match waiting["reason"].as_str() {
            Some("ErrImagePull" | "ImagePullBackOff") => {
                expect_contains("the message", &waiting.to_string(), "localhost/no/such:1")
            }
            _ => bail!("{waiting}"),
        }
    })?;
    world.until("the event", || {
        expect_contains(
            "events",
            &world.run(&["get", "events"])?,
            "Failed to pull image \"localhost/no/such:1\"",
        )
    })?;
    world.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: odd}\nspec: {containers: [{name: a, image: 'UPPER//case'}]}\n")?;
    world.until("InvalidImageName", || {
        let waiting =
            world.get(&["pod", "odd"])?["status"]["containerStatuses"][0]["state"]["waiting"].clone();
        expect_contains("the state", &waiting.to_string(), "InvalidImageName")
    })
}

pub(crate) fn manifests(world: &World<'_>) -> Result<()> {
    let refuse = |manifest: &str, needles: &[&str]| -> Result<()> {
        let path = std::env::temp_dir().join(format!("orlop-bad-{}.yaml", std::process::id()));
        std::fs::write(&path, manifest)?;
        let error = world.fails(&["apply", "-f", &path.to_string_lossy()])?;
        std::fs::remove_file(&path)?;
        needles
            .iter()
            .try_for_each(|needle| expect_contains("the error", &error, needle))
    };
    refuse(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndate: {x: y}\n",
        &["unknown field \"date\""],
    )?;
    refuse(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Not_Good}\n",
        &["metadata.name", "Not_Good", "RFC 1123"],
    )?;
    refuse(
        "apiVersion: v9\nkind: Gizmo\nmetadata: {name: a}\n",
        &["no matches for kind \"Gizmo\" in version \"v9\""],
    )?;
    refuse(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: []}\n",
        &["spec.containers", "Required value"],
    )?;
    refuse(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec:\n  selector: {matchLabels: {a: b}}\n  template:\n    \
         metadata: {labels: {a: c}}\n    spec: {containers: [{name: a, image: b}]}\n",
        &[
            "spec.template.metadata.labels",
            "`selector` does not match template `labels`",
        ],
    )?;
    refuse(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, image: b, ports: [{containerPort: eighty}]}]}\n",
        &["containerPort"],
    )?;
    let missing = world
        .kubectl
        .fails(&["create", "configmap", "a", "--namespace", "nowhere"])?;
    expect_contains("the error", &missing, "namespaces \"nowhere\" not found")?;
    expect_contains(
        "the error",
        &world.fails(&["get", "pod", "nobody"])?,
        "pods \"nobody\" not found",
    )?;
    expect_contains(
        "the error",
        &world.fails(&["get", "gizmos"])?,
        "the server doesn't have a resource type \"gizmos\"",
    )
}

pub(crate) fn flags(world: &World<'_>) -> Result<()> {
    let directory = &world.cluster.config().binaries.directory;
    let refuse = |program: &str, args: &[&str], needle: &str| -> Result<()> {
        let output = Command::new(directory.join(program))
            .args(args)
            .output()
            .with_context(|| format!("start {program}"))?;
        if output.status.success() {
            bail!("{program} {args:?} succeeded");
        }
        expect_contains(program, &String::from_utf8_lossy(&output.stderr), needle)
    };
    refuse("control-plane", &["--no-such-flag"], "--no-such-flag")?;
    refuse("control-plane", &["--data-dir", "/proc/nowhere"], "--data-dir")?;
    refuse("kubelet", &["--no-such-flag"], "--no-such-flag")?;
    refuse(
        "kubelet",
        &["--kubeconfig", "/no/such/kubeconfig"],
        "/no/such/kubeconfig",
    )?;
    refuse("proxy-ebpf", &["--no-such-flag"], "--no-such-flag")?;
    let config = std::env::temp_dir().join(format!("orlop-kubelet-{}.yaml", std::process::id()));
    std::fs::write(
        &config,
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPodz: 3\n",
    )?;
    let outcome = refuse(
        "kubelet",
        &["--config", &config.to_string_lossy(), "--kubeconfig", "/no/such"],
        "maxPodz",
    );
    std::fs::remove_file(&config)?;
    outcome
}

/// What the data plane says where the kernel, or the rights it runs with, cannot do what it needs.
pub(crate) fn kernel_without_a_feature(world: &World<'_>) -> Result<()> {
    let layout = world.cluster.layout();
    let program = world.cluster.config().binaries.directory.join("proxy-ebpf");
    // The published port: should it get that far, nothing of the cluster may be dialled from out here.
    let kubeconfig = layout.kubeconfig();
    let refuse = |before: &[&str], cgroup: &str, needles: &[&str]| -> Result<()> {
        let mut command = Command::new("setpriv");
        command.args(before).arg("--").arg(&program);
        command
            .args(["--hostname-override", "node1", "--cgroup-path", cgroup])
            .arg("--kubeconfig")
            .arg(&kubeconfig);
        command
            .arg("--bpf-dir")
            .arg(layout.bpf_dir(1).with_file_name("refused"));
        let output = command.output().context("start setpriv")?;
        if output.status.success() {
            bail!("proxy-ebpf started with {before:?} and --cgroup-path {cgroup}");
        }
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        needles
            .iter()
            .try_for_each(|needle| expect_contains("proxy-ebpf", &text, needle))
    };
    refuse(&["--no-new-privs"], "/tmp", &["--cgroup-path /tmp", "cgroup2"])?;
    // To a process without these rights the system call looks as it does on a kernel built without it.
    let dropped = "-bpf,-sys_admin,-perfmon,-net_admin";
    let cgroup = node_cgroup(world)?;
    refuse(
        &["--bounding-set", dropped, "--inh-caps", dropped],
        &cgroup,
        &["CONFIG_BPF_SYSCALL", "CAP_BPF"],
    )
}

/// The node's folder in the cgroup2 hierarchy, as its proxy was told.
fn node_cgroup(world: &World<'_>) -> Result<String> {
    let proxy = world
        .cluster
        .process(Component::ProxyEbpf(1))
        .context("proxy-ebpf does not run")?;
    let command = std::fs::read_to_string(format!("/proc/{}/cmdline", proxy.pid))?;
    let mut words = command
        .split('\0')
        .skip_while(|word| *word != "--cgroup-path")
        .skip(1);
    words
        .next()
        .map(str::to_owned)
        .context("proxy-ebpf runs without --cgroup-path")
}

pub(crate) fn port_taken(world: &World<'_>) -> Result<()> {
    let holder = TcpListener::bind("127.0.0.1:0")?;
    let port = holder.local_addr()?.port();
    let name = format!("t-port-{}", std::process::id());
    let config = ClusterConfig {
        name: name.clone(),
        nodes: 0,
        api_port: Some(port),
        ..(*world.cluster.config()).clone()
    };
    let outcome = Cluster::start(config, &mut |_| {});
    tests::teardown(&Layout::new(&name)?)?;
    match outcome {
        Ok(_) => bail!("a cluster started on port {port}, which is taken"),
        Err(error) => {
            let text = format!("{error:#}");
            expect_contains("the error", &text, &format!("--port {port}"))?;
            expect_contains("the error", &text, "choose another port")
        }
    }
}

pub(crate) fn network_plugin_absent(world: &World<'_>) -> Result<()> {
    let directory = world.cluster.layout().cni_bin_dir(1);
    let (plugin, hidden) = (directory.join("orlop-cni"), directory.join("hidden"));
    std::fs::rename(&plugin, &hidden)?;
    let outcome = (|| {
        world.run(&[
            "run",
            "stuck",
            "--image",
            IMAGE,
            "--restart=Never",
            "--command",
            "--",
            "true",
        ])?;
        world.until("the event that names the plugin", || {
            let events = world.run(&["get", "events"])?;
            expect_contains("events", &events, "FailedCreatePodSandBox")?;
            expect_contains("events", &events, "orlop-cni")
        })
    })();
    std::fs::rename(&hidden, &plugin)?;
    outcome?;
    // The plugin is back: the pod runs without anybody's help.
    world
        .run(&[
            "wait",
            "--for=jsonpath={.status.phase}=Succeeded",
            "--timeout=90s",
            "pod/stuck",
        ])
        .map(drop)
}

pub(crate) fn containerd_down(world: &World<'_>) -> Result<()> {
    let containerd = world
        .cluster
        .process(Component::Containerd(1))
        .context("containerd does not run")?;
    containerd.terminate(Duration::from_secs(20))?;
    let outcome = world.until("the node to say so", || {
        let node = world.kubectl.get(&["node", "node1"])?;
        let conditions = node["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let ready = conditions
            .into_iter()
            .find(|condition| condition["type"] == "Ready")
            .unwrap_or_default();
        if ready["status"] != "False" {
            bail!("{ready}");
        }
        expect_contains(
            "the Ready condition",
            &ready.to_string(),
            "container runtime is down",
        )
    });
    world.cluster.start_component(Component::Containerd(1))?;
    outcome?;
    world
        .run(&["wait", "--for=condition=Ready", "--timeout=90s", "node/node1"])
        .map(drop)
}

//! A Service in front of three pods: reached by its ClusterIP, because an eBPF program translated the connection.

use std::{collections::BTreeMap, process::Stdio};

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;

use crate::{IMAGE, World, expect_contains};

/// What the test image's `connect` prints: answers by backend, and what failed.
#[derive(Debug, Deserialize)]
pub(crate) struct Connections {
    /// How many answers each backend gave, by its host name.
    pub(crate) backends: BTreeMap<String, u64>,
    /// Connections without an answer.
    pub(crate) failures: u64,
    /// The first few reasons.
    #[serde(default)]
    pub(crate) errors: Vec<String>,
}

impl Connections {
    pub(crate) fn parse(text: &str) -> Result<Connections> {
        serde_json::from_str(text.trim()).with_context(|| format!("parse the client's report {text:?}"))
    }

    /// All answered, and by at least `spread` backends.
    pub(crate) fn check(&self, count: u64, spread: usize) -> Result<()> {
        let answered: u64 = self.backends.values().sum();
        if self.failures != 0 || answered != count || self.backends.len() < spread {
            bail!(
                "of {count} connections {answered} were answered, {} failed, by {:?}: {:?}",
                self.failures,
                self.backends,
                self.errors
            );
        }
        Ok(())
    }
}

/// The Deployment and its Service for TCP and UDP. A pod that is told to end serves on for the two seconds in which the
/// news reaches the proxy, as a well-behaved server does; so every connection must succeed.
fn web_manifest() -> String {
    format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: both, labels: {{app: web}}}}
spec:
  selector: {{app: web}}
  ports:
  - {{name: tcp, port: 80, protocol: TCP}}
  - {{name: udp, port: 80, protocol: UDP}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 3
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers:
      - name: web
        image: {IMAGE}
        lifecycle: {{preStop: {{exec: {{command: ["sleep", "2"]}}}}}}
        readinessProbe: {{httpGet: {{path: /healthz, port: 80}}, periodSeconds: 1}}
"#
    )
}

pub(crate) fn spreads_and_survives_replacement(world: &World<'_>) -> Result<()> {
    world.apply(&web_manifest())?;
    world.run(&["rollout", "status", "deployment/web", "--timeout=90s"])?;
    world.start_client("client")?;
    let address = cluster_ip(world, "both")?;
    world.until("three ready endpoints", || {
        match world.ready_endpoints("both")?.len() {
            3 => Ok(()),
            count => bail!("there are {count}"),
        }
    })?;
    for protocol in ["tcp", "udp"] {
        let report = connect(world, &address, protocol, "1000", "0")?;
        report.check(1000, 3).with_context(|| protocol.to_owned())?;
    }
    // The same again, for so long that a pod is deleted and replaced meanwhile. Datagrams without a pause: some exchange is
    // under way when it leaves the Service, whose answer must still come.
    for (protocol, count, interval_ms) in [("tcp", 1000, "5"), ("udp", 40_000, "0")] {
        let client = world
            .kubectl
            .command(world.scoped(&[
                "exec",
                "client",
                "--",
                "/test",
                "connect",
                &format!("{address}:80"),
                "--proto",
                protocol,
                "--count",
                &count.to_string(),
                "--interval-ms",
                interval_ms,
            ]))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start kubectl exec")?;
        let victim = first_pod(world, "app=web")?;
        world.run(&["delete", "pod", &victim, "--wait=false"])?;
        let output = client.wait_with_output().context("wait for kubectl exec")?;
        let report = Connections::parse(&String::from_utf8_lossy(&output.stdout))
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        report
            .check(count, 3)
            .with_context(|| format!("{protocol} while {victim} was replaced"))?;
        world.until("the replacement to be ready", || {
            match world.ready_endpoints("both")?.len() {
                3 => Ok(()),
                count => bail!("there are {count}"),
            }
        })?;
    }
    Ok(())
}

pub(crate) fn ipv6_and_environment(world: &World<'_>) -> Result<()> {
    world.run(&["create", "deployment", "web", "--image", IMAGE, "--replicas=2"])?;
    world.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: six}\nspec:\n  ipFamilies: [IPv6]\n  ipFamilyPolicy: SingleStack\n  \
         selector: {app: web}\n  ports: [{port: 8080, targetPort: 80}]\n",
    )?;
    world.run(&["rollout", "status", "deployment/web", "--timeout=90s"])?;
    world.start_client("client")?;
    let address = cluster_ip(world, "six")?;
    if !address.contains(':') {
        bail!("an IPv6 Service has the address {address}");
    }
    world.until("two ready endpoints", || {
        match world.ready_endpoints("six")?.len() {
            2 => Ok(()),
            count => bail!("there are {count}"),
        }
    })?;
    let report = world.run(&[
        "exec",
        "client",
        "--",
        "/test",
        "connect",
        &format!("[{address}]:8080"),
        "--proto",
        "tcp",
        "--count",
        "100",
    ])?;
    Connections::parse(&report)?.check(100, 2)?;
    let environment = world.run(&["exec", "client", "--", "env"])?;
    expect_contains("env", &environment, &format!("SIX_SERVICE_HOST={address}"))?;
    expect_contains("env", &environment, "KUBERNETES_SERVICE_HOST=10.96.0.1")
}

/// Connects from the pod `client` and returns its report.
pub(crate) fn connect(
    world: &World<'_>,
    address: &str,
    protocol: &str,
    count: &str,
    interval_ms: &str,
) -> Result<Connections> {
    let target = format!("{address}:80");
    let args = [
        "exec",
        "client",
        "--",
        "/test",
        "connect",
        &target,
        "--proto",
        protocol,
        "--count",
        count,
        "--interval-ms",
        interval_ms,
    ];
    let output = world.kubectl.output(&world.scoped(&args))?;
    // It exits with 1 when a connection failed: the report says which, unlike kubectl.
    Connections::parse(&String::from_utf8_lossy(&output.stdout))
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

pub(crate) fn cluster_ip(world: &World<'_>, service: &str) -> Result<String> {
    world.run(&["get", "service", service, "-o", "jsonpath={.spec.clusterIP}"])
}

/// The name of some pod with this label that is not being deleted.
pub(crate) fn first_pod(world: &World<'_>, selector: &str) -> Result<String> {
    let pods = world.get(&["pods", "-l", selector])?;
    let mut living = pods["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    let name = living.next().and_then(|pod| pod["metadata"]["name"].as_str());
    name.map(str::to_owned)
        .ok_or_else(|| anyhow!("no pod has the label {selector}"))
}

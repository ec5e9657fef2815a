//! The pods that talk, and Services in any number around theirs.

use std::{ffi::OsStr, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tests::{Cluster, Component, kubectl::Kubectl, wait};

use super::{super::example, PROGRAMS, peers};
use crate::images;

/// Endpoints of each Service that fills the API.
pub(super) const ENDPOINTS: u32 = 3;
/// Filling the API with Services takes its time.
const PATIENCE: Duration = Duration::from_secs(300);

/// A client and a server on node 1, another server on node 2 if there is one.
pub(super) struct Stage<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) kubectl: Kubectl,
    /// The client's address.
    pub(super) client: String,
    /// The server's.
    pub(super) server: String,
    /// The address of the server's Service.
    pub(super) service: String,
    /// The address of the server on the other node.
    pub(super) far: Option<String>,
}

impl<'a> Stage<'a> {
    pub(super) fn make(cluster: &'a Cluster) -> Result<Self> {
        let kubectl = cluster.kubectl();
        let layout = cluster.layout();
        let mut pods = vec![
            ("server", 1, &["answer"][..]),
            ("client", 1, &["sleep", "100000"][..]),
        ];
        if cluster.config().nodes > 1 {
            pods.push(("far", 2, &["answer"][..]));
        }
        for (name, node, arguments) in &pods {
            let node = format!(
                "--overrides={{\"spec\":{{\"nodeName\":\"{}\"}}}}",
                layout.node_name(*node)
            );
            let image = images::TEST_IMAGE;
            let mut command = vec!["run", name, "--image", image, "--restart=Never", &node, "--"];
            command.extend(*arguments);
            kubectl.run(&command)?;
        }
        kubectl.run(&["expose", "pod", "server", "--port=80"])?;
        for (name, ..) in &pods {
            kubectl.run(&[
                "wait",
                "--for=condition=Ready",
                "--timeout=60s",
                &format!("pod/{name}"),
            ])?;
        }
        let ip = |name: &str| text(&kubectl.get(&["pod", name])?, "/status/podIP");
        Ok(Self {
            client: ip("client")?,
            server: ip("server")?,
            service: text(&kubectl.get(&["service", "server"])?, "/spec/clusterIP")?,
            far: match pods.len() {
                3 => Some(ip("far")?),
                _ => None,
            },
            cluster,
            kubectl,
        })
    }
}

fn text(object: &Value, path: &str) -> Result<String> {
    let found = object.pointer(path).and_then(Value::as_str).map(str::to_owned);
    found.with_context(|| format!("{path} is missing"))
}

/// Brings the number of Services up to `count`, and waits until the agent has them all.
pub(super) fn fill(cluster: &Cluster, filled: &mut u32, count: u32) -> Result<()> {
    if *filled == 0 {
        cluster.kubectl().run(&["create", "namespace", "fill"])?;
    }
    let kubeconfig = cluster.layout().kubeconfig();
    let (from, to) = (filled.to_string(), count.to_string());
    let arguments = [
        OsStr::new("--kubeconfig"),
        kubeconfig.as_os_str(),
        OsStr::new("--from"),
        OsStr::new(&from),
        OsStr::new("--to"),
        OsStr::new(&to),
    ];
    example(PROGRAMS[0], &arguments)?;
    *filled = count;
    wait_for_slots(cluster, count * ENDPOINTS)
}

/// Waits until the agent's maps have this many slots or more.
pub(super) fn wait_for_slots(cluster: &Cluster, slots: u32) -> Result<()> {
    wait::until(&format!("{slots} slots in the agent's maps"), PATIENCE, || {
        let found = sample(&metrics(cluster)?, "proxy_ebpf_map_entries{map=\"SLOTS\"}").unwrap_or_default();
        if found < f64::from(slots) {
            bail!("there are {found}");
        }
        Ok(())
    })
}

/// The agent of node 1.
pub(super) fn agent(cluster: &Cluster) -> Result<tests::Process> {
    cluster
        .process(Component::ProxyEbpf(1))
        .context("the agent does not run")
}

/// The agent's metrics, asked for inside its node.
pub(super) fn metrics(cluster: &Cluster) -> Result<String> {
    let script =
        "exec 3<>/dev/tcp/127.0.0.1/10249 && printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3";
    peers::run_in(
        &cluster.layout().node_netns(1),
        OsStr::new("bash"),
        &["-c", script].map(OsStr::new),
    )
}

/// The value of one sample.
pub(super) fn sample(metrics: &str, name: &str) -> Option<f64> {
    metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

//! What a Service costs its clients, and what Services cost the agent, at growing numbers of them.
//!
//! Two pods of a real cluster talk directly and through a Service; beside them, in the same rounds and through the same node,
//! two plain network namespaces ([`peers`]) talk directly and through rules of iptables and nftables as kube-proxy writes them.
//! A ratio compares what goes through a Service with what goes directly between the same two ends.

mod peers;

use std::{
    ffi::OsStr,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tests::{Cluster, Component, kubectl::Kubectl, wait};

use self::peers::{Peers, Rules};
use super::{Row, example, mebibytes, row, seconds};
use crate::images;

/// The package and the example that creates Services.
pub(super) const PROGRAM: (&str, &str) = ("tests", "fill-services");

/// Numbers of Services at which the load is measured.
const COUNTS: [u32; 4] = [1, 1_000, 10_000, 30_000];
/// The number at which the agent itself is measured.
const COUNT_MAX: u32 = 50_000;
/// Endpoints of each of them.
const ENDPOINTS: u32 = 3;
/// Each pair is measured in turns this often; the median counts.
const ROUNDS: usize = 5;
/// Filling the API with Services takes its time.
const PATIENCE: Duration = Duration::from_secs(300);

/// One way from the client to the server.
struct Way<'a> {
    name: &'static str,
    target: String,
    from: From<'a>,
}

enum From<'a> {
    Pod(&'a Kubectl),
    Peer(&'a Peers),
}

/// What the client saw.
struct Load {
    per_second: f64,
    bytes_per_second: f64,
    p50_us: f64,
    p99_us: f64,
}

/// How the client uses its connections.
#[derive(Clone, Copy)]
struct Shape {
    what: &'static str,
    mode: &'static str,
    connections: u32,
}

const SHORT: Shape = Shape {
    what: "short connections/s",
    mode: "short",
    connections: 8,
};
const KEEP_ALIVE: Shape = Shape {
    what: "keep-alive requests/s",
    mode: "keep-alive",
    connections: 8,
};
const ONE_BY_ONE: Shape = Shape {
    what: "TCP_RR",
    mode: "keep-alive",
    connections: 1,
};
const STREAM: Shape = Shape {
    what: "throughput",
    mode: "stream",
    connections: 1,
};

/// Measures on a running cluster of one node. `program` is the statically linked test program.
pub(super) fn measure(cluster: &Cluster, program: &Path, rows: &mut Vec<Row>) -> Result<()> {
    let kubectl = cluster.kubectl();
    kubectl.run(&["create", "namespace", "fill"])?;
    for (name, arguments) in [("server", &["answer"][..]), ("client", &["sleep", "100000"])] {
        let mut command = vec![
            "run",
            name,
            "--image",
            images::TEST_IMAGE,
            "--restart=Never",
            "--",
        ];
        command.extend(arguments);
        kubectl.run(&command)?;
    }
    kubectl.run(&["expose", "pod", "server", "--port=80"])?;
    kubectl.run(&[
        "wait",
        "--for=condition=Ready",
        "--timeout=60s",
        "pod/server",
        "pod/client",
    ])?;
    let text = |object: &Value, path: &str| {
        let found = object.pointer(path).and_then(Value::as_str).map(str::to_owned);
        found.with_context(|| format!("{path} is missing"))
    };
    let pod_ip = text(&kubectl.get(&["pod", "server"])?, "/status/podIP")?;
    let service_ip = text(&kubectl.get(&["service", "server"])?, "/spec/clusterIP")?;
    let peers = Peers::make(&cluster.layout().node_netns(1), program)?;
    let ways = [
        Way::new("pods, direct", &pod_ip, From::Pod(&kubectl)),
        Way::new("pods, Service", &service_ip, From::Pod(&kubectl)),
        Way::new("plain, direct", peers.server(), From::Peer(&peers)),
        Way::new("iptables", Rules::Iptables.address(), From::Peer(&peers)),
        Way::new("nftables", Rules::Nftables.address(), From::Peer(&peers)),
    ];

    let base = agent(cluster)?.pss_bytes()?;
    let mut filled = 0;
    for count in COUNTS {
        fill(cluster, &mut filled, count)?;
        for rules in [Rules::Iptables, Rules::Nftables] {
            let took = peers.install(rules, count)?;
            if count == COUNTS[COUNTS.len() - 1] {
                let what = format!("{count} Services into {}", rules.name());
                rows.push(row(&what, seconds(took), "a peer"));
            }
        }
        for shape in [SHORT, KEEP_ALIVE] {
            let loads = rounds(&ways, shape)?;
            let ratio = |way: usize, direct: usize| {
                let mut ratios: Vec<f64> = loads
                    .iter()
                    .map(|round| round[way].per_second / round[direct].per_second)
                    .collect();
                median(&mut ratios)
            };
            let rate = |way: usize| {
                median(
                    &mut loads
                        .iter()
                        .map(|round| round[way].per_second)
                        .collect::<Vec<_>>(),
                )
            };
            let what = |way: &str| format!("{} at {count} Services, {way}", shape.what);
            rows.push(row(
                &what("Service / direct"),
                format!("{:.3} ({:.0}/s)", ratio(1, 0), rate(1)),
                "0.97",
            ));
            rows.push(row(
                &what("iptables / direct"),
                format!("{:.3} ({:.0}/s)", ratio(3, 2), rate(3)),
                "a peer",
            ));
            rows.push(row(
                &what("nftables / direct"),
                format!("{:.3} ({:.0}/s)", ratio(4, 2), rate(4)),
                "a peer",
            ));
        }
    }
    for (index, way) in ways.iter().enumerate() {
        let loads = rounds(&ways[index..=index], ONE_BY_ONE)?;
        let of = |quantile: fn(&Load) -> f64| {
            median(&mut loads.iter().map(|round| quantile(&round[0])).collect::<Vec<_>>())
        };
        let value = format!("{:.0} / {:.0} us", of(|load| load.p50_us), of(|load| load.p99_us));
        let what = format!("{} p50 / p99, {}", ONE_BY_ONE.what, way.name);
        rows.push(row(&what, value, ""));
    }
    let loads = rounds(&ways, STREAM)?;
    for (index, way) in ways.iter().enumerate() {
        let rate = median(
            &mut loads
                .iter()
                .map(|round| round[index].bytes_per_second)
                .collect::<Vec<_>>(),
        );
        let what = format!("{}, {}", STREAM.what, way.name);
        rows.push(row(&what, format!("{:.2} Gbit/s", rate * 8.0 / 1e9), ""));
    }
    drop(peers);
    of_agent(cluster, &mut filled, base, rows)
}

/// What the Services cost the agent: memory, a cold start, one change.
fn of_agent(cluster: &Cluster, filled: &mut u32, base: u64, rows: &mut Vec<Row>) -> Result<()> {
    fill(cluster, filled, COUNT_MAX)?;
    let full = agent(cluster)?.pss_bytes()?;
    rows.push(row("agent PSS without Services", mebibytes(base), ""));
    rows.push(row(
        &format!("agent PSS at {COUNT_MAX} Services"),
        mebibytes(full),
        "",
    ));
    rows.push(row(
        "agent memory per Service",
        format!(
            "{:.2} kB",
            full.saturating_sub(base) as f64 / 1e3 / f64::from(COUNT_MAX)
        ),
        "1.5 kB",
    ));
    agent(cluster)?.kill();
    let layout = cluster.layout();
    let cleanup = Command::new(cluster.config().binaries.directory.join("proxy-ebpf"))
        .arg("cleanup")
        .arg("--bpf-dir")
        .arg(layout.bpf_dir(1))
        .output()
        .context("start proxy-ebpf cleanup")?;
    if !cleanup.status.success() {
        bail!(
            "proxy-ebpf cleanup: {}",
            String::from_utf8_lossy(&cleanup.stderr).trim()
        );
    }
    let start = Instant::now();
    cluster.start_component(Component::ProxyEbpf(1))?;
    wait_for_slots(cluster, COUNT_MAX * ENDPOINTS)?;
    let what = format!("{COUNT_MAX} Services x {ENDPOINTS} endpoints: a cold agent's start to full maps");
    rows.push(row(&what, seconds(start.elapsed()), "400 ms"));
    let metrics = metrics(cluster)?;
    let of = |name: &str| sample(&metrics, name).with_context(|| format!("the agent has no {name}"));
    let sum = of("kubeproxy_sync_proxy_rules_duration_seconds_sum")?;
    rows.push(row(
        "  of which planning and writing",
        format!("{:.0} ms", sum * 1e3),
        "",
    ));
    Ok(())
}

impl<'a> Way<'a> {
    fn new(name: &'static str, address: &str, from: From<'a>) -> Self {
        Self {
            name,
            target: format!("{address}:80"),
            from,
        }
    }

    fn load(&self, shape: Shape) -> Result<Load> {
        let connections = shape.connections.to_string();
        let arguments = [
            "load",
            &self.target,
            "--mode",
            shape.mode,
            "--connections",
            &connections,
            "--seconds",
            "1",
        ];
        let output = match self.from {
            From::Pod(kubectl) => {
                let mut command = vec!["exec", "client", "--", "/test"];
                command.extend(arguments);
                kubectl.run(&command)?
            }
            From::Peer(peers) => peers.run(&arguments)?,
        };
        let report: Value = serde_json::from_str(&output).with_context(|| format!("parse {output:?}"))?;
        if report["failures"] != json!(0) {
            bail!("{}: {output}", self.name);
        }
        let number = |name: &str| {
            report[name]
                .as_f64()
                .with_context(|| format!("no {name} in {output}"))
        };
        Ok(Load {
            per_second: number("per_second")?,
            bytes_per_second: number("bytes_per_second")?,
            p50_us: number("p50_us")?,
            p99_us: number("p99_us")?,
        })
    }
}

/// All ways in turns, so that a busy moment of the machine meets each of them.
fn rounds(ways: &[Way<'_>], shape: Shape) -> Result<Vec<Vec<Load>>> {
    (0..ROUNDS)
        .map(|_| ways.iter().map(|way| way.load(shape)).collect())
        .collect()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Brings the number of Services up to `count`, and waits until the agent has them all.
fn fill(cluster: &Cluster, filled: &mut u32, count: u32) -> Result<()> {
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
    example(PROGRAM, &arguments)?;
    *filled = count;
    wait_for_slots(cluster, count * ENDPOINTS)
}

fn wait_for_slots(cluster: &Cluster, slots: u32) -> Result<()> {
    wait::until(&format!("{slots} slots in the agent's maps"), PATIENCE, || {
        let found = sample(&metrics(cluster)?, "proxy_ebpf_map_entries{map=\"SLOTS\"}").unwrap_or_default();
        if found < f64::from(slots) {
            bail!("there are {found}");
        }
        Ok(())
    })
}

fn agent(cluster: &Cluster) -> Result<tests::Process> {
    cluster
        .process(Component::ProxyEbpf(1))
        .context("the agent does not run")
}

/// The agent's metrics, asked for inside its node.
fn metrics(cluster: &Cluster) -> Result<String> {
    let script =
        "exec 3<>/dev/tcp/127.0.0.1/10249 && printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3";
    peers::run_in(
        &cluster.layout().node_netns(1),
        OsStr::new("bash"),
        &["-c", script].map(OsStr::new),
    )
}

/// The value of one sample.
fn sample(metrics: &str, name: &str) -> Option<f64> {
    metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

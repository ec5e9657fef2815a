//! What clients see: connections and requests per second, round trips, throughput.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tests::kubectl::Kubectl;

use super::{
    super::{Row, row, seconds},
    peers::{Peers, Rules},
    stage::{Stage, fill},
};
use crate::images;

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
const FIRST_PACKET: Shape = Shape {
    what: "first packet and its answer",
    mode: "connect",
    connections: 1,
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

/// At growing numbers of Services.
pub(super) fn measure(stage: &Stage<'_>, counts: &[u32], rounds: usize, rows: &mut Vec<Row>) -> Result<()> {
    let peers = Peers::make(&stage.cluster.layout().node_netns(1), &images::test_program())?;
    let ways = [
        Way::pods("pods, direct", &stage.server, stage),
        Way::pods("Service", &stage.service, stage),
        Way::peers("plain, direct", peers.server(), &peers),
        Way::peers("iptables", Rules::Iptables.address(), &peers),
        Way::peers("nftables", Rules::Nftables.address(), &peers),
    ];
    let mut filled = 0;
    for &count in counts {
        fill(stage.cluster, &mut filled, count)?;
        for rules in [Rules::Iptables, Rules::Nftables] {
            let took = peers.install(rules, count)?;
            let what = format!("{count} Services into {}", rules.name());
            rows.push(row(&what, seconds(took), "a peer"));
        }
        for shape in [SHORT, KEEP_ALIVE] {
            let loads = turns(&ways, shape, rounds)?;
            for (way, direct, target) in [(1, 0, "0.97"), (3, 2, "a peer"), (4, 2, "a peer")] {
                let ratio = median(
                    loads
                        .iter()
                        .map(|round| round[way].per_second / round[direct].per_second),
                );
                let rate = |way: usize| median(loads.iter().map(|round| round[way].per_second));
                rows.push(row(
                    &format!("{} at {count} Services, {} / direct", shape.what, ways[way].name),
                    format!("{ratio:.3} ({:.0} / {:.0})", rate(way), rate(direct)),
                    target,
                ));
            }
        }
        let loads = turns(&ways, FIRST_PACKET, rounds)?;
        let what = format!("{} at {count} Services", FIRST_PACKET.what);
        round_trips(&what, &ways, &loads, rows);
    }
    Ok(())
}

/// On one node and between two; with our path and without it.
pub(super) fn measure_network(stage: &Stage<'_>, rounds: usize, rows: &mut Vec<Row>) -> Result<()> {
    let layout = stage.cluster.layout();
    let peers = Peers::make(&layout.node_netns(1), &images::test_program())?;
    let far = peers.add_far_server(&layout.node_netns(2), layout.node_ip(1), layout.node_ip(2))?;
    for rules in [Rules::Iptables, Rules::Nftables] {
        peers.install(rules, 1)?;
    }
    let far_pod = stage.far.as_deref().context("there is one node")?;
    let ways = [
        Way::pods("pods of one node", &stage.server, stage),
        Way::pods("pods of one node, Service", &stage.service, stage),
        Way::peers("plain veths of one node", peers.server(), &peers),
        Way::peers("plain, iptables", Rules::Iptables.address(), &peers),
        Way::peers("plain, nftables", Rules::Nftables.address(), &peers),
        Way::pods("pods of two nodes", far_pod, stage),
        Way::peers("plain veths of two nodes", far.address(), &peers),
    ];
    let loads = turns(&ways, ONE_BY_ONE, rounds)?;
    round_trips(ONE_BY_ONE.what, &ways, &loads, rows);
    let loads = turns(&ways, STREAM, rounds)?;
    for (index, way) in ways.iter().enumerate() {
        let rate = median(loads.iter().map(|round| round[index].bytes_per_second));
        let what = format!("{}, {}", STREAM.what, way.name);
        rows.push(row(&what, format!("{:.2} Gbit/s", rate * 8.0 / 1e9), ""));
    }
    Ok(())
}

/// A row for each way: the medians of the rounds' quantiles.
fn round_trips(what: &str, ways: &[Way<'_>], loads: &[Vec<Load>], rows: &mut Vec<Row>) {
    for (index, way) in ways.iter().enumerate() {
        let of = |quantile: fn(&Load) -> f64| median(loads.iter().map(|round| quantile(&round[index])));
        let value = format!("{:.0} / {:.0} us", of(|load| load.p50_us), of(|load| load.p99_us));
        rows.push(row(&format!("{what} p50 / p99, {}", way.name), value, ""));
    }
}

impl<'a> Way<'a> {
    fn pods(name: &'static str, address: &str, stage: &'a Stage<'_>) -> Self {
        Self {
            name,
            target: format!("{address}:80"),
            from: From::Pod(&stage.kubectl),
        }
    }

    fn peers(name: &'static str, address: &str, peers: &'a Peers) -> Self {
        Self {
            name,
            target: format!("{address}:80"),
            from: From::Peer(peers),
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

/// All ways in turns, so that a busy moment of the machine meets each of them. Every other round goes backwards: what comes
/// after something else may suffer from it.
fn turns(ways: &[Way<'_>], shape: Shape, rounds: usize) -> Result<Vec<Vec<Load>>> {
    (0..rounds)
        .map(|round| {
            if round % 2 == 0 {
                return ways.iter().map(|way| way.load(shape)).collect();
            }
            let mut loads: Vec<Load> = ways
                .iter()
                .rev()
                .map(|way| way.load(shape))
                .collect::<Result<_>>()?;
            loads.reverse();
            Ok(loads)
        })
        .collect()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

//! A Service of a hundred thousand endpoints, in a long run (`cargo xtask soak data-plane`) of a million, comes and goes beside others. One agent takes it in, one has no room for it and says so; no
//! connection to anybody else fails, and what the others change is followed all the while.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tests::{Component, Place, suite::World, wait};

use crate::{
    load::{Clients, client, judge, minutes, settled, web_without_selector},
    stage::{
        Client::{Packets, Pod},
        Expect::Answers,
        Stage, at,
    },
};

const SLICES: u32 = 100;
/// Of a long run.
const MORE_SLICES: u32 = 1000;
/// As many as a slice may have.
const ENDPOINTS_OF_SLICE: u32 = 1000;
/// Of 11.0.0.0/8, which no node routes anywhere.
const FIRST: Ipv4Addr = Ipv4Addr::new(11, 0, 0, 0);
/// Requests under way at once.
const CONCURRENCY: usize = 8;
/// How many entries a map of the second node may have.
const ROOM: &str = "65536";
/// How long the giant may take to come, and to go: a hundred megabytes of API objects.
const LIMIT: Duration = Duration::from_secs(400);
/// What a daemon may keep of what it has read, in bytes: its allocator gives back whole pages only.
const KEPT: u64 = 32 << 20;

pub(crate) fn a_giant_service(world: &World<'_>) -> Result<()> {
    let stage = Stage::set(world)?;
    let cluster = world.cluster;
    let slice_count = minutes()?.map_or(SLICES, |_| MORE_SLICES);
    let endpoints = u64::from(slice_count) * u64::from(ENDPOINTS_OF_SLICE);
    cluster.restart_with(Component::ProxyEbpf(2), &["--map-entries-max", ROOM])?;
    let (service, _) = web_without_selector(&stage)?;
    let other = Other::make(&stage)?;
    other.a_backend_goes_and_comes()?;
    let clients = Clients::start(&stage, &service)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("start tokio")?;
    let slices: Api<EndpointSlice> = Api::namespaced(runtime.block_on(client(&stage))?, &world.namespace);

    let before = memory(&stage, "before")?;
    world.run(&["create", "service", "clusterip", "giant", "--tcp=80"])?;
    let begun = Instant::now();
    let coming = runtime.spawn(create(slices.clone(), slice_count));
    // What others change is followed while it comes.
    let mut changes = Vec::new();
    while !coming.is_finished() {
        changes.push(other.a_backend_goes_and_comes()?);
    }
    runtime.block_on(coming).context("join")??;
    println!(
        "  {endpoints} endpoints written in {:.1} s; {} changes of others were followed meanwhile, in {:.1} s at most",
        begun.elapsed().as_secs_f64(),
        2 * changes.len(),
        changes.iter().max().copied().unwrap_or_default().as_secs_f64()
    );
    until("node1 has all of them in its maps", || {
        let slots = entries(&stage, 1, "SLOTS")?;
        ensure!(slots >= endpoints, "{slots} slots");
        Ok(())
    })?;
    println!(
        "  in the maps of node1 after {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    until("node2 says that there is no room", || refused(&stage, 2, 1))?;
    refused(&stage, 1, 0)?;
    let pressure = metric(&stage, 1, "proxy_ebpf_map_pressure{map=\"SLOTS\"}")?;
    ensure!(pressure > 0.4, "the pressure of the map of slots is {pressure}");
    let log = std::fs::read_to_string(cluster.layout().log(&Component::ProxyEbpf(2).name()))?;
    let said = format!(
        "the Service is left out: a map is full and must not grow any more service={}/giant",
        world.namespace
    );
    ensure!(log.contains(&said), "the log of node2 lacks {said:?}");
    other.a_backend_goes_and_comes()?;
    let there = memory(&stage, "with the giant")?;

    // One of its slices changes: not all of it is written again, and others do not wait.
    let patch = Patch::Merge(json!({"endpoints": [{"addresses": [FIRST]}]}));
    runtime.block_on(slices.patch("giant-0", &PatchParams::default(), &patch))?;
    let left = endpoints - u64::from(ENDPOINTS_OF_SLICE) + 1;
    until("node1 follows a change of the giant", || {
        let slots = entries(&stage, 1, "SLOTS")?;
        ensure!(slots < endpoints && slots >= left, "{slots} slots");
        Ok(())
    })?;

    let begun = Instant::now();
    let labels = ListParams::default().labels("kubernetes.io/service-name=giant");
    runtime
        .block_on(slices.delete_collection(&DeleteParams::default(), &labels))
        .context("delete the slices")?;
    world.run(&["delete", "service", "giant"])?;
    for node in [1, 2] {
        until("its entries are gone", || {
            let slots = entries(&stage, node, "SLOTS")?;
            ensure!(slots < 1000, "{slots} slots on node{node}");
            refused(&stage, node, 0)
        })?;
    }
    println!("  gone after {:.1} s", begun.elapsed().as_secs_f64());
    other.a_backend_goes_and_comes()?;
    let after = memory(&stage, "after")?;

    clients.all_run()?;
    let reports = clients.stop(&stage)?;
    cluster.restart_with(Component::ProxyEbpf(2), &[])?;
    settled(&stage)?;
    judge(&stage, &reports)?;
    for (index, name) in ["the agent of node1", "the agent of node2"]
        .into_iter()
        .enumerate()
    {
        let (before, there, after) = (before[index + 1], there[index + 1], after[index + 1]);
        ensure!(
            after < before + KEPT,
            "{name} keeps {after} bytes of {there}, having had {before}"
        );
    }
    Ok(())
}

/// Writes the giant's slices.
async fn create(slices: Api<EndpointSlice>, count: u32) -> Result<()> {
    let slices = &slices;
    futures::stream::iter(0..count)
        .map(|number| async move {
            let slice = serde_json::from_value(slice(number))?;
            slices
                .create(&PostParams::default(), &slice)
                .await
                .with_context(|| format!("create slice {number}"))?;
            anyhow::Ok(())
        })
        .buffer_unordered(CONCURRENCY)
        .try_for_each(|()| async { Ok(()) })
        .await
}

fn slice(number: u32) -> Value {
    let first = FIRST.to_bits() + number * ENDPOINTS_OF_SLICE;
    let endpoints: Vec<_> = (first..first + ENDPOINTS_OF_SLICE)
        .map(|bits| json!({"addresses": [Ipv4Addr::from_bits(bits)]}))
        .collect();
    json!({
        "metadata": {
            "name": format!("giant-{number}"),
            "labels": {"kubernetes.io/service-name": "giant"},
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "80", "port": 80, "protocol": "TCP"}],
    })
}

/// A Service that others change while the giant comes and goes.
struct Other<'a> {
    stage: &'a Stage<'a>,
    vip: String,
    family: &'static str,
    addresses: Vec<String>,
}

impl<'a> Other<'a> {
    const PODS: [&'static str; 2] = ["other-1", "other-2"];

    fn make(stage: &'a Stage<'a>) -> Result<Self> {
        let pods: Vec<_> = (1..=2)
            .map(|node| stage.pod(Self::PODS[node - 1], node, json!({})))
            .collect();
        stage.apply(&pods)?;
        stage.ready(&Self::PODS)?;
        let world = stage.world;
        world.run(&["create", "service", "clusterip", "other", "--tcp=80"])?;
        let service = world.get(&["service", "other"])?;
        let vip: IpAddr = service["spec"]["clusterIP"]
            .as_str()
            .context("no cluster IP")?
            .parse()?;
        let mut addresses = Vec::new();
        for name in Self::PODS {
            let pod = world.get(&["pod", name])?;
            let mut ips = pod["status"]["podIPs"].as_array().into_iter().flatten();
            let ip = ips.find_map(|ip| {
                let ip: IpAddr = ip["ip"].as_str()?.parse().ok()?;
                (ip.is_ipv4() == vip.is_ipv4()).then(|| ip.to_string())
            });
            addresses.push(ip.with_context(|| format!("{name} has no address of the family of {vip}"))?);
        }
        Ok(Self {
            stage,
            vip: at(vip, 80),
            family: if vip.is_ipv4() { "IPv4" } else { "IPv6" },
            addresses,
        })
    }

    /// Its second backend leaves and returns, which clients of every way see. How long that took.
    fn a_backend_goes_and_comes(&self) -> Result<Duration> {
        let begun = Instant::now();
        for count in [1, 2] {
            let endpoints: Vec<_> = self.addresses[..count]
                .iter()
                .map(|address| json!({"addresses": [address]}))
                .collect();
            self.stage.apply(&[json!({
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {"name": "other", "labels": {"kubernetes.io/service-name": "other"}},
                "addressType": self.family,
                "endpoints": endpoints,
                "ports": [{"name": "80", "port": 80, "protocol": "TCP"}],
            })])?;
            let expected = Answers(&Self::PODS[..count]);
            self.stage
                .expect_by("tcp", &[Pod(1), Pod(2), Packets], &self.vip, expected)?;
        }
        Ok(begun.elapsed())
    }
}

fn until(what: &str, probe: impl FnMut() -> Result<()>) -> Result<()> {
    wait::until(what, LIMIT, probe)
}

/// How many entries a map of a node has.
fn entries(stage: &Stage<'_>, node: usize, map: &str) -> Result<u64> {
    let status: Value = serde_json::from_str(&stage.proxy(node, &["status", "-o", "json"])?)?;
    let maps = status["maps"].as_array().context("no maps")?;
    let found = maps.iter().find(|entry| entry["name"] == map);
    found
        .and_then(|map| map["entries"].as_u64())
        .with_context(|| format!("no map {map}: {status}"))
}

/// Fails unless a node's agent counts so many Services that it has no room for.
fn refused(stage: &Stage<'_>, node: usize, expected: u32) -> Result<()> {
    let count = metric(stage, node, "proxy_ebpf_refused_services")?;
    ensure!(count == f64::from(expected), "{count} are refused on node{node}");
    Ok(())
}

/// One of the metrics of a node's agent.
fn metric(stage: &Stage<'_>, node: usize, name: &str) -> Result<f64> {
    let mut curl = Place::Node(node).command(stage.world.cluster, Path::new("curl"))?;
    let output = curl
        .args([
            "-sSf",
            "--noproxy",
            "*",
            "--max-time",
            "60",
            "http://127.0.0.1:10249/metrics",
        ])
        .output()
        .context("start curl")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    match value {
        Some(value) => value.parse().with_context(|| format!("{name} is {value:?}")),
        None => bail!(
            "no metric {name}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}

/// What the control plane and the agents take, in bytes.
fn memory(stage: &Stage<'_>, when: &str) -> Result<Vec<u64>> {
    let components = [
        Component::ControlPlane,
        Component::ProxyEbpf(1),
        Component::ProxyEbpf(2),
    ];
    let mut taken = Vec::new();
    for component in components {
        let process = stage.world.cluster.process(component);
        let bytes = process
            .with_context(|| format!("no {} runs", component.name()))?
            .pss_bytes()?;
        println!("  {when}: {} takes {} MiB", component.name(), bytes >> 20);
        taken.push(bytes);
    }
    Ok(taken)
}

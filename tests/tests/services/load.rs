//! Connections all the time, by every path, while everything else changes: the agent is killed and replaced, endpoints come and
//! go, maps outgrow their size. Every backend that is ever an endpoint is there all the time, so that no connection has a reason
//! to fail.
//!
//! `ORLOP_LOAD_MINUTES` makes it a long run (`cargo xtask soak data-plane`): the changes are made again and again for so long.

use std::{
    env,
    net::{IpAddr, Ipv4Addr},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Api, Config,
    api::{Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{Component, Process, suite::World};
use tokio::time::MissedTickBehavior;

use crate::{
    odd::slice_of_web,
    stage::{
        BACKENDS,
        Client::{Node, Outside, Pod},
        Service, Stage, at,
    },
};

/// New connections per second, of all clients together. They may be fewer on a slow machine.
const CONNECTIONS_PER_SECOND: usize = 1000;
/// Changes of endpoints in one go, and how many of them are made per second at most.
const CHANGES: usize = 400;
const CHANGES_PER_SECOND: u32 = 200;
/// A client ends by itself after so many seconds, should nobody tell it to.
const SECONDS_MAX: &str = "36000";
/// The pod whose sockets are translated, and whose packets are where a process is not in its cgroup.
const CLIENT: &str = "client-1";
/// Where a client looks for the file that ends it.
const STOP_IN_POD: &str = "/tmp/stop";
/// What the large Service is reached at: more frontends than a map has room for at first.
const LARGE_FIRST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 0);
const LARGE_ADDRESSES: u32 = 300;
const LARGE_PORTS: u32 = 240;
/// How many frontends a map has room for at first.
const FIRST_SIZE: u64 = 1 << 16;

pub(crate) fn no_connection_fails(world: &World<'_>) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(60 * minutes()?.unwrap_or(0));
    let stage = Stage::set(world)?;
    let (service, ips) = web_without_selector(&stage)?;
    let clients = Clients::start(&stage, &service)?;
    let outcome = loop {
        let outcome = changes(&stage, &ips).and_then(|()| clients.all_run());
        if outcome.is_err() || Instant::now() >= until {
            break outcome;
        }
    };
    let reports = clients.stop(&stage)?;
    outcome?;
    judge(&stage, &reports)
}

/// Prints what each client has to say, and fails if one of them has failed, with what the agents know of that.
pub(crate) fn judge(stage: &Stage<'_>, reports: &[(String, Value)]) -> Result<()> {
    for (name, report) in reports {
        println!("  {name}: {report}");
    }
    for (name, report) in reports {
        let made = report["per_second"].as_f64().unwrap_or_default();
        ensure!(made > 0.0, "{name} has done nothing: {report}");
        if report["failures"] == 0 {
            continue;
        }
        let error = report["error"].as_str().unwrap_or_default();
        let port = error
            .strip_prefix("port ")
            .and_then(|rest| rest.split(',').next());
        for node in [1, 2] {
            let connections = stage.proxy(node, &["ct", "list"])?;
            let its = connections
                .lines()
                .filter(|line| port.is_some_and(|port| line.contains(&format!(":{port} "))));
            its.for_each(|line| println!("  node{node} knows {line}"));
            let metrics = stage.proxy(node, &["status"])?;
            println!("  node{node}: {metrics}");
        }
        bail!("{name}: {report}");
    }
    Ok(())
}

/// How long a long run is to take; `None`: this is a short one.
pub(crate) fn minutes() -> Result<Option<u64>> {
    let minutes = env::var("ORLOP_LOAD_MINUTES").ok();
    minutes
        .map(|text| text.parse())
        .transpose()
        .context("ORLOP_LOAD_MINUTES")
}

/// The Service `web`, whose slices are made by hand, and the addresses of its backends, which answer connections of [`Clients`].
pub(crate) fn web_without_selector(stage: &Stage<'_>) -> Result<(Service, Vec<Vec<IpAddr>>)> {
    stage.world.run(&["delete", "pod", "web-1", "web-2"])?;
    let answer = json!({"command": ["/test", "answer"]});
    stage.apply(&[stage.backend(1, answer.clone()), stage.backend(2, answer)])?;
    stage.ready(&BACKENDS)?;
    let service = stage.service(json!({
        "type": "NodePort",
        "selector": null,
        "ports": [
            {"name": "tcp", "port": 80, "protocol": "TCP"},
            {"name": "udp", "port": 80, "protocol": "UDP"},
        ],
    }))?;
    let ips = stage.pod_ips()?;
    for (index, family) in ["IPv4", "IPv6"].into_iter().enumerate() {
        let addresses: Vec<String> = ips.iter().map(|ips| ips[index].to_string()).collect();
        stage.apply(&[slice_of_web(family, &addresses)])?;
    }
    settled(stage)?;
    Ok((service, ips))
}

/// A fast client of the API.
pub(crate) async fn client(stage: &Stage<'_>) -> Result<kube::Client> {
    let kubeconfig = Kubeconfig::read_from(stage.world.cluster.layout().kubeconfig())?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

/// All that can change, once.
fn changes(stage: &Stage<'_>, ips: &[Vec<IpAddr>]) -> Result<()> {
    killed(stage).context("the agent is killed")?;
    endpoints(stage, ips).context("endpoints change")?;
    replaced(stage).context("the agent is replaced by another program")?;
    grown(stage).context("maps grow")
}

/// `kill -9`, and nobody there for a while.
fn killed(stage: &Stage<'_>) -> Result<()> {
    let cluster = stage.world.cluster;
    for node in [1, 2] {
        let agent = cluster
            .process(Component::ProxyEbpf(node))
            .context("no agent runs")?;
        agent.kill();
        std::thread::sleep(Duration::from_millis(500));
        cluster.start_component(Component::ProxyEbpf(node))?;
    }
    settled(stage)
}

/// The second backend comes and goes, as fast as the API takes it, in both families at the same time.
fn endpoints(stage: &Stage<'_>, ips: &[Vec<IpAddr>]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start tokio")?;
    runtime.block_on(async {
        let slices: Api<EndpointSlice> = Api::namespaced(client(stage).await?, &stage.world.namespace);
        let start = Instant::now();
        tokio::try_join!(
            one_comes_and_goes(&slices, "web-ipv4", ips, 0),
            one_comes_and_goes(&slices, "web-ipv6", ips, 1)
        )?;
        println!("  {CHANGES} changes in {:.1} s", start.elapsed().as_secs_f64());
        settled(stage)
    })
}

/// Half of the changes, of one family. Their number is even: it ends as it has begun.
async fn one_comes_and_goes(
    slices: &Api<EndpointSlice>,
    name: &str,
    ips: &[Vec<IpAddr>],
    family: usize,
) -> Result<()> {
    let mut ticks = tokio::time::interval(2 * Duration::from_secs(1) / CHANGES_PER_SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for change in 0..CHANGES / 4 * 2 {
        ticks.tick().await;
        let count = if change % 2 == 0 { 1 } else { 2 };
        let addresses = ips[..count].iter().map(|ips| ips[family]);
        let endpoints: Vec<Value> = addresses.map(|ip| json!({"addresses": [ip]})).collect();
        let patch = Patch::Merge(json!({"endpoints": endpoints}));
        slices
            .patch(name, &PatchParams::default(), &patch)
            .await
            .context("patch a slice")?;
    }
    Ok(())
}

/// An upgrade: the same program under another path, and back.
fn replaced(stage: &Stage<'_>) -> Result<()> {
    let cluster = stage.world.cluster;
    let usual = &cluster.config().binaries.directory;
    let directory = tempfile::tempdir().context("make a folder")?;
    let program = directory.path().join("proxy-ebpf");
    std::fs::copy(usual.join("proxy-ebpf"), &program).context("copy the program")?;
    cluster
        .with_binaries(directory.path().to_owned())
        .start_component(Component::ProxyEbpf(1))?;
    settled(stage)?;
    cluster.start_component(Component::ProxyEbpf(1))?;
    settled(stage)
}

/// A Service that is reached at more addresses than there is room for comes and goes.
fn grown(stage: &Stage<'_>) -> Result<()> {
    let world = stage.world;
    let addresses: Vec<Ipv4Addr> = (0..LARGE_ADDRESSES)
        .map(|number| Ipv4Addr::from_bits(LARGE_FIRST.to_bits() + number))
        .collect();
    let ports: Vec<Value> = (1..=LARGE_PORTS)
        .map(|port| json!({"name": format!("port-{port}"), "port": port}))
        .collect();
    let large = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "large"},
        "spec": {"externalIPs": addresses, "ports": ports},
    });
    // Not by `apply`, whose annotation would hold it a second time.
    let create = world.scoped(&["create", "-f", "-"]);
    world
        .kubectl
        .run_with_input(&create, large.to_string().as_bytes())?;
    let entries = u64::from(LARGE_ADDRESSES * LARGE_PORTS);
    for node in [1, 2] {
        world.until(&format!("room for {entries} frontends on node{node}"), || {
            let status: Value = serde_json::from_str(&stage.proxy(node, &["status", "-o", "json"])?)?;
            let maps = status["maps"].as_array().context("no maps")?;
            let large = maps.iter().any(|map| {
                map["entries"].as_u64() >= Some(entries) && map["maxEntries"].as_u64() > Some(FIRST_SIZE)
            });
            ensure!(large, "{}", status["maps"]);
            Ok(())
        })?;
    }
    world.run(&["delete", "service", "large"])?;
    settled(stage)
}

/// Returns once the agents of both nodes have followed all that was done before.
pub(crate) fn settled(stage: &Stage<'_>) -> Result<()> {
    let world = stage.world;
    world.run(&["create", "service", "clusterip", "seen", "--tcp=80"])?;
    stage.known("seen", &[1, 2])?;
    world.run(&["delete", "service", "seen"]).map(drop)
}

/// Everybody who connects.
pub(crate) struct Clients {
    clients: Vec<(String, Child)>,
    /// The file that ends those that are in no pod.
    stop: TempDir,
}

impl Clients {
    pub(crate) fn start(stage: &Stage<'_>, service: &Service) -> Result<Self> {
        let mut clients = Self {
            clients: Vec::new(),
            stop: tempfile::tempdir().context("make a folder")?,
        };
        let inside: Vec<String> = service.cluster_ips().iter().map(|ip| at(*ip, 80)).collect();
        let outside = service
            .node_ports()?
            .map(|(_, port)| stage.node_addresses(1).map(|ip| at(ip, port)));
        let rate = (CONNECTIONS_PER_SECOND / (3 * inside.len() + outside[0].len())).to_string();
        let short = ["short", "--connections", "4", "--rate", &rate];
        // Connections that last, seldom used: those that are translated all the time.
        let lasting = ["keep-alive", "--connections", "2", "--rate", "20"];
        let datagram = ["datagram", "--connections", "2", "--rate", "40"];
        // Of sockets that are translated when they connect, those that last end with their backend.
        let datagrams = ["datagrams", "--connections", "2", "--rate", "20"];
        for (client, arguments) in [
            ("a pod's sockets", &short),
            ("a pod's packets", &short),
            ("a node's sockets", &short),
            ("outside", &short),
            ("a pod's packets", &lasting),
            ("outside", &lasting),
            ("a pod's sockets", &datagram),
            ("a pod's packets", &datagram),
            ("a node's sockets", &datagram),
            ("outside", &datagram),
            ("a pod's packets", &datagrams),
            ("outside", &datagrams),
        ] {
            let [tcp, udp] = &outside;
            let targets = match client {
                "outside" if arguments[0].starts_with("datagram") => &udp[..],
                "outside" => tcp,
                _ => &inside,
            };
            for target in targets {
                clients.add(stage, client, target, arguments)?;
            }
        }
        Ok(clients)
    }

    fn add(&mut self, stage: &Stage<'_>, client: &str, target: &str, arguments: &[&str]) -> Result<()> {
        let mut stop = self.stop.path().join("stop");
        let mut command = match client {
            "a pod's sockets" => {
                stop = STOP_IN_POD.into();
                stage.command(Pod(1))?
            }
            // In the same pod as those before: the kernel gives a connection to the Service and one to a backend the same port
            // at times, and both go to that backend.
            "a pod's packets" => stage.packets(CLIENT)?,
            "a node's sockets" => stage.command(Node(2))?,
            _ => stage.command(Outside)?,
        };
        command
            .args(["load", target, "--seconds", SECONDS_MAX, "--mode"])
            .args(arguments);
        command.arg("--until").arg(stop);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().with_context(|| format!("start {client}"))?;
        let name = format!("{client} to {target}, {}", arguments[0]);
        self.clients.push((name, child));
        Ok(())
    }

    /// None of them has ended, whatever the reason.
    pub(crate) fn all_run(&self) -> Result<()> {
        for (name, child) in &self.clients {
            let process = Process::find(i32::try_from(child.id()).context("a pid")?);
            ensure!(process.is_some(), "{name} has ended");
        }
        Ok(())
    }

    /// Tells them to end, and returns what each has to say.
    pub(crate) fn stop(mut self, stage: &Stage<'_>) -> Result<Vec<(String, Value)>> {
        std::fs::write(self.stop.path().join("stop"), "").context("stop the clients")?;
        stage.world.run(&["exec", CLIENT, "--", "touch", STOP_IN_POD])?;
        let mut reports = Vec::new();
        for (name, child) in std::mem::take(&mut self.clients) {
            let output = child.wait_with_output().context("wait for a client")?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let report = serde_json::from_str(text.trim());
            let errors = String::from_utf8_lossy(&output.stderr);
            reports.push((
                name.clone(),
                report.with_context(|| format!("{name}: {text}{errors}"))?,
            ));
        }
        Ok(reports)
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        for (_, child) in &mut self.clients {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

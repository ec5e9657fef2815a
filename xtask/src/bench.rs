//! `cargo xtask bench`: the numbers that the project promises, measured here and now on an isolated cluster.
//!
//! Machines differ and are noisy: each line says what the target is, and where there is a peer it is measured in the same run.

mod api;
mod services;
mod store;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::Value;
use tests::{Binaries, Cluster, ClusterConfig, Component, wait};

use crate::{build, images, setup};

/// A crate's own measuring program: the package and the example's name.
const CRI_START: (&str, &str) = ("kubelet", "cri-start");

/// What the user may choose.
#[derive(Args)]
pub(crate) struct Options {
    /// How long the cluster is left alone before its idle memory is read, in seconds.
    #[arg(long, default_value_t = 20)]
    idle_seconds: u64,
    /// How many pods are started through the API, and as many by bare CRI calls.
    #[arg(long, default_value_t = 20)]
    pod_starts: u32,
    /// How many small objects the API server is filled with.
    #[arg(long, default_value_t = 200_000)]
    api_objects: u64,
    /// How many pods the API server is measured with.
    #[arg(long, default_value_t = 10_000)]
    api_pods: u64,
    /// How many watches each change is told to.
    #[arg(long, default_value_t = 1000)]
    api_watchers: u64,
    /// Over which store the API server is measured: embedded, etcd or both.
    #[arg(long, default_value = "both")]
    api_store: String,
    /// The numbers of clients that write to the store at the same time.
    #[arg(long, default_value = "1,64,512")]
    store_clients: String,
    /// The numbers of keys at which requests to the store are measured.
    #[arg(long, default_value = "1000,200000")]
    store_objects: String,
    /// What to measure; everything when not given.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Subject>,
    #[command(flatten)]
    services: services::Options,
}

/// A group of measurements.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Subject {
    /// Start-up, idle memory and pod starts.
    Node,
    /// Services, their clients and the agent, beside iptables and nftables.
    Services,
    /// The store.
    Store,
    /// The API server, over its own store and over etcd.
    Api,
}

impl Options {
    fn includes(&self, subject: Subject) -> bool {
        self.only.is_empty() || self.only.contains(&subject)
    }
}

/// A measured value beside its target.
struct Row {
    what: String,
    value: String,
    target: &'static str,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    setup::for_build()?;
    setup::for_cluster()?;
    setup::for_tests()?;
    setup::require_kubectl()?;
    let directory = build::programs()?;
    let images = images::build(&build::target().join("images"))?;
    // Built before anything is measured: a compiler beside the cluster would be measured too.
    // All the packages in one call, whatever is measured: cargo chooses their dependencies' features by what is named.
    let programs = [
        (Subject::Node, &[CRI_START][..]),
        (Subject::Services, &services::PROGRAMS),
        (Subject::Store, &[store::PROGRAM]),
        (Subject::Api, &[api::PROGRAM]),
    ];
    let mut command = vec!["build", "--release"];
    for (subject, programs) in programs {
        for (package, name) in programs {
            command.extend(["-p", package]);
            if options.includes(subject) {
                command.extend(["--example", name]);
            }
        }
    }
    build::cargo(&command)?;
    tests::sweep("b-")?;
    let mut rows = Vec::new();
    // What was measured before something failed counts all the same.
    let outcome = measure_all(options, &directory, &images.archives, &mut rows);
    println!("\n{:<72} {:>24}   target", "what", "here");
    for row in &rows {
        println!("{:<72} {:>24}   {}", row.what, row.value, row.target);
    }
    outcome
}

fn measure_all(options: &Options, directory: &Path, archives: &[PathBuf], rows: &mut Vec<Row>) -> Result<()> {
    if options.includes(Subject::Node) {
        on_cluster(1, directory.to_owned(), archives.to_owned(), |cluster, took| {
            rows.push(row("`up` (built) to node Ready", seconds(took), "1.5 s"));
            measure(cluster, options, rows)
        })?;
    }
    if options.includes(Subject::Services) {
        services::measure(&options.services, directory, archives, rows)?;
    }
    if options.includes(Subject::Api) {
        api::measure(directory, options, rows)?;
    }
    if options.includes(Subject::Store) {
        store::measure(options, rows)?;
    }
    Ok(())
}

/// What takes a whole cluster. `work` is told how long it took to start.
fn on_cluster(
    nodes: usize,
    directory: PathBuf,
    archives: Vec<PathBuf>,
    work: impl FnOnce(&Cluster, Duration) -> Result<()>,
) -> Result<()> {
    let config = ClusterConfig {
        name: format!("b-{}", std::process::id()),
        nodes,
        isolated: true,
        api_port: None,
        binaries: Binaries { directory },
        images: archives,
    };
    let start = Instant::now();
    let cluster = Cluster::start(config, &mut |step| {
        println!("{:>8.2} s  {}", step.took.as_secs_f64(), step.what)
    })?;
    let outcome = work(&cluster, start.elapsed());
    let removed = cluster.remove();
    outcome.and(removed)
}

fn measure(cluster: &Cluster, options: &Options, rows: &mut Vec<Row>) -> Result<()> {
    let kubectl = cluster.kubectl();
    thread::sleep(Duration::from_secs(options.idle_seconds));
    let mut sum = 0;
    for component in [
        Component::ControlPlane,
        Component::Kubelet(1),
        Component::ProxyEbpf(1),
        Component::Containerd(1),
    ] {
        let process = cluster
            .process(component)
            .with_context(|| format!("{} does not run", component.name()))?;
        let pss = process.pss_bytes()?;
        let counted = !matches!(component, Component::Containerd(_));
        sum += if counted { pss } else { 0 };
        rows.push(row(
            &format!("idle PSS, {}", component.name()),
            mebibytes(pss),
            if counted { "" } else { "not ours" },
        ));
    }
    rows.push(row(
        "idle PSS, control plane + kubelet + proxy (no DNS yet)",
        mebibytes(sum),
        "64 MiB with DNS",
    ));

    let start = Instant::now();
    kubectl.run(&[
        "create",
        "deployment",
        "ten",
        "--image",
        images::TEST_IMAGE,
        "--replicas=10",
    ])?;
    wait::until("10 pods Running", Duration::from_secs(120), || {
        let running = kubectl
            .run(&[
                "get",
                "pods",
                "--field-selector=status.phase=Running",
                "-o",
                "name",
            ])?
            .lines()
            .count();
        if running < 10 {
            bail!("{running} run")
        } else {
            Ok(())
        }
    })?;
    rows.push(row(
        "10 pods from `create deployment` to Running",
        seconds(start.elapsed()),
        "",
    ));
    pod_start(cluster, options, rows)
}

/// What starting a pod costs beyond the bare CRI calls, both measured in turns on the same node.
fn pod_start(cluster: &Cluster, options: &Options, rows: &mut Vec<Row>) -> Result<()> {
    let layout = cluster.layout();
    let report = example(
        CRI_START,
        &[
            "--kubeconfig".as_ref(),
            layout.kubeconfig().as_os_str(),
            "--socket".as_ref(),
            layout.containerd_socket(1).as_os_str(),
            "--cgroup-root".as_ref(),
            layout.node_cgroup(1).as_ref(),
            "--image".as_ref(),
            images::TEST_IMAGE.as_ref(),
            "--pods".as_ref(),
            options.pod_starts.to_string().as_ref(),
        ],
    )?;
    let mut add = |what: &str, measured: &str, target| -> Result<()> {
        let of = |quantile: &str| {
            report
                .get(measured)
                .and_then(|values| values.get(quantile)?.as_f64())
                .with_context(|| format!("cri-start does not report the {quantile} of {measured:?}"))
        };
        let value = format!("{:.1} ms (p90 {:.1})", of("median")?, of("p90")?);
        rows.push(row(what, value, target));
        Ok(())
    };
    add("pod start by bare CRI calls", "bare all three calls", "")?;
    add("pod start from POST to Running", "ours POST to Running seen", "")?;
    add("  of which POST to bound", "ours POST to bound", "")?;
    add(
        "  of which bound to container started",
        "ours bound to startedAt",
        "",
    )?;
    add(
        "  of which container started to Running",
        "ours startedAt to Running seen",
        "",
    )?;
    add("added to the bare CRI calls, in all", "added in all", "")?;
    add(
        "added to the bare CRI calls, by the kubelet",
        "added by the kubelet",
        "20 ms",
    )
}

/// Runs a crate's own measuring program, which prints a JSON object.
fn example((_, name): (&str, &str), arguments: &[&OsStr]) -> Result<BTreeMap<String, Value>> {
    // Built with the others already: by itself its dependencies would be built anew, with other features.
    let output = Command::new(build::target().join("release/examples").join(name))
        .args(arguments)
        .current_dir(build::root())
        .output()
        .with_context(|| format!("start {name}"))?;
    if !output.status.success() {
        bail!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("parse what {name} prints"))
}

fn row(what: &str, value: String, target: &'static str) -> Row {
    Row {
        what: what.to_owned(),
        value,
        target,
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

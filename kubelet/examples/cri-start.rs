//! Measures what the kubelet adds to a pod's start: `cri-start --kubeconfig FILE --socket FILE --cgroup-root DIR
//! --image IMAGE [--pods 20]`.
//!
//! Two kinds of pods are started in turns on the same node, one at a time, so that both see the same machine: pods made by bare
//! CRI calls (RunPodSandbox, CreateContainer, StartContainer), and pods created through the API and started by the node's
//! kubelet. Both kinds get the same sandbox and container configuration, but for the volumes and files that only the kubelet
//! adds. The containers' start times are containerd's own for both, so that the difference is not blurred by who watches.
//!
//! Prints one line of JSON, in milliseconds. The cluster must have a single node that is Ready and has the image.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, bail};
use futures::{Stream, StreamExt, TryStreamExt};
use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams, WatchEvent, WatchParams},
};
use kubelet::{
    cgroups::Cgroups,
    container::{Parts, container_config},
    env::Environment,
    runtime::Runtime,
    sandbox::{Dns, Node, sandbox_config},
    worker::plan::Start,
};
use serde_json::json;

/// A pod that takes longer has failed.
const POD_LIMIT: Duration = Duration::from_secs(60);

struct Arguments {
    kubeconfig: PathBuf,
    socket: PathBuf,
    cgroup_root: String,
    image: String,
    pods: u32,
}

fn arguments() -> anyhow::Result<Arguments> {
    let mut given = BTreeMap::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments
            .next()
            .with_context(|| format!("{flag} needs a value"))?;
        given.insert(flag, value);
    }
    let mut take = |flag: &str| given.remove(flag).with_context(|| format!("{flag} is missing"));
    let parsed = Arguments {
        kubeconfig: take("--kubeconfig")?.into(),
        socket: take("--socket")?.into(),
        cgroup_root: take("--cgroup-root")?,
        image: take("--image")?,
        pods: match take("--pods") {
            Ok(number) => number.parse().context("--pods: not a number")?,
            Err(_) => 20,
        },
    };
    match given.keys().next() {
        Some(flag) => bail!("unknown flag {flag}"),
        None => Ok(parsed),
    }
}

/// Named durations of many pods.
#[derive(Default)]
struct Samples(BTreeMap<&'static str, Vec<f64>>);

impl Samples {
    fn add(&mut self, name: &'static str, milliseconds: f64) {
        self.0.entry(name).or_default().push(milliseconds);
    }

    fn quantile(&self, name: &str, quantile: f64) -> f64 {
        let mut values = self.0.get(name).cloned().unwrap_or_default();
        values.sort_by(f64::total_cmp);
        let rank = (values.len().saturating_sub(1) as f64 * quantile).round() as usize;
        values.get(rank).copied().unwrap_or(f64::NAN)
    }

    /// Median and 90th percentile of every name, to a tenth of a millisecond.
    fn report(&self) -> serde_json::Value {
        let tenth = |value: f64| (value * 10.0).round() / 10.0;
        self.0
            .keys()
            .map(|name| {
                let value = json!({
                    "median": tenth(self.quantile(name, 0.5)),
                    "p90": tenth(self.quantile(name, 0.9)),
                });
                ((*name).to_owned(), value)
            })
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = arguments()?;
    let _installed_before = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = kube::config::Kubeconfig::read_from(&arguments.kubeconfig).context("--kubeconfig")?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
    let pods: Api<Pod> = Api::namespaced(Client::try_from(config)?, "default");
    let bare = Bare::new(&arguments).await?;
    let (mut samples, run) = (Samples::default(), std::process::id());
    for index in 0..arguments.pods {
        // Each kind goes first every other time: whoever comes second meets what containerd still clears away.
        let (without, with) = if index % 2 == 0 {
            let without = bare.start_one(run, index, &mut samples).await?;
            let with = ours(&pods, &bare.runtime, &arguments.image, run, index, &mut samples).await?;
            (without, with)
        } else {
            let with = ours(&pods, &bare.runtime, &arguments.image, run, index, &mut samples).await?;
            (bare.start_one(run, index, &mut samples).await?, with)
        };
        samples.add("added in all", with.from_post - without);
        samples.add("added by the kubelet", with.from_bound - without);
    }
    let mut report = samples.report();
    report["pods_of_each_kind"] = arguments.pods.into();
    println!("{report}");
    Ok(())
}

fn test_pod(run: u32, index: u32, image: &str) -> anyhow::Result<Pod> {
    Ok(serde_json::from_value(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": format!("cri-start-{run}-{index}"), "namespace": "default"},
        "spec": {
            "containers": [{"name": "main", "image": image, "command": ["sleep", "600"]}],
            "terminationGracePeriodSeconds": 1,
        },
    }))?)
}

/// How long one pod took until the API said Running, in milliseconds.
struct Took {
    /// Since its creation was sent.
    from_post: f64,
    /// Since it was seen bound to the node, which is when the kubelet can know of it.
    from_bound: f64,
}

/// Starts pods without a kubelet.
struct Bare {
    runtime: Runtime,
    cgroups: Cgroups,
    image: cri::Image,
    image_name: String,
    logs: tempfile::TempDir,
}

impl Bare {
    async fn new(arguments: &Arguments) -> anyhow::Result<Self> {
        let runtime = Runtime::new(&arguments.socket);
        let image = runtime
            .image_status(&arguments.image)
            .await?
            .with_context(|| format!("--image: the node has no {}", arguments.image))?;
        Ok(Self {
            // Beside the kubelet's own, which removes what it does not know.
            cgroups: Cgroups::new(&format!(
                "{}/cri-start",
                arguments.cgroup_root.trim_end_matches('/')
            ))?,
            runtime,
            image,
            image_name: arguments.image.clone(),
            logs: tempfile::tempdir()?,
        })
    }

    /// Starts and removes a pod; how long the three calls that start it took, in milliseconds.
    async fn start_one(&self, run: u32, index: u32, samples: &mut Samples) -> anyhow::Result<f64> {
        let mut pod = test_pod(run, index, &self.image_name)?;
        let uid = format!("cri-start-{run}-{index}");
        pod.metadata.uid = Some(uid.clone());
        let node = Node {
            pod_logs_dir: self.logs.path(),
            cgroup_parent: self.cgroups.pod_path(&pod),
            node_name: "",
            cluster_domain: "cluster.local",
            dns: Dns::default(),
        };
        let mut sandbox = sandbox_config(&pod, 0, &node);
        // Without the labels the kubelet does not take the sandbox for a pod that somebody deleted.
        sandbox.labels.clear();
        let start = Start {
            name: "main".into(),
            init: false,
            attempt: 0,
            next_back_off: Duration::ZERO,
        };
        let parts = Parts {
            image: &self.image,
            environment: Environment::default(),
            mounts: Vec::new(),
            node_memory: 1 << 30,
            cpu_cfs_quota: true,
        };
        let containers = kubelet::pod::containers(&pod);
        let spec = containers.first().context("the pod has no container")?;
        let mut container = container_config(&pod, spec, &start, parts)?;
        container.labels.clear();
        std::fs::create_dir_all(Path::new(&sandbox.log_directory).join("main"))?;

        let begin = (Instant::now(), now_ms());
        let sandbox_id = self.runtime.run_pod_sandbox(sandbox.clone(), "").await?;
        samples.add("bare RunPodSandbox", ms(begin.0.elapsed()));
        let container_id = self
            .runtime
            .create_container(&sandbox_id, container, sandbox)
            .await?;
        self.runtime.start_container(&container_id).await?;
        let took = ms(begin.0.elapsed());
        samples.add("bare all three calls", took);
        let started = started_ms(&self.runtime, &container_id).await?;
        samples.add("bare to startedAt", started - begin.1);

        self.runtime.stop_container(&container_id, Duration::ZERO).await?;
        self.runtime.stop_pod_sandbox(&sandbox_id).await?;
        self.runtime.remove_pod_sandbox(&sandbox_id).await?;
        self.cgroups.remove_pod(&uid)?;
        Ok(took)
    }
}

/// One pod through the API, up to its removal.
async fn ours(
    pods: &Api<Pod>,
    runtime: &Runtime,
    image: &str,
    run: u32,
    index: u32,
    samples: &mut Samples,
) -> anyhow::Result<Took> {
    let pod = test_pod(run, index, image)?;
    let name = pod.metadata.name.clone().context("the pod has no name")?;
    let field = format!("metadata.name={name}");
    let version = pods
        .list(&ListParams::default().fields(&field))
        .await?
        .metadata
        .resource_version
        .unwrap_or_default();
    let events = pods
        .watch(&WatchParams::default().fields(&field), &version)
        .await?;
    let mut events = std::pin::pin!(events);

    let begin = (Instant::now(), now_ms());
    pods.create(&PostParams::default(), &pod).await?;
    samples.add("POST", ms(begin.0.elapsed()));
    let limit = tokio::time::sleep(POD_LIMIT);
    let (bound, running) = tokio::select! {
        seen = follow(&mut events) => seen?,
        () = limit => bail!("pod {name} does not run after {} s", POD_LIMIT.as_secs()),
    };
    let containers = runtime.containers_of("default", &name, "main").await?;
    let container = containers
        .first()
        .with_context(|| format!("containerd has no container of {name}"))?;
    let started = started_ms(runtime, &container.id).await?;
    samples.add("ours POST to bound", bound - begin.1);
    samples.add("ours bound to startedAt", started - bound);
    samples.add("ours startedAt to Running seen", running - started);
    samples.add("ours POST to Running seen", running - begin.1);

    pods.delete(&name, &DeleteParams::default().grace_period(0))
        .await?;
    while let Some(event) = events.try_next().await? {
        if let WatchEvent::Deleted(_) = event {
            break;
        }
    }
    // The next pod must not meet the clean-up of this one.
    tokio::time::timeout(POD_LIMIT, sandbox_gone(runtime, &name))
        .await
        .with_context(|| format!("pod {name} is not cleaned up"))??;
    Ok(Took {
        from_post: running - begin.1,
        from_bound: running - bound,
    })
}

/// When the pod was first seen bound to a node and when Running, in milliseconds of the wall clock.
async fn follow(
    events: &mut (impl Stream<Item = kube::Result<WatchEvent<Pod>>> + Unpin),
) -> anyhow::Result<(f64, f64)> {
    let mut bound = None;
    while let Some(event) = events.next().await {
        let (WatchEvent::Added(pod) | WatchEvent::Modified(pod)) = event? else {
            continue;
        };
        if bound.is_none() && pod.spec.is_some_and(|spec| spec.node_name.is_some()) {
            bound = Some(now_ms());
        }
        let phase = pod.status.and_then(|status| status.phase);
        match (phase.as_deref(), bound) {
            (Some("Running"), Some(bound)) => return Ok((bound, now_ms())),
            (Some("Failed"), _) => bail!("the pod failed"),
            _ => {}
        }
    }
    bail!("the watch ended")
}

async fn sandbox_gone(runtime: &Runtime, pod: &str) -> anyhow::Result<()> {
    let is_left = |sandbox: &cri::PodSandbox| {
        sandbox
            .metadata
            .as_ref()
            .is_some_and(|metadata| metadata.name == pod)
    };
    while runtime.list_pod_sandboxes(None).await?.iter().any(is_left) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// When containerd started the container, in milliseconds of the wall clock.
async fn started_ms(runtime: &Runtime, container_id: &str) -> anyhow::Result<f64> {
    Ok(runtime.container_status(container_id).await?.started_at as f64 / 1e6)
}

fn now_ms() -> f64 {
    ms(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

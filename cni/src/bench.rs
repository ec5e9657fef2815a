//! How long ADD takes when many pods start at once, beside what nobody could do without: the start of as many processes, and
//! the bare creation of as many veth pairs. `cargo xtask bench` and the example `add-latency` call this.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::netlink::{self, PairKind, Socket};
use crate::netns::{Error, Netns};
use crate::request::AttachmentId;
use crate::wiring::Pair;

/// The times of a run.
#[derive(Debug, Clone)]
pub struct Latencies {
    sorted: Vec<Duration>,
    /// From the first start to the last end.
    pub total: Duration,
    /// What all calls together kept processors busy for, children that ended included.
    pub cpu: Duration,
}

impl Latencies {
    /// The time that `percent` of the calls did not exceed.
    pub fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.sorted.len() * percent).div_ceil(100).saturating_sub(1);
        self.sorted.get(rank).copied().unwrap_or_default()
    }
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The namespaces could not be made.
    #[error("network namespaces")]
    Netns(#[from] Error),
    /// The kernel refused a pair.
    #[error("a veth pair")]
    Netlink(#[from] netlink::Error),
    /// The plugin could not be run.
    #[error("cannot run the plugin")]
    Spawn(#[from] std::io::Error),
    /// The plugin answered with an error.
    #[error("the plugin failed: {0}")]
    Failed(String),
}

/// A node and its pods. Every namespace, and with it every interface, is gone when this is dropped.
pub struct Scene {
    node: Netns,
    pods: Vec<Netns>,
    parallel: usize,
}

impl Scene {
    /// A node with `pods` pods that are worked on `parallel` at a time.
    ///
    /// # Errors
    /// A namespace cannot be made.
    pub fn new(pods: usize, parallel: usize) -> Result<Self, BenchError> {
        let node = Netns::anonymous()?;
        let namespaces = (0..pods)
            .map(|_| Netns::anonymous())
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Scene {
            node,
            pods: namespaces,
            parallel: parallel.clamp(1, pods.max(1)),
        })
    }

    /// Runs ADD for every pod, as processes, as a runtime would. `data_dir` takes the records.
    ///
    /// # Errors
    /// An ADD fails.
    pub fn add(&self, plugin: &Path, data_dir: &Path) -> Result<Latencies, BenchError> {
        let config = json!({
            "cniVersion": "1.0.0", "name": "bench", "type": "orlop-cni", "dataDir": data_dir, "mtu": 1500,
            "ranges": ["10.244.0.0/20", "fd00:10:244::/64"],
        })
        .to_string();
        self.measure(|pod| run(plugin, "ADD", pod, &self.pods[pod], &config))
    }

    /// Runs VERSION as many times: a start, a few lines of JSON, an end.
    ///
    /// # Errors
    /// The plugin cannot be run.
    pub fn version(&self, plugin: &Path) -> Result<Latencies, BenchError> {
        self.measure(|pod| {
            run(
                plugin,
                "VERSION",
                pod,
                &self.pods[pod],
                "{\"cniVersion\":\"1.0.0\"}",
            )
        })
    }

    /// Makes as many pairs from this process, one message each, and nothing on them.
    ///
    /// # Errors
    /// The kernel refuses a pair.
    pub fn bare_pairs(&self) -> Result<Latencies, BenchError> {
        self.measure(|pod| {
            let id = AttachmentId {
                container_id: format!("bare{pod}"),
                ifname: "bare0".to_owned(),
            };
            Socket::open()?.create_pair(&Pair::new(&id, 1500), PairKind::Veth, &self.pods[pod])?;
            Ok(())
        })
    }

    /// Calls `work` once for each pod, in the node's namespace.
    fn measure(
        &self,
        work: impl Fn(usize) -> Result<(), BenchError> + Sync,
    ) -> Result<Latencies, BenchError> {
        let (cpu_before, began) = (cpu_time()?, Instant::now());
        let mut sorted = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..self.parallel)
                .map(|worker| {
                    let work = &work;
                    scope.spawn(move || {
                        self.node.enter()?;
                        let own = (worker..self.pods.len()).step_by(self.parallel);
                        own.map(|pod| {
                            let began = Instant::now();
                            work(pod).map(|()| began.elapsed())
                        })
                        .collect::<Result<Vec<_>, BenchError>>()
                    })
                })
                .collect();
            let mut all = Vec::with_capacity(self.pods.len());
            for worker in workers {
                all.extend(
                    worker
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?,
                );
            }
            Ok::<_, BenchError>(all)
        })?;
        let total = began.elapsed();
        let cpu = cpu_time()?.saturating_sub(cpu_before);
        sorted.sort_unstable();
        Ok(Latencies { sorted, total, cpu })
    }
}

fn run(plugin: &Path, command: &str, pod: usize, netns: &Netns, config: &str) -> Result<(), BenchError> {
    let mut child = Command::new(plugin)
        .env_clear()
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", format!("pod{pod}"))
        .env("CNI_IFNAME", "eth0")
        .env("CNI_NETNS", netns.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        std::io::Write::write_all(&mut stdin, config.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        return Err(BenchError::Failed(
            String::from_utf8_lossy(&output.stdout).into_owned(),
        ));
    }
    Ok(())
}

/// What this process and its ended children have used of processors, user and system: fields 14 to 17 of
/// `/proc/self/stat`, in ticks of a hundredth of a second.
fn cpu_time() -> Result<Duration, BenchError> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The program's name, the second field, may contain anything but ends with the last parenthesis.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = fields.split_whitespace().skip(11).take(4);
    let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(10 * ticks))
}

//! How long ADD takes when many pods start at once: `cargo xtask bench` calls this with the built binary.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::netns::{Error, Netns};

/// The times of a run.
#[derive(Debug, Clone)]
pub struct Latencies {
    sorted: Vec<Duration>,
    /// From the first start to the last end.
    pub total: Duration,
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
    /// The plugin could not be run.
    #[error("cannot run the plugin")]
    Spawn(#[from] std::io::Error),
    /// The plugin answered with an error.
    #[error("the plugin failed: {0}")]
    Failed(String),
}

/// Runs ADD for `pods` pods, `parallel` at a time, in a node namespace of its own, as processes, as a runtime would.
///
/// `data_dir` takes the records. Every namespace, and with it every interface, is gone when this returns.
///
/// # Errors
/// A namespace cannot be made, or an ADD fails.
pub fn add_latencies(
    plugin: &Path,
    data_dir: &Path,
    pods: usize,
    parallel: usize,
) -> Result<Latencies, BenchError> {
    let node = Netns::anonymous()?;
    let namespaces = (0..pods)
        .map(|_| Netns::anonymous())
        .collect::<Result<Vec<_>, _>>()?;
    let config = json!({
        "cniVersion": "1.0.0", "name": "bench", "type": "orlop-cni", "dataDir": data_dir, "mtu": 1500,
        "ranges": ["10.244.0.0/20", "fd00:10:244::/64"],
    })
    .to_string();
    let parallel = parallel.clamp(1, pods.max(1));
    let began = Instant::now();
    let mut sorted = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..parallel)
            .map(|worker| {
                let (node, namespaces, config) = (&node, &namespaces, &config);
                scope.spawn(move || {
                    node.run(|| {
                        (worker..pods)
                            .step_by(parallel)
                            .map(|pod| add(plugin, pod, &namespaces[pod], config))
                            .collect::<Result<Vec<_>, BenchError>>()
                    })
                })
            })
            .collect();
        let mut all = Vec::with_capacity(pods);
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
    sorted.sort_unstable();
    Ok(Latencies { sorted, total })
}

fn add(plugin: &Path, pod: usize, netns: &Netns, config: &str) -> Result<Duration, BenchError> {
    let began = Instant::now();
    let mut child = Command::new(plugin)
        .env_clear()
        .env("CNI_COMMAND", "ADD")
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
    Ok(began.elapsed())
}

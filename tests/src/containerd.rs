//! A node's own containerd: its configuration and its images.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail};

use crate::layout::Layout;

/// The image of every pod's sandbox, built by `cargo xtask images`.
const PAUSE_IMAGE: &str = "localhost/orlop/pause:1";

/// Writes the configuration; true when it changed.
pub(crate) fn configure(layout: &Layout, index: usize) -> Result<bool> {
    let path = layout.node_state(index).join("containerd.toml");
    let text = configuration(layout, index, may_lower_oom_scores());
    if fs::read_to_string(&path).is_ok_and(|current| current == text) {
        return Ok(false);
    }
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(true)
}

fn configuration(layout: &Layout, index: usize, may_lower_oom_scores: bool) -> String {
    let (state, run) = (layout.node_state(index), layout.node_run(index));
    format!(
        r#"version = 2
root = "{state}/containerd"
state = "{run}/containerd"
oom_score = 0
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]

[grpc]
address = "{socket}"

[ttrpc]
address = "{socket}.ttrpc"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
stream_server_address = "127.0.0.1"
stream_server_port = "0"
# A process without CAP_SYS_RESOURCE cannot lower its score, and every container would fail to start.
restrict_oom_score_adj = {restrict}
# Pods' namespaces belong to the cluster: they go with its run directory.
netns_mounts_under_state_dir = true

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{bin}"
conf_dir = "{conf}"
"#,
        state = state.display(),
        run = run.display(),
        socket = layout.containerd_socket(index).display(),
        restrict = !may_lower_oom_scores,
        bin = layout.cni_bin_dir(index).display(),
        conf = layout.cni_conf_dir(index).display(),
    )
}

/// Whether this process has CAP_SYS_RESOURCE (bit 24 of the effective set).
fn may_lower_oom_scores() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .unwrap_or("0")
        .trim();
    u64::from_str_radix(effective, 16).is_ok_and(|set| set >> 24 & 1 == 1)
}

/// Imports OCI archives into the namespace that CRI uses.
pub(crate) fn import(layout: &Layout, index: usize, archives: &[impl AsRef<Path>]) -> Result<()> {
    for archive in archives {
        let archive = archive.as_ref();
        let output = Command::new("ctr")
            .arg("--address")
            .arg(layout.containerd_socket(index))
            .args(["--namespace", "k8s.io", "images", "import"])
            .arg(archive)
            .output()
            .context("start ctr, which comes with the package containerd")?;
        if !output.status.success() {
            bail!(
                "import {}: {}",
                archive.display(),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
    }
    Ok(())
}

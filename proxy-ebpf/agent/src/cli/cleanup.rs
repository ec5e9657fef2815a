//! `proxy-ebpf cleanup`: the node as it was before the agent.
//!
//! Programs and tables go at once. The node half of the network plugin goes as a whole once no pod has an address of it: without
//! its configuration and its program the container runtime could not remove such a pod, and without routes the pod would be cut
//! off. Of that half the configuration goes first, so that no further pod is given to it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::Args;
use proxy_ebpf::{node, pins};
use tokio::signal::unix::{SignalKind, signal};

use super::BpfDir;

/// The plugin's file.
const PLUGIN: &str = "orlop-cni";

#[derive(Args)]
pub(super) struct Cleanup {
    #[command(flatten)]
    bpf: BpfDir,
    /// Folder of CNI configurations, to remove ours from; with it the routes to other nodes' pods and the tunnel go too.
    #[arg(long)]
    cni_conf_dir: Option<PathBuf>,
    /// Folder from which the container runtime starts plugins, to remove ours from once no pod has an address of it.
    #[arg(long, requires = "cni_data_dir")]
    cni_bin_dir: Option<PathBuf>,
    /// Folder in which orlop-cni keeps its allocations.
    #[arg(long)]
    cni_data_dir: Option<PathBuf>,
    /// Folder of systemd's kernel settings, to remove ours from.
    #[arg(long)]
    sysctl_dir: Option<PathBuf>,
    /// Stay until terminated: for the pods of a DaemonSet, which must not end.
    #[arg(long)]
    stay: bool,
}

impl Cleanup {
    pub(super) fn run(self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the runtime")?;
        runtime.block_on(async {
            let removed = pins::remove(&self.bpf.bpf_dir)?;
            println!(
                "programs: {removed} pinned maps and links below {} removed",
                self.bpf.bpf_dir.display()
            );
            self.remove_network().await?;
            if self.stay {
                let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
                let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
                println!("done; waiting to be terminated");
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            }
            Ok(())
        })
    }
}

impl Cleanup {
    async fn remove_network(&self) -> Result<()> {
        if let Some(data_dir) = &self.cni_data_dir {
            let held = held(data_dir).with_context(|| format!("read {}", data_dir.display()))?;
            if held > 0 {
                println!(
                    "network: kept, since {held} pods have addresses of it; clean up once more when they are gone"
                );
                return Ok(());
            }
        }
        if let Some(dir) = &self.cni_conf_dir {
            let removed = node::remove(dir).await?;
            let configuration = if removed.configuration {
                "removed"
            } else {
                "not there"
            };
            println!(
                "network: configuration below {} {configuration}, {} routes and devices removed",
                dir.display(),
                removed.changes
            );
        }
        if let Some(dir) = &self.sysctl_dir {
            let path = dir.join(node::DROP_IN_NAME);
            if gone(fs::remove_file(&path)).with_context(|| format!("remove {}", path.display()))? {
                println!("settings: {} removed", path.display());
            }
        }
        if let (Some(bin_dir), Some(data_dir)) = (&self.cni_bin_dir, &self.cni_data_dir) {
            println!("plugin: {}", remove_plugin(bin_dir, data_dir)?);
        }
        Ok(())
    }
}

/// Removes the plugin and its records. Says what was done.
fn remove_plugin(bin_dir: &Path, data_dir: &Path) -> Result<&'static str> {
    let plugin = bin_dir.join(PLUGIN);
    let program = gone(fs::remove_file(&plugin)).with_context(|| format!("remove {}", plugin.display()))?;
    let records =
        gone(fs::remove_dir_all(data_dir)).with_context(|| format!("remove {}", data_dir.display()))?;
    Ok(match (program, records) {
        (true, true) => "removed the program and its records",
        (true, false) => "removed the program",
        (false, true) => "removed its records",
        (false, false) => "was not there",
    })
}

/// How many attachments of this boot hold addresses. Those of another boot count for nothing, as for the plugin.
fn held(data_dir: &Path) -> io::Result<usize> {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let mut held = 0;
    for network in entries(data_dir)? {
        for record in entries(&network.join(boot_id.trim()))? {
            let name = record.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("ready_") || name.starts_with("pending_") {
                held += 1;
            }
        }
    }
    Ok(held)
}

/// What is in a folder; nothing, if there is no such folder.
fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

/// Whether something was removed; that it was not there is no error.
fn gone(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_plugin_that_pods_need_is_kept() {
        let dir = tempfile::tempdir().expect("make a folder");
        let (bin, data) = (dir.path().join("bin"), dir.path().join("data"));
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("the boot id");
        let records = data.join("orlop").join(boot_id.trim());
        let earlier = data.join("orlop/another-boot");
        for folder in [&bin, &records, &earlier] {
            fs::create_dir_all(folder).expect("make a folder");
        }
        let plugin = bin.join(PLUGIN);
        fs::write(&plugin, "").expect("write");
        fs::write(earlier.join("ready_orl1_10.244.0.4"), "").expect("write");
        let record = records.join("ready_orl2_10.244.0.5");
        fs::write(&record, "").expect("write");
        fs::write(data.join("orlop/lock"), "").expect("write");
        assert_eq!(
            held(&data).expect("look"),
            1,
            "those of another boot count for nothing"
        );
        let network = Cleanup {
            bpf: BpfDir {
                bpf_dir: PathBuf::new(),
            },
            cni_conf_dir: None,
            cni_bin_dir: Some(bin.clone()),
            cni_data_dir: Some(data.clone()),
            sysctl_dir: Some(dir.path().to_owned()),
            stay: false,
        };
        let settings = dir.path().join(node::DROP_IN_NAME);
        fs::write(&settings, node::DROP_IN).expect("write");
        network.remove_network().await.expect("look");
        assert!(plugin.exists() && record.exists() && settings.exists());

        fs::remove_file(&record).expect("the pod goes");
        assert_eq!(held(&data).expect("look"), 0);
        network.remove_network().await.expect("remove");
        assert!(!plugin.exists() && !data.exists() && !settings.exists());
        fs::create_dir_all(&data).expect("make a folder");
        fs::write(&plugin, "").expect("write");
        assert_eq!(
            remove_plugin(&bin, &data).expect("remove"),
            "removed the program and its records"
        );
        assert!(!plugin.exists() && !data.exists());
        assert_eq!(
            remove_plugin(&bin, &data).expect("nothing to do"),
            "was not there"
        );
    }
}

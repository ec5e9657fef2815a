//! `proxy-ebpf cleanup`: the node as it was before the agent.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use proxy_ebpf::pins;

use super::BpfDir;

#[derive(Args)]
pub(super) struct Cleanup {
    #[command(flatten)]
    bpf: BpfDir,
    /// Folder of CNI configurations, to remove ours from.
    #[arg(long)]
    cni_conf_dir: Option<PathBuf>,
}

impl Cleanup {
    pub(super) fn run(self) -> Result<()> {
        let removed = pins::remove(&self.bpf.bpf_dir)?;
        println!(
            "removed {removed} pinned maps and links below {}",
            self.bpf.bpf_dir.display()
        );
        Ok(())
    }
}

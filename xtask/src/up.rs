//! `cargo xtask up`: from a fresh machine to a working cluster.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;
use tests::{Binaries, Cluster, ClusterConfig, Step};

use crate::{build, images, setup};

/// What the user may choose.
#[derive(Args)]
pub(crate) struct Options {
    /// The cluster's name.
    #[arg(long, default_value = "orlop")]
    name: String,
    /// The loopback port for kubectl; by default the one of the last start, or a free one.
    #[arg(long)]
    port: Option<u16>,
    /// How many nodes.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    nodes: u8,
    /// Leave the cluster without a route to the outside: no image can be pulled, nothing can leave.
    #[arg(long)]
    isolated: bool,
    /// Run the programs in this directory instead of building them.
    #[arg(long)]
    programs: Option<PathBuf>,
}

pub(crate) fn run(options: Options) -> Result<()> {
    let start = Instant::now();
    timed("packages", setup::for_build)?;
    timed("cluster packages", setup::for_cluster)?;
    let directory = match options.programs {
        Some(directory) => directory,
        None => timed("programs built", build::programs)?,
    };
    let images = timed("images made", || images::build(&build::target().join("images")))?;
    let config = ClusterConfig {
        name: options.name,
        nodes: options.nodes.into(),
        isolated: options.isolated,
        api_port: options.port,
        binaries: Binaries { directory },
        images: images.archives,
    };
    let cluster = Cluster::start(config, &mut |step| report(&step))?;
    let kubeconfig = cluster.layout().kubeconfig();
    println!(
        "\nThe cluster {:?} is ready after {}.",
        cluster.layout().name(),
        seconds(start.elapsed())
    );
    println!("\n  export KUBECONFIG={}\n\nThen try:", kubeconfig.display());
    println!("  kubectl get nodes -o wide");
    println!(
        "  kubectl create deployment web --image={} --replicas=3 && kubectl expose deployment web --port 80",
        images::TEST_IMAGE
    );
    println!("  kubectl get pods,endpointslices -o wide --watch");
    if setup::require_kubectl().is_err() {
        println!("\nkubectl is not on the PATH; version 1.30 or newer is needed.");
    }
    Ok(())
}

fn timed<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let result = work()?;
    report(&Step {
        what: what.to_owned(),
        took: start.elapsed(),
    });
    Ok(result)
}

fn report(step: &Step) {
    println!("{:>9}  {}", seconds(step.took), step.what);
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

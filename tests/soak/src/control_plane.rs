//! One long history of a control plane's API, over its own store or over three etcd servers.

use std::path::PathBuf;

use clap::Args;
use rand::{SeedableRng, rngs::StdRng};
use soak::{
    fault,
    target::{self, api::ApiServer},
    traffic,
};
use tests::ControlPlane;

#[derive(Args)]
pub(crate) struct Options {
    /// The control plane's program.
    #[arg(long, value_name = "FILE")]
    program: PathBuf,
    /// How many writes are acknowledged.
    #[arg(long, default_value_t = 100_000)]
    writes: usize,
    /// About how many writes lie between two kills.
    #[arg(long, default_value_t = 1500)]
    writes_between_kills: usize,
    /// Over three etcd servers with TLS, of which one at a time is killed too, instead of the embedded store.
    #[arg(long)]
    etcd: bool,
    /// How many clients write at the same time.
    #[arg(long, default_value_t = 48)]
    clients: usize,
    /// What random choices follow from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    let profile = traffic::Profile {
        writes: options.writes,
        clients: options.clients,
        watchers: 12,
        groups: 3,
        keys: 40,
        reads: 0.1,
        // A server forgets by itself, after minutes.
        forgets: false,
    };
    let dir = tempfile::tempdir()?;
    let mut random = StdRng::seed_from_u64(options.seed);
    let mut flags = Vec::new();
    let mut members = None;
    if options.etcd {
        let servers = target::etcd::start(dir.path(), &mut random)?;
        flags = target::etcd::flags(&servers);
        members = Some(fault::Members::new(servers, options.writes_between_kills));
    }
    let control_plane = ControlPlane::start(&options.program, dir.path(), &flags)?;
    let target = ApiServer::connect(control_plane.kubeconfig(), profile.groups).await?;
    let process = fault::Process::new(control_plane);
    let mut others = StdRng::from_rng(&mut random);
    let history = traffic::run(
        target,
        profile,
        options.seed,
        async |progress| {
            let kill_members = async {
                if let Some(members) = &members {
                    members.trouble(progress.clone(), &mut others).await;
                }
            };
            let every = options.writes_between_kills;
            let kill_process = process.kill_and_start_again(progress.clone(), every, &mut random);
            futures::join!(kill_members, kill_process);
        },
        async || {
            if let Some(members) = &members {
                members.heal();
            }
        },
    )
    .await;
    let name = if options.etcd {
        "control plane over etcd"
    } else {
        "control plane"
    };
    let summary = crate::judge(name, &history)?;
    if let Some(members) = &members {
        println!("{name}: etcd: {}", members.troubles());
    }
    println!("{name}: {} times killed; all holds: {summary}", process.kills());
    Ok(())
}

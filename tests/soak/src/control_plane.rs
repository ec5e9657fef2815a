//! One long history of a control plane's API.

use std::path::PathBuf;

use clap::Args;
use rand::{SeedableRng, rngs::StdRng};
use soak::{fault, target::api::ApiServer, traffic};
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
    let control_plane = ControlPlane::start(&options.program, dir.path(), &[])?;
    let target = ApiServer::connect(control_plane.kubeconfig(), profile.groups).await?;
    let process = fault::Process::new(control_plane);
    let mut random = StdRng::seed_from_u64(options.seed);
    let history = traffic::run(
        target,
        profile,
        options.seed,
        async |progress| {
            process
                .kill_and_start_again(progress, options.writes_between_kills, &mut random)
                .await
        },
        async || {},
    )
    .await;
    let summary = crate::judge("control plane", &history)?;
    println!(
        "control plane: {} times killed; all holds: {summary}",
        process.kills()
    );
    Ok(())
}

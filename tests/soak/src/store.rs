//! Histories of the two stores, by turns, each with a seed of its own.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use soak::{check::Summary, fault, target, traffic};

#[derive(Args)]
pub(crate) struct Options {
    /// For how long, in minutes.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// The first run's seed; each run after that has the next number.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many writes a run has.
    #[arg(long, default_value_t = 20_000)]
    writes: usize,
}

pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    let end = Instant::now() + Duration::from_secs(60 * options.minutes);
    let mut totals = [Summary::default(); 2];
    let mut seed = options.seed;
    while Instant::now() < end {
        // An etcd needs about ten times as long for a write.
        for _ in 0..4 {
            let name = format!("embedded, seed {seed}");
            totals[0].add(&embedded(&name, seed, options.writes).await?);
            seed += 1;
        }
        let name = format!("etcd, seed {seed}");
        totals[1].add(&etcd(&name, seed, options.writes / 5).await?);
        seed += 1;
    }
    println!("embedded: all hold: {}", totals[0]);
    println!("etcd: all hold: {}", totals[1]);
    Ok(())
}

fn profile(random: &mut StdRng, writes: usize) -> traffic::Profile {
    traffic::Profile {
        writes,
        clients: random.random_range(2..40),
        watchers: random.random_range(2..8),
        groups: random.random_range(1..4),
        keys: random.random_range(2..20),
        reads: random.random_range(0.1..0.7),
        forgets: random.random_bool(0.8),
    }
}

async fn embedded(name: &str, seed: u64, writes: usize) -> anyhow::Result<Summary> {
    let mut random = StdRng::seed_from_u64(seed);
    let profile = profile(&mut random, writes);
    let options = store::EmbeddedOptions {
        watch_buffer_events: random.random_range(16..2000),
        cache_bytes: random.random_range(1 << 16..1 << 22),
        journal_bytes: random.random_range(1 << 15..1 << 21),
        compaction_interval: None,
        ..store::EmbeddedOptions::new("/nowhere")
    };
    let target = Arc::new(target::embedded::Powered::new(options)?);
    let mut faults = StdRng::from_rng(&mut random);
    let every = random.random_range(50..writes.max(400) / 4);
    let history = traffic::run(
        target.clone(),
        profile,
        seed,
        async |progress| fault::cut_power(&target, progress, every, &mut faults).await,
        async || {},
    )
    .await;
    let summary = crate::judge(name, &history)?;
    println!("{name}: {} power cuts; {summary}", target.cuts());
    Ok(summary)
}

async fn etcd(name: &str, seed: u64, writes: usize) -> anyhow::Result<Summary> {
    let mut random = StdRng::seed_from_u64(seed);
    let profile = profile(&mut random, writes);
    let dir = tempfile::tempdir()?;
    let servers = target::etcd::start(dir.path(), &mut random)?;
    let buffer = random.random_range(64..2000);
    let target = target::etcd::connect(&servers, buffer, &mut random).await?;
    let members = fault::Members::new(servers, random.random_range(50..writes.max(1000) / 10));
    let history = traffic::run(
        target,
        profile,
        seed,
        async |progress| members.trouble(progress, &mut random).await,
        async || members.heal(),
    )
    .await;
    let summary = crate::judge(name, &history)?;
    println!("{name}: {}; {summary}", members.troubles());
    Ok(summary)
}

//! Short histories of both stores, with seeds that stay; `cargo xtask soak store` runs long ones.

use std::sync::Arc;

use rand::{SeedableRng, rngs::StdRng};
use soak::{check::check, fault, history::History, target, traffic};
use store::EmbeddedOptions;

fn profile(writes: usize) -> traffic::Profile {
    traffic::Profile {
        writes,
        clients: 12,
        watchers: 5,
        groups: 2,
        keys: 6,
        reads: 0.4,
        forgets: true,
    }
}

fn holds(history: &History) {
    match check(history) {
        Ok(summary) => eprintln!("{summary}"),
        Err(violations) => panic!("{}", violations.join("\n")),
    }
}

/// Power cuts with torn and lost writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_store_under_power_cuts() {
    for seed in [1, 2] {
        let mut random = StdRng::seed_from_u64(seed);
        let options = EmbeddedOptions {
            watch_buffer_events: 64,
            journal_bytes: 128 << 10,
            compaction_interval: None,
            ..EmbeddedOptions::new("/nowhere")
        };
        let target = Arc::new(target::embedded::Powered::new(options).unwrap());
        let history = traffic::run(
            target.clone(),
            profile(1500),
            seed,
            async |progress| fault::cut_power(&target, progress, 150, &mut random).await,
            async || {},
        )
        .await;
        holds(&history);
        assert!(target.cuts() > 0);
    }
}

/// Three members over TLS, one at a time killed, cut off from the others or slow, and well again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_while_members_come_and_go() {
    let mut random = StdRng::seed_from_u64(3);
    let dir = tempfile::tempdir().unwrap();
    let servers = target::etcd::start(dir.path(), &mut random).unwrap();
    let store = target::etcd::connect(&servers, 64, &mut random).await.unwrap();
    let members = fault::Members::new(servers, 200);
    let history = traffic::run(
        store,
        profile(1200),
        3,
        async |progress| members.trouble(progress, &mut random).await,
        async || members.heal(),
    )
    .await;
    holds(&history);
    assert!(members.strikes() > 0);
}

//! Measures durable writes per second, of the embedded store and, with `--etcd`, of an etcd server beside it:
//! `store-bench --clients 1,64,512 --seconds 5 [--value-bytes 1024] [--dir DIR] [--etcd]`.
//!
//! Each client updates a key of its own and waits for the acknowledgement, which is after the fsync. Prints one line of
//! JSON for each store and number of clients. The directory must be on the disk to be measured; by default it is a
//! temporary one below the working directory. The etcd is the one on the PATH, a single member with its defaults, reached
//! through this crate's client, so that its numbers are what an API server would see.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bytes::Bytes;
use store::{Embedded, EmbeddedOptions, Etcd, EtcdOptions, Store};
use tests::EtcdServers;

struct Arguments {
    clients: Vec<usize>,
    duration: Duration,
    value_bytes: usize,
    dir: PathBuf,
    etcd: bool,
}

fn arguments() -> anyhow::Result<Arguments> {
    let mut parsed = Arguments {
        clients: vec![64],
        duration: Duration::from_secs(5),
        value_bytes: 1024,
        dir: std::env::current_dir()?,
        etcd: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        if flag == "--etcd" {
            parsed.etcd = true;
            continue;
        }
        let value = arguments
            .next()
            .with_context(|| format!("{flag} needs a value"))?;
        let number = |text: &str| {
            text.parse::<usize>()
                .with_context(|| format!("{flag} {text}: not a number"))
        };
        match flag.as_str() {
            "--clients" => {
                let counts = value.split(',').map(|count| Ok(number(count)?.max(1)));
                parsed.clients = counts.collect::<anyhow::Result<_>>()?;
            }
            "--seconds" => parsed.duration = Duration::from_secs(number(&value)? as u64),
            "--value-bytes" => parsed.value_bytes = number(&value)?,
            "--dir" => parsed.dir = value.into(),
            _ => bail!("unknown flag {flag}; known are --clients, --seconds, --value-bytes, --dir, --etcd"),
        }
    }
    Ok(parsed)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = arguments()?;
    for clients in &arguments.clients {
        let dir = tempfile::tempdir_in(&arguments.dir)?;
        let store = Embedded::open(EmbeddedOptions::new(dir.path()))?;
        measure("embedded", &store, *clients, &arguments).await?;
        drop(store);
        if arguments.etcd {
            let dir = tempfile::tempdir_in(&arguments.dir)?;
            let servers = EtcdServers::single(dir.path())?;
            let store = Etcd::connect(EtcdOptions::new(servers.endpoints())).await?;
            measure("etcd", &store, *clients, &arguments).await?;
        }
    }
    Ok(())
}

async fn measure(
    name: &str,
    store: &impl Store,
    clients: usize,
    arguments: &Arguments,
) -> anyhow::Result<()> {
    let value = Bytes::from(vec![b'x'; arguments.value_bytes]);
    let start = Instant::now();
    let client = |client: usize| {
        let value = value.clone();
        async move {
            let key = format!("/registry/configmaps/default/client-{client}");
            let mut latencies = Vec::new();
            let mut revision = store.create(&key, value.clone(), None).await?;
            while start.elapsed() < arguments.duration {
                let begun = Instant::now();
                revision = store.update(&key, value.clone(), revision, None).await?;
                latencies.push(begun.elapsed());
            }
            Ok::<_, store::Error>(latencies)
        }
    };
    let latencies = futures::future::try_join_all((0..clients).map(client)).await?;
    let elapsed = start.elapsed();
    let mut latencies = latencies.concat();
    latencies.sort_unstable();
    let quantile_us = |q: f64| {
        let index = ((latencies.len() as f64 * q) as usize).min(latencies.len().saturating_sub(1));
        latencies.get(index).map_or(0, Duration::as_micros)
    };
    println!(
        r#"{{"store":"{name}","clients":{clients},"value_bytes":{},"writes":{},"writes_per_second":{:.0},"latency_us_p50":{},"latency_us_p99":{},"latency_us_max":{}}}"#,
        arguments.value_bytes,
        latencies.len(),
        latencies.len() as f64 / elapsed.as_secs_f64(),
        quantile_us(0.5),
        quantile_us(0.99),
        quantile_us(1.0),
    );
    Ok(())
}

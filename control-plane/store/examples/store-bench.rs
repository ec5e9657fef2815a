//! Measures the embedded store, and beside it, with `--etcd`, an etcd server on the same disk:
//! `store-bench [--clients 1,64,512] [--seconds 3] [--rounds 2] [--objects 1000,200000] [--value-bytes 1024] [--cache-bytes N] [--dir DIR] [--etcd]`.
//!
//! `--clients`: durable writes. Each client updates a key of its own and waits for the acknowledgement, which is after the
//! fsync. The two stores are measured by turns, so that a noisy machine disturbs both. The etcd is the one on the PATH, a
//! single member with its defaults, reached through this crate's client, so that its numbers are what an API server would see.
//!
//! `--objects`: what one request costs in a store of so many keys.
//!
//! Prints one JSON object: `writes` has a row for each store and number of clients, `objects` one for each number of keys.
//! The directory must be on the disk to be measured; by default it is a temporary one below the working directory.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use store::{Embedded, EmbeddedOptions, Etcd, EtcdOptions, ListOptions, Store};
use tests::EtcdServers;

/// The unit of times in `/proc/<pid>/stat`, which the kernel shows in hundredths on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;
/// What an API server lists at once.
const PAGE: usize = 500;

struct Arguments {
    clients: Vec<usize>,
    objects: Vec<usize>,
    duration: Duration,
    rounds: usize,
    value_bytes: usize,
    cache_bytes: Option<usize>,
    dir: PathBuf,
    etcd: bool,
}

impl Arguments {
    fn embedded(&self, dir: &Path) -> EmbeddedOptions {
        let mut options = EmbeddedOptions::new(dir);
        if let Some(bytes) = self.cache_bytes {
            options.cache_bytes = bytes;
        }
        options
    }
}

fn arguments() -> anyhow::Result<Arguments> {
    let mut parsed = Arguments {
        clients: Vec::new(),
        objects: Vec::new(),
        duration: Duration::from_secs(3),
        rounds: 2,
        value_bytes: 1024,
        cache_bytes: None,
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
        let numbers = || {
            value
                .split(',')
                .filter(|text| !text.is_empty())
                .map(|text| Ok(number(text)?.max(1)))
                .collect::<anyhow::Result<_>>()
        };
        match flag.as_str() {
            "--clients" => parsed.clients = numbers()?,
            "--objects" => parsed.objects = numbers()?,
            "--seconds" => parsed.duration = Duration::from_secs(number(&value)? as u64),
            "--rounds" => parsed.rounds = number(&value)?.max(1),
            "--value-bytes" => parsed.value_bytes = number(&value)?,
            "--cache-bytes" => parsed.cache_bytes = Some(number(&value)?),
            "--dir" => parsed.dir = value.into(),
            _ => bail!(
                "unknown flag {flag}; known are --clients, --seconds, --rounds, --objects, --value-bytes, --cache-bytes, --dir, --etcd"
            ),
        }
    }
    Ok(parsed)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = arguments()?;
    let mut writes = Vec::new();
    for clients in &arguments.clients {
        let [mut embedded, mut etcd] = [Measured::default(), Measured::default()];
        for _ in 0..arguments.rounds {
            measure_embedded(*clients, &arguments, &mut embedded).await?;
            if arguments.etcd {
                measure_etcd(*clients, &arguments, &mut etcd).await?;
            }
        }
        writes.push(embedded.row("embedded", *clients));
        if arguments.etcd {
            writes.push(etcd.row("etcd", *clients));
        }
    }
    let mut objects = Vec::new();
    for count in &arguments.objects {
        objects.push(measure_objects(*count, &arguments).await?);
    }
    println!(
        r#"{{"writes":[{}],"objects":[{}]}}"#,
        writes.join(","),
        objects.join(",")
    );
    Ok(())
}

/// What the rounds of one store came to.
#[derive(Default)]
struct Measured {
    latencies: Vec<Duration>,
    elapsed: Duration,
    /// Of all that took part: the store, and the client it is reached through.
    cpu_seconds: f64,
    /// Of the process that has the store, at the end.
    pss_bytes: u64,
}

impl Measured {
    fn row(mut self, store: &str, clients: usize) -> String {
        let [p50, p99] = quantiles_us(&mut self.latencies);
        let writes = self.latencies.len() as f64;
        format!(
            r#"{{"store":"{store}","clients":{clients},"writes_per_second":{:.0},"latency_us_p50":{p50},"latency_us_p99":{p99},"cpu_us_per_write":{:.1},"cpu_seconds":{:.2},"pss_bytes":{}}}"#,
            writes / self.elapsed.as_secs_f64(),
            self.cpu_seconds * 1e6 / writes.max(1.0),
            self.cpu_seconds,
            self.pss_bytes,
        )
    }
}

async fn measure_embedded(
    clients: usize,
    arguments: &Arguments,
    measured: &mut Measured,
) -> anyhow::Result<()> {
    let dir = tempfile::tempdir_in(&arguments.dir)?;
    let store = Embedded::open(arguments.embedded(dir.path()))?;
    write(&store, clients, arguments, measured, &["self"]).await?;
    measured.pss_bytes = pss_bytes("self")?;
    Ok(())
}

async fn measure_etcd(clients: usize, arguments: &Arguments, measured: &mut Measured) -> anyhow::Result<()> {
    let dir = tempfile::tempdir_in(&arguments.dir)?;
    let servers = EtcdServers::single(dir.path())?;
    let store = Etcd::connect(EtcdOptions::new(servers.endpoints())).await?;
    let pid = servers.pid(0).context("etcd has ended")?.to_string();
    write(&store, clients, arguments, measured, &["self", &pid]).await?;
    measured.pss_bytes = pss_bytes(&pid)?;
    Ok(())
}

async fn write(
    store: &impl Store,
    clients: usize,
    arguments: &Arguments,
    measured: &mut Measured,
    processes: &[&str],
) -> anyhow::Result<()> {
    let cpu = || -> anyhow::Result<f64> { processes.iter().map(|process| cpu_seconds(process)).sum() };
    let value = Bytes::from(vec![b'x'; arguments.value_bytes]);
    let cpu_before = cpu()?;
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
    measured.elapsed += start.elapsed();
    measured.cpu_seconds += cpu()? - cpu_before;
    measured.latencies.extend(latencies.concat());
    Ok(())
}

/// One request at a time, on random keys of a store with `count` of them.
async fn measure_objects(count: usize, arguments: &Arguments) -> anyhow::Result<String> {
    let dir = tempfile::tempdir_in(&arguments.dir)?;
    let store = Embedded::open(arguments.embedded(dir.path()))?;
    let value = Bytes::from(vec![b'x'; arguments.value_bytes]);
    let key = |index: usize| format!("/registry/configmaps/default/object-{index:07}");
    let start = Instant::now();
    stream::iter(0..count)
        .map(|index| {
            let (store, value) = (&store, value.clone());
            async move { store.create(&key(index), value, None).await.map(drop) }
        })
        .buffer_unordered(512)
        .try_collect::<()>()
        .await?;
    let fill = start.elapsed();
    let mut random = StdRng::seed_from_u64(1);
    let (mut gets, mut updates, mut pages) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..5000 {
        let key = key(random.random_range(0..count));
        let begun = Instant::now();
        store.get(&key).await?;
        gets.push(begun.elapsed());
    }
    for _ in 0..500 {
        let key = key(random.random_range(0..count));
        let current = store.get(&key).await?.0.context("the key is gone")?;
        let begun = Instant::now();
        store
            .update(&key, value.clone(), current.mod_revision, None)
            .await?;
        updates.push(begun.elapsed());
    }
    for _ in 0..200 {
        let options = ListOptions {
            limit: PAGE,
            after: Some(key(random.random_range(0..=count - PAGE.min(count)))),
            uncounted: true,
            ..ListOptions::default()
        };
        let begun = Instant::now();
        store.list("/registry/configmaps/", options).await?;
        pages.push(begun.elapsed());
    }
    let [[get, get_p99], [update, update_p99], [page, page_p99]] =
        [&mut gets, &mut updates, &mut pages].map(|latencies| quantiles_us(latencies));
    Ok(format!(
        r#"{{"objects":{count},"fill_seconds":{:.2},"get_us_p50":{get},"get_us_p99":{get_p99},"update_us_p50":{update},"update_us_p99":{update_p99},"page_us_p50":{page},"page_us_p99":{page_p99},"pss_bytes":{}}}"#,
        fill.as_secs_f64(),
        pss_bytes("self")?,
    ))
}

/// Median and 99th percentile, in microseconds with a tenth.
fn quantiles_us(latencies: &mut [Duration]) -> [f64; 2] {
    latencies.sort_unstable();
    [0.5, 0.99].map(|quantile| {
        let index = ((latencies.len() as f64 * quantile) as usize).min(latencies.len().saturating_sub(1));
        let micros = latencies
            .get(index)
            .map_or(0.0, |latency| latency.as_nanos() as f64 / 1000.0);
        (micros * 10.0).round() / 10.0
    })
}

fn cpu_seconds(process: &str) -> anyhow::Result<f64> {
    let path = format!("/proc/{process}/stat");
    let stat = fs::read_to_string(&path).with_context(|| path.clone())?;
    // The second field is the program's name in parentheses and may contain anything.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let times = after_name.split_whitespace().skip(11).take(2);
    let ticks: f64 = times
        .map(|ticks| ticks.parse::<f64>())
        .sum::<Result<_, _>>()
        .context(path)?;
    Ok(ticks / TICKS_PER_SECOND)
}

fn pss_bytes(process: &str) -> anyhow::Result<u64> {
    let path = format!("/proc/{process}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    Ok(kibibytes.with_context(|| format!("{path} has no Pss line"))? * 1024)
}

//! Measures the API server over TLS on loopback, with its embedded store and, in the same run, over an etcd server:
//! `api-bench --program target/release/control-plane [--pods 10000] [--watchers 1000] [--objects 200000] [--store both]`.
//!
//! Prints one JSON object: for each store, each phase with its latencies, rate, the processors' seconds of the servers
//! (that of etcd included), by how much the API server's memory grew meanwhile, and the memory (PSS) before and after. Clients are `kube::Client`s in this process, so the
//! machine's cores are shared between both sides; what is compared is the same on both stores.

mod load;
mod servers;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use self::{load::Load, servers::Servers};

/// So many connections share the watches, where they are shared.
const WATCHERS_CONNECTIONS: usize = 10;

/// Which store lies under the API server.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Store {
    Embedded,
    Etcd,
}

struct Arguments {
    program: PathBuf,
    pods: usize,
    watchers: usize,
    objects: usize,
    clients: usize,
    duration: Duration,
    stores: Vec<Store>,
}

fn arguments() -> Result<Arguments> {
    let mut parsed = Arguments {
        program: PathBuf::new(),
        pods: 10_000,
        watchers: 1000,
        objects: 200_000,
        clients: 16,
        duration: Duration::from_secs(5),
        stores: vec![Store::Embedded, Store::Etcd],
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments
            .next()
            .with_context(|| format!("{flag} needs a value"))?;
        let number = || {
            let number = value.parse::<usize>();
            number.with_context(|| format!("{flag} {value}: not a number"))
        };
        match flag.as_str() {
            "--program" => parsed.program = PathBuf::from(&value),
            "--pods" => parsed.pods = number()?.max(1),
            "--watchers" => parsed.watchers = number()?,
            "--objects" => parsed.objects = number()?,
            "--clients" => parsed.clients = number()?.max(1),
            "--seconds" => parsed.duration = Duration::from_secs(number()? as u64),
            "--store" => {
                parsed.stores = match value.as_str() {
                    "embedded" => vec![Store::Embedded],
                    "etcd" => vec![Store::Etcd],
                    "both" => vec![Store::Embedded, Store::Etcd],
                    _ => bail!("--store {value}: embedded, etcd or both"),
                }
            }
            _ => bail!(
                "unknown flag {flag}; known are --program, --pods, --watchers, --objects, --clients, --seconds, --store"
            ),
        }
    }
    if parsed.program.as_os_str().is_empty() {
        bail!("--program must name the control-plane program");
    }
    Ok(parsed)
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = arguments()?;
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        bail!("a TLS provider was installed already");
    }
    let mut report = Map::new();
    for store in &arguments.stores {
        let name = match store {
            Store::Embedded => "embedded",
            Store::Etcd => "etcd",
        };
        report.insert(name.to_owned(), measure(&arguments, *store).await?.into());
    }
    println!("{}", Value::Object(report));
    Ok(())
}

/// All phases over one store.
async fn measure(arguments: &Arguments, store: Store) -> Result<Map<String, Value>> {
    let mut servers = Servers::start(&arguments.program, store == Store::Etcd)?;
    let load = Load::connect(servers.kubeconfig(), arguments.clients).await?;
    let mut report = Map::new();
    report.insert("pss_idle".to_owned(), servers.memory()?);

    let mut phase = servers.phase("create pods");
    phase.add(load.create_pods(arguments.pods).await?)?;
    phase.done(&mut report)?;
    report.insert("pods".to_owned(), arguments.pods.into());
    report.insert("pss_with_pods".to_owned(), servers.memory()?);

    let mut phase = servers.phase("get");
    phase.add(load.get(arguments.duration, load::POD, arguments.pods).await?)?;
    phase.done(&mut report)?;
    let mut phase = servers.phase("update");
    phase.add(load.update(arguments.duration, arguments.pods).await?)?;
    phase.done(&mut report)?;
    let mut phase = servers.phase("list all pods");
    phase.add(load.list(arguments.duration, "/api/v1/pods").await?)?;
    phase.done(&mut report)?;
    let mut phase = servers.phase("list all pods in protobuf");
    phase.add(load.list_protobuf(arguments.duration, "/api/v1/pods").await?)?;
    phase.done(&mut report)?;

    if arguments.watchers > 0 {
        report.insert("watchers".to_owned(), arguments.watchers.into());
        for (name, shared) in [("shared", Some(WATCHERS_CONNECTIONS)), ("own", None)] {
            report.insert(format!("pss_before_watchers_{name}"), servers.memory()?);
            let watchers = load.watchers(arguments.watchers, shared).await?;
            report.insert(format!("pss_with_watchers_{name}"), servers.memory()?);
            let mut phase = servers.phase(&format!("watch fan-out, {name}"));
            phase.add(watchers.fan_out(&load).await?)?;
            phase.done(&mut report)?;
        }
    }

    for count in [1000, 10_000, 50_000, 100_000, 200_000] {
        if count > arguments.objects {
            break;
        }
        load.create_objects(count).await?;
        let short = arguments.duration.min(Duration::from_secs(3));
        let mut phase = servers.phase(&format!("get at {count} objects"));
        phase.add(load.get(short, load::OBJECT, count).await?)?;
        phase.done(&mut report)?;
        let mut phase = servers.phase(&format!("create and delete at {count} objects"));
        phase.add(load.create_and_delete(short).await?)?;
        phase.done(&mut report)?;
        let mut phase = servers.phase(&format!("first page of 100 at {count} objects"));
        phase.add(load.list(short, &format!("{}?limit=100", load::OBJECTS)).await?)?;
        phase.done(&mut report)?;
        let mut phase = servers.phase(&format!("later page of 100 at {count} objects"));
        phase.add(load.later_page(short).await?)?;
        phase.done(&mut report)?;
    }
    report.insert("pss_at_the_end".to_owned(), servers.memory()?);
    report.insert("log".to_owned(), json!(servers.warnings()));
    Ok(report)
}

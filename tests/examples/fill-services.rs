//! Fills a cluster with Services for measurements: `fill-services --kubeconfig FILE --from A --to B`.
//!
//! Service `s-N` of the namespace `fill` has one port and, in an EndpointSlice of its own, three endpoints that nobody ever
//! dials. Prints `{"services": COUNT, "seconds": TIME}`.

use std::{net::Ipv4Addr, path::PathBuf, time::Instant};

use anyhow::Context as _;
use clap::Parser;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{Api, Client, api::PostParams, config::Kubeconfig};
use serde_json::json;

/// The namespace of all of it. It has to exist.
const NAMESPACE: &str = "fill";
/// Requests under way at once.
const CONCURRENCY: usize = 64;
/// Endpoints of each Service.
const ENDPOINTS: u32 = 3;

#[derive(Parser)]
struct Options {
    /// Whose cluster.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// The first Service's number.
    #[arg(long)]
    from: u32,
    /// The number after the last one's.
    #[arg(long)]
    to: u32,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let kubeconfig = Kubeconfig::read_from(&options.kubeconfig)
        .with_context(|| format!("--kubeconfig {}", options.kubeconfig.display()))?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
    let client = Client::try_from(config)?;
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    let slices: Api<EndpointSlice> = Api::namespaced(client, NAMESPACE);
    let start = Instant::now();
    let (services, slices) = (&services, &slices);
    futures::stream::iter(options.from..options.to)
        .map(|number| async move {
            let params = PostParams::default();
            services.create(&params, &service(number)?).await?;
            slices.create(&params, &slice(number)?).await?;
            anyhow::Ok(())
        })
        .buffer_unordered(CONCURRENCY)
        .try_for_each(|()| async { Ok(()) })
        .await?;
    println!(
        "{}",
        json!({"services": options.to - options.from, "seconds": start.elapsed().as_secs_f64()})
    );
    Ok(())
}

fn service(number: u32) -> serde_json::Result<Service> {
    serde_json::from_value(json!({
        "metadata": {"name": format!("s-{number}")},
        "spec": {"ports": [{"port": 80}]},
    }))
}

fn slice(number: u32) -> serde_json::Result<EndpointSlice> {
    // Of 11.0.0.0/8, which no node routes anywhere.
    let first = u32::from(Ipv4Addr::new(11, 0, 0, 1)) + number * ENDPOINTS;
    let endpoints: Vec<_> = (first..first + ENDPOINTS)
        .map(|bits| json!({"addresses": [Ipv4Addr::from(bits)], "conditions": {"ready": true}}))
        .collect();
    serde_json::from_value(json!({
        "metadata": {
            "name": format!("s-{number}"),
            "labels": {"kubernetes.io/service-name": format!("s-{number}")},
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"port": 80, "protocol": "TCP"}],
    }))
}

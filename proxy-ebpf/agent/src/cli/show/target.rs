//! From what people write to what the tables know: names are looked up at the API server, addresses are taken as they are.

use std::{net::IpAddr, path::Path};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{Api, Client as ApiClient};
use proxy_ebpf::{
    desired::SocketAddress,
    inspect::trace::{Client, Query},
    opt_outs::OptOut,
};
use proxy_ebpf_common::Protocol;

use super::{ip, split_port};
use crate::cli::client as connect;

/// A protocol's name.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ProtocolName {
    #[value(name = "TCP")]
    Tcp,
    #[value(name = "UDP")]
    Udp,
    #[value(name = "SCTP")]
    Sctp,
}

impl ProtocolName {
    fn number(self) -> Protocol {
        match self {
            Self::Tcp => Protocol::TCP,
            Self::Udp => Protocol::UDP,
            Self::Sctp => Protocol::SCTP,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

/// Resolves both.
pub(super) fn resolve(
    client_name: &str,
    target: &str,
    protocol: ProtocolName,
    kubeconfig: Option<&Path>,
) -> Result<Query> {
    let (host, port) = split_port(target)?;
    let known_client = match client_name {
        "node" => Some(Client::Node),
        "outside" => Some(Client::Outside),
        address => ip(address).map(|_| Client::Pod),
    };
    if let (Some(client), Some(address)) = (known_client, ip(host)) {
        let port = port
            .parse()
            .with_context(|| format!("{port:?} is no port number, which an address needs"))?;
        return Ok(query(client, ip(client_name), address, port, protocol));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        let api = connect(kubeconfig)
            .await
            .context("names are looked up at the API server; addresses need none")?;
        let (client, sources) = match known_client {
            Some(client) => (client, ip(client_name).into_iter().collect()),
            None => pod(&api, client_name).await?,
        };
        let (address, port) = match ip(host) {
            Some(address) => {
                let port = port
                    .parse()
                    .with_context(|| format!("{port:?} is no port number, which an address needs"))?;
                (address, port)
            }
            None => service(&api, host, port, protocol).await?,
        };
        let source = sources
            .into_iter()
            .find(|source| source.is_ipv6() == address.is_ipv6());
        Ok(query(client, source, address, port, protocol))
    })
}

fn query(
    client: Client,
    source: Option<IpAddr>,
    address: IpAddr,
    port: u16,
    protocol: ProtocolName,
) -> Query {
    Query {
        client,
        source,
        target: SocketAddress {
            address,
            port,
            protocol: protocol.number(),
        },
    }
}

/// Looks at the Pod: one on the node's own network is the node. The addresses are the Pod's.
async fn pod(api: &ApiClient, text: &str) -> Result<(Client, Vec<IpAddr>)> {
    let (namespace, name) = split_namespace(text);
    let pod = Api::<Pod>::namespaced(api.clone(), namespace)
        .get(name)
        .await
        .with_context(|| format!("look up the Pod {namespace}/{name}"))?;
    let client = client_of(&pod);
    let ips = pod.status.and_then(|status| status.pod_ips).unwrap_or_default();
    Ok((client, ips.iter().filter_map(|pod_ip| ip(&pod_ip.ip)).collect()))
}

fn client_of(pod: &Pod) -> Client {
    let on_host_network = pod.spec.as_ref().and_then(|spec| spec.host_network);
    if on_host_network == Some(true) {
        Client::Node
    } else if OptOut::from_api(pod).is_some() {
        Client::OptedOut
    } else {
        Client::Pod
    }
}

/// The Service's first cluster IP, and the number of the port.
async fn service(api: &ApiClient, text: &str, port: &str, protocol: ProtocolName) -> Result<(IpAddr, u16)> {
    let (namespace, name) = split_namespace(text);
    let service = Api::<Service>::namespaced(api.clone(), namespace)
        .get(name)
        .await
        .with_context(|| format!("look up the Service {namespace}/{name}"))?;
    let spec = service.spec.unwrap_or_default();
    let Some(address) = spec.cluster_ip.as_deref().and_then(ip) else {
        bail!("the Service {namespace}/{name} is headless: its clients are given the addresses of its pods");
    };
    if let Ok(number) = port.parse() {
        return Ok((address, number));
    }
    let named = spec.ports.iter().flatten().find(|candidate| {
        candidate.name.as_deref() == Some(port)
            && candidate.protocol.as_deref().unwrap_or("TCP") == protocol.name()
    });
    let number = named.and_then(|port| u16::try_from(port.port).ok());
    let number = number.with_context(|| {
        format!(
            "the Service {namespace}/{name} has no {} port of the name {port:?}",
            protocol.name()
        )
    })?;
    Ok((address, number))
}

fn split_namespace(text: &str) -> (&str, &str) {
    text.split_once('/').unwrap_or(("default", text))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{api::core::v1::PodSpec, apimachinery::pkg::apis::meta::v1::ObjectMeta};
    use proxy_ebpf::opt_outs::ANNOTATION;

    use super::*;

    #[test]
    fn addresses_need_no_api_server() {
        let resolve = |client, target| resolve(client, target, ProtocolName::Tcp, None);
        let query = resolve("10.244.0.5", "10.96.0.1:80").expect("addresses");
        assert_eq!(
            (query.client, query.target.to_string().as_str()),
            (Client::Pod, "10.96.0.1:80/TCP")
        );
        let query = resolve("outside", "[fd00::1]:443").expect("addresses");
        assert_eq!(
            (query.client, query.target.to_string().as_str()),
            (Client::Outside, "[fd00::1]:443/TCP")
        );
        for (target, expected) in [
            ("10.96.0.1", "names no port"),
            ("10.96.0.1:http", "is no port number"),
            (":80", "names no port"),
        ] {
            let error = resolve("node", target).expect_err(target);
            assert!(format!("{error:#}").contains(expected), "{target}: {error:#}");
        }
    }

    #[test]
    fn a_pod_says_how_it_is_served() {
        for (host_network, annotation, expected) in [
            (false, None, Client::Pod),
            (false, Some("true"), Client::Pod),
            (false, Some("false"), Client::OptedOut),
            (true, Some("false"), Client::Node),
        ] {
            let annotations = annotation.map(|value: &str| (ANNOTATION.to_owned(), value.to_owned()));
            let pod = Pod {
                metadata: ObjectMeta {
                    uid: Some("u".to_owned()),
                    annotations: Some(annotations.into_iter().collect()),
                    ..ObjectMeta::default()
                },
                spec: Some(PodSpec {
                    host_network: Some(host_network),
                    ..PodSpec::default()
                }),
                ..Pod::default()
            };
            assert_eq!(client_of(&pod), expected, "{host_network} {annotation:?}");
        }
    }

    #[test]
    fn the_namespace_is_default_unless_it_is_written() {
        assert_eq!(split_namespace("web"), ("default", "web"));
        assert_eq!(split_namespace("shop/web"), ("shop", "web"));
    }
}

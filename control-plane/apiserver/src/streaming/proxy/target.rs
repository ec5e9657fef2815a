//! Where a proxied request goes: the kubelet of a node, a pod, or a ready endpoint of a Service.

use std::net::{IpAddr, SocketAddr};

use api::status::{self, Status};

use super::super::kubelet::{self, NodeAddress, may_dial};
use crate::{context::Context, watch_cache::Filter};

/// Who answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A kubelet, whose certificate is verified.
    Node(NodeAddress),
    /// A pod or an endpoint. Its certificate, if it has one, is not verified: nobody could say who signs it.
    Address { address: SocketAddr, tls: bool },
}

impl Target {
    /// What the request's path names.
    pub(super) fn of(context: &Context) -> Result<Self, Status> {
        let (scheme, name, port) = split_name(&context.info.name)?;
        let tls = match scheme.as_str() {
            "" | "http" => false,
            "https" => true,
            other => {
                let why = format!("unsupported scheme {}", status::quote(other));
                return Err(status::bad_request(why));
            }
        };
        let address = match context.info.resource.as_str() {
            "nodes" => {
                let mut node = kubelet::locate(&context.api, &name)?;
                if let Some(port) = port.as_deref().and_then(|port| port.parse().ok()) {
                    node.address.set_port(port);
                }
                return Ok(Target::Node(node));
            }
            "pods" => pod_address(context, &name, port.as_deref())?,
            _ => service_address(context, &name, port.as_deref())?,
        };
        if !may_dial(address.ip()) {
            return Err(status::bad_request("address not allowed"));
        }
        Ok(Target::Address { address, tls })
    }

    pub(super) fn address(&self) -> SocketAddr {
        match self {
            Target::Node(node) => node.address,
            Target::Address { address, .. } => *address,
        }
    }
}

/// `name`, `name:port`, `https:name:port`.
fn split_name(text: &str) -> Result<(String, String, Option<String>), Status> {
    let parts: Vec<&str> = text.split(':').collect();
    let port = |port: &str| (!port.is_empty()).then(|| port.to_owned());
    match parts.as_slice() {
        [name] => Ok((String::new(), (*name).to_owned(), None)),
        [name, number] => Ok((String::new(), (*name).to_owned(), port(number))),
        [scheme, name, number] => Ok(((*scheme).to_owned(), (*name).to_owned(), port(number))),
        _ => Err(status::bad_request(format!(
            "invalid proxy request {}",
            status::quote(text)
        ))),
    }
}

fn pod_address(context: &Context, name: &str, port: Option<&str>) -> Result<SocketAddr, Status> {
    let pods = context.api.builtin("", "v1", "pods")?;
    let key = pods.key(context.namespace(), name)?;
    let pod = context
        .api
        .cached(&pods)?
        .get(&key)
        .ok_or_else(|| pods.not_found(name))?
        .value();
    let address = pod["status"]["podIP"]
        .as_str()
        .and_then(|address| address.parse::<IpAddr>().ok());
    let address = address.ok_or_else(|| status::bad_request("address not allowed"))?;
    let own = pod["spec"]["containers"].as_array().into_iter().flatten();
    let mut own = own.flat_map(|container| container["ports"].as_array().into_iter().flatten());
    let number = match port {
        None => own
            .next()
            .and_then(|port| port["containerPort"].as_u64())
            .unwrap_or(80),
        Some(text) => match text.parse() {
            Ok(number) => number,
            Err(_) => own
                .find(|port| port["name"] == text)
                .and_then(|port| port["containerPort"].as_u64())
                .ok_or_else(|| status::bad_request(format!("no such port {}", status::quote(text))))?,
        },
    };
    let number = u16::try_from(number).map_err(|_| status::bad_request("port out of range"))?;
    Ok(SocketAddr::new(address, number))
}

/// A ready endpoint of a Service's port.
fn service_address(context: &Context, name: &str, port: Option<&str>) -> Result<SocketAddr, Status> {
    let services = context.api.builtin("", "v1", "services")?;
    let key = services.key(context.namespace(), name)?;
    let service = context
        .api
        .cached(&services)?
        .get(&key)
        .ok_or_else(|| services.not_found(name))?
        .value();
    let ports = service["spec"]["ports"].as_array().map_or(&[][..], Vec::as_slice);
    let wanted = match port {
        None if ports.len() == 1 => ports.first(),
        None => None,
        Some(text) => ports
            .iter()
            .find(|port| port["name"] == text || port["port"].as_u64() == text.parse().ok()),
    };
    let wanted = wanted.ok_or_else(|| {
        let port = port.unwrap_or_default();
        status::service_unavailable(format!(
            "no service port {} found for service {}",
            status::quote(port),
            status::quote(name)
        ))
    })?;
    let port_name = wanted["name"].as_str().unwrap_or_default();
    let slices = context.api.builtin("discovery.k8s.io", "v1", "endpointslices")?;
    let filter = Filter {
        namespace: context.info.namespace.clone(),
        ..Filter::default()
    };
    for slice in context.api.cached(&slices)?.list(&filter) {
        if slice.label("kubernetes.io/service-name") != Some(name) {
            continue;
        }
        let slice = slice.value();
        let list = |field: &str| slice[field].as_array().cloned().unwrap_or_default();
        let number = list("ports")
            .iter()
            .find(|port| port["name"].as_str().unwrap_or_default() == port_name)
            .and_then(|port| u16::try_from(port["port"].as_u64()?).ok());
        let ready = list("endpoints")
            .iter()
            .filter(|endpoint| endpoint["conditions"]["ready"] != false)
            .find_map(|endpoint| endpoint["addresses"][0].as_str()?.parse::<IpAddr>().ok());
        if let (Some(number), Some(address)) = (number, ready) {
            return Ok(SocketAddr::new(address, number));
        }
    }
    Err(status::service_unavailable(format!(
        "no endpoints available for service {}",
        status::quote(name)
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_ports() {
        let check = |text: &str, expect: (&str, &str, Option<&str>)| {
            let (scheme, name, port) = split_name(text).unwrap();
            assert_eq!(
                (scheme.as_str(), name.as_str(), port.as_deref()),
                expect,
                "{text}"
            );
        };
        check("web", ("", "web", None));
        check("web:80", ("", "web", Some("80")));
        check("https:web:", ("https", "web", None));
        assert!(split_name("a:b:c:d").is_err());
    }
}

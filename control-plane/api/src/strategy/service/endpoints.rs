//! Checks of Endpoints and EndpointSlices.

use super::validate::{PROTOCOLS, special_ranges};
use crate::meta::validate_labels;
use crate::strategy::access::{int, list, map, text};
use crate::validation::ErrorList;
use crate::validation::net::{ip, ip_warning};
use crate::validation::text::{
    label_problems, label_value_problems, qualified_domain_problem, qualified_name_problems,
    subdomain_problems,
};
use serde_json::Value;
use std::net::IpAddr;

const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;
const MAX_HINTS: usize = 8;
const MAX_TOPOLOGY: usize = 16;

pub(super) fn endpoints(obj: &Value, errors: &mut ErrorList) {
    for (i, subset) in list(obj, "/subsets").iter().enumerate() {
        let path = format!("subsets[{i}]");
        if list(subset, "/addresses").is_empty() && list(subset, "/notReadyAddresses").is_empty() {
            errors.required(path.clone(), "must specify `addresses` or `notReadyAddresses`");
        }
        for field in ["addresses", "notReadyAddresses"] {
            for (j, address) in list(subset, &format!("/{field}")).iter().enumerate() {
                let path = format!("{path}.{field}[{j}]");
                ip(text(address, "/ip"), &format!("{path}.ip"), errors);
                host_and_node(address, &path, errors);
                special_ranges(text(address, "/ip"), &format!("{path}.ip"), errors);
            }
        }
        let ports = list(subset, "/ports");
        for (j, port) in ports.iter().enumerate() {
            let path = format!("{path}.ports[{j}]");
            let name = text(port, "/name");
            if !name.is_empty() {
                errors.problems(&format!("{path}.name"), name, label_problems(name));
            } else if ports.len() > 1 {
                errors.required(format!("{path}.name"), "");
            }
            errors.in_range(
                &format!("{path}.port"),
                int(port, "/port").unwrap_or(0),
                1,
                65_535,
            );
            protocols(port, &path, errors);
        }
    }
}

fn host_and_node(endpoint: &Value, path: &str, errors: &mut ErrorList) {
    let hostname = text(endpoint, "/hostname");
    if !hostname.is_empty() {
        errors.problems(&format!("{path}.hostname"), hostname, label_problems(hostname));
    }
    if let Some(node) = endpoint.get("nodeName").and_then(Value::as_str) {
        errors.problems(&format!("{path}.nodeName"), node, subdomain_problems(node));
    }
}

fn protocols(port: &Value, path: &str, errors: &mut ErrorList) {
    let protocol = text(port, "/protocol");
    if errors.present(&format!("{path}.protocol"), protocol) {
        errors.one_of(&format!("{path}.protocol"), protocol, &PROTOCOLS);
    }
    if let Some(protocol) = port.get("appProtocol").and_then(Value::as_str) {
        errors.problems(
            &format!("{path}.appProtocol"),
            protocol,
            qualified_name_problems(protocol),
        );
    }
}

/// What users are told of addresses that hardly are written as meant. The controllers write them well.
pub(super) fn warnings(obj: &Value) -> Vec<String> {
    let mut out = Vec::new();
    if label(obj, "endpoints.kubernetes.io/managed-by") == "endpoint-controller" {
        return out;
    }
    for (i, subset) in list(obj, "/subsets").iter().enumerate() {
        for field in ["addresses", "notReadyAddresses"] {
            for (j, address) in list(subset, &format!("/{field}")).iter().enumerate() {
                let path = format!("subsets[{i}].{field}[{j}].ip");
                out.extend(ip_warning(text(address, "/ip"), &path));
            }
        }
    }
    out
}

/// The same of EndpointSlices, whose names are on their way out too.
pub(super) fn slice_warnings(obj: &Value, old: Option<&Value>) -> Vec<String> {
    let mut out = Vec::new();
    if old.is_none() && text(obj, "/addressType") == "FQDN" {
        out.push("spec.addressType: FQDN endpoints are deprecated".into());
    }
    let manager = label(obj, "endpointslice.kubernetes.io/managed-by");
    if matches!(
        manager,
        "endpointslice-controller.k8s.io" | "endpointslicemirroring-controller.k8s.io"
    ) {
        return out;
    }
    for (i, endpoint) in list(obj, "/endpoints").iter().enumerate() {
        for (j, address) in list(endpoint, "/addresses").iter().enumerate() {
            let path = format!("endpoints[{i}].addresses[{j}]");
            out.extend(ip_warning(address.as_str().unwrap_or(""), &path));
        }
    }
    out
}

fn label<'a>(obj: &'a Value, key: &str) -> &'a str {
    let labels = crate::meta::labels(obj);
    labels.and_then(|labels| labels.get(key)?.as_str()).unwrap_or("")
}

/// Drops the topology of the first version of EndpointSlices. Only the name of the node, where it was known, becomes `nodeName`.
pub(super) fn drop_topology(obj: &mut Value, old: Option<&Value>) {
    const HOST: &str = "kubernetes.io/hostname";
    let name = |endpoint: &Value| {
        let name = map(endpoint, "/deprecatedTopology")?.get(HOST)?.as_str()?;
        Some(name.to_owned())
    };
    if old.is_some_and(|old| old.get("endpoints") == obj.get("endpoints")) {
        return;
    }
    let before = old.map_or(&[][..], |old| list(old, "/endpoints"));
    let known: Vec<String> = before.iter().filter_map(name).collect();
    let endpoints = obj.get_mut("endpoints").and_then(Value::as_array_mut);
    for endpoint in endpoints.into_iter().flatten() {
        let host = name(endpoint).filter(|host| known.contains(host) && subdomain_problems(host).is_empty());
        let Some(endpoint) = endpoint.as_object_mut() else {
            continue;
        };
        if let (Some(host), false) = (host, endpoint.contains_key("nodeName")) {
            endpoint.insert("nodeName".into(), host.into());
        }
        endpoint.remove("deprecatedTopology");
    }
}

pub(super) fn endpoint_slice(obj: &Value, errors: &mut ErrorList) {
    let kind = text(obj, "/addressType");
    if errors.present("addressType", kind) {
        errors.one_of("addressType", kind, &["FQDN", "IPv4", "IPv6"]);
    }
    let endpoints = list(obj, "/endpoints");
    if !errors.too_many("endpoints", endpoints.len(), MAX_ENDPOINTS) {
        for (i, item) in endpoints.iter().enumerate() {
            endpoint(item, kind, &format!("endpoints[{i}]"), errors);
        }
    }
    let ports = list(obj, "/ports");
    if errors.too_many("ports", ports.len(), MAX_PORTS) {
        return;
    }
    for (i, port) in ports.iter().enumerate() {
        let path = format!("ports[{i}]");
        let name = text(port, "/name");
        if !name.is_empty() {
            errors.problems(&format!("{path}.name"), name, label_problems(name));
        }
        if ports[..i].iter().any(|other| text(other, "/name") == name) {
            errors.duplicate(format!("{path}.name"), name);
        }
        protocols(port, &path, errors);
    }
}

fn endpoint(endpoint: &Value, kind: &str, path: &str, errors: &mut ErrorList) {
    let addresses = list(endpoint, "/addresses");
    let at = format!("{path}.addresses");
    if addresses.is_empty() {
        errors.required(at.clone(), "must contain at least 1 address");
    }
    errors.too_many(&at, addresses.len(), MAX_ADDRESSES);
    for (j, address) in addresses.iter().enumerate() {
        slice_address(
            address.as_str().unwrap_or(""),
            kind,
            &format!("{at}[{j}]"),
            errors,
        );
    }
    if let Some(node) = endpoint.get("nodeName").and_then(Value::as_str) {
        errors.problems(&format!("{path}.nodeName"), node, subdomain_problems(node));
    }
    let topology = map(endpoint, "/deprecatedTopology");
    let at = format!("{path}.deprecatedTopology");
    validate_labels(topology, &at, errors);
    errors.too_many(&at, topology.map_or(0, serde_json::Map::len), MAX_TOPOLOGY);
    let hostname = text(endpoint, "/hostname");
    if endpoint.get("hostname").is_some_and(Value::is_string) {
        errors.problems(&format!("{path}.hostname"), hostname, label_problems(hostname));
    }
    for (field, problems) in [
        ("forZones", label_value_problems as fn(&str) -> Vec<String>),
        ("forNodes", subdomain_problems),
    ] {
        let hints = list(endpoint, &format!("/hints/{field}"));
        let at = format!("{path}.hints.{field}");
        if errors.too_many(&at, hints.len(), MAX_HINTS) {
            continue;
        }
        for (i, hint) in hints.iter().enumerate() {
            let (at, name) = (format!("{at}[{i}].name"), text(hint, "/name"));
            if hints[..i].iter().any(|other| text(other, "/name") == name) {
                errors.duplicate(at.clone(), name);
            }
            errors.problems(&at, name, problems(name));
        }
    }
}

fn slice_address(address: &str, kind: &str, path: &str, errors: &mut ErrorList) {
    match (kind, address.parse::<IpAddr>()) {
        ("FQDN", _) if errors.present(path, address) => {
            let name = address.strip_suffix('.').unwrap_or(address);
            let problem = qualified_domain_problem(name, 2, "two");
            errors.problems(path, name, problem.into_iter().collect());
        }
        ("IPv4", Ok(IpAddr::V4(_))) | ("IPv6", Ok(IpAddr::V6(_))) => special_ranges(address, path, errors),
        ("IPv4", _) => errors.invalid(path, address, "must be an IPv4 address"),
        ("IPv6", _) => errors.invalid(path, address, "must be an IPv6 address"),
        _ => {}
    }
}

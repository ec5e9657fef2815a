//! Checks of Services.

use crate::meta::{self, validate_labels};
use crate::strategy::access::{int, list, map, text};
use crate::strategy::pod::validate::port_or_name;
use crate::validation::net::{cidr, ip};
use crate::validation::text::{label_problems, qualified_name_problems, subdomain_problems};
use crate::validation::{ErrorList, FIELD_IMMUTABLE, FieldError};
use serde_json::Value;
use std::net::IpAddr;

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
pub(super) const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

pub(super) fn service(obj: &Value, errors: &mut ErrorList) {
    let kind = text(obj, "/spec/type");
    let ports = list(obj, "/spec/ports");
    topology_annotations(obj, errors);
    if ports.is_empty() && !is_headless(obj) && kind != "ExternalName" {
        errors.required("spec.ports", "");
    }
    match kind {
        "LoadBalancer" | "NodePort" if is_headless(obj) => {
            let detail = format!("may not be set to 'None' for {kind} services");
            errors.invalid("spec.clusterIPs[0]", "None", detail);
        }
        "ExternalName" => external_name(obj, errors),
        _ => {}
    }
    let mut names: Vec<&str> = Vec::new();
    for (i, port) in ports.iter().enumerate() {
        service_port(
            port,
            &format!("spec.ports[{i}]"),
            ports.len() > 1,
            &mut names,
            errors,
        );
    }
    validate_labels(map(obj, "/spec/selector"), "spec.selector", errors);
    session_affinity(obj, errors);
    cluster_ips(obj, errors);
    for (i, address) in list(obj, "/spec/externalIPs").iter().enumerate() {
        let path = format!("spec.externalIPs[{i}]");
        let address = address.as_str().unwrap_or("");
        let before = errors.len();
        ip(address, &path, errors);
        if errors.len() == before {
            special_ranges(address, &path, errors);
        }
    }
    if errors.present("spec.type", kind) {
        errors.one_of("spec.type", kind, &TYPES);
    }
    unique_ports(ports, kind, errors);
    load_balancer(obj, kind, errors);
    traffic(obj, errors);
}

/// Whether there is to be no cluster IP.
fn is_headless(obj: &Value) -> bool {
    matches!(list(obj, "/spec/clusterIPs"), [only] if only == "None")
}

/// Whether something outside the cluster may come in.
pub(super) fn is_external(obj: &Value) -> bool {
    match text(obj, "/spec/type") {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => !list(obj, "/spec/externalIPs").is_empty(),
        _ => false,
    }
}

/// Whether a load balancer is asked for.
pub(super) fn is_balanced(obj: &Value) -> bool {
    text(obj, "/spec/type") == "LoadBalancer"
}

/// Whether the load balancer asks nodes for the health of their own endpoints.
pub(super) fn needs_health_check(obj: &Value) -> bool {
    is_balanced(obj) && text(obj, "/spec/externalTrafficPolicy") == "Local"
}

fn topology_annotations(obj: &Value, errors: &mut ErrorList) {
    const MODE: &str = "service.kubernetes.io/topology-mode";
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    let of = |key: &str| meta::annotations(obj)?.get(key)?.as_str();
    if let (Some(mode), Some(hints)) = (of(MODE), of(HINTS))
        && mode != hints
    {
        let detail = format!("must match annotations[{HINTS}] when both are specified");
        errors.invalid(format!("metadata.annotations[{MODE}]"), mode, detail);
    }
}

fn external_name(obj: &Value, errors: &mut ErrorList) {
    const NOT_HERE: &str = "may not be set for ExternalName services";
    for field in ["clusterIPs", "ipFamilies"] {
        if !list(obj, &format!("/spec/{field}")).is_empty() {
            errors.forbidden(format!("spec.{field}"), NOT_HERE);
        }
    }
    if obj.pointer("/spec/ipFamilyPolicy").is_some() {
        errors.forbidden("spec.ipFamilyPolicy", NOT_HERE);
    }
    let name = text(obj, "/spec/externalName");
    let name = name.strip_suffix('.').unwrap_or(name);
    if errors.present("spec.externalName", name) {
        errors.problems("spec.externalName", name, subdomain_problems(name));
    }
}

fn service_port<'a>(
    port: &'a Value,
    path: &str,
    needs_name: bool,
    names: &mut Vec<&'a str>,
    errors: &mut ErrorList,
) {
    let name = text(port, "/name");
    if !name.is_empty() {
        errors.problems(&format!("{path}.name"), name, label_problems(name));
        if names.contains(&name) {
            errors.duplicate(format!("{path}.name"), name);
        }
        names.push(name);
    } else if needs_name {
        errors.required(format!("{path}.name"), "");
    }
    errors.in_range(
        &format!("{path}.port"),
        int(port, "/port").unwrap_or(0),
        1,
        65_535,
    );
    let protocol = text(port, "/protocol");
    if errors.present(&format!("{path}.protocol"), protocol) {
        errors.one_of(&format!("{path}.protocol"), protocol, &PROTOCOLS);
    }
    port_or_name(port.get("targetPort"), &format!("{path}.targetPort"), errors);
    if let Some(protocol) = port.get("appProtocol").and_then(Value::as_str) {
        errors.problems(
            &format!("{path}.appProtocol"),
            protocol,
            qualified_name_problems(protocol),
        );
    }
}

fn session_affinity(obj: &Value, errors: &mut ErrorList) {
    let affinity = text(obj, "/spec/sessionAffinity");
    if errors.present("spec.sessionAffinity", affinity) {
        errors.one_of("spec.sessionAffinity", affinity, &["ClientIP", "None"]);
    }
    let path = "spec.sessionAffinityConfig";
    match affinity {
        "ClientIP" => {
            let at = ["", ".clientIP", ".clientIP.timeoutSeconds"];
            let missing = at.iter().find(|at| {
                let pointer = format!("/spec/sessionAffinityConfig{}", at.replace('.', "/"));
                obj.pointer(&pointer).is_none_or(Value::is_null)
            });
            if let Some(at) = missing {
                errors.required(format!("{path}{at}"), "when session affinity type is ClientIP");
            }
            let seconds = int(obj, "/spec/sessionAffinityConfig/clientIP/timeoutSeconds");
            if let Some(seconds) = seconds.filter(|seconds| !(1..=86_400).contains(seconds)) {
                let detail = "must be greater than 0 and less than 86400";
                errors.invalid(format!("{path}.clientIP.timeoutSeconds"), seconds, detail);
            }
        }
        "None" if obj.pointer("/spec/sessionAffinityConfig").is_some() => {
            errors.forbidden(path, "must not be set when session affinity is None");
        }
        _ => {}
    }
}

/// Node ports only where the type has them; every port and node port once per protocol.
fn unique_ports(ports: &[Value], kind: &str, errors: &mut ErrorList) {
    let node_port = |port: &Value| int(port, "/nodePort").filter(|n| *n != 0);
    for (i, _) in ports
        .iter()
        .enumerate()
        .filter(|(_, p)| kind == "ClusterIP" && node_port(p).is_some())
    {
        let detail = "may not be used when `type` is 'ClusterIP'";
        errors.forbidden(format!("spec.ports[{i}].nodePort"), detail);
    }
    let before = |i: usize, field: &str| {
        let key = (ports[i].get(field), text(&ports[i], "/protocol"));
        ports[..i]
            .iter()
            .any(|p| (p.get(field), text(p, "/protocol")) == key)
    };
    for (i, port) in ports.iter().enumerate() {
        if let Some(number) = node_port(port).filter(|_| before(i, "nodePort")) {
            errors.duplicate(format!("spec.ports[{i}].nodePort"), number);
        }
    }
    for (i, port) in ports.iter().enumerate().filter(|(i, _)| before(*i, "port")) {
        // Upstream shows what it compares, as a port with nothing else in it.
        let mut error = FieldError::duplicate(format!("spec.ports[{i}]"), port);
        error.bad_value = format!(
            r#"{{"Name":"","Protocol":{},"AppProtocol":null,"Port":{},"TargetPort":0,"NodePort":0}}"#,
            port["protocol"], port["port"]
        );
        errors.push(error);
    }
}

fn load_balancer(obj: &Value, kind: &str, errors: &mut ErrorList) {
    const ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
    const RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    let balanced = kind == "LoadBalancer";
    let ranges = list(obj, "/spec/loadBalancerSourceRanges");
    let annotation = meta::annotations(obj)
        .and_then(|a| a.get(RANGES))
        .and_then(Value::as_str);
    if !ranges.is_empty() {
        let path = "spec.LoadBalancerSourceRanges";
        if !balanced {
            errors.forbidden(path, ONLY);
        }
        for (i, range) in ranges.iter().enumerate() {
            cidr(
                range.as_str().unwrap_or("").trim(),
                &format!("{path}[{i}]"),
                errors,
            );
        }
    } else if let Some(ranges) = annotation {
        let path = format!("metadata.annotations[{RANGES}]");
        if !balanced {
            errors.forbidden(path.clone(), ONLY);
        }
        for range in ranges.split(',').filter(|_| !ranges.trim().is_empty()) {
            cidr(range.trim(), &path, errors);
        }
    }
    let allocates = obj.pointer("/spec/allocateLoadBalancerNodePorts");
    match allocates {
        Some(_) if !balanced => errors.forbidden("spec.allocateLoadBalancerNodePorts", ONLY),
        None if balanced => errors.required("allocateLoadBalancerNodePorts", ""),
        _ => {}
    }
    if let Some(class) = obj.pointer("/spec/loadBalancerClass").and_then(Value::as_str) {
        let path = "spec.loadBalancerClass";
        match balanced {
            true => errors.problems(path, class, qualified_name_problems(class)),
            false => errors.forbidden(path, ONLY),
        }
    }
}

fn traffic(obj: &Value, errors: &mut ErrorList) {
    let policies = ["Cluster", "Local"];
    let external = text(obj, "/spec/externalTrafficPolicy");
    if is_external(obj) {
        if errors.present("spec.externalTrafficPolicy", external) {
            errors.one_of("spec.externalTrafficPolicy", external, &policies);
        }
    } else if !external.is_empty() {
        let detail = "may only be set for externally-accessible services";
        errors.invalid("spec.externalTrafficPolicy", external, detail);
    }
    let port = int(obj, "/spec/healthCheckNodePort").unwrap_or(0);
    if port != 0 {
        let path = "spec.healthCheckNodePort";
        if needs_health_check(obj) {
            errors.in_range(path, port, 1, 65_535);
        } else {
            let detail =
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.invalid(path, port, detail);
        }
    }
    let internal = text(obj, "/spec/internalTrafficPolicy");
    if !internal.is_empty() {
        errors.one_of("spec.internalTrafficPolicy", internal, &policies);
    } else if matches!(text(obj, "/spec/type"), "ClusterIP" | "LoadBalancer" | "NodePort") {
        errors.required("spec.internalTrafficPolicy", "");
    }
    if let Some(distribution) = obj.pointer("/spec/trafficDistribution").and_then(Value::as_str) {
        let supported = ["PreferClose", "PreferSameNode", "PreferSameZone"];
        errors.one_of("spec.trafficDistribution", distribution, &supported);
    }
}

fn cluster_ips(obj: &Value, errors: &mut ErrorList) {
    let path = "spec.clusterIPs";
    // What such a Service may not have is said already.
    if text(obj, "/spec/type") == "ExternalName" {
        return;
    }
    let addresses = list(obj, "/spec/clusterIPs");
    let (single, first) = (text(obj, "/spec/clusterIP"), text(obj, "/spec/clusterIPs/0"));
    match (single.is_empty(), addresses.is_empty()) {
        (false, true) => errors.required(path, ""),
        (false, false) if single != first => {
            errors.invalid(path, addresses.to_vec(), "first value must match `clusterIP`");
        }
        (true, false) => {
            let detail = "must be empty when `clusterIP` is not specified";
            errors.invalid(path, addresses.to_vec(), detail);
        }
        _ => {}
    }
    let families = list(obj, "/spec/ipFamilies");
    for (i, family) in families.iter().enumerate() {
        let at = format!("spec.ipFamilies[{i}]");
        errors.one_of(&at, family.as_str().unwrap_or(""), &["IPv4", "IPv6"]);
        if families[..i].contains(family) {
            errors.duplicate(at, family.clone());
        }
    }
    if let Some(policy) = obj.pointer("/spec/ipFamilyPolicy").and_then(Value::as_str) {
        let supported = ["PreferDualStack", "RequireDualStack", "SingleStack"];
        errors.one_of("spec.ipFamilyPolicy", policy, &supported);
    }
    let before = errors.len();
    for (i, address) in addresses.iter().enumerate() {
        match address.as_str().unwrap_or("") {
            // Alone and first.
            "None" if i == 0 => {
                if addresses.len() > 1 {
                    errors.invalid(
                        path,
                        addresses.to_vec(),
                        "'None' must be the first and only value",
                    );
                }
            }
            address => ip(address, &format!("{path}[{i}]"), errors),
        }
    }
    let unreadable = errors.len() > before;
    if addresses.len() > 2 {
        errors.invalid(path, addresses.to_vec(), "may only hold up to 2 values");
    }
    // More would only be said of what cannot be read.
    if unreadable {
        return;
    }
    let parsed: Vec<IpAddr> = addresses
        .iter()
        .filter_map(|a| a.as_str()?.parse().ok())
        .collect();
    if parsed.len() > 1
        && parsed
            .iter()
            .all(|address| address.is_ipv4() == parsed[0].is_ipv4())
    {
        let detail = "may specify no more than one IP for each IP family";
        errors.invalid(path, addresses.to_vec(), detail);
    }
    for (i, (address, family)) in parsed.iter().zip(families).enumerate() {
        let wanted = match family.as_str() {
            Some("IPv4") if address.is_ipv6() => "an IPv4",
            Some("IPv6") if address.is_ipv4() => "an IPv6",
            _ => continue,
        };
        let detail = format!("expected {wanted} value as indicated by `ipFamilies[{i}]`");
        errors.invalid(format!("{path}[{i}]"), addresses[i].clone(), detail);
    }
}

pub(super) fn service_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    let named = |obj: &Value| text(obj, "/spec/type") == "ExternalName";
    if !named(new) && !named(old) {
        let (headless, before) = (is_headless(new), is_headless(old));
        if !(headless && before) {
            kept_addresses(new, old, errors);
        }
        // Without addresses the families may change.
        if !headless && !before {
            kept_families(new, old, errors);
        }
    }
    if is_balanced(new) && is_balanced(old) {
        let class = |obj: &Value| {
            obj.pointer("/spec/loadBalancerClass")
                .cloned()
                .unwrap_or_default()
        };
        if class(new) != class(old) {
            errors.invalid("spec.loadBalancerClass", class(new), "may not change once set");
        }
    }
    let port = |obj: &Value| int(obj, "/spec/healthCheckNodePort").unwrap_or(0);
    if needs_health_check(new) && needs_health_check(old) && port(new) != port(old) {
        errors.forbidden("spec.healthCheckNodePort", FIELD_IMMUTABLE);
    }
    service(new, errors);
}

const ONCE: &str = "may not change once set";

/// The first address stays; a second one comes, or goes with the wish for a single stack.
fn kept_addresses(new: &Value, old: &Value, errors: &mut ErrorList) {
    let path = "spec.clusterIPs";
    let (now, then) = (list(new, "/spec/clusterIPs"), list(old, "/spec/clusterIPs"));
    if now.is_empty() && !then.is_empty() {
        let detail = "primary clusterIP can not be unset";
        return errors.invalid(format!("{path}[0]"), Value::Null, detail);
    }
    let same_length = now.len() == then.len();
    for (i, (n, t)) in now.iter().zip(then).enumerate() {
        if n != t && (i == 0 || same_length) {
            errors.invalid(format!("{path}[{i}]"), now.to_vec(), ONCE);
        }
    }
    if then.len() > now.len() && now.len() == 1 {
        released(new, "clusterIP", errors);
    }
}

/// The same of the families. Upstream blames the first for each, and shows addresses where their number changed.
fn kept_families(new: &Value, old: &Value, errors: &mut ErrorList) {
    let path = "spec.ipFamilies[0]";
    let (now, then) = (list(new, "/spec/ipFamilies"), list(old, "/spec/ipFamilies"));
    if now.len() == then.len() {
        for _ in now.iter().zip(then).filter(|(n, t)| n != t) {
            errors.invalid(path, now.to_vec(), ONCE);
        }
        return;
    }
    let addresses = list(new, "/spec/clusterIPs");
    if now.len() < then.len() && addresses.is_empty() {
        let shown = new.pointer("/spec/ipFamilies").cloned().unwrap_or_default();
        errors.invalid(path, shown, "primary ipFamily can not be unset");
    }
    if now.first().zip(then.first()).is_some_and(|(n, t)| n != t) {
        errors.invalid(path, addresses.to_vec(), ONCE);
    }
    if now.len() < then.len() && now.len() == 1 {
        released(new, "ipFamily", errors);
    }
}

fn released(new: &Value, one: &str, errors: &mut ErrorList) {
    if text(new, "/spec/ipFamilyPolicy") != "SingleStack" {
        let shown = new.pointer("/spec/ipFamilyPolicy").cloned().unwrap_or_default();
        let detail = format!("must be set to 'SingleStack' when releasing the secondary {one}");
        errors.invalid("spec.ipFamilyPolicy", shown, detail);
    }
}

/// Addresses that a load balancer was given.
pub(super) fn service_status(new: &Value, _: &Value, errors: &mut ErrorList) {
    let path = "status.loadBalancer.ingress";
    let ingress = list(new, "/status/loadBalancer/ingress");
    if !is_balanced(new) && !ingress.is_empty() {
        let detail = "may only be used when `spec.type` is 'LoadBalancer'";
        return errors.forbidden(path, detail);
    }
    for (i, point) in ingress.iter().enumerate() {
        let (address, mode) = (text(point, "/ip"), text(point, "/ipMode"));
        if !address.is_empty() {
            ip(address, &format!("{path}[{i}].ip"), errors);
        }
        let at = format!("{path}[{i}].ipMode");
        match (point.get("ipMode").is_some(), address.is_empty()) {
            (false, false) => errors.required(at, "must be specified when `ip` is set"),
            (true, true) => errors.forbidden(at, "may not be specified when `ip` is not set"),
            (true, false) => errors.one_of(&at, mode, &["Proxy", "VIP"]),
            (false, true) => {}
        }
        let host = text(point, "/hostname");
        if !host.is_empty() {
            errors.problems(&format!("{path}[{i}].hostname"), host, subdomain_problems(host));
            if host.parse::<IpAddr>().is_ok() {
                errors.invalid(
                    format!("{path}[{i}].hostname"),
                    host,
                    "must be a DNS name, not an IP address",
                );
            }
        }
    }
}

/// Addresses that must not be reached through the cluster's name for them.
pub(super) fn special_ranges(address: &str, path: &str, errors: &mut ErrorList) {
    let Ok(parsed) = address.parse::<IpAddr>() else {
        return errors.invalid(path, address, "must be a valid IP address");
    };
    let (link_local, multicast) = match parsed {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    let unspecified = format!("may not be unspecified ({address})");
    let details = [
        (parsed.is_unspecified(), unspecified.as_str()),
        (
            parsed.is_loopback(),
            "may not be in the loopback range (127.0.0.0/8, ::1/128)",
        ),
        (
            link_local,
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        ),
        (
            multicast,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
        ),
    ];
    for (_, detail) in details.into_iter().filter(|(applies, _)| *applies) {
        errors.push(FieldError::invalid(path, &address.into(), detail));
    }
}

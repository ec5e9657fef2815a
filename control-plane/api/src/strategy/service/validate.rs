//! Checks of Services and endpoints.

use crate::meta::validate_labels;
use crate::strategy::access::{int, list, map, text};
use crate::strategy::pod::validate::port_or_name;
use crate::validation::net::ip;
use crate::validation::text::{label_problems, port_name_problems, subdomain_problems};
use crate::validation::{ErrorList, FieldError};
use serde_json::Value;
use std::net::IpAddr;

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;

pub(super) fn service(obj: &Value, errors: &mut ErrorList) {
    let kind = text(obj, "/spec/type");
    let headless = text(obj, "/spec/clusterIP") == "None" || text(obj, "/spec/clusterIPs/0") == "None";
    let ports = list(obj, "/spec/ports");
    if ports.is_empty() && !headless && kind != "ExternalName" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    match kind {
        "LoadBalancer" if headless => {
            let detail = "may not be set to 'None' for LoadBalancer services";
            errors.push(FieldError::invalid("spec.clusterIPs[0]", &"None".into(), detail));
        }
        "NodePort" if headless => {
            let detail = "may not be set to 'None' for NodePort services";
            errors.push(FieldError::invalid("spec.clusterIPs[0]", &"None".into(), detail));
        }
        "ExternalName" => external_name(obj, errors),
        _ => {}
    }
    let mut names: Vec<&str> = Vec::new();
    let mut numbers: Vec<(i64, &str)> = Vec::new();
    for (i, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{i}]");
        service_port(port, &path, ports.len() > 1, headless, &mut names, errors);
        let key = (int(port, "/port").unwrap_or(0), text(port, "/protocol"));
        if numbers.contains(&key) {
            errors.push(FieldError::duplicate(path.clone(), port));
        }
        numbers.push(key);
        if kind == "ClusterIP" && int(port, "/nodePort").unwrap_or(0) != 0 {
            let detail = "may not be used when `type` is 'ClusterIP'";
            errors.push(FieldError::forbidden(format!("{path}.nodePort"), detail));
        }
    }
    validate_labels(map(obj, "/spec/selector"), "spec.selector", errors);
    errors.one_of(
        "spec.sessionAffinity",
        text(obj, "/spec/sessionAffinity"),
        &["ClientIP", "None"],
    );
    if let Some(seconds) = int(obj, "/spec/sessionAffinityConfig/clientIP/timeoutSeconds") {
        let path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        if !(1..=86_400).contains(&seconds) {
            errors.push(FieldError::invalid(
                path,
                &seconds.into(),
                "must be greater than 0 and less than 86400",
            ));
        }
    }
    for (i, address) in list(obj, "/spec/externalIPs").iter().enumerate() {
        let path = format!("spec.externalIPs[{i}]");
        let address = address.as_str().unwrap_or("");
        ip(address, &path, errors);
        special_ranges(address, &path, errors);
    }
    cluster_ips(obj, errors);
    if kind.is_empty() {
        errors.push(FieldError::required("spec.type", ""));
    } else {
        errors.one_of("spec.type", kind, &TYPES);
    }
    for field in ["externalTrafficPolicy", "internalTrafficPolicy"] {
        let value = text(obj, &format!("/spec/{field}"));
        if !value.is_empty() {
            errors.one_of(&format!("spec.{field}"), value, &["Cluster", "Local"]);
        }
    }
    let distribution = text(obj, "/spec/trafficDistribution");
    if !distribution.is_empty() {
        let supported = ["PreferClose", "PreferSameNode", "PreferSameZone"];
        errors.one_of("spec.trafficDistribution", distribution, &supported);
    }
}

fn external_name(obj: &Value, errors: &mut ErrorList) {
    for field in ["clusterIPs", "ipFamilies"] {
        if !list(obj, &format!("/spec/{field}")).is_empty() {
            errors.push(FieldError::forbidden(
                format!("spec.{field}"),
                "may not be set for ExternalName services",
            ));
        }
    }
    let name = text(obj, "/spec/externalName");
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        errors.push(FieldError::required("spec.externalName", ""));
    } else {
        errors.problems("spec.externalName", name, subdomain_problems(name));
    }
}

fn service_port<'a>(
    port: &'a Value,
    path: &str,
    needs_name: bool,
    headless: bool,
    names: &mut Vec<&'a str>,
    errors: &mut ErrorList,
) {
    let name = text(port, "/name");
    if name.is_empty() {
        if needs_name {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        }
    } else {
        errors.problems(&format!("{path}.name"), name, label_problems(name));
        if names.contains(&name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), &name.into()));
        }
        names.push(name);
    }
    errors.in_range(
        &format!("{path}.port"),
        int(port, "/port").unwrap_or(0),
        1,
        65_535,
    );
    let protocol = text(port, "/protocol");
    if protocol.is_empty() {
        errors.push(FieldError::required(format!("{path}.protocol"), ""));
    } else {
        errors.one_of(&format!("{path}.protocol"), protocol, &PROTOCOLS);
    }
    if !headless {
        port_or_name(port.get("targetPort"), &format!("{path}.targetPort"), errors);
    }
}

fn cluster_ips(obj: &Value, errors: &mut ErrorList) {
    let addresses = list(obj, "/spec/clusterIPs");
    for (i, address) in addresses.iter().enumerate() {
        let address = address.as_str().unwrap_or("");
        if address != "None" {
            ip(address, &format!("spec.clusterIPs[{i}]"), errors);
        } else if i > 0 {
            let detail = "'None' must be the first and only value";
            errors.push(FieldError::invalid(
                "spec.clusterIPs",
                &Value::from(addresses.to_vec()),
                detail,
            ));
        }
    }
    let (single, first) = (text(obj, "/spec/clusterIP"), text(obj, "/spec/clusterIPs/0"));
    if !addresses.is_empty() && single != first {
        errors.push(FieldError::invalid(
            "spec.clusterIP",
            &single.into(),
            "must match spec.clusterIPs[0]",
        ));
    } else if addresses.is_empty() && !single.is_empty() && single != "None" {
        ip(single, "spec.clusterIP", errors);
    }
    if addresses.len() > 2 {
        let detail = "may only hold up to 2 values";
        errors.push(FieldError::invalid(
            "spec.clusterIPs",
            &Value::from(addresses.to_vec()),
            detail,
        ));
    }
    let policy = text(obj, "/spec/ipFamilyPolicy");
    if !policy.is_empty() {
        errors.one_of(
            "spec.ipFamilyPolicy",
            policy,
            &["PreferDualStack", "RequireDualStack", "SingleStack"],
        );
    }
    for (i, family) in list(obj, "/spec/ipFamilies").iter().enumerate() {
        errors.one_of(
            &format!("spec.ipFamilies[{i}]"),
            family.as_str().unwrap_or(""),
            &["IPv4", "IPv6"],
        );
    }
}

pub(super) fn service_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    let external = |obj: &Value| text(obj, "/spec/type") == "ExternalName";
    if !external(new) && !external(old) {
        let (now, then) = (list(new, "/spec/clusterIPs"), list(old, "/spec/clusterIPs"));
        if let Some(first) = then.first()
            && now.first().is_some_and(|n| n != first)
        {
            errors.push(FieldError::invalid(
                "spec.clusterIPs[0]",
                &Value::from(now.to_vec()),
                "may not change once set",
            ));
        }
        let (now, then) = (list(new, "/spec/ipFamilies"), list(old, "/spec/ipFamilies"));
        if let (Some(n), Some(o)) = (now.first(), then.first())
            && n != o
        {
            errors.push(FieldError::invalid(
                "spec.ipFamilies[0]",
                &Value::from(now.to_vec()),
                "may not change once set",
            ));
        }
    }
    service(new, errors);
}

/// Addresses that must not be reached through the cluster's name for them.
fn special_ranges(address: &str, path: &str, errors: &mut ErrorList) {
    let Ok(parsed) = address.parse::<IpAddr>() else {
        return;
    };
    let (link_local, multicast) = match parsed {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] == 0xff02),
    };
    let details = [
        (parsed.is_unspecified(), "may not be unspecified (0.0.0.0 or ::)"),
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

pub(super) fn endpoints(obj: &Value, errors: &mut ErrorList) {
    for (i, subset) in list(obj, "/subsets").iter().enumerate() {
        let path = format!("subsets[{i}]");
        if list(subset, "/addresses").is_empty() && list(subset, "/notReadyAddresses").is_empty() {
            errors.push(FieldError::required(
                path.clone(),
                "must specify `addresses` or `notReadyAddresses`",
            ));
        }
        for field in ["addresses", "notReadyAddresses"] {
            for (j, address) in list(subset, &format!("/{field}")).iter().enumerate() {
                let path = format!("{path}.{field}[{j}].ip");
                ip(text(address, "/ip"), &path, errors);
                special_ranges(text(address, "/ip"), &path, errors);
            }
        }
        let ports = list(subset, "/ports");
        for (j, port) in ports.iter().enumerate() {
            let path = format!("{path}.ports[{j}]");
            let name = text(port, "/name");
            if name.is_empty() && ports.len() > 1 {
                errors.push(FieldError::required(format!("{path}.name"), ""));
            } else if !name.is_empty() {
                errors.problems(&format!("{path}.name"), name, label_problems(name));
            }
            errors.in_range(
                &format!("{path}.port"),
                int(port, "/port").unwrap_or(0),
                1,
                65_535,
            );
            errors.one_of(&format!("{path}.protocol"), text(port, "/protocol"), &PROTOCOLS);
        }
    }
}

pub(super) fn endpoint_slice(obj: &Value, errors: &mut ErrorList) {
    let kind = text(obj, "/addressType");
    if kind.is_empty() {
        errors.push(FieldError::required("addressType", ""));
    } else {
        errors.one_of("addressType", kind, &["FQDN", "IPv4", "IPv6"]);
    }
    let endpoints = list(obj, "/endpoints");
    if endpoints.len() > MAX_ENDPOINTS {
        errors.push(too_many("endpoints", endpoints.len(), MAX_ENDPOINTS));
        return;
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        let path = format!("endpoints[{i}]");
        let addresses = list(endpoint, "/addresses");
        if addresses.is_empty() {
            errors.push(FieldError::required(
                format!("{path}.addresses"),
                "must contain at least 1 address",
            ));
        } else if addresses.len() > MAX_ADDRESSES {
            errors.push(too_many(
                &format!("{path}.addresses"),
                addresses.len(),
                MAX_ADDRESSES,
            ));
        }
        for (j, address) in addresses.iter().enumerate() {
            slice_address(
                address.as_str().unwrap_or(""),
                kind,
                &format!("{path}.addresses[{j}]"),
                errors,
            );
        }
        let hostname = text(endpoint, "/hostname");
        if !hostname.is_empty() {
            errors.problems(&format!("{path}.hostname"), hostname, label_problems(hostname));
        }
        let node = text(endpoint, "/nodeName");
        if !node.is_empty() {
            errors.problems(&format!("{path}.nodeName"), node, subdomain_problems(node));
        }
    }
    let ports = list(obj, "/ports");
    if ports.len() > MAX_PORTS {
        errors.push(too_many("ports", ports.len(), MAX_PORTS));
        return;
    }
    let mut names: Vec<&str> = Vec::new();
    for (i, port) in ports.iter().enumerate() {
        let path = format!("ports[{i}]");
        let name = text(port, "/name");
        if !name.is_empty() {
            errors.problems(&format!("{path}.name"), name, port_name_problems_or_label(name));
        }
        if names.contains(&name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), &name.into()));
        }
        names.push(name);
        errors.one_of(&format!("{path}.protocol"), text(port, "/protocol"), &PROTOCOLS);
    }
}

/// Names copied from Services may be longer than IANA names.
fn port_name_problems_or_label(name: &str) -> Vec<String> {
    if port_name_problems(name).is_empty() {
        Vec::new()
    } else {
        label_problems(name)
    }
}

fn slice_address(address: &str, kind: &str, path: &str, errors: &mut ErrorList) {
    let parsed = address.parse::<IpAddr>();
    match (kind, parsed) {
        ("FQDN", _) => errors.problems(path, address, subdomain_problems(address)),
        ("IPv4", Ok(IpAddr::V4(_))) | ("IPv6", Ok(IpAddr::V6(_))) => special_ranges(address, path, errors),
        ("IPv4", _) => errors.push(FieldError::invalid(
            path,
            &address.into(),
            "must be an IPv4 address",
        )),
        ("IPv6", _) => errors.push(FieldError::invalid(
            path,
            &address.into(),
            "must be an IPv6 address",
        )),
        _ => {}
    }
}

fn too_many(path: &str, actual: usize, max: usize) -> FieldError {
    let detail = format!("must have at most {max} items");
    FieldError::new(
        crate::validation::ErrorKind::TooMany,
        path,
        actual.to_string(),
        detail,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn messages(check: fn(&Value, &mut ErrorList), obj: Value) -> String {
        let mut errors = ErrorList::new();
        check(&obj, &mut errors);
        if errors.is_empty() {
            String::new()
        } else {
            errors.message()
        }
    }

    fn svc(mut spec: Value) -> Value {
        if spec.get("type").is_none() {
            spec["type"] = "ClusterIP".into();
        }
        spec["sessionAffinity"] = "None".into();
        json!({"spec": spec})
    }

    #[test]
    fn services() {
        let port = || json!({"port": 80, "targetPort": 80, "protocol": "TCP"});
        assert_eq!(messages(service, svc(json!({"ports": [port()]}))), "");
        assert_eq!(messages(service, svc(json!({"clusterIP": "None"}))), "");
        assert_eq!(
            messages(
                service,
                svc(json!({"type": "ExternalName", "externalName": "a.b."}))
            ),
            ""
        );
        let mut node = port();
        node["nodePort"] = 30_000.into();
        assert_eq!(
            messages(service, svc(json!({"ports": [node]}))),
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"
        );
        assert_eq!(
            messages(
                service,
                svc(json!({"ports": [port()], "externalIPs": ["127.0.0.1"]}))
            ),
            "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)"
        );
        let mut errors = ErrorList::new();
        let with = |ip: &str| svc(json!({"ports": [port()], "clusterIP": ip, "clusterIPs": [ip]}));
        service_update(&with("10.0.0.2"), &with("10.0.0.1"), &mut errors);
        assert_eq!(
            errors.message(),
            "spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"
        );
    }

    #[test]
    fn slices() {
        let slice = |kind: &str, address: &str| json!({"addressType": kind, "endpoints": [{"addresses": [address]}], "ports": [{"name": "", "protocol": "TCP"}]});
        assert_eq!(messages(endpoint_slice, slice("IPv4", "10.0.0.1")), "");
        assert_eq!(messages(endpoint_slice, slice("IPv6", "fd00::1")), "");
        assert_eq!(messages(endpoint_slice, slice("FQDN", "a.b")), "");
        for (kind, address, want) in [
            ("IPv4", "fd00::1", "must be an IPv4 address"),
            (
                "IPv4",
                "169.254.1.1",
                "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
            ),
            (
                "IPv6",
                "::1",
                "may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ),
            ("IPv4", "0.0.0.0", "may not be unspecified (0.0.0.0 or ::)"),
            (
                "IPv6",
                "ff02::1",
                "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
            ),
        ] {
            let want = format!("endpoints[0].addresses[0]: Invalid value: \"{address}\": {want}");
            assert_eq!(messages(endpoint_slice, slice(kind, address)), want);
        }
        assert_eq!(
            messages(endpoint_slice, json!({"addressType": "IPv4", "endpoints": [{}]})),
            "endpoints[0].addresses: Required value: must contain at least 1 address"
        );
    }
}

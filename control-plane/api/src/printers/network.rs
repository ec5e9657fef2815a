//! Services, what is behind them, and what is in front of them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    AGE, NAME, NONE, Printer, age, cut, joined, label_selector, labels, list, name, string, text,
    text_or_none, wide,
};

pub(super) const SERVICE: Printer = Printer {
    columns: &[
        NAME,
        string("Type").of("core.v1.ServiceSpec", "type"),
        string("Cluster-IP").of("core.v1.ServiceSpec", "clusterIP"),
        string("External-IP").of("core.v1.ServiceSpec", "externalIPs"),
        string("Port(s)").of("core.v1.ServiceSpec", "ports"),
        AGE,
        wide("Selector").of("core.v1.ServiceSpec", "selector"),
    ],
    row: |object, now| {
        let spec = &object["spec"];
        let addresses = list(&spec["clusterIPs"]);
        let cluster_ip = addresses.first().map_or(&spec["clusterIP"], |first| first);
        vec![
            name(object),
            text(&spec["type"]).into(),
            text_or_none(cluster_ip),
            external_ip(object).into(),
            ports(list(&spec["ports"])).into(),
            age(object, now),
            labels(&spec["selector"]).into(),
        ]
    },
};

fn external_ip(service: &Value) -> String {
    let spec = &service["spec"];
    let mut external: Vec<&str> = list(&spec["externalIPs"]).iter().map(text).collect();
    match text(&spec["type"]) {
        "ExternalName" => return text(&spec["externalName"]).to_owned(),
        "LoadBalancer" => {
            let assigned = assigned(service);
            if assigned.is_empty() && external.is_empty() {
                return "<pending>".to_owned();
            }
            let assigned: Vec<&str> = assigned.into_iter().chain(external).collect();
            return assigned.join(",");
        }
        _ => {}
    }
    external.retain(|address| !address.is_empty());
    if external.is_empty() {
        NONE.to_owned()
    } else {
        external.join(",")
    }
}

/// The addresses, or host names, that a load balancer gave a Service or an Ingress, in order.
fn assigned(object: &Value) -> BTreeSet<&str> {
    let ingress = list(&object["status"]["loadBalancer"]["ingress"]).iter();
    let shown = ingress.map(|entry| match text(&entry["ip"]) {
        "" => text(&entry["hostname"]),
        ip => ip,
    });
    shown.filter(|address| !address.is_empty()).collect()
}

fn ports(ports: &[Value]) -> String {
    let shown: Vec<String> = ports
        .iter()
        .map(|port| match port["nodePort"].as_i64() {
            Some(node_port) if node_port > 0 => {
                format!("{}:{node_port}/{}", port["port"], text(&port["protocol"]))
            }
            _ => format!("{}/{}", port["port"], text(&port["protocol"])),
        })
        .collect();
    if shown.is_empty() {
        NONE.to_owned()
    } else {
        shown.join(",")
    }
}

pub(super) const ENDPOINTS: Printer = Printer {
    columns: &[NAME, string("Endpoints").of("core.v1.Endpoints", "subsets"), AGE],
    row: |object, now| vec![name(object), endpoints(object).into(), age(object, now)],
};

/// The first three `address:port` pairs of the ready addresses, those of one port together.
fn endpoints(object: &Value) -> String {
    let mut shown = Vec::new();
    for subset in list(&object["subsets"]) {
        let addresses: Vec<&str> = list(&subset["addresses"])
            .iter()
            .map(|address| text(&address["ip"]))
            .collect();
        let ports = list(&subset["ports"]);
        if ports.is_empty() {
            shown.extend(addresses.iter().map(|address| (*address).to_owned()));
        }
        for port in ports {
            shown.extend(addresses.iter().map(|address| match address.contains(':') {
                true => format!("[{address}]:{}", port["port"]),
                false => format!("{address}:{}", port["port"]),
            }));
        }
    }
    cut(&shown, 3)
}

pub(super) const ENDPOINT_SLICE: Printer = Printer {
    columns: &[
        NAME,
        string("AddressType").of("discovery.v1.EndpointSlice", "addressType"),
        string("Ports").of("discovery.v1.EndpointSlice", "ports"),
        string("Endpoints").of("discovery.v1.EndpointSlice", "endpoints"),
        AGE,
    ],
    row: |object, now| {
        let ports: Vec<String> = list(&object["ports"])
            .iter()
            .map(|port| match (&port["port"], text(&port["name"])) {
                (Value::Null, "") => "*".to_owned(),
                (Value::Null, name) => name.to_owned(),
                (number, _) => number.to_string(),
            })
            .collect();
        let ports = if ports.is_empty() {
            "<unset>".to_owned()
        } else {
            cut(&ports, 3)
        };
        let addresses: Vec<String> = list(&object["endpoints"])
            .iter()
            .flat_map(|endpoint| list(&endpoint["addresses"]))
            .map(|a| text(a).to_owned())
            .collect();
        let addresses = if addresses.is_empty() {
            "<unset>".to_owned()
        } else {
            cut(&addresses, 3)
        };
        vec![
            name(object),
            text(&object["addressType"]).into(),
            ports.into(),
            addresses.into(),
            age(object, now),
        ]
    },
};

pub(super) const INGRESS: Printer = Printer {
    columns: &[
        NAME,
        string("Class"),
        string("Hosts"),
        string("Address"),
        string("Ports"),
        AGE,
    ],
    row: |object, now| {
        let spec = &object["spec"];
        let address: Vec<&str> = assigned(object).into_iter().collect();
        let ports = if list(&spec["tls"]).is_empty() {
            "80"
        } else {
            "80, 443"
        };
        vec![
            name(object),
            text_or_none(&spec["ingressClassName"]),
            hosts(list(&spec["rules"])).into(),
            address.join(",").into(),
            ports.into(),
            age(object, now),
        ]
    },
};

/// The hosts of the first rules; what follows the third host is counted in rules, with a host or without.
fn hosts(rules: &[Value]) -> String {
    const MOST: usize = 3;
    let mut shown: Vec<&str> = Vec::new();
    let mut is_cut = false;
    for rule in rules {
        is_cut |= shown.len() == MOST;
        if !is_cut && !text(&rule["host"]).is_empty() {
            shown.push(text(&rule["host"]));
        }
    }
    match (shown.join(","), is_cut) {
        (all, _) if all.is_empty() => "*".to_owned(),
        (first, true) => format!("{first} + {} more...", rules.len() - MOST),
        (all, false) => all,
    }
}

pub(super) const INGRESS_CLASS: Printer = Printer {
    columns: &[NAME, string("Controller"), string("Parameters"), AGE],
    row: |object, now| {
        let parameters = &object["spec"]["parameters"];
        let shown = match (parameters.is_null(), text(&parameters["apiGroup"])) {
            (true, _) => NONE.to_owned(),
            (false, "") => format!("{}/{}", text(&parameters["kind"]), text(&parameters["name"])),
            (false, group) => format!(
                "{}.{group}/{}",
                text(&parameters["kind"]),
                text(&parameters["name"])
            ),
        };
        vec![
            name(object),
            text(&object["spec"]["controller"]).into(),
            shown.into(),
            age(object, now),
        ]
    },
};

pub(super) const NETWORK_POLICY: Printer = Printer {
    columns: &[
        NAME,
        string("Pod-Selector").of("networking.v1.NetworkPolicySpec", "podSelector"),
        AGE,
    ],
    row: |object, now| {
        vec![
            name(object),
            label_selector(&object["spec"]["podSelector"]).into(),
            age(object, now),
        ]
    },
};

pub(super) const IP_ADDRESS: Printer = Printer {
    columns: &[
        NAME,
        string("ParentRef").of("networking.v1.IPAddressSpec", "parentRef"),
    ],
    row: |object, _| {
        let parent = &object["spec"]["parentRef"];
        if parent.is_null() {
            return vec![name(object), NONE.into()];
        }
        let parts = [
            text(&parent["resource"]),
            text(&parent["group"]),
            text(&parent["namespace"]),
            text(&parent["name"]),
        ];
        let [resource, group, namespace, parent_name] = parts;
        let resource = if group.is_empty() {
            resource.to_owned()
        } else {
            format!("{resource}.{group}")
        };
        let path: Vec<&str> = [resource.as_str(), namespace, parent_name]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect();
        vec![name(object), path.join("/").into()]
    },
};

pub(super) const SERVICE_CIDR: Printer = Printer {
    columns: &[
        NAME,
        string("CIDRs").of("networking.v1.ServiceCIDRSpec", "cidrs"),
        AGE,
    ],
    row: |object, now| {
        vec![
            name(object),
            joined(list(&object["spec"]["cidrs"]), text).into(),
            age(object, now),
        ]
    },
};

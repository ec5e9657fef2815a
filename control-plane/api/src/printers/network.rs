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
        string("Type"),
        string("Cluster-IP"),
        string("External-IP"),
        string("Port(s)"),
        AGE,
        wide("Selector"),
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
            let ingress = list(&service["status"]["loadBalancer"]["ingress"]);
            let assigned: BTreeSet<&str> = ingress
                .iter()
                .map(|entry| {
                    if entry["ip"].is_null() {
                        text(&entry["hostname"])
                    } else {
                        text(&entry["ip"])
                    }
                })
                .collect();
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
    columns: &[NAME, string("Endpoints"), AGE],
    row: |object, now| vec![name(object), endpoints(object).into(), age(object, now)],
};

/// The first three `address:port` pairs of the ready addresses.
fn endpoints(object: &Value) -> String {
    let mut shown = Vec::new();
    for subset in list(&object["subsets"]) {
        let addresses = list(&subset["addresses"])
            .iter()
            .map(|address| text(&address["ip"]));
        let ports = list(&subset["ports"]);
        for address in addresses {
            if ports.is_empty() {
                shown.push(address.to_owned());
            }
            let host = if address.contains(':') {
                format!("[{address}]")
            } else {
                address.to_owned()
            };
            shown.extend(ports.iter().map(|port| format!("{host}:{}", port["port"])));
        }
    }
    cut(&shown, 3)
}

pub(super) const ENDPOINT_SLICE: Printer = Printer {
    columns: &[
        NAME,
        string("AddressType"),
        string("Ports"),
        string("Endpoints"),
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
        let hosts: Vec<String> = list(&spec["rules"])
            .iter()
            .map(|rule| text(&rule["host"]).to_owned())
            .filter(|host| !host.is_empty())
            .collect();
        let hosts = if hosts.is_empty() {
            "*".to_owned()
        } else {
            cut(&hosts, 3)
        };
        let address = joined(
            list(&object["status"]["loadBalancer"]["ingress"]),
            |entry| match text(&entry["ip"]) {
                "" => text(&entry["hostname"]),
                ip => ip,
            },
        );
        let ports = if list(&spec["tls"]).is_empty() {
            "80"
        } else {
            "80, 443"
        };
        vec![
            name(object),
            text_or_none(&spec["ingressClassName"]),
            hosts.into(),
            address.into(),
            ports.into(),
            age(object, now),
        ]
    },
};

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
    columns: &[NAME, string("Pod-Selector"), AGE],
    row: |object, now| {
        vec![
            name(object),
            label_selector(&object["spec"]["podSelector"]).into(),
            age(object, now),
        ]
    },
};

pub(super) const IP_ADDRESS: Printer = Printer {
    columns: &[NAME, string("ParentRef"), AGE],
    row: |object, now| {
        let parent = &object["spec"]["parentRef"];
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
        vec![name(object), path.join("/").into(), age(object, now)]
    },
};

pub(super) const SERVICE_CIDR: Printer = Printer {
    columns: &[NAME, string("CIDRs"), AGE],
    row: |object, now| {
        vec![
            name(object),
            joined(list(&object["spec"]["cidrs"]), text).into(),
            age(object, now),
        ]
    },
};

//! What clients of a node should reach, told from the objects alone. Pure, and written from the rules of the API, not from the
//! agent's code.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use serde_json::{Value, json};

use crate::client::NODE_ADDRESSES;

/// The node that this is about.
pub(crate) const NODE: &str = "node1";

/// All objects.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) services: BTreeMap<&'static str, Service>,
    pub(crate) slices: BTreeMap<String, Slice>,
    /// The zone of this node.
    pub(crate) zone: Option<&'static str>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Service {
    pub(crate) cluster_ips: Vec<IpAddr>,
    pub(crate) external_ips: Vec<IpAddr>,
    pub(crate) ports: Vec<Port>,
    pub(crate) affinity: bool,
    pub(crate) internal_local: bool,
    pub(crate) external_local: bool,
    pub(crate) headless: bool,
    pub(crate) other_proxy: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Port {
    pub(crate) name: &'static str,
    pub(crate) protocol: &'static str,
    pub(crate) number: u16,
    pub(crate) node_port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Slice {
    pub(crate) service: &'static str,
    pub(crate) ipv6: bool,
    pub(crate) ports: Vec<Port>,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) other_proxy: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Endpoint {
    pub(crate) address: IpAddr,
    pub(crate) ready: Option<bool>,
    pub(crate) serving: Option<bool>,
    pub(crate) terminating: Option<bool>,
    pub(crate) node: Option<&'static str>,
    pub(crate) for_zones: Vec<&'static str>,
    pub(crate) for_nodes: Vec<&'static str>,
}

/// What a client should see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// Each of these sooner or later, and nobody else.
    All(BTreeSet<SocketAddr>),
    /// One of these, and always the same.
    One(BTreeSet<SocketAddr>),
    /// That nobody listens.
    Refused,
    /// That there are others, but not here.
    Elsewhere,
    /// Nothing is known of the address: there is no way to it.
    Unknown,
}

impl Cluster {
    /// What processes of this node see at an address.
    pub(crate) fn expect(&self, protocol: &str, address: SocketAddr) -> Expect {
        let services = || {
            self.services
                .iter()
                .filter(|(_, service)| !service.headless && !service.other_proxy)
        };
        for (name, service) in services() {
            let same = |port: &&Port| port.protocol == protocol;
            let by_number = |port: &&Port| same(port) && port.number == address.port();
            if service.cluster_ips.contains(&address.ip()) {
                return match service.ports.iter().find(by_number) {
                    Some(port) => {
                        self.answers(name, service, port, address.is_ipv6(), service.internal_local)
                    }
                    None => Expect::Refused,
                };
            }
            // Traffic from inside has no use for the policy of traffic from outside.
            let of_family = service
                .cluster_ips
                .iter()
                .any(|ip| ip.is_ipv6() == address.is_ipv6());
            let external = service.external_ips.contains(&address.ip());
            let node = NODE_ADDRESSES.iter().any(|ip| ip.parse() == Ok(address.ip()));
            let by_node_port = |port: &&Port| same(port) && port.node_port == Some(address.port());
            let port = service
                .ports
                .iter()
                .find(|port| (external && by_number(port)) || (node && by_node_port(port)));
            if let Some(port) = port.filter(|_| of_family) {
                return self.answers(name, service, port, address.is_ipv6(), false);
            }
        }
        Expect::Unknown
    }

    fn answers(&self, name: &str, service: &Service, port: &Port, ipv6: bool, local: bool) -> Expect {
        let endpoints = self.endpoints(name, port, ipv6);
        let all = self.usable(&endpoints, false);
        let usable = if local {
            self.usable(&endpoints, true)
        } else {
            all.clone()
        };
        match (usable.is_empty(), service.affinity) {
            (false, true) => Expect::One(usable),
            (false, false) => Expect::All(usable),
            (true, _) if all.is_empty() => Expect::Refused,
            (true, _) => Expect::Elsewhere,
        }
    }

    /// Every endpoint of a port with the sockets it has. One that is in two slices is what the better of them says.
    fn endpoints(&self, name: &str, port: &Port, ipv6: bool) -> BTreeMap<SocketAddr, Endpoint> {
        let mut endpoints: BTreeMap<SocketAddr, Endpoint> = BTreeMap::new();
        for slice in self.slices.values() {
            if slice.service != name || slice.ipv6 != ipv6 || slice.other_proxy {
                continue;
            }
            for target in &slice.ports {
                if (target.name, target.protocol) != (port.name, port.protocol) {
                    continue;
                }
                for endpoint in &slice.endpoints {
                    let socket = SocketAddr::new(endpoint.address, target.number);
                    let known = endpoints.get(&socket);
                    if known.is_none_or(|known| known.rank() < endpoint.rank()) {
                        endpoints.insert(socket, endpoint.clone());
                    }
                }
            }
        }
        endpoints
    }

    fn usable(&self, endpoints: &BTreeMap<SocketAddr, Endpoint>, local: bool) -> BTreeSet<SocketAddr> {
        let pick = |wanted: &dyn Fn(&Endpoint) -> bool| -> BTreeSet<SocketAddr> {
            endpoints
                .iter()
                .filter(|(_, endpoint)| !local || endpoint.node == Some(NODE))
                .filter(|(_, endpoint)| wanted(endpoint))
                .map(|(socket, _)| *socket)
                .collect()
        };
        let ready = pick(&Endpoint::is_ready);
        if ready.is_empty() {
            return pick(&Endpoint::is_draining);
        }
        if local {
            return ready;
        }
        // Hints are for all or for none, and of no use where they name nobody.
        let of_ready = || ready.iter().map(|socket| &endpoints[socket]);
        let for_here = pick(&|endpoint| endpoint.is_ready() && endpoint.for_nodes.contains(&NODE));
        if !for_here.is_empty() && of_ready().all(|endpoint| !endpoint.for_nodes.is_empty()) {
            return for_here;
        }
        if let Some(zone) = self.zone {
            let for_zone = pick(&|endpoint| endpoint.is_ready() && endpoint.for_zones.contains(&zone));
            if !for_zone.is_empty() && of_ready().all(|endpoint| !endpoint.for_zones.is_empty()) {
                return for_zone;
            }
        }
        ready
    }
}

impl Endpoint {
    fn is_ready(&self) -> bool {
        self.ready.unwrap_or(true)
    }

    fn is_draining(&self) -> bool {
        self.serving.unwrap_or(true) && self.terminating.unwrap_or(false)
    }

    fn rank(&self) -> u8 {
        match (self.is_ready(), self.is_draining()) {
            (true, _) => 2,
            (false, true) => 1,
            (false, false) => 0,
        }
    }
}

impl Service {
    /// The object as the API has it.
    pub(crate) fn object(&self, name: &str) -> Value {
        let ports = self.ports.iter().map(|port| {
            let mut object = port.object();
            if let Some(node_port) = port.node_port {
                object["nodePort"] = node_port.into();
            }
            object
        });
        let ips = if self.headless {
            json!(["None"])
        } else {
            json!(self.cluster_ips)
        };
        let mut object = json!({
            "metadata": {"namespace": "default", "name": name, "labels": {}},
            "spec": {
                "type": "NodePort",
                "clusterIP": ips[0],
                "clusterIPs": ips,
                "externalIPs": self.external_ips,
                "ports": ports.collect::<Vec<_>>(),
                "sessionAffinity": if self.affinity { "ClientIP" } else { "None" },
                "internalTrafficPolicy": if self.internal_local { "Local" } else { "Cluster" },
                "externalTrafficPolicy": if self.external_local { "Local" } else { "Cluster" },
            },
        });
        if self.other_proxy {
            object["metadata"]["labels"]["service.kubernetes.io/service-proxy-name"] = "other".into();
        }
        object
    }
}

impl Port {
    fn object(&self) -> Value {
        json!({"name": self.name, "protocol": self.protocol, "port": self.number})
    }
}

impl Slice {
    /// The object as the API has it.
    pub(crate) fn object(&self, name: &str) -> Value {
        let names = |names: &[&str]| names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>();
        let endpoints = self.endpoints.iter().map(|endpoint| {
            let mut object = json!({
                "addresses": [endpoint.address],
                "conditions": {
                    "ready": endpoint.ready,
                    "serving": endpoint.serving,
                    "terminating": endpoint.terminating,
                },
                "nodeName": endpoint.node,
            });
            if !(endpoint.for_zones.is_empty() && endpoint.for_nodes.is_empty()) {
                object["hints"] = json!({
                    "forZones": names(&endpoint.for_zones),
                    "forNodes": names(&endpoint.for_nodes),
                });
            }
            object
        });
        let mut object = json!({
            "metadata": {
                "namespace": "default",
                "name": name,
                "labels": {"kubernetes.io/service-name": self.service},
            },
            "addressType": if self.ipv6 { "IPv6" } else { "IPv4" },
            "endpoints": endpoints.collect::<Vec<_>>(),
            "ports": self.ports.iter().map(Port::object).collect::<Vec<_>>(),
        });
        if self.other_proxy {
            object["metadata"]["labels"]["service.kubernetes.io/service-proxy-name"] = "other".into();
        }
        object
    }
}

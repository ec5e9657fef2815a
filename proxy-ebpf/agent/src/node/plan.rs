//! What the network of a node should look like. Pure.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    str::FromStr,
};

use serde_json::json;

use super::Node;

/// What Ethernet carries; used when the node's own address is on no interface.
const DEFAULT_MTU: u32 = 1500;

/// A network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    /// Its first address.
    pub address: IpAddr,
    /// Length of its prefix in bits.
    pub prefix: u8,
}

/// A network that an interface of this node is directly on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnLink {
    /// The network.
    pub network: Cidr,
    /// This node's address in it.
    pub address: IpAddr,
    /// The interface.
    pub ifindex: u32,
    /// Largest packet that the interface sends, in bytes.
    pub mtu: u32,
}

/// A route to the pods of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The pods.
    pub destination: Cidr,
    /// The node.
    pub gateway: IpAddr,
    /// The interface that both nodes are on.
    pub ifindex: u32,
}

/// How to get from the routes that are to those that should be. Additions come first; one replaces a route to the same pods.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RouteChanges {
    /// Routes to add or replace.
    pub add: Vec<Route>,
    /// Routes to remove.
    pub remove: Vec<Route>,
}

/// The text of a string that is no network.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidCidr;

impl Cidr {
    /// The network of `prefix` bits that `address` is in; `None` if an address has fewer bits.
    pub fn of(address: IpAddr, prefix: u8) -> Option<Self> {
        let network = match address {
            IpAddr::V4(address) => {
                let host_bits = 32_u8.checked_sub(prefix)?;
                let mask = u32::MAX.checked_shl(u32::from(host_bits)).unwrap_or(0);
                Ipv4Addr::from_bits(address.to_bits() & mask).into()
            }
            IpAddr::V6(address) => {
                let host_bits = 128_u8.checked_sub(prefix)?;
                let mask = u128::MAX.checked_shl(u32::from(host_bits)).unwrap_or(0);
                Ipv6Addr::from_bits(address.to_bits() & mask).into()
            }
        };
        Some(Self {
            address: network,
            prefix,
        })
    }

    /// Whether `address` is in the network.
    pub fn contains(self, address: IpAddr) -> bool {
        self.address.is_ipv6() == address.is_ipv6() && Self::of(address, self.prefix) == Some(self)
    }
}

impl FromStr for Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        let (address, prefix) = text.split_once('/').ok_or(InvalidCidr)?;
        let address = address.parse().map_err(|_| InvalidCidr)?;
        Self::of(address, prefix.parse().map_err(|_| InvalidCidr)?).ok_or(InvalidCidr)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The configuration of `orlop-cni` on this node.
pub fn conflist(node: &Node, links: &[OnLink], data_dir: &Path) -> String {
    let ranges: Vec<_> = node.pod_cidrs.iter().map(Cidr::to_string).collect();
    // Pods' packets leave by the interface that has the node's address, unchanged in size.
    let own = links
        .iter()
        .filter(|link| node.internal_ips.contains(&link.address));
    let mtu = own.map(|link| link.mtu).min().unwrap_or(DEFAULT_MTU);
    let conflist = json!({
        "cniVersion": "1.0.0",
        "name": "orlop",
        "plugins": [{ "type": "orlop-cni", "dataDir": data_dir, "mtu": mtu, "ranges": ranges }],
    });
    format!("{conflist:#}\n")
}

/// Routes to the pods of every other node that is on a network with this one. Nodes beyond a router have none: they need a
/// tunnel or the router's help.
pub fn routes(own_name: &str, nodes: &HashMap<String, Node>, links: &[OnLink]) -> BTreeSet<Route> {
    let others = nodes
        .iter()
        .filter(|(name, _)| *name != own_name)
        .map(|(_, node)| node);
    let of_node = |node: &Node| {
        let routes = node.pod_cidrs.iter().filter_map(|&destination| {
            let of_family = node
                .internal_ips
                .iter()
                .filter(|ip| ip.is_ipv6() == destination.address.is_ipv6());
            let mut reachable = of_family.filter_map(|&gateway| {
                let link = links.iter().find(|link| link.network.contains(gateway))?;
                Some(Route {
                    destination,
                    gateway,
                    ifindex: link.ifindex,
                })
            });
            reachable.next()
        });
        routes.collect::<Vec<_>>()
    };
    others.flat_map(of_node).collect()
}

/// The difference between the routes that should be and those of ours that the kernel has.
pub fn changes(wanted: &BTreeSet<Route>, existing: &BTreeSet<Route>) -> RouteChanges {
    let replaced = |route: &Route| wanted.iter().any(|other| other.destination == route.destination);
    RouteChanges {
        add: wanted.difference(existing).copied().collect(),
        remove: existing
            .difference(wanted)
            .filter(|route| !replaced(route))
            .copied()
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect("a network")
    }

    fn node(pod_cidrs: &[&str], internal_ips: &[&str]) -> Node {
        Node {
            pod_cidrs: pod_cidrs.iter().map(|text| cidr(text)).collect(),
            internal_ips: internal_ips
                .iter()
                .map(|text| text.parse().expect("an address"))
                .collect(),
            ..Node::default()
        }
    }

    fn link(address: &str, prefix: u8, ifindex: u32, mtu: u32) -> OnLink {
        let address = address.parse().expect("an address");
        OnLink {
            network: Cidr::of(address, prefix).expect("a prefix"),
            address,
            ifindex,
            mtu,
        }
    }

    #[test]
    fn networks_are_parsed_and_contain_their_addresses() {
        assert_eq!(cidr("10.244.1.7/24").to_string(), "10.244.1.0/24");
        assert_eq!(cidr("fd00:10:244::9/64").to_string(), "fd00:10:244::/64");
        assert!(cidr("0.0.0.0/0").contains(IpAddr::from([203, 0, 113, 9])));
        assert!(!cidr("0.0.0.0/0").contains(IpAddr::from([0_u16; 8])));
        assert!(cidr("172.31.0.0/24").contains(IpAddr::from([172, 31, 0, 255])));
        assert!(!cidr("172.31.0.0/24").contains(IpAddr::from([172, 31, 1, 0])));
        for text in ["10.0.0.0", "10.0.0.0/33", "::/129", "10.0.0/8", "/8", ""] {
            assert_eq!(text.parse::<Cidr>(), Err(InvalidCidr), "{text}");
        }
    }

    #[test]
    fn the_configuration_names_ranges_and_mtu() {
        let own = node(
            &["10.244.0.0/24", "fd00:10:244::/64"],
            &["172.31.0.11", "fd00:31::11"],
        );
        let links = [link("172.31.0.11", 24, 2, 1450), link("192.168.9.9", 24, 3, 9000)];
        let text = conflist(&own, &links, Path::new("/var/lib/orlop-cni"));
        let parsed: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let expected = json!({
            "cniVersion": "1.0.0",
            "name": "orlop",
            "plugins": [{
                "type": "orlop-cni",
                "dataDir": "/var/lib/orlop-cni",
                "mtu": 1450,
                "ranges": ["10.244.0.0/24", "fd00:10:244::/64"],
            }],
        });
        assert_eq!(parsed, expected);
    }

    #[test]
    fn only_neighbours_get_routes() {
        let nodes = HashMap::from([
            ("own".to_owned(), node(&["10.244.0.0/24"], &["172.31.0.11"])),
            (
                "neighbour".to_owned(),
                node(
                    &["10.244.1.0/24", "fd00:10:244:1::/64"],
                    &["172.31.0.12", "fd00:31::12"],
                ),
            ),
            ("distant".to_owned(), node(&["10.244.2.0/24"], &["172.32.0.13"])),
            ("new".to_owned(), node(&[], &["172.31.0.14"])),
        ]);
        let links = [link("172.31.0.11", 24, 2, 1500), link("fd00:31::11", 64, 2, 1500)];
        let expected = BTreeSet::from([
            Route {
                destination: cidr("10.244.1.0/24"),
                gateway: [172, 31, 0, 12].into(),
                ifindex: 2,
            },
            Route {
                destination: cidr("fd00:10:244:1::/64"),
                gateway: "fd00:31::12".parse().expect("an address"),
                ifindex: 2,
            },
        ]);
        assert_eq!(routes("own", &nodes, &links), expected);
    }

    #[test]
    fn a_moved_node_replaces_its_route() {
        let route = |destination: &str, host| Route {
            destination: cidr(destination),
            gateway: [172, 31, 0, host].into(),
            ifindex: 2,
        };
        let existing = BTreeSet::from([
            route("10.244.1.0/24", 12),
            route("10.244.2.0/24", 13),
            route("10.244.3.0/24", 14),
        ]);
        let wanted = BTreeSet::from([route("10.244.1.0/24", 12), route("10.244.2.0/24", 99)]);
        let expected = RouteChanges {
            add: vec![route("10.244.2.0/24", 99)],
            remove: vec![route("10.244.3.0/24", 14)],
        };
        assert_eq!(changes(&wanted, &existing), expected);
    }
}

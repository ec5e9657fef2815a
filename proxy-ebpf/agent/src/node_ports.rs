//! At which addresses node ports are reached. Pure.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use thiserror::Error;

use crate::node::{Node, plan::Cidr};

/// Which of the nodes' addresses have node ports: the elements of `--nodeport-addresses`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// All that the Nodes name, and loopback.
    #[default]
    All,
    /// The first internal one of each family of each Node.
    Primary,
    /// Those within these networks.
    Within(Vec<Cidr>),
}

/// A flag that is neither `primary` nor networks.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "`{element}` is no network such as 10.0.0.0/8, nor `localhost` or `all`; nor is it `primary` on its own"
)]
pub struct InvalidNodePortAddresses {
    element: String,
}

impl FromStr for NodePortAddresses {
    type Err = InvalidNodePortAddresses;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" => Ok(Self::All),
            "primary" => Ok(Self::Primary),
            list => {
                let mut networks = Vec::new();
                for element in list.split(',') {
                    // The networks that upstream's keywords stand for.
                    let element = match element.trim() {
                        "all" => "0.0.0.0/0,::/0",
                        "localhost" => "127.0.0.0/8,::1/128",
                        network => network,
                    };
                    for network in element.split(',') {
                        networks.push(network.parse().map_err(|_| InvalidNodePortAddresses {
                            element: network.to_owned(),
                        })?);
                    }
                }
                Ok(Self::Within(networks))
            }
        }
    }
}

impl NodePortAddresses {
    /// The addresses. An unspecified one says that loopback has node ports.
    pub fn of<'a>(&self, nodes: impl IntoIterator<Item = &'a Node>) -> BTreeSet<IpAddr> {
        let nodes = nodes.into_iter();
        let all = |node: &'a Node| node.internal_ips.iter().chain(&node.external_ips).copied();
        let loopback = [
            (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            (IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        ];
        let mut addresses: BTreeSet<IpAddr> = match self {
            Self::All => nodes.flat_map(all).collect(),
            Self::Primary => nodes.flat_map(primary).collect(),
            Self::Within(_) => nodes.flat_map(all).filter(|ip| self.has(*ip)).collect(),
        };
        // What a Node claims to have may be anything; these would take over what belongs to every pod.
        addresses.retain(|ip| !ip.is_unspecified() && !ip.is_loopback());
        let loopback = loopback.into_iter().filter(|(ip, _)| self.has(*ip));
        addresses.extend(loopback.map(|(_, stands_for_it)| stands_for_it));
        addresses
    }

    fn has(&self, ip: IpAddr) -> bool {
        match self {
            Self::All => true,
            Self::Primary => false,
            Self::Within(networks) => networks.iter().any(|network| {
                network.address.is_ipv6() == ip.is_ipv6() && Cidr::of(ip, network.prefix) == Some(*network)
            }),
        }
    }
}

fn primary(node: &Node) -> impl Iterator<Item = IpAddr> {
    let first = |ipv6| {
        node.internal_ips
            .iter()
            .find(move |ip| ip.is_ipv6() == ipv6)
            .copied()
    };
    first(false).into_iter().chain(first(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts
            .iter()
            .map(|text| text.parse().expect("an address"))
            .collect()
    }

    #[test]
    fn addresses_are_chosen_by_kind_or_network() {
        let nodes = [
            Node {
                internal_ips: ips(&["172.31.0.11", "fd00:31::11", "192.168.0.11"]),
                external_ips: ips(&["203.0.113.1"]),
                ..Node::default()
            },
            Node {
                // The second is nonsense that somebody with access to a Node's status could write.
                internal_ips: ips(&["172.31.0.12", "127.0.0.1"]),
                ..Node::default()
            },
        ];
        let rows: [(&str, &[&str]); 6] = [
            (
                "",
                &[
                    "0.0.0.0",
                    "172.31.0.11",
                    "172.31.0.12",
                    "192.168.0.11",
                    "203.0.113.1",
                    "::",
                    "fd00:31::11",
                ],
            ),
            ("primary", &["172.31.0.11", "172.31.0.12", "fd00:31::11"]),
            ("172.31.0.0/16", &["172.31.0.11", "172.31.0.12"]),
            ("127.0.0.0/8,fd00::/8", &["0.0.0.0", "fd00:31::11"]),
            ("::/0", &["::", "fd00:31::11"]),
            ("localhost, 203.0.113.0/24", &["0.0.0.0", "203.0.113.1", "::"]),
        ];
        for (flag, expected) in rows {
            let chosen: NodePortAddresses = flag.parse().expect("a valid flag");
            let addresses: Vec<_> = chosen.of(&nodes).into_iter().collect();
            assert_eq!(addresses, ips(expected), "{flag}");
        }
        let of = |flag: &str| {
            flag.parse::<NodePortAddresses>()
                .expect("a valid flag")
                .of(&nodes)
        };
        assert_eq!(of("all"), of(""));
        for flag in ["172.31.0.11", "172.31.0.0/33", "primary,10.0.0.0/8", ","] {
            assert!(flag.parse::<NodePortAddresses>().is_err(), "{flag}");
        }
    }
}

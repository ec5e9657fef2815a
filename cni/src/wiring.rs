//! Which changes make a pod's network. Pure: no I/O, no clock; the same attachment always gets the same plan.
//!
//! A pod hangs on a pair of devices (veth or netkit) and is reached by routes alone, so there is no bridge to share and
//! nothing that one pod could spoil for another:
//!
//! ```text
//!   pod                                         node
//!   eth0 10.244.0.5/32                          orl3f9… (no IPv4 address)
//!   default via 169.254.1.1 onlink              10.244.0.5/32 dev orl3f9… scope link
//!   169.254.1.1 dev eth0 scope link             10.244.0.5 lladdr <pod MAC> permanent
//!   169.254.1.1 lladdr <host MAC> permanent
//! ```
//!
//! Both MAC addresses follow from the attachment, as does the host end's name. Thus the neighbours can be planned before
//! the pair exists, no ARP or neighbour discovery delays the first packet, udev has no reason to change an address,
//! and DEL finds the interface even when every record is lost.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::request::AttachmentId;
use crate::runtime_config::{RuntimeConfig, Shape};

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// A unicast, locally administered address made of these bytes.
    fn local(bytes: &[u8]) -> Self {
        Mac([
            (bytes[0] & 0xfc) | 0x02,
            bytes[1],
            bytes[2],
            bytes[3],
            bytes[4],
            bytes[5],
        ])
    }
}

impl FromStr for Mac {
    type Err = ();

    /// Six pairs of hexadecimal digits. Addresses that no interface can have are refused: groups, and all zeros.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut bytes = [0; 6];
        let mut pairs = text.split(':');
        for byte in &mut bytes {
            let pair = pairs.next().filter(|pair| pair.len() == 2).ok_or(())?;
            hex::decode_to_slice(pair, std::slice::from_mut(byte)).map_err(|_| ())?;
        }
        match pairs.next() {
            None if bytes[0] & 1 == 0 && bytes != [0; 6] => Ok(Mac(bytes)),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A pair of devices; the pod end is made inside the pod's namespace at once, under its final name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The name on the node.
    pub host_name: String,
    /// The node end's address: the pod's gateway.
    pub host_mac: Mac,
    /// `CNI_IFNAME`.
    pub pod_name: String,
    /// The pod end's address.
    pub pod_mac: Mac,
    /// Of both ends.
    pub mtu: u32,
}

impl Pair {
    /// The pair of an attachment.
    pub fn new(id: &AttachmentId, mtu: u32) -> Self {
        let digest = digest(id);
        Pair {
            host_name: host_name(id),
            host_mac: Mac::local(&digest[8..14]),
            pod_name: id.ifname.clone(),
            pod_mac: Mac::local(&digest[16..22]),
            mtu,
        }
    }
}

/// The node end's name: 44 bits of the attachment's hash fit into the 15 characters that the kernel allows.
pub fn host_name(id: &AttachmentId) -> String {
    format!("orl{}", &hex::encode(&digest(id)[..6])[..11])
}

fn digest(id: &AttachmentId) -> [u8; 32] {
    // Neither part can contain a zero byte: different pairs never have the same input.
    Sha256::new()
        .chain_update(&id.container_id)
        .chain_update([0])
        .chain_update(&id.ifname)
        .finalize()
        .into()
}

/// The address by which a pod reaches everything else.
pub fn gateway(ipv6: bool) -> IpAddr {
    if ipv6 {
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into()
    } else {
        Ipv4Addr::new(169, 254, 1, 1).into()
    }
}

/// One change to an interface or its namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A file below `/proc/sys/net`.
    Sysctl {
        /// Relative to `/proc/sys/net`.
        path: String,
        /// What it has to hold.
        value: &'static str,
    },
    /// Raise `lo`.
    LoopbackUp,
    /// The interface makes no IPv6 link-local address of its own.
    NoLinkLocal,
    /// Raise the interface.
    Up,
    /// An address on the interface, without duplicate address detection and without a route to its prefix.
    Address(IpAddr, u8),
    /// A permanent neighbour on the interface.
    Neighbour(IpAddr, Mac),
    /// A route to one address, straight out of the interface.
    HostRoute(IpAddr),
    /// The default route by this gateway, which is taken to be on the interface whatever the addresses say.
    DefaultRoute(IpAddr),
    /// A token bucket for what the interface sends.
    Shape(Shape),
}

impl Change {
    /// Whether this, as observed, is what was planned. The kernel rounds a bucket's burst to its clock.
    fn fulfils(&self, planned: &Change) -> bool {
        match (self, planned) {
            (Change::Shape(own), Change::Shape(planned)) => own.rate_bytes == planned.rate_bytes,
            _ => self == planned,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Sysctl { path, value } => write!(f, "sysctl net/{path}={value}"),
            Change::LoopbackUp => f.write_str("lo up"),
            Change::NoLinkLocal => f.write_str("no automatic link-local address"),
            Change::Up => f.write_str("up"),
            Change::Address(address, prefix) => write!(f, "address {address}/{prefix}"),
            Change::Neighbour(address, mac) => write!(f, "neighbour {address} at {mac}"),
            Change::HostRoute(address) => write!(f, "route to {address}"),
            Change::DefaultRoute(gateway) => write!(f, "default route via {gateway}"),
            Change::Shape(Shape {
                rate_bytes,
                burst_bytes,
            }) => write!(f, "{rate_bytes} bytes/s with bursts of {burst_bytes} bytes"),
        }
    }
}

/// All changes that attach one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wiring {
    /// The pair.
    pub pair: Pair,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// Switches of the node's namespace, needed once.
    pub node: Vec<Change>,
    /// Changes to the node end, in order.
    pub host: Vec<Change>,
    /// Changes to the pod end, in order.
    pub pod: Vec<Change>,
}

impl Wiring {
    /// Plans an attachment with these addresses, at most one per family.
    pub fn new(id: &AttachmentId, mtu: u32, addresses: &[IpAddr], runtime: &RuntimeConfig) -> Self {
        let mut pair = Pair::new(id, mtu);
        pair.pod_mac = runtime.mac.unwrap_or(pair.pod_mac);
        let ipv6 = addresses.iter().any(IpAddr::is_ipv6);
        let ipv4 = addresses.iter().any(IpAddr::is_ipv4);
        let sysctl = |path: String, value| Change::Sysctl { path, value };
        let of = |family: &str, interface: &str, key: &str| format!("{family}/conf/{interface}/{key}");

        let mut node = Vec::new();
        if ipv4 {
            node.push(sysctl("ipv4/ip_forward".to_owned(), "1"));
        }
        if ipv6 {
            node.push(sysctl(of("ipv6", "all", "forwarding"), "1"));
        }

        let mut host = Vec::new();
        if ipv4 {
            // The route to the pod is its reverse path too; a strict check could only lose packets that a service
            // translation sends round another way.
            host.push(sysctl(of("ipv4", &pair.host_name, "rp_filter"), "0"));
        }
        if ipv6 {
            host.push(sysctl(of("ipv6", &pair.host_name, "disable_ipv6"), "0"));
            host.push(sysctl(of("ipv6", &pair.host_name, "accept_ra"), "0"));
            host.push(Change::NoLinkLocal);
        }
        host.push(Change::Up);
        // Before there is a route, which tells the data plane of the pod: it sends packets past the node's end where that has no
        // bucket.
        host.extend(runtime.ingress.map(Change::Shape));
        if ipv6 {
            host.push(Change::Address(gateway(true), 64));
        }
        for &address in addresses {
            host.push(Change::Neighbour(address, pair.pod_mac));
            host.push(Change::HostRoute(address));
        }

        let mut pod = Vec::new();
        if ipv6 {
            pod.push(sysctl(of("ipv6", &pair.pod_name, "disable_ipv6"), "0"));
            pod.push(sysctl(of("ipv6", &pair.pod_name, "accept_ra"), "0"));
            // Nobody else can be on the link: the link-local address is usable at once too.
            pod.push(sysctl(of("ipv6", &pair.pod_name, "accept_dad"), "0"));
        }
        pod.push(Change::LoopbackUp);
        pod.push(Change::Up);
        for &address in addresses {
            pod.push(Change::Address(address, if address.is_ipv6() { 128 } else { 32 }));
        }
        for &address in addresses {
            let gateway = gateway(address.is_ipv6());
            pod.push(Change::Neighbour(gateway, pair.host_mac));
            if gateway.is_ipv4() {
                // For others who add routes by the gateway and do not say that it is on the link, such as plugins that follow.
                pod.push(Change::HostRoute(gateway));
            }
            pod.push(Change::DefaultRoute(gateway));
        }
        // What goes to the pod is sent by the node's end, and what comes from it by its own. The latter is inside the pod's
        // namespace, out of reach for all but privileged containers; in exchange no third device is needed, and whatever
        // programs do with the packet on the node, it has passed the bucket.
        pod.extend(runtime.egress.map(Change::Shape));
        Wiring {
            pair,
            addresses: addresses.to_vec(),
            node,
            host,
            pod,
        }
    }
}

/// What the kernel reports of one interface, in the words of the plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Changes that are in effect.
    pub in_effect: Vec<Change>,
}

impl Observed {
    /// What of the plan is not in effect. Switches are left out: plugins later in the chain may set their own.
    pub fn missing<'a>(&self, planned: &'a [Change]) -> Vec<&'a Change> {
        planned
            .iter()
            .filter(|change| {
                !matches!(
                    change,
                    Change::Sysctl { .. } | Change::NoLinkLocal | Change::LoopbackUp
                )
            })
            .filter(|change| !self.in_effect.iter().any(|other| other.fulfils(change)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(container_id: &str, ifname: &str) -> AttachmentId {
        AttachmentId {
            container_id: container_id.into(),
            ifname: ifname.into(),
        }
    }

    fn lines(changes: &[Change]) -> String {
        changes.iter().map(|change| format!("{change}\n")).collect()
    }

    #[test]
    fn plan_dual_stack() {
        let plan = Wiring::new(
            &id("abc", "eth0"),
            1500,
            &["10.244.0.5".parse().unwrap(), "fd00::5".parse().unwrap()],
            &RuntimeConfig::default(),
        );
        let Pair {
            host_name,
            host_mac,
            pod_mac,
            ..
        } = &plan.pair;
        assert_eq!(
            lines(&plan.node),
            "sysctl net/ipv4/ip_forward=1\nsysctl net/ipv6/conf/all/forwarding=1\n"
        );
        assert_eq!(
            lines(&plan.host),
            format!(
                "sysctl net/ipv4/conf/{host_name}/rp_filter=0\n\
                 sysctl net/ipv6/conf/{host_name}/disable_ipv6=0\n\
                 sysctl net/ipv6/conf/{host_name}/accept_ra=0\n\
                 no automatic link-local address\n\
                 up\n\
                 address fe80::1/64\n\
                 neighbour 10.244.0.5 at {pod_mac}\n\
                 route to 10.244.0.5\n\
                 neighbour fd00::5 at {pod_mac}\n\
                 route to fd00::5\n"
            )
        );
        assert_eq!(
            lines(&plan.pod),
            format!(
                "sysctl net/ipv6/conf/eth0/disable_ipv6=0\n\
                 sysctl net/ipv6/conf/eth0/accept_ra=0\n\
                 sysctl net/ipv6/conf/eth0/accept_dad=0\n\
                 lo up\n\
                 up\n\
                 address 10.244.0.5/32\n\
                 address fd00::5/128\n\
                 neighbour 169.254.1.1 at {host_mac}\n\
                 route to 169.254.1.1\n\
                 default route via 169.254.1.1\n\
                 neighbour fe80::1 at {host_mac}\n\
                 default route via fe80::1\n"
            )
        );
    }

    #[test]
    fn plan_of_one_family_leaves_the_other_alone() {
        let v4 = Wiring::new(
            &id("abc", "eth0"),
            1500,
            &["10.244.0.5".parse().unwrap()],
            &RuntimeConfig::default(),
        );
        let v6 = Wiring::new(
            &id("abc", "eth0"),
            1500,
            &["fd00::5".parse().unwrap()],
            &RuntimeConfig::default(),
        );
        let text = |plan: &Wiring| lines(&plan.node) + &lines(&plan.host) + &lines(&plan.pod);
        assert!(
            !text(&v4).contains("ipv6") && !text(&v4).contains("fe80"),
            "{}",
            text(&v4)
        );
        assert!(
            !text(&v6).contains("ipv4") && !text(&v6).contains("169.254"),
            "{}",
            text(&v6)
        );
    }

    #[test]
    fn names_and_addresses_follow_from_the_attachment() {
        let a = Pair::new(&id("abc", "eth0"), 1500);
        assert_eq!(a, Pair::new(&id("abc", "eth0"), 1500));
        assert_eq!(a.host_name.len(), 14);
        assert!(a.host_name.starts_with("orl"));
        assert_ne!(a.host_mac, a.pod_mac);
        for mac in [a.host_mac, a.pod_mac] {
            assert_eq!(
                mac.0[0] & 0x03,
                0x02,
                "{mac} must be unicast and locally administered"
            );
        }
        for other in [id("abc", "eth1"), id("abce", "th0"), id("abd", "eth0")] {
            assert_ne!(a.host_name, host_name(&other));
        }
    }

    #[test]
    fn missing_lists_what_is_not_in_effect() {
        let plan = Wiring::new(
            &id("abc", "eth0"),
            1500,
            &["10.244.0.5".parse().unwrap()],
            &RuntimeConfig::default(),
        );
        let mut observed = Observed {
            in_effect: plan.pod.clone(),
        };
        assert!(observed.missing(&plan.pod).is_empty());
        observed
            .in_effect
            .retain(|change| !matches!(change, Change::DefaultRoute(_)));
        assert_eq!(
            observed.missing(&plan.pod),
            [&Change::DefaultRoute(gateway(false))]
        );
    }

    #[test]
    fn the_runtime_may_choose_the_address_and_the_speed() {
        let shape = |rate_bytes| Shape {
            rate_bytes,
            burst_bytes: 5000,
        };
        let runtime = RuntimeConfig {
            mac: Some("02:00:5e:10:00:01".parse().unwrap()),
            ingress: Some(shape(1000)),
            egress: Some(shape(2000)),
            ..RuntimeConfig::default()
        };
        let plan = Wiring::new(
            &id("abc", "eth0"),
            1500,
            &["10.244.0.5".parse().unwrap()],
            &runtime,
        );
        assert_eq!(plan.pair.pod_mac.to_string(), "02:00:5e:10:00:01");
        assert!(lines(&plan.host).contains("neighbour 10.244.0.5 at 02:00:5e:10:00:01"));
        let host = lines(&plan.host);
        assert!(
            host.contains("up\n1000 bytes/s with bursts of 5000 bytes\nneighbour"),
            "{host}"
        );
        assert!(lines(&plan.pod).ends_with("2000 bytes/s with bursts of 5000 bytes\n"));
        let rounded = Shape {
            burst_bytes: 4999,
            ..shape(2000)
        };
        assert!(Change::Shape(rounded).fulfils(&Change::Shape(shape(2000))));
        assert!(!Change::Shape(rounded).fulfils(&Change::Shape(shape(2001))));
    }

    #[test]
    fn ethernet_addresses_are_parsed_strictly() {
        assert_eq!("02:00:5e:10:00:ff".parse(), Ok(Mac([2, 0, 0x5e, 0x10, 0, 255])));
        for text in [
            "",
            "02:00:5e:10:00",
            "02:00:5e:10:00:01:02",
            "2:0:5e:10:0:1",
            "02:00:5e:10:00:0g",
            "00:00:00:00:00:00",
        ] {
            assert_eq!(text.parse::<Mac>(), Err(()), "{text}");
        }
    }
}

//! Packets as plain values: written with every checksum computed from scratch, read with every one verified.
//!
//! Nothing here is shared with the programs under test, which only ever correct checksums by what changed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const ETHERNET: usize = 14;
pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 1 << 1;
pub(crate) const RST: u8 = 1 << 2;
pub(crate) const ACK: u8 = 1 << 4;

/// An Ethernet frame with a packet of either family. The identifier of an ICMP echo is the port of whoever asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) ttl: u8,
    pub(crate) body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Tcp {
        flags: u8,
        sequence: u32,
        acknowledged: u32,
        data: Vec<u8>,
    },
    Udp {
        /// IPv4 allows to do without.
        checksum: bool,
        data: Vec<u8>,
    },
    Sctp {
        /// The verification tag.
        tag: [u8; 4],
        /// The chunks.
        data: Vec<u8>,
    },
    Echo {
        reply: bool,
        data: Vec<u8>,
    },
    /// An ICMP error; `inner` is the packet that it is about, or the beginning of it, from its IP header on.
    Error {
        kind: u8,
        code: u8,
        rest: u32,
        inner: Vec<u8>,
    },
}

impl Packet {
    pub(crate) fn new(source: &str, destination: &str, body: Body) -> Self {
        let address = |text: &str| text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        Self {
            source: address(source),
            destination: address(destination),
            ttl: 64,
            body,
        }
    }

    pub(crate) fn tcp(source: &str, destination: &str, flags: u8) -> Self {
        let body = Body::Tcp {
            flags,
            sequence: 1000,
            acknowledged: if flags & ACK == 0 { 0 } else { 2000 },
            data: Vec::new(),
        };
        Self::new(source, destination, body)
    }

    pub(crate) fn udp(source: &str, destination: &str) -> Self {
        let body = Body::Udp {
            checksum: true,
            data: b"hello".to_vec(),
        };
        Self::new(source, destination, body)
    }

    /// What this becomes with other addresses, forwarded `hops` times.
    pub(crate) fn translated(&self, source: &str, destination: &str, hops: u8) -> Self {
        let mut packet = Self::new(source, destination, self.body.clone());
        packet.ttl = self.ttl - hops;
        packet
    }

    fn protocol(&self) -> u8 {
        match (&self.body, self.source) {
            (Body::Tcp { .. }, _) => 6,
            (Body::Udp { .. }, _) => 17,
            (Body::Sctp { .. }, _) => 132,
            (_, SocketAddr::V4(_)) => 1,
            (_, SocketAddr::V6(_)) => 58,
        }
    }

    /// The frame, with an Ethernet header of zeros.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut frame = vec![0; ETHERNET - 2];
        frame.extend(if self.source.is_ipv4() {
            [0x08, 0x00]
        } else {
            [0x86, 0xdd]
        });
        frame.extend(self.ip_bytes());
        frame
    }

    /// The packet from its IP header on.
    pub(crate) fn ip_bytes(&self) -> Vec<u8> {
        let transport = self.transport_bytes();
        let mut packet = header(
            self.source.ip(),
            self.destination.ip(),
            self.protocol(),
            self.ttl,
            transport.len(),
            0,
            0,
        );
        packet.extend(transport);
        packet
    }

    /// The packet in two IPv4 or IPv6 fragments, the first with `split` bytes of the transport layer.
    pub(crate) fn fragments(&self, id: u16, split: usize) -> [Vec<u8>; 2] {
        assert_eq!(split % 8, 0, "fragments begin at multiples of eight");
        let transport = self.transport_bytes();
        let fragment = |offset: usize, data: &[u8], more: bool| {
            let mut frame = vec![0; ETHERNET - 2];
            let (source, destination) = (self.source.ip(), self.destination.ip());
            if source.is_ipv4() {
                frame.extend([0x08, 0x00]);
                let field = (offset / 8) as u16 | if more { 0x2000 } else { 0 };
                frame.extend(header(
                    source,
                    destination,
                    self.protocol(),
                    self.ttl,
                    data.len(),
                    id,
                    field,
                ));
            } else {
                frame.extend([0x86, 0xdd]);
                frame.extend(header(source, destination, 44, self.ttl, data.len() + 8, 0, 0));
                frame.extend([self.protocol(), 0]);
                frame.extend((offset as u16 | u16::from(more)).to_be_bytes());
                frame.extend(u32::from(id).to_be_bytes());
            }
            frame.extend(data);
            frame
        };
        [
            fragment(0, &transport[..split], true),
            fragment(split, &transport[split..], false),
        ]
    }

    fn transport_bytes(&self) -> Vec<u8> {
        let (from, to) = (
            self.source.port().to_be_bytes(),
            self.destination.port().to_be_bytes(),
        );
        let mut bytes = Vec::new();
        let checksum_at = match &self.body {
            Body::Tcp {
                flags,
                sequence,
                acknowledged,
                data,
            } => {
                bytes.extend([from, to].concat());
                bytes.extend(sequence.to_be_bytes());
                bytes.extend(acknowledged.to_be_bytes());
                bytes.extend([
                    5 << 4,
                    *flags,
                    if *flags & RST == 0 { 0xff } else { 0 },
                    0,
                    0,
                    0,
                    0,
                    0,
                ]);
                bytes.extend(data);
                16
            }
            Body::Udp { data, .. } => {
                bytes.extend([from, to, (data.len() as u16 + 8).to_be_bytes(), [0; 2]].concat());
                bytes.extend(data);
                6
            }
            Body::Sctp { tag, data } => {
                bytes.extend([from, to].concat());
                bytes.extend(tag);
                bytes.extend([0; 4]);
                bytes.extend(data);
                let crc = crc32c(&bytes).to_le_bytes();
                bytes[8..12].copy_from_slice(&crc);
                return bytes;
            }
            Body::Echo { reply, data } => {
                let kind = match (self.source, reply) {
                    (SocketAddr::V4(_), false) => 8,
                    (SocketAddr::V4(_), true) => 0,
                    (SocketAddr::V6(_), false) => 128,
                    (SocketAddr::V6(_), true) => 129,
                };
                bytes.extend([kind, 0, 0, 0]);
                bytes.extend(if *reply { to } else { from });
                bytes.extend([0, 1]);
                bytes.extend(data);
                2
            }
            Body::Error {
                kind,
                code,
                rest,
                inner,
            } => {
                bytes.extend([*kind, *code, 0, 0]);
                bytes.extend(rest.to_be_bytes());
                bytes.extend(inner);
                2
            }
        };
        if matches!(self.body, Body::Udp { checksum: false, .. }) {
            return bytes;
        }
        let seed = self.pseudo_header(bytes.len());
        let mut checksum = checksum(&[&seed, &bytes]);
        if checksum == 0 && matches!(self.body, Body::Udp { .. }) {
            checksum = u16::MAX;
        }
        bytes[checksum_at..checksum_at + 2].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    fn pseudo_header(&self, length: usize) -> Vec<u8> {
        pseudo_header(self.source.ip(), self.destination.ip(), self.protocol(), length)
    }

    /// Reads a frame.
    #[track_caller]
    pub(crate) fn read(frame: &[u8]) -> Self {
        let (source, destination, protocol, ttl, transport) = read_header(&frame[ETHERNET..]);
        Self::read_transport(source, destination, protocol, ttl, transport)
    }

    /// Puts together two fragments that [`Self::fragments`] has made of a packet.
    #[track_caller]
    pub(crate) fn reassemble(fragments: [&[u8]; 2]) -> Self {
        let [first, second] = fragments.map(|frame| read_header(&frame[ETHERNET..]));
        assert_eq!(
            (first.0, first.1),
            (second.0, second.1),
            "fragments have the same addresses"
        );
        let (protocol, skip) = if first.2 == 44 {
            (first.4[0], 8)
        } else {
            (first.2, 0)
        };
        let transport = [&first.4[skip..], &second.4[skip..]].concat();
        Self::read_transport(first.0, first.1, protocol, first.3, &transport)
    }

    #[track_caller]
    fn read_transport(source: IpAddr, destination: IpAddr, protocol: u8, ttl: u8, bytes: &[u8]) -> Self {
        let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let long = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let absent = protocol == 17 && source.is_ipv4() && word(6) == 0;
        if protocol != 132 && !absent {
            let seed = pseudo_header(source, destination, protocol, bytes.len());
            let seed: &[u8] = if protocol == 1 { &[] } else { &seed };
            assert_eq!(
                checksum(&[seed, bytes]),
                0,
                "the checksum of protocol {protocol} in {bytes:02x?}"
            );
        }
        let mut ports = (word(0), word(2));
        let body = match protocol {
            6 => Body::Tcp {
                flags: bytes[13],
                sequence: long(4),
                acknowledged: long(8),
                data: bytes[usize::from(bytes[12] >> 4) * 4..].to_vec(),
            },
            17 => Body::Udp {
                checksum: !absent,
                data: bytes[8..].to_vec(),
            },
            132 => {
                let mut without = bytes.to_vec();
                without[8..12].fill(0);
                assert_eq!(crc32c(&without).to_le_bytes(), bytes[8..12], "SCTP's checksum");
                Body::Sctp {
                    tag: [bytes[4], bytes[5], bytes[6], bytes[7]],
                    data: bytes[12..].to_vec(),
                }
            }
            1 | 58 => match bytes[0] {
                8 | 128 | 0 | 129 => {
                    let reply = matches!(bytes[0], 0 | 129);
                    ports = if reply { (0, word(4)) } else { (word(4), 0) };
                    Body::Echo {
                        reply,
                        data: bytes[8..].to_vec(),
                    }
                }
                kind => {
                    ports = (0, 0);
                    Body::Error {
                        kind,
                        code: bytes[1],
                        rest: long(4),
                        inner: bytes[8..].to_vec(),
                    }
                }
            },
            protocol => panic!("protocol {protocol}"),
        };
        Self {
            source: SocketAddr::new(source, ports.0),
            destination: SocketAddr::new(destination, ports.1),
            ttl,
            body,
        }
    }
}

/// An IP header. `fragment` is IPv4's field of flags and offset.
fn header(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    ttl: u8,
    length: usize,
    id: u16,
    fragment: u16,
) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = vec![0x45, 0];
            header.extend((length as u16 + 20).to_be_bytes());
            header.extend(id.to_be_bytes());
            header.extend(fragment.to_be_bytes());
            header.extend([ttl, protocol, 0, 0]);
            header.extend(source.octets());
            header.extend(destination.octets());
            let checksum = checksum(&[&header]).to_be_bytes();
            header[10..12].copy_from_slice(&checksum);
            header
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend((length as u16).to_be_bytes());
            header.extend([protocol, ttl]);
            header.extend(source.octets());
            header.extend(destination.octets());
            header
        }
        addresses => panic!("{addresses:?} are of two families"),
    }
}

/// Addresses, protocol, TTL and what follows the header.
#[track_caller]
fn read_header(packet: &[u8]) -> (IpAddr, IpAddr, u8, u8, &[u8]) {
    if packet[0] >> 4 == 4 {
        assert_eq!(checksum(&[&packet[..20]]), 0, "the checksum of the IPv4 header");
        let address =
            |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).expect("four bytes"));
        let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
        assert_eq!(length, packet.len(), "the length in the IPv4 header");
        (
            address(12).into(),
            address(16).into(),
            packet[9],
            packet[8],
            &packet[20..],
        )
    } else {
        let address =
            |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).expect("sixteen bytes"));
        let length = usize::from(u16::from_be_bytes([packet[4], packet[5]]));
        assert_eq!(length + 40, packet.len(), "the length in the IPv6 header");
        (
            address(8).into(),
            address(24).into(),
            packet[6],
            packet[7],
            &packet[40..],
        )
    }
}

fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    if protocol == 1 {
        return Vec::new();
    }
    let mut bytes = Vec::new();
    for address in [source, destination] {
        match address {
            IpAddr::V4(address) => bytes.extend(address.octets()),
            IpAddr::V6(address) => bytes.extend(address.octets()),
        }
    }
    bytes.extend((length as u32).to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes
}

/// The Internet's checksum of the parts, all but the last of which have an even length.
pub(crate) fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn crc32c(data: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 0 {
                crc >> 1
            } else {
                (crc >> 1) ^ 0x82f6_3b78
            };
        }
    }
    !crc
}

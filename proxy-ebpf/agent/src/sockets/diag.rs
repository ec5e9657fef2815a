//! The kernel's list of datagram sockets, by netlink: `NETLINK_SOCK_DIAG` of `linux/inet_diag.h`.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use proxy_ebpf_common::Protocol;

use crate::desired::SocketAddress;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;

/// Connected datagram sockets have the state of established connections; others are in `TCP_CLOSE`.
const ESTABLISHED: u8 = 1;

const HEADER: usize = 16;
/// What precedes the identity in `inet_diag_msg`.
const BEFORE_ID: usize = 4;
const ID: usize = 48;
/// The kernel sends no longer messages for a dump.
const MESSAGE_BYTES_MAX: usize = 32 * 1024;

/// A connected datagram socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Connected {
    family: u8,
    /// `inet_diag_sockid`, which the kernel wants back as it gave it.
    id: [u8; ID],
}

impl Connected {
    /// What it is connected to.
    pub(super) fn peer(&self) -> SocketAddress {
        let address: [u8; 16] = self.bytes(20);
        let address = if i32::from(self.family) == libc::AF_INET {
            Ipv4Addr::new(address[0], address[1], address[2], address[3]).into()
        } else {
            // A dual-stack socket that is connected to an IPv4 address.
            IpAddr::V6(Ipv6Addr::from(address)).to_canonical()
        };
        SocketAddress {
            address,
            port: u16::from_be_bytes(self.bytes(2)),
            protocol: Protocol::UDP,
        }
    }

    /// The number that programs know it by; low word first, as in the maps.
    pub(super) fn cookie(&self) -> [u32; 2] {
        [
            u32::from_ne_bytes(self.bytes(40)),
            u32::from_ne_bytes(self.bytes(44)),
        ]
    }

    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.id[at..at + N]);
        bytes
    }
}

/// A netlink socket of the namespace that it was opened in.
pub(super) struct Diag(OwnedFd);

impl Diag {
    pub(super) fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkSockDiag,
        )?;
        Ok(Self(socket))
    }

    /// All connected datagram sockets.
    pub(super) fn connected(&self) -> io::Result<Vec<Connected>> {
        let mut sockets = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            self.send(&request(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family as u8, &[0; ID]))?;
            while self.receive(&mut sockets)? == Answer::More {}
        }
        Ok(sockets)
    }

    /// Aborts a socket. `false`: it was gone already.
    pub(super) fn destroy(&self, socket: &Connected) -> io::Result<bool> {
        self.send(&request(SOCK_DESTROY, NLM_F_ACK, socket.family, &socket.id))?;
        match self.receive(&mut Vec::new()) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn send(&self, request: &[u8]) -> io::Result<()> {
        send(self.0.as_raw_fd(), request, MsgFlags::empty())?;
        Ok(())
    }

    fn receive(&self, sockets: &mut Vec<Connected>) -> io::Result<Answer> {
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        let length = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        parse(&buffer[..length], sockets)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    More,
    Complete,
}

/// A header and an `inet_diag_req_v2`.
fn request(kind: u16, flags: u16, family: u8, id: &[u8; ID]) -> Vec<u8> {
    let mut request = Vec::with_capacity(HEADER + 8 + ID);
    request.extend(((HEADER + 8 + ID) as u32).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    // Sequence and port: one question at a time on a socket of its own.
    request.extend([0; 8]);
    request.extend([family, Protocol::UDP.0, 0, 0]);
    request.extend((1_u32 << ESTABLISHED).to_ne_bytes());
    request.extend(id);
    request
}

/// Takes in the messages of one datagram of the kernel.
fn parse(mut messages: &[u8], sockets: &mut Vec<Connected>) -> io::Result<Answer> {
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "a netlink message is cut short");
    while !messages.is_empty() {
        let header = messages.first_chunk::<HEADER>().ok_or_else(broken)?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let body = messages.get(HEADER..length).ok_or_else(broken)?;
        match kind {
            NLMSG_DONE => return Ok(Answer::Complete),
            NLMSG_ERROR => {
                let code = body.first_chunk::<4>().ok_or_else(broken)?;
                return match i32::from_ne_bytes(*code) {
                    0 => Ok(Answer::Complete),
                    code => Err(io::Error::from_raw_os_error(-code)),
                };
            }
            _ => {
                let fields = body.first_chunk::<{ BEFORE_ID + ID }>().ok_or_else(broken)?;
                let mut id = [0; ID];
                id.copy_from_slice(&fields[BEFORE_ID..]);
                // Kernels may list more than was asked for.
                if fields[1] == ESTABLISHED {
                    sockets.push(Connected {
                        family: fields[0],
                        id,
                    });
                }
            }
        }
        messages = messages.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(Answer::More)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut message = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(body);
        message
    }

    fn socket(family: i32, state: u8, port: u16, address: &[u8]) -> Vec<u8> {
        let mut body = vec![family as u8, state, 0, 0];
        body.extend(40000_u16.to_be_bytes());
        body.extend(port.to_be_bytes());
        body.extend([0; 16]);
        body.extend(address);
        body.resize(BEFORE_ID + 36, 0);
        body.extend(0_u32.to_ne_bytes());
        body.extend(7_u32.to_ne_bytes());
        body.extend(9_u32.to_ne_bytes());
        body.extend([0; 20]);
        message(SOCK_DIAG_BY_FAMILY, &body)
    }

    #[test]
    fn sockets_are_read_with_peer_and_cookie() {
        let mapped = Ipv4Addr::new(10, 0, 0, 2).to_ipv6_mapped().octets();
        let v6: Ipv6Addr = "fd00::1".parse().expect("an address");
        let mut messages = socket(libc::AF_INET, ESTABLISHED, 53, &[10, 0, 0, 1]);
        messages.extend(socket(libc::AF_INET, 7, 53, &[10, 0, 0, 9]));
        messages.extend(socket(libc::AF_INET6, ESTABLISHED, 53, &mapped));
        messages.extend(socket(libc::AF_INET6, ESTABLISHED, 54, &v6.octets()));
        let mut sockets = Vec::new();
        assert_eq!(parse(&messages, &mut sockets).expect("well formed"), Answer::More);
        let peers: Vec<_> = sockets.iter().map(|socket| socket.peer().to_string()).collect();
        assert_eq!(peers, ["10.0.0.1:53/UDP", "10.0.0.2:53/UDP", "[fd00::1]:54/UDP"]);
        assert!(sockets.iter().all(|socket| socket.cookie() == [7, 9]));
    }

    #[test]
    fn the_end_and_errors_are_told_apart() {
        let parse = |messages: &[u8]| parse(messages, &mut Vec::new());
        assert_eq!(
            parse(&message(NLMSG_DONE, &[0; 4])).expect("the end"),
            Answer::Complete
        );
        assert_eq!(
            parse(&message(NLMSG_ERROR, &[0; 20])).expect("an acknowledgement"),
            Answer::Complete
        );
        let error = parse(&message(NLMSG_ERROR, &(-libc::ENOENT).to_ne_bytes())).expect_err("an error");
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }

    #[test]
    fn every_prefix_of_an_answer_is_an_error_or_an_answer() {
        let answer = socket(libc::AF_INET, ESTABLISHED, 53, &[10, 0, 0, 1]);
        for length in 1..answer.len() {
            assert!(parse(&answer[..length], &mut Vec::new()).is_err(), "{length}");
        }
        // A length that would lead nowhere.
        let mut endless = answer;
        endless[..4].copy_from_slice(&0_u32.to_ne_bytes());
        assert!(parse(&endless, &mut Vec::new()).is_err());
    }
}

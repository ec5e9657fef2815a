//! Programs on devices by netlink, as kernels before 6.6 have them: filters of a clsact queueing discipline.
//!
//! A filter has no owner, so it stays when the agent goes, as pinned links do. It is found again by its priority.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

const RTM_NEWQDISC: u16 = 36;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
/// The program's result says what happens to the packet.
const DIRECT_ACTION: u32 = 1;

const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
const ALL_PROTOCOLS: u16 = 3;

/// Tells our filters from others', which have smaller or, if nobody chose, larger ones. Lower ones run first.
const PRIORITY: u16 = 0x6f72;
const HANDLE: u32 = 1;

const HEADER: usize = 16;

/// Which packets of a device a program sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// Those that come in by it.
    Ingress,
    /// Those that leave by it.
    Egress,
}

impl Direction {
    fn parent(self) -> u32 {
        match self {
            Self::Ingress => INGRESS,
            Self::Egress => EGRESS,
        }
    }
}

/// Puts a program on a device, in place of the one that an earlier agent has put there, in one step.
pub(crate) fn attach(ifindex: u32, direction: Direction, program: impl AsFd, name: &str) -> io::Result<()> {
    let netlink = open()?;
    let mut clsact = request(
        RTM_NEWQDISC,
        NLM_F_CREATE | NLM_F_EXCL,
        ifindex,
        CLSACT_HANDLE,
        CLSACT,
        0,
    );
    attribute(&mut clsact, TCA_KIND, b"clsact\0");
    match exchange(&netlink, clsact) {
        // Somebody has made it already.
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
        result => result?,
    }
    let mut options = Vec::new();
    attribute(
        &mut options,
        TCA_BPF_FD,
        &program.as_fd().as_raw_fd().to_ne_bytes(),
    );
    attribute(&mut options, TCA_BPF_NAME, format!("{name}\0").as_bytes());
    attribute(&mut options, TCA_BPF_FLAGS, &DIRECT_ACTION.to_ne_bytes());
    let mut filter = request(
        RTM_NEWTFILTER,
        NLM_F_CREATE | NLM_F_REPLACE,
        ifindex,
        HANDLE,
        direction.parent(),
        info(),
    );
    attribute(&mut filter, TCA_KIND, b"bpf\0");
    attribute(&mut filter, TCA_OPTIONS, &options);
    exchange(&netlink, filter)
}

/// Takes our program from a device. Whether there was one.
pub(crate) fn detach(ifindex: u32, direction: Direction) -> io::Result<bool> {
    let mut filter = request(RTM_DELTFILTER, 0, ifindex, HANDLE, direction.parent(), info());
    attribute(&mut filter, TCA_KIND, b"bpf\0");
    match exchange(&open()?, filter) {
        Ok(()) => Ok(true),
        // No such filter; no queueing discipline for one; no such device.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Takes our programs from all devices. Returns their number.
pub fn detach_all() -> io::Result<usize> {
    let mut removed = 0;
    for interface in nix::net::if_::if_nameindex()?.iter() {
        for direction in [Direction::Ingress, Direction::Egress] {
            removed += usize::from(detach(interface.index(), direction)?);
        }
    }
    Ok(removed)
}

/// `tcm_info` of a filter: its priority and the protocol of the packets that it sees.
fn info() -> u32 {
    u32::from(PRIORITY) << 16 | u32::from(ALL_PROTOCOLS.to_be())
}

fn open() -> io::Result<OwnedFd> {
    Ok(socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?)
}

/// A `nlmsghdr` and a `tcmsg`. The length is filled in when it is sent.
fn request(kind: u16, flags: u16, ifindex: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    let mut message = Vec::with_capacity(256);
    message.extend([0; 4]);
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
    message.extend([0; 8]);
    message.extend([0; 4]);
    for word in [ifindex, handle, parent, info] {
        message.extend(word.to_ne_bytes());
    }
    message
}

fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = 4 + value.len();
    message.extend((length as u16).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

fn exchange(netlink: &OwnedFd, mut message: Vec<u8>) -> io::Result<()> {
    let length = message.len() as u32;
    message[..4].copy_from_slice(&length.to_ne_bytes());
    send(netlink.as_raw_fd(), &message, MsgFlags::empty())?;
    let mut answer = [0; 4096];
    let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    let answer = &answer[..length];
    let (Some(kind), Some(code)) = (answer.get(4..6), answer.get(HEADER..HEADER + 4)) else {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    };
    if u16::from_ne_bytes([kind[0], kind[1]]) != NLMSG_ERROR {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    match i32::from_ne_bytes([code[0], code[1], code[2], code[3]]) {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
    }
}

//! Programs on devices, test runs of them, and how much memory there is for what they note.

use std::{
    ffi::CString,
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use super::bpf;
use crate::tc::Direction;

const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;

const BPF_NETKIT_PRIMARY: u32 = 54;
const BPF_NETKIT_PEER: u32 = 55;

/// How a device runs programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// In its traffic control, as any device: tcx, since Linux 6.6.
    Any,
    /// By itself, at both ends of the pair: netkit, since Linux 6.7.
    Netkit,
}

/// Whether the kernel has netkit devices, found out with a program for devices.
pub fn has_netkit(program: BorrowedFd<'_>) -> bool {
    // No device has this index. A kernel that does not know the kind of link says so before it looks for the device.
    let attempt = attach_to_device(program, 0, DeviceKind::Netkit, Direction::Egress);
    attempt.is_err_and(|error| error.raw_os_error() == Some(libc::ENODEV))
}

/// Attaches a program to a device by a link, after those that are there.
///
/// Of netkit `ifindex` is that of the primary end: egress is what is sent by it, ingress is what the other end sends.
pub fn attach_to_device(
    program: BorrowedFd<'_>,
    ifindex: u32,
    kind: DeviceKind,
    direction: Direction,
) -> io::Result<OwnedFd> {
    /// The kernel's structure as far as tcx and netkit use it, which is alike.
    #[repr(C)]
    #[derive(Default)]
    struct Attr {
        prog_fd: u32,
        target_ifindex: u32,
        attach_type: u32,
        flags: u32,
        relative_fd: u32,
        padding: u32,
        expected_revision: u64,
    }
    let mut attr = Attr {
        prog_fd: program.as_raw_fd() as u32,
        target_ifindex: ifindex,
        attach_type: match (kind, direction) {
            (DeviceKind::Any, Direction::Ingress) => BPF_TCX_INGRESS,
            (DeviceKind::Any, Direction::Egress) => BPF_TCX_EGRESS,
            (DeviceKind::Netkit, Direction::Ingress) => BPF_NETKIT_PEER,
            (DeviceKind::Netkit, Direction::Egress) => BPF_NETKIT_PRIMARY,
        },
        ..Attr::default()
    };
    // SAFETY: no addresses; the descriptor is borrowed for the call.
    let fd = unsafe { bpf(BPF_LINK_CREATE, &mut attr) }?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins a map, program or link at a path that does not exist.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }
    let pathname = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Attr {
        pathname: pathname.as_ptr() as u64,
        bpf_fd: object.as_raw_fd() as u32,
        file_flags: 0,
    };
    // SAFETY: pathname is a terminated string that outlives the call.
    unsafe { bpf(BPF_OBJ_PIN, &mut attr) }.map(drop)
}

/// What a program on a device has made of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRun {
    /// The program's result.
    pub result: i32,
    /// The packet as the program left it.
    pub packet: Vec<u8>,
    /// How long a run took on average, in nanoseconds.
    pub duration_ns: u32,
}

/// Runs a program on a packet that is on no wire, `repeat` times, as if it had come by the device `ifindex`.
pub fn test_run(program: BorrowedFd<'_>, packet: &[u8], ifindex: u32, repeat: u32) -> io::Result<TestRun> {
    #[repr(C)]
    struct Attr {
        prog_fd: u32,
        retval: u32,
        data_size_in: u32,
        data_size_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
        ctx_size_in: u32,
        ctx_size_out: u32,
        ctx_in: u64,
        ctx_out: u64,
        flags: u32,
        cpu: u32,
        batch_size: u32,
        padding: u32,
    }
    /// `__sk_buff`, of which the device's index is the eleventh word.
    const CONTEXT_WORDS: usize = 48;
    const IFINDEX: usize = 10;
    let mut context = [0_u32; CONTEXT_WORDS];
    context[IFINDEX] = ifindex;
    // Answers of the programs themselves may be longer than what they answer.
    let mut out = vec![0_u8; packet.len() + 256];
    let mut attr = Attr {
        prog_fd: program.as_raw_fd() as u32,
        retval: 0,
        data_size_in: packet.len() as u32,
        data_size_out: out.len() as u32,
        data_in: packet.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat,
        duration: 0,
        ctx_size_in: size_of_val(&context) as u32,
        ctx_size_out: 0,
        ctx_in: context.as_ptr() as u64,
        ctx_out: 0,
        flags: 0,
        cpu: 0,
        batch_size: 0,
        padding: 0,
    };
    // SAFETY: each address is that of a buffer of the size beside it, which outlives the call.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut attr) }?;
    out.truncate(attr.data_size_out as usize);
    Ok(TestRun {
        result: attr.retval.cast_signed(),
        packet: out,
        duration_ns: attr.duration,
    })
}

/// How much memory the machine has, in bytes.
pub fn memory_bytes() -> io::Result<u64> {
    let mut info = MaybeUninit::<libc::sysinfo>::uninit();
    // SAFETY: info has room for what the kernel writes.
    match unsafe { libc::sysinfo(info.as_mut_ptr()) } {
        0 => {
            // SAFETY: the kernel has filled it.
            let info = unsafe { info.assume_init() };
            Ok(info.totalram * u64::from(info.mem_unit))
        }
        _ => Err(io::Error::last_os_error()),
    }
}

//! The calls of bpf(2) that aya has no wrapper for: map batches, replacing the program of a link, and what a link is
//! attached to. The only module with `unsafe` in it.

#![expect(
    unsafe_code,
    reason = "bpf(2) takes a structure of raw addresses; each call below owns what it points to"
)]

use std::{
    ffi::CString,
    io,
    mem::{MaybeUninit, size_of},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use aya::Pod;

mod devices;

pub use devices::{DeviceKind, TestRun, attach_to_device, has_netkit, memory_bytes, pin, test_run};

const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_MAP_LOOKUP_AND_DELETE_ELEM: libc::c_long = 21;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
const BPF_MAP_DELETE_BATCH: libc::c_long = 27;
const BPF_LINK_UPDATE: libc::c_long = 29;

/// Entries per call. The kernel copies a batch in one go; 4096 keeps that below 300 kB and the cost of a call negligible.
const BATCH: usize = 4096;

/// What the kernel says of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// What kind of thing it is attached to.
    pub kind: LinkKind,
    /// The link's id, unique until the machine restarts.
    pub id: u32,
    /// Id of the program that the link runs.
    pub program_id: u32,
    /// Id of the cgroup that the link is attached to, which is the inode number of its directory. Zero: it was removed. Of a link
    /// on a device: see [`Self::ifindex`].
    pub cgroup_id: u64,
}

impl LinkInfo {
    /// Index of the device that the link is attached to. Zero: it was removed, or the link is on no device.
    pub fn ifindex(&self) -> u32 {
        let [ifindex, _] = words(self.cgroup_id);
        match self.kind {
            LinkKind::XDP | LinkKind::TCX | LinkKind::NETKIT => ifindex,
            _ => 0,
        }
    }
}

/// Linux's `enum bpf_link_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkKind(pub u32);

impl LinkKind {
    /// On a cgroup.
    pub const CGROUP: Self = Self(3);
    /// On a device, before the kernel makes a packet of what came in.
    pub const XDP: Self = Self(6);
    /// On a device, in its traffic control.
    pub const TCX: Self = Self(11);
    /// On a pair of netkit devices.
    pub const NETKIT: Self = Self(13);
}

/// Writes entries, replacing existing ones. After an error some of them may have been written.
pub fn update<K: Pod, V: Pod>(map: BorrowedFd<'_>, entries: &[(K, V)]) -> io::Result<()> {
    for chunk in entries.chunks(BATCH) {
        let keys: Vec<K> = chunk.iter().map(|&(key, _)| key).collect();
        let values: Vec<V> = chunk.iter().map(|&(_, value)| value).collect();
        let mut attr = BatchAttr::new(map, keys.len());
        attr.keys = keys.as_ptr() as u64;
        attr.values = values.as_ptr() as u64;
        // SAFETY: keys and values hold `count` elements of the sizes that the map was checked to have when it was opened.
        unsafe { bpf(BPF_MAP_UPDATE_BATCH, &mut attr) }?;
    }
    Ok(())
}

/// Removes entries; those that are not there count as removed.
pub fn delete<K: Pod>(map: BorrowedFd<'_>, mut keys: &[K]) -> io::Result<()> {
    while !keys.is_empty() {
        let mut attr = BatchAttr::new(map, keys.len().min(BATCH));
        attr.keys = keys.as_ptr() as u64;
        // SAFETY: keys holds at least `count` elements of the size that the map was checked to have when it was opened.
        match unsafe { bpf(BPF_MAP_DELETE_BATCH, &mut attr) } {
            Ok(_) => keys = &keys[attr.count as usize..],
            // `count` entries were removed before the one that does not exist.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                keys = &keys[attr.count as usize + 1..]
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The value of one key.
pub fn lookup<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    value_of(map, key, BPF_MAP_LOOKUP_ELEM)
}

/// Removes one key and returns the value that it had then. Hash maps before Linux 5.14 do not say what they remove: it is what
/// was there a moment before.
pub fn take<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    /// The kernel's own number for what it does not do.
    const ENOTSUPP: i32 = 524;
    match value_of(map, key, BPF_MAP_LOOKUP_AND_DELETE_ELEM) {
        Err(error) if error.raw_os_error() == Some(ENOTSUPP) => {}
        taken => return taken,
    }
    let value = lookup(map, key)?;
    let mut attr = ElementAttr::new(map, key);
    // SAFETY: the key has the size that the map was checked to have when it was opened.
    match unsafe { bpf(BPF_MAP_DELETE_ELEM, &mut attr) } {
        Ok(_) => Ok(value),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Adds an entry unless there is one with this key.
pub fn add<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    const BPF_NOEXIST: u64 = 1;
    let mut attr = ElementAttr::new(map, key);
    attr.value = &raw const *value as u64;
    attr.flags = BPF_NOEXIST;
    // SAFETY: key and value have the sizes that the map was checked to have when it was opened.
    match unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut attr) } {
        Ok(_) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        Err(error) => Err(error),
    }
}

/// What a command that returns the value of a key returns.
fn value_of<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K, command: libc::c_long) -> io::Result<Option<V>> {
    let mut value = MaybeUninit::<V>::uninit();
    let mut attr = ElementAttr::new(map, key);
    attr.value = value.as_mut_ptr() as u64;
    // SAFETY: key and value have the sizes that the map was checked to have when it was opened.
    match unsafe { bpf(command, &mut attr) } {
        // SAFETY: the kernel has filled the value, and every bit pattern is a valid Pod.
        Ok(_) => Ok(Some(unsafe { value.assume_init() })),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// All entries of a hash map. Of one that others write to meanwhile, some of what comes or goes may be missing or old.
pub fn read<K: Pod, V: Pod>(map: BorrowedFd<'_>) -> io::Result<Vec<(K, V)>> {
    let mut entries = Vec::new();
    let mut batch = BATCH;
    // For a hash map the position is a bucket number.
    let mut position: Option<u32> = None;
    loop {
        let mut keys = Vec::<K>::with_capacity(batch);
        let mut values = Vec::<V>::with_capacity(batch);
        let mut next = 0_u32;
        let mut attr = BatchAttr::new(map, batch);
        attr.in_batch = position
            .as_ref()
            .map_or(0, |position| &raw const *position as u64);
        attr.out_batch = &raw mut next as u64;
        attr.keys = keys.as_mut_ptr() as u64;
        attr.values = values.as_mut_ptr() as u64;
        // SAFETY: keys and values have room for `count` elements of the sizes that the map was checked to have.
        let last = match unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) } {
            Ok(_) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            // One bucket holds more than a batch.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                batch *= 2;
                continue;
            }
            Err(error) => return Err(error),
        };
        let count = (attr.count as usize).min(batch);
        // SAFETY: the kernel has filled the first `count` elements, and every bit pattern is a valid Pod.
        unsafe {
            keys.set_len(count);
            values.set_len(count);
        }
        entries.extend(keys.into_iter().zip(values));
        if last {
            return Ok(entries);
        }
        position = Some(next);
    }
}

/// Opens a pinned map, program or link.
pub fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }
    let pathname = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Attr {
        pathname: pathname.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    // SAFETY: pathname is a terminated string that outlives the call.
    let fd = unsafe { bpf(BPF_OBJ_GET, &mut attr) }?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Replaces the program of a link. No event falls between the old program and the new one.
pub fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        link_fd: i32,
        new_prog_fd: i32,
        flags: u32,
        old_prog_fd: u32,
    }
    let mut attr = Attr {
        link_fd: link.as_raw_fd(),
        new_prog_fd: program.as_raw_fd(),
        flags: 0,
        old_prog_fd: 0,
    };
    // SAFETY: no addresses; both descriptors are borrowed for the call.
    unsafe { bpf(BPF_LINK_UPDATE, &mut attr) }.map(drop)
}

/// What a link is attached to.
pub fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    #[repr(C)]
    struct Attr {
        bpf_fd: i32,
        info_len: u32,
        info: u64,
    }
    /// `struct bpf_link_info`; the union's member is that of cgroups, and begins with the index where it is that of devices.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        prog_id: u32,
        reserved: u32,
        cgroup_id: u64,
        attach_type: u32,
        reserved_too: u32,
    }
    let mut info = Info::default();
    let mut attr = Attr {
        bpf_fd: link.as_raw_fd(),
        info_len: size_of::<Info>() as u32,
        info: &raw mut info as u64,
    };
    // SAFETY: info has room for `info_len` bytes and outlives the call.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(LinkInfo {
        kind: LinkKind(info.kind),
        id: info.id,
        program_id: info.prog_id,
        cgroup_id: info.cgroup_id,
    })
}

/// The two words of an integer, in the order in which they are in memory.
fn words(integer: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = integer.to_ne_bytes();
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
}

/// The value that these bytes are, which a program has written; `None`: too few for it.
pub fn from_bytes<T: Pod>(bytes: &[u8]) -> Option<T> {
    // SAFETY: there are enough bytes, their alignment does not matter, and every bit pattern is a valid Pod.
    (bytes.len() >= size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// The number that the kernel knows this process's network namespace by.
pub fn netns_cookie() -> io::Result<u64> {
    // Any socket will do: it is asked for the namespace that it belongs to.
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: cookie has room for `length` bytes, and both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    match result {
        0 => Ok(cookie),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lifts the limit on locked memory, which kernels before 5.11 charge maps to. Newer ones do not care.
pub fn raise_memlock_limit() -> io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: limit outlives the call.
    match unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The arguments of the commands for one element.
#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl ElementAttr {
    fn new<K: Pod>(map: BorrowedFd<'_>, key: &K) -> Self {
        Self {
            map_fd: map.as_raw_fd() as u32,
            padding: 0,
            key: &raw const *key as u64,
            value: 0,
            flags: 0,
        }
    }
}

/// The arguments of the batch commands.
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

impl BatchAttr {
    fn new(map: BorrowedFd<'_>, count: usize) -> Self {
        Self {
            in_batch: 0,
            out_batch: 0,
            keys: 0,
            values: 0,
            count: count as u32,
            map_fd: map.as_fd().as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        }
    }
}

/// # Safety
///
/// Addresses inside `attr` must be valid for what the command does with them.
unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: attr is as long as it is said to be; the rest is the caller's promise.
    match unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) } {
        result if result < 0 => Err(io::Error::last_os_error()),
        result => Ok(result as i32),
    }
}

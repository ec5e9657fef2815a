//! Loads the eBPF programs and attaches them to a cgroup and to devices, in place of those that an earlier agent has left there.
//!
//! An attached program is never taken away before its successor works: an existing link gets the new program in one step,
//! and only a link that hangs on another cgroup is replaced by a new one, attached first.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    num::NonZeroU64,
    os::{fd::AsFd, unix::fs::MetadataExt},
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
};

use aya::{
    Ebpf, EbpfError, EbpfLoader, VerifierLogLevel, include_bytes_aligned,
    programs::{
        CgroupAttachMode, Program, ProgramError, ProgramType,
        links::{FdLink, LinkError},
    },
    sys::{BpfHelper, is_helper_supported},
    util::KernelVersion,
};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use proxy_ebpf_common::maps;
use thiserror::Error;
use tracing::{debug, info};

use crate::{
    apply::{Maps, MapsError},
    packets::PacketPrograms,
    pins::{PinError, Pins, open},
    sys::{self, LinkInfo},
};

/// What `cargo xtask build-ebpf` makes of `proxy-ebpf/ebpf`.
static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/programs.o"));

/// The programs, in the order in which they are attached: a socket must not be sent to a backend before there is somebody
/// who shows it the Service.
pub const HOOKS: [&str; 10] = [
    "getpeername4",
    "getpeername6",
    "recvmsg4",
    "recvmsg6",
    "sendmsg4",
    "sendmsg6",
    "connect4",
    "connect6",
    "post_bind4",
    "post_bind6",
];

/// Why the programs cannot run.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ProgramsError {
    #[error("--cgroup-path {path} cannot be used")]
    Cgroup { path: PathBuf, source: io::Error },
    #[error(
        "--cgroup-path {path} is not in a cgroup2 hierarchy: give the folder of one (see `findmnt -t cgroup2`)"
    )]
    NotCgroup2 { path: PathBuf },
    #[error(
        "the kernel does not let this process use BPF: it needs CONFIG_BPF_SYSCALL, and CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN \
         (run as root, or as a privileged pod)"
    )]
    NoBpf { source: ProgramError },
    #[error("create the BPF maps")]
    Load { source: EbpfError },
    #[error(
        "the kernel refuses the program {name}: proxy-ebpf needs Linux 5.10 or newer with CONFIG_CGROUP_BPF and CONFIG_BPF_JIT"
    )]
    Refused {
        name: &'static str,
        source: ProgramError,
    },
    #[error("the embedded object has no program {name}: it was not built from these sources")]
    Missing { name: &'static str },
    #[error(
        "attach {name} to {cgroup}: is CONFIG_CGROUP_BPF in the kernel, and no exclusive program on a parent of the cgroup?"
    )]
    Attach {
        name: &'static str,
        cgroup: PathBuf,
        source: ProgramError,
    },
    #[error("take the link of {name}")]
    Link { name: &'static str, source: LinkError },
    #[error("keep the program {name}")]
    Keep { name: &'static str, source: io::Error },
    #[error(
        "attach {name} to the device with index {ifindex}: are CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS in the kernel?"
    )]
    AttachDevice {
        name: &'static str,
        ifindex: u32,
        source: io::Error,
    },
    #[error("replace the program of the link {path}")]
    Replace { path: PathBuf, source: io::Error },
    #[error("pin the link {path}")]
    PinLink {
        path: PathBuf,
        source: aya::pin::PinError,
    },
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error(transparent)]
    Maps(#[from] MapsError),
}

/// What the running kernel can do that the programs could do without, and what is wanted of them. By default: nothing new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// A program may choose the error that the caller sees: since Linux 5.18.
    pub set_retval: bool,
    /// Cookie of this process's network namespace, whose loopback has node ports: since Linux 5.14.
    pub netns_cookie: Option<NonZeroU64>,
    /// Programs are attached to devices by links: since Linux 6.6.
    pub tcx: bool,
    /// A checksum may be corrected as one of IPv6: since Linux 6.16.
    pub ipv6_checksum_flag: bool,
    /// Programs change the address under the kernel's own users of sockets, who would connect to a backend ever after.
    pub kernel_connect_overwrites: bool,
    /// Whether sockets are translated at all; a wish of whoever runs the node.
    pub translate_sockets: bool,
    /// Programs see the sockets of all processes: they are attached to the root of the hierarchy of cgroups. [`install`] and
    /// [`grow`] find out.
    pub all_processes: bool,
    /// Number of entries of each family's table of connections, where it does not exist yet. A connection has two.
    pub conntrack_entries: u32,
    /// Number of frontends of each family that there is room for where the maps do not exist yet, and half the number of backends
    /// and slots.
    pub frontends: u32,
}

/// A map and how many entries it is to have room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Its name.
    pub name: &'static str,
    /// Number of entries.
    pub max_entries: u32,
}

/// The kernel sets some megabytes aside for each program that it looks at.
const LOADERS_MAX: usize = 4;

/// How many frontends the first maps have room for. An empty one takes 16 bytes for each, and as much for each slot and backend.
const FRONTENDS: std::ops::RangeInclusive<u32> = 1 << 12..=1 << 17;
/// Where nobody has asked how many are needed.
const FRONTENDS_UNKNOWN: u32 = 1 << 16;
/// How many slots, and backends of each family, there is room for in new maps, for each frontend: half of the frontends have a few,
/// the others are for the ports that a Service has not.
pub const SLOTS_PER_FRONTEND: u32 = 2;

/// How many frontends of a family to make room for in new maps, with so many Services or EndpointSlices, whichever are more: most
/// have one for their port, and one for all other ports of their address. Maps that turn out to be too small are replaced, which
/// takes as long as the programs take to load.
pub fn frontends_for(services: u64) -> u32 {
    let frontends = u32::try_from(services.saturating_mul(2)).unwrap_or(u32::MAX);
    let frontends = frontends.clamp(*FRONTENDS.start(), *FRONTENDS.end());
    frontends.next_power_of_two()
}

/// Memory of the machine for each entry of a table of connections. An entry takes about 130 bytes, which the kernel sets
/// aside at once: both families' tables are a five-hundredth of the memory.
const MEMORY_PER_ENTRY: u64 = 128 << 10;
/// Less would be of no use, more would take longer to look through than connections live.
const CONNTRACK_ENTRIES: std::ops::RangeInclusive<u64> = 1 << 14..=1 << 20;

impl Default for Features {
    fn default() -> Self {
        Self {
            set_retval: false,
            netns_cookie: None,
            tcx: false,
            ipv6_checksum_flag: false,
            kernel_connect_overwrites: false,
            translate_sockets: true,
            all_processes: false,
            conntrack_entries: *CONNTRACK_ENTRIES.start() as u32,
            frontends: FRONTENDS_UNKNOWN,
        }
    }
}

impl Features {
    /// Asks the kernel. Fails where BPF cannot be used at all.
    pub fn detect() -> Result<Self, ProgramsError> {
        let set_retval = is_helper_supported(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval)
            .map_err(|source| ProgramsError::NoBpf { source })?;
        if !set_retval {
            info!(
                "the kernel is older than 5.18: clients of Services without endpoints see EPERM, not ECONNREFUSED"
            );
        }
        let netns_cookie = match sys::netns_cookie() {
            Ok(cookie) => NonZeroU64::new(cookie),
            Err(error) => {
                info!(%error, "the kernel is older than 5.14: node ports are not reached by loopback");
                None
            }
        };
        let version =
            KernelVersion::current().map_err(|error| debug!(%error, "the kernel does not tell its version"));
        let at_least = |major, minor| {
            version
                .as_ref()
                .is_ok_and(|version| *version >= KernelVersion::new(major, minor, 0))
        };
        // One that does not tell is taken for an old one: packets are translated everywhere.
        let kernel_connect_overwrites = !version.as_ref().is_ok_and(copies_addresses);
        if kernel_connect_overwrites {
            info!(
                "the kernel hands its file systems what programs write: the node's own sockets reach Services by packets, \
                 except on loopback"
            );
        }
        let memory = sys::memory_bytes().unwrap_or(0);
        let entries = memory / MEMORY_PER_ENTRY;
        Ok(Self {
            set_retval,
            netns_cookie,
            tcx: at_least(6, 6),
            ipv6_checksum_flag: at_least(6, 16),
            kernel_connect_overwrites,
            translate_sockets: true,
            all_processes: false,
            conntrack_entries: entries.clamp(*CONNTRACK_ENTRIES.start(), *CONNTRACK_ENTRIES.end()) as u32,
            frontends: FRONTENDS_UNKNOWN,
        })
    }
}

/// Whether the kernel gives programs a copy of the address that its own users connect to: since Linux 6.6
/// ("net: Avoid address overwrite in kernel_connect"), and since these releases of the series that were maintained then.
fn copies_addresses(version: &KernelVersion) -> bool {
    const SINCE: [(u8, u8, u16); 6] = [
        (5, 10, 195),
        (5, 15, 132),
        (6, 1, 53),
        (6, 4, 16),
        (6, 5, 3),
        (6, 6, 0),
    ];
    // The next series after each begins without it.
    SINCE.iter().enumerate().any(|(index, &(major, minor, patch))| {
        let is_last = index + 1 == SINCE.len();
        *version >= KernelVersion::new(major, minor, patch)
            && (is_last || *version < KernelVersion::new(major, minor + 1, 0))
    })
}

/// Loads the programs, with pinned maps where there are some, and attaches them to `cgroup`.
///
/// After an error the hooks that were not reached run what they ran before.
pub fn install(pins: &Pins, cgroup: &Path, features: Features) -> Result<PacketPrograms, ProgramsError> {
    let target = Cgroup::open(cgroup)?;
    if let Err(error) = sys::raise_memlock_limit() {
        debug!(%error, "the limit on locked memory stays; kernels before 5.11 may refuse large maps");
    }
    let features = target.seen_by(features);
    let mut ebpf = load(&pins.maps(), features, &[])?;
    let packets = attach_all(&mut ebpf, pins, &target, features)?;
    drop(ebpf);
    heap::release();
    Ok(packets)
}

/// Replaces pinned maps by others of the given sizes and with the same content, while the programs go on.
///
/// The new maps are filled before programs that use them run, and take the old ones' places among the pins after that. Whoever
/// dies in between leaves pins with the same content as the maps that the programs use: the next [`install`] leads them back.
/// The caller must not write to the maps meanwhile, and has to open them anew.
pub fn grow(
    pins: &Pins,
    cgroup: &Path,
    features: Features,
    tables: &Maps,
    rooms: &[Room],
) -> Result<PacketPrograms, ProgramsError> {
    let target = Cgroup::open(cgroup)?;
    let features = target.seen_by(features);
    let dir = pins.growing()?;
    let names: Vec<_> = rooms.iter().map(|room| room.name).collect();
    pins.link_maps_except(&names, &dir)?;
    let mut ebpf = load(&dir, features, rooms)?;
    for name in &names {
        tables.copy(name, &dir)?;
    }
    let packets = attach_all(&mut ebpf, pins, &target, features)?;
    pins.take_over(&names, &dir)?;
    drop(ebpf);
    heap::release();
    Ok(packets)
}

/// Gives the cgroup and the devices that have links already the programs of `ebpf`.
fn attach_all(
    ebpf: &mut Ebpf,
    pins: &Pins,
    cgroup: &Cgroup,
    features: Features,
) -> Result<PacketPrograms, ProgramsError> {
    let packets = PacketPrograms::load(ebpf, features, &HOOKS)?;
    packets.take_over(pins)?;
    for name in HOOKS {
        let program = ebpf.program_mut(name).ok_or(ProgramsError::Missing { name })?;
        attach(name, program, cgroup, &pins.link(name))?;
    }
    Ok(packets)
}

/// What the pinned link of each program is attached to.
pub fn links(pins: &Pins) -> Result<Vec<(&'static str, LinkInfo)>, ProgramsError> {
    let mut links = Vec::new();
    for name in HOOKS {
        let path = pins.link(name);
        if let Some(link) = open(&path)? {
            let info =
                sys::link_info(link.as_fd()).map_err(|source| ProgramsError::Replace { path, source })?;
            links.push((name, info));
        }
    }
    Ok(links)
}

/// The cgroup whose sockets are translated.
struct Cgroup {
    path: PathBuf,
    dir: File,
    id: u64,
}

impl Cgroup {
    fn open(path: &Path) -> Result<Self, ProgramsError> {
        let failed = |source| ProgramsError::Cgroup {
            path: path.to_owned(),
            source,
        };
        let dir = File::open(path).map_err(failed)?;
        let stat = statfs(path).map_err(|errno| failed(errno.into()))?;
        if stat.filesystem_type() != CGROUP2_SUPER_MAGIC {
            return Err(ProgramsError::NotCgroup2 {
                path: path.to_owned(),
            });
        }
        let id = dir.metadata().map_err(failed)?.ino();
        Ok(Self {
            path: path.to_owned(),
            dir,
            id,
        })
    }

    /// What programs that are attached here see of the node's processes. A container's own hierarchy has another root.
    fn seen_by(&self, features: Features) -> Features {
        /// Inode number of the root of a hierarchy.
        const ROOT: u64 = 1;
        Features {
            all_processes: self.id == ROOT,
            ..features
        }
    }
}

/// Creates the maps that are not pinned in `dir` yet; `rooms` are the sizes of some of them. No program is loaded yet.
pub fn load(dir: &Path, features: Features, rooms: &[Room]) -> Result<Ebpf, ProgramsError> {
    let host_netns = features.netns_cookie.map_or(0, NonZeroU64::get);
    let set_retval = u32::from(features.set_retval);
    let ipv6_checksum_flag = u32::from(features.ipv6_checksum_flag);
    let kernel_connect_overwrites = u32::from(features.kernel_connect_overwrites);
    let socket_path = u32::from(features.translate_sockets);
    let has_node_by_packets =
        !features.translate_sockets || features.kernel_connect_overwrites || !features.all_processes;
    let node_by_packets = u32::from(has_node_by_packets);
    let mut loader = EbpfLoader::new();
    loader
        // Why a program is refused, and how much the verifier has looked at; not each instruction of a hundred thousand.
        .verifier_log_level(VerifierLogLevel::STATS)
        // Nothing in the programs depends on the kernel's types: these megabytes need not be kept while loading.
        .btf(None)
        .override_global("HAS_SET_RETVAL", &set_retval, true)
        .override_global("HOST_NETNS", &host_netns, true)
        .override_global("HAS_IPV6_CHECKSUM_FLAG", &ipv6_checksum_flag, true)
        .override_global("KERNEL_CONNECT_OVERWRITES", &kernel_connect_overwrites, true)
        .override_global("SOCKET_PATH", &socket_path, true)
        .override_global("NODE_BY_PACKETS", &node_by_packets, true)
        .map_max_entries(maps::CONNTRACK4, features.conntrack_entries)
        .map_max_entries(maps::CONNTRACK6, features.conntrack_entries)
        .default_map_pin_directory(dir);
    for name in [maps::FRONTENDS4, maps::FRONTENDS6, maps::AFFINITY_MATCH] {
        loader.map_max_entries(name, features.frontends);
    }
    for name in [maps::SLOTS, maps::BACKENDS4, maps::BACKENDS6] {
        loader.map_max_entries(name, SLOTS_PER_FRONTEND * features.frontends);
    }
    for room in rooms {
        loader.map_max_entries(room.name, room.max_entries);
    }
    loader
        .load(OBJECT)
        .map_err(|source| ProgramsError::Load { source })
}

/// Loads programs, on several threads: the time goes into the kernel's verifier, which looks at each by itself. Those that take
/// long should come first.
pub(crate) fn load_all(ebpf: &mut Ebpf, names: &[&'static str]) -> Result<(), ProgramsError> {
    let mut found: BTreeMap<_, _> = ebpf.programs_mut().collect();
    let mut programs = Vec::new();
    for &name in names {
        let program = found.remove(name).ok_or(ProgramsError::Missing { name })?;
        programs.push((name, program));
    }
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let threads = threads.min(LOADERS_MAX).min(programs.len());
    let waiting = Mutex::new(programs.into_iter());
    let work = || {
        loop {
            let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((name, program)) = next else {
                return Ok(());
            };
            load_one(name, program)?;
        }
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut outcome = work();
        for other in others {
            outcome = outcome.and(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        outcome
    })
}

fn load_one(name: &'static str, program: &mut Program) -> Result<(), ProgramsError> {
    let loaded = match program {
        Program::SchedClassifier(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        _ => return Err(ProgramsError::Missing { name }),
    };
    loaded.map_err(|source| ProgramsError::Refused { name, source })
}

fn attach(
    name: &'static str,
    program: &mut Program,
    cgroup: &Cgroup,
    path: &Path,
) -> Result<(), ProgramsError> {
    let failed = |source| ProgramsError::Attach {
        name,
        cgroup: cgroup.path.clone(),
        source,
    };
    let replace_failed = |source| ProgramsError::Replace {
        path: path.to_owned(),
        source,
    };
    let pinned = open(path)?;
    if let Some(link) = &pinned {
        let info = sys::link_info(link.as_fd()).map_err(replace_failed)?;
        if info.cgroup_id == cgroup.id {
            let program = program.fd().map_err(failed)?;
            sys::update_link(link.as_fd(), program.as_fd()).map_err(replace_failed)?;
            debug!(name, link = info.id, "replaced the program");
            return Ok(());
        }
        info!(name, cgroup = %cgroup.path.display(), "the pinned link is on another cgroup and is replaced");
    }
    // `Single` is aya's name for no flags; links always live beside those of others.
    let link = match program {
        Program::CgroupSockAddr(program) => {
            let id = program.attach(&cgroup.dir, CgroupAttachMode::Single);
            let link = program.take_link(id.map_err(failed)?);
            FdLink::try_from(link.map_err(failed)?)
        }
        Program::CgroupSock(program) => {
            let id = program.attach(&cgroup.dir, CgroupAttachMode::Single);
            let link = program.take_link(id.map_err(failed)?);
            FdLink::try_from(link.map_err(failed)?)
        }
        _ => return Err(ProgramsError::Missing { name }),
    };
    let link = link.map_err(|source| ProgramsError::Link { name, source })?;
    if pinned.is_some() {
        fs::remove_file(path).map_err(replace_failed)?;
    }
    link.pin(path).map_err(|source| ProgramsError::PinLink {
        path: path.to_owned(),
        source,
    })?;
    debug!(name, cgroup = %cgroup.path.display(), "attached");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_begin_as_large_as_the_cluster_needs_them() {
        for (services, expected) in [
            (0, 1 << 12),
            (2048, 1 << 12),
            (2049, 1 << 13),
            (20_000, 1 << 16),
            (50_000, 1 << 17),
            (u64::MAX, 1 << 17),
        ] {
            assert_eq!(frontends_for(services), expected, "{services}");
        }
    }

    #[test]
    fn kernels_that_give_programs_a_copy() {
        for (version, expected) in [
            ((5, 4, 300), false),
            ((5, 10, 194), false),
            ((5, 10, 195), true),
            ((5, 14, 21), false),
            ((5, 15, 131), false),
            ((5, 15, 190), true),
            ((6, 0, 19), false),
            ((6, 1, 52), false),
            ((6, 1, 170), true),
            ((6, 2, 99), false),
            ((6, 4, 16), true),
            ((6, 5, 2), false),
            ((6, 5, 3), true),
            ((6, 6, 0), true),
            ((6, 12, 1), true),
            ((7, 0, 0), true),
        ] {
            let (major, minor, patch) = version;
            let version = KernelVersion::new(major, minor, patch);
            assert_eq!(copies_addresses(&version), expected, "{major}.{minor}.{patch}");
        }
    }
}

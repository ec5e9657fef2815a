//! The maps of the kernel: read once at start, written by plans. Nothing else in the agent writes them.

mod prefixes;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, BorrowedFd},
    panic::resume_unwind,
    path::{Path, PathBuf},
    thread,
};

use aya::{
    Pod,
    maps::{MapData, MapError},
};
use proxy_ebpf_common::{
    Address4, Address6, Affinity, AffinityKey, AffinityMatchKey, Backend, BackendId, Frontend, FrontendKey,
    NetnsCookie, Port, ReverseSk, ReverseSkKey, ServiceId, SlotKey, SourceRangeKey, maps,
};
use thiserror::Error;

use crate::{
    desired::{FrontendAddress, SocketAddress},
    metrics::MapUse,
    node::plan::Cidr,
    plan::{Entries, Plan, Sizes},
    programs::Room,
    sys,
};

pub(crate) use prefixes::PrefixMap;

/// From so many entries on two threads write them: the kernel locks them bucket by bucket.
const PARALLEL_FROM: usize = 16 << 10;

/// Why maps cannot be used, read or written.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum MapsError {
    #[error("open the map {path}")]
    Open { path: PathBuf, source: MapError },
    #[error(
        "the pinned map {path} has keys of {key_size} and values of {value_size} bytes where {wanted_key_size} and \
         {wanted_value_size} are needed: another program has pinned it; remove it by `proxy-ebpf cleanup`"
    )]
    Layout {
        path: PathBuf,
        key_size: usize,
        value_size: usize,
        wanted_key_size: usize,
        wanted_value_size: usize,
    },
    #[error("read the map {name}")]
    Read { name: &'static str, source: io::Error },
    #[error(
        "the map {name} is full with {max_entries} entries: some Services cannot be reached from this node"
    )]
    Full { name: &'static str, max_entries: u32 },
    #[error("the map {name} is not filled by the agent and does not grow")]
    NotOurs { name: &'static str },
    #[error("write the map {name}")]
    Write { name: &'static str, source: io::Error },
    #[error("delete from the map {name}")]
    Delete { name: &'static str, source: io::Error },
}

/// The maps that the agent fills.
#[derive(Debug)]
pub struct Maps {
    frontends4: Map,
    frontends6: Map,
    slots: Map,
    backends4: Map,
    backends6: Map,
    matches: Map,
    node_addresses4: Map,
    node_addresses6: Map,
    ranges4: PrefixMap<SourceRangeKey<Address4>, u32>,
    ranges6: PrefixMap<SourceRangeKey<Address6>, u32>,
}

/// A pinned map whose sizes were checked.
#[derive(Debug)]
pub(crate) struct Map {
    name: &'static str,
    max_entries: u32,
    data: MapData,
}

impl Maps {
    /// Opens the pinned maps and checks that they are what the programs were compiled for.
    pub fn open(dir: &Path) -> Result<Self, MapsError> {
        // Only programs write these, but a map of another shape would fail them too.
        Map::open::<ReverseSkKey<Address4>, ReverseSk<Address4>>(dir, maps::REVERSE_SK4)?;
        Map::open::<ReverseSkKey<Address6>, ReverseSk<Address6>>(dir, maps::REVERSE_SK6)?;
        Map::open::<AffinityKey<NetnsCookie>, Affinity>(dir, maps::AFFINITY_SK)?;
        Ok(Self {
            frontends4: Map::open::<FrontendKey<Address4>, Frontend>(dir, maps::FRONTENDS4)?,
            frontends6: Map::open::<FrontendKey<Address6>, Frontend>(dir, maps::FRONTENDS6)?,
            slots: Map::open::<SlotKey, BackendId>(dir, maps::SLOTS)?,
            backends4: Map::open::<BackendId, Backend<Address4>>(dir, maps::BACKENDS4)?,
            backends6: Map::open::<BackendId, Backend<Address6>>(dir, maps::BACKENDS6)?,
            matches: Map::open::<AffinityMatchKey, u32>(dir, maps::AFFINITY_MATCH)?,
            node_addresses4: Map::open::<Address4, u32>(dir, maps::NODE_ADDRESSES4)?,
            node_addresses6: Map::open::<Address6, u32>(dir, maps::NODE_ADDRESSES6)?,
            ranges4: PrefixMap::open(dir, maps::SOURCE_RANGES4)?,
            ranges6: PrefixMap::open(dir, maps::SOURCE_RANGES6)?,
        })
    }

    /// How full the maps are with tables of these sizes.
    pub fn usage(&self, sizes: Sizes) -> Vec<MapUse> {
        let [frontends4, frontends6] = sizes.frontends;
        let [backends4, backends6] = sizes.backends;
        let [nodes4, nodes6] = sizes.node_addresses;
        let usage = [
            (&self.frontends4, frontends4),
            (&self.frontends6, frontends6),
            (&self.slots, sizes.slots),
            (&self.backends4, backends4),
            (&self.backends6, backends6),
            (&self.matches, sizes.matches),
            (&self.node_addresses4, nodes4),
            (&self.node_addresses6, nodes6),
        ];
        let usage = usage.iter().map(|(map, entries)| MapUse {
            name: map.name,
            entries: *entries,
            max_entries: map.max_entries,
        });
        let [ranges4, ranges6] = sizes.ranges;
        usage
            .chain([self.ranges4.usage(ranges4), self.ranges6.usage(ranges6)])
            .collect()
    }

    /// The maps that are too small for tables of these sizes, with the sizes that they should have: doubled, to at most
    /// `entries_max`. Those that would still be too small then are among them.
    pub fn too_small(&self, sizes: Sizes, entries_max: u32) -> Vec<Room> {
        let rooms = self.usage(sizes).into_iter().filter_map(|map| {
            let max_entries = grown(map.max_entries, map.entries, entries_max);
            let name = map.name;
            (max_entries > map.max_entries).then_some(Room { name, max_entries })
        });
        rooms.collect()
    }

    /// How many entries there is room for beside tables of these sizes, once the maps have grown as far as they may.
    pub fn room(&self, sizes: Sizes, entries_max: u32) -> Sizes {
        let free = |max_entries: u32, entries: usize| {
            (grown(max_entries, usize::MAX, entries_max) as usize).saturating_sub(entries)
        };
        let of_map = |map: &Map, entries| free(map.max_entries, entries);
        let [frontends4, frontends6] = sizes.frontends;
        let [backends4, backends6] = sizes.backends;
        let [nodes4, nodes6] = sizes.node_addresses;
        let [ranges4, ranges6] = sizes.ranges;
        Sizes {
            frontends: [
                of_map(&self.frontends4, frontends4),
                of_map(&self.frontends6, frontends6),
            ],
            slots: of_map(&self.slots, sizes.slots),
            backends: [
                of_map(&self.backends4, backends4),
                of_map(&self.backends6, backends6),
            ],
            matches: of_map(&self.matches, sizes.matches),
            ranges: [
                free(self.ranges4.max_entries(), ranges4),
                free(self.ranges6.max_entries(), ranges6),
            ],
            node_addresses: [
                of_map(&self.node_addresses4, nodes4),
                of_map(&self.node_addresses6, nodes6),
            ],
        }
    }

    /// Copies what the map `name` holds to the one of the same name in another folder of pins.
    pub(crate) fn copy(&self, name: &'static str, dir: &Path) -> Result<(), MapsError> {
        match name {
            maps::FRONTENDS4 => self.frontends4.copy::<FrontendKey<Address4>, Frontend>(dir),
            maps::FRONTENDS6 => self.frontends6.copy::<FrontendKey<Address6>, Frontend>(dir),
            maps::SLOTS => self.slots.copy::<SlotKey, BackendId>(dir),
            maps::BACKENDS4 => self.backends4.copy::<BackendId, Backend<Address4>>(dir),
            maps::BACKENDS6 => self.backends6.copy::<BackendId, Backend<Address6>>(dir),
            maps::AFFINITY_MATCH => self.matches.copy::<AffinityMatchKey, u32>(dir),
            maps::NODE_ADDRESSES4 => self.node_addresses4.copy::<Address4, u32>(dir),
            maps::NODE_ADDRESSES6 => self.node_addresses6.copy::<Address6, u32>(dir),
            maps::SOURCE_RANGES4 => self.ranges4.copy(dir),
            maps::SOURCE_RANGES6 => self.ranges6.copy(dir),
            name => Err(MapsError::NotOurs { name }),
        }
    }

    /// Everything that the maps hold.
    pub fn read(&self) -> Result<Entries, MapsError> {
        let mut entries = Entries {
            slots: self.slots.read()?,
            ..Entries::default()
        };
        let frontends4: Vec<(FrontendKey<Address4>, Frontend)> = self.frontends4.read()?;
        let frontends6: Vec<(FrontendKey<Address6>, Frontend)> = self.frontends6.read()?;
        entries.frontends.extend(
            frontends4
                .into_iter()
                .map(|(key, value)| (FrontendAddress::from(key), value)),
        );
        entries.frontends.extend(
            frontends6
                .into_iter()
                .map(|(key, value)| (FrontendAddress::from(key), value)),
        );
        let backends4: Vec<(BackendId, Backend<Address4>)> = self.backends4.read()?;
        let backends6: Vec<(BackendId, Backend<Address6>)> = self.backends6.read()?;
        entries.backends.extend(
            backends4
                .into_iter()
                .map(|(id, backend)| (id, SocketAddress::from(backend))),
        );
        entries.backends.extend(
            backends6
                .into_iter()
                .map(|(id, backend)| (id, SocketAddress::from(backend))),
        );
        let matches: Vec<(AffinityMatchKey, u32)> = self.matches.read()?;
        entries.matches.extend(matches.into_iter().map(|(key, _)| key));
        let ranges4 = self.ranges4.read()?.into_iter().filter_map(|(bits, key, _)| {
            let range = range_of(bits, Ipv4Addr::from(key.network.octets()).into())?;
            Some((key.service, range))
        });
        let ranges6 = self.ranges6.read()?.into_iter().filter_map(|(bits, key, _)| {
            let range = range_of(bits, Ipv6Addr::from(key.network.octets()).into())?;
            Some((key.service, range))
        });
        entries.ranges.extend(ranges4.chain(ranges6));
        let nodes4: Vec<(Address4, u32)> = self.node_addresses4.read()?;
        let nodes6: Vec<(Address6, u32)> = self.node_addresses6.read()?;
        let nodes4 = nodes4.iter().map(|(ip, _)| IpAddr::from(ip.octets()));
        let nodes6 = nodes6.iter().map(|(ip, _)| IpAddr::from(ip.octets()));
        entries.node_addresses.extend(nodes4.chain(nodes6));
        Ok(entries)
    }

    /// Carries out a plan: backends, matches, ranges, slots, frontends; then deletions in reverse.
    ///
    /// Stops at the first failure. What was written by then is consistent, but the plan's tables no longer say what is in
    /// the maps: they have to be read anew.
    pub fn apply(&mut self, plan: &Plan) -> Result<(), MapsError> {
        self.backends4
            .update(&picked(&plan.put_backends, |&(id, address)| {
                Some((id, backend4(address)?))
            }))?;
        self.backends6
            .update(&picked(&plan.put_backends, |&(id, address)| {
                Some((id, backend6(address)?))
            }))?;
        self.matches
            .update(&picked(&plan.put_matches, |&key| Some((key, 1_u32))))?;
        for &(service, range) in &plan.put_ranges {
            if let Some((bits, key)) = range4(service, range) {
                self.ranges4.insert(bits, key, 1)?;
            } else if let Some((bits, key)) = range6(service, range) {
                self.ranges6.insert(bits, key, 1)?;
            }
        }
        self.slots.update(&plan.put_slots)?;
        self.frontends4
            .update(&picked(&plan.put_frontends, |&(key, value)| {
                Some((frontend4(key)?, value))
            }))?;
        self.frontends6
            .update(&picked(&plan.put_frontends, |&(key, value)| {
                Some((frontend6(key)?, value))
            }))?;

        self.frontends4
            .delete(&picked(&plan.delete_frontends, |&key| frontend4(key)))?;
        self.frontends6
            .delete(&picked(&plan.delete_frontends, |&key| frontend6(key)))?;
        self.slots.delete(&plan.delete_slots)?;
        for &(service, range) in &plan.delete_ranges {
            if let Some((bits, key)) = range4(service, range) {
                self.ranges4.remove(bits, key)?;
            } else if let Some((bits, key)) = range6(service, range) {
                self.ranges6.remove(bits, key)?;
            }
        }
        self.matches.delete(&plan.delete_matches)?;
        self.backends4
            .delete(&picked(&plan.delete_backends, |&(id, address)| {
                backend4(address).map(|_| id)
            }))?;
        self.backends6
            .delete(&picked(&plan.delete_backends, |&(id, address)| {
                backend6(address).map(|_| id)
            }))?;

        let (put, delete) = (&plan.put_node_addresses, &plan.delete_node_addresses);
        self.node_addresses4
            .update(&picked(put, |&ip| Some((address4(ip)?, 1_u32))))?;
        self.node_addresses6
            .update(&picked(put, |&ip| Some((address6(ip)?, 1_u32))))?;
        self.node_addresses4.delete(&picked(delete, |&ip| address4(ip)))?;
        self.node_addresses6.delete(&picked(delete, |&ip| address6(ip)))?;
        Ok(())
    }
}

/// Which Service each socket was sent to a backend by. Programs write this, the agent only reads it.
#[derive(Debug)]
pub struct ReverseSockets {
    v4: Map,
    v6: Map,
}

impl ReverseSockets {
    /// Opens the pinned maps.
    pub fn open(dir: &Path) -> Result<Self, MapsError> {
        Ok(Self {
            v4: Map::open::<ReverseSkKey<Address4>, ReverseSk<Address4>>(dir, maps::REVERSE_SK4)?,
            v6: Map::open::<ReverseSkKey<Address6>, ReverseSk<Address6>>(dir, maps::REVERSE_SK6)?,
        })
    }

    /// The service by which a socket was sent to a backend; `None`: it was not, or that is forgotten.
    pub fn service(&self, cookie: [u32; 2], backend: SocketAddress) -> Result<Option<ServiceId>, MapsError> {
        let port = Port::new(backend.port);
        match backend.address {
            IpAddr::V4(address) => {
                let address = Address4::from_octets(address.octets());
                let key = ReverseSkKey {
                    cookie,
                    address,
                    port,
                    reserved: 0,
                };
                let found: Option<ReverseSk<Address4>> = self.v4.lookup(&key)?;
                Ok(found.map(|origin| origin.service))
            }
            IpAddr::V6(address) => {
                let address = Address6::from_octets(address.octets());
                let key = ReverseSkKey {
                    cookie,
                    address,
                    port,
                    reserved: 0,
                };
                let found: Option<ReverseSk<Address6>> = self.v6.lookup(&key)?;
                Ok(found.map(|origin| origin.service))
            }
        }
    }
}

impl Map {
    pub(crate) fn open<K: Pod, V: Pod>(dir: &Path, name: &'static str) -> Result<Self, MapsError> {
        let path = dir.join(name);
        let open_failed = |source| MapsError::Open {
            path: path.clone(),
            source,
        };
        let data = MapData::from_pin(&path).map_err(open_failed)?;
        let info = data.info().map_err(open_failed)?;
        let (key_size, value_size) = (info.key_size() as usize, info.value_size() as usize);
        if (key_size, value_size) != (size_of::<K>(), size_of::<V>()) {
            return Err(MapsError::Layout {
                path,
                key_size,
                value_size,
                wanted_key_size: size_of::<K>(),
                wanted_value_size: size_of::<V>(),
            });
        }
        Ok(Self {
            name,
            max_entries: info.max_entries(),
            data,
        })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.data.fd().as_fd()
    }

    pub(crate) fn read<K: Pod, V: Pod>(&self) -> Result<Vec<(K, V)>, MapsError> {
        sys::read(self.fd()).map_err(|source| MapsError::Read {
            name: self.name,
            source,
        })
    }

    fn copy<K: Pod + Sync, V: Pod + Sync>(&self, dir: &Path) -> Result<(), MapsError> {
        Self::open::<K, V>(dir, self.name)?.update(&self.read::<K, V>()?)
    }

    pub(crate) fn lookup<K: Pod, V: Pod>(&self, key: &K) -> Result<Option<V>, MapsError> {
        sys::lookup(self.fd(), key).map_err(|source| MapsError::Read {
            name: self.name,
            source,
        })
    }

    /// Removes a key, and returns the value that it had.
    pub(crate) fn take<K: Pod, V: Pod>(&self, key: &K) -> Result<Option<V>, MapsError> {
        sys::take(self.fd(), key).map_err(|source| MapsError::Delete {
            name: self.name,
            source,
        })
    }

    /// Adds an entry unless there is one with this key.
    pub(crate) fn add<K: Pod, V: Pod>(&self, key: &K, value: &V) -> Result<(), MapsError> {
        sys::add(self.fd(), key, value).map_err(|source| MapsError::Write {
            name: self.name,
            source,
        })
    }

    pub(crate) fn update<K: Pod + Sync, V: Pod + Sync>(&self, entries: &[(K, V)]) -> Result<(), MapsError> {
        let written = if entries.len() < PARALLEL_FROM {
            sys::update(self.fd(), entries)
        } else {
            let (first, second) = entries.split_at(entries.len() / 2);
            thread::scope(|scope| {
                let other = scope.spawn(|| sys::update(self.fd(), second));
                let written = sys::update(self.fd(), first);
                let other = other.join().unwrap_or_else(|panic| resume_unwind(panic));
                written.and(other)
            })
        };
        written.map_err(|source| match source.raw_os_error() {
            Some(libc::E2BIG) => MapsError::Full {
                name: self.name,
                max_entries: self.max_entries,
            },
            _ => MapsError::Write {
                name: self.name,
                source,
            },
        })
    }

    pub(crate) fn delete<K: Pod>(&self, keys: &[K]) -> Result<(), MapsError> {
        sys::delete(self.fd(), keys).map_err(|source| MapsError::Delete {
            name: self.name,
            source,
        })
    }
}

impl From<FrontendKey<Address4>> for FrontendAddress {
    fn from(key: FrontendKey<Address4>) -> Self {
        Self {
            socket: SocketAddress {
                address: Ipv4Addr::from(key.address.octets()).into(),
                port: key.port.get(),
                protocol: key.protocol,
            },
            scope: key.scope,
        }
    }
}

impl From<FrontendKey<Address6>> for FrontendAddress {
    fn from(key: FrontendKey<Address6>) -> Self {
        Self {
            socket: SocketAddress {
                address: Ipv6Addr::from(key.address.octets()).into(),
                port: key.port.get(),
                protocol: key.protocol,
            },
            scope: key.scope,
        }
    }
}

impl From<Backend<Address4>> for SocketAddress {
    fn from(backend: Backend<Address4>) -> Self {
        let address = Ipv4Addr::from(backend.address.octets()).into();
        Self {
            address,
            port: backend.port.get(),
            protocol: backend.protocol,
        }
    }
}

impl From<Backend<Address6>> for SocketAddress {
    fn from(backend: Backend<Address6>) -> Self {
        let address = Ipv6Addr::from(backend.address.octets()).into();
        Self {
            address,
            port: backend.port.get(),
            protocol: backend.protocol,
        }
    }
}

/// What a map of this size becomes by doubling until so many entries fit, or twice that were more than `entries_max`.
fn grown(max_entries: u32, entries: usize, entries_max: u32) -> u32 {
    let mut grown = max_entries;
    while (grown as usize) < entries && grown <= entries_max / 2 {
        grown *= 2;
    }
    grown
}

/// What concerns one map of a family.
fn picked<T, U>(items: &[T], pick: impl Fn(&T) -> Option<U>) -> Vec<U> {
    items.iter().filter_map(pick).collect()
}

fn frontend4(FrontendAddress { socket, scope }: FrontendAddress) -> Option<FrontendKey<Address4>> {
    Some(FrontendKey {
        address: address4(socket.address)?,
        port: Port::new(socket.port),
        protocol: socket.protocol,
        scope,
    })
}

fn frontend6(FrontendAddress { socket, scope }: FrontendAddress) -> Option<FrontendKey<Address6>> {
    Some(FrontendKey {
        address: address6(socket.address)?,
        port: Port::new(socket.port),
        protocol: socket.protocol,
        scope,
    })
}

fn backend4(
    SocketAddress {
        address,
        port,
        protocol,
    }: SocketAddress,
) -> Option<Backend<Address4>> {
    Some(Backend::new(address4(address)?, Port::new(port), protocol))
}

fn backend6(
    SocketAddress {
        address,
        port,
        protocol,
    }: SocketAddress,
) -> Option<Backend<Address6>> {
    Some(Backend::new(address6(address)?, Port::new(port), protocol))
}

/// Bits of a range's key that say which service's it is, and so belong to every prefix.
const SERVICE_BITS: u32 = u32::BITS;

fn range_of(bits: u32, network: IpAddr) -> Option<Cidr> {
    Cidr::of(network, bits.checked_sub(SERVICE_BITS)?.try_into().ok()?)
}

fn range4(service: ServiceId, range: Cidr) -> Option<(u32, SourceRangeKey<Address4>)> {
    let network = address4(range.address)?;
    Some((
        SERVICE_BITS + u32::from(range.prefix),
        SourceRangeKey { service, network },
    ))
}

fn range6(service: ServiceId, range: Cidr) -> Option<(u32, SourceRangeKey<Address6>)> {
    let network = address6(range.address)?;
    Some((
        SERVICE_BITS + u32::from(range.prefix),
        SourceRangeKey { service, network },
    ))
}

pub(crate) fn address4(address: IpAddr) -> Option<Address4> {
    match address {
        IpAddr::V4(address) => Some(Address4::from_octets(address.octets())),
        IpAddr::V6(_) => None,
    }
}

pub(crate) fn address6(address: IpAddr) -> Option<Address6> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(Address6::from_octets(address.octets())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_double_until_they_are_large_enough() {
        for (max_entries, entries, entries_max, expected) in [
            (4096, 0, 1 << 24, 4096),
            (4096, 4096, 1 << 24, 4096),
            (4096, 4097, 1 << 24, 8192),
            // In one step: each takes as long as programs take to load.
            (4096, 100_000, 1 << 24, 131_072),
            (4096, 100_000, 65_536, 65_536),
            // Not beyond what is allowed, where that is no power of two either.
            (4096, 100_000, 65_535, 32_768),
            (4096, 100_000, 4096, 4096),
            (4096, 100_000, 0, 4096),
            (1 << 31, usize::MAX, u32::MAX, 1 << 31),
        ] {
            assert_eq!(
                grown(max_entries, entries, entries_max),
                expected,
                "{max_entries} {entries} {entries_max}"
            );
        }
    }
}

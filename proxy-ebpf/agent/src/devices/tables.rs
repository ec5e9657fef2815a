//! The tables about devices, pods and networks. Nothing else writes them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use aya::Pod;
use proxy_ebpf_common::{Address4, Address6, Device, LocalPod, Node as NodeKind, NodeKey, maps};

use super::plan::State;
use crate::{
    apply::{Map, MapsError, PrefixMap, address4, address6},
    node::plan::Cidr,
};

/// The pinned maps.
#[derive(Debug)]
pub(super) struct DeviceTables {
    devices: Map,
    pods4: Map,
    pods6: Map,
    networks4: PrefixMap<NodeKey<Address4>, NodeKind>,
    networks6: PrefixMap<NodeKey<Address6>, NodeKind>,
}

impl DeviceTables {
    pub(super) fn open(dir: &Path) -> Result<Self, MapsError> {
        Ok(Self {
            devices: Map::open::<u32, Device>(dir, maps::DEVICES)?,
            pods4: Map::open::<Address4, LocalPod>(dir, maps::LOCAL_PODS4)?,
            pods6: Map::open::<Address6, LocalPod>(dir, maps::LOCAL_PODS6)?,
            networks4: PrefixMap::open(dir, maps::NODES4)?,
            networks6: PrefixMap::open(dir, maps::NODES6)?,
        })
    }

    /// What the tables hold; roles are not among it.
    pub(super) fn read(&self) -> Result<State, MapsError> {
        let pods4 = self.pods4.read::<Address4, LocalPod>()?.into_iter();
        let pods4 = pods4.map(|(address, pod)| (IpAddr::from(address.octets()), pod));
        let pods6 = self.pods6.read::<Address6, LocalPod>()?.into_iter();
        let pods6 = pods6.map(|(address, pod)| (IpAddr::from(address.octets()), pod));
        let networks4 = self
            .networks4
            .read()?
            .into_iter()
            .filter_map(|(bits, key, kind)| {
                let cidr = Cidr::of(
                    Ipv4Addr::from(key.network.octets()).into(),
                    u8::try_from(bits).ok()?,
                )?;
                Some((cidr, kind))
            });
        let networks6 = self
            .networks6
            .read()?
            .into_iter()
            .filter_map(|(bits, key, kind)| {
                let cidr = Cidr::of(
                    Ipv6Addr::from(key.network.octets()).into(),
                    u8::try_from(bits).ok()?,
                )?;
                Some((cidr, kind))
            });
        Ok(State {
            roles: BTreeMap::new(),
            devices: self.devices.read()?.into_iter().collect(),
            pods: pods4.chain(pods6).collect(),
            networks: networks4.chain(networks6).collect(),
        })
    }

    /// Writes what differs.
    pub(super) fn put(&mut self, written: &State, wanted: &State) -> Result<(), MapsError> {
        self.devices.update(&changed(&written.devices, &wanted.devices))?;
        let pods = changed(&written.pods, &wanted.pods);
        let of = |pods: &[(IpAddr, LocalPod)]| -> Vec<_> {
            pods.iter()
                .filter_map(|&(ip, pod)| Some((address4(ip)?, pod)))
                .collect()
        };
        self.pods4.update(&of(&pods))?;
        let of = |pods: &[(IpAddr, LocalPod)]| -> Vec<_> {
            pods.iter()
                .filter_map(|&(ip, pod)| Some((address6(ip)?, pod)))
                .collect()
        };
        self.pods6.update(&of(&pods))?;
        for (cidr, kind) in changed(&written.networks, &wanted.networks) {
            if let Some(network) = address4(cidr.address) {
                self.networks4
                    .insert(cidr.prefix.into(), NodeKey { network }, kind)?;
            } else if let Some(network) = address6(cidr.address) {
                self.networks6
                    .insert(cidr.prefix.into(), NodeKey { network }, kind)?;
            }
        }
        Ok(())
    }

    /// Removes what is no more.
    pub(super) fn delete(&mut self, written: &State, wanted: &State) -> Result<(), MapsError> {
        self.devices.delete(&gone(&written.devices, &wanted.devices))?;
        let pods = gone(&written.pods, &wanted.pods);
        let pods4: Vec<_> = pods.iter().filter_map(|&ip| address4(ip)).collect();
        let pods6: Vec<_> = pods.iter().filter_map(|&ip| address6(ip)).collect();
        self.pods4.delete(&pods4)?;
        self.pods6.delete(&pods6)?;
        for cidr in gone(&written.networks, &wanted.networks) {
            if let Some(network) = address4(cidr.address) {
                self.networks4.remove(cidr.prefix.into(), NodeKey { network })?;
            } else if let Some(network) = address6(cidr.address) {
                self.networks6.remove(cidr.prefix.into(), NodeKey { network })?;
            }
        }
        Ok(())
    }
}

fn changed<K: Ord + Copy, V: PartialEq + Copy + Pod>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
) -> Vec<(K, V)> {
    let changed = new.iter().filter(|(key, value)| old.get(key) != Some(value));
    changed.map(|(key, value)| (*key, *value)).collect()
}

fn gone<K: Ord + Copy, V>(old: &BTreeMap<K, V>, new: &BTreeMap<K, V>) -> Vec<K> {
    old.keys().filter(|key| !new.contains_key(key)).copied().collect()
}

//! The backends in the maps: an id for each address, and how many slots name it.

use std::hash::BuildHasher as _;

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
use proxy_ebpf_common::BackendId;

use super::{Sizes, is_roomy};
use crate::desired::SocketAddress;

/// The backends in the maps.
#[derive(Debug, Default)]
pub(super) struct Backends {
    known: HashMap<BackendId, Backend>,
    /// The id of each address, found by the hash of the address: the address itself is in `known`.
    ids: HashTable<BackendId>,
    hasher: DefaultHashBuilder,
    last_id: u32,
    /// Of IPv4 and of IPv6.
    sizes: [usize; 2],
}

#[derive(Debug)]
struct Backend {
    address: SocketAddress,
    /// Number of slots that name it.
    slots: u32,
}

impl Backends {
    /// Notes one that is in the maps. Of two ids for one address the lower one wins, whatever order they come in.
    pub(super) fn put(&mut self, id: BackendId, address: SocketAddress) {
        self.last_id = self.last_id.max(id.0);
        self.known.insert(id, Backend { address, slots: 0 });
        self.sizes[Sizes::family(address.address)] += 1;
        match self.id_of(&address) {
            Some(known) if known < id => {}
            Some(known) => {
                self.forget_id(&address, known);
                self.remember_id(&address, id);
            }
            None => self.remember_id(&address, id),
        }
    }

    /// Gives an address, which must have none, an id.
    pub(super) fn add(&mut self, address: SocketAddress) -> BackendId {
        let id = loop {
            // Counting on rather than filling gaps keeps an id from meaning another backend soon after.
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            let id = BackendId(self.last_id);
            if !self.known.contains_key(&id) {
                break id;
            }
        };
        self.known.insert(id, Backend { address, slots: 0 });
        self.sizes[Sizes::family(address.address)] += 1;
        self.remember_id(&address, id);
        id
    }

    /// One slot more names it.
    pub(super) fn take(&mut self, id: BackendId) {
        if let Some(backend) = self.known.get_mut(&id) {
            backend.slots += 1;
        }
    }

    /// One slot less names it. Whether there is such a backend.
    pub(super) fn leave(&mut self, id: BackendId) -> bool {
        let Some(backend) = self.known.get_mut(&id) else {
            return false;
        };
        backend.slots = backend.slots.saturating_sub(1);
        true
    }

    /// Those that no slot names.
    pub(super) fn idle(&self) -> impl Iterator<Item = BackendId> {
        let idle = self.known.iter().filter(|(_, backend)| backend.slots == 0);
        idle.map(|(&id, _)| id)
    }

    /// Forgets it if no slot names it, and returns its address then.
    pub(super) fn remove_idle(&mut self, id: BackendId) -> Option<SocketAddress> {
        let Backend { address, slots: 0 } = *self.known.get(&id)? else {
            return None;
        };
        // The ids are found by what is known.
        self.forget_id(&address, id);
        self.known.remove(&id);
        self.sizes[Sizes::family(address.address)] -= 1;
        Some(address)
    }

    /// The id that this address goes by.
    pub(super) fn id_of(&self, address: &SocketAddress) -> Option<BackendId> {
        let is_it = |id: &BackendId| {
            let known = self.known.get(id);
            known.is_some_and(|backend| backend.address == *address)
        };
        self.ids.find(self.hasher.hash_one(address), is_it).copied()
    }

    /// The address of a backend.
    pub(super) fn address(&self, id: BackendId) -> Option<SocketAddress> {
        self.known.get(&id).map(|backend| backend.address)
    }

    /// All of them, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (BackendId, SocketAddress)> {
        self.known.iter().map(|(&id, backend)| (id, backend.address))
    }

    /// Number of them.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// Numbers of those of IPv4 and of IPv6.
    pub(super) fn sizes(&self) -> [usize; 2] {
        self.sizes
    }

    /// Makes room for so many more.
    pub(super) fn reserve(&mut self, more: usize) {
        self.known.reserve(more);
        let hash = hash(&self.known, &self.hasher);
        self.ids.reserve(more, hash);
    }

    /// Gives back room that many more once needed.
    pub(super) fn shrink(&mut self) {
        if is_roomy(self.ids.len(), self.ids.capacity()) {
            let hash = hash(&self.known, &self.hasher);
            self.ids.shrink_to_fit(hash);
        }
        if is_roomy(self.known.len(), self.known.capacity()) {
            self.known.shrink_to_fit();
        }
    }

    /// Lets the address go by this id, which is known already. It must have none.
    fn remember_id(&mut self, address: &SocketAddress, id: BackendId) {
        let hash = hash(&self.known, &self.hasher);
        self.ids.insert_unique(self.hasher.hash_one(address), id, hash);
    }

    /// Does not let the address go by this id any more, if it does.
    fn forget_id(&mut self, address: &SocketAddress, id: BackendId) {
        let hash = self.hasher.hash_one(address);
        if let Ok(entry) = self.ids.find_entry(hash, |other| *other == id) {
            entry.remove();
        }
    }
}

/// The hash of the address that an id stands for.
fn hash<'a>(
    known: &'a HashMap<BackendId, Backend>,
    hasher: &'a DefaultHashBuilder,
) -> impl Fn(&BackendId) -> u64 + 'a {
    |id| {
        known
            .get(id)
            .map_or(0, |backend| hasher.hash_one(backend.address))
    }
}

//! The difference between what the API asks for and what is in the maps, as an ordered list of writes. Pure.
//!
//! [`Tables`] is what the maps hold, read from them at start and kept in step by [`Tables::plan`]. Ids come from there, so
//! that a restarted agent finds its services and backends under the ids that affinity and open sockets know them by.
//!
//! Invariants, at every point between two writes of a plan:
//! - every slot below a frontend's count names a backend that exists;
//! - a slot of a service holds a backend that the service has now or had before the plan, never another's.

mod backends;
mod sizes;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use hashbrown::{HashMap, HashSet};
use proxy_ebpf_common::{AffinityMatchKey, BackendId, Frontend, FrontendFlags, Protocol, ServiceId, SlotKey};

use self::backends::Backends;
pub use self::sizes::Sizes;
use crate::{
    desired::{FrontendAddress, HealthCheck, ObjectName, ServicePort, SocketAddress},
    node::plan::Cidr,
};

/// What is in the maps.
#[derive(Debug, Default)]
pub struct Tables {
    frontends: HashMap<FrontendAddress, OwnedFrontend>,
    /// Which frontends a Service has, so that one Service can be planned without a look at the others.
    owned: HashMap<ObjectName, Vec<FrontendAddress>>,
    services: HashMap<ServiceId, ServiceSlots>,
    backends: Backends,
    node_addresses: BTreeSet<IpAddr>,
    sizes: Sizes,
    last_service: u32,
}

#[derive(Debug)]
struct OwnedFrontend {
    value: Frontend,
    /// `None`: found in the maps, claimed by no Service yet.
    owner: Option<ObjectName>,
}

#[derive(Debug, Default)]
struct ServiceSlots {
    /// The backend of each slot; id zero: the slot is empty.
    slots: Box<[BackendId]>,
    /// What few have.
    special: Option<Box<Special>>,
    /// Number of frontends that lead here.
    frontends: u32,
}

/// What only some services have.
#[derive(Debug, Default)]
struct Special {
    /// The backends that affinity may keep to.
    matches: BTreeSet<BackendId>,
    /// Networks of clients that its restricted frontends admit.
    ranges: BTreeSet<Cidr>,
}

impl ServiceSlots {
    fn matches(&self) -> impl Iterator<Item = &BackendId> {
        self.special.iter().flat_map(|special| &special.matches)
    }

    fn ranges(&self) -> impl Iterator<Item = &Cidr> {
        self.special.iter().flat_map(|special| &special.ranges)
    }

    /// Replaces what `part` is of the rest, and returns what it was.
    fn replace<T>(
        &mut self,
        part: impl Fn(&mut Special) -> &mut BTreeSet<T>,
        wanted: BTreeSet<T>,
    ) -> BTreeSet<T> {
        if wanted.is_empty() && self.special.is_none() {
            return wanted;
        }
        let special = self.special.get_or_insert_default();
        let old = std::mem::replace(part(special), wanted);
        if special.matches.is_empty() && special.ranges.is_empty() {
            self.special = None;
        }
        old
    }
}

/// The entries of every map, as read from the kernel.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Entries {
    /// Both families.
    pub frontends: Vec<(FrontendAddress, Frontend)>,
    /// Slots.
    pub slots: Vec<(SlotKey, BackendId)>,
    /// Both families.
    pub backends: Vec<(BackendId, SocketAddress)>,
    /// Pairs that affinity may keep to.
    pub matches: Vec<AffinityMatchKey>,
    /// Networks of clients that a service admits. Both families.
    pub ranges: Vec<(ServiceId, Cidr)>,
    /// Addresses that have node ports. Both families.
    pub node_addresses: Vec<IpAddr>,
}

/// What a Service should look like now. Without ports: it is gone.
#[derive(Debug)]
pub struct Change {
    /// The Service.
    pub service: ObjectName,
    /// All of its ports.
    pub ports: Vec<ServicePort>,
    /// The health check that it asks for.
    pub health_check: Option<HealthCheck>,
}

impl Change {
    /// How many backends all ports have together.
    pub fn backends(&self) -> usize {
        self.ports.iter().map(|port| port.backends.len()).sum()
    }
}

/// Writes to the maps, in the order of the fields.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Backends come first: a slot must not name one that does not exist.
    pub put_backends: Vec<(BackendId, SocketAddress)>,
    /// Then what affinity may keep to, so that no client is given a backend that it may not come back to.
    pub put_matches: Vec<AffinityMatchKey>,
    /// And which clients are admitted, before a frontend asks for that.
    pub put_ranges: Vec<(ServiceId, Cidr)>,
    /// Then the slots.
    pub put_slots: Vec<(SlotKey, BackendId)>,
    /// Then the counts that make new slots visible and old ones invisible.
    pub put_frontends: Vec<(FrontendAddress, Frontend)>,
    /// Deletion goes the other way round.
    pub delete_frontends: Vec<FrontendAddress>,
    /// Slots that no count covers any more.
    pub delete_slots: Vec<SlotKey>,
    /// What affinity must not keep to any more.
    pub delete_matches: Vec<AffinityMatchKey>,
    /// Clients that are not admitted any more.
    pub delete_ranges: Vec<(ServiceId, Cidr)>,
    /// Backends that no slot names any more.
    pub delete_backends: Vec<(BackendId, SocketAddress)>,
    /// Addresses that have node ports now. Nothing refers to them.
    pub put_node_addresses: Vec<IpAddr>,
    /// Addresses that have no node ports any more.
    pub delete_node_addresses: Vec<IpAddr>,
    /// UDP backends that a service had and has no more: sockets that it connected to them are stuck there.
    pub left: Vec<(ServiceId, SocketAddress)>,
    /// UDP backends that a service has and had not: those that had left it before are back.
    pub joined: Vec<(ServiceId, SocketAddress)>,
    /// UDP frontends that lead to somebody and did not exist, or led to nobody: what was sent there went elsewhere.
    pub appeared: Vec<SocketAddress>,
    /// Frontends that are as they should be.
    pub unchanged: usize,
    /// Services that want a frontend which another Service has. They have to be planned again when that one goes.
    pub conflicts: Vec<(ObjectName, FrontendAddress)>,
}

impl Plan {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.writes() == 0
    }

    /// Number of entries to write or delete.
    pub fn writes(&self) -> usize {
        self.put_backends.len()
            + self.put_matches.len()
            + self.put_ranges.len()
            + self.put_slots.len()
            + self.put_frontends.len()
            + self.delete_frontends.len()
            + self.delete_slots.len()
            + self.delete_matches.len()
            + self.delete_ranges.len()
            + self.delete_backends.len()
            + self.put_node_addresses.len()
            + self.delete_node_addresses.len()
    }
}

impl Tables {
    /// The tables of a kernel that holds `entries`. Whatever a crash left half written is taken as it is; plans mend it.
    pub fn new(entries: Entries) -> Self {
        let mut tables = Self {
            node_addresses: entries.node_addresses.into_iter().collect(),
            ..Self::default()
        };
        for (id, address) in entries.backends {
            tables.backends.put(id, address);
        }
        let mut slots = HashMap::<ServiceId, Vec<BackendId>>::new();
        for (key, backend) in entries.slots {
            let slots = slots.entry(key.service).or_default();
            let index = key.slot as usize;
            if slots.len() <= index {
                slots.resize(index + 1, BackendId(0));
            }
            slots[index] = backend;
            tables.sizes.slots += 1;
            tables.backends.take(backend);
        }
        for (id, slots) in slots {
            tables.service(id).slots = slots.into();
        }
        for key in entries.matches {
            let special = tables.service(key.service).special.get_or_insert_default();
            special.matches.insert(key.backend);
            tables.sizes.matches += 1;
        }
        for (id, range) in entries.ranges {
            let special = tables.service(id).special.get_or_insert_default();
            special.ranges.insert(range);
            tables.sizes.ranges[Sizes::family(range.address)] += 1;
        }
        for (address, value) in entries.frontends {
            tables.service(value.service).frontends += 1;
            tables.sizes.frontends[Sizes::family(address.socket.address)] += 1;
            tables
                .frontends
                .insert(address, OwnedFrontend { value, owner: None });
        }
        tables
    }

    /// Plans the change of some Services and takes the plan as carried out. If carrying it out fails, the tables have to be
    /// read anew.
    pub fn plan(&mut self, changes: Vec<Change>) -> Plan {
        let mut plan = Plan::default();
        // Frontends are released first: within one batch of changes an address may pass from one Service to another.
        let mut released = BTreeSet::new();
        for change in &changes {
            for address in self.owned.remove(&change.service).unwrap_or_default() {
                if let Some(frontend) = self.frontends.get_mut(&address) {
                    frontend.owner = None;
                    released.insert(address);
                }
            }
        }
        self.reserve(&changes, &mut plan);
        let mut idle = BTreeSet::new();
        let ports = || changes.iter().flat_map(|change| &change.ports);
        let cluster_ips = if ports().all(|port| port.external.is_empty()) {
            // Nobody asks.
            HashSet::new()
        } else {
            ports().flat_map(ServicePort::cluster_ips).copied().collect()
        };
        // Two ports that shared an id must not go on sharing its slots.
        let mut taken = HashSet::new();
        // Borrowed, so that all of what was asked for goes at once when this is done: what is kept would come to lie in the gaps
        // that it leaves one by one, and the memory between could not be given back.
        for Change { service, ports, .. } in &changes {
            for port in ports {
                self.plan_port(service, port, &cluster_ips, &mut taken, &mut idle, &mut plan);
            }
        }
        for address in released {
            if self
                .frontends
                .get(&address)
                .is_some_and(|frontend| frontend.owner.is_none())
            {
                self.delete_frontend(address, &mut idle, &mut plan);
            }
        }
        self.delete_idle_backends(idle, &mut plan);
        plan
    }

    /// Plans the state of all Services: like [`Self::plan`], and deletes whatever else the maps hold. Only to be used with
    /// complete lists of Services and EndpointSlices.
    pub fn plan_all(&mut self, changes: Vec<Change>) -> Plan {
        let gone: BTreeSet<_> = if self.owned.is_empty() {
            BTreeSet::new()
        } else {
            let kept: HashSet<_> = changes.iter().map(|change| &change.service).collect();
            self.owned
                .keys()
                .filter(|service| !kept.contains(service))
                .cloned()
                .collect()
        };
        let gone = gone.into_iter().map(|service| Change {
            service,
            ports: Vec::new(),
            health_check: None,
        });
        let mut plan = self.plan(changes.into_iter().chain(gone).collect());
        let unclaimed = self
            .frontends
            .iter()
            .filter(|(_, frontend)| frontend.owner.is_none());
        let unclaimed: BTreeSet<_> = unclaimed.map(|(&address, _)| address).collect();
        self.delete_with_orphans(unclaimed, &mut plan);
        plan
    }

    /// Plans the deletion of these frontends, and of whatever the maps hold that no frontend leads to: what a plan that was not
    /// carried out to its end has left in maps that are full now.
    pub fn plan_deletion(&mut self, frontends: BTreeSet<FrontendAddress>) -> Plan {
        let mut plan = Plan::default();
        self.delete_with_orphans(frontends, &mut plan);
        plan
    }

    /// Makes room for what does not exist yet, at once: tables that grow by and by are hashed again and again.
    fn reserve(&mut self, changes: &[Change], plan: &mut Plan) {
        let ports = || changes.iter().flat_map(|change| &change.ports);
        let frontends: usize = ports().map(|port| port.frontends.len()).sum();
        let backends: usize = ports().map(|port| port.backends.len()).sum();
        let new = |wanted: usize, known: usize| wanted.saturating_sub(known);
        let new_backends = new(backends, self.backends.len());
        let new_frontends = new(frontends, self.frontends.len());
        self.frontends.reserve(new_frontends);
        self.owned.reserve(new(changes.len(), self.owned.len()));
        self.services.reserve(new(ports().count(), self.services.len()));
        self.backends.reserve(new_backends);
        plan.put_backends.reserve(new_backends);
        plan.put_slots.reserve(new(backends, self.sizes.slots));
        plan.put_frontends.reserve(new_frontends);
    }

    fn delete_with_orphans(&mut self, frontends: BTreeSet<FrontendAddress>, plan: &mut Plan) {
        let mut idle = BTreeSet::new();
        for address in frontends {
            self.delete_frontend(address, &mut idle, plan);
        }
        let orphans = self.services.iter().filter(|(_, service)| service.frontends == 0);
        let orphans: BTreeSet<_> = orphans.map(|(&id, _)| id).collect();
        for id in orphans {
            self.delete_service(id, &mut idle, plan);
        }
        idle.extend(self.backends.idle());
        self.delete_idle_backends(idle, plan);
    }

    /// Adds what changes of the addresses of node ports. Like [`Self::plan`], takes it as carried out.
    pub fn plan_node_addresses(&mut self, wanted: BTreeSet<IpAddr>, plan: &mut Plan) {
        plan.put_node_addresses
            .extend(wanted.difference(&self.node_addresses));
        plan.delete_node_addresses
            .extend(self.node_addresses.difference(&wanted));
        self.node_addresses = wanted;
    }

    fn plan_port(
        &mut self,
        owner: &ObjectName,
        port: &ServicePort,
        cluster_ips: &HashSet<FrontendAddress>,
        taken: &mut HashSet<ServiceId>,
        idle: &mut BTreeSet<BackendId>,
        plan: &mut Plan,
    ) {
        self.take_back(port, plan);
        let frontends = port.frontends.iter().copied();
        let (frontends, conflicts): (Vec<_>, Vec<_>) = frontends.partition(|address| {
            let is_free = self
                .frontends
                .get(address)
                .is_none_or(|frontend| frontend.owner.is_none());
            is_free && !(port.external.contains(address) && cluster_ips.contains(address))
        });
        plan.conflicts
            .extend(conflicts.into_iter().map(|address| (owner.clone(), address)));
        if frontends.is_empty() {
            return;
        }
        // What was another kind of address was, or is, another Service's, which keeps its id.
        let known = frontends.iter().filter_map(|address| {
            let old = self.frontends.get(address)?.value;
            let is_same_kind = old.flags.contains(FrontendFlags::EXTERNAL) == port.external.contains(address);
            is_same_kind.then_some(old.service)
        });
        let id = known
            .into_iter()
            .find(|id| !taken.contains(id))
            .unwrap_or_else(|| self.next_service());
        taken.insert(id);

        let slots = self.plan_slots(id, &port.backends, idle, plan);
        self.plan_matches(id, port.affinity_timeout_s > 0, plan);
        self.plan_ranges(id, &port.source_ranges, plan);
        let elsewhere = if port.elsewhere {
            FrontendFlags::ELSEWHERE
        } else {
            FrontendFlags::default()
        };
        for &address in &frontends {
            let mut external = if port.external.contains(&address) {
                FrontendFlags::EXTERNAL
            } else {
                FrontendFlags::default()
            };
            if port.restricted.contains(&address) {
                external = external.union(FrontendFlags::SOURCE_RANGES);
                if port.admits_node {
                    external = external.union(FrontendFlags::ADMITS_NODE);
                }
            }
            let value = Frontend {
                service: id,
                slots,
                affinity_timeout_s: port.affinity_timeout_s,
                flags: elsewhere.union(external),
            };
            let frontend = OwnedFrontend {
                value,
                owner: Some(owner.clone()),
            };
            let old = self.frontends.insert(address, frontend).map(|old| old.value);
            if slots > 0 && address.socket.protocol == Protocol::UDP && old.is_none_or(|old| old.slots == 0) {
                plan.appeared.push(address.socket);
            }
            match old {
                Some(old) if old == value => {
                    plan.unchanged += 1;
                    continue;
                }
                Some(old) if old.service == id => {}
                Some(old) => {
                    self.service(id).frontends += 1;
                    self.release_service(old.service, idle, plan);
                }
                None => {
                    self.sizes.frontends[Sizes::family(address.socket.address)] += 1;
                    self.service(id).frontends += 1;
                }
            }
            plan.put_frontends.push((address, value));
        }
        let owned = self.owned.entry(owner.clone()).or_default();
        owned.reserve_exact(frontends.len());
        owned.extend(frontends);
    }

    /// Frees what a cluster IP of this port has in common with another Service's external addresses: whoever may write
    /// externalIPs must not take over a Service of somebody else by naming its address.
    fn take_back(&mut self, port: &ServicePort, plan: &mut Plan) {
        for address in port.cluster_ips() {
            let Some(frontend) = self.frontends.get_mut(address) else {
                continue;
            };
            if !frontend.value.flags.contains(FrontendFlags::EXTERNAL) {
                continue;
            }
            if let Some(owner) = frontend.owner.take() {
                if let Some(owned) = self.owned.get_mut(&owner) {
                    owned.retain(|other| other != address);
                }
                plan.conflicts.push((owner, *address));
            }
        }
    }

    /// Gives every wanted backend a slot, moving as few as possible, and returns their number.
    fn plan_slots(
        &mut self,
        id: ServiceId,
        wanted: &[SocketAddress],
        idle: &mut BTreeSet<BackendId>,
        plan: &mut Plan,
    ) -> u32 {
        let has_datagrams = wanted.iter().any(|address| address.protocol == Protocol::UDP);
        let wanted: Vec<BackendId> = wanted
            .iter()
            .map(|&address| self.backend(address, plan))
            .collect();
        let old = std::mem::take(&mut self.service(id).slots);
        let slots = placed(&old, wanted);
        let count = slots.len();
        for (index, &backend) in slots.iter().enumerate() {
            if old.get(index) != Some(&backend) {
                plan.put_slots.push((
                    SlotKey {
                        service: id,
                        slot: index as u32,
                    },
                    backend,
                ));
            }
        }
        let superfluous = old
            .iter()
            .enumerate()
            .skip(count)
            .filter(|(_, backend)| backend.0 != 0);
        plan.delete_slots.extend(superfluous.map(|(index, _)| SlotKey {
            service: id,
            slot: index as u32,
        }));

        self.note_left(id, without(&old, &slots), plan);
        if has_datagrams {
            let joined = self.datagram_backends(id, without(&slots, &old));
            plan.joined.extend(joined);
        }
        for &backend in &slots {
            self.backends.take(backend);
        }
        self.unuse(&old, idle);
        self.sizes.slots += slots.len();
        self.sizes.slots -= old.iter().filter(|backend| backend.0 != 0).count();
        self.service(id).slots = slots.into();
        count as u32
    }

    fn plan_matches(&mut self, id: ServiceId, affinity: bool, plan: &mut Plan) {
        let service = self.service(id);
        let wanted: BTreeSet<_> = if affinity {
            service.slots.iter().copied().collect()
        } else {
            BTreeSet::new()
        };
        let old = service.replace(|special| &mut special.matches, wanted.clone());
        self.sizes.matches = self.sizes.matches + wanted.len() - old.len();
        let key = |&backend: &BackendId| AffinityMatchKey { service: id, backend };
        plan.put_matches.extend(wanted.difference(&old).map(key));
        plan.delete_matches.extend(old.difference(&wanted).map(key));
    }

    fn plan_ranges(&mut self, id: ServiceId, wanted: &BTreeSet<Cidr>, plan: &mut Plan) {
        let service = self.service(id);
        let old = service.replace(|special| &mut special.ranges, wanted.clone());
        for &range in wanted.difference(&old) {
            self.sizes.ranges[Sizes::family(range.address)] += 1;
            plan.put_ranges.push((id, range));
        }
        for &range in old.difference(wanted) {
            self.sizes.ranges[Sizes::family(range.address)] -= 1;
            plan.delete_ranges.push((id, range));
        }
    }

    fn delete_frontend(&mut self, address: FrontendAddress, idle: &mut BTreeSet<BackendId>, plan: &mut Plan) {
        if let Some(frontend) = self.frontends.remove(&address) {
            self.sizes.frontends[Sizes::family(address.socket.address)] -= 1;
            plan.delete_frontends.push(address);
            self.release_service(frontend.value.service, idle, plan);
        }
    }

    /// One frontend less leads to the service; the last one takes it along.
    fn release_service(&mut self, id: ServiceId, idle: &mut BTreeSet<BackendId>, plan: &mut Plan) {
        let service = self.service(id);
        service.frontends = service.frontends.saturating_sub(1);
        if service.frontends == 0 {
            self.delete_service(id, idle, plan);
        }
    }

    fn delete_service(&mut self, id: ServiceId, idle: &mut BTreeSet<BackendId>, plan: &mut Plan) {
        let Some(service) = self.services.remove(&id) else {
            return;
        };
        let slots = service
            .slots
            .iter()
            .enumerate()
            .filter(|(_, backend)| backend.0 != 0);
        plan.delete_slots.extend(slots.map(|(index, _)| SlotKey {
            service: id,
            slot: index as u32,
        }));
        self.note_left(id, service.slots.iter(), plan);
        self.sizes.slots -= service.slots.iter().filter(|backend| backend.0 != 0).count();
        self.sizes.matches -= service.matches().count();
        let matches = service.matches();
        plan.delete_matches
            .extend(matches.map(|&backend| AffinityMatchKey { service: id, backend }));
        for &range in service.ranges() {
            self.sizes.ranges[Sizes::family(range.address)] -= 1;
            plan.delete_ranges.push((id, range));
        }
        self.unuse(&service.slots, idle);
    }

    fn note_left<'a>(
        &self,
        service: ServiceId,
        backends: impl Iterator<Item = &'a BackendId>,
        plan: &mut Plan,
    ) {
        // Connections end themselves; datagrams vanish without a word.
        plan.left.extend(self.datagram_backends(service, backends));
    }

    fn datagram_backends<'a>(
        &self,
        service: ServiceId,
        backends: impl Iterator<Item = &'a BackendId>,
    ) -> impl Iterator<Item = (ServiceId, SocketAddress)> {
        let addresses = backends
            .filter_map(|&id| self.backends.address(id))
            .filter(|address| address.protocol == Protocol::UDP);
        addresses.map(move |address| (service, address))
    }

    fn unuse(&mut self, slots: &[BackendId], idle: &mut BTreeSet<BackendId>) {
        for &id in slots {
            if self.backends.leave(id) {
                idle.insert(id);
            }
        }
    }

    fn delete_idle_backends(&mut self, idle: BTreeSet<BackendId>, plan: &mut Plan) {
        let gone = idle
            .into_iter()
            .filter_map(|id| Some((id, self.backends.remove_idle(id)?)));
        plan.delete_backends.extend(gone);
    }

    /// The id of a backend, new if need be.
    fn backend(&mut self, address: SocketAddress, plan: &mut Plan) -> BackendId {
        self.backends.id_of(&address).unwrap_or_else(|| {
            let id = self.backends.add(address);
            plan.put_backends.push((id, address));
            id
        })
    }

    /// Gives back room that much larger tables once needed.
    pub fn shrink(&mut self) {
        if is_roomy(self.frontends.len(), self.frontends.capacity()) {
            self.frontends.shrink_to_fit();
        }
        if is_roomy(self.owned.len(), self.owned.capacity()) {
            self.owned.shrink_to_fit();
        }
        if is_roomy(self.services.len(), self.services.capacity()) {
            self.services.shrink_to_fit();
        }
        self.backends.shrink();
    }

    fn next_service(&mut self) -> ServiceId {
        loop {
            self.last_service = self.last_service.checked_add(1).unwrap_or(1);
            let id = ServiceId(self.last_service);
            if !self.services.contains_key(&id) {
                return id;
            }
        }
    }

    fn service(&mut self, id: ServiceId) -> &mut ServiceSlots {
        self.last_service = self.last_service.max(id.0);
        self.services.entry(id).or_default()
    }

    /// Of these pairs of a service and a backend, those that no client is sent by any more.
    pub fn astray(
        &self,
        served: impl IntoIterator<Item = (ServiceId, SocketAddress)>,
    ) -> Vec<(ServiceId, SocketAddress)> {
        let mut astray = Vec::new();
        let mut known: HashMap<ServiceId, HashMap<BackendId, SocketAddress>> = HashMap::default();
        for (service, backend) in served {
            match self.backends.id_of(&backend) {
                Some(id) => drop(known.entry(service).or_default().insert(id, backend)),
                None => astray.push((service, backend)),
            }
        }
        for (service, mut backends) in known {
            let slots = self.services.get(&service).map(|service| &service.slots[..]);
            for id in slots.unwrap_or_default() {
                backends.remove(id);
            }
            astray.extend(backends.into_values().map(|backend| (service, backend)));
        }
        astray
    }

    /// Number of frontends.
    pub fn frontends(&self) -> usize {
        self.frontends.len()
    }

    /// Numbers of entries.
    pub fn sizes(&self) -> Sizes {
        let ipv6 = self.node_addresses.iter().filter(|ip| ip.is_ipv6()).count();
        Sizes {
            node_addresses: [self.node_addresses.len() - ipv6, ipv6],
            backends: self.backends.sizes(),
            ..self.sizes
        }
    }

    /// Addresses that have node ports.
    pub fn node_addresses(&self) -> &BTreeSet<IpAddr> {
        &self.node_addresses
    }

    /// Number of backends.
    pub fn backends(&self) -> usize {
        self.backends.len()
    }

    /// What the maps hold, in order: for tests and for people.
    pub fn entries(&self) -> Entries {
        let frontends: BTreeMap<_, _> = self
            .frontends
            .iter()
            .map(|(&address, frontend)| (address, frontend.value))
            .collect();
        let mut entries = Entries {
            frontends: frontends.into_iter().collect(),
            node_addresses: self.node_addresses.iter().copied().collect(),
            ..Entries::default()
        };
        for (&service, slots) in &self.services {
            let filled = slots
                .slots
                .iter()
                .enumerate()
                .filter(|(_, backend)| backend.0 != 0);
            entries.slots.extend(filled.map(|(index, &id)| {
                (
                    SlotKey {
                        service,
                        slot: index as u32,
                    },
                    id,
                )
            }));
            entries
                .ranges
                .extend(slots.ranges().map(|&range| (service, range)));
            let matches = slots.matches();
            entries
                .matches
                .extend(matches.map(|&backend| AffinityMatchKey { service, backend }));
        }
        entries.backends.extend(self.backends.iter());
        entries.slots.sort_unstable();
        entries.backends.sort_unstable();
        entries.matches.sort_unstable();
        entries.ranges.sort_unstable();
        entries
    }
}

/// Whether a table has room for several times what it holds.
fn is_roomy(len: usize, capacity: usize) -> bool {
    len < capacity / 4
}

/// The backends of a service's slots: the wanted ones, as few as possible of them elsewhere than they are.
fn placed(old: &[BackendId], wanted: Vec<BackendId>) -> Vec<BackendId> {
    if old.is_empty() {
        return wanted;
    }
    let mut missing: BTreeSet<BackendId> = wanted.iter().copied().collect();
    let count = missing.len();
    // What stays where it is. A backend beyond the new count moves into a gap.
    let mut slots: Vec<Option<BackendId>> = old
        .iter()
        .take(count)
        .map(|backend| missing.take(backend))
        .collect();
    slots.resize(count, None);
    // The order of the API decides where new backends go, so that equal input gives equal plans.
    let mut rest = wanted.into_iter().filter(|backend| missing.remove(backend));
    slots
        .into_iter()
        .filter_map(|slot| slot.or_else(|| rest.next()))
        .collect()
}

/// Those of some that are not among others.
fn without<'a>(some: &'a [BackendId], others: &[BackendId]) -> impl Iterator<Item = &'a BackendId> {
    let others: HashSet<_> = if some.is_empty() {
        HashSet::new()
    } else {
        others.iter().copied().collect()
    };
    some.iter().filter(move |backend| !others.contains(*backend))
}

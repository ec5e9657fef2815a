//! The objects of the API as far as the data plane needs them, kept by watches, and which Services have changed since they
//! were last planned. Pure.

use std::{collections::BTreeSet, hash::Hash, net::IpAddr};

use hashbrown::HashMap;
use kube::runtime::watcher::Event;

use crate::{
    desired::{EndpointSlice, ObjectName, Service, ThisNode, health_check, service_ports},
    host_ports::HostPorts,
    plan::Change,
};

/// Services and EndpointSlices, and the host ports of this node's pods, each of which is like a Service.
#[derive(Debug, Default)]
pub struct Objects {
    services: Collection<ObjectName, Service>,
    slices: Collection<ObjectName, EndpointSlice>,
    /// Names of the slices of each Service, in order. Most have one.
    slices_of: HashMap<ObjectName, Vec<ObjectName>>,
    /// Host ports, by a name that no Service can have; `None`: nobody asked for them.
    pods: Option<Collection<ObjectName, HostPorts>>,
    /// Addresses of this node.
    node_addresses: BTreeSet<IpAddr>,
    /// Not noted until everything is known, as nobody asks for changes then.
    changed: BTreeSet<ObjectName>,
    /// Number of endpoints of all slices that no traffic may be sent to.
    ignored_endpoints: usize,
    /// The zone of this node.
    zone: Option<Box<str>>,
}

impl Objects {
    /// Takes in an event of the watch on Services; an object without a value is none of ours. Returns how many have changed.
    pub fn on_service(&mut self, event: Event<(ObjectName, Option<Service>)>) -> u64 {
        let mut count = 0;
        let noted = self.synced();
        let changed = &mut self.changed;
        self.services.on_event(event, |name, _, _| {
            count += 1;
            if noted {
                changed.insert(name.clone());
            }
        });
        count
    }

    /// Takes in an event of the watch on EndpointSlices. Returns how many have changed.
    pub fn on_slice(&mut self, mut event: Event<(ObjectName, Option<EndpointSlice>)>) -> u64 {
        if let Event::Apply((_, Some(slice))) | Event::InitApply((_, Some(slice))) = &mut event {
            let of_service = self.services.key(slice.service());
            if let Some(known) = of_service.or_else(|| key(&self.slices_of, slice.service())) {
                slice.share_name(&known.clone());
            }
        }
        let mut count = 0;
        let noted = self.synced();
        let Self {
            slices,
            slices_of,
            changed,
            ignored_endpoints,
            ..
        } = self;
        slices.on_event(event, |name, old, new| {
            count += 1;
            *ignored_endpoints += new.map_or(0, EndpointSlice::ignored);
            *ignored_endpoints -= old.map_or(0, EndpointSlice::ignored);
            // The label may be edited: both Services are concerned.
            if let Some(service) = old.map(EndpointSlice::service) {
                if noted {
                    changed.insert(service.clone());
                }
                if let Some(names) = slices_of.get_mut(service) {
                    names.retain(|other| other != name);
                    if names.is_empty() {
                        slices_of.remove(service);
                    }
                }
            }
            if let Some(service) = new.map(EndpointSlice::service) {
                if noted {
                    changed.insert(service.clone());
                }
                let names = slices_of.entry(service.clone()).or_default();
                if let Err(place) = names.binary_search(name) {
                    names.reserve_exact(1);
                    names.insert(place, name.clone());
                }
            }
        });
        count
    }

    /// Number of endpoints that no traffic may be sent to, whatever their slices say.
    pub fn ignored_endpoints(&self) -> usize {
        self.ignored_endpoints
    }

    /// Says that there will be a watch on Pods, whose list has to be complete too.
    pub fn expect_pods(&mut self) {
        self.pods.get_or_insert_default();
    }

    /// Takes in an event of the watch on this node's Pods.
    pub fn on_pod(&mut self, event: Event<(ObjectName, Option<HostPorts>)>) {
        let changed = &mut self.changed;
        self.pods.get_or_insert_default().on_event(event, |name, _, _| {
            changed.insert(name.clone());
        });
    }

    /// Whether all watches have delivered a complete list once. Before that, nothing may be concluded from an absence.
    pub fn synced(&self) -> bool {
        self.services.synced && self.slices.synced && self.pods.as_ref().is_none_or(|pods| pods.synced)
    }

    /// Says which addresses this node has: host ports are open there, and source ranges may name them.
    pub fn set_node_addresses(&mut self, addresses: BTreeSet<IpAddr>) {
        if self.node_addresses != addresses {
            self.node_addresses = addresses;
            let pods = self.pods.iter().flat_map(|pods| pods.current.keys());
            self.changed.extend(pods.cloned());
            let services = self.services.current.iter();
            let restricted = services.filter(|(_, service)| service.has_source_ranges());
            self.changed.extend(restricted.map(|(name, _)| name.clone()));
        }
    }

    /// Says which zone this node is in: endpoints that are meant for other zones may have to be left to them.
    pub fn set_zone(&mut self, zone: Option<&str>) {
        if self.zone.as_deref() != zone {
            self.zone = zone.map(Box::from);
            self.changed.extend(self.slices_of.keys().cloned());
        }
    }

    /// Asks for a Service to be planned again.
    pub fn touch(&mut self, service: ObjectName) {
        self.changed.insert(service);
    }

    /// The Services that have changed since they were taken last, or since [`Self::all`].
    pub fn changed(&self) -> &BTreeSet<ObjectName> {
        &self.changed
    }

    /// What the Services that changed should look like now, except for those that wait.
    pub fn take_changes(&mut self, waits: impl Fn(&ObjectName) -> bool) -> Vec<Change> {
        let changed = std::mem::take(&mut self.changed);
        let (waiting, changed): (BTreeSet<_>, BTreeSet<_>) = changed.into_iter().partition(waits);
        self.changed = waiting;
        changed.into_iter().map(|name| self.change(name)).collect()
    }

    /// Whether anything is known of a Service, so that planning it is more than removing it.
    pub fn is_there(&self, service: &ObjectName) -> bool {
        self.services.current.contains_key(service)
    }

    /// What every Service should look like. To be asked first of all, once everything is known ([`Self::synced`]).
    pub fn all(&mut self) -> Vec<Change> {
        self.changed.clear();
        let pods = self.pods.iter().flat_map(|pods| pods.current.keys());
        let mut names: Vec<_> = self.services.current.keys().chain(pods).cloned().collect();
        names.sort_unstable();
        names.into_iter().map(|name| self.change(name)).collect()
    }

    fn change(&self, service: ObjectName) -> Change {
        if let Some(pod) = self.pods.as_ref().and_then(|pods| pods.current.get(&service)) {
            return Change {
                ports: pod.service_ports(&self.node_addresses),
                health_check: None,
                service,
            };
        }
        let Some(spec) = self.services.current.get(&service) else {
            return Change {
                service,
                ports: Vec::new(),
                health_check: None,
            };
        };
        let names = self.slices_of.get(&service);
        let slices = names
            .into_iter()
            .flatten()
            .filter_map(|name| self.slices.current.get(name));
        Change {
            ports: service_ports(
                spec,
                slices.clone(),
                ThisNode {
                    zone: self.zone.as_deref(),
                    addresses: &self.node_addresses,
                },
            ),
            health_check: health_check(spec, slices),
            service,
        }
    }
}

fn key<'a, K: Eq + Hash, V>(map: &'a HashMap<K, V>, name: &K) -> Option<&'a K> {
    map.get_key_value(name).map(|(known, _)| known)
}

/// The objects of one watch.
#[derive(Debug)]
pub struct Collection<K, V> {
    current: HashMap<K, V>,
    /// The list that is being received; it replaces `current` once it is complete.
    relisting: Option<HashMap<K, V>>,
    synced: bool,
}

impl<K, V> Default for Collection<K, V> {
    fn default() -> Self {
        Self {
            current: HashMap::new(),
            relisting: None,
            synced: false,
        }
    }
}

impl<K: Eq + Hash, V: PartialEq> Collection<K, V> {
    /// Takes in an event and reports each object that differs afterwards, with its old and its new value.
    pub fn on_event(
        &mut self,
        event: Event<(K, Option<V>)>,
        mut changed: impl FnMut(&K, Option<&V>, Option<&V>),
    ) {
        match event {
            Event::Apply((key, new)) => self.set(key, new, &mut changed),
            Event::Delete((key, _)) => self.set(key, None, &mut changed),
            Event::Init => self.relisting = Some(HashMap::new()),
            Event::InitApply((key, Some(value))) => {
                self.relisting.get_or_insert_default().insert(key, value);
            }
            Event::InitApply((_, None)) => {}
            Event::InitDone => {
                let new = self.relisting.take().unwrap_or_default();
                let old = std::mem::replace(&mut self.current, new);
                for (key, value) in &old {
                    let new = self.current.get(key);
                    if new != Some(value) {
                        changed(key, Some(value), new);
                    }
                }
                for (key, value) in self.current.iter().filter(|(key, _)| !old.contains_key(*key)) {
                    changed(key, None, Some(value));
                }
                self.synced = true;
            }
        }
    }

    /// The key that is equal to this one, if there is one, also while a list is being received.
    pub fn key(&self, name: &K) -> Option<&K> {
        let relisting = self.relisting.as_ref();
        key(&self.current, name).or_else(|| key(relisting?, name))
    }

    /// The objects.
    pub fn current(&self) -> &HashMap<K, V> {
        &self.current
    }

    /// Whether a complete list has been received once.
    pub fn synced(&self) -> bool {
        self.synced
    }

    fn set(&mut self, key: K, new: Option<V>, changed: &mut impl FnMut(&K, Option<&V>, Option<&V>)) {
        let old = self.current.remove(&key);
        if old != new {
            changed(&key, old.as_ref(), new.as_ref());
        }
        if let Some(new) = new {
            self.current.insert(key, new);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds events about integers and returns what was reported.
    fn report(
        events: Vec<Event<(&'static str, Option<u32>)>>,
    ) -> Vec<(&'static str, Option<u32>, Option<u32>)> {
        let mut collection = Collection::default();
        let mut reported = Vec::new();
        for event in events {
            let mut batch = Vec::new();
            collection.on_event(event, |key, old, new| {
                batch.push((*key, old.copied(), new.copied()))
            });
            batch.sort_unstable();
            reported.extend(batch);
        }
        reported
    }

    #[test]
    fn a_list_counts_once_it_is_complete() {
        assert_eq!(report(vec![Event::Init, Event::InitApply(("a", Some(1)))]), []);
        assert_eq!(
            report(vec![
                Event::Init,
                Event::InitApply(("a", Some(1))),
                Event::InitDone
            ]),
            [("a", None, Some(1))]
        );
    }

    #[test]
    fn a_second_list_reports_differences_only() {
        let first = [
            Event::Init,
            Event::InitApply(("a", Some(1))),
            Event::InitApply(("b", Some(2))),
        ];
        let second = [
            Event::Init,
            Event::InitApply(("b", Some(2))),
            Event::InitApply(("c", Some(3))),
        ];
        let mut events: Vec<_> = first.into();
        events.push(Event::InitDone);
        events.extend(second);
        events.push(Event::InitDone);
        let expected = [
            ("a", None, Some(1)),
            ("b", None, Some(2)),
            ("a", Some(1), None),
            ("c", None, Some(3)),
        ];
        assert_eq!(report(events), expected);
    }

    #[test]
    fn a_repeated_event_is_no_change() {
        let events = vec![
            Event::Apply(("a", Some(1))),
            Event::Apply(("a", Some(1))),
            Event::Apply(("a", Some(2))),
            // An object that is no longer ours, and one that never was.
            Event::Apply(("a", None)),
            Event::Apply(("b", None)),
            Event::Delete(("b", None)),
        ];
        assert_eq!(
            report(events),
            [
                ("a", None, Some(1)),
                ("a", Some(1), Some(2)),
                ("a", Some(2), None)
            ]
        );
    }
}

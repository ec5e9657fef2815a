//! Services that are left out because one of them alone fills a map that must not grow any more: the others are served as if
//! it were not there. Pure.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::{
    desired::{FrontendAddress, ObjectName},
    plan::{Change, Sizes},
};

/// Whoever takes less than this part of a map is not the one to blame for its being full.
const BLAMED_PART: usize = 64;

/// The Services that are left out.
#[derive(Debug, Default)]
pub struct Refusals {
    /// With the entries that each of them asks for now: once there is room for them it gets another chance.
    wanted: HashMap<ObjectName, Sizes>,
}

/// A Service that has just been refused.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its name.
    pub service: ObjectName,
    /// How many frontends and backends it has.
    pub size: usize,
    /// Its frontends that no other Service asks for.
    pub frontends: BTreeSet<FrontendAddress>,
}

impl Refusals {
    /// Number of Services that are left out.
    pub fn count(&self) -> usize {
        self.wanted.len()
    }

    /// Forgets Services that are gone, given all that there are.
    pub fn keep_only(&mut self, all: &[Change]) {
        if !self.wanted.is_empty() {
            let there: HashSet<_> = all.iter().map(|change| &change.service).collect();
            self.wanted.retain(|service, _| there.contains(service));
        }
    }

    /// Takes away what the changes of refused Services ask for, their health checks too: a load balancer must not send here
    /// what nobody answers. One that asks for nothing any more is forgotten.
    pub fn apply(&mut self, changes: &mut [Change]) {
        for change in changes {
            let Some(wanted) = self.wanted.get_mut(&change.service) else {
                continue;
            };
            if change.ports.is_empty() {
                self.wanted.remove(&change.service);
                continue;
            }
            *wanted = Sizes::of(change);
            change.ports.clear();
            change.health_check = None;
        }
    }

    /// Lets in those Services for which there is room now, the small ones first, and returns them.
    pub fn admit(&mut self, mut room: Sizes) -> Vec<ObjectName> {
        let mut refused: Vec<_> = self.wanted.iter().collect();
        refused.sort_by_key(|&(service, wanted)| (wanted.total(), service));
        let mut admitted = Vec::new();
        for (service, &wanted) in refused {
            if let Some(rest) = room.without(wanted) {
                room = rest;
                admitted.push(service.clone());
            }
        }
        for service in &admitted {
            self.wanted.remove(service);
        }
        admitted
    }

    /// Refuses the largest of all Services, given what they ask for, because a map with `room` entries is full. `None`: the
    /// largest of them is not so large that it would be to blame.
    pub fn refuse_largest(&mut self, all: &[Change], room: u32) -> Option<Refused> {
        let served = all
            .iter()
            .filter(|change| !self.wanted.contains_key(&change.service));
        let largest = served.max_by_key(|change| size(change))?;
        let size = size(largest);
        if size * BLAMED_PART < room as usize {
            return None;
        }
        self.wanted.insert(largest.service.clone(), Sizes::of(largest));
        let mut own: BTreeSet<_> = frontends(largest).collect();
        let others = all.iter().filter(|change| change.service != largest.service);
        let others: HashSet<_> = others.flat_map(frontends).collect();
        own.retain(|frontend| !others.contains(frontend));
        Some(Refused {
            service: largest.service.clone(),
            size,
            frontends: own,
        })
    }
}

fn frontends(change: &Change) -> impl Iterator<Item = FrontendAddress> {
    change.ports.iter().flat_map(|port| &port.frontends).copied()
}

/// How many entries a Service asks for.
fn size(change: &Change) -> usize {
    let ports = change.ports.iter();
    ports.map(|port| port.frontends.len() + port.backends.len()).sum()
}

#[cfg(test)]
mod tests {
    use proxy_ebpf_common::Protocol;

    use super::*;
    use crate::desired::{HealthCheck, ServicePort, SocketAddress};

    fn change(name: &str, frontends: impl IntoIterator<Item = u16>, backends: u16) -> Change {
        let socket = |third, port| SocketAddress {
            address: [10, 0, third, 1].into(),
            port,
            protocol: Protocol::TCP,
        };
        Change {
            service: ObjectName::new("default", name),
            ports: vec![ServicePort {
                frontends: frontends.into_iter().map(|port| socket(0, port).into()).collect(),
                backends: (0..backends).map(|port| socket(1, port)).collect(),
                ..ServicePort::default()
            }],
            health_check: None,
        }
    }

    #[test]
    fn the_largest_is_refused_until_it_is_gone() {
        let all = [
            change("small", [5], 3),
            change("wide", 0..100, 0),
            change("popular", [200], 300),
        ];
        let mut refusals = Refusals::default();
        let refused = refusals.refuse_largest(&all, 1 << 10).expect("one is to blame");
        assert_eq!((refused.service.name(), refused.size), ("popular", 301));
        let refused = refusals
            .refuse_largest(&all, 1 << 10)
            .expect("another is to blame");
        assert_eq!((refused.service.name(), refused.size), ("wide", 100));
        // What another asks for too is not taken away from it.
        assert_eq!(refused.frontends.len(), 99);
        assert_eq!(refusals.refuse_largest(&all, 1 << 10), None, "four of a thousand");
        assert_eq!(refusals.count(), 2);

        let mut changes = [
            change("small", [5], 3),
            Change {
                health_check: Some(HealthCheck {
                    port: 32_000,
                    local_endpoints: 1,
                }),
                ..change("wide", 0..101, 0)
            },
            change("popular", [200], 299),
        ];
        refusals.apply(&mut changes);
        assert_eq!(changes[1].health_check, None);
        let kept: Vec<_> = changes.iter().map(|change| !change.ports.is_empty()).collect();
        assert_eq!(kept, [true, false, false]);
        assert_eq!(refusals.count(), 2);
        // It is deleted.
        refusals.apply(&mut [Change {
            ports: Vec::new(),
            ..change("wide", [], 0)
        }]);
        assert_eq!(refusals.count(), 1);

        // It is deleted while nobody looks.
        refusals.refuse_largest(&all, 1 << 10).expect("one is to blame");
        refusals.keep_only(&all);
        assert_eq!(refusals.count(), 2);
        refusals.keep_only(&all[..2]);
        assert_eq!(refusals.count(), 1);
    }

    #[test]
    fn those_for_which_there_is_room_are_let_in() {
        let room = |frontends, slots| Sizes {
            frontends: [frontends, 0],
            slots,
            // There are never more backends than slots.
            backends: [slots, 0],
            ..Sizes::default()
        };
        let refused = || {
            let mut refusals = Refusals::default();
            let all = [change("wide", 0..100, 0), change("popular", [200], 300)];
            for _ in &all {
                refusals.refuse_largest(&all, 1 << 10).expect("one is to blame");
            }
            refusals
        };
        for (room, expected) in [
            (room(0, 0), &[][..]),
            (room(99, 299), &[]),
            (room(1, 300), &["popular"]),
            (room(100, 299), &["wide"]),
            // There is room for either, not for both: the smaller one.
            (room(100, 300), &["wide"]),
            (room(101, 300), &["wide", "popular"]),
        ] {
            let mut refusals = refused();
            let admitted = refusals.admit(room);
            let names: Vec<_> = admitted.iter().map(ObjectName::name).collect();
            assert_eq!(names, expected, "{room:?}");
            assert_eq!(refusals.count(), 2 - expected.len());
            // What is let in is not held back any more.
            let mut changes = [change("wide", 0..100, 0), change("popular", [200], 300)];
            refusals.apply(&mut changes);
            for change in &changes {
                let is_kept = !change.ports.is_empty();
                assert_eq!(is_kept, expected.contains(&change.service.name()), "{room:?}");
            }
        }
    }

    #[test]
    fn what_counts_is_what_a_service_asks_for_now() {
        let mut refusals = Refusals::default();
        let all = [change("popular", [200], 300)];
        refusals.refuse_largest(&all, 1 << 10).expect("one is to blame");
        let room = Sizes {
            frontends: [10, 10],
            slots: 200,
            backends: [200, 200],
            ..Sizes::default()
        };
        for (backends, admitted) in [(300, 0), (301, 0), (201, 0), (200, 1)] {
            refusals.apply(&mut [change("popular", [200], backends)]);
            assert_eq!(refusals.admit(room).len(), admitted, "{backends} backends");
        }
        // Once more: it has grown since.
        refusals.refuse_largest(&all, 1 << 10).expect("one is to blame");
        assert_eq!(refusals.admit(room), []);
        assert_eq!(refusals.count(), 1);
    }
}

//! Services that are left out because one of them alone fills a map that must not grow any more: the others are served as if
//! it were not there. Pure.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::{
    desired::{FrontendAddress, ObjectName},
    plan::Change,
};

/// Whoever takes less than this part of a map is not the one to blame for its being full.
const BLAMED_PART: usize = 64;

/// The Services that are left out.
#[derive(Debug, Default)]
pub struct Refusals {
    /// With the number of entries that each had when it was refused: once it has fewer it gets another chance.
    sizes: HashMap<ObjectName, usize>,
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
        self.sizes.len()
    }

    /// Forgets Services that are gone, given all that there are.
    pub fn keep_only(&mut self, all: &[Change]) {
        if !self.sizes.is_empty() {
            let there: HashSet<_> = all.iter().map(|change| &change.service).collect();
            self.sizes.retain(|service, _| there.contains(service));
        }
    }

    /// Takes away what the changes of refused Services ask for, their health checks too: a load balancer must not send here
    /// what nobody answers. One that asks for less than it did is not refused any more.
    pub fn apply(&mut self, changes: &mut [Change]) {
        for change in changes {
            match self.sizes.get(&change.service) {
                None => {}
                Some(&refused) if size(change) < refused => {
                    self.sizes.remove(&change.service);
                }
                Some(_) => {
                    change.ports.clear();
                    change.health_check = None;
                }
            }
        }
    }

    /// Refuses the largest of all Services, given what they ask for, because a map with `room` entries is full. `None`: the
    /// largest of them is not so large that it would be to blame.
    pub fn refuse_largest(&mut self, all: &[Change], room: u32) -> Option<Refused> {
        let served = all
            .iter()
            .filter(|change| !self.sizes.contains_key(&change.service));
        let largest = served.max_by_key(|change| size(change))?;
        let size = size(largest);
        if size * BLAMED_PART < room as usize {
            return None;
        }
        self.sizes.insert(largest.service.clone(), size);
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
    fn the_largest_is_refused_until_it_is_smaller() {
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
        assert_eq!(kept, [true, false, true]);
        assert_eq!(refusals.count(), 1);
        // It is deleted.
        refusals.apply(&mut [Change {
            ports: Vec::new(),
            ..change("wide", [], 0)
        }]);
        assert_eq!(refusals.count(), 0);

        // It is deleted while nobody looks.
        refusals.refuse_largest(&all, 1 << 10).expect("one is to blame");
        refusals.keep_only(&all);
        assert_eq!(refusals.count(), 1);
        refusals.keep_only(&all[..2]);
        assert_eq!(refusals.count(), 0);
    }
}

//! How many of a Service's endpoints each zone should have: its share of the cluster's CPU, within a tolerance.
//!
//! The arithmetic is that of upstream's `topologycache` package, so that both come to the same decisions at the same numbers.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ZONE_LABEL;
use crate::objects::Node;

/// By how much an endpoint may be given more than its part of the load.
const OVERLOAD_MAX: f64 = 0.2;
/// Nodes that run no workloads have no clients either.
const CONTROL_PLANE_LABELS: [&str; 2] = [
    "node-role.kubernetes.io/control-plane",
    "node-role.kubernetes.io/master",
];

/// The part that each zone has of the CPU of all nodes; `None` if there is nothing to compare: a node does not tell its zone
/// or its CPU, or there are fewer than two zones.
pub(in crate::endpoint_slice) fn cpu_shares(nodes: &[Arc<Node>]) -> Option<BTreeMap<String, f64>> {
    let mut by_zone: BTreeMap<String, i64> = BTreeMap::new();
    for node in nodes.iter().filter(|node| counts(node)) {
        let zone = node
            .metadata
            .labels
            .get(ZONE_LABEL)
            .filter(|zone| !zone.is_empty())?;
        let milli_cpu = node.status.allocatable.cpu.0;
        if milli_cpu == 0 {
            return None;
        }
        *by_zone.entry(zone.to_owned()).or_default() += milli_cpu;
    }
    let total: i64 = by_zone.values().sum();
    if by_zone.len() < 2 || total <= 0 {
        return None;
    }
    let share = |milli_cpu: i64| milli_cpu as f64 / total as f64;
    Some(
        by_zone
            .into_iter()
            .map(|(zone, milli_cpu)| (zone, share(milli_cpu)))
            .collect(),
    )
}

/// Whether a node's CPU is part of the reckoning.
pub(in crate::endpoint_slice) fn counts(node: &Node) -> bool {
    let ready = node
        .status
        .conditions
        .iter()
        .find(|condition| condition.type_ == "Ready");
    let workers = CONTROL_PLANE_LABELS
        .iter()
        .all(|label| node.metadata.labels.get(label).is_none());
    workers && ready.is_some_and(|condition| condition.status == "True")
}

/// How many endpoints a zone should have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Allocation {
    /// With fewer, each is overloaded.
    pub(super) minimum: usize,
    /// With more, another zone has fewer than its minimum.
    pub(super) maximum: usize,
    /// What its share comes to, and no less than the minimum.
    pub(super) desired: f64,
}

/// Why there are no allocations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unallocatable {
    /// See [`cpu_shares`].
    InsufficientNodeInfo,
    TooFewEndpoints,
    /// The minima add up to more than there is.
    Overload,
}

pub(super) fn allocations(
    shares: Option<&BTreeMap<String, f64>>,
    endpoints: usize,
) -> Result<BTreeMap<String, Allocation>, Unallocatable> {
    let shares = shares.ok_or(Unallocatable::InsufficientNodeInfo)?;
    if shares.len() > endpoints {
        return Err(Unallocatable::TooFewEndpoints);
    }
    let mut allocations: BTreeMap<String, Allocation> = shares
        .iter()
        .map(|(zone, share)| {
            let desired = share * endpoints as f64;
            let minimum = (desired * (1.0 / (1.0 + OVERLOAD_MAX))).ceil();
            let allocation = Allocation {
                minimum: minimum as usize,
                maximum: 0,
                desired: desired.max(minimum),
            };
            (zone.clone(), allocation)
        })
        .collect();
    let minima: usize = allocations.values().map(|allocation| allocation.minimum).sum();
    let slack = endpoints.checked_sub(minima).ok_or(Unallocatable::Overload)?;
    for allocation in allocations.values_mut() {
        allocation.maximum = allocation.minimum + slack;
    }
    Ok(allocations)
}

/// How many endpoints each zone gives to others, and how many each receives, so that all come near to what they should have.
/// An endpoint changes hands only if it brings one of the two zones a whole endpoint nearer and the other at least half of one:
/// staying in one's own zone is worth something.
pub(super) fn exchange(
    allocations: &BTreeMap<String, Allocation>,
    has: &BTreeMap<String, usize>,
) -> (BTreeMap<String, usize>, BTreeMap<String, usize>) {
    let mut surplus: BTreeMap<&str, f64> = BTreeMap::new();
    let mut deficit: BTreeMap<&str, f64> = BTreeMap::new();
    for (zone, allocation) in allocations {
        let difference = has.get(zone).copied().unwrap_or_default() as f64 - allocation.desired;
        if difference > 0.0 {
            surplus.insert(zone, difference);
        } else if difference < 0.0 {
            deficit.insert(zone, -difference);
        }
    }
    let (mut giving, mut receiving) = (BTreeMap::new(), BTreeMap::new());
    while let (Some((giver, gives)), Some((receiver, receives))) = (most(&surplus), most(&deficit)) {
        if (gives < 1.0 && receives < 1.0) || gives < 0.5 || receives < 0.5 {
            break;
        }
        surplus.insert(giver, gives - 1.0);
        deficit.insert(receiver, receives - 1.0);
        *giving.entry(giver.to_owned()).or_default() += 1;
        *receiving.entry(receiver.to_owned()).or_default() += 1;
    }
    (giving, receiving)
}

/// The zone with the greatest number above zero; of equals the first by name.
fn most<'a>(zones: &BTreeMap<&'a str, f64>) -> Option<(&'a str, f64)> {
    let mut found: Option<(&str, f64)> = None;
    for (&zone, &number) in zones {
        if number > found.map_or(0.0, |(_, greatest)| greatest) {
            found = Some((zone, number));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(zone: &str, cpu: &str, ready: &str, labels: Value) -> Arc<Node> {
        let mut object = json!({
            "metadata": {"labels": labels},
            "status": {"allocatable": {"cpu": cpu}, "conditions": [{"type": "Ready", "status": ready}]},
        });
        if !zone.is_empty() {
            object["metadata"]["labels"][ZONE_LABEL] = zone.into();
        }
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn map<T: Copy>(entries: &[(&str, T)]) -> BTreeMap<String, T> {
        entries
            .iter()
            .map(|(zone, value)| ((*zone).to_owned(), *value))
            .collect()
    }

    /// Rows follow upstream's `TestSetNodes`.
    #[test]
    fn shares() {
        let ready = |zone: &str, cpu: &str| node(zone, cpu, "True", json!({}));
        let unready = |zone: &str| node(zone, "1000m", "False", json!({}));
        let master = |zone: &str, label: &str| node(zone, "1000m", "True", json!({label: ""}));
        let half = Some(map(&[("zone-a", 0.5), ("zone-b", 0.5)]));
        for (name, nodes, expect) in [
            ("empty", vec![], None),
            ("single node", vec![ready("zone-a", "1000m")], None),
            (
                "single zone",
                vec![ready("zone-a", "1000m"), ready("zone-a", "1000m")],
                None,
            ),
            (
                "2 zones",
                vec![ready("zone-a", "1000m"), ready("zone-b", "1")],
                half.clone(),
            ),
            (
                "2 zones, unready node in 1, ready node in 1",
                vec![unready("zone-a"), ready("zone-b", "1000m")],
                None,
            ),
            (
                "2 zones, control plane node in 1, ready node in 1",
                vec![
                    ready("zone-a", "1000m"),
                    master("zone-b", "node-role.kubernetes.io/control-plane"),
                ],
                None,
            ),
            (
                "2 zones, unready node in 1, ready node in 2",
                vec![
                    ready("zone-a", "1000m"),
                    ready("zone-b", "1000m"),
                    unready("zone-b"),
                ],
                half.clone(),
            ),
            (
                "2 zones, control plane node in 1, ready node in 2",
                vec![
                    ready("zone-a", "1000m"),
                    ready("zone-b", "1000m"),
                    master("zone-b", "node-role.kubernetes.io/master"),
                ],
                half,
            ),
            (
                "3 zones, 4 nodes in 1, 2 nodes in 1, 1 node in 1",
                vec![
                    ready("zone-a", "1000m"),
                    ready("zone-a", "1000m"),
                    ready("zone-a", "1000m"),
                    ready("zone-a", "2000m"),
                    ready("zone-b", "3000m"),
                    ready("zone-b", "1500m"),
                    ready("zone-c", "500m"),
                ],
                Some(map(&[("zone-a", 0.5), ("zone-b", 0.45), ("zone-c", 0.05)])),
            ),
            (
                "a node without a zone",
                vec![
                    ready("zone-a", "1000m"),
                    ready("zone-b", "1000m"),
                    ready("", "1000m"),
                ],
                None,
            ),
            (
                "a node without CPU",
                vec![
                    ready("zone-a", "1000m"),
                    ready("zone-b", "1000m"),
                    ready("zone-b", "0"),
                ],
                None,
            ),
            (
                "a node whose CPU is no quantity",
                vec![ready("zone-a", "1000m"), ready("zone-b", "many")],
                None,
            ),
        ] {
            assert_eq!(cpu_shares(&nodes), expect, "{name}");
        }
    }

    #[test]
    fn allocating() {
        let allocate = |shares: &[(&str, f64)], endpoints| {
            let found = allocations(Some(&map(shares)), endpoints)?;
            Ok(found
                .into_values()
                .map(|allocation| (allocation.minimum, allocation.maximum))
                .collect::<Vec<_>>())
        };
        assert_eq!(allocations(None, 9), Err(Unallocatable::InsufficientNodeInfo));
        let thirds = [("a", 0.3), ("b", 0.4), ("c", 0.3)];
        assert_eq!(allocate(&thirds, 2), Err(Unallocatable::TooFewEndpoints));
        // 1.05, 1.05 and 0.9 endpoints; by a fifth fewer is one each.
        let even = [("a", 0.35), ("b", 0.35), ("c", 0.3)];
        assert_eq!(allocate(&even, 3), Ok(vec![(1, 1); 3]));
        assert_eq!(allocate(&thirds, 10), Ok(vec![(3, 3), (4, 4), (3, 3)]));
        assert_eq!(allocate(&thirds, 31), Ok(vec![(8, 12), (11, 15), (8, 12)]));
        // Two endpoints at 1.5 to 0.5: the larger zone needs both, the smaller one of them.
        assert_eq!(
            allocate(&[("a", 0.75), ("b", 0.25)], 2),
            Err(Unallocatable::Overload)
        );
    }

    /// Rows follow upstream's `Test_getGivingAndReceivingZones`; counts below zero cannot be written here.
    #[test]
    fn exchanging() {
        type Row<'a> = (
            &'a str,
            &'a [(&'a str, f64)],
            &'a [(&'a str, usize)],
            &'a [(&'a str, usize)],
            &'a [(&'a str, usize)],
        );
        let rows: &[Row<'_>] = &[
            ("empty", &[], &[], &[], &[]),
            (
                "simple allocation with no need for rebalancing",
                &[("a", 1.2), ("b", 1.1), ("c", 1.0)],
                &[("a", 1), ("b", 1), ("c", 1)],
                &[],
                &[],
            ),
            (
                "one's own zone is preferred to a slightly better distribution",
                &[("a", 5.1), ("b", 5.1), ("c", 5.8)],
                &[("a", 16)],
                &[("a", 10)],
                &[("b", 5), ("c", 5)],
            ),
            (
                "when 2 zones need < 1 endpoint, give to the one that needs it most",
                &[("a", 5.0), ("b", 5.6), ("c", 5.4)],
                &[("a", 16)],
                &[("a", 11)],
                &[("b", 6), ("c", 5)],
            ),
            (
                "when 2 zones have extra endpoints, give from the one with most",
                &[("a", 5.0), ("b", 5.6), ("c", 5.4)],
                &[("b", 8), ("c", 8)],
                &[("b", 2), ("c", 3)],
                &[("a", 5)],
            ),
            (
                "more than there should be in all",
                &[("a", 5.0), ("b", 5.0), ("c", 5.0)],
                &[("a", 6), ("b", 6), ("c", 6)],
                &[],
                &[],
            ),
            (
                "negative allocations",
                &[("a", -5.0), ("b", -5.0), ("c", -5.0)],
                &[("a", 6), ("b", 6), ("c", 6)],
                &[],
                &[],
            ),
        ];
        for (name, desired, has, giving, receiving) in rows {
            let allocations = desired
                .iter()
                .map(|(zone, desired)| {
                    let allocation = Allocation {
                        minimum: 0,
                        maximum: 0,
                        desired: *desired,
                    };
                    ((*zone).to_owned(), allocation)
                })
                .collect();
            let found = exchange(&allocations, &map(has));
            assert_eq!(found, (map(giving), map(receiving)), "{name}");
        }
    }
}

//! For whom an endpoint is meant: the hints by which a service proxy prefers what is near.
//!
//! `spec.trafficDistribution` asks for the nearest endpoints whatever that does to their load; each hint follows from its
//! endpoint alone. The older annotation `service.kubernetes.io/topology-mode: Auto` weighs: zones get endpoints by their share
//! of the cluster's CPU, and slices whose hints are still good enough are left as they are. As upstream's packages
//! `trafficdist` and `topologycache`, hints are given per address family.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, EndpointPort, ForNode, ForZone};

use super::zones::{Allocation, Unallocatable, allocations, exchange};
use crate::event::EventType;
use crate::objects::{EndpointSlice, Service};

/// The annotation and its older name, which counts more.
const MODE_ANNOTATIONS: [&str; 2] = [
    "service.kubernetes.io/topology-aware-hints",
    "service.kubernetes.io/topology-mode",
];

/// A slice as it is going to be.
pub(super) struct Draft<'s> {
    /// The one that becomes it; `None` makes a new one.
    pub(super) slice: Option<&'s Arc<EndpointSlice>>,
    pub(super) ports: Vec<EndpointPort>,
    pub(super) endpoints: Vec<Endpoint>,
    /// Whether it is written anyway, so that changing hints in it costs nothing.
    pub(super) changed: bool,
}

/// What a Service wants of hints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::endpoint_slice) enum Mode {
    /// None at all.
    Nothing,
    /// Everybody's own zone.
    SameZone,
    /// Everybody's own node, and its zone for proxies that do not know of nodes.
    SameNode,
    /// Zones by their share of the CPU.
    Auto,
}

impl Mode {
    pub(in crate::endpoint_slice) fn of(service: &Service) -> Self {
        let annotations = &service.metadata.annotations;
        let mode = MODE_ANNOTATIONS.iter().find_map(|name| annotations.get(name));
        if matches!(mode, Some("Auto" | "auto")) {
            return Self::Auto;
        }
        match &*service.spec.traffic_distribution {
            "PreferClose" | "PreferSameZone" => Self::SameZone,
            "PreferSameNode" => Self::SameNode,
            _ => Self::Nothing,
        }
    }
}

/// An Event about the Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::endpoint_slice) struct Notice {
    pub(in crate::endpoint_slice) type_: EventType,
    pub(in crate::endpoint_slice) reason: &'static str,
    pub(in crate::endpoint_slice) message: String,
}

impl Notice {
    fn enabled(family: &str) -> Self {
        Self {
            type_: EventType::Normal,
            reason: "TopologyAwareHintsEnabled",
            message: format!("Topology Aware Hints has been enabled, addressType: {family}"),
        }
    }

    fn disabled(why: &str, family: &str) -> Self {
        Self {
            type_: EventType::Warning,
            reason: "TopologyAwareHintsDisabled",
            message: format!("{why}, addressType: {family}"),
        }
    }
}

/// Puts the hints of `mode` into the slices of one family.
///
/// `by_cpu` is whether hints were given by CPU the last time, and becomes whether they are now: only the change is news.
pub(super) fn apply(
    mode: Mode,
    shares: Option<&BTreeMap<String, f64>>,
    family: &str,
    drafts: &mut [Draft<'_>],
    by_cpu: &mut bool,
) -> Option<Notice> {
    if mode == Mode::Auto {
        return match give_by_cpu(shares, drafts) {
            Ok(()) => (!std::mem::replace(by_cpu, true)).then(|| Notice::enabled(family)),
            Err(why) => {
                give(drafts, |_| None);
                *by_cpu = false;
                Some(Notice::disabled(&why, family))
            }
        };
    }
    match mode {
        Mode::SameZone => give(drafts, |endpoint| nearest(endpoint, false)),
        Mode::SameNode => give(drafts, |endpoint| nearest(endpoint, true)),
        Mode::Auto | Mode::Nothing => give(drafts, |_| None),
    }
    std::mem::take(by_cpu).then(|| Notice::disabled("Topology Aware Hints has been disabled", family))
}

/// Gives every endpoint its hints. One that is not ready needs none: it is not worth a write either.
fn give(drafts: &mut [Draft<'_>], hints: impl Fn(&Endpoint) -> Option<EndpointHints>) {
    for endpoint in drafts.iter_mut().flat_map(|draft| &mut draft.endpoints) {
        endpoint.hints = match is_ready(endpoint) {
            true => hints(endpoint),
            false => None,
        };
    }
}

fn nearest(endpoint: &Endpoint, nodes: bool) -> Option<EndpointHints> {
    let for_zones = endpoint
        .zone
        .as_ref()
        .map(|zone| vec![ForZone { name: zone.clone() }]);
    let for_nodes = endpoint.node_name.as_ref().filter(|_| nodes);
    let for_nodes = for_nodes.map(|node| vec![ForNode { name: node.clone() }]);
    (for_zones.is_some() || for_nodes.is_some()).then_some(EndpointHints { for_nodes, for_zones })
}

/// `Err` says why there can be no hints.
fn give_by_cpu(shares: Option<&BTreeMap<String, f64>>, drafts: &mut [Draft<'_>]) -> Result<(), String> {
    let total = drafts
        .iter()
        .flat_map(|draft| &draft.endpoints)
        .filter(|endpoint| is_ready(endpoint))
        .count();
    let allocations =
        allocations(shares, total).map_err(|why| explain(why, total, shares.map_or(0, BTreeMap::len)))?;
    // What stays as it is comes first: the rest is to make up for it.
    let mut has: BTreeMap<String, usize> = BTreeMap::new();
    for draft in drafts.iter_mut().filter(|draft| !draft.changed) {
        match kept(&draft.endpoints, &has, &allocations) {
            Some(hints) => {
                for (zone, count) in hints {
                    *has.entry(zone.to_owned()).or_default() += count;
                }
            }
            None => draft.changed = true,
        }
    }
    let mut endpoints: Vec<&mut Endpoint> = Vec::new();
    for endpoint in drafts
        .iter_mut()
        .filter(|draft| draft.changed)
        .flat_map(|draft| &mut draft.endpoints)
    {
        endpoint.hints = None;
        if is_ready(endpoint) {
            endpoints.push(endpoint);
        }
    }
    for endpoint in &mut endpoints {
        let zone = endpoint.zone.clone().filter(|zone| !zone.is_empty());
        let zone = zone.ok_or("One or more endpoints do not have a zone specified")?;
        *has.entry(zone.clone()).or_default() += 1;
        endpoint.hints = for_zone(zone);
    }
    let (mut giving, mut receiving) = exchange(&allocations, &has);
    for endpoint in endpoints {
        let Some(gives) = endpoint
            .zone
            .as_ref()
            .and_then(|zone| giving.get_mut(zone))
            .filter(|gives| **gives > 0)
        else {
            continue;
        };
        let Some((receiver, receives)) = receiving.iter_mut().find(|(_, receives)| **receives > 0) else {
            break;
        };
        *gives -= 1;
        *receives -= 1;
        endpoint.hints = for_zone(receiver.clone());
    }
    Ok(())
}

fn explain(why: Unallocatable, endpoints: usize, zones: usize) -> String {
    let what = match why {
        Unallocatable::InsufficientNodeInfo => {
            return "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes"
                .to_owned();
        }
        Unallocatable::TooFewEndpoints => "Insufficient number of endpoints",
        Unallocatable::Overload => {
            "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold"
        }
    };
    format!("{what} ({endpoints} endpoints, {zones} zones)")
}

/// How many endpoints of a slice are meant for each zone; `None` if it cannot stay: one has no hints, or for a zone that needs
/// none, or there are so many for a zone that another one would have too few.
fn kept<'a>(
    endpoints: &'a [Endpoint],
    has: &BTreeMap<String, usize>,
    allocations: &BTreeMap<String, Allocation>,
) -> Option<BTreeMap<&'a str, usize>> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for endpoint in endpoints.iter().filter(|endpoint| is_ready(endpoint)) {
        let zones = endpoint.hints.as_ref()?.for_zones.as_ref()?;
        if zones.is_empty() {
            return None;
        }
        for zone in zones {
            *counts.entry(&zone.name).or_default() += 1;
        }
    }
    counts
        .iter()
        .all(|(zone, count)| {
            let already = has.get(*zone).copied().unwrap_or_default();
            allocations
                .get(*zone)
                .is_some_and(|allocation| count + already <= allocation.maximum)
        })
        .then_some(counts)
}

fn for_zone(name: String) -> Option<EndpointHints> {
    Some(EndpointHints {
        for_nodes: None,
        for_zones: Some(vec![ForZone { name }]),
    })
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint
        .conditions
        .as_ref()
        .is_some_and(|conditions| conditions.ready == Some(true))
}

#[cfg(test)]
mod tests;

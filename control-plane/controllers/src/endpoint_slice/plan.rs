//! Which EndpointSlices a Service needs, as changes to the ones it has.

pub(super) mod hints;
pub(super) mod zones;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};
use serde_json::{Value, json};

use crate::endpoint::{
    HEADLESS_LABEL, TRIGGER_TIME, belongs, find_port, has_hostname, is_headless, target_ref,
};
use crate::objects::{EndpointSlice, Labels, Object, Pod, Service};
use crate::owner::controller_reference;
use hints::{Draft, Mode, Notice};

pub(super) const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
pub(super) const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
pub(super) const MANAGED_BY: &str = "endpointslice-controller.k8s.io";
pub(super) const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// Upstream's `--max-endpoints-per-slice`.
const ENDPOINTS_MAX: usize = 100;

#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) create: Vec<Value>,
    /// Names and merge patches.
    pub(super) update: Vec<(String, Value)>,
    pub(super) delete: Vec<Arc<EndpointSlice>>,
    pub(super) notices: Vec<Notice>,
    /// The address types whose endpoints have hints by CPU now.
    pub(super) hinted: BTreeSet<&'static str>,
}

/// Where nodes are.
#[derive(Debug, Default)]
pub(super) struct Topology {
    /// Every node that exists among those of the pods, with its zone if it tells one.
    pub(super) zones: HashMap<Box<str>, Option<String>>,
    /// See [`zones::cpu_shares`]; `None` also where nobody asked.
    pub(super) shares: Option<BTreeMap<String, f64>>,
}

pub(super) fn is_managed(slice: &EndpointSlice) -> bool {
    slice.metadata.labels.get(MANAGED_BY_LABEL) == Some(MANAGED_BY)
}

/// `hinted` is what the last plan said of it.
pub(super) fn plan(
    service: &Service,
    pods: &[Arc<Pod>],
    existing: &[Arc<EndpointSlice>],
    topology: &Topology,
    hinted: &BTreeSet<&'static str>,
    triggered: Timestamp,
) -> Plan {
    let labels = slice_labels(service);
    let mut plan = Plan::default();
    let families = address_types(service);
    plan.delete.extend(
        existing
            .iter()
            .filter(|slice| !families.contains(&&*slice.address_type))
            .cloned(),
    );
    for address_type in families {
        let existing: Vec<_> = existing
            .iter()
            .filter(|slice| &*slice.address_type == address_type)
            .collect();
        let mut family = Family {
            service,
            address_type,
            labels: &labels,
            triggered,
            plan: &mut plan,
        };
        let mut drafts = family.reconcile(desired(service, pods, &topology.zones, address_type), &existing);
        let mut by_cpu = hinted.contains(address_type);
        let notice = hints::apply(
            Mode::of(service),
            topology.shares.as_ref(),
            address_type,
            &mut drafts,
            &mut by_cpu,
        );
        for draft in drafts {
            family.write(draft);
        }
        plan.notices.extend(notice);
        if by_cpu {
            plan.hinted.insert(address_type);
        }
    }
    plan
}

/// The slices of one address type.
struct Family<'a> {
    service: &'a Service,
    address_type: &'static str,
    labels: &'a Labels,
    triggered: Timestamp,
    plan: &'a mut Plan,
}

/// Endpoints by the ports that they share; by uid of the pod.
type Desired = BTreeMap<String, (Vec<EndpointPort>, BTreeMap<String, Endpoint>)>;

impl Family<'_> {
    /// What is to be, hints left out: new slices first, then the ones that change, then the others.
    fn reconcile<'s>(&mut self, mut desired: Desired, existing: &[&'s Arc<EndpointSlice>]) -> Vec<Draft<'s>> {
        let mut by_ports: BTreeMap<String, Vec<&Arc<EndpointSlice>>> = BTreeMap::new();
        let mut spare = Vec::new();
        for slice in existing {
            let ours = slice
                .metadata
                .owner_references
                .iter()
                .any(|owner| *owner.uid == *self.service.metadata.uid);
            if ours {
                by_ports.entry(ports_key(&slice.ports)).or_default().push(slice);
            } else {
                self.plan.delete.push((*slice).clone());
            }
        }
        // An empty slice says "no endpoints" as opposed to "nobody looked yet".
        if desired.values().all(|(_, endpoints)| endpoints.is_empty()) {
            desired = Desired::from([(ports_key(&[]), (Vec::new(), BTreeMap::new()))]);
        }
        let mut drafts = Vec::new();
        for (key, (ports, endpoints)) in desired {
            let slices = by_ports.remove(&key).unwrap_or_default();
            if endpoints.is_empty() {
                keep_placeholder(slices, &mut spare, &mut drafts);
            } else {
                self.distribute(endpoints, slices, &ports, &mut spare, &mut drafts);
            }
        }
        spare.extend(by_ports.into_values().flatten());
        // Writing new content into a slice that would go is one write instead of two.
        for draft in drafts.iter_mut().filter(|draft| draft.slice.is_none()) {
            draft.slice = spare.pop();
        }
        self.plan.delete.extend(spare.into_iter().cloned());
        drafts.sort_by_key(|draft| (draft.slice.is_some(), !draft.changed));
        drafts
    }

    /// Keeps endpoints where they are, fills slices that are written anyway, then one that has room for the
    /// rest, and only then new ones.
    fn distribute<'s>(
        &self,
        mut endpoints: BTreeMap<String, Endpoint>,
        slices: Vec<&'s Arc<EndpointSlice>>,
        ports: &[EndpointPort],
        spare: &mut Vec<&'s Arc<EndpointSlice>>,
        drafts: &mut Vec<Draft<'s>>,
    ) {
        let mut changed = Vec::new();
        let mut unchanged = Vec::new();
        for slice in slices {
            let kept: Vec<_> = slice
                .endpoints
                .iter()
                .filter_map(|endpoint| endpoints.remove(endpoint_uid(endpoint)))
                .collect();
            if kept.is_empty() {
                spare.push(slice);
            } else if equal_but_for_hints(&kept, &slice.endpoints) && slice.metadata.labels == *self.labels {
                unchanged.push(slice);
            } else {
                changed.push((slice, kept));
            }
        }
        let mut rest: Vec<_> = endpoints.into_values().collect();
        changed.sort_by_key(|(_, kept)| std::cmp::Reverse(kept.len()));
        for (_, kept) in &mut changed {
            let room = ENDPOINTS_MAX.saturating_sub(kept.len());
            kept.extend(rest.drain(..room.min(rest.len())));
        }
        if !rest.is_empty() && rest.len() < ENDPOINTS_MAX {
            let fullest = (0..unchanged.len())
                .filter(|index| unchanged[*index].endpoints.len() + rest.len() <= ENDPOINTS_MAX)
                .max_by_key(|index| unchanged[*index].endpoints.len());
            if let Some(index) = fullest {
                let slice = unchanged.remove(index);
                let mut filled = slice.endpoints.clone();
                filled.append(&mut rest);
                changed.push((slice, filled));
            }
        }
        let draft = |slice, endpoints, changed| Draft {
            slice,
            ports: ports.to_vec(),
            endpoints,
            changed,
        };
        while !rest.is_empty() {
            let part = rest.split_off(rest.len().saturating_sub(ENDPOINTS_MAX));
            drafts.push(draft(None, part, true));
        }
        drafts.extend(
            changed
                .into_iter()
                .map(|(slice, endpoints)| draft(Some(slice), endpoints, true)),
        );
        drafts.extend(
            unchanged
                .into_iter()
                .map(|slice| draft(Some(slice), slice.endpoints.clone(), false)),
        );
    }

    /// Plans the write that a draft needs, if it needs one.
    fn write(&mut self, draft: Draft<'_>) {
        match draft.slice {
            None => self.create(&draft.ports, &draft.endpoints),
            Some(slice) => {
                let other_ports = ports_key(&slice.ports) != ports_key(&draft.ports);
                if other_ports || slice.endpoints != draft.endpoints || slice.metadata.labels != *self.labels
                {
                    self.update(slice, other_ports.then_some(&draft.ports), &draft.endpoints);
                }
            }
        }
    }

    fn annotations(&self) -> Value {
        json!({TRIGGER_TIME: self.triggered.to_string()})
    }

    fn create(&mut self, ports: &[EndpointPort], endpoints: &[Endpoint]) {
        if self.service.metadata.is_deleted() {
            return;
        }
        let meta = &self.service.metadata;
        self.plan.create.push(json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "generateName": format!("{}-", meta.name),
                "namespace": meta.namespace,
                "labels": self.labels,
                "annotations": self.annotations(),
                "ownerReferences": [controller_reference(Service::resource(), meta)],
            },
            "addressType": self.address_type,
            "endpoints": endpoints,
            "ports": ports,
        }));
    }

    fn update(&mut self, slice: &EndpointSlice, ports: Option<&[EndpointPort]>, endpoints: &[Endpoint]) {
        let mut labels = json!(self.labels);
        for (key, _) in slice
            .metadata
            .labels
            .iter()
            .filter(|(key, _)| self.labels.get(key).is_none())
        {
            labels[key] = Value::Null;
        }
        let mut patch = json!({
            "metadata": {
                "resourceVersion": slice.metadata.resource_version,
                "labels": labels,
                "annotations": self.annotations(),
            },
            "endpoints": endpoints,
        });
        if let Some(ports) = ports {
            patch["ports"] = json!(ports);
        }
        self.plan.update.push((slice.metadata.name.to_string(), patch));
    }
}

fn keep_placeholder<'s>(
    mut slices: Vec<&'s Arc<EndpointSlice>>,
    spare: &mut Vec<&'s Arc<EndpointSlice>>,
    drafts: &mut Vec<Draft<'s>>,
) {
    let found = slices.iter().position(|slice| slice.endpoints.is_empty());
    drafts.push(Draft {
        slice: found.map(|index| slices.swap_remove(index)),
        ports: Vec::new(),
        endpoints: Vec::new(),
        changed: found.is_none(),
    });
    spare.extend(slices);
}

/// Hints are not the pods' business: they are compared once they are given.
fn equal_but_for_hints(left: &[Endpoint], right: &[Endpoint]) -> bool {
    let same = |(left, right): (&Endpoint, &Endpoint)| {
        let Endpoint {
            addresses,
            conditions,
            deprecated_topology,
            hints: _,
            hostname,
            node_name,
            target_ref,
            zone,
        } = left;
        *addresses == right.addresses
            && *conditions == right.conditions
            && *deprecated_topology == right.deprecated_topology
            && *hostname == right.hostname
            && *node_name == right.node_name
            && *target_ref == right.target_ref
            && *zone == right.zone
    };
    left.len() == right.len() && left.iter().zip(right).all(same)
}

fn address_types(service: &Service) -> Vec<&'static str> {
    let mut types: Vec<_> = service
        .spec
        .ip_families
        .iter()
        .filter_map(|family| match &**family {
            "IPv4" => Some("IPv4"),
            "IPv6" => Some("IPv6"),
            _ => None,
        })
        .collect();
    types.dedup();
    if types.is_empty() {
        types = if is_headless(service) {
            vec!["IPv4", "IPv6"]
        } else if service.spec.cluster_ip.contains(':') {
            vec!["IPv6"]
        } else {
            vec!["IPv4"]
        };
    }
    types
}

fn slice_labels(service: &Service) -> Labels {
    let reserved = [SERVICE_NAME_LABEL, MANAGED_BY_LABEL, HEADLESS_LABEL];
    let own = [
        (SERVICE_NAME_LABEL, &*service.metadata.name),
        (MANAGED_BY_LABEL, MANAGED_BY),
    ];
    let headless = is_headless(service).then_some((HEADLESS_LABEL, ""));
    service
        .metadata
        .labels
        .iter()
        .filter(|(key, _)| !reserved.contains(key))
        .chain(own)
        .chain(headless)
        .collect()
}

fn desired(
    service: &Service,
    pods: &[Arc<Pod>],
    zones: &HashMap<Box<str>, Option<String>>,
    address_type: &str,
) -> Desired {
    let mut desired = Desired::new();
    for pod in pods.iter().filter(|pod| belongs(pod, true)) {
        let zone = zones.get(&pod.spec.node_name);
        // A pod of a node that is gone will be gone soon; unless the user wants all addresses whatever their state.
        if zone.is_none() && !service.spec.publish_not_ready_addresses {
            continue;
        }
        let Some(address) = address(pod, address_type) else {
            continue;
        };
        let ports = endpoint_ports(service, pod);
        let endpoint = endpoint(service, pod, address, zone.cloned().flatten());
        let (_, endpoints) = desired
            .entry(ports_key(&ports))
            .or_insert_with(|| (ports, BTreeMap::new()));
        endpoints.insert(pod.metadata.uid.to_string(), endpoint);
    }
    desired
}

fn address(pod: &Pod, address_type: &str) -> Option<String> {
    pod.status
        .pod_ips
        .iter()
        .filter_map(|ip| ip.ip.parse::<IpAddr>().ok())
        .find(|ip| ip.is_ipv6() == (address_type == "IPv6"))
        .map(|ip| ip.to_string())
}

fn endpoint(service: &Service, pod: &Pod, address: String, zone: Option<String>) -> Endpoint {
    let serving = pod.is_ready();
    let terminating = pod.metadata.is_deleted();
    let ready = service.spec.publish_not_ready_addresses || (serving && !terminating);
    Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        target_ref: Some(target_ref(&pod.metadata)),
        node_name: (!pod.spec.node_name.is_empty()).then(|| pod.spec.node_name.to_string()),
        zone,
        hostname: has_hostname(pod, service).then(|| pod.spec.hostname.to_string()),
        ..Endpoint::default()
    }
}

fn endpoint_ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service.spec.ports.iter().filter_map(|port| {
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
            port: Some(find_port(pod, port)?),
            app_protocol: port.app_protocol.clone(),
        })
    });
    ports.collect()
}

/// Equal for lists with the same ports in any order.
fn ports_key(ports: &[EndpointPort]) -> String {
    let mut keys: Vec<String> = ports
        .iter()
        .map(|port| {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let number = port.port.map(|port| port.to_string()).unwrap_or_default();
            [
                text(&port.name),
                text(&port.protocol),
                number,
                text(&port.app_protocol),
            ]
            .join("/")
        })
        .collect();
    keys.sort();
    keys.join(",")
}

/// The uid of the pod behind an endpoint of ours.
fn endpoint_uid(endpoint: &Endpoint) -> &str {
    endpoint
        .target_ref
        .as_ref()
        .and_then(|target| target.uid.as_deref())
        .unwrap_or_default()
}

//! Services, Endpoints, EndpointSlices.

use super::access::{Object, child, each, ensure, int, set, text};
use super::kind::Kind;
use crate::meta::NameRule;
use crate::status::Result;
use serde_json::{Value, json};

mod endpoints;
mod validate;
mod warnings;

/// Services. The API server allocates addresses and node ports.
pub(super) static SERVICE: Kind = Kind::namespaced("io.k8s.api.core.v1.Service")
    .name(NameRule::Label1035)
    .status()
    .defaults(default)
    .prepares_create(create)
    .prepares_update(update)
    .validates(validate::service)
    .validates_update(validate::service_update)
    .warns(|obj, _| warnings::service(obj))
    .validates_status(validate::service_status)
    .selectable(|obj| {
        vec![
            ("spec.clusterIP", text(obj, "/spec/clusterIP").into()),
            ("spec.type", text(obj, "/spec/type").into()),
        ]
    });

/// Endpoints.
pub(super) static ENDPOINTS: Kind = Kind::namespaced("io.k8s.api.core.v1.Endpoints")
    .create_on_update()
    .defaults(|obj| {
        for subset in each(obj, "subsets") {
            for port in each(subset, "ports") {
                set(port, "protocol", "TCP");
            }
        }
    })
    .warns(|obj, _| endpoints::warnings(obj))
    .validates(endpoints::endpoints);

/// EndpointSlices.
pub(super) static ENDPOINT_SLICE: Kind = Kind::namespaced("io.k8s.api.discovery.v1.EndpointSlice")
    .generation(&["addressType", "endpoints", "ports"])
    .defaults(|obj| {
        for port in each(obj, "ports") {
            port.entry("name").or_insert_with(|| "".into());
            set(port, "protocol", "TCP");
        }
    })
    .warns(endpoints::slice_warnings)
    .prepares_create(|traits, obj| {
        super::generic_prepare_for_create(traits, obj);
        endpoints::drop_topology(obj, None);
    })
    .prepares_update(|traits, new, old| {
        super::generic_prepare_for_update(traits, new, old);
        let labels = |obj: &Value| crate::meta::labels(obj).cloned().unwrap_or_default();
        let generation = crate::meta::generation(old);
        if labels(new) != labels(old) && crate::meta::generation(new) == generation {
            super::set_generation(new, generation + 1);
        }
        endpoints::drop_topology(new, Some(old));
    })
    .validates(endpoints::endpoint_slice)
    .validates_update(|new, old, errors| {
        endpoints::endpoint_slice(new, errors);
        errors.immutable("addressType", new.get("addressType"), old.get("addressType"));
    });

fn default(obj: &mut Object) {
    let spec = ensure(obj, "spec");
    set(spec, "type", "ClusterIP");
    set(spec, "sessionAffinity", "None");
    if spec["sessionAffinity"] == "ClientIP" {
        set(
            ensure(ensure(spec, "sessionAffinityConfig"), "clientIP"),
            "timeoutSeconds",
            10_800,
        );
    } else {
        spec.remove("sessionAffinityConfig");
    }
    for port in each(spec, "ports") {
        set(port, "protocol", "TCP");
        // Zero and empty both mean "the same".
        let target = port.get("targetPort");
        if target.is_none_or(|t| t == 0 || t == "")
            && let Some(number) = port.get("port").cloned()
        {
            port.insert("targetPort".into(), number);
        }
    }
    let kind = spec["type"].as_str().unwrap_or("").to_string();
    let outside = spec
        .get("externalIPs")
        .and_then(Value::as_array)
        .is_some_and(|ips| !ips.is_empty());
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") || kind == "ClusterIP" && outside {
        set(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
        set(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        set(spec, "allocateLoadBalancerNodePorts", true);
        let balancer = child(obj, "status").and_then(|status| child(status, "loadBalancer"));
        for point in balancer
            .into_iter()
            .flat_map(|balancer| each(balancer, "ingress"))
        {
            if point.get("ip").is_some_and(|ip| ip != "") {
                set(point, "ipMode", "VIP");
            }
        }
    }
}

/// Clients that know only `clusterIP` mean the first of `clusterIPs`.
fn create(traits: &super::Traits, obj: &mut Value) {
    super::generic_prepare_for_create(traits, obj);
    let address = text(obj, "/spec/clusterIP").to_owned();
    if !address.is_empty() && super::access::list(obj, "/spec/clusterIPs").is_empty() {
        obj["spec"]["clusterIPs"] = json!([address]);
    }
}

/// Clients that leave out what was allocated, or know only `clusterIP`, do not lose it; a changed type drops what it cannot have.
fn update(traits: &super::Traits, new: &mut Value, old: &Value) {
    super::generic_prepare_for_update(traits, new, old);
    let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    let before = old.get("spec").unwrap_or(&Value::Null);
    keep_addresses(spec, before);
    keep_node_ports(spec, before);
    release_node_ports(spec, before);
    // What only makes sense for the old kind of Service goes, unless the client changed it.
    for (field, applies) in [
        (
            "externalTrafficPolicy",
            validate::is_external as fn(&Value) -> bool,
        ),
        ("healthCheckNodePort", validate::needs_health_check),
        ("allocateLoadBalancerNodePorts", validate::is_balanced),
        ("loadBalancerClass", validate::is_balanced),
    ] {
        let same = new["spec"].get(field) == old["spec"].get(field);
        let (then, now) = (applies(old), applies(new));
        let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) else {
            continue;
        };
        if then && !now && same {
            spec.remove(field);
        } else if then
            && now
            && field == "healthCheckNodePort"
            && spec.get(field).and_then(Value::as_i64).unwrap_or(0) == 0
            && let Some(port) = old["spec"].get(field)
        {
            spec.insert(field.into(), port.clone());
        }
    }
    if !validate::is_balanced(new)
        && let Some(status) = new.get_mut("status").and_then(Value::as_object_mut)
    {
        status.insert("loadBalancer".into(), json!({}));
    }
}

/// Addresses and families: upstream's `patchAllocatedValues`, `normalizeClusterIPs` and `trimFieldsForDualStackDowngrade`.
fn keep_addresses(spec: &mut Object, before: &Value) {
    const FAMILIES: [&str; 2] = ["ipFamilies", "ipFamilyPolicy"];
    let named = |kind: Option<&Value>| kind.is_some_and(|kind| kind == "ExternalName");
    let old = |field: &str| before.get(field).cloned().unwrap_or_default();
    let (address, addresses) = (old("clusterIP"), old("clusterIPs"));
    let is_same = |spec: &Object, field: &str| spec.get(field).unwrap_or(&Value::Null) == &old(field);
    if named(spec.get("type")) && named(before.get("type")) {
        return;
    }
    if named(spec.get("type")) {
        // What the cluster allocated goes unless the client insists on it, which validation refuses.
        if is_same(spec, "clusterIP") && is_same(spec, "clusterIPs") {
            spec.remove("clusterIP");
            spec.remove("clusterIPs");
        }
        for field in FAMILIES.into_iter().chain(["internalTrafficPolicy"]) {
            if is_same(spec, field) {
                spec.remove(field);
            }
        }
        return;
    }
    let unset = |spec: &Object, field: &str| {
        let value = spec.get(field).unwrap_or(&Value::Null);
        value.is_null() || value == "" || *value == json!([])
    };
    if unset(spec, "clusterIP") && !address.is_null() {
        spec.insert("clusterIP".into(), address.clone());
    }
    if !is_same(spec, "clusterIP") {
        // Whoever changes the one and repeats the other knows only the one.
        if is_same(spec, "clusterIPs") {
            let address = spec.get("clusterIP").cloned().unwrap_or_default();
            spec.insert("clusterIPs".into(), json!([address]));
        }
    } else if unset(spec, "clusterIPs") && !addresses.is_null() {
        spec.insert("clusterIPs".into(), addresses.clone());
    }
    for field in FAMILIES {
        if unset(spec, field) && before.get(field).is_some() {
            spec.insert(field.into(), old(field));
        }
    }
    // Wanting a single stack is enough to give up the second one.
    let single = |policy: Option<&Value>| policy.is_some_and(|policy| policy == "SingleStack");
    if single(spec.get("ipFamilyPolicy")) && !single(before.get("ipFamilyPolicy")) {
        for field in ["clusterIPs", "ipFamilies"] {
            if let Some(values) = spec.get_mut(field).and_then(Value::as_array_mut) {
                values.truncate(1);
            }
        }
    }
}

/// Whether each port has a node port.
fn allocates_node_ports(spec: &Object) -> bool {
    match spec.get("type").and_then(Value::as_str) {
        Some("NodePort") => true,
        Some("LoadBalancer") => spec.get("allocateLoadBalancerNodePorts") != Some(&Value::Bool(false)),
        _ => false,
    }
}

/// The node ports of a spec, as far as there are any.
fn node_ports(ports: &[Value]) -> Vec<i64> {
    let numbers = ports.iter().filter_map(|port| int(port, "/nodePort"));
    numbers.filter(|number| *number != 0).collect()
}

/// Ports that come without a node port keep the one that the port of their name had, unless another uses it now.
fn keep_node_ports(spec: &mut Object, before: &Value) {
    if !allocates_node_ports(spec) || !before.as_object().is_some_and(allocates_node_ports) {
        return;
    }
    let olds = super::access::list(before, "/ports");
    let now = spec.get("ports").and_then(Value::as_array);
    let now = node_ports(now.map_or(&[], Vec::as_slice));
    let mut used = node_ports(olds);
    used.retain(|number| now.contains(number));
    for port in each(spec, "ports") {
        if port.get("nodePort").and_then(Value::as_i64).unwrap_or(0) != 0 {
            continue;
        }
        let name = port.get("name").and_then(Value::as_str).unwrap_or("");
        let found = olds.iter().rev().find(|old| text(old, "/name") == name);
        let number = found.and_then(|old| int(old, "/nodePort")).unwrap_or(0);
        if number != 0 && !used.contains(&number) {
            port.insert("nodePort".into(), number.into());
            used.push(number);
        }
    }
}

/// A type without node ports drops those that were allocated. A client that brings others means them.
fn release_node_ports(spec: &mut Object, before: &Value) {
    let has = |kind: Option<&Value>| kind.is_some_and(|kind| kind == "NodePort" || kind == "LoadBalancer");
    if has(spec.get("type")) || !has(before.get("type")) {
        return;
    }
    let then = node_ports(super::access::list(before, "/ports"));
    let now = spec.get("ports").and_then(Value::as_array);
    let now = node_ports(now.map_or(&[], Vec::as_slice));
    if now.iter().all(|number| then.contains(number)) {
        for port in each(spec, "ports") {
            port.remove("nodePort");
        }
    }
}

/// Core and `events.k8s.io` Events are one thing under two sets of names; the store holds the core one.
pub(super) fn convert_event(mut obj: Value, from: &str, _to: &str) -> Result<Value> {
    const NAMES: [(&str, &str); 7] = [
        ("involvedObject", "regarding"),
        ("message", "note"),
        ("source", "deprecatedSource"),
        ("firstTimestamp", "deprecatedFirstTimestamp"),
        ("lastTimestamp", "deprecatedLastTimestamp"),
        ("count", "deprecatedCount"),
        ("reportingComponent", "reportingController"),
    ];
    let to_core = from == "events.k8s.io/v1";
    if let Some(map) = obj.as_object_mut() {
        for (core, events) in NAMES {
            let (from, to) = if to_core { (events, core) } else { (core, events) };
            if let Some(value) = map.remove(from) {
                map.insert(to.into(), value);
            }
        }
        map.insert(
            "apiVersion".into(),
            if to_core { "v1" } else { "events.k8s.io/v1" }.into(),
        );
    }
    Ok(obj)
}

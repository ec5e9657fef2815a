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
    .prepares_update(update)
    .validates(validate::service)
    .validates_update(validate::service_update)
    .warns(warnings::service)
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

/// Clients that only know `clusterIP`, or leave out what was allocated, do not lose it; a changed type drops what it cannot have.
fn update(traits: &super::Traits, new: &mut Value, old: &Value) {
    super::generic_prepare_for_update(traits, new, old);
    let (now, before) = (
        text(new, "/spec/type").to_string(),
        text(old, "/spec/type").to_string(),
    );
    let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    let has_cluster_ip = |kind: &str| kind != "ExternalName";
    if has_cluster_ip(&now) && has_cluster_ip(&before) {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            let unset = spec.get(field).is_none_or(|v| v == "" || v == &json!([]));
            if let (true, Some(value)) = (unset, old.pointer(&format!("/spec/{field}"))) {
                spec.insert(field.into(), value.clone());
            }
        }
        keep_node_ports(spec, old, &now);
    } else if !has_cluster_ip(&now) {
        // What the cluster allocated goes unless the client insists on it, which validation refuses.
        for field in [
            "clusterIP",
            "clusterIPs",
            "ipFamilies",
            "ipFamilyPolicy",
            "internalTrafficPolicy",
        ] {
            if spec.get(field) == old.pointer(&format!("/spec/{field}")) {
                spec.remove(field);
            }
        }
    }
    if !matches!(now.as_str(), "NodePort" | "LoadBalancer")
        && matches!(before.as_str(), "NodePort" | "LoadBalancer")
    {
        for port in each(spec, "ports") {
            let number = port.get("port").and_then(Value::as_i64);
            let olds = super::access::list(old, "/spec/ports");
            let same = olds
                .iter()
                .any(|o| int(o, "/port") == number && o.get("nodePort") == port.get("nodePort"));
            if same {
                port.remove("nodePort");
            }
        }
    }
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
    if now != "LoadBalancer"
        && let Some(status) = new.get_mut("status").and_then(Value::as_object_mut)
    {
        status.insert("loadBalancer".into(), json!({}));
    }
}

/// Ports that come without a node port keep the one they had.
fn keep_node_ports(spec: &mut Object, old: &Value, kind: &str) {
    if !matches!(kind, "NodePort" | "LoadBalancer") {
        return;
    }
    if kind == "LoadBalancer" && spec.get("allocateLoadBalancerNodePorts") == Some(&Value::Bool(false)) {
        return;
    }
    let olds = super::access::list(old, "/spec/ports").to_vec();
    let taken: Vec<i64> = each(spec, "ports")
        .filter_map(|p| p.get("nodePort").and_then(Value::as_i64))
        .collect();
    for port in each(spec, "ports") {
        if port.get("nodePort").and_then(Value::as_i64).unwrap_or(0) != 0 {
            continue;
        }
        let found = olds
            .iter()
            .find(|o| o.get("port") == port.get("port") && o.get("protocol") == port.get("protocol"))
            .and_then(|o| int(o, "/nodePort"));
        if let Some(node_port) = found.filter(|n| *n != 0 && !taken.contains(n)) {
            port.insert("nodePort".into(), node_port.into());
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

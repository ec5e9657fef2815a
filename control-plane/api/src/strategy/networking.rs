//! Ingresses and their classes, NetworkPolicies, IPAddresses, ServiceCIDRs.

use super::access::{child, each, ensure, set, text};
use super::kind::Kind;
use super::prepare_for_status_update_alone;
use crate::meta::NameRule;
use serde_json::{Value, json};

mod address;
mod ingress;
mod policy;

const SPEC: &[&str] = &["spec"];

/// Ingresses.
pub(super) static INGRESS: Kind = Kind::namespaced("io.k8s.api.networking.v1.Ingress")
    .status()
    .generation(SPEC)
    .validates(ingress::create)
    .validates_update(ingress::update)
    .validates_status(|new, _, errors| ingress::status(new, errors))
    .warns(ingress::warnings);

/// IngressClasses.
pub(super) static INGRESS_CLASS: Kind = Kind::cluster("io.k8s.api.networking.v1.IngressClass")
    .generation(SPEC)
    .defaults(|obj| {
        if let Some(parameters) = child(obj, "spec").and_then(|s| child(s, "parameters")) {
            set(parameters, "scope", "Cluster");
        }
    })
    .validates(ingress::class)
    .validates_update(|new, old, errors| {
        let controller = |obj: &Value| obj.pointer("/spec/controller").cloned();
        errors.immutable(
            "spec.controller",
            controller(new).as_ref(),
            controller(old).as_ref(),
        );
        ingress::class(new, errors);
    });

/// NetworkPolicies.
pub(super) static NETWORK_POLICY: Kind = Kind::namespaced("io.k8s.api.networking.v1.NetworkPolicy")
    .generation(SPEC)
    .defaults(|obj| {
        let spec = ensure(obj, "spec");
        for rules in ["ingress", "egress"] {
            for rule in each(spec, rules) {
                for port in each(rule, "ports") {
                    set(port, "protocol", "TCP");
                }
            }
        }
        let none = |field: Option<&Value>| field.and_then(Value::as_array).is_none_or(Vec::is_empty);
        if none(spec.get("policyTypes")) {
            let types = if none(spec.get("egress")) {
                json!(["Ingress"])
            } else {
                json!(["Ingress", "Egress"])
            };
            spec.insert("policyTypes".into(), types);
        }
    })
    .validates(|obj, errors| policy::network_policy(obj, None, errors))
    .validates_update(|new, old, errors| policy::network_policy(new, Some(old), errors));

/// IPAddresses. The name is the address.
pub(super) static IP_ADDRESS: Kind = Kind::cluster("io.k8s.api.networking.v1.IPAddress")
    .name(NameRule::Ip)
    .validates(address::ip_address)
    .validates_update(|new, old, errors| {
        address::ip_address(new, errors);
        let parent = |obj: &Value| obj.pointer("/spec/parentRef").cloned();
        errors.immutable("spec.parentRef", parent(new).as_ref(), parent(old).as_ref());
    })
    .selectable(|obj| {
        let group = text(obj, "/spec/parentRef/group").to_string();
        let resource = text(obj, "/spec/parentRef/resource").to_string();
        vec![
            ("spec.parentRef.group", group),
            ("spec.parentRef.resource", resource),
        ]
    });

/// ServiceCIDRs.
pub(super) static SERVICE_CIDR: Kind = Kind::cluster("io.k8s.api.networking.v1.ServiceCIDR")
    .status()
    .prepares_status(prepare_for_status_update_alone)
    .validates(address::service_cidr)
    .validates_update(address::service_cidr_update);

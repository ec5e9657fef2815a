//! Checks of NetworkPolicies.

use crate::strategy::access::{list, text};
use crate::strategy::pod::validate::label_selector;
use crate::validation::net::{cidr, is_strict_subset, parse_cidr};
use crate::validation::text::{between, port_name_problems};
use crate::validation::{ErrorList, FieldError};
use serde_json::Value;

/// A NetworkPolicy. Networks that an old one has are not looked at again, wherever in it they are.
pub(super) fn network_policy(obj: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let spec = &obj["spec"];
    let known = old.map(networks).unwrap_or_default();
    if let Some(selector) = spec.get("podSelector") {
        label_selector(selector, "spec.podSelector", errors);
    }
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (i, rule) in list(spec, &format!("/{direction}")).iter().enumerate() {
            let path = format!("spec.{direction}[{i}]");
            for (j, of) in list(rule, "/ports").iter().enumerate() {
                port(of, &format!("{path}.ports[{j}]"), errors);
            }
            for (j, of) in list(rule, &format!("/{peers}")).iter().enumerate() {
                peer(of, &known, &format!("{path}.{peers}[{j}]"), errors);
            }
        }
    }
    let types = list(spec, "/policyTypes");
    if types.len() > 2 {
        let detail = "may not specify more than two policyTypes";
        errors.invalid("spec.policyTypes", types.to_vec(), detail);
        return;
    }
    for (i, kind) in types.iter().enumerate() {
        let kind = kind.as_str().unwrap_or("");
        errors.one_of(&format!("spec.policyTypes[{i}]"), kind, &["Ingress", "Egress"]);
    }
}

/// The networks that a policy names.
fn networks(policy: &Value) -> Vec<&str> {
    let mut out = Vec::new();
    for (rules, peers) in [("/spec/ingress", "/from"), ("/spec/egress", "/to")] {
        for peer in list(policy, rules).iter().flat_map(|rule| list(rule, peers)) {
            if peer.get("ipBlock").is_some() {
                out.push(text(peer, "/ipBlock/cidr"));
                out.extend(list(peer, "/ipBlock/except").iter().filter_map(Value::as_str));
            }
        }
    }
    out
}

fn port(port: &Value, path: &str, errors: &mut ErrorList) {
    if let Some(protocol) = port.get("protocol").and_then(Value::as_str) {
        errors.one_of(&format!("{path}.protocol"), protocol, &["TCP", "UDP", "SCTP"]);
    }
    let end = port.get("endPort").and_then(Value::as_i64);
    let at_end = format!("{path}.endPort");
    match port.get("port") {
        None => {
            if let Some(end) = end {
                errors.invalid(at_end, end, "may not be specified when `port` is not specified");
            }
        }
        Some(Value::String(name)) => {
            if let Some(end) = end {
                errors.invalid(at_end, end, "may not be specified when `port` is non-numeric");
            }
            errors.problems(&format!("{path}.port"), name, port_name_problems(name));
        }
        Some(number) => {
            let number = number.as_i64().unwrap_or(0);
            errors.in_range(&format!("{path}.port"), number, 1, 65_535);
            let Some(end) = end else { return };
            if end < number {
                errors.invalid(at_end.clone(), end, "must be greater than or equal to `port`");
            }
            if !(1..=65_535).contains(&end) {
                errors.push(FieldError::invalid(at_end, &end.into(), between(1, 65_535)));
            }
        }
    }
}

fn peer(peer: &Value, known: &[&str], path: &str, errors: &mut ErrorList) {
    let mut given = 0;
    for field in ["podSelector", "namespaceSelector"] {
        if let Some(selector) = peer.get(field) {
            given += 1;
            label_selector(selector, &format!("{path}.{field}"), errors);
        }
    }
    if let Some(block) = peer.get("ipBlock") {
        ip_block(block, known, &format!("{path}.ipBlock"), errors);
        if given > 0 {
            errors.forbidden(path, "may not specify both ipBlock and another peer");
        }
    } else if given == 0 {
        errors.required(path, "must specify a peer");
    }
}

fn ip_block(block: &Value, known: &[&str], path: &str, errors: &mut ErrorList) {
    let (outer, at) = (text(block, "/cidr"), format!("{path}.cidr"));
    if !errors.present(&at, outer) {
        return;
    }
    let checked = |network: &str, at: &str, errors: &mut ErrorList| {
        if !known.contains(&network) {
            cidr(network, at, errors);
        }
    };
    checked(outer, &at, errors);
    let Some(outer) = parse_cidr(outer) else { return };
    for (i, except) in list(block, "/except").iter().enumerate() {
        let (except, at) = (except.as_str().unwrap_or(""), format!("{path}.except[{i}]"));
        checked(except, &at, errors);
        if parse_cidr(except).is_some_and(|inner| !is_strict_subset(inner, outer)) {
            errors.invalid(at, except, "must be a strict subset of `cidr`");
        }
    }
}

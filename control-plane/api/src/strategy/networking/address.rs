//! Checks of IPAddresses and ServiceCIDRs.

use crate::strategy::access::{list, text};
use crate::validation::net::{canonical_cidr, parse_cidr};
use crate::validation::text::{path_segment_problems, subdomain_problems};
use crate::validation::{ErrorList, FIELD_IMMUTABLE};
use serde_json::Value;

/// An IPAddress: something must hold it.
pub(super) fn ip_address(obj: &Value, errors: &mut ErrorList) {
    let path = "spec.parentRef";
    let Some(parent) = obj.pointer("/spec/parentRef") else {
        errors.required(path, "");
        return;
    };
    let group = text(parent, "/group");
    if !group.is_empty() {
        errors.problems(&format!("{path}.group"), group, subdomain_problems(group));
    }
    for (field, required) in [("resource", true), ("name", true), ("namespace", false)] {
        let (value, at) = (text(parent, &format!("/{field}")), format!("{path}.{field}"));
        if !value.is_empty() {
            errors.problems(&at, value, path_segment_problems(value));
        } else if required {
            errors.required(at, "");
        }
    }
}

/// A ServiceCIDR: one network of each family.
pub(super) fn service_cidr(obj: &Value, errors: &mut ErrorList) {
    let path = "spec.cidrs";
    let cidrs = list(obj, "/spec/cidrs");
    if cidrs.is_empty() {
        errors.required(path, "at least one CIDR required");
        return;
    }
    if cidrs.len() > 2 {
        errors.invalid(path, obj["spec"].clone(), "may only hold up to 2 values");
        return;
    }
    for (i, cidr) in cidrs.iter().enumerate() {
        canonical_cidr(cidr.as_str().unwrap_or(""), &format!("{path}[{i}]"), errors);
    }
    let families: Vec<bool> = cidrs
        .iter()
        .filter_map(|c| parse_cidr(c.as_str()?))
        .map(|(address, _)| address.is_ipv4())
        .collect();
    if families.len() == 2 && families[0] == families[1] {
        let detail =
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.invalid(path, cidrs.to_vec(), detail);
    }
}

/// A second network may be added, nothing else may change.
pub(super) fn service_cidr_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    let (now, then) = (list(new, "/spec/cidrs"), list(old, "/spec/cidrs"));
    if (then.len(), now.len()) != (1, 2) && then.len() != now.len() {
        errors.invalid("spec.cidrs", now.to_vec(), FIELD_IMMUTABLE);
        return;
    }
    for (i, (now, then)) in now.iter().zip(then).enumerate() {
        errors.immutable(&format!("spec.cidrs[{i}]"), Some(now), Some(then));
    }
    if now.len() > then.len() {
        service_cidr(new, errors);
    }
}

//! Names and amounts of resources: of containers, quotas and limit ranges.

use super::access::{list, map};
use crate::quantity::Quantity;
use crate::validation::text::qualified_name_problems;
use crate::validation::{ErrorList, FieldError, NOT_NEGATIVE};
use serde_json::Value;

const CONTAINER: [&str; 3] = ["cpu", "ephemeral-storage", "memory"];
/// What a quota counts objects of.
const COUNTED: [&str; 9] = [
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];
/// What a quota sums up.
const SUMMED: [&str; 7] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
    "requests.storage",
];

/// The amount, if it can be read.
pub(crate) fn amount(value: &Value) -> Option<Quantity> {
    Quantity::parse(value.as_str()?).ok()
}

fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// A resource of a device plugin or the like.
pub(crate) fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && qualified_name_problems(&format!("requests.{name}")).is_empty()
}

/// Resources of which a node can promise more than it has.
pub(crate) fn overcommits(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

/// Whether a quota knows the resource.
pub(crate) fn is_quota_resource(name: &str) -> bool {
    CONTAINER.contains(&name)
        || COUNTED.contains(&name)
        || SUMMED.contains(&name)
        || is_huge_page(name)
        || name.starts_with("requests.hugepages-")
}

/// A resource of any kind.
pub(crate) fn resource_name(name: &str, path: &str, errors: &mut ErrorList) {
    let problems = qualified_name_problems(name);
    if !problems.is_empty() {
        return errors.problems(path, name, problems);
    }
    let standard = name == "storage"
        || CONTAINER.contains(&name)
        || COUNTED.contains(&name)
        || SUMMED.contains(&name)
        || is_huge_page(name)
        || name.starts_with("requests.hugepages-");
    if !name.contains('/') && !standard {
        let detail = "must be a standard resource type or fully qualified";
        errors.invalid(path, name, detail);
    }
}

/// A resource of a container.
pub(crate) fn container_resource_name(name: &str, path: &str, errors: &mut ErrorList) {
    resource_name(name, path, errors);
    if !name.contains('/') {
        if !CONTAINER.contains(&name) && !is_huge_page(name) {
            errors.invalid(path, name, "must be a standard resource for containers");
        }
    } else if !is_native(name) && !is_extended(name) {
        errors.invalid(path, name, "doesn't follow extended resource name standard");
    }
}

/// A resource of a quota.
pub(crate) fn quota_resource_name(name: &str, path: &str, errors: &mut ErrorList) {
    resource_name(name, path, errors);
    if !name.contains('/') && !is_quota_resource(name) {
        errors.invalid(path, name, "must be a standard resource for quota");
    }
}

/// Amounts are not negative, and what is counted is counted in whole numbers.
pub(crate) fn resource_amount(name: &str, value: &Value, path: &str, errors: &mut ErrorList) {
    let Some(amount) = amount(value) else { return };
    if amount.signum() < 0 {
        errors.invalid(path, value.clone(), NOT_NEGATIVE);
    }
    if (COUNTED.contains(&name) || is_extended(name)) && amount.milli_value() % 1000 != 0 {
        errors.invalid(path, value.clone(), "must be an integer");
    }
}

/// Requests and limits of a container (or of a pod).
pub(crate) fn requirements(resources: &Value, path: &str, errors: &mut ErrorList) {
    let (mut huge, mut cpu_or_memory) = (false, false);
    for kind in ["limits", "requests"] {
        for (name, value) in map(resources, &format!("/{kind}")).into_iter().flatten() {
            let at = format!("{path}.{kind}[{name}]");
            container_resource_name(name, &at, errors);
            resource_amount(name, value, &at, errors);
            if kind == "requests" {
                request_and_limit(resources, name, value, path, errors);
            }
            if is_huge_page(name) {
                huge = true;
                whole_pages(name, value, &at, errors);
            }
            cpu_or_memory |= name == "cpu" || name == "memory";
        }
    }
    if huge && !cpu_or_memory {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
}

fn request_and_limit(resources: &Value, name: &str, value: &Value, path: &str, errors: &mut ErrorList) {
    let limit = resources.pointer("/limits").and_then(|l| l.get(name));
    let (Some(request), limit) = (amount(value), limit.and_then(amount)) else {
        return;
    };
    match limit {
        Some(limit) if request != limit && !overcommits(name) => {
            let detail = format!("must be equal to {name} limit of {}", limit.canonical());
            errors.invalid(format!("{path}.requests"), value.clone(), detail);
        }
        Some(limit) if request > limit => {
            let limit = limit.canonical();
            let detail = format!("must be less than or equal to {name} limit of {limit}");
            errors.invalid(format!("{path}.requests"), value.clone(), detail);
        }
        None if !overcommits(name) => {
            let detail = "Limit must be set for non overcommitable resources";
            errors.required(format!("{path}.limits"), detail);
        }
        _ => {}
    }
}

fn whole_pages(name: &str, value: &Value, path: &str, errors: &mut ErrorList) {
    let page = Quantity::parse(name.trim_start_matches("hugepages-")).map(|q| q.value());
    let (Ok(page), Some(amount)) = (page, amount(value)) else {
        return;
    };
    if page <= 0 || amount.value() % page != 0 {
        let detail = format!(
            "{} is not positive integer multiple of {name}",
            amount.canonical()
        );
        errors.invalid(path, value.clone(), detail);
    }
}

/// Names of the claims that a container uses: each once, and one of the pod's.
pub(crate) fn claims(resources: &Value, of_pod: &[&str], path: &str, errors: &mut ErrorList) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (i, claim) in list(resources, "/claims").iter().enumerate() {
        let at = format!("{path}.claims[{i}]");
        let (name, request) = (
            super::access::text(claim, "/name"),
            super::access::text(claim, "/request"),
        );
        if !errors.present(&at, name) {
            continue;
        }
        // A whole claim and a part of it are not used at once.
        let clash =
            |(n, r): &(&str, &str)| *n == name && (r.is_empty() || request.is_empty() || *r == request);
        if seen.iter().any(clash) {
            let shown = match request {
                "" => name.to_string(),
                request => format!("{name}/{request}"),
            };
            errors.duplicate(at.clone(), shown);
        }
        seen.push((name, request));
        if !of_pod.contains(&name) {
            let mut names = of_pod.to_vec();
            names.sort_unstable();
            let names = match names.is_empty() {
                true => " which is empty".to_string(),
                false => format!(": {}", names.join(", ")),
            };
            let detail = format!("must be one of the names in pod.spec.resourceClaims{names}");
            let mut error = FieldError::not_found(at, name);
            error.detail = detail;
            errors.push(error);
        }
    }
}

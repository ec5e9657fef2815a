//! Checks of APIServices.

use crate::meta;
use crate::strategy::access::{int, is_true, text};
use crate::validation::ErrorList;
use crate::validation::text::{between, label_1035_problems, subdomain_problems};
use serde_json::Value;

const MAX_GROUP_PRIORITY: i64 = 20_000;
const MAX_VERSION_PRIORITY: i64 = 1000;

/// An APIService. Its name says which group and version it serves.
pub(super) fn api_service(obj: &Value, errors: &mut ErrorList) {
    let spec = &obj["spec"];
    let (group, version) = (text(spec, "/group"), text(spec, "/version"));
    let wanted = format!("{version}.{group}");
    if meta::name(obj) != wanted {
        let detail = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
        errors.invalid("metadata.name", meta::name(obj), detail);
    }
    if !group.is_empty() {
        errors.problems("spec.group", group, subdomain_problems(group));
    } else if version != "v1" {
        let detail = "only v1 may have an empty group and it better be legacy kube";
        errors.required("spec.group", detail);
    }
    errors.problems("spec.version", version, label_1035_problems(version));
    for (field, most) in [
        ("groupPriorityMinimum", MAX_GROUP_PRIORITY),
        ("versionPriority", MAX_VERSION_PRIORITY),
    ] {
        let priority = int(spec, &format!("/{field}")).unwrap_or(0);
        if !(1..=most).contains(&priority) {
            let detail = format!("must be positive and less than {most}");
            errors.invalid(format!("spec.{field}"), priority, detail);
        }
    }
    let bundle = text(spec, "/caBundle");
    let insecure = is_true(spec, "/insecureSkipTLSVerify");
    let Some(service) = spec.get("service") else {
        if !bundle.is_empty() {
            let shown = format!(
                "{} bytes",
                bundle.len() / 4 * 3 - bundle.bytes().rev().take_while(|b| *b == b'=').count()
            );
            errors.invalid(
                "spec.caBundle",
                shown,
                "local APIServices may not have a caBundle",
            );
        }
        if insecure {
            let detail = "local APIServices may not have insecureSkipTLSVerify";
            errors.invalid("spec.insecureSkipTLSVerify", true, detail);
        }
        return;
    };
    for field in ["namespace", "name"] {
        errors.present(
            &format!("spec.service.{field}"),
            text(service, &format!("/{field}")),
        );
    }
    if let Some(port) = int(service, "/port").filter(|port| !(1..=65_535).contains(port)) {
        let detail = format!("port is not valid: {}", between(1, 65_535));
        errors.invalid("spec.service.port", port, detail);
    }
    if insecure && !bundle.is_empty() {
        let detail = "may not be true if caBundle is present";
        errors.invalid("spec.insecureSkipTLSVerify", true, detail);
    }
}

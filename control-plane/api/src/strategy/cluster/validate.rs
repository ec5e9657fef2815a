//! Checks of storage, ingresses, RBAC, priorities, CSRs and custom resource definitions.

use crate::meta;
use crate::strategy::access::{int, is_true, list, map, text};
use crate::strategy::pod::validate::{node_selector, tolerations};
use crate::validation::text::{
    label_1035_problems, label_problems, path_segment_problems, qualified_name_problems, subdomain_problems,
};
use crate::validation::{ErrorList, FieldError};
use serde_json::Value;

/// The largest priority that is not the system's.
const MAX_USER_PRIORITY: i64 = 1_000_000_000;
const ACCESS_MODES: [&str; 4] = [
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];

fn access_modes(spec: &Value, errors: &mut ErrorList) {
    let modes = list(spec, "/accessModes");
    if modes.is_empty() {
        errors.push(FieldError::required(
            "spec.accessModes",
            "at least 1 access mode is required",
        ));
    }
    for mode in modes {
        errors.one_of("spec.accessModes", mode.as_str().unwrap_or(""), &ACCESS_MODES);
    }
}

pub(super) fn persistent_volume(obj: &Value, errors: &mut ErrorList) {
    let spec = obj.get("spec").unwrap_or(&Value::Null);
    access_modes(spec, errors);
    if map(spec, "/capacity").is_none_or(|c| c.is_empty()) {
        errors.push(FieldError::required("spec.capacity", ""));
    }
    let schema = crate::schema::TypeRef::by_name("io.k8s.api.core.v1.PersistentVolumeSource");
    let mut given = 0;
    for field in schema
        .into_iter()
        .flat_map(|s| s.fields())
        .filter(|f| spec.get(f.name()).is_some())
    {
        given += 1;
        if given > 1 {
            let detail = "may not specify more than 1 volume type";
            errors.push(FieldError::forbidden(format!("spec.{}", field.name()), detail));
        }
    }
    if given == 0 {
        errors.push(FieldError::required("spec", "must specify a volume type"));
    }
    let policy = text(spec, "/persistentVolumeReclaimPolicy");
    errors.one_of(
        "spec.persistentVolumeReclaimPolicy",
        policy,
        &["Delete", "Recycle", "Retain"],
    );
    errors.one_of(
        "spec.volumeMode",
        text(spec, "/volumeMode"),
        &["Block", "Filesystem"],
    );
    if let Some(required) = spec.pointer("/nodeAffinity/required") {
        node_selector(required, "spec.nodeAffinity.required", errors);
    }
}

pub(super) fn persistent_volume_claim(obj: &Value, errors: &mut ErrorList) {
    let spec = obj.get("spec").unwrap_or(&Value::Null);
    access_modes(spec, errors);
    match spec
        .pointer("/resources/requests/storage")
        .and_then(Value::as_str)
    {
        None => errors.push(FieldError::required("spec.resources[storage]", "")),
        Some(size) => {
            let positive = crate::quantity::Quantity::parse(size).is_ok_and(|q| q.signum() > 0);
            if !positive {
                errors.push(FieldError::invalid(
                    "spec.resources[storage]",
                    &size.into(),
                    "must be greater than zero",
                ));
            }
        }
    }
    errors.one_of(
        "spec.volumeMode",
        text(spec, "/volumeMode"),
        &["Block", "Filesystem"],
    );
    let class = text(spec, "/storageClassName");
    if !class.is_empty() {
        errors.problems("spec.storageClassName", class, subdomain_problems(class));
    }
}

pub(super) fn persistent_volume_claim_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    persistent_volume_claim(new, errors);
    let bare = |obj: &Value| {
        let mut spec = obj.get("spec").cloned().unwrap_or(Value::Null);
        if let Some(spec) = spec.as_object_mut() {
            spec.remove("resources");
            spec.remove("volumeAttributesClassName");
            // The binder fills these in once.
            for field in ["volumeName", "storageClassName"] {
                if text(old, &format!("/spec/{field}")).is_empty() {
                    spec.remove(field);
                }
            }
        }
        spec
    };
    if bare(new) != bare(old) {
        let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        errors.push(FieldError::forbidden("spec", detail));
    }
}

pub(super) fn storage_class(obj: &Value, errors: &mut ErrorList) {
    let provisioner = text(obj, "/provisioner");
    if provisioner.is_empty() {
        errors.push(FieldError::required("provisioner", ""));
    } else {
        errors.problems(
            "provisioner",
            provisioner,
            qualified_name_problems(&provisioner.to_lowercase()),
        );
    }
    errors.one_of(
        "reclaimPolicy",
        text(obj, "/reclaimPolicy"),
        &["Delete", "Retain"],
    );
    errors.one_of(
        "volumeBindingMode",
        text(obj, "/volumeBindingMode"),
        &["Immediate", "WaitForFirstConsumer"],
    );
}

pub(super) fn ingress(obj: &Value, errors: &mut ErrorList) {
    let rules = list(obj, "/spec/rules");
    if rules.is_empty() && obj.pointer("/spec/defaultBackend").is_none() {
        errors.push(FieldError::new(
            crate::validation::ErrorKind::Invalid,
            "spec",
            "[]networking.IngressRule(nil)",
            "either `defaultBackend` or `rules` must be specified",
        ));
    }
    if let Some(backend) = obj.pointer("/spec/defaultBackend") {
        ingress_backend(backend, "spec.defaultBackend", errors);
    }
    for (i, rule) in rules.iter().enumerate() {
        let host = text(rule, "/host");
        if !host.is_empty() {
            let bare = host.strip_prefix("*.").unwrap_or(host);
            errors.problems(&format!("spec.rules[{i}].host"), host, subdomain_problems(bare));
        }
        let Some(http) = rule.get("http") else { continue };
        let paths = list(http, "/paths");
        if paths.is_empty() {
            errors.push(FieldError::required(format!("spec.rules[{i}].http.paths"), ""));
        }
        for (j, item) in paths.iter().enumerate() {
            let path = format!("spec.rules[{i}].http.paths[{j}]");
            let kind = text(item, "/pathType");
            if kind.is_empty() {
                errors.push(FieldError::required(
                    format!("{path}.pathType"),
                    "pathType must be specified",
                ));
            } else {
                let supported = ["Exact", "ImplementationSpecific", "Prefix"];
                errors.one_of(&format!("{path}.pathType"), kind, &supported);
            }
            let target = text(item, "/path");
            if matches!(kind, "Exact" | "Prefix") && !target.starts_with('/') {
                let detail = "must be an absolute path";
                errors.push(FieldError::invalid(
                    format!("{path}.path"),
                    &target.into(),
                    detail,
                ));
            }
            ingress_backend(
                item.get("backend").unwrap_or(&Value::Null),
                &format!("{path}.backend"),
                errors,
            );
        }
    }
}

fn ingress_backend(backend: &Value, path: &str, errors: &mut ErrorList) {
    match (backend.get("service"), backend.get("resource")) {
        (Some(_), Some(_)) => {
            errors.push(FieldError::invalid(
                path,
                &"".into(),
                "cannot set both resource and service backends",
            ));
        }
        (Some(service), None) => {
            let path = format!("{path}.service");
            let name = text(service, "/name");
            if name.is_empty() {
                errors.push(FieldError::required(format!("{path}.name"), ""));
            } else {
                errors.problems(&format!("{path}.name"), name, label_1035_problems(name));
            }
            match (
                text(service, "/port/name"),
                int(service, "/port/number").unwrap_or(0),
            ) {
                ("", 0) => {
                    errors.push(FieldError::required(path, "port name or number is required"));
                }
                ("", number) => errors.in_range(&format!("{path}.port.number"), number, 1, 65_535),
                (_, 0) => {}
                (_, _) => errors.push(FieldError::invalid(
                    path,
                    &"".into(),
                    "cannot set both port name & port number",
                )),
            }
        }
        (None, Some(_)) => {}
        (None, None) => errors.push(FieldError::required(
            path,
            "resource or service backend is required",
        )),
    }
}

pub(super) fn rules(obj: &Value, namespaced: bool, errors: &mut ErrorList) {
    for (i, rule) in list(obj, "/rules").iter().enumerate() {
        let path = format!("rules[{i}]");
        let has = |field: &str| !list(rule, field).is_empty();
        if !has("/verbs") {
            errors.push(FieldError::required(
                format!("{path}.verbs"),
                "verbs must contain at least one value",
            ));
        }
        if has("/nonResourceURLs") {
            if namespaced {
                let detail = "namespaced rules cannot apply to non-resource URLs";
                let value = rule["nonResourceURLs"].clone();
                errors.push(FieldError::invalid(
                    format!("{path}.nonResourceURLs"),
                    &value,
                    detail,
                ));
            }
            if has("/apiGroups") || has("/resources") || has("/resourceNames") {
                let detail = "rules cannot apply to both regular resources and non-resource URLs";
                let value = rule["nonResourceURLs"].clone();
                errors.push(FieldError::invalid(
                    format!("{path}.nonResourceURLs"),
                    &value,
                    detail,
                ));
            }
            continue;
        }
        if !has("/apiGroups") {
            let detail = "resource rules must supply at least one api group";
            errors.push(FieldError::required(format!("{path}.apiGroups"), detail));
        }
        if !has("/resources") {
            let detail = "resource rules must supply at least one resource";
            errors.push(FieldError::required(format!("{path}.resources"), detail));
        }
    }
}

pub(super) fn binding(obj: &Value, kinds: &[&str], errors: &mut ErrorList) {
    const GROUP: &str = "rbac.authorization.k8s.io";
    errors.one_of("roleRef.apiGroup", text(obj, "/roleRef/apiGroup"), &[GROUP]);
    errors.one_of("roleRef.kind", text(obj, "/roleRef/kind"), kinds);
    let name = text(obj, "/roleRef/name");
    if name.is_empty() {
        errors.push(FieldError::required("roleRef.name", ""));
    } else {
        errors.problems("roleRef.name", name, path_segment_problems(name));
    }
    let namespaced = kinds.len() > 1;
    for (i, subject) in list(obj, "/subjects").iter().enumerate() {
        let path = format!("subjects[{i}]");
        let name = text(subject, "/name");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        }
        match text(subject, "/kind") {
            "ServiceAccount" => {
                if !name.is_empty() {
                    errors.problems(&format!("{path}.name"), name, subdomain_problems(name));
                }
                if !text(subject, "/apiGroup").is_empty() {
                    errors.one_of(&format!("{path}.apiGroup"), text(subject, "/apiGroup"), &[""]);
                }
                if !namespaced && text(subject, "/namespace").is_empty() {
                    errors.push(FieldError::required(format!("{path}.namespace"), ""));
                }
            }
            "User" | "Group" => {
                errors.one_of(&format!("{path}.apiGroup"), text(subject, "/apiGroup"), &[GROUP])
            }
            other => errors.one_of(
                &format!("{path}.kind"),
                other,
                &["ServiceAccount", "User", "Group"],
            ),
        }
    }
}

pub(super) fn same_role(new: &Value, old: &Value, errors: &mut ErrorList) {
    if new.get("roleRef") != old.get("roleRef") {
        let value = new.get("roleRef").unwrap_or(&Value::Null);
        errors.push(FieldError::invalid("roleRef", value, "cannot change roleRef"));
    }
}

pub(super) fn priority_class(obj: &Value, errors: &mut ErrorList) {
    let name = meta::name(obj);
    let value = int(obj, "/value").unwrap_or(0);
    if name.starts_with("system-") {
        let known = matches!(
            (name, value),
            ("system-cluster-critical", 2_000_000_000) | ("system-node-critical", 2_000_001_000)
        );
        if !known {
            let detail = "priority class names with 'system-' prefix are reserved for system use only";
            errors.push(FieldError::forbidden("metadata.name", detail));
        }
    } else if value > MAX_USER_PRIORITY {
        let detail = format!("maximum allowed value of a user defined priority is {MAX_USER_PRIORITY}");
        errors.push(FieldError::forbidden("value", detail));
    }
    errors.one_of(
        "preemptionPolicy",
        text(obj, "/preemptionPolicy"),
        &["PreemptLowerPriority", "Never"],
    );
}

pub(super) fn runtime_class(obj: &Value, errors: &mut ErrorList) {
    let handler = text(obj, "/handler");
    errors.problems("handler", handler, label_problems(handler));
    tolerations(
        list(obj, "/scheduling/tolerations"),
        "scheduling.tolerations",
        errors,
    );
}

pub(super) fn signing_request(obj: &Value, errors: &mut ErrorList) {
    if text(obj, "/spec/request").is_empty() {
        errors.push(FieldError::required("spec.request", ""));
    }
    let usages = list(obj, "/spec/usages");
    if usages.is_empty() {
        errors.push(FieldError::required("spec.usages", "usages is required"));
    }
    let signer = text(obj, "/spec/signerName");
    if signer.is_empty() {
        errors.push(FieldError::required("spec.signerName", ""));
    } else {
        match signer.split_once('/') {
            Some((domain, path)) if !path.is_empty() => {
                errors.problems("spec.signerName", signer, subdomain_problems(domain));
            }
            _ => {
                let detail =
                    "must be a fully qualified domain and path of the form 'example.com/signer-name'";
                errors.push(FieldError::invalid("spec.signerName", &signer.into(), detail));
            }
        }
    }
    if let Some(seconds) = int(obj, "/spec/expirationSeconds").filter(|s| *s < 600) {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(FieldError::invalid(
            "spec.expirationSeconds",
            &seconds.into(),
            detail,
        ));
    }
}

pub(super) fn custom_resource_definition(obj: &Value, errors: &mut ErrorList) {
    let at = |field: &str| text(obj, &format!("/spec/{field}"));
    let (group, plural) = (at("group"), at("names/plural"));
    let wanted = format!("{plural}.{group}");
    if meta::name(obj) != wanted {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        errors.push(FieldError::invalid(
            "metadata.name",
            &meta::name(obj).into(),
            detail,
        ));
    }
    if group.is_empty() {
        errors.push(FieldError::required("spec.group", ""));
    } else if !group.contains('.') {
        let detail = "should be a domain with at least one dot";
        errors.push(FieldError::invalid("spec.group", &group.into(), detail));
    } else {
        errors.problems("spec.group", group, subdomain_problems(group));
    }
    errors.one_of("spec.scope", at("scope"), &["Cluster", "Namespaced"]);
    for field in ["plural", "singular", "kind", "listKind"] {
        let (value, path) = (at(&format!("names/{field}")), format!("spec.names.{field}"));
        if value.is_empty() {
            errors.push(FieldError::required(path, ""));
        } else {
            errors.problems(&path, value, label_1035_problems(&value.to_lowercase()));
        }
    }
    if !at("names/kind").is_empty() && at("names/kind") == at("names/listKind") {
        let detail = "kind and listKind may not be the same";
        errors.push(FieldError::invalid(
            "spec.names.listKind",
            &at("names/listKind").into(),
            detail,
        ));
    }
    let versions = list(obj, "/spec/versions");
    let mut names: Vec<&str> = Vec::new();
    for (i, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{i}]");
        let name = text(version, "/name");
        errors.problems(&format!("{path}.name"), name, label_1035_problems(name));
        if names.contains(&name) {
            errors.push(FieldError::invalid(
                "spec.versions",
                &name.into(),
                "must contain unique version names",
            ));
        }
        names.push(name);
        if version.pointer("/schema/openAPIV3Schema").is_none() {
            errors.push(FieldError::required(
                format!("{path}.schema.openAPIV3Schema"),
                "schemas are required",
            ));
        }
    }
    if versions.is_empty() {
        errors.push(FieldError::required(
            "spec.versions",
            "must have at least one version",
        ));
    } else if versions.iter().filter(|v| is_true(v, "/storage")).count() != 1 {
        let detail = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid(
            "spec.versions",
            &Value::from(versions.to_vec()),
            detail,
        ));
    }
}

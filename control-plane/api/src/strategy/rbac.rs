//! Roles and their bindings.

use super::access::{Object, each, ensure, list, set, text};
use super::kind::Kind;
use crate::meta::NameRule;
use crate::selector::LabelSelector;
use crate::strategy::pod::validate::label_selector;
use crate::validation::ErrorList;
use crate::validation::text::{path_segment_problems, subdomain_problems};
use serde_json::Value;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Roles.
pub(super) static ROLE: Kind = Kind::namespaced("io.k8s.api.rbac.v1.Role")
    .name(NameRule::PathSegment)
    .create_on_update()
    .validates(|obj, errors| rules(obj, true, errors));

/// ClusterRoles.
pub(super) static CLUSTER_ROLE: Kind = Kind::cluster("io.k8s.api.rbac.v1.ClusterRole")
    .name(NameRule::PathSegment)
    .create_on_update()
    .validates(|obj, errors| {
        rules(obj, false, errors);
        aggregation(obj, errors);
    });

/// RoleBindings.
pub(super) static ROLE_BINDING: Kind = Kind::namespaced("io.k8s.api.rbac.v1.RoleBinding")
    .name(NameRule::PathSegment)
    .create_on_update()
    .defaults(defaults)
    .validates(|obj, errors| binding(obj, &["Role", "ClusterRole"], errors))
    .validates_update(|new, old, errors| {
        binding(new, &["Role", "ClusterRole"], errors);
        same_role(new, old, errors);
    });

/// ClusterRoleBindings.
pub(super) static CLUSTER_ROLE_BINDING: Kind = Kind::cluster("io.k8s.api.rbac.v1.ClusterRoleBinding")
    .name(NameRule::PathSegment)
    .create_on_update()
    .defaults(defaults)
    .validates(|obj, errors| binding(obj, &["ClusterRole"], errors))
    .validates_update(|new, old, errors| {
        binding(new, &["ClusterRole"], errors);
        same_role(new, old, errors);
    });

fn defaults(obj: &mut Object) {
    set(ensure(obj, "roleRef"), "apiGroup", GROUP);
    for subject in each(obj, "subjects") {
        let kind = subject.get("kind").and_then(Value::as_str);
        if matches!(kind, Some("User" | "Group")) {
            set(subject, "apiGroup", GROUP);
        }
    }
}

fn rules(obj: &Value, namespaced: bool, errors: &mut ErrorList) {
    for (i, rule) in list(obj, "/rules").iter().enumerate() {
        let path = format!("rules[{i}]");
        let has = |field: &str| !list(rule, field).is_empty();
        if !has("/verbs") {
            errors.required(format!("{path}.verbs"), "verbs must contain at least one value");
        }
        if has("/nonResourceURLs") {
            let (at, urls) = (format!("{path}.nonResourceURLs"), &rule["nonResourceURLs"]);
            if namespaced {
                let detail = "namespaced rules cannot apply to non-resource URLs";
                errors.invalid(at.clone(), urls.clone(), detail);
            }
            if has("/apiGroups") || has("/resources") || has("/resourceNames") {
                let detail = "rules cannot apply to both regular resources and non-resource URLs";
                errors.invalid(at, urls.clone(), detail);
            }
            continue;
        }
        if !has("/apiGroups") {
            let detail = "resource rules must supply at least one api group";
            errors.required(format!("{path}.apiGroups"), detail);
        }
        if !has("/resources") {
            let detail = "resource rules must supply at least one resource";
            errors.required(format!("{path}.resources"), detail);
        }
    }
}

/// The roles that this one gathers, by their labels.
fn aggregation(obj: &Value, errors: &mut ErrorList) {
    let Some(rule) = obj.get("aggregationRule") else {
        return;
    };
    let selectors = list(rule, "/clusterRoleSelectors");
    if selectors.is_empty() {
        let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        errors.required("aggregationRule.clusterRoleSelectors", detail);
    }
    for (i, selector) in selectors.iter().enumerate() {
        let path = format!("aggregationRule.clusterRoleSelectors[{i}]");
        label_selector(selector, &path, errors);
        if LabelSelector::from_value(Some(selector)).is_err() {
            errors.invalid(path, Value::Null, "invalid label selector.");
        }
    }
}

fn binding(obj: &Value, kinds: &[&str], errors: &mut ErrorList) {
    errors.one_of("roleRef.apiGroup", text(obj, "/roleRef/apiGroup"), &[GROUP]);
    errors.one_of("roleRef.kind", text(obj, "/roleRef/kind"), kinds);
    let name = text(obj, "/roleRef/name");
    if errors.present("roleRef.name", name) {
        errors.problems("roleRef.name", name, path_segment_problems(name));
    }
    let namespaced = kinds.len() > 1;
    for (i, of) in list(obj, "/subjects").iter().enumerate() {
        subject(of, namespaced, &format!("subjects[{i}]"), errors);
    }
}

fn subject(subject: &Value, namespaced: bool, path: &str, errors: &mut ErrorList) {
    let (name, group) = (text(subject, "/name"), text(subject, "/apiGroup"));
    let (at, at_group) = (format!("{path}.name"), format!("{path}.apiGroup"));
    errors.present(&at, name);
    match text(subject, "/kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                errors.problems(&at, name, subdomain_problems(name));
            }
            errors.one_of(&at_group, group, &[""]);
            if !namespaced {
                errors.present(&format!("{path}.namespace"), text(subject, "/namespace"));
            }
        }
        "User" | "Group" => errors.one_of(&at_group, group, &[GROUP]),
        other => {
            let supported = ["ServiceAccount", "User", "Group"];
            errors.one_of(&format!("{path}.kind"), other, &supported);
        }
    }
}

fn same_role(new: &Value, old: &Value, errors: &mut ErrorList) {
    if new.get("roleRef") != old.get("roleRef") {
        errors.invalid("roleRef", new["roleRef"].clone(), "cannot change roleRef");
    }
}

//! Pods and pod templates.

mod app_armor;
pub(crate) mod default;
mod qos;
pub(crate) mod validate;
pub(crate) mod warnings;

use super::access::{Object, each, int, is_true, list, set, set_nonzero, text};
use super::kind::{Kind, Subresources};
use super::{
    Deletion, Traits, bump_generation, generic_prepare_for_create, generic_reset_fields, keep, keep_metadata,
};
use crate::meta;
use crate::validation::ErrorList;
use serde_json::{Value, json};

/// Pods.
pub(super) static POD: Kind = Kind::namespaced("io.k8s.api.core.v1.Pod")
    .status()
    .generation(&["spec"])
    .defaults(default::pod)
    .prepares_create(create)
    .prepares_update(update)
    .prepares_status(status)
    .validates(validate::pod)
    .validates_update(validate::pod_update)
    .validates_status(validate::pod_status)
    .warns_of_given(app_armor::warnings)
    .warns(warnings::pod)
    .subresources(Subresources {
        prepare: update_part,
        validate: validate_part,
    })
    .resets(|traits, subresource| match subresource {
        "status" => &["spec", "metadata.deletionTimestamp", "metadata.ownerReferences"],
        other => generic_reset_fields(traits, other),
    })
    .selectable(fields)
    .deletes(deletion);

/// Pod templates.
pub(super) static POD_TEMPLATE: Kind = Kind::namespaced("io.k8s.api.core.v1.PodTemplate")
    .generation(&["template"])
    .defaults(default::template)
    .validates(|obj, errors| validate::template(obj.get("template"), "template", errors))
    .warns(|obj, _| warnings::template(&obj["template"], "template."));

fn create(traits: &Traits, obj: &mut Value) {
    generic_prepare_for_create(traits, obj);
    app_armor::take_over(obj);
    merge_label_keys(obj);
    let mut status = json!({"phase": "Pending", "qosClass": qos::class(obj)});
    if !list(obj, "/spec/schedulingGates").is_empty() {
        status["conditions"] = json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates"}]);
    }
    obj["status"] = status;
}

/// Turns keys whose values a pod is to share with others, or not to share, into requirements of the selectors beside them.
fn merge_label_keys(obj: &mut Value) {
    const TERMS: &str = "DuringSchedulingIgnoredDuringExecution";
    let labels = meta::labels(obj).cloned().unwrap_or_default();
    let Some(spec) = obj.get_mut("spec") else { return };
    for kind in ["podAffinity", "podAntiAffinity"] {
        for (way, inner) in [("preferred", "/podAffinityTerm"), ("required", "")] {
            let terms = spec.pointer_mut(&format!("/affinity/{kind}/{way}{TERMS}"));
            for term in terms.and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(term) = term.pointer_mut(inner) {
                    merge_keys_of(term, "matchLabelKeys", "In", &labels);
                    merge_keys_of(term, "mismatchLabelKeys", "NotIn", &labels);
                }
            }
        }
    }
    let constraints = spec.get_mut("topologySpreadConstraints");
    for constraint in constraints.and_then(Value::as_array_mut).into_iter().flatten() {
        merge_keys_of(constraint, "matchLabelKeys", "In", &labels);
    }
}

fn merge_keys_of(term: &mut Value, field: &str, operator: &str, labels: &Object) {
    let keys = list(term, &format!("/{field}")).iter().filter_map(Value::as_str);
    let requirements: Vec<Value> = keys
        .filter_map(|key| Some((key, labels.get(key)?)))
        .map(|(key, value)| json!({"key": key, "operator": operator, "values": [value]}))
        .collect();
    let selector = term.get_mut("labelSelector").and_then(Value::as_object_mut);
    // Without a selector there is nothing to narrow: none selects nothing.
    let Some(selector) = selector.filter(|_| !requirements.is_empty()) else {
        return;
    };
    let expressions = selector.entry("matchExpressions").or_insert_with(|| json!([]));
    if let Some(expressions) = expressions.as_array_mut() {
        expressions.extend(requirements);
    }
}

fn update(traits: &Traits, new: &mut Value, old: &Value) {
    meta::carry_over(new, old);
    keep(new, old, "status");
    bump_generation(traits, new, old);
}

/// A kubelet owns the status; it neither takes over nor deletes the pod through it.
fn status(new: &mut Value, old: &Value) {
    super::generic_prepare_for_status_update(new, old);
    keep_metadata(new, old, "ownerReferences");
    let old = &old["status"];
    let Some(status) = new.get_mut("status").and_then(Value::as_object_mut) else {
        return;
    };
    // Old kubelets drop the class of a pod that they refuse.
    if let Some(class) = old.get("qosClass") {
        set(status, "qosClass", class.clone());
    }
    keep_observed(status, old);
    let mut before: Vec<&Value> = list(old, "/conditions").iter().collect();
    for condition in each(status, "conditions") {
        // There may be several conditions of a type: the first stands for the first.
        let same = before
            .iter()
            .position(|old| old.get("type") == condition.get("type"));
        if let Some(at) = same {
            keep_observed(condition, before.remove(at));
        }
    }
}

/// What somebody has seen stays seen, if he who writes does not say.
fn keep_observed(new: &mut Object, old: &Value) {
    let seen = int(old, "/observedGeneration").unwrap_or(0);
    if seen != 0 {
        set_nonzero(new, "observedGeneration", seen);
    }
}

/// `ephemeralcontainers` changes nothing else, `resize` nothing but resources.
fn update_part(traits: &Traits, subresource: &str, new: &mut Value, old: &Value) {
    let mut kept = old.clone();
    match subresource {
        "ephemeralcontainers" => {
            if let Some(spec) = kept.get_mut("spec") {
                keep(spec, &new["spec"], "ephemeralContainers");
            }
        }
        "resize" => {
            for field in ["containers", "initContainers"] {
                resize_containers(&mut kept["spec"], &new["spec"], field);
            }
            if let Some(spec) = kept
                .get_mut("spec")
                .filter(|spec| spec.get("resources").is_some())
            {
                keep(spec, &new["spec"], "resources");
            }
        }
        _ => {}
    }
    bump_generation(traits, &mut kept, old);
    *new = kept;
}

/// Takes over what a resize may change. Containers that are not the old ones are taken as they are, for validation to refuse.
fn resize_containers(kept: &mut Value, asked: &Value, field: &str) {
    let asked = list(asked, &format!("/{field}"));
    let Some(containers) = kept.get_mut(field).and_then(Value::as_array_mut) else {
        if !asked.is_empty() {
            kept[field] = asked.to_vec().into();
        }
        return;
    };
    let same =
        containers.len() == asked.len() && containers.iter().zip(asked).all(|(a, b)| a["name"] == b["name"]);
    if !same {
        *containers = asked.to_vec();
        return;
    }
    for (container, asked) in containers.iter_mut().zip(asked) {
        keep(container, asked, "resources");
        keep(container, asked, "resizePolicy");
    }
}

fn validate_part(subresource: &str, new: &Value, old: &Value, errors: &mut ErrorList) {
    match subresource {
        "ephemeralcontainers" => validate::ephemeral_update(new, old, errors),
        "resize" => validate::resize(new, old, errors),
        _ => {}
    }
}

/// A pod that no kubelet runs, or that is over, goes at once.
fn deletion(obj: &Value, requested: Option<i64>) -> Deletion {
    let grace = requested
        .or_else(|| int(obj, "/spec/terminationGracePeriodSeconds"))
        .unwrap_or(0);
    let finished = matches!(text(obj, "/status/phase"), "Failed" | "Succeeded");
    if text(obj, "/spec/nodeName").is_empty() || finished || grace == 0 {
        Deletion::Now
    } else {
        // Negative ones were allowed once and mean "at once, but gracefully".
        Deletion::Graceful(grace.max(1))
    }
}

fn fields(obj: &Value) -> Vec<(&'static str, String)> {
    let at = |pointer: &str| text(obj, pointer).to_string();
    let ip = match at("/status/podIPs/0/ip") {
        ip if ip.is_empty() => at("/status/podIP"),
        ip => ip,
    };
    vec![
        ("spec.nodeName", at("/spec/nodeName")),
        ("spec.restartPolicy", at("/spec/restartPolicy")),
        ("spec.schedulerName", at("/spec/schedulerName")),
        ("spec.serviceAccountName", at("/spec/serviceAccountName")),
        ("spec.hostNetwork", is_true(obj, "/spec/hostNetwork").to_string()),
        ("status.phase", at("/status/phase")),
        ("status.podIP", ip.clone()),
        ("status.podIPs", ip),
        ("status.nominatedNodeName", at("/status/nominatedNodeName")),
    ]
}

/// The containers of a pod spec with their field names, in upstream's order.
pub(crate) fn all_containers(spec: &Value) -> impl Iterator<Item = (String, &Object)> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(move |field| {
            let items = spec.get(field).and_then(Value::as_array).into_iter().flatten();
            items
                .enumerate()
                .filter_map(move |(i, c)| Some((format!("{field}[{i}]"), c.as_object()?)))
        })
}

#[cfg(test)]
mod tests {
    use super::super::Strategy;
    use super::*;

    #[test]
    fn deletion_is_graceful_while_a_kubelet_runs_the_pod() {
        let pod = |phase: &str, node: &str| json!({"spec": {"nodeName": node, "terminationGracePeriodSeconds": 30}, "status": {"phase": phase}});
        assert_eq!(deletion(&pod("Running", "n"), None), Deletion::Graceful(30));
        assert_eq!(deletion(&pod("Running", "n"), Some(5)), Deletion::Graceful(5));
        assert_eq!(deletion(&pod("Running", "n"), Some(0)), Deletion::Now);
        assert_eq!(deletion(&pod("Running", "n"), Some(-3)), Deletion::Graceful(1));
        assert_eq!(deletion(&pod("Pending", ""), None), Deletion::Now);
        assert_eq!(deletion(&pod("Succeeded", "n"), None), Deletion::Now);
    }

    #[test]
    fn a_status_update_changes_the_status() {
        let old = json!({"metadata": {"name": "p", "ownerReferences": [1], "generation": 2}, "spec": {"a": 1}, "status": {"qosClass": "Burstable"}});
        let mut new = json!({"metadata": {"name": "p", "annotations": {"a": "b"}}, "spec": {"a": 2}, "status": {"phase": "Running"}});
        POD.prepare_for_status_update(&mut new, &old);
        assert_eq!(
            new,
            json!({"metadata": {"name": "p", "annotations": {"a": "b"}, "ownerReferences": [1], "generation": 2}, "spec": {"a": 1}, "status": {"phase": "Running", "qosClass": "Burstable"}})
        );
    }

    #[test]
    fn the_generation_follows_the_spec() {
        let old = json!({"metadata": {"name": "p", "generation": 2}, "spec": {"a": 1}, "status": {"phase": "Running"}});
        let mut new = json!({"metadata": {"name": "p", "labels": {"a": "b"}}, "spec": {"a": 1}});
        POD.prepare_for_update(&mut new, &old);
        assert_eq!(
            (meta::generation(&new), text(&new, "/status/phase")),
            (2, "Running")
        );
        new["spec"]["a"] = 2.into();
        POD.prepare_for_update(&mut new, &old);
        assert_eq!(meta::generation(&new), 3);
    }
}

//! PriorityClasses and RuntimeClasses: what pods name to be treated in another way.

use super::access::{int, is_true, list, map, set, text};
use super::kind::Kind;
use super::pod::validate::tolerations;
use super::pod::warnings::deprecated_label;
use super::quantities::requirements;
use crate::meta::{self, validate_labels};
use crate::validation::ErrorList;
use crate::validation::text::label_problems;
use serde_json::{Value, json};

/// The largest priority that is not the system's.
const MAX_USER_PRIORITY: i64 = 1_000_000_000;
/// The system's classes and their priorities.
const SYSTEM_CLASSES: [(&str, i64); 2] = [
    ("system-node-critical", 2_000_001_000),
    ("system-cluster-critical", 2_000_000_000),
];

/// PriorityClasses.
pub(super) static PRIORITY_CLASS: Kind = Kind::cluster("io.k8s.api.scheduling.v1.PriorityClass")
    .generation(&["value"])
    // There is one generation only.
    .prepares_update(|_, new, old| meta::carry_over(new, old))
    .defaults(|obj| set(obj, "preemptionPolicy", "PreemptLowerPriority"))
    .validates(priority_class)
    .validates_update(|new, old, errors| {
        if new.get("value") != old.get("value") {
            errors.forbidden("value", "may not be changed in an update.");
        }
        let field = "preemptionPolicy";
        errors.immutable(field, new.get(field), old.get(field));
    });

fn priority_class(obj: &Value, errors: &mut ErrorList) {
    let name = meta::name(obj);
    let value = int(obj, "/value").unwrap_or(0);
    if name.starts_with("system-") {
        if let Some(problem) = system_problem(obj, name, value) {
            let detail = format!(
                "priority class names with 'system-' prefix are reserved for system use only. error: {problem}"
            );
            errors.forbidden("metadata.name", detail);
        }
    } else if value > MAX_USER_PRIORITY {
        let detail = format!("maximum allowed value of a user defined priority is {MAX_USER_PRIORITY}");
        errors.forbidden("value", detail);
    }
    let policy = text(obj, "/preemptionPolicy");
    if errors.present("preemptionPolicy", policy) {
        errors.one_of("preemptionPolicy", policy, &["PreemptLowerPriority", "Never"]);
    }
}

/// Why a class is not one of the system's.
fn system_problem(obj: &Value, name: &str, value: i64) -> Option<String> {
    let Some((_, known)) = SYSTEM_CLASSES.iter().find(|(known, _)| *known == name) else {
        return Some(format!("{name} is not a known system priority class"));
    };
    if *known != value {
        return Some(format!("value of {name} PriorityClass must be {known}"));
    }
    is_true(obj, "/globalDefault").then(|| format!("globalDefault of {name} PriorityClass must be false"))
}

/// RuntimeClasses.
pub(super) static RUNTIME_CLASS: Kind = Kind::cluster("io.k8s.api.node.v1.RuntimeClass")
    .create_on_update()
    .conditional_update()
    .warns(|obj, _| {
        let selector = map(obj, "/scheduling/nodeSelector").into_iter().flatten();
        selector
            .filter_map(|(label, _)| deprecated_label(label))
            .map(|why| format!("scheduling.nodeSelector: {why}"))
            .collect()
    })
    .validates(runtime_class)
    .validates_update(|new, old, errors| {
        runtime_class(new, errors);
        errors.immutable("handler", new.get("handler"), old.get("handler"));
    });

fn runtime_class(obj: &Value, errors: &mut ErrorList) {
    let handler = text(obj, "/handler");
    errors.problems("handler", handler, label_problems(handler));
    if let Some(overhead) = obj.pointer("/overhead/podFixed") {
        requirements(&json!({"limits": overhead}), "overhead", errors);
    }
    let selector = map(obj, "/scheduling/nodeSelector");
    validate_labels(selector, "scheduling.nodeSelector", errors);
    let tolerated = list(obj, "/scheduling/tolerations");
    tolerations(tolerated, "scheduling.tolerations", errors);
    for (i, toleration) in tolerated.iter().enumerate() {
        if tolerated[..i].contains(toleration) {
            errors.duplicate(format!("scheduling.tolerations[{i}]"), toleration.clone());
        }
    }
}

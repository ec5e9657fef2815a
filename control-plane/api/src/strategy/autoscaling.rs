//! HorizontalPodAutoscalers of both versions; the store holds version 2.

use super::access::{Object, child, ensure, set};
use super::kind::Kind;
use super::{generic_prepare_for_update, set_generation};
use crate::meta;
use serde_json::{Map, Value, json};

mod convert;
mod validate;

use convert::{METRICS, convert};

/// Version 2.
pub(super) static AUTOSCALER: Kind = Kind::namespaced("io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler")
    .status()
    .generation(&["spec"])
    .converts(convert)
    .defaults(|obj| {
        let spec = ensure(obj, "spec");
        set(spec, "minReplicas", 1);
        if is_empty(spec, "metrics") {
            spec.insert("metrics".into(), json!([cpu(80)]));
        }
        if let Some(behavior) = child(spec, "behavior") {
            behavior_defaults(behavior);
        }
    })
    .validates(|obj, errors| validate::autoscaler(obj, 1, errors))
    .validates_update(validate::update)
    .validates_status(|new, _, errors| validate::status(new, errors));

/// Version 1. What it cannot say is in annotations, which is why it is checked as version 2.
pub(super) static AUTOSCALER_V1: Kind = Kind::namespaced("io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler")
    .status()
    .generation(&["spec"])
    .converts(convert)
    .defaults(|obj| {
        let annotated = obj
            .get("metadata")
            .and_then(|m| m.get("annotations")?.get(METRICS))
            .is_some();
        let spec = ensure(obj, "spec");
        set(spec, "minReplicas", 1);
        if !annotated {
            set(spec, "targetCPUUtilizationPercentage", 80);
        }
    })
    .prepares_update(|traits, new, old| {
        generic_prepare_for_update(traits, new, old);
        // A change of what stands in annotations is one of the spec of version 2.
        if as_version_2(new)["spec"] != as_version_2(old)["spec"] {
            set_generation(new, meta::generation(old) + 1);
        }
    })
    .validates(|obj, errors| validate::autoscaler(&as_version_2(obj), 1, errors))
    .validates_update(|new, old, errors| validate::update(&as_version_2(new), old, errors))
    .validates_status(|new, _, errors| validate::status(new, errors));

fn as_version_2(obj: &Value) -> Value {
    convert(obj.clone(), "autoscaling/v1", "autoscaling/v2").unwrap_or(Value::Null)
}

/// The metric that version 1 knows.
fn cpu(percent: i64) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}})
}

fn is_empty(map: &Map<String, Value>, field: &str) -> bool {
    map.get(field).and_then(Value::as_array).is_none_or(Vec::is_empty)
}

fn behavior_defaults(behavior: &mut Object) {
    let up = ensure(behavior, "scaleUp");
    set(up, "stabilizationWindowSeconds", 0);
    rule_defaults(
        up,
        json!([{"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]),
    );
    rule_defaults(
        ensure(behavior, "scaleDown"),
        json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]),
    );
}

fn rule_defaults(rules: &mut Object, policies: Value) {
    set(rules, "selectPolicy", "Max");
    if is_empty(rules, "policies") {
        rules.insert("policies".into(), policies);
    }
}

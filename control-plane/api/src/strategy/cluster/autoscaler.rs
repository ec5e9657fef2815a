//! HorizontalPodAutoscalers of both versions; the store holds version 2.

use crate::status::Result;
use crate::strategy::access::{Object, child, ensure, int, set, text};
use crate::strategy::kind::Kind;
use crate::validation::{ErrorList, FieldError};
use serde_json::{Value, json};

/// Version 2.
pub(crate) static AUTOSCALER: Kind = Kind::namespaced("io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler")
    .status()
    .converts(convert)
    .defaults(|obj| {
        let spec = ensure(obj, "spec");
        set(spec, "minReplicas", 1);
        if spec
            .get("metrics")
            .and_then(Value::as_array)
            .is_none_or(Vec::is_empty)
        {
            spec.insert("metrics".into(), json!([cpu(80)]));
        }
        if let Some(behavior) = child(spec, "behavior") {
            behaviour(behavior);
        }
    })
    .validates(validate);

/// Version 1.
pub(crate) static AUTOSCALER_V1: Kind = Kind::namespaced("io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler")
    .status()
    .converts(convert)
    .defaults(|obj| {
        let spec = ensure(obj, "spec");
        set(spec, "minReplicas", 1);
        // Version 2 has no other way to say "the default metric".
        set(spec, "targetCPUUtilizationPercentage", 80);
    })
    .validates(validate);

fn cpu(percent: i64) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}})
}

fn behaviour(behavior: &mut Object) {
    let up = ensure(behavior, "scaleUp");
    set(up, "stabilizationWindowSeconds", 0);
    rules(
        up,
        json!([{"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]),
    );
    rules(
        ensure(behavior, "scaleDown"),
        json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]),
    );
}

fn rules(rules: &mut Object, policies: Value) {
    set(rules, "selectPolicy", "Max");
    if rules
        .get("policies")
        .and_then(Value::as_array)
        .is_none_or(Vec::is_empty)
    {
        rules.insert("policies".into(), policies);
    }
}

/// Version 1 knows one metric, cpu utilization; the others travel in annotations.
fn convert(mut obj: Value, _from: &str, to: &str) -> Result<Value> {
    const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
    const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
    const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
    const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
    let Some(map) = obj.as_object_mut() else {
        return Ok(obj);
    };
    let is_cpu = |m: &Value| {
        text(m, "/type") == "Resource"
            && text(m, "/resource/name") == "cpu"
            && (m.pointer("/resource/target/averageUtilization").is_some()
                || m.pointer("/resource/current").is_some())
    };
    let mut carried: Vec<(&str, Option<Value>)> = Vec::new();
    if to.ends_with("v1") {
        let spec = ensure(map, "spec");
        let metrics = spec
            .remove("metrics")
            .and_then(|m| m.as_array().cloned())
            .unwrap_or_default();
        let (cpus, others): (Vec<_>, Vec<_>) = metrics.into_iter().partition(is_cpu);
        if let Some(percent) = cpus
            .first()
            .and_then(|m| int(m, "/resource/target/averageUtilization"))
        {
            spec.insert("targetCPUUtilizationPercentage".into(), percent.into());
        }
        carried.push((METRICS, Some(Value::from(others))));
        carried.push((BEHAVIOR, spec.remove("behavior")));
        let status = ensure(map, "status");
        let current = status
            .remove("currentMetrics")
            .and_then(|m| m.as_array().cloned())
            .unwrap_or_default();
        let (cpus, others): (Vec<_>, Vec<_>) = current.into_iter().partition(is_cpu);
        if let Some(percent) = cpus
            .first()
            .and_then(|m| int(m, "/resource/current/averageUtilization"))
        {
            status.insert("currentCPUUtilizationPercentage".into(), percent.into());
        }
        carried.push((CURRENT, Some(Value::from(others))));
        carried.push((CONDITIONS, status.remove("conditions")));
        let annotations = ensure(ensure(map, "metadata"), "annotations");
        for (key, value) in carried {
            if let Some(value) = value.filter(|v| *v != json!([])) {
                annotations.insert(key.into(), value.to_string().into());
            }
        }
        if annotations.is_empty() {
            ensure(map, "metadata").remove("annotations");
        }
        map.insert("apiVersion".into(), "autoscaling/v1".into());
    } else {
        let mut take = |key: &str| {
            let text = child(map, "metadata")
                .and_then(|m| child(m, "annotations"))?
                .remove(key)?;
            serde_json::from_str::<Value>(text.as_str()?).ok()
        };
        let (metrics, current, conditions, behavior) =
            (take(METRICS), take(CURRENT), take(CONDITIONS), take(BEHAVIOR));
        let list = |value: Option<Value>| value.and_then(|v| v.as_array().cloned()).unwrap_or_default();
        let empty = child(map, "metadata")
            .and_then(|m| child(m, "annotations"))
            .is_some_and(|a| a.is_empty());
        if empty {
            ensure(map, "metadata").remove("annotations");
        }
        let spec = ensure(map, "spec");
        let mut metrics = list(metrics);
        if let Some(percent) = spec
            .remove("targetCPUUtilizationPercentage")
            .and_then(|p| p.as_i64())
        {
            metrics.insert(0, cpu(percent));
        }
        if !metrics.is_empty() {
            spec.insert("metrics".into(), metrics.into());
        }
        if let Some(behavior) = behavior {
            spec.insert("behavior".into(), behavior);
        }
        let status = ensure(map, "status");
        let mut current = list(current);
        if let Some(percent) = status
            .remove("currentCPUUtilizationPercentage")
            .and_then(|p| p.as_i64())
        {
            current.insert(0, json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": percent}}}));
        }
        if !current.is_empty() {
            status.insert("currentMetrics".into(), current.into());
        }
        if let Some(conditions) = conditions {
            status.insert("conditions".into(), conditions);
        }
        map.insert("apiVersion".into(), "autoscaling/v2".into());
    }
    Ok(obj)
}

fn validate(obj: &Value, errors: &mut ErrorList) {
    let (min, max) = (
        int(obj, "/spec/minReplicas").unwrap_or(1),
        int(obj, "/spec/maxReplicas").unwrap_or(0),
    );
    if min < 1 {
        errors.push(FieldError::invalid(
            "spec.minReplicas",
            &min.into(),
            "must be greater than or equal to 1",
        ));
    }
    if max < 1 {
        errors.push(FieldError::invalid(
            "spec.maxReplicas",
            &max.into(),
            "must be greater than 0",
        ));
    } else if max < min {
        errors.push(FieldError::invalid(
            "spec.maxReplicas",
            &max.into(),
            "must be greater than or equal to `minReplicas`",
        ));
    }
    for field in ["kind", "name"] {
        if text(obj, &format!("/spec/scaleTargetRef/{field}")).is_empty() {
            errors.push(FieldError::required(format!("spec.scaleTargetRef.{field}"), ""));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_convert_both_ways() {
        let v1 = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 70},
            "status": {"currentReplicas": 1, "currentCPUUtilizationPercentage": 50}});
        let v2 = convert(v1.clone(), "autoscaling/v1", "autoscaling/v2").unwrap();
        assert_eq!(v2["spec"], json!({"maxReplicas": 3, "metrics": [cpu(70)]}));
        assert_eq!(
            v2["status"]["currentMetrics"][0]["resource"]["current"]["averageUtilization"],
            50
        );
        assert_eq!(convert(v2, "autoscaling/v2", "autoscaling/v1").unwrap(), v1);
        let pods = json!({"type": "Pods", "pods": {"metric": {"name": "x"}, "target": {"type": "AverageValue", "averageValue": "1"}}});
        let v2 = json!({"apiVersion": "autoscaling/v2", "metadata": {"name": "a"}, "spec": {"metrics": [cpu(70), pods], "behavior": {"scaleUp": {}}}, "status": {"conditions": [{"type": "A"}]}});
        let v1 = convert(v2.clone(), "autoscaling/v2", "autoscaling/v1").unwrap();
        assert_eq!(v1["spec"], json!({"targetCPUUtilizationPercentage": 70}));
        assert_eq!(convert(v1, "autoscaling/v1", "autoscaling/v2").unwrap(), v2);
    }
}

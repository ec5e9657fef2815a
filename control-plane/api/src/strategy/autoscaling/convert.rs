//! Between the versions. Version 1 knows one metric, cpu utilization; the others, what is measured, conditions and
//! behaviour travel in annotations, in version 1's own words.

use super::cpu;
use crate::status::Result;
use crate::strategy::access::{Object, child, ensure, int, text};
use serde_json::{Map, Value, json};

/// Where version 1 keeps the metrics that it does not know.
pub(super) const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// Where a field of version 1's flat metrics is in version 2's nested ones, by source: (flat, nested).
type Names = &'static [(&'static str, &'static str)];
const SOURCES: [(&str, Names); 5] = [
    (
        "object",
        &[
            ("target", "/describedObject"),
            ("metricName", "/metric/name"),
            ("selector", "/metric/selector"),
            ("targetValue", "/target/value"),
            ("averageValue", "/target/averageValue"),
        ],
    ),
    (
        "pods",
        &[
            ("metricName", "/metric/name"),
            ("selector", "/metric/selector"),
            ("targetAverageValue", "/target/averageValue"),
        ],
    ),
    (
        "resource",
        &[
            ("name", "/name"),
            ("targetAverageUtilization", "/target/averageUtilization"),
            ("targetAverageValue", "/target/averageValue"),
        ],
    ),
    (
        "containerResource",
        &[
            ("name", "/name"),
            ("container", "/container"),
            ("targetAverageUtilization", "/target/averageUtilization"),
            ("targetAverageValue", "/target/averageValue"),
        ],
    ),
    (
        "external",
        &[
            ("metricName", "/metric/name"),
            ("metricSelector", "/metric/selector"),
            ("targetValue", "/target/value"),
            ("targetAverageValue", "/target/averageValue"),
        ],
    ),
];

/// A metric, as asked for or as measured, in version 1's words or back.
fn metric(metric: &Value, to_flat: bool, measured: bool) -> Value {
    let mut out = json!({"type": metric["type"]});
    for (source, names) in SOURCES {
        let Some(from) = metric.get(source) else { continue };
        let mut to = Value::Object(Map::new());
        for (flat, nested) in names {
            // What is measured is `current` wherever what is asked for is `target`.
            let (flat, nested) = match measured {
                true if *flat != "target" => (
                    flat.replacen("target", "current", 1),
                    nested.replacen("/target", "/current", 1),
                ),
                _ => (flat.to_string(), nested.to_string()),
            };
            if to_flat {
                if let Some(value) = from.pointer(&nested) {
                    to[flat] = value.clone();
                }
            } else if let Some(value) = from.get(&flat) {
                put(&mut to, &nested, value.clone());
            }
        }
        if !to_flat && !measured {
            let kind = ["value", "averageValue", "averageUtilization"]
                .into_iter()
                .zip(["Value", "AverageValue", "Utilization"])
                .rfind(|(field, _)| to.pointer(&format!("/target/{field}")).is_some());
            put(
                &mut to,
                "/target/type",
                kind.map_or("AverageValue", |(_, kind)| kind).into(),
            );
        }
        out[source] = to;
    }
    out
}

/// Puts a value at a JSON pointer, making the maps on the way.
fn put(root: &mut Value, pointer: &str, value: Value) {
    let mut at = root;
    for step in pointer.split('/').skip(1) {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        at = &mut at[step];
    }
    *at = value;
}

fn is_cpu_utilization(metric: &Value) -> bool {
    text(metric, "/type") == "Resource"
        && text(metric, "/resource/name") == "cpu"
        && metric.pointer("/resource/target/averageUtilization").is_some()
}

/// From one version to the other.
pub(super) fn convert(mut obj: Value, _from: &str, to: &str) -> Result<Value> {
    if let Some(map) = obj.as_object_mut() {
        map.insert("apiVersion".into(), to.into());
        match to {
            "autoscaling/v1" => to_version_1(map),
            _ => to_version_2(map),
        }
    }
    Ok(obj)
}

fn take_list(map: &mut Object, field: &str) -> Vec<Value> {
    match map.remove(field) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

fn to_version_1(map: &mut Object) {
    let mut carried: Vec<(&str, Value)> = Vec::new();
    let spec = ensure(map, "spec");
    let metrics = take_list(spec, "metrics");
    let percent = metrics
        .iter()
        .filter(|m| is_cpu_utilization(m))
        .find_map(|m| int(m, "/resource/target/averageUtilization"));
    if let Some(percent) = percent {
        spec.insert("targetCPUUtilizationPercentage".into(), percent.into());
    }
    let others = metrics.iter().filter(|m| !is_cpu_utilization(m));
    carried.push((METRICS, others.map(|m| metric(m, true, false)).collect()));
    carried.push((BEHAVIOR, spec.remove("behavior").unwrap_or(json!([]))));
    if let Some(status) = child(map, "status") {
        let current = take_list(status, "currentMetrics");
        let percent = current
            .iter()
            .filter(|m| text(m, "/resource/name") == "cpu")
            .find_map(|m| int(m, "/resource/current/averageUtilization"));
        if let Some(percent) = percent {
            status.insert("currentCPUUtilizationPercentage".into(), percent.into());
        }
        carried.push((CURRENT, current.iter().map(|m| metric(m, true, true)).collect()));
        carried.push((CONDITIONS, take_list(status, "conditions").into()));
    }
    carried.retain(|(_, value)| *value != json!([]));
    let metadata = ensure(map, "metadata");
    drop_annotations(metadata);
    for (key, value) in carried {
        ensure(metadata, "annotations").insert(key.into(), value.to_string().into());
    }
}

fn to_version_2(map: &mut Object) {
    let metadata = ensure(map, "metadata");
    let annotation = |key: &str| {
        let text = metadata.get("annotations")?.get(key)?.as_str()?;
        serde_json::from_str::<Value>(text).ok()
    };
    let list = |key: &str| match annotation(key) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    };
    let (metrics, current, conditions) = (list(METRICS), list(CURRENT), list(CONDITIONS));
    let behavior = annotation(BEHAVIOR).filter(Value::is_object);
    drop_annotations(metadata);

    let spec = ensure(map, "spec");
    let mut metrics: Vec<Value> = metrics.iter().map(|m| metric(m, false, false)).collect();
    let percent = spec.remove("targetCPUUtilizationPercentage");
    metrics.extend(percent.and_then(|p| p.as_i64()).map(cpu));
    if !metrics.is_empty() {
        spec.insert("metrics".into(), metrics.into());
    }
    if let Some(behavior) = behavior {
        spec.insert("behavior".into(), behavior);
    }
    let Some(status) = child(map, "status") else {
        return;
    };
    let mut current: Vec<Value> = current.iter().map(|m| metric(m, false, true)).collect();
    let percent = status.remove("currentCPUUtilizationPercentage");
    if let (true, Some(percent)) = (current.is_empty(), percent) {
        current.push(
            json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": percent}}}),
        );
    }
    if !current.is_empty() {
        status.insert("currentMetrics".into(), current.into());
    }
    if !conditions.is_empty() {
        status.insert("conditions".into(), conditions.into());
    }
}

fn drop_annotations(metadata: &mut Object) {
    let Some(annotations) = child(metadata, "annotations") else {
        return;
    };
    for key in [METRICS, CURRENT, CONDITIONS, BEHAVIOR] {
        annotations.remove(key);
    }
    if annotations.is_empty() {
        metadata.remove("annotations");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(version: &str, obj: &Value) -> Value {
        convert(obj.clone(), "", version).unwrap()
    }

    #[test]
    fn what_version_1_knows_needs_no_annotation() {
        let v1 = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 70}, "status": {"currentReplicas": 1}});
        let v2 = to("autoscaling/v2", &v1);
        assert_eq!(v2["spec"], json!({"maxReplicas": 3, "metrics": [cpu(70)]}));
        assert_eq!(to("autoscaling/v1", &v2), v1);
        let measured = json!({"metadata": {}, "spec": {}, "status": {"currentCPUUtilizationPercentage": 50}});
        let v2 = to("autoscaling/v2", &measured);
        assert_eq!(
            v2["status"]["currentMetrics"],
            json!([{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 50}}}])
        );
    }

    #[test]
    fn the_rest_travels_in_version_1s_words() {
        let target = |kind: &str, field: &str, value: Value| json!({"type": kind, field: value});
        let metrics = json!([
            {"type": "Pods", "pods": {"metric": {"name": "x", "selector": {"matchLabels": {"a": "b"}}}, "target": target("AverageValue", "averageValue", "1".into())}},
            {"type": "Object", "object": {"describedObject": {"kind": "Ingress", "name": "i"}, "metric": {"name": "r"}, "target": target("Value", "value", "2k".into())}},
            {"type": "External", "external": {"metric": {"name": "q"}, "target": target("AverageValue", "averageValue", "30".into())}},
            {"type": "ContainerResource", "containerResource": {"name": "memory", "container": "app", "target": target("Utilization", "averageUtilization", 60.into())}},
            cpu(70),
        ]);
        let v2 = json!({"apiVersion": "autoscaling/v2", "metadata": {"name": "a"},
            "spec": {"metrics": metrics, "behavior": {"scaleUp": {"selectPolicy": "Max"}}},
            "status": {"conditions": [{"type": "AbleToScale", "status": "True"}], "currentMetrics": [
                {"type": "Pods", "pods": {"metric": {"name": "x"}, "current": {"averageValue": "1"}}}]}});
        let v1 = to("autoscaling/v1", &v2);
        assert_eq!(v1["spec"], json!({"targetCPUUtilizationPercentage": 70}));
        assert_eq!(v1["status"], json!({}));
        let carried: Value =
            serde_json::from_str(v1["metadata"]["annotations"][METRICS].as_str().unwrap()).unwrap();
        assert_eq!(
            carried[0],
            json!({"type": "Pods", "pods": {"metricName": "x", "selector": {"matchLabels": {"a": "b"}}, "targetAverageValue": "1"}})
        );
        assert_eq!(
            carried[1],
            json!({"type": "Object", "object": {"target": {"kind": "Ingress", "name": "i"}, "metricName": "r", "targetValue": "2k"}})
        );
        assert_eq!(
            v1["metadata"]["annotations"][CURRENT],
            r#"[{"pods":{"currentAverageValue":"1","metricName":"x"},"type":"Pods"}]"#
        );
        assert_eq!(to("autoscaling/v2", &v1), v2);
    }
}

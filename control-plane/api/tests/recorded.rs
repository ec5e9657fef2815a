//! Answers of a real API server (v1.20.2) as rows: what a creation makes of a minimal object of each kind, and what bad
//! requests are told. Where v1.37 differs, the difference is listed with its reason.

use api::decode::{FieldValidation, Media, decode};
use api::meta;
use api::registry::{Registry, Resource};
use api::status::{self, Result};
use serde_json::Value;
use std::sync::Arc;

/// (row, JSON pointer of a field that v1.37 adds, leaves out or fills otherwise, why).
const CREATION_DIFFERENCES: &[(&str, &str, &str)] = &[
    ("pods", "/metadata/generation", "pods have generations since 1.33"),
    ("services", "/spec/internalTrafficPolicy", "since 1.21"),
    (
        "services",
        "/spec/allocateLoadBalancerNodePorts",
        "since 1.20, on by default since 1.22",
    ),
    ("services", "/spec/clusterIP", "allocated by the server"),
    ("services", "/spec/clusterIPs", "allocated by the server"),
    ("services", "/spec/ipFamilies", "allocated by the server"),
    ("services", "/spec/ipFamilyPolicy", "allocated by the server"),
    ("services", "/spec/ports/0/nodePort", "allocated by the server"),
    ("services", "/spec/ports/1/nodePort", "allocated by the server"),
    ("services", "/spec/healthCheckNodePort", "allocated by the server"),
    ("serviceaccounts", "/secrets", "made by a controller until 1.23"),
    (
        "persistentvolumeclaims",
        "/metadata/finalizers",
        "set by admission",
    ),
    ("persistentvolumes", "/metadata/finalizers", "set by admission"),
    ("nodes", "/spec/taints", "set by admission"),
    ("namespaces", "/metadata/labels", "the name label is since 1.21"),
    ("podtemplates", "/metadata/generation", "since 1.30"),
    ("jobs", "/metadata/generation", "Jobs have generations since 1.21"),
    (
        "jobs",
        "/metadata/labels",
        "Jobs take no labels from the generated ones since 1.27",
    ),
    ("jobs", "/spec/completionMode", "since 1.21"),
    ("jobs", "/spec/suspend", "since 1.21"),
    ("jobs", "/spec/podReplacementPolicy", "since 1.28"),
    ("jobs", "/spec/selector", "prefixed label since 1.27"),
    (
        "jobs",
        "/spec/template/metadata/labels",
        "prefixed labels since 1.27",
    ),
    (
        "statefulsets",
        "/spec/persistentVolumeClaimRetentionPolicy",
        "since 1.23",
    ),
    (
        "statefulsets",
        "/status",
        "availableReplicas is always written since 1.22",
    ),
    (
        "daemonsets",
        "/spec/updateStrategy/rollingUpdate/maxSurge",
        "since 1.21",
    ),
    (
        "csidrivers",
        "/spec/preventPodSchedulingIfMissing",
        "since 1.35, on by default since 1.37",
    ),
    ("horizontalpodautoscalers", "/metadata/generation", "since 1.36"),
    (
        "csidrivers",
        "/spec/requiresRepublish",
        "since 1.20 behind a gate",
    ),
    ("csidrivers", "/spec/storageCapacity", "since 1.19 behind a gate"),
    ("csidrivers", "/spec/fsGroupPolicy", "since 1.19 behind a gate"),
    ("csidrivers", "/spec/seLinuxMount", "since 1.25 behind a gate"),
    (
        "certificatesigningrequests",
        "/spec/username",
        "set by the server from the request's user",
    ),
    (
        "certificatesigningrequests",
        "/spec/groups",
        "set by the server from the request's user",
    ),
    (
        "certificatesigningrequests",
        "/spec/uid",
        "set by the server from the request's user",
    ),
    (
        "certificatesigningrequests",
        "/spec/extra",
        "set by the server from the request's user",
    ),
    ("networkpolicies", "/status", "never served"),
    ("volumeattachments", "/metadata/finalizers", "set by a controller"),
    (
        "csinodes",
        "/spec/drivers",
        "an empty list comes back as null from protobuf storage",
    ),
];

/// How the recorder's server begins a map in a message; maps print themselves as JSON since 1.34.
const MAP_SPELLING: (&str, &str) = ("map[string]string{", "{");

/// Message of row n -> what v1.37 says instead, and why.
const ERROR_DIFFERENCES: &[(&str, &str, &str)] = &[
    (
        r#"Pod "bad" is invalid: spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit"#,
        r#"Pod "bad" is invalid: spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1"#,
        "the limit is named since 1.26",
    ),
    (
        "quantities must match",
        r#"Pod in version "v1" cannot be handled as a Pod: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"#,
        "another JSON decoder since 1.23",
    ),
    (
        "decode slice",
        r#"Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container"#,
        "another JSON decoder since 1.23",
    ),
    (
        "decode base64",
        r#"Secret in version "v1" cannot be handled as a Secret: illegal base64 data at input byte 0"#,
        "another JSON decoder since 1.23",
    ),
    (
        "([a-z0-9]([-_a-z0-9]*[a-z0-9])?\\.)*",
        "",
        "slashes are allowed in sysctls since 1.23",
    ),
    (
        "IntOrString{Type:0",
        r#"Deployment.apps "bad" is invalid: spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"#,
        "values print themselves since 1.22",
    ),
    ("resource.Quantity{", "", "values print themselves since 1.22"),
    (
        r#"Namespace "a.b""#,
        r#"Namespace "a.b" is invalid: metadata.name: Invalid value: "a.b": must not contain dots"#,
        "since 1.26",
    ),
    (
        "Ingress.extensions",
        "",
        "the group is networking.k8s.io since 1.22",
    ),
];

/// (row, column, why its cell or the column itself differs in v1.37, or in the recording).
const TABLE_DIFFERENCES: &[(&str, &str, &str)] = &[
    (
        "pods",
        "Restarts",
        "text since 1.22, with the time of the last restart",
    ),
    ("pods", "Node", "the recorder's pod was bound later"),
    ("jobs", "Status", "since 1.31"),
    (
        "horizontalpodautoscalers",
        "Targets",
        "the metric is named since 1.30",
    ),
    ("priorityclasses", "PreemptionPolicy", "since 1.32"),
    ("csidrivers", "StorageCapacity", "since 1.21"),
    ("csidrivers", "TokenRequests", "since 1.21"),
    ("csidrivers", "RequiresRepublish", "since 1.21"),
    ("certificatesigningrequests", "RequestedDuration", "since 1.22"),
    ("persistentvolumes", "Status", "bound by a controller meanwhile"),
    ("persistentvolumes", "Claim", "bound by a controller meanwhile"),
    ("persistentvolumes", "VolumeAttributesClass", "since 1.29"),
    (
        "persistentvolumeclaims",
        "Status",
        "bound by a controller meanwhile",
    ),
    (
        "persistentvolumeclaims",
        "Volume",
        "bound by a controller meanwhile",
    ),
    (
        "persistentvolumeclaims",
        "Capacity",
        "bound by a controller meanwhile",
    ),
    (
        "persistentvolumeclaims",
        "Access Modes",
        "bound by a controller meanwhile",
    ),
    ("persistentvolumeclaims", "VolumeAttributesClass", "since 1.29"),
    (
        "serviceaccounts",
        "Secrets",
        "a token was made by a controller meanwhile",
    ),
    ("nodes", "Status", "a controller reported a condition meanwhile"),
    ("events", "Last Seen", "an age"),
    ("events", "First Seen", "an age"),
];

/// Told by admission, allocation, storage or CRDs: not this crate's part.
const ELSEWHERE: &[&str] = &[
    "error looking up service account",
    "no PriorityClass with name",
    "RuntimeClass \"nope\" not found",
    "namespaces \"nope\" not found",
    "already exists",
    "the namespace of the provided object",
    "resourceVersion should not be set",
    "CreateOptions.meta.k8s.io",
    "failed to allocated ip",
    "provided port is not in the valid range",
    "Foo.rec.io",
    "scheme.go",
];

fn rows(text: &str) -> Vec<(Value, Value)> {
    let lines: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
    let parse = |line: &str| serde_json::from_str::<Value>(line).expect(line);
    lines
        .chunks(2)
        .map(|pair| (parse(pair[0]), parse(pair[1])))
        .collect()
}

fn find(registry: &Registry, path: &str) -> Option<(Arc<Resource>, String)> {
    let path = path.split('?').next().unwrap_or(path);
    let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, version) = if parts[0] == "api" {
        parts.remove(0);
        ("", parts.remove(0))
    } else {
        parts.remove(0);
        (parts.remove(0), parts.remove(0))
    };
    let mut namespace = String::new();
    if parts.len() > 2 {
        namespace = parts[1].into();
        parts.drain(..2);
    }
    Some((registry.find(group, version, parts[0])?.clone(), namespace))
}

/// What the server does with a creation, without admission and storage.
fn create(resource: &Resource, namespace: &str, body: &Value) -> Result<Value> {
    let bytes = match body {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut object = decode(
        bytes.as_bytes(),
        Media::Json,
        resource.expected(),
        FieldValidation::Strict,
    )?
    .value;
    let metadata = meta::metadata_mut(&mut object);
    if resource.namespaced && !metadata.contains_key("namespace") {
        metadata.insert("namespace".into(), namespace.into());
    }
    metadata.insert("uid".into(), "uid-1".into());
    if let Some(base) = metadata.get("generateName").and_then(Value::as_str) {
        metadata.insert("name".into(), meta::generate_name(base, "abcde").into());
    }
    resource.strategy.default(&mut object);
    resource.strategy.prepare_for_create(&mut object);
    let errors = resource.strategy.validate(&object);
    if !errors.is_empty() {
        return Err(status::invalid(
            &resource.group,
            &resource.kind,
            meta::name(&object),
            errors,
        ));
    }
    meta::metadata_mut(&mut object).remove("uid");
    Ok(object)
}

fn remove(value: &mut Value, pointer: &str) {
    let Some((parent, field)) = pointer.rsplit_once('/') else {
        return;
    };
    if let Some(map) = value.pointer_mut(parent).and_then(Value::as_object_mut) {
        map.remove(field);
    }
}

/// The first place where two values differ.
fn difference(got: &Value, want: &Value, at: &str) -> Option<String> {
    match (got, want) {
        (Value::Object(got), Value::Object(want)) => {
            let keys = got.keys().chain(want.keys());
            keys.into_iter().find_map(|k| {
                let none = Value::Null;
                difference(
                    got.get(k).unwrap_or(&none),
                    want.get(k).unwrap_or(&none),
                    &format!("{at}/{k}"),
                )
            })
        }
        (Value::Array(got), Value::Array(want)) if got.len() == want.len() => got
            .iter()
            .zip(want)
            .enumerate()
            .find_map(|(i, (g, w))| difference(g, w, &format!("{at}/{i}"))),
        _ if got == want => None,
        _ => Some(format!("{at}: got {got}, want {want}")),
    }
}

#[test]
fn creations() {
    let registry = Registry::builtin();
    let mut failures = Vec::new();
    for (request, mut want) in rows(include_str!("data/creations.jsonl")) {
        let path = request["path"].as_str().unwrap_or("");
        let (resource, namespace) = find(&registry, path).expect(path);
        let mut got = match create(&resource, &namespace, &request["body"]) {
            Ok(got) => got,
            Err(error) => {
                failures.push(format!("{path}: {error}"));
                continue;
            }
        };
        for (_, pointer, why) in CREATION_DIFFERENCES
            .iter()
            .filter(|(plural, _, _)| *plural == resource.plural)
        {
            assert!(!why.is_empty());
            remove(&mut got, pointer);
            remove(&mut want, pointer);
        }
        failures.extend(difference(&got, &want, path));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn errors() {
    let registry = Registry::builtin();
    let mut failures = Vec::new();
    let mut checked = 0;
    let text = include_str!("data/errors.jsonl").replace(MAP_SPELLING.0, MAP_SPELLING.1);
    for (request, want) in rows(&text) {
        let path = request["path"].as_str().unwrap_or("");
        let message = want["message"].as_str().unwrap_or("");
        if ELSEWHERE.iter().any(|text| message.contains(text)) {
            continue;
        }
        checked += 1;
        let (resource, namespace) = find(&registry, path).expect(path);
        let result = create(&resource, &namespace, &request["body"]);
        let (got, wanted) = (result.err(), want["code"].as_u64().unwrap_or(0));
        if wanted < 300 {
            failures.extend(got.map(|e| format!("{}: should be accepted: {e}", request["body"])));
            continue;
        }
        let Some(got) = got else {
            failures.push(format!("accepted: {} should say {message}", request["body"]));
            continue;
        };
        let difference = ERROR_DIFFERENCES
            .iter()
            .find(|(text, _, _)| message.contains(text));
        let message = match difference {
            Some((_, "", _)) => got.message.as_str(),
            Some((_, instead, _)) => instead,
            None => message,
        };
        let same_causes = difference.is_some()
            || got.to_value().pointer("/details/causes") == want.pointer("/details/causes");
        if got.message != message || u64::from(got.code) != wanted || !same_causes {
            failures.push(format!(
                "{}\n  got  {} {}\n  want {wanted} {message}",
                request["body"], got.code, got.message
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(checked > 50, "{checked}");
}

#[test]
fn tables() {
    let registry = Registry::builtin();
    let now = "2026-01-01T00:00:00Z".parse().expect("a time");
    let mut failures = Vec::new();
    for (row, want) in rows(include_str!("data/tables.jsonl")) {
        let path = row["path"].as_str().unwrap_or("");
        let (resource, _) = find(&registry, path).expect(path);
        let object = &row["object"];
        let table = api::table::table(
            &resource,
            std::iter::once(object),
            serde_json::json!({}),
            api::table::IncludeObject::None,
            true,
            now,
        );
        let excused = |name: &str| {
            let listed = TABLE_DIFFERENCES
                .iter()
                .any(|(r, c, _)| *r == resource.plural && *c == name);
            listed || name == "Age" || name == "Created At"
        };
        let got_cells = table["rows"][0]["cells"].as_array().cloned().unwrap_or_default();
        let got = table["columnDefinitions"]
            .as_array()
            .into_iter()
            .flatten()
            .zip(got_cells);
        let got: Vec<(Value, Value)> = got
            .map(|(c, cell)| {
                (
                    serde_json::json!([c["name"], c["type"], c["format"], c["priority"]]),
                    cell,
                )
            })
            .filter(|(c, _)| !excused(c[0].as_str().unwrap_or("")))
            .collect();
        let columns = want["columns"].as_array().into_iter().flatten().cloned();
        let wanted: Vec<(Value, Value)> = columns
            .zip(want["cells"].as_array().into_iter().flatten().cloned())
            .filter(|(c, _)| !excused(c[0].as_str().unwrap_or("")))
            .collect();
        if got != wanted {
            failures.push(format!("{path}\n  got  {got:?}\n  want {wanted:?}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

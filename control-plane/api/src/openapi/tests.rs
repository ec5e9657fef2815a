//! The documents as clients read them.

use super::*;
use serde_json::{Value, json};
use std::collections::HashSet;

fn documents() -> Vec<(String, Value)> {
    let (registry, descriptions) = (Registry::builtin(), Descriptions::inflate());
    let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
    let mut documents: Vec<_> = v3_paths(&registry)
        .into_iter()
        .map(|path| {
            let document = parse(&v3(&registry, &descriptions, &path, "v1").unwrap());
            (path, document)
        })
        .collect();
    documents.push(("v2".to_owned(), parse(&v2(&registry, &descriptions, "v1"))));
    documents
}

fn document(path: &str) -> Value {
    let bytes = v3(&Registry::builtin(), &Descriptions::inflate(), path, "v1").unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// A property without its description.
fn property(definition: &Value, name: &str) -> Value {
    let mut property = definition["properties"][name].clone();
    let description = property.as_object_mut().unwrap().remove("description");
    assert!(description.is_some_and(|text| text != ""), "{name}");
    property
}

fn schema<'a>(document: &'a Value, name: &str) -> &'a Value {
    let found = document["components"]["schemas"].get(name);
    found.unwrap_or_else(|| panic!("{name}"))
}

fn walk(value: &Value, visit: &mut impl FnMut(&serde_json::Map<String, Value>)) {
    match value {
        Value::Object(map) => {
            visit(map);
            map.values().for_each(|value| walk(value, visit));
        }
        Value::Array(items) => items.iter().for_each(|value| walk(value, visit)),
        _ => (),
    }
}

#[test]
fn every_reference_resolves_in_its_document() {
    for (path, document) in documents() {
        let mut references = 0;
        walk(&document, &mut |map| {
            // A property of the name `$ref` has an object as its value.
            if let Some(Value::String(reference)) = map.get("$ref") {
                references += 1;
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{path}: {reference}");
            }
        });
        assert!(references > 0, "{path}");
    }
}

#[test]
fn operation_ids_are_unique() {
    for (path, document) in documents() {
        let mut ids = HashSet::new();
        walk(&document["paths"], &mut |map| {
            if let Some(id) = map.get("operationId").and_then(Value::as_str) {
                assert!(ids.insert(id.to_owned()), "{path}: {id}");
            }
        });
        assert!(!ids.is_empty(), "{path}");
    }
}

#[test]
fn path_segments_are_declared() {
    for (document_path, document) in documents() {
        for (path, item) in document["paths"].as_object().unwrap() {
            for name in path.split('/').filter_map(|s| s.strip_prefix('{')) {
                let name = name.trim_end_matches('}');
                let declared = item["parameters"]
                    .as_array()
                    .is_some_and(|all| all.iter().any(|p| p["name"] == name && p["in"] == "path"));
                assert!(declared, "{document_path}: {path}");
            }
        }
    }
}

/// kubectl asks any one PATCH operation of the kind.
#[test]
fn every_write_has_field_validation() {
    let registry = Registry::builtin();
    for path in v3_paths(&registry) {
        let document = document(&path);
        for (path, item) in document["paths"].as_object().unwrap() {
            for method in ["post", "put", "patch"] {
                let Some(operation) = item.get(method) else {
                    continue;
                };
                if operation["x-kubernetes-action"] == "connect" {
                    continue;
                }
                let parameters = operation["parameters"].as_array().unwrap();
                assert!(
                    parameters.iter().any(|p| p["name"] == "fieldValidation"),
                    "{method} {path}"
                );
            }
        }
    }
}

#[test]
fn every_served_kind_is_a_definition_that_says_so() {
    for resource in Registry::builtin().resources() {
        let path = match &*resource.group {
            "" => format!("api/{}", resource.version),
            group => format!("apis/{group}/{}", resource.version),
        };
        let document = document(&path);
        let definition = schema(&document, resource.schema.name());
        let kind = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
        assert_eq!(
            definition["x-kubernetes-group-version-kind"],
            json!([kind]),
            "{resource:?}"
        );
    }
}

#[test]
fn deployments_have_the_paths_of_upstream() {
    let document = document("apis/apps/v1");
    let paths: Vec<&String> = document["paths"]
        .as_object()
        .unwrap()
        .keys()
        .filter(|path| path.contains("/deployments"))
        .collect();
    let base = "/apis/apps/v1/namespaces/{namespace}/deployments";
    let expected: HashSet<String> = ["", "/{name}", "/{name}/scale", "/{name}/status"]
        .iter()
        .map(|rest| format!("{base}{rest}"))
        .chain(["/apis/apps/v1/deployments".to_owned()])
        .collect();
    assert_eq!(paths.into_iter().cloned().collect::<HashSet<_>>(), expected);
    let patch = &document["paths"][format!("{base}/{{name}}")]["patch"];
    assert_eq!(patch["operationId"], "patchAppsV1NamespacedDeployment");
    assert_eq!(patch["x-kubernetes-action"], "patch");
    assert_eq!(patch["tags"], json!(["apps_v1"]));
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "apps", "version": "v1", "kind": "Deployment"})
    );
    assert_eq!(
        patch["requestBody"]["content"]["application/strategic-merge-patch+json"]["schema"],
        json!({"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.Patch"})
    );
    let scale = &document["paths"][format!("{base}/{{name}}/scale")]["put"];
    assert_eq!(scale["operationId"], "replaceAppsV1NamespacedDeploymentScale");
    assert_eq!(
        scale["requestBody"]["content"]["*/*"]["schema"],
        json!({"$ref": "#/components/schemas/io.k8s.api.autoscaling.v1.Scale"})
    );
}

#[test]
fn core_has_connections_and_text() {
    let document = document("api/v1");
    let exec = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}/exec"];
    assert_eq!(exec["post"]["operationId"], "connectCoreV1PostNamespacedPodExec");
    assert_eq!(
        exec["post"]["x-kubernetes-group-version-kind"]["kind"],
        "PodExecOptions"
    );
    let log = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}/log"]["get"];
    assert_eq!(
        log["responses"]["200"]["content"],
        json!({"text/plain": {"schema": {"type": "string"}}})
    );
    let proxy = &document["paths"]["/api/v1/nodes/{name}/proxy/{path}"]["get"];
    assert_eq!(proxy["operationId"], "connectCoreV1GetNodeProxyWithPath");
    let eviction = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}/eviction"]["post"];
    assert_eq!(
        eviction["requestBody"]["content"]["*/*"]["schema"]["$ref"],
        "#/components/schemas/io.k8s.api.policy.v1.Eviction"
    );
}

#[test]
fn fields_carry_what_client_side_apply_needs() {
    let document = document("apis/apps/v1");
    let spec = schema(&document, "io.k8s.api.apps.v1.DeploymentSpec");
    let required = spec["required"].as_array().unwrap();
    assert!(required.contains(&json!("template")) && required.contains(&json!("selector")));
    assert!(!required.contains(&json!("replicas")));
    assert_eq!(
        property(spec, "strategy"),
        json!({"allOf": [{"$ref": "#/components/schemas/io.k8s.api.apps.v1.DeploymentStrategy"}],
            "default": {}, "x-kubernetes-patch-strategy": "retainKeys"})
    );
    assert_eq!(
        property(spec, "replicas"),
        json!({"type": "integer", "format": "int32"})
    );
    let container = schema(&document, "io.k8s.api.core.v1.Container");
    assert_eq!(
        property(container, "ports"),
        json!({"type": "array",
            "items": {"allOf": [{"$ref": "#/components/schemas/io.k8s.api.core.v1.ContainerPort"}], "default": {}},
            "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["containerPort", "protocol"],
            "x-kubernetes-patch-merge-key": "containerPort", "x-kubernetes-patch-strategy": "merge"})
    );
    assert_eq!(
        property(container, "name"),
        json!({"type": "string", "default": ""})
    );
    let port = schema(&document, "io.k8s.api.core.v1.ContainerPort");
    assert_eq!(
        property(port, "protocol"),
        json!({"type": "string", "default": "TCP"})
    );
    let requirements = schema(&document, "io.k8s.api.core.v1.ResourceRequirements");
    assert_eq!(
        property(requirements, "limits"),
        json!({"type": "object", "additionalProperties":
            {"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.api.resource.Quantity"}})
    );
    let pod = schema(&document, "io.k8s.api.core.v1.PodSpec");
    assert_eq!(
        pod["properties"]["volumes"]["x-kubernetes-patch-strategy"],
        "merge,retainKeys"
    );
    assert_eq!(
        pod["properties"]["nodeSelector"]["x-kubernetes-map-type"],
        "atomic"
    );
    let meta = schema(&document, "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
    // v3 ignores what stands beside a reference, so that it is wrapped where there is a description.
    assert_eq!(
        property(meta, "creationTimestamp"),
        json!({"allOf": [{"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.Time"}]})
    );
    let selector = schema(&document, "io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector");
    assert_eq!(selector["x-kubernetes-map-type"], "atomic");
    let int_or_string = schema(&document, "io.k8s.apimachinery.pkg.util.intstr.IntOrString");
    assert_eq!(
        int_or_string,
        &json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
    );
}

#[test]
fn shared_kinds_name_every_group() {
    let registry = Registry::builtin();
    let versions: usize = registry.groups().iter().map(|(_, versions)| versions.len()).sum();
    let document = document("apis/apps/v1");
    for name in ["DeleteOptions", "WatchEvent"] {
        let name = format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}");
        let kinds = &schema(&document, &name)["x-kubernetes-group-version-kind"];
        assert_eq!(kinds.as_array().unwrap().len(), versions);
    }
    let status = schema(&document, "io.k8s.apimachinery.pkg.apis.meta.v1.Status");
    assert_eq!(
        status["x-kubernetes-group-version-kind"],
        json!([{"group": "", "version": "v1", "kind": "Status"}])
    );
}

#[test]
fn unknown_paths_have_no_document() {
    let (registry, descriptions) = (Registry::builtin(), Descriptions::inflate());
    for path in [
        "",
        "apis/nope",
        "apis/apps/v2",
        "api/v2",
        "apis/",
        "apis//v1",
        "apis/apps/v1/x",
    ] {
        assert!(v3(&registry, &descriptions, path, "v1").is_none(), "{path}");
    }
}

#[test]
fn v2_shares_parameters_and_has_no_defaults() {
    let document: Value =
        serde_json::from_slice(&v2(&Registry::builtin(), &Descriptions::inflate(), "v1.37.0")).unwrap();
    assert_eq!(
        (&document["swagger"], &document["info"]["version"]),
        (&json!("2.0"), &json!("v1.37.0"))
    );
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    let parameters = patch["parameters"].as_array().unwrap();
    assert_eq!(parameters[0]["in"], "body");
    assert!(parameters.contains(&json!({"$ref": "#/parameters/fieldValidation"})));
    assert_eq!(
        document["parameters"]["fieldValidation"]["name"],
        "fieldValidation"
    );
    let spec = &document["definitions"]["io.k8s.api.apps.v1.DeploymentSpec"];
    assert_eq!(
        property(spec, "strategy"),
        json!({"$ref": "#/definitions/io.k8s.api.apps.v1.DeploymentStrategy",
            "x-kubernetes-patch-strategy": "retainKeys"})
    );
    assert_eq!(
        document["definitions"]["io.k8s.apimachinery.pkg.api.resource.Quantity"],
        json!({"type": "string"})
    );
}

//! Discovery documents, legacy and aggregated.
//!
//! Both forms are views of the same registry rows. A kind is written without group and version where they are those of
//! the list it stands in: clients read "absent" as "the same", and `kubectl api-resources` shows nothing twice.

use crate::registry::{GroupVersionKind, Name, Registry, Resource, Verb, VerbSet, api_version};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

/// The versions of `apidiscovery.k8s.io`, which differ in their name alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregated {
    /// Since Kubernetes 1.30.
    V2,
    /// What clients from 1.26 on ask for.
    V2Beta1,
}

impl Aggregated {
    /// The media type of answers.
    pub const fn content_type(self) -> &'static str {
        match self {
            Aggregated::V2 => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            Aggregated::V2Beta1 => {
                "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
            }
        }
    }

    const fn api_version(self) -> &'static str {
        match self {
            Aggregated::V2 => "apidiscovery.k8s.io/v2",
            Aggregated::V2Beta1 => "apidiscovery.k8s.io/v2beta1",
        }
    }
}

/// `GET /api`. `server_address` is `host:port` for clients of any address.
pub fn api_versions(registry: &Registry, server_address: &str) -> Value {
    let versions = versions_of(registry, "");
    json!({"kind": "APIVersions", "versions": versions,
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}]})
}

/// `GET /apis`.
pub fn api_group_list(registry: &Registry) -> Value {
    let groups: Vec<Value> = named_groups(registry)
        .map(|(group, versions)| Value::Object(group_body(group, versions)))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `GET /apis/<group>`.
pub fn api_group(registry: &Registry, group: &str) -> Option<Value> {
    let (group, versions) = named_groups(registry).find(|(name, _)| *name == group)?;
    let mut body = group_body(group, versions);
    body.insert("kind".into(), "APIGroup".into());
    body.insert("apiVersion".into(), "v1".into());
    Some(Value::Object(body))
}

/// `GET /api/v1`, `GET /apis/<group>/<version>`.
pub fn api_resource_list(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    if !versions_of(registry, group).iter().any(|v| v == version) {
        return None;
    }
    let mut resources = Vec::new();
    for resource in registry.group_version(group, version) {
        resources.push(api_resource(resource));
        resources.extend(resource.subresources.iter().map(|subresource| {
            let mut entry = Map::new();
            let name = format!("{}/{}", resource.plural, subresource.name);
            entry.insert("name".into(), name.into());
            entry.insert("singularName".into(), "".into());
            entry.insert("namespaced".into(), resource.namespaced.into());
            if is_foreign(resource, &subresource.kind) {
                entry.insert("group".into(), (*subresource.kind.group).into());
                entry.insert("version".into(), (*subresource.kind.version).into());
            }
            entry.insert("kind".into(), (*subresource.kind.kind).into());
            entry.insert("verbs".into(), verbs(subresource.verbs));
            Value::Object(entry)
        }));
    }
    let mut list = Map::new();
    list.insert("kind".into(), "APIResourceList".into());
    if !group.is_empty() {
        // The core list has never told its own version.
        list.insert("apiVersion".into(), "v1".into());
    }
    list.insert("groupVersion".into(), api_version(group, version).into());
    list.insert("resources".into(), resources.into());
    Some(Value::Object(list))
}

/// `GET /api` (core) or `GET /apis` (the rest) as an APIGroupDiscoveryList.
pub fn api_group_discovery_list(registry: &Registry, core: bool, version: Aggregated) -> Value {
    let items: Vec<Value> = registry
        .groups()
        .iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| {
            let metadata = if core { json!({}) } else { json!({"name": group}) };
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| {
                    let resources: Vec<Value> = registry
                        .group_version(group, version)
                        .map(|r| aggregated(r))
                        .collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": version.api_version(), "metadata": {}, "items": items})
}

fn named_groups(registry: &Registry) -> impl Iterator<Item = (&str, &[Name])> {
    registry
        .groups()
        .iter()
        .filter(|(group, _)| !group.is_empty())
        .map(|(group, versions)| (&**group, &**versions))
}

fn versions_of<'a>(registry: &'a Registry, group: &str) -> &'a [Name] {
    let found = registry.groups().iter().find(|(name, _)| name == group);
    found.map_or(&[], |(_, versions)| versions)
}

fn group_body(group: &str, versions: &[Name]) -> Map<String, Value> {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| json!({"groupVersion": api_version(group, version), "version": version}))
        .collect();
    let mut body = Map::new();
    body.insert("name".into(), group.into());
    body.insert(
        "preferredVersion".into(),
        versions.first().cloned().unwrap_or_default(),
    );
    body.insert("versions".into(), versions.into());
    body
}

fn api_resource(resource: &Resource) -> Value {
    let mut entry = Map::new();
    entry.insert("name".into(), (*resource.plural).into());
    entry.insert("singularName".into(), (*resource.singular).into());
    entry.insert("namespaced".into(), resource.namespaced.into());
    entry.insert("kind".into(), (*resource.kind).into());
    entry.insert("verbs".into(), verbs(resource.verbs));
    names(&mut entry, resource);
    if resource.verbs.contains(Verb::Get) && resource.verbs.contains(Verb::Create) {
        entry.insert("storageVersionHash".into(), storage_version_hash(resource).into());
    }
    Value::Object(entry)
}

/// Tells clients when the version that objects are stored in changes: eight bytes of the hash of that version's name
/// (`StorageVersionHash` in apiserver's `pkg/endpoints/discovery`).
fn storage_version_hash(resource: &Resource) -> String {
    let GroupVersionKind { group, version, kind } = &resource.storage.version;
    let hash = Sha256::digest(format!("{group}/{version}/{kind}"));
    STANDARD.encode(&hash[..8])
}

fn aggregated(resource: &Resource) -> Value {
    let scope = if resource.namespaced {
        "Namespaced"
    } else {
        "Cluster"
    };
    let mut entry = Map::new();
    entry.insert("resource".into(), (*resource.plural).into());
    entry.insert("responseKind".into(), response_kind(resource, &resource.gvk()));
    entry.insert("scope".into(), scope.into());
    entry.insert("singularResource".into(), (*resource.singular).into());
    entry.insert("verbs".into(), verbs(resource.verbs));
    names(&mut entry, resource);
    if !resource.subresources.is_empty() {
        let subresources: Vec<Value> = resource
            .subresources
            .iter()
            .map(|subresource| {
                json!({
                    "subresource": subresource.name,
                    "responseKind": response_kind(resource, &subresource.kind),
                    "verbs": verbs(subresource.verbs),
                })
            })
            .collect();
        entry.insert("subresources".into(), subresources.into());
    }
    Value::Object(entry)
}

fn response_kind(resource: &Resource, kind: &GroupVersionKind) -> Value {
    match is_foreign(resource, kind) {
        true => json!({"group": kind.group, "version": kind.version, "kind": kind.kind}),
        false => json!({"group": "", "version": "", "kind": kind.kind}),
    }
}

/// Whether the kind is of another group-version than the resource.
fn is_foreign(resource: &Resource, kind: &GroupVersionKind) -> bool {
    (&kind.group, &kind.version) != (&resource.group, &resource.version)
}

fn names(entry: &mut Map<String, Value>, resource: &Resource) {
    for (key, names) in [
        ("shortNames", &resource.short_names),
        ("categories", &resource.categories),
    ] {
        if !names.is_empty() {
            entry.insert(key.into(), json!(names));
        }
    }
}

fn verbs(verbs: VerbSet) -> Value {
    verbs.iter().map(|verb| verb.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(registry: &Registry, group: &str, version: &str, name: &str) -> Value {
        let list = api_resource_list(registry, group, version).unwrap();
        let resources = list["resources"].as_array().unwrap();
        let found = resources.iter().find(|r| r["name"] == name);
        found.unwrap_or_else(|| panic!("{name}")).clone()
    }

    #[test]
    fn groups_are_listed_without_core_and_in_order() {
        let registry = Registry::builtin();
        assert_eq!(
            api_versions(&registry, "10.0.0.1:6443"),
            json!({"kind": "APIVersions", "versions": ["v1"],
                "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": "10.0.0.1:6443"}]})
        );
        let list = api_group_list(&registry);
        assert_eq!(list["groups"][0]["name"], "apiregistration.k8s.io");
        assert_eq!(
            list["groups"].as_array().unwrap().len() + 1,
            registry.groups().len()
        );
        assert_eq!(
            api_group(&registry, "autoscaling"),
            Some(
                json!({"kind": "APIGroup", "apiVersion": "v1", "name": "autoscaling",
                "versions": [{"groupVersion": "autoscaling/v2", "version": "v2"},
                    {"groupVersion": "autoscaling/v1", "version": "v1"}],
                "preferredVersion": {"groupVersion": "autoscaling/v2", "version": "v2"}})
            )
        );
        assert_eq!(api_group(&registry, ""), None);
        assert_eq!(api_group(&registry, "nope"), None);
    }

    #[test]
    fn resources_have_the_fields_of_upstream() {
        let registry = Registry::builtin();
        let all = json!([
            "create",
            "delete",
            "deletecollection",
            "get",
            "list",
            "patch",
            "update",
            "watch"
        ]);
        assert_eq!(
            resource(&registry, "apps", "v1", "deployments"),
            json!({"name": "deployments", "singularName": "deployment", "namespaced": true, "kind": "Deployment",
                "verbs": all, "shortNames": ["deploy"], "categories": ["all"], "storageVersionHash": "8aSe+NMegvE="})
        );
        assert_eq!(
            resource(&registry, "", "v1", "pods")["storageVersionHash"],
            "xPOwRZ+Yhw8="
        );
        assert_eq!(
            resource(&registry, "apps", "v1", "deployments/scale"),
            json!({"name": "deployments/scale", "singularName": "", "namespaced": true, "group": "autoscaling",
                "version": "v1", "kind": "Scale", "verbs": ["get", "patch", "update"]})
        );
        assert_eq!(
            resource(&registry, "", "v1", "pods/exec"),
            json!({"name": "pods/exec", "singularName": "", "namespaced": true, "kind": "PodExecOptions",
                "verbs": ["create", "get"]})
        );
        assert_eq!(
            resource(&registry, "", "v1", "bindings"),
            json!({"name": "bindings", "singularName": "binding", "namespaced": true, "kind": "Binding",
                "verbs": ["create"]})
        );
        assert_eq!(resource(&registry, "", "v1", "pods/eviction")["group"], "policy");
    }

    #[test]
    fn only_the_core_list_has_no_version_of_its_own() {
        let registry = Registry::builtin();
        let core = api_resource_list(&registry, "", "v1").unwrap();
        assert_eq!(
            (core.get("apiVersion"), &core["groupVersion"]),
            (None, &json!("v1"))
        );
        let apps = api_resource_list(&registry, "apps", "v1").unwrap();
        assert_eq!(
            (&apps["apiVersion"], &apps["groupVersion"]),
            (&json!("v1"), &json!("apps/v1"))
        );
        assert_eq!(api_resource_list(&registry, "apps", "v2"), None);
        assert_eq!(api_resource_list(&registry, "", "apps"), None);
    }

    #[test]
    fn aggregated_lists_split_core_from_the_rest() {
        let registry = Registry::builtin();
        let core = api_group_discovery_list(&registry, true, Aggregated::V2);
        assert_eq!(core["items"].as_array().unwrap().len(), 1);
        assert_eq!(core["items"][0]["metadata"], json!({}));
        assert_eq!(core["items"][0]["versions"][0]["version"], "v1");
        let groups = api_group_discovery_list(&registry, false, Aggregated::V2);
        assert_eq!(
            groups["items"].as_array().unwrap().len() + 1,
            registry.groups().len()
        );
        let apps = &groups["items"][1];
        assert_eq!(apps["metadata"], json!({"name": "apps"}));
        assert_eq!(apps["versions"][0]["freshness"], "Current");
        assert_eq!(
            apps["versions"][0]["resources"][2],
            json!({"resource": "deployments", "singularResource": "deployment", "scope": "Namespaced",
                "responseKind": {"group": "", "version": "", "kind": "Deployment"},
                "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
                "shortNames": ["deploy"], "categories": ["all"],
                "subresources": [
                    {"subresource": "scale", "verbs": ["get", "patch", "update"],
                        "responseKind": {"group": "autoscaling", "version": "v1", "kind": "Scale"}},
                    {"subresource": "status", "verbs": ["get", "patch", "update"],
                        "responseKind": {"group": "", "version": "", "kind": "Deployment"}}]})
        );
    }
}

//! CustomResourceDefinitions and APIServices: what adds resources to the API.

use super::access::{child, ensure, is_true, list, set, text};
use super::kind::Kind;
use super::{generic_prepare_for_create, prepare_for_status_update_alone, reset_metadata_too};
use crate::meta::NameRule;
use serde_json::Value;

mod definition;
mod schema;
mod service;

const SPEC: &[&str] = &["spec"];

/// CustomResourceDefinitions.
pub(super) static CUSTOM_RESOURCE_DEFINITION: Kind =
    Kind::cluster("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition")
        .conditional_update()
        .status()
        .generation(SPEC)
        .defaults(|obj| {
            let spec = ensure(obj, "spec");
            let names = ensure(spec, "names");
            let kind = names.get("kind").and_then(Value::as_str).unwrap_or("");
            let (singular, list_kind) = (kind.to_lowercase(), format!("{kind}List"));
            if !singular.is_empty() {
                set(names, "singular", singular);
                set(names, "listKind", list_kind);
            }
            let conversion = ensure(spec, "conversion");
            set(conversion, "strategy", "None");
            let service = child(conversion, "webhook")
                .and_then(|w| child(w, "clientConfig"))
                .and_then(|c| child(c, "service"));
            if let Some(service) = service {
                set(service, "port", 443);
            }
        })
        .prepares_create(|traits, obj| {
            generic_prepare_for_create(traits, obj);
            store_versions(obj);
        })
        .prepares_update(|traits, new, old| {
            super::generic_prepare_for_update(traits, new, old);
            store_versions(new);
        })
        .prepares_status(prepare_for_status_update_alone)
        .resets(reset_metadata_too)
        .validates(|obj, errors| definition::definition(obj, None, errors))
        .validates_update(|new, old, errors| definition::definition(new, Some(old), errors))
        .validates_status(|new, _, errors| definition::status(new, errors));

/// The storage version is one that objects may be stored in from now on.
fn store_versions(obj: &mut Value) {
    let stored = |version: &&Value| is_true(version, "/storage");
    let names = list(obj, "/spec/versions").iter().filter(stored);
    let names: Vec<Value> = names.map(|version| version["name"].clone()).collect();
    let mut all = list(obj, "/status/storedVersions").to_vec();
    all.extend(
        names
            .into_iter()
            .filter(|name| !list(obj, "/status/storedVersions").contains(name)),
    );
    obj["status"]["storedVersions"] = all.into();
}

/// APIServices.
pub(super) static API_SERVICE: Kind =
    Kind::cluster("io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService")
        .conditional_update()
        .name(NameRule::PathSegment)
        .status()
        .defaults(|obj| {
            if let Some(service) = child(obj, "spec").and_then(|s| child(s, "service")) {
                set(service, "port", 443);
            }
        })
        .prepares_status(prepare_for_status_update_alone)
        .resets(reset_metadata_too)
        .validates(service::api_service)
        .validates_status(|new, _, errors| {
            for (i, condition) in list(new, "/status/conditions").iter().enumerate() {
                let path = format!("status.conditions[{i}].status");
                errors.one_of(&path, text(condition, "/status"), &["True", "False", "Unknown"]);
            }
        });

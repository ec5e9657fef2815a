//! The annotations that confined containers before there was a field for it.

use super::warnings::APP_ARMOR_CONTAINER;
use crate::meta;
use crate::strategy::access::{list, text};
use serde_json::{Map, Value, json};

const FIELDS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Sets the fields that only annotations tell.
pub(super) fn take_over(obj: &mut Value) {
    for told in told(obj) {
        let Some(profile) = told.profile.filter(|_| !told.is_of_pod) else {
            continue;
        };
        let container = obj.pointer_mut(&told.container).and_then(Value::as_object_mut);
        let context =
            container.map(|container| container.entry("securityContext").or_insert_with(|| json!({})));
        if let Some(context) = context.and_then(Value::as_object_mut) {
            context.insert("appArmorProfile".into(), profile);
        }
    }
}

/// What the author of a pod hears, before the fields are set.
pub(super) fn warnings(obj: &Value) -> Vec<String> {
    let unsaid = told(obj).into_iter().filter(|told| !told.is_of_pod);
    unsaid
        .map(|told| {
            let key = told.key;
            format!(
                r#"metadata.annotations[{key}]: deprecated since v1.30; use the "appArmorProfile" field instead"#
            )
        })
        .collect()
}

/// A container without a field that has an annotation.
struct Told {
    container: String,
    key: String,
    /// Unless the annotation means nothing.
    profile: Option<Value>,
    /// The container has it anyway.
    is_of_pod: bool,
}

fn told(obj: &Value) -> Vec<Told> {
    let none = Map::new();
    let annotations = meta::annotations(obj).unwrap_or(&none);
    if text(obj, "/spec/os/name") == "windows"
        || !annotations.keys().any(|key| key.starts_with(APP_ARMOR_CONTAINER))
    {
        return Vec::new();
    }
    let of_pod = obj.pointer("/spec/securityContext/appArmorProfile");
    let mut out = Vec::new();
    for field in FIELDS {
        for (i, container) in list(obj, &format!("/spec/{field}")).iter().enumerate() {
            let key = format!("{APP_ARMOR_CONTAINER}{}", text(container, "/name"));
            let Some(value) = annotations.get(&key).and_then(Value::as_str) else {
                continue;
            };
            if container.pointer("/securityContext/appArmorProfile").is_none() {
                let profile = profile(value);
                out.push(Told {
                    container: format!("/spec/{field}/{i}"),
                    key,
                    is_of_pod: profile.is_some() && profile.as_ref() == of_pod,
                    profile,
                });
            }
        }
    }
    out
}

fn profile(annotation: &str) -> Option<Value> {
    match annotation {
        "unconfined" => Some(json!({"type": "Unconfined"})),
        "runtime/default" => Some(json!({"type": "RuntimeDefault"})),
        other => {
            let name = other
                .strip_prefix("localhost/")
                .filter(|name| super::validate::is_app_armor_profile(name))?;
            Some(json!({"type": "Localhost", "localhostProfile": name}))
        }
    }
}

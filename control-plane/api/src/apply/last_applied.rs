//! Coming from client-side apply: what its annotation says about who owns a field.

use super::field_set::FieldSet;
use super::shape::Shape;
use super::tree::{Difference, fields_of};
use crate::meta;
use serde_json::Value;

/// Where client-side apply keeps the configuration it applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The only manager that takes over from client-side apply.
pub(super) const KUBECTL: &str = "kubectl";
/// All annotations of an object together may not be longer.
const MAX_ANNOTATIONS: usize = 256 << 10;

/// The fields that client-side apply set and nobody changed since.
pub(super) fn fields_from_client(shape: Shape, live: &Value, api_version: &str) -> Option<FieldSet> {
    let applied: Value = serde_json::from_str(annotation(live)?).ok()?;
    if applied["apiVersion"] != api_version {
        return None;
    }
    let mut fields = fields_of(shape, &applied).ok()?;
    let difference = Difference::between(shape, &applied, live);
    fields.subtract(&difference.changed);
    fields.subtract(&difference.removed);
    Some(fields)
}

/// Keeps the annotation, where there is one, in step with what is applied, so that client-side apply can take over again.
/// Where it would make the annotations too long, it goes.
pub(super) fn refresh(object: &mut Value, config: &Value) {
    if annotation(object).is_none() {
        return;
    }
    let mut config = config.clone();
    if let Some(annotations) = config
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    {
        annotations.remove(LAST_APPLIED);
    }
    let text = format!("{config}\n");
    let Some(annotations) = object
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    annotations.insert(LAST_APPLIED.to_owned(), text.into());
    let size = |(key, value): (&String, &Value)| key.len() + value.as_str().map_or(0, str::len);
    if annotations.iter().map(size).sum::<usize>() > MAX_ANNOTATIONS {
        annotations.remove(LAST_APPLIED);
    }
}

fn annotation(object: &Value) -> Option<&str> {
    let text = meta::annotations(object)?.get(LAST_APPLIED)?.as_str()?;
    (!text.is_empty()).then_some(text)
}

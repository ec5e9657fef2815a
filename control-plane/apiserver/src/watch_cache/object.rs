//! One object as the cache holds it: the bytes that are sent to clients, and the little that selectors ask for.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use api::{
    registry::{GroupVersionKind, Resource},
    schema::TypeRef,
};
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};
use store::{KeyValue, Revision};

use super::{facts::Facts, kept::Kept, text::Text};
use crate::protobuf;

/// A cached object. Its body is complete JSON, resourceVersion included, with `apiVersion` and `kind` in front.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) key: Arc<str>,
    text: Text,
    pub(crate) revision: Revision,
    /// Where the namespace and the name stand in the key.
    name_at: u16,
    namespace_at: u16,
    /// The length of the object as a protobuf message; 0 until somebody asked.
    protobuf_length: AtomicU32,
    protobuf: Kept,
    facts: Facts,
}

impl Object {
    /// Decodes what the store holds; `None` when it is not an object (nothing of ours wrote it then).
    pub(crate) fn from_store(resource: &Resource, prefix: &str, item: &KeyValue) -> Option<Self> {
        let value: Value = serde_json::from_slice(&item.value).ok()?;
        Self::new(resource, prefix, item.key.clone(), value, item.mod_revision)
    }

    /// Encodes an object as it stands at a revision.
    pub(crate) fn new(
        resource: &Resource,
        prefix: &str,
        key: Arc<str>,
        mut value: Value,
        revision: Revision,
    ) -> Option<Self> {
        set_resource_version(&mut value, revision);
        let fields = resource.strategy.selectable_fields(&value);
        let facts = Facts::new(value["metadata"]["labels"].as_object(), &fields);
        let text = Text::new(value.as_object()?);
        let name_at = key.rfind('/')? + 1;
        Some(Object {
            name_at: u16::try_from(name_at).ok()?,
            namespace_at: u16::try_from(prefix.len()).ok()?,
            protobuf_length: AtomicU32::new(0),
            protobuf: Kept::default(),
            key,
            text,
            revision,
            facts,
        })
    }

    /// How many bytes of text are this object's alone.
    pub(super) fn size(&self) -> usize {
        self.text.own_size()
    }

    pub(crate) fn name(&self) -> &str {
        &self.key[usize::from(self.name_at)..]
    }

    /// Empty for a cluster-scoped object.
    pub(crate) fn namespace(&self) -> &str {
        let (start, end) = (usize::from(self.namespace_at), usize::from(self.name_at));
        if end <= start {
            ""
        } else {
            &self.key[start..end - 1]
        }
    }

    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.facts.label(key)
    }

    /// A selectable field's value.
    pub(crate) fn field(&self, field: &str) -> Option<&str> {
        match field {
            "metadata.name" => Some(self.name()),
            "metadata.namespace" => Some(self.namespace()),
            _ => self.facts.field(field),
        }
    }

    /// The object as a message of the type it is stored in.
    pub(crate) fn protobuf(&self, schema: TypeRef) -> Cow<'_, [u8]> {
        if let Some(kept) = self.protobuf.get() {
            return Cow::Borrowed(kept);
        }
        let nothing = Map::new();
        let value = self.value();
        let message = protobuf::encode::message(schema, value.as_object().unwrap_or(&nothing));
        let length = u32::try_from(message.len()).unwrap_or(0);
        self.protobuf_length.store(length, Ordering::Relaxed);
        self.protobuf.keep(&message);
        Cow::Owned(message)
    }

    /// The length of that message, measured once.
    pub(crate) fn protobuf_length(&self, schema: TypeRef) -> usize {
        match self.protobuf_length.load(Ordering::Relaxed) {
            0 => self.protobuf(schema).len(),
            length => length as usize,
        }
    }

    /// The whole body.
    pub(crate) fn body(&self) -> Bytes {
        self.text.bytes()
    }

    /// The body piece by piece. The first piece reaches beyond the type.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = Bytes> {
        self.text.pieces()
    }

    /// The object as a value.
    pub(crate) fn value(&self) -> Value {
        serde_json::from_slice(&self.body()).unwrap_or_default()
    }

    /// The object in a version that shares its storage.
    pub(crate) fn value_as(&self, resource: &Resource) -> Option<Value> {
        convert_to(resource, self.value()).ok()
    }

    /// The body as it would read had this revision written it: what a watch sends for a deletion.
    pub(crate) fn body_at(&self, revision: Revision) -> Bytes {
        let mut value = self.value();
        set_resource_version(&mut value, revision);
        value.as_object().map_or_else(|| self.body(), encode)
    }
}

/// Converts an object from the version it is stored in to the version of a resource.
pub(crate) fn convert_to(resource: &Resource, value: Value) -> api::status::Result<Value> {
    convert(resource, value, &resource.storage.version, &resource.gvk())
}

/// Converts an object from the version of a resource to the version it is stored in.
pub(crate) fn convert_from(resource: &Resource, value: Value) -> api::status::Result<Value> {
    convert(resource, value, &resource.gvk(), &resource.storage.version)
}

fn convert(
    resource: &Resource,
    value: Value,
    from: &GroupVersionKind,
    to: &GroupVersionKind,
) -> api::status::Result<Value> {
    if from == to {
        return Ok(value);
    }
    let mut value = resource
        .strategy
        .convert(value, &from.api_version(), &to.api_version())?;
    if let Some(object) = value.as_object_mut() {
        object.insert("apiVersion".to_owned(), Value::String(to.api_version()));
        object.insert("kind".to_owned(), Value::String(to.kind.to_string()));
    }
    Ok(value)
}

/// Sets `metadata.resourceVersion`.
pub(crate) fn set_resource_version(object: &mut Value, revision: Revision) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("resourceVersion".to_owned(), Value::String(revision.to_string()));
    }
}

/// Encodes an object with `apiVersion` and `kind` first, so that a list can leave them out by cutting a prefix.
pub(crate) fn encode(object: &Map<String, Value>) -> Bytes {
    encode_with(object, |out, _, value| write(out, value))
        .into_boxed_slice()
        .into()
}

/// As [`encode`], without `metadata.resourceVersion`: what the store keeps.
pub(crate) fn encode_unversioned(object: &Map<String, Value>) -> Bytes {
    let encoded = encode_with(object, |out, key, value| match value.as_object() {
        Some(metadata) if key == "metadata" => {
            out.push(b'{');
            let rest = metadata.iter().filter(|(key, _)| *key != "resourceVersion");
            entries(out, rest, |out, _, value| write(out, value));
            out.push(b'}');
        }
        _ => write(out, value),
    });
    encoded.into_boxed_slice().into()
}

/// Encodes an object, the type first, with the value of each of its fields written by `value`.
pub(super) fn encode_with(
    object: &Map<String, Value>,
    value: impl FnMut(&mut Vec<u8>, &str, &Value),
) -> Vec<u8> {
    let mut out = Vec::with_capacity(4096);
    out.push(b'{');
    let first = ["apiVersion", "kind"]
        .into_iter()
        .filter_map(|key| object.get_key_value(key));
    let rest = object
        .iter()
        .filter(|(key, _)| !matches!(key.as_str(), "apiVersion" | "kind"));
    entries(&mut out, first.chain(rest), value);
    out.push(b'}');
    out
}

/// The inside of a JSON object.
pub(super) fn entries<'a>(
    out: &mut Vec<u8>,
    entries: impl Iterator<Item = (&'a String, &'a Value)>,
    mut value_of: impl FnMut(&mut Vec<u8>, &str, &Value),
) {
    for (at, (key, value)) in entries.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write(out, key);
        out.push(b':');
        value_of(out, key, value);
    }
}

/// Writing to a vector and encoding a string or a Value cannot fail.
pub(super) fn write(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    let _ = serde_json::to_writer(out, value);
}

/// The body without its leading `apiVersion` and `kind`, as items of a typed list are written.
pub(crate) fn without_type(body: &Bytes, api_version: &str, kind: &str) -> Bytes {
    let prefix = type_prefix(api_version, kind);
    match body.strip_prefix(prefix.as_bytes()) {
        Some(_) => body.slice(prefix.len()..),
        None => body.slice(1..),
    }
}

/// How [`encode`] begins an object of this type.
fn type_prefix(api_version: &str, kind: &str) -> String {
    format!(r#"{{"apiVersion":"{api_version}","kind":"{kind}","#)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_store_keeps_no_version() {
        let object = json!({
            "kind": "ConfigMap", "apiVersion": "v1", "data": {"resourceVersion": "2"},
            "metadata": {"name": "a", "resourceVersion": "1", "uid": "u"},
        });
        let kept = encode_unversioned(object.as_object().unwrap());
        assert_eq!(
            kept,
            r#"{"apiVersion":"v1","kind":"ConfigMap","data":{"resourceVersion":"2"},"metadata":{"name":"a","uid":"u"}}"#
        );
    }

    #[test]
    fn type_comes_first_and_can_be_cut_off() {
        let object =
            json!({"addressType": "IPv4", "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1"});
        let body = encode(object.as_object().unwrap());
        assert_eq!(
            body,
            r#"{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv4"}"#
        );
        assert_eq!(
            without_type(&body, "discovery.k8s.io/v1", "EndpointSlice"),
            r#""addressType":"IPv4"}"#
        );
    }
}

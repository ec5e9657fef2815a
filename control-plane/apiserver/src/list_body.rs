//! The body of a list: a head, the items one after the other as they are sent, and an end. The whole is never in memory.

use std::{borrow::Cow, sync::Arc};

use api::{
    registry::Resource,
    schema::TypeRef,
    status::Status,
    table::{partial_object_metadata, table},
};
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::{
    body::{Body, BoxError},
    context::{Context, now},
    negotiation::{Encoding, Form, MetaVersion, Output},
    protobuf::encode,
    respond::{HttpResponse, is_stored_version, meta_type, response, value_response},
    watch_cache::{self, Object, convert_to, without_type},
};

/// So many objects are measured before other requests get their turn: a millisecond or two.
const MEASURED_AT_ONCE: usize = 32;

/// A list in the form and the encoding that were asked for.
pub(crate) fn list_response(
    context: &Context,
    metadata: Map<String, Value>,
    items: Vec<Arc<Object>>,
) -> Result<HttpResponse, Status> {
    let writer = Writer {
        resource: context.resource.clone(),
        output: context.output,
    };
    let body = match context.output.encoding {
        Encoding::Json => writer.json(metadata, items),
        Encoding::Protobuf => writer.protobuf(metadata, items)?,
        // For people's eyes: these encoders want a whole value.
        Encoding::Pretty | Encoding::Yaml => {
            let whole = writer.whole(metadata, &items)?;
            return Ok(value_response(StatusCode::OK, context.output, &whole));
        }
    };
    Ok(response(StatusCode::OK, context.output.content_type(), body))
}

/// Measures what a list in protobuf has to know beforehand, giving way to other requests in between: on the first list of
/// ten thousand pods this takes most of a second, later ones find it remembered.
pub(crate) async fn measure(context: &Context, objects: &[Arc<Object>]) {
    let remembered = context.output.form == Form::Object && is_stored_version(&context.resource);
    if context.output.encoding != Encoding::Protobuf || !remembered {
        return;
    }
    for objects in objects.chunks(MEASURED_AT_ONCE) {
        for object in objects {
            object.protobuf_length(context.resource.schema);
        }
        tokio::task::yield_now().await;
    }
}

struct Writer {
    resource: Arc<Resource>,
    output: Output,
}

impl Writer {
    /// The kind and the version of the list.
    fn list_type(&self) -> (&str, String) {
        let meta = || self.output.meta_version.api_version().to_owned();
        match self.output.form {
            Form::Object => (&self.resource.list_kind, self.resource.api_version()),
            Form::Metadata => ("PartialObjectMetadataList", meta()),
            Form::Table(_) => ("Table", meta()),
        }
    }

    /// An item as the list shows it.
    fn shown(&self, item: &Object) -> Result<Value, Status> {
        let value = convert_to(&self.resource, item.value())?;
        Ok(match self.output.form {
            Form::Object => value,
            Form::Metadata => self.output.in_version(partial_object_metadata(&value)),
            Form::Table(include) => {
                let rows = std::iter::once(&value);
                let table = table(&self.resource, rows, Value::Null, include, false, now());
                let mut table = self.output.in_version(table);
                table["rows"][0].take()
            }
        })
    }

    fn whole(&self, metadata: Map<String, Value>, items: &[Arc<Object>]) -> Result<Value, Status> {
        let items: Vec<Value> = items
            .iter()
            .map(|item| self.shown(item))
            .collect::<Result<_, _>>()?;
        if let Form::Table(include) = self.output.form {
            let nothing = std::iter::empty();
            let table = table(&self.resource, nothing, metadata.into(), include, true, now());
            let mut table = self.output.in_version(table);
            table["rows"] = items.into();
            return Ok(table);
        }
        let (kind, api_version) = self.list_type();
        Ok(json!({"kind": kind, "apiVersion": api_version, "metadata": metadata, "items": items}))
    }

    fn json(self, metadata: Map<String, Value>, items: Vec<Arc<Object>>) -> Body {
        let plain = self.output.is_plain() && is_stored_version(&self.resource);
        if plain {
            return self.joined(&metadata, &items);
        }
        let (kind, api_version) = self.list_type();
        let (columns, items_name) = match self.output.form {
            Form::Table(include) => {
                let nothing = std::iter::empty();
                let head = table(&self.resource, nothing, Value::Null, include, true, now());
                let columns = format!(r#""columnDefinitions":{},"#, head["columnDefinitions"]);
                (columns, "rows")
            }
            Form::Object | Form::Metadata => (String::new(), "items"),
        };
        let metadata = Value::Object(metadata);
        let head = format!(
            r#"{{"kind":"{kind}","apiVersion":"{api_version}","metadata":{metadata},{columns}"{items_name}":["#
        );
        let mut first = true;
        let items = items.into_iter().map(move |item| {
            let value = self.shown(&item).map_err(BoxError::from)?;
            let mut bytes = Vec::with_capacity(1024);
            if !std::mem::replace(&mut first, false) {
                bytes.push(b',');
            }
            serde_json::to_writer(&mut bytes, &value)?;
            Ok(Bytes::from(bytes))
        });
        let head = std::iter::once(Ok(Bytes::from(head)));
        let tail = std::iter::once(Ok(Bytes::from_static(b"]}\n")));
        Body::lazy(head.chain(items).chain(tail), None)
    }

    /// A list written around the bytes that the cache holds.
    fn joined(&self, metadata: &Map<String, Value>, items: &[Arc<Object>]) -> Body {
        let (kind, api_version) = self.list_type();
        let metadata = watch_cache::encode(metadata);
        let metadata = String::from_utf8_lossy(&metadata);
        let head =
            format!(r#"{{"kind":"{kind}","apiVersion":"{api_version}","metadata":{metadata},"items":["#);
        let mut chunks = Vec::with_capacity(items.len() * 2 + 2);
        chunks.push(Bytes::from(head));
        for item in items {
            let first = chunks.len() == 1;
            chunks.push(Bytes::from_static(if first { b"{" } else { b",{" }));
            let mut pieces = item.pieces();
            let first = pieces.next().unwrap_or_default();
            chunks.push(without_type(&first, &api_version, &self.resource.kind));
            chunks.extend(pieces);
        }
        chunks.push(Bytes::from_static(b"]}\n"));
        Body::chunks(chunks)
    }

    /// The envelope begins with the length of everything, so the items are encoded twice: once to be measured (which a
    /// cached object remembers), once to be sent.
    fn protobuf(self, metadata: Map<String, Value>, items: Vec<Arc<Object>>) -> Result<Body, Status> {
        let lengths: Vec<usize> = items
            .iter()
            .map(|item| self.length(item))
            .collect::<Result<_, _>>()?;
        let (kind, api_version) = self.list_type();
        let fields = match (self.output.form, self.output.meta_version) {
            (Form::Metadata, MetaVersion::V1Beta1) => encode::ListFields::META_V1_BETA_1,
            _ => encode::ListFields::USUAL,
        };
        let (head, tail) = fields.frame(&api_version, kind, &metadata, lengths.iter().copied());
        let items_length: usize = lengths
            .iter()
            .map(|length| fields.item_head(*length).len() + length)
            .sum();
        let total = (head.len() + items_length + tail.len()) as u64;
        let items = items.into_iter().map(move |item| {
            let message = self.message(&item).map_err(BoxError::from)?;
            let mut bytes = fields.item_head(message.len());
            bytes.extend_from_slice(&message);
            Ok(Bytes::from(bytes))
        });
        let head = std::iter::once(Ok(Bytes::from(head)));
        let tail = std::iter::once(Ok(Bytes::from(tail)));
        Ok(Body::lazy(head.chain(items).chain(tail), Some(total)))
    }

    fn length(&self, item: &Object) -> Result<usize, Status> {
        match self.is_sent_as_stored() {
            true => Ok(item.protobuf_length(self.resource.schema)),
            false => self.message(item).map(|message| message.len()),
        }
    }

    /// Whether objects are sent as the cache has them.
    fn is_sent_as_stored(&self) -> bool {
        self.output.form == Form::Object && is_stored_version(&self.resource)
    }

    fn message<'a>(&self, item: &'a Object) -> Result<Cow<'a, [u8]>, Status> {
        if self.is_sent_as_stored() {
            return Ok(item.protobuf(self.resource.schema));
        }
        let shown = self.shown(item)?;
        let nothing = Map::new();
        let message = encode::message(self.item_schema(), shown.as_object().unwrap_or(&nothing));
        Ok(message.into())
    }

    fn item_schema(&self) -> TypeRef {
        match self.output.form {
            Form::Object | Form::Table(_) => self.resource.schema,
            Form::Metadata => meta_type("PartialObjectMetadata").unwrap_or(self.resource.schema),
        }
    }
}

#[cfg(test)]
mod tests {
    use api::{registry::Registry, table::IncludeObject};
    use http_body_util::BodyExt;

    use super::*;

    const COUNT: usize = 3000;

    fn resource() -> Arc<Resource> {
        let registry = Registry::builtin();
        registry.find("", "v1", "configmaps").unwrap().clone()
    }

    fn object(resource: &Resource, number: usize, bytes: usize) -> Arc<Object> {
        let value = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": number.to_string(), "namespace": "a"},
            "data": {"key": "x".repeat(bytes)},
        });
        let key = format!("/registry/configmaps/a/{number}").into();
        Arc::new(Object::new(resource, "/registry/configmaps/", key, value, 1).unwrap())
    }

    /// A body holds an object until it has written it: so what is held tells how much of the list exists.
    #[tokio::test]
    async fn items_are_written_when_they_are_sent() {
        let resource = resource();
        for (encoding, form) in [
            (Encoding::Json, Form::Metadata),
            (Encoding::Json, Form::Table(IncludeObject::Object)),
            (Encoding::Protobuf, Form::Object),
            (Encoding::Protobuf, Form::Metadata),
        ] {
            let objects: Vec<_> = (0..COUNT).map(|number| object(&resource, number, 300)).collect();
            let items = objects.clone();
            let writer = Writer {
                resource: resource.clone(),
                output: Output {
                    encoding,
                    form,
                    ..Output::default()
                },
            };
            let mut body = match encoding {
                Encoding::Protobuf => writer.protobuf(Map::new(), items).unwrap(),
                _ => writer.json(Map::new(), items),
            };
            let held = || {
                let held = objects.iter().filter(|object| Arc::strong_count(object) > 1);
                held.count()
            };
            assert_eq!(held(), COUNT);
            let mut left = COUNT;
            let mut frames = 0;
            while let Some(frame) = body.frame().await {
                let frame = frame.unwrap().into_data().unwrap();
                assert!(frame.len() < 48 * 1024, "a frame of {} bytes", frame.len());
                assert!(
                    left - held() < COUNT / 2,
                    "{} were written at once",
                    left - held()
                );
                left = held();
                frames += 1;
            }
            assert!(
                frames > 2 && left == 0,
                "{encoding:?} {form:?}: {frames} frames, {left} left"
            );
        }
    }

    /// Objects in plain JSON are not even copied, but for small ones that share a frame.
    #[tokio::test]
    async fn plain_lists_send_the_bytes_of_the_cache() {
        let resource = resource();
        let objects: Vec<_> = (0..3).map(|number| object(&resource, number, 100_000)).collect();
        let writer = Writer {
            resource: resource.clone(),
            output: Output::default(),
        };
        let items = objects.clone();
        let mut body = writer.json(Map::new(), items);
        let mut shared = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.unwrap().into_data().unwrap();
            let is_part = |object: &Arc<Object>| {
                let whole = object.pieces().next().unwrap();
                whole.as_ptr_range().contains(&frame.as_ptr())
            };
            shared += objects.iter().filter(|object| is_part(object)).count();
        }
        assert_eq!(shared, 3);
    }
}

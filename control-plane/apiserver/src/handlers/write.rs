//! What all writes share: reading the body, system metadata, encoding for the store, compare and swap.

use std::{sync::Arc, time::Duration};

use api::{
    decode::{Expected, decode, decode_value},
    meta,
    registry::Resource,
    status::{self, Status},
};
use bytes::Bytes;
use rand::RngExt;
use serde_json::{Map, Value};
use store::Revision;

use super::managed;
use crate::{
    body::RequestBody,
    context::{Context, read_body, store_error},
    negotiation, protobuf,
    respond::is_stored_version,
    watch_cache::{Object, convert_from, convert_to, encode_unversioned, set_resource_version},
};

/// How long an Event is kept.
const EVENT_TTL: Duration = Duration::from_secs(3600);
/// No object is larger, whichever store holds it: etcd's limit, so that data can move from one to the other.
const OBJECT_BYTES_MAX: usize = 1536 * 1024;
/// How often a change is tried again when others change the object too.
const MODIFY_ATTEMPTS: usize = 30;

/// Reads the request's object.
pub(super) async fn read_object(context: &mut Context, body: RequestBody) -> Result<Value, Status> {
    let resource = context.resource.clone();
    read_expected(context, body, resource.expected()).await
}

/// Reads an object of another kind than the resource's: what a subresource takes.
pub(super) async fn read_expected(
    context: &mut Context,
    body: RequestBody,
    expected: Expected<'_>,
) -> Result<Value, Status> {
    let mode = context.field_validation()?;
    let mut decoded = if negotiation::content_type(&context.headers) == protobuf::CONTENT_TYPE {
        let bytes = read_body(body).await?;
        let unreadable = |error: protobuf::Error| {
            status::bad_request(format!("unable to decode the protobuf body: {error}"))
        };
        let object = protobuf::open(&bytes).and_then(|envelope| envelope.object(expected.schema));
        decode_value(object.map_err(unreadable)?, expected, mode)?
    } else {
        let media = negotiation::media(&context.headers)?;
        decode(&read_body(body).await?, media, expected, mode)?
    };
    context.warnings.extend(decoded.warnings);
    if decoded.forgets_managers && context.info.verb == "update" {
        managed::put(&mut decoded.value, Some(Value::Array(Vec::new())));
    }
    Ok(decoded.value)
}

/// Checks the namespace of a body against the path and fills it in.
pub(super) fn settle_namespace(context: &Context, object: &mut Value) -> Result<(), Status> {
    let asked = context.namespace().unwrap_or_default();
    let given = meta::namespace(object);
    if !context.resource.namespaced {
        meta::metadata_mut(object).remove("namespace");
        return Ok(());
    }
    if given != asked {
        if !given.is_empty() {
            return Err(status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        meta::metadata_mut(object).insert("namespace".to_owned(), asked.into());
    }
    Ok(())
}

/// Checks that an update's body is of the object that the path names.
pub(super) fn check_name(context: &Context, object: &Value) -> Result<(), Status> {
    let (given, asked) = (meta::name(object), &context.info.name);
    if given.is_empty() {
        return Err(status::bad_request(format!(
            "the name of the object ({asked} based on URL) was undeterminable: name must be provided"
        )));
    }
    if given != asked {
        return Err(status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({asked})"
        )));
    }
    Ok(())
}

/// Leaves each owner in once. Returns what to tell the client if one was there twice; `when` is said of the time.
pub(super) fn dedup_owners(object: &mut Value, when: &str) -> Option<String> {
    let owners = object.pointer_mut("/metadata/ownerReferences")?.as_array_mut()?;
    let (mut seen, mut twice) = (std::collections::HashSet::new(), Vec::new());
    owners.retain(|owner| {
        let uid = owner["uid"].as_str().unwrap_or_default().to_owned();
        let first = seen.insert(uid.clone());
        if !first {
            twice.push(uid);
        }
        first
    });
    (!twice.is_empty()).then(|| {
        format!(
            ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and may \
             reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            twice.join(", ")
        )
    })
}

/// Removes what clients may send but the server alone decides.
pub(super) fn strip_server_fields(metadata: &mut Map<String, Value>) {
    metadata.remove("selfLink");
}

/// The suffix of a generated name.
pub(crate) fn random_suffix() -> String {
    let mut random = rand::rng();
    let alphabet = meta::SUFFIX_ALPHABET;
    (0..5)
        .map(|_| char::from(alphabet[random.random_range(0..alphabet.len())]))
        .collect()
}

/// The bytes that the store keeps: in the storage version, without a resourceVersion.
fn encode_for_store(resource: &Resource, object: &Value) -> Result<Bytes, Status> {
    let converted;
    let stored = match is_stored_version(resource) {
        true => object,
        false => {
            converted = convert_from(resource, object.clone())?;
            &converted
        }
    };
    let encoded = match stored.as_object() {
        Some(object) => encode_unversioned(object),
        None => return Err(status::internal_error("the object is not an object")),
    };
    if encoded.len() > OBJECT_BYTES_MAX {
        return Err(status::request_entity_too_large(format!(
            "limit is {OBJECT_BYTES_MAX}"
        )));
    }
    Ok(encoded)
}

/// The same; what is too large for the store is tried without its `managedFields`, unless they are what the request is about.
pub(super) fn encode_or_forget(context: &Context, object: &mut Value) -> Result<Bytes, Status> {
    let encoded = encode_for_store(&context.resource, object);
    let applies = negotiation::content_type(&context.headers) == super::apply::CONTENT_TYPE;
    match encoded {
        Err(status) if status.code == 413 && !applies && managed::take(object).is_some() => {
            encode_for_store(&context.resource, object)
        }
        encoded => encoded,
    }
}

/// How long the store keeps an object of this resource; `None` means until it is deleted.
pub(super) fn ttl(resource: &Resource) -> Option<Duration> {
    (resource.storage.prefix == "/registry/events/").then_some(EVENT_TTL)
}

/// Replaces an object; `Ok(None)` means that somebody else was faster.
pub(super) async fn swap(
    context: &Context,
    current: &Object,
    new: &mut Value,
) -> Result<Option<Revision>, Status> {
    let bytes = encode_or_forget(context, new)?;
    let store = &context.api.cache.store;
    match store
        .update(&current.key, bytes, current.revision, ttl(&context.resource))
        .await
    {
        Ok(revision) => {
            set_resource_version(new, revision);
            Ok(Some(revision))
        }
        Err(store::Error::Conflict { .. }) => Ok(None),
        Err(error) => Err(store_error(&error)),
    }
}

/// Removes an object; `false` means that it changed meanwhile.
pub(super) async fn remove(context: &Context, current: &Object) -> Result<Option<Revision>, Status> {
    match context
        .api
        .cache
        .store
        .delete(&current.key, current.revision)
        .await
    {
        Ok(revision) => Ok(Some(revision)),
        Err(store::Error::Conflict { .. }) => Ok(None),
        Err(error) => Err(store_error(&error)),
    }
}

/// Gives back what an object had that is gone.
pub(super) async fn deleted(context: &Context, object: &Value) {
    context.api.release(&context.resource, object).await;
}

/// Changes an object that the path names by the rules of a subresource alone, without admission or validation.
pub(super) async fn modify(
    context: &Context,
    mut change: impl FnMut(&mut Value) -> Result<(), Status> + Send,
) -> Result<Value, Status> {
    for _ in 0..MODIFY_ATTEMPTS {
        let current = context.current().await?;
        let mut object = decode_current(context, &current)?;
        change(&mut object)?;
        if swap(context, &current, &mut object).await?.is_some() {
            return Ok(object);
        }
    }
    Err(status::modified(
        &context.resource.group,
        &context.resource.plural,
        &context.info.name,
    ))
}

/// The current object in the version of the resource.
pub(super) fn decode_current(context: &Context, current: &Arc<Object>) -> Result<Value, Status> {
    convert_to(&context.resource, current.value())
}

/// Whether an object that is being deleted has nothing left to wait for.
pub(super) fn is_done(object: &Value) -> bool {
    !meta::deletion_timestamp(object).is_empty()
        && meta::deletion_grace_period_seconds(object).unwrap_or(0) == 0
        && !has_finalizers(object)
}

/// Whether somebody has to agree before the object may go.
pub(super) fn has_finalizers(object: &Value) -> bool {
    let namespace = object["kind"] == "Namespace"
        && object["spec"]["finalizers"]
            .as_array()
            .is_some_and(|finalizers| !finalizers.is_empty());
    namespace || meta::finalizers(object).next().is_some()
}

//! Patches: JSON patch, merge patch, strategic merge patch (and apply, by [`super::apply`]). Applied to what is there, and again when that changed meanwhile.

use api::{
    decode::{Decoded, FieldValidation, decode_value, duplicate_fields},
    meta,
    patch::{json_patch, json_patch_complaints, merge_patch, shown, strategic_merge},
    registry::Resource,
    status::{self, Status},
    validation::{ErrorKind, ErrorList, FieldError},
};
use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;

use super::{
    apply, managed,
    update::{change, tracking},
};
use crate::{
    body::RequestBody,
    context::{Context, invalid_option, read_body},
    negotiation::content_type,
    respond::{HttpResponse, written_response},
};

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC_MERGE_PATCH: &str = "application/strategic-merge-patch+json";

/// A patch that has been read.
enum Patch {
    Json(Bytes),
    Merge(Value),
    Strategic(Value),
}

/// Patches the object that the path names.
pub(super) async fn patch(context: &mut Context, body: RequestBody) -> Result<HttpResponse, Status> {
    let dry_run = context.dry_run()?;
    let mode = context.field_validation()?;
    let kind = content_type(&context.headers).to_owned();
    if kind == apply::CONTENT_TYPE {
        return apply::apply(context, body).await;
    }
    if !context.query("force").is_empty() {
        return Err(invalid_option(
            ("meta.k8s.io", "PatchOptions"),
            ErrorKind::Forbidden,
            "force",
            "",
            "may not be specified for non-apply patch",
        ));
    }
    let bytes = read_body(body).await?;
    let value = || {
        serde_json::from_slice(&bytes)
            .map_err(|error| status::bad_request(format!("error decoding patch: {error}")))
    };
    let patch = match kind.as_str() {
        JSON_PATCH => Patch::Json(bytes.clone()),
        MERGE_PATCH => Patch::Merge(value()?),
        STRATEGIC_MERGE_PATCH => Patch::Strategic(value()?),
        _ => {
            return Err(status::unsupported_media_type(&[
                JSON_PATCH,
                MERGE_PATCH,
                STRATEGIC_MERGE_PATCH,
                apply::CONTENT_TYPE,
            ]));
        }
    };
    let complaints = match (mode, &patch) {
        (FieldValidation::Ignore, _) => Vec::new(),
        (_, Patch::Json(bytes)) => json_patch_complaints(bytes)?,
        (_, Patch::Merge(_) | Patch::Strategic(_)) => duplicate_fields(&bytes)
            .map_err(|error| status::bad_request(format!("error decoding patch: {error}")))?,
    };
    let resource = context.resource.clone();
    let warnings = parking_lot::Mutex::new(Vec::new());
    let tracking = tracking(&context.info.subresource);
    let updated = change(context, dry_run, tracking, |old| {
        let decoded = patched(&resource, &patch, old, (mode, &complaints))?;
        *warnings.lock() = decoded.warnings;
        Ok(decoded.value)
    })
    .await?;
    context.warnings.extend(warnings.into_inner());
    Ok(written_response(context, StatusCode::OK, updated))
}

/// Refuses patches that would make another object of it.
fn is_of_the_path(patched: &Value, old: &Value) -> Result<(), Status> {
    for (what, read) in [
        ("name", meta::name as fn(&Value) -> &str),
        ("namespace", meta::namespace),
    ] {
        let (given, there) = (read(patched), read(old));
        if given != there {
            return Err(status::bad_request(format!(
                "the {what} of the object ({given}) does not match the {what} on the URL ({there})"
            )));
        }
    }
    Ok(())
}

/// Why a value was not decoded, without the words on what it should have been.
fn reason(error: &Status) -> &str {
    let why = error.message.split_once(" cannot be handled as a ");
    let why = why.and_then(|(_, rest)| rest.split_once(": "));
    why.map_or(error.message.as_str(), |(_, why)| why)
}

/// The patched object cannot be read: the patch is to blame, and is shown.
fn misfit(patch: &str, why: &str) -> Status {
    let mut errors = ErrorList::new();
    errors.push(FieldError::new(
        ErrorKind::Invalid,
        "patch",
        status::quote(patch),
        why,
    ));
    status::invalid("", "", "", errors)
}

/// The object as the patch leaves it, checked like any object that a client sends. `complaints` are about the patch itself.
fn patched(
    resource: &Resource,
    patch: &Patch,
    old: &Value,
    (mode, complaints): (FieldValidation, &[String]),
) -> Result<Decoded, Status> {
    let patched = match patch {
        Patch::Json(bytes) => json_patch(old, bytes)?,
        Patch::Merge(patch) => merge_patch(old, patch),
        Patch::Strategic(patch) => strategic_merge(old, patch, resource.schema)?,
    };
    is_of_the_path(&patched, old)?;
    let json = match patch {
        Patch::Strategic(patch) => shown(patch),
        _ => patched.to_string(),
    };
    let lenient = match mode {
        FieldValidation::Strict => FieldValidation::Warn,
        mode => mode,
    };
    let mut decoded =
        decode_value(patched, resource.expected(), lenient).map_err(|error| misfit(&json, reason(&error)))?;
    decoded.warnings.splice(..0, complaints.iter().cloned());
    if mode == FieldValidation::Strict && !decoded.warnings.is_empty() {
        let why = format!("strict decoding error: {}", decoded.warnings.join(", "));
        return Err(misfit(&json, &why));
    }
    if decoded.forgets_managers {
        managed::put(&mut decoded.value, Some(Value::Array(Vec::new())));
    }
    Ok(decoded)
}

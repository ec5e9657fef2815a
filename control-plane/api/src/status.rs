//! `Status`, the body of every answer that is not an object, and its constructors in upstream's words.
//!
//! Clients match on `reason` and often on the text, so the wording is part of the interface.

use crate::validation::ErrorList;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::ops::{Deref, DerefMut};

/// The result of anything an API client may be told about.
pub type Result<T> = std::result::Result<T, Status>;

/// A `v1.Status`; boxed, because it is the error of hot functions.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Status(Box<StatusBody>);

/// The fields of a `v1.Status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusBody {
    /// Always `Status`.
    pub kind: String,
    /// Always `v1`.
    pub api_version: String,
    /// List metadata; empty except for the `continue` token of an expired list.
    pub metadata: Value,
    /// `Success` or `Failure`.
    pub status: String,
    /// What happened, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What happened, for programs; empty when upstream gives none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What it happened to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<StatusDetails>,
    /// The HTTP status code.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub code: u16,
}

/// What a [`Status`] is about.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusDetails {
    /// Object name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// API group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Kind for validation errors, resource otherwise (as upstream).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Object uid.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// One entry per field at fault.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<StatusCause>,
    /// When to try again.
    #[serde(skip_serializing_if = "is_zero_i32")]
    pub retry_after_seconds: i32,
}

/// One of the causes of a [`Status`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusCause {
    /// For programs (`FieldValueInvalid`, …).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Path of the field.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

impl Deref for Status {
    type Target = StatusBody;
    fn deref(&self) -> &StatusBody {
        &self.0
    }
}

impl DerefMut for Status {
    fn deref_mut(&mut self) -> &mut StatusBody {
        &mut self.0
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

impl Status {
    /// A failure with the given code, reason and message.
    pub fn failure(code: u16, reason: &str, message: impl Into<String>) -> Status {
        Status(Box::new(StatusBody {
            kind: "Status".into(),
            api_version: "v1".into(),
            metadata: Value::Object(Default::default()),
            status: "Failure".into(),
            message: message.into(),
            reason: reason.into(),
            details: None,
            code,
        }))
    }

    /// The `Success` status, answered to a finished delete; `details` say what is gone.
    pub fn success(details: Option<StatusDetails>) -> Status {
        let mut status = Status::failure(200, "", "");
        status.status = "Success".into();
        status.details = details;
        status
    }

    /// Adds details.
    pub fn with_details(mut self, details: StatusDetails) -> Status {
        self.details = Some(details);
        self
    }

    /// Asks the client to come back in `seconds` (the caller adds the `Retry-After` header).
    pub fn with_retry_after(mut self, seconds: i32) -> Status {
        self.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    /// Adds a cause.
    pub fn with_cause(mut self, reason: &str, message: impl Into<String>, field: &str) -> Status {
        let cause = StatusCause {
            reason: reason.into(),
            message: message.into(),
            field: field.into(),
        };
        self.details.get_or_insert_default().causes.push(cause);
        self
    }

    /// The JSON form.
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).unwrap_or(Value::Null)
    }
}

/// 404: no such object. `resource` is the plural, not the kind.
pub fn not_found(group: &str, resource: &str, name: &str) -> Status {
    Status::failure(
        404,
        "NotFound",
        format!("{} {} not found", qualified(group, resource), quote(name)),
    )
    .with_details(details(group, resource, name))
}

/// 404 for a resource (not an object) that the server does not know; the answer to unregistered API paths below a group.
pub fn resource_not_found() -> Status {
    let mut status = Status::failure(
        404,
        "NotFound",
        "the server could not find the requested resource",
    );
    status.details = Some(StatusDetails::default());
    status
}

/// 409: an object of that name exists.
pub fn already_exists(group: &str, resource: &str, name: &str) -> Status {
    let message = format!("{} {} already exists", qualified(group, resource), quote(name));
    Status::failure(409, "AlreadyExists", message).with_details(details(group, resource, name))
}

/// 409: the server could not find a free name for `generateName` after several tries.
pub fn generate_name_conflict(group: &str, resource: &str, name: &str) -> Status {
    let message = format!(
        "{} {} already exists, the server was not able to generate a unique name for the object",
        qualified(group, resource),
        quote(name)
    );
    Status::failure(409, "AlreadyExists", message).with_details(StatusDetails {
        retry_after_seconds: 1,
        ..details(group, resource, name)
    })
}

/// 409: a precondition or the resourceVersion did not hold.
pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Status {
    let message = format!(
        "Operation cannot be fulfilled on {} {}: {why}",
        qualified(group, resource),
        quote(name)
    );
    Status::failure(409, "Conflict", message).with_details(details(group, resource, name))
}

/// 409 in the words of a lost update.
pub fn modified(group: &str, resource: &str, name: &str) -> Status {
    conflict(
        group,
        resource,
        name,
        "the object has been modified; please apply your changes to the latest version and try again",
    )
}

/// 422: field errors, each a cause.
pub fn invalid(group: &str, kind: &str, name: &str, errors: ErrorList) -> Status {
    let causes: Vec<StatusCause> = errors
        .iter()
        .map(|e| StatusCause {
            reason: e.reason().into(),
            message: e.body(),
            field: e.path.clone(),
        })
        .collect();
    let message = format!(
        "{} {} is invalid: {}",
        qualified_kind(group, kind),
        quote(name),
        errors.message()
    );
    Status::failure(422, "Invalid", message).with_details(StatusDetails {
        causes,
        ..details(group, kind, name)
    })
}

/// 422 of a patch that does not fit the object; upstream keeps the reason to itself, here it is the cause.
pub fn unprocessable(why: impl Into<String>) -> Status {
    Status::failure(
        422,
        "Invalid",
        "the server rejected our request due to an error in our request",
    )
    .with_cause("", why, "")
}

/// 400.
pub fn bad_request(message: impl Into<String>) -> Status {
    Status::failure(400, "BadRequest", message)
}

/// 401.
pub fn unauthorized() -> Status {
    Status::failure(401, "Unauthorized", "Unauthorized")
}

/// What a request asks for, as an authorization error words it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Denied<'a> {
    /// Who asked.
    pub user: &'a str,
    /// get, list, …
    pub verb: &'a str,
    /// API group of the resource.
    pub group: &'a str,
    /// Plural; empty for paths that are no resource.
    pub resource: &'a str,
    /// Subresource, or empty.
    pub subresource: &'a str,
    /// Namespace, or empty at cluster scope.
    pub namespace: &'a str,
    /// Object name, or empty.
    pub name: &'a str,
    /// The path, for requests that are for no resource.
    pub path: &'a str,
    /// The authorizer's reason, or empty.
    pub reason: &'a str,
}

/// 403 of an authorizer.
pub fn forbidden(d: Denied<'_>) -> Status {
    let suffix = if d.reason.is_empty() {
        String::new()
    } else {
        format!(": {}", d.reason)
    };
    if d.resource.is_empty() {
        let message = format!(
            "forbidden: User {} cannot {} path {}{suffix}",
            quote(d.user),
            d.verb,
            quote(d.path)
        );
        return Status::failure(403, "Forbidden", message).with_details(StatusDetails::default());
    }
    let resource = if d.subresource.is_empty() {
        d.resource.to_string()
    } else {
        format!("{}/{}", d.resource, d.subresource)
    };
    let scope = if d.namespace.is_empty() {
        "at the cluster scope".to_string()
    } else {
        format!("in the namespace {}", quote(d.namespace))
    };
    let what = format!(
        "User {} cannot {} resource {} in API group {} {scope}{suffix}",
        quote(d.user),
        d.verb,
        quote(&resource),
        quote(d.group)
    );
    forbidden_object(d.group, d.resource, d.name, &what)
}

/// 403 of admission: `pods "x" is forbidden: why`.
pub fn forbidden_object(group: &str, resource: &str, name: &str, why: &str) -> Status {
    let resource_name = qualified(group, resource);
    let message = if name.is_empty() {
        format!("{resource_name} is forbidden: {why}")
    } else {
        format!("{resource_name} {} is forbidden: {why}", quote(name))
    };
    Status::failure(403, "Forbidden", message).with_details(details(group, resource, name))
}

/// 405.
pub fn method_not_supported(group: &str, resource: &str, verb: &str) -> Status {
    let message = format!(
        "{verb} is not supported on resources of kind {}",
        quote(&qualified(group, resource))
    );
    Status::failure(405, "MethodNotAllowed", message).with_details(details(group, resource, ""))
}

/// 405 for a path that takes other methods.
pub fn method_not_allowed() -> Status {
    Status::failure(
        405,
        "MethodNotAllowed",
        "the server does not allow this method on the requested resource",
    )
    .with_details(StatusDetails::default())
}

/// 415: the request's Content-Type.
pub fn unsupported_media_type(accepted: &[&str]) -> Status {
    let message = format!(
        "the body of the request was in an unknown format - accepted media types include: {}",
        accepted.join(", ")
    );
    Status::failure(415, "UnsupportedMediaType", message)
}

/// 406: none of the Accept types.
pub fn not_acceptable(accepted: &[&str]) -> Status {
    let message = format!(
        "only the following media types are accepted: {}",
        accepted.join(", ")
    );
    Status::failure(406, "NotAcceptable", message)
}

/// 410: the resourceVersion or continue token is older than what the store keeps.
pub fn expired(message: impl Into<String>) -> Status {
    Status::failure(410, "Expired", message)
}

/// 504: the requested resourceVersion is in the future.
pub fn too_large_resource_version(requested: u64, current: u64) -> Status {
    Status::failure(
        504,
        "Timeout",
        format!("Too large resource version: {requested}, current: {current}"),
    )
    .with_details(StatusDetails {
        retry_after_seconds: 1,
        ..StatusDetails::default()
    })
    .with_cause("ResourceVersionTooLarge", "Too large resource version", "")
}

/// 504: the request took too long.
pub fn timeout(message: impl Into<String>) -> Status {
    Status::failure(504, "Timeout", format!("Timeout: {}", message.into()))
        .with_details(StatusDetails::default())
}

/// 500 with reason ServerTimeout: the server gave up on its own, try again.
pub fn server_timeout(group: &str, resource: &str, verb: &str, retry_after_seconds: i32) -> Status {
    let message = format!(
        "The {verb} operation against {} could not be completed at this time, please try again.",
        qualified(group, resource)
    );
    Status::failure(500, "ServerTimeout", message).with_details(StatusDetails {
        retry_after_seconds,
        ..details(group, resource, "")
    })
}

/// 429.
pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: i32) -> Status {
    Status::failure(429, "TooManyRequests", message).with_details(StatusDetails {
        retry_after_seconds,
        ..StatusDetails::default()
    })
}

/// 413.
pub fn request_entity_too_large(message: impl Into<String>) -> Status {
    Status::failure(
        413,
        "RequestEntityTooLarge",
        format!("Request entity is too large: {}", message.into()),
    )
}

/// 500 with the InternalError reason.
pub fn internal_error(message: impl Into<String>) -> Status {
    let message = message.into();
    Status::failure(
        500,
        "InternalError",
        format!("Internal error occurred: {message}"),
    )
    .with_details(StatusDetails::default())
    .with_cause("", message, "")
}

/// 500 without a reason, as upstream turns an error that is no Status into one.
pub fn unknown_error(message: impl Into<String>) -> Status {
    Status::failure(500, "", message)
}

/// 503.
pub fn service_unavailable(message: impl Into<String>) -> Status {
    Status::failure(503, "ServiceUnavailable", message)
}

/// A string between double quotes, escaped as Go's `%q` does.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn details(group: &str, kind: &str, name: &str) -> StatusDetails {
    StatusDetails {
        name: name.into(),
        group: group.into(),
        kind: kind.into(),
        ..StatusDetails::default()
    }
}

/// `deployments.apps`; `pods`.
fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() {
        resource.into()
    } else {
        format!("{resource}.{group}")
    }
}

fn qualified_kind(group: &str, kind: &str) -> String {
    qualified(group, kind)
}

fn is_zero(code: &u16) -> bool {
    *code == 0
}

fn is_zero_i32(seconds: &i32) -> bool {
    *seconds == 0
}

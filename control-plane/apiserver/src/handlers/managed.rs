//! Field managers: who a request is from, and where `managedFields` are while an object is worked on.
//!
//! Between reading and writing, an object comes without them; they are taken off first and put back last.

use std::sync::Arc;

use api::{
    apply::{ManagerProblem, ServedVersions, Write, manager_from_user_agent, manager_problem, track},
    meta,
    registry::{Registry, Resource},
    status::Status,
    validation::ErrorKind,
};
use http::header;
use serde_json::Value;

use crate::context::{Context, invalid_option, now};

/// How a change came about, as far as its managers are concerned.
pub(super) enum Tracking {
    /// By any write but apply, to this subresource.
    Update(&'static str),
    /// By applying: the new state's `managedFields` are final.
    Applied,
}

/// Takes `managedFields` off an object.
pub(super) fn take(object: &mut Value) -> Option<Value> {
    meta::metadata_mut(object).remove("managedFields")
}

/// Puts `managedFields` on an object that has none.
pub(super) fn put(object: &mut Value, managed: Option<Value>) {
    if let Some(managed) = managed {
        meta::metadata_mut(object).insert("managedFields".to_owned(), managed);
    }
}

/// What the engine needs to know of a request.
pub(super) struct Parts {
    pub(super) resource: Arc<Resource>,
    registry: Registry,
    manager: String,
    subresource: String,
}

impl Parts {
    pub(super) fn new(context: &Context, subresource: &str) -> Result<Self, Status> {
        Ok(Parts {
            resource: context.resource.clone(),
            registry: context.api.registry.clone(),
            manager: manager(context)?,
            subresource: subresource.to_owned(),
        })
    }

    /// Calls the engine.
    pub(super) fn with_write<T>(&self, call: impl FnOnce(&Write<'_>) -> T) -> T {
        let resource = &self.resource;
        let reset = resource.strategy.reset_fields(&self.subresource);
        call(&Write {
            manager: &self.manager,
            api_version: &resource.api_version(),
            subresource: &self.subresource,
            reset,
            now: &meta::format_time(now()),
            schema: resource.schema,
            versions: &ServedVersions::new(&self.registry, resource),
        })
    }

    /// The `managedFields` of a new object; `given` are those in the request.
    pub(super) fn of_new(&self, object: &Value, given: Option<&Value>) -> Option<Value> {
        self.with_write(|write| track(write, None, object, given))
    }

    /// The `managedFields` of a changed object; `before` are those of the old one, `given` those in the request.
    pub(super) fn of_changed(
        &self,
        (old, before): (&Value, Option<&Value>),
        new: &Value,
        given: Option<&Value>,
    ) -> Option<Value> {
        self.with_write(|write| track(write, Some((old, before)), new, given))
    }
}

/// Who writes: the `fieldManager` parameter, else what the client calls itself, else what its user is for.
fn manager(context: &Context) -> Result<String, Status> {
    let given = context.query("fieldManager");
    if let Some(problem) = manager_problem(given) {
        let kind = match context.info.verb.as_str() {
            "create" => "CreateOptions",
            "update" => "UpdateOptions",
            _ => "PatchOptions",
        };
        let quoted = api::status::quote(given);
        let (error, detail) = match problem {
            ManagerProblem::TooLong(max) => (ErrorKind::TooLong, format!("may not be more than {max} bytes")),
            ManagerProblem::NotPrintable(_) => (
                ErrorKind::Invalid,
                "should only contain printable characters".to_owned(),
            ),
        };
        return Err(invalid_option(
            ("meta.k8s.io", kind),
            error,
            "fieldManager",
            &quoted,
            &detail,
        ));
    }
    if !given.is_empty() {
        return Ok(given.to_owned());
    }
    let agent = context.headers.get(header::USER_AGENT);
    let agent = manager_from_user_agent(agent.and_then(|agent| agent.to_str().ok()).unwrap_or_default());
    if !agent.is_empty() {
        return Ok(agent);
    }
    let user = context.user.name.as_str();
    Ok(match user.strip_prefix("system:") {
        Some(node) if node.starts_with("node:") => "kubelet".to_owned(),
        Some(component) if !component.contains(':') => component.to_owned(),
        _ => String::new(),
    })
}

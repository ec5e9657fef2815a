//! NamespaceLifecycle: nothing is created in a namespace that is missing or going; the base namespaces stay.

use api::status::{self, Status};

use super::{Attributes, Operation};
use crate::context::Api;

/// These cannot be deleted.
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

pub(super) async fn admit(api: &Api, attributes: &Attributes) -> Result<(), Status> {
    let a = attributes;
    if a.is("", "namespaces") {
        if a.operation == Operation::Delete && IMMORTAL.contains(&a.name.as_str()) {
            let why = "this namespace may not be deleted";
            return Err(status::forbidden_object("", "namespaces", &a.name, why));
        }
        return Ok(());
    }
    if a.operation != Operation::Create || !a.resource.namespaced || !a.subresource.is_empty() {
        return Ok(());
    }
    let namespaces = api.builtin("", "v1", "namespaces")?;
    let key = namespaces.key(None, &a.namespace)?;
    let cached = api.cached(&namespaces)?;
    // The cache may be a moment behind a namespace that was just made: only then is waiting for it worth it.
    let namespace = match cached.get(&key) {
        Some(namespace) => namespace,
        None => api.current(&namespaces, None, &a.namespace).await?,
    };
    if namespace.field("status.phase") != Some("Terminating") {
        return Ok(());
    }
    let why = format!(
        "unable to create new content in namespace {} because it is being terminated",
        a.namespace
    );
    let forbidden = status::forbidden_object(&a.resource.group, &a.resource.plural, &a.name, &why);
    let cause = format!("namespace {} is being terminated", a.namespace);
    Err(forbidden.with_cause("NamespaceTerminating", cause, "metadata.namespace"))
}

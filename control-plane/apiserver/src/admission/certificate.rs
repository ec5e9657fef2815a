//! A certificate signing request says who made it, and nobody can say it for somebody else.

use serde_json::{Value, json};

use super::{Attributes, Operation};

pub(super) fn admit(attributes: &Attributes, object: &mut Value) {
    let new = attributes.operation == Operation::Create && attributes.subresource.is_empty();
    if !new || !attributes.is("certificates.k8s.io", "certificatesigningrequests") {
        return;
    }
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    for field in ["username", "uid", "groups", "extra"] {
        spec.remove(field);
    }
    let user = &attributes.user;
    spec.insert("username".to_owned(), user.name.clone().into());
    spec.insert("groups".to_owned(), user.groups.clone().into());
    if !user.uid.is_empty() {
        spec.insert("uid".to_owned(), user.uid.clone().into());
    }
    if !user.extra.is_empty() {
        spec.insert("extra".to_owned(), json!(user.extra));
    }
}

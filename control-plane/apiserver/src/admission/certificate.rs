//! Requests for certificates say who made them and when they were decided, and nobody can say it for somebody else.

use api::{
    meta,
    status::{self, Status},
    strategy::signing_request_organizations,
    validation::{ErrorKind, ErrorList, FieldError},
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{Attributes, Operation};
use crate::{authn::SYSTEM_MASTERS, context::now};

const GROUP: &str = "certificates.k8s.io";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
/// How far a new certificate's beginning may be from the server's own time.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_mins(5);

pub(super) fn admit(attributes: &Attributes, object: &mut Value, old: Option<&Value>) -> Result<(), Status> {
    let subresource = attributes.subresource.as_str();
    if attributes.is(GROUP, "certificatesigningrequests") {
        match (attributes.operation, subresource) {
            (Operation::Create, "") => {
                sign_for(attributes, object);
                return no_masters(attributes, object);
            }
            (Operation::Update, "approval" | "status") => date_conditions(object, old, now()),
            _ => {}
        }
    } else if attributes.is(GROUP, "podcertificaterequests")
        && attributes.operation == Operation::Update
        && subresource == "status"
    {
        return begins_now(object, old, now());
    }
    Ok(())
}

/// Fills in the user.
fn sign_for(attributes: &Attributes, object: &mut Value) {
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

/// CertificateSubjectRestriction: a certificate of the group that may do everything is not to be had by an approval.
fn no_masters(attributes: &Attributes, object: &Value) -> Result<(), Status> {
    if object["spec"]["signerName"] != CLIENT_SIGNER {
        return Ok(());
    }
    let request = object["spec"]["request"].as_str().unwrap_or_default();
    let organizations = signing_request_organizations(request);
    if organizations.iter().any(|group| group == SYSTEM_MASTERS) {
        let why = format!("use of {CLIENT_SIGNER} signer with {SYSTEM_MASTERS} group is not allowed");
        return Err(attributes.forbidden(&why));
    }
    Ok(())
}

/// Fills in the times of conditions that have none: a condition that stood before keeps the time of its beginning.
fn date_conditions(object: &mut Value, old: Option<&Value>, now: Timestamp) {
    let before = old.and_then(|old| old["status"]["conditions"].as_array());
    let Some(conditions) = object
        .pointer_mut("/status/conditions")
        .and_then(Value::as_array_mut)
    else {
        return;
    };
    let now = Value::from(meta::format_time(now));
    for condition in conditions.iter_mut().filter_map(Value::as_object_mut) {
        let unset = |value: Option<&Value>| value.is_none_or(Value::is_null);
        if unset(condition.get("lastUpdateTime")) {
            condition.insert("lastUpdateTime".to_owned(), now.clone());
        }
        if unset(condition.get("lastTransitionTime")) {
            let same = before.into_iter().flatten().find(|before| {
                ["type", "status"]
                    .iter()
                    .all(|field| condition.get(*field) == before.get(*field))
                    && !unset(before.get("lastTransitionTime"))
            });
            let time = same.map_or_else(|| now.clone(), |before| before["lastTransitionTime"].clone());
            condition.insert("lastTransitionTime".to_owned(), time);
        }
    }
}

/// A pod's certificate is issued for now.
fn begins_now(object: &Value, old: Option<&Value>, now: Timestamp) -> Result<(), Status> {
    let begins = |object: &Value| object["status"]["notBefore"].as_str().map(str::to_owned);
    let begin = begins(object);
    if begin == old.and_then(begins) {
        return Ok(());
    }
    let time = begin.as_deref().and_then(|begin| begin.parse::<Timestamp>().ok());
    if time.is_none_or(|time| now.duration_since(time).abs() <= CLOCK_SKEW) {
        return Ok(());
    }
    let mut errors = ErrorList::new();
    errors.push(FieldError::new(
        ErrorKind::Invalid,
        "status.notBefore",
        status::quote(begin.as_deref().unwrap_or_default()),
        "must be set to within 5 minutes of kube-apiserver's current time",
    ));
    let name = meta::name(object);
    Err(status::invalid(GROUP, "PodCertificateRequest", name, errors))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_keep_the_time_of_their_beginning() {
        let (then, now) = ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z");
        let old = json!({"status": {"conditions": [{"type": "Approved", "status": "True", "lastTransitionTime": then}]}});
        let mut new = json!({"status": {"conditions": [
            {"type": "Approved", "status": "True"},
            {"type": "Failed", "status": "True", "lastTransitionTime": null, "lastUpdateTime": then},
        ]}});
        date_conditions(&mut new, Some(&old), now.parse().unwrap());
        assert_eq!(
            new["status"]["conditions"],
            json!([
                {"type": "Approved", "status": "True", "lastUpdateTime": now, "lastTransitionTime": then},
                {"type": "Failed", "status": "True", "lastUpdateTime": then, "lastTransitionTime": now},
            ])
        );
    }

    #[test]
    fn certificates_of_pods_begin_about_now() {
        let now: Timestamp = "2026-02-01T00:00:00Z".parse().unwrap();
        let object = |time: &str| json!({"metadata": {"name": "a"}, "status": {"notBefore": time}});
        for (time, good) in [
            ("2026-01-31T23:55:00Z", true),
            ("2026-02-01T00:05:00Z", true),
            ("2026-01-31T23:54:59Z", false),
            ("2026-02-01T00:05:01Z", false),
        ] {
            assert_eq!(begins_now(&object(time), None, now).is_ok(), good, "{time}");
            assert!(begins_now(&object(time), Some(&object(time)), now).is_ok());
        }
        assert!(begins_now(&json!({"status": {}}), None, now).is_ok());
    }
}

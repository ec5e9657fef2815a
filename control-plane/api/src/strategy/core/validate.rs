//! Checks of the core kinds that are neither workloads nor services.

use crate::meta;
use crate::strategy::access::{int, is_true, list, map, text};
use crate::strategy::quantities::resource_amount;
use crate::validation::net::{cidr, parse_cidr};
use crate::validation::text::{
    config_key_problems, label_value_problems, qualified_name_problems, subdomain_problems,
};
use crate::validation::{ErrorList, FieldError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

/// Data of a ConfigMap or Secret.
const MAX_DATA: usize = 1 << 20;
const IMMUTABLE_WHEN_SET: &str = "field is immutable when `immutable` is set";
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Finalizers that need no domain.
const NAMESPACE_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

/// A new namespace.
pub(super) fn namespace(obj: &Value, errors: &mut ErrorList) {
    for finalizer in list(obj, "/spec/finalizers") {
        namespace_finalizer(finalizer, "spec.finalizers", errors);
    }
}

/// A namespace whose finalizers are replaced.
pub(super) fn finalized_namespace(obj: &Value, errors: &mut ErrorList) {
    for (i, finalizer) in list(obj, "/spec/finalizers").iter().enumerate() {
        namespace_finalizer(finalizer, &format!("spec.finalizers[{i}]"), errors);
    }
}

fn namespace_finalizer(finalizer: &Value, path: &str, errors: &mut ErrorList) {
    let finalizer = finalizer.as_str().unwrap_or("");
    errors.problems(path, finalizer, qualified_name_problems(finalizer));
    if !finalizer.contains('/') && !NAMESPACE_FINALIZERS.contains(&finalizer) {
        let detail = "name is neither a standard finalizer name nor is it fully qualified";
        errors.invalid(path, finalizer, detail);
    }
}

/// The phase follows the deletion timestamp.
pub(super) fn namespace_status(new: &Value, _: &Value, errors: &mut ErrorList) {
    let phase = text(new, "/status/phase");
    let (wanted, state) = match meta::deletion_timestamp(new).is_empty() {
        true => ("Active", "empty"),
        false => ("Terminating", "not empty"),
    };
    if phase != wanted {
        let detail = format!("may only be '{wanted}' if `deletionTimestamp` is {state}");
        errors.invalid("status.Phase", phase, detail);
    }
}

/// A new node.
pub(super) fn node(obj: &Value, errors: &mut ErrorList) {
    taints(obj, errors);
    node_amounts(obj, errors);
    pod_cidrs(list(obj, "/spec/podCIDRs"), errors);
}

/// Each pair of key and effect once. Upstream looks for them in the metadata.
fn taints(obj: &Value, errors: &mut ErrorList) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (i, taint) in list(obj, "/spec/taints").iter().enumerate() {
        let path = format!("metadata.taints[{i}]");
        let (key, effect) = (text(taint, "/key"), text(taint, "/effect"));
        errors.problems(&format!("{path}.key"), key, qualified_name_problems(key));
        let value = text(taint, "/value");
        let problems = label_value_problems(value);
        if !problems.is_empty() {
            errors.invalid(format!("{path}.value"), value, problems.join(";"));
        }
        if errors.present(&format!("{path}.effect"), effect) {
            errors.one_of(&format!("{path}.effect"), effect, &EFFECTS);
        }
        if seen.contains(&(key, effect)) {
            let mut duplicate = FieldError::duplicate(path.clone(), taint);
            duplicate.detail = "taints must be unique by key and effect pair".into();
            errors.push(duplicate);
        }
        seen.push((key, effect));
    }
}

fn node_amounts(obj: &Value, errors: &mut ErrorList) {
    for kind in ["capacity", "allocatable"] {
        for (name, value) in map(obj, &format!("/status/{kind}")).into_iter().flatten() {
            resource_amount(name, value, &format!("status.{kind}.{name}"), errors);
        }
    }
}

/// One network of each family.
fn pod_cidrs(cidrs: &[Value], errors: &mut ErrorList) {
    let path = "spec.podCIDRs";
    let texts: Vec<&str> = cidrs.iter().map(|c| c.as_str().unwrap_or("")).collect();
    for (i, text) in texts.iter().enumerate() {
        cidr(text, &format!("{path}[{i}]"), errors);
        if texts[..i].contains(text) {
            errors.duplicate(format!("{path}[{i}]"), *text);
        }
    }
    let parsed: Vec<_> = texts.iter().filter_map(|text| parse_cidr(text)).collect();
    let ipv4 = parsed.iter().filter(|(address, _)| address.is_ipv4()).count();
    if texts.len() > 2 || texts.len() == 2 && parsed.len() == 2 && ipv4 != 1 {
        let detail = "may specify no more than one CIDR for each IP family";
        errors.invalid(path, cidrs.to_vec(), detail);
    }
}

/// What a node is, once it is known, stays; its status and its spec are checked whichever of the two is written.
pub(super) fn node_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    node_amounts(new, errors);
    let addresses = list(new, "/status/addresses");
    for (i, address) in addresses.iter().enumerate() {
        if addresses[..i].contains(address) {
            errors.duplicate(format!("status.addresses[{i}]"), address.clone());
        }
    }
    let cidrs = |obj: &Value| list(obj, "/spec/podCIDRs").to_vec();
    if !cidrs(old).is_empty() && cidrs(new) != cidrs(old) {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        errors.forbidden("spec.podCIDRs", detail);
    } else if cidrs(new) != cidrs(old) {
        pod_cidrs(&cidrs(new), errors);
    }
    let (now, then) = (text(new, "/spec/providerID"), text(old, "/spec/providerID"));
    if !then.is_empty() && now != then {
        let detail = "node updates may not change providerID except from \"\" to valid";
        errors.forbidden("spec.providerID", detail);
    }
    taints(new, errors);
    if text(new, "/spec/externalID") != text(old, "/spec/externalID") {
        errors.forbidden("spec.externalID", "may not be updated");
    }
}

pub(super) fn config_map(obj: &Value, errors: &mut ErrorList) {
    let binary = map(obj, "/binaryData");
    let mut size = 0;
    for (key, value) in map(obj, "/data").into_iter().flatten() {
        errors.problems(&format!("data[{key}]"), key, config_key_problems(key));
        if binary.is_some_and(|b| b.contains_key(key)) {
            let detail = "duplicate of key present in binaryData";
            errors.push(FieldError::invalid(
                format!("data[{key}]"),
                &key.as_str().into(),
                detail,
            ));
        }
        size += value.as_str().map_or(0, str::len);
    }
    for (key, value) in binary.into_iter().flatten() {
        errors.problems(&format!("binaryData[{key}]"), key, config_key_problems(key));
        size += decoded_len(value);
    }
    if size > MAX_DATA {
        errors.push(FieldError::too_long("", MAX_DATA));
    }
}

/// The number of bytes of a base64 text.
fn decoded_len(value: &Value) -> usize {
    let text = value.as_str().unwrap_or("");
    text.len() / 4 * 3
        - text
            .bytes()
            .rev()
            .take_while(|b| *b == b'=')
            .count()
            .min(text.len() / 4 * 3)
}

pub(super) fn config_map_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    immutable_data(new, old, &["data", "binaryData"], errors);
    config_map(new, errors);
}

/// Once immutable, always immutable.
fn immutable_data(new: &Value, old: &Value, fields: &[&str], errors: &mut ErrorList) {
    if !is_true(old, "/immutable") {
        return;
    }
    if !is_true(new, "/immutable") {
        errors.push(FieldError::forbidden("immutable", IMMUTABLE_WHEN_SET));
    }
    for field in fields {
        if new.get(field) != old.get(field) {
            errors.push(FieldError::forbidden(*field, IMMUTABLE_WHEN_SET));
        }
    }
}

pub(super) fn secret(obj: &Value, errors: &mut ErrorList) {
    let data = map(obj, "/data");
    let mut size = 0;
    for (key, value) in data.into_iter().flatten() {
        errors.problems(&format!("data[{key}]"), key, config_key_problems(key));
        size += decoded_len(value);
    }
    if size > MAX_DATA {
        errors.push(FieldError::too_long("data", MAX_DATA));
    }
    let has = |key: &str| data.is_some_and(|d| d.contains_key(key));
    let mut need = |keys: &[&str]| {
        for key in keys.iter().filter(|k| !has(k)) {
            errors.push(FieldError::required(format!("data[{key}]"), ""));
        }
    };
    match text(obj, "/type") {
        "kubernetes.io/tls" => need(&["tls.crt", "tls.key"]),
        "kubernetes.io/dockercfg" => docker_config(data, ".dockercfg", errors),
        "kubernetes.io/dockerconfigjson" => docker_config(data, ".dockerconfigjson", errors),
        "kubernetes.io/ssh-auth" if text(obj, "/data/ssh-privatekey").is_empty() => {
            errors.required("data[ssh-privatekey]", "");
        }
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => need(&["username", "password"]),
        "kubernetes.io/service-account-token" => {
            let key = "kubernetes.io/service-account.name";
            let named = meta::annotations(obj)
                .and_then(|a| a.get(key))
                .and_then(Value::as_str)
                .unwrap_or("");
            if named.is_empty() {
                errors.push(FieldError::required(format!("metadata.annotations[{key}]"), ""));
            }
        }
        _ => {}
    }
}

/// Credentials of registries are a JSON object.
fn docker_config(data: Option<&Map<String, Value>>, key: &str, errors: &mut ErrorList) {
    let Some(value) = data.and_then(|d| d.get(key)) else {
        return errors.required(format!("data[{key}]"), "");
    };
    let bytes = STANDARD.decode(value.as_str().unwrap_or("")).unwrap_or_default();
    let problem = match serde_json::from_slice::<Value>(&bytes) {
        Ok(Value::Object(_) | Value::Null) => return,
        Ok(other) => {
            let kind = match other {
                Value::Array(_) => "array",
                Value::String(_) => "string",
                Value::Bool(_) => "bool",
                _ => "number",
            };
            format!("json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}")
        }
        Err(_) if bytes.trim_ascii().is_empty() => "unexpected end of JSON input".into(),
        Err(error) => match bytes.get(error.column().saturating_sub(1)) {
            _ if error.is_eof() => "unexpected end of JSON input".into(),
            Some(byte) => format!(
                "invalid character {:?} looking for beginning of value",
                char::from(*byte)
            ),
            None => error.to_string(),
        },
    };
    errors.invalid(format!("data[{key}]"), "<secret contents redacted>", problem);
}

pub(super) fn secret_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    errors.immutable("type", new.get("type"), old.get("type"));
    immutable_data(new, old, &["data"], errors);
    secret(new, errors);
}

pub(super) fn lease(obj: &Value, errors: &mut ErrorList) {
    if int(obj, "/spec/leaseDurationSeconds").is_some_and(|seconds| seconds <= 0) {
        let seconds = int(obj, "/spec/leaseDurationSeconds");
        errors.invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0");
    }
    if int(obj, "/spec/leaseTransitions").is_some_and(|transitions| transitions < 0) {
        let transitions = int(obj, "/spec/leaseTransitions");
        errors.invalid(
            "spec.leaseTransitions",
            transitions,
            "must be greater than or equal to 0",
        );
    }
    let strategy = obj.pointer("/spec/strategy").and_then(Value::as_str);
    if let Some(strategy) = strategy {
        // Upstream says the field's name twice.
        let path = "spec.strategy.strategy";
        if strategy.contains('/') {
            errors.problems(path, strategy, qualified_name_problems(strategy));
        } else {
            errors.one_of(path, strategy, &["OldestEmulationVersion"]);
        }
    }
    let preferred = text(obj, "/spec/preferredHolder");
    if !preferred.is_empty() && strategy.unwrap_or("").is_empty() {
        let detail = "may only be specified if `strategy` is defined";
        errors.forbidden("spec.preferredHolder", detail);
    }
}

pub(super) fn service_account(obj: &Value, errors: &mut ErrorList) {
    for (i, secret) in list(obj, "/imagePullSecrets").iter().enumerate() {
        let name = text(secret, "/name");
        if !name.is_empty() {
            errors.problems(
                &format!("imagePullSecrets[{i}].name"),
                name,
                subdomain_problems(name),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn updated(check: fn(&Value, &Value, &mut ErrorList), new: Value, old: Value) -> String {
        let mut errors = ErrorList::new();
        check(&new, &old, &mut errors);
        if errors.is_empty() {
            String::new()
        } else {
            errors.message()
        }
    }

    #[test]
    fn immutable_configuration() {
        let old = || json!({"data": {"a": "b"}, "immutable": true});
        assert_eq!(updated(config_map_update, old(), old()), "");
        assert_eq!(
            updated(config_map_update, json!({"data": {}}), old()),
            "[immutable: Forbidden: field is immutable when `immutable` is set, data: Forbidden: field is immutable when `immutable` is set]"
        );
        assert_eq!(
            updated(secret_update, json!({"type": "b"}), json!({"type": "a"})),
            "type: Invalid value: \"b\": field is immutable"
        );
        let large = json!({"data": {"a": "x".repeat(MAX_DATA + 1)}});
        assert_eq!(
            updated(config_map_update, large, json!({})),
            ": Too long: may not be more than 1048576 bytes"
        );
    }

    #[test]
    fn nodes() {
        let with = |spec: Value| json!({"spec": spec});
        assert_eq!(
            updated(
                node_update,
                with(json!({"podCIDRs": ["10.0.0.0/24"]})),
                with(json!({}))
            ),
            ""
        );
        assert_eq!(
            updated(
                node_update,
                with(json!({})),
                with(json!({"podCIDRs": ["10.0.0.0/24"]}))
            ),
            "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid"
        );
        let taints =
            json!({"taints": [{"key": "a", "effect": "NoExecute"}, {"key": "a", "effect": "NoExecute"}]});
        assert!(
            updated(node_update, with(taints), with(json!({})))
                .contains("taints must be unique by key and effect pair")
        );
        assert!(
            updated(
                node_update,
                with(json!({"podCIDRs": ["10.0.0.0"]})),
                with(json!({}))
            )
            .contains("must be a valid CIDR value")
        );
    }

    #[test]
    fn base64_lengths() {
        for (text, want) in [("", 0), ("eA==", 1), ("eHg=", 2), ("eHh4", 3), ("=", 0)] {
            assert_eq!(decoded_len(&text.into()), want, "{text}");
        }
    }
}

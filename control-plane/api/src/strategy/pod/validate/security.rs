//! Security contexts of pods and containers.

use super::system::windows_options;
use crate::strategy::access::{int, is_true, list, text};
use crate::validation::text::is_sysctl_name;
use crate::validation::{ErrorList, FieldError};
use serde_json::Value;

const PROFILE_TYPES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];
/// Longest name of an AppArmor profile on the node.
const MAX_APP_ARMOR_PROFILE: usize = 4095;
const MAX_ID: i64 = i32::MAX as i64;

/// The security context of a pod spec; `path` is the context's.
pub(super) fn pod(spec: &Value, path: &str, errors: &mut ErrorList) {
    let context = spec.get("securityContext").unwrap_or(&Value::Null);
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(context, field, path, errors);
    }
    for (i, group) in list(context, "/supplementalGroups").iter().enumerate() {
        let at = format!("{path}.supplementalGroups[{i}]");
        errors.in_range(&at, group.as_i64().unwrap_or(0), 0, MAX_ID);
    }
    if is_true(spec, "/hostPID") && is_true(spec, "/shareProcessNamespace") {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(format!("{path}.shareProcessNamespace"), true, detail);
    }
    sysctls(spec, context, path, errors);
    for (field, supported) in [
        ("fsGroupChangePolicy", ["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", ["Merge", "Strict"]),
    ] {
        if let Some(policy) = context.get(field).and_then(Value::as_str) {
            errors.one_of(&format!("{path}.{field}"), policy, &supported);
        }
    }
    profiles(context, path, errors);
    windows_options(context, path, errors);
}

/// The security context of a container; `path` is the container's.
pub(super) fn container(context: &Value, path: &str, errors: &mut ErrorList) {
    let path = format!("{path}.securityContext");
    for field in ["runAsUser", "runAsGroup"] {
        id(context, field, &path, errors);
    }
    if let Some(kind) = context.get("procMount").and_then(Value::as_str) {
        errors.one_of(&format!("{path}.procMount"), kind, &["Default", "Unmasked"]);
    }
    if context.get("allowPrivilegeEscalation") == Some(&Value::Bool(false)) {
        if is_true(context, "/privileged") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.invalid(path.clone(), context.clone(), detail);
        }
        if list(context, "/capabilities/add")
            .iter()
            .any(|c| c == "CAP_SYS_ADMIN")
        {
            let detail =
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid(path.clone(), context.clone(), detail);
        }
    }
    windows_options(context, &path, errors);
    profiles(context, &path, errors);
}

fn id(context: &Value, field: &str, path: &str, errors: &mut ErrorList) {
    if let Some(id) = int(context, &format!("/{field}")) {
        errors.in_range(&format!("{path}.{field}"), id, 0, MAX_ID);
    }
}

fn sysctls(spec: &Value, context: &Value, path: &str, errors: &mut ErrorList) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, sysctl) in list(context, "/sysctls").iter().enumerate() {
        let name = text(sysctl, "/name");
        let at = format!("{path}.sysctls[{i}].name");
        if name.is_empty() {
            errors.required(at.clone(), "");
        } else if !is_sysctl_name(name) {
            let detail = r"must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            errors.invalid(at.clone(), name, detail);
        } else if seen.contains(&name) {
            errors.duplicate(at.clone(), name);
        }
        seen.push(name);
        // A namespaced sysctl of a namespace that is the host's would be the host's.
        let name = name.replace('/', ".");
        let ipc = ["kernel.sem", "kernel.shm", "kernel.msg", "fs.mqueue."];
        if name.starts_with("net.") && is_true(spec, "/hostNetwork") {
            errors.invalid(at, name, "may not be specified when 'hostNetwork' is true");
        } else if ipc.iter().any(|prefix| name.starts_with(prefix)) && is_true(spec, "/hostIPC") {
            errors.invalid(at, name, "may not be specified when 'hostIPC' is true");
        }
    }
}

/// Seccomp and AppArmor.
fn profiles(context: &Value, path: &str, errors: &mut ErrorList) {
    if let Some(profile) = context.get("seccompProfile") {
        let path = format!("{path}.seccompProfile");
        profile_type(profile, &path, "seccompProfile", errors);
        let at = format!("{path}.localhostProfile");
        let file = profile.get("localhostProfile").and_then(Value::as_str);
        match (text(profile, "/type"), file) {
            ("Localhost", None) => errors.required(at, "must be set when seccomp type is Localhost"),
            ("Localhost", Some(file)) => super::container::relative_path(file, &at, errors),
            (_, Some(_)) => {
                errors.invalid(
                    at,
                    profile.clone(),
                    "can only be set when seccomp type is Localhost",
                );
            }
            (_, None) => {}
        }
    }
    if let Some(profile) = context.get("appArmorProfile") {
        let path = format!("{path}.appArmorProfile");
        profile_type(profile, &path, "appArmorProfile", errors);
        let at = format!("{path}.localhostProfile");
        let name = profile.get("localhostProfile").and_then(Value::as_str);
        match (text(profile, "/type"), name) {
            ("Localhost", None | Some("")) => {
                errors.required(at, "must be set when AppArmor type is Localhost");
            }
            ("Localhost", Some(name)) => {
                if name.trim() != name {
                    errors.invalid(at.clone(), name, "must not be padded with whitespace");
                }
                if name.len() > MAX_APP_ARMOR_PROFILE {
                    errors.push(FieldError::too_long(at, MAX_APP_ARMOR_PROFILE));
                }
            }
            ("RuntimeDefault" | "Unconfined", Some(name)) => {
                errors.invalid(at, name, "can only be set when AppArmor type is Localhost");
            }
            _ => {}
        }
    }
}

/// Whether a field may name it.
pub(crate) fn is_app_armor_profile(name: &str) -> bool {
    !name.is_empty() && name.trim() == name && name.len() <= MAX_APP_ARMOR_PROFILE
}

fn profile_type(profile: &Value, path: &str, field: &str, errors: &mut ErrorList) {
    let kind = text(profile, "/type");
    let at = format!("{path}.type");
    if kind.is_empty() {
        errors.required(at, format!("type is required when {field} is set"));
    } else {
        errors.one_of(&at, kind, &PROFILE_TYPES);
    }
}

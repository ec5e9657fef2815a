//! Containers of a pod spec.

use crate::strategy::access::{Object, int, is_true, list, text};
use crate::strategy::pod::all_containers;
use crate::strategy::quantities::requirements;
use crate::validation::text::{
    config_key_problems, env_var_name_problems, header_name_problems, label_problems, port_name_problems,
    qualified_name_problems,
};
use crate::validation::{ErrorList, FieldError};
use serde_json::{Map, Value};

const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];
const MESSAGE_POLICIES: [&str; 2] = ["FallbackToLogsOnError", "File"];
/// How long a pod has to end when it does not say.
const DEFAULT_GRACE_SECONDS: i64 = 30;
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const SCHEMES: [&str; 2] = ["HTTP", "HTTPS"];
/// Fields of the pod that environment variables may show.
const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Resources of the container that environment variables and files may show.
const CONTAINER_RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// All containers of a spec; `volumes` are those that they may mount.
pub(super) fn containers(spec: &Value, path: &str, volumes: &[&Value], errors: &mut ErrorList) {
    if list(spec, "/containers").is_empty() {
        errors.push(FieldError::required(format!("{path}.containers"), ""));
    }
    let host_network = is_true(spec, "/hostNetwork");
    let grace = int(spec, "/terminationGracePeriodSeconds").unwrap_or(DEFAULT_GRACE_SECONDS);
    let mut names: Vec<&str> = Vec::new();
    let mut host_ports: Vec<String> = Vec::new();
    for (at, container) in all_containers(spec) {
        let path = format!("{path}.{at}");
        let name = string(container, "name");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        } else {
            errors.problems(&format!("{path}.name"), name, label_problems(name));
        }
        if !name.is_empty() && names.contains(&name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), &name.into()));
        }
        names.push(name);
        one(container, &path, volumes, grace, errors);
        if at.starts_with("initContainers") {
            init(container, &path, errors);
        } else if at.starts_with("ephemeral") {
            ephemeral(container, &path, errors);
            let target = string(container, "targetContainerName");
            let mut others = all_containers(spec).filter(|(at, _)| !at.starts_with("ephemeral"));
            if !target.is_empty() && !others.any(|(_, other)| string(other, "name") == target) {
                errors.push(FieldError::not_found(
                    format!("{path}.targetContainerName"),
                    target,
                ));
            }
        }
        ports(container, &path, host_network, &mut host_ports, errors);
    }
}

/// `grace` is how long the pod has to end, in seconds.
fn one(container: &Object, path: &str, volumes: &[&Value], grace: i64, errors: &mut ErrorList) {
    let image = string(container, "image");
    if image.is_empty() {
        errors.push(FieldError::required(format!("{path}.image"), ""));
    } else if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        errors.push(FieldError::invalid(
            format!("{path}.image"),
            &image.into(),
            detail,
        ));
    }
    errors.one_of(
        &format!("{path}.imagePullPolicy"),
        string(container, "imagePullPolicy"),
        &PULL_POLICIES,
    );
    let policy = string(container, "terminationMessagePolicy");
    errors.one_of(
        &format!("{path}.terminationMessagePolicy"),
        policy,
        &MESSAGE_POLICIES,
    );
    env(container, path, errors);
    env_from(container, path, errors);
    mounts(container, path, volumes, errors);
    for (probe, only_once) in [
        ("livenessProbe", true),
        ("readinessProbe", false),
        ("startupProbe", true),
    ] {
        let Some(value) = container.get(probe) else {
            continue;
        };
        validate_probe(value, &format!("{path}.{probe}"), only_once, errors);
        if let ("readinessProbe", Some(grace)) = (probe, int(value, "/terminationGracePeriodSeconds")) {
            let at = format!("{path}.{probe}.terminationGracePeriodSeconds");
            errors.push(FieldError::invalid(
                at,
                &grace.into(),
                "must not be set for readinessProbes",
            ));
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(value) = container.get("lifecycle").and_then(|l| l.get(hook)) {
            handler(
                value,
                &format!("{path}.lifecycle.{hook}"),
                &["exec", "httpGet", "tcpSocket", "sleep"],
                errors,
            );
            let seconds = int(value, "/sleep/seconds").unwrap_or(0);
            if value.get("sleep").is_some() && !(0..=grace).contains(&seconds) {
                let detail =
                    format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                let at = format!("{path}.lifecycle.{hook}.sleep");
                errors.push(FieldError::invalid(at, &seconds.into(), detail));
            }
        }
    }
    requirements(
        container.get("resources").unwrap_or(&Value::Null),
        &format!("{path}.resources"),
        errors,
    );
    let security = container.get("securityContext").unwrap_or(&Value::Null);
    super::security::container(security, path, errors);
    resize_policy(container, path, errors);
}

fn resize_policy(container: &Object, path: &str, errors: &mut ErrorList) {
    let path = format!("{path}.resizePolicy");
    let mut seen: Vec<&str> = Vec::new();
    for policy in items(container, "resizePolicy") {
        let name = text(policy, "/resourceName");
        if seen.contains(&name) {
            errors.duplicate(path.clone(), name);
        }
        seen.push(name);
        errors.one_of(&path, name, &["cpu", "memory"]);
        let restart = text(policy, "/restartPolicy");
        if restart.is_empty() {
            errors.required(path.clone(), "");
        } else {
            errors.one_of(&path, restart, &["NotRequired", "RestartContainer"]);
        }
    }
}

/// Init containers that are no sidecars run once: nothing watches them.
fn init(container: &Object, path: &str, errors: &mut ErrorList) {
    if string(container, "restartPolicy") == "Always" {
        return;
    }
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if container.contains_key(field) {
            let detail = "may not be set for init containers without restartPolicy=Always";
            errors.push(FieldError::forbidden(format!("{path}.{field}"), detail));
        }
    }
}

fn ephemeral(container: &Object, path: &str, errors: &mut ErrorList) {
    let empty = |value: &Value| value.as_object().is_some_and(Map::is_empty);
    for field in [
        "ports",
        "resources",
        "resizePolicy",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
        "lifecycle",
    ] {
        if container.get(field).is_some_and(|value| !empty(value)) {
            errors.push(FieldError::forbidden(
                format!("{path}.{field}"),
                "cannot be set for an Ephemeral Container",
            ));
        }
    }
}

fn ports(
    container: &Object,
    path: &str,
    host_network: bool,
    host_ports: &mut Vec<String>,
    errors: &mut ErrorList,
) {
    let mut names: Vec<&str> = Vec::new();
    for (i, port) in items(container, "ports").iter().enumerate() {
        let path = format!("{path}.ports[{i}]");
        let name = text(port, "/name");
        if !name.is_empty() {
            errors.problems(&format!("{path}.name"), name, port_name_problems(name));
            if names.contains(&name) {
                errors.push(FieldError::duplicate(format!("{path}.name"), &name.into()));
            }
            names.push(name);
        }
        let number = int(port, "/containerPort").unwrap_or(0);
        if number == 0 {
            errors.push(FieldError::required(format!("{path}.containerPort"), ""));
        } else {
            errors.in_range(&format!("{path}.containerPort"), number, 1, 65_535);
        }
        let host = int(port, "/hostPort").unwrap_or(0);
        if host != 0 {
            errors.in_range(&format!("{path}.hostPort"), host, 1, 65_535);
            if host_network && host != number {
                errors.push(FieldError::invalid(
                    format!("{path}.hostPort"),
                    &host.into(),
                    "must match `containerPort`",
                ));
            }
            let key = format!("{}/{}/{host}", text(port, "/protocol"), text(port, "/hostIP"));
            if host_ports.contains(&key) {
                errors.push(FieldError::duplicate(
                    format!("{path}.hostPort"),
                    &key.clone().into(),
                ));
            }
            host_ports.push(key);
        }
        errors.one_of(&format!("{path}.protocol"), text(port, "/protocol"), &PROTOCOLS);
    }
}

fn env(container: &Object, path: &str, errors: &mut ErrorList) {
    for (i, variable) in items(container, "env").iter().enumerate() {
        let path = format!("{path}.env[{i}]");
        let name = text(variable, "/name");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        } else {
            errors.problems(&format!("{path}.name"), name, env_var_name_problems(name));
        }
        let Some(Value::Object(source)) = variable.get("valueFrom") else {
            continue;
        };
        let path = format!("{path}.valueFrom");
        if !text(variable, "/value").is_empty() {
            let detail = "may not be specified when `value` is not empty";
            errors.push(FieldError::invalid(path.clone(), &"".into(), detail));
        }
        match source.len() {
            0 => errors.push(FieldError::invalid(
                path.clone(),
                &"".into(),
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
            )),
            1 => {}
            _ => errors.push(FieldError::invalid(
                path.clone(),
                &"".into(),
                "may not have more than one field specified at a time",
            )),
        }
        if let Some(field) = source.get("fieldRef") {
            field_ref(field, &format!("{path}.fieldRef"), &ENV_FIELDS, errors);
        }
        if let Some(resource) = source.get("resourceFieldRef") {
            resource_ref(resource, &format!("{path}.resourceFieldRef"), errors);
        }
        for kind in ["configMapKeyRef", "secretKeyRef"] {
            if let Some(reference) = source.get(kind) {
                let path = format!("{path}.{kind}");
                if text(reference, "/name").is_empty() {
                    errors.push(FieldError::required(format!("{path}.name"), ""));
                }
                let key = text(reference, "/key");
                if key.is_empty() {
                    errors.push(FieldError::required(format!("{path}.key"), ""));
                } else {
                    errors.problems(&format!("{path}.key"), key, config_key_problems(key));
                }
            }
        }
    }
}

fn env_from(container: &Object, path: &str, errors: &mut ErrorList) {
    for (i, source) in items(container, "envFrom").iter().enumerate() {
        let path = format!("{path}.envFrom[{i}]");
        let prefix = text(source, "/prefix");
        if !prefix.is_empty() {
            errors.problems(&format!("{path}.prefix"), prefix, env_var_name_problems(prefix));
        }
        let given: Vec<&str> = ["configMapRef", "secretRef"]
            .into_iter()
            .filter(|k| source.get(k).is_some())
            .collect();
        match given.len() {
            0 => errors.push(FieldError::invalid(
                path.clone(),
                &"".into(),
                "must specify one of: `configMapRef` or `secretRef`",
            )),
            1 => {}
            _ => errors.push(FieldError::invalid(
                path.clone(),
                &"".into(),
                "may not have more than one field specified at a time",
            )),
        }
        for kind in given {
            if text(source, &format!("/{kind}/name")).is_empty() {
                errors.push(FieldError::required(format!("{path}.{kind}.name"), ""));
            }
        }
    }
}

/// A `fieldRef`; labels and annotations may be asked for by key.
pub(super) fn field_ref(reference: &Value, path: &str, supported: &[&str], errors: &mut ErrorList) {
    let field = text(reference, "/fieldPath");
    if text(reference, "/apiVersion").is_empty() {
        errors.push(FieldError::required(format!("{path}.apiVersion"), ""));
        return;
    }
    let at = format!("{path}.fieldPath");
    if field.is_empty() {
        errors.push(FieldError::required(at, ""));
        return;
    }
    if let Some((base, key)) = field.strip_suffix("']").and_then(|f| f.split_once("['")) {
        match base {
            "metadata.annotations" => errors.problems(&at, key, qualified_name_problems(&key.to_lowercase())),
            "metadata.labels" => errors.problems(&at, key, qualified_name_problems(key)),
            _ => errors.push(FieldError::invalid(
                at,
                &field.into(),
                "does not support subscript",
            )),
        }
        return;
    }
    // What the pod has but this place cannot show differs from what the pod does not have.
    let known = ENV_FIELDS.contains(&field)
        || matches!(
            field,
            "metadata.labels"
                | "metadata.annotations"
                | "spec.restartPolicy"
                | "spec.schedulerName"
                | "status.phase"
        );
    if !known {
        let detail = format!("error converting fieldPath: field label not supported: {field}");
        errors.push(FieldError::invalid(at, &field.into(), detail));
    } else {
        errors.one_of(&at, field, supported);
    }
}

/// A `resourceFieldRef`.
pub(super) fn resource_ref(reference: &Value, path: &str, errors: &mut ErrorList) {
    let resource = text(reference, "/resource");
    if resource.is_empty() {
        errors.push(FieldError::required(format!("{path}.resource"), ""));
    } else if !resource.starts_with("limits.hugepages-") && !resource.starts_with("requests.hugepages-") {
        errors.one_of(&format!("{path}.resource"), resource, &CONTAINER_RESOURCES);
    }
}

fn mounts(container: &Object, path: &str, volumes: &[&Value], errors: &mut ErrorList) {
    let all = items(container, "volumeMounts");
    let devices = items(container, "volumeDevices");
    let any =
        |others: &[Value], field: &str, value: &str| others.iter().any(|other| text(other, field) == value);
    let mut paths: Vec<&str> = Vec::new();
    // Upstream leaves the index out of some paths.
    let list_path = format!("{path}.volumeMounts");
    for (i, mount) in all.iter().enumerate() {
        let path = format!("{list_path}[{i}]");
        let name = text(mount, "/name");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        } else if !volumes.iter().any(|volume| text(volume, "/name") == name) {
            errors.push(FieldError::not_found(format!("{path}.name"), name));
        }
        let target = text(mount, "/mountPath");
        if target.is_empty() {
            errors.push(FieldError::required(format!("{path}.mountPath"), ""));
        } else if paths.contains(&target) {
            errors.push(FieldError::invalid(
                format!("{path}.mountPath"),
                &target.into(),
                "must be unique",
            ));
        }
        paths.push(target);
        if any(devices, "/name", name) {
            errors.invalid(
                format!("{path}.name"),
                name,
                "must not already exist in volumeDevices",
            );
        }
        if any(devices, "/devicePath", target) {
            let detail = "must not already exist as a path in volumeDevices";
            errors.invalid(format!("{path}.mountPath"), target, detail);
        }
        for field in ["subPath", "subPathExpr"] {
            relative_path(
                text(mount, &format!("/{field}")),
                &format!("{list_path}.{field}"),
                errors,
            );
        }
        if !text(mount, "/subPath").is_empty() && !text(mount, "/subPathExpr").is_empty() {
            let value = Value::from(text(mount, "/subPathExpr"));
            errors.push(FieldError::invalid(
                format!("{path}.subPathExpr"),
                &value,
                "subPathExpr and subPath are mutually exclusive",
            ));
        }
        propagation(container, mount, &list_path, errors);
    }
    block_devices(container, &format!("{path}.volumeDevices"), volumes, errors);
}

/// How mounts below a mount show on the other side, and whether they can be written to.
fn propagation(container: &Object, mount: &Value, path: &str, errors: &mut ErrorList) {
    let given = mount.get("mountPropagation").and_then(Value::as_str);
    if let Some(mode) = given {
        let at = format!("{path}.mountPropagation");
        errors.one_of(&at, mode, &["Bidirectional", "HostToContainer", "None"]);
        let privileged = container
            .get("securityContext")
            .is_some_and(|context| is_true(context, "/privileged"));
        if mode == "Bidirectional" && !privileged {
            let detail = "Bidirectional mount propagation is available only to privileged containers";
            errors.forbidden(at, detail);
        }
    }
    let at = format!("{path}.recursiveReadOnly");
    match mount.get("recursiveReadOnly").and_then(Value::as_str) {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if !is_true(mount, "/readOnly") {
                errors.forbidden(at.clone(), "may only be specified when readOnly is true");
            }
            if given.is_some_and(|mode| mode != "None") {
                let detail = "may only be specified when mountPropagation is None or not specified";
                errors.forbidden(at, detail);
            }
        }
        Some(other) => errors.one_of(&at, other, &["Disabled", "Enabled", "IfPossible"]),
    }
}

/// Volumes that are handed over as devices.
fn block_devices(container: &Object, path: &str, volumes: &[&Value], errors: &mut ErrorList) {
    let mounts = items(container, "volumeMounts");
    let any = |field: &str, value: &str| mounts.iter().any(|mount| text(mount, field) == value);
    let (mut names, mut paths): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    for (i, device) in items(container, "volumeDevices").iter().enumerate() {
        let (name, target) = (text(device, "/name"), text(device, "/devicePath"));
        let (at, path) = (format!("{path}[{i}].name"), format!("{path}[{i}].devicePath"));
        if name.is_empty() {
            errors.required(at.clone(), "");
        }
        if names.contains(&name) {
            errors.invalid(at.clone(), name, "must be unique");
        }
        match volumes.iter().find(|volume| text(volume, "/name") == name) {
            None => errors.push(FieldError::not_found(at.clone(), name)),
            Some(volume)
                if volume.get("persistentVolumeClaim").is_none() && volume.get("ephemeral").is_none() =>
            {
                let detail =
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.invalid(at.clone(), name, detail);
            }
            Some(_) => {}
        }
        if target.is_empty() {
            errors.required(path.clone(), "");
        }
        if paths.contains(&target) {
            errors.invalid(path.clone(), target, "must be unique");
        }
        if target.split('/').any(|part| part == "..") {
            errors.invalid(path.clone(), target, "can not contain backsteps ('..')");
        } else {
            paths.push(target);
        }
        if any("/name", name) {
            errors.invalid(at, name, "must not already exist in volumeMounts");
        }
        if any("/mountPath", target) {
            errors.invalid(path, target, "must not already exist as a path in volumeMounts");
        }
        names.push(name);
    }
}

/// A path below a volume.
pub(super) fn relative_path(text: &str, path: &str, errors: &mut ErrorList) {
    if text.starts_with('/') {
        errors.push(FieldError::invalid(path, &text.into(), "must be a relative path"));
    }
    if text.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(path, &text.into(), "must not contain '..'"));
    }
}

fn validate_probe(probe: &Value, path: &str, only_once: bool, errors: &mut ErrorList) {
    handler(probe, path, &["exec", "httpGet", "tcpSocket", "grpc"], errors);
    for field in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        errors.non_negative(
            &format!("{path}.{field}"),
            int(probe, &format!("/{field}")).unwrap_or(0),
        );
    }
    let successes = int(probe, "/successThreshold").unwrap_or(1);
    if only_once && successes != 1 {
        errors.push(FieldError::invalid(
            format!("{path}.successThreshold"),
            &successes.into(),
            "must be 1",
        ));
    }
    if let Some(grace) = int(probe, "/terminationGracePeriodSeconds").filter(|g| *g <= 0) {
        let detail = "must be greater than 0";
        errors.push(FieldError::invalid(
            format!("{path}.terminationGracePeriodSeconds"),
            &grace.into(),
            detail,
        ));
    }
}

fn handler(value: &Value, path: &str, kinds: &[&str], errors: &mut ErrorList) {
    let mut given = 0;
    for kind in kinds {
        let Some(handler) = value.get(kind) else { continue };
        given += 1;
        let path = format!("{path}.{kind}");
        if given > 1 {
            errors.push(FieldError::forbidden(
                path,
                "may not specify more than 1 handler type",
            ));
            continue;
        }
        match *kind {
            "exec" if list(handler, "/command").is_empty() => {
                errors.push(FieldError::required(format!("{path}.command"), ""));
            }
            "httpGet" => {
                if text(handler, "/path").is_empty() {
                    errors.push(FieldError::required(format!("{path}.path"), ""));
                }
                port_or_name(handler.get("port"), &format!("{path}.port"), errors);
                errors.one_of(&format!("{path}.scheme"), text(handler, "/scheme"), &SCHEMES);
                for header in list(handler, "/httpHeaders") {
                    let name = text(header, "/name");
                    errors.problems(&format!("{path}.httpHeaders"), name, header_name_problems(name));
                }
            }
            "tcpSocket" | "grpc" => port_or_name(handler.get("port"), &format!("{path}.port"), errors),
            _ => {}
        }
    }
    if given == 0 {
        errors.push(FieldError::required(path, "must specify a handler type"));
    }
}

/// A port number or a port's name.
pub(crate) fn port_or_name(port: Option<&Value>, path: &str, errors: &mut ErrorList) {
    match port {
        Some(Value::String(name)) => errors.problems(path, name, port_name_problems(name)),
        Some(value) => errors.in_range(path, value.as_i64().unwrap_or(0), 1, 65_535),
        None => errors.in_range(path, 0, 1, 65_535),
    }
}

fn string<'a>(container: &'a Object, field: &str) -> &'a str {
    container.get(field).and_then(Value::as_str).unwrap_or("")
}

fn items<'a>(container: &'a Object, field: &str) -> &'a [Value] {
    container
        .get(field)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

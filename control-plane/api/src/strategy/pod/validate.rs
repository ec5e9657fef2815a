//! Checks of pods and pod templates.

mod annotations;
mod container;
mod resources;
mod scheduling;
mod security;
mod status;
mod system;
mod update;
mod volume;

use crate::meta::{self, validate_annotations, validate_labels};
use crate::strategy::access::{int, is_true, list, map, text};
use crate::strategy::quantities;
use crate::validation::net::ip;
use crate::validation::text::{label_problems, subdomain_problems};
use crate::validation::{ErrorList, FieldError};
use serde_json::Value;

use annotations::{made_claims, pod_annotations, profiles_match};
pub(crate) use container::port_or_name;
pub(crate) use scheduling::{label_selector, node_selector, requirement_values, tolerations};
pub(crate) use security::is_app_armor_profile;
pub(crate) use status::pod_status;
pub(crate) use update::{ephemeral_update, pod_update, resize};

const RESTART_POLICIES: [&str; 3] = ["Always", "OnFailure", "Never"];
const DNS_POLICIES: [&str; 4] = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
const MAX_NAMESERVERS: usize = 3;

/// A new pod.
pub(crate) fn pod(obj: &Value, errors: &mut ErrorList) {
    let annotations = meta::annotations(obj);
    pod_annotations(annotations, None, &obj["spec"], "metadata.annotations", errors);
    spec(obj.get("spec").unwrap_or(&Value::Null), "spec", errors);
    made_claims(obj, errors);
    volume::images(list(obj, "/spec/volumes"), "spec.volumes", errors);
    if !list(obj, "/spec/ephemeralContainers").is_empty() {
        errors.forbidden("spec.ephemeralContainers", "cannot be set on create");
    }
    if !list(obj, "/spec/schedulingGates").is_empty() && !text(obj, "/spec/nodeName").is_empty() {
        let detail = "cannot be set until all schedulingGates have been cleared";
        errors.forbidden("spec.nodeName", detail);
    }
    profiles_match(annotations, &obj["spec"], "spec", errors);
}

/// A pod template: its labels and its spec.
pub(crate) fn template(template: Option<&Value>, path: &str, errors: &mut ErrorList) {
    let template = template.unwrap_or(&Value::Null);
    validate_labels(
        map(template, "/metadata/labels"),
        &format!("{path}.labels"),
        errors,
    );
    let annotations = map(template, "/metadata/annotations");
    let at = format!("{path}.annotations");
    validate_annotations(annotations, &at, errors);
    pod_annotations(annotations, None, &template["spec"], &at, errors);
    spec(
        template.get("spec").unwrap_or(&Value::Null),
        &format!("{path}.spec"),
        errors,
    );
    profiles_match(annotations, &template["spec"], &format!("{path}.spec"), errors);
    if !list(template, "/spec/ephemeralContainers").is_empty() {
        errors.push(FieldError::forbidden(
            format!("{path}.spec.ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        ));
    }
}

/// A pod spec.
pub(crate) fn spec(spec: &Value, path: &str, errors: &mut ErrorList) {
    volume::volumes(list(spec, "/volumes"), &format!("{path}.volumes"), errors);
    let claims = resources::claims(spec, path, errors);
    let volumes: Vec<&Value> = list(spec, "/volumes").iter().collect();
    container::containers(spec, path, &volumes, errors);
    for (at, container) in crate::strategy::pod::all_containers(spec) {
        if let Some(resources) = container.get("resources") {
            quantities::claims(resources, &claims, &format!("{path}.{at}.resources"), errors);
        }
    }

    let policy = text(spec, "/restartPolicy");
    if policy.is_empty() {
        errors.push(FieldError::required(format!("{path}.restartPolicy"), ""));
    } else {
        errors.one_of(&format!("{path}.restartPolicy"), policy, &RESTART_POLICIES);
    }
    dns(spec, path, errors);
    if let Some(seconds) = int(spec, "/activeDeadlineSeconds") {
        errors.in_range(
            &format!("{path}.activeDeadlineSeconds"),
            seconds,
            1,
            i64::from(i32::MAX),
        );
    }
    for (field, problems) in [
        (
            "serviceAccountName",
            subdomain_problems as fn(&str) -> Vec<String>,
        ),
        ("nodeName", subdomain_problems),
        ("priorityClassName", subdomain_problems),
        ("runtimeClassName", subdomain_problems),
        ("hostname", label_problems),
        ("subdomain", label_problems),
    ] {
        let value = text(spec, &format!("/{field}"));
        if !value.is_empty() {
            errors.problems(&format!("{path}.{field}"), value, problems(value));
        }
    }
    security::pod(spec, &format!("{path}.securityContext"), errors);
    for (i, alias) in list(spec, "/hostAliases").iter().enumerate() {
        ip(text(alias, "/ip"), &format!("{path}.hostAliases[{i}].ip"), errors);
        for (j, name) in list(alias, "/hostnames").iter().enumerate() {
            let name = name.as_str().unwrap_or("");
            errors.problems(
                &format!("{path}.hostAliases[{i}].hostnames[{j}]"),
                name,
                subdomain_problems(name),
            );
        }
    }
    scheduling::scheduling(spec, path, errors);
    if spec.get("hostUsers") == Some(&Value::Bool(false)) {
        for (field, shown) in [
            ("hostNetwork", "hostNetwork"),
            ("hostPID", "HostPID"),
            ("hostIPC", "HostIPC"),
        ] {
            if is_true(spec, &format!("/{field}")) {
                errors.forbidden(format!("{path}.{shown}"), "when `hostUsers` is false");
            }
        }
    }
    resources::of_pod(spec, path, errors);
    resources::others(spec, path, errors);
    system::system(spec, path, errors);
}

fn dns(spec: &Value, path: &str, errors: &mut ErrorList) {
    let policy = text(spec, "/dnsPolicy");
    if policy.is_empty() {
        errors.push(FieldError::required(format!("{path}.dnsPolicy"), ""));
    } else {
        errors.one_of(&format!("{path}.dnsPolicy"), policy, &DNS_POLICIES);
    }
    let servers = list(spec, "/dnsConfig/nameservers");
    let servers_path = format!("{path}.dnsConfig.nameservers");
    if policy == "None" && servers.is_empty() {
        let detail = format!("must provide at least one DNS nameserver when `dnsPolicy` is {policy}");
        errors.push(FieldError::required(servers_path, detail));
        return;
    }
    if servers.len() > MAX_NAMESERVERS {
        let detail = format!("must not have more than {MAX_NAMESERVERS} nameservers");
        errors.push(FieldError::invalid(
            servers_path.clone(),
            &Value::from(servers.to_vec()),
            detail,
        ));
    }
    for (i, server) in servers.iter().enumerate() {
        ip(
            server.as_str().unwrap_or(""),
            &format!("{servers_path}[{i}]"),
            errors,
        );
    }
    resources::resolver(spec, path, errors);
}

#[cfg(test)]
mod tests;

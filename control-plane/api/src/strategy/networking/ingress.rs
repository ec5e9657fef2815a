//! Checks of Ingresses and IngressClasses.

use crate::meta;
use crate::strategy::access::{int, list, text};
use crate::validation::net::ip;
use crate::validation::text::{
    domain_prefixed_path_problems, label_1035_problems, label_problems, path_segment_problems,
    port_name_problems, subdomain_problems, wildcard_subdomain_problems,
};
use crate::validation::{ErrorList, FieldError};
use serde_json::Value;
use std::net::IpAddr;

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
/// Longest name of an ingress controller, in bytes.
const MAX_CONTROLLER: usize = 250;
const PATH_TYPES: [&str; 3] = ["Exact", "ImplementationSpecific", "Prefix"];

/// A new Ingress: the old annotation and the new field must agree.
pub(super) fn create(obj: &Value, errors: &mut ErrorList) {
    ingress(obj, Allowed::default(), errors);
    if let (Some(old), Some(new)) = (annotated_class(obj), obj.pointer("/spec/ingressClassName"))
        && new != old
    {
        let detail = "must match `ingressClassName` when both are specified";
        errors.invalid(format!("annotations.{CLASS_ANNOTATION}"), old, detail);
    }
}

fn annotated_class(obj: &Value) -> Option<&str> {
    meta::annotations(obj)?.get(CLASS_ANNOTATION)?.as_str()
}

/// What users are told besides.
pub(super) fn warnings(obj: &Value, _: Option<&Value>) -> Vec<String> {
    let old = annotated_class(obj).is_some() && obj.pointer("/spec/ingressClassName").is_none();
    let text = "annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead";
    old.then(|| text.to_string()).into_iter().collect()
}

/// What an Ingress may keep because the old one has it.
#[derive(Clone, Copy, Default)]
struct Allowed {
    /// Names of Secrets that no Secret can have.
    secrets: bool,
    /// Rules of wildcard hosts that say nothing useful.
    wildcard_rules: bool,
    /// Names of Services that begin with a digit.
    services: bool,
}

impl Allowed {
    fn by(old: &Value) -> Allowed {
        let secret = |tls: &Value| {
            let name = text(tls, "/secretName");
            !name.is_empty() && !subdomain_problems(name).is_empty()
        };
        let wildcard = |rule: &Value| {
            let mut errors = ErrorList::new();
            http(rule, Allowed::default(), "", &mut errors);
            text(rule, "/host").contains('*') && !errors.is_empty()
        };
        let rules = list(old, "/spec/rules");
        let paths = rules.iter().flat_map(|rule| list(rule, "/http/paths"));
        let mut backends = paths
            .filter_map(|path| path.get("backend"))
            .chain(old.pointer("/spec/defaultBackend"));
        Allowed {
            secrets: list(old, "/spec/tls").iter().any(secret),
            wildcard_rules: rules.iter().any(wildcard),
            services: backends.any(|backend| {
                let name = text(backend, "/service/name");
                label_problems(name).is_empty() && !label_1035_problems(name).is_empty()
            }),
        }
    }
}

/// An updated Ingress.
pub(super) fn update(new: &Value, old: &Value, errors: &mut ErrorList) {
    ingress(new, Allowed::by(old), errors);
}

fn ingress(obj: &Value, allowed: Allowed, errors: &mut ErrorList) {
    let rules = list(obj, "/spec/rules");
    match obj.pointer("/spec/defaultBackend") {
        None if rules.is_empty() => {
            let detail = "either `defaultBackend` or `rules` must be specified";
            errors.invalid("spec", Value::Null, detail);
        }
        None => {}
        Some(of) => backend(of, allowed, "spec.defaultBackend", errors),
    }
    for (i, rule) in rules.iter().enumerate() {
        let path = format!("spec.rules[{i}]");
        let name = text(rule, "/host");
        host(name, &format!("{path}.host"), errors);
        if !(allowed.wildcard_rules && name.contains('*')) {
            http(rule, allowed, &format!("{path}.http.paths"), errors);
        }
    }
    for (i, tls) in list(obj, "/spec/tls").iter().enumerate() {
        let path = format!("spec.tls[{i}]");
        for (j, host) in list(tls, "/hosts").iter().enumerate() {
            let host = host.as_str().unwrap_or("");
            errors.problems(&format!("{path}.hosts[{j}]"), host, host_problems(host));
        }
        let secret = text(tls, "/secretName");
        if !secret.is_empty() && !allowed.secrets {
            errors.problems(&format!("{path}.secretName"), secret, subdomain_problems(secret));
        }
    }
    if let Some(class) = obj.pointer("/spec/ingressClassName").and_then(Value::as_str) {
        errors.problems("spec.ingressClassName", class, subdomain_problems(class));
    }
}

fn host_problems(host: &str) -> Vec<String> {
    if host.contains('*') {
        wildcard_subdomain_problems(host)
    } else {
        subdomain_problems(host)
    }
}

fn host(host: &str, path: &str, errors: &mut ErrorList) {
    if host.is_empty() {
        return;
    }
    if host.parse::<IpAddr>().is_ok() {
        errors.invalid(path, host, "must be a DNS name, not an IP address");
    }
    errors.problems(path, host, host_problems(host));
}

/// What a rule says of HTTP; `path` is that of its paths.
fn http(rule: &Value, allowed: Allowed, path: &str, errors: &mut ErrorList) {
    let Some(http) = rule.get("http") else { return };
    let paths = list(http, "/paths");
    if paths.is_empty() {
        errors.required(path, "");
    }
    for (i, of) in paths.iter().enumerate() {
        http_path(of, allowed, &format!("{path}[{i}]"), errors);
    }
}

fn http_path(item: &Value, allowed: Allowed, path: &str, errors: &mut ErrorList) {
    let kind = text(item, "/pathType");
    if item.get("pathType").is_none() {
        errors.required(format!("{path}.pathType"), "pathType must be specified");
        return;
    }
    let (target, at) = (text(item, "/path"), format!("{path}.path"));
    let must_be_absolute = kind != "ImplementationSpecific" || !target.is_empty();
    if !PATH_TYPES.contains(&kind) {
        errors.one_of(&format!("{path}.pathType"), kind, &PATH_TYPES);
    } else if must_be_absolute && !target.starts_with('/') {
        errors.invalid(at.clone(), target, "must be an absolute path");
    }
    if matches!(kind, "Exact" | "Prefix") {
        for sequence in ["//", "/./", "/../", "%2f", "%2F"] {
            if target.contains(sequence) {
                errors.invalid(at.clone(), target, format!("must not contain '{sequence}'"));
            }
        }
        for suffix in ["/..", "/."] {
            if target.ends_with(suffix) {
                errors.invalid(at.clone(), target, format!("cannot end with '{suffix}'"));
            }
        }
    }
    backend(
        item.get("backend").unwrap_or(&Value::Null),
        allowed,
        &format!("{path}.backend"),
        errors,
    );
}

fn backend(backend: &Value, allowed: Allowed, path: &str, errors: &mut ErrorList) {
    match (backend.get("service"), backend.get("resource")) {
        (Some(_), Some(_)) => {
            errors.invalid(path, "", "cannot set both resource and service backends");
        }
        (None, None) => errors.invalid(path, "", "resource or service backend is required"),
        (None, Some(resource)) => typed_reference(resource, &format!("{path}.resource"), errors),
        (Some(service), None) => {
            let name = text(service, "/name");
            let at = format!("{path}.service.name");
            if errors.present(&at, name) {
                let problems = match allowed.services {
                    true => label_problems(name),
                    false => label_1035_problems(name),
                };
                errors.problems(&at, name, problems);
            }
            let number = int(service, "/port/number").unwrap_or(0);
            let at = format!("{path}.service.port");
            match (text(service, "/port/name"), number) {
                ("", 0) => errors.required(path, "port name or number is required"),
                ("", number) => errors.in_range(&format!("{at}.number"), number, 1, 65_535),
                (name, 0) => errors.problems(&format!("{at}.name"), name, port_name_problems(name)),
                (_, _) => errors.invalid(path, "", "cannot set both port name & port number"),
            }
        }
    }
}

/// A reference within the namespace to a thing of any kind.
fn typed_reference(reference: &Value, path: &str, errors: &mut ErrorList) {
    if let Some(group) = reference.get("apiGroup").and_then(Value::as_str) {
        errors.problems(&format!("{path}.apiGroup"), group, subdomain_problems(group));
    }
    for field in ["kind", "name"] {
        let (value, at) = (text(reference, &format!("/{field}")), format!("{path}.{field}"));
        if errors.present(&at, value) {
            errors.problems(&at, value, path_segment_problems(value));
        }
    }
}

/// The addresses that a controller reports.
pub(super) fn status(obj: &Value, errors: &mut ErrorList) {
    for (i, entry) in list(obj, "/status/loadBalancer/ingress").iter().enumerate() {
        let path = format!("status.loadBalancer.ingress[{i}]");
        let address = text(entry, "/ip");
        if !address.is_empty() {
            ip(address, &format!("{path}.ip"), errors);
        }
        let (name, at) = (text(entry, "/hostname"), format!("{path}.hostname"));
        if !name.is_empty() {
            errors.problems(&at, name, subdomain_problems(name));
            if name.parse::<IpAddr>().is_ok() {
                errors.invalid(at, name, "must be a DNS name, not an IP address");
            }
        }
    }
}

/// An IngressClass.
pub(super) fn class(obj: &Value, errors: &mut ErrorList) {
    let controller = text(obj, "/spec/controller");
    if errors.present("spec.controller", controller) {
        if controller.len() > MAX_CONTROLLER {
            errors.push(FieldError::too_long("spec.controller", MAX_CONTROLLER));
        }
        for (of, problem) in domain_prefixed_path_problems(controller) {
            errors.invalid("spec.controller", of, problem);
        }
    }
    let Some(parameters) = obj.pointer("/spec/parameters") else {
        return;
    };
    let path = "spec.parameters";
    typed_reference(parameters, path, errors);
    let scope = text(parameters, "/scope");
    let namespace = parameters.get("namespace").and_then(Value::as_str);
    let at = format!("{path}.namespace");
    match (scope, namespace) {
        ("", _) => errors.required(format!("{path}.scope"), ""),
        ("Namespace", None) => errors.required(at, "`parameters.scope` is set to 'Namespace'"),
        ("Namespace", Some(name)) => errors.problems(&at, name, label_problems(name)),
        ("Cluster", Some(_)) => errors.forbidden(at, "`parameters.scope` is set to 'Cluster'"),
        ("Cluster", None) => {}
        (other, _) => errors.one_of(&format!("{path}.scope"), other, &["Cluster", "Namespace"]),
    }
}

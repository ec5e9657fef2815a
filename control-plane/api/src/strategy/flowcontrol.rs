//! FlowSchemas and PriorityLevelConfigurations.

use super::access::{child, ensure, int, list, set, set_nonzero, text};
use super::kind::Kind;
use super::{prepare_for_status_update_alone, reset_metadata_too};
use crate::meta;
use crate::validation::ErrorList;
use crate::validation::text::{label_problems, subdomain_problems};
use serde_json::{Value, json};

const SPEC: &[&str] = &["spec"];
const MAX_PRECEDENCE: i64 = 10_000;
const MAX_QUEUES: i64 = 10_000_000;
/// Bits of the hash that deals hands of queues.
const HASH_BITS: u32 = 60;
const VERBS: [&str; 9] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "proxy",
    "update",
    "watch",
];

/// FlowSchemas.
pub(super) static FLOW_SCHEMA: Kind = Kind::cluster("io.k8s.api.flowcontrol.v1.FlowSchema")
    .conditional_update()
    .status()
    .generation(SPEC)
    .defaults(|obj| set_nonzero(ensure(obj, "spec"), "matchingPrecedence", 1000))
    .prepares_status(prepare_for_status_update_alone)
    .resets(reset_metadata_too)
    .validates(flow_schema)
    .validates_status(|new, _, errors| conditions(new, errors));

/// PriorityLevelConfigurations.
pub(super) static PRIORITY_LEVEL: Kind =
    Kind::cluster("io.k8s.api.flowcontrol.v1.PriorityLevelConfiguration")
        .conditional_update()
        .status()
        .generation(SPEC)
        .defaults(|obj| {
            let spec = ensure(obj, "spec");
            if let Some(exempt) = child(spec, "exempt") {
                set(exempt, "nominalConcurrencyShares", 0);
                set(exempt, "lendablePercent", 0);
            }
            if let Some(limited) = child(spec, "limited") {
                set(limited, "nominalConcurrencyShares", 30);
                set(limited, "lendablePercent", 0);
                if let Some(queuing) = child(limited, "limitResponse").and_then(|r| child(r, "queuing")) {
                    set_nonzero(queuing, "handSize", 8);
                    set_nonzero(queuing, "queues", 64);
                    set_nonzero(queuing, "queueLengthLimit", 50);
                }
            }
        })
        .prepares_status(prepare_for_status_update_alone)
        .resets(reset_metadata_too)
        .validates(priority_level)
        .validates_status(|new, _, errors| conditions(new, errors));

fn conditions(obj: &Value, errors: &mut ErrorList) {
    let conditions = list(obj, "/status/conditions");
    for (i, condition) in conditions.iter().enumerate() {
        let (path, kind) = (format!("status.conditions[{i}].type"), text(condition, "/type"));
        if conditions[..i].iter().any(|other| text(other, "/type") == kind) {
            errors.duplicate(path.clone(), kind);
        }
        if kind.is_empty() {
            errors.required(path, "must not be empty");
        }
    }
}

/// The schemas and levels that always exist are what they are.
fn fixed(obj: &Value, mandatory: &[(&str, Value)], errors: &mut ErrorList) {
    let name = meta::name(obj);
    let wanted = mandatory.iter().find(|(mandatory, _)| *mandatory == name);
    if wanted.is_some_and(|(_, spec)| obj["spec"] != *spec) {
        let detail = format!("spec of '{name}' must equal the fixed value");
        errors.invalid("spec", obj["spec"].clone(), detail);
    }
}

fn flow_schema(obj: &Value, errors: &mut ErrorList) {
    let spec = &obj["spec"];
    let (precedence, path) = (
        int(spec, "/matchingPrecedence").unwrap_or(0),
        "spec.matchingPrecedence",
    );
    if precedence <= 0 {
        errors.invalid(path, precedence, "must be a positive value");
    }
    if precedence > MAX_PRECEDENCE {
        errors.invalid(
            path,
            precedence,
            format!("must not be greater than {MAX_PRECEDENCE}"),
        );
    }
    if precedence == 1 && meta::name(obj) != "exempt" {
        let detail = "only the schema named 'exempt' may have matchingPrecedence 1";
        errors.invalid(path, precedence, detail);
    }
    if let Some(method) = spec.get("distinguisherMethod") {
        let kind = text(method, "/type");
        errors.one_of("spec.distinguisherMethod.type", kind, &["ByNamespace", "ByUser"]);
    }
    let level = text(spec, "/priorityLevelConfiguration/name");
    let path = "spec.priorityLevelConfiguration.name";
    if level.is_empty() {
        errors.required(path, "must reference a priority level");
    } else {
        errors.problems(path, level, subdomain_problems(level));
    }
    for (i, of) in list(spec, "/rules").iter().enumerate() {
        rule(of, &format!("spec.rules[{i}]"), errors);
    }
    let everyone = |group: &str| json!({"kind": "Group", "group": {"name": group}});
    let everything = |subjects: Value| {
        json!([{"subjects": subjects,
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}])
    };
    let mandatory = [
        (
            "exempt",
            json!({"priorityLevelConfiguration": {"name": "exempt"}, "matchingPrecedence": 1,
                "rules": everything(json!([everyone("system:masters")]))}),
        ),
        (
            "catch-all",
            json!({"priorityLevelConfiguration": {"name": "catch-all"}, "matchingPrecedence": MAX_PRECEDENCE,
                "distinguisherMethod": {"type": "ByUser"},
                "rules": everything(json!([everyone("system:unauthenticated"), everyone("system:authenticated")]))}),
        ),
    ];
    fixed(obj, &mandatory, errors);
    conditions(obj, errors);
}

fn rule(rule: &Value, path: &str, errors: &mut ErrorList) {
    let subjects = list(rule, "/subjects");
    if subjects.is_empty() {
        errors.required(
            format!("{path}.subjects"),
            "subjects must contain at least one value",
        );
    }
    for (i, of) in subjects.iter().enumerate() {
        subject(of, &format!("{path}.subjects[{i}]"), errors);
    }
    let (resources, others) = (list(rule, "/resourceRules"), list(rule, "/nonResourceRules"));
    if resources.is_empty() && others.is_empty() {
        let detail = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.required(path, detail);
    }
    for (i, of) in resources.iter().enumerate() {
        resource_rule(of, &format!("{path}.resourceRules[{i}]"), errors);
    }
    for (i, of) in others.iter().enumerate() {
        let path = format!("{path}.nonResourceRules[{i}]");
        verbs(of, &path, errors);
        let at = format!("{path}.nonResourceURLs");
        let urls = list(of, "/nonResourceURLs");
        let missing = "nonResourceURLs must contain at least one value";
        if alone(urls, &at, missing, "other non-resource URLs", errors) {
            for (j, url) in urls.iter().enumerate() {
                let url = url.as_str().unwrap_or("");
                if let Some(problem) = url_problem(url) {
                    errors.invalid(format!("{at}[{j}]"), url, problem);
                }
            }
        }
    }
}

/// Whether the values are to be judged one by one: there are some, and none is `*`.
fn alone(values: &[Value], path: &str, missing: &str, others: &str, errors: &mut ErrorList) -> bool {
    let wildcard = values.iter().any(|v| v == "*");
    if values.is_empty() {
        errors.required(path, missing);
    } else if wildcard && values.len() > 1 {
        let detail = format!("if '*' is present, must not specify {others}");
        errors.invalid(path, values.to_vec(), detail);
    }
    !values.is_empty() && !wildcard
}

fn verbs(rule: &Value, path: &str, errors: &mut ErrorList) {
    let (path, verbs) = (format!("{path}.verbs"), list(rule, "/verbs"));
    let known = |v: &Value| v.as_str().is_some_and(|v| VERBS.contains(&v));
    let missing = "verbs must contain at least one value";
    if alone(verbs, &path, missing, "other verbs", errors) && !verbs.iter().all(known) {
        let mut error = crate::validation::FieldError::not_supported(path, "", &VERBS);
        error.bad_value = Value::from(verbs.to_vec()).to_string();
        errors.push(error);
    }
}

fn resource_rule(rule: &Value, path: &str, errors: &mut ErrorList) {
    verbs(rule, path, errors);
    let at = |field: &str| format!("{path}.{field}");
    let missing = "resource rules must supply at least one api group";
    alone(
        list(rule, "/apiGroups"),
        &at("apiGroups"),
        missing,
        "other api groups",
        errors,
    );
    let missing = "resource rules must supply at least one resource";
    alone(
        list(rule, "/resources"),
        &at("resources"),
        missing,
        "other resources",
        errors,
    );
    let namespaces = list(rule, "/namespaces");
    if namespaces.is_empty() && rule["clusterScope"] == true {
        return;
    }
    let missing = "resource rules that are not cluster scoped must supply at least one namespace";
    if alone(namespaces, &at("namespaces"), missing, "other namespaces", errors) {
        for (i, namespace) in namespaces.iter().enumerate() {
            let namespace = namespace.as_str().unwrap_or("");
            for problem in label_problems(namespace) {
                let detail = format!("each member of this list must be '*' or a DNS-1123 label; {problem}");
                errors.invalid(format!("{}[{i}]", at("namespaces")), namespace, detail);
            }
        }
    }
}

fn subject(subject: &Value, path: &str, errors: &mut ErrorList) {
    const KINDS: [(&str, &str); 3] = [
        ("ServiceAccount", "serviceAccount"),
        ("User", "user"),
        ("Group", "group"),
    ];
    let kind = text(subject, "/kind");
    if !KINDS.iter().any(|(known, _)| *known == kind) {
        let supported = ["Group", "ServiceAccount", "User"];
        errors.one_of(&format!("{path}.kind"), kind, &supported);
        return;
    }
    for (of, field) in KINDS {
        let at = format!("{path}.{field}");
        match subject.get(field) {
            None if of == kind => {
                errors.required(at, format!("{field} is required when subject kind is '{of}'"));
            }
            Some(_) if of != kind => {
                errors.forbidden(
                    at,
                    format!("{field} is forbidden when subject kind is not '{of}'"),
                );
            }
            Some(who) => {
                let name = text(who, "/name");
                errors.present(&format!("{at}.name"), name);
                if field != "serviceAccount" {
                    continue;
                }
                if !matches!(name, "" | "*") {
                    errors.problems(&format!("{at}.name"), name, subdomain_problems(name));
                }
                let (namespace, at) = (text(who, "/namespace"), format!("{at}.namespace"));
                if namespace.is_empty() {
                    errors.required(at, "must specify namespace for service account");
                } else {
                    errors.problems(&at, namespace, label_problems(namespace));
                }
            }
            None => {}
        }
    }
}

fn url_problem(url: &str) -> Option<&'static str> {
    let stars = url.matches('*').count();
    match url {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !url.starts_with('/') => Some("must start with slash"),
        _ if url.contains(' ') => Some("must not contain white-space"),
        _ if url.contains("//") => Some("must not contain double slash"),
        _ if stars > 1 || stars == 1 && !url.ends_with("/*") => Some("wildcard can only do suffix matching"),
        _ => None,
    }
}

fn priority_level(obj: &Value, errors: &mut ErrorList) {
    let (name, spec) = (meta::name(obj), &obj["spec"]);
    let kind = text(spec, "/type");
    if (name == "exempt") != (kind == "Exempt") {
        let detail = "type must be 'Exempt' if and only if name is 'exempt'";
        errors.invalid("spec.type", kind, detail);
    }
    let (limited, exempt) = (spec.get("limited"), spec.get("exempt"));
    match kind {
        "Exempt" => {
            if limited.is_some() {
                errors.forbidden("spec.limited", "must be nil if the type is not Limited");
            }
            if let Some(exempt) = exempt {
                shares(exempt, "spec.exempt", errors);
            }
        }
        "Limited" => {
            if exempt.is_some() {
                errors.forbidden("spec.exempt", "must be nil if the type is Limited");
            }
            match limited {
                None => errors.required("spec.limited", "must not be empty when type is Limited"),
                Some(limited) => {
                    shares(limited, "spec.limited", errors);
                    let response = limited.get("limitResponse").unwrap_or(&Value::Null);
                    limit_response(response, "spec.limited.limitResponse", errors);
                }
            }
        }
        other => errors.one_of("spec.type", other, &["Exempt", "Limited"]),
    }
    if name == "catch-all" {
        let level = json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"}}});
        fixed(obj, &[("catch-all", level)], errors);
    }
    conditions(obj, errors);
}

fn shares(of: &Value, path: &str, errors: &mut ErrorList) {
    if let Some(shares) = int(of, "/nominalConcurrencyShares").filter(|s| *s < 0) {
        let detail = "must be a non-negative integer";
        errors.invalid(format!("{path}.nominalConcurrencyShares"), shares, detail);
    }
    if let Some(percent) = int(of, "/lendablePercent") {
        errors.in_range(&format!("{path}.lendablePercent"), percent, 0, 100);
    }
    if let Some(percent) = int(of, "/borrowingLimitPercent").filter(|p| *p < 0) {
        let detail = "if specified, must be a non-negative integer";
        errors.invalid(format!("{path}.borrowingLimitPercent"), percent, detail);
    }
}

fn limit_response(response: &Value, path: &str, errors: &mut ErrorList) {
    let at = format!("{path}.queuing");
    match (text(response, "/type"), response.get("queuing")) {
        ("Reject", Some(_)) => {
            errors.forbidden(at, "must be nil if limited.limitResponse.type is not Limited");
        }
        ("Reject", None) => {}
        ("Queue", None) => {
            errors.required(at, "must not be empty if limited.limitResponse.type is Limited");
        }
        ("Queue", Some(of)) => queuing(of, &at, errors),
        (other, _) => errors.one_of(&format!("{path}.type"), other, &["Queue", "Reject"]),
    }
}

fn queuing(queuing: &Value, path: &str, errors: &mut ErrorList) {
    let number = |field: &str| int(queuing, &format!("/{field}")).unwrap_or(0);
    let (length, queues, hand) = (number("queueLengthLimit"), number("queues"), number("handSize"));
    if length <= 0 {
        errors.invalid(format!("{path}.queueLengthLimit"), length, "must be positive");
    }
    let at = format!("{path}.queues");
    if queues <= 0 {
        errors.invalid(at, queues, "must be positive");
    } else if queues > MAX_QUEUES {
        errors.invalid(at, queues, format!("must not be greater than {MAX_QUEUES}"));
    }
    let at = format!("{path}.handSize");
    if hand <= 0 {
        errors.invalid(at, hand, "must be positive");
    } else if hand > queues {
        let detail = format!("should not be greater than queues ({queues})");
        errors.invalid(at, hand, detail);
    } else if entropy_bits(queues, hand) > HASH_BITS {
        let detail = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS}"
        );
        errors.invalid(at, hand, detail);
    }
}

/// Bits that it takes to choose a hand from a deck, card by card.
fn entropy_bits(deck: i64, hand: i64) -> u32 {
    let bits: f64 = (0..hand.min(i64::from(HASH_BITS) + 1))
        .map(|dealt| ((deck - dealt) as f64).log2())
        .sum();
    bits.ceil() as u32
}

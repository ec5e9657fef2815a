//! Checks of CustomResourceDefinitions but for their schemas.

use super::schema;
use crate::meta;
use crate::strategy::access::{is_true, list, text};
use crate::strategy::admission::client_config;
use crate::validation::text::{label_1035_problems, subdomain_problems};
use crate::validation::{ErrorList, FieldError};
use serde_json::Value;

const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] = [
    "byte",
    "date",
    "date-time",
    "double",
    "float",
    "int32",
    "int64",
    "password",
];
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const MAX_SELECTABLE: usize = 8;
/// Says that a group of the community's was agreed on.
const APPROVAL: &str = "api-approved.kubernetes.io";
/// Longest warning, in bytes.
const MAX_WARNING: usize = 256;

/// A definition, new or updated.
pub(super) fn definition(obj: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let spec = &obj["spec"];
    let (group, plural) = (text(spec, "/group"), text(spec, "/names/plural"));
    if old.is_none() && meta::name(obj) != format!("{plural}.{group}") {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        errors.invalid("metadata.name", meta::name(obj), detail);
    }
    if errors.present("spec.group", group) {
        let problems = subdomain_problems(group);
        if !problems.is_empty() {
            errors.invalid("spec.group", group, problems.join(","));
        } else if !group.contains('.') {
            errors.invalid("spec.group", group, "should be a domain with at least one dot");
        }
    }
    let scope = text(spec, "/scope");
    if errors.present("spec.scope", scope) {
        errors.one_of("spec.scope", scope, &["Cluster", "Namespaced"]);
    }
    let of_versions = list(spec, "/versions");
    let shared = Shared::of(of_versions);
    versions(of_versions, shared, errors);
    for field in ["plural", "singular", "kind", "listKind"] {
        errors.present(
            &format!("spec.names.{field}"),
            text(spec, &format!("/names/{field}")),
        );
    }
    names(&spec["names"], "spec.names", errors);
    shared_parts(of_versions, shared, errors);
    let preserves = is_true(spec, "/preserveUnknownFields");
    let strategy = text(spec, "/conversion/strategy");
    if preserves && !strategy.is_empty() && strategy != "None" {
        let detail = "must be None if spec.preserveUnknownFields is true";
        errors.invalid("spec.conversion.strategy", strategy, detail);
    }
    conversion(&spec["conversion"], old, errors);
    if let Some(old) = old {
        unchanged(obj, old, errors);
    }
    status(obj, errors);
    stored_versions(obj, errors);
    approval(obj, old, errors);
    if preserves && !old.is_some_and(|old| is_true(old, "/spec/preserveUnknownFields")) {
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.invalid("spec.preserveUnknownFields", true, detail);
    }
}

/// The parts that all versions have alike: upstream keeps and checks them once, at the places that they had before each version
/// could have its own.
#[derive(Clone, Copy)]
struct Shared {
    schema: bool,
    subresources: bool,
    columns: bool,
    selectable: bool,
}

impl Shared {
    fn of(versions: &[Value]) -> Shared {
        let of = |version: &'_ Value, field: &str| version.get(field).filter(|v| !is_nothing(v)).cloned();
        let alike = |field| {
            versions
                .windows(2)
                .all(|pair| of(&pair[0], field) == of(&pair[1], field))
        };
        let schema = alike("schema");
        Shared {
            schema,
            subresources: alike("subresources"),
            columns: alike("additionalPrinterColumns"),
            selectable: schema && alike("selectableFields"),
        }
    }
}

fn is_nothing(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty)
}

fn has_status(version: &Value) -> bool {
    version.pointer("/subresources/status").is_some()
}

fn shared_parts(versions: &[Value], shared: Shared, errors: &mut ErrorList) {
    let Some(first) = versions.first() else { return };
    let schema = first.pointer("/schema/openAPIV3Schema");
    if let (true, Some(root)) = (shared.schema, schema) {
        let path = "spec.validation.openAPIV3Schema";
        schema::root(root, versions.iter().any(has_status), path, errors);
    }
    if shared.subresources {
        scale(first, "spec.subresources.scale", errors);
    }
    if shared.columns {
        columns(first, "spec.additionalPrinterColumns", errors);
    }
    if shared.selectable {
        let path = "spec.selectableFields";
        let some = !list(first, "/selectableFields").is_empty();
        if some && first.get("schema").is_none() {
            let detail = "selectableFields may only be set when validations.schema is included";
            errors.invalid(path, "", detail);
        } else if some {
            selectable_fields(first, path, errors);
        }
    }
}

/// What keys and clients hang on.
fn unchanged(new: &Value, old: &Value, errors: &mut ErrorList) {
    let established = list(old, "/status/conditions")
        .iter()
        .any(|c| text(c, "/type") == "Established" && text(c, "/status") == "True");
    for (pointer, path, always) in [
        ("/spec/scope", "spec.scope", false),
        ("/spec/names/kind", "spec.names.kind", false),
        ("/spec/group", "spec.group", true),
        ("/spec/names/plural", "spec.names.plural", true),
    ] {
        if established || always {
            errors.immutable(path, new.pointer(pointer), old.pointer(pointer));
        }
    }
}

fn versions(versions: &[Value], shared: Shared, errors: &mut ErrorList) {
    for (i, version) in versions.iter().enumerate() {
        if version.pointer("/schema/openAPIV3Schema").is_none() {
            let path = format!("spec.versions[{i}].schema.openAPIV3Schema");
            errors.required(path, "schemas are required");
        }
    }
    for (i, of) in versions.iter().enumerate() {
        version(of, shared, &format!("spec.versions[{i}]"), errors);
    }
    let same = |(i, version): (usize, &Value)| versions[..i].iter().any(|v| v["name"] == version["name"]);
    if versions.iter().enumerate().any(same) {
        errors.invalid(
            "spec.versions",
            versions.to_vec(),
            "must contain unique version names",
        );
    }
    if versions.iter().filter(|v| is_true(v, "/storage")).count() != 1 {
        let detail = "must have exactly one version marked as storage version";
        errors.invalid("spec.versions", versions.to_vec(), detail);
    }
}

fn version(version: &Value, shared: Shared, path: &str, errors: &mut ErrorList) {
    let name = text(version, "/name");
    let problems = label_1035_problems(name);
    if !problems.is_empty() {
        errors.invalid(format!("{path}.name"), name, problems.join(","));
    }
    deprecation_warning(version, &format!("{path}.deprecationWarning"), errors);
    let schema = version
        .pointer("/schema/openAPIV3Schema")
        .filter(|_| !shared.schema);
    if let Some(root) = schema {
        let path = format!("{path}.schema.openAPIV3Schema");
        schema::root(root, has_status(version), &path, errors);
    }
    if !shared.subresources {
        scale(version, &format!("{path}.subresources.scale"), errors);
    }
    if !shared.columns {
        columns(version, &format!("{path}.additionalPrinterColumns"), errors);
    }
    let path = format!("{path}.selectableFields");
    if shared.selectable || list(version, "/selectableFields").is_empty() {
        return;
    }
    if schema.is_some() {
        selectable_fields(version, &path, errors);
    } else {
        // Versions that share a schema must share these too.
        let detail = "selectableFields may only be set when version.schema.openAPIV3Schema is not included";
        errors.invalid(path, "", detail);
    }
}

fn scale(version: &Value, path: &str, errors: &mut ErrorList) {
    let Some(scale) = version.pointer("/subresources/scale") else {
        return;
    };
    for (field, roots, required) in [
        ("specReplicasPath", &[".spec."][..], true),
        ("statusReplicasPath", &[".status."], true),
        ("labelSelectorPath", &[".spec.", ".status."], false),
    ] {
        let value = text(scale, &format!("/{field}"));
        scale_path(value, roots, required, &format!("{path}.{field}"), errors);
    }
}

fn columns(version: &Value, path: &str, errors: &mut ErrorList) {
    for (i, of) in list(version, "/additionalPrinterColumns").iter().enumerate() {
        column(of, &format!("{path}[{i}]"), errors);
    }
}

fn deprecation_warning(version: &Value, path: &str, errors: &mut ErrorList) {
    let Some(warning) = version.get("deprecationWarning").and_then(Value::as_str) else {
        return;
    };
    if !is_true(version, "/deprecated") {
        errors.invalid(path, warning, "can only be set for deprecated versions");
        return;
    }
    if warning.len() > MAX_WARNING {
        errors.invalid(path, warning, "must be <= 256 characters long");
    }
    if warning.is_empty() {
        errors.invalid(path, warning, "must not be an empty string");
    }
    if let Some((i, _)) = warning.char_indices().find(|(_, c)| c.is_control()) {
        let detail = format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {i}"
        );
        errors.invalid(path, warning, detail);
    }
}

fn simple_path_problem(path: &str) -> Option<&'static str> {
    (!path.starts_with('.')).then_some("must be a simple json path starting with .")
}

fn scale_path(json_path: &str, roots: &[&str], required: bool, path: &str, errors: &mut ErrorList) {
    if json_path.is_empty() {
        if required {
            errors.required(path, "");
        }
    } else if let Some(problem) = simple_path_problem(json_path) {
        errors.invalid(path, json_path, problem);
    } else if !roots.iter().any(|root| json_path.starts_with(root)) {
        let detail = match roots {
            [root] => format!("should be a json path under {}", root.trim_end_matches('.')),
            _ => "should be a json path under either .spec or .status".to_string(),
        };
        errors.invalid(path, json_path, detail);
    }
}

fn column(column: &Value, path: &str, errors: &mut ErrorList) {
    errors.present(&format!("{path}.name"), text(column, "/name"));
    let (kind, format) = (text(column, "/type"), text(column, "/format"));
    let detail = format!("must be one of {}", COLUMN_TYPES.join(","));
    if kind.is_empty() {
        errors.required(format!("{path}.type"), detail);
    } else if !COLUMN_TYPES.contains(&kind) {
        errors.invalid(format!("{path}.type"), kind, detail);
    }
    if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
        let detail = format!("must be one of {}", COLUMN_FORMATS.join(","));
        errors.invalid(format!("{path}.format"), format, detail);
    }
    let (json_path, at) = (text(column, "/jsonPath"), format!("{path}.JSONPath"));
    if errors.present(&at, json_path)
        && let Some(problem) = simple_path_problem(json_path)
    {
        errors.invalid(at, json_path, problem);
    }
}

fn selectable_fields(version: &Value, path: &str, errors: &mut ErrorList) {
    let fields = list(version, "/selectableFields");
    let root = version.pointer("/schema/openAPIV3Schema").unwrap_or(&Value::Null);
    for (i, field) in fields.iter().enumerate() {
        let (json_path, at) = (text(field, "/jsonPath"), format!("{path}[{i}].jsonPath"));
        if !errors.present(&at, json_path) {
            continue;
        }
        let steps = json_path.strip_prefix('.').map(|rest| rest.split('.'));
        let found = steps
            .and_then(|mut steps| steps.try_fold(root, |schema, step| schema.get("properties")?.get(step)));
        let Some(found) = found else {
            let detail = "is an invalid path: does not refer to a valid field";
            errors.invalid(at, json_path, detail);
            continue;
        };
        if json_path.starts_with(".metadata") {
            errors.invalid(at.clone(), json_path, "must not point to fields in metadata");
        }
        if !["string", "boolean", "integer"].contains(&text(found, "/type")) {
            let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            errors.invalid(at.clone(), json_path, detail);
        }
        if fields[..i]
            .iter()
            .any(|other| text(other, "/jsonPath") == json_path)
        {
            errors.duplicate(at, json_path);
        }
    }
    errors.too_many(path, fields.len(), MAX_SELECTABLE);
}

fn names(names: &Value, path: &str, errors: &mut ErrorList) {
    for (field, mixed_case) in [
        ("plural", false),
        ("singular", false),
        ("kind", true),
        ("listKind", true),
    ] {
        let name = text(names, &format!("/{field}"));
        if name.is_empty() {
            continue;
        }
        let (text, before) = match mixed_case {
            true => (
                name.to_lowercase(),
                "may have mixed case, but should otherwise match: ",
            ),
            false => (name.to_string(), ""),
        };
        let problems = label_1035_problems(&text);
        if !problems.is_empty() {
            let detail = format!("{before}{}", problems.join(","));
            errors.invalid(format!("{path}.{field}"), name, detail);
        }
    }
    let (kind, list_kind) = (text(names, "/kind"), text(names, "/listKind"));
    for field in ["shortNames", "categories"] {
        if field == "categories" && !kind.is_empty() && kind == list_kind {
            let detail = "kind and listKind may not be the same";
            errors.invalid(format!("{path}.listKind"), list_kind, detail);
        }
        for (i, name) in list(names, &format!("/{field}")).iter().enumerate() {
            let name = name.as_str().unwrap_or("");
            let problems = label_1035_problems(name);
            if !problems.is_empty() {
                errors.invalid(format!("{path}.{field}[{i}]"), name, problems.join(","));
            }
        }
    }
}

fn conversion(conversion: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let strategy = text(conversion, "/strategy");
    if errors.present("spec.conversion.strategy", strategy) {
        errors.one_of("spec.conversion.strategy", strategy, &["None", "Webhook"]);
    }
    // The paths are those that these fields had once.
    let config_path = "spec.conversion.webhookClientConfig";
    let config = conversion.pointer("/webhook/clientConfig");
    let path = "spec.conversion.conversionReviewVersions";
    let versions = list(conversion, "/webhook/conversionReviewVersions");
    if strategy != "Webhook" {
        for (path, set) in [(config_path, config.is_some()), (path, !versions.is_empty())] {
            if set {
                errors.forbidden(path, "should not be set when strategy is not set to Webhook");
            }
        }
        return;
    }
    match config {
        None => errors.required(config_path, "required when strategy is set to Webhook"),
        Some(config) => client_config(config, config_path, errors),
    }
    let known = |versions: &[Value]| {
        versions
            .iter()
            .any(|v| v.as_str().is_some_and(|v| REVIEW_VERSIONS.contains(&v)))
    };
    let before = old.map_or(&[][..], |old| {
        list(old, "/spec/conversion/webhook/conversionReviewVersions")
    });
    if versions.is_empty() {
        errors.required(path, "");
        return;
    }
    for (i, version) in versions.iter().enumerate() {
        let (at, text) = (format!("{path}[{i}]"), version.as_str().unwrap_or(""));
        if versions[..i].contains(version) {
            errors.invalid(at, text, "duplicate version");
        } else {
            errors.problems(&at, text, label_1035_problems(text));
        }
    }
    if !known(versions) && (before.is_empty() || known(before)) {
        let detail = format!("must include at least one of {}", REVIEW_VERSIONS.join(", "));
        errors.invalid(path, versions.to_vec(), detail);
    }
}

/// What the controller says that it accepted.
pub(super) fn status(obj: &Value, errors: &mut ErrorList) {
    if let Some(accepted) = obj.pointer("/status/acceptedNames") {
        names(accepted, "status.acceptedNames", errors);
    }
}

/// Versions that objects are stored in are still there.
fn stored_versions(obj: &Value, errors: &mut ErrorList) {
    let path = "status.storedVersions";
    let stored = list(obj, "/status/storedVersions");
    if stored.is_empty() {
        errors.invalid(path, Value::Null, "must have at least one stored version");
        return;
    }
    let versions = list(obj, "/spec/versions");
    for version in versions.iter().filter(|v| is_true(v, "/storage")) {
        if !stored.contains(&version["name"]) {
            let detail = format!("must have the storage version {}", text(version, "/name"));
            errors.invalid(path, stored.to_vec(), detail);
        }
    }
    for (i, name) in stored.iter().enumerate() {
        if !versions.iter().any(|v| v["name"] == *name) {
            let text = name.as_str().unwrap_or("");
            let detail = format!(
                "missing from spec.versions; {text} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {text} and removes {text} from status.storedVersions"
            );
            errors.invalid(format!("{path}[{i}]"), text, detail);
        }
    }
}

/// Groups of the community need its word.
fn approval(obj: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    const SEE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";
    let group = text(obj, "/spec/group");
    let protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|domain| group == *domain || group.ends_with(&format!(".{domain}")));
    let approved = |obj: &Value| {
        let given = meta::annotations(obj).and_then(|a| a.get(APPROVAL));
        given.and_then(Value::as_str).unwrap_or("").to_string()
    };
    let given = approved(obj);
    if !protected || old.is_some_and(|old| approved(old) == given) {
        return;
    }
    let path = format!("metadata.annotations[{APPROVAL}]");
    let is_url = given.split_once("://").is_some_and(|(_, host)| !host.is_empty());
    if given.is_empty() {
        let detail = format!("protected groups must have approval annotation {APPROVAL:?}, {SEE}");
        errors.push(FieldError::required(path, detail));
    } else if !is_url && !given.starts_with("unapproved") {
        let detail = format!(
            "protected groups must have approval annotation {APPROVAL:?} with either a URL or a reason starting with \"unapproved\", {SEE}"
        );
        errors.invalid(path, given, detail);
    }
}

//! The parameters of operations.

use super::Dialect;
use super::json::Json;

/// Query parameters of writes with a body.
pub(super) const WRITE: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];
/// Query parameters of PATCH.
pub(super) const PATCH: &[&str] = &["dryRun", "fieldManager", "fieldValidation", "force"];
/// Query parameters of DELETE of one object.
pub(super) const DELETE: &[&str] = &[
    "dryRun",
    "gracePeriodSeconds",
    "ignoreStoreReadErrorWithClusterBreakingPotential",
    "orphanDependents",
    "propagationPolicy",
];
/// Query parameters of DELETE of a collection.
pub(super) const DELETE_COLLECTION: &[&str] = &[
    "continue",
    "dryRun",
    "fieldSelector",
    "gracePeriodSeconds",
    "ignoreStoreReadErrorWithClusterBreakingPotential",
    "labelSelector",
    "limit",
    "orphanDependents",
    "propagationPolicy",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
];
/// Query parameters of lists and watches.
pub(super) const LIST: &[&str] = &[
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];

/// Every query parameter and its JSON type.
const QUERY: &[(&str, &str)] = &[
    ("allowWatchBookmarks", "boolean"),
    ("command", "string"),
    ("container", "string"),
    ("continue", "string"),
    ("dryRun", "string"),
    ("fieldManager", "string"),
    ("fieldSelector", "string"),
    ("fieldValidation", "string"),
    ("follow", "boolean"),
    ("force", "boolean"),
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("insecureSkipTLSVerifyBackend", "boolean"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("limitBytes", "integer"),
    ("orphanDependents", "boolean"),
    ("path", "string"),
    ("ports", "integer"),
    ("pretty", "string"),
    ("previous", "boolean"),
    ("propagationPolicy", "string"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("sinceSeconds", "integer"),
    ("stderr", "boolean"),
    ("stdin", "boolean"),
    ("stdout", "boolean"),
    ("stream", "string"),
    ("tailLines", "integer"),
    ("timeoutSeconds", "integer"),
    ("timestamps", "boolean"),
    ("tty", "boolean"),
    ("watch", "boolean"),
];

/// The query parameters that a subresource takes whatever the method.
pub(super) fn of_subresource(name: &str) -> &'static [&'static str] {
    match name {
        "attach" => &["container", "stderr", "stdin", "stdout", "tty"],
        "exec" => &["command", "container", "stderr", "stdin", "stdout", "tty"],
        "log" => &[
            "container",
            "follow",
            "insecureSkipTLSVerifyBackend",
            "limitBytes",
            "previous",
            "sinceSeconds",
            "stream",
            "tailLines",
            "timestamps",
        ],
        "portforward" => &["ports"],
        "proxy" => &["path"],
        _ => &[],
    }
}

/// A query parameter. Swagger 2.0 names the shared one; kubectl does not follow such references in v3, so there each
/// operation has its own.
pub(super) fn query(json: &mut Json, dialect: Dialect, name: &str) {
    json.object(|json| match dialect {
        Dialect::V2 => json.key("$ref").joined("#/parameters/", name),
        Dialect::V3 => parameter(json, dialect, name, "query", json_type(name)),
    });
}

/// A parameter that is a segment of the path.
pub(super) fn path(json: &mut Json, dialect: Dialect, name: &str) {
    json.object(|json| parameter(json, dialect, name, "path", "string"));
}

/// The members of `parameters` in a Swagger 2.0 document.
pub(super) fn shared(json: &mut Json) {
    for (name, json_type) in QUERY {
        json.key(name)
            .object(|json| parameter(json, Dialect::V2, name, "query", json_type));
    }
}

fn json_type(name: &str) -> &'static str {
    let row = QUERY.iter().find(|(known, _)| *known == name);
    row.map_or("string", |(_, json_type)| json_type)
}

fn parameter(json: &mut Json, dialect: Dialect, name: &str, place: &str, json_type: &str) {
    json.key("name").string(name);
    json.key("in").string(place);
    if place == "path" {
        json.key("required").raw("true");
    }
    let schema = |json: &mut Json| {
        json.key("type").string(json_type);
        json.key("uniqueItems").raw("true");
    };
    match dialect {
        Dialect::V2 => schema(json),
        Dialect::V3 => json.key("schema").object(schema),
    }
}

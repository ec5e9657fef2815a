//! The small kinds of the core group, and Events.

use jiff::Timestamp;
use serde_json::Value;

use super::{
    AGE, NAME, Printer, UNKNOWN, age, containers, human_duration, labels, list, name, since, string, text,
    wide,
};
use crate::table::Column;

pub(super) const NAMESPACE: Printer = Printer {
    columns: &[NAME, string("Status"), AGE],
    row: |object, now| {
        vec![
            name(object),
            text(&object["status"]["phase"]).into(),
            age(object, now),
        ]
    },
};

pub(super) const CONFIG_MAP: Printer = Printer {
    columns: &[NAME, string("Data").of("core.v1.ConfigMap", "data"), AGE],
    row: |object, now| {
        vec![
            name(object),
            (entries(&object["data"]) + entries(&object["binaryData"])).into(),
            age(object, now),
        ]
    },
};

pub(super) const SECRET: Printer = Printer {
    columns: &[
        NAME,
        string("Type").of("core.v1.Secret", "type"),
        string("Data").of("core.v1.Secret", "data"),
        AGE,
    ],
    row: |object, now| {
        vec![
            name(object),
            text(&object["type"]).into(),
            entries(&object["data"]).into(),
            age(object, now),
        ]
    },
};

pub(super) const SERVICE_ACCOUNT: Printer = Printer {
    columns: &[
        NAME,
        string("Secrets").of("core.v1.ServiceAccount", "secrets"),
        AGE,
    ],
    row: |object, now| {
        vec![
            name(object),
            list(&object["secrets"]).len().into(),
            age(object, now),
        ]
    },
};

pub(super) const POD_TEMPLATE: Printer = Printer {
    columns: &[NAME, string("Containers"), string("Images"), string("Pod Labels")],
    row: |object, _| {
        let (names, images) = containers(&object["template"]["spec"]);
        vec![
            name(object),
            names.into(),
            images.into(),
            labels(&object["template"]["metadata"]["labels"]).into(),
        ]
    },
};

pub(super) const RESOURCE_QUOTA: Printer = Printer {
    columns: &[NAME, string("Request"), string("Limit"), AGE],
    row: |object, now| {
        let (hard, used) = (&object["status"]["hard"], &object["status"]["used"]);
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (resource, amount) in hard.as_object().into_iter().flatten() {
            let used = used[resource.as_str()].as_str().unwrap_or("0");
            let cell = format!("{resource}: {used}/{}", text(amount));
            if resource.starts_with("limits.") {
                limits.push(cell)
            } else {
                requests.push(cell)
            }
        }
        vec![
            name(object),
            requests.join(", ").into(),
            limits.join(", ").into(),
            age(object, now),
        ]
    },
};

pub(super) const COMPONENT_STATUS: Printer = Printer {
    columns: &[NAME, string("Status"), string("Message"), string("Error")],
    row: |object, _| {
        let healthy = list(&object["conditions"])
            .iter()
            .find(|condition| condition["type"] == "Healthy");
        let (status, message, error) = match healthy {
            Some(condition) if condition["status"] == "True" => {
                ("Healthy", text(&condition["message"]), text(&condition["error"]))
            }
            Some(condition) => (
                "Unhealthy",
                text(&condition["message"]),
                text(&condition["error"]),
            ),
            None => ("Unknown", "", ""),
        };
        vec![name(object), status.into(), message.into(), error.into()]
    },
};

pub(super) const EVENT: Printer = Printer {
    columns: &[
        string("Last Seen").of("core.v1.Event", "lastTimestamp"),
        string("Type").of("core.v1.Event", "type"),
        string("Reason").of("core.v1.Event", "reason"),
        string("Object").of("core.v1.Event", "involvedObject"),
        wide("Subobject").of("core.v1.ObjectReference", "fieldPath"),
        wide("Source").of("core.v1.Event", "source"),
        string("Message").of("core.v1.Event", "message"),
        wide("First Seen").of("core.v1.Event", "firstTimestamp"),
        wide("Count").of("core.v1.Event", "count"),
        Column {
            name: "Name",
            ty: "string",
            format: "name",
            priority: 1,
            describes: Some((super::OBJECT_META, "name")),
        },
    ],
    row: event,
};

/// Events of both groups: `events.k8s.io/v1` names the same things otherwise.
fn event(object: &Value, now: Timestamp) -> Vec<Value> {
    let either = |old: &'static str, new: &'static str| {
        if object[new].is_null() {
            &object[old]
        } else {
            &object[new]
        }
    };
    let involved = either("involvedObject", "regarding");
    let first = [
        &object["firstTimestamp"],
        &object["deprecatedFirstTimestamp"],
        &object["eventTime"],
    ];
    let last = [&object["lastTimestamp"], &object["deprecatedLastTimestamp"]];
    let first_seen = first.into_iter().find(|time| time.is_string());
    let last_seen = last.into_iter().find(|time| time.is_string()).or(first_seen);
    let (mut count, mut last_seen) = (
        either("count", "deprecatedCount").as_i64().unwrap_or(0),
        ago(last_seen, now),
    );
    if !object["series"].is_null() {
        count = object["series"]["count"].as_i64().unwrap_or(count);
        last_seen = ago(Some(&object["series"]["lastObservedTime"]), now);
    } else if count == 0 {
        count = 1;
    }
    let mut target = text(&involved["kind"]).to_lowercase();
    if !text(&involved["name"]).is_empty() {
        target = format!("{target}/{}", text(&involved["name"]));
    }
    let source = either("source", "deprecatedSource");
    let component = match text(&source["component"]) {
        "" => text(either("reportingComponent", "reportingController")),
        component => component,
    };
    let instance = match text(&source["host"]) {
        "" => text(&object["reportingInstance"]),
        host => host,
    };
    let source = if instance.is_empty() {
        component.to_owned()
    } else {
        format!("{component}, {instance}")
    };
    vec![
        last_seen.into(),
        text(&object["type"]).into(),
        text(&object["reason"]).into(),
        target.into(),
        text(&involved["fieldPath"]).into(),
        source.into(),
        text(either("message", "note")).trim().into(),
        ago(first_seen, now).into(),
        count.into(),
        name(object),
    ]
}

/// How long ago, with the precision of a second although Events may carry microseconds.
fn ago(time: Option<&Value>, now: Timestamp) -> String {
    match time {
        Some(time) if time.is_string() => since(time, now),
        _ => UNKNOWN.to_owned(),
    }
}

fn entries(map: &Value) -> usize {
    map.as_object().map_or(0, serde_json::Map::len)
}

/// How long a span between two timestamps was; `None` unless both are there.
pub(super) fn span(from: &Value, to: &Value) -> Option<String> {
    let (from, to): (Timestamp, Timestamp) = (from.as_str()?.parse().ok()?, to.as_str()?.parse().ok()?);
    Some(human_duration(to.as_second() - from.as_second()))
}

//! Checks of Events: those of before `eventTime`, and the strict ones of `events.k8s.io/v1`.

use crate::meta;
use crate::strategy::access::{int, text};
use crate::validation::text::qualified_name_problems;
use crate::validation::{ErrorList, FIELD_IMMUTABLE};
use serde_json::Value;

/// What every version asks for. Events of cluster-scoped objects live in `default`, newer ones in `kube-system` too.
pub(super) fn event(obj: &Value, errors: &mut ErrorList) {
    checked(obj, "reportingComponent", errors);
}

fn checked(obj: &Value, controller_field: &str, errors: &mut ErrorList) {
    let (own, involved) = (meta::namespace(obj), text(obj, "/involvedObject/namespace"));
    let newer = !text(obj, "/eventTime").is_empty();
    let right = match involved {
        "" => {
            own == "default"
                || if newer {
                    own == "kube-system"
                } else {
                    own.is_empty()
                }
        }
        involved => newer || involved == own,
    };
    if !right {
        let detail = "does not match event.namespace";
        errors.invalid("involvedObject.namespace", involved, detail);
    }
    if !newer {
        return;
    }
    let controller = text(obj, "/reportingComponent");
    errors.present(controller_field, controller);
    errors.problems(controller_field, controller, qualified_name_problems(controller));
    for (field, required, max) in [
        ("reportingInstance", true, 128),
        ("action", true, 128),
        ("reason", true, 128),
        ("message", false, 1024),
    ] {
        let value = text(obj, &format!("/{field}"));
        if required {
            errors.present(field, value);
        }
        if value.len() > max {
            errors.invalid(field, "", format!("can have at most {max} characters"));
        }
    }
}

/// An Event of `events.k8s.io/v1`, under the core names: the fields of the older style are unset.
pub(super) fn strict(obj: &Value, errors: &mut ErrorList) {
    checked(obj, "reportingController", errors);
    series(obj, errors);
    errors.present("eventTime", text(obj, "/eventTime"));
    let kind = text(obj, "/type");
    if !matches!(kind, "Normal" | "Warning") {
        errors.invalid("type", "", format!("has invalid value: {kind}"));
    }
    let source = ["/source/component", "/source/host"];
    for (field, set) in [
        ("firstTimestamp", !text(obj, "/firstTimestamp").is_empty()),
        ("lastTimestamp", !text(obj, "/lastTimestamp").is_empty()),
        ("count", int(obj, "/count").unwrap_or(0) != 0),
        ("source", source.iter().any(|at| !text(obj, at).is_empty())),
    ] {
        if set {
            errors.invalid(field, "", "needs to be unset");
        }
    }
}

fn series(obj: &Value, errors: &mut ErrorList) {
    if obj.get("series").is_none() {
        return;
    }
    if int(obj, "/series/count").unwrap_or(0) < 2 {
        errors.invalid("series.count", "", "should be at least 2");
    }
    errors.present("series.lastObservedTime", text(obj, "/series/lastObservedTime"));
}

/// Only the series of an Event of `events.k8s.io/v1` goes on.
pub(super) fn strict_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    checked(new, "reportingController", errors);
    if new.get("series") != old.get("series") {
        series(new, errors);
    }
    for field in [
        "involvedObject",
        "reason",
        "message",
        "source",
        "firstTimestamp",
        "lastTimestamp",
        "count",
        "reason",
        "type",
        "eventTime",
        "action",
        "related",
        "reportingComponent",
        "reportingInstance",
    ] {
        let (now, then) = (new.get(field), old.get(field));
        if is_unset(now) && is_unset(then) || now == then {
            continue;
        }
        let path = match field {
            "reportingComponent" => "reportingController",
            field => field,
        };
        errors.invalid(path, now.cloned().unwrap_or_default(), FIELD_IMMUTABLE);
    }
}

fn is_unset(value: Option<&Value>) -> bool {
    value.is_none_or(|v| {
        v.is_null() || v == "" || v == 0 || v.as_object().is_some_and(serde_json::Map::is_empty)
    })
}

/// A Binding names a node.
pub(super) fn binding(obj: &Value, errors: &mut ErrorList) {
    let kind = text(obj, "/target/kind");
    if !kind.is_empty() && kind != "Node" {
        errors.one_of("target.kind", kind, &["Node", "<empty>"]);
    }
    errors.present("target.name", text(obj, "/target/name"));
}

//! What makes pods.

use jiff::Timestamp;
use serde_json::Value;

use super::{
    AGE, NAME, NONE, Printer, UNKNOWN, age, boolean, containers, core::span, integer, label_selector, labels,
    list, name, number, since, string, text, text_or_none, wide,
};

pub(super) const DEPLOYMENT: Printer = Printer {
    columns: &[
        NAME,
        string("Ready"),
        string("Up-to-date"),
        string("Available"),
        AGE,
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    row: |object, now| {
        let status = &object["status"];
        let (names, images) = containers(&object["spec"]["template"]["spec"]);
        vec![
            name(object),
            ready_of(object).into(),
            number(&status["updatedReplicas"]),
            number(&status["availableReplicas"]),
            age(object, now),
            names.into(),
            images.into(),
            label_selector(&object["spec"]["selector"]).into(),
        ]
    },
};

/// ReplicaSets and ReplicationControllers, whose selectors have different forms.
pub(super) const REPLICA_SET: Printer = Printer {
    columns: &[
        NAME,
        integer("Desired"),
        integer("Current"),
        integer("Ready"),
        AGE,
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    row: |object, now| {
        let (spec, status) = (&object["spec"], &object["status"]);
        let (names, images) = containers(&spec["template"]["spec"]);
        let selector = &spec["selector"];
        let is_label_selector = selector.get("matchLabels").is_some_and(Value::is_object)
            || selector.get("matchExpressions").is_some();
        vec![
            name(object),
            number(&spec["replicas"]),
            number(&status["replicas"]),
            number(&status["readyReplicas"]),
            age(object, now),
            names.into(),
            images.into(),
            if is_label_selector {
                label_selector(selector)
            } else {
                labels(selector)
            }
            .into(),
        ]
    },
};

pub(super) const STATEFUL_SET: Printer = Printer {
    columns: &[NAME, string("Ready"), AGE, wide("Containers"), wide("Images")],
    row: |object, now| {
        let (names, images) = containers(&object["spec"]["template"]["spec"]);
        vec![
            name(object),
            ready_of(object).into(),
            age(object, now),
            names.into(),
            images.into(),
        ]
    },
};

pub(super) const DAEMON_SET: Printer = Printer {
    columns: &[
        NAME,
        integer("Desired"),
        integer("Current"),
        integer("Ready"),
        integer("Up-to-date"),
        integer("Available"),
        string("Node Selector"),
        AGE,
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    row: |object, now| {
        let (spec, status) = (&object["spec"], &object["status"]);
        let (names, images) = containers(&spec["template"]["spec"]);
        vec![
            name(object),
            number(&status["desiredNumberScheduled"]),
            number(&status["currentNumberScheduled"]),
            number(&status["numberReady"]),
            number(&status["updatedNumberScheduled"]),
            number(&status["numberAvailable"]),
            labels(&spec["template"]["spec"]["nodeSelector"]).into(),
            age(object, now),
            names.into(),
            images.into(),
            label_selector(&spec["selector"]).into(),
        ]
    },
};

pub(super) const CONTROLLER_REVISION: Printer = Printer {
    columns: &[NAME, string("Controller"), string("Revision"), AGE],
    row: |object, now| {
        let owner = list(&object["metadata"]["ownerReferences"])
            .iter()
            .find(|owner| owner["controller"] == true);
        let controller = owner.map_or(NONE.to_owned(), |owner| {
            let kind = text(&owner["kind"]).to_lowercase();
            match text(&owner["apiVersion"]).split_once('/') {
                Some((group, _)) => format!("{kind}.{group}/{}", text(&owner["name"])),
                None => format!("{kind}/{}", text(&owner["name"])),
            }
        });
        vec![
            name(object),
            controller.into(),
            number(&object["revision"]),
            age(object, now),
        ]
    },
};

pub(super) const JOB: Printer = Printer {
    columns: &[
        NAME,
        string("Status"),
        string("Completions"),
        string("Duration"),
        AGE,
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    row: |object, now| {
        let (spec, status) = (&object["spec"], &object["status"]);
        let (names, images) = containers(&spec["template"]["spec"]);
        let succeeded = number(&status["succeeded"]);
        let completions = match (
            spec["completions"].as_i64(),
            spec["parallelism"].as_i64().unwrap_or(0),
        ) {
            (Some(wanted), _) => format!("{succeeded}/{wanted}"),
            (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
            (None, _) => format!("{succeeded}/1"),
        };
        let duration = match (&status["startTime"], &status["completionTime"]) {
            (Value::Null, _) => String::new(),
            (start, Value::Null) => since(start, now),
            (start, end) => span(start, end).unwrap_or_default(),
        };
        vec![
            name(object),
            job_status(object).into(),
            completions.into(),
            duration.into(),
            age(object, now),
            names.into(),
            images.into(),
            label_selector(&spec["selector"]).into(),
        ]
    },
};

/// The condition that says most about a Job; without one it is running.
fn job_status(job: &Value) -> &'static str {
    let holds = |kind: &str| {
        list(&job["status"]["conditions"])
            .iter()
            .any(|c| c["type"] == kind && c["status"] == "True")
    };
    if holds("Complete") {
        "Complete"
    } else if holds("Failed") {
        "Failed"
    } else if !job["metadata"]["deletionTimestamp"].is_null() {
        "Terminating"
    } else if holds("Suspended") {
        "Suspended"
    } else if holds("FailureTarget") {
        "FailureTarget"
    } else if holds("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

pub(super) const CRON_JOB: Printer = Printer {
    columns: &[
        NAME,
        string("Schedule"),
        string("Timezone"),
        boolean("Suspend"),
        integer("Active"),
        string("Last Schedule"),
        AGE,
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    row: |object, now| {
        let spec = &object["spec"];
        let template = &spec["jobTemplate"]["spec"];
        let (names, images) = containers(&template["template"]["spec"]);
        let last = match &object["status"]["lastScheduleTime"] {
            Value::Null => NONE.to_owned(),
            time => since(time, now),
        };
        vec![
            name(object),
            text(&spec["schedule"]).into(),
            text_or_none(&spec["timeZone"]),
            if spec["suspend"] == true { "True" } else { "False" }.into(),
            list(&object["status"]["active"]).len().into(),
            last.into(),
            age(object, now),
            names.into(),
            images.into(),
            label_selector(&template["selector"]).into(),
        ]
    },
};

pub(super) const HORIZONTAL_POD_AUTOSCALER: Printer = Printer {
    columns: &[
        NAME,
        string("Reference"),
        string("Targets"),
        string("MinPods"),
        string("MaxPods"),
        string("Replicas"),
        AGE,
    ],
    row: autoscaler,
};

fn autoscaler(object: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let target = &spec["scaleTargetRef"];
    let min = spec["minReplicas"]
        .as_i64()
        .map_or("<unset>".to_owned(), |min| min.to_string());
    vec![
        name(object),
        format!("{}/{}", text(&target["kind"]), text(&target["name"])).into(),
        targets(spec, status).into(),
        min.into(),
        number(&spec["maxReplicas"]),
        number(&status["currentReplicas"]),
        age(object, now),
    ]
}

/// The metrics with their targets: those of version 2, or version 1's single CPU percentage.
fn targets(spec: &Value, status: &Value) -> String {
    if let Some(percent) = spec["targetCPUUtilizationPercentage"].as_i64() {
        let current = status["currentCPUUtilizationPercentage"]
            .as_i64()
            .map_or(UNKNOWN.to_owned(), |now| format!("{now}%"));
        return format!("cpu: {current}/{percent}%");
    }
    let metrics = list(&spec["metrics"]);
    if metrics.is_empty() {
        return NONE.to_owned();
    }
    let current = list(&status["currentMetrics"]);
    let shown: Vec<String> = metrics
        .iter()
        .enumerate()
        .map(|(index, metric)| target(metric, current.get(index)))
        .collect();
    super::cut(&shown, 2)
}

fn target(metric: &Value, current: Option<&Value>) -> String {
    const SOURCES: [&str; 5] = ["resource", "containerResource", "pods", "object", "external"];
    let Some(source) = SOURCES.into_iter().find(|source| metric[source].is_object()) else {
        return "<unknown type>".to_owned();
    };
    let (wanted, now) = (
        &metric[source]["target"],
        current.map_or(&Value::Null, |current| &current[source]["current"]),
    );
    let label = match text(&metric[source]["name"]) {
        "" => String::new(),
        resource => format!("{resource}: "),
    };
    let amount = |value: &Value| match (
        value["averageUtilization"].as_i64(),
        text(&value["averageValue"]),
        text(&value["value"]),
    ) {
        (Some(percent), _, _) => format!("{percent}%"),
        (None, "", "") => UNKNOWN.to_owned(),
        (None, "", value) => value.to_owned(),
        (None, average, _) => average.to_owned(),
    };
    let average = if source != "resource" && wanted["averageValue"].is_string() {
        " (avg)"
    } else {
        ""
    };
    format!("{label}{}/{}{average}", amount(now), amount(wanted))
}

/// `ready/desired`.
fn ready_of(object: &Value) -> String {
    format!(
        "{}/{}",
        number(&object["status"]["readyReplicas"]),
        number(&object["spec"]["replicas"])
    )
}

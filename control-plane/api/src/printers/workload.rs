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
        string("Up-to-date").of("apps.v1.DeploymentStatus", "updatedReplicas"),
        string("Available").of("apps.v1.DeploymentStatus", "availableReplicas"),
        AGE,
        wide("Containers"),
        wide("Images"),
        wide("Selector").of("apps.v1.DeploymentSpec", "selector"),
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

/// As ReplicaSets, with descriptions of its own.
pub(super) const REPLICATION_CONTROLLER: Printer = Printer {
    columns: &[
        NAME,
        integer("Desired").of("core.v1.ReplicationControllerSpec", "replicas"),
        integer("Current").of("core.v1.ReplicationControllerStatus", "replicas"),
        integer("Ready").of("core.v1.ReplicationControllerStatus", "readyReplicas"),
        AGE,
        wide("Containers"),
        wide("Images"),
        wide("Selector").of("core.v1.ReplicationControllerSpec", "selector"),
    ],
    ..REPLICA_SET
};

/// ReplicaSets and ReplicationControllers, whose selectors have different forms.
pub(super) const REPLICA_SET: Printer = Printer {
    columns: &[
        NAME,
        integer("Desired").of("apps.v1.ReplicaSetSpec", "replicas"),
        integer("Current").of("apps.v1.ReplicaSetStatus", "replicas"),
        integer("Ready").of("apps.v1.ReplicaSetStatus", "readyReplicas"),
        AGE,
        wide("Containers"),
        wide("Images"),
        wide("Selector").of("apps.v1.ReplicaSetSpec", "selector"),
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
        integer("Desired").of("apps.v1.DaemonSetStatus", "desiredNumberScheduled"),
        integer("Current").of("apps.v1.DaemonSetStatus", "currentNumberScheduled"),
        integer("Ready").of("apps.v1.DaemonSetStatus", "numberReady"),
        integer("Up-to-date").of("apps.v1.DaemonSetStatus", "updatedNumberScheduled"),
        integer("Available").of("apps.v1.DaemonSetStatus", "numberAvailable"),
        string("Node Selector").of("core.v1.PodSpec", "nodeSelector"),
        AGE,
        wide("Containers"),
        wide("Images"),
        wide("Selector").of("apps.v1.DaemonSetSpec", "selector"),
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
    columns: &[
        NAME,
        string("Controller"),
        string("Revision").of("apps.v1.ControllerRevision", "revision"),
        AGE,
    ],
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
        string("Completions").of("batch.v1.JobStatus", "succeeded"),
        string("Duration"),
        AGE,
        wide("Containers"),
        wide("Images"),
        wide("Selector").of("batch.v1.JobSpec", "selector"),
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
        string("Schedule").of("batch.v1.CronJobSpec", "schedule"),
        string("Timezone").of("batch.v1.CronJobSpec", "timeZone"),
        boolean("Suspend").of("batch.v1.CronJobSpec", "suspend"),
        integer("Active").of("batch.v1.CronJobStatus", "active"),
        string("Last Schedule").of("batch.v1.CronJobStatus", "lastScheduleTime"),
        AGE,
        wide("Containers"),
        wide("Images"),
        wide("Selector").of("batch.v1.JobSpec", "selector"),
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

/// The scale of anything that has one.
pub(super) const SCALE: Printer = Printer {
    columns: &[
        NAME,
        integer("Desired").of("autoscaling.v1.ScaleSpec", "replicas"),
        integer("Available").of("autoscaling.v1.ScaleStatus", "replicas"),
        AGE,
    ],
    row: |object, now| {
        vec![
            name(object),
            number(&object["spec"]["replicas"]),
            number(&object["status"]["replicas"]),
            age(object, now),
        ]
    },
};

pub(super) const HORIZONTAL_POD_AUTOSCALER: Printer = Printer {
    columns: &[
        NAME,
        string("Reference").of("autoscaling.v2.HorizontalPodAutoscalerSpec", "scaleTargetRef"),
        string("Targets").of("autoscaling.v2.HorizontalPodAutoscalerSpec", "metrics"),
        string("MinPods").of("autoscaling.v2.HorizontalPodAutoscalerSpec", "minReplicas"),
        string("MaxPods").of("autoscaling.v2.HorizontalPodAutoscalerSpec", "maxReplicas"),
        string("Replicas").of("autoscaling.v2.HorizontalPodAutoscalerStatus", "currentReplicas"),
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
    let shown = metrics.iter().enumerate();
    let shown: Vec<String> = shown
        .map(|(index, metric)| target(metric, current.get(index)))
        .collect();
    let first = shown[..shown.len().min(2)].join(", ");
    match shown.len().saturating_sub(2) {
        0 => first,
        more => format!("{first} + {more} more..."),
    }
}

/// `name: current/target` of what containers use, `current/target` of other metrics.
fn target(metric: &Value, current: Option<&Value>) -> String {
    const SOURCES: [&str; 5] = ["resource", "containerResource", "pods", "object", "external"];
    let Some(source) = SOURCES.into_iter().find(|source| metric[source].is_object()) else {
        return "<unknown type>".to_owned();
    };
    let wanted = &metric[source]["target"];
    let now = current.map_or(&Value::Null, |current| &current[source]["current"]);
    let quantity = |value: &Value| value.as_str().unwrap_or(UNKNOWN).to_owned();
    let percent = |value: &Value, absent: &str| {
        let percent = value["averageUtilization"].as_i64();
        percent.map_or(absent.to_owned(), |percent| format!("{percent}%"))
    };
    let is_average = wanted["averageValue"].is_string();
    let average = || {
        format!(
            "{}/{}",
            quantity(&now["averageValue"]),
            text(&wanted["averageValue"])
        )
    };
    match source {
        "pods" => average(),
        "object" | "external" if is_average => format!("{} (avg)", average()),
        "object" | "external" => format!("{}/{}", quantity(&now["value"]), text(&wanted["value"])),
        _ => {
            let name = text(&metric[source]["name"]);
            let amounts = match is_average {
                true => average(),
                false => format!("{}/{}", percent(now, UNKNOWN), percent(wanted, "<auto>")),
            };
            format!("{name}: {amounts}")
        }
    }
}

/// `ready/desired`.
fn ready_of(object: &Value) -> String {
    format!(
        "{}/{}",
        number(&object["status"]["readyReplicas"]),
        number(&object["spec"]["replicas"])
    )
}

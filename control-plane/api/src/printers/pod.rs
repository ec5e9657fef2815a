//! Pods: the one table whose STATUS column is a small state machine.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, NAME, Printer, age, list, name, since, string, text, text_or_none, wide};

pub(super) const POD: Printer = Printer {
    columns: &[
        NAME,
        string("Ready"),
        string("Status"),
        // With the time of the last one: `3 (10s ago)`.
        string("Restarts"),
        AGE,
        wide("IP").of("core.v1.PodStatus", "podIP"),
        wide("Node").of("core.v1.PodSpec", "nodeName"),
        wide("Nominated Node").of("core.v1.PodStatus", "nominatedNodeName"),
        wide("Readiness Gates").of("core.v1.PodSpec", "readinessGates"),
    ],
    row,
};

/// What a row says besides its cells: of a pod that has ended, that it has, and how.
pub(super) fn conditions(pod: &Value) -> Option<Value> {
    let (reason, message) = match text(&pod["status"]["phase"]) {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(json!([{"type": "Completed", "status": "True", "reason": reason, "message": message}]))
}

fn row(pod: &Value, now: Timestamp) -> Vec<Value> {
    let shown = summarize(pod);
    let restarts = match &shown.last_restart {
        Some(last) if shown.restarts > 0 => format!("{} ({} ago)", shown.restarts, since(last, now)),
        _ => shown.restarts.to_string(),
    };
    let ip = list(&pod["status"]["podIPs"])
        .first()
        .map_or(&pod["status"]["podIP"], |first| &first["ip"]);
    vec![
        name(pod),
        format!("{}/{}", shown.ready, shown.total).into(),
        shown.status.into(),
        restarts.into(),
        age(pod, now),
        text_or_none(ip),
        text_or_none(&pod["spec"]["nodeName"]),
        text_or_none(&pod["status"]["nominatedNodeName"]),
        readiness_gates(pod).into(),
    ]
}

/// What the first columns say.
struct Summary {
    ready: usize,
    total: usize,
    status: String,
    restarts: i64,
    /// When the last container that was restarted had ended.
    last_restart: Option<Value>,
}

/// The rules of upstream's `printPod`: the reason of the first thing that keeps the pod from running.
fn summarize(pod: &Value) -> Summary {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let mut summary = Summary {
        ready: 0,
        total: list(&spec["containers"]).len(),
        status: [&status["reason"], &status["phase"]]
            .into_iter()
            .map(text)
            .find(|s| !s.is_empty())
            .unwrap_or_default()
            .to_owned(),
        restarts: 0,
        last_restart: None,
    };
    let gated = list(&status["conditions"])
        .iter()
        .any(|c| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated");
    if gated {
        summary.status = "SchedulingGated".to_owned();
    }
    let (initializing, sidecars) = init_containers(spec, status, &mut summary);
    let initialized = list(&status["conditions"])
        .iter()
        .any(|c| c["type"] == "Initialized" && c["status"] == "True");
    if !initializing || initialized {
        // Restarts of finished init containers are history; those of sidecars go on counting.
        (summary.restarts, summary.last_restart) = sidecars;
        let has_running = containers(status, &mut summary);
        if summary.status == "Completed" && has_running {
            let ready = list(&status["conditions"])
                .iter()
                .any(|c| c["type"] == "Ready" && c["status"] == "True");
            summary.status = if ready { "Running" } else { "NotReady" }.to_owned();
        }
    }
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        if status["reason"] == "NodeLost" {
            summary.status = "Unknown".to_owned();
        } else if !matches!(text(&status["phase"]), "Succeeded" | "Failed") {
            summary.status = "Terminating".to_owned();
        }
    }
    summary
}

/// Looks at the init containers in order; whether one of them keeps the others waiting, and how often sidecars were
/// restarted, and when last.
fn init_containers(spec: &Value, status: &Value, summary: &mut Summary) -> (bool, (i64, Option<Value>)) {
    let declared = list(&spec["initContainers"]);
    let is_sidecar = |name: &Value| {
        declared
            .iter()
            .any(|c| c["name"] == *name && c["restartPolicy"] == "Always")
    };
    summary.total += declared.iter().filter(|c| c["restartPolicy"] == "Always").count();
    let (mut sidecar_restarts, mut sidecar_last) = (0, None);
    let mut initializing = false;
    for (index, container) in list(&status["initContainerStatuses"]).iter().enumerate() {
        let sidecar = is_sidecar(&container["name"]);
        let restarts = container["restartCount"].as_i64().unwrap_or(0);
        let ended = &container["lastState"]["terminated"]["finishedAt"];
        summary.restarts += restarts;
        later(&mut summary.last_restart, ended);
        if sidecar {
            sidecar_restarts += restarts;
            later(&mut sidecar_last, ended);
        }
        let (terminated, waiting) = (&container["state"]["terminated"], &container["state"]["waiting"]);
        if !terminated.is_null() && terminated["exitCode"].as_i64().unwrap_or(0) == 0 {
            continue;
        }
        if sidecar && container["started"] == true {
            summary.ready += usize::from(container["ready"] == true);
            continue;
        }
        summary.status = if !terminated.is_null() {
            format!("Init:{}", termination(terminated))
        } else if !text(&waiting["reason"]).is_empty() && waiting["reason"] != "PodInitializing" {
            format!("Init:{}", text(&waiting["reason"]))
        } else {
            format!("Init:{index}/{}", declared.len())
        };
        initializing = true;
        break;
    }
    (initializing, (sidecar_restarts, sidecar_last))
}

/// Looks at the containers from last to first, so that the first one's reason wins; true when one runs and is ready.
fn containers(status: &Value, summary: &mut Summary) -> bool {
    let mut has_running = false;
    for container in list(&status["containerStatuses"]).iter().rev() {
        summary.restarts += container["restartCount"].as_i64().unwrap_or(0);
        later(
            &mut summary.last_restart,
            &container["lastState"]["terminated"]["finishedAt"],
        );
        let (terminated, waiting) = (&container["state"]["terminated"], &container["state"]["waiting"]);
        if !text(&waiting["reason"]).is_empty() {
            text(&waiting["reason"]).clone_into(&mut summary.status);
        } else if !terminated.is_null() {
            summary.status = termination(terminated);
        } else if container["ready"] == true && !container["state"]["running"].is_null() {
            has_running = true;
            summary.ready += 1;
        }
    }
    has_running
}

/// Why a container ended: its reason, or its signal, or its exit code.
fn termination(terminated: &Value) -> String {
    let (reason, signal) = (
        text(&terminated["reason"]),
        terminated["signal"].as_i64().unwrap_or(0),
    );
    if !reason.is_empty() {
        reason.to_owned()
    } else if signal != 0 {
        format!("Signal:{signal}")
    } else {
        format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or(0))
    }
}

/// Keeps the later of two timestamps. Both are RFC 3339 in UTC with seconds, so text order is time order.
fn later(kept: &mut Option<Value>, candidate: &Value) {
    if candidate.is_string() && kept.as_ref().is_none_or(|kept| text(kept) < text(candidate)) {
        *kept = Some(candidate.clone());
    }
}

fn readiness_gates(pod: &Value) -> String {
    let gates = list(&pod["spec"]["readinessGates"]);
    if gates.is_empty() {
        return super::NONE.to_owned();
    }
    let conditions = list(&pod["status"]["conditions"]);
    let open = gates
        .iter()
        .filter(|gate| {
            conditions
                .iter()
                .any(|c| c["type"] == gate["conditionType"] && c["status"] == "True")
        })
        .count();
    format!("{open}/{}", gates.len())
}

//! Checks of Jobs and CronJobs.

use super::policy::{failure_policy, success_policy};
use super::schedule::{schedule_problem, time_zone_problem};
use crate::meta;
use crate::selector::LabelSelector;
use crate::strategy::access::{int, is_true, list, map, text};
use crate::strategy::keep;
use crate::strategy::pod::validate::{label_selector, template};
use crate::strategy::pod::warnings::template as template_warnings;
use crate::validation::text::{domain_prefixed_path_problems, label_problems};
use crate::validation::{ErrorList, FieldError};
use serde_json::{Value, json};

/// CronJob names leave room for the time in the names of their Jobs.
const MAX_CRON_JOB_NAME: usize = 52;
const MAX_MANAGED_BY: usize = 63;
/// Labels of a Job's pods: who owns them, by uid and by name.
const PREFIXED_LABELS: [&str; 2] = [
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-name",
];
/// Limits of indexed Jobs, and those that hold when there are many indexes with their own backoff.
const MAX_PARALLELISM: i64 = 100_000;
const MANY_COMPLETIONS: i64 = 100_000;
const MAX_PARALLELISM_OF_MANY: i64 = 10_000;
const MAX_FAILED_INDEXES_OF_MANY: i64 = 10_000;

/// A new Job: the selector is the server's unless `manualSelector` says otherwise.
pub(super) fn job(obj: &Value, errors: &mut ErrorList) {
    whole(obj, true, errors);
}

/// A Job; its labels need the prefixed ones unless it is older than these.
fn whole(obj: &Value, prefixed: bool, errors: &mut ErrorList) {
    generated_labels(obj, prefixed, errors);
    selected_spec(obj, errors);
    let completions = int(obj, "/spec/completions").unwrap_or(0);
    if text(obj, "/spec/completionMode") == "Indexed" && completions > 0 {
        // Pods are named after the index.
        let longest = format!("{}-{}", meta::name(obj), completions - 1);
        if !label_problems(&longest).is_empty() {
            let detail = format!("will not able to create pod with invalid DNS label: {longest}");
            errors.invalid("metadata.name", meta::name(obj), detail);
        }
    }
}

/// The server's labels are there: somebody else's under the same keys would be in their way.
fn generated_labels(obj: &Value, prefixed: bool, errors: &mut ErrorList) {
    if is_true(obj, "/spec/manualSelector") || obj.pointer("/spec/selector").is_none() {
        return;
    }
    let (uid, name) = (meta::uid(obj), meta::name(obj));
    let mut expected = std::collections::BTreeMap::from([("controller-uid", uid), ("job-name", name)]);
    if prefixed {
        expected.extend(PREFIXED_LABELS.into_iter().zip([uid, name]));
    }
    let labels = map(obj, "/spec/template/metadata/labels");
    for (key, value) in &expected {
        let path = format!("spec.template.metadata.labels[{key}]");
        match labels.and_then(|l| l.get(*key)) {
            None => errors.required(path, format!("must be '{value}'")),
            Some(other) if other != value => {
                let labels = labels.cloned().map_or(Value::Null, Value::Object);
                errors.invalid(path, labels, format!("must be '{value}'"));
            }
            Some(_) => {}
        }
    }
    let expected = json!(expected);
    if let Ok(Some(selector)) = LabelSelector::from_value(obj.pointer("/spec/selector"))
        && !selector.matches(expected.as_object())
    {
        let selector = obj["spec"]["selector"].clone();
        errors.invalid("spec.selector", selector, "`selector` not auto-generated");
    }
}

/// The spec of a Job, which has a selector.
fn selected_spec(obj: &Value, errors: &mut ErrorList) {
    job_spec(obj, errors);
    let labels = map(obj, "/spec/template/metadata/labels");
    match obj.pointer("/spec/selector") {
        None => errors.required("spec.selector", ""),
        Some(selector) => label_selector(selector, "spec.selector", errors),
    }
    if let Ok(Some(selector)) = LabelSelector::from_value(obj.pointer("/spec/selector"))
        && !selector.matches(labels)
    {
        let labels = labels.cloned().map_or(Value::Null, Value::Object);
        let detail = "`selector` does not match template `labels`";
        errors.invalid("spec.template.metadata.labels", labels, detail);
    }
}

/// The spec of a Job or of a template of Jobs; paths begin with `spec`.
fn job_spec(obj: &Value, errors: &mut ErrorList) {
    let spec = &obj["spec"];
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        let value = int(spec, &format!("/{field}")).unwrap_or(0);
        errors.non_negative(&format!("spec.{field}"), value);
    }
    if spec.get("maxFailedIndexes").is_some() && spec.get("backoffLimitPerIndex").is_none() {
        errors.required("spec.backoffLimitPerIndex", "when maxFailedIndexes is specified");
    }
    if let Some(manager) = spec.get("managedBy").and_then(Value::as_str) {
        if errors.present("spec.managedBy", manager) {
            for (of, problem) in domain_prefixed_path_problems(manager) {
                errors.invalid("spec.managedBy", of, problem);
            }
        }
        if manager.len() > MAX_MANAGED_BY {
            errors.push(FieldError::too_long("spec.managedBy", MAX_MANAGED_BY));
        }
    }
    match text(spec, "/completionMode") {
        "Indexed" => indexed(spec, errors),
        "" | "NonIndexed" => {
            for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
                if let Some(value) = spec.get(field) {
                    let detail = "requires indexed completion mode";
                    errors.invalid(format!("spec.{field}"), value.clone(), detail);
                }
            }
        }
        other => errors.one_of("spec.completionMode", other, &["NonIndexed", "Indexed"]),
    }
    failure_policy(spec, errors);
    success_policy(spec, errors);
    replacement_policy(spec, errors);
    template(spec.get("template"), "spec.template", errors);
    restart_policy(spec, errors);
}

fn indexed(spec: &Value, errors: &mut ErrorList) {
    let number = |field: &str| int(spec, &format!("/{field}"));
    let (completions, parallelism) = (number("completions"), number("parallelism").unwrap_or(0));
    let failed = number("maxFailedIndexes");
    let at_most = |errors: &mut ErrorList, field: &str, value: i64, most: i64, when: &str| {
        if value > most {
            let detail = format!("must be less than or equal to {most}{when}");
            errors.invalid(format!("spec.{field}"), value, detail);
        }
    };
    if completions.is_none() {
        errors.required("spec.completions", "when completion mode is Indexed");
    }
    let when = " when completion mode is Indexed";
    at_most(errors, "parallelism", parallelism, MAX_PARALLELISM, when);
    if let (Some(failed), Some(completions)) = (failed, completions)
        && failed > completions
    {
        let detail = "must be less than or equal to completions";
        errors.invalid("spec.maxFailedIndexes", failed, detail);
    }
    if let Some(failed) = failed {
        at_most(errors, "maxFailedIndexes", failed, MANY_COMPLETIONS, "");
    }
    let Some(completions) = completions else { return };
    let many = completions > MANY_COMPLETIONS && spec.get("backoffLimitPerIndex").is_some();
    if !many {
        return;
    }
    if failed.is_none() {
        let detail = format!("must be specified when completions is above {MANY_COMPLETIONS}");
        errors.required("spec.maxFailedIndexes", detail);
    }
    let when =
        format!(" when completions are above {MANY_COMPLETIONS} and used with backoff limit per index");
    at_most(errors, "parallelism", parallelism, MAX_PARALLELISM_OF_MANY, &when);
    if let Some(failed) = failed {
        at_most(
            errors,
            "maxFailedIndexes",
            failed,
            MAX_FAILED_INDEXES_OF_MANY,
            &when,
        );
    }
}

fn replacement_policy(spec: &Value, errors: &mut ErrorList) {
    if let Some(policy) = spec.get("podReplacementPolicy").and_then(Value::as_str) {
        let supported: &[&str] = if spec.get("podFailurePolicy").is_some() {
            &["Failed"]
        } else {
            &["Failed", "TerminatingOrFailed"]
        };
        errors.one_of("spec.podReplacementPolicy", policy, supported);
    }
}

fn restart_policy(spec: &Value, errors: &mut ErrorList) {
    let path = "spec.template.spec.restartPolicy";
    match text(spec, "/template/spec/restartPolicy") {
        // The default, which nobody chose.
        "" | "Always" => errors.required(path, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if spec.get("podFailurePolicy").is_some() => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.invalid(path, "OnFailure", detail);
        }
        "OnFailure" | "Never" => {}
        other => errors.one_of(path, other, &["OnFailure", "Never"]),
    }
}

/// What users are told about the spec of a Job.
pub(super) fn warnings(spec: &Value, path: &str) -> Vec<String> {
    let mut out = Vec::new();
    let number = |field: &str| int(spec, &format!("/{field}")).unwrap_or(0);
    if text(spec, "/completionMode") == "Indexed"
        && number("completions") > MANY_COMPLETIONS
        && number("parallelism") > MAX_PARALLELISM_OF_MANY
    {
        out.push(format!(
            "{path}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
        ));
    }
    out.extend(template_warnings(&spec["template"], &format!("{path}.template.")));
    out
}

/// Once running, a Job stays what it is.
pub(super) fn job_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    let before = map(old, "/spec/template/metadata/labels");
    let had = |key: &&str| before.is_some_and(|labels| labels.contains_key(*key));
    whole(new, PREFIXED_LABELS.iter().all(had), errors);
    completions(new, old, errors);
    let immutable = |field: &str, errors: &mut ErrorList| {
        errors.immutable(
            &format!("spec.{field}"),
            new["spec"].get(field),
            old["spec"].get(field),
        );
    };
    immutable("selector", errors);
    let mut then = old["spec"]["template"].clone();
    if is_suspended(old) {
        follow_scheduling(&mut then, &new["spec"]["template"]);
        if int(old, "/status/active").unwrap_or(0) == 0 {
            follow_resources(&mut then["spec"], &new["spec"]["template"]["spec"]);
        }
    }
    errors.immutable("spec.template", Some(&new["spec"]["template"]), Some(&then));
    for field in [
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ] {
        immutable(field, errors);
    }
}

/// The number of indexes may follow the parallelism.
fn completions(new: &Value, old: &Value, errors: &mut ErrorList) {
    let path = "spec.completions";
    let (now, then) = (new.pointer("/spec/completions"), old.pointer("/spec/completions"));
    if text(new, "/spec/completionMode") != "Indexed" {
        errors.immutable(path, now, then);
    } else if let Some(now) =
        now.filter(|now| Some(*now) != then && Some(*now) != new.pointer("/spec/parallelism"))
    {
        let detail = "can only be modified in tandem with spec.parallelism";
        errors.invalid(path, now.clone(), detail);
    }
}

/// A suspended Job none of whose pods are left may still be steered elsewhere.
fn is_suspended(job: &Value) -> bool {
    let stopped = list(job, "/status/conditions")
        .iter()
        .any(|c| text(c, "/type") == "Suspended" && text(c, "/status") == "True");
    is_true(job, "/spec/suspend") && (stopped || text(job, "/status/startTime").is_empty())
}

/// Puts into the old template's spec what the new one's containers ask for.
fn follow_resources(old: &mut Value, new: &Value) {
    for field in ["containers", "initContainers"] {
        let containers = old.get_mut(field).and_then(Value::as_array_mut);
        let asked = list(new, &format!("/{field}"));
        for (container, asked) in containers.into_iter().flatten().zip(asked) {
            keep(container, asked, "resources");
        }
    }
}

/// Puts into the old template what the new one says about where pods go.
fn follow_scheduling(old: &mut Value, new: &Value) {
    let mut follow = |parent: &str, field: &str| {
        let value = new.pointer(&format!("{parent}/{field}")).cloned();
        let Some(owner) = old.pointer_mut(parent).and_then(Value::as_object_mut) else {
            return;
        };
        match value {
            Some(value) => owner.insert(field.into(), value),
            None => owner.remove(field),
        };
    };
    for field in ["nodeSelector", "tolerations", "schedulingGates"] {
        follow("/spec", field);
    }
    for field in ["labels", "annotations"] {
        follow("/metadata", field);
    }
    let (now, then) = (
        new.pointer("/spec/affinity").is_some(),
        old.pointer("/spec/affinity").is_some(),
    );
    if now && !then {
        old["spec"]["affinity"] = json!({});
    }
    let mut follow = |parent: &str, field: &str| {
        let value = new.pointer(&format!("{parent}/{field}")).cloned();
        if let Some(owner) = old.pointer_mut(parent).and_then(Value::as_object_mut) {
            match value {
                Some(value) => owner.insert(field.into(), value),
                None => owner.remove(field),
            };
        }
    };
    follow("/spec/affinity", "nodeAffinity");
    if !now
        && old.pointer("/spec/affinity") == Some(&json!({}))
        && let Some(spec) = old.get_mut("spec").and_then(Value::as_object_mut)
    {
        spec.remove("affinity");
    }
}

/// A CronJob, new or updated.
pub(super) fn cron_job(obj: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let spec = &obj["spec"];
    let schedule = text(spec, "/schedule");
    let zone = spec.get("timeZone").and_then(Value::as_str);
    if errors.present("spec.schedule", schedule) {
        if let Some(problem) = schedule_problem(schedule) {
            errors.invalid("spec.schedule", schedule, problem);
        }
        let allowed = old.is_some_and(|old| text(old, "/spec/schedule").contains("TZ"));
        if schedule.contains("TZ") {
            match (allowed, zone) {
                (true, Some(_)) => {
                    let detail = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
                    errors.invalid("spec.schedule", schedule, detail);
                }
                (true, None) => {}
                (false, _) => {
                    let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
                    errors.invalid("spec.schedule", schedule, detail);
                }
            }
        }
    }
    let non_negative = |field: &str, errors: &mut ErrorList| {
        let value = int(spec, &format!("/{field}")).unwrap_or(0);
        errors.non_negative(&format!("spec.{field}"), value);
    };
    non_negative("startingDeadlineSeconds", errors);
    let before = old.map(|old| old.pointer("/spec/timeZone").and_then(Value::as_str));
    if let Some(zone) = zone.filter(|_| before != Some(zone))
        && let Some(problem) = time_zone_problem(zone)
    {
        errors.invalid("spec.timeZone", zone, problem);
    }
    let policy = text(spec, "/concurrencyPolicy");
    if errors.present("spec.concurrencyPolicy", policy) {
        errors.one_of("spec.concurrencyPolicy", policy, &["Allow", "Forbid", "Replace"]);
    }
    let mut inner = ErrorList::new();
    job_spec(&spec["jobTemplate"], &mut inner);
    errors.under("spec.jobTemplate", inner);
    let template = &spec["jobTemplate"]["spec"];
    if let Some(selector) = template.get("selector") {
        let path = "spec.jobTemplate.spec.selector";
        errors.invalid(path, selector.clone(), "`selector` will be auto-generated");
    }
    if is_true(template, "/manualSelector") {
        let path = "spec.jobTemplate.spec.manualSelector";
        let mut error = FieldError::not_supported(path, "", &["nil", "false"]);
        error.bad_value = "true".into();
        errors.push(error);
    }
    non_negative("successfulJobsHistoryLimit", errors);
    non_negative("failedJobsHistoryLimit", errors);
    if old.is_none() && meta::name(obj).len() > MAX_CRON_JOB_NAME {
        let detail = format!("must be no more than {MAX_CRON_JOB_NAME} characters");
        errors.invalid("metadata.name", meta::name(obj), detail);
    }
}

//! Jobs and CronJobs.

use super::access::{Object, child, each, ensure, int, set};
use super::kind::Kind;
use super::pod::default::template;
use super::pod::warnings;
use super::{Traits, generic_prepare_for_create};
use crate::meta;
use serde_json::Value;

mod job;
mod policy;
mod schedule;
mod status;

const SPEC: &[&str] = &["spec"];

/// Jobs.
pub(super) static JOB: Kind = Kind::namespaced("io.k8s.api.batch.v1.Job")
    .warns(|obj, old| {
        let mut out = warnings::name_of_pods(obj, old);
        if meta::is_next_generation(obj, old) {
            out.extend(job::warnings(&obj["spec"], "spec"));
        }
        out
    })
    .status()
    .generation(SPEC)
    .orphans()
    .defaults(|obj| {
        let labels = obj
            .get("spec")
            .and_then(|s| s.pointer("/template/metadata/labels"))
            .filter(|l| l.as_object().is_some_and(|l| !l.is_empty()))
            .cloned();
        if let Some(labels) = labels {
            let metadata = ensure(obj, "metadata");
            if metadata
                .get("labels")
                .and_then(Value::as_object)
                .is_none_or(Object::is_empty)
            {
                metadata.insert("labels".into(), labels);
            }
        }
        let spec = ensure(obj, "spec");
        if !spec.contains_key("completions") && !spec.contains_key("parallelism") {
            set(spec, "completions", 1);
        }
        set(spec, "parallelism", 1);
        let backoff = if spec.contains_key("backoffLimitPerIndex") {
            i64::from(i32::MAX)
        } else {
            6
        };
        set(spec, "backoffLimit", backoff);
        set(spec, "completionMode", "NonIndexed");
        set(spec, "suspend", false);
        set(spec, "manualSelector", false);
        if spec["manualSelector"] == false {
            spec.remove("manualSelector");
        }
        let replacement = if spec.contains_key("podFailurePolicy") {
            "Failed"
        } else {
            "TerminatingOrFailed"
        };
        set(spec, "podReplacementPolicy", replacement);
        failure_policy(spec);
        template(spec);
    })
    .prepares_create(create_job)
    .validates(job::job)
    .validates_update(job::job_update)
    .validates_status(status::status)
    .selectable(|obj| {
        vec![(
            "status.successful",
            int(obj, "/status/succeeded").unwrap_or(0).to_string(),
        )]
    });

fn failure_policy(spec: &mut Object) {
    let Some(policy) = child(spec, "podFailurePolicy") else {
        return;
    };
    for rule in each(policy, "rules") {
        for condition in each(rule, "onPodConditions") {
            set(condition, "status", "True");
        }
    }
}

/// A Job owns its pods by its uid unless it brings a selector of its own.
fn create_job(traits: &Traits, obj: &mut Value) {
    generic_prepare_for_create(traits, obj);
    if obj.pointer("/spec/manualSelector") == Some(&Value::Bool(true)) {
        return;
    }
    let (uid, name) = (meta::uid(obj).to_string(), meta::name(obj).to_string());
    let Some(map) = obj.as_object_mut() else { return };
    let spec = ensure(map, "spec");
    let labels = ensure(ensure(ensure(spec, "template"), "metadata"), "labels");
    for (key, value) in [
        ("controller-uid", &uid),
        ("job-name", &name),
        ("batch.kubernetes.io/controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
    ] {
        labels.entry(key).or_insert_with(|| value.as_str().into());
    }
    let selector = ensure(ensure(spec, "selector"), "matchLabels");
    let key = "batch.kubernetes.io/controller-uid";
    selector.entry(key).or_insert_with(|| uid.as_str().into());
}

/// CronJobs.
pub(super) static CRON_JOB: Kind = Kind::namespaced("io.k8s.api.batch.v1.CronJob")
    .warns(|obj, old| {
        let mut out = warnings::name_of_pods(obj, old);
        if meta::is_next_generation(obj, old) {
            let spec = &obj["spec"]["jobTemplate"]["spec"];
            out.extend(job::warnings(spec, "spec.jobTemplate.spec"));
        }
        if super::access::text(obj, "/spec/schedule").contains("TZ") {
            out.push(schedule::ZONE_WARNING.into());
        }
        out
    })
    .status()
    .generation(SPEC)
    .defaults(|obj| {
        let spec = ensure(obj, "spec");
        set(spec, "concurrencyPolicy", "Allow");
        set(spec, "suspend", false);
        set(spec, "successfulJobsHistoryLimit", 3);
        set(spec, "failedJobsHistoryLimit", 1);
        if let Some(job) = child(spec, "jobTemplate").and_then(|t| child(t, "spec")) {
            failure_policy(job);
            template(job);
        }
    })
    .validates(|obj, errors| job::cron_job(obj, None, errors))
    .validates_update(|new, old, errors| job::cron_job(new, Some(old), errors));

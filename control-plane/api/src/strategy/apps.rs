//! Deployments, ReplicaSets, ReplicationControllers, DaemonSets, StatefulSets, ControllerRevisions, PodDisruptionBudgets.

use super::access::{each, ensure, int, list, set};
use super::kind::Kind;
use super::pod::default::template;
use super::pod::warnings;
use super::{ScaleMapping, generic_reset_fields, keep_metadata, set_generation};
use crate::meta::{self, NameRule};
use serde_json::{Value, json};

mod status;
mod validate;

const SPEC: &[&str] = &["spec"];

const SCALE: ScaleMapping = ScaleMapping {
    spec_replicas: &["spec", "replicas"],
    status_replicas: &["status", "replicas"],
    selector: &["spec", "selector"],
};

/// What users are told about the pods that a workload makes, whenever they change what it is to do.
fn template_warnings(obj: &Value, old: Option<&Value>) -> Vec<String> {
    match meta::is_next_generation(obj, old) {
        true => warnings::template(&obj["spec"]["template"], "spec.template."),
        false => Vec::new(),
    }
}

/// The same of a workload whose pods have its name in theirs.
pub(super) fn named_template_warnings(obj: &Value, old: Option<&Value>) -> Vec<String> {
    let mut out = warnings::name_of_pods(obj, old);
    out.extend(template_warnings(obj, old));
    out
}

fn stateful_set_warnings(obj: &Value, old: Option<&Value>) -> Vec<String> {
    let mut out = template_warnings(obj, old);
    // Upstream names another part of a claim at an update.
    let part = if old.is_some() { ".Spec" } else { "" };
    for (i, claim) in list(obj, "/spec/volumeClaimTemplates").iter().enumerate() {
        let path = format!("spec.volumeClaimTemplates[{i}]{part}");
        out.extend(super::storage::claim_warning(&claim["spec"], &path));
    }
    if int(obj, "/spec/revisionHistoryLimit").is_some_and(|limit| limit < 0) {
        out.push(
            "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended"
                .into(),
        );
    }
    out
}

/// Deployments.
pub(super) static DEPLOYMENT: Kind = Kind::namespaced("io.k8s.api.apps.v1.Deployment")
    .warns(named_template_warnings)
    .status()
    .generation(SPEC)
    .defaults(|obj| {
        let spec = ensure(obj, "spec");
        set(spec, "replicas", 1);
        set(spec, "revisionHistoryLimit", 10);
        set(spec, "progressDeadlineSeconds", 600);
        let strategy = ensure(spec, "strategy");
        set(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            let rolling = ensure(strategy, "rollingUpdate");
            set(rolling, "maxUnavailable", "25%");
            set(rolling, "maxSurge", "25%");
        }
        template(spec);
    })
    .prepares_update(|traits, new, old| {
        super::generic_prepare_for_update(traits, new, old);
        // Annotations go on to the ReplicaSets, so changing them is a change too.
        let annotations = |obj: &Value| meta::annotations(obj).cloned().unwrap_or_default();
        if annotations(new) != annotations(old) {
            set_generation(new, meta::generation(old) + 1);
        }
    })
    .prepares_status(|new, old| {
        super::generic_prepare_for_status_update(new, old);
        keep_metadata(new, old, "labels");
    })
    .resets(|traits, subresource| match subresource {
        "status" => &["spec", "metadata.labels"],
        other => generic_reset_fields(traits, other),
    })
    .validates(validate::deployment)
    .validates_update(validate::deployment_update)
    .validates_status(status::deployment)
    .scales(SCALE);

/// ReplicaSets.
pub(super) static REPLICA_SET: Kind = Kind::namespaced("io.k8s.api.apps.v1.ReplicaSet")
    .warns(named_template_warnings)
    .status()
    .generation(SPEC)
    .defaults(|obj| {
        let spec = ensure(obj, "spec");
        set(spec, "replicas", 1);
        template(spec);
    })
    .prepares_create(|traits, obj| {
        super::generic_prepare_for_create(traits, obj);
        obj["status"] = json!({"replicas": 0});
    })
    .validates(validate::replica_set)
    .validates_update(validate::replica_set_update)
    .validates_status(|new, _, errors| status::replica_set(new, errors))
    .selectable(|obj| {
        vec![(
            "status.replicas",
            int(obj, "/status/replicas").unwrap_or(0).to_string(),
        )]
    })
    .scales(SCALE);

/// ReplicationControllers: labels and selector come from the template.
pub(super) static REPLICATION_CONTROLLER: Kind = Kind::namespaced("io.k8s.api.core.v1.ReplicationController")
    .warns(named_template_warnings)
    .status()
    .generation(SPEC)
    .orphans()
    .defaults(|obj| {
        let labels = obj
            .get("spec")
            .and_then(|s| s.pointer("/template/metadata/labels"))
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default();
        if !labels.is_empty() {
            let own = ensure(ensure(obj, "metadata"), "labels");
            if own.is_empty() {
                *own = labels.clone();
            }
            let selector = ensure(ensure(obj, "spec"), "selector");
            if selector.is_empty() {
                *selector = labels;
            }
        }
        let spec = ensure(obj, "spec");
        set(spec, "replicas", 1);
        template(spec);
    })
    .validates(validate::replication_controller)
    .validates_status(|new, _, errors| status::replica_set(new, errors))
    .selectable(|obj| {
        vec![(
            "status.replicas",
            int(obj, "/status/replicas").unwrap_or(0).to_string(),
        )]
    })
    .scales(SCALE);

/// DaemonSets.
pub(super) static DAEMON_SET: Kind = Kind::namespaced("io.k8s.api.apps.v1.DaemonSet")
    .warns(template_warnings)
    .status()
    .generation(SPEC)
    .defaults(|obj| {
        let spec = ensure(obj, "spec");
        set(spec, "revisionHistoryLimit", 10);
        let strategy = ensure(spec, "updateStrategy");
        set(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            let rolling = ensure(strategy, "rollingUpdate");
            set(rolling, "maxUnavailable", 1);
            set(rolling, "maxSurge", 0);
        }
        template(spec);
    })
    .prepares_create(|traits, obj| {
        super::generic_prepare_for_create(traits, obj);
        if let Some(spec) = obj.get_mut("spec").and_then(Value::as_object_mut) {
            spec.remove("templateGeneration");
        }
        stamp_template_generation(obj, 1);
    })
    .prepares_update(|traits, new, old| {
        super::generic_prepare_for_update(traits, new, old);
        let before = meta::annotations(old)
            .and_then(|a| a.get(TEMPLATE_GENERATION))
            .and_then(Value::as_str)
            .and_then(|t| t.parse::<i64>().ok())
            .unwrap_or(0);
        let changed = new.pointer("/spec/template") != old.pointer("/spec/template");
        stamp_template_generation(new, before + i64::from(changed));
    })
    .validates(validate::daemon_set)
    .validates_update(validate::daemon_set_update)
    .validates_status(status::daemon_set);

/// What is left of the field of v1beta1.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn stamp_template_generation(obj: &mut Value, generation: i64) {
    let annotations = ensure(meta::metadata_mut(obj), "annotations");
    annotations.insert(TEMPLATE_GENERATION.into(), generation.to_string().into());
}

/// StatefulSets.
pub(super) static STATEFUL_SET: Kind = Kind::namespaced("io.k8s.api.apps.v1.StatefulSet")
    .warns(stateful_set_warnings)
    .name(NameRule::Label)
    .status()
    .generation(SPEC)
    .defaults(|obj| {
        let spec = ensure(obj, "spec");
        set(spec, "replicas", 1);
        set(spec, "revisionHistoryLimit", 10);
        set(spec, "podManagementPolicy", "OrderedReady");
        let strategy = ensure(spec, "updateStrategy");
        set(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            set(ensure(strategy, "rollingUpdate"), "partition", 0);
        }
        let retention = ensure(spec, "persistentVolumeClaimRetentionPolicy");
        set(retention, "whenDeleted", "Retain");
        set(retention, "whenScaled", "Retain");
        for claim in each(spec, "volumeClaimTemplates") {
            set(claim, "apiVersion", "v1");
            set(claim, "kind", "PersistentVolumeClaim");
            set(ensure(claim, "spec"), "volumeMode", "Filesystem");
            set(ensure(claim, "status"), "phase", "Pending");
        }
        template(spec);
    })
    .validates(validate::stateful_set)
    .validates_update(validate::stateful_set_update)
    .validates_status(status::stateful_set)
    .scales(SCALE);

/// ControllerRevisions.
pub(super) static CONTROLLER_REVISION: Kind = Kind::namespaced("io.k8s.api.apps.v1.ControllerRevision")
    .validates(status::revision)
    .validates_update(status::revision_update);

/// PodDisruptionBudgets.
pub(super) static DISRUPTION_BUDGET: Kind = Kind::namespaced("io.k8s.api.policy.v1.PodDisruptionBudget")
    .name(NameRule::PathSegment)
    .conditional_update()
    .status()
    .generation(SPEC)
    .validates(validate::disruption_budget)
    .validates_status(|new, _, errors| status::disruption_budget(new, errors));

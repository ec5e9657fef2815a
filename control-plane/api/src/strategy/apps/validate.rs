//! Checks of workloads: a selector that matches the template, a template that can run, numbers in range.

use crate::meta;
use crate::selector::LabelSelector;
use crate::strategy::access::{int, list, map, text};
use crate::strategy::pod::validate::{label_selector, template};
use crate::strategy::storage::claim_spec;
use crate::validation::text::label_problems;
use crate::validation::{ErrorList, FieldError, shown};
use serde_json::{Value, json};

pub(super) fn deployment(obj: &Value, errors: &mut ErrorList) {
    errors.non_negative("spec.replicas", int(obj, "/spec/replicas").unwrap_or(0));
    selector_and_template(obj, errors);
    let strategy = obj.pointer("/spec/strategy").unwrap_or(&Value::Null);
    match text(strategy, "/type") {
        "Recreate" if strategy.get("rollingUpdate").is_some() => {
            let detail = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(FieldError::forbidden("spec.strategy.rollingUpdate", detail));
        }
        "Recreate" => {}
        "RollingUpdate" => rolling_update(strategy, "spec.strategy.rollingUpdate", errors),
        other => {
            let mut error =
                FieldError::not_supported("spec.strategy.type", other, &["Recreate", "RollingUpdate"]);
            // Upstream blames the whole strategy and prints it as a Go struct.
            error.path = "spec.strategy".into();
            error.bad_value = format!(
                "apps.DeploymentStrategy{{Type:{}, RollingUpdate:(*apps.RollingUpdateDeployment)(nil)}}",
                shown(&other.into())
            );
            errors.push(error);
        }
    }
    let ready = int(obj, "/spec/minReadySeconds").unwrap_or(0);
    errors.non_negative("spec.minReadySeconds", ready);
    errors.non_negative(
        "spec.revisionHistoryLimit",
        int(obj, "/spec/revisionHistoryLimit").unwrap_or(0),
    );
    if let Some(deadline) = int(obj, "/spec/progressDeadlineSeconds") {
        errors.non_negative("spec.progressDeadlineSeconds", deadline);
        if deadline <= ready {
            let detail = "must be greater than minReadySeconds";
            errors.push(FieldError::invalid(
                "spec.progressDeadlineSeconds",
                &deadline.into(),
                detail,
            ));
        }
    }
}

/// The selector is there and matches the template, whose pods are always restarted. Where the selector cannot be read, nothing
/// more is said about the template.
fn selector_and_template(obj: &Value, errors: &mut ErrorList) {
    required_selector(obj, "deployment", errors);
    let selector = obj.pointer("/spec/selector");
    match LabelSelector::from_value(selector) {
        Ok(selector) => {
            matching_labels(obj, selector.as_ref(), errors);
            checked_template(obj, "ReplicaSet", errors);
        }
        Err(_) => unreadable_selector(selector, "invalid label selector", errors),
    }
}

/// The selector is there, can be read and selects something.
fn required_selector(obj: &Value, kind: &str, errors: &mut ErrorList) {
    match obj.pointer("/spec/selector") {
        None => errors.required("spec.selector", ""),
        Some(selector) => {
            label_selector(selector, "spec.selector", errors);
            empty_selector(selector, kind, errors);
        }
    }
}

fn empty_selector(selector: &Value, kind: &str, errors: &mut ErrorList) {
    let no_labels = map(selector, "/matchLabels").is_none_or(|labels| labels.is_empty());
    if no_labels && list(selector, "/matchExpressions").is_empty() {
        let detail = format!("empty selector is invalid for {kind}");
        errors.invalid("spec.selector", selector.clone(), detail);
    }
}

fn unreadable_selector(selector: Option<&Value>, detail: &str, errors: &mut ErrorList) {
    let shown = selector.cloned().unwrap_or_default();
    errors.invalid("spec.selector", shown, detail);
}

/// The template's labels are selected: by no selector nothing is, by an empty one everything.
fn matching_labels(obj: &Value, selector: Option<&LabelSelector>, errors: &mut ErrorList) {
    let labels = obj.pointer("/spec/template/metadata/labels");
    let matches = selector.is_some_and(|selector| selector.matches(labels.and_then(Value::as_object)));
    if !matches {
        let mut error = FieldError::invalid(
            "spec.template.metadata.labels",
            labels.unwrap_or(&Value::Null),
            "`selector` does not match template `labels`",
        );
        if labels.is_none() {
            error.bad_value = "map[string]string(nil)".into();
        }
        errors.push(error);
    }
}

fn checked_template(obj: &Value, kind: &str, errors: &mut ErrorList) {
    template(obj.pointer("/spec/template"), "spec.template", errors);
    always_restarted(obj, kind, errors);
}

/// Controllers replace pods that ended; pods that are to end are not theirs.
fn always_restarted(obj: &Value, kind: &str, errors: &mut ErrorList) {
    let policy = text(obj, "/spec/template/spec/restartPolicy");
    errors.one_of("spec.template.spec.restartPolicy", policy, &["Always"]);
    if obj.pointer("/spec/template/spec/activeDeadlineSeconds").is_some() {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.forbidden("spec.template.spec.activeDeadlineSeconds", detail);
    }
}

/// An IntOrString as a number or a percentage; `None` for other texts.
fn amount(value: Option<&Value>) -> Option<i64> {
    match value? {
        Value::String(s) => {
            let digits = s.strip_suffix('%')?;
            let percent = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            percent.then(|| digits.parse().unwrap_or(i64::MAX))
        }
        other => other.as_i64(),
    }
}

/// Whether an IntOrString is nothing; texts that are neither a percentage nor a number are.
fn is_zero(value: Option<&Value>) -> bool {
    let written = || value?.as_str()?.parse().ok();
    amount(value).or_else(written).unwrap_or(0) == 0
}

fn int_or_percent(value: Option<&Value>, path: &str, errors: &mut ErrorList) {
    let Some(value) = value else { return };
    match amount(Some(value)) {
        None => {
            let detail = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
            errors.push(FieldError::invalid(path, value, detail));
        }
        Some(n) if n < 0 => errors.push(FieldError::invalid(path, value, crate::validation::NOT_NEGATIVE)),
        Some(n)
            if value.is_string() && n > 100 && !path.starts_with("spec.strategy.rollingUpdate.maxSurge") =>
        {
            errors.push(FieldError::invalid(path, value, "must not be greater than 100%"));
        }
        Some(_) => {}
    }
}

fn rolling_update(strategy: &Value, path: &str, errors: &mut ErrorList) {
    let Some(rolling) = strategy.get("rollingUpdate") else {
        errors.push(FieldError::required(
            path,
            "this should be defaulted and never be nil",
        ));
        return;
    };
    for field in ["maxUnavailable", "maxSurge"] {
        int_or_percent(rolling.get(field), &format!("{path}.{field}"), errors);
    }
    if is_zero(rolling.get("maxUnavailable")) && is_zero(rolling.get("maxSurge")) {
        let zero = rolling.get("maxUnavailable").unwrap_or(&Value::Null);
        let mut error = FieldError::invalid(
            format!("{path}.maxUnavailable"),
            zero,
            "may not be 0 when `maxSurge` is 0",
        );
        error.bad_value = zero.as_str().map_or_else(|| zero.to_string(), str::to_string);
        errors.push(error);
    }
}

fn immutable_selector(new: &Value, old: &Value, errors: &mut ErrorList) {
    let (now, then) = (new.pointer("/spec/selector"), old.pointer("/spec/selector"));
    errors.immutable("spec.selector", now, then);
}

pub(super) fn deployment_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    deployment(new, errors);
    immutable_selector(new, old, errors);
}

pub(super) fn replica_set(obj: &Value, errors: &mut ErrorList) {
    errors.non_negative("spec.replicas", int(obj, "/spec/replicas").unwrap_or(0));
    errors.non_negative(
        "spec.minReadySeconds",
        int(obj, "/spec/minReadySeconds").unwrap_or(0),
    );
    selector_and_template(obj, errors);
}

pub(super) fn replica_set_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    replica_set(new, errors);
    immutable_selector(new, old, errors);
}

pub(super) fn replication_controller(obj: &Value, errors: &mut ErrorList) {
    errors.non_negative(
        "spec.minReadySeconds",
        int(obj, "/spec/minReadySeconds").unwrap_or(0),
    );
    errors.non_negative("spec.replicas", int(obj, "/spec/replicas").unwrap_or(0));
    let selector = map(obj, "/spec/selector").filter(|s| !s.is_empty());
    let labels = map(obj, "/spec/template/metadata/labels");
    match selector {
        None => errors.push(FieldError::required("spec.selector", "")),
        Some(selector) if !LabelSelector::from_map(selector).matches(labels) => {
            let labels = labels.cloned().map_or(Value::Null, Value::Object);
            let detail = "`selector` does not match template `labels`";
            errors.push(FieldError::invalid(
                "spec.template.metadata.labels",
                &labels,
                detail,
            ));
        }
        Some(_) => {}
    }
    if obj.pointer("/spec/template").is_none() {
        errors.push(FieldError::required("spec.template", ""));
    } else {
        checked_template(obj, "ReplicationController", errors);
    }
}

pub(super) fn daemon_set(obj: &Value, errors: &mut ErrorList) {
    let selector = obj.pointer("/spec/selector");
    if let Some(selector) = selector {
        label_selector(selector, "spec.selector", errors);
    }
    if let Ok(read) = LabelSelector::from_value(selector) {
        matching_labels(obj, read.as_ref(), errors);
    }
    if let Some(selector) = selector {
        empty_selector(selector, "daemonset", errors);
    }
    checked_template(obj, "DaemonSet", errors);
    errors.non_negative(
        "spec.minReadySeconds",
        int(obj, "/spec/minReadySeconds").unwrap_or(0),
    );
    let strategy = obj.pointer("/spec/updateStrategy").unwrap_or(&Value::Null);
    match text(strategy, "/type") {
        "OnDelete" => {}
        "RollingUpdate" => daemon_rolling_update(strategy, errors),
        other => {
            let mut error =
                FieldError::not_supported("spec.updateStrategy", other, &["RollingUpdate", "OnDelete"]);
            error.bad_value = format!(r#"{{"Type":{},"RollingUpdate":null}}"#, shown(&other.into()));
            errors.push(error);
        }
    }
    errors.non_negative(
        "spec.revisionHistoryLimit",
        int(obj, "/spec/revisionHistoryLimit").unwrap_or(0),
    );
}

/// Pods are taken away before or put beside: one of the two.
fn daemon_rolling_update(strategy: &Value, errors: &mut ErrorList) {
    let path = "spec.updateStrategy.rollingUpdate";
    let Some(rolling) = strategy.get("rollingUpdate") else {
        return errors.required(path, "");
    };
    let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
    int_or_percent(unavailable, &format!("{path}.maxUnavailable"), errors);
    int_or_percent(surge, &format!("{path}.maxSurge"), errors);
    match (is_zero(unavailable), is_zero(surge)) {
        (false, false) => {
            let surge = surge.cloned().unwrap_or_default();
            let detail = "may not be set when maxUnavailable is non-zero";
            errors.invalid(format!("{path}.maxSurge"), surge, detail);
        }
        (true, true) => {
            errors.required(format!("{path}.maxUnavailable"), "cannot be 0 when maxSurge is 0");
        }
        _ => {}
    }
}

pub(super) fn daemon_set_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    daemon_set(new, errors);
    immutable_selector(new, old, errors);
}

/// What holds for StatefulSets new and old.
fn stateful_set_spec(obj: &Value, errors: &mut ErrorList) {
    let policy = text(obj, "/spec/podManagementPolicy");
    if errors.present("spec.podManagementPolicy", policy) && !matches!(policy, "OrderedReady" | "Parallel") {
        let detail = "must be 'OrderedReady' or 'Parallel'";
        errors.invalid("spec.podManagementPolicy", policy, detail);
    }
    let rolling = obj.pointer("/spec/updateStrategy/rollingUpdate");
    match text(obj, "/spec/updateStrategy/type") {
        "" => errors.required("spec.updateStrategy", ""),
        "OnDelete" => {
            if let Some(rolling) = rolling {
                let detail = "only allowed for updateStrategy 'RollingUpdate'";
                errors.invalid("spec.updateStrategy.rollingUpdate", rolling.clone(), detail);
            }
        }
        "RollingUpdate" => {
            let path = "spec.updateStrategy.rollingUpdate";
            let partition = rolling.and_then(|r| r.get("partition")?.as_i64()).unwrap_or(0);
            errors.non_negative(&format!("{path}.partition"), partition);
            let unavailable = rolling.and_then(|r| r.get("maxUnavailable"));
            int_or_percent(unavailable, &format!("{path}.maxUnavailable"), errors);
            if let (true, Some(zero)) = (is_zero(unavailable), unavailable) {
                errors.invalid(format!("{path}.maxUnavailable"), zero.clone(), "cannot be 0");
            }
        }
        _ => {
            let strategy = obj["spec"]["updateStrategy"].clone();
            let detail = "must be 'RollingUpdate' or 'OnDelete'";
            errors.invalid("spec.updateStrategy", strategy, detail);
        }
    }
    for field in ["whenDeleted", "whenScaled"] {
        let at = format!("spec.persistentVolumeClaimRetentionPolicy.{field}");
        let value = text(
            obj,
            &format!("/spec/persistentVolumeClaimRetentionPolicy/{field}"),
        );
        errors.one_of(&at, value, &["Retain", "Delete"]);
    }
    for field in ["replicas", "minReadySeconds", "ordinals.start"] {
        let pointer = format!("/spec/{}", field.replace('.', "/"));
        errors.non_negative(&format!("spec.{field}"), int(obj, &pointer).unwrap_or(0));
    }
    required_selector(obj, "statefulset", errors);
    let selector = obj.pointer("/spec/selector");
    match LabelSelector::from_value(selector) {
        Ok(selector) => matching_labels(obj, selector.as_ref(), errors),
        Err(_) => unreadable_selector(selector, "", errors),
    }
}

/// A new StatefulSet.
pub(super) fn stateful_set(obj: &Value, errors: &mut ErrorList) {
    stateful_set_spec(obj, errors);
    let service = text(obj, "/spec/serviceName");
    if !service.is_empty() {
        errors.problems("spec.serviceName", service, label_problems(service));
    }
    for (i, claim) in list(obj, "/spec/volumeClaimTemplates").iter().enumerate() {
        let mut inner = ErrorList::new();
        claim_spec(&claim["spec"], &mut inner);
        errors.under(&format!("spec.volumeClaimTemplates[{i}]"), inner);
    }
    template(Some(&with_claims(obj)), "spec.template", errors);
    always_restarted(obj, "StatefulSet", errors);
}

/// The template with the volumes that its pods will have: a claim takes the place of a volume of its name.
fn with_claims(obj: &Value) -> Value {
    let mut template = obj.pointer("/spec/template").cloned().unwrap_or_default();
    let claims = list(obj, "/spec/volumeClaimTemplates").iter().map(meta::name);
    let claims: Vec<&str> = claims.collect();
    if claims.is_empty() {
        return template;
    }
    let Some(spec) = template.get_mut("spec").and_then(Value::as_object_mut) else {
        return template;
    };
    let volumes = spec.entry("volumes").or_insert_with(|| json!([]));
    let Some(volumes) = volumes.as_array_mut() else {
        return template;
    };
    for name in claims {
        let volume = json!({"name": name, "persistentVolumeClaim": {"claimName": name}});
        match volumes.iter_mut().find(|volume| volume["name"] == name) {
            Some(place) => *place = volume,
            None => volumes.push(volume),
        }
    }
    template
}

pub(super) fn stateful_set_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    const MUTABLE: [&str; 7] = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    stateful_set_spec(new, errors);
    // Templates were not always checked: one that is not fit for pods may stay.
    let mut before = ErrorList::new();
    template(Some(&with_claims(old)), "spec.template", &mut before);
    if before.is_empty() {
        template(Some(&with_claims(new)), "spec.template", errors);
    }
    always_restarted(new, "StatefulSet", errors);
    let fields = |obj: &Value| {
        map(obj, "/spec")
            .map(|m| m.keys().cloned().collect::<Vec<_>>())
            .unwrap_or_default()
    };
    let changed = fields(new)
        .iter()
        .chain(&fields(old))
        .any(|f| !MUTABLE.contains(&f.as_str()) && new["spec"].get(f) != old["spec"].get(f));
    if changed {
        let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        errors.push(FieldError::forbidden("spec", detail));
    }
}

pub(super) fn disruption_budget(obj: &Value, errors: &mut ErrorList) {
    let (min, max) = (
        obj.pointer("/spec/minAvailable"),
        obj.pointer("/spec/maxUnavailable"),
    );
    if min.is_some() && max.is_some() {
        let detail = "minAvailable and maxUnavailable cannot be both set";
        errors.push(FieldError::invalid("spec", &obj["spec"], detail));
    }
    int_or_percent(min, "spec.minAvailable", errors);
    int_or_percent(max, "spec.maxUnavailable", errors);
    if let Some(selector) = obj.pointer("/spec/selector") {
        label_selector(selector, "spec.selector", errors);
    }
    if let Some(policy) = obj
        .pointer("/spec/unhealthyPodEvictionPolicy")
        .and_then(Value::as_str)
    {
        let supported = ["AlwaysAllow", "IfHealthyBudget"];
        errors.one_of("spec.unhealthyPodEvictionPolicy", policy, &supported);
    }
}

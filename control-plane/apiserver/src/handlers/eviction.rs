//! Eviction: a deletion that asks the PodDisruptionBudgets first.

use std::sync::Arc;

use api::{
    decode::Expected,
    meta,
    schema::TypeRef,
    selector::LabelSelector,
    status::{self, Status},
};
use serde_json::{Value, json};

use super::{
    delete::{DeleteOptions, delete_object},
    write::{modify, read_expected, settle_namespace},
};
use crate::{
    body::RequestBody,
    context::{Context, now, store_error},
    respond::{HttpResponse, status_response},
    watch_cache::{Filter, Object, encode},
};

/// So many evictions may wait for the disruption controller to see them.
const DISRUPTED_PODS_MAX: usize = 2000;

/// Evicts the pod that the path names.
pub(super) async fn create(context: &mut Context, body: RequestBody) -> Result<HttpResponse, Status> {
    let schema = TypeRef::by_name("io.k8s.api.policy.v1.Eviction")
        .ok_or_else(|| status::internal_error("Eviction is not known"))?;
    let expected = Expected {
        group: "policy",
        version: "v1",
        kind: "Eviction",
        schema,
    };
    let mut eviction = read_expected(context, body, expected).await?;
    settle_namespace(context, &mut eviction)?;
    if meta::name(&eviction) != context.info.name {
        return Err(status::bad_request(
            "name in URL does not match name in Eviction object",
        ));
    }
    let mut options: DeleteOptions = serde_json::from_value(match &eviction["deleteOptions"] {
        Value::Null => json!({}),
        options => options.clone(),
    })
    .map_err(|error| status::bad_request(error.to_string()))?;
    options.check()?;
    let dry_run = context.dry_run()? || options.dry_run()?;
    options.set_dry_run(dry_run);

    let pod = context.current().await?.value();
    if !may_go_at_once(&pod) {
        let budgets = matching_budgets(context, &pod)?;
        match budgets.as_slice() {
            [] => {}
            [budget] if is_for_the_ready_alone(&budget.value(), &pod) => {}
            [budget] => spend(context, budget, dry_run).await?,
            _ => {
                let message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                return Err(Status::failure(500, "", message));
            }
        }
        if !dry_run {
            modify(context, |pod| {
                mark_disrupted(pod);
                Ok(())
            })
            .await?;
        }
    }
    context.info.subresource.clear();
    delete_object(context, &options).await?;
    let mut done = Status::success(None);
    done.code = 201;
    Ok(status_response(context.output, &done))
}

/// Pods that disrupt nobody by going.
fn may_go_at_once(pod: &Value) -> bool {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    matches!(phase, "Succeeded" | "Failed" | "Pending") || !meta::deletion_timestamp(pod).is_empty()
}

/// Whether the budget lets the pod go without being asked, because it is not ready: always, or while enough others are.
fn is_for_the_ready_alone(budget: &Value, pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let mut ready = conditions.filter(|condition| condition["type"] == "Ready");
    if ready.any(|condition| condition["status"] == "True") {
        return false;
    }
    let count = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    let (current, desired) = (count("currentHealthy"), count("desiredHealthy"));
    budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" || desired > 0 && current >= desired
}

fn matching_budgets(context: &Context, pod: &Value) -> Result<Vec<Arc<Object>>, Status> {
    let budgets = context.api.builtin("policy", "v1", "poddisruptionbudgets")?;
    let filter = Filter {
        namespace: context.info.namespace.clone(),
        ..Filter::default()
    };
    let mut matching = Vec::new();
    for budget in context.api.cached(&budgets)?.list(&filter) {
        let selector = LabelSelector::from_value(budget.value()["spec"].get("selector"))?;
        if selector.is_some_and(|selector| selector.matches(meta::labels(pod))) {
            matching.push(budget);
        }
    }
    Ok(matching)
}

/// 429: not now. `seconds` is when to try again, if that is known.
fn violated(seconds: i32, why: String) -> Status {
    let message = "Cannot evict pod as it would violate the pod's disruption budget.";
    status::too_many_requests(message, seconds).with_cause("DisruptionBudget", why, "")
}

/// Why a budget allows no disruption.
fn why_none(budget: &Value, name: &str) -> String {
    let conditions = budget["status"]["conditions"].as_array().into_iter().flatten();
    let mut failed = conditions.filter(|condition| {
        condition["type"] == "DisruptionAllowed"
            && condition["status"] == "False"
            && condition["reason"] == "SyncFailed"
    });
    let message = failed.find_map(|condition| condition["message"].as_str().filter(|text| !text.is_empty()));
    if let Some(message) = message {
        return format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed sync: {message}"
        );
    }
    format!(
        "The disruption budget {name} needs {} healthy pods and has {} currently",
        budget["status"]["desiredHealthy"].as_i64().unwrap_or(0),
        budget["status"]["currentHealthy"].as_i64().unwrap_or(0),
    )
}

/// Takes one disruption from the budget's allowance.
async fn spend(context: &Context, budget: &Object, dry_run: bool) -> Result<(), Status> {
    let resource = context.api.builtin("policy", "v1", "poddisruptionbudgets")?;
    loop {
        let namespace = Some(context.info.namespace.as_str());
        let current = context.api.current(&resource, namespace, budget.name()).await?;
        let mut value = current.value();
        let observed = value["status"]["observedGeneration"].as_i64().unwrap_or(0);
        let allowed = value["status"]["disruptionsAllowed"].as_i64().unwrap_or(0);
        if observed < meta::generation(&value) {
            let why = format!(
                "The disruption budget {} is still being processed by the server.",
                budget.name()
            );
            return Err(violated(10, why));
        }
        let forbidden = |why| {
            let kind = format!("poddisruptionbudget {}", status::quote(budget.name()));
            Err(Status::failure(
                403,
                "Forbidden",
                format!("{kind} is forbidden: {why}"),
            ))
        };
        if allowed < 0 {
            return forbidden("pdb disruptions allowed is negative");
        }
        let unconfirmed = value["status"]["disruptedPods"]
            .as_object()
            .map_or(0, |pods| pods.len());
        if unconfirmed > DISRUPTED_PODS_MAX {
            return forbidden(
                "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
            );
        }
        if allowed == 0 {
            return Err(violated(0, why_none(&value, budget.name())));
        }
        if dry_run {
            return Ok(());
        }
        value["status"]["disruptionsAllowed"] = (allowed - 1).into();
        if !value["status"]["disruptedPods"].is_object() {
            value["status"]["disruptedPods"] = json!({});
        }
        value["status"]["disruptedPods"][context.info.name.as_str()] = meta::format_time(now()).into();
        meta::metadata_mut(&mut value).remove("resourceVersion");
        let bytes = value.as_object().map(encode).unwrap_or_default();
        match context
            .api
            .cache
            .store
            .update(&current.key, bytes, current.revision, None)
            .await
        {
            Ok(_) => return Ok(()),
            Err(store::Error::Conflict { .. }) => {}
            Err(error) => return Err(store_error(&error)),
        }
    }
}

fn mark_disrupted(pod: &mut Value) {
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting", "lastProbeTime": null, "lastTransitionTime": meta::format_time(now()),
    });
    let mut conditions = pod["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    conditions.retain(|own| own["type"] != "DisruptionTarget");
    conditions.push(condition);
    pod["status"]["conditions"] = conditions.into();
}

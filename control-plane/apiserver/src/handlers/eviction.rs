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
    write::{modify, read_expected},
};
use crate::{
    body::RequestBody,
    context::{Context, now, store_error},
    respond::{HttpResponse, status_response},
    watch_cache::{Filter, Object, encode},
};

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
    let eviction = read_expected(context, body, expected).await?;
    let name = meta::name(&eviction);
    if !name.is_empty() && name != context.info.name {
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
            [budget] => spend(context, budget, dry_run).await?,
            _ => {
                return Err(status::internal_error(
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
                ));
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

/// Takes one disruption from the budget's allowance.
async fn spend(context: &Context, budget: &Object, dry_run: bool) -> Result<(), Status> {
    let resource = context.api.builtin("policy", "v1", "poddisruptionbudgets")?;
    loop {
        let namespace = Some(context.info.namespace.as_str());
        let current = context.api.current(&resource, namespace, budget.name()).await?;
        let mut value = current.value();
        let observed = value["status"]["observedGeneration"].as_i64().unwrap_or(0);
        let violated = |why: String| {
            let message = "Cannot evict pod as it would violate the pod's disruption budget.";
            status::too_many_requests(message, 0).with_cause("DisruptionBudget", why, "")
        };
        if observed < meta::generation(&value) {
            let why = format!(
                "The disruption budget {} is still being processed by the server.",
                budget.name()
            );
            return Err(status::too_many_requests(
                "Cannot evict pod as it would violate the pod's disruption budget.",
                10,
            )
            .with_cause("DisruptionBudget", why, ""));
        }
        let allowed = value["status"]["disruptionsAllowed"].as_i64().unwrap_or(0);
        if allowed <= 0 {
            return Err(violated(format!(
                "The disruption budget {} needs {} healthy pods and has {} currently",
                budget.name(),
                value["status"]["desiredHealthy"].as_i64().unwrap_or(0),
                value["status"]["currentHealthy"].as_i64().unwrap_or(0),
            )));
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

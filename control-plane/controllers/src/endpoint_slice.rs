//! EndpointSlices for Services with a selector.
//!
//! The plan ([`plan::plan`]) changes as few slices as it can: every write is a message to every node.

mod plan;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::context::{Context, Next, spawn_workers, wake_on_change};
use crate::endpoint::{selected_pods, trigger_time, wake_on_pods};
use crate::event::{EventType, Reference};
use crate::objects::{EndpointSlice, Node, Object, Pod, Service};
use crate::queue::{Key, Queue};
use crate::rest::{DeleteOptions, Patch, Result};
use plan::hints::Mode;
use plan::{Plan, SERVICE_NAME_LABEL, Topology, zones};

const NAME: &str = "endpoint-slice-controller";

/// The address types for which a Service has hints by CPU: whether that is news cannot be read from its slices, which may have
/// hints for other reasons.
type Hinted = Arc<Mutex<HashMap<Key, BTreeSet<&'static str>>>>;

pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>) {
    let queue = Arc::new(Queue::new());
    wake_on_change(&context.informers.services, &queue);
    wake_on_pods(context, &queue);
    context.informers.endpoint_slices.subscribe({
        let queue = queue.clone();
        move |change| {
            for slice in change.states().filter(|slice| plan::is_managed(slice)) {
                if let Some(service) = slice.metadata.labels.get(SERVICE_NAME_LABEL) {
                    queue.add(Key::new(&slice.metadata.namespace, service));
                }
            }
        }
    });
    // A pod whose node is not known yet is left out; the zone of a node may change. CPU matters to few.
    context.informers.nodes.subscribe({
        let (queue, context) = (queue.clone(), context.clone());
        move |change| {
            let zone = |node: Option<&Arc<Node>>| {
                node.map(|node| node.metadata.labels.get(plan::ZONE_LABEL).map(str::to_owned))
            };
            let cpu = |node: Option<&Arc<Node>>| {
                node.map(|node| zones::counts(node).then_some(node.status.allocatable.cpu))
            };
            let moved = zone(change.old) != zone(change.new);
            if moved || cpu(change.old) != cpu(change.new) {
                let mut services = context.informers.services.all();
                services.retain(|service| moved || Mode::of(service) == Mode::Auto);
                for service in services {
                    queue.add(service.key());
                }
            }
        }
    });
    let hinted = Hinted::default();
    let reconciler = context.clone();
    spawn_workers(
        NAME,
        context,
        tasks,
        context.concurrent_syncs,
        queue,
        move |key| {
            let (context, hinted) = (reconciler.clone(), hinted.clone());
            async move { reconcile(&context, &hinted, &key).await }
        },
    );
}

async fn reconcile(context: &Context, hinted: &Hinted, key: &Key) -> Result<Next> {
    // Slices of a deleted service are collected by their owner reference.
    let Some(service) = context.informers.services.get(key) else {
        hinted.lock().remove(key);
        return Ok(Next::Idle);
    };
    let Some(pods) = selected_pods(context, &service) else {
        return Ok(Next::Idle);
    };
    let mut existing = context.informers.endpoint_slices.in_namespace(&key.namespace);
    existing.retain(|slice| {
        plan::is_managed(slice)
            && !slice.metadata.is_deleted()
            && slice.metadata.labels.get(SERVICE_NAME_LABEL) == Some(&*key.name)
    });
    let topology = topology(context, &service, &pods);
    let before = hinted.lock().get(key).cloned().unwrap_or_default();
    let plan = plan::plan(
        &service,
        &pods,
        &existing,
        &topology,
        &before,
        trigger_time(&service, &pods),
    );
    let recorder = context.recorder.with_component(NAME);
    for notice in &plan.notices {
        recorder.publish(
            Reference::to(&*service),
            notice.type_,
            notice.reason,
            notice.message.clone(),
        );
    }
    match plan.hinted.is_empty() {
        true => hinted.lock().remove(key),
        false => hinted.lock().insert(key.clone(), plan.hinted.clone()),
    };
    if let Err(error) = apply(context, key, &plan).await {
        if error.is_namespace_terminating() {
            return Ok(Next::Idle);
        }
        let message = format!(
            "Error updating Endpoint Slices for Service {key}: {}",
            error.message()
        );
        recorder.publish(
            Reference::to(&*service),
            EventType::Warning,
            "FailedToUpdateEndpointSlices",
            message,
        );
        return Err(error);
    }
    Ok(Next::Idle)
}

fn topology(context: &Context, service: &Service, pods: &[Arc<Pod>]) -> Topology {
    let nodes = &context.informers.nodes;
    let zones = pods
        .iter()
        .filter_map(|pod| nodes.get(&Key::new("", &pod.spec.node_name)))
        .map(|node| {
            let zone = node
                .metadata
                .labels
                .get(plan::ZONE_LABEL)
                .filter(|zone| !zone.is_empty());
            (node.metadata.name.clone(), zone.map(str::to_owned))
        })
        .collect();
    let shares = match Mode::of(service) {
        Mode::Auto => zones::cpu_shares(&nodes.all()),
        _ => None,
    };
    Topology { zones, shares }
}

/// Creates before it updates and deletes: an endpoint that moves between slices is in both rather than in none.
async fn apply(context: &Context, key: &Key, plan: &Plan) -> Result<()> {
    let slices = &context.informers.endpoint_slices;
    let resource = EndpointSlice::resource();
    for body in &plan.create {
        let created: Value = context.rest.create(resource, &key.namespace, body).await?;
        slices
            .seen(
                created["metadata"]["resourceVersion"]
                    .as_str()
                    .unwrap_or_default(),
            )
            .await;
    }
    for (name, patch) in &plan.update {
        let updated: Value = context
            .rest
            .patch(resource, &key.namespace, name, "", Patch::Merge(patch))
            .await?;
        slices
            .seen(
                updated["metadata"]["resourceVersion"]
                    .as_str()
                    .unwrap_or_default(),
            )
            .await;
    }
    for slice in &plan.delete {
        let uid = &slice.metadata.uid;
        let options = DeleteOptions {
            uid: Some(uid),
            ..DeleteOptions::default()
        };
        match context
            .rest
            .delete(resource, &key.namespace, &slice.metadata.name, &options)
            .await
        {
            Ok(_) => slices.deletion_seen(&slice.key(), uid).await,
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

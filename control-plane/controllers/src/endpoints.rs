//! Endpoints, the older form of EndpointSlices, for the clients that still read them.

mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde_json::Value;
use tokio::task::JoinSet;

use crate::context::{Context, Next, spawn_workers, wake_on_change};
use crate::endpoint::{selected_pods, trigger_time, wake_on_pods};
use crate::event::{EventType, Reference};
use crate::objects::{Endpoints, Object};
use crate::queue::{Key, Queue};
use crate::rest::{DeleteOptions, Patch, Result};
use plan::Plan;

const NAME: &str = "endpoint-controller";

pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>) {
    let queue = Arc::new(Queue::new());
    wake_on_change(&context.informers.services, &queue);
    wake_on_change(&context.informers.endpoints, &queue);
    wake_on_pods(context, &queue);
    let reconciler = context.clone();
    spawn_workers(
        NAME,
        context,
        tasks,
        context.concurrent_syncs,
        queue,
        move |key| {
            let context = reconciler.clone();
            async move { reconcile(&context, &key).await }
        },
    );
}

async fn reconcile(context: &Context, key: &Key) -> Result<Next> {
    let endpoints = &context.informers.endpoints;
    let resource = Endpoints::resource();
    let current = endpoints.get(key);
    let Some(service) = context.informers.services.get(key) else {
        // Endpoints of a service belong to it by name alone. The ones that we did not make are not ours to delete.
        if let Some(current) = current.filter(|current| plan::is_managed(current)) {
            let uid = &current.metadata.uid;
            let options = DeleteOptions {
                uid: Some(uid),
                ..DeleteOptions::default()
            };
            match context
                .rest
                .delete(resource, &key.namespace, &key.name, &options)
                .await
            {
                Ok(_) => endpoints.deletion_seen(key, uid).await,
                Err(error) if error.is_not_found() || error.is_conflict() => {}
                Err(error) => return Err(error),
            }
        }
        return Ok(Next::Idle);
    };
    let Some(pods) = selected_pods(context, &service) else {
        return Ok(Next::Idle);
    };
    let written: Result<Value> =
        match plan::plan(&service, &pods, current.as_deref(), trigger_time(&service, &pods)) {
            Plan::Keep => return Ok(Next::Idle),
            Plan::Create(body) => context.rest.create(resource, &key.namespace, &body).await,
            Plan::Update(patch) => {
                context
                    .rest
                    .patch(resource, &key.namespace, &key.name, "", Patch::Merge(&patch))
                    .await
            }
        };
    match written {
        Ok(object) => {
            endpoints
                .seen(object["metadata"]["resourceVersion"].as_str().unwrap_or_default())
                .await;
            Ok(Next::Idle)
        }
        Err(error) if error.is_namespace_terminating() => Ok(Next::Idle),
        Err(error) => {
            let (reason, message) = if current.is_none() {
                (
                    "FailedToCreateEndpoint",
                    format!("Failed to create endpoint for service {key}: {}", error.message()),
                )
            } else {
                (
                    "FailedToUpdateEndpoint",
                    format!("Failed to update endpoint {key}: {}", error.message()),
                )
            };
            let recorder = context.recorder.with_component(NAME);
            recorder.publish(Reference::to(&*service), EventType::Warning, reason, message);
            Err(error)
        }
    }
}

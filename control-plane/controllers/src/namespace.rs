//! Empties namespaces that are being deleted, then lets them go.
//!
//! Everything that discovery knows is deleted, pods first: what pods depend on (their secrets, their network
//! policies) must outlive them. The conditions of the namespace tell a waiting user what is in the way.

mod plan;

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::context::{Context, Next, spawn_workers, wake_on_change};
use crate::discovery::{Discovered, Discovery, discover};
use crate::objects::{Meta, Namespace, Object};
use crate::patch::field_diff;
use crate::queue::{Key, Queue};
use crate::rest::{DeleteOptions, Error, PARTIAL_METADATA_LIST, Patch, Result};
use plan::Remains;

const NAME: &str = "namespace-controller";
const FINALIZER: &str = "kubernetes";

pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>) {
    let queue = Arc::new(Queue::new());
    wake_on_change(&context.informers.namespaces, &queue);
    // The last pod of a terminating namespace is what its deletion waits for.
    context.informers.pods.subscribe({
        let (queue, context) = (queue.clone(), context.clone());
        move |change| {
            let (Some(pod), None) = (change.old, change.new) else {
                return;
            };
            let key = Key::new("", &pod.metadata.namespace);
            let terminating = context
                .informers
                .namespaces
                .get(&key)
                .is_some_and(|namespace| namespace.metadata.is_deleted());
            if terminating && context.informers.pods.in_namespace(&key.name).is_empty() {
                queue.add(key);
            }
        }
    });
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
    let Some(cached) = context.informers.namespaces.get(key) else {
        return Ok(Next::Idle);
    };
    if !cached.metadata.is_deleted() || cached.spec.finalizers.is_empty() {
        return Ok(Next::Idle);
    }
    // Deleting all content is final: look at the namespace itself, not at a cache.
    let live: Option<Namespace> = context.rest.get(Namespace::resource(), "", &key.name).await?;
    let Some(namespace) = live.filter(|live| live.metadata.uid == cached.metadata.uid) else {
        return Ok(Next::Idle);
    };
    if !namespace.metadata.is_deleted() || namespace.spec.finalizers.is_empty() {
        return Ok(Next::Idle);
    }
    let remains = delete_content(context, &key.name).await?;
    write_status(context, &namespace, &remains).await?;
    if remains.is_empty() {
        finalize(context, &namespace).await?;
        return Ok(Next::Idle);
    }
    if let Some(wait) = remains.wait() {
        return Ok(Next::After(wait));
    }
    Err(Error::Unfinished(remains.summary()))
}

/// One round of deletion. While there are pods, nothing else is touched.
async fn delete_content(context: &Context, namespace: &str) -> Result<Remains> {
    let mut remains = Remains::default();
    let Discovery { kinds, failures } = discover(&context.rest).await?;
    remains.discovery_failures = failures;
    let (pods, others): (Vec<_>, Vec<_>) = kinds
        .into_iter()
        .filter(|kind| kind.resource.namespaced && kind.can(&["list", "delete"]))
        .partition(|kind| kind.resource.group.is_empty() && &*kind.resource.plural == "pods");
    for kind in &pods {
        delete_kind(context, namespace, kind, &mut remains).await;
    }
    if !remains.has_content() {
        for kind in &others {
            delete_kind(context, namespace, kind, &mut remains).await;
        }
    }
    Ok(remains)
}

async fn delete_kind(context: &Context, namespace: &str, kind: &Discovered, remains: &mut Remains) {
    if let Err(error) = try_delete_kind(context, namespace, kind, remains).await {
        remains.deletion_failures.push(error.message());
    }
}

async fn try_delete_kind(
    context: &Context,
    namespace: &str,
    kind: &Discovered,
    remains: &mut Remains,
) -> Result<()> {
    #[derive(serde::Deserialize)]
    struct Item {
        metadata: Meta,
    }
    let resource = &kind.resource;
    let options = DeleteOptions {
        propagation_policy: Some("Background"),
        ..DeleteOptions::default()
    };
    let list = || {
        context
            .rest
            .list::<Item>(resource, namespace, "", PARTIAL_METADATA_LIST)
    };
    let before = match list().await {
        // A kind that has no objects of its own, or vanished with its CustomResourceDefinition.
        Err(error)
            if error
                .status()
                .is_some_and(|status| matches!(status.code, 404 | 405)) =>
        {
            return Ok(());
        }
        before => before?.items,
    };
    if before.is_empty() {
        return Ok(());
    }
    if before.iter().any(|item| !item.metadata.is_deleted()) {
        if kind.can(&["deletecollection"]) {
            context
                .rest
                .delete_collection(resource, namespace, &options)
                .await?;
        } else {
            for item in &before {
                match context
                    .rest
                    .delete(resource, namespace, &item.metadata.name, &options)
                    .await
                {
                    Err(error) if !error.is_not_found() => return Err(error),
                    _ => {}
                }
            }
        }
    }
    let after = list().await?.items;
    remains.add(resource, after.into_iter().map(|item| item.metadata));
    Ok(())
}

async fn write_status(context: &Context, namespace: &Namespace, remains: &Remains) -> Result<()> {
    let conditions = remains.conditions(&namespace.status.conditions, Timestamp::now());
    let change = field_diff("conditions", &namespace.status.conditions, &conditions).map_err(|source| {
        Error::Decode {
            operation: "compare conditions".into(),
            source,
        }
    })?;
    let phase = (&*namespace.status.phase != "Terminating").then_some("Terminating");
    if change.is_none() && phase.is_none() {
        return Ok(());
    }
    let mut status = change.unwrap_or_else(|| json!({}));
    if let Some(phase) = phase {
        status["phase"] = phase.into();
    }
    let patch = json!({"metadata": {"uid": namespace.metadata.uid}, "status": status});
    let name = &namespace.metadata.name;
    let patched: Result<Value> = context
        .rest
        .patch(Namespace::resource(), "", name, "status", Patch::Merge(&patch))
        .await;
    match patched {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// Takes our finalizer off; the API server removes the namespace with the last one.
async fn finalize(context: &Context, namespace: &Namespace) -> Result<()> {
    let name = &namespace.metadata.name;
    let live: Option<Value> = context.rest.get(Namespace::resource(), "", name).await?;
    let Some(mut live) = live else { return Ok(()) };
    if live["metadata"]["uid"] != *namespace.metadata.uid {
        return Ok(());
    }
    if let Some(finalizers) = live["spec"]["finalizers"].as_array_mut() {
        finalizers.retain(|finalizer| finalizer != FINALIZER);
    }
    match context
        .rest
        .replace::<Value>(Namespace::resource(), "", name, "finalize", &live)
        .await
    {
        Err(error) if !error.is_not_found() => Err(error),
        _ => {
            tracing::info!(namespace = %name, "namespace emptied");
            Ok(())
        }
    }
}

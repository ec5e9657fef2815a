//! Gives every active namespace its `default` ServiceAccount, and again when it is deleted.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::context::{Context, Next, spawn_workers, wake_on_change};
use crate::objects::{Object, ServiceAccount};
use crate::queue::{Key, Queue};
use crate::rest::Result;

const NAME: &str = "default";

pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>) {
    let queue = Arc::new(Queue::new());
    wake_on_change(&context.informers.namespaces, &queue);
    context.informers.service_accounts.subscribe({
        let queue = queue.clone();
        move |change| {
            if let (Some(old), None) = (change.old, change.new) {
                queue.add(Key::new("", &old.metadata.namespace));
            }
        }
    });
    let reconciler = context.clone();
    spawn_workers(
        "serviceaccount-controller",
        context,
        tasks,
        1,
        queue,
        move |key| {
            let context = reconciler.clone();
            async move { reconcile(&context, &key).await }
        },
    );
}

async fn reconcile(context: &Context, namespace: &Key) -> Result<Next> {
    let Some(object) = context.informers.namespaces.get(namespace) else {
        return Ok(Next::Idle);
    };
    let exists = context
        .informers
        .service_accounts
        .get(&Key::new(&namespace.name, NAME))
        .is_some();
    if exists || &*object.status.phase == "Terminating" || object.metadata.is_deleted() {
        return Ok(Next::Idle);
    }
    let body = json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": NAME, "namespace": namespace.name}});
    match context
        .rest
        .create::<Value>(ServiceAccount::resource(), &namespace.name, &body)
        .await
    {
        Err(error)
            if !error.is_already_exists() && !error.is_namespace_terminating() && !error.is_not_found() =>
        {
            Err(error)
        }
        _ => Ok(Next::Idle),
    }
}

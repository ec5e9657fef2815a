//! Protects ServiceCIDRs: one that IPAddresses still need is kept by a finalizer, and its condition says why.
//!
//! Upstream: pkg/controller/servicecidrs.

mod plan;

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::context::{Context, Next, spawn_workers, wake_on_change};
use crate::objects::{Object, ServiceCidr};
use crate::queue::{Key, Queue};
use crate::rest::{Patch, Result};
use plan::{Plan, View, plan};

pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>) {
    let queue = Arc::new(Queue::new());
    let informers = &context.informers;
    wake_on_change(&informers.service_cidrs, &queue);
    // A range that comes or goes, and an address that goes, may free a ServiceCIDR that is being deleted.
    let wake_deleted = {
        let (informers, queue) = (informers.clone(), queue.clone());
        move || {
            let all = informers.service_cidrs.all();
            for cidr in all.iter().filter(|cidr| cidr.metadata.is_deleted()) {
                queue.add(cidr.key());
            }
        }
    };
    informers.service_cidrs.subscribe({
        let wake = wake_deleted.clone();
        move |_| wake()
    });
    informers.ip_addresses.subscribe(move |_| wake_deleted());
    let reconciler = context.clone();
    spawn_workers("service-cidr-controller", context, tasks, 1, queue, move |key| {
        let context = reconciler.clone();
        async move { reconcile(&context, &key, Timestamp::now()).await }
    });
}

async fn reconcile(context: &Context, key: &Key, now: Timestamp) -> Result<Next> {
    let informers = &context.informers;
    let Some(cidr) = informers.service_cidrs.get(key) else {
        return Ok(Next::Idle);
    };
    let others = informers.service_cidrs.all();
    let addresses: Vec<IpAddr> = match cidr.metadata.is_deleted() {
        true => (informers.ip_addresses.all().iter())
            .filter_map(|address| address.address())
            .collect(),
        // Nobody asks about them.
        false => Vec::new(),
    };
    let view = View {
        cidr: &cidr,
        others: &others,
        addresses: &addresses,
        now,
    };
    let Plan {
        finalizers,
        condition,
        after,
    } = plan(&view);
    // The version keeps a finalizer that somebody adds meanwhile from being lost.
    let version = &cidr.metadata.resource_version;
    if let Some(finalizers) = finalizers {
        let metadata = json!({"finalizers": finalizers, "resourceVersion": version});
        patch(context, key, "", json!({"metadata": metadata})).await?;
    }
    if let Some(condition) = condition {
        let status = json!({"conditions": [condition]});
        patch(context, key, "status", json!({"status": status})).await?;
    }
    Ok(after.map_or(Next::Idle, Next::After))
}

/// Patches a ServiceCIDR; one that is gone needs nothing any more.
async fn patch(context: &Context, key: &Key, subresource: &str, body: Value) -> Result<()> {
    let resource = ServiceCidr::resource();
    let patch = Patch::Merge(&body);
    let patched: Result<Value> = context
        .rest
        .patch(resource, "", &key.name, subresource, patch)
        .await;
    match patched {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

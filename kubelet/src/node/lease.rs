//! The node's Lease in kube-node-lease: the cheap sign of life.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference},
};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};

const NAMESPACE: &str = "kube-node-lease";
/// Upstream renews four times in the Lease's duration.
const RENEWALS: u32 = 4;
const RETRY: Duration = Duration::from_secs(1);

/// Renews the Lease for ever.
pub(super) async fn keep(client: kube::Client, node_name: String, node_uid: String, duration: Duration) {
    let api: Api<Lease> = Api::namespaced(client, NAMESPACE);
    let mut held: Option<Lease> = None;
    loop {
        let wait = match renew(&api, held.take(), &node_name, &node_uid, duration).await {
            Ok(lease) => {
                held = Some(lease);
                duration / RENEWALS
            }
            Err(error) => {
                // The next attempt reads it anew.
                tracing::warn!(
                    error = crate::error::chain(&error),
                    "renewing the node's lease, will retry"
                );
                RETRY
            }
        };
        tokio::time::sleep(wait).await;
    }
}

async fn renew(
    api: &Api<Lease>,
    held: Option<Lease>,
    node_name: &str,
    node_uid: &str,
    duration: Duration,
) -> kube::Result<Lease> {
    let known = match held {
        Some(lease) => Some(lease),
        None => api.get_opt(node_name).await?,
    };
    let spec = LeaseSpec {
        holder_identity: Some(node_name.to_owned()),
        lease_duration_seconds: i32::try_from(duration.as_secs()).ok(),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..Default::default()
    };
    match known {
        Some(mut lease) => {
            lease.spec = Some(spec);
            api.replace(node_name, &PostParams::default(), &lease).await
        }
        None => {
            let owner = OwnerReference {
                api_version: "v1".into(),
                kind: "Node".into(),
                name: node_name.to_owned(),
                uid: node_uid.to_owned(),
                ..Default::default()
            };
            let metadata = ObjectMeta {
                name: Some(node_name.to_owned()),
                namespace: Some(NAMESPACE.into()),
                owner_references: Some(vec![owner]),
                ..Default::default()
            };
            api.create(
                &PostParams::default(),
                &Lease {
                    metadata,
                    spec: Some(spec),
                },
            )
            .await
        }
    }
}

//! Publishes the cluster's root CA as the ConfigMap `kube-root-ca.crt` in every active namespace, and restores
//! it when it is changed or deleted. Pods read it through their projected token volume.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::context::{Context, Next, spawn_workers, wake_on_change};
use crate::objects::{ConfigMap, Object};
use crate::queue::{Key, Queue};
use crate::rest::{Patch, Result};

const NAME: &str = "kube-root-ca.crt";
const DATA_KEY: &str = "ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
                           endpoints such as the internal service IP or kubernetes.default.svc. No other usage is \
                           guaranteed across distributions of Kubernetes clusters.";

pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>, root_ca: String) {
    let queue = Arc::new(Queue::new());
    wake_on_change(&context.informers.namespaces, &queue);
    context.informers.root_ca_config_maps.subscribe({
        let queue = queue.clone();
        move |change| {
            if let Some(map) = change.latest() {
                queue.add(Key::new("", &map.metadata.namespace));
            }
        }
    });
    let reconciler = context.clone();
    let root_ca: Arc<str> = root_ca.into();
    spawn_workers(
        "root-ca-certificate-publisher-controller",
        context,
        tasks,
        1,
        queue,
        move |key| {
            let (context, root_ca) = (reconciler.clone(), root_ca.clone());
            async move { reconcile(&context, &key, &root_ca).await }
        },
    );
}

/// What the ConfigMap needs.
#[derive(Debug, PartialEq)]
enum Plan {
    Create,
    Restore(Value),
    Nothing,
}

fn plan(current: Option<&ConfigMap>, root_ca: &str) -> Plan {
    let Some(current) = current else {
        return Plan::Create;
    };
    let wanted = BTreeMap::from([(DATA_KEY.to_owned(), root_ca.to_owned())]);
    let described = current
        .metadata
        .annotations
        .get("kubernetes.io/description")
        .is_some();
    if current.data == wanted && described {
        return Plan::Nothing;
    }
    let mut data: serde_json::Map<_, _> = current
        .data
        .keys()
        .map(|key| (key.clone(), Value::Null))
        .collect();
    data.insert(DATA_KEY.to_owned(), root_ca.into());
    Plan::Restore(json!({
        "metadata": {"annotations": {"kubernetes.io/description": DESCRIPTION}},
        "data": data,
    }))
}

async fn reconcile(context: &Context, namespace: &Key, root_ca: &str) -> Result<Next> {
    let Some(object) = context.informers.namespaces.get(namespace) else {
        return Ok(Next::Idle);
    };
    if &*object.status.phase == "Terminating" || object.metadata.is_deleted() {
        return Ok(Next::Idle);
    }
    let current = context
        .informers
        .root_ca_config_maps
        .get(&Key::new(&namespace.name, NAME));
    let result: Result<Value> = match plan(current.as_deref(), root_ca) {
        Plan::Nothing => return Ok(Next::Idle),
        Plan::Create => {
            let body = json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": NAME, "namespace": namespace.name,
                    "annotations": {"kubernetes.io/description": DESCRIPTION}},
                "data": {DATA_KEY: root_ca},
            });
            context
                .rest
                .create(ConfigMap::resource(), &namespace.name, &body)
                .await
        }
        Plan::Restore(patch) => {
            let patch = Patch::Merge(&patch);
            context
                .rest
                .patch(ConfigMap::resource(), &namespace.name, NAME, "", patch)
                .await
        }
    };
    match result {
        Err(error)
            if !error.is_already_exists() && !error.is_namespace_terminating() && !error.is_not_found() =>
        {
            Err(error)
        }
        _ => Ok(Next::Idle),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(value: Value) -> ConfigMap {
        serde_json::from_value(value).unwrap()
    }

    /// Rows follow upstream's `TestConfigMapCreation`.
    #[test]
    fn plans() {
        assert_eq!(plan(None, "ca"), Plan::Create);
        let described = json!({"annotations": {"kubernetes.io/description": "x"}});
        let good = map(json!({"metadata": described, "data": {"ca.crt": "ca"}}));
        assert_eq!(plan(Some(&good), "ca"), Plan::Nothing);
        let changed = map(json!({"metadata": described, "data": {"ca.crt": "other", "more": "x"}}));
        let Plan::Restore(patch) = plan(Some(&changed), "ca") else {
            panic!("must restore")
        };
        assert_eq!(patch["data"], json!({"ca.crt": "ca", "more": null}));
        let bare = map(json!({"data": {"ca.crt": "ca"}}));
        assert!(matches!(plan(Some(&bare), "ca"), Plan::Restore(_)));
    }
}

//! ServiceAccount: every pod runs as one, and finds its token, the cluster's CA and its namespace in a volume.

use std::{sync::Arc, time::Duration};

use api::status::Status;
use serde_json::{Value, json};

use super::Attributes;
use crate::{context::Api, handlers::random_suffix, watch_cache::Object};

/// Where the token is mounted.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// An hour and a little, so that a pod which expects an hour never holds an expired token.
const TOKEN_SECONDS: i64 = 3607;
/// How long the account `default` of a new namespace is waited for.
const DEFAULT_ACCOUNT_TIMEOUT: Duration = Duration::from_secs(3);

const MIRROR: &str = "kubernetes.io/config.mirror";

pub(super) async fn admit(api: &Api, attributes: &Attributes, pod: &mut Value) -> Result<(), Status> {
    if pod["metadata"]["annotations"].get(MIRROR).is_some() {
        return admit_mirror(attributes, pod);
    }
    let spec = &mut pod["spec"];
    let name = spec["serviceAccountName"]
        .as_str()
        .filter(|name| !name.is_empty())
        .unwrap_or("default")
        .to_owned();
    spec["serviceAccountName"] = name.clone().into();
    spec["serviceAccount"] = name.clone().into();
    let account = find(api, &attributes.namespace, &name).await?.ok_or_else(|| {
        attributes.forbidden(&format!(
            "error looking up service account {}/{name}: serviceaccount \"{name}\" not found",
            attributes.namespace
        ))
    })?;
    let account = account.value();
    let mounts = spec["automountServiceAccountToken"]
        .as_bool()
        .or_else(|| account["automountServiceAccountToken"].as_bool())
        .unwrap_or(true);
    if mounts {
        mount_token(spec);
    }
    let pull_secrets = &account["imagePullSecrets"];
    if spec["imagePullSecrets"].as_array().is_none_or(Vec::is_empty)
        && pull_secrets.as_array().is_some_and(|secrets| !secrets.is_empty())
    {
        spec["imagePullSecrets"] = pull_secrets.clone();
    }
    if let Some(spec) = spec.as_object_mut() {
        // Looking a field up by index leaves nothing behind, writing `null` would.
        spec.retain(|_, value| !value.is_null());
    }
    Ok(())
}

/// A mirror pod stands for a file on its node: it must not get at anything in the cluster.
fn admit_mirror(attributes: &Attributes, pod: &Value) -> Result<(), Status> {
    let spec = &pod["spec"];
    if spec["serviceAccountName"]
        .as_str()
        .is_some_and(|name| !name.is_empty())
    {
        return Err(attributes.forbidden("a mirror pod may not reference service accounts"));
    }
    let volumes = spec["volumes"].as_array().into_iter().flatten();
    for volume in volumes {
        let sources = volume["projected"]["sources"].as_array();
        if sources
            .into_iter()
            .flatten()
            .any(|source| source.get("serviceAccountToken").is_some())
        {
            return Err(
                attributes.forbidden("a mirror pod may not use ServiceAccountToken volume projections")
            );
        }
    }
    Ok(())
}

/// The account; the default account of a new namespace is on its way, so it is waited for.
async fn find(api: &Api, namespace: &str, name: &str) -> Result<Option<Arc<Object>>, Status> {
    let accounts = api.builtin("", "v1", "serviceaccounts")?;
    let key = accounts.key(Some(namespace), name)?;
    let cached = api.cached(&accounts)?;
    if let Some(account) = cached.get(&key) {
        return Ok(Some(account));
    }
    if name != "default" {
        return api.find("", "v1", "serviceaccounts", Some(namespace), name).await;
    }
    let mut changes = api.cache.changes();
    let appears = async {
        loop {
            if let Some(account) = cached.get(&key) {
                return Some(account);
            }
            if changes.changed().await.is_err() {
                return None;
            }
        }
    };
    Ok(tokio::time::timeout(DEFAULT_ACCOUNT_TIMEOUT, appears)
        .await
        .unwrap_or(None))
}

fn mount_token(spec: &mut Value) {
    let volumes = spec["volumes"].as_array().cloned().unwrap_or_default();
    let existing = volumes.iter().filter_map(|volume| volume["name"].as_str());
    let existing = existing
        .into_iter()
        .find(|name| name.starts_with(VOLUME_PREFIX))
        .map(str::to_owned);
    let name = existing
        .clone()
        .unwrap_or_else(|| format!("{VOLUME_PREFIX}{}", random_suffix()));
    let mount = json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH});
    let mut mounted = false;
    for field in ["initContainers", "containers"] {
        for container in spec[field].as_array_mut().into_iter().flatten() {
            let mounts = container["volumeMounts"].as_array().cloned().unwrap_or_default();
            if mounts.iter().any(|mount| mount["mountPath"] == MOUNT_PATH) {
                continue;
            }
            let mut mounts = mounts;
            mounts.push(mount.clone());
            container["volumeMounts"] = mounts.into();
            mounted = true;
        }
    }
    if mounted && existing.is_none() {
        let mut volumes = volumes;
        volumes.push(json!({"name": name, "projected": {
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [
                    {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
                ]}},
            ],
            "defaultMode": 420,
        }}));
        spec["volumes"] = volumes.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_into_every_container_once() {
        let mut spec = json!({
            "initContainers": [{"name": "i"}],
            "containers": [
                {"name": "a"},
                {"name": "b", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]},
            ],
        });
        mount_token(&mut spec);
        assert_eq!(spec["volumes"].as_array().unwrap().len(), 1);
        assert_eq!(
            spec["initContainers"][0]["volumeMounts"][0]["mountPath"],
            MOUNT_PATH
        );
        assert_eq!(spec["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
        let before = spec.clone();
        mount_token(&mut spec);
        assert_eq!(spec, before);
    }
}

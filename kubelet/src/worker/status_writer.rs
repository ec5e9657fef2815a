//! Writing a pod's status, only when it says something new.

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Map, Value, json};

use crate::{pod, status};

/// What one worker knows of the status the API holds.
#[derive(Default)]
pub(super) struct StatusWriter {
    /// resourceVersion and status after our last write. The watch may still deliver older states for a while.
    written: Option<(u64, Option<PodStatus>)>,
}

impl StatusWriter {
    /// The pod with the newest status known: the watch's, or our own last write when that is newer.
    pub(super) fn latest(&self, pod: &Pod) -> Pod {
        let mut pod = pod.clone();
        if let Some((written, status)) = &self.written
            && *written > version(&pod)
        {
            pod.status.clone_from(status);
        }
        pod
    }

    /// Brings the API's status to `wanted`. `pod` is what [`Self::latest`] gave. Errors leave it to be tried again;
    /// a pod that is gone needs no status.
    pub(super) async fn write(
        &mut self,
        client: &kube::Client,
        pod: &Pod,
        wanted: &PodStatus,
    ) -> kube::Result<bool> {
        let current = pod.status.clone().unwrap_or_default();
        if status::is_same(&current, wanted) {
            return Ok(false);
        }
        let patch = json!({
            "metadata": {"uid": pod::uid(pod)},
            "status": status_patch(&current, wanted),
        });
        let api: Api<Pod> = Api::namespaced(client.clone(), pod::namespace(pod));
        let params = PatchParams::default();
        match api
            .patch_status(pod::name(pod), &params, &Patch::Strategic(patch))
            .await
        {
            Ok(written) => {
                self.written = Some((version(&written), written.status));
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn version(pod: &Pod) -> u64 {
    pod.metadata
        .resource_version
        .as_deref()
        .and_then(|version| version.parse().ok())
        .unwrap_or_default()
}

/// A strategic merge patch from one status to another.
fn status_patch(current: &PodStatus, wanted: &PodStatus) -> Value {
    let (current, wanted) = (object(current), object(wanted));
    let mut patch = Map::new();
    for (key, value) in &wanted {
        if current.get(key) == Some(value) {
            continue;
        }
        let value = match (key.as_str(), value) {
            ("conditions", Value::Array(conditions)) => explicit_conditions(conditions),
            // Merged by address otherwise: an old one would stay.
            ("podIPs" | "hostIPs", Value::Array(ips)) if current.contains_key(key) => {
                let mut list = vec![json!({"$patch": "replace"})];
                list.extend(ips.iter().cloned());
                Value::Array(list)
            }
            _ => value.clone(),
        };
        patch.insert(key.clone(), value);
    }
    for key in current.keys().filter(|key| !wanted.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    Value::Object(patch)
}

/// Conditions are merged by type, so that a reason no longer given has to be taken away by name.
fn explicit_conditions(conditions: &[Value]) -> Value {
    let explicit = conditions.iter().map(|condition| {
        let mut condition = condition.as_object().cloned().unwrap_or_default();
        for field in ["reason", "message"] {
            condition.entry(field).or_insert(Value::Null);
        }
        Value::Object(condition)
    });
    Value::Array(explicit.collect())
}

fn object(status: &PodStatus) -> Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(object)) => object,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{PodCondition, PodIP};

    use super::*;

    #[test]
    fn patch_holds_the_difference_alone() {
        let current = PodStatus {
            phase: Some("Pending".into()),
            host_ip: Some("1.1.1.1".into()),
            reason: Some("Old".into()),
            pod_ips: Some(vec![PodIP {
                ip: "10.0.0.1".into(),
            }]),
            ..Default::default()
        };
        let wanted = PodStatus {
            phase: Some("Running".into()),
            host_ip: Some("1.1.1.1".into()),
            pod_ips: Some(vec![PodIP {
                ip: "10.0.0.2".into(),
            }]),
            conditions: Some(vec![PodCondition {
                type_: "Ready".into(),
                status: "True".into(),
                ..Default::default()
            }]),
            ..Default::default()
        };
        assert_eq!(
            status_patch(&current, &wanted),
            json!({
                "phase": "Running",
                "reason": null,
                "podIPs": [{"$patch": "replace"}, {"ip": "10.0.0.2"}],
                "conditions": [{"type": "Ready", "status": "True", "reason": null, "message": null}],
            })
        );
    }
}

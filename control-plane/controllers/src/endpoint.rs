//! What EndpointSlices and Endpoints have in common: which pods count, and which port of them.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::context::Context;
use crate::objects::{Meta, Object, Pod, Service};
use crate::queue::{Key, Queue};
use crate::selector;

pub(crate) const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
pub(crate) const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// The pods that a service selects. `None` if its endpoints are not this controller's business.
pub(crate) fn selected_pods(context: &Context, service: &Service) -> Option<Vec<Arc<Pod>>> {
    let wanted = service
        .spec
        .selector
        .as_ref()
        .filter(|wanted| !wanted.is_empty())?;
    if &*service.spec.type_ == "ExternalName" {
        return None;
    }
    let mut pods = context.informers.pods.in_namespace(&service.metadata.namespace);
    pods.retain(|pod| selector::matches_map(wanted, &pod.metadata.labels));
    Some(pods)
}

/// Wakes the reconciler of every service that selects a pod that changed in a way that endpoints show.
pub(crate) fn wake_on_pods(context: &Context, queue: &Arc<Queue<Key>>) {
    let (services, queue) = (context.clone(), queue.clone());
    context.informers.pods.subscribe(move |change| {
        if let (Some(old), Some(new)) = (change.old, change.new)
            && !is_visible_change(old, new)
        {
            return;
        }
        let Some(pod) = change.latest() else { return };
        for service in services.informers.services.in_namespace(&pod.metadata.namespace) {
            let Some(wanted) = service.spec.selector.as_ref().filter(|wanted| !wanted.is_empty()) else {
                continue;
            };
            if change
                .states()
                .any(|pod| selector::matches_map(wanted, &pod.metadata.labels))
            {
                queue.add(service.key());
            }
        }
    });
}

fn is_visible_change(old: &Pod, new: &Pod) -> bool {
    old.metadata.uid != new.metadata.uid
        || old.metadata.labels != new.metadata.labels
        || old.metadata.is_deleted() != new.metadata.is_deleted()
        || old.is_ready() != new.is_ready()
        || old.status.phase != new.status.phase
        || old.status.pod_ips != new.status.pod_ips
        || old.spec.node_name != new.spec.node_name
        || old.spec.hostname != new.spec.hostname
        || old.spec.subdomain != new.spec.subdomain
}

/// Whether a pod has a place among endpoints at all. Terminating ones do if `include_terminating`.
pub(crate) fn belongs(pod: &Pod, include_terminating: bool) -> bool {
    if pod.status.pod_ips.is_empty() || pod.is_terminal() {
        return false;
    }
    include_terminating || !pod.metadata.is_deleted()
}

/// Whether cluster DNS is to know the pod by its own name: it asks for that by naming the service as subdomain.
pub(crate) fn has_hostname(pod: &Pod, service: &Service) -> bool {
    !pod.spec.hostname.is_empty()
        && pod.spec.subdomain == service.metadata.name
        && pod.metadata.namespace == service.metadata.namespace
}

/// The pod's port that a service port means; a named one may be missing.
pub(crate) fn find_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let sidecars = pod
                .spec
                .init_containers
                .iter()
                .filter(|init| &*init.restart_policy == "Always");
            let mut ports = pod
                .spec
                .containers
                .iter()
                .chain(sidecars)
                .flat_map(|container| &container.ports);
            let found = ports.find(|candidate| {
                let candidate_protocol = match &*candidate.protocol {
                    "" => "TCP",
                    protocol => protocol,
                };
                *candidate.name == **name && candidate_protocol == protocol
            });
            found.map(|port| port.container_port)
        }
    }
}

pub(crate) fn target_ref(meta: &Meta) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: Some(meta.namespace.to_string()),
        name: Some(meta.name.to_string()),
        uid: Some(meta.uid.to_string()),
        ..ObjectReference::default()
    }
}

/// When what endpoints show of a service changed last: how long ago that was tells how fast changes get through.
pub(crate) fn trigger_time(service: &Service, pods: &[Arc<Pod>]) -> Timestamp {
    let ready = pods
        .iter()
        .filter_map(|pod| pod.condition("Ready")?.last_transition_time.as_ref());
    ready
        .map(|time| time.0)
        .chain([service.metadata.created()])
        .max()
        .unwrap_or_default()
}

pub(crate) fn is_headless(service: &Service) -> bool {
    matches!(&*service.spec.cluster_ip, "" | "None")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Rows follow upstream's `TestFindPort`.
    #[test]
    fn ports() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "containers": [{}, {"ports": [{"name": "p", "containerPort": 11, "protocol": "UDP"},
                {"name": "p", "containerPort": 22}, {"name": "q", "containerPort": 33, "protocol": "TCP"}]}],
            "initContainers": [{"ports": [{"name": "i", "containerPort": 44}]},
                {"restartPolicy": "Always", "ports": [{"name": "s", "containerPort": 55}]}],
        }}))
        .unwrap();
        for (target, protocol, expect) in [
            (json!(80), "TCP", Some(80)),
            (json!("p"), "TCP", Some(22)),
            (json!("p"), "UDP", Some(11)),
            (json!("q"), "TCP", Some(33)),
            (json!("q"), "UDP", None),
            (json!("missing"), "TCP", None),
            (json!("i"), "TCP", None),
            (json!("s"), "TCP", Some(55)),
        ] {
            let port = json!({"port": 1, "protocol": protocol, "targetPort": target});
            let port: ServicePort = serde_json::from_value(port).unwrap();
            assert_eq!(find_port(&pod, &port), expect, "{target} {protocol}");
        }
    }

    /// Rows follow upstream's `TestTriggerTimeTracker`.
    #[test]
    fn trigger_times() {
        let service = |created: &str| -> Service {
            serde_json::from_value(json!({"metadata": {"creationTimestamp": created}})).unwrap()
        };
        let pod = |ready: &str| -> Arc<Pod> {
            let condition = json!({"type": "Ready", "status": "False", "lastTransitionTime": ready});
            Arc::new(serde_json::from_value(json!({"status": {"conditions": [condition]}})).unwrap())
        };
        let (early, late, later) = (
            "2026-01-01T00:00:00Z",
            "2026-01-01T00:01:00Z",
            "2026-01-01T00:02:00Z",
        );
        for (created, pods, expect) in [
            (early, vec![], early),
            (early, vec![pod(late)], late),
            (early, vec![pod(later), pod(late)], later),
            (late, vec![pod(early)], late),
        ] {
            assert_eq!(trigger_time(&service(created), &pods).to_string(), expect);
        }
    }

    /// Rows follow upstream's `TestShouldPodBeInEndpoints`.
    #[test]
    fn membership() {
        let pod = |value| -> Pod { serde_json::from_value(value).unwrap() };
        let dying = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        let ip = json!([{"ip": "10.0.0.1"}]);
        for (name, pod, expect) in [
            (
                "running",
                pod(json!({"status": {"phase": "Running", "podIPs": ip}})),
                (true, true),
            ),
            (
                "without address",
                pod(json!({"status": {"phase": "Running"}})),
                (false, false),
            ),
            (
                "failed",
                pod(json!({"status": {"phase": "Failed", "podIPs": ip}})),
                (false, false),
            ),
            (
                "succeeded",
                pod(json!({"status": {"phase": "Succeeded", "podIPs": ip}})),
                (false, false),
            ),
            (
                "terminating",
                pod(json!({"metadata": dying, "status": {"phase": "Running", "podIPs": ip}})),
                (false, true),
            ),
        ] {
            assert_eq!((belongs(&pod, false), belongs(&pod, true)), expect, "{name}");
        }
    }
}

//! What a node may do: its own Node, Lease and pods, and what its pods refer to.
//!
//! Which Secrets a node may read follows from which pods are bound to it. That is looked up in the cached pods when it
//! is asked; a graph of its own would have to be kept in step with them.

use std::ops::ControlFlow;

use serde_json::Value;

use super::{Attributes, Decision, READ, Rule, rule};
use crate::{authn::UserInfo, watch_cache::WatchCache};

const POD_PREFIX: &str = "/registry/pods/";

/// What every node may do, whatever runs on it.
const NODE: &[Rule] = &[
    rule(&[""], &["services"], READ),
    rule(&["discovery.k8s.io"], &["endpointslices"], READ),
    rule(&["node.k8s.io"], &["runtimeclasses"], READ),
    rule(&["storage.k8s.io"], &["csidrivers", "volumeattachments"], READ),
    rule(
        &["", "events.k8s.io"],
        &["events"],
        &["create", "patch", "update"],
    ),
    rule(&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
    rule(
        &["authorization.k8s.io"],
        &["subjectaccessreviews", "localsubjectaccessreviews"],
        &["create"],
    ),
    rule(
        &["certificates.k8s.io"],
        &["certificatesigningrequests"],
        &["create", "get", "list", "watch"],
    ),
];

/// The node a user is, if it is one.
pub(crate) fn name_of(user: &UserInfo) -> Option<&str> {
    let name = user
        .name
        .strip_prefix("system:node:")
        .filter(|name| !name.is_empty())?;
    user.in_group("system:nodes").then_some(name)
}

/// Decides for a node.
pub(super) fn authorize(node: &str, attributes: &Attributes, cache: &WatchCache) -> Decision {
    if NODE.iter().any(|rule| rule.covers(attributes)) {
        return Decision::Allow;
    }
    let a = attributes;
    let verb = a.verb.as_str();
    let reads_one = matches!(verb, "get" | "list" | "watch") && !a.name.is_empty();
    match (a.group.as_str(), a.resource.as_str(), a.subresource.as_str()) {
        ("", "nodes", "") => match verb {
            "create" | "get" | "list" | "watch" => Decision::Allow,
            "update" | "patch" | "delete" => own(a.name == node, "node", node),
            _ => deny(),
        },
        ("", "nodes", "status") => own(a.name == node && matches!(verb, "update" | "patch"), "node", node),
        ("coordination.k8s.io", "leases", "") => {
            let ours = a.namespace == "kube-node-lease" && (a.name == node || verb == "create");
            own(
                ours && matches!(verb, "create" | "get" | "update" | "patch" | "delete"),
                "lease",
                node,
            )
        }
        ("storage.k8s.io", "csinodes", "") => own(a.name == node || verb == "create", "csinode", node),
        ("", "pods", "") => match verb {
            "list" | "watch" if a.name.is_empty() => {
                let wanted = format!("spec.nodeName={node}");
                let selected = a.field_selector.as_deref().unwrap_or_default();
                let bound = selected.split(',').any(|term| term.replace("==", "=") == wanted);
                if bound {
                    Decision::Allow
                } else {
                    Decision::Deny("can only list/watch pods with spec.nodeName field selector".to_owned())
                }
            }
            // A mirror pod; admission sees to it that it is bound to this node.
            "create" => Decision::Allow,
            "get" | "list" | "watch" | "delete" => pod_here(node, a, cache),
            _ => deny(),
        },
        ("", "pods", "status") if matches!(verb, "update" | "patch" | "get") => pod_here(node, a, cache),
        ("", "pods", "eviction") if verb == "create" => pod_here(node, a, cache),
        ("", "secrets" | "configmaps" | "persistentvolumeclaims", "") if reads_one => {
            related(node, &a.resource, a, cache)
        }
        ("", "persistentvolumes", "") if reads_one => related(node, "persistentvolumes", a, cache),
        ("", "serviceaccounts", "") if reads_one => related(node, "serviceaccounts", a, cache),
        ("", "serviceaccounts", "token") if verb == "create" => related(node, "serviceaccounts", a, cache),
        _ => deny(),
    }
}

fn deny() -> Decision {
    Decision::Deny(String::new())
}

fn own(ours: bool, what: &str, node: &str) -> Decision {
    if ours {
        return Decision::Allow;
    }
    Decision::Deny(format!("can only access {what} of its own name, {node}"))
}

fn pod_here(node: &str, attributes: &Attributes, cache: &WatchCache) -> Decision {
    let key = format!("{POD_PREFIX}{}/{}", attributes.namespace, attributes.name);
    let pod = cache.resource(POD_PREFIX).and_then(|pods| pods.get(&key));
    // A pod that is gone is answered with 404, not with 403.
    let here = pod.is_none_or(|pod| pod.field("spec.nodeName") == Some(node));
    if here {
        return Decision::Allow;
    }
    Decision::Deny(format!(
        "node '{node}' cannot access a pod that is not bound to it"
    ))
}

fn related(node: &str, resource: &str, attributes: &Attributes, cache: &WatchCache) -> Decision {
    let found = cache.resource(POD_PREFIX).is_some_and(|pods| {
        pods.any(|pod| {
            pod.field("spec.nodeName") == Some(node)
                && (attributes.namespace.is_empty() || pod.namespace() == attributes.namespace)
                && refers_to(&pod.value(), resource, &attributes.name)
        })
    });
    if found {
        return Decision::Allow;
    }
    let kind = resource.trim_end_matches('s');
    Decision::Deny(format!(
        "no relationship found between node '{node}' and this object ({kind})"
    ))
}

/// Whether a pod refers to an object of its namespace (a PersistentVolume: through nothing yet, claims are bound later).
fn refers_to(pod: &Value, resource: &str, name: &str) -> bool {
    let mut found = false;
    visit_references(&pod["spec"], &mut |kind, reference| {
        found |= kind == resource && reference == name;
        if found {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    found
}

/// Calls `visit` with every object a pod spec names. One walk over all kinds of containers, so that none is forgotten.
fn visit_references(spec: &Value, visit: &mut dyn FnMut(&str, &str) -> ControlFlow<()>) {
    let mut seen = |kind: &str, name: &Value| match name.as_str() {
        Some(name) if !name.is_empty() => visit(kind, name),
        _ => ControlFlow::Continue(()),
    };
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut walk = || {
        seen("serviceaccounts", &spec["serviceAccountName"])?;
        for secret in list(&spec["imagePullSecrets"]) {
            seen("secrets", &secret["name"])?;
        }
        for field in ["containers", "initContainers", "ephemeralContainers"] {
            for container in list(&spec[field]) {
                for env in list(&container["env"]) {
                    seen("secrets", &env["valueFrom"]["secretKeyRef"]["name"])?;
                    seen("configmaps", &env["valueFrom"]["configMapKeyRef"]["name"])?;
                }
                for source in list(&container["envFrom"]) {
                    seen("secrets", &source["secretRef"]["name"])?;
                    seen("configmaps", &source["configMapRef"]["name"])?;
                }
            }
        }
        for volume in list(&spec["volumes"]) {
            seen("secrets", &volume["secret"]["secretName"])?;
            seen("configmaps", &volume["configMap"]["name"])?;
            seen(
                "persistentvolumeclaims",
                &volume["persistentVolumeClaim"]["claimName"],
            )?;
            for (source, field) in [
                ("csi", "nodePublishSecretRef"),
                ("cephfs", "secretRef"),
                ("flexVolume", "secretRef"),
                ("iscsi", "secretRef"),
                ("rbd", "secretRef"),
                ("scaleIO", "secretRef"),
                ("storageos", "secretRef"),
            ] {
                seen("secrets", &volume[source][field]["name"])?;
            }
            seen("secrets", &volume["azureFile"]["secretName"])?;
            for source in list(&volume["projected"]["sources"]) {
                seen("secrets", &source["secret"]["name"])?;
                seen("configmaps", &source["configMap"]["name"])?;
            }
        }
        ControlFlow::Continue(())
    };
    let _: ControlFlow<()> = walk();
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_kind_of_reference_counts() {
        let pod = json!({"spec": {
            "serviceAccountName": "sa",
            "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "env"}}}]}],
            "initContainers": [{"envFrom": [{"secretRef": {"name": "init"}}, {"configMapRef": {"name": "cm"}}]}],
            "ephemeralContainers": [{"envFrom": [{"secretRef": {"name": "debug"}}]}],
            "volumes": [
                {"secret": {"secretName": "vol"}},
                {"projected": {"sources": [{"secret": {"name": "proj"}}, {"configMap": {"name": "root-ca"}}]}},
                {"persistentVolumeClaim": {"claimName": "data"}},
            ],
        }});
        for secret in ["pull", "env", "init", "debug", "vol", "proj"] {
            assert!(refers_to(&pod, "secrets", secret), "{secret}");
            assert!(!refers_to(&pod, "configmaps", secret), "{secret}");
        }
        assert!(refers_to(&pod, "configmaps", "cm") && refers_to(&pod, "configmaps", "root-ca"));
        assert!(refers_to(&pod, "persistentvolumeclaims", "data"));
        assert!(refers_to(&pod, "serviceaccounts", "sa"));
        assert!(!refers_to(&pod, "secrets", "other"));
    }
}

//! Which built-in kind has which strategy.

use super::kind::Kind;
use super::{Strategy, apps, cluster, core, pod, service};

/// The strategy of a built-in kind.
pub fn builtin(group: &str, version: &str, kind: &str) -> &'static dyn Strategy {
    find(group, version, kind)
}

fn find(group: &str, version: &str, kind: &str) -> &'static Kind {
    match (group, kind) {
        ("", "Binding") => &core::BINDING,
        ("", "ComponentStatus") => &core::COMPONENT_STATUS,
        ("", "ConfigMap") => &core::CONFIG_MAP,
        ("", "Endpoints") => &service::ENDPOINTS,
        ("", "Event") => &core::EVENT,
        ("", "LimitRange") => &core::LIMIT_RANGE,
        ("", "Namespace") => &core::NAMESPACE,
        ("", "Node") => &core::NODE,
        ("", "PersistentVolume") => &cluster::PERSISTENT_VOLUME,
        ("", "PersistentVolumeClaim") => &cluster::PERSISTENT_VOLUME_CLAIM,
        ("", "Pod") => &pod::POD,
        ("", "PodTemplate") => &pod::POD_TEMPLATE,
        ("", "ReplicationController") => &apps::REPLICATION_CONTROLLER,
        ("", "ResourceQuota") => &core::RESOURCE_QUOTA,
        ("", "Secret") => &core::SECRET,
        ("", "Service") => &service::SERVICE,
        ("", "ServiceAccount") => &core::SERVICE_ACCOUNT,
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy") => &cluster::MUTATING_POLICY,
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding") => {
            &cluster::MUTATING_POLICY_BINDING
        }
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration") => &cluster::MUTATING_WEBHOOKS,
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => &cluster::VALIDATING_POLICY,
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding") => {
            &cluster::VALIDATING_POLICY_BINDING
        }
        ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration") => &cluster::VALIDATING_WEBHOOKS,
        ("apiextensions.k8s.io", _) => &cluster::CUSTOM_RESOURCE_DEFINITION,
        ("apiregistration.k8s.io", _) => &cluster::API_SERVICE,
        ("apps", "ControllerRevision") => &apps::CONTROLLER_REVISION,
        ("apps", "DaemonSet") => &apps::DAEMON_SET,
        ("apps", "Deployment") => &apps::DEPLOYMENT,
        ("apps", "ReplicaSet") => &apps::REPLICA_SET,
        ("apps", "StatefulSet") => &apps::STATEFUL_SET,
        ("authorization.k8s.io", "LocalSubjectAccessReview") => &cluster::LOCAL_REVIEW,
        ("autoscaling", _) if version == "v1" => &cluster::AUTOSCALER_V1,
        ("autoscaling", _) => &cluster::AUTOSCALER,
        ("batch", "CronJob") => &apps::CRON_JOB,
        ("batch", "Job") => &apps::JOB,
        ("certificates.k8s.io", "CertificateSigningRequest") => &cluster::SIGNING_REQUEST,
        ("certificates.k8s.io", "ClusterTrustBundle") => &cluster::TRUST_BUNDLE,
        ("certificates.k8s.io", "PodCertificateRequest") => &cluster::POD_CERTIFICATE,
        ("coordination.k8s.io", "Lease") => &core::LEASE,
        ("discovery.k8s.io", "EndpointSlice") => &service::ENDPOINT_SLICE,
        ("events.k8s.io", "Event") => &core::EVENT_V1,
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => &cluster::FLOW_SCHEMA,
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => &cluster::PRIORITY_LEVEL,
        ("networking.k8s.io", "IPAddress") => &cluster::IP_ADDRESS,
        ("networking.k8s.io", "Ingress") => &cluster::INGRESS,
        ("networking.k8s.io", "IngressClass") => &cluster::INGRESS_CLASS,
        ("networking.k8s.io", "NetworkPolicy") => &cluster::NETWORK_POLICY,
        ("networking.k8s.io", "ServiceCIDR") => &cluster::SERVICE_CIDR,
        ("node.k8s.io", "RuntimeClass") => &cluster::RUNTIME_CLASS,
        ("policy", "PodDisruptionBudget") => &apps::DISRUPTION_BUDGET,
        ("rbac.authorization.k8s.io", "ClusterRole") => &cluster::CLUSTER_ROLE,
        ("rbac.authorization.k8s.io", "ClusterRoleBinding") => &cluster::CLUSTER_ROLE_BINDING,
        ("rbac.authorization.k8s.io", "Role") => &cluster::ROLE,
        ("rbac.authorization.k8s.io", "RoleBinding") => &cluster::ROLE_BINDING,
        ("resource.k8s.io", "DeviceClass") => &cluster::DEVICE_CLASS,
        ("resource.k8s.io", "DeviceTaintRule") => &cluster::DEVICE_TAINT_RULE,
        ("resource.k8s.io", "ResourceClaim") => &cluster::RESOURCE_CLAIM,
        ("resource.k8s.io", "ResourceClaimTemplate") => &cluster::RESOURCE_CLAIM_TEMPLATE,
        ("resource.k8s.io", "ResourceSlice") => &cluster::RESOURCE_SLICE,
        ("scheduling.k8s.io", "PriorityClass") => &cluster::PRIORITY_CLASS,
        ("storage.k8s.io", "CSIDriver") => &cluster::CSI_DRIVER,
        ("storage.k8s.io", "CSINode") => &cluster::CSI_NODE,
        ("storage.k8s.io", "CSIStorageCapacity") => &cluster::CSI_STORAGE_CAPACITY,
        ("storage.k8s.io", "StorageClass") => &cluster::STORAGE_CLASS,
        ("storage.k8s.io", "VolumeAttachment") => &cluster::VOLUME_ATTACHMENT,
        ("storage.k8s.io", "VolumeAttributesClass") => &cluster::VOLUME_ATTRIBUTES_CLASS,
        // The rest are reviews, which no store ever sees.
        _ => &cluster::CLUSTER_REVIEW,
    }
}

#[cfg(test)]
mod tests {
    use crate::registry::{Registry, Verb};

    #[test]
    fn traits_agree_with_the_registry() {
        for r in Registry::builtin().resources() {
            let traits = r.strategy.traits();
            assert_eq!(traits.namespaced, r.namespaced, "{r:?}");
            if !r.verbs.contains(Verb::List) {
                continue;
            }
            assert_eq!(traits.schema, r.schema.name(), "{r:?}");
            assert_eq!(traits.status, r.subresource("status").is_some(), "{r:?}");
            assert_eq!(
                r.strategy.scale().is_some(),
                r.subresource("scale").is_some(),
                "{r:?}"
            );
            for field in traits.generation {
                assert!(r.schema.field(field).is_some(), "{r:?} {field}");
            }
        }
    }
}

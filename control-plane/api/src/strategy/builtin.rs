//! Which built-in kind has which strategy.

use super::kind::Kind;
use super::{
    Strategy, admission, apps, authorization, autoscaling, batch, certificates, core, extension, flowcontrol,
    networking, pod, rbac, resource, scheduling, service, storage,
};

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
        ("", "PersistentVolume") => &storage::PERSISTENT_VOLUME,
        ("", "PersistentVolumeClaim") => &storage::PERSISTENT_VOLUME_CLAIM,
        ("", "Pod") => &pod::POD,
        ("", "PodTemplate") => &pod::POD_TEMPLATE,
        ("", "ReplicationController") => &apps::REPLICATION_CONTROLLER,
        ("", "ResourceQuota") => &core::RESOURCE_QUOTA,
        ("", "Secret") => &core::SECRET,
        ("", "Service") => &service::SERVICE,
        ("", "ServiceAccount") => &core::SERVICE_ACCOUNT,
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy") => &admission::MUTATING_POLICY,
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding") => {
            &admission::MUTATING_POLICY_BINDING
        }
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration") => &admission::MUTATING_WEBHOOKS,
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => &admission::VALIDATING_POLICY,
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding") => {
            &admission::VALIDATING_POLICY_BINDING
        }
        ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration") => &admission::VALIDATING_WEBHOOKS,
        ("apiextensions.k8s.io", _) => &extension::CUSTOM_RESOURCE_DEFINITION,
        ("apiregistration.k8s.io", _) => &extension::API_SERVICE,
        ("apps", "ControllerRevision") => &apps::CONTROLLER_REVISION,
        ("apps", "DaemonSet") => &apps::DAEMON_SET,
        ("apps", "Deployment") => &apps::DEPLOYMENT,
        ("apps", "ReplicaSet") => &apps::REPLICA_SET,
        ("apps", "StatefulSet") => &apps::STATEFUL_SET,
        ("authorization.k8s.io", "LocalSubjectAccessReview") => &authorization::LOCAL_REVIEW,
        ("authorization.k8s.io", "SelfSubjectAccessReview") => &authorization::SELF_REVIEW,
        ("authorization.k8s.io", "SubjectAccessReview") => &authorization::SUBJECT_REVIEW,
        ("autoscaling", _) if version == "v1" => &autoscaling::AUTOSCALER_V1,
        ("autoscaling", _) => &autoscaling::AUTOSCALER,
        ("batch", "CronJob") => &batch::CRON_JOB,
        ("batch", "Job") => &batch::JOB,
        ("certificates.k8s.io", "CertificateSigningRequest") => &certificates::SIGNING_REQUEST,
        ("certificates.k8s.io", "ClusterTrustBundle") => &certificates::TRUST_BUNDLE,
        ("certificates.k8s.io", "PodCertificateRequest") => &certificates::POD_CERTIFICATE,
        ("coordination.k8s.io", "Lease") => &core::LEASE,
        ("discovery.k8s.io", "EndpointSlice") => &service::ENDPOINT_SLICE,
        ("events.k8s.io", "Event") => &core::EVENT_V1,
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => &flowcontrol::FLOW_SCHEMA,
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => &flowcontrol::PRIORITY_LEVEL,
        ("networking.k8s.io", "IPAddress") => &networking::IP_ADDRESS,
        ("networking.k8s.io", "Ingress") => &networking::INGRESS,
        ("networking.k8s.io", "IngressClass") => &networking::INGRESS_CLASS,
        ("networking.k8s.io", "NetworkPolicy") => &networking::NETWORK_POLICY,
        ("networking.k8s.io", "ServiceCIDR") => &networking::SERVICE_CIDR,
        ("node.k8s.io", "RuntimeClass") => &scheduling::RUNTIME_CLASS,
        ("policy", "PodDisruptionBudget") => &apps::DISRUPTION_BUDGET,
        ("rbac.authorization.k8s.io", "ClusterRole") => &rbac::CLUSTER_ROLE,
        ("rbac.authorization.k8s.io", "ClusterRoleBinding") => &rbac::CLUSTER_ROLE_BINDING,
        ("rbac.authorization.k8s.io", "Role") => &rbac::ROLE,
        ("rbac.authorization.k8s.io", "RoleBinding") => &rbac::ROLE_BINDING,
        ("resource.k8s.io", "DeviceClass") => &resource::DEVICE_CLASS,
        ("resource.k8s.io", "DeviceTaintRule") => &resource::DEVICE_TAINT_RULE,
        ("resource.k8s.io", "ResourceClaim") => &resource::RESOURCE_CLAIM,
        ("resource.k8s.io", "ResourceClaimTemplate") => &resource::RESOURCE_CLAIM_TEMPLATE,
        ("resource.k8s.io", "ResourceSlice") => &resource::RESOURCE_SLICE,
        ("scheduling.k8s.io", "PriorityClass") => &scheduling::PRIORITY_CLASS,
        ("storage.k8s.io", "CSIDriver") => &storage::CSI_DRIVER,
        ("storage.k8s.io", "CSINode") => &storage::CSI_NODE,
        ("storage.k8s.io", "CSIStorageCapacity") => &storage::CSI_STORAGE_CAPACITY,
        ("storage.k8s.io", "StorageClass") => &storage::STORAGE_CLASS,
        ("storage.k8s.io", "VolumeAttachment") => &storage::VOLUME_ATTACHMENT,
        ("storage.k8s.io", "VolumeAttributesClass") => &storage::VOLUME_ATTRIBUTES_CLASS,
        // The rest are reviews, which no store ever sees.
        _ => &authorization::CLUSTER_REVIEW,
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

//! Storage, networking policy, RBAC, scheduling, certificates, API extension: kinds whose rules are few.

use super::access::{Object, child, each, ensure, is_true, list, set, set_nonzero, text};
use super::kind::Kind;
use super::pod::default::volume_source;
use crate::meta::NameRule;
use serde_json::{Value, json};

mod autoscaler;
mod validate;

pub(super) use autoscaler::{AUTOSCALER, AUTOSCALER_V1};

const SPEC: &[&str] = &["spec"];

/// PersistentVolumes.
pub(super) static PERSISTENT_VOLUME: Kind = Kind::cluster("io.k8s.api.core.v1.PersistentVolume")
    .status()
    .defaults(|obj| {
        let spec = ensure(obj, "spec");
        set(spec, "persistentVolumeReclaimPolicy", "Retain");
        set(spec, "volumeMode", "Filesystem");
        volume_source(spec);
        set(ensure(obj, "status"), "phase", "Pending");
    })
    .prepares_create(|traits, obj| {
        super::generic_prepare_for_create(traits, obj);
        obj["status"] = json!({"phase": "Pending"});
    })
    .validates(validate::persistent_volume);

/// PersistentVolumeClaims.
pub(super) static PERSISTENT_VOLUME_CLAIM: Kind =
    Kind::namespaced("io.k8s.api.core.v1.PersistentVolumeClaim")
        .status()
        .defaults(|obj| {
            let spec = ensure(obj, "spec");
            set(spec, "volumeMode", "Filesystem");
            mirror_data_source(spec);
            set(ensure(obj, "status"), "phase", "Pending");
        })
        .prepares_create(|traits, obj| {
            super::generic_prepare_for_create(traits, obj);
            obj["status"] = json!({"phase": "Pending"});
        })
        .validates(validate::persistent_volume_claim)
        .validates_update(validate::persistent_volume_claim_update);

/// `dataSource` and `dataSourceRef` say the same unless the latter names another namespace.
fn mirror_data_source(spec: &mut Object) {
    match (
        spec.get("dataSource").cloned(),
        spec.get("dataSourceRef").cloned(),
    ) {
        (Some(source), None) => {
            spec.insert("dataSourceRef".into(), source);
        }
        (None, Some(reference)) if text(&reference, "/namespace").is_empty() => {
            spec.insert("dataSource".into(), reference);
        }
        _ => {}
    }
}

/// StorageClasses.
pub(super) static STORAGE_CLASS: Kind = Kind::cluster("io.k8s.api.storage.v1.StorageClass")
    .defaults(|obj| {
        set(obj, "reclaimPolicy", "Delete");
        set(obj, "volumeBindingMode", "Immediate");
    })
    .validates(validate::storage_class)
    .validates_update(|new, old, errors| {
        for field in ["provisioner", "parameters", "reclaimPolicy", "volumeBindingMode"] {
            errors.immutable(field, new.get(field), old.get(field));
        }
    });

/// CSIDrivers.
pub(super) static CSI_DRIVER: Kind = Kind::cluster("io.k8s.api.storage.v1.CSIDriver")
    .conditional_update()
    .generation(SPEC)
    .defaults(|obj| {
        let spec = ensure(obj, "spec");
        set(spec, "attachRequired", true);
        set(spec, "podInfoOnMount", false);
        set(spec, "storageCapacity", false);
        set(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        set(spec, "requiresRepublish", false);
        set(spec, "seLinuxMount", false);
        if spec
            .get("volumeLifecycleModes")
            .and_then(Value::as_array)
            .is_none_or(Vec::is_empty)
        {
            spec.insert("volumeLifecycleModes".into(), json!(["Persistent"]));
        }
    });

/// CSINodes.
pub(super) static CSI_NODE: Kind = Kind::cluster("io.k8s.api.storage.v1.CSINode").conditional_update();
/// CSIStorageCapacities.
pub(super) static CSI_STORAGE_CAPACITY: Kind = Kind::namespaced("io.k8s.api.storage.v1.CSIStorageCapacity");
/// VolumeAttachments.
pub(super) static VOLUME_ATTACHMENT: Kind = Kind::cluster("io.k8s.api.storage.v1.VolumeAttachment")
    .conditional_update()
    .status();
/// VolumeAttributesClasses.
pub(super) static VOLUME_ATTRIBUTES_CLASS: Kind =
    Kind::cluster("io.k8s.api.storage.v1.VolumeAttributesClass").validates_update(|new, old, errors| {
        for field in ["driverName", "parameters"] {
            errors.immutable(field, new.get(field), old.get(field));
        }
    });

/// Ingresses.
pub(super) static INGRESS: Kind = Kind::namespaced("io.k8s.api.networking.v1.Ingress")
    .status()
    .generation(SPEC)
    .validates(validate::ingress);

/// IngressClasses.
pub(super) static INGRESS_CLASS: Kind = Kind::cluster("io.k8s.api.networking.v1.IngressClass")
    .generation(SPEC)
    .defaults(|obj| {
        if let Some(parameters) = child(obj, "spec").and_then(|s| child(s, "parameters")) {
            set(parameters, "scope", "Cluster");
        }
    });

/// NetworkPolicies.
pub(super) static NETWORK_POLICY: Kind = Kind::namespaced("io.k8s.api.networking.v1.NetworkPolicy")
    .generation(SPEC)
    .defaults(|obj| {
        let spec = ensure(obj, "spec");
        for rules in ["ingress", "egress"] {
            for rule in each(spec, rules) {
                for port in each(rule, "ports") {
                    set(port, "protocol", "TCP");
                }
            }
        }
        if spec
            .get("policyTypes")
            .and_then(Value::as_array)
            .is_none_or(Vec::is_empty)
        {
            let egress = spec
                .get("egress")
                .and_then(Value::as_array)
                .is_some_and(|e| !e.is_empty());
            let types = if egress {
                json!(["Ingress", "Egress"])
            } else {
                json!(["Ingress"])
            };
            spec.insert("policyTypes".into(), types);
        }
    });

/// IPAddresses.
pub(super) static IP_ADDRESS: Kind = Kind::cluster("io.k8s.api.networking.v1.IPAddress").name(NameRule::PathSegment).selectable(|obj| {
    let group = text(obj, "/spec/parentRef/group").to_string();
    let resource = text(obj, "/spec/parentRef/resource").to_string();
    vec![
        ("spec.parentRef.group", group),
        ("spec.parentRef.resource", resource),
    ]
});
/// ServiceCIDRs.
pub(super) static SERVICE_CIDR: Kind = Kind::cluster("io.k8s.api.networking.v1.ServiceCIDR").status();

/// Roles.
pub(super) static ROLE: Kind = Kind::namespaced("io.k8s.api.rbac.v1.Role")
    .name(NameRule::PathSegment)
    .create_on_update()
    .validates(|obj, errors| validate::rules(obj, true, errors));
/// ClusterRoles.
pub(super) static CLUSTER_ROLE: Kind = Kind::cluster("io.k8s.api.rbac.v1.ClusterRole")
    .name(NameRule::PathSegment)
    .create_on_update()
    .validates(|obj, errors| validate::rules(obj, false, errors));
/// RoleBindings.
pub(super) static ROLE_BINDING: Kind = Kind::namespaced("io.k8s.api.rbac.v1.RoleBinding")
    .name(NameRule::PathSegment)
    .create_on_update()
    .defaults(role_binding)
    .validates(|obj, errors| validate::binding(obj, &["Role", "ClusterRole"], errors))
    .validates_update(|new, old, errors| {
        validate::binding(new, &["Role", "ClusterRole"], errors);
        validate::same_role(new, old, errors);
    });
/// ClusterRoleBindings.
pub(super) static CLUSTER_ROLE_BINDING: Kind = Kind::cluster("io.k8s.api.rbac.v1.ClusterRoleBinding")
    .name(NameRule::PathSegment)
    .create_on_update()
    .defaults(role_binding)
    .validates(|obj, errors| validate::binding(obj, &["ClusterRole"], errors))
    .validates_update(|new, old, errors| {
        validate::binding(new, &["ClusterRole"], errors);
        validate::same_role(new, old, errors);
    });

fn role_binding(obj: &mut Object) {
    const GROUP: &str = "rbac.authorization.k8s.io";
    set(ensure(obj, "roleRef"), "apiGroup", GROUP);
    for subject in each(obj, "subjects") {
        if matches!(
            subject.get("kind").and_then(Value::as_str),
            Some("User" | "Group")
        ) {
            set(subject, "apiGroup", GROUP);
        }
    }
}

/// PriorityClasses.
pub(super) static PRIORITY_CLASS: Kind = Kind::cluster("io.k8s.api.scheduling.v1.PriorityClass")
    .generation(&["value", "globalDefault", "description", "preemptionPolicy"])
    .defaults(|obj| set(obj, "preemptionPolicy", "PreemptLowerPriority"))
    .validates(validate::priority_class)
    .validates_update(|new, old, errors| {
        if new.get("value") != old.get("value") {
            errors.push(crate::validation::FieldError::forbidden(
                "value",
                "may not be changed in an update.",
            ));
        }
        errors.immutable(
            "preemptionPolicy",
            new.get("preemptionPolicy"),
            old.get("preemptionPolicy"),
        );
    });

/// RuntimeClasses.
pub(super) static RUNTIME_CLASS: Kind = Kind::cluster("io.k8s.api.node.v1.RuntimeClass")
    .conditional_update()
    .validates(validate::runtime_class)
    .validates_update(|new, old, errors| errors.immutable("handler", new.get("handler"), old.get("handler")));

/// CertificateSigningRequests. The API server fills in who asks.
pub(super) static SIGNING_REQUEST: Kind =
    Kind::cluster("io.k8s.api.certificates.v1.CertificateSigningRequest")
        .status()
        .validates(validate::signing_request)
        .validates_update(|new, old, errors| errors.immutable("spec", new.get("spec"), old.get("spec")))
        .selectable(|obj| vec![("spec.signerName", text(obj, "/spec/signerName").into())]);
/// ClusterTrustBundles.
pub(super) static TRUST_BUNDLE: Kind = Kind::cluster("io.k8s.api.certificates.v1.ClusterTrustBundle")
    .name(NameRule::PathSegment)
    .selectable(|obj| vec![("spec.signerName", text(obj, "/spec/signerName").into())]);
/// PodCertificateRequests.
pub(super) static POD_CERTIFICATE: Kind =
    Kind::namespaced("io.k8s.api.certificates.v1.PodCertificateRequest")
        .conditional_update()
        .status()
        .defaults(|obj| set(ensure(obj, "spec"), "maxExpirationSeconds", 86_400))
        .selectable(|obj| {
            vec![
                ("spec.signerName", text(obj, "/spec/signerName").into()),
                ("spec.podName", text(obj, "/spec/podName").into()),
                ("spec.nodeName", text(obj, "/spec/nodeName").into()),
            ]
        });

/// MutatingWebhookConfigurations.
pub(super) static MUTATING_WEBHOOKS: Kind =
    Kind::cluster("io.k8s.api.admissionregistration.v1.MutatingWebhookConfiguration")
        .conditional_update()
        .generation(&["webhooks"])
        .defaults(|obj| {
            webhooks(obj);
            for hook in each(obj, "webhooks") {
                set(hook, "reinvocationPolicy", "Never");
            }
        });
/// ValidatingWebhookConfigurations.
pub(super) static VALIDATING_WEBHOOKS: Kind =
    Kind::cluster("io.k8s.api.admissionregistration.v1.ValidatingWebhookConfiguration")
        .conditional_update()
        .generation(&["webhooks"])
        .defaults(webhooks);

fn webhooks(obj: &mut Object) {
    for hook in each(obj, "webhooks") {
        set(hook, "failurePolicy", "Fail");
        set(hook, "timeoutSeconds", 10);
        match_resources(hook);
        if let Some(service) = child(hook, "clientConfig").and_then(|c| child(c, "service")) {
            set(service, "port", 443);
        }
        for rule in each(hook, "rules") {
            set(rule, "scope", "*");
        }
    }
}

fn match_resources(owner: &mut Object) {
    set(owner, "matchPolicy", "Equivalent");
    ensure(owner, "namespaceSelector");
    ensure(owner, "objectSelector");
}

/// Admission policies of either sort.
pub(super) static VALIDATING_POLICY: Kind =
    Kind::cluster("io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicy")
        .conditional_update()
        .status()
        .generation(SPEC)
        .defaults(policy);
/// See [`VALIDATING_POLICY`].
pub(super) static MUTATING_POLICY: Kind =
    Kind::cluster("io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicy")
        .conditional_update()
        .generation(SPEC)
        .defaults(policy);
/// Bindings of admission policies.
pub(super) static VALIDATING_POLICY_BINDING: Kind =
    Kind::cluster("io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBinding")
        .conditional_update()
        .generation(SPEC)
        .defaults(policy_binding);
/// See [`VALIDATING_POLICY_BINDING`].
pub(super) static MUTATING_POLICY_BINDING: Kind =
    Kind::cluster("io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicyBinding")
        .conditional_update()
        .generation(SPEC)
        .defaults(policy_binding);

fn policy(obj: &mut Object) {
    let spec = ensure(obj, "spec");
    set(spec, "failurePolicy", "Fail");
    if let Some(constraints) = child(spec, "matchConstraints") {
        policy_match(constraints);
    }
}

fn policy_binding(obj: &mut Object) {
    if let Some(resources) = child(obj, "spec").and_then(|s| child(s, "matchResources")) {
        policy_match(resources);
    }
}

fn policy_match(resources: &mut Object) {
    match_resources(resources);
    for rules in ["resourceRules", "excludeResourceRules"] {
        for rule in each(resources, rules) {
            set(rule, "scope", "*");
        }
    }
}

/// CustomResourceDefinitions.
pub(super) static CUSTOM_RESOURCE_DEFINITION: Kind =
    Kind::cluster("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition")
        .conditional_update()
        .status()
        .generation(SPEC)
        .defaults(|obj| {
            let spec = ensure(obj, "spec");
            let names = ensure(spec, "names");
            let kind = names
                .get("kind")
                .and_then(Value::as_str)
                .unwrap_or("")
                .to_string();
            set(names, "singular", kind.to_lowercase());
            set(names, "listKind", format!("{kind}List"));
            let conversion = ensure(spec, "conversion");
            set(conversion, "strategy", "None");
            let service = child(conversion, "webhook")
                .and_then(|w| child(w, "clientConfig"))
                .and_then(|c| child(c, "service"));
            if let Some(service) = service {
                set(service, "port", 443);
            }
        })
        .prepares_create(|traits, obj| {
            super::generic_prepare_for_create(traits, obj);
            let stored: Vec<Value> = list(obj, "/spec/versions")
                .iter()
                .filter(|v| is_true(v, "/storage"))
                .map(|v| Value::from(text(v, "/name")))
                .collect();
            obj["status"]["storedVersions"] = stored.into();
        })
        .validates(validate::custom_resource_definition);

/// APIServices.
pub(super) static API_SERVICE: Kind =
    Kind::cluster("io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService")
        .conditional_update()
        .name(NameRule::PathSegment)
        .status()
        .defaults(|obj| {
            if let Some(service) = child(obj, "spec").and_then(|s| child(s, "service")) {
                set(service, "port", 443);
            }
        });

/// FlowSchemas.
pub(super) static FLOW_SCHEMA: Kind = Kind::cluster("io.k8s.api.flowcontrol.v1.FlowSchema")
    .conditional_update()
    .status()
    .generation(SPEC)
    .defaults(|obj| set_nonzero(ensure(obj, "spec"), "matchingPrecedence", 1000));

/// PriorityLevelConfigurations.
pub(super) static PRIORITY_LEVEL: Kind =
    Kind::cluster("io.k8s.api.flowcontrol.v1.PriorityLevelConfiguration")
        .conditional_update()
        .status()
        .generation(SPEC)
        .defaults(|obj| {
            let spec = ensure(obj, "spec");
            if let Some(exempt) = child(spec, "exempt") {
                set(exempt, "nominalConcurrencyShares", 0);
                set(exempt, "lendablePercent", 0);
            }
            if let Some(limited) = child(spec, "limited") {
                set(limited, "nominalConcurrencyShares", 30);
                set(limited, "lendablePercent", 0);
                if let Some(queuing) = child(limited, "limitResponse").and_then(|r| child(r, "queuing")) {
                    set_nonzero(queuing, "handSize", 8);
                    set_nonzero(queuing, "queues", 64);
                    set_nonzero(queuing, "queueLengthLimit", 50);
                }
            }
        });

/// ResourceClaims.
pub(super) static RESOURCE_CLAIM: Kind = Kind::namespaced("io.k8s.api.resource.v1.ResourceClaim")
    .status()
    .defaults(|obj| claim_spec(ensure(obj, "spec")))
    .validates_update(|new, old, errors| errors.immutable("spec", new.get("spec"), old.get("spec")));
/// ResourceClaimTemplates.
pub(super) static RESOURCE_CLAIM_TEMPLATE: Kind =
    Kind::namespaced("io.k8s.api.resource.v1.ResourceClaimTemplate")
        .defaults(|obj| claim_spec(ensure(ensure(obj, "spec"), "spec")))
        .validates_update(|new, old, errors| errors.immutable("spec", new.get("spec"), old.get("spec")));
/// DeviceClasses.
pub(super) static DEVICE_CLASS: Kind = Kind::cluster("io.k8s.api.resource.v1.DeviceClass").generation(SPEC);
/// DeviceTaintRules.
pub(super) static DEVICE_TAINT_RULE: Kind = Kind::cluster("io.k8s.api.resource.v1.DeviceTaintRule")
    .status()
    .generation(SPEC);
/// ResourceSlices.
pub(super) static RESOURCE_SLICE: Kind = Kind::cluster("io.k8s.api.resource.v1.ResourceSlice")
    .generation(SPEC)
    .selectable(|obj| {
        vec![
            ("spec.nodeName", text(obj, "/spec/nodeName").into()),
            ("spec.driver", text(obj, "/spec/driver").into()),
        ]
    });

fn claim_spec(spec: &mut Object) {
    let Some(devices) = child(spec, "devices") else {
        return;
    };
    for request in each(devices, "requests") {
        if let Some(exactly) = child(request, "exactly") {
            device_request(exactly);
        }
        for sub in each(request, "firstAvailable") {
            device_request(sub);
        }
    }
}

fn device_request(request: &mut Object) {
    set(request, "allocationMode", "ExactCount");
    if request["allocationMode"] == "ExactCount" {
        set_nonzero(request, "count", 1);
    }
    for toleration in each(request, "tolerations") {
        set(toleration, "operator", "Equal");
    }
}

/// Reviews: answered, never stored.
pub(super) static CLUSTER_REVIEW: Kind =
    review(Kind::cluster("io.k8s.api.authorization.v1.SubjectAccessReview"));
/// See [`CLUSTER_REVIEW`].
pub(super) static LOCAL_REVIEW: Kind = review(Kind::namespaced(
    "io.k8s.api.authorization.v1.LocalSubjectAccessReview",
));

const fn review(kind: Kind) -> Kind {
    kind.prepares_create(|_, _| ())
}

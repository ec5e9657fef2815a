//! The built-in resources: one row each, in upstream's discovery order.

use super::{
    Deprecation, GroupVersionKind, Name, Registry, Resource, StorageLocation, Subresource, Verb, VerbSet,
};
use crate::schema::TypeRef;
use crate::strategy;
use std::borrow::Cow;
use std::sync::Arc;

/// A group-version: API group, version, OpenAPI package, resources.
struct Group {
    group: &'static str,
    version: &'static str,
    package: &'static str,
    rows: &'static [Row],
}

/// A resource of a group-version.
struct Row {
    kind: &'static str,
    plural: &'static str,
    short_names: &'static str,
    categories: &'static str,
    namespaced: bool,
    verbs: VerbSet,
    /// Names known to `subresource`, space separated, in alphabetical order.
    subresources: &'static str,
    /// Key prefix below `/registry/`, where it is not the plural.
    prefix: &'static str,
    /// `group/version` the store holds, where it is not the served one.
    stored_as: (&'static str, &'static str),
    deprecated: Option<Deprecation>,
}

/// A namespaced resource with the usual verbs.
const fn ns(kind: &'static str, plural: &'static str) -> Row {
    Row {
        kind,
        plural,
        short_names: "",
        categories: "",
        namespaced: true,
        verbs: VerbSet::ALL,
        subresources: "",
        prefix: "",
        stored_as: ("", ""),
        deprecated: None,
    }
}

/// A cluster-scoped resource with the usual verbs.
const fn cluster(kind: &'static str, plural: &'static str) -> Row {
    Row {
        namespaced: false,
        ..ns(kind, plural)
    }
}

impl Row {
    const fn short(self, short_names: &'static str) -> Row {
        Row { short_names, ..self }
    }
    const fn all(self) -> Row {
        Row {
            categories: "all",
            ..self
        }
    }
    const fn categories(self, categories: &'static str) -> Row {
        Row { categories, ..self }
    }
    const fn sub(self, subresources: &'static str) -> Row {
        Row { subresources, ..self }
    }
    const fn at(self, prefix: &'static str) -> Row {
        Row { prefix, ..self }
    }
    const fn stored_as(self, group: &'static str, version: &'static str) -> Row {
        Row {
            stored_as: (group, version),
            ..self
        }
    }
    /// `replacement` is `group/version Kind`, empty where there is none.
    const fn deprecated(self, since: &'static str, replacement: &'static str) -> Row {
        Row {
            deprecated: Some(Deprecation { since, replacement }),
            ..self
        }
    }
    const fn verbs(self, verbs: VerbSet) -> Row {
        Row { verbs, ..self }
    }
}

/// Reviews are answered, not kept.
const REVIEW: VerbSet = VerbSet::CREATE;

const GROUPS: &[Group] = &[
    Group {
        group: "",
        version: "v1",
        package: "io.k8s.api.core.v1",
        rows: &[
            ns("Binding", "bindings").verbs(VerbSet::CREATE),
            cluster("ComponentStatus", "componentstatuses")
                .short("cs")
                .deprecated("1.19", "")
                .verbs(VerbSet::of(&[Verb::Get, Verb::List])),
            ns("ConfigMap", "configmaps").short("cm"),
            ns("Endpoints", "endpoints")
                .short("ep")
                .at("services/endpoints")
                .deprecated("1.33", "discovery.k8s.io/v1 EndpointSlice"),
            ns("Event", "events").short("ev"),
            ns("LimitRange", "limitranges").short("limits"),
            cluster("Namespace", "namespaces")
                .short("ns")
                .sub("finalize status")
                .verbs(VerbSet::of(&[
                    Verb::Create,
                    Verb::Delete,
                    Verb::Get,
                    Verb::List,
                    Verb::Patch,
                    Verb::Update,
                    Verb::Watch,
                ])),
            cluster("Node", "nodes")
                .short("no")
                .sub("proxy status")
                .at("minions"),
            ns("PersistentVolumeClaim", "persistentvolumeclaims")
                .short("pvc")
                .sub("status"),
            cluster("PersistentVolume", "persistentvolumes")
                .short("pv")
                .sub("status"),
            ns("Pod", "pods")
                .short("po")
                .all()
                .sub("attach binding ephemeralcontainers eviction exec log portforward proxy resize status"),
            ns("PodTemplate", "podtemplates"),
            ns("ReplicationController", "replicationcontrollers")
                .short("rc")
                .all()
                .sub("scale status")
                .at("controllers"),
            ns("ResourceQuota", "resourcequotas").short("quota").sub("status"),
            ns("Secret", "secrets"),
            ns("ServiceAccount", "serviceaccounts").short("sa").sub("token"),
            ns("Service", "services")
                .short("svc")
                .all()
                .sub("proxy status")
                .at("services/specs"),
        ],
    },
    Group {
        group: "apiregistration.k8s.io",
        version: "v1",
        package: "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1",
        rows: &[cluster("APIService", "apiservices")
            .categories("api-extensions")
            .sub("status")
            .at("apiregistration.k8s.io/apiservices")],
    },
    Group {
        group: "apps",
        version: "v1",
        package: "io.k8s.api.apps.v1",
        rows: &[
            ns("ControllerRevision", "controllerrevisions"),
            ns("DaemonSet", "daemonsets").short("ds").all().sub("status"),
            ns("Deployment", "deployments")
                .short("deploy")
                .all()
                .sub("scale status"),
            ns("ReplicaSet", "replicasets")
                .short("rs")
                .all()
                .sub("scale status"),
            ns("StatefulSet", "statefulsets")
                .short("sts")
                .all()
                .sub("scale status"),
        ],
    },
    Group {
        group: "events.k8s.io",
        version: "v1",
        package: "io.k8s.api.events.v1",
        rows: &[ns("Event", "events").short("ev").stored_as("", "v1")],
    },
    Group {
        group: "authentication.k8s.io",
        version: "v1",
        package: "io.k8s.api.authentication.v1",
        rows: &[
            cluster("SelfSubjectReview", "selfsubjectreviews").verbs(REVIEW),
            cluster("TokenReview", "tokenreviews").verbs(REVIEW),
        ],
    },
    Group {
        group: "authorization.k8s.io",
        version: "v1",
        package: "io.k8s.api.authorization.v1",
        rows: &[
            ns("LocalSubjectAccessReview", "localsubjectaccessreviews").verbs(REVIEW),
            cluster("SelfSubjectAccessReview", "selfsubjectaccessreviews").verbs(REVIEW),
            cluster("SelfSubjectRulesReview", "selfsubjectrulesreviews").verbs(REVIEW),
            cluster("SubjectAccessReview", "subjectaccessreviews").verbs(REVIEW),
        ],
    },
    Group {
        group: "autoscaling",
        version: "v2",
        package: "io.k8s.api.autoscaling.v2",
        rows: &[ns("HorizontalPodAutoscaler", "horizontalpodautoscalers")
            .short("hpa")
            .all()
            .sub("status")],
    },
    Group {
        group: "autoscaling",
        version: "v1",
        package: "io.k8s.api.autoscaling.v1",
        rows: &[ns("HorizontalPodAutoscaler", "horizontalpodautoscalers")
            .short("hpa")
            .all()
            .sub("status")
            .stored_as("autoscaling", "v2")],
    },
    Group {
        group: "batch",
        version: "v1",
        package: "io.k8s.api.batch.v1",
        rows: &[
            ns("CronJob", "cronjobs").short("cj").all().sub("status"),
            ns("Job", "jobs").all().sub("status"),
        ],
    },
    Group {
        group: "certificates.k8s.io",
        version: "v1",
        package: "io.k8s.api.certificates.v1",
        rows: &[
            cluster("CertificateSigningRequest", "certificatesigningrequests")
                .short("csr")
                .sub("approval status"),
            cluster("ClusterTrustBundle", "clustertrustbundles"),
            ns("PodCertificateRequest", "podcertificaterequests").sub("status"),
        ],
    },
    Group {
        group: "networking.k8s.io",
        version: "v1",
        package: "io.k8s.api.networking.v1",
        rows: &[
            cluster("IngressClass", "ingressclasses"),
            ns("Ingress", "ingresses")
                .short("ing")
                .sub("status")
                .at("ingress"),
            cluster("IPAddress", "ipaddresses").short("ip"),
            ns("NetworkPolicy", "networkpolicies").short("netpol"),
            cluster("ServiceCIDR", "servicecidrs").sub("status"),
        ],
    },
    Group {
        group: "policy",
        version: "v1",
        package: "io.k8s.api.policy.v1",
        rows: &[ns("PodDisruptionBudget", "poddisruptionbudgets")
            .short("pdb")
            .sub("status")],
    },
    Group {
        group: "rbac.authorization.k8s.io",
        version: "v1",
        package: "io.k8s.api.rbac.v1",
        rows: &[
            cluster("ClusterRoleBinding", "clusterrolebindings"),
            cluster("ClusterRole", "clusterroles"),
            ns("RoleBinding", "rolebindings"),
            ns("Role", "roles"),
        ],
    },
    Group {
        group: "storage.k8s.io",
        version: "v1",
        package: "io.k8s.api.storage.v1",
        rows: &[
            cluster("CSIDriver", "csidrivers"),
            cluster("CSINode", "csinodes"),
            ns("CSIStorageCapacity", "csistoragecapacities"),
            cluster("StorageClass", "storageclasses").short("sc"),
            cluster("VolumeAttachment", "volumeattachments").sub("status"),
            cluster("VolumeAttributesClass", "volumeattributesclasses").short("vac"),
        ],
    },
    Group {
        group: "admissionregistration.k8s.io",
        version: "v1",
        package: "io.k8s.api.admissionregistration.v1",
        rows: &[
            cluster("MutatingAdmissionPolicy", "mutatingadmissionpolicies").categories("api-extensions"),
            cluster(
                "MutatingAdmissionPolicyBinding",
                "mutatingadmissionpolicybindings",
            )
            .categories("api-extensions"),
            cluster("MutatingWebhookConfiguration", "mutatingwebhookconfigurations")
                .categories("api-extensions"),
            cluster("ValidatingAdmissionPolicy", "validatingadmissionpolicies")
                .categories("api-extensions")
                .sub("status"),
            cluster(
                "ValidatingAdmissionPolicyBinding",
                "validatingadmissionpolicybindings",
            )
            .categories("api-extensions"),
            cluster(
                "ValidatingWebhookConfiguration",
                "validatingwebhookconfigurations",
            )
            .categories("api-extensions"),
        ],
    },
    Group {
        group: "apiextensions.k8s.io",
        version: "v1",
        package: "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1",
        rows: &[cluster("CustomResourceDefinition", "customresourcedefinitions")
            .short("crd crds")
            .categories("api-extensions")
            .sub("status")
            .at("apiextensions.k8s.io/customresourcedefinitions")],
    },
    Group {
        group: "scheduling.k8s.io",
        version: "v1",
        package: "io.k8s.api.scheduling.v1",
        rows: &[cluster("PriorityClass", "priorityclasses").short("pc")],
    },
    Group {
        group: "coordination.k8s.io",
        version: "v1",
        package: "io.k8s.api.coordination.v1",
        rows: &[ns("Lease", "leases")],
    },
    Group {
        group: "node.k8s.io",
        version: "v1",
        package: "io.k8s.api.node.v1",
        rows: &[cluster("RuntimeClass", "runtimeclasses")],
    },
    Group {
        group: "discovery.k8s.io",
        version: "v1",
        package: "io.k8s.api.discovery.v1",
        rows: &[ns("EndpointSlice", "endpointslices")],
    },
    Group {
        group: "flowcontrol.apiserver.k8s.io",
        version: "v1",
        package: "io.k8s.api.flowcontrol.v1",
        rows: &[
            cluster("FlowSchema", "flowschemas").sub("status"),
            cluster("PriorityLevelConfiguration", "prioritylevelconfigurations").sub("status"),
        ],
    },
    Group {
        group: "resource.k8s.io",
        version: "v1",
        package: "io.k8s.api.resource.v1",
        rows: &[
            cluster("DeviceClass", "deviceclasses"),
            cluster("DeviceTaintRule", "devicetaintrules").sub("status"),
            ns("ResourceClaim", "resourceclaims").sub("status"),
            ns("ResourceClaimTemplate", "resourceclaimtemplates"),
            cluster("ResourceSlice", "resourceslices"),
        ],
    },
];

/// The registry of the built-in resources.
pub(super) fn registry() -> Registry {
    let mut resources = Vec::new();
    let mut groups: Vec<(Name, Vec<Name>)> = Vec::new();
    for group in GROUPS {
        match groups.iter_mut().find(|(name, _)| name == group.group) {
            Some((_, versions)) => versions.push(Cow::Borrowed(group.version)),
            None => groups.push((Cow::Borrowed(group.group), vec![Cow::Borrowed(group.version)])),
        }
        resources.extend(
            group
                .rows
                .iter()
                .filter_map(|row| resource(group, row))
                .map(Arc::new),
        );
    }
    Registry::new(resources, groups)
}

/// `None` only where the schema lacks the kind; a test shows that it never does.
fn resource(group: &Group, row: &Row) -> Option<Resource> {
    let schema = TypeRef::by_name(&format!("{}.{}", group.package, row.kind))?;
    let (stored_group, stored_version) = if row.stored_as.1.is_empty() {
        (group.group, group.version)
    } else {
        row.stored_as
    };
    let prefix = if row.prefix.is_empty() {
        row.plural
    } else {
        row.prefix
    };
    Some(Resource {
        group: Cow::Borrowed(group.group),
        version: Cow::Borrowed(group.version),
        kind: Cow::Borrowed(row.kind),
        plural: Cow::Borrowed(row.plural),
        singular: Cow::Owned(row.kind.to_lowercase()),
        list_kind: Cow::Owned(format!("{}List", row.kind)),
        short_names: words(row.short_names),
        categories: words(row.categories),
        namespaced: row.namespaced,
        verbs: row.verbs,
        subresources: row
            .subresources
            .split_whitespace()
            .map(|name| subresource(name, group, row))
            .collect(),
        schema,
        storage: StorageLocation {
            prefix: Cow::Owned(format!("/registry/{prefix}/")),
            version: GroupVersionKind::new(stored_group, stored_version, row.kind),
        },
        deprecated: row.deprecated,
        strategy: strategy::builtin(group.group, group.version, row.kind),
    })
}

fn subresource(name: &'static str, group: &Group, row: &Row) -> Subresource {
    let core = |kind: &'static str| GroupVersionKind::new("", "v1", kind);
    let own = || GroupVersionKind::new(group.group, group.version, row.kind);
    let connect = VerbSet::of(&[Verb::Create, Verb::Get]);
    let proxy = VerbSet::of(&[Verb::Create, Verb::Delete, Verb::Get, Verb::Patch, Verb::Update]);
    let (kind, verbs, is_connect) = match name {
        "attach" => (core("PodAttachOptions"), connect, true),
        "exec" => (core("PodExecOptions"), connect, true),
        "portforward" => (core("PodPortForwardOptions"), connect, true),
        "proxy" => match row.kind {
            "Node" => (core("NodeProxyOptions"), proxy, true),
            "Service" => (core("ServiceProxyOptions"), proxy, true),
            _ => (core("PodProxyOptions"), proxy, true),
        },
        "log" => (own(), VerbSet::GET, false),
        "binding" => (core("Binding"), VerbSet::CREATE, false),
        "eviction" => (
            GroupVersionKind::new("policy", "v1", "Eviction"),
            VerbSet::CREATE,
            false,
        ),
        "token" => (
            GroupVersionKind::new("authentication.k8s.io", "v1", "TokenRequest"),
            VerbSet::CREATE,
            false,
        ),
        "scale" => (
            GroupVersionKind::new("autoscaling", "v1", "Scale"),
            VerbSet::GET_PATCH_UPDATE,
            false,
        ),
        "finalize" => (own(), VerbSet::of(&[Verb::Update]), false),
        _ => (own(), VerbSet::GET_PATCH_UPDATE, false),
    };
    Subresource {
        name: Cow::Borrowed(name),
        kind,
        verbs,
        connect: is_connect,
    }
}

fn words(text: &'static str) -> Vec<Name> {
    text.split_whitespace().map(Cow::Borrowed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_schema_with_metadata() {
        let registry = Registry::builtin();
        let rows: usize = GROUPS.iter().map(|g| g.rows.len()).sum();
        assert_eq!(registry.resources().count(), rows);
        for r in registry.resources() {
            assert!(r.schema.field("metadata").is_some(), "{r:?}");
            assert!(r.schema.field("kind").is_some(), "{r:?}");
            let has_status = r.subresource("status").is_some();
            assert!(!has_status || r.schema.field("status").is_some(), "{r:?}");
        }
    }

    #[test]
    fn lists_have_a_schema_where_lists_are_served() {
        for group in GROUPS {
            for row in group.rows.iter().filter(|r| r.verbs.contains(Verb::List)) {
                let name = format!("{}.{}List", group.package, row.kind);
                assert!(TypeRef::by_name(&name).is_some(), "{name}");
            }
        }
    }

    #[test]
    fn keys_are_upstreams() {
        let registry = Registry::builtin();
        let key = |group: &str, version: &str, plural: &str, ns: Option<&str>, name: &str| {
            registry.find(group, version, plural).unwrap().key(ns, name)
        };
        let rows = [
            ("", "v1", "pods", Some("ns"), "/registry/pods/ns/a"),
            ("", "v1", "nodes", None, "/registry/minions/a"),
            ("", "v1", "services", Some("ns"), "/registry/services/specs/ns/a"),
            (
                "",
                "v1",
                "endpoints",
                Some("ns"),
                "/registry/services/endpoints/ns/a",
            ),
            (
                "apps",
                "v1",
                "deployments",
                Some("ns"),
                "/registry/deployments/ns/a",
            ),
            (
                "events.k8s.io",
                "v1",
                "events",
                Some("ns"),
                "/registry/events/ns/a",
            ),
            (
                "networking.k8s.io",
                "v1",
                "ingresses",
                Some("ns"),
                "/registry/ingress/ns/a",
            ),
            (
                "apiregistration.k8s.io",
                "v1",
                "apiservices",
                None,
                "/registry/apiregistration.k8s.io/apiservices/a",
            ),
        ];
        for (group, version, plural, ns, want) in rows {
            assert_eq!(key(group, version, plural, ns, "a").unwrap(), want);
        }
        for bad in ["", ".", "..", "a/b", "a%2fb", "a\0"] {
            assert!(key("", "v1", "pods", Some("ns"), bad).is_err(), "{bad:?}");
            assert!(key("", "v1", "pods", Some(bad), "a").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lookups() {
        let registry = Registry::builtin();
        assert!(registry.find("apps", "v1", "deployments").is_some());
        assert!(registry.find("apps", "v1beta1", "deployments").is_none());
        let pod = registry.by_kind(&GroupVersionKind::new("", "v1", "Pod")).unwrap();
        assert_eq!(
            (pod.plural.as_ref(), pod.singular.as_ref(), pod.list_kind.as_ref()),
            ("pods", "pod", "PodList")
        );
        let autoscaling = registry
            .groups()
            .iter()
            .find(|(g, _)| g == "autoscaling")
            .unwrap();
        assert_eq!(autoscaling.1, ["v2", "v1"]);
        assert_eq!(registry.groups()[0].0, "");
    }
}

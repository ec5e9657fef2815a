//! Who may do what, and what may be disturbed.

use serde_json::Value;

use super::human_duration;
use super::{AGE, NAME, NONE, Printer, age, integer, list, name, number, string, text, text_or_none, wide};

pub(super) const POD_DISRUPTION_BUDGET: Printer = Printer {
    columns: &[
        NAME,
        string("Min Available").of("policy.v1.PodDisruptionBudgetSpec", "minAvailable"),
        string("Max Unavailable").of("policy.v1.PodDisruptionBudgetSpec", "maxUnavailable"),
        integer("Allowed Disruptions").of("policy.v1.PodDisruptionBudgetStatus", "disruptionsAllowed"),
        AGE,
    ],
    row: |object, now| {
        let amount = |value: &Value| match value {
            Value::Null => "N/A".into(),
            Value::Number(number) => Value::from(number.to_string()),
            other => other.clone(),
        };
        let spec = &object["spec"];
        vec![
            name(object),
            amount(&spec["minAvailable"]),
            amount(&spec["maxUnavailable"]),
            number(&object["status"]["disruptionsAllowed"]),
            age(object, now),
        ]
    },
};

pub(super) const ROLE_BINDING: Printer = Printer {
    columns: &[
        NAME,
        string("Role").of("rbac.v1.RoleBinding", "roleRef"),
        AGE,
        wide("Users"),
        wide("Groups"),
        wide("ServiceAccounts"),
    ],
    row: |object, now| {
        let role = &object["roleRef"];
        let subjects = |kind: &str| -> String {
            let named = list(&object["subjects"])
                .iter()
                .filter(|subject| subject["kind"] == kind);
            let shown: Vec<String> = named
                .map(|subject| match (kind, text(&subject["namespace"])) {
                    ("ServiceAccount", namespace) if !namespace.is_empty() => {
                        format!("{namespace}/{}", text(&subject["name"]))
                    }
                    _ => text(&subject["name"]).to_owned(),
                })
                .collect();
            shown.join(", ")
        };
        vec![
            name(object),
            format!("{}/{}", text(&role["kind"]), text(&role["name"])).into(),
            age(object, now),
            subjects("User").into(),
            subjects("Group").into(),
            subjects("ServiceAccount").into(),
        ]
    },
};

pub(super) const CLUSTER_ROLE_BINDING: Printer = Printer {
    columns: &[
        NAME,
        string("Role").of("rbac.v1.ClusterRoleBinding", "roleRef"),
        AGE,
        wide("Users"),
        wide("Groups"),
        wide("ServiceAccounts"),
    ],
    ..ROLE_BINDING
};

pub(super) const CERTIFICATE_SIGNING_REQUEST: Printer = Printer {
    columns: &[
        NAME,
        AGE,
        string("SignerName").of("certificates.v1.CertificateSigningRequestSpec", "signerName"),
        string("Requestor").of("certificates.v1.CertificateSigningRequestSpec", "request"),
        string("RequestedDuration").of(
            "certificates.v1.CertificateSigningRequestSpec",
            "expirationSeconds",
        ),
        string("Condition").of("certificates.v1.CertificateSigningRequestStatus", "conditions"),
    ],
    row: |object, now| {
        let (spec, status) = (&object["spec"], &object["status"]);
        let holds = |kind: &str| {
            list(&status["conditions"])
                .iter()
                .any(|condition| condition["type"] == kind)
        };
        let mut condition = Vec::new();
        if holds("Denied") {
            condition.push("Denied");
        } else if holds("Approved") {
            condition.push("Approved");
        } else {
            condition.push("Pending");
        }
        if holds("Failed") {
            condition.push("Failed");
        }
        if !text(&status["certificate"]).is_empty() {
            condition.push("Issued");
        }
        let duration = spec["expirationSeconds"]
            .as_i64()
            .map_or(NONE.to_owned(), human_duration);
        vec![
            name(object),
            age(object, now),
            text_or_none(&spec["signerName"]),
            text(&spec["username"]).into(),
            duration.into(),
            condition.join(",").into(),
        ]
    },
};

pub(super) const CLUSTER_TRUST_BUNDLE: Printer = Printer {
    columns: &[
        NAME,
        string("SignerName").of("certificates.v1.ClusterTrustBundleSpec", "signerName"),
    ],
    row: |object, _| vec![name(object), text_or_none(&object["spec"]["signerName"])],
};

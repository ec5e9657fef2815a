//! CertificateSigningRequests, ClusterTrustBundles, PodCertificateRequests.

use super::access::{ensure, set, text};
use super::kind::{Kind, Subresources};
use super::{Traits, generic_reset_fields, keep, prepare_for_status_update_alone, reset_metadata_too};
use crate::meta::{self, NameRule};
use serde_json::Value;

mod bundle;
mod key;
mod pem;
mod pod;
mod request;
mod signer;

pub(super) use pem::blocks;
pub(super) use pod::user_annotations;
pub use request::organizations as signing_request_organizations;
pub(super) use signer::signer_name;

/// CertificateSigningRequests. The API server fills in who asks.
pub(super) static SIGNING_REQUEST: Kind =
    Kind::cluster("io.k8s.api.certificates.v1.CertificateSigningRequest")
        .name(NameRule::PathSegment)
        .status()
        .prepares_update(|traits, new, old| {
            super::generic_prepare_for_update(traits, new, old);
            // What was approved is what was asked for.
            keep(new, old, "spec");
        })
        .prepares_status(|new, old| {
            super::generic_prepare_for_status_update(new, old);
            request::keep_conditions(new, old, &["Approved", "Denied"]);
        })
        .subresources(Subresources {
            prepare: |_, subresource, new, old| {
                if subresource != "approval" {
                    *new = old.clone();
                    return;
                }
                meta::carry_over(new, old);
                keep(new, old, "spec");
                let conditions = new["status"]["conditions"].take();
                keep(new, old, "status");
                if let Some(status) = new.get_mut("status").and_then(Value::as_object_mut) {
                    match conditions {
                        Value::Null => status.remove("conditions"),
                        conditions => status.insert("conditions".into(), conditions),
                    };
                }
            },
            validate: |_, new, old, errors| request::update(new, old, request::Change::Approval, errors),
        })
        .resets(reset_request)
        .validates(request::create)
        .validates_update(|new, old, errors| request::update(new, old, request::Change::Spec, errors))
        .validates_status(|new, old, errors| request::update(new, old, request::Change::Status, errors))
        .selectable(|obj| vec![("spec.signerName", text(obj, "/spec/signerName").into())]);

fn reset_request(traits: &Traits, subresource: &str) -> &'static [&'static str] {
    match subresource {
        "" => &["spec", "status"],
        "status" => &["spec", "status.conditions"],
        "approval" => &["spec", "status.certificate"],
        other => generic_reset_fields(traits, other),
    }
}

/// ClusterTrustBundles.
pub(super) static TRUST_BUNDLE: Kind = Kind::cluster("io.k8s.api.certificates.v1.ClusterTrustBundle")
    .name(NameRule::PathSegment)
    .conditional_update()
    .validates(|obj, errors| bundle::bundle(obj, None, errors))
    .validates_update(|new, old, errors| {
        bundle::bundle(new, Some(old), errors);
        let signer = |obj: &Value| obj.pointer("/spec/signerName").cloned();
        errors.immutable("spec.signerName", signer(new).as_ref(), signer(old).as_ref());
    })
    .selectable(|obj| vec![("spec.signerName", text(obj, "/spec/signerName").into())]);

/// PodCertificateRequests.
pub(super) static POD_CERTIFICATE: Kind =
    Kind::namespaced("io.k8s.api.certificates.v1.PodCertificateRequest")
        .conditional_update()
        .status()
        .defaults(|obj| set(ensure(obj, "spec"), "maxExpirationSeconds", 86_400))
        .stamps(|subresource, new, old, now| {
            if let (Some(old), "status") = (old, subresource) {
                pod::date_conditions(new, old, now);
            }
        })
        .prepares_status(|new, old| {
            prepare_for_status_update_alone(new, old);
            request::keep_conditions(new, old, &pod::TERMINAL);
        })
        .resets(reset_metadata_too)
        .validates(pod::create)
        .validates_update(|new, old, errors| {
            errors.immutable("spec", new.get("spec"), old.get("spec"));
        })
        .validates_status(pod::status)
        .selectable(|obj| {
            vec![
                ("spec.signerName", text(obj, "/spec/signerName").into()),
                ("spec.podName", text(obj, "/spec/podName").into()),
                ("spec.nodeName", text(obj, "/spec/nodeName").into()),
            ]
        });

//! CertificateSigningRequests, ClusterTrustBundles, PodCertificateRequests.

use super::access::{ensure, set, text};
use super::kind::{Kind, Subresources};
use super::{Traits, generic_reset_fields, keep, prepare_for_status_update_alone, reset_metadata_too};
use crate::meta::NameRule;
use serde_json::Value;

mod bundle;
mod pem;
mod pod;
mod request;
mod signer;

/// CertificateSigningRequests. The API server fills in who asks.
pub(super) static SIGNING_REQUEST: Kind =
    Kind::cluster("io.k8s.api.certificates.v1.CertificateSigningRequest")
        .name(NameRule::Any)
        .status()
        .prepares_status(|new, old| {
            super::generic_prepare_for_status_update(new, old);
            request::keep_decisions(new, old);
        })
        .subresources(Subresources {
            prepare: |_, subresource, new, old| {
                let mut kept = old.clone();
                if subresource == "approval" {
                    keep(&mut kept["status"], &new["status"], "conditions");
                }
                *new = kept;
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
        "approval" => &["spec", "status.certificate"],
        other => generic_reset_fields(traits, other),
    }
}

/// ClusterTrustBundles.
pub(super) static TRUST_BUNDLE: Kind = Kind::cluster("io.k8s.api.certificates.v1.ClusterTrustBundle")
    .name(NameRule::PathSegment)
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
        .prepares_status(prepare_for_status_update_alone)
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

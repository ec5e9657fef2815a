//! Admission webhooks and admission policies.

use super::access::{Object, child, each, ensure, set};
use super::kind::Kind;
use super::{prepare_for_status_update_alone, reset_metadata_too};

mod policy;
mod rules;
mod webhook;

pub(super) use webhook::client_config;

const SPEC: &[&str] = &["spec"];
const WEBHOOKS: &[&str] = &["webhooks"];

/// MutatingWebhookConfigurations.
pub(super) static MUTATING_WEBHOOKS: Kind =
    Kind::cluster("io.k8s.api.admissionregistration.v1.MutatingWebhookConfiguration")
        .conditional_update()
        .generation(WEBHOOKS)
        .defaults(|obj| {
            webhooks(obj);
            for hook in each(obj, "webhooks") {
                set(hook, "reinvocationPolicy", "Never");
            }
        })
        .validates(|obj, errors| webhook::configuration(obj, None, errors))
        .validates_update(|new, old, errors| webhook::configuration(new, Some(old), errors));

/// ValidatingWebhookConfigurations.
pub(super) static VALIDATING_WEBHOOKS: Kind =
    Kind::cluster("io.k8s.api.admissionregistration.v1.ValidatingWebhookConfiguration")
        .conditional_update()
        .generation(WEBHOOKS)
        .defaults(webhooks)
        .validates(|obj, errors| webhook::configuration(obj, None, errors))
        .validates_update(|new, old, errors| webhook::configuration(new, Some(old), errors));

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

/// ValidatingAdmissionPolicies.
pub(super) static VALIDATING_POLICY: Kind =
    Kind::cluster("io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicy")
        .conditional_update()
        .status()
        .generation(SPEC)
        .defaults(policy_defaults)
        .prepares_status(prepare_for_status_update_alone)
        .resets(reset_metadata_too)
        .validates(policy::validating);

/// MutatingAdmissionPolicies.
pub(super) static MUTATING_POLICY: Kind =
    Kind::cluster("io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicy")
        .conditional_update()
        .generation(SPEC)
        .defaults(policy_defaults)
        .validates(policy::mutating);

/// ValidatingAdmissionPolicyBindings.
pub(super) static VALIDATING_POLICY_BINDING: Kind =
    Kind::cluster("io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBinding")
        .conditional_update()
        .generation(SPEC)
        .defaults(binding_defaults)
        .validates(policy::validating_binding);

/// MutatingAdmissionPolicyBindings.
pub(super) static MUTATING_POLICY_BINDING: Kind =
    Kind::cluster("io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicyBinding")
        .conditional_update()
        .generation(SPEC)
        .defaults(binding_defaults)
        .validates(policy::mutating_binding);

fn policy_defaults(obj: &mut Object) {
    let spec = ensure(obj, "spec");
    set(spec, "failurePolicy", "Fail");
    if let Some(constraints) = child(spec, "matchConstraints") {
        policy_match(constraints);
    }
}

fn binding_defaults(obj: &mut Object) {
    let Some(spec) = child(obj, "spec") else { return };
    if let Some(resources) = child(spec, "matchResources") {
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

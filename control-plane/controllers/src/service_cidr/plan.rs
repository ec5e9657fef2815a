//! What a ServiceCIDR needs.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::cidr::Cidr;
use crate::objects::ServiceCidr;

/// Keeps a ServiceCIDR until nothing needs it.
pub(super) const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";

/// So long after the deletion nothing is let go: an API server that has not heard of it may still hand out an address.
const GRACE: SignedDuration = SignedDuration::from_secs(10);

/// What the plan is made from.
pub(super) struct View<'a> {
    pub(super) cidr: &'a ServiceCidr,
    /// All ServiceCIDRs, this one included.
    pub(super) others: &'a [Arc<ServiceCidr>],
    /// The addresses that Services have; only needed when the ServiceCIDR is being deleted.
    pub(super) addresses: &'a [IpAddr],
    pub(super) now: Timestamp,
}

/// What is to be written; `None` leaves a part as it is.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) finalizers: Option<Vec<String>>,
    pub(super) condition: Option<Value>,
    /// Look again so much later.
    pub(super) after: Option<Duration>,
}

pub(super) fn plan(view: &View<'_>) -> Plan {
    let meta = &view.cidr.metadata;
    let protected = meta.finalizers.iter().any(|finalizer| finalizer == FINALIZER);
    let Some(deleted) = &meta.deletion_timestamp else {
        let mut finalizers = meta.finalizers.clone();
        finalizers.push(FINALIZER.to_owned());
        return Plan {
            finalizers: (!protected).then_some(finalizers),
            condition: condition(view, "True", "", "Kubernetes Service CIDR is ready"),
            after: None,
        };
    };
    if !protected {
        return Plan::default();
    }
    if is_needed(view) {
        let why = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new \
                   ServiceCIDR";
        return Plan {
            condition: condition(view, "False", "Terminating", why),
            ..Plan::default()
        };
    }
    let age = view.now.duration_since(deleted.0);
    if age < GRACE {
        return Plan {
            after: Duration::try_from(GRACE - age).ok(),
            ..Plan::default()
        };
    }
    let others = meta.finalizers.iter().filter(|finalizer| *finalizer != FINALIZER);
    Plan {
        finalizers: Some(others.cloned().collect()),
        ..Plan::default()
    }
}

/// The condition `Ready`, unless it says so already.
fn condition(view: &View<'_>, status: &str, reason: &str, message: &str) -> Option<Value> {
    let current = view.cidr.status.conditions.iter().find(|one| one.kind == "Ready");
    let same = current.is_some_and(|current| current.status == status && current.reason == reason);
    (!same).then(|| {
        json!({
            "type": "Ready", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": view.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        })
    })
}

/// Whether some address would be in no ServiceCIDR any more.
fn is_needed(view: &View<'_>) -> bool {
    let own = ranges(view.cidr);
    let others: Vec<Cidr> = (view.others.iter())
        .filter(|other| other.metadata.uid != view.cidr.metadata.uid && !other.metadata.is_deleted())
        .flat_map(|other| ranges(other))
        .collect();
    let within = |ranges: &[Cidr], address: &IpAddr| ranges.iter().any(|range| range.contains(*address));
    view.addresses
        .iter()
        .any(|address| within(&own, address) && !within(&others, address))
}

fn ranges(cidr: &ServiceCidr) -> Vec<Cidr> {
    cidr.spec
        .cidrs
        .iter()
        .filter_map(|text| text.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(value: Value) -> ServiceCidr {
        serde_json::from_value(value).unwrap()
    }

    fn check(cidr: &ServiceCidr, others: &[Value], addresses: &[&str], seconds: i64) -> Plan {
        let mut others: Vec<_> = (others.iter())
            .map(|other| Arc::new(serde_json::from_value(other.clone()).unwrap()))
            .collect();
        others.push(Arc::new(cidr.clone()));
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        plan(&View {
            cidr,
            others: &others,
            addresses: &addresses,
            now: Timestamp::from_second(1_767_225_600 + seconds).unwrap(),
        })
    }

    fn deleted() -> ServiceCidr {
        cidr(json!({
            "metadata": {
                "name": "a", "uid": "1", "finalizers": [FINALIZER, "x/y"],
                "deletionTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": {"cidrs": ["10.97.0.0/24", "fd00:97::/112"]},
        }))
    }

    #[test]
    fn a_new_one_is_protected_and_ready() {
        let new = cidr(json!({"metadata": {"name": "a", "uid": "1", "finalizers": ["x/y"]}}));
        let plan = check(&new, &[], &[], 0);
        assert_eq!(
            plan.finalizers,
            Some(vec!["x/y".to_owned(), FINALIZER.to_owned()])
        );
        let ready = plan.condition.unwrap();
        assert_eq!(
            (&ready["status"], &ready["lastTransitionTime"]),
            (&json!("True"), &json!("2026-01-01T00:00:00Z"))
        );
        let settled = json!({
            "metadata": {"name": "a", "uid": "1", "finalizers": [FINALIZER]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        assert_eq!(check(&cidr(settled), &[], &[], 0), Plan::default());
    }

    // Rows follow upstream's TestController_canDeleteCIDR.
    #[test]
    fn a_deleted_one_stays_while_an_address_needs_it() {
        let needed = check(&deleted(), &[], &["10.97.0.9"], 60);
        assert_eq!(needed.finalizers, None);
        assert_eq!(needed.condition.unwrap()["reason"], "Terminating");
        let larger = json!({"metadata": {"name": "b", "uid": "2"}, "spec": {"cidrs": ["10.97.0.0/16"]}});
        let free = Plan {
            finalizers: Some(vec!["x/y".to_owned()]),
            ..Plan::default()
        };
        assert_eq!(check(&deleted(), &[larger], &["10.97.0.9"], 60), free);
        let going = json!({
            "metadata": {"name": "b", "uid": "2", "deletionTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"cidrs": ["10.97.0.0/16"]},
        });
        assert!(
            check(&deleted(), &[going], &["10.97.0.9"], 60)
                .condition
                .is_some()
        );
        assert!(check(&deleted(), &[], &["fd00:97::1"], 60).condition.is_some());
        assert_eq!(check(&deleted(), &[], &["10.96.0.1", "fd00:96::1"], 60), free);
    }

    #[test]
    fn a_deleted_one_waits_for_the_grace() {
        let plan = check(&deleted(), &[], &[], 4);
        assert_eq!(
            (plan.finalizers, plan.after),
            (None, Some(Duration::from_secs(6)))
        );
    }
}

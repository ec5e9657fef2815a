//! What becomes of an object, given the state of its owners.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::{FOREGROUND, ORPHAN};
use crate::objects::Meta;

/// What the API server said about an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OwnerState {
    Present,
    Absent,
    /// It is being deleted, and waits for its dependents to go first.
    WaitsForDependents,
}

#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    Keep,
    /// Somebody still owns it: write only these references, the others name nobody.
    DropOwners(Vec<OwnerReference>),
    Delete {
        policy: &'static str,
        /// References to write before: they no longer block their owners.
        unblock: Option<Vec<OwnerReference>>,
    },
}

pub(super) fn waits_for_dependents(meta: &Meta) -> bool {
    meta.is_deleted() && meta.finalizers.iter().any(|finalizer| finalizer == FOREGROUND)
}

/// `states` are those of the owner references of `latest`, in order. `circular`: a dependent waits for its own
/// dependents already, which may include this very object.
pub(super) fn verdict(latest: &Meta, states: &[OwnerState], dependents: usize, circular: bool) -> Verdict {
    let references = &latest.owner_references;
    if references.is_empty() {
        return Verdict::Keep;
    }
    let any = |state| states.contains(&state);
    if any(OwnerState::Present) {
        let kept: Vec<_> = references
            .iter()
            .zip(states)
            .filter(|(_, state)| **state == OwnerState::Present)
            .map(|(owner, _)| owner.clone())
            .collect();
        return if kept.len() == references.len() {
            Verdict::Keep
        } else {
            Verdict::DropOwners(kept)
        };
    }
    if any(OwnerState::WaitsForDependents) && dependents > 0 {
        let unblock = circular.then(|| {
            references
                .iter()
                .map(|owner| OwnerReference {
                    block_owner_deletion: Some(false),
                    ..owner.clone()
                })
                .collect()
        });
        return Verdict::Delete {
            policy: "Foreground",
            unblock,
        };
    }
    let has = |name: &str| latest.finalizers.iter().any(|finalizer| finalizer == name);
    let policy = if has(ORPHAN) {
        "Orphan"
    } else if has(FOREGROUND) {
        "Foreground"
    } else {
        "Background"
    };
    Verdict::Delete {
        policy,
        unblock: None,
    }
}

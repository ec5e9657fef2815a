//! Who manages whom: adoption and release of dependents by controller reference and selector.

use serde_json::{Value, json};

use crate::objects::Meta;
use crate::rest::Resource;

/// What to do with a candidate dependent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It is ours and matches.
    Keep,
    /// It matches and nobody manages it: make it ours.
    Adopt,
    /// It is ours and does not match any more: let it go.
    Release,
    /// It is none of our business.
    Ignore,
}

/// Decides about one candidate. `owner` is the would-be manager.
pub(crate) fn claim(owner: &Meta, candidate: &Meta, matches: bool) -> Claim {
    match candidate.controller() {
        Some(controller) if *controller.uid != *owner.uid => Claim::Ignore,
        Some(_) if matches => Claim::Keep,
        Some(_) if owner.is_deleted() || candidate.is_deleted() => Claim::Ignore,
        Some(_) => Claim::Release,
        None if !matches || owner.is_deleted() || candidate.is_deleted() => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// The controller reference from a dependent to `owner`.
pub(crate) fn controller_reference(resource: &Resource, owner: &Meta) -> Value {
    json!({
        "apiVersion": resource.api_version(),
        "kind": resource.kind,
        "name": owner.name,
        "uid": owner.uid,
        "controller": true,
        "blockOwnerDeletion": true,
    })
}

/// The strategic merge patch that makes `owner` the controller of the object with `uid`.
pub(crate) fn adopt_patch(resource: &Resource, owner: &Meta, uid: &str) -> Value {
    json!({"metadata": {"ownerReferences": [controller_reference(resource, owner)], "uid": uid}})
}

/// The strategic merge patch that removes the reference to `owner` from the object with `uid`.
pub(crate) fn release_patch(owner: &Meta, uid: &str) -> Value {
    json!({"metadata": {"ownerReferences": [{"$patch": "delete", "uid": owner.uid}], "uid": uid}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(value: Value) -> Meta {
        serde_json::from_value(value).unwrap()
    }

    /// Rows follow upstream's `TestClaimPods`.
    #[test]
    fn claims() {
        let owner = meta(json!({"uid": "me"}));
        let dying = meta(json!({"uid": "me", "deletionTimestamp": "2026-01-01T00:00:00Z"}));
        let orphan = meta(json!({"uid": "p"}));
        let dying_orphan = meta(json!({"uid": "p", "deletionTimestamp": "2026-01-01T00:00:00Z"}));
        let controlled = |by: &str| {
            meta(json!({"uid": "p", "ownerReferences":
                [{"apiVersion": "v1", "kind": "X", "name": "x", "uid": by, "controller": true}]}))
        };
        let owned_not_controlled = meta(json!({"uid": "p", "ownerReferences":
            [{"apiVersion": "v1", "kind": "X", "name": "x", "uid": "other"}]}));
        for (name, owner, candidate, matches, expect) in [
            (
                "ours and matching stays",
                &owner,
                &controlled("me"),
                true,
                Claim::Keep,
            ),
            (
                "ours and not matching is released",
                &owner,
                &controlled("me"),
                false,
                Claim::Release,
            ),
            (
                "a deleted owner releases nothing",
                &dying,
                &controlled("me"),
                false,
                Claim::Ignore,
            ),
            (
                "another's is left alone",
                &owner,
                &controlled("you"),
                true,
                Claim::Ignore,
            ),
            (
                "a matching orphan is adopted",
                &owner,
                &orphan,
                true,
                Claim::Adopt,
            ),
            (
                "an owner that is no controller does not hinder",
                &owner,
                &owned_not_controlled,
                true,
                Claim::Adopt,
            ),
            (
                "another orphan is left alone",
                &owner,
                &orphan,
                false,
                Claim::Ignore,
            ),
            (
                "a deleted owner adopts nothing",
                &dying,
                &orphan,
                true,
                Claim::Ignore,
            ),
            (
                "an orphan being deleted is not adopted",
                &owner,
                &dying_orphan,
                true,
                Claim::Ignore,
            ),
        ] {
            assert_eq!(claim(owner, candidate, matches), expect, "{name}");
        }
    }
}

//! What ties a ReplicaSet to a revision of its Deployment: template hash and annotations.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use crate::objects::{Deployment, Meta, PodTemplate, ReplicaSet};

pub(super) const HASH_LABEL: &str = "pod-template-hash";
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
pub(super) const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(super) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations of a Deployment that say nothing about its ReplicaSets.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];
/// The history of a set that became new again and again stays shorter than this.
const HISTORY_LENGTH_MAX: usize = 2000;

/// An annotation that is a whole number.
pub(super) fn number(meta: &Meta, annotation: &str) -> Option<i64> {
    meta.annotations.get(annotation)?.parse().ok()
}

/// The revision of a set; sets that never had one come before all others.
pub(super) fn of(set: &ReplicaSet) -> i64 {
    number(&set.metadata, REVISION).unwrap_or(0)
}

/// Whether two templates ask for the same pods: equal but for the hash label that the controller adds.
pub(super) fn templates_equal(a: &PodTemplate, b: &PodTemplate) -> bool {
    let canonical = |template: &PodTemplate| {
        let mut value = template.to_value();
        if let Some(labels) = value["metadata"]["labels"].as_object_mut() {
            labels.remove(HASH_LABEL);
        }
        canonical(&value)
    };
    canonical(a) == canonical(b)
}

/// A short name for a template: equal templates have equal hashes, and `collisions` picks another one.
pub(super) fn template_hash(template: &Value, collisions: Option<i32>) -> String {
    /// No vowels and nothing that looks like another letter: no word can come out by chance.
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut hash = fnv1a(0x811c_9dc5, canonical(template).as_bytes());
    if let Some(collisions) = collisions {
        hash = fnv1a(hash, &collisions.to_le_bytes());
    }
    hash.to_string()
        .bytes()
        .map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()]))
        .collect()
}

/// The 32-bit FNV-1a hash.
fn fnv1a(start: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(start, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

/// JSON with sorted keys and without nulls, so that text equality is equality.
fn canonical(value: &Value) -> String {
    fn write(value: &Value, out: &mut String) {
        match value {
            Value::Object(map) => {
                let sorted: BTreeMap<_, _> = map.iter().filter(|(_, value)| !value.is_null()).collect();
                out.push('{');
                for (key, value) in sorted {
                    let _ = write!(out, "{}:", Value::String(key.clone()));
                    write(value, out);
                    out.push(',');
                }
                out.push('}');
            }
            Value::Array(items) => {
                out.push('[');
                for item in items {
                    write(item, out);
                    out.push(',');
                }
                out.push(']');
            }
            scalar => {
                let _ = write!(out, "{scalar}");
            }
        }
    }
    let mut out = String::new();
    write(value, &mut out);
    out
}

/// The annotations that the new set should have, as far as they differ from those of `set`. A number of a set
/// that becomes new again is kept in its history.
pub(super) fn new_set_annotations(
    deployment: &Deployment,
    set: Option<&ReplicaSet>,
    revision: i64,
    max_replicas: i32,
) -> BTreeMap<String, String> {
    let current = |key: &str| set.and_then(|set| set.metadata.annotations.get(key));
    let mut changes = BTreeMap::new();
    for (key, value) in deployment.metadata.annotations.iter() {
        if !NOT_COPIED.contains(&key) && current(key) != Some(value) {
            changes.insert(key.to_owned(), value.to_owned());
        }
    }
    let old_revision = current(REVISION);
    if old_revision.and_then(|old| old.parse().ok()).unwrap_or(0) < revision {
        changes.insert(REVISION.to_owned(), revision.to_string());
        if let Some(old) = old_revision {
            changes.insert(
                REVISION_HISTORY.to_owned(),
                history(current(REVISION_HISTORY), old),
            );
        }
    }
    if set.is_none() {
        changes.insert(DESIRED_REPLICAS.to_owned(), deployment.spec.replicas.to_string());
        changes.insert(MAX_REPLICAS.to_owned(), max_replicas.to_string());
    }
    changes
}

/// Appends a revision to a history, dropping the oldest ones if it gets too long.
fn history(before: Option<&str>, revision: &str) -> String {
    let mut entries: Vec<&str> = before
        .into_iter()
        .flat_map(|history| history.split(','))
        .collect();
    entries.retain(|entry| !entry.is_empty());
    entries.push(revision);
    while entries.len() > 1 && entries.iter().map(|entry| entry.len() + 1).sum::<usize>() > HISTORY_LENGTH_MAX
    {
        entries.remove(0);
    }
    entries.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn hashes_are_stable_and_safe() {
        let template = json!({"spec": {"a": 1, "b": [1, 2]}, "metadata": {"creationTimestamp": null}});
        let same = json!({"metadata": {}, "spec": {"b": [1, 2], "a": 1}});
        assert_eq!(template_hash(&template, None), template_hash(&same, None));
        assert_ne!(template_hash(&template, None), template_hash(&template, Some(1)));
        assert_ne!(
            template_hash(&template, None),
            template_hash(&json!({"spec": {"a": 2, "b": [1, 2]}}), None)
        );
        // Pinned: a hash that changes with a release would roll every Deployment of a cluster.
        assert_eq!(template_hash(&json!({"spec": {}}), None), "754896dbf6");
    }

    #[test]
    fn templates_are_equal_but_for_the_hash_label() {
        let plain = PodTemplate::from(&json!({"metadata": {"labels": {"a": "b"}}, "spec": {"x": 1}}));
        let hashed = PodTemplate::from(
            &json!({"metadata": {"labels": {"a": "b", "pod-template-hash": "x"}}, "spec": {"x": 1}}),
        );
        let other = PodTemplate::from(&json!({"metadata": {"labels": {"a": "b"}}, "spec": {"x": 2}}));
        assert!(templates_equal(&plain, &hashed));
        assert!(!templates_equal(&plain, &other));
    }

    #[test]
    fn histories() {
        assert_eq!(history(None, "1"), "1");
        assert_eq!(history(Some("1,3"), "5"), "1,3,5");
        let long = vec!["1000"; 400].join(",");
        assert!(history(Some(&long), "7").len() <= HISTORY_LENGTH_MAX);
        assert!(history(Some(&long), "7").ends_with(",1000,7"));
    }
}

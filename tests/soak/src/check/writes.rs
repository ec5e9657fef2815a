//! The log is made of the clients' writes, and has all that were acknowledged.

use std::collections::{BTreeMap, BTreeSet};

use store::Revision;

use crate::{
    history::{Answer, Change, History, Operation, Request},
    log::Log,
};

pub(super) fn check(history: &History, log: &Log<'_>, violations: &mut Vec<String>) {
    let mut explained = BTreeMap::new();
    let mut expiring = BTreeSet::new();
    for operation in history
        .operations
        .iter()
        .filter(|operation| operation.request.is_write())
    {
        if let Request::Create { value, ttl: true, .. } = operation.request {
            expiring.insert(value);
        }
        let place = place(operation, log);
        match (&operation.answer, place) {
            (Answer::Written(told), Some(place)) if told.is_none_or(|told| told == place) => {}
            (Answer::Written(_), _) => {
                violations.push(format!(
                    "an acknowledged write is lost or elsewhere ({place:?}): {operation:?}"
                ));
            }
            (Answer::Unknown(_), _) | (_, None) => {}
            // A deletion that was refused, of what somebody else deleted.
            (_, Some(_)) if matches!(operation.request, Request::Delete { .. }) => continue,
            (_, Some(place)) => {
                violations.push(format!("a refused write happened at {place}: {operation:?}"))
            }
        }
        if let Some(place) = place {
            check_condition(operation, place, log, violations);
            explain(&mut explained, operation, place, violations);
        }
    }
    for event in log.events {
        let expired = || {
            let before = log.standing(event.key, event.revision - 1);
            event.change == Change::Deleted && before.is_some_and(|before| expiring.contains(&before.value))
        };
        if !explained.contains_key(&(event.revision, event.key)) && !expired() {
            violations.push(format!("nobody asked for {event:?}"));
        }
    }
}

/// Each change is one client's alone. Of several deletions of the same state at most one was acknowledged.
fn explain<'a>(
    explained: &mut BTreeMap<(Revision, crate::history::Key), &'a Operation>,
    operation: &'a Operation,
    place: Revision,
    violations: &mut Vec<String>,
) {
    let Some(key) = operation.request.key() else {
        return;
    };
    let definite = |operation: &Operation| matches!(operation.answer, Answer::Written(_));
    match explained.get(&(place, key)) {
        Some(other) if definite(other) && definite(operation) => {
            violations.push(format!(
                "two writes share revision {place}: {other:?} and {operation:?}"
            ));
        }
        Some(other) if definite(other) => {}
        _ => drop(explained.insert((place, key), operation)),
    }
}

/// A write happened only where its condition held.
fn check_condition(operation: &Operation, place: Revision, log: &Log<'_>, violations: &mut Vec<String>) {
    let Some(key) = operation.request.key() else {
        return;
    };
    let before = log.standing(key, place - 1).map(|before| before.mod_revision);
    let held = match operation.request {
        Request::Create { .. } => before.is_none(),
        Request::Update { expected, .. } | Request::Delete { expected, .. } => before == Some(expected),
        Request::Get(_) | Request::List(..) | Request::StaleList(_) | Request::Compact(_) => true,
    };
    if !held {
        violations.push(format!(
            "a write at {place} met the key at {before:?}: {operation:?}"
        ));
    }
}

/// The revision at which the log has a write, if it has it. For a deletion without a definite answer: at which the same
/// was done, by it or by another.
pub(super) fn place(operation: &Operation, log: &Log<'_>) -> Option<Revision> {
    match operation.request {
        Request::Create { key, value, .. } | Request::Update { key, value, .. } => log
            .writer_of(value)
            .filter(|event| event.key == key)
            .map(|event| event.revision),
        Request::Delete { key, expected } => log.deletion_of(key, expected),
        Request::Get(_) | Request::List(..) | Request::StaleList(_) | Request::Compact(_) => None,
    }
}

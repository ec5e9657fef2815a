use super::graph::{Graph, Wake};
use super::plan::{OwnerState, Verdict, verdict};
use crate::objects::Meta;
use crate::rest::Resource;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;

fn things() -> Arc<Resource> {
    Arc::new(Resource::new("", "v1", "Thing", "things", true))
}

/// An object of the kind Thing named after its uid, owned by `owners`; a `!` in front makes an owner blocking.
fn object(uid: &str, owners: &[&str], changes: Value) -> Meta {
    let owners: Vec<_> = owners
        .iter()
        .map(|owner| {
            let (uid, blocks) = owner.strip_prefix('!').map_or((*owner, false), |uid| (uid, true));
            json!({"apiVersion": "v1", "kind": "Thing", "name": uid, "uid": uid, "blockOwnerDeletion": blocks})
        })
        .collect();
    let mut value = json!({"namespace": "ns", "name": uid, "uid": uid, "resourceVersion": "1", "ownerReferences": owners});
    if let Value::Object(changes) = changes {
        value.as_object_mut().unwrap().extend(changes);
    }
    serde_json::from_value(value).unwrap()
}

fn deleting(finalizers: &[&str]) -> Value {
    json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": finalizers})
}

fn wakes(wakes: Vec<Wake>) -> HashSet<String> {
    wakes
        .into_iter()
        .map(|wake| match wake {
            Wake::Delete(uid) => format!("delete {uid}"),
            Wake::Orphan(uid) => format!("orphan {uid}"),
        })
        .collect()
}

fn set(expect: &[&str]) -> HashSet<String> {
    expect.iter().map(|one| (*one).to_owned()).collect()
}

fn observe(graph: &mut Graph, object: &Meta) -> HashSet<String> {
    wakes(graph.observe(&things(), object))
}

/// Rows follow upstream's `TestProcessEvent` and `TestConflictingData`.
#[test]
fn an_owner_that_nobody_saw_is_asked_for() {
    let mut graph = Graph::default();
    assert_eq!(
        observe(&mut graph, &object("child", &["parent"], json!({}))),
        set(&["delete parent"])
    );
    assert!(graph.snapshot("parent").unwrap().is_virtual);
    assert_eq!(observe(&mut graph, &object("parent", &[], json!({}))), set(&[]));
    let parent = graph.snapshot("parent").unwrap();
    assert!(!parent.is_virtual);
    assert_eq!(parent.dependents, ["child".into()]);
}

#[test]
fn dependents_of_what_is_gone_are_looked_at() {
    let mut graph = Graph::default();
    observe(&mut graph, &object("parent", &[], json!({})));
    observe(&mut graph, &object("a", &["parent"], json!({})));
    observe(&mut graph, &object("b", &["parent"], json!({})));
    assert_eq!(wakes(graph.remove("parent")), set(&["delete a", "delete b"]));
    assert!(graph.snapshot("parent").is_none());
}

#[test]
fn an_absent_owner_wakes_its_dependents_once_it_is_known_to_be_absent() {
    let mut graph = Graph::default();
    observe(&mut graph, &object("child", &["parent"], json!({})));
    let identity = graph.identity("parent").unwrap();
    assert_eq!(
        wakes(graph.not_found(&identity, "parent")),
        set(&["delete child"])
    );
}

#[test]
fn a_dependent_that_names_its_owner_wrongly_does_not_hide_it_from_the_others() {
    let mut graph = Graph::default();
    let mut wrong = object("wrong", &["parent"], json!({}));
    wrong.owner_references[0].name = "somebody-else".into();
    observe(&mut graph, &wrong);
    assert_eq!(
        observe(&mut graph, &object("right", &["parent"], json!({}))),
        set(&["delete right"])
    );
    let identity = graph.identity("parent").unwrap();
    // The wrong place is asked first; then the place that the other dependent names.
    assert_eq!(
        wakes(graph.not_found(&identity, "parent")),
        set(&["delete wrong", "delete parent"])
    );
    assert_eq!(&*graph.identity("parent").unwrap().name, "parent");
    assert_eq!(
        observe(&mut graph, &object("parent", &[], json!({}))),
        set(&["delete wrong"])
    );
}

#[test]
fn an_owner_in_another_namespace_is_no_owner() {
    let mut graph = Graph::default();
    observe(&mut graph, &object("parent", &[], json!({})));
    let foreign = object("child", &["parent"], json!({"namespace": "elsewhere"}));
    assert_eq!(observe(&mut graph, &foreign), set(&["delete child"]));
}

#[test]
fn foreground_deletion_wakes_dependents_and_waits_for_the_blocking_ones() {
    let mut graph = Graph::default();
    observe(&mut graph, &object("parent", &[], json!({})));
    observe(&mut graph, &object("blocks", &["!parent"], json!({})));
    observe(&mut graph, &object("free", &["parent"], json!({})));
    let dying = object("parent", &[], deleting(&["foregroundDeletion"]));
    assert_eq!(
        observe(&mut graph, &dying),
        set(&["delete parent", "delete blocks", "delete free"])
    );
    assert_eq!(graph.blocking_dependents("parent"), [("blocks".into(), false)]);
    assert_eq!(observe(&mut graph, &dying), set(&[]), "the same news is no news");
    let late = observe(&mut graph, &object("late", &["!parent"], json!({})));
    assert_eq!(late, set(&["delete late"]), "what comes late goes, too");
    assert_eq!(wakes(graph.remove("late")), set(&["delete parent"]));
    assert_eq!(wakes(graph.remove("blocks")), set(&["delete parent"]));
    assert_eq!(graph.blocking_dependents("parent"), []);
}

/// Rows follow upstream's `TestUnblockOwnerReference`.
#[test]
fn a_dependent_that_stops_blocking_lets_its_owner_go() {
    let mut graph = Graph::default();
    observe(&mut graph, &object("child", &["!parent"], json!({})));
    observe(
        &mut graph,
        &object("parent", &[], deleting(&["foregroundDeletion"])),
    );
    assert_eq!(
        observe(&mut graph, &object("child", &["parent"], json!({}))),
        set(&["delete parent"])
    );
    assert_eq!(graph.blocking_dependents("parent"), []);
}

#[test]
fn orphaning_is_noticed_once() {
    let mut graph = Graph::default();
    observe(&mut graph, &object("parent", &[], json!({})));
    let dying = object("parent", &[], deleting(&["orphan"]));
    assert_eq!(observe(&mut graph, &dying), set(&["orphan parent"]));
    assert_eq!(observe(&mut graph, &dying), set(&[]));
}

#[test]
fn a_dropped_owner_forgets_its_dependent() {
    let mut graph = Graph::default();
    observe(&mut graph, &object("parent", &[], json!({})));
    observe(&mut graph, &object("child", &["parent", "ghost"], json!({})));
    observe(&mut graph, &object("child", &[], json!({})));
    assert_eq!(graph.snapshot("parent").unwrap().dependents.len(), 0);
    assert!(
        graph.snapshot("ghost").is_none(),
        "an owner that nobody saw and nobody names is nothing"
    );
}

/// Rows follow upstream's `TestAttemptToDeleteItem` and the cases of its comments.
#[test]
fn verdicts() {
    use OwnerState::{Absent, Present, WaitsForDependents};
    let delete = |policy| Verdict::Delete {
        policy,
        unblock: None,
    };
    let kept = |meta: &Meta, index: usize| Verdict::DropOwners(vec![meta.owner_references[index].clone()]);
    let one = object("x", &["a"], json!({}));
    let two = object("x", &["a", "b"], json!({}));
    let none = object("x", &[], json!({}));
    let orphaning = object("x", &["a"], json!({"finalizers": ["orphan"]}));
    let foreground = object("x", &["a"], json!({"finalizers": ["foregroundDeletion"]}));
    for (name, meta, states, dependents, circular, expect) in [
        ("without owners it stays", &none, vec![], 0, false, Verdict::Keep),
        (
            "with its owner it stays",
            &one,
            vec![Present],
            0,
            false,
            Verdict::Keep,
        ),
        (
            "without its owner it goes",
            &one,
            vec![Absent],
            0,
            false,
            delete("Background"),
        ),
        (
            "one of two owners is enough",
            &two,
            vec![Absent, Present],
            0,
            false,
            kept(&two, 1),
        ),
        (
            "an owner on its way out does not count",
            &two,
            vec![Present, WaitsForDependents],
            3,
            false,
            kept(&two, 0),
        ),
        (
            "without both it goes",
            &two,
            vec![Absent, Absent],
            0,
            false,
            delete("Background"),
        ),
        (
            "a waiting owner takes a leaf along",
            &one,
            vec![WaitsForDependents],
            0,
            false,
            delete("Background"),
        ),
        (
            "a waiting owner takes a branch along from the leaves",
            &one,
            vec![WaitsForDependents],
            2,
            false,
            delete("Foreground"),
        ),
        (
            "the orphan finalizer is obeyed",
            &orphaning,
            vec![Absent],
            1,
            false,
            delete("Orphan"),
        ),
        (
            "the foreground finalizer is obeyed",
            &foreground,
            vec![Absent],
            1,
            false,
            delete("Foreground"),
        ),
    ] {
        assert_eq!(verdict(meta, &states, dependents, circular), expect, "{name}");
    }
    let Verdict::Delete {
        policy: "Foreground",
        unblock: Some(owners),
    } = verdict(&object("x", &["!a"], json!({})), &[WaitsForDependents], 1, true)
    else {
        panic!("a circle must be broken")
    };
    assert_eq!(owners[0].block_owner_deletion, Some(false));
}

use super::plan::{Input, Plan, plan};
use crate::objects::{Deployment, ReplicaSet};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// A Deployment `web` of template `image`, with the API server's defaults; `changes` is merged over it.
fn deployment(replicas: i32, image: &str, changes: Value) -> Deployment {
    let mut object = json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "d", "generation": 3},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": template(image),
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "revisionHistoryLimit": 10,
            "progressDeadlineSeconds": 600,
        },
    });
    merge(&mut object, changes);
    serde_json::from_value(object).unwrap()
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn rolling(surge: Value, unavailable: Value) -> Value {
    json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}}})
}

/// A ReplicaSet named after its image, `age` minutes old, whose pods exist and of which `available` are so.
fn set(image: &str, replicas: i32, available: i32, age: i32, changes: Value) -> Arc<ReplicaSet> {
    let mut template = template(image);
    template["metadata"]["labels"]["pod-template-hash"] = image.into();
    let mut object = json!({
        "metadata": {
            "name": image, "namespace": "ns", "uid": image, "generation": 1,
            "creationTimestamp": format!("2026-01-01T11:{:02}:00Z", 60 - age),
        },
        "spec": {"replicas": replicas, "selector": {}, "template": template},
        "status": {"replicas": replicas, "readyReplicas": available, "availableReplicas": available,
            "observedGeneration": 1, "terminatingReplicas": 0},
    });
    merge(&mut object, changes);
    Arc::new(serde_json::from_value(object).unwrap())
}

fn annotated(desired: i32, max: i32) -> Value {
    json!({"metadata": {"annotations": {
        "deployment.kubernetes.io/desired-replicas": desired.to_string(),
        "deployment.kubernetes.io/max-replicas": max.to_string(),
    }}})
}

fn run(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> Plan {
    run_with_pods(deployment, sets, &[])
}

fn run_with_pods(deployment: &Deployment, sets: &[Arc<ReplicaSet>], running: &[&str]) -> Plan {
    let with_running_pods: HashSet<Box<str>> = running.iter().map(|uid| (*uid).into()).collect();
    plan(&Input {
        deployment,
        sets,
        with_running_pods: &with_running_pods,
        now: now(),
    })
}

/// The sizes that a plan writes, by name.
fn scales(plan: &Plan) -> Vec<(&str, i32)> {
    let mut scales: Vec<_> = plan.scales.iter().map(|scale| (&*scale.name, scale.to)).collect();
    scales.sort_unstable();
    scales
}

fn condition(plan: &Plan, type_: &str) -> Option<(String, String)> {
    let condition = super::status::find(&plan.status, type_)?;
    Some((
        condition.status.clone().unwrap(),
        condition.reason.clone().unwrap(),
    ))
}

fn pair(status: &str, reason: &str) -> Option<(String, String)> {
    Some((status.into(), reason.into()))
}

#[test]
fn the_first_sync_creates_the_set() {
    let deployment = deployment(
        3,
        "a",
        json!({"metadata": {"annotations":
        {"note": "x", "kubectl.kubernetes.io/last-applied-configuration": "{}"}}}),
    );
    let plan = run(&deployment, &[]);
    let new = plan.create.as_ref().unwrap();
    assert_eq!(new.replicas, 3);
    let hash = new.body["metadata"]["labels"]["pod-template-hash"]
        .as_str()
        .unwrap();
    assert_eq!(new.name, format!("web-{hash}"));
    assert_eq!(
        new.body["spec"]["selector"]["matchLabels"],
        json!({"app": "web", "pod-template-hash": hash})
    );
    assert_eq!(
        new.body["spec"]["template"]["metadata"]["labels"],
        json!({"app": "web", "pod-template-hash": hash})
    );
    assert_eq!(
        new.body["metadata"]["annotations"],
        json!({"note": "x", "deployment.kubernetes.io/revision": "1",
            "deployment.kubernetes.io/desired-replicas": "3", "deployment.kubernetes.io/max-replicas": "4"})
    );
    assert_eq!(new.body["metadata"]["ownerReferences"][0]["uid"], "d");
    assert_eq!(plan.revision.as_deref(), Some("1"));
    assert_eq!(
        condition(&plan, "Progressing"),
        pair("True", "NewReplicaSetCreated")
    );
    assert_eq!(
        condition(&plan, "Available"),
        pair("False", "MinimumReplicasUnavailable")
    );
    assert_eq!(plan.status.unavailable_replicas, Some(3));
    assert_eq!(plan.status.observed_generation, Some(3));
}

#[test]
fn another_template_gets_another_name_and_the_next_revision() {
    let first = run(&deployment(1, "a", json!({})), &[]).create.unwrap();
    let collided = run(&deployment(1, "a", json!({"status": {"collisionCount": 1}})), &[])
        .create
        .unwrap();
    let second = run(&deployment(1, "b", json!({})), &[]).create.unwrap();
    assert_ne!(first.name, second.name);
    assert_ne!(first.name, collided.name);
    let old = set(
        "a",
        1,
        1,
        10,
        json!({"metadata": {"annotations": {"deployment.kubernetes.io/revision": "7"}}}),
    );
    let plan = run(&deployment(1, "b", json!({})), &[old]);
    assert_eq!(
        plan.create.unwrap().body["metadata"]["annotations"]["deployment.kubernetes.io/revision"],
        "8"
    );
    assert_eq!(plan.revision.as_deref(), Some("8"));
}

/// Rows follow upstream's `TestDeploymentController_reconcileNewReplicaSet`.
#[test]
fn growing_the_new_set() {
    for (replicas, surge, old, new, expect) in [
        (10, json!(0), 0, 10, vec![]),
        (10, json!(2), 0, 8, vec![("b", 10)]),
        (10, json!(2), 10, 0, vec![("b", 2)]),
        (10, json!(2), 5, 7, vec![]),
        (10, json!(0), 0, 2, vec![("b", 10)]),
        (10, json!("25%"), 8, 0, vec![("b", 5)]),
    ] {
        let deployment = deployment(replicas, "b", rolling(surge.clone(), json!(0)));
        let sets = [set("a", old, 0, 10, json!({})), set("b", new, 0, 5, json!({}))];
        // Old sets without available pods cannot shrink below the minimum, so only the new one moves.
        let plan = run(&deployment, &sets);
        let scaled: Vec<_> = scales(&plan)
            .into_iter()
            .filter(|(name, _)| *name == "b")
            .collect();
        assert_eq!(scaled, expect, "{replicas} surge {surge}, old {old}, new {new}");
    }
    let shrink = run(&deployment(10, "b", json!({})), &[set("b", 12, 12, 5, json!({}))]);
    assert_eq!(scales(&shrink), [("b", 10)]);
}

/// Rows follow upstream's `TestDeploymentController_reconcileOldReplicaSets`.
#[test]
fn shrinking_the_old_sets() {
    for (name, surge, unavailable, old, old_available, new, new_available, expect) in [
        ("nothing available can go", 2, 0, 10, 10, 2, 0, vec![]),
        ("as many as may be missing", 0, 2, 10, 10, 0, 0, vec![("a", 8)]),
        ("unhealthy ones go first", 0, 2, 10, 8, 0, 0, vec![("a", 8)]),
        (
            "unhealthy new pods count as missing",
            0,
            2,
            10,
            8,
            2,
            0,
            vec![("a", 8)],
        ),
        (
            "healthy new pods replace old ones",
            0,
            2,
            10,
            10,
            2,
            2,
            vec![("a", 6)],
        ),
        (
            "new pods that are not there yet hold old ones",
            0,
            2,
            8,
            8,
            2,
            0,
            vec![],
        ),
        (
            "the last ones go when all is well",
            0,
            0,
            2,
            2,
            10,
            10,
            vec![("a", 0)],
        ),
    ] {
        let deployment = deployment(10, "b", rolling(json!(surge), json!(unavailable)));
        // The total is full everywhere, so that the new set stays as it is.
        let sets = [
            set("a", old, old_available, 10, json!({})),
            set("b", new, new_available, 5, json!({})),
        ];
        let plan = run(&deployment, &sets);
        let scaled: Vec<_> = scales(&plan)
            .into_iter()
            .filter(|(name, _)| *name == "a")
            .collect();
        assert_eq!(scaled, expect, "{name}");
    }
}

/// Rows follow upstream's `TestDeploymentController_cleanupUnhealthyReplicas`: oldest sets lose pods first.
#[test]
fn unhealthy_pods_of_the_oldest_set_go_first() {
    let deployment = deployment(10, "b", rolling(json!(0), json!(4)));
    let sets = [
        set("newer", 3, 0, 5, json!({})),
        set("older", 5, 3, 20, json!({})),
        set("b", 2, 2, 1, json!({})),
    ];
    assert_eq!(scales(&run(&deployment, &sets)), [("newer", 1), ("older", 3)]);
}

/// Rows follow upstream's `TestScale`.
#[test]
fn proportional_scaling() {
    let one = |replicas: i32| json!({"status": {"replicas": replicas}});
    for (name, from, to, old, new, expect) in [
        ("growing in proportion", 10, 15, 5, 5, vec![("a", 7), ("b", 8)]),
        ("shrinking in proportion", 10, 5, 5, 5, vec![("a", 2), ("b", 3)]),
        (
            "uneven sets grow unevenly",
            10,
            20,
            7,
            3,
            vec![("a", 14), ("b", 6)],
        ),
        ("to zero", 10, 0, 5, 5, vec![("a", 0), ("b", 0)]),
    ] {
        let mut changes = rolling(json!(0), json!(1));
        merge(&mut changes, one(from));
        let deployment = deployment(to, "b", changes);
        let sets = [
            set("a", old, old, 10, annotated(from, from)),
            set("b", new, new, 5, annotated(from, from)),
        ];
        assert_eq!(scales(&run(&deployment, &sets)), expect, "{name}");
    }
}

#[test]
fn a_resize_of_a_single_set_goes_to_it() {
    let sets = [
        set("a", 3, 3, 10, annotated(3, 4)),
        set("old", 0, 0, 20, json!({})),
    ];
    let plan = run(&deployment(5, "a", json!({})), &sets);
    assert_eq!(scales(&plan), [("a", 5)]);
    assert_eq!(
        plan.scales[0].patch["metadata"]["annotations"],
        json!({"deployment.kubernetes.io/desired-replicas": "5", "deployment.kubernetes.io/max-replicas": "7"})
    );
}

#[test]
fn a_resize_during_a_rollout_does_not_create_the_new_set() {
    let sets = [set("a", 3, 3, 10, annotated(3, 4))];
    let plan = run(&deployment(5, "b", json!({})), &sets);
    assert_eq!((plan.create.is_none(), scales(&plan)), (true, vec![("a", 5)]));
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let paused = json!({"spec": {"paused": true}});
    let plan = run(
        &deployment(5, "b", paused),
        &[set("a", 3, 3, 10, annotated(3, 4))],
    );
    assert!(plan.create.is_none());
    assert_eq!(scales(&plan), [("a", 5)]);
    assert_eq!(
        condition(&plan, "Progressing"),
        pair("Unknown", "DeploymentPaused")
    );
    let resumed = json!({"status": {"replicas": 3, "updatedReplicas": 3, "readyReplicas": 1, "availableReplicas": 1, "conditions":
        [{"type": "Progressing", "status": "Unknown", "reason": "DeploymentPaused"}]}});
    let plan = run(
        &deployment(3, "a", resumed),
        &[set("a", 3, 1, 10, annotated(3, 4))],
    );
    assert_eq!(
        condition(&plan, "Progressing"),
        pair("Unknown", "DeploymentResumed")
    );
}

#[test]
fn going_back_reuses_the_set_and_gives_it_a_new_revision() {
    let revision = |revision: &str| json!({"metadata": {"annotations": {"deployment.kubernetes.io/revision": revision}}});
    let sets = [
        set("a", 0, 0, 20, revision("1")),
        set("b", 4, 4, 10, revision("2")),
    ];
    let plan = run(&deployment(4, "a", json!({})), &sets);
    assert!(plan.create.is_none());
    let (name, patch) = plan.update_new_set.as_ref().unwrap();
    assert_eq!(name, "a");
    assert_eq!(
        patch["metadata"]["annotations"],
        json!({"deployment.kubernetes.io/revision": "3", "deployment.kubernetes.io/revision-history": "1"})
    );
    assert_eq!(plan.revision.as_deref(), Some("3"));
    assert_eq!(scales(&plan), [("a", 1)]);
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let recreate = || json!({"spec": {"strategy": {"type": "Recreate", "rollingUpdate": null}}});
    let old = |replicas: i32| set("a", replicas, replicas, 10, json!({}));
    let plan = run_with_pods(&deployment(3, "b", recreate()), &[old(3)], &["a"]);
    assert_eq!((scales(&plan), plan.create.is_some()), (vec![("a", 0)], false));
    let plan = run_with_pods(&deployment(3, "b", recreate()), &[old(0)], &["a"]);
    assert_eq!((scales(&plan), plan.create.is_some()), (vec![], false));
    let plan = run_with_pods(&deployment(3, "b", recreate()), &[old(0)], &[]);
    assert_eq!(plan.create.unwrap().replicas, 3);
    let plan = run_with_pods(
        &deployment(3, "b", recreate()),
        &[old(0), set("b", 0, 0, 5, json!({}))],
        &["b"],
    );
    assert_eq!(scales(&plan), [("b", 3)]);
}

fn complete() -> Value {
    json!({"status": {"replicas": 1, "updatedReplicas": 1, "availableReplicas": 1, "readyReplicas": 1,
        "observedGeneration": 3, "conditions":
            [{"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}]}})
}

/// Rows follow upstream's `TestDeploymentController_cleanupDeployment`.
#[test]
fn history_beyond_the_limit_is_deleted() {
    let revision = |revision: &str| json!({"metadata": {"annotations": {"deployment.kubernetes.io/revision": revision}}});
    let mut busy = revision("3");
    merge(&mut busy, json!({"status": {"replicas": 1}}));
    let sets = [
        set("two", 0, 0, 5, revision("2")),
        set("one", 0, 0, 10, revision("1")),
        set("three", 0, 0, 20, busy),
        set("four", 0, 0, 20, revision("4")),
        set("a", 1, 1, 1, revision("5")),
    ];
    for (limit, expect) in [
        (10, vec![]),
        (4, vec![]),
        (2, vec!["one", "two"]),
        (0, vec!["one", "two", "four"]),
    ] {
        let mut changes = complete();
        merge(&mut changes, json!({"spec": {"revisionHistoryLimit": limit}}));
        let plan = run(&deployment(1, "a", changes), &sets);
        let deleted: Vec<_> = plan.delete.iter().map(|(name, _)| &**name).collect();
        assert_eq!(deleted, expect, "limit {limit}");
    }
    let mut rolling = complete();
    merge(
        &mut rolling,
        json!({"spec": {"revisionHistoryLimit": 0}, "status": {"availableReplicas": 0}}),
    );
    assert!(
        run(&deployment(1, "a", rolling), &sets).delete.is_empty(),
        "an unfinished rollout keeps its history"
    );
}

/// Rows follow upstream's `TestSyncRolloutStatus`.
#[test]
fn progress() {
    let progressing = |reason: &str, updated: &str| {
        json!({"status": {"conditions": [{"type": "Progressing", "status": "True", "reason": reason,
            "lastUpdateTime": updated, "lastTransitionTime": updated}]}})
    };
    let early = "2026-01-01T11:00:00Z";
    let late = "2026-01-01T11:59:00Z";
    let counted = |mut changes: Value, replicas: i32, available: i32| {
        merge(
            &mut changes,
            json!({"status": {"replicas": replicas, "updatedReplicas": replicas,
            "readyReplicas": available, "availableReplicas": available, "observedGeneration": 3}}),
        );
        changes
    };
    for (name, changes, available, expect) in [
        (
            "more pods are available",
            counted(progressing("NewReplicaSetCreated", early), 3, 1),
            2,
            pair("True", "ReplicaSetUpdated"),
        ),
        (
            "all pods are available",
            counted(progressing("ReplicaSetUpdated", early), 3, 2),
            3,
            pair("True", "NewReplicaSetAvailable"),
        ),
        (
            "nothing moves, in time",
            counted(progressing("ReplicaSetUpdated", late), 3, 1),
            1,
            pair("True", "ReplicaSetUpdated"),
        ),
        (
            "nothing moves, out of time",
            counted(progressing("ReplicaSetUpdated", early), 3, 1),
            1,
            pair("False", "ProgressDeadlineExceeded"),
        ),
        (
            "a complete rollout that loses a pod stays complete",
            counted(progressing("NewReplicaSetAvailable", early), 3, 3),
            2,
            pair("True", "NewReplicaSetAvailable"),
        ),
        (
            "no deadline, no condition",
            {
                let mut changes = counted(progressing("ReplicaSetUpdated", early), 3, 1);
                merge(&mut changes, json!({"spec": {"progressDeadlineSeconds": null}}));
                changes
            },
            2,
            None,
        ),
    ] {
        let plan = run(
            &deployment(3, "a", changes),
            &[set("a", 3, available, 5, annotated(3, 4))],
        );
        assert_eq!(condition(&plan, "Progressing"), expect, "{name}");
    }
    let waiting = counted(progressing("ReplicaSetUpdated", late), 3, 1);
    let plan = run(
        &deployment(3, "a", waiting),
        &[set("a", 3, 1, 5, annotated(3, 4))],
    );
    assert_eq!(plan.next, Some(Duration::from_secs(600 - 60 + 1)));
}

#[test]
fn a_steady_deployment_changes_nothing() {
    let annotations = json!({"metadata": {"annotations": {"deployment.kubernetes.io/revision": "1",
        "deployment.kubernetes.io/desired-replicas": "3", "deployment.kubernetes.io/max-replicas": "4"}}});
    let sets = [set("a", 3, 3, 5, annotations)];
    let noted = json!({"metadata": {"annotations": {"deployment.kubernetes.io/revision": "1"}}});
    let mut first = deployment(3, "a", noted);
    first.status = run(&first, &sets).status;
    let plan = run(&first, &sets);
    assert_eq!(
        plan,
        Plan {
            update_new_set: None,
            create: None,
            scales: vec![],
            delete: vec![],
            revision: None,
            status: first.status.clone(),
            next: None,
        }
    );
    assert_eq!(
        condition(&plan, "Progressing"),
        pair("True", "NewReplicaSetAvailable")
    );
    assert_eq!(
        condition(&plan, "Available"),
        pair("True", "MinimumReplicasAvailable")
    );
}

#[test]
fn a_failing_set_is_a_failing_deployment() {
    let failing = json!({"status": {"conditions":
        [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "quota"}]}});
    let plan = run(&deployment(3, "a", json!({})), &[set("a", 3, 0, 5, failing)]);
    assert_eq!(condition(&plan, "ReplicaFailure"), pair("True", "FailedCreate"));
    let mut healed = deployment(3, "a", json!({}));
    healed.status = plan.status;
    assert_eq!(
        condition(&run(&healed, &[set("a", 3, 3, 5, json!({}))]), "ReplicaFailure"),
        None
    );
}

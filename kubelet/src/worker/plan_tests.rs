//! Rows follow upstream's TestComputePodActions and TestComputePodActionsWithInitContainers
//! (pkg/kubelet/kuberuntime/kuberuntime_manager_test.go, v1.37), as far as they are about behaviour we have.

use k8s_openapi::api::core::v1::{PodSpec, PodStatus, Probe};

use super::*;
use crate::pod::SandboxObservation;

const NOW: &str = "2026-01-01T01:00:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().expect("a timestamp")
}

fn container(name: &str) -> Container {
    Container {
        name: name.into(),
        image: Some(format!("{name}-image")),
        ..Default::default()
    }
}

fn pod(policy: &str, init: &[&str], names: &[&str]) -> Pod {
    let init: Vec<Container> = init
        .iter()
        .map(|name| match name.strip_suffix('*') {
            Some(name) => Container {
                restart_policy: Some("Always".into()),
                ..container(name)
            },
            None => container(name),
        })
        .collect();
    Pod {
        spec: Some(PodSpec {
            restart_policy: Some(policy.into()),
            init_containers: (!init.is_empty()).then_some(init),
            containers: names.iter().map(|name| container(name)).collect(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn sandbox(attempt: u32, ready: bool) -> SandboxObservation {
    SandboxObservation {
        id: format!("sandbox-{attempt}"),
        attempt,
        ready,
        ips: vec!["10.244.0.5".into()],
        ..Default::default()
    }
}

fn seen(name: &str, sandbox: u32, state: ContainerState, exit_code: i32) -> ContainerObservation {
    ContainerObservation {
        id: format!("{name}-0"),
        name: name.into(),
        sandbox_id: format!("sandbox-{sandbox}"),
        attempt: 0,
        state,
        created_at: Some(at("2026-01-01T00:59:00Z")),
        started_at: Some(at("2026-01-01T00:59:00Z")),
        finished_at: (state == ContainerState::Exited).then(|| at("2026-01-01T00:59:55Z")),
        exit_code,
        reason: String::new(),
        message: String::new(),
        image: format!("{name}-image"),
        image_ref: String::new(),
        hash: pod::container_hash(&container(name)),
        restart_count: 0,
        log_path: Default::default(),
        termination_message_path: None,
        message_falls_back_to_logs: false,
        next_back_off: Duration::ZERO,
        pod_grace_period: None,
    }
}

fn running(name: &str) -> ContainerObservation {
    seen(name, 0, ContainerState::Running, 0)
}

fn exited(name: &str, exit_code: i32) -> ContainerObservation {
    seen(name, 0, ContainerState::Exited, exit_code)
}

fn observed(sandboxes: Vec<SandboxObservation>, containers: Vec<ContainerObservation>) -> Observed {
    Observed {
        runtime: PodObservation {
            sandboxes,
            containers,
        },
        ..Default::default()
    }
}

/// What a row expects, in brief: `name#attempt` for starts, names for the rest.
#[derive(Default)]
struct Expect<'a> {
    sandbox: SandboxPlan,
    start: &'a [&'a str],
    kill: &'a [(&'a str, KillReason)],
    stop_sandboxes: &'a [&'a str],
    back_off: &'a [&'a str],
    unchanged: &'a [&'a str],
    remove: &'a [&'a str],
}

fn keep() -> SandboxPlan {
    SandboxPlan::Keep("sandbox-0".into())
}

#[track_caller]
fn check(pod: &Pod, observed: &Observed, expect: Expect<'_>) -> Plan {
    let plan = plan(pod, observed, at(NOW));
    let start: Vec<String> = plan
        .start
        .iter()
        .map(|start| format!("{}#{}", start.name, start.attempt))
        .collect();
    let kill: Vec<(&str, KillReason)> = plan
        .kill
        .iter()
        .map(|kill| (kill.name.as_str(), kill.reason))
        .collect();
    let back_off: Vec<&str> = plan.back_off.iter().map(|wait| wait.name.as_str()).collect();
    assert_eq!(plan.sandbox, expect.sandbox, "sandbox: {plan:#?}");
    assert_eq!(start, expect.start, "start: {plan:#?}");
    assert_eq!(kill, expect.kill, "kill: {plan:#?}");
    assert_eq!(
        plan.stop_sandboxes, expect.stop_sandboxes,
        "stop_sandboxes: {plan:#?}"
    );
    assert_eq!(back_off, expect.back_off, "back_off: {plan:#?}");
    assert_eq!(plan.unchanged, expect.unchanged, "unchanged: {plan:#?}");
    assert_eq!(plan.remove, expect.remove, "remove: {plan:#?}");
    plan
}

#[test]
fn unchanged() {
    let observed = observed(vec![sandbox(0, true)], vec![running("a"), running("b")]);
    check(
        &pod("Always", &[], &["a", "b"]),
        &observed,
        Expect {
            sandbox: keep(),
            unchanged: &["a", "b"],
            ..Default::default()
        },
    );
}

#[test]
fn new_pod_gets_sandbox_and_all_containers() {
    check(
        &pod("Always", &[], &["a", "b"]),
        &Observed::default(),
        Expect {
            sandbox: SandboxPlan::Create { attempt: 0 },
            start: &["a#0", "b#0"],
            ..Default::default()
        },
    );
}

#[test]
fn missing_container_is_started() {
    check(
        &pod("Always", &[], &["a", "b"]),
        &observed(vec![sandbox(0, true)], vec![running("a")]),
        Expect {
            sandbox: keep(),
            start: &["b#0"],
            unchanged: &["a"],
            ..Default::default()
        },
    );
}

#[test]
fn exited_containers_by_restart_policy() {
    let seen = || {
        observed(
            vec![sandbox(0, true)],
            vec![exited("a", 0), exited("b", 1), running("c")],
        )
    };
    let names = &["a", "b", "c"];
    check(
        &pod("Always", &[], names),
        &seen(),
        Expect {
            sandbox: keep(),
            start: &["a#1", "b#1"],
            unchanged: &["c"],
            ..Default::default()
        },
    );
    check(
        &pod("OnFailure", &[], names),
        &seen(),
        Expect {
            sandbox: keep(),
            start: &["b#1"],
            unchanged: &["a", "c"],
            ..Default::default()
        },
    );
    check(
        &pod("Never", &[], names),
        &seen(),
        Expect {
            sandbox: keep(),
            unchanged: &["a", "b", "c"],
            ..Default::default()
        },
    );
}

#[test]
fn pod_whose_containers_are_all_done_is_stopped() {
    let all_done = observed(vec![sandbox(0, true)], vec![exited("a", 0), exited("b", 0)]);
    for policy in ["Never", "OnFailure"] {
        check(
            &pod(policy, &[], &["a", "b"]),
            &all_done,
            Expect {
                stop_sandboxes: &["sandbox-0"],
                ..Default::default()
            },
        );
    }
    // One ends with the other still running: nothing is stopped.
    check(
        &pod("Never", &[], &["a", "b"]),
        &observed(vec![sandbox(0, true)], vec![exited("a", 1), running("b")]),
        Expect {
            sandbox: keep(),
            unchanged: &["a", "b"],
            ..Default::default()
        },
    );
}

#[test]
fn dead_sandbox_is_replaced_and_everything_starts_over() {
    let seen = observed(vec![sandbox(0, false)], vec![exited("a", 137), exited("b", 0)]);
    let create = SandboxPlan::Create { attempt: 1 };
    check(
        &pod("Always", &[], &["a", "b"]),
        &seen,
        Expect {
            sandbox: create.clone(),
            start: &["a#1", "b#1"],
            ..Default::default()
        },
    );
    check(
        &pod("OnFailure", &[], &["a", "b"]),
        &seen,
        Expect {
            sandbox: create,
            start: &["a#1"],
            ..Default::default()
        },
    );
    check(&pod("Never", &[], &["a", "b"]), &seen, Expect::default());
}

#[test]
fn dead_sandbox_of_succeeded_pod_is_not_replaced() {
    let seen = observed(vec![sandbox(0, false)], vec![exited("a", 0)]);
    check(&pod("OnFailure", &[], &["a"]), &seen, Expect::default());
}

#[test]
fn dead_sandbox_with_running_containers_kills_them_first() {
    check(
        &pod("Always", &[], &["a"]),
        &observed(vec![sandbox(0, false)], vec![running("a")]),
        Expect {
            sandbox: SandboxPlan::Create { attempt: 1 },
            kill: &[("a", KillReason::PodEnded)],
            start: &["a#1"],
            ..Default::default()
        },
    );
}

#[test]
fn never_pod_whose_sandbox_died_before_any_container_gets_another() {
    check(
        &pod("Never", &[], &["a"]),
        &observed(vec![sandbox(0, false)], vec![]),
        Expect {
            sandbox: SandboxPlan::Create { attempt: 1 },
            start: &["a#0"],
            ..Default::default()
        },
    );
}

#[test]
fn sandbox_without_address_is_replaced() {
    let lost = SandboxObservation {
        ips: vec![],
        ..sandbox(0, true)
    };
    check(
        &pod("Always", &[], &["a"]),
        &observed(vec![lost], vec![]),
        Expect {
            sandbox: SandboxPlan::Create { attempt: 1 },
            stop_sandboxes: &["sandbox-0"],
            start: &["a#0"],
            ..Default::default()
        },
    );
}

#[test]
fn two_ready_sandboxes_are_one_too_many() {
    check(
        &pod("Always", &[], &["a"]),
        &observed(vec![sandbox(1, true), sandbox(0, true)], vec![]),
        Expect {
            sandbox: SandboxPlan::Create { attempt: 2 },
            stop_sandboxes: &["sandbox-1", "sandbox-0"],
            start: &["a#0"],
            ..Default::default()
        },
    );
}

#[test]
fn image_change_kills_the_running_container() {
    let mut pod = pod("Always", &[], &["a", "b"]);
    if let Some(spec) = &mut pod.spec {
        spec.containers[0].image = Some("other".into());
    }
    check(
        &pod,
        &observed(vec![sandbox(0, true)], vec![running("a"), running("b")]),
        Expect {
            sandbox: keep(),
            kill: &[("a", KillReason::SpecChanged)],
            unchanged: &["b"],
            ..Default::default()
        },
    );
}

#[test]
fn failed_probes_kill() {
    let mut seen = observed(
        vec![sandbox(0, true)],
        vec![running("a"), running("b"), running("c")],
    );
    seen.probes.liveness_failed.insert("a-0".into());
    seen.probes.startup_failed.insert("b-0".into());
    let plan = check(
        &pod("Always", &[], &["a", "b", "c"]),
        &seen,
        Expect {
            sandbox: keep(),
            kill: &[("a", KillReason::Liveness), ("b", KillReason::Startup)],
            unchanged: &["c"],
            ..Default::default()
        },
    );
    assert_eq!(
        plan.kill[0].message,
        "Container a failed liveness probe, will be restarted"
    );
    let plan = check(
        &pod("Never", &[], &["a", "b", "c"]),
        &seen,
        Expect {
            sandbox: keep(),
            kill: &[("a", KillReason::Liveness), ("b", KillReason::Startup)],
            unchanged: &["c"],
            ..Default::default()
        },
    );
    assert_eq!(plan.kill[1].message, "Container b failed startup probe");
}

#[test]
fn unknown_container_is_killed_before_it_is_replaced() {
    check(
        &pod("Always", &[], &["a"]),
        &observed(
            vec![sandbox(0, true)],
            vec![seen("a", 0, ContainerState::Unknown, 0)],
        ),
        Expect {
            sandbox: keep(),
            kill: &[("a", KillReason::Unknown)],
            ..Default::default()
        },
    );
}

#[test]
fn container_left_created_by_a_killed_kubelet_is_made_again() {
    check(
        &pod("Always", &[], &["a"]),
        &observed(
            vec![sandbox(0, true)],
            vec![seen("a", 0, ContainerState::Created, 0)],
        ),
        Expect {
            sandbox: keep(),
            start: &["a#0"],
            remove: &["a-0"],
            ..Default::default()
        },
    );
}

#[test]
fn crash_back_off_doubles_and_is_read_from_the_dead_container() {
    let mut crashed = exited("a", 1);
    crashed.attempt = 1;
    crashed.next_back_off = Duration::from_secs(10);
    let seen = observed(vec![sandbox(0, true)], vec![crashed.clone()]);
    // Ended 5 s ago, put off for 10.
    let plan = check(
        &pod("Always", &[], &["a"]),
        &seen,
        Expect {
            sandbox: keep(),
            back_off: &["a"],
            ..Default::default()
        },
    );
    assert_eq!(plan.again_at, Some(at("2026-01-01T01:00:05Z")));
    assert_eq!(plan.back_off[0].delay, Duration::from_secs(10));

    let later = super::plan(&pod("Always", &[], &["a"]), &seen, at("2026-01-01T01:00:05Z"));
    assert_eq!(later.start.len(), 1);
    assert_eq!(later.start[0].attempt, 2);
    assert_eq!(later.start[0].next_back_off, Duration::from_secs(20));

    // Having run for more than ten minutes, it starts at once and with a clean slate.
    crashed.created_at = Some(at("2026-01-01T00:30:00Z"));
    let seen = observed(vec![sandbox(0, true)], vec![crashed]);
    let plan = check(
        &pod("Always", &[], &["a"]),
        &seen,
        Expect {
            sandbox: keep(),
            start: &["a#2"],
            ..Default::default()
        },
    );
    assert_eq!(plan.start[0].next_back_off, Duration::from_secs(10));
}

#[test]
fn only_the_last_dead_container_of_a_name_is_kept() {
    let mut old = exited("a", 1);
    old.id = "a-old".into();
    let mut older = exited("a", 1);
    older.id = "a-older".into();
    check(
        &pod("Always", &[], &["a"]),
        &observed(vec![sandbox(0, true)], vec![running("a"), old, older]),
        Expect {
            sandbox: keep(),
            unchanged: &["a"],
            remove: &["a-older"],
            ..Default::default()
        },
    );
}

#[test]
fn dead_sandboxes_without_containers_are_forgotten() {
    let sandboxes = vec![sandbox(2, true), sandbox(1, false), sandbox(0, false)];
    let mut seen = observed(
        sandboxes,
        vec![running("a"), seen("a", 1, ContainerState::Exited, 1)],
    );
    seen.runtime.containers[0].sandbox_id = "sandbox-2".into();
    let plan = check(
        &pod("Always", &[], &["a"]),
        &seen,
        Expect {
            sandbox: SandboxPlan::Keep("sandbox-2".into()),
            unchanged: &["a"],
            ..Default::default()
        },
    );
    assert_eq!(plan.remove_sandboxes, ["sandbox-0"]);
}

#[test]
fn init_containers_run_one_after_the_other() {
    let pod = pod("Always", &["i1", "i2"], &["a"]);
    check(
        &pod,
        &Observed::default(),
        Expect {
            sandbox: SandboxPlan::Create { attempt: 0 },
            start: &["i1#0"],
            ..Default::default()
        },
    );
    check(
        &pod,
        &observed(vec![sandbox(0, true)], vec![running("i1")]),
        Expect {
            sandbox: keep(),
            unchanged: &["i1"],
            ..Default::default()
        },
    );
    check(
        &pod,
        &observed(vec![sandbox(0, true)], vec![exited("i1", 0)]),
        Expect {
            sandbox: keep(),
            start: &["i2#0"],
            unchanged: &["i1"],
            ..Default::default()
        },
    );
    check(
        &pod,
        &observed(vec![sandbox(0, true)], vec![exited("i2", 0), exited("i1", 0)]),
        Expect {
            sandbox: keep(),
            start: &["a#0"],
            unchanged: &["i1", "i2"],
            ..Default::default()
        },
    );
    // The first one's container was cleaned away meanwhile: the second one proves it done.
    check(
        &pod,
        &observed(vec![sandbox(0, true)], vec![exited("i2", 0)]),
        Expect {
            sandbox: keep(),
            start: &["a#0"],
            unchanged: &["i1", "i2"],
            ..Default::default()
        },
    );
    check(
        &pod,
        &observed(vec![sandbox(0, true)], vec![running("a")]),
        Expect {
            sandbox: keep(),
            unchanged: &["i1", "i2", "a"],
            ..Default::default()
        },
    );
}

#[test]
fn failed_init_container_by_restart_policy() {
    let seen = observed(vec![sandbox(0, true)], vec![exited("i1", 1)]);
    for policy in ["Always", "OnFailure"] {
        check(
            &pod(policy, &["i1"], &["a"]),
            &seen,
            Expect {
                sandbox: keep(),
                start: &["i1#1"],
                ..Default::default()
            },
        );
    }
    check(
        &pod("Never", &["i1"], &["a"]),
        &seen,
        Expect {
            stop_sandboxes: &["sandbox-0"],
            ..Default::default()
        },
    );
}

#[test]
fn init_containers_run_again_in_a_new_sandbox() {
    let seen = observed(vec![sandbox(0, false)], vec![exited("a", 137), exited("i1", 0)]);
    let pod = pod("Always", &["i1"], &["a"]);
    check(
        &pod,
        &seen,
        Expect {
            sandbox: SandboxPlan::Create { attempt: 1 },
            start: &["i1#1"],
            ..Default::default()
        },
    );
    // In the new sandbox, the init container of the old one does not count.
    let seen = observed(
        vec![sandbox(1, true), sandbox(0, false)],
        vec![exited("a", 137), exited("i1", 0)],
    );
    check(
        &pod,
        &seen,
        Expect {
            sandbox: SandboxPlan::Keep("sandbox-1".into()),
            start: &["i1#1"],
            ..Default::default()
        },
    );
}

#[test]
fn sidecars_start_in_order_and_stay() {
    let mut pod = pod("Always", &["s*", "i"], &["a"]);
    check(
        &pod,
        &observed(vec![sandbox(0, true)], vec![running("s")]),
        Expect {
            sandbox: keep(),
            start: &["i#0"],
            unchanged: &["s"],
            ..Default::default()
        },
    );
    // With a startup probe the next one waits for its success.
    if let Some(init) = pod.spec.as_mut().and_then(|spec| spec.init_containers.as_mut()) {
        init[0].startup_probe = Some(Probe::default());
    }
    let mut seen = observed(vec![sandbox(0, true)], vec![running("s")]);
    check(
        &pod,
        &seen,
        Expect {
            sandbox: keep(),
            unchanged: &["s"],
            ..Default::default()
        },
    );
    seen.probes.started.insert("s-0".into());
    check(
        &pod,
        &seen,
        Expect {
            sandbox: keep(),
            start: &["i#0"],
            unchanged: &["s"],
            ..Default::default()
        },
    );
    // An ended one starts again, whatever its exit code, beside the running regular container.
    check(
        &pod,
        &observed(
            vec![sandbox(0, true)],
            vec![running("a"), exited("i", 0), exited("s", 0)],
        ),
        Expect {
            sandbox: keep(),
            start: &["s#1"],
            unchanged: &["i", "a"],
            ..Default::default()
        },
    );
}

#[test]
fn sidecars_end_with_the_regular_containers() {
    check(
        &pod("Never", &["s*"], &["a"]),
        &observed(vec![sandbox(0, true)], vec![exited("a", 0), running("s")]),
        Expect {
            kill: &[("s", KillReason::PodEnded)],
            stop_sandboxes: &["sandbox-0"],
            ..Default::default()
        },
    );
}

#[test]
fn final_phase_is_never_left() {
    let mut pod = pod("Always", &[], &["a"]);
    pod.status = Some(PodStatus {
        phase: Some("Failed".into()),
        ..Default::default()
    });
    check(
        &pod,
        &observed(vec![sandbox(0, true)], vec![running("a")]),
        Expect {
            kill: &[("a", KillReason::PodEnded)],
            stop_sandboxes: &["sandbox-0"],
            ..Default::default()
        },
    );
}

#[test]
fn active_deadline() {
    let mut pod = pod("Always", &[], &["a"]);
    if let Some(spec) = &mut pod.spec {
        spec.active_deadline_seconds = Some(60);
    }
    let mut seen = observed(vec![sandbox(0, true)], vec![running("a")]);
    seen.start_time = Some(at("2026-01-01T00:59:30Z"));
    let plan = check(
        &pod,
        &seen,
        Expect {
            sandbox: keep(),
            unchanged: &["a"],
            ..Default::default()
        },
    );
    assert_eq!(plan.again_at, Some(at("2026-01-01T01:00:30Z")));
    seen.start_time = Some(at("2026-01-01T00:58:00Z"));
    let plan = check(
        &pod,
        &seen,
        Expect {
            kill: &[("a", KillReason::PodEnded)],
            stop_sandboxes: &["sandbox-0"],
            ..Default::default()
        },
    );
    assert_eq!(plan.failed.map(|failed| failed.reason), Some("DeadlineExceeded"));
}

#[test]
fn termination_stops_sidecars_last() {
    let pod = pod("Always", &["s1*", "s2*"], &["a"]);
    let names = |termination: Termination| match termination {
        Termination::Stop(kills) => kills.into_iter().map(|kill| kill.name).collect::<Vec<_>>(),
        Termination::TearDown(sandboxes) => sandboxes,
        Termination::Done => vec!["done".into()],
    };
    let step = |containers: Vec<ContainerObservation>, ready: bool| {
        let observed = PodObservation {
            sandboxes: vec![sandbox(0, ready)],
            containers,
        };
        names(plan_termination(&pod, &observed))
    };
    assert_eq!(
        step(vec![running("a"), running("s2"), running("s1")], true),
        ["a"]
    );
    assert_eq!(
        step(vec![exited("a", 0), running("s2"), running("s1")], true),
        ["s2"]
    );
    assert_eq!(
        step(vec![exited("a", 0), exited("s2", 0), running("s1")], true),
        ["s1"]
    );
    assert_eq!(step(vec![exited("a", 0), exited("s1", 0)], true), ["sandbox-0"]);
    assert_eq!(step(vec![exited("a", 0)], false), ["done"]);
}

//! Rows follow upstream's TestPodPhaseWith… (pkg/kubelet/kubelet_pods_test.go) and generate_test.go, v1.37.

use k8s_openapi::api::core::v1::{Container, PodSpec, Probe};

use super::*;
use crate::pod::{ContainerObservation, ContainerState as State, PodObservation, SandboxObservation};

fn at(text: &str) -> Timestamp {
    text.parse().expect("a timestamp")
}

fn pod(policy: &str, init: &[&str], names: &[&str]) -> Pod {
    let container = |name: &&str| Container {
        name: (*name).into(),
        ..Default::default()
    };
    Pod {
        spec: Some(PodSpec {
            restart_policy: Some(policy.into()),
            init_containers: Some(init.iter().map(container).collect()),
            containers: names.iter().map(container).collect(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn seen(name: &str, state: State, exit_code: i32) -> ContainerObservation {
    ContainerObservation {
        id: format!("{name}-id"),
        name: name.into(),
        sandbox_id: "s".into(),
        attempt: 0,
        state,
        created_at: Some(at("2026-01-01T00:00:00Z")),
        started_at: Some(at("2026-01-01T00:00:01Z")),
        finished_at: (state == State::Exited).then(|| at("2026-01-01T00:00:05Z")),
        exit_code,
        reason: if state == State::Exited {
            if exit_code == 0 { "Completed" } else { "Error" }
        } else {
            ""
        }
        .into(),
        message: String::new(),
        image: "img".into(),
        image_ref: "img@sha256:1".into(),
        hash: String::new(),
        restart_count: 0,
        log_path: Default::default(),
        termination_message_path: None,
        message_falls_back_to_logs: false,
        next_back_off: Default::default(),
        pod_grace_period: None,
    }
}

fn observed(containers: Vec<ContainerObservation>) -> Observed {
    let sandbox = SandboxObservation {
        id: "s".into(),
        ready: true,
        ips: vec!["10.244.0.5".into()],
        ..Default::default()
    };
    Observed {
        runtime: PodObservation {
            sandboxes: vec![sandbox],
            containers,
        },
        ..Default::default()
    }
}

fn build_with(pod: &Pod, observed: &Observed, waiting: &[(&str, &str)], ending: bool) -> PodStatus {
    let waiting = waiting
        .iter()
        .map(|(name, reason)| {
            (
                (*name).to_owned(),
                Waiting {
                    reason: (*reason).into(),
                    message: String::new(),
                },
            )
        })
        .collect();
    let input = Input {
        observed,
        waiting: &waiting,
        ending,
        failed: None,
        host_ips: &["172.31.0.11".parse().expect("an address")],
        now: at("2026-01-01T00:01:00Z"),
    };
    build(pod, &input)
}

type PhaseRow = (
    &'static str,
    &'static [&'static str],
    Vec<ContainerObservation>,
    bool,
    &'static str,
);

#[test]
fn phases() {
    let running = |name: &str| seen(name, State::Running, 0);
    let ended = |name: &str, code: i32| seen(name, State::Exited, code);
    let rows: Vec<PhaseRow> = vec![
        ("Always", &[], vec![], false, "Pending"),
        ("Always", &[], vec![running("a")], false, "Pending"),
        ("Always", &[], vec![running("a"), running("b")], false, "Running"),
        (
            "Always",
            &[],
            vec![ended("a", 0), ended("b", 0)],
            false,
            "Running",
        ),
        ("Always", &[], vec![running("a"), ended("b", 1)], false, "Running"),
        (
            "OnFailure",
            &[],
            vec![ended("a", 0), ended("b", 0)],
            false,
            "Succeeded",
        ),
        (
            "OnFailure",
            &[],
            vec![ended("a", 1), ended("b", 0)],
            false,
            "Running",
        ),
        (
            "Never",
            &[],
            vec![ended("a", 0), ended("b", 0)],
            false,
            "Succeeded",
        ),
        ("Never", &[], vec![ended("a", 1), ended("b", 0)], false, "Failed"),
        ("Never", &[], vec![running("a"), ended("b", 0)], false, "Running"),
        ("Always", &["i"], vec![running("i")], false, "Pending"),
        ("Always", &["i"], vec![ended("i", 0)], false, "Pending"),
        ("Always", &["i"], vec![ended("i", 1)], false, "Pending"),
        ("Never", &["i"], vec![ended("i", 1)], false, "Failed"),
        (
            "Always",
            &["i"],
            vec![ended("i", 0), running("a"), running("b")],
            false,
            "Running",
        ),
        (
            "Always",
            &[],
            vec![ended("a", 0), ended("b", 137)],
            true,
            "Failed",
        ),
        (
            "Always",
            &[],
            vec![ended("a", 0), ended("b", 0)],
            true,
            "Succeeded",
        ),
    ];
    for (policy, init, containers, ending, expect) in rows {
        let names: Vec<String> = containers
            .iter()
            .map(|c| format!("{} {:?}", c.name, c.state))
            .collect();
        let status = build_with(
            &pod(policy, init, &["a", "b"]),
            &observed(containers),
            &[],
            ending,
        );
        assert_eq!(
            status.phase.as_deref(),
            Some(expect),
            "{policy} {init:?} {names:?} {ending}"
        );
    }
}

fn condition<'a>(status: &'a PodStatus, type_: &str) -> (&'a str, &'a str, &'a str) {
    let found = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == type_);
    let found = found.expect("the condition is there");
    (
        found.status.as_str(),
        found.reason.as_deref().unwrap_or_default(),
        found.message.as_deref().unwrap_or_default(),
    )
}

#[test]
fn ready_follows_the_readiness_probe() {
    let mut pod = pod("Always", &[], &["a", "b"]);
    if let Some(spec) = &mut pod.spec {
        spec.containers[1].readiness_probe = Some(Probe::default());
    }
    let mut observed = observed(vec![seen("a", State::Running, 0), seen("b", State::Running, 0)]);
    let status = build_with(&pod, &observed, &[], false);
    let unready = (
        "False",
        "ContainersNotReady",
        "containers with unready status: [b]",
    );
    assert_eq!(condition(&status, "Ready"), unready);
    assert_eq!(condition(&status, "ContainersReady"), unready);
    assert_eq!(condition(&status, "Initialized"), ("True", "", ""));
    observed.probes.ready.insert("b-id".into());
    let status = build_with(&pod, &observed, &[], false);
    assert_eq!(condition(&status, "Ready"), ("True", "", ""));
    assert_eq!(status.pod_ip.as_deref(), Some("10.244.0.5"));
    assert_eq!(status.host_ip.as_deref(), Some("172.31.0.11"));
}

#[test]
fn waiting_for_init_containers() {
    let status = build_with(
        &pod("Always", &["i"], &["a"]),
        &observed(vec![seen("i", State::Running, 0)]),
        &[],
        false,
    );
    assert_eq!(
        condition(&status, "Initialized"),
        (
            "False",
            "ContainersNotInitialized",
            "containers with incomplete status: [i]"
        )
    );
    let waiting = status.container_statuses.unwrap_or_default()[0]
        .state
        .clone()
        .and_then(|state| state.waiting);
    assert_eq!(
        waiting.and_then(|waiting| waiting.reason).as_deref(),
        Some("PodInitializing")
    );
}

#[test]
fn crash_loop_shows_waiting_and_last_state() {
    let mut crashed = seen("a", State::Exited, 3);
    crashed.restart_count = 2;
    let status = build_with(
        &pod("Always", &[], &["a"]),
        &observed(vec![crashed]),
        &[("a", "CrashLoopBackOff")],
        false,
    );
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let container = status.container_statuses.unwrap_or_default().remove(0);
    assert_eq!(container.restart_count, 2);
    let waiting = container
        .state
        .and_then(|state| state.waiting)
        .and_then(|waiting| waiting.reason);
    assert_eq!(waiting.as_deref(), Some("CrashLoopBackOff"));
    let last = container
        .last_state
        .and_then(|state| state.terminated)
        .expect("a last state");
    assert_eq!((last.exit_code, last.reason.as_deref()), (3, Some("Error")));
}

#[test]
fn completed_pod() {
    let status = build_with(
        &pod("Never", &[], &["a"]),
        &observed(vec![seen("a", State::Exited, 0)]),
        &[],
        false,
    );
    assert_eq!(condition(&status, "Initialized"), ("True", "PodCompleted", ""));
    assert_eq!(condition(&status, "Ready"), ("False", "PodCompleted", ""));
}

#[test]
fn final_phase_stays() {
    let mut pod = pod("Always", &[], &["a"]);
    pod.status = Some(PodStatus {
        phase: Some("Failed".into()),
        reason: Some("Evicted".into()),
        ..Default::default()
    });
    let status = build_with(&pod, &observed(vec![seen("a", State::Running, 0)]), &[], false);
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref()),
        (Some("Failed"), Some("Evicted"))
    );
}

#[test]
fn transitions_keep_their_time_and_equal_statuses_compare_equal() {
    let mut pod = pod("Always", &[], &["a"]);
    let observed = observed(vec![seen("a", State::Running, 0)]);
    let first = build_with(&pod, &observed, &[], false);
    pod.status = Some(first.clone());
    let waiting = HashMap::new();
    let input = Input {
        observed: &observed,
        waiting: &waiting,
        ending: false,
        failed: None,
        host_ips: &["172.31.0.11".parse().expect("an address")],
        now: at("2026-01-01T05:00:00Z"),
    };
    let second = build(&pod, &input);
    assert!(is_same(&first, &second), "{first:#?}\n{second:#?}");
}

#[test]
fn vanished_container_is_reported_as_unknown() {
    let mut pod = pod("Always", &[], &["a"]);
    pod.status = Some(build_with(
        &pod,
        &observed(vec![seen("a", State::Running, 0)]),
        &[],
        false,
    ));
    let status = build_with(&pod, &observed(vec![]), &[], true);
    let state = status
        .container_statuses
        .unwrap_or_default()
        .remove(0)
        .state
        .and_then(|state| state.terminated);
    let state = state.expect("terminated");
    assert_eq!(
        (state.exit_code, state.reason.as_deref()),
        (137, Some("ContainerStatusUnknown"))
    );
    assert_eq!(status.phase.as_deref(), Some("Failed"));
}

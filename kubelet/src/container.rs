//! What CRI is told about one container. Pure, but for the sources its caller has read before.

mod security;

use std::collections::HashMap;

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container, Pod};

pub use security::{SecurityError, security_context};

use crate::{
    cgroups::{self, QUOTA_PERIOD_US},
    env::Environment,
    pod::{self, QosClass},
    sandbox,
    worker::plan::Start,
};

/// Scores of the kernel's OOM killer by QoS class: who goes last …
const GUARANTEED_OOM_SCORE: i64 = -997;
/// … and who goes first.
const BESTEFFORT_OOM_SCORE: i64 = 1000;

/// What goes into a container's configuration besides its spec.
pub struct Parts<'a> {
    /// The image as found present.
    pub image: &'a cri::Image,
    /// Its environment.
    pub environment: Environment,
    /// Volumes, hosts file, termination message.
    pub mounts: Vec<cri::Mount>,
    /// Memory of the node in bytes, for OOM scores.
    pub node_memory: i64,
    /// Whether CPU limits become quotas.
    pub cpu_cfs_quota: bool,
}

/// The configuration of a container about to be made.
pub fn container_config(
    pod: &Pod,
    container: &Container,
    start: &Start,
    parts: Parts<'_>,
) -> Result<cri::ContainerConfig, SecurityError> {
    let security = security_context(pod, container, parts.image)?;
    let expand = |words: &Option<Vec<String>>| -> Vec<String> {
        words
            .iter()
            .flatten()
            .map(|word| parts.environment.expand(word))
            .collect()
    };
    let mut labels: HashMap<String, String> = sandbox::pod_labels(pod).into();
    labels.insert(pod::CONTAINER_NAME_LABEL.into(), container.name.clone());
    Ok(cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: container.name.clone(),
            attempt: start.attempt,
        }),
        image: Some(cri::ImageSpec {
            image: parts.image.id.clone(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command: expand(&container.command),
        args: expand(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: parts
            .environment
            .iter()
            .map(|(key, value)| cri::KeyValue {
                key: key.into(),
                value: value.into(),
            })
            .collect(),
        labels,
        annotations: annotations(pod, container, start),
        mounts: parts.mounts,
        log_path: format!("{}/{}.log", container.name, start.attempt),
        stdin: container.stdin.unwrap_or_default(),
        stdin_once: container.stdin_once.unwrap_or_default(),
        tty: container.tty.unwrap_or_default(),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(resources(pod, container, parts.node_memory, parts.cpu_cfs_quota)),
            security_context: Some(security),
        }),
        ..Default::default()
    })
}

fn annotations(pod: &Pod, container: &Container, start: &Start) -> HashMap<String, String> {
    let mut annotations = HashMap::from([
        (
            pod::CONTAINER_HASH_ANNOTATION.to_owned(),
            pod::container_hash(container),
        ),
        (
            pod::RESTART_COUNT_ANNOTATION.to_owned(),
            start.attempt.to_string(),
        ),
        (
            pod::BACK_OFF_ANNOTATION.to_owned(),
            start.next_back_off.as_secs().to_string(),
        ),
        (
            pod::TERMINATION_MESSAGE_PATH_ANNOTATION.to_owned(),
            termination_message_path(container).to_owned(),
        ),
        (
            pod::TERMINATION_MESSAGE_POLICY_ANNOTATION.to_owned(),
            container
                .termination_message_policy
                .clone()
                .unwrap_or_else(|| "File".into()),
        ),
    ]);
    if let Some(seconds) = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.termination_grace_period_seconds)
    {
        annotations.insert(pod::POD_GRACE_PERIOD_ANNOTATION.to_owned(), seconds.to_string());
    }
    annotations
}

/// Where a container writes its termination message.
pub fn termination_message_path(container: &Container) -> &str {
    container
        .termination_message_path
        .as_deref()
        .filter(|path| !path.is_empty())
        .unwrap_or("/dev/termination-log")
}

fn resources(
    pod: &Pod,
    container: &Container,
    node_memory: i64,
    quota: bool,
) -> cri::LinuxContainerResources {
    let shares = cgroups::milli_to_shares(cgroups::cpu_request(container));
    let cpu_limit = cgroups::cpu_limit(container).filter(|_| quota);
    cri::LinuxContainerResources {
        cpu_shares: i64::try_from(shares).unwrap_or(i64::MAX),
        cpu_quota: cpu_limit.map(cgroups::milli_to_quota).unwrap_or_default(),
        cpu_period: if cpu_limit.is_some() { QUOTA_PERIOD_US } else { 0 },
        memory_limit_in_bytes: cgroups::memory_limit(container).unwrap_or_default(),
        oom_score_adj: oom_score(pod, container, node_memory),
        ..Default::default()
    }
}

/// The more memory a burstable container has reserved, the later it is killed.
fn oom_score(pod: &Pod, container: &Container, node_memory: i64) -> i64 {
    let class = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.priority_class_name.as_deref());
    if class == Some("system-node-critical") {
        return GUARANTEED_OOM_SCORE;
    }
    match QosClass::of(pod) {
        QosClass::Guaranteed => GUARANTEED_OOM_SCORE,
        QosClass::BestEffort => BESTEFFORT_OOM_SCORE,
        QosClass::Burstable => {
            let request = cgroups::memory_request(container);
            let score = 1000 - 1000_i64.saturating_mul(request) / node_memory.max(1);
            score.clamp(1000 + GUARANTEED_OOM_SCORE, BESTEFFORT_OOM_SCORE - 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        api::core::v1::{PodSpec, ResourceRequirements},
        apimachinery::pkg::api::resource::Quantity,
    };

    use super::*;

    fn container(requests: &[(&str, &str)], limits: &[(&str, &str)]) -> Container {
        let list = |rows: &[(&str, &str)]| {
            Some(
                rows.iter()
                    .map(|(name, value)| ((*name).into(), Quantity((*value).into())))
                    .collect(),
            )
        };
        Container {
            name: "c".into(),
            resources: Some(ResourceRequirements {
                requests: list(requests),
                limits: list(limits),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// Rows follow upstream's TestGetContainerOOMScoreAdjust (pkg/kubelet/qos/policy_test.go).
    #[test]
    fn oom_scores() {
        let memory = 8_000_000_000;
        let rows = [
            (container(&[], &[]), 1000),
            (container(&[], &[("cpu", "5m"), ("memory", "10G")]), -997),
            (container(&[("memory", "4G")], &[]), 500),
            (container(&[("cpu", "5m")], &[]), 999),
            (container(&[("memory", "8G")], &[]), 3),
        ];
        for (container, expect) in rows {
            let pod = Pod {
                spec: Some(PodSpec {
                    containers: vec![container.clone()],
                    ..Default::default()
                }),
                ..Default::default()
            };
            assert_eq!(oom_score(&pod, &container, memory), expect, "{container:?}");
        }
    }

    #[test]
    fn config_of_a_container() {
        let mut container = container(&[("cpu", "250m")], &[("cpu", "500m"), ("memory", "64Mi")]);
        container.args = Some(vec!["--home=$(HOME)".into(), "$$(HOME)".into()]);
        container.image = Some("app:1".into());
        let pod = Pod {
            spec: Some(PodSpec {
                containers: vec![container.clone()],
                ..Default::default()
            }),
            ..Default::default()
        };
        let start = Start {
            name: "c".into(),
            init: false,
            attempt: 3,
            next_back_off: std::time::Duration::from_secs(40),
        };
        let image = cri::Image {
            id: "sha256:1".into(),
            ..Default::default()
        };
        let parts = Parts {
            image: &image,
            environment: Environment::default(),
            mounts: Vec::new(),
            node_memory: 1 << 33,
            cpu_cfs_quota: true,
        };
        let config = container_config(&pod, &container, &start, parts).expect("a plain container");
        assert_eq!(config.args, ["--home=$(HOME)", "$(HOME)"]);
        assert_eq!(config.log_path, "c/3.log");
        assert_eq!(config.annotations[pod::BACK_OFF_ANNOTATION], "40");
        let resources = config.linux.and_then(|linux| linux.resources).expect("resources");
        assert_eq!(
            (resources.cpu_shares, resources.cpu_quota, resources.cpu_period),
            (256, 50_000, 100_000)
        );
        assert_eq!(resources.memory_limit_in_bytes, 64 << 20);
    }
}

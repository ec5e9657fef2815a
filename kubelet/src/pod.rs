//! What the parts of the kubelet say to each other about pods: labels, hashes, QoS, and what was observed of a pod.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container, Pod};

/// Label of sandboxes and containers: the pod's name.
pub const POD_NAME_LABEL: &str = "io.kubernetes.pod.name";
/// Label of sandboxes and containers: the pod's namespace.
pub const POD_NAMESPACE_LABEL: &str = "io.kubernetes.pod.namespace";
/// Label of sandboxes and containers: the pod's uid.
pub const POD_UID_LABEL: &str = "io.kubernetes.pod.uid";
/// Label of containers: the name in the pod's spec.
pub const CONTAINER_NAME_LABEL: &str = "io.kubernetes.container.name";

/// Annotation of containers: the hash of the spec they were made from.
pub const CONTAINER_HASH_ANNOTATION: &str = "io.kubernetes.container.hash";
/// Annotation of containers: how often the container had been restarted when this one was made.
pub const RESTART_COUNT_ANNOTATION: &str = "io.kubernetes.container.restartCount";
/// Annotation of containers: where they write their termination message.
pub const TERMINATION_MESSAGE_PATH_ANNOTATION: &str = "io.kubernetes.container.terminationMessagePath";
/// Annotation of containers: `File` or `FallbackToLogsOnError`.
pub const TERMINATION_MESSAGE_POLICY_ANNOTATION: &str = "io.kubernetes.container.terminationMessagePolicy";
/// Annotation of containers: the pod's grace period in seconds when this one was made.
pub const POD_GRACE_PERIOD_ANNOTATION: &str = "io.kubernetes.pod.terminationGracePeriod";
/// Annotation of containers, ours: the seconds by which the restart is put off when this one ends. It makes the back-off
/// survive a restart of the kubelet.
pub const BACK_OFF_ANNOTATION: &str = "orlop.io/restart-backoff-seconds";

/// The pod's uid, empty when the object has none.
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// The pod's name.
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// The pod's namespace.
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// `name_namespace(uid)`, which is how messages name a pod.
pub fn format(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// The pod's regular containers.
pub fn containers(pod: &Pod) -> &[Container] {
    pod.spec
        .as_ref()
        .map(|spec| spec.containers.as_slice())
        .unwrap_or_default()
}

/// The pod's init containers, sidecars included.
pub fn init_containers(pod: &Pod) -> &[Container] {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.init_containers.as_deref())
        .unwrap_or_default()
}

/// Every container of the pod, init containers first.
pub fn all_containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    init_containers(pod).iter().chain(containers(pod))
}

/// Whether an init container is a sidecar: it keeps running beside the regular containers.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The pod's restart policy.
pub fn restart_policy(pod: &Pod) -> RestartPolicy {
    match pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) {
        Some("Never") => RestartPolicy::Never,
        Some("OnFailure") => RestartPolicy::OnFailure,
        _ => RestartPolicy::Always,
    }
}

/// Whether the pod runs in the node's network namespace.
pub fn uses_host_network(pod: &Pod) -> bool {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.host_network)
        .unwrap_or_default()
}

/// When ended containers start again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Whatever the exit code.
    Always,
    /// When the exit code is not zero.
    OnFailure,
    /// Not at all.
    Never,
}

/// The directory of a pod's logs: `<pod_logs_dir>/<namespace>_<name>_<uid>`.
pub fn log_directory(pod_logs_dir: &Path, pod: &Pod) -> PathBuf {
    pod_logs_dir.join(format!("{}_{}_{}", namespace(pod), name(pod), uid(pod)))
}

/// The hash by which a running container is known to be what the spec asks for.
///
/// Name and image alone go in, as upstream has it since resources became mutable: every other field of a container is
/// immutable in the API, and a hash over all of them would restart every container when a release adds a field.
pub fn container_hash(container: &Container) -> String {
    let image = container.image.as_deref().unwrap_or_default();
    let mut hash: u32 = 0x811c_9dc5;
    for byte in container.name.bytes().chain([0]).chain(image.bytes()) {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    format!("{hash:x}")
}

/// Everything observed of one pod in one look at the runtime.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodObservation {
    /// Sandboxes, the newest first.
    pub sandboxes: Vec<SandboxObservation>,
    /// Containers, the newest first, dead ones included.
    pub containers: Vec<ContainerObservation>,
}

impl PodObservation {
    /// The newest container of that name.
    pub fn container(&self, name: &str) -> Option<&ContainerObservation> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// The dead container before the newest of that name.
    pub fn previous(&self, name: &str) -> Option<&ContainerObservation> {
        self.containers
            .iter()
            .filter(|container| container.name == name)
            .nth(1)
            .filter(|container| container.state == ContainerState::Exited)
    }

    /// Whether anything of the pod still runs.
    pub fn is_running(&self) -> bool {
        self.containers
            .iter()
            .any(|container| container.state == ContainerState::Running)
    }

    /// The pod's addresses: those of the newest ready sandbox.
    pub fn ips(&self) -> &[String] {
        self.sandboxes
            .first()
            .filter(|sandbox| sandbox.ready)
            .map(|sandbox| sandbox.ips.as_slice())
            .unwrap_or_default()
    }
}

/// A sandbox as CRI reports it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SandboxObservation {
    /// CRI's id.
    pub id: String,
    /// How many sandboxes the pod had before.
    pub attempt: u32,
    /// When it was made.
    pub created_at: Option<Timestamp>,
    /// Whether it runs.
    pub ready: bool,
    /// Whether it shares the node's network namespace.
    pub host_network: bool,
    /// Its addresses, the primary one first; none with the node's network.
    pub ips: Vec<String>,
}

/// State of a container in CRI's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerState {
    /// Made and not started; left by starting it or removing it.
    Created,
    /// Left when the process ends.
    Running,
    /// The final state.
    Exited,
    /// The runtime lost sight of it, as after a crash of its shim.
    Unknown,
}

/// A container as CRI reports it.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerObservation {
    /// CRI's id, without the `containerd://` of the API.
    pub id: String,
    /// The name in the pod's spec.
    pub name: String,
    /// The sandbox it belongs to.
    pub sandbox_id: String,
    /// CRI's attempt number, which equals the restart count.
    pub attempt: u32,
    /// Where its life stands.
    pub state: ContainerState,
    /// When it was made.
    pub created_at: Option<Timestamp>,
    /// When it was started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Exit code, meaningful once exited.
    pub exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled`, … once exited.
    pub reason: String,
    /// The runtime's words about the end.
    pub message: String,
    /// The image's name as the runtime prints it.
    pub image: String,
    /// The image's digest reference or id.
    pub image_ref: String,
    /// Hash of the spec it was made from; empty for a container not made by a kubelet.
    pub hash: String,
    /// How often the container was restarted before this one.
    pub restart_count: i32,
    /// The log file.
    pub log_path: PathBuf,
    /// Host path behind the termination message path.
    pub termination_message_path: Option<PathBuf>,
    /// Whether the end of the log stands in for a missing termination message.
    pub message_falls_back_to_logs: bool,
    /// How long its restart is put off when it ends.
    pub next_back_off: Duration,
    /// The pod's grace period when it was made.
    pub pod_grace_period: Option<Duration>,
}

impl ContainerObservation {
    /// Reads CRI's status of a container of the sandbox `sandbox_id`.
    pub fn new(status: cri::ContainerStatus, sandbox_id: String) -> Self {
        let annotation = |key: &str| {
            status
                .annotations
                .get(key)
                .map(String::as_str)
                .unwrap_or_default()
        };
        let attempt = status
            .metadata
            .as_ref()
            .map(|metadata| metadata.attempt)
            .unwrap_or_default();
        let message_path = annotation(TERMINATION_MESSAGE_PATH_ANNOTATION);
        let termination_message_path = status
            .mounts
            .iter()
            .find(|mount| !message_path.is_empty() && mount.container_path == message_path)
            .map(|mount| PathBuf::from(&mount.host_path));
        Self {
            name: container_name(&status.labels, status.metadata.as_ref()),
            sandbox_id,
            attempt,
            state: match cri::ContainerState::try_from(status.state) {
                Ok(cri::ContainerState::ContainerCreated) => ContainerState::Created,
                Ok(cri::ContainerState::ContainerRunning) => ContainerState::Running,
                Ok(cri::ContainerState::ContainerExited) => ContainerState::Exited,
                Ok(cri::ContainerState::ContainerUnknown) | Err(_) => ContainerState::Unknown,
            },
            created_at: timestamp(status.created_at),
            started_at: timestamp(status.started_at),
            finished_at: timestamp(status.finished_at),
            exit_code: status.exit_code,
            image: status
                .image
                .as_ref()
                .map(|image| image.image.clone())
                .unwrap_or_default(),
            hash: annotation(CONTAINER_HASH_ANNOTATION).to_owned(),
            restart_count: annotation(RESTART_COUNT_ANNOTATION)
                .parse()
                .unwrap_or_else(|_| i32::try_from(attempt).unwrap_or(i32::MAX)),
            termination_message_path,
            message_falls_back_to_logs: annotation(TERMINATION_MESSAGE_POLICY_ANNOTATION)
                == "FallbackToLogsOnError",
            next_back_off: seconds(annotation(BACK_OFF_ANNOTATION)).unwrap_or_default(),
            pod_grace_period: seconds(annotation(POD_GRACE_PERIOD_ANNOTATION)),
            log_path: PathBuf::from(status.log_path),
            id: status.id,
            reason: status.reason,
            message: status.message,
            image_ref: status.image_ref,
        }
    }
}

fn seconds(text: &str) -> Option<Duration> {
    text.parse().ok().map(Duration::from_secs)
}

fn container_name(labels: &HashMap<String, String>, metadata: Option<&cri::ContainerMetadata>) -> String {
    labels
        .get(CONTAINER_NAME_LABEL)
        .or(metadata.map(|metadata| &metadata.name))
        .cloned()
        .unwrap_or_default()
}

/// CRI's nanoseconds since 1970, where 0 (and Go's zero time) means "never".
pub fn timestamp(nanoseconds: i64) -> Option<Timestamp> {
    if nanoseconds <= 0 {
        return None;
    }
    Timestamp::from_nanosecond(i128::from(nanoseconds)).ok()
}

/// How the kernel and the evictor treat a pod when memory is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QosClass {
    /// Every container has limits for CPU and memory, equal to its requests.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is.
    BestEffort,
}

impl QosClass {
    /// The class that a pod's requests and limits put it in.
    pub fn of(pod: &Pod) -> Self {
        let mut guaranteed = true;
        let mut anything = false;
        for container in all_containers(pod) {
            let resources = container.resources.as_ref();
            let requests = resources.and_then(|resources| resources.requests.as_ref());
            let limits = resources.and_then(|resources| resources.limits.as_ref());
            for resource in ["cpu", "memory"] {
                let request = nonzero(requests, resource);
                let limit = nonzero(limits, resource);
                anything |= request.is_some() || limit.is_some();
                guaranteed &= limit.is_some() && (request.is_none() || request == limit);
            }
        }
        match (anything, guaranteed) {
            (false, _) => Self::BestEffort,
            (true, true) => Self::Guaranteed,
            (true, false) => Self::Burstable,
        }
    }

    /// As the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

fn nonzero(
    list: Option<&BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>,
    resource: &str,
) -> Option<i128> {
    list.and_then(|list| list.get(resource))
        .and_then(crate::quantity::nano)
        .filter(|value| *value != 0)
}

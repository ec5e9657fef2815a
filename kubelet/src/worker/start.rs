//! Making and starting one container: its image, its configuration, the files the kubelet gives it, its first hook.

use std::{path::Path, sync::Arc, time::Duration};

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container, HostIP, Pod, PodIP};
use tokio::time::Instant;

use super::{
    Desired, Worker,
    apply::Applied,
    hooks,
    plan::{Kill, KillReason, Observed, Start},
    stop::grace_period,
};
use crate::{
    container::{self, Parts},
    env::{self, Sources},
    events::EventType,
    pod::{self, SandboxObservation},
    runtime::RuntimeError,
    sandbox,
    status::Waiting,
};

/// A `postStart` hook without an end must not keep the worker for good.
const POST_START_MAX: Duration = Duration::from_secs(600);

/// Why a container did not start.
pub(super) struct StartError {
    /// What its status shows; nothing while its image is being pulled for the first time.
    pub(super) waiting: Option<Waiting>,
    /// When to try again.
    pub(super) retry: Retry,
}

/// When a container that did not start is tried again.
pub(super) enum Retry {
    /// When a wake comes: somebody else works on the cause.
    OnWake,
    /// Then at the latest.
    At(Instant),
    /// Not before the container's own back-off has passed, whatever wakes the worker until then: the failed try itself
    /// does, by the status it writes and the events of the runtime.
    AfterBackOff,
}

impl Worker {
    /// Image, configuration, creation, start, hook: each failure has its own reason.
    pub(super) async fn start(
        &mut self,
        pod: &Arc<Pod>,
        spec: &Container,
        start: &Start,
        sandbox: &SandboxObservation,
        config: &cri::PodSandboxConfig,
        applied: &mut Applied,
    ) -> Result<(), StartError> {
        let context = self.context.clone();
        let image = context
            .images
            .ensure(pod, spec, config)
            .await
            .map_err(|waiting| StartError {
                waiting: waiting.reason.map(|reason| Waiting {
                    reason: reason.to_owned(),
                    message: waiting.message,
                }),
                retry: waiting.retry_at.map_or(Retry::OnWake, Retry::At),
            })?;
        let failed = |reason: &str, message: String| {
            tracing::warn!(container = spec.name, reason, message, "starting a container");
            let event = format!("Error: {message}");
            context
                .recorder
                .container(pod, &spec.name, EventType::Warning, "Failed", event);
            StartError {
                waiting: Some(Waiting {
                    reason: reason.to_owned(),
                    message,
                }),
                retry: Retry::AfterBackOff,
            }
        };
        let container_config = self
            .container_config(pod, spec, start, sandbox, &image)
            .await
            .map_err(|message| failed("CreateContainerConfigError", message))?;
        let log_directory = Path::new(&config.log_directory).join(&spec.name);
        std::fs::create_dir_all(&log_directory).map_err(|error| {
            failed(
                "CreateContainerError",
                format!("create log directory {}: {error}", log_directory.display()),
            )
        })?;
        let id = context
            .runtime
            .create_container(&sandbox.id, container_config, config.clone())
            .await
            .map_err(|error| failed("CreateContainerError", message_of(&error)))?;
        applied.changed = true;
        context.wakes.add_owned(&self.uid, &id);
        let message = "Container created";
        context
            .recorder
            .container(pod, &spec.name, EventType::Normal, "Created", message);
        context
            .runtime
            .start_container(&id)
            .await
            .map_err(|error| failed("RunContainerError", message_of(&error)))?;
        let message = "Container started";
        context
            .recorder
            .container(pod, &spec.name, EventType::Normal, "Started", message);
        tracing::info!(container = spec.name, attempt = start.attempt, "started");
        self.post_start(pod, spec, &id, sandbox).await;
        Ok(())
    }

    async fn container_config(
        &self,
        pod: &Pod,
        spec: &Container,
        start: &Start,
        sandbox: &SandboxObservation,
        image: &cri::Image,
    ) -> Result<cri::ContainerConfig, String> {
        let context = &self.context;
        let pod_with_addresses = self.with_addresses(pod, sandbox);
        let sources = Sources {
            objects: &context.objects,
            services: &context.services.variables(pod).await,
            allocatable: &context.allocatable,
        };
        let environment = env::environment(&pod_with_addresses, spec, &sources)
            .await
            .map_err(|error| error.to_string())?;
        let volumes = self.volumes.clone().unwrap_or_default();
        let variables = environment
            .iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let mut mounts = context
            .volumes
            .mounts(pod, spec, &volumes, &variables)
            .map_err(|error| error.to_string())?;
        mounts.extend(
            self.own_mounts(pod, spec, start, sandbox, &mounts)
                .map_err(|error| error.to_string())?,
        );
        let parts = Parts {
            image,
            environment,
            mounts,
            node_memory: context.machine.memory_bytes,
            cpu_cfs_quota: context.config.file.cpu_cfs_quota,
        };
        container::container_config(pod, spec, start, parts).map_err(|error| error.to_string())
    }

    /// The pod with the addresses its variables may refer to, which the API may not hold yet.
    fn with_addresses(&self, pod: &Pod, sandbox: &SandboxObservation) -> Pod {
        let mut pod = pod.clone();
        let host_ips: Vec<String> = self.context.host_ips().iter().map(ToString::to_string).collect();
        let ips = if pod::uses_host_network(&pod) {
            &host_ips
        } else {
            &sandbox.ips
        };
        let status = pod.status.get_or_insert_default();
        status.pod_ip = ips.first().cloned();
        status.pod_ips = Some(ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect());
        status.host_ip = host_ips.first().cloned();
        status.host_ips = Some(host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect());
        pod
    }

    /// The files the kubelet itself gives to a container: /etc/hosts and the termination message.
    fn own_mounts(
        &self,
        pod: &Pod,
        spec: &Container,
        start: &Start,
        sandbox: &SandboxObservation,
        others: &[cri::Mount],
    ) -> std::io::Result<Vec<cri::Mount>> {
        let pod_dir = self.context.pod_dir(&self.uid);
        let taken = |path: &str| others.iter().any(|mount| mount.container_path == path);
        let mount = |container_path: &str, host_path: &Path| cri::Mount {
            container_path: container_path.to_owned(),
            host_path: host_path.to_string_lossy().into_owned(),
            ..Default::default()
        };
        let mut mounts = Vec::new();
        if !taken("/etc/hosts") {
            let (hostname, domain) = sandbox::host_names(
                pod,
                &self.context.config.node_name,
                &self.context.config.file.cluster_domain,
            );
            let node_file = match pod::uses_host_network(pod) {
                true => Some(std::fs::read_to_string("/etc/hosts").unwrap_or_default()),
                false => None,
            };
            let aliases = pod
                .spec
                .as_ref()
                .and_then(|spec| spec.host_aliases.clone())
                .unwrap_or_default();
            let text = sandbox::hosts_file(
                &sandbox.ips,
                &hostname,
                domain.as_deref(),
                &aliases,
                node_file.as_deref(),
            );
            let path = pod_dir.join("etc-hosts");
            std::fs::create_dir_all(&pod_dir)?;
            // In place: a running container has this very file mounted.
            if std::fs::read_to_string(&path).ok().as_deref() != Some(&text) {
                write_with_mode(&path, &text, 0o644)?;
            }
            mounts.push(mount("/etc/hosts", &path));
        }
        let message_path = container::termination_message_path(spec);
        if !taken(message_path) {
            let directory = pod_dir.join("containers").join(&spec.name);
            std::fs::create_dir_all(&directory)?;
            let path = directory.join(format!("termination-{}", start.attempt));
            // Written by whatever user the container runs as.
            write_with_mode(&path, "", 0o666)?;
            mounts.push(mount(message_path, &path));
        }
        Ok(mounts)
    }

    async fn post_start(&mut self, pod: &Arc<Pod>, spec: &Container, id: &str, sandbox: &SandboxObservation) {
        let Some(handler) = spec
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.post_start.as_ref())
        else {
            return;
        };
        let context = self.context.clone();
        let ip = sandbox
            .ips
            .first()
            .and_then(|ip| ip.parse().ok())
            .or(context.host_ips().first().copied());
        let hook = hooks::run(&context.runtime, spec, id, handler, ip, POST_START_MAX);
        // A deletion does not wait for the hook.
        let mut desired = self.desired.clone();
        let deleted = desired.wait_for(|desired| match desired {
            Desired::Gone(_) => true,
            Desired::Present(pod) => pod.metadata.deletion_timestamp.is_some(),
        });
        let result = tokio::select! {
            result = hook => result,
            _ = deleted => return,
        };
        if let Err(error) = result {
            let message = format!("PostStartHook failed: {error}");
            context.recorder.container(
                pod,
                &spec.name,
                EventType::Warning,
                "FailedPostStartHook",
                message,
            );
            let kill = Kill {
                name: spec.name.clone(),
                id: id.to_owned(),
                reason: KillReason::SpecChanged,
                message: "FailedPostStartHook".into(),
            };
            self.stop(pod, &kill, grace_period(pod), &Observed::default());
        }
    }
}

/// What the runtime said, without the gRPC wrapping that `Error:` events do not carry either.
fn message_of(error: &RuntimeError) -> String {
    error.message.clone()
}

fn write_with_mode(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text)?;
    // After the fact, since the umask applies to creation.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

//! The door to containerd: CRI v1 over its unix socket.
//!
//! One lazily connected channel serves every call, so that a restarted containerd needs no action here: the next call
//! connects again. Nothing is cached; callers read what runs from here whenever they need it.

use std::{fmt, path::PathBuf, time::Duration};

use futures::future::BoxFuture;
use k8s_cri::v1::{
    self as cri, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::pod::{
    CONTAINER_NAME_LABEL, ContainerObservation, POD_NAME_LABEL, POD_NAMESPACE_LABEL, POD_UID_LABEL,
};

/// containerd answers image lists and exec output of up to 16 MiB, four times tonic's default limit.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Upstream's `runtimeRequestTimeout`: every call but a pull or a stop must answer within it.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// Stopping a sandbox or a container waits for processes; this is granted on top of the grace period.
const STOP_SLACK: Duration = Duration::from_secs(120);

/// A CRI call that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("rpc error: code = {} desc = {message}", CodeName(*.code))]
pub struct RuntimeError {
    /// The call, such as `RunPodSandbox`.
    pub operation: &'static str,
    /// The gRPC code.
    pub code: tonic::Code,
    /// containerd's words.
    pub message: String,
}

impl RuntimeError {
    /// The thing named does not exist (any more).
    pub fn is_not_found(&self) -> bool {
        self.code == tonic::Code::NotFound
    }

    /// containerd itself could not be reached.
    pub fn is_unreachable(&self) -> bool {
        self.code == tonic::Code::Unavailable
            || (self.code == tonic::Code::Unknown && self.message.contains("transport error"))
    }
}

/// gRPC codes as Go prints them, since users know them from there.
struct CodeName(tonic::Code);

impl fmt::Display for CodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            tonic::Code::Ok => f.write_str("OK"),
            tonic::Code::Cancelled => f.write_str("Canceled"),
            code => write!(f, "{code:?}"),
        }
    }
}

/// What a command run inside a container gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutcome {
    /// The command's exit code.
    pub exit_code: i32,
    /// Standard output followed by standard error, as upstream's probes join them.
    pub output: Vec<u8>,
}

/// Runs a command in a container and waits for it; what exec probes and hooks need of the runtime.
pub trait ExecSync: Send + Sync + 'static {
    /// Runs `command`. containerd kills it after `timeout` and answers `DeadlineExceeded`; zero means no timeout.
    fn exec_sync<'a>(
        &'a self,
        container_id: &'a str,
        command: &'a [String],
        timeout: Duration,
    ) -> BoxFuture<'a, Result<ExecOutcome, RuntimeError>>;
}

/// Handle of the container runtime. Cloning it is cheap and shares the connection.
#[derive(Clone, Debug)]
pub struct Runtime {
    channel: Channel,
    socket: PathBuf,
}

impl Runtime {
    /// A handle on the runtime listening on `socket`. Nothing is dialled before the first call.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        let socket = socket.into();
        let path = socket.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move {
                let stream = tokio::net::UnixStream::connect(path).await?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
            }
        });
        let channel = Endpoint::from_static("http://containerd").connect_with_connector_lazy(connector);
        Self { channel, socket }
    }

    /// The socket dialled.
    pub fn socket(&self) -> &std::path::Path {
        &self.socket
    }

    /// The gRPC channel, for containerd's services besides CRI.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Name and version of the runtime.
    pub async fn version(&self) -> Result<cri::VersionResponse, RuntimeError> {
        let request = within(CALL_TIMEOUT, cri::VersionRequest { version: "v1".into() });
        answer("Version", self.runtime().version(request).await)
    }

    /// RuntimeReady and NetworkReady.
    pub async fn status(&self) -> Result<cri::RuntimeStatus, RuntimeError> {
        let request = within(CALL_TIMEOUT, cri::StatusRequest { verbose: false });
        Ok(answer("Status", self.runtime().status(request).await)?
            .status
            .unwrap_or_default())
    }

    /// Makes and starts a sandbox, network included; its id.
    pub async fn run_pod_sandbox(
        &self,
        config: cri::PodSandboxConfig,
        runtime_handler: &str,
    ) -> Result<String, RuntimeError> {
        let request = cri::RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: runtime_handler.into(),
        };
        // Twice the usual time, as upstream grants it: network set-up happens inside.
        let request = within(CALL_TIMEOUT * 2, request);
        Ok(answer("RunPodSandbox", self.runtime().run_pod_sandbox(request).await)?.pod_sandbox_id)
    }

    /// Kills what is left in a sandbox and tears its network down. Repeating it is harmless.
    pub async fn stop_pod_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let request = within(
            CALL_TIMEOUT,
            cri::StopPodSandboxRequest {
                pod_sandbox_id: id.into(),
            },
        );
        unless_gone(answer(
            "StopPodSandbox",
            self.runtime().stop_pod_sandbox(request).await,
        ))
    }

    /// Forgets a stopped sandbox and its containers. Repeating it is harmless.
    pub async fn remove_pod_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let request = within(
            CALL_TIMEOUT,
            cri::RemovePodSandboxRequest {
                pod_sandbox_id: id.into(),
            },
        );
        unless_gone(answer(
            "RemovePodSandbox",
            self.runtime().remove_pod_sandbox(request).await,
        ))
    }

    /// Sandboxes of one pod, or of all.
    pub async fn list_pod_sandboxes(
        &self,
        pod_uid: Option<&str>,
    ) -> Result<Vec<cri::PodSandbox>, RuntimeError> {
        let filter = cri::PodSandboxFilter {
            label_selector: selector(pod_uid),
            ..Default::default()
        };
        let request = within(CALL_TIMEOUT, cri::ListPodSandboxRequest { filter: Some(filter) });
        Ok(answer("ListPodSandbox", self.runtime().list_pod_sandbox(request).await)?.items)
    }

    /// State and addresses of a sandbox.
    pub async fn pod_sandbox_status(&self, id: &str) -> Result<cri::PodSandboxStatus, RuntimeError> {
        let request = cri::PodSandboxStatusRequest {
            pod_sandbox_id: id.into(),
            verbose: false,
        };
        let request = within(CALL_TIMEOUT, request);
        let response = answer(
            "PodSandboxStatus",
            self.runtime().pod_sandbox_status(request).await,
        )?;
        response.status.ok_or_else(|| empty("PodSandboxStatus"))
    }

    /// Makes a container in a sandbox; its id.
    pub async fn create_container(
        &self,
        sandbox_id: &str,
        config: cri::ContainerConfig,
        sandbox: cri::PodSandboxConfig,
    ) -> Result<String, RuntimeError> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox_id.into(),
            config: Some(config),
            sandbox_config: Some(sandbox),
        };
        let request = within(CALL_TIMEOUT, request);
        Ok(answer("CreateContainer", self.runtime().create_container(request).await)?.container_id)
    }

    /// Starts a created container.
    pub async fn start_container(&self, id: &str) -> Result<(), RuntimeError> {
        let request = within(
            CALL_TIMEOUT,
            cri::StartContainerRequest {
                container_id: id.into(),
            },
        );
        answer("StartContainer", self.runtime().start_container(request).await).map(drop)
    }

    /// Sends the stop signal, and SIGKILL when `grace` is over. Returns when the container has ended.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        let seconds = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let request = cri::StopContainerRequest {
            container_id: id.into(),
            timeout: seconds,
        };
        let request = within(grace.saturating_add(STOP_SLACK), request);
        unless_gone(answer(
            "StopContainer",
            self.runtime().stop_container(request).await,
        ))
    }

    /// Forgets a container; a running one is killed. Repeating it is harmless.
    pub async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        let request = within(
            CALL_TIMEOUT,
            cri::RemoveContainerRequest {
                container_id: id.into(),
            },
        );
        unless_gone(answer(
            "RemoveContainer",
            self.runtime().remove_container(request).await,
        ))
    }

    /// Containers of one pod, or of all, dead ones included.
    pub async fn list_containers(&self, pod_uid: Option<&str>) -> Result<Vec<cri::Container>, RuntimeError> {
        let filter = cri::ContainerFilter {
            label_selector: selector(pod_uid),
            ..Default::default()
        };
        let request = within(CALL_TIMEOUT, cri::ListContainersRequest { filter: Some(filter) });
        Ok(answer("ListContainers", self.runtime().list_containers(request).await)?.containers)
    }

    /// Everything CRI knows about a container.
    pub async fn container_status(&self, id: &str) -> Result<cri::ContainerStatus, RuntimeError> {
        let request = cri::ContainerStatusRequest {
            container_id: id.into(),
            verbose: false,
        };
        let request = within(CALL_TIMEOUT, request);
        let response = answer("ContainerStatus", self.runtime().container_status(request).await)?;
        response.status.ok_or_else(|| empty("ContainerStatus"))
    }

    /// The containers that ran as `container` of a pod, the newest first. `log_path` of each names its log file.
    ///
    /// What the server needs for logs (also of the previous one) and exec.
    pub async fn containers_of(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
    ) -> Result<Vec<ContainerObservation>, RuntimeError> {
        let label_selector = [
            (POD_NAMESPACE_LABEL, namespace),
            (POD_NAME_LABEL, pod),
            (CONTAINER_NAME_LABEL, container),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        let filter = cri::ContainerFilter {
            label_selector,
            ..Default::default()
        };
        let request = within(CALL_TIMEOUT, cri::ListContainersRequest { filter: Some(filter) });
        let listed = answer("ListContainers", self.runtime().list_containers(request).await)?.containers;
        let mut containers = Vec::with_capacity(listed.len());
        for container in listed {
            match self.container_status(&container.id).await {
                Ok(status) => containers.push(ContainerObservation::new(status, container.pod_sandbox_id)),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        containers.sort_by_key(|container| std::cmp::Reverse((container.attempt, container.created_at)));
        Ok(containers)
    }

    /// Asks for a command in a container; the URL of the runtime's streaming server that runs it.
    pub async fn exec(&self, request: cri::ExecRequest) -> Result<String, RuntimeError> {
        let request = within(CALL_TIMEOUT, request);
        Ok(answer("Exec", self.runtime().exec(request).await)?.url)
    }

    /// Asks to be joined to a running container's streams; the URL of the runtime's streaming server.
    pub async fn attach(&self, request: cri::AttachRequest) -> Result<String, RuntimeError> {
        let request = within(CALL_TIMEOUT, request);
        Ok(answer("Attach", self.runtime().attach(request).await)?.url)
    }

    /// Asks for streams to ports of a sandbox; the URL of the runtime's streaming server.
    pub async fn port_forward(&self, request: cri::PortForwardRequest) -> Result<String, RuntimeError> {
        let request = within(CALL_TIMEOUT, request);
        Ok(answer("PortForward", self.runtime().port_forward(request).await)?.url)
    }

    /// What the runtime knows of an image, by any name or id; `None` when it is not present.
    pub async fn image_status(&self, image: &str) -> Result<Option<cri::Image>, RuntimeError> {
        let request = cri::ImageStatusRequest {
            image: Some(image_spec(image)),
            verbose: false,
        };
        let request = within(CALL_TIMEOUT, request);
        Ok(answer("ImageStatus", self.images().image_status(request).await)?.image)
    }

    /// Pulls an image; the reference it is known by. There is no time limit: the runtime has one for no progress.
    pub async fn pull_image(
        &self,
        image: &str,
        auth: Option<cri::AuthConfig>,
        sandbox: Option<cri::PodSandboxConfig>,
    ) -> Result<String, RuntimeError> {
        let request = cri::PullImageRequest {
            image: Some(image_spec(image)),
            auth,
            sandbox_config: sandbox,
        };
        Ok(answer("PullImage", self.images().pull_image(request).await)?.image_ref)
    }

    /// Every image present.
    pub async fn list_images(&self) -> Result<Vec<cri::Image>, RuntimeError> {
        let request = within(CALL_TIMEOUT, cri::ListImagesRequest::default());
        Ok(answer("ListImages", self.images().list_images(request).await)?.images)
    }
}

impl ExecSync for Runtime {
    fn exec_sync<'a>(
        &'a self,
        container_id: &'a str,
        command: &'a [String],
        timeout: Duration,
    ) -> BoxFuture<'a, Result<ExecOutcome, RuntimeError>> {
        Box::pin(async move {
            let seconds = i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX);
            let request = cri::ExecSyncRequest {
                container_id: container_id.into(),
                cmd: command.to_vec(),
                timeout: seconds,
            };
            let mut request = tonic::Request::new(request);
            if seconds > 0 {
                // containerd enforces the timeout; ours only bounds the wait for a hung containerd.
                request.set_timeout(timeout.saturating_add(Duration::from_secs(5)));
            }
            let response = answer("ExecSync", self.runtime().exec_sync(request).await)?;
            let mut output = response.stdout;
            output.extend_from_slice(&response.stderr);
            Ok(ExecOutcome {
                exit_code: response.exit_code,
                output,
            })
        })
    }
}

fn within<T>(timeout: Duration, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(timeout);
    request
}

fn answer<T>(
    operation: &'static str,
    response: Result<tonic::Response<T>, tonic::Status>,
) -> Result<T, RuntimeError> {
    response
        .map(tonic::Response::into_inner)
        .map_err(|status| RuntimeError {
            operation,
            code: status.code(),
            message: status.message().to_owned(),
        })
}

fn unless_gone<T>(result: Result<T, RuntimeError>) -> Result<(), RuntimeError> {
    match result {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

fn empty(operation: &'static str) -> RuntimeError {
    RuntimeError {
        operation,
        code: tonic::Code::Internal,
        message: "the runtime sent an empty answer".into(),
    }
}

fn selector(pod_uid: Option<&str>) -> std::collections::HashMap<String, String> {
    pod_uid
        .map(|uid| (POD_UID_LABEL.to_owned(), uid.to_owned()))
        .into_iter()
        .collect()
}

fn image_spec(image: &str) -> cri::ImageSpec {
    cri::ImageSpec {
        image: image.into(),
        user_specified_image: image.into(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_grpc_go_prints_them() {
        let error = RuntimeError {
            operation: "PullImage",
            code: tonic::Code::NotFound,
            message: "no such image".into(),
        };
        assert_eq!(
            error.to_string(),
            "rpc error: code = NotFound desc = no such image"
        );
        assert!(error.is_not_found());
    }

    #[tokio::test]
    async fn absent_socket_is_unreachable() {
        let runtime = Runtime::new("/nonexistent/containerd.sock");
        let error = runtime.status().await.expect_err("nothing listens there");
        assert!(error.is_unreachable(), "{error:?}");
    }
}

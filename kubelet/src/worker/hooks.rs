//! Lifecycle hooks: what runs in or against a container right after its start and before its end.

use std::{net::IpAddr, time::Duration};

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use crate::{
    probes,
    runtime::{ExecSync, Runtime},
};

/// A container's hook that failed. Displays as in upstream's events.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum HookError {
    /// A command that could not be run or ended badly.
    #[error("Exec lifecycle hook ({command:?}) for Container \"{container}\" failed - error: {error}")]
    Exec {
        /// The command.
        command: Vec<String>,
        /// The container's name.
        container: String,
        /// The runtime's words, or the exit code and the output.
        error: String,
    },
    /// A request that was not answered well.
    #[error("HTTP lifecycle hook for Container \"{container}\" failed - error: {error}")]
    HttpGet {
        /// The container's name.
        container: String,
        /// Why.
        error: String,
    },
}

/// Runs a handler; `timeout` bounds the whole of it.
pub(super) async fn run(
    runtime: &Runtime,
    container: &Container,
    container_id: &str,
    handler: &LifecycleHandler,
    pod_ip: Option<IpAddr>,
    timeout: Duration,
) -> Result<(), HookError> {
    if let Some(sleep) = &handler.sleep {
        let seconds = u64::try_from(sleep.seconds).unwrap_or_default();
        tokio::time::sleep(Duration::from_secs(seconds).min(timeout)).await;
    }
    if let Some(command) = handler.exec.as_ref().and_then(|exec| exec.command.as_ref()) {
        let failed = |error: String| HookError::Exec {
            command: command.clone(),
            container: container.name.clone(),
            error,
        };
        let outcome = runtime.exec_sync(container_id, command, timeout).await;
        let outcome = outcome.map_err(|error| failed(error.to_string()))?;
        if outcome.exit_code != 0 {
            let output = String::from_utf8_lossy(&outcome.output).into_owned();
            let code = outcome.exit_code;
            return Err(failed(format!("command exited with {code}, message: {output:?}")));
        }
    }
    if let Some(action) = &handler.http_get {
        let failed = |error: String| HookError::HttpGet {
            container: container.name.clone(),
            error,
        };
        let ip = pod_ip.ok_or_else(|| failed("the pod has no address".into()))?;
        let result = probes::http_get_once(action, container, ip, timeout).await;
        return result.map_err(failed);
    }
    Ok(())
}

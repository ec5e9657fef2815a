//! Looking at one pod through CRI.
//!
//! Dead containers and the addresses of a sandbox do not change any more, so they are asked for once and remembered
//! for as long as the runtime lists them.

use std::{
    cmp::Reverse,
    collections::HashMap,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use k8s_cri::v1 as cri;

use crate::{
    pod::{self, ContainerObservation, ContainerState, PodObservation, SandboxObservation},
    runtime::{Runtime, RuntimeError},
};

/// Upstream's limit of a termination message.
const MESSAGE_BYTES_MAX: u64 = 4096;
/// Upstream's limits of the log standing in for one.
const LOG_BYTES_MAX: u64 = 2048;
const LOG_LINES_MAX: usize = 80;

/// The eyes of one worker.
pub(super) struct Observer {
    runtime: Runtime,
    ended: HashMap<String, ContainerObservation>,
    sandboxes: HashMap<String, SandboxObservation>,
}

impl Observer {
    pub(super) fn new(runtime: Runtime) -> Self {
        Self {
            runtime,
            ended: HashMap::new(),
            sandboxes: HashMap::new(),
        }
    }

    /// Everything CRI knows of the pod now.
    pub(super) async fn observe(&mut self, pod_uid: &str) -> Result<PodObservation, RuntimeError> {
        let (sandboxes, containers) = tokio::try_join!(
            self.runtime.list_pod_sandboxes(Some(pod_uid)),
            self.runtime.list_containers(Some(pod_uid)),
        )?;
        let mut seen_sandboxes = Vec::with_capacity(sandboxes.len());
        for sandbox in sandboxes {
            seen_sandboxes.extend(self.sandbox(sandbox).await?);
        }
        seen_sandboxes.sort_by_key(|sandbox| Reverse((sandbox.created_at, sandbox.attempt)));
        let mut seen_containers = Vec::with_capacity(containers.len());
        for container in containers {
            seen_containers.extend(self.container(container).await?);
        }
        seen_containers.sort_by_key(|container| Reverse((container.created_at, container.attempt)));
        self.ended
            .retain(|id, _| seen_containers.iter().any(|container| container.id == *id));
        self.sandboxes
            .retain(|id, _| seen_sandboxes.iter().any(|sandbox| sandbox.id == *id));
        Ok(PodObservation {
            sandboxes: seen_sandboxes,
            containers: seen_containers,
        })
    }

    async fn sandbox(&mut self, listed: cri::PodSandbox) -> Result<Option<SandboxObservation>, RuntimeError> {
        let ready = listed.state == i32::from(cri::PodSandboxState::SandboxReady);
        if let Some(known) = self.sandboxes.get(&listed.id)
            && known.ready == ready
        {
            return Ok(Some(known.clone()));
        }
        let status = match self.runtime.pod_sandbox_status(&listed.id).await {
            Err(error) if error.is_not_found() => return Ok(None),
            status => status?,
        };
        let network = status
            .linux
            .and_then(|linux| linux.namespaces)
            .and_then(|namespaces| namespaces.options)
            .map(|options| options.network);
        let ips = status.network.map(|network| {
            let more = network.additional_ips.into_iter().map(|ip| ip.ip);
            std::iter::once(network.ip)
                .chain(more)
                .filter(|ip| !ip.is_empty())
                .collect()
        });
        let sandbox = SandboxObservation {
            attempt: listed
                .metadata
                .map(|metadata| metadata.attempt)
                .unwrap_or_default(),
            created_at: pod::timestamp(listed.created_at),
            ready,
            host_network: network == Some(cri::NamespaceMode::Node.into()),
            ips: ips.unwrap_or_default(),
            id: listed.id,
        };
        self.sandboxes.insert(sandbox.id.clone(), sandbox.clone());
        Ok(Some(sandbox))
    }

    async fn container(
        &mut self,
        listed: cri::Container,
    ) -> Result<Option<ContainerObservation>, RuntimeError> {
        if let Some(known) = self.ended.get(&listed.id) {
            return Ok(Some(known.clone()));
        }
        let status = match self.runtime.container_status(&listed.id).await {
            Err(error) if error.is_not_found() => return Ok(None),
            status => status?,
        };
        let mut container = ContainerObservation::new(status, listed.pod_sandbox_id);
        if container.state == ContainerState::Exited {
            add_termination_message(&mut container);
            self.ended.insert(container.id.clone(), container.clone());
        }
        Ok(Some(container))
    }
}

/// The message a container has left behind joins the runtime's.
fn add_termination_message(container: &mut ContainerObservation) {
    let written = container
        .termination_message_path
        .as_deref()
        .and_then(|path| head(path, MESSAGE_BYTES_MAX));
    let mut message = written.unwrap_or_default();
    if message.is_empty() && container.message_falls_back_to_logs && container.exit_code != 0 {
        message = tail(&container.log_path)
            .map(|text| log_lines(&text))
            .unwrap_or_default();
    }
    if message.is_empty() {
        return;
    }
    if !container.message.is_empty() {
        container.message.push_str(": ");
    }
    container.message.push_str(&message);
}

fn head(path: &Path, bytes_max: u64) -> Option<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .ok()?
        .take(bytes_max)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn tail(path: &Path) -> Option<String> {
    // Twice the limit, since each line carries its time and stream.
    let mut file = std::fs::File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(2 * LOG_BYTES_MAX)))
        .ok()?;
    let mut bytes = Vec::new();
    file.take(2 * LOG_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The content of CRI log lines (`time stream tag content`), as much of the end as a message may have.
fn log_lines(text: &str) -> String {
    let mut content = String::new();
    let lines: Vec<&str> = text.lines().collect();
    for line in &lines[lines.len().saturating_sub(LOG_LINES_MAX)..] {
        let mut parts = line.splitn(4, ' ');
        let (Some(_), Some("stdout" | "stderr"), Some(tag)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        content.push_str(parts.next().unwrap_or_default());
        if tag == "F" {
            content.push('\n');
        }
    }
    let mut start = content
        .len()
        .saturating_sub(usize::try_from(LOG_BYTES_MAX).unwrap_or(usize::MAX));
    while !content.is_char_boundary(start) {
        start += 1;
    }
    content.split_off(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_of_log_lines() {
        let text = "cut off line\n\
            2026-01-01T00:00:00.000000000Z stdout F first line\n\
            2026-01-01T00:00:00.000000000Z stderr P half \n\
            2026-01-01T00:00:00.000000000Z stderr F and half\n";
        assert_eq!(log_lines(text), "first line\nhalf and half\n");
        let long = format!("t stdout F {}\n", "x".repeat(5000));
        assert_eq!(log_lines(&long).len(), 2048);
    }
}

//! What CRI is told about a pod as a whole: the configuration of its sandbox. Pure.

mod dns;
mod hosts;

use std::{collections::HashMap, path::Path};

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::Pod;

pub use dns::{Dns, ResolvConf};
pub use hosts::hosts_file;

use crate::pod::{self, POD_NAME_LABEL, POD_NAMESPACE_LABEL, POD_UID_LABEL};

/// Linux allows no longer host names.
const HOST_NAME_BYTES_MAX: usize = 63;

/// What a sandbox's configuration depends on besides the pod.
pub struct Node<'a> {
    /// Directory of all pods' logs.
    pub pod_logs_dir: &'a Path,
    /// The pod's cgroup.
    pub cgroup_parent: String,
    /// The name of the node.
    pub node_name: &'a str,
    /// The cluster's domain.
    pub cluster_domain: &'a str,
    /// The pod's resolver configuration.
    pub dns: Dns,
}

/// The configuration of a pod's sandbox.
pub fn sandbox_config(pod: &Pod, attempt: u32, node: &Node<'_>) -> cri::PodSandboxConfig {
    let spec = pod.spec.clone().unwrap_or_default();
    let mut labels: HashMap<String, String> = pod
        .metadata
        .labels
        .clone()
        .unwrap_or_default()
        .into_iter()
        .collect();
    labels.extend(pod_labels(pod));
    let hostname = if pod::uses_host_network(pod) {
        String::new()
    } else {
        host_names(pod, node.node_name, node.cluster_domain).0
    };
    let port_mappings = spec
        .containers
        .iter()
        .flat_map(|container| container.ports.iter().flatten())
        .filter(|_| !pod::uses_host_network(pod))
        .map(|port| cri::PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => cri::Protocol::Udp.into(),
                Some("SCTP") => cri::Protocol::Sctp.into(),
                _ => cri::Protocol::Tcp.into(),
            },
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or_default(),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
        .collect();
    let security = spec.security_context.unwrap_or_default();
    let privileged = pod::all_containers(pod).any(|container| {
        container
            .security_context
            .as_ref()
            .and_then(|context| context.privileged)
            .unwrap_or_default()
    });
    let sysctls = security
        .sysctls
        .iter()
        .flatten()
        .map(|sysctl| (sysctl.name.clone(), sysctl.value.clone()))
        .collect();
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: pod::name(pod).into(),
            uid: pod::uid(pod).into(),
            namespace: pod::namespace(pod).into(),
            attempt,
        }),
        hostname,
        log_directory: pod::log_directory(node.pod_logs_dir, pod)
            .to_string_lossy()
            .into_owned(),
        dns_config: Some(cri::DnsConfig {
            servers: node.dns.servers.clone(),
            searches: node.dns.searches.clone(),
            options: node.dns.options.clone(),
        }),
        port_mappings,
        labels,
        annotations: pod
            .metadata
            .annotations
            .clone()
            .unwrap_or_default()
            .into_iter()
            .collect(),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: node.cgroup_parent.clone(),
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(namespace_options(pod)),
                run_as_user: security.run_as_user.map(|value| cri::Int64Value { value }),
                run_as_group: security.run_as_group.map(|value| cri::Int64Value { value }),
                supplemental_groups: supplemental_groups(pod),
                privileged,
                seccomp: Some(cri::SecurityProfile {
                    profile_type: cri::security_profile::ProfileType::RuntimeDefault.into(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            sysctls,
            ..Default::default()
        }),
        windows: None,
    }
}

/// The labels by which sandboxes and containers of a pod are found.
pub fn pod_labels(pod: &Pod) -> [(String, String); 3] {
    [
        (POD_NAME_LABEL.into(), pod::name(pod).into()),
        (POD_NAMESPACE_LABEL.into(), pod::namespace(pod).into()),
        (POD_UID_LABEL.into(), pod::uid(pod).into()),
    ]
}

/// Which namespaces are the node's, which the pod's, which the container's own.
pub fn namespace_options(pod: &Pod) -> cri::NamespaceOption {
    let spec = pod.spec.as_ref();
    let host = |wanted: Option<bool>| match wanted {
        Some(true) => cri::NamespaceMode::Node.into(),
        _ => cri::NamespaceMode::Pod.into(),
    };
    let shares_processes = spec
        .and_then(|spec| spec.share_process_namespace)
        .unwrap_or_default();
    cri::NamespaceOption {
        network: host(spec.and_then(|spec| spec.host_network)),
        ipc: host(spec.and_then(|spec| spec.host_ipc)),
        pid: match (
            spec.and_then(|spec| spec.host_pid).unwrap_or_default(),
            shares_processes,
        ) {
            (true, _) => cri::NamespaceMode::Node.into(),
            (false, true) => cri::NamespaceMode::Pod.into(),
            (false, false) => cri::NamespaceMode::Container.into(),
        },
        ..Default::default()
    }
}

/// The groups every process of the pod gets besides its own.
pub fn supplemental_groups(pod: &Pod) -> Vec<i64> {
    let Some(security) = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()) else {
        return Vec::new();
    };
    security
        .fs_group
        .into_iter()
        .chain(security.supplemental_groups.iter().flatten().copied())
        .collect()
}

/// A pod's host name, and its domain when it has a subdomain.
pub fn host_names(pod: &Pod, node_name: &str, cluster_domain: &str) -> (String, Option<String>) {
    let spec = pod.spec.as_ref();
    if pod::uses_host_network(pod) {
        return (node_name.to_owned(), None);
    }
    if let Some(name) = spec.and_then(|spec| spec.hostname_override.clone()) {
        return (name, None);
    }
    let given = spec
        .and_then(|spec| spec.hostname.clone())
        .filter(|name| !name.is_empty());
    let hostname = given.unwrap_or_else(|| {
        let mut name = pod::name(pod);
        if name.len() > HOST_NAME_BYTES_MAX {
            name = name[..HOST_NAME_BYTES_MAX].trim_end_matches(['-', '.']);
        }
        name.to_owned()
    });
    let subdomain = spec
        .and_then(|spec| spec.subdomain.as_deref())
        .filter(|subdomain| !subdomain.is_empty());
    let domain =
        subdomain.map(|subdomain| format!("{subdomain}.{}.svc.{cluster_domain}", pod::namespace(pod)));
    let qualified = spec
        .and_then(|spec| spec.set_hostname_as_fqdn)
        .unwrap_or_default();
    match domain {
        Some(domain) if qualified => (format!("{hostname}.{domain}"), Some(domain)),
        domain => (hostname, domain),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodSpec;

    use super::*;

    fn pod(spec: PodSpec) -> Pod {
        let mut pod = Pod {
            spec: Some(spec),
            ..Default::default()
        };
        pod.metadata.name = Some("web-0".into());
        pod.metadata.namespace = Some("shop".into());
        pod
    }

    #[test]
    fn names() {
        let rows = [
            (PodSpec::default(), ("web-0", None)),
            (
                PodSpec {
                    hostname: Some("db".into()),
                    ..Default::default()
                },
                ("db", None),
            ),
            (
                PodSpec {
                    subdomain: Some("peers".into()),
                    ..Default::default()
                },
                ("web-0", Some("peers.shop.svc.cluster.local")),
            ),
            (
                PodSpec {
                    host_network: Some(true),
                    ..Default::default()
                },
                ("node1", None),
            ),
        ];
        for (spec, (hostname, domain)) in rows {
            let names = host_names(&pod(spec), "node1", "cluster.local");
            assert_eq!((names.0.as_str(), names.1.as_deref()), (hostname, domain));
        }
        let mut long = pod(PodSpec::default());
        long.metadata.name = Some(format!("{}-rest", "a".repeat(62)));
        assert_eq!(host_names(&long, "n", "d").0, "a".repeat(62));
    }
}

//! Flags and KubeletConfiguration, checked into one value. Every mistake is reported, each under its own name.

mod file;
pub(crate) mod fuzzing;

use std::{
    collections::BTreeMap,
    net::{IpAddr, ToSocketAddrs, UdpSocket},
    path::PathBuf,
    time::Duration,
};

use clap::Parser;
use k8s_openapi::api::core::v1::Taint;

pub use file::{FileConfig, parse_duration};

/// Command line of the kubelet, under upstream's names.
#[derive(Debug, Parser)]
#[command(name = "kubelet", version, about = "The Orlop node agent")]
pub struct Flags {
    /// File with a KubeletConfiguration (kubelet.config.k8s.io/v1beta1).
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Kubeconfig with which to reach the API server.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Name of the Node object instead of the host name.
    #[arg(long, value_name = "NAME")]
    pub hostname_override: Option<String>,
    /// Address of the node, or one of each family, separated by a comma.
    #[arg(long, value_name = "IP[,IP]")]
    pub node_ip: Option<String>,
    /// Directory of everything the kubelet keeps.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kubelet")]
    pub root_dir: PathBuf,
    /// Labels of the Node object when it is registered: key=value,…
    #[arg(long, value_name = "LABELS")]
    pub node_labels: Option<String>,
    /// Taints of the Node object when it is registered: key=value:Effect,…
    #[arg(long, value_name = "TAINTS")]
    pub register_with_taints: Option<String>,
    /// Socket of the container runtime; the configuration file's field wins.
    #[arg(long, value_name = "unix:///PATH")]
    pub container_runtime_endpoint: Option<String>,
    /// Cgroup below which the pods' cgroups are made; the configuration file's field wins.
    #[arg(long, value_name = "PATH")]
    pub cgroup_root: Option<String>,
}

/// Mistakes in flags or in the configuration file, all of them.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigErrors(pub Vec<String>);

/// What the kubelet runs by.
#[derive(Debug, Clone)]
pub struct Config {
    /// Kubeconfig file.
    pub kubeconfig: PathBuf,
    /// Name of the Node object.
    pub node_name: String,
    /// Addresses of the node, the primary one first.
    pub node_ips: Vec<IpAddr>,
    /// Directory of everything the kubelet keeps.
    pub root_dir: PathBuf,
    /// Labels to register with.
    pub node_labels: BTreeMap<String, String>,
    /// Taints to register with.
    pub register_with_taints: Vec<Taint>,
    /// Socket of the container runtime.
    pub runtime_socket: PathBuf,
    /// The configuration file's fields, defaults filled in.
    pub file: FileConfig,
}

impl Config {
    /// Checks flags and reads the configuration file they name.
    pub fn load(flags: &Flags) -> Result<Self, ConfigErrors> {
        let mut errors = Vec::new();
        let mut file = match &flags.config {
            None => FileConfig::default(),
            Some(path) => match std::fs::read_to_string(path) {
                Err(error) => {
                    errors.push(format!("--config: {}: {error}", path.display()));
                    FileConfig::default()
                }
                Ok(text) => file::parse(&text).unwrap_or_else(|mistakes| {
                    errors.extend(
                        mistakes
                            .into_iter()
                            .map(|mistake| format!("{}: {mistake}", path.display())),
                    );
                    FileConfig::default()
                }),
            },
        };
        if let Some(root) = &flags.cgroup_root
            && file.cgroup_root == FileConfig::default().cgroup_root
        {
            file.cgroup_root.clone_from(root);
        }
        if let Some(endpoint) = &flags.container_runtime_endpoint
            && file.container_runtime_endpoint == FileConfig::default().container_runtime_endpoint
        {
            file.container_runtime_endpoint.clone_from(endpoint);
        }
        let runtime_socket = match file.container_runtime_endpoint.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') => PathBuf::from(path),
            _ => {
                errors.push(format!(
                    "containerRuntimeEndpoint: {:?} is not of the form unix:///path/to/socket",
                    file.container_runtime_endpoint
                ));
                PathBuf::new()
            }
        };
        let kubeconfig = flags.kubeconfig.clone().unwrap_or_else(|| {
            errors.push("--kubeconfig: required, this kubelet has no standalone mode".into());
            PathBuf::new()
        });
        let node_name = flags.hostname_override.clone().unwrap_or_else(host_name);
        if !is_dns_subdomain(&node_name) {
            errors.push(format!(
                "--hostname-override: {node_name:?} is no node name: lower case letters, digits, '-' and '.' are allowed"
            ));
        }
        let node_ips = parse_node_ips(flags.node_ip.as_deref(), &mut errors);
        let node_labels = parse_labels(flags.node_labels.as_deref(), &mut errors);
        let register_with_taints = parse_taints(flags.register_with_taints.as_deref(), &mut errors);
        if !errors.is_empty() {
            return Err(ConfigErrors(errors));
        }
        Ok(Self {
            kubeconfig,
            node_name: node_name.to_lowercase(),
            node_ips,
            root_dir: flags.root_dir.clone(),
            node_labels,
            register_with_taints,
            runtime_socket,
            file,
        })
    }

    /// Finds the node's address when none was given: the one from which the API server is reached.
    pub fn complete_node_ips(&mut self, api_server: &http::Uri) -> Result<(), String> {
        if !self.node_ips.is_empty() {
            return Ok(());
        }
        let host = api_server.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = api_server.port_u16().unwrap_or(443);
        let source = (host, port)
            .to_socket_addrs()
            .ok()
            .and_then(|mut addresses| addresses.next())
            .and_then(|address| {
                let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any).ok()?;
                socket.connect(address).ok()?;
                Some(socket.local_addr().ok()?.ip())
            });
        match source {
            Some(ip) => {
                self.node_ips.push(ip);
                Ok(())
            }
            None => Err(format!("no route to the API server {api_server}: set --node-ip")),
        }
    }

    /// How often a change of the node's condition is looked for.
    pub fn node_status_update_frequency(&self) -> Duration {
        self.file.node_status_update_frequency
    }
}

fn host_name() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_default()
        .to_lowercase()
}

fn is_dns_subdomain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
}

fn parse_node_ips(text: Option<&str>, errors: &mut Vec<String>) -> Vec<IpAddr> {
    let mut ips: Vec<IpAddr> = Vec::new();
    for part in text.into_iter().flat_map(|text| text.split(',')) {
        match part.trim().parse() {
            Ok(ip) => ips.push(ip),
            Err(_) => errors.push(format!("--node-ip: {part:?} is no IP address")),
        }
    }
    let families = ips.iter().filter(|ip| ip.is_ipv4()).count();
    if ips.len() > 2 || (ips.len() == 2 && families != 1) {
        errors.push("--node-ip: at most one address of each family".into());
    }
    ips
}

fn parse_labels(text: Option<&str>, errors: &mut Vec<String>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for part in text
        .into_iter()
        .flat_map(|text| text.split(','))
        .filter(|part| !part.is_empty())
    {
        match part.split_once('=') {
            Some((key, value)) if !key.is_empty() => {
                labels.insert(key.trim().to_owned(), value.trim().to_owned());
            }
            _ => errors.push(format!("--node-labels: {part:?} is not key=value")),
        }
    }
    labels
}

fn parse_taints(text: Option<&str>, errors: &mut Vec<String>) -> Vec<Taint> {
    let mut taints = Vec::new();
    for part in text
        .into_iter()
        .flat_map(|text| text.split(','))
        .filter(|part| !part.is_empty())
    {
        let taint = part.rsplit_once(':').map(|(key_value, effect)| {
            let (key, value) = match key_value.split_once('=') {
                Some((key, value)) => (key, Some(value.to_owned())),
                None => (key_value, None),
            };
            Taint {
                key: key.into(),
                value,
                effect: effect.into(),
                time_added: None,
            }
        });
        match taint {
            Some(taint)
                if !taint.key.is_empty()
                    && ["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&taint.effect.as_str()) =>
            {
                taints.push(taint);
            }
            _ => errors.push(format!(
                "--register-with-taints: {part:?} is not key=value:Effect with NoSchedule, PreferNoSchedule or NoExecute"
            )),
        }
    }
    taints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(args: &[&str]) -> Result<Config, ConfigErrors> {
        let flags = Flags::try_parse_from([&["kubelet"], args].concat()).expect("flags parse");
        Config::load(&flags)
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let error = load(&[
            "--hostname-override=Not_A_Name",
            "--node-ip=10.0.0.1,10.0.0.2",
            "--node-labels=novalue",
            "--register-with-taints=a=b:Never",
            "--container-runtime-endpoint=tcp://1.2.3.4",
        ])
        .expect_err("five mistakes and a missing flag");
        let text = error.to_string();
        for flag in [
            "--kubeconfig",
            "--hostname-override",
            "--node-ip",
            "--node-labels",
            "--register-with-taints",
            "containerRuntimeEndpoint",
        ] {
            assert!(text.contains(flag), "{flag} is missing from:\n{text}");
        }
    }

    #[test]
    fn flags_become_config() {
        let config = load(&[
            "--kubeconfig=/k",
            "--hostname-override=node1",
            "--node-ip=172.31.0.11,fd00:31::11",
            "--node-labels=zone=a,disk=ssd",
            "--register-with-taints=dedicated=db:NoSchedule",
            "--cgroup-root=/orlop/node1",
        ])
        .expect("a good command line");
        assert_eq!(config.node_ips.len(), 2);
        assert_eq!(config.node_labels["disk"], "ssd");
        assert_eq!(config.register_with_taints[0].effect, "NoSchedule");
        assert_eq!(config.file.cgroup_root, "/orlop/node1");
        assert_eq!(
            config.runtime_socket,
            PathBuf::from("/run/containerd/containerd.sock")
        );
    }
}

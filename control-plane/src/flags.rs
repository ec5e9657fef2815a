//! The command line, under upstream's flag names.

mod snapshot;
mod store;

use std::{net::IpAddr, path::PathBuf, time::Duration};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

pub(crate) use self::{
    snapshot::{RestoreFlags, SaveFlags, SnapshotCommand},
    store::StoreFlags,
};

/// The Kubernetes control plane in one process: API server, scheduler and controllers over an embedded store.
#[derive(Debug, Parser)]
#[command(name = "control-plane", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) apiserver: ApiServerFlags,
    #[command(flatten)]
    pub(crate) controller_manager: ControllerManagerFlags,
}

/// One part alone, or a tool.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Only the API server.
    Apiserver(Box<ApiServerFlags>),
    /// Only the scheduler, against any API server.
    Scheduler(ClientFlags),
    /// Only the controllers, against any API server.
    ControllerManager {
        #[command(flatten)]
        client: ClientFlags,
        #[command(flatten)]
        flags: ControllerManagerFlags,
    },
    /// Saves, restores and examines all that the API server stores.
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
}

#[derive(Debug, Args)]
pub(crate) struct ClientFlags {
    /// How to reach the API server.
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ApiServerFlags {
    #[command(flatten)]
    pub(crate) store: StoreFlags,
    /// The address to listen on.
    #[arg(long, value_name = "IP", default_value = "0.0.0.0")]
    pub(crate) bind_address: IpAddr,
    /// The port to listen on.
    #[arg(long, value_name = "PORT", default_value_t = 6443)]
    pub(crate) secure_port: u16,
    /// The address under which nodes and pods reach the API server.
    #[arg(long, value_name = "IP")]
    pub(crate) advertise_address: Option<IpAddr>,
    /// The certificates that client certificates are checked against.
    #[arg(long, value_name = "FILE")]
    pub(crate) client_ca_file: Option<PathBuf>,
    /// The serving certificate, with its intermediates.
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_cert_file: Option<PathBuf>,
    /// The serving certificate's key.
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_private_key_file: Option<PathBuf>,
    /// The issuer of service-account tokens.
    #[arg(
        long,
        value_name = "URL",
        default_value = "https://kubernetes.default.svc.cluster.local"
    )]
    pub(crate) service_account_issuer: String,
    /// The key that signs service-account tokens (EC P-256).
    #[arg(long, value_name = "FILE")]
    pub(crate) service_account_signing_key_file: Option<PathBuf>,
    /// Keys that verify service-account tokens, beside the signing key; may be repeated.
    #[arg(long, value_name = "FILE")]
    pub(crate) service_account_key_file: Vec<PathBuf>,
    /// Whether a pod's token for this server that a kubelet asks for is good for a year, while the kubelet renews it after an hour.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) service_account_extend_token_expiration: bool,
    /// The ranges that ClusterIPs are taken from, one for each address family; the first is the default family.
    #[arg(
        long,
        value_name = "CIDR[,CIDR]",
        value_delimiter = ',',
        default_value = "10.96.0.0/16,fd00:10:96::/112"
    )]
    pub(crate) service_cluster_ip_range: Vec<String>,
    /// The certificate shown to kubelets.
    #[arg(long, value_name = "FILE")]
    pub(crate) kubelet_client_certificate: Option<PathBuf>,
    /// The key of the certificate shown to kubelets.
    #[arg(long, value_name = "FILE")]
    pub(crate) kubelet_client_key: Option<PathBuf>,
    /// The certificates that kubelets' serving certificates are checked against.
    #[arg(long, value_name = "FILE")]
    pub(crate) kubelet_certificate_authority: Option<PathBuf>,
    /// How many requests that change nothing are answered at the same time; 0 for no limit. Others wait.
    #[arg(long, value_name = "COUNT", default_value_t = 400)]
    pub(crate) max_requests_inflight: usize,
    /// How many requests that change something are answered at the same time; 0 for no limit. Others wait.
    #[arg(long, value_name = "COUNT", default_value_t = 200)]
    pub(crate) max_mutating_requests_inflight: usize,
    /// A request that is no stream is answered within this time.
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = duration)]
    pub(crate) request_timeout: Duration,
    /// How likely an HTTP/2 request has its connection closed for a new one, from 0 to 0.02; for several servers behind a
    /// balancer.
    #[arg(long, value_name = "CHANCE", default_value_t = 0.0)]
    pub(crate) goaway_chance: f64,
    /// How long requests are still served when the server was told to stop, while /readyz says no already.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    pub(crate) shutdown_delay_duration: Duration,
}

impl ApiServerFlags {
    pub(crate) fn config(&self) -> apiserver::Config {
        apiserver::Config {
            bind_address: self.bind_address,
            secure_port: self.secure_port,
            advertise_address: self.advertise_address,
            client_ca_file: self.client_ca_file.clone(),
            tls_cert_file: self.tls_cert_file.clone(),
            tls_private_key_file: self.tls_private_key_file.clone(),
            service_account_issuer: self.service_account_issuer.clone(),
            service_account_signing_key_file: self.service_account_signing_key_file.clone(),
            service_account_key_file: self.service_account_key_file.clone(),
            service_account_extend_token_expiration: self.service_account_extend_token_expiration,
            service_cluster_ip_range: self.service_cluster_ip_range.clone(),
            kubelet_client_certificate: self.kubelet_client_certificate.clone(),
            kubelet_client_key: self.kubelet_client_key.clone(),
            kubelet_certificate_authority: self.kubelet_certificate_authority.clone(),
            max_requests_inflight: self.max_requests_inflight,
            max_mutating_requests_inflight: self.max_mutating_requests_inflight,
            request_timeout: self.request_timeout,
            goaway_chance: self.goaway_chance,
            shutdown_delay_duration: self.shutdown_delay_duration,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ControllerManagerFlags {
    /// The certificates published in every namespace as ConfigMap kube-root-ca.crt.
    #[arg(long, value_name = "FILE")]
    pub(crate) root_ca_file: Option<PathBuf>,
    /// The ranges that pods' addresses come from, one for each address family.
    #[arg(
        long,
        value_name = "CIDR[,CIDR]",
        value_delimiter = ',',
        default_value = "10.244.0.0/16,fd00:10:244::/56"
    )]
    pub(crate) cluster_cidr: Vec<String>,
    /// The prefix length of each node's share of the IPv4 range.
    #[arg(long, value_name = "BITS", default_value_t = 24)]
    pub(crate) node_cidr_mask_size_ipv4: u8,
    /// The prefix length of each node's share of the IPv6 range.
    #[arg(long, value_name = "BITS", default_value_t = 64)]
    pub(crate) node_cidr_mask_size_ipv6: u8,
    /// A node that has not renewed its Lease for so long is not ready.
    #[arg(long, value_name = "DURATION", default_value = "40s", value_parser = duration)]
    pub(crate) node_monitor_grace_period: Duration,
}

impl ControllerManagerFlags {
    /// The controllers' configuration; `service_ranges` are never given to nodes.
    pub(crate) fn config(&self, service_ranges: &[String]) -> anyhow::Result<controllers::Config> {
        let root_ca = match &self.root_ca_file {
            Some(path) => {
                std::fs::read_to_string(path).with_context(|| format!("--root-ca-file {}", path.display()))?
            }
            None => String::new(),
        };
        Ok(controllers::Config {
            root_ca,
            cluster_cidrs: cidrs("cluster-cidr", &self.cluster_cidr)?,
            service_cluster_ip_ranges: cidrs("service-cluster-ip-range", service_ranges)?,
            node_cidr_mask_size_ipv4: self.node_cidr_mask_size_ipv4,
            node_cidr_mask_size_ipv6: self.node_cidr_mask_size_ipv6,
            node_monitor_grace_period: self.node_monitor_grace_period,
            ..controllers::Config::default()
        })
    }
}

fn cidrs(flag: &str, texts: &[String]) -> anyhow::Result<Vec<controllers::Cidr>> {
    let parse = |text: &String| text.trim().parse().with_context(|| format!("--{flag} {text}"));
    texts.iter().map(parse).collect()
}

/// Go's duration notation, as far as flags need it: `40s`, `1m30s`, `500ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is not a duration such as 40s or 1m30s");
    // As in Go, only nothing at all needs no unit.
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 0.001,
                _ => return Err(bad()),
            };
        rest = &rest[unit..];
    }
    if text.is_empty() {
        Err(bad())
    } else {
        Duration::try_from_secs_f64(total).map_err(|_| bad())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("40s", 40_000),
            ("1m30s", 90_000),
            ("500ms", 500),
            ("1h", 3_600_000),
            ("0", 0),
        ] {
            assert_eq!(duration(text).unwrap().as_millis(), millis, "{text}");
        }
        for text in ["", "40", "s", "4x", "-1s", "99999999999999999999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn flags_are_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}

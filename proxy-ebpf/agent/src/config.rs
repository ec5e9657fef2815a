//! KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1), the file of `--config`.
//!
//! Every field of upstream's is known, so that a cluster's existing ConfigMap can be given to this agent. Those that only
//! concern another way of proxying are accepted and named in a warning; what upstream does not know either is an error that
//! names the field. All mistakes are reported at once. Pure.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use serde_json::{Map, Value};
use thiserror::Error;

use crate::{node::plan::Cidr, node_ports::NodePortAddresses};

mod fields;
#[cfg(test)]
mod tests;

use fields::{FIELDS, Field, Kind};

const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
const KIND: &str = "KubeProxyConfiguration";
/// The modes of kube-proxy on Linux, all of which mean this agent's one way of proxying.
const MODES: [&str; 5] = ["", "ebpf", "iptables", "ipvs", "nftables"];

const HEALTHZ_PORT: u16 = 10256;
const METRICS_PORT: u16 = 10249;

/// What the file says, with upstream's defaults where it says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyConfiguration {
    /// `clientConnection.kubeconfig`; `None`: the service account of the pod.
    pub kubeconfig: Option<PathBuf>,
    /// `hostnameOverride`; `None`: the host name is the Node's.
    pub hostname_override: Option<String>,
    /// `healthzBindAddress`; `None`: an empty text, nothing listens.
    pub healthz_bind_address: Option<SocketAddr>,
    /// `metricsBindAddress`; `None`: an empty text, nothing listens.
    pub metrics_bind_address: Option<SocketAddr>,
    /// `bindAddressHardFail`: whether the agent ends when it cannot listen, instead of trying again.
    pub bind_address_hard_fail: bool,
    /// `nodePortAddresses`.
    pub node_port_addresses: NodePortAddresses,
    /// `oomScoreAdj`; `None`: as it is.
    pub oom_score_adj: Option<i32>,
    /// `logging.verbosity`: from 4 on, decisions are logged too.
    pub verbosity: u32,
    /// What is set in the file and has no effect, a sentence each.
    pub warnings: Vec<String>,
}

/// All mistakes in the file.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{}", .0.join("; "))]
pub struct ConfigurationError(pub Vec<String>);

impl ProxyConfiguration {
    /// Reads the file's text, which is YAML or JSON.
    pub fn parse(text: &str) -> Result<Self, ConfigurationError> {
        let value: Value =
            serde_saphyr::from_str(text).map_err(|error| ConfigurationError(vec![error.to_string()]))?;
        let Value::Object(object) = value else {
            return Err(ConfigurationError(vec![format!(
                "the file does not hold a {KIND} object"
            )]));
        };
        let mut reader = Reader::default();
        reader.walk("", &object);
        let configuration = reader.read(&object);
        if reader.errors.is_empty() {
            Ok(Self {
                warnings: reader.warnings,
                ..configuration
            })
        } else {
            Err(ConfigurationError(reader.errors))
        }
    }
}

#[derive(Default)]
struct Reader {
    errors: Vec<String>,
    warnings: Vec<String>,
}

impl Reader {
    /// Checks that every field below `prefix` is known and of its kind.
    fn walk(&mut self, prefix: &str, object: &Map<String, Value>) {
        for (name, value) in object {
            let path = format!("{prefix}{name}");
            let section = format!("{path}.");
            if let Some(field) = FIELDS.iter().find(|field| field.path == path) {
                self.check(field, value);
            } else if FIELDS.iter().any(|field| field.path.starts_with(&section)) {
                match value {
                    Value::Object(inner) => self.walk(&section, inner),
                    Value::Null => {}
                    _ => self.errors.push(format!("{path}: an object is needed")),
                }
            } else {
                self.errors.push(format!("{path}: unknown field"));
            }
        }
    }

    fn check(&mut self, field: &Field, value: &Value) {
        if let Err(needed) = field.kind.check(value) {
            self.errors.push(format!("{}: {needed} is needed", field.path));
        } else if !is_empty(value)
            && let Some(reason) = field.without_effect
        {
            self.warnings
                .push(format!("{} has no effect: {reason}", field.path));
        }
    }

    /// Reads what has an effect. What `walk` has found to be of another kind reads as absent.
    fn read(&mut self, object: &Map<String, Value>) -> ProxyConfiguration {
        let at = |path: &str| {
            let mut names = path.split('.');
            let first = object.get(names.next()?)?;
            names.try_fold(first, |value, name| value.get(name))
        };
        let text = |path| at(path).and_then(Value::as_str).unwrap_or_default();
        for (path, wanted) in [("apiVersion", API_VERSION), ("kind", KIND)] {
            if text(path) != wanted {
                self.errors.push(format!("{path}: {wanted} is needed"));
            }
        }
        let mode = text("mode");
        if !MODES.contains(&mode) {
            self.errors.push(format!(
                "mode: {mode:?} is none of those of Linux: {}",
                MODES[1..].join(", ")
            ));
        } else if !["", "ebpf"].contains(&mode) {
            self.warnings.push(format!(
                "mode {mode} has no effect: Services are always proxied by eBPF"
            ));
        }
        let cidrs = text("clusterCIDR").split(',').filter(|cidr| !cidr.is_empty());
        for cidr in cidrs.filter(|cidr| cidr.trim().parse::<Cidr>().is_err()) {
            self.errors.push(format!("clusterCIDR: {cidr:?} is no network"));
        }
        let bind = self.bind_address(text("bindAddress"));
        let optional = |path| Some(text(path)).filter(|text| !text.is_empty());
        let addresses = at("nodePortAddresses")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        let addresses: Vec<_> = addresses.filter_map(Value::as_str).collect();
        let node_port_addresses = addresses.join(",").parse().unwrap_or_else(|error| {
            self.errors.push(format!("nodePortAddresses: {error}"));
            NodePortAddresses::default()
        });
        let oom_score_adj = at("oomScoreAdj").and_then(Value::as_i64);
        if oom_score_adj.is_some_and(|score| !(-1000..=1000).contains(&score)) {
            self.errors
                .push("oomScoreAdj: a number from -1000 to 1000 is needed".to_owned());
        }
        let unspecified = if bind.is_ipv6() { "::" } else { "0.0.0.0" };
        let loopback = if bind.is_ipv6() { "::1" } else { "127.0.0.1" };
        ProxyConfiguration {
            kubeconfig: optional("clientConnection.kubeconfig").map(PathBuf::from),
            hostname_override: optional("hostnameOverride").map(str::to_owned),
            healthz_bind_address: self.listen(
                "healthzBindAddress",
                at("healthzBindAddress"),
                unspecified,
                HEALTHZ_PORT,
            ),
            metrics_bind_address: self.listen(
                "metricsBindAddress",
                at("metricsBindAddress"),
                loopback,
                METRICS_PORT,
            ),
            bind_address_hard_fail: at("bindAddressHardFail")
                .and_then(Value::as_bool)
                .unwrap_or_default(),
            node_port_addresses,
            oom_score_adj: oom_score_adj.and_then(|score| score.try_into().ok()),
            verbosity: at("logging.verbosity")
                .and_then(Value::as_u64)
                .map_or(0, |verbosity| verbosity.try_into().unwrap_or(u32::MAX)),
            warnings: Vec::new(),
        }
    }

    /// Upstream binds nothing to it; only its family matters here.
    fn bind_address(&mut self, text: &str) -> IpAddr {
        let unspecified = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        if text.is_empty() {
            return unspecified;
        }
        text.parse().unwrap_or_else(|_| {
            self.errors
                .push(format!("bindAddress: {text:?} is no IP address"));
            unspecified
        })
    }

    /// An address with or without a port, or nothing.
    fn listen(&mut self, path: &str, value: Option<&Value>, default: &str, port: u16) -> Option<SocketAddr> {
        // Absent and empty differ: kube-proxy's defaults are for what is absent, and kubeadm writes empty texts for those.
        let text = value
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
            .unwrap_or(default);
        let with_port = || text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, port));
        match text.parse().or_else(|_| with_port()) {
            Ok(address) => Some(address),
            Err(_) => {
                self.errors
                    .push(format!("{path}: {text:?} is no address such as 0.0.0.0:{port}"));
                None
            }
        }
    }
}

impl Kind {
    /// What would be needed, if `value` is not of this kind. Nothing is needed of null, which stands for absent.
    fn check(self, value: &Value) -> Result<(), &'static str> {
        let all_texts = |values: &Vec<Value>| values.iter().all(Value::is_string);
        let all_bools = |values: &Map<String, Value>| values.values().all(Value::is_boolean);
        let (fits, needed) = match self {
            Self::Text => (value.is_string(), "a text"),
            Self::Bool => (value.is_boolean(), "true or false"),
            Self::Integer => (value.is_i64() || value.is_u64(), "a whole number"),
            Self::Number => (value.is_number(), "a number"),
            Self::Duration => (
                value.as_str().is_some_and(is_duration),
                "a duration such as \"30s\" or \"1h30m\"",
            ),
            Self::Texts => (value.as_array().is_some_and(all_texts), "a list of texts"),
            Self::Gates => (
                value.as_object().is_some_and(all_bools),
                "an object of true and false",
            ),
            Self::Anything => (true, ""),
        };
        if fits || value.is_null() {
            Ok(())
        } else {
            Err(needed)
        }
    }
}

/// Go's notation: numbers, each with its unit, or a lone zero.
fn is_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix('-').unwrap_or(text);
    if rest == "0" {
        return true;
    }
    let mut parts = 0;
    while !rest.is_empty() {
        let after = rest.trim_start_matches(|character: char| character.is_ascii_digit() || character == '.');
        let units = ["ns", "us", "µs", "ms", "s", "m", "h"];
        let unit = units
            .iter()
            .filter(|unit| after.starts_with(**unit))
            .max_by_key(|unit| unit.len());
        let Some(unit) = unit.filter(|_| after.len() < rest.len()) else {
            return false;
        };
        rest = &after[unit.len()..];
        parts += 1;
    }
    parts > 0
}

/// Whether a value says as much as its absence: kubeadm writes every field out, most of them like this.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty() || text == "0s",
        Value::Array(values) => values.is_empty(),
        Value::Object(values) => values.values().all(is_empty),
    }
}

//! What the runtime asks for one pod: `runtimeConfig`, of which it passes what the configuration's `capabilities` name, and
//! `args.cni`, which is meant to be overruled by it. Pure.
//!
//! The fields are those of the specification's CONVENTIONS.md. `aliases` would need a name service of the network's own, and
//! `ipRanges`, `infinibandGUID`, `deviceID` and `cgroupPath` say nothing to this plugin: they are passed over, as the
//! conventions ask of a plugin that does not have a capability.

use std::net::IpAddr;

use serde_json::{Map, Value};

use crate::wiring::Mac;

/// The capabilities that this plugin has, as one pod uses them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RuntimeConfig {
    /// `portMappings` with a host port. They are not this plugin's to make, see [`crate::config::Network::host_ports`].
    pub port_mappings: Vec<PortMapping>,
    /// `bandwidth` of traffic to the pod.
    pub ingress: Option<Shape>,
    /// `bandwidth` of traffic from the pod.
    pub egress: Option<Shape>,
    /// `ips`: the addresses that the pod wants, at most one per family.
    pub ips: Vec<IpAddr>,
    /// `mac` of the pod's interface.
    pub mac: Option<Mac>,
    /// `dns`, in the form of a result.
    pub dns: Option<Value>,
}

/// A port of the node that leads to a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortMapping {
    /// On the node.
    pub host_port: u16,
    /// In the pod.
    pub container_port: u16,
}

/// A token bucket: how fast packets may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Bytes per second in the long run.
    pub rate_bytes: u64,
    /// Bytes that may pass at once after a pause.
    pub burst_bytes: u32,
}

impl RuntimeConfig {
    /// Takes `runtimeConfig` and `args` out of the configuration and adds what is wrong with them to `problems`.
    pub(crate) fn take(fields: &mut Map<String, Value>, problems: &mut Vec<String>) -> Self {
        let mut args = match fields.remove("args") {
            Some(Value::Object(mut args)) => match args.remove("cni") {
                Some(Value::Object(cni)) => cni,
                _ => Map::new(),
            },
            _ => Map::new(),
        };
        let mut runtime = match fields.remove("runtimeConfig") {
            Some(Value::Object(runtime)) => runtime,
            None | Some(Value::Null) => Map::new(),
            Some(_) => {
                problems.push("runtimeConfig: must be an object".to_owned());
                Map::new()
            }
        };
        let mut reader = Reader { problems };
        let bandwidth = runtime.remove("bandwidth").unwrap_or_default();
        RuntimeConfig {
            port_mappings: reader.port_mappings(runtime.remove("portMappings").unwrap_or_default()),
            ingress: reader.shape(&bandwidth, "ingress"),
            egress: reader.shape(&bandwidth, "egress"),
            ips: match runtime.remove("ips") {
                Some(ips) => reader.ips("runtimeConfig.ips", &ips),
                None => reader.ips("args.cni.ips", &args.remove("ips").unwrap_or_default()),
            },
            mac: match runtime.remove("mac") {
                Some(mac) => reader.mac("runtimeConfig.mac", &mac),
                None => reader.mac("args.cni.mac", &args.remove("mac").unwrap_or_default()),
            },
            dns: reader.dns(runtime.remove("dns").unwrap_or_default()),
        }
    }
}

/// A member of an object by its name, in whatever case: containerd writes `IngressRate` and `HostPort`, and plugins in Go
/// do not tell that from what the conventions have.
fn member<'v>(object: &'v Value, name: &str) -> &'v Value {
    let members = object.as_object();
    let found = members.and_then(|members| members.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)));
    found.map_or(&Value::Null, |(_, value)| value)
}

struct Reader<'a> {
    problems: &'a mut Vec<String>,
}

impl Reader<'_> {
    /// The elements of a list; none if there is nothing.
    fn list<'v>(&mut self, field: &str, value: &'v Value) -> &'v [Value] {
        match value {
            Value::Array(elements) => elements,
            Value::Null => &[],
            _ => {
                self.problems.push(format!("{field}: must be a list"));
                &[]
            }
        }
    }

    fn port_mappings(&mut self, value: Value) -> Vec<PortMapping> {
        let mut mappings = Vec::new();
        for (index, entry) in self.list("runtimeConfig.portMappings", &value).iter().enumerate() {
            let number = |name: &str| member(entry, name).as_u64();
            let port = |name: &str| number(name).and_then(|port| u16::try_from(port).ok());
            match (port("hostPort").unwrap_or(0), port("containerPort")) {
                // Runtimes pass container ports without a host port too.
                (0, _) if number("hostPort").is_none_or(|port| port == 0) => {}
                (host_port @ 1.., Some(container_port @ 1..)) => mappings.push(PortMapping {
                    host_port,
                    container_port,
                }),
                _ => self.problems.push(format!(
                    "runtimeConfig.portMappings[{index}]: hostPort and containerPort must be numbers from 1 to 65535"
                )),
            }
        }
        mappings
    }

    /// `<direction>Rate` in bits per second and `<direction>Burst` in bits.
    fn shape(&mut self, bandwidth: &Value, direction: &str) -> Option<Shape> {
        let mut number = |name: &str| {
            let value = member(bandwidth, &format!("{direction}{name}"));
            let number = value.as_u64();
            if number.is_none() && !value.is_null() {
                self.problems.push(format!(
                    "runtimeConfig.bandwidth.{direction}{name}: {value} must be a number of bits"
                ));
            }
            number.unwrap_or(0)
        };
        let (rate, burst) = (number("Rate"), number("Burst"));
        match (rate / 8, u32::try_from(burst / 8)) {
            (0, Ok(0)) => None,
            (rate_bytes @ 1.., Ok(burst_bytes @ 1..)) => Some(Shape {
                rate_bytes,
                burst_bytes,
            }),
            _ => {
                self.problems.push(format!(
                    "runtimeConfig.bandwidth: {direction}Rate and {direction}Burst belong together, are at least 8 bits, \
                     and a burst is less than 4 GiB"
                ));
                None
            }
        }
    }

    /// Addresses, with or without the prefix that the network has for them anyway.
    fn ips(&mut self, field: &str, value: &Value) -> Vec<IpAddr> {
        let mut ips: Vec<IpAddr> = Vec::new();
        for (index, entry) in self.list(field, value).iter().enumerate() {
            let text = entry.as_str().unwrap_or_default();
            let address = text.split('/').next().unwrap_or_default();
            match address.parse::<IpAddr>() {
                Ok(ip) if ips.iter().any(|other| other.is_ipv6() == ip.is_ipv6()) => self.problems.push(
                    format!("{field}[{index}]: {ip} is a second address of its family"),
                ),
                Ok(ip) => ips.push(ip),
                Err(_) => self
                    .problems
                    .push(format!("{field}[{index}]: {entry} is not an address")),
            }
        }
        ips
    }

    fn mac(&mut self, field: &str, value: &Value) -> Option<Mac> {
        if value.is_null() || value.as_str() == Some("") {
            return None;
        }
        let mac = value.as_str().and_then(|text| text.parse::<Mac>().ok());
        if mac.is_none() {
            self.problems.push(format!(
                "{field}: {value} must be a unicast Ethernet address such as 02:00:5e:10:00:01"
            ));
        }
        mac
    }

    /// From the names of the capability to those of a result.
    fn dns(&mut self, value: Value) -> Option<Value> {
        if !value.is_object() {
            if !value.is_null() {
                self.problems
                    .push("runtimeConfig.dns: must be an object".to_owned());
            }
            return None;
        }
        let mut dns = Map::new();
        for (from, to) in [
            ("servers", "nameservers"),
            ("searches", "search"),
            ("options", "options"),
        ] {
            let field = format!("runtimeConfig.dns.{from}");
            let entries = self.list(&field, member(&value, from));
            if !entries.iter().all(Value::is_string) {
                self.problems.push(format!("{field}: must be a list of strings"));
            } else if !entries.is_empty() {
                dns.insert(to.to_owned(), entries.to_vec().into());
            }
        }
        (!dns.is_empty()).then_some(Value::Object(dns))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn take(config: Value) -> (RuntimeConfig, Vec<String>) {
        let Value::Object(mut fields) = config else {
            panic!("{config}")
        };
        let mut problems = Vec::new();
        let config = RuntimeConfig::take(&mut fields, &mut problems);
        (config, problems)
    }

    #[test]
    fn every_capability_is_read() {
        let (config, problems) = take(json!({
            "args": {"cni": {"ips": ["10.9.9.9"], "labels": []}},
            "runtimeConfig": {
                "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""},
                                 {"hostPort": 0, "containerPort": 443, "protocol": "tcp"}],
                "bandwidth": {"ingressRate": 8_000_000, "ingressBurst": 80_000, "egressRate": 0},
                "ips": ["10.244.0.50/24", "fd00::50"],
                "mac": "02:00:5E:10:00:01",
                "dns": {"servers": ["10.96.0.10"], "searches": ["svc"], "options": []},
                "aliases": ["web"],
            },
        }));
        assert_eq!(problems, Vec::<String>::new());
        let expected = RuntimeConfig {
            port_mappings: vec![PortMapping {
                host_port: 8080,
                container_port: 80,
            }],
            ingress: Some(Shape {
                rate_bytes: 1_000_000,
                burst_bytes: 10_000,
            }),
            egress: None,
            ips: vec!["10.244.0.50".parse().unwrap(), "fd00::50".parse().unwrap()],
            mac: Some(Mac([2, 0, 0x5e, 0x10, 0, 1])),
            dns: Some(json!({"nameservers": ["10.96.0.10"], "search": ["svc"]})),
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn containerds_spelling_is_understood() {
        let (config, problems) = take(json!({"runtimeConfig": {
            "portMappings": [{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}],
            "bandwidth": {"IngressRate": 800, "IngressBurst": u32::MAX, "EgressRate": 0, "EgressBurst": 0},
            "dns": {"Servers": ["10.96.0.10"], "Searches": null, "Options": null},
        }}));
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(config.port_mappings.len(), 1);
        assert_eq!(config.ingress.map(|shape| shape.rate_bytes), Some(100));
        assert_eq!(config.dns, Some(json!({"nameservers": ["10.96.0.10"]})));
    }

    #[test]
    fn arguments_are_used_when_the_runtime_says_nothing() {
        let (config, problems) =
            take(json!({"args": {"cni": {"ips": ["10.9.9.9"], "mac": "02:00:5e:10:00:02"}}}));
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(config.ips, ["10.9.9.9".parse::<IpAddr>().unwrap()]);
        assert_eq!(config.mac, Some(Mac([2, 0, 0x5e, 0x10, 0, 2])));
        assert_eq!(take(json!({})).0, RuntimeConfig::default());
    }

    #[test]
    fn mistakes_name_the_field() {
        for (runtime, expect) in [
            (json!([]), "runtimeConfig: must be an object"),
            (
                json!({"portMappings": {}}),
                "runtimeConfig.portMappings: must be a list",
            ),
            (
                json!({"portMappings": [{"hostPort": 70000, "containerPort": 80}]}),
                "runtimeConfig.portMappings[0]: hostPort",
            ),
            (
                json!({"portMappings": [{"hostPort": 80}]}),
                "runtimeConfig.portMappings[0]: hostPort",
            ),
            (
                json!({"bandwidth": {"ingressRate": "fast"}}),
                "runtimeConfig.bandwidth.ingressRate: \"fast\"",
            ),
            (
                json!({"bandwidth": {"egressRate": 800}}),
                "egressRate and egressBurst belong together",
            ),
            (
                json!({"bandwidth": {"egressRate": 800, "egressBurst": 1_u64 << 36}}),
                "a burst is less than 4 GiB",
            ),
            (
                json!({"ips": ["web"]}),
                "runtimeConfig.ips[0]: \"web\" is not an address",
            ),
            (
                json!({"ips": ["10.0.0.1", "10.0.0.2"]}),
                "runtimeConfig.ips[1]: 10.0.0.2 is a second",
            ),
            (
                json!({"mac": "01:00:5e:00:00:01"}),
                "runtimeConfig.mac: \"01:00:5e:00:00:01\" must be",
            ),
            (json!({"mac": 5}), "runtimeConfig.mac: 5"),
            (
                json!({"dns": {"servers": "x"}}),
                "runtimeConfig.dns.servers: must be a list",
            ),
            (
                json!({"dns": {"servers": [5]}}),
                "runtimeConfig.dns.servers: must be a list of strings",
            ),
        ] {
            let (_, problems) = take(json!({ "runtimeConfig": runtime }));
            assert!(
                problems.iter().any(|problem| problem.contains(expect)),
                "{expect}: {problems:?}"
            );
        }
    }
}

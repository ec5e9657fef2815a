//! The network configuration on stdin.
//!
//! Fields that the plugin does not know are left alone: runtimes add their own (`runtimeConfig`, `cni.dev/…`), and
//! `args` is free-form. A field that it does know is checked, and all mistakes are reported at once.

use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::netlink::PairKind;
use crate::range::Range;
use crate::request::{AttachmentId, is_container_id};
use crate::result::Version;
use crate::runtime_config::RuntimeConfig;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not JSON, or no JSON object.
    #[error("cannot be decoded: {reason}")]
    Decode {
        /// The parser's words.
        reason: String,
    },
    /// `cniVersion` is one that this plugin does not speak.
    #[error("cniVersion {version:?} is not supported; supported: {}", Version::ALL.map(Version::as_str).join(", "))]
    IncompatibleVersion {
        /// What was asked for.
        version: String,
    },
    /// A field asks for something that this plugin does not do.
    #[error("{field}: {reason}")]
    Unsupported {
        /// The field, with its value.
        field: String,
        /// Who could do it.
        reason: &'static str,
    },
    /// Fields are missing or wrong; each entry names one.
    #[error("{}", .0.join("; "))]
    Invalid(Vec<String>),
}

/// What every verb needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The version in which results are written.
    pub version: Version,
    /// Which plugin the runtime believes to run.
    pub kind: Kind,
    /// The result of the plugins before this one in the chain, in `version`'s form.
    pub prev_result: Option<Value>,
}

/// The `type` of the configuration.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Our own network.
    Orlop(Box<Network>),
    /// `loopback`: containerd before 2.0 asks a plugin of this name to raise `lo` in every sandbox and starts none
    /// without it, so the binary answers to that name too.
    Loopback,
}

/// The fields of a network of type `orlop-cni`.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    /// `name`: keeps the records of several networks apart.
    pub name: String,
    /// `dataDir`: where the records are.
    pub data_dir: PathBuf,
    /// `mtu` of both ends of the pair.
    pub mtu: u32,
    /// `ranges`: at most one per address family.
    pub ranges: Vec<Range>,
    /// `device`: what the pod's pair of devices is made of.
    pub pair: PairChoice,
    /// `hostPorts`: who opens the host ports of pods. The plugin opens none itself: it would need a packet filter's rules, or
    /// programs of its own, for what the data plane has a table for.
    pub host_ports: HostPorts,
    /// `dns` for results, unless the runtime says something else.
    pub dns: Option<Value>,
    /// What the runtime wants for this pod.
    pub runtime: RuntimeConfig,
    /// `cni.dev/valid-attachments`, present for GC only.
    pub valid_attachments: Option<Vec<AttachmentId>>,
}

/// The field `device`. Pods keep what they were given: both kinds may be on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// `veth`.
    Veth,
    /// `netkit`: a kernel that has none is an error.
    Netkit,
    /// `auto`, also when the field is absent: netkit where the kernel has it, else veth.
    ///
    /// It is veth too where the configuration does not declare the capability `bandwidth`. Limits are left to another plugin of the
    /// chain then, and the reference plugin for that looks for the other end of a veth and fails when there is none.
    Auto,
}

impl DeviceKind {
    /// What a pod gets. `limits_bandwidth`: the configuration declares that capability.
    pub fn choice(self, limits_bandwidth: bool) -> PairChoice {
        let (wanted, otherwise) = match self {
            Self::Netkit => (PairKind::Netkit, None),
            Self::Auto if limits_bandwidth => (PairKind::Netkit, Some(PairKind::Veth)),
            Self::Veth | Self::Auto => (PairKind::Veth, None),
        };
        PairChoice { wanted, otherwise }
    }
}

/// What a pod's pair of devices is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairChoice {
    /// What is tried first.
    pub wanted: PairKind,
    /// What is made where the kernel does not have that; `None`: nothing, the pod cannot be attached.
    pub otherwise: Option<PairKind>,
}

/// Who opens the host ports of pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostPorts {
    /// Nobody whom this plugin knows of.
    Nobody,
    /// `proxy-ebpf`, which reads them from the pods of its node and writes this when it writes the configuration.
    ProxyEbpf,
}

/// How much of the configuration must be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Everything.
    All,
    /// Only what is needed to undo: a mistake made in `ranges` or `mtu` after ADD must not keep pods from ending.
    Teardown,
}

/// The default of `mtu`: Ethernet's.
const DEFAULT_MTU: u32 = 1500;

impl Config {
    /// Decodes and checks a configuration.
    ///
    /// # Errors
    /// [`Error`], which lists every wrong field.
    pub fn parse(bytes: &[u8], need: Need) -> Result<Self, Error> {
        let value: Value = serde_json::from_slice(bytes).map_err(|error| Error::Decode {
            reason: error.to_string(),
        })?;
        let Value::Object(fields) = value else {
            return Err(Error::Decode {
                reason: "it is not a JSON object".to_owned(),
            });
        };
        let version = Self::version(&fields)?;
        let mut reader = Reader {
            fields,
            problems: Vec::new(),
        };
        let kind = match reader.string("type").as_deref() {
            Some("loopback") => Kind::Loopback,
            Some("orlop-cni") => Kind::Orlop(Box::new(reader.network(need))),
            Some(other) => {
                reader
                    .problems
                    .push(format!("type: {other:?} must be \"orlop-cni\" or \"loopback\""));
                Kind::Loopback
            }
            None => Kind::Loopback,
        };
        let prev_result = match reader.fields.remove("prevResult") {
            None | Some(Value::Null) => None,
            Some(result @ Value::Object(_)) => Some(result),
            // Nothing is undone by it.
            Some(_) if need == Need::Teardown => None,
            Some(_) => {
                reader.problems.push("prevResult: must be an object".to_owned());
                None
            }
        };
        if let Kind::Orlop(network) = &kind
            && let (HostPorts::Nobody, [mapping, ..]) = (network.host_ports, &*network.runtime.port_mappings)
        {
            return Err(Error::Unsupported {
                field: format!("runtimeConfig.portMappings: hostPort {}", mapping.host_port),
                reason: "host ports are opened by proxy-ebpf, which did not write this configuration; without it, remove \
                         the capability portMappings here and chain a plugin that has it, such as portmap",
            });
        }
        // Taking addresses of our own where somebody has asked for another plugin's would be the worse surprise.
        let ipam = reader.fields.get("ipam").and_then(|ipam| ipam.get("type"));
        if let (Kind::Orlop(_), Need::All, Some(ipam)) = (&kind, need, ipam) {
            return Err(Error::Unsupported {
                field: format!("ipam.type: {ipam}"),
                reason: "this plugin gives addresses of its own ranges and calls no other for them; remove ipam, or chain \
                         another plugin in its place",
            });
        }
        if reader.problems.is_empty() {
            Ok(Config {
                version,
                kind,
                prev_result,
            })
        } else {
            Err(Error::Invalid(reader.problems))
        }
    }

    /// The `cniVersion` as it was written, for VERSION, which answers whatever is asked; `None` if there is none.
    pub fn requested_version(bytes: &[u8]) -> Option<String> {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        Some(value.get("cniVersion")?.as_str()?.to_owned())
    }

    fn version(fields: &Map<String, Value>) -> Result<Version, Error> {
        match fields.get("cniVersion") {
            Some(Value::String(text)) => Version::parse(text).ok_or_else(|| Error::IncompatibleVersion {
                version: text.clone(),
            }),
            Some(_) => Err(Error::Invalid(vec!["cniVersion: must be a string".to_owned()])),
            None => Err(Error::Invalid(vec!["cniVersion: is required".to_owned()])),
        }
    }
}

/// Takes fields out of the object and collects what is wrong with them.
struct Reader {
    fields: Map<String, Value>,
    problems: Vec<String>,
}

impl Reader {
    fn network(&mut self, need: Need) -> Network {
        let name = self.string("name").unwrap_or_default();
        if !name.is_empty() && !is_container_id(&name) {
            self.problems.push(format!(
                "name: {name:?} must start with a letter or digit and go on with letters, digits, '_', '.' or '-'"
            ));
        }
        let data_dir = PathBuf::from(self.string("dataDir").unwrap_or_default());
        if data_dir.is_relative() && !data_dir.as_os_str().is_empty() {
            self.problems
                .push(format!("dataDir: {data_dir:?} must be an absolute path"));
        }
        let valid_attachments = self.valid_attachments();
        let mut network = Network {
            name,
            data_dir,
            mtu: DEFAULT_MTU,
            ranges: Vec::new(),
            pair: DeviceKind::Auto.choice(false),
            host_ports: HostPorts::Nobody,
            dns: None,
            runtime: RuntimeConfig::default(),
            valid_attachments,
        };
        if need == Need::All {
            network.ranges = self.ranges();
            network.mtu = self.mtu(network.ranges.iter().any(Range::is_ipv6));
            network.host_ports = self.host_ports();
            network.pair = self.device().choice(self.limits_bandwidth());
            network.dns = match self.fields.remove("dns") {
                None | Some(Value::Null) => None,
                Some(dns @ Value::Object(_)) => Some(dns),
                Some(_) => {
                    self.problems.push("dns: must be an object".to_owned());
                    None
                }
            };
            network.runtime = RuntimeConfig::take(&mut self.fields, &mut self.problems);
            for ip in &network.runtime.ips {
                if !network.ranges.iter().any(|range| range.is_allocatable(*ip)) {
                    self.problems
                        .push(format!("ips: {ip} is not an address that ranges has for pods"));
                }
            }
        }
        network
    }

    fn host_ports(&mut self) -> HostPorts {
        match self.fields.remove("hostPorts") {
            None => HostPorts::Nobody,
            Some(Value::String(who)) if who == "proxy-ebpf" => HostPorts::ProxyEbpf,
            Some(other) => {
                self.problems
                    .push(format!("hostPorts: {other} must be \"proxy-ebpf\" or absent"));
                HostPorts::Nobody
            }
        }
    }

    fn device(&mut self) -> DeviceKind {
        match self.fields.remove("device") {
            None => DeviceKind::Auto,
            Some(Value::String(kind)) if kind == "veth" => DeviceKind::Veth,
            Some(Value::String(kind)) if kind == "netkit" => DeviceKind::Netkit,
            Some(Value::String(kind)) if kind == "auto" => DeviceKind::Auto,
            Some(other) => {
                self.problems.push(format!(
                    "device: {other} must be \"veth\", \"netkit\" or \"auto\""
                ));
                DeviceKind::Auto
            }
        }
    }

    /// Whether the runtime is asked to hand this plugin the limits of pods. The field is the runtime's, which has checked it.
    fn limits_bandwidth(&self) -> bool {
        let declared = self
            .fields
            .get("capabilities")
            .and_then(|capabilities| capabilities.get("bandwidth"));
        declared == Some(&Value::Bool(true))
    }

    fn string(&mut self, field: &str) -> Option<String> {
        match self.fields.remove(field) {
            Some(Value::String(text)) if !text.is_empty() => return Some(text),
            Some(Value::String(_)) | None => self.problems.push(format!("{field}: is required")),
            Some(_) => self.problems.push(format!("{field}: must be a string")),
        }
        None
    }

    fn ranges(&mut self) -> Vec<Range> {
        let entries = match self.fields.remove("ranges") {
            Some(Value::Array(entries)) if !entries.is_empty() => entries,
            Some(Value::Array(_)) | None => {
                self.problems
                    .push("ranges: at least one CIDR is required".to_owned());
                return Vec::new();
            }
            Some(_) => {
                self.problems.push("ranges: must be a list of CIDRs".to_owned());
                return Vec::new();
            }
        };
        let mut ranges: Vec<Range> = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            match entry
                .as_str()
                .ok_or_else(|| "must be a string".to_owned())
                .and_then(str::parse::<Range>)
            {
                Ok(range) if ranges.iter().any(|other| other.is_ipv6() == range.is_ipv6()) => {
                    let family = if range.is_ipv6() { "IPv6" } else { "IPv4" };
                    self.problems
                        .push(format!("ranges[{index}]: {range} is a second {family} range"));
                }
                Ok(range) => ranges.push(range),
                Err(reason) => self.problems.push(format!("ranges[{index}]: {reason}")),
            }
        }
        ranges
    }

    fn mtu(&mut self, ipv6: bool) -> u32 {
        // The least that each protocol must be able to carry, and the most that a veth takes.
        let (least, most) = (if ipv6 { 1280 } else { 68 }, 65535);
        match self.fields.remove("mtu") {
            None => DEFAULT_MTU,
            Some(value) => match value.as_u64() {
                Some(mtu) if (least..=most).contains(&mtu) => mtu as u32,
                _ => {
                    self.problems
                        .push(format!("mtu: {value} must be a number from {least} to {most}"));
                    DEFAULT_MTU
                }
            },
        }
    }

    fn valid_attachments(&mut self) -> Option<Vec<AttachmentId>> {
        const FIELD: &str = "cni.dev/valid-attachments";
        let value = self.fields.remove(FIELD)?;
        let parsed = value.as_array().and_then(|entries| {
            entries
                .iter()
                .map(|entry| {
                    Some(AttachmentId {
                        container_id: entry.get("containerID")?.as_str()?.to_owned(),
                        ifname: entry.get("ifname")?.as_str()?.to_owned(),
                    })
                })
                .collect::<Option<Vec<_>>>()
        });
        if parsed.is_none() {
            self.problems.push(format!(
                "{FIELD}: must be a list of objects with containerID and ifname"
            ));
        }
        parsed
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn valid() -> Value {
        json!({"cniVersion": "1.0.0", "name": "orlop", "type": "orlop-cni", "dataDir": "/d", "mtu": 1400,
               "ranges": ["10.244.0.0/24", "fd00:10:244::/64"], "runtimeConfig": {"x": 1}, "args": [], "unknown": 5})
    }

    fn problem(field: &str, value: Value) -> String {
        let mut config = valid();
        config[field] = value;
        Config::parse(config.to_string().as_bytes(), Need::All)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn pods_get_netkit_unless_another_plugin_may_need_a_veth() {
        use PairKind::{Netkit, Veth};
        let declared = json!({"bandwidth": true, "mac": true});
        for (device, capabilities, wanted, otherwise) in [
            (None, declared.clone(), Netkit, Some(Veth)),
            (Some("auto"), declared.clone(), Netkit, Some(Veth)),
            // Who writes that the limits are for another plugin gets what the reference plugin can limit.
            (None, json!({}), Veth, None),
            (None, json!({"bandwidth": false}), Veth, None),
            (Some("auto"), json!({"mac": true}), Veth, None),
            (Some("auto"), json!([]), Veth, None),
            // Asked for by name.
            (Some("veth"), declared.clone(), Veth, None),
            (Some("netkit"), declared, Netkit, None),
            (Some("netkit"), json!({}), Netkit, None),
        ] {
            let mut config = valid();
            if let Some(device) = device {
                config["device"] = device.into();
            }
            config["capabilities"] = capabilities.clone();
            let read = Config::parse(config.to_string().as_bytes(), Need::All).unwrap();
            let Kind::Orlop(network) = read.kind else {
                panic!("{config}")
            };
            assert_eq!(network.pair, PairChoice { wanted, otherwise }, "{config}");
        }
    }

    #[test]
    fn a_valid_configuration_is_read_and_unknown_fields_are_left_alone() {
        let config = Config::parse(valid().to_string().as_bytes(), Need::All).unwrap();
        let Kind::Orlop(network) = config.kind else {
            panic!("{config:?}")
        };
        assert_eq!(network.mtu, 1400);
        assert_eq!(network.ranges.len(), 2);
        assert_eq!(network.data_dir, PathBuf::from("/d"));
    }

    #[test]
    fn wrong_fields_are_named() {
        for (field, value, expect) in [
            ("name", json!(""), "name: is required"),
            ("name", json!("../x"), "name: \"../x\" must start"),
            (
                "dataDir",
                json!("relative"),
                "dataDir: \"relative\" must be an absolute path",
            ),
            ("dataDir", json!(3), "dataDir: must be a string"),
            (
                "mtu",
                json!("big"),
                "mtu: \"big\" must be a number from 1280 to 65535",
            ),
            ("mtu", json!(1279), "mtu: 1279"),
            ("mtu", json!(70000), "mtu: 70000"),
            ("ranges", json!([]), "ranges: at least one CIDR"),
            ("ranges", json!("10.0.0.0/24"), "ranges: must be a list"),
            ("ranges", json!(["10.0.0.0/24", 5]), "ranges[1]: must be a string"),
            (
                "ranges",
                json!(["10.0.0.0/24", "10.1.0.0/24"]),
                "ranges[1]: 10.1.0.0/24 is a second IPv4 range",
            ),
            ("hostPorts", json!("portmap"), "hostPorts: \"portmap\" must be"),
            ("device", json!("macvlan"), "device: \"macvlan\" must be \"veth\""),
            ("dns", json!(["10.96.0.10"]), "dns: must be an object"),
            (
                "ipam",
                json!({"type": "host-local"}),
                "ipam.type: \"host-local\": this plugin gives addresses of its own",
            ),
            (
                "runtimeConfig",
                json!({"ips": ["10.244.1.9"]}),
                "ips: 10.244.1.9 is not an address that ranges has for pods",
            ),
            (
                "runtimeConfig",
                json!({"ips": ["10.244.0.1"]}),
                "ips: 10.244.0.1 is not an address",
            ),
            ("type", json!("bridge"), "type: \"bridge\""),
            ("prevResult", json!([]), "prevResult: must be an object"),
            (
                "cniVersion",
                json!("2.0.0"),
                "cniVersion \"2.0.0\" is not supported",
            ),
        ] {
            let error = problem(field, value);
            assert!(error.contains(expect), "{error}");
        }
        let all = Config::parse(br#"{"cniVersion":"1.0.0","type":"orlop-cni"}"#, Need::All)
            .unwrap_err()
            .to_string();
        assert!(
            all.contains("name:") && all.contains("dataDir:") && all.contains("ranges:"),
            "{all}"
        );
    }

    #[test]
    fn host_ports_need_somebody_who_opens_them() {
        let mut config = valid();
        config["runtimeConfig"] =
            json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]});
        let error = Config::parse(config.to_string().as_bytes(), Need::All).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(
            error
                .to_string()
                .contains("hostPort 8080: host ports are opened by proxy-ebpf"),
            "{error}"
        );
        config["hostPorts"] = "proxy-ebpf".into();
        assert!(Config::parse(config.to_string().as_bytes(), Need::All).is_ok());
    }

    #[test]
    fn teardown_does_not_look_at_what_only_add_needs() {
        let config = json!({"cniVersion": "1.0.0", "name": "orlop", "type": "orlop-cni", "dataDir": "/d", "mtu": "x",
                            "hostPorts": 5, "runtimeConfig": [], "prevResult": 5, "dns": 5, "device": 5,
                            "ipam": {"type": "host-local"}});
        let config = Config::parse(config.to_string().as_bytes(), Need::Teardown).unwrap();
        assert_eq!(config.prev_result, None);
    }

    #[test]
    fn what_is_not_json_is_a_decode_error() {
        for text in ["", "{", "[]", "7"] {
            let error = Config::parse(text.as_bytes(), Need::All).unwrap_err();
            assert!(matches!(error, Error::Decode { .. }), "{text}: {error}");
        }
    }
}

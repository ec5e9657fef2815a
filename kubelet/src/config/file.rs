//! KubeletConfiguration (kubelet.config.k8s.io/v1beta1).
//!
//! The file is walked by hand rather than derived, so that all its mistakes can be reported at once. Fields fall into
//! three classes: those that have an effect, those of upstream that have none here (accepted, named in a warning), and
//! unknown ones (refused).

use std::{net::IpAddr, path::PathBuf, time::Duration};

use serde_json::{Map, Value};

/// The fields that have an effect.
#[derive(Debug, Clone, PartialEq)]
pub struct FileConfig {
    /// Address the HTTPS server listens on.
    pub address: IpAddr,
    /// Port of the HTTPS server.
    pub port: u16,
    /// Certificate of the HTTPS server.
    pub tls_cert_file: Option<PathBuf>,
    /// Its key.
    pub tls_private_key_file: Option<PathBuf>,
    /// `authentication.x509.clientCAFile`: who may come with a client certificate.
    pub client_ca_file: Option<PathBuf>,
    /// `authentication.anonymous.enabled`.
    pub anonymous_auth: bool,
    /// `authentication.webhook.enabled`: bearer tokens are checked by TokenReview.
    pub webhook_auth: bool,
    /// `authorization.mode` is `AlwaysAllow` instead of `Webhook`.
    pub always_allow: bool,
    /// Cgroup below which `kubepods` is made.
    pub cgroup_root: String,
    /// DNS servers of pods with the policy ClusterFirst.
    pub cluster_dns: Vec<IpAddr>,
    /// Domain searched by those pods.
    pub cluster_domain: String,
    /// Socket of the container runtime.
    pub container_runtime_endpoint: String,
    /// Directory of the pods' logs.
    pub pod_logs_dir: PathBuf,
    /// No more pods than this are admitted.
    pub max_pods: u32,
    /// Processes a pod may have; none means no limit.
    pub pod_pids_limit: Option<u64>,
    /// The node's resolver configuration; none means empty.
    pub resolv_conf: Option<PathBuf>,
    /// How often the node's condition is looked at.
    pub node_status_update_frequency: Duration,
    /// How often the Node's status is written when nothing changes.
    pub node_status_report_frequency: Duration,
    /// How long the Lease lasts; it is renewed at a quarter of that.
    pub node_lease_duration: Duration,
    /// Whether the Node object is made and kept.
    pub register_node: bool,
    /// Taints to register with.
    pub register_with_taints: Vec<k8s_openapi::api::core::v1::Taint>,
    /// Whether CPU limits become CFS quotas.
    pub cpu_cfs_quota: bool,
    /// Whether one image at a time is pulled.
    pub serialize_image_pulls: bool,
    /// Memory kept from pods: `kubeReserved`, `systemReserved`, `evictionHard`, in bytes.
    pub reserved_memory: i64,
    /// CPU kept from pods, in thousandths.
    pub reserved_cpu: i64,
    /// Upstream's fields that were set and have no effect here.
    pub without_effect: Vec<String>,
}

impl Default for FileConfig {
    fn default() -> Self {
        Self {
            address: IpAddr::from([0, 0, 0, 0]),
            port: 10250,
            tls_cert_file: None,
            tls_private_key_file: None,
            client_ca_file: None,
            anonymous_auth: false,
            webhook_auth: true,
            always_allow: false,
            cgroup_root: "/".into(),
            cluster_dns: Vec::new(),
            cluster_domain: String::new(),
            container_runtime_endpoint: "unix:///run/containerd/containerd.sock".into(),
            pod_logs_dir: "/var/log/pods".into(),
            max_pods: 110,
            pod_pids_limit: None,
            resolv_conf: Some("/etc/resolv.conf".into()),
            node_status_update_frequency: Duration::from_secs(10),
            node_status_report_frequency: Duration::from_secs(300),
            node_lease_duration: Duration::from_secs(40),
            register_node: true,
            register_with_taints: Vec::new(),
            cpu_cfs_quota: true,
            serialize_image_pulls: true,
            // The default eviction threshold, memory.available<100Mi.
            reserved_memory: 100 << 20,
            reserved_cpu: 0,
            without_effect: Vec::new(),
        }
    }
}

/// Upstream's fields without effect here.
const WITHOUT_EFFECT: &[&str] = &[
    "allowedUnsafeSysctls",
    "configMapAndSecretChangeDetectionStrategy",
    "containerLogMaxFiles",
    "containerLogMaxSize",
    "containerLogMaxWorkers",
    "containerLogMonitorInterval",
    "contentType",
    "cpuCFSQuotaPeriod",
    "cpuManagerPolicy",
    "cpuManagerPolicyOptions",
    "cpuManagerReconcilePeriod",
    "crashLoopBackOff",
    "enableContentionProfiling",
    "enableControllerAttachDetach",
    "enableDebugFlagsHandler",
    "enableDebuggingHandlers",
    "enableProfilingHandler",
    "enableServer",
    "enableSystemLogHandler",
    "enableSystemLogQuery",
    "enforceNodeAllocatable",
    "eventBurst",
    "eventRecordQPS",
    "evictionMaxPodGracePeriod",
    "evictionMinimumReclaim",
    "evictionPressureTransitionPeriod",
    "evictionSoft",
    "evictionSoftGracePeriod",
    "failCgroupV1",
    "failSwapOn",
    "featureGates",
    "fileCheckFrequency",
    "hairpinMode",
    "healthzBindAddress",
    "healthzPort",
    "httpCheckFrequency",
    "imageGCHighThresholdPercent",
    "imageGCLowThresholdPercent",
    "imageMaximumGCAge",
    "imageMinimumGCAge",
    "imagePullCredentialsVerificationPolicy",
    "imageServiceEndpoint",
    "iptablesDropBit",
    "iptablesMasqueradeBit",
    "kernelMemcgNotification",
    "kubeAPIBurst",
    "kubeAPIQPS",
    "kubeReservedCgroup",
    "kubeletCgroups",
    "localStorageCapacityIsolation",
    "logging",
    "makeIPTablesUtilChains",
    "maxOpenFiles",
    "maxParallelImagePulls",
    "memoryManagerPolicy",
    "memorySwap",
    "memoryThrottlingFactor",
    "mergeDefaultEvictionSettings",
    "nodeStatusMaxImages",
    "oomScoreAdj",
    "podCIDR",
    "podsPerCore",
    "preloadedImagesVerificationAllowlist",
    "protectKernelDefaults",
    "providerID",
    "qosReserved",
    "readOnlyPort",
    "registryBurst",
    "registryPullQPS",
    "reservedMemory",
    "reservedSystemCPUs",
    "rotateCertificates",
    "runOnce",
    "runtimeRequestTimeout",
    "seccompDefault",
    "serverTLSBootstrap",
    "showHiddenMetricsForVersion",
    "shutdownGracePeriod",
    "shutdownGracePeriodByPodPriority",
    "shutdownGracePeriodCriticalPods",
    "singleProcessOOMKill",
    "staticPodPath",
    "staticPodURL",
    "staticPodURLHeader",
    "streamingConnectionIdleTimeout",
    "syncFrequency",
    "systemCgroups",
    "systemReservedCgroup",
    "tlsCipherSuites",
    "tlsCurvePreferences",
    "tlsMinVersion",
    "topologyManagerPolicy",
    "topologyManagerPolicyOptions",
    "topologyManagerScope",
    "tracing",
    "userNamespaces",
    "volumePluginDir",
    "volumeStatsAggPeriod",
];

/// Reads a KubeletConfiguration; all its mistakes, each naming its field.
pub(super) fn parse(text: &str) -> Result<FileConfig, Vec<String>> {
    let value: Value = serde_saphyr::from_str(text).map_err(|error| vec![error.to_string()])?;
    let Value::Object(fields) = value else {
        return Err(vec![
            "the file does not hold a KubeletConfiguration object".into(),
        ]);
    };
    let mut reader = Reader {
        path: String::new(),
        fields,
        errors: Vec::new(),
    };
    let config = read(&mut reader);
    let errors = reader.finish();
    if errors.is_empty() {
        Ok(config)
    } else {
        Err(errors)
    }
}

fn read(reader: &mut Reader) -> FileConfig {
    let mut config = FileConfig::default();
    reader.expect("apiVersion", "kubelet.config.k8s.io/v1beta1");
    reader.expect("kind", "KubeletConfiguration");
    reader.set("address", &mut config.address, ip);
    reader.set("port", &mut config.port, integer);
    reader.set("tlsCertFile", &mut config.tls_cert_file, optional_path);
    reader.set(
        "tlsPrivateKeyFile",
        &mut config.tls_private_key_file,
        optional_path,
    );
    reader.set("cgroupRoot", &mut config.cgroup_root, |value| {
        let root = string(value)?;
        match root.is_empty() || root.starts_with('/') && !root.contains("..") {
            true => Ok(if root.is_empty() { "/".into() } else { root }),
            false => Err(format!("{root:?} is not an absolute cgroup path")),
        }
    });
    let mut driver = "cgroupfs".to_owned();
    reader.set("cgroupDriver", &mut driver, string);
    if driver != "cgroupfs" {
        reader.error(
            "cgroupDriver",
            &format!("{driver:?} is not supported, only \"cgroupfs\" is"),
        );
    }
    let mut per_qos = true;
    reader.set("cgroupsPerQOS", &mut per_qos, boolean);
    if !per_qos {
        reader.error("cgroupsPerQOS", "false is not supported");
    }
    reader.set("clusterDNS", &mut config.cluster_dns, |value| {
        list(value)?.iter().map(ip).collect()
    });
    reader.set("clusterDomain", &mut config.cluster_domain, string);
    reader.set(
        "containerRuntimeEndpoint",
        &mut config.container_runtime_endpoint,
        string,
    );
    reader.set("podLogsDir", &mut config.pod_logs_dir, path);
    reader.set("maxPods", &mut config.max_pods, integer);
    reader.set("podPidsLimit", &mut config.pod_pids_limit, |value| {
        let limit: i64 = integer(value)?;
        Ok(u64::try_from(limit).ok().filter(|limit| *limit > 0))
    });
    reader.set("resolvConf", &mut config.resolv_conf, optional_path);
    reader.set(
        "nodeStatusUpdateFrequency",
        &mut config.node_status_update_frequency,
        duration,
    );
    reader.set(
        "nodeStatusReportFrequency",
        &mut config.node_status_report_frequency,
        duration,
    );
    reader.set(
        "nodeLeaseDurationSeconds",
        &mut config.node_lease_duration,
        |value| {
            let seconds: u32 = integer(value)?;
            if seconds == 0 {
                Err("must be greater than 0".into())
            } else {
                Ok(Duration::from_secs(seconds.into()))
            }
        },
    );
    reader.set("registerNode", &mut config.register_node, boolean);
    reader.set("registerWithTaints", &mut config.register_with_taints, |value| {
        serde_json::from_value(value.clone()).map_err(|error| error.to_string())
    });
    reader.set("cpuCFSQuota", &mut config.cpu_cfs_quota, boolean);
    reader.set("serializeImagePulls", &mut config.serialize_image_pulls, boolean);
    read_auth(reader, &mut config);
    read_reserved(reader, &mut config);
    for name in WITHOUT_EFFECT {
        if reader.fields.remove(*name).is_some() {
            config.without_effect.push((*name).to_owned());
        }
    }
    config
}

fn read_auth(reader: &mut Reader, config: &mut FileConfig) {
    reader.object("authentication", |authentication| {
        authentication.object("x509", |x509| {
            x509.set("clientCAFile", &mut config.client_ca_file, optional_path);
        });
        authentication.object("anonymous", |anonymous| {
            anonymous.set("enabled", &mut config.anonymous_auth, boolean);
        });
        authentication.object("webhook", |webhook| {
            webhook.set("enabled", &mut config.webhook_auth, boolean);
            webhook.check("cacheTTL", duration);
        });
    });
    reader.object("authorization", |authorization| {
        authorization.set("mode", &mut config.always_allow, |value| {
            match string(value)?.as_str() {
                "AlwaysAllow" => Ok(true),
                "Webhook" => Ok(false),
                other => Err(format!("{other:?} is neither AlwaysAllow nor Webhook")),
            }
        });
        authorization.object("webhook", |webhook| {
            webhook.check("cacheAuthorizedTTL", duration);
            webhook.check("cacheUnauthorizedTTL", duration);
        });
    });
}

fn read_reserved(reader: &mut Reader, config: &mut FileConfig) {
    let mut eviction = config.reserved_memory;
    reader.object("evictionHard", |thresholds| {
        let mut threshold = Some(eviction);
        thresholds.set("memory.available", &mut threshold, |value| {
            let text = string(value)?;
            // A percentage is a share of the capacity, which the file does not know; upstream's default holds then.
            if text.ends_with('%') {
                Ok(None)
            } else {
                quantity(value, crate::quantity::value).map(Some)
            }
        });
        eviction = threshold.unwrap_or(eviction);
        // Other signals are evaluated by the eviction manager, which is a later issue.
        thresholds.fields.clear();
    });
    config.reserved_memory = eviction;
    for name in ["kubeReserved", "systemReserved"] {
        reader.object(name, |reserved| {
            let (mut memory, mut cpu) = (0, 0);
            reserved.set("memory", &mut memory, |value| {
                quantity(value, crate::quantity::value)
            });
            reserved.set("cpu", &mut cpu, |value| quantity(value, crate::quantity::milli));
            reserved.check("ephemeral-storage", |value| {
                quantity(value, crate::quantity::value)
            });
            reserved.check("pid", |value| quantity(value, crate::quantity::value));
            config.reserved_memory += memory;
            config.reserved_cpu += cpu;
        });
    }
}

/// An object being taken apart: what is left at the end was not known.
struct Reader {
    path: String,
    fields: Map<String, Value>,
    errors: Vec<String>,
}

impl Reader {
    fn error(&mut self, field: &str, message: &str) {
        self.errors.push(format!("{}{field}: {message}", self.path));
    }

    fn set<T>(&mut self, field: &str, target: &mut T, parse: impl FnOnce(&Value) -> Result<T, String>) {
        match self.fields.remove(field) {
            None | Some(Value::Null) => {}
            Some(value) => match parse(&value) {
                Ok(value) => *target = value,
                Err(message) => self.error(field, &message),
            },
        }
    }

    /// A field that must be well-formed and has no effect.
    fn check<T>(&mut self, field: &str, parse: impl FnOnce(&Value) -> Result<T, String>) {
        let mut parsed = None;
        self.set(field, &mut parsed, |value| parse(value).map(Some));
    }

    fn expect(&mut self, field: &str, expected: &str) {
        match self.fields.remove(field) {
            Some(Value::String(value)) if value == expected => {}
            Some(value) => self.error(field, &format!("{value} is not {expected:?}")),
            None => self.error(field, &format!("missing, must be {expected:?}")),
        }
    }

    fn object(&mut self, field: &str, read: impl FnOnce(&mut Reader)) {
        match self.fields.remove(field) {
            None | Some(Value::Null) => {}
            Some(Value::Object(fields)) => {
                let mut reader = Reader {
                    path: format!("{}{field}.", self.path),
                    fields,
                    errors: Vec::new(),
                };
                read(&mut reader);
                self.errors.extend(reader.finish());
            }
            Some(_) => self.error(field, "must be an object"),
        }
    }

    fn finish(mut self) -> Vec<String> {
        for field in self.fields.keys() {
            self.errors
                .push(format!("unknown field \"{}{field}\"", self.path));
        }
        self.errors
    }
}

fn string(value: &Value) -> Result<String, String> {
    value
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| format!("{value} is not a string"))
}

fn path(value: &Value) -> Result<PathBuf, String> {
    let text = string(value)?;
    if text.starts_with('/') {
        Ok(text.into())
    } else {
        Err(format!("{text:?} is not an absolute path"))
    }
}

fn optional_path(value: &Value) -> Result<Option<PathBuf>, String> {
    if value.as_str() == Some("") {
        Ok(None)
    } else {
        path(value).map(Some)
    }
}

fn boolean(value: &Value) -> Result<bool, String> {
    value
        .as_bool()
        .ok_or_else(|| format!("{value} is neither true nor false"))
}

fn integer<T: TryFrom<i64>>(value: &Value) -> Result<T, String> {
    let number = value
        .as_i64()
        .ok_or_else(|| format!("{value} is not an integer"))?;
    T::try_from(number).map_err(|_| format!("{number} is out of range"))
}

fn ip(value: &Value) -> Result<IpAddr, String> {
    string(value)?
        .parse()
        .map_err(|_| format!("{value} is no IP address"))
}

fn list(value: &Value) -> Result<&Vec<Value>, String> {
    value.as_array().ok_or_else(|| format!("{value} is not a list"))
}

fn quantity(
    value: &Value,
    convert: fn(&k8s_openapi::apimachinery::pkg::api::resource::Quantity) -> Option<i64>,
) -> Result<i64, String> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    convert(&k8s_openapi::apimachinery::pkg::api::resource::Quantity(text))
        .ok_or_else(|| format!("{value} is no quantity"))
}

fn duration(value: &Value) -> Result<Duration, String> {
    let text = string(value)?;
    parse_duration(&text).ok_or_else(|| format!("{text:?} is no duration such as \"10s\" or \"1m30s\""))
}

/// A duration as Go writes it: `300ms`, `10s`, `1h30m`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..unit_at].parse().ok()?;
        let unit = &rest[unit_at..];
        let end = unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len());
        let seconds = match &unit[..end] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += Duration::try_from_secs_f64(number * seconds).ok()?;
        rest = &unit[end..];
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";

    #[test]
    fn good_file() {
        let text = format!(
            "{HEAD}address: 172.31.0.11\nport: 10250\nclusterDNS: [10.96.0.10]\nclusterDomain: cluster.local\n\
             cgroupRoot: /orlop/node1\nnodeStatusUpdateFrequency: 1m30s\nmaxPods: 50\nsyncFrequency: 0s\n\
             authentication: {{x509: {{clientCAFile: /ca.crt}}, anonymous: {{enabled: false}}}}\n\
             systemReserved: {{memory: 1Gi, cpu: 100m}}\n"
        );
        let config = parse(&text).expect("a good file");
        assert_eq!(config.max_pods, 50);
        assert_eq!(config.node_status_update_frequency, Duration::from_secs(90));
        assert_eq!(config.client_ca_file, Some("/ca.crt".into()));
        assert_eq!(config.reserved_memory, (100 << 20) + (1 << 30));
        assert_eq!(config.reserved_cpu, 100);
        assert_eq!(config.without_effect, ["syncFrequency"]);
    }

    #[test]
    fn every_mistake_names_its_field() {
        let text = format!(
            "{HEAD}port: 70000\nmaxPod: 5\ncgroupDriver: systemd\nclusterDNS: [nonsense]\n\
             authentication: {{x509: {{caFile: /x}}}}\nnodeStatusUpdateFrequency: fast\npodLogsDir: logs\n"
        );
        let errors = parse(&text).expect_err("seven mistakes");
        for field in [
            "port: 70000 is out of range",
            "unknown field \"maxPod\"",
            "cgroupDriver: ",
            "clusterDNS: ",
            "unknown field \"authentication.x509.caFile\"",
            "nodeStatusUpdateFrequency: ",
            "podLogsDir: ",
        ] {
            assert!(
                errors.iter().any(|error| error.contains(field)),
                "{field} is missing from {errors:#?}"
            );
        }
        assert_eq!(errors.len(), 7, "{errors:#?}");
    }

    #[test]
    fn wrong_kind() {
        let errors = parse("apiVersion: v1\nkind: ConfigMap\n").expect_err("not a KubeletConfiguration");
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(parse("- a list\n").is_err());
        assert!(parse("{").is_err());
    }

    #[test]
    fn durations() {
        let rows = [
            ("10s", 10_000),
            ("1m30s", 90_000),
            ("300ms", 300),
            ("1.5h", 5_400_000),
            ("0s", 0),
            ("0", 0),
        ];
        for (text, milliseconds) in rows {
            assert_eq!(
                parse_duration(text),
                Some(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
        for text in ["", "10", "s", "5x", "-3s"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}

//! The downward API: a pod's own fields and resources as text, for volumes and for environment variables. Pure.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceFieldSelector},
    apimachinery::pkg::api::resource::Quantity,
};

use crate::{pod, quantity};

/// What the node can give to pods: the limit of a container that sets none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allocatable {
    /// Thousandths of a core.
    pub cpu_milli: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral_storage: i64,
}

/// The value of a `fieldRef`. For an environment variable, pass the pod with the status known by then.
pub fn field_value(pod: &Pod, field_path: &str) -> Result<String, String> {
    if let Some((field, key)) = subscript(field_path) {
        let map = match field {
            "metadata.annotations" => &pod.metadata.annotations,
            "metadata.labels" => &pod.metadata.labels,
            _ => return Err(format!("fieldPath \"{field_path}\" does not support subscript")),
        };
        return Ok(map
            .as_ref()
            .and_then(|map| map.get(key))
            .cloned()
            .unwrap_or_default());
    }
    let spec = pod.spec.as_ref();
    let status = pod.status.as_ref();
    let value = match field_path {
        "metadata.annotations" => return Ok(format_map(pod.metadata.annotations.as_ref())),
        "metadata.labels" => return Ok(format_map(pod.metadata.labels.as_ref())),
        "metadata.name" => pod.metadata.name.clone(),
        "metadata.namespace" => pod.metadata.namespace.clone(),
        "metadata.uid" => pod.metadata.uid.clone(),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()),
        "status.hostIP" => status.and_then(|status| status.host_ip.clone()),
        "status.hostIPs" => status.map(|status| {
            let ips = status.host_ips.iter().flatten().map(|ip| ip.ip.as_str());
            ips.collect::<Vec<_>>().join(",")
        }),
        "status.podIP" => status.and_then(|status| status.pod_ip.clone()),
        "status.podIPs" => status.map(|status| {
            let ips = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
            ips.collect::<Vec<_>>().join(",")
        }),
        _ => return Err(format!("unsupported fieldPath: {field_path}")),
    };
    Ok(value.unwrap_or_default())
}

/// The value of a `resourceFieldRef` in a volume, which names its container.
pub fn pod_resource_value(
    pod: &Pod,
    selector: &ResourceFieldSelector,
    allocatable: &Allocatable,
) -> Result<String, String> {
    let name = selector.container_name.as_deref().unwrap_or_default();
    let container = pod::all_containers(pod)
        .find(|container| container.name == name)
        .ok_or_else(|| format!("container {name} not found"))?;
    resource_value(container, selector, allocatable)
}

/// The value of a `resourceFieldRef` for one container, in units of its divisor, rounded up.
pub fn resource_value(
    container: &Container,
    selector: &ResourceFieldSelector,
    allocatable: &Allocatable,
) -> Result<String, String> {
    let unsupported = || format!("unsupported container resource : {}", selector.resource);
    let (kind, resource) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let resources = container.resources.as_ref();
    let stated = match kind {
        "limits" => resources.and_then(|resources| resources.limits.as_ref()),
        "requests" => resources.and_then(|resources| resources.requests.as_ref()),
        _ => return Err(unsupported()),
    };
    let stated = stated.and_then(|quantities| quantities.get(resource));
    // A container without a limit may use what the node has.
    let or_node = |node: i64| if kind == "limits" { node } else { 0 };
    let is_cpu = resource == "cpu";
    let amount = match (resource, stated) {
        ("cpu", None) => or_node(allocatable.cpu_milli),
        ("memory", None) => or_node(allocatable.memory),
        ("ephemeral-storage", None) => or_node(allocatable.ephemeral_storage),
        (name, None) if name.starts_with("hugepages-") => 0,
        ("cpu", Some(stated)) => parse(stated, quantity::milli)?,
        (name, Some(stated))
            if name == "memory" || name == "ephemeral-storage" || name.starts_with("hugepages-") =>
        {
            parse(stated, quantity::value)?
        }
        _ => return Err(unsupported()),
    };
    let one = Quantity("1".into());
    let divisor = selector.divisor.as_ref().unwrap_or(&one);
    let divisor = match parse(divisor, if is_cpu { quantity::milli } else { quantity::value })? {
        0 if is_cpu => 1000,
        0 => 1,
        divisor => divisor,
    };
    Ok((amount.div_euclid(divisor) + i64::from(amount.rem_euclid(divisor) != 0)).to_string())
}

fn parse(text: &Quantity, unit: fn(&Quantity) -> Option<i64>) -> Result<i64, String> {
    unit(text).ok_or_else(|| format!("\"{}\" is no quantity", text.0))
}

/// `metadata.labels['key']` taken apart.
fn subscript(field_path: &str) -> Option<(&str, &str)> {
    let (field, key) = field_path.strip_suffix("']")?.split_once("['")?;
    Some((field, key))
}

/// `key="value"` lines, sorted by key, without a newline at the end.
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", go_quote(value)));
    lines.collect::<Vec<_>>().join("\n")
}

/// A string as Go's `%q` prints it, which is what programs parse these files with.
fn go_quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            c if c.is_ascii_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        api::core::v1::{HostIP, PodIP, PodSpec, PodStatus, ResourceRequirements},
        apimachinery::pkg::apis::meta::v1::ObjectMeta,
    };

    use super::*;

    #[test]
    fn fields() {
        let pod = Pod {
            metadata: ObjectMeta {
                name: Some("web-0".into()),
                namespace: Some("prod".into()),
                uid: Some("u1".into()),
                labels: Some([("b".into(), "2".into()), ("a/x".into(), "say \"hi\"\n".into())].into()),
                annotations: Some([("note".into(), "a\\b\tü".into())].into()),
                ..Default::default()
            },
            spec: Some(PodSpec {
                node_name: Some("node1".into()),
                service_account_name: Some("default".into()),
                ..Default::default()
            }),
            status: Some(PodStatus {
                host_ip: Some("10.0.0.1".into()),
                host_ips: Some(vec![
                    HostIP {
                        ip: "10.0.0.1".into(),
                    },
                    HostIP { ip: "fd00::1".into() },
                ]),
                pod_ip: Some("10.244.0.5".into()),
                pod_ips: Some(vec![
                    PodIP {
                        ip: "10.244.0.5".into(),
                    },
                    PodIP { ip: "fd00::5".into() },
                ]),
                ..Default::default()
            }),
        };
        let rows = [
            ("metadata.name", Ok("web-0")),
            ("metadata.namespace", Ok("prod")),
            ("metadata.uid", Ok("u1")),
            ("metadata.labels", Ok("a/x=\"say \\\"hi\\\"\\n\"\nb=\"2\"")),
            ("metadata.annotations", Ok("note=\"a\\\\b\\tü\"")),
            ("metadata.labels['a/x']", Ok("say \"hi\"\n")),
            ("metadata.labels['none']", Ok("")),
            ("spec.nodeName", Ok("node1")),
            ("spec.serviceAccountName", Ok("default")),
            ("status.hostIP", Ok("10.0.0.1")),
            ("status.hostIPs", Ok("10.0.0.1,fd00::1")),
            ("status.podIP", Ok("10.244.0.5")),
            ("status.podIPs", Ok("10.244.0.5,fd00::5")),
            ("status.phase", Err("unsupported fieldPath: status.phase")),
            (
                "spec.x['a']",
                Err("fieldPath \"spec.x['a']\" does not support subscript"),
            ),
        ];
        for (path, expect) in rows {
            let got = field_value(&pod, path);
            assert_eq!(got.as_deref().map_err(String::as_str), expect, "{path}");
        }
    }

    /// Rows follow upstream's `TestExtractContainerResourceValue` and the divisor rules of `convertResource…ToString`.
    #[test]
    fn resources() {
        let container = Container {
            name: "c".into(),
            resources: Some(ResourceRequirements {
                limits: Some(
                    [
                        ("cpu".into(), Quantity("1500m".into())),
                        ("memory".into(), Quantity("100Mi".into())),
                    ]
                    .into(),
                ),
                requests: Some([("cpu".into(), Quantity("250m".into()))].into()),
                ..Default::default()
            }),
            ..Default::default()
        };
        let allocatable = Allocatable {
            cpu_milli: 4000,
            memory: 8 << 30,
            ephemeral_storage: 1 << 30,
        };
        let rows = [
            ("limits.cpu", "0", Ok("2")),
            ("limits.cpu", "1m", Ok("1500")),
            ("requests.cpu", "1", Ok("1")),
            ("limits.memory", "0", Ok("104857600")),
            ("limits.memory", "1Mi", Ok("100")),
            ("limits.memory", "1Gi", Ok("1")),
            ("requests.memory", "1", Ok("0")),
            ("limits.ephemeral-storage", "1Mi", Ok("1024")),
            ("limits.hugepages-2Mi", "1", Ok("0")),
            (
                "limits.gpu",
                "1",
                Err("unsupported container resource : limits.gpu"),
            ),
            ("cpu", "1", Err("unsupported container resource : cpu")),
        ];
        for (resource, divisor, expect) in rows {
            let selector = ResourceFieldSelector {
                resource: resource.into(),
                divisor: Some(Quantity(divisor.into())),
                ..Default::default()
            };
            let got = resource_value(&container, &selector, &allocatable);
            assert_eq!(
                got.as_deref().map_err(String::as_str),
                expect,
                "{resource} / {divisor}"
            );
        }
    }
}

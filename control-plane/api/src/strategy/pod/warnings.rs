//! What users are told about a pod, or a template of pods, that is valid but hardly meant so: upstream's
//! `pkg/api/pod/warnings.go`.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;

use super::super::access::{int, list, map, text};
use crate::quantity::Quantity;
use crate::status::quote;
use crate::validation::text::label_problems;

/// A new pod. Those who update pods are programs, which nobody need warn.
pub(crate) fn pod(obj: &Value, old: Option<&Value>) -> Vec<String> {
    if old.is_some() {
        return Vec::new();
    }
    let mut out = no_label(obj, "the Pod's hostname");
    out.extend(of(obj, ""));
    out
}

/// The name of a new workload that becomes part of its pods'.
pub(crate) fn name_of_pods(obj: &Value, old: Option<&Value>) -> Vec<String> {
    match old {
        Some(_) => Vec::new(),
        None => no_label(obj, "Pod names and hostnames"),
    }
}

fn no_label(obj: &Value, used: &str) -> Vec<String> {
    let problems = label_problems(crate::meta::name(obj));
    if problems.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "metadata.name: this is used in {used}, which can result in surprising behavior; a DNS label is recommended: [{}]",
        problems.join(" ")
    )]
}

/// A template at `path`, which ends with a dot.
pub(crate) fn template(template: &Value, path: &str) -> Vec<String> {
    of(template, path)
}

/// A volume, or what of it a PersistentVolume shares with the volumes of pods, at `path`.
pub(crate) fn deprecated_volumes(volume: &Value, path: &str) -> Vec<String> {
    let given = DEPRECATED_VOLUMES
        .iter()
        .filter(|(kind, _)| volume.get(kind).is_some());
    given
        .map(|(kind, since)| {
            let shown = if *kind == "storageos" { "storageOS" } else { kind };
            format!("{path}.{shown}: {since}")
        })
        .collect()
}

/// Terms of a node selector that name labels of nodes which others have taken the place of.
pub(crate) fn node_selector_terms(terms: &[Value], path: &str) -> Vec<String> {
    let mut out = Vec::new();
    for (i, term) in terms.iter().enumerate() {
        for (j, requirement) in list(term, "/matchExpressions").iter().enumerate() {
            let key = text(requirement, "/key");
            if let Some(why) = deprecated_label(key) {
                out.push(format!("{path}[{i}].matchExpressions[{j}].key: {key} is {why}"));
            }
        }
    }
    out
}

/// Node labels that others have taken the place of.
pub(crate) fn deprecated_label(label: &str) -> Option<&'static str> {
    Some(match label {
        "beta.kubernetes.io/arch" => r#"deprecated since v1.14; use "kubernetes.io/arch" instead"#,
        "beta.kubernetes.io/os" => r#"deprecated since v1.14; use "kubernetes.io/os" instead"#,
        "failure-domain.beta.kubernetes.io/region" => {
            r#"deprecated since v1.17; use "topology.kubernetes.io/region" instead"#
        }
        "failure-domain.beta.kubernetes.io/zone" => {
            r#"deprecated since v1.17; use "topology.kubernetes.io/zone" instead"#
        }
        "beta.kubernetes.io/instance-type" => {
            r#"deprecated since v1.17; use "node.kubernetes.io/instance-type" instead"#
        }
        "app.kubernetes.io/created-by" => "deprecated since v1.9",
        "scheduler.alpha.kubernetes.io/preferAvoidPods" => {
            "deprecated since v1.22; use Taints and Tolerations instead"
        }
        "node-role.kubernetes.io/master" => r#"use "node-role.kubernetes.io/control-plane" instead"#,
        _ => return None,
    })
}

const DEPRECATED_ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        r#"non-functional in v1.16+; use the "priorityClassName" field instead"#,
    ),
    (
        "security.alpha.kubernetes.io/sysctls",
        r#"non-functional in v1.11+; use the "sysctls" field instead"#,
    ),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        r#"non-functional in v1.11+; use the "sysctls" field instead"#,
    ),
];

/// Volumes of plugins that are no more, and since when.
const DEPRECATED_VOLUMES: [(&str, &str); 9] = [
    (
        "photonPersistentDisk",
        "deprecated in v1.11, non-functional in v1.16+",
    ),
    ("gitRepo", "deprecated in v1.11"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

pub(super) const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
pub(super) const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
pub(super) const APP_ARMOR_CONTAINER: &str = "container.apparmor.security.beta.kubernetes.io/";

fn of(obj: &Value, path: &str) -> Vec<String> {
    let spec = format!("{path}spec");
    let mut out = Vec::new();
    labels(obj, &spec, &mut out);
    for (key, why) in DEPRECATED_ANNOTATIONS {
        if annotation(obj, key) {
            out.push(format!("{path}metadata.annotations[{key}]: {why}"));
        }
    }
    volumes(obj, &spec, &mut out);
    names(obj, &spec, &mut out);
    fractions(&obj["spec"]["overhead"], &format!("{spec}.overhead"), &mut out);
    let why = r#"non-functional in v1.27+; use the "seccompProfile" field instead"#;
    if annotation(obj, SECCOMP_POD) && obj.pointer("/spec/securityContext/seccompProfile").is_none() {
        out.push(format!("{path}metadata.annotations[{SECCOMP_POD}]: {why}"));
    }
    let containers = || {
        ["initContainers", "containers", "ephemeralContainers"]
            .into_iter()
            .flat_map(|field| {
                let items = list(obj, &format!("/spec/{field}")).iter().enumerate();
                items.map(move |(i, container)| (container, format!("{field}[{i}]")))
            })
            .map(|(container, at)| (container, format!("{spec}.{at}")))
    };
    for (container, at) in containers() {
        let name = text(container, "/name");
        let key = format!("{SECCOMP_CONTAINER}{name}");
        if annotation(obj, &key) && container.pointer("/securityContext/seccompProfile").is_none() {
            out.push(format!("{path}metadata.annotations[{key}]: {why}"));
        }
        let key = format!("{APP_ARMOR_CONTAINER}{name}");
        let has_field = obj.pointer("/spec/securityContext/appArmorProfile").is_some()
            || container.pointer("/securityContext/appArmorProfile").is_some();
        if !path.is_empty() && annotation(obj, &key) && !has_field {
            let why = r#"deprecated since v1.30; use the "appArmorProfile" field instead"#;
            out.push(format!("{path}metadata.annotations[{key}]: {why}"));
        }
        for field in ["limits", "requests"] {
            fractions(
                &container["resources"][field],
                &format!("{at}.resources.{field}"),
                &mut out,
            );
        }
        environment(container, &at, &mut out);
    }
    ports(containers(), &mut out);
    if int(obj, "/spec/terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0) {
        out.push(format!(
            "{spec}.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
    affinities(obj, &spec, &mut out);
    out
}

fn annotation(obj: &Value, key: &str) -> bool {
    crate::meta::annotations(obj).is_some_and(|annotations| annotations.contains_key(key))
}

/// Where node labels are named.
fn labels(obj: &Value, spec: &str, out: &mut Vec<String>) {
    for key in map(obj, "/spec/nodeSelector")
        .into_iter()
        .flat_map(|map| map.keys())
    {
        if let Some(why) = deprecated_label(key) {
            out.push(format!("{spec}.nodeSelector[{key}]: {why}"));
        }
    }
    let affinity = "/spec/affinity/nodeAffinity";
    let required = format!("{affinity}/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms");
    let preferred = format!("{affinity}/preferredDuringSchedulingIgnoredDuringExecution");
    let of_term = |term: &Value, at: String, out: &mut Vec<String>| {
        for (i, expression) in list(term, "/matchExpressions").iter().enumerate() {
            let key = text(expression, "/key");
            if let Some(why) = deprecated_label(key) {
                out.push(format!("{at}.matchExpressions[{i}].key: {key} is {why}"));
            }
        }
    };
    let at = format!("{spec}.affinity.nodeAffinity");
    for (i, term) in list(obj, &required).iter().enumerate() {
        let terms = "requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
        of_term(term, format!("{at}.{terms}[{i}]"), out);
    }
    for (i, term) in list(obj, &preferred).iter().enumerate() {
        let terms = "preferredDuringSchedulingIgnoredDuringExecution";
        of_term(&term["preference"], format!("{at}.{terms}[{i}].preference"), out);
    }
    for (i, constraint) in list(obj, "/spec/topologySpreadConstraints").iter().enumerate() {
        let at = format!("{spec}.topologySpreadConstraints[{i}]");
        let key = text(constraint, "/topologyKey");
        if let Some(why) = deprecated_label(key) {
            out.push(format!("{at}.topologyKey: {key} is {why}"));
        }
        if constraint.get("labelSelector").is_none() {
            out.push(format!("{at}.labelSelector: {MATCHES_NOTHING}"));
        }
    }
}

const MATCHES_NOTHING: &str = "a null labelSelector results in matching no pod";

fn affinities(obj: &Value, spec: &str, out: &mut Vec<String>) {
    for kind in ["podAffinity", "podAntiAffinity"] {
        for (when, below) in [
            ("requiredDuringSchedulingIgnoredDuringExecution", ""),
            (
                "preferredDuringSchedulingIgnoredDuringExecution",
                "podAffinityTerm",
            ),
        ] {
            for (i, term) in list(obj, &format!("/spec/affinity/{kind}/{when}"))
                .iter()
                .enumerate()
            {
                let (term, dot) = match below {
                    "" => (term, ""),
                    below => (&term[below], "."),
                };
                if term.get("labelSelector").is_none() {
                    out.push(format!(
                        "{spec}.affinity.{kind}.{when}[{i}]{dot}{below}.labelSelector: {MATCHES_NOTHING}"
                    ));
                }
            }
        }
    }
}

fn volumes(obj: &Value, spec: &str, out: &mut Vec<String>) {
    let volumes = list(obj, "/spec/volumes");
    for (i, volume) in volumes.iter().enumerate() {
        out.extend(deprecated_volumes(volume, &format!("{spec}.volumes[{i}]")));
    }
    let sources = |volume| list(volume, "/projected/sources").iter();
    let tokens: HashSet<&str> = volumes
        .iter()
        .flat_map(sources)
        .filter(|source| source.get("serviceAccountToken").is_some())
        .map(|source| text(source, "/serviceAccountToken/path"))
        .collect();
    for (i, volume) in volumes.iter().enumerate() {
        for source in sources(volume) {
            for (field, shown) in [
                ("configMap", "configMap"),
                ("secret", "secrets"),
                ("downwardAPI", "downwardAPI"),
            ] {
                for (j, item) in list(source, &format!("/{field}/items")).iter().enumerate() {
                    let path = text(item, "/path");
                    if tokens.contains(path) {
                        out.push(format!(
                            "{spec}.volumes[{i}].projected.sources.{shown}[{j}]: has duplicated path with ServiceAccountToken {}",
                            quote(path)
                        ));
                    }
                }
            }
            let path = text(source, "/clusterTrustBundle/path");
            if source.get("clusterTrustBundle").is_some() && tokens.contains(path) {
                out.push(format!(
                    "{spec}.volumes[{i}].projected.sources.ClusterTrustBundle: has duplicated path with ServiceAccountToken {}",
                    quote(path)
                ));
            }
        }
    }
}

/// Entries that are there twice, or empty.
fn names(obj: &Value, spec: &str, out: &mut Vec<String>) {
    for (field, key) in [("hostAliases", "ip"), ("imagePullSecrets", "name")] {
        let mut seen = HashSet::new();
        for (i, item) in list(obj, &format!("/spec/{field}")).iter().enumerate() {
            let value = text(item, &format!("/{key}"));
            if !seen.insert(value) {
                out.push(format!(
                    "{spec}.{field}[{i}].{key}: duplicate {key} {}",
                    quote(value)
                ));
            }
        }
    }
    for (i, item) in list(obj, "/spec/imagePullSecrets").iter().enumerate() {
        if text(item, "/name").is_empty() {
            out.push(format!(
                "{spec}.imagePullSecrets[{i}].name: invalid empty name \"\""
            ));
        }
    }
}

/// Amounts of bytes that are no whole number.
fn fractions(amounts: &Value, at: &str, out: &mut Vec<String>) {
    for resource in ["memory", "ephemeral-storage"] {
        let given = amounts.get(resource).and_then(Value::as_str);
        let amount = given.and_then(|text| Quantity::parse(text).ok());
        if let Some(amount) = amount.filter(|amount| amount.milli_value() % 1000 != 0) {
            out.push(format!(
                "{at}[{resource}]: fractional byte value {} is invalid, must be an integer",
                quote(&amount.canonical())
            ));
        }
    }
}

/// Variables that hide others of the same name without making use of them.
fn environment(container: &Value, at: &str, out: &mut Vec<String>) {
    let mut seen = HashSet::new();
    for (i, variable) in list(container, "/env").iter().enumerate() {
        let (name, value) = (text(variable, "/name"), text(variable, "/value"));
        if seen.insert(name) {
            continue;
        }
        let reference = format!("$({name})");
        let hides = variable.get("valueFrom").is_some() || value == reference || !value.contains(&reference);
        if hides {
            out.push(format!(
                "{at}.env[{i}]: hides previous definition of {}, which may be dropped when using apply",
                quote(name)
            ));
        }
    }
}

/// Ports that are given twice, each with where it is.
fn ports<'a>(containers: impl Iterator<Item = (&'a Value, String)>, out: &mut Vec<String>) {
    let mut all: BTreeMap<String, Vec<(String, &Value)>> = BTreeMap::new();
    for (container, at) in containers {
        for (i, port) in list(container, "/ports").iter().enumerate() {
            let at = format!("{at}.ports[{i}]");
            let (ip, host) = (text(port, "/hostIP"), int(port, "/hostPort").unwrap_or(0));
            let (number, protocol) = (int(port, "/containerPort").unwrap_or(0), text(port, "/protocol"));
            if !ip.is_empty() && host == 0 {
                let name = text(port, "/name");
                out.push(format!(
                    "{at}: hostIP set without hostPort: {{Name:{name} HostPort:0 ContainerPort:{number} Protocol:{protocol} HostIP:{ip}}}"
                ));
            }
            let same = all.entry(format!("{number}/{protocol}")).or_default();
            for (other_at, other) in same.iter() {
                let (other_ip, other_host) = (text(other, "/hostIP"), int(other, "/hostPort").unwrap_or(0));
                let what = if ip == other_ip && host == other_host {
                    "duplicate"
                } else if host == 0 || other_host == 0 {
                    "overlapping"
                } else if host == other_host && ip.is_empty() != other_ip.is_empty() {
                    "dangerously ambiguous"
                } else {
                    continue;
                };
                out.push(format!("{at}: {what} port definition with {other_at}"));
            }
            same.push((at, port));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    // Rows of TestWarnings in pkg/api/pod/warnings_test.go.
    #[test]
    fn what_is_said() {
        let template = |spec: Value, annotations: Value| json!({"metadata": {"name": "a", "annotations": annotations}, "spec": spec});
        let container = |fields: Value| {
            let mut container = json!({"name": "foo"});
            container
                .as_object_mut()
                .unwrap()
                .extend(fields.as_object().unwrap().clone());
            json!({"containers": [container]})
        };
        for (spec, annotations, expect) in [
            (json!({}), json!({}), vec![]),
            (
                json!({"volumes": [{"name": "s", "photonPersistentDisk": {}}, {"name": "g", "gitRepo": {}}, {"name": "o", "storageos": {}}]}),
                json!({}),
                vec![
                    "spec.volumes[0].photonPersistentDisk: deprecated in v1.11, non-functional in v1.16+",
                    "spec.volumes[1].gitRepo: deprecated in v1.11",
                    "spec.volumes[2].storageOS: deprecated in v1.22, non-functional in v1.25+",
                ],
            ),
            (
                json!({"hostAliases": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.1"}, {"ip": "1.1.1.2"}]}),
                json!({}),
                vec![r#"spec.hostAliases[1].ip: duplicate ip "1.1.1.1""#],
            ),
            (
                json!({"imagePullSecrets": [{"name": "a"}, {"name": "a"}, {}]}),
                json!({}),
                vec![
                    r#"spec.imagePullSecrets[1].name: duplicate name "a""#,
                    r#"spec.imagePullSecrets[2].name: invalid empty name """#,
                ],
            ),
            (
                container(json!({"env": [
                    {"name": "a", "value": "a"}, {"name": "a", "value": "a"}, {"name": "a", "value": "$(a)2"},
                    {"name": "a", "valueFrom": {}}, {"name": "a", "value": "$(a)"},
                ]})),
                json!({}),
                vec![
                    r#"spec.containers[0].env[1]: hides previous definition of "a", which may be dropped when using apply"#,
                    r#"spec.containers[0].env[3]: hides previous definition of "a", which may be dropped when using apply"#,
                    r#"spec.containers[0].env[4]: hides previous definition of "a", which may be dropped when using apply"#,
                ],
            ),
            (
                container(
                    json!({"resources": {"requests": {"memory": "100m", "cpu": "100m"}, "limits": {"ephemeral-storage": "1100m"}}}),
                ),
                json!({}),
                vec![
                    r#"spec.containers[0].resources.limits[ephemeral-storage]: fractional byte value "1100m" is invalid, must be an integer"#,
                    r#"spec.containers[0].resources.requests[memory]: fractional byte value "100m" is invalid, must be an integer"#,
                ],
            ),
            (
                json!({"nodeSelector": {"beta.kubernetes.io/os": "linux"}, "topologySpreadConstraints": [{"topologyKey": "beta.kubernetes.io/arch"}]}),
                json!({}),
                vec![
                    r#"spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead"#,
                    r#"spec.topologySpreadConstraints[0].topologyKey: beta.kubernetes.io/arch is deprecated since v1.14; use "kubernetes.io/arch" instead"#,
                    "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
                ],
            ),
            (
                json!({"affinity": {
                    "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "foo"}, {"key": "node-role.kubernetes.io/master"}]},
                    ]}},
                    "podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"podAffinityTerm": {}}]},
                    "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"labelSelector": {}}, {}]},
                }}),
                json!({}),
                vec![
                    r#"spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[1].key: node-role.kubernetes.io/master is use "node-role.kubernetes.io/control-plane" instead"#,
                    "spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.labelSelector: a null labelSelector results in matching no pod",
                    "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[1].labelSelector: a null labelSelector results in matching no pod",
                ],
            ),
            (
                container(json!({"ports": [
                    {"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "UDP"}, {"containerPort": 80, "protocol": "TCP"},
                    {"containerPort": 80, "protocol": "TCP", "hostPort": 80}, {"containerPort": 81, "protocol": "TCP", "hostIP": "1.1.1.1"},
                ]})),
                json!({}),
                vec![
                    "spec.containers[0].ports[2]: duplicate port definition with spec.containers[0].ports[0]",
                    "spec.containers[0].ports[3]: overlapping port definition with spec.containers[0].ports[0]",
                    "spec.containers[0].ports[3]: overlapping port definition with spec.containers[0].ports[2]",
                    "spec.containers[0].ports[4]: hostIP set without hostPort: {Name: HostPort:0 ContainerPort:81 Protocol:TCP HostIP:1.1.1.1}",
                ],
            ),
            (
                container(json!({"ports": [
                    {"containerPort": 80, "protocol": "TCP", "hostPort": 8080, "hostIP": "1.1.1.1"}, {"containerPort": 80, "protocol": "TCP", "hostPort": 8080},
                ]})),
                json!({}),
                vec![
                    "spec.containers[0].ports[1]: dangerously ambiguous port definition with spec.containers[0].ports[0]",
                ],
            ),
            (
                json!({"volumes": [
                    {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "tok"}}]}},
                    {"name": "c", "projected": {"sources": [{"configMap": {"items": [{"path": "a"}, {"path": "tok"}]}}, {"secret": {"items": [{"path": "tok"}]}}]}},
                ]}),
                json!({}),
                vec![
                    r#"spec.volumes[1].projected.sources.configMap[1]: has duplicated path with ServiceAccountToken "tok""#,
                    r#"spec.volumes[1].projected.sources.secrets[0]: has duplicated path with ServiceAccountToken "tok""#,
                ],
            ),
            (
                json!({"terminationGracePeriodSeconds": -1}),
                json!({}),
                vec![
                    "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
                ],
            ),
            (
                container(json!({})),
                json!({
                    "scheduler.alpha.kubernetes.io/critical-pod": "true", "seccomp.security.alpha.kubernetes.io/pod": "x",
                    "container.seccomp.security.alpha.kubernetes.io/foo": "x", "container.seccomp.security.alpha.kubernetes.io/bar": "x",
                }),
                vec![
                    r#"metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: non-functional in v1.16+; use the "priorityClassName" field instead"#,
                    r#"metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: non-functional in v1.27+; use the "seccompProfile" field instead"#,
                    r#"metadata.annotations[container.seccomp.security.alpha.kubernetes.io/foo]: non-functional in v1.27+; use the "seccompProfile" field instead"#,
                ],
            ),
        ] {
            let object = template(spec, annotations);
            assert_eq!(pod(&object, None), expect, "{object}");
            let prefixed: Vec<String> = super::template(&object, "template.")
                .iter()
                .map(|text| text.replace("template.", ""))
                .collect();
            assert_eq!(prefixed, expect, "{object}");
        }
        let armored = template(
            container(json!({})),
            json!({"container.apparmor.security.beta.kubernetes.io/foo": "x"}),
        );
        assert_eq!(pod(&armored, None), Vec::<String>::new());
        assert_eq!(
            super::template(&armored, "spec.template."),
            [
                r#"spec.template.metadata.annotations[container.apparmor.security.beta.kubernetes.io/foo]: deprecated since v1.30; use the "appArmorProfile" field instead"#
            ]
        );
    }
}

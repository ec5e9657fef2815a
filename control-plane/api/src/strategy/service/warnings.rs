//! What users are told about a Service that is valid but hardly meant so: upstream's `pkg/api/service/warnings.go`.

use serde_json::Value;

use super::super::access::{list, text};
use crate::validation::net::{cidr_warning, ip_warning};

/// A Service.
pub(super) fn service(obj: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let annotations = crate::meta::annotations(obj);
    if annotations
        .is_some_and(|annotations| annotations.contains_key("service.kubernetes.io/topology-aware-hints"))
    {
        out.push(
            "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use \
             service.kubernetes.io/topology-mode instead"
                .to_owned(),
        );
    }
    let kind = text(obj, "/spec/type");
    let headless = kind == "ClusterIP" && text(obj, "/spec/clusterIP") == "None";
    let external = list(obj, "/spec/externalIPs");
    let balancer = text(obj, "/spec/loadBalancerIP");
    let strings = |field: &str| {
        list(obj, &format!("/spec/{field}"))
            .iter()
            .filter_map(Value::as_str)
            .enumerate()
    };
    if !matches!(text(obj, "/spec/clusterIP"), "" | "None") && kind != "ExternalName" {
        out.extend(
            strings("clusterIPs").filter_map(|(i, ip)| ip_warning(ip, &format!("spec.clusterIPs[{i}]"))),
        );
    }
    if headless {
        for (ignored, field) in [
            (!balancer.is_empty(), "loadBalancerIP"),
            (!external.is_empty(), "externalIPs"),
            (text(obj, "/spec/sessionAffinity") != "None", "SessionAffinity"),
        ] {
            if ignored {
                out.push(format!("spec.{field} is ignored for headless services"));
            }
        }
    }
    out.extend(
        strings("externalIPs").filter_map(|(i, ip)| ip_warning(ip, &format!("spec.externalIPs[{i}]"))),
    );
    if !external.is_empty() && !headless && kind != "ExternalName" {
        out.push(
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned(),
        );
    }
    out.extend(ip_warning(balancer, "spec.loadBalancerIP"));
    for (i, range) in strings("loadBalancerSourceRanges") {
        out.extend(cidr_warning(
            range,
            &format!("spec.loadBalancerSourceRanges[{i}]"),
        ));
    }
    if kind == "ExternalName" && !external.is_empty() {
        out.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if kind != "ExternalName" && !text(obj, "/spec/externalName").is_empty() {
        out.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if text(obj, "/spec/trafficDistribution") == "PreferClose" {
        out.push(
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned(),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    // Rows of TestGetWarningsForService and TestGetWarningsForServiceClusterIPs.
    #[test]
    fn what_is_said() {
        for (spec, expect) in [
            (
                json!({"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "sessionAffinity": "None"}),
                vec![],
            ),
            (
                json!({"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"], "loadBalancerIP": "1.1.1.1", "externalIPs": ["1.1.1.1"], "sessionAffinity": "ClientIP"}),
                vec![
                    "spec.loadBalancerIP is ignored for headless services",
                    "spec.externalIPs is ignored for headless services",
                    "spec.SessionAffinity is ignored for headless services",
                ],
            ),
            (
                json!({"type": "ExternalName", "externalName": "a.b", "externalIPs": ["1.1.1.1"], "sessionAffinity": "None"}),
                vec!["spec.externalIPs is ignored when spec.type is \"ExternalName\""],
            ),
            (
                json!({"type": "ClusterIP", "clusterIP": "2001:db8:0::1", "clusterIPs": ["2001:db8:0::1"], "externalName": "a.b", "trafficDistribution": "PreferClose", "sessionAffinity": "None"}),
                vec![
                    "spec.clusterIPs[0]: IPv6 address \"2001:db8:0::1\" should be in RFC 5952 canonical format (\"2001:db8::1\")",
                    "spec.externalName is ignored when spec.type is not \"ExternalName\"",
                    "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"",
                ],
            ),
            (
                json!({"type": "LoadBalancer", "externalIPs": ["::ffff:1.2.3.4"], "loadBalancerSourceRanges": ["10.0.0.1/8", "2001:DB8::/64", "10.0.0.0/8"], "sessionAffinity": "None"}),
                vec![
                    "spec.externalIPs[0]: non-standard IP address \"::ffff:1.2.3.4\" will be considered invalid in a future Kubernetes release: use \"1.2.3.4\"",
                    "spec.externalIPs is deprecated and may no longer be implemented in some clusters",
                    "spec.loadBalancerSourceRanges[0]: CIDR value \"10.0.0.1/8\" is ambiguous in this context (should be \"10.0.0.0/8\" or \"10.0.0.1/32\"?)",
                    "spec.loadBalancerSourceRanges[1]: IPv6 CIDR value \"2001:DB8::/64\" should be in RFC 5952 canonical format (\"2001:db8::/64\")",
                ],
            ),
        ] {
            let object = json!({"spec": spec});
            assert_eq!(service(&object), expect, "{object}");
        }
        let hints =
            json!({"metadata": {"annotations": {"service.kubernetes.io/topology-aware-hints": "auto"}}});
        assert_eq!(service(&hints).len(), 1);
    }
}

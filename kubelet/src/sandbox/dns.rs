//! A pod's resolver configuration. Pure.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

use crate::pod;

/// glibc reads no more name servers.
const SERVERS_MAX: usize = 3;
/// Upstream's limit of search domains.
const SEARCHES_MAX: usize = 32;

/// What a resolv.conf says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The last `search` line.
    pub searches: Vec<String>,
    /// The last `options` line.
    pub options: Vec<String>,
}

impl ResolvConf {
    /// Reads a resolv.conf.
    pub fn parse(text: &str) -> Self {
        let mut parsed = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => parsed.servers.extend(words.next().map(str::to_owned)),
                Some("search") => {
                    parsed.searches = words.map(|domain| trim_dot(domain).to_owned()).collect();
                }
                Some("options") => parsed.options = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
        parsed
    }
}

/// A search domain without its final dot, unless it is the root.
fn trim_dot(domain: &str) -> &str {
    if domain == "." {
        domain
    } else {
        domain.trim_end_matches('.')
    }
}

/// What a pod's resolv.conf says.
pub type Dns = ResolvConf;

impl Dns {
    /// Decides by the pod's `dnsPolicy` and `dnsConfig`. Without cluster DNS servers, ClusterFirst means Default.
    pub fn for_pod(pod: &Pod, cluster_dns: &[IpAddr], cluster_domain: &str, host: &ResolvConf) -> Self {
        let spec = pod.spec.as_ref();
        let policy = spec
            .and_then(|spec| spec.dns_policy.as_deref())
            .unwrap_or("ClusterFirst");
        let cluster_first = match policy {
            "ClusterFirstWithHostNet" => true,
            "ClusterFirst" => !pod::uses_host_network(pod),
            _ => false,
        };
        let mut dns = if policy == "None" {
            Self::default()
        } else if cluster_first && !cluster_dns.is_empty() {
            let mut searches = Vec::new();
            if !cluster_domain.is_empty() {
                searches.push(format!("{}.svc.{cluster_domain}", pod::namespace(pod)));
                searches.push(format!("svc.{cluster_domain}"));
                searches.push(cluster_domain.to_owned());
            }
            searches.extend(host.searches.iter().cloned());
            Self {
                servers: cluster_dns.iter().map(IpAddr::to_string).collect(),
                searches,
                options: vec!["ndots:5".into()],
            }
        } else {
            host.clone()
        };
        if let Some(config) = spec.and_then(|spec| spec.dns_config.as_ref()) {
            dns.servers.extend(config.nameservers.iter().flatten().cloned());
            dns.searches.extend(
                config
                    .searches
                    .iter()
                    .flatten()
                    .map(|domain| trim_dot(domain).to_owned()),
            );
            for option in config.options.iter().flatten() {
                let name = option.name.clone().unwrap_or_default();
                dns.options
                    .retain(|old| old.split(':').next() != Some(name.as_str()));
                dns.options.push(match &option.value {
                    Some(value) if !value.is_empty() => format!("{name}:{value}"),
                    _ => name,
                });
            }
        }
        deduplicate(&mut dns.servers);
        deduplicate(&mut dns.searches);
        dns.servers.truncate(SERVERS_MAX);
        dns.searches.truncate(SEARCHES_MAX);
        dns
    }
}

fn deduplicate(list: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{PodDNSConfig, PodDNSConfigOption, PodSpec};

    use super::*;

    fn pod(policy: &str, host_network: bool, config: Option<PodDNSConfig>) -> Pod {
        let mut pod = Pod {
            spec: Some(PodSpec {
                dns_policy: Some(policy.into()),
                host_network: Some(host_network),
                dns_config: config,
                ..Default::default()
            }),
            ..Default::default()
        };
        pod.metadata.namespace = Some("ns".into());
        pod
    }

    #[test]
    fn policies() {
        let host =
            ResolvConf::parse("# comment\nnameserver 9.9.9.9\nsearch corp.example.com.\noptions timeout:1\n");
        let cluster = ["10.96.0.10".parse().expect("an address")];
        let for_pod = |pod: &Pod| Dns::for_pod(pod, &cluster, "cluster.local", &host);

        let dns = for_pod(&pod("ClusterFirst", false, None));
        assert_eq!(dns.servers, ["10.96.0.10"]);
        assert_eq!(
            dns.searches,
            [
                "ns.svc.cluster.local",
                "svc.cluster.local",
                "cluster.local",
                "corp.example.com"
            ]
        );
        assert_eq!(dns.options, ["ndots:5"]);

        assert_eq!(for_pod(&pod("ClusterFirst", true, None)), host);
        assert_eq!(
            for_pod(&pod("ClusterFirstWithHostNet", true, None)).servers,
            ["10.96.0.10"]
        );
        assert_eq!(for_pod(&pod("Default", false, None)), host);

        let config = PodDNSConfig {
            nameservers: Some(vec!["1.1.1.1".into()]),
            searches: Some(vec!["a.example.".into()]),
            options: Some(vec![PodDNSConfigOption {
                name: Some("ndots".into()),
                value: Some("2".into()),
            }]),
        };
        let dns = for_pod(&pod("None", false, Some(config.clone())));
        assert_eq!(
            (dns.servers, dns.searches),
            (vec!["1.1.1.1".to_owned()], vec!["a.example".to_owned()])
        );
        assert_eq!(
            for_pod(&pod("ClusterFirst", false, Some(config))).options,
            ["ndots:2"]
        );
    }
}

//! A pod's /etc/hosts. Pure.

use k8s_openapi::api::core::v1::HostAlias;

const HEADER: &str = "# Kubernetes-managed hosts file.\n";
const HOST_NETWORK_HEADER: &str = "# Kubernetes-managed hosts file (host network).\n";
const LOCAL: &str = "127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::0\tip6-localnet\n\
    fe00::0\tip6-mcastprefix\n\
    fe00::1\tip6-allnodes\n\
    fe00::2\tip6-allrouters\n";

/// The hosts file of a pod with these addresses and names. With `node_file`, the pod shares the node's network and gets
/// the node's entries.
pub fn hosts_file(
    ips: &[String],
    hostname: &str,
    domain: Option<&str>,
    aliases: &[HostAlias],
    node_file: Option<&str>,
) -> String {
    let mut text = match node_file {
        Some(node_file) => format!("{HOST_NETWORK_HEADER}{node_file}"),
        None => format!("{HEADER}{LOCAL}"),
    };
    if node_file.is_none() {
        for ip in ips {
            match domain {
                Some(domain) => text.push_str(&format!("{ip}\t{hostname}.{domain}\t{hostname}\n")),
                None => text.push_str(&format!("{ip}\t{hostname}\n")),
            }
        }
    }
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let names = alias.hostnames.clone().unwrap_or_default();
            text.push_str(&format!("{}\t{}\n", alias.ip, names.join("\t")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_and_aliases() {
        let aliases = [HostAlias {
            ip: "10.1.1.1".into(),
            hostnames: Some(vec!["a".into(), "b".into()]),
        }];
        let ips = ["10.244.0.5".to_owned(), "fd00::5".to_owned()];
        let text = hosts_file(&ips, "web-0", Some("peers.ns.svc.cluster.local"), &aliases, None);
        assert!(
            text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"),
            "{text}"
        );
        assert!(
            text.ends_with(
                "10.244.0.5\tweb-0.peers.ns.svc.cluster.local\tweb-0\n\
                 fd00::5\tweb-0.peers.ns.svc.cluster.local\tweb-0\n\
                 \n# Entries added by HostAliases.\n10.1.1.1\ta\tb\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn host_network_keeps_the_nodes_entries() {
        let text = hosts_file(&[], "node1", None, &[], Some("127.0.0.1 localhost\n"));
        assert_eq!(
            text,
            "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n"
        );
    }
}

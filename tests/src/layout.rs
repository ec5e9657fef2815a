//! Where the things of a cluster are: one place for every path, name and address.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

/// The pod ranges that node controllers cut into one block per node.
pub(crate) const CLUSTER_CIDRS: &str = "10.244.0.0/16,fd00:10:244::/56";
/// The service ranges; the first address of the first is the Service `kubernetes`.
pub(crate) const SERVICE_CIDRS: &str = "10.96.0.0/16,fd00:10:96::/112";
/// The address that the cluster DNS Service will have once there is one.
pub(crate) const CLUSTER_DNS: &str = "10.96.0.10";
/// The control plane's address on the cluster's bridge.
pub(crate) const CONTROL_PLANE_IP: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 1);
/// The same for IPv6.
pub(crate) const CONTROL_PLANE_IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x31, 0, 0, 0, 0, 0, 1);
/// The API server's port inside the cluster's namespaces.
pub(crate) const API_PORT: u16 = 6443;

/// The paths and names that follow from a cluster's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    name: String,
    /// The index of the first node that is not on the cluster's bridge.
    first_far: usize,
}

impl Layout {
    /// The layout of the cluster called `name`.
    ///
    /// # Errors
    /// A name that is not a short DNS label, since it becomes part of namespace, interface and cgroup names.
    pub fn new(name: &str) -> Result<Layout> {
        let ok = !name.is_empty()
            && name.len() <= 24
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && !name.ends_with('-');
        if !ok {
            bail!(
                "--name {name:?}: a cluster name is 1 to 24 lower-case letters, digits and inner hyphens, beginning with a letter"
            );
        }
        Ok(Layout {
            name: name.to_owned(),
            first_far: usize::MAX,
        })
    }

    /// The same with the nodes from `first` on each on a network of its own, beyond a router.
    #[must_use]
    pub(crate) fn with_far_nodes(self, first: usize) -> Layout {
        Layout {
            first_far: first,
            ..self
        }
    }

    /// Whether a node is on a network of its own.
    pub fn is_far(&self, index: usize) -> bool {
        index >= self.first_far
    }

    /// Whether any node can be.
    pub(crate) fn has_far_nodes(&self) -> bool {
        self.first_far != usize::MAX
    }

    /// The router's address on the network of a node.
    pub(crate) fn router_ip(&self, index: usize) -> Ipv4Addr {
        match self.is_far(index) {
            true => Ipv4Addr::new(172, 32, u8::try_from(index).unwrap_or(u8::MAX), 1),
            false => CONTROL_PLANE_IP,
        }
    }

    /// The same for IPv6.
    pub(crate) fn router_ip6(&self, index: usize) -> Ipv6Addr {
        match self.is_far(index) {
            true => Ipv6Addr::new(
                0xfd00,
                0x32,
                u16::try_from(index).unwrap_or(u16::MAX),
                0,
                0,
                0,
                0,
                1,
            ),
            false => CONTROL_PLANE_IP6,
        }
    }

    /// The directory that holds the state of all clusters.
    pub fn state_root() -> &'static Path {
        Path::new("/var/lib/orlop")
    }

    /// The directory that holds the run directories of all clusters.
    pub(crate) fn run_root() -> &'static Path {
        Path::new("/run/orlop")
    }

    /// The cluster's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What survives a reboot: store, images, keys, logs.
    pub fn state(&self) -> PathBuf {
        Layout::state_root().join(&self.name)
    }

    /// What does not: sockets, pid files, pinned maps.
    pub fn run(&self) -> PathBuf {
        Layout::run_root().join(&self.name)
    }

    /// Keys and certificates.
    pub(crate) fn pki(&self) -> PathBuf {
        self.state().join("pki")
    }

    /// The administrator's kubeconfig, which names the published loopback port.
    pub fn kubeconfig(&self) -> PathBuf {
        self.state().join("admin.kubeconfig")
    }

    /// The log of one process.
    pub fn log(&self, process: &str) -> PathBuf {
        self.state().join("logs").join(format!("{process}.log"))
    }

    /// The pid file of one process.
    pub(crate) fn pid_file(&self, process: &str) -> PathBuf {
        self.run().join(format!("{process}.pid"))
    }

    /// The control plane's network namespace, which also holds the bridge.
    pub fn control_plane_netns(&self) -> String {
        format!("{}-cp", self.name)
    }

    /// The network namespace of node `index` (from 1).
    pub fn node_netns(&self, index: usize) -> String {
        format!("{}-node{index}", self.name)
    }

    /// The node's name in the cluster.
    pub fn node_name(&self, index: usize) -> String {
        format!("node{index}")
    }

    /// What a node keeps over reboots.
    pub fn node_state(&self, index: usize) -> PathBuf {
        self.state().join(self.node_name(index))
    }

    /// A node's sockets and pins.
    pub fn node_run(&self, index: usize) -> PathBuf {
        self.run().join(self.node_name(index))
    }

    /// The containerd socket of a node.
    pub fn containerd_socket(&self, index: usize) -> PathBuf {
        self.node_run(index).join("containerd.sock")
    }

    /// Where the node's data plane pins its maps and links.
    pub fn bpf_dir(&self, index: usize) -> PathBuf {
        self.run().join("bpf").join(self.node_name(index))
    }

    /// Where containerd looks for network configurations.
    pub fn cni_conf_dir(&self, index: usize) -> PathBuf {
        self.node_state(index).join("cni/net.d")
    }

    /// Where containerd looks for plugins.
    pub fn cni_bin_dir(&self, index: usize) -> PathBuf {
        self.node_state(index).join("cni/bin")
    }

    /// The node's cgroup below every hierarchy's mount point.
    pub fn node_cgroup(&self, index: usize) -> String {
        format!("/{}/{}", self.name, self.node_name(index))
    }

    /// The node's address on the cluster's bridge, or on its own network.
    pub fn node_ip(&self, index: usize) -> Ipv4Addr {
        let host = 10 + u8::try_from(index).unwrap_or(u8::MAX - 10);
        let [a, b, c, _] = self.router_ip(index).octets();
        Ipv4Addr::new(a, b, c, host)
    }

    /// The same for IPv6.
    pub fn node_ip6(&self, index: usize) -> Ipv6Addr {
        let [a, b, c, ..] = self.router_ip6(index).segments();
        Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0x10 + u16::try_from(index).unwrap_or(0xff))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_escape_a_path_are_refused() {
        for bad in [
            "",
            "..",
            "a/b",
            "Orlop",
            "-a",
            "a-",
            "1a",
            "a-name-that-is-much-too-long-for-it",
        ] {
            let error = Layout::new(bad).expect_err(bad).to_string();
            assert!(error.contains("--name"), "{error}");
        }
        assert_eq!(
            Layout::new("orlop").expect("a good name").node_netns(2),
            "orlop-node2"
        );
    }
}

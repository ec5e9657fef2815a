//! The cluster harness: real clusters on one machine, each node a network namespace.
//!
//! A cluster has a name, and everything that is made for it carries that name: network namespaces (`<name>-cp`,
//! `<name>-node1` …), cgroups (`/<name>/…` in every hierarchy), the state directory `/var/lib/orlop/<name>` and the run
//! directory `/run/orlop/<name>` (sockets, pid files, a BPF filesystem of its own). That is what lets [`teardown`]
//! remove a cluster whose maker was killed: it reads the kernel's own lists by name and needs no record of what was done.
//!
//! The harness plays the part of kubeadm and systemd: it makes keys and certificates, writes configuration files,
//! starts processes in their namespaces and puts right what is missing when it is called again. It never talks to
//! anything inside a cluster from the root network namespace except the API server's published loopback port.

mod cgroup;
mod cluster;
mod containerd;
mod control_plane;
mod etcd;
mod gateway;
pub mod iperf;
mod kubeconfig;
pub mod kubectl;
mod layout;
mod link;
mod network;
mod pki;
mod place;
mod process;
pub mod suite;
mod teardown;
pub mod wait;

pub use cluster::{Binaries, Cluster, ClusterConfig, Component, Step};
pub use control_plane::ControlPlane;
pub use etcd::{EtcdFiles, EtcdServers};
pub use layout::Layout;
pub use link::{Link, Quality};
pub use place::Place;
pub use process::Process;
pub use teardown::{leftovers, sweep, teardown};

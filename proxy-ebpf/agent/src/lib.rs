//! The agent of the data plane: kube-proxy's work, and the node half of a network plugin.
//!
//! - **Watches** Services, EndpointSlices and Nodes.
//! - **Alone writes** the pinned BPF maps below `--bpf-dir`, attaches the programs of `proxy-ebpf/ebpf` to `--cgroup-path`,
//!   and writes the CNI configuration and the routes to other nodes' pods.
//! - **Never** writes to the API, and never touches a packet: once the maps are filled, traffic flows without it. It may be
//!   killed at any time; its successor reads the maps and changes only what differs.
//!
//! An event updates [`objects`]; [`desired`] says what a Service should look like; [`plan`] compares that with the tables and
//! yields ordered writes; [`apply`] carries them out. The first two and the third are pure. [`sockets`] then ends datagram
//! sockets that are stuck, [`health_checks`] tells load balancers what is on this node, [`metrics`] how it went.

pub mod agent;
pub mod apply;
pub mod config;
pub mod connections;
pub mod desired;
pub mod devices;
pub mod health_checks;
pub mod healthz;
pub mod host_ports;
pub mod http;
pub mod inspect;
pub mod metrics;
pub mod netlink;
pub mod node;
pub mod node_ports;
pub mod objects;
pub mod opt_outs;
pub mod pace;
pub mod packets;
pub mod pins;
pub mod plan;
pub mod programs;
pub mod refusals;
pub mod sockets;
pub mod sys;
pub mod tc;

//! The packet path: what the socket path cannot do. Node ports and load balancer addresses for clients outside the node,
//! Services for sockets that have no hooks or whose pods opt out, and this node's address for pods that talk to the world.
//!
//! Four hooks see packets, and each does the same: a packet of a known connection is translated; one that is not may open
//! a connection. Which connections a hook opens is all that tells it from the others:
//!
//! | hook | sees packets | opens connections |
//! |---|---|---|
//! | `pod_egress` | that a pod has sent | to Services |
//! | `pod_ingress` | that a pod is about to get | none |
//! | `node_ingress` | that arrive at an uplink | to Services, as a client outside the cluster |
//! | `node_egress` | that leave by an uplink | to Services; from pods to the world |
//!
//! A translated packet skips the node's own routing where it can: straight into a pod, or out of an uplink. It must do so if
//! its new source is this node's own address. On the way out of a pod such a packet may also be left as it is, since
//! `node_egress` or `pod_ingress` will see it again.
//!
//! What is not translated is told from what already is by where it is seen: first, as it was sent. Of what the node's own
//! processes send only `node_egress` and `pod_ingress` know, which see translated packets too; there it is what has not
//! arrived by any device and has no mark of `node_egress`. Where all such processes reach Services by their sockets, none of
//! this is looked at.
//!
//! NetworkPolicy has its place in [`hooks`] before the lookup of the connection (what a pod sends) and in
//! [`forward::to_pod`] (what it gets); a consistent hash in [`balance`], direct server return in [`connect`], and XDP would
//! be a fifth hook over the same functions.

mod balance;
mod connect;
mod conntrack;
mod family;
mod forward;
mod fragments;
mod hooks;
mod maps;
mod parse;
mod reject;
mod report;
mod rewrite;
mod scratch;
mod sctp;
mod skb;
mod v4;
mod v6;

pub(crate) use report::refused_call;

/// The next program in line sees the packet, then the kernel.
const CONTINUE: i32 = -1;
const DROP: i32 = 2;
/// Not for the kernel: the packet has a translation, which is yet to be applied.
const TRANSLATE: i32 = i32::MIN;

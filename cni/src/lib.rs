//! `orlop-cni`: the CNI plugin that gives a pod its interface, its addresses and its routes.
//!
//! A container runtime runs the binary once per request. There is no daemon: everything that a later request needs is in
//! the kernel or in one directory of records, so DEL works whatever else is down.
//!
//! * [`request`] reads the environment, [`config`] the network configuration on stdin, [`runtime_config`] the part of it that
//!   is about one pod; all report every mistake.
//! * [`wiring`] decides, as a value, which changes make a pod's network; it touches nothing.
//! * [`ipam`] keeps which attachment holds which addresses, so that a plugin killed anywhere leaks none.
//! * [`netlink`] and [`netns`] are the doors to the kernel.
//! * [`commands`] puts them together: one function per CNI verb.
//!
//! The plugin writes: its record directory, the pair of devices with what hangs on it, and the two forwarding switches of the
//! network namespace in which it runs. It never touches bridges, packet filters, or the runtime's own state.

pub mod bench;
mod bucket;
pub mod commands;
pub mod config;
pub mod error;
pub mod ipam;
pub mod netlink;
pub mod netns;
pub mod range;
pub mod request;
pub mod result;
pub mod runtime_config;
pub mod wiring;

pub use error::Error;

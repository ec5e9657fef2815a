//! The built plugin in real network namespaces. Needs root; every namespace ends with the value that made it, also when a
//! test panics or is killed, because nothing but file descriptors holds them.

mod attach;
mod capabilities;
mod chain;
mod crash;
mod netkit;
mod records;
mod support;
mod verbs;

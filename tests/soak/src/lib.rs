//! Histories under faults: random clients and watchers write down what they asked and what they were told, while processes
//! are killed and power is cut; afterwards a checker says whether one store with a single order of all writes could have
//! answered so.
//!
//! The method is that of etcd's robustness tests. A [`target`] is what is asked: the embedded store on a disk that loses
//! what was not synced, a cluster of etcd servers, or a control plane's HTTPS API. [`traffic`] asks it. [`history`] is what
//! was asked and answered, [`log`] the changes in their order as one uninterrupted watch told them. [`check`] is a pure
//! function over both.

pub mod check;
pub mod disk;
pub mod fault;
pub mod history;
pub mod log;
pub mod target;
pub mod traffic;

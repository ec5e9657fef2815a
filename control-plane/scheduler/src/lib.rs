//! The scheduler: gives every pod that has no node one.
//!
//! What it watches: Pods and Nodes. What it alone writes: the binding of a pod that names it in `spec.schedulerName`, that
//! pod's `PodScheduled` condition while it waits, and the Events `Scheduled` and `FailedScheduling`. What it never does:
//! evict a pod, or act on the content of a watch event beyond its caches.
//!
//! One task owns all state, so there are no locks and no copies: between two scheduling cycles it takes in what the
//! watches brought, and while a cycle runs nothing changes, which makes the cache its own snapshot. A cycle is a pure
//! function over it ([`schedule`]); only the writes to the API server run beside it, and a pod counts on its node from the
//! moment the cycle has decided, before the API server agrees.

mod cache;
mod diagnosis;
mod framework;
mod node;
mod plugins;
mod pod;
mod queue;
mod report;
mod resources;
mod schedule;
mod scheduler;
mod watch;

use std::time::Duration;

pub use scheduler::run;

/// How a scheduler behaves. Names and defaults are KubeSchedulerConfiguration's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Only pods whose `spec.schedulerName` is this are scheduled; also the name that Events carry.
    pub scheduler_name: String,
    /// How long a pod waits after its first failed attempt; doubles with each further one.
    pub pod_initial_backoff: Duration,
    /// The longest such wait.
    pub pod_max_backoff: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            scheduler_name: "default-scheduler".to_owned(),
            pod_initial_backoff: Duration::from_secs(1),
            pod_max_backoff: Duration::from_secs(10),
        }
    }
}

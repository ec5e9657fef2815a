//! This node as the API sees it: the Node object, its status, and its Lease.
//!
//! Alone writes all three. The status is written when it says something new, and every five minutes so that its
//! heartbeats are not too old; the Lease is what tells the control plane that the node lives.

mod lease;
mod machine;
mod status;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeSpec};
use kube::{
    Api,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

pub use machine::{Allocated, Machine};

use crate::{
    config::Config,
    context::Wakes,
    error,
    events::{EventType, Recorder},
    runtime::Runtime,
};

/// CRI has no event for a network that becomes ready: while it is not, it is asked this often, so that a node is Ready
/// the moment its CNI configuration is there.
const POLL_NOT_READY: Duration = Duration::from_millis(200);
/// A runtime that restarts is back sooner. Calling the node not ready meanwhile would take its pods out of their Services,
/// although they go on running.
const DOWN_AFTER: Duration = Duration::from_secs(10);
/// The first wait after a failed request to the API server, doubling up to the last.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LAST: Duration = Duration::from_secs(2);

/// What the runtime says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Why the runtime is not ready.
    pub runtime: Option<String>,
    /// Why the network is not.
    pub network: Option<String>,
    /// Whether it has been asked at all.
    pub known: bool,
}

impl Health {
    /// The runtime has not answered for a while.
    fn down() -> Self {
        Self {
            runtime: Some("container runtime is down".to_owned()),
            network: None,
            known: true,
        }
    }

    /// Reads CRI's conditions.
    fn of(status: &k8s_cri::v1::RuntimeStatus) -> Self {
        let problem = |type_: &str, what: &str| {
            let Some(condition) = status
                .conditions
                .iter()
                .find(|condition| condition.r#type == type_)
            else {
                return Some(format!("container runtime status: {type_} is missing"));
            };
            (!condition.status).then(|| {
                format!(
                    "{what}: {type_}=false reason:{} message:{}",
                    condition.reason, condition.message
                )
            })
        };
        Self {
            runtime: problem("RuntimeReady", "container runtime not ready"),
            network: problem("NetworkReady", "container runtime network not ready"),
            known: true,
        }
    }

    /// Whether pods can run.
    pub fn is_ready(&self) -> bool {
        self.known && self.runtime.is_none() && self.network.is_none()
    }

    /// Why a pod that needs the network cannot start.
    pub fn network_error(&self) -> Option<String> {
        if !self.known {
            return Some("container runtime status check may not have completed yet".into());
        }
        self.runtime.clone().or_else(|| self.network.clone())
    }

    /// Message of the condition Ready when it is False.
    fn message(&self) -> String {
        if !self.known {
            return "container runtime status check may not have completed yet".into();
        }
        let errors: Vec<&str> = [&self.runtime, &self.network]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        match errors.as_slice() {
            [one] => (*one).to_owned(),
            many => format!("[{}]", many.join(", ")),
        }
    }
}

/// Follows the runtime's health. Every worker is woken when pods can run again. `look` is notified when there is
/// reason to look before the next turn.
pub async fn watch_health(
    runtime: Runtime,
    health: watch::Sender<Health>,
    wakes: Wakes,
    look: Arc<Notify>,
    slow: Duration,
) {
    let mut unreachable_since = None::<Instant>;
    loop {
        let now = match runtime.status().await {
            Ok(status) => {
                unreachable_since = None;
                Some(Health::of(&status))
            }
            Err(error) => {
                tracing::debug!(%error, "asking the runtime for its status");
                let since = *unreachable_since.get_or_insert_with(Instant::now);
                (since.elapsed() >= DOWN_AFTER).then(Health::down)
            }
        };
        if let Some(now) = now {
            let became_ready = now.is_ready() && !health.borrow().is_ready();
            health.send_if_modified(|old| {
                let changed = *old != now;
                if changed {
                    let (ready, why) = (now.is_ready(), now.network_error());
                    tracing::info!(ready, why, "the container runtime's health changed");
                    *old = now;
                }
                changed
            });
            if became_ready {
                wakes.wake_all();
            }
        }
        let steady = unreachable_since.is_none() && health.borrow().is_ready();
        let wait = if steady { slow } else { POLL_NOT_READY };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = look.notified() => {}
        }
    }
}

/// What the node's tasks work with.
pub struct NodeKeeper {
    /// Flags and configuration file.
    pub config: Config,
    /// The API server.
    pub client: kube::Client,
    /// containerd.
    pub runtime: Runtime,
    /// Events.
    pub recorder: Recorder,
    /// What the node has.
    pub machine: Machine,
    /// Whether runtime and network are ready.
    pub health: watch::Receiver<Health>,
}

impl NodeKeeper {
    /// Registers the node, then keeps status and Lease for ever.
    pub async fn run(self) {
        let keeper = Arc::new(self);
        let node = keeper.register().await;
        keeper
            .recorder
            .node(&node, EventType::Normal, "Starting", "Starting kubelet.");
        let name = keeper.config.node_name.clone();
        let uid = node.metadata.uid.clone().unwrap_or_default();
        let lease = lease::keep(
            keeper.client.clone(),
            name,
            uid,
            keeper.config.file.node_lease_duration,
        );
        tokio::join!(keeper.keep_status(node), lease);
    }

    /// Creates the Node, or brings an existing one's labels up to date.
    async fn register(&self) -> Node {
        let api: Api<Node> = Api::all(self.client.clone());
        let mut delay = RETRY_FIRST;
        loop {
            match self.try_register(&api).await {
                Ok(node) => {
                    tracing::info!(node = self.config.node_name, "registered");
                    return node;
                }
                Err(error) => {
                    tracing::warn!(error = error::chain(&error), "registering the node, will retry")
                }
            }
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(RETRY_LAST);
        }
    }

    async fn try_register(&self, api: &Api<Node>) -> kube::Result<Node> {
        let name = &self.config.node_name;
        let labels = status::labels(&self.config, &self.machine);
        let annotations = [(
            "volumes.kubernetes.io/controller-managed-attach-detach".to_owned(),
            "true".to_owned(),
        )];
        if let Some(existing) = api.get_opt(name).await? {
            // The kubelet's own labels are kept; what others have set stays.
            let patch = json!({"metadata": {"labels": labels, "annotations": annotations.into_iter().collect::<std::collections::BTreeMap<_, _>>()}});
            let old = existing.metadata.labels.clone().unwrap_or_default();
            if labels.iter().all(|(key, value)| old.get(key) == Some(value)) {
                return Ok(existing);
            }
            return api
                .patch(name, &PatchParams::default(), &Patch::Merge(patch))
                .await;
        }
        let mut taints = self.config.register_with_taints.clone();
        taints.extend(self.config.file.register_with_taints.iter().cloned());
        let node = Node {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                labels: Some(labels),
                annotations: Some(annotations.into()),
                ..Default::default()
            },
            spec: Some(NodeSpec {
                taints: (!taints.is_empty()).then_some(taints),
                ..Default::default()
            }),
            // From the first moment on, so that nothing schedules to a node of unknown size.
            status: Some(self.status(None, &[], "")),
        };
        api.create(&PostParams::default(), &node).await
    }

    fn status(
        &self,
        previous: Option<&k8s_openapi::api::core::v1::NodeStatus>,
        images: &[k8s_cri::v1::Image],
        runtime_version: &str,
    ) -> k8s_openapi::api::core::v1::NodeStatus {
        status::build(&status::Input {
            config: &self.config,
            machine: &self.machine,
            health: &self.health.borrow(),
            images,
            runtime_version,
            previous,
            now: Timestamp::now(),
        })
    }

    async fn keep_status(&self, mut node: Node) {
        let api: Api<Node> = Api::all(self.client.clone());
        let mut health = self.health.clone();
        // Until the runtime has been asked, what the API holds from before a restart is the best there is to say.
        if health.wait_for(|health| health.known).await.is_err() {
            return;
        }
        let mut written_at = None::<Instant>;
        let mut delay = RETRY_FIRST;
        let mut events = status::Transitions::of(node.status.as_ref());
        loop {
            // The version and the images of a runtime that is down are the last known ones.
            let down = health.borrow_and_update().runtime.is_some();
            let (version, images) = match down {
                true => (String::new(), Vec::new()),
                false => self.runtime_facts().await,
            };
            let wanted = self.status(node.status.as_ref(), &images, &version);
            let report = self.config.file.node_status_report_frequency;
            let due = written_at.is_none_or(|at| at.elapsed() >= report);
            let changed = status::differs(node.status.as_ref(), &wanted);
            let mut wait = self.config.node_status_update_frequency();
            if due || changed {
                let patch = json!({"status": status::patch(&wanted)});
                match api
                    .patch_status(
                        &self.config.node_name,
                        &PatchParams::default(),
                        &Patch::Strategic(patch),
                    )
                    .await
                {
                    Ok(written) => {
                        for (reason, message) in events.update(&self.config.node_name, &wanted) {
                            self.recorder.node(&written, EventType::Normal, reason, message);
                        }
                        node = written;
                        written_at = Some(Instant::now());
                        delay = RETRY_FIRST;
                    }
                    Err(error) => {
                        if matches!(&error, kube::Error::Api(status) if status.code == 404) {
                            node = self.register().await;
                            written_at = None;
                        }
                        tracing::warn!(
                            error = error::chain(&error),
                            "writing the node's status, will retry"
                        );
                        wait = delay;
                        delay = (delay * 2).min(RETRY_LAST);
                    }
                }
            }
            tokio::select! {
                _ = health.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn runtime_facts(&self) -> (String, Vec<k8s_cri::v1::Image>) {
        let version = match self.runtime.version().await {
            Ok(version) => format!(
                "{}://{}",
                version.runtime_name,
                version.runtime_version.trim_start_matches('v')
            ),
            Err(_) => String::new(),
        };
        (version, self.runtime.list_images().await.unwrap_or_default())
    }
}

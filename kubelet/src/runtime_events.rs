//! containerd's event stream: what wakes workers when a container ends.
//!
//! CRI of containerd 1.6 has no events of its own. The stream tells no history, so after each (re)connection every
//! worker looks again.

use std::{sync::Arc, time::Duration};

use containerd_client::services::v1::{SubscribeRequest, events_client::EventsClient};
use prost::Message;
use tokio::sync::Notify;

use crate::{context::Wakes, runtime::Runtime};

/// The namespace of CRI's containers.
const FILTERS: [&str; 2] = [
    "namespace==k8s.io,topic==\"/tasks/exit\"",
    "namespace==k8s.io,topic==\"/tasks/oom\"",
];
/// A containerd that restarts is back within this.
const RETRY: Duration = Duration::from_millis(200);

/// Follows the stream for ever. `broken` is notified when it breaks.
pub async fn follow(runtime: Runtime, wakes: Wakes, broken: Arc<Notify>) {
    let mut down = false;
    loop {
        if let Err(status) = stream(&runtime, &wakes, &mut down).await
            && !down
        {
            tracing::warn!(
                error = status.message(),
                "containerd's events stopped, will reconnect"
            );
            down = true;
            broken.notify_one();
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn stream(runtime: &Runtime, wakes: &Wakes, down: &mut bool) -> Result<(), tonic::Status> {
    let mut client = EventsClient::new(runtime.channel());
    let filters = FILTERS.map(str::to_owned).to_vec();
    let mut events = client.subscribe(SubscribeRequest { filters }).await?.into_inner();
    if *down {
        tracing::info!("containerd is back");
        *down = false;
    }
    wakes.wake_all();
    while let Some(envelope) = events.message().await? {
        let Some(event) = envelope.event else { continue };
        // The type's name comes with or without a leading slash, by version.
        let type_name = event.type_url.rsplit('/').next().unwrap_or_default();
        match type_name {
            "containerd.events.TaskExit" => {
                if let Ok(exit) = containerd_client::events::TaskExit::decode(event.value.as_slice()) {
                    // Other ids are commands run in the container.
                    if exit.id == exit.container_id {
                        wakes.container_exited(&exit.container_id);
                    }
                }
            }
            "containerd.events.TaskOOM" => {
                if let Ok(oom) = containerd_client::events::TaskOom::decode(event.value.as_slice()) {
                    tracing::warn!(container = oom.container_id, "out of memory");
                }
            }
            _ => {}
        }
    }
    Err(tonic::Status::unavailable("the stream ended"))
}

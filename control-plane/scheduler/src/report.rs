//! What the scheduler writes: bindings, the `PodScheduled` condition, Events.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Binding, Event, EventSource, ObjectReference, Pod},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::pod::{PodReference, ScheduledCondition};

/// Event messages are cut here, as upstream's are.
const MESSAGE_BYTES_MAX: usize = 1024;
/// An older Event is written anew, because the API server forgets Events after an hour.
const COUNTED_UP_SECONDS_MAX: i64 = 50 * 60;

/// Gives the pod its node, unless it has one or is another pod of that name by now.
pub(crate) async fn bind(client: Client, pod: &PodReference, node: &str) -> kube::Result<()> {
    let binding = Binding {
        metadata: ObjectMeta {
            namespace: Some(pod.namespace.clone()),
            name: Some(pod.name.clone()),
            uid: Some(pod.uid.to_string()),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            ..ObjectReference::default()
        },
    };
    let pods = Api::<Pod>::namespaced(client, &pod.namespace);
    // The answer is a Status that says nothing more than the code does.
    let _: serde_json::Value = pods
        .create_subresource("binding", &pod.name, &PostParams::default(), &binding)
        .await?;
    Ok(())
}

/// Says in the pod's status why it has no node. `transition` tells whether the condition's status changes by that.
pub(crate) async fn set_condition(
    client: Client,
    pod: &PodReference,
    condition: &ScheduledCondition,
    transition: bool,
) -> kube::Result<()> {
    let mut patch = json!({
        "type": "PodScheduled",
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message,
    });
    if transition {
        patch["lastTransitionTime"] = json!(Time(Timestamp::now()));
    }
    // The uid makes it a conflict when the name belongs to another pod by now.
    let patch = json!({"metadata": {"uid": &*pod.uid}, "status": {"conditions": [patch]}});
    let pods = Api::<Pod>::namespaced(client, &pod.namespace);
    pods.patch_status(&pod.name, &PatchParams::default(), &Patch::Strategic(patch))
        .await?;
    Ok(())
}

/// What was last told about a pod, so that telling it again only counts up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    message: String,
    event: String,
    count: i32,
    since: Timestamp,
}

/// What an Event says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    Scheduled,
    FailedScheduling,
}

/// The Event to write about a pod, and what to remember of it; `before` is what was told last.
pub(crate) fn tell(
    pod: &PodReference,
    reason: Reason,
    message: &str,
    before: Option<&Told>,
    reporter: &str,
    now: Timestamp,
) -> (EventWrite, Told) {
    let message = cut(message);
    if let Some(told) = before.filter(|told| told.is_counted_up(message, now)) {
        let told = Told {
            count: told.count + 1,
            ..told.clone()
        };
        let patch = json!({"count": told.count, "lastTimestamp": Time(now)});
        return (
            EventWrite::CountUp {
                name: told.event.clone(),
                patch,
            },
            told,
        );
    }
    let told = Told {
        message: message.to_owned(),
        event: format!("{}.{:x}", pod.name, now.as_nanosecond()),
        count: 1,
        since: now,
    };
    let event = Event {
        metadata: ObjectMeta {
            name: Some(told.event.clone()),
            namespace: Some(pod.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(pod.namespace.clone()),
            name: Some(pod.name.clone()),
            uid: Some(pod.uid.to_string()),
            resource_version: Some(pod.resource_version.clone()),
            field_path: None,
        },
        type_: Some(reason.event_type().to_owned()),
        reason: Some(reason.as_str().to_owned()),
        message: Some(message.to_owned()),
        source: Some(EventSource {
            component: Some(reporter.to_owned()),
            host: None,
        }),
        reporting_component: Some(reporter.to_owned()),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Event::default()
    };
    (EventWrite::Create(Box::new(event)), told)
}

impl Told {
    fn is_counted_up(&self, message: &str, now: Timestamp) -> bool {
        self.message == message && now.as_second() - self.since.as_second() < COUNTED_UP_SECONDS_MAX
    }
}

/// A request about an Event.
#[derive(Debug, PartialEq)]
pub(crate) enum EventWrite {
    Create(Box<Event>),
    CountUp { name: String, patch: serde_json::Value },
}

impl EventWrite {
    pub(crate) async fn send(self, client: Client, namespace: &str) -> kube::Result<()> {
        let events = Api::<Event>::namespaced(client, namespace);
        match self {
            EventWrite::Create(event) => events.create(&PostParams::default(), &event).await?,
            EventWrite::CountUp { name, patch } => {
                events
                    .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
                    .await?
            }
        };
        Ok(())
    }
}

impl Reason {
    fn as_str(self) -> &'static str {
        match self {
            Reason::Scheduled => "Scheduled",
            Reason::FailedScheduling => "FailedScheduling",
        }
    }

    fn event_type(self) -> &'static str {
        match self {
            Reason::Scheduled => "Normal",
            Reason::FailedScheduling => "Warning",
        }
    }
}

fn cut(message: &str) -> &str {
    &message[..message.floor_char_boundary(MESSAGE_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_again_is_counted() {
        let pod = PodReference {
            namespace: "ns".into(),
            name: "web".into(),
            uid: "uid".into(),
            resource_version: "7".into(),
        };
        let tell = |message: &str, before: Option<&Told>, second| {
            let now = Timestamp::from_second(second).unwrap();
            tell(
                &pod,
                Reason::FailedScheduling,
                message,
                before,
                "default-scheduler",
                now,
            )
        };
        let (EventWrite::Create(event), first) = tell("no", None, 1) else {
            panic!()
        };
        assert_eq!(event.metadata.name.as_deref(), Some("web.3b9aca00"));
        assert_eq!(
            (event.type_.as_deref(), event.reason.as_deref()),
            (Some("Warning"), Some("FailedScheduling"))
        );
        let (EventWrite::CountUp { name, patch }, second) = tell("no", Some(&first), 2) else {
            panic!()
        };
        assert_eq!(name, "web.3b9aca00");
        assert_eq!(
            patch,
            json!({"count": 2, "lastTimestamp": "1970-01-01T00:00:02Z"})
        );
        assert!(matches!(
            tell("otherwise", Some(&second), 3).0,
            EventWrite::Create(_)
        ));
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        let long = "\u{e9}".repeat(600);
        assert_eq!(cut(&long).len(), 1024);
        assert_eq!(cut(&format!("x{long}")).len(), 1023);
    }
}

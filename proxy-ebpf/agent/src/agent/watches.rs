//! The watches on the API, as one stream of what is kept of their objects.

use std::time::{Duration, SystemTime};

use futures::{Stream, StreamExt as _, stream};
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ListParams, ObjectList},
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use tracing::{info, warn};

use super::chain;
use crate::{
    desired::{EndpointSlice, LABEL_SELECTOR, ObjectName, Service},
    host_ports::HostPorts,
    node,
    opt_outs::OptOut,
};

/// How long programs and maps wait for the API server where there are none yet.
const COUNT_TIMEOUT: Duration = Duration::from_secs(2);

const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// An event of one of the watches, reduced to what is kept.
pub(super) enum Watched {
    Service(Event<(ObjectName, Option<Service>)>),
    /// With the time of the change that led to it, if it says so.
    EndpointSlice(Event<(ObjectName, Option<EndpointSlice>)>, Option<SystemTime>),
    Node(Event<(String, Option<node::Node>)>),
    /// Its host ports, and whether its sockets are left alone.
    Pod(
        Event<(ObjectName, Option<HostPorts>)>,
        Event<(ObjectName, Option<OptOut>)>,
    ),
}

/// All watches as one endless stream; their errors are logged and retried inside.
pub(super) fn events(client: Client, node_name: String) -> impl Stream<Item = Watched> + Unpin {
    let ours = watcher::Config::default().labels(LABEL_SELECTOR);
    let own = watcher::Config::default().fields(&format!("spec.nodeName={node_name}"));
    let services = watch(
        Api::<core::Service>::all(client.clone()),
        ours.clone(),
        "Services",
    )
    .map(|event| {
        Watched::Service(reduce(event, |service| {
            (object_name(&service), Service::from_api(&service))
        }))
    });
    let slices = watch(
        Api::<discovery::EndpointSlice>::all(client.clone()),
        ours,
        "EndpointSlices",
    )
    .map(move |event| {
        let trigger = match &event {
            Event::Apply(slice) => trigger_time(slice),
            _ => None,
        };
        let event = reduce(event, |slice| {
            (object_name(&slice), EndpointSlice::from_api(&slice, &node_name))
        });
        Watched::EndpointSlice(event, trigger)
    });
    let pods = watch(Api::<core::Pod>::all(client.clone()), own, "Pods").map(|event| {
        let event = reduce(event, |pod| {
            // A name that no Service has, since a colon is in none.
            let name = ObjectName::new(
                &pod.namespace().unwrap_or_default(),
                &format!("pod:{}", pod.name_any()),
            );
            (name, HostPorts::from_api(&pod), OptOut::from_api(&pod))
        });
        let (ports, opt_out) = match event {
            Event::Apply((name, ports, opt_out)) => {
                (Event::Apply((name.clone(), ports)), Event::Apply((name, opt_out)))
            }
            Event::Delete((name, ports, opt_out)) => (
                Event::Delete((name.clone(), ports)),
                Event::Delete((name, opt_out)),
            ),
            Event::InitApply((name, ports, opt_out)) => (
                Event::InitApply((name.clone(), ports)),
                Event::InitApply((name, opt_out)),
            ),
            Event::Init => (Event::Init, Event::Init),
            Event::InitDone => (Event::InitDone, Event::InitDone),
        };
        Watched::Pod(ports, opt_out)
    });
    let nodes = watch(
        Api::<core::Node>::all(client),
        watcher::Config::default(),
        "Nodes",
    )
    .map(|event| {
        Watched::Node(reduce(event, |node| {
            (node.name_any(), Some(node::Node::from_api(&node)))
        }))
    });
    let streams = [
        services.boxed_local(),
        slices.boxed_local(),
        nodes.boxed_local(),
        pods.boxed_local(),
    ];
    stream::select_all(streams)
}

fn watch<K>(api: Api<K>, config: watcher::Config, what: &'static str) -> impl Stream<Item = Event<K>>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    watcher(api, config).default_backoff().filter_map(move |event| {
        std::future::ready(match event {
            Ok(event) => Some(event),
            Err(error) => {
                warn!(watch = what, error = %chain(&error), "will retry");
                None
            }
        })
    })
}

/// When the pod or Service changed that the slice follows.
fn trigger_time(slice: &discovery::EndpointSlice) -> Option<SystemTime> {
    let time = slice.annotations().get(TRIGGER_TIME)?;
    time.parse::<jiff::Timestamp>().ok().map(SystemTime::from)
}

fn object_name<K: ResourceExt>(object: &K) -> ObjectName {
    ObjectName::new(&object.namespace().unwrap_or_default(), &object.name_any())
}

fn reduce<K, T>(event: Event<K>, f: impl FnOnce(K) -> T) -> Event<T> {
    match event {
        Event::Apply(object) => Event::Apply(f(object)),
        Event::Delete(object) => Event::Delete(f(object)),
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(f(object)),
        Event::InitDone => Event::InitDone,
    }
}

/// How many Services or EndpointSlices there are, whichever are more. Zero if the API server does not say so quickly: maps grow.
pub(super) async fn count(client: &Client) -> u64 {
    let one = ListParams::default().limit(1);
    let count = async {
        let services = Api::<core::Service>::all(client.clone()).list(&one).await?;
        let slices = Api::<discovery::EndpointSlice>::all(client.clone())
            .list(&one)
            .await?;
        Ok::<_, kube::Error>(length(&services).max(length(&slices)))
    };
    match tokio::time::timeout(COUNT_TIMEOUT, count).await {
        Ok(Ok(count)) => count,
        Ok(Err(error)) => {
            info!(error = %chain(&error), "nobody says how many Services there are: the maps begin small");
            0
        }
        Err(_) => {
            info!("nobody says how many Services there are: the maps begin small");
            0
        }
    }
}

/// Of a list that is told page by page, of which this is the first.
fn length<K: Clone>(list: &ObjectList<K>) -> u64 {
    let rest = list.metadata.remaining_item_count.unwrap_or(0);
    list.items.len() as u64 + u64::try_from(rest).unwrap_or(0)
}

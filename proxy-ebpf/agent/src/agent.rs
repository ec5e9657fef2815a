//! The loop: events in, plans out.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use futures::{FutureExt as _, Stream, StreamExt as _, stream};
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ListParams, ObjectList},
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::{
    apply::{Maps, MapsError},
    connections::{Collector, plan::Flush},
    desired::{EndpointSlice, LABEL_SELECTOR, ObjectName, Service, SocketAddress},
    devices::{DeviceSettings, Devices},
    health_checks::HealthChecks,
    healthz::Health,
    host_ports::HostPorts,
    inspect::{drops, monitor},
    metrics::{Metrics, State, Sync},
    node::{self, NodeSettings},
    node_ports::NodePortAddresses,
    objects::{Collection, Objects},
    opt_outs::{OptOut, OptOuts},
    pace::Pace,
    packets::PacketPrograms,
    pins::Pins,
    plan::{Plan, Tables},
    programs::{self, Features, ProgramsError, Room},
    refusals::Refusals,
    sockets::{Left, Reaper},
};

/// How long after a failed write the maps are read and written anew. A full map does not empty itself in milliseconds.
const RETRY: Duration = Duration::from_secs(5);

/// How long programs and maps wait for the API server where there are none yet.
const COUNT_TIMEOUT: Duration = Duration::from_secs(2);

/// A map that is still too small with this many entries is filled by mistake or malice; growing it would take gigabytes.
pub const MAP_ENTRIES_MAX: u32 = 1 << 24;

/// After so many writes to the maps, memory that came free is given back: what was kept of the API's objects lies between what
/// was only needed to read them.
const WRITES_PER_RELEASE: usize = 1 << 15;

const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// What the agent is told.
#[derive(Debug)]
pub struct Settings {
    /// This node's name.
    pub node_name: String,
    /// The cgroup whose sockets are translated.
    pub cgroup_path: PathBuf,
    /// Where maps and links are pinned.
    pub bpf_dir: PathBuf,
    /// Which addresses have node ports.
    pub node_port_addresses: NodePortAddresses,
    /// Whether sockets are translated; packets are in any case.
    pub translate_sockets: bool,
    /// How many entries a map may grow to. When that is not enough, the largest Services are left out.
    pub map_entries_max: u32,
    /// The node half of the network plugin.
    pub node: NodeSettings,
}

/// Runs until the future is dropped. What it has set up stays.
pub async fn run(client: Client, settings: Settings, health: Health, metrics: Metrics) -> Result<()> {
    let pins = Pins::open(&settings.bpf_dir)?;
    let mut features = Features {
        translate_sockets: settings.translate_sockets,
        ..Features::detect()?
    };
    if pins.is_new()? {
        features.frontends = programs::frontends_for(count(&client).await);
    }
    // Before the API is asked for anything else: after an upgrade the new programs should run even if the API server is down.
    let packets = programs::install(&pins, &settings.cgroup_path, features)?;
    let maps = Maps::open(&pins.maps())?;
    let tables = Tables::new(maps.read()?);
    let maps_dir = pins.maps();
    if let Err(error) = node::reserve_snat_ports() {
        warn!(error = %chain(&error), "connections of pods and of the node may get the same ports");
    }
    if let Err(error) = monitor::switch_off(&maps_dir) {
        debug!(%error, "events of a monitor that was killed may go on");
    }
    metrics.set_drops(Box::new(move || {
        drops::read(&maps_dir).unwrap_or_else(|error| {
            debug!(%error, "nobody knows what was dropped");
            Vec::new()
        })
    }));
    if tables.frontends() > 0 {
        health.taken_over();
    }
    info!(
        cgroup = %settings.cgroup_path.display(),
        frontends = tables.frontends(),
        backends = tables.backends(),
        "the programs are attached"
    );
    let mut devices = Devices::open(
        DeviceSettings {
            node_name: settings.node_name.clone(),
            masquerade: settings.node.cni_conf_dir.is_some(),
        },
        &pins,
    )?;
    let mut proxy = Proxy {
        packets,
        packets_replaced: false,
        collector: Collector::start(&pins.maps())?,
        reaper: Reaper::start(
            settings.cgroup_path.clone(),
            &pins.maps(),
            metrics.sockets_ended(),
        )?,
        left: Vec::new(),
        appeared: Vec::new(),
        health_checks: HealthChecks::new(health.clone()),
        metrics,
        triggers: Vec::new(),
        pins,
        cgroup: settings.cgroup_path,
        features,
        maps,
        tables,
        objects: Objects::default(),
        stale: false,
        complete: false,
        retry: None,
        blocked: BTreeSet::new(),
        writes: 0,
        map_entries_max: settings.map_entries_max,
        refusals: Refusals::default(),
        pace: Pace::default(),
        node_addresses: BTreeSet::new(),
    };
    let mut nodes = Collection::default();
    let pod_devices = settings.node.pod_devices;
    let cni_data_dir = settings.node.cni_data_dir.clone();
    let mut network = node::Network::new(
        settings.node_name.clone(),
        NodeSettings {
            pod_devices: pod_devices.for_agent(proxy.packets.runs_on_netkit()),
            ..settings.node
        },
    );

    let started = SystemTime::now();
    // With another network plugin, host ports are that plugin's.
    let host_ports = network.is_ours();
    if host_ports {
        proxy.objects.expect_pods();
    }
    let mut opt_outs = OptOuts::open(
        &proxy.pins.maps(),
        features.netns_cookie.is_some(),
        host_ports.then_some(&*cni_data_dir),
    )?;
    let mut events = events(client, settings.node_name.clone());
    loop {
        let retry = [
            proxy.retry,
            proxy.next_turn(),
            proxy.health_checks.retry(),
            network.retry(),
            devices.retry(),
            opt_outs.retry(),
        ];
        let retry = retry.into_iter().flatten().min();
        let first = tokio::select! {
            event = events.next() => Some(event.context("the watches have ended")?),
            () = sleep_until(retry), if retry.is_some() => None,
            () = network.disturbed() => None,
            () = devices.disturbed() => {
                // A device may be that of a new pod.
                opt_outs.look_again();
                None
            }
        };
        // Whatever else is there already is planned together.
        let mut next = first;
        let mut nodes_changed = false;
        while let Some(event) = next {
            match event {
                Watched::Service(event) => proxy.on_service(event),
                Watched::EndpointSlice(event, trigger) => {
                    // As upstream: what happened before this agent watched is not its latency.
                    proxy.on_slice(event, trigger.filter(|trigger| *trigger >= started));
                }
                Watched::Node(event) => nodes.on_event(event, |_, _, _| nodes_changed = true),
                Watched::Pod(ports, opt_out) => {
                    if host_ports {
                        proxy.objects.on_pod(ports);
                    }
                    opt_outs.on_pod(opt_out);
                }
            }
            next = events.next().now_or_never().flatten();
        }
        // First of all: the pod's application is about to start.
        opt_outs.reconcile();
        if nodes.synced() {
            if nodes_changed {
                proxy.node_addresses = settings.node_port_addresses.of(nodes.current().values());
                let node = nodes.current().get(&settings.node_name);
                proxy.objects.set_zone(node.and_then(|node| node.zone.as_deref()));
                let own = node
                    .into_iter()
                    .flat_map(|node| node.internal_ips.iter().chain(&node.external_ips));
                proxy.objects.set_node_addresses(own.copied().collect());
                health.set_leaving(node.is_some_and(|node| node.leaving));
            }
            proxy.reconcile();
            proxy.health_checks.reconcile().await;
        }
        proxy.report(&health);
        let due = network.retry().is_some_and(|retry| retry <= Instant::now());
        if std::mem::take(&mut proxy.packets_replaced) {
            devices.programs_replaced();
        }
        // Nodes that are not known yet must not be taken for gone: their pods' networks would be masqueraded.
        if nodes.synced() {
            let current = nodes.current();
            devices
                .reconcile(&proxy.pins, &proxy.packets, current, nodes_changed)
                .await;
        }
        if nodes.synced() && (nodes_changed || due) {
            network.reconcile(nodes.current()).await;
        }
    }
}

/// How many Services or EndpointSlices there are, whichever are more. Zero if the API server does not say so quickly: maps grow.
async fn count(client: &Client) -> u64 {
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

async fn sleep_until(deadline: Option<Instant>) {
    if let Some(deadline) = deadline {
        tokio::time::sleep_until(deadline).await;
    }
}

/// The service load balancer.
struct Proxy {
    packets: PacketPrograms,
    /// Whether the programs of the packet path are others than devices have been told of.
    packets_replaced: bool,
    collector: Collector,
    health_checks: HealthChecks,
    metrics: Metrics,
    /// When the changes happened that are not in the maps yet, and of which Service.
    triggers: Vec<(ObjectName, SystemTime)>,
    pins: Pins,
    cgroup: PathBuf,
    features: Features,
    reaper: Reaper,
    /// Backends that are about to leave their services; their sockets are ended once no new ones can be made.
    left: Vec<Left>,
    /// UDP addresses that are about to become a Service's.
    appeared: Vec<SocketAddress>,
    maps: Maps,
    tables: Tables,
    objects: Objects,
    /// Whether the maps may hold something else than `tables` says, because a plan was not carried out to its end.
    stale: bool,
    /// Whether `tables` is known to be what the API asks for, except for the changes that `objects` has collected.
    complete: bool,
    retry: Option<Instant>,
    /// Services that want an address which another one has. Whenever something changes they are asked again.
    blocked: BTreeSet<ObjectName>,
    /// How many entries were written since free memory was given back.
    writes: usize,
    map_entries_max: u32,
    /// Services that are too large for the maps.
    refusals: Refusals,
    /// Services that are so large that they are not planned at once whenever they change.
    pace: Pace,
    /// Addresses that should have node ports.
    node_addresses: BTreeSet<IpAddr>,
}

impl Proxy {
    fn on_service(&mut self, event: Event<(ObjectName, Option<Service>)>) {
        let changed = self.objects.on_service(event);
        self.metrics.services_changed(changed, SystemTime::now());
    }

    fn on_slice(&mut self, event: Event<(ObjectName, Option<EndpointSlice>)>, trigger: Option<SystemTime>) {
        let service = match &event {
            Event::Apply((_, Some(slice))) => Some(slice.service().clone()),
            _ => None,
        };
        let changed = self.objects.on_slice(event);
        self.metrics.endpoints_changed(changed, SystemTime::now());
        if changed > 0 {
            self.triggers.extend(service.zip(trigger));
        }
    }

    /// Brings the maps in step with the objects, if that is possible and due.
    fn reconcile(&mut self) {
        if !self.objects.synced() || self.retry.is_some_and(|retry| retry > Instant::now()) {
            return;
        }
        if self.complete {
            let now = Instant::now();
            let all_wait = self
                .objects
                .changed()
                .iter()
                .all(|service| self.waits(service, now));
            if all_wait && self.tables.node_addresses() == &self.node_addresses {
                return;
            }
            for service in &self.blocked {
                self.objects.touch(service.clone());
            }
        }
        // A map that has just been found full is not tried again before something has changed.
        let mut has_refused = false;
        while let Err(error) = self.try_reconcile() {
            self.complete = false;
            let mended = match error {
                ProgramsError::Maps(MapsError::Full { name, max_entries })
                    if max_entries <= self.map_entries_max / 2 =>
                {
                    // As it was written: what goes is deleted after what comes.
                    let max_entries = max_entries * 2;
                    self.grow(&[Room { name, max_entries }])
                }
                ProgramsError::Maps(MapsError::Full { name, max_entries }) => {
                    has_refused = true;
                    self.refuse(name, max_entries)
                }
                error => Err(error),
            };
            if let Err(error) = mended {
                warn!(error = %chain(&error), "the maps could not be written, will retry");
                self.metrics.sync_failed();
                self.retry = Some(Instant::now() + RETRY);
                return;
            }
        }
        self.retry = None;
        if !std::mem::replace(&mut self.complete, true) {
            // Up to now what programs of another layout do may have been all that is done.
            match self.pins.remove_other_versions() {
                Ok(0) => {}
                Ok(removed) => info!(removed, "took over from an agent with another layout of tables"),
                Err(error) => warn!(error = %chain(&error), "programs of another layout may still run"),
            }
        }
        if !has_refused && self.readmit() {
            self.reconcile();
        }
    }

    /// Whether a Service has to let others go first. One that is gone leaves room, which others may be waiting for.
    fn waits(&self, service: &ObjectName, now: Instant) -> bool {
        self.pace.rests_until(service, now).is_some() && self.objects.is_there(service)
    }

    /// When the first of the Services that wait is to be planned.
    fn next_turn(&self) -> Option<Instant> {
        if !self.complete {
            // There is a time to try again then, for all of them.
            return None;
        }
        let now = Instant::now();
        let waiting = self.objects.changed().iter();
        let turns = waiting.map(|service| self.pace.rests_until(service, now).unwrap_or(now));
        turns.min()
    }

    /// Asks for those Services to be planned that were left out and for which there is room now, because others have left it or
    /// because they ask for less. Whether there are any.
    fn readmit(&mut self) -> bool {
        let room = self.maps.room(self.tables.sizes(), self.map_entries_max);
        let admitted = self.refusals.admit(room);
        for service in &admitted {
            info!(%service, "the Service is let in: there is room for it");
            self.objects.touch(service.clone());
        }
        !admitted.is_empty()
    }

    fn try_reconcile(&mut self) -> Result<(), ProgramsError> {
        if self.stale {
            self.tables = Tables::new(self.maps.read()?);
        }
        let begun = Instant::now();
        let sync = if self.complete { Sync::Partial } else { Sync::Full };
        let mut changes = if self.complete {
            let changed = self.objects.changed().iter();
            let waiting = changed.filter(|service| self.waits(service, begun));
            let waiting: BTreeSet<_> = waiting.cloned().collect();
            self.objects.take_changes(|service| waiting.contains(service))
        } else {
            self.health_checks.clear();
            let all = self.objects.all();
            self.refusals.keep_only(&all);
            all
        };
        let sizes: Vec<_> = changes
            .iter()
            .map(|change| (change.service.clone(), change.backends()))
            .collect();
        self.refusals.apply(&mut changes);
        for change in &changes {
            self.health_checks.set(&change.service, change.health_check);
        }
        let mut plan = if self.complete {
            self.tables.plan(changes)
        } else {
            self.tables.plan_all(changes)
        };
        self.tables
            .plan_node_addresses(self.node_addresses.clone(), &mut plan);
        // Not after a socket may have been sent to them again.
        self.reaper.spare(&plan.joined);
        self.left.retain(|left| !plan.joined.contains(left));
        self.left.extend(&plan.left);
        self.appeared.extend(&plan.appeared);
        // Until the plan is carried out the tables are ahead of the maps.
        self.stale = true;
        let planned = begun.elapsed();
        let rooms = self.maps.too_small(self.tables.sizes(), self.map_entries_max);
        if !rooms.is_empty() {
            self.grow(&rooms)?;
        }
        let applying = Instant::now();
        self.maps.apply(&plan)?;
        self.stale = false;
        // Without the growth of maps, which is rare and nobody's in particular.
        let took = planned + applying.elapsed();
        let planned = sizes.iter().map(|(service, backends)| (service, *backends));
        self.pace.planned(Instant::now(), took, planned);
        self.collector.flush(Flush {
            left: self.left.iter().copied().collect(),
            appeared: self.appeared.drain(..).collect(),
            joined: plan.joined.iter().copied().collect(),
        });
        self.reaper.end(std::mem::take(&mut self.left));
        // Also of a Service that is left out.
        let backends = sizes.iter().map(|(_, backends)| backends).sum();
        self.writes += plan.writes().max(backends);
        self.done(plan);
        if !self.complete || self.writes >= WRITES_PER_RELEASE {
            self.writes = 0;
            self.tables.shrink();
            heap::release();
        }
        let changed = self.objects.changed();
        let (waiting, done): (Vec<_>, Vec<_>) = std::mem::take(&mut self.triggers)
            .into_iter()
            .partition(|(service, _)| changed.contains(service));
        self.triggers = waiting;
        let triggers: Vec<_> = done.into_iter().map(|(_, time)| time).collect();
        self.metrics
            .synced(sync, SystemTime::now(), begun.elapsed(), &triggers);
        let usage = self.maps.usage(self.tables.sizes());
        self.metrics.set_state(
            usage,
            State {
                conflicts: self.blocked.len(),
                refused: self.refusals.count(),
                ignored_endpoints: self.objects.ignored_endpoints(),
            },
        );
        Ok(())
    }

    /// Says whether there is something that should be in the maps and is not.
    fn report(&self, health: &Health) {
        if self.complete {
            health.synced(SystemTime::now());
        } else if self.objects.synced() {
            health.pending(std::time::Instant::now());
        }
    }

    /// Leaves out the largest Service, because a map that must not grow any more is full, and removes what it has in the maps.
    fn refuse(&mut self, name: &'static str, max_entries: u32) -> Result<(), ProgramsError> {
        let all = self.objects.all();
        let Some(refused) = self.refusals.refuse_largest(&all, max_entries) else {
            return Err(MapsError::Full { name, max_entries }.into());
        };
        warn!(
            service = %refused.service,
            entries = refused.size,
            map = name,
            max_entries,
            "the Service is left out: a map is full and must not grow any more"
        );
        // As before every full plan: the maps may hold less, or other things, than the last plan says.
        self.tables = Tables::new(self.maps.read()?);
        self.stale = true;
        let plan = self.tables.plan_deletion(refused.frontends);
        self.left.extend(&plan.left);
        Ok(self.maps.apply(&plan)?)
    }

    /// Makes room in maps that are full, or would be.
    fn grow(&mut self, rooms: &[Room]) -> Result<(), ProgramsError> {
        self.packets = programs::grow(&self.pins, &self.cgroup, self.features, &self.maps, rooms)?;
        self.packets_replaced = true;
        self.maps = Maps::open(&self.pins.maps())?;
        for Room { name, max_entries } in rooms {
            info!(
                map = name,
                max_entries, "the map has been replaced by a larger one"
            );
        }
        Ok(())
    }

    fn done(&mut self, plan: Plan) {
        let blocked: BTreeSet<_> = plan
            .conflicts
            .iter()
            .map(|(service, _)| service.clone())
            .collect();
        for (service, address) in plan
            .conflicts
            .iter()
            .filter(|(service, _)| !self.blocked.contains(service))
        {
            warn!(%service, %address, "another Service has this address");
        }
        self.blocked = blocked;
        if plan.is_empty() && self.complete {
            return;
        }
        let (changed, gone) = (plan.put_frontends.len(), plan.delete_frontends.len());
        let (backends, backends_gone) = (plan.put_backends.len(), plan.delete_backends.len());
        if self.complete {
            debug!(
                changed,
                gone,
                backends,
                backends_gone,
                writes = plan.writes(),
                "planned and written"
            );
        } else {
            info!(
                changed,
                gone,
                unchanged = plan.unchanged,
                backends,
                backends_gone,
                "in step with the API"
            );
        }
    }
}

/// An event of one of the watches, reduced to what is kept.
enum Watched {
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
fn events(client: Client, node_name: String) -> impl Stream<Item = Watched> + Unpin {
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

/// An error with all that led to it.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        // Some libraries repeat their source in their own text.
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        source = error.source();
    }
    text
}

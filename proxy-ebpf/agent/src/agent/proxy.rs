//! The service load balancer: what the API asks for, what is in the maps, and the way from one to the other.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::Result;
use kube::{Client, runtime::watcher::Event};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{Settings, chain, watches::count};
use crate::{
    apply::{Maps, MapsError},
    connections::{Collector, plan::Flush},
    desired::{EndpointSlice, ObjectName, Service, SocketAddress},
    health_checks::HealthChecks,
    healthz::Health,
    inspect::{drops, monitor},
    metrics::{Metrics, State, Sync},
    node,
    objects::Objects,
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

/// After so many writes to the maps, memory that came free is given back: what was kept of the API's objects lies between what
/// was only needed to read them.
const WRITES_PER_RELEASE: usize = 1 << 15;

/// The service load balancer.
pub(super) struct Proxy {
    pub(super) packets: PacketPrograms,
    /// Whether the programs of the packet path are others than devices have been told of.
    pub(super) packets_replaced: bool,
    collector: Collector,
    pub(super) health_checks: HealthChecks,
    metrics: Metrics,
    /// When the changes happened that are not in the maps yet, and of which Service.
    triggers: Vec<(ObjectName, SystemTime)>,
    pub(super) pins: Pins,
    cgroup: PathBuf,
    pub(super) features: Features,
    reaper: Reaper,
    /// Backends that are about to leave their services; their sockets are ended once no new ones can be made.
    left: Vec<Left>,
    /// UDP addresses that are about to become a Service's.
    appeared: Vec<SocketAddress>,
    maps: Maps,
    tables: Tables,
    pub(super) objects: Objects,
    /// Whether the maps may hold something else than `tables` says, because a plan was not carried out to its end.
    stale: bool,
    /// Whether `tables` is known to be what the API asks for, except for the changes that `objects` has collected.
    complete: bool,
    pub(super) retry: Option<Instant>,
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
    pub(super) node_addresses: BTreeSet<IpAddr>,
}

impl Proxy {
    /// Loads the programs in place of those that an earlier agent has left, and reads what it has left in the maps.
    pub(super) async fn start(
        client: &Client,
        settings: &Settings,
        health: Health,
        metrics: Metrics,
    ) -> Result<Self> {
        let pins = Pins::open(&settings.bpf_dir)?;
        let mut features = Features {
            translate_sockets: settings.translate_sockets,
            ..Features::detect()?
        };
        if pins.is_new()? {
            features.frontends = programs::frontends_for(count(client).await);
        }
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
        Ok(Self {
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
            health_checks: HealthChecks::new(health),
            metrics,
            triggers: Vec::new(),
            pins,
            cgroup: settings.cgroup_path.clone(),
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
        })
    }

    pub(super) fn on_service(&mut self, event: Event<(ObjectName, Option<Service>)>) {
        let changed = self.objects.on_service(event);
        self.metrics.services_changed(changed, SystemTime::now());
    }

    pub(super) fn on_slice(
        &mut self,
        event: Event<(ObjectName, Option<EndpointSlice>)>,
        trigger: Option<SystemTime>,
    ) {
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
    pub(super) fn reconcile(&mut self) {
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
    pub(super) fn next_turn(&self) -> Option<Instant> {
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
        if !self.complete {
            // Of what an earlier agent had begun to end, or could not.
            let inherited = self
                .reaper
                .inherited()
                .into_iter()
                .chain(self.collector.inherited());
            self.left.extend(self.tables.astray(inherited));
        }
        self.collector.flush(Flush {
            left: self.left.iter().copied().collect(),
            appeared: self.appeared.drain(..).collect(),
            joined: plan.joined.iter().copied().collect(),
            ..Flush::default()
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
    pub(super) fn report(&self, health: &Health) {
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

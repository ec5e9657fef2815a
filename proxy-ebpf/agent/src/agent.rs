//! The loop: events in, plans out.

mod proxy;
mod watches;

use std::{path::PathBuf, time::SystemTime};

use anyhow::{Context as _, Result};
use futures::{FutureExt as _, StreamExt as _};
use kube::Client;
use tokio::time::Instant;

use self::{
    proxy::Proxy,
    watches::{Watched, events},
};
use crate::{
    devices::{DeviceSettings, Devices},
    healthz::Health,
    metrics::Metrics,
    node::{self, NodeSettings},
    node_ports::NodePortAddresses,
    objects::Collection,
    opt_outs::OptOuts,
};

/// A map that is still too small with this many entries is filled by mistake or malice; growing it would take gigabytes.
pub const MAP_ENTRIES_MAX: u32 = 1 << 24;

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
    // Before the API is asked for anything else: after an upgrade the new programs should run even if the API server is down.
    let mut proxy = Proxy::start(&client, &settings, health.clone(), metrics).await?;
    let mut devices = Devices::open(
        DeviceSettings {
            node_name: settings.node_name.clone(),
            masquerade: settings.node.cni_conf_dir.is_some(),
        },
        &proxy.pins,
    )?;
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
        proxy.features.netns_cookie.is_some(),
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

async fn sleep_until(deadline: Option<Instant>) {
    if let Some(deadline) = deadline {
        tokio::time::sleep_until(deadline).await;
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

//! The variables by which pods of old found Services.
//!
//! Watches all Services, and keeps of each only what those variables need.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{
    Api,
    runtime::{WatchStreamExt, watcher},
};
use tokio::sync::watch;

use crate::{backoff::WatchBackoff, pod};

/// What is kept of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePorts {
    /// Its ClusterIP.
    pub cluster_ip: String,
    /// Name, protocol and number of each port.
    pub ports: Vec<(Option<String>, String, i32)>,
}

impl ServicePorts {
    fn of(service: &Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        let cluster_ip = spec
            .cluster_ip
            .clone()
            .filter(|ip| !ip.is_empty() && ip != "None")?;
        let ports = spec.ports.iter().flatten().map(|port| {
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
            (
                port.name.clone().filter(|name| !name.is_empty()),
                protocol,
                port.port,
            )
        });
        Some(Self {
            cluster_ip,
            ports: ports.collect(),
        })
    }
}

type Services = HashMap<(String, String), ServicePorts>;

/// The Services of the cluster, in brief.
#[derive(Debug, Clone)]
pub struct ServiceCache {
    services: Arc<RwLock<Services>>,
    synced: watch::Receiver<bool>,
}

impl ServiceCache {
    /// Starts watching.
    pub fn start(client: kube::Client) -> Self {
        let services = Arc::new(RwLock::new(Services::new()));
        let (synced, receiver) = watch::channel(false);
        tokio::spawn(keep(client, services.clone(), synced));
        Self {
            services,
            synced: receiver,
        }
    }

    /// The variables a pod gets. Waits for the first list: a pod must not start without its variables.
    pub async fn variables(&self, pod: &Pod) -> BTreeMap<String, String> {
        let mut synced = self.synced.clone();
        if synced.wait_for(|synced| *synced).await.is_err() {
            return BTreeMap::new();
        }
        let links = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.enable_service_links)
            .unwrap_or(true);
        let services = self.services.read().unwrap_or_else(PoisonError::into_inner);
        let mut variables = BTreeMap::new();
        for ((namespace, name), ports) in services.iter() {
            let master = namespace == "default" && name == "kubernetes";
            if master || links && namespace == pod::namespace(pod) {
                service_variables(name, ports, &mut variables);
            }
        }
        variables
    }
}

async fn keep(client: kube::Client, services: Arc<RwLock<Services>>, synced: watch::Sender<bool>) {
    let write = || services.write().unwrap_or_else(PoisonError::into_inner);
    let mut fresh = Services::new();
    let events =
        watcher(Api::<Service>::all(client), watcher::Config::default()).backoff(WatchBackoff::default());
    let mut events = std::pin::pin!(events);
    loop {
        let event = match events.try_next().await {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, "watching Services");
                continue;
            }
        };
        match event {
            watcher::Event::Init => fresh.clear(),
            watcher::Event::InitApply(service) => insert(&mut fresh, &service),
            watcher::Event::InitDone => {
                *write() = std::mem::take(&mut fresh);
                synced.send_replace(true);
            }
            watcher::Event::Apply(service) => insert(&mut write(), &service),
            watcher::Event::Delete(service) => {
                write().remove(&key(&service));
            }
        }
    }
}

fn key(service: &Service) -> (String, String) {
    (
        service.metadata.namespace.clone().unwrap_or_default(),
        service.metadata.name.clone().unwrap_or_default(),
    )
}

fn insert(services: &mut Services, service: &Service) {
    match ServicePorts::of(service) {
        Some(ports) => services.insert(key(service), ports),
        None => services.remove(&key(service)),
    };
}

/// Adds the variables of one Service: `NAME_SERVICE_HOST` and so on, and those of Docker's links.
pub fn service_variables(name: &str, service: &ServicePorts, variables: &mut BTreeMap<String, String>) {
    let upper = |text: &str| text.to_uppercase().replace('-', "_");
    let name = upper(name);
    let Some((_, _, first_port)) = service.ports.first() else {
        return;
    };
    let host = &service.cluster_ip;
    variables.insert(format!("{name}_SERVICE_HOST"), host.clone());
    variables.insert(format!("{name}_SERVICE_PORT"), first_port.to_string());
    for (index, (port_name, protocol, port)) in service.ports.iter().enumerate() {
        if let Some(port_name) = port_name {
            variables.insert(
                format!("{name}_SERVICE_PORT_{}", upper(port_name)),
                port.to_string(),
            );
        }
        let authority = if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        let url = format!("{}://{authority}", protocol.to_lowercase());
        if index == 0 {
            variables.insert(format!("{name}_PORT"), url.clone());
        }
        let prefix = format!("{name}_PORT_{port}_{}", protocol.to_uppercase());
        variables.insert(format!("{prefix}_PROTO"), protocol.to_lowercase());
        variables.insert(format!("{prefix}_PORT"), port.to_string());
        variables.insert(format!("{prefix}_ADDR"), host.clone());
        variables.insert(prefix, url);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_a_service() {
        let service = ServicePorts {
            cluster_ip: "10.96.0.7".into(),
            ports: vec![
                (Some("http-web".into()), "TCP".into(), 80),
                (None, "UDP".into(), 53),
            ],
        };
        let mut variables = BTreeMap::new();
        service_variables("my-app", &service, &mut variables);
        let lines: Vec<String> = variables
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(
            lines,
            [
                "MY_APP_PORT=tcp://10.96.0.7:80",
                "MY_APP_PORT_53_UDP=udp://10.96.0.7:53",
                "MY_APP_PORT_53_UDP_ADDR=10.96.0.7",
                "MY_APP_PORT_53_UDP_PORT=53",
                "MY_APP_PORT_53_UDP_PROTO=udp",
                "MY_APP_PORT_80_TCP=tcp://10.96.0.7:80",
                "MY_APP_PORT_80_TCP_ADDR=10.96.0.7",
                "MY_APP_PORT_80_TCP_PORT=80",
                "MY_APP_PORT_80_TCP_PROTO=tcp",
                "MY_APP_SERVICE_HOST=10.96.0.7",
                "MY_APP_SERVICE_PORT=80",
                "MY_APP_SERVICE_PORT_HTTP_WEB=80",
            ]
        );
        let v6 = ServicePorts {
            cluster_ip: "fd00::7".into(),
            ports: vec![(None, "TCP".into(), 80)],
        };
        let mut variables = BTreeMap::new();
        service_variables("six", &v6, &mut variables);
        assert_eq!(variables["SIX_PORT"], "tcp://[fd00::7]:80");
    }
}

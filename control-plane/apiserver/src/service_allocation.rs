//! ClusterIPs and node ports of Services: families, what was asked for, what is free.
//!
//! An address is taken by creating the IPAddress object of its name, so that the store decides who gets it, on however
//! many servers; from which ranges, the ServiceCIDRs say. A node port is taken in memory: what is taken is known from the
//! Services, read once at start and kept in step by the handlers. A reservation that is not kept gives back what it took;
//! what a crash leaves behind is put right by [`repair`].

mod addresses;
mod families;
mod pool;
mod ports;
mod range;
pub(crate) mod repair;

use std::{net::IpAddr, sync::Arc};

use api::{
    registry::Resource,
    status::{self, Status},
    validation::{ErrorKind, ErrorList, FieldError},
};
use parking_lot::Mutex;
use serde_json::{Value, json};

pub(crate) use self::range::IpRange;
use self::{
    addresses::Holder,
    pool::{Pool, PortUse},
    ports::take_ports,
};
use crate::{
    context::Api,
    watch_cache::{Filter, WatchCache},
};

const SERVICES: &str = "/registry/services/specs/";

/// Hands out ClusterIPs and node ports.
pub(crate) struct ServiceAllocator {
    /// As the flags have them; which families there are, they say.
    ranges: Vec<IpRange>,
    pool: Mutex<Pool>,
}

/// What a write has taken. Dropping it gives everything back.
pub(crate) struct Reservation {
    api: Arc<Api>,
    holder: Holder,
    taken: Taken,
    /// What the write sets free once it has happened.
    freed: Taken,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Taken {
    addresses: Vec<IpAddr>,
    ports: Vec<PortUse>,
}

impl Reservation {
    /// The write happened.
    pub(crate) async fn keep(mut self) {
        self.taken = Taken::default();
        let freed = std::mem::take(&mut self.freed);
        self.api.services.pool.lock().release(&freed.ports);
        for address in freed.addresses {
            addresses::release(&self.api, address, &self.holder).await;
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let taken = std::mem::take(&mut self.taken);
        self.api.services.pool.lock().release(&taken.ports);
        // Outside a runtime the server has ended, and the next one repairs.
        if let (false, Ok(runtime)) = (taken.addresses.is_empty(), tokio::runtime::Handle::try_current()) {
            let (api, holder) = (self.api.clone(), self.holder.clone());
            runtime.spawn(async move {
                for address in taken.addresses {
                    addresses::release(&api, address, &holder).await;
                }
            });
        }
    }
}

impl ServiceAllocator {
    /// An allocator over one range for each family; the first is the default family.
    pub(crate) fn new(ranges: Vec<IpRange>) -> Result<Self, String> {
        match ranges.as_slice() {
            [_] => {}
            [first, second] if first.is_ipv4() != second.is_ipv4() => {}
            [_, _] => return Err("two ranges must be of different address families".to_owned()),
            _ => return Err("one or two ranges must be given".to_owned()),
        }
        Ok(ServiceAllocator {
            ranges,
            pool: Mutex::default(),
        })
    }

    /// Takes over the node ports that the stored Services have.
    pub(crate) fn adopt(&self, cache: &WatchCache) {
        let Some(services) = cache.resource(SERVICES) else {
            return;
        };
        let mut pool = self.pool.lock();
        for service in services.list(&Filter::default()) {
            pool.adopt(&held(&service.value()).ports);
        }
    }

    /// The ranges of the flags, the default family first.
    pub(crate) fn flag_ranges(&self) -> Vec<String> {
        self.ranges.iter().map(IpRange::to_string).collect()
    }

    /// The address that the Service `kubernetes` gets: the first of the range.
    pub(crate) fn kubernetes_address(&self) -> Option<IpAddr> {
        self.ranges.first().and_then(|range| range.at(1))
    }

    fn default_family(&self) -> &'static str {
        family_name(self.ranges.first().is_none_or(IpRange::is_ipv4))
    }

    fn range_of(&self, family: &str) -> Option<&IpRange> {
        self.ranges
            .iter()
            .find(|range| family_name(range.is_ipv4()) == family)
    }
}

impl Api {
    /// Takes the addresses and ports that a Service needs and writes them into it; other resources need none.
    pub(crate) async fn reserve(
        self: &Arc<Self>,
        resource: &Resource,
        object: &mut Value,
        old: Option<&Value>,
        dry_run: bool,
    ) -> Result<Option<Reservation>, Status> {
        if !is_service(resource) {
            return Ok(None);
        }
        let allocator = &self.services;
        let mut reservation = Reservation {
            api: self.clone(),
            holder: Holder::of(object),
            taken: Taken::default(),
            freed: Taken::default(),
        };
        let before = old.map(held).unwrap_or_default();
        let mut errors = ErrorList::new();
        allocator.settle_families(object, &mut errors);
        if errors.is_empty() {
            reservation
                .take_addresses(object, &before, &mut errors, dry_run)
                .await?;
        }
        if errors.is_empty() {
            let (mut pool, spec) = (allocator.pool.lock(), &mut object["spec"]);
            take_ports(
                &mut pool,
                spec,
                &before,
                &mut reservation.taken,
                &mut errors,
                dry_run,
            );
        }
        if !errors.is_empty() {
            let name = api::meta::name(object).to_owned();
            return Err(status::invalid(&resource.group, &resource.kind, &name, errors));
        }
        if !dry_run {
            let after = held(object);
            let gone = |address: &&IpAddr| !after.addresses.contains(address);
            reservation.freed.addresses = before.addresses.iter().filter(gone).copied().collect();
            let gone = |port: &&PortUse| !after.ports.contains(port);
            reservation.freed.ports = before.ports.iter().filter(gone).copied().collect();
        }
        Ok(Some(reservation))
    }

    /// Gives back what a deleted object had.
    pub(crate) async fn release(self: &Arc<Self>, resource: &Resource, object: &Value) {
        if !is_service(resource) {
            return;
        }
        let (held, holder) = (held(object), Holder::of(object));
        self.services.pool.lock().release(&held.ports);
        for address in held.addresses {
            addresses::release(self, address, &holder).await;
        }
    }
}

fn is_service(resource: &Resource) -> bool {
    resource.group.is_empty() && resource.plural == "services"
}

/// What a Service has.
fn held(service: &Value) -> Taken {
    let spec = &service["spec"];
    let strings = spec["clusterIPs"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    let addresses = strings.filter_map(|text| text.parse().ok()).collect();
    let mut ports: Vec<PortUse> = spec["ports"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|port| Some(PortUse::new(port["nodePort"].as_u64()?, protocol(port))))
        .filter(|port| port.number > 0)
        .collect();
    if let Some(number) = spec["healthCheckNodePort"].as_u64().filter(|number| *number > 0) {
        ports.push(PortUse::new(number, "TCP"));
    }
    Taken { addresses, ports }
}

fn protocol(port: &Value) -> &str {
    port["protocol"].as_str().unwrap_or("TCP")
}

fn has_node_ports(spec: &Value) -> bool {
    match spec["type"].as_str() {
        Some("NodePort") => true,
        Some("LoadBalancer") => spec["allocateLoadBalancerNodePorts"] != false,
        _ => false,
    }
}

fn family_name(ipv4: bool) -> &'static str {
    if ipv4 { "IPv4" } else { "IPv6" }
}

impl Reservation {
    /// Takes the addresses that the Service asks for or lacks. In a dry run nothing is taken, and nothing unasked is
    /// filled in.
    async fn take_addresses(
        &mut self,
        service: &mut Value,
        before: &Taken,
        errors: &mut ErrorList,
        dry_run: bool,
    ) -> Result<(), Status> {
        let spec = &mut service["spec"];
        if spec["type"] == "ExternalName" {
            return Ok(());
        }
        if spec["clusterIP"] == "None" {
            spec["clusterIPs"] = json!(["None"]);
            return Ok(());
        }
        let texts = |value: &Value| -> Vec<String> {
            let list = value.as_array().into_iter().flatten();
            list.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let families = texts(&spec["ipFamilies"]);
        let mut addresses = texts(&spec["clusterIPs"]);
        let requested = json!(addresses);
        addresses.truncate(families.len());
        let ranges = addresses::ready_ranges(&self.api.cache);
        for (at, family) in families.iter().enumerate() {
            let asked = addresses.get(at).and_then(|text| text.parse::<IpAddr>().ok());
            let result = match asked {
                Some(address) if before.addresses.contains(&address) => continue,
                Some(address) => {
                    let taken = addresses::take(&self.api, &ranges, address, &self.holder, dry_run).await?;
                    taken.map(|()| address)
                }
                None if dry_run => continue,
                None => {
                    let of_family = |range: &&IpRange| family_name(range.is_ipv4()) == family;
                    let ranges: Vec<IpRange> = ranges.iter().filter(of_family).copied().collect();
                    addresses::take_any(&self.api, &ranges, &self.holder).await?
                }
            };
            match result {
                Ok(address) => {
                    if !dry_run {
                        self.taken.addresses.push(address);
                    }
                    if asked.is_none() {
                        addresses.push(address.to_string());
                    }
                }
                Err(why) => {
                    let kind = if why.is_full() {
                        ErrorKind::Internal
                    } else {
                        ErrorKind::Invalid
                    };
                    let detail = match addresses.get(at) {
                        Some(address) => format!("failed to allocate IP {address}: {why}"),
                        None => format!("failed to allocate a serviceIP: {why}"),
                    };
                    let path = "spec.clusterIPs";
                    errors.push(FieldError::new(kind, path, requested.to_string(), detail));
                    return Ok(());
                }
            }
        }
        if let Some(first) = addresses.first() {
            spec["clusterIP"] = first.clone().into();
            spec["clusterIPs"] = addresses.into();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

//! ClusterIPs and node ports of Services: families, what was asked for, what is free.
//!
//! An address is taken by creating the IPAddress object of its name, so that the store decides who gets it, on however
//! many servers; from which ranges, the ServiceCIDRs say. A node port is taken in memory: what is taken is known from the
//! Services, read once at start and kept in step by the handlers. A reservation that is not kept gives back what it took;
//! what a crash leaves behind is put right by [`repair`].

mod addresses;
mod pool;
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

    /// Carries over what an update leaves out but the Service keeps: its addresses, families and node ports.
    pub(crate) fn inherit(&self, resource: &Resource, new: &mut Value, old: &Value) {
        if is_service(resource) {
            inherit(&mut new["spec"], &old["spec"]);
        }
    }
}

fn is_service(resource: &Resource) -> bool {
    resource.group.is_empty() && resource.plural == "services"
}

fn inherit(new: &mut Value, old: &Value) {
    let has_address = |spec: &Value| spec["type"] != "ExternalName";
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    if has_address(new) && has_address(old) {
        if empty(&new["clusterIP"]) && empty(&new["clusterIPs"]) {
            new["clusterIP"] = old["clusterIP"].clone();
        }
        if empty(&new["clusterIPs"]) && new["clusterIP"] == old["clusterIP"] {
            new["clusterIPs"] = old["clusterIPs"].clone();
        }
        for field in ["ipFamilyPolicy", "ipFamilies"] {
            if empty(&new[field]) {
                new[field] = old[field].clone();
            }
        }
    }
    if has_node_ports(new) && has_node_ports(old) {
        let previous = old["ports"].as_array().cloned().unwrap_or_default();
        for port in new["ports"].as_array_mut().into_iter().flatten() {
            let same = |other: &&Value| other["port"] == port["port"] && protocol(other) == protocol(port);
            if port["nodePort"].as_u64().unwrap_or(0) == 0
                && let Some(other) = previous.iter().find(same)
                && !other["nodePort"].is_null()
            {
                port["nodePort"] = other["nodePort"].clone();
            }
        }
        if new["healthCheckNodePort"].as_u64().unwrap_or(0) == 0 && !old["healthCheckNodePort"].is_null() {
            new["healthCheckNodePort"] = old["healthCheckNodePort"].clone();
        }
    }
    if let Some(spec) = new.as_object_mut() {
        spec.retain(|_, value| !value.is_null());
    }
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

fn other_family(family: &str) -> &'static str {
    family_name(family != "IPv4")
}

impl ServiceAllocator {
    /// Decides `ipFamilyPolicy` and `ipFamilies` from what was asked for and what the cluster has.
    fn settle_families(&self, service: &mut Value, errors: &mut ErrorList) {
        let headless_without_selector = {
            let spec = &service["spec"];
            let selects = spec["selector"]
                .as_object()
                .is_some_and(|selector| !selector.is_empty());
            spec["clusterIP"] == "None" && !selects
        };
        let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) else {
            return;
        };
        if spec.get("type").is_some_and(|kind| kind == "ExternalName") {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                spec.remove(field);
            }
            return;
        }
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let list = |field: &str| -> Vec<String> {
            spec.get(field)
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(text)
                .collect()
        };
        let mut addresses = list("clusterIPs");
        if addresses.is_empty()
            && let Some(address) = spec
                .get("clusterIP")
                .and_then(text)
                .filter(|address| !address.is_empty())
        {
            addresses.push(address);
        }
        let mut families = list("ipFamilies");
        let policy = spec.get("ipFamilyPolicy").and_then(text);

        for (at, address) in addresses.iter().enumerate() {
            let Ok(parsed) = address.parse::<IpAddr>() else {
                continue;
            };
            let family = family_name(parsed.is_ipv4());
            match families.get(at) {
                None => families.push(family.to_owned()),
                Some(wanted) if wanted != family => errors.push(FieldError::new(
                    ErrorKind::Invalid,
                    format!("spec.clusterIPs[{at}]"),
                    status::quote(address),
                    format!("expected an {wanted} value as indicated by `ipFamilies[{at}]`"),
                )),
                Some(_) => {}
            }
        }
        let policy = policy.unwrap_or_else(|| {
            let dual = families.len() == 2 || addresses.len() == 2 || headless_without_selector;
            if dual { "RequireDualStack" } else { "SingleStack" }.to_owned()
        });
        if families.is_empty() {
            families.push(self.default_family().to_owned());
        }
        if policy != "SingleStack" && families.len() == 1 {
            let other = other_family(&families[0]);
            if self.range_of(other).is_some() || headless_without_selector {
                families.push(other.to_owned());
            }
        }
        if policy == "SingleStack" && families.len() > 1 {
            if addresses.len() > 1 {
                errors.push(FieldError::new(
                    ErrorKind::Invalid,
                    "spec.ipFamilyPolicy",
                    status::quote(&policy),
                    "must be RequireDualStack or PreferDualStack when multiple `clusterIPs` are specified",
                ));
            }
            families.truncate(1);
            addresses.truncate(1);
        }
        if !headless_without_selector {
            if policy == "RequireDualStack" && self.ranges.len() < 2 {
                errors.push(FieldError::new(
                    ErrorKind::Invalid,
                    "spec.ipFamilyPolicy",
                    status::quote(&policy),
                    "this cluster is not configured for dual-stack services",
                ));
            } else {
                for (at, family) in families.iter().enumerate() {
                    if self.range_of(family).is_none() {
                        errors.push(FieldError::new(
                            ErrorKind::Invalid,
                            format!("spec.ipFamilies[{at}]"),
                            status::quote(family),
                            "not configured on this cluster",
                        ));
                    }
                }
            }
        }
        spec.insert("ipFamilyPolicy".to_owned(), policy.into());
        spec.insert("ipFamilies".to_owned(), families.into());
        if addresses.is_empty() {
            spec.remove("clusterIPs");
            spec.remove("clusterIP");
        } else {
            spec.insert("clusterIP".to_owned(), addresses[0].clone().into());
            spec.insert("clusterIPs".to_owned(), addresses.into());
        }
    }
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

fn take_ports(
    pool: &mut Pool,
    spec: &mut Value,
    before: &Taken,
    taken: &mut Taken,
    errors: &mut ErrorList,
    dry_run: bool,
) {
    let allocates = has_node_ports(spec);
    let serves = matches!(spec["type"].as_str(), Some("NodePort" | "LoadBalancer"));
    // One number can serve several protocols, also when it was not asked for.
    let mut by_port: Vec<(u64, u16)> = Vec::new();
    for (at, port) in spec["ports"].as_array_mut().into_iter().flatten().enumerate() {
        let number = port["nodePort"].as_u64().unwrap_or(0);
        let service_port = port["port"].as_u64().unwrap_or(0);
        let protocol = protocol(port).to_owned();
        let result = if number > 0 && serves {
            let wanted = PortUse::new(number, &protocol);
            if before.ports.contains(&wanted) || taken.ports.contains(&wanted) {
                continue;
            }
            pool.take_port(wanted).map(|()| wanted)
        } else if allocates {
            let shared = by_port
                .iter()
                .find(|(port, _)| *port == service_port)
                .map(|(_, number)| *number);
            let shared = shared.map(|number| PortUse::new(u64::from(number), &protocol));
            match shared.filter(|shared| pool.take_port(*shared).is_ok()) {
                Some(shared) => Ok(shared),
                None => pool.any_port(&protocol),
            }
        } else {
            continue;
        };
        match result {
            Ok(port_use) => {
                taken.ports.push(port_use);
                by_port.push((service_port, port_use.number));
                if !dry_run {
                    port["nodePort"] = port_use.number.into();
                }
            }
            Err(why) => {
                let kind = if why.is_full() {
                    ErrorKind::Internal
                } else {
                    ErrorKind::Invalid
                };
                let path = format!("spec.ports[{at}].nodePort");
                errors.push(FieldError::new(kind, path, number.to_string(), why.to_string()));
            }
        }
    }
    let local = spec["type"] == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local";
    if local && spec["healthCheckNodePort"].as_u64().unwrap_or(0) == 0 {
        match pool.any_port("TCP") {
            Ok(port) => {
                taken.ports.push(port);
                if !dry_run {
                    spec["healthCheckNodePort"] = port.number.into();
                }
            }
            Err(why) => {
                let path = "spec.healthCheckNodePort";
                errors.push(FieldError::new(ErrorKind::Internal, path, "0", why.to_string()));
            }
        }
    }
}

#[cfg(test)]
mod tests;

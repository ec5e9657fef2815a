//! ClusterIPs as IPAddress objects: taking one creates the object of its name, giving it back deletes it.
//!
//! Upstream: pkg/registry/core/service/ipallocator (MetaAllocator).

use std::{net::IpAddr, sync::Arc};

use api::{meta, status::Status};
use http::Method;
use serde_json::{Value, json};

use super::{IpRange, SERVICES, held, pool::Refusal};
use crate::{
    context::{Api, cache_error},
    internal,
    watch_cache::{Filter, WatchCache},
};

pub(super) const IP_ADDRESSES: &str = "/registry/ipaddresses/";
const SERVICE_CIDRS: &str = "/registry/servicecidrs/";
const PATH: &str = "/apis/networking.k8s.io/v1/ipaddresses";

/// Who made an IPAddress; those of others are none of our business.
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
const OURS: &str = "ipallocator.k8s.io";

/// The Service that holds an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Holder {
    pub(super) fn of(service: &Value) -> Self {
        Holder {
            namespace: meta::namespace(service).to_owned(),
            name: meta::name(service).to_owned(),
        }
    }

    /// The holder that an IPAddress of ours names; `None` when somebody else made it or it belongs to no Service.
    pub(super) fn named_by(address: &Value) -> Option<Self> {
        let parent = &address["spec"]["parentRef"];
        let ours = address["metadata"]["labels"][MANAGED_BY] == OURS && parent["resource"] == "services";
        ours.then(|| Holder {
            namespace: parent["namespace"].as_str().unwrap_or_default().to_owned(),
            name: parent["name"].as_str().unwrap_or_default().to_owned(),
        })
    }

    pub(super) fn key(&self) -> String {
        format!("{SERVICES}{}/{}", self.namespace, self.name)
    }
}

/// The IPAddress by which a Service holds an address.
pub(super) fn object(address: IpAddr, holder: &Holder) -> Value {
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {"name": address.to_string(), "labels": {FAMILY: family, MANAGED_BY: OURS}},
        "spec": {"parentRef": {"resource": "services", "namespace": holder.namespace, "name": holder.name}},
    })
}

/// The ranges of the ServiceCIDRs that addresses may be taken from: not those that are going, or that are not ready.
pub(super) fn ready_ranges(cache: &WatchCache) -> Vec<IpRange> {
    let Some(cidrs) = cache.resource(SERVICE_CIDRS) else {
        return Vec::new();
    };
    let objects = cidrs.list(&Filter::default());
    objects
        .iter()
        .map(|object| object.value())
        .filter(is_ready)
        .flat_map(|object| {
            let cidrs = object["spec"]["cidrs"].as_array().cloned();
            cidrs.unwrap_or_default()
        })
        .filter_map(|cidr| cidr.as_str()?.parse().ok())
        .collect()
}

/// One without the condition counts as ready: the controller that sets it may not run.
fn is_ready(service_cidr: &Value) -> bool {
    let conditions = service_cidr["status"]["conditions"].as_array();
    let ready = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == "Ready");
    meta::deletion_timestamp(service_cidr).is_empty() && ready.is_none_or(|ready| ready["status"] == "True")
}

/// Takes the address that was asked for. A dry run only looks.
pub(super) async fn take(
    api: &Arc<Api>,
    ranges: &[IpRange],
    address: IpAddr,
    holder: &Holder,
    dry_run: bool,
) -> Result<Result<(), Refusal>, Status> {
    if !ranges.iter().any(|range| range.contains(address)) {
        return Ok(Err(Refusal::AddressOutside));
    }
    if dry_run {
        let taken = stored(api, address).is_some();
        return Ok(if taken { Err(Refusal::AddressTaken) } else { Ok(()) });
    }
    match internal::request(api, Method::POST, PATH, Some(&object(address, holder))).await {
        Ok(_) => Ok(Ok(())),
        Err(status) if status.code == 409 => Ok(if left_behind(api, address, holder).await? {
            Ok(())
        } else {
            Err(Refusal::AddressTaken)
        }),
        Err(status) => Err(status),
    }
}

/// Takes any free address of the ranges.
pub(super) async fn take_any(
    api: &Arc<Api>,
    ranges: &[IpRange],
    holder: &Holder,
) -> Result<Result<IpAddr, Refusal>, Status> {
    for range in ranges {
        for address in range.candidates() {
            if stored(api, address).is_some() {
                continue;
            }
            match internal::request(api, Method::POST, PATH, Some(&object(address, holder))).await {
                Ok(_) => return Ok(Ok(address)),
                Err(status) if status.code == 409 => {}
                Err(status) => return Err(status),
            }
        }
    }
    Ok(Err(Refusal::Full))
}

/// Gives an address back, unless its Service (still, or again) has it.
pub(super) async fn release(api: &Arc<Api>, address: IpAddr, holder: &Holder) {
    let released = async {
        api.cache.fresh().await.map_err(cache_error)?;
        let ours = stored(api, address).and_then(|object| Holder::named_by(&object));
        if ours.as_ref() != Some(holder) || holds(api, holder, address) {
            return Ok(());
        }
        match internal::request(api, Method::DELETE, &format!("{PATH}/{address}"), None).await {
            Err(status) if status.code != 404 => Err(status),
            _ => Ok(()),
        }
    };
    if let Err(status) = released.await {
        // The repair after the next start finds it.
        tracing::warn!(%address, error = status.message, "address of a Service not given back");
    }
}

/// The IPAddress of an address.
pub(super) fn stored(api: &Api, address: IpAddr) -> Option<Value> {
    let object = api
        .cache
        .resource(IP_ADDRESSES)?
        .get(&format!("{IP_ADDRESSES}{address}"))?;
    Some(object.value())
}

/// Whether the Service has the address.
pub(super) fn holds(api: &Api, holder: &Holder, address: IpAddr) -> bool {
    let services = api.cache.resource(SERVICES);
    let service = services.and_then(|services| services.get(&holder.key()));
    service.is_some_and(|service| held(&service.value()).addresses.contains(&address))
}

/// Whether an IPAddress is what a crash left of an earlier attempt to create the same Service.
async fn left_behind(api: &Arc<Api>, address: IpAddr, holder: &Holder) -> Result<bool, Status> {
    api.cache.fresh().await.map_err(cache_error)?;
    let named = stored(api, address).and_then(|object| Holder::named_by(&object));
    let services = api.cache.resource(SERVICES);
    let exists = services.is_some_and(|services| services.get(&holder.key()).is_some());
    Ok(named.as_ref() == Some(holder) && !exists)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_service_cidrs_count() {
        let ready = |status: &str| json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
        assert!(is_ready(&json!({})));
        assert!(is_ready(&ready("True")));
        assert!(!is_ready(&ready("False")));
        let mut going = ready("True");
        going["metadata"] = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert!(!is_ready(&going));
    }

    #[test]
    fn only_our_objects_name_a_holder() {
        let holder = Holder {
            namespace: "a".to_owned(),
            name: "b".to_owned(),
        };
        let mut object = object("fd00::1".parse().unwrap(), &holder);
        assert_eq!(object["metadata"]["labels"][FAMILY], "IPv6");
        assert_eq!(Holder::named_by(&object), Some(holder));
        object["metadata"]["labels"] = json!({});
        assert_eq!(Holder::named_by(&object), None);
    }
}

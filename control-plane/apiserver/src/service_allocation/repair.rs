//! Keeps IPAddresses and Services in step: every ClusterIP has its IPAddress, every IPAddress of ours its Service.
//!
//! Handlers keep them so; a crash between two writes, a deleted IPAddress, or data from before there were IPAddresses do
//! not. Changes of both kinds only wake the check of what they name, and the first state is checked whole.
//!
//! Upstream: pkg/registry/core/service/ipallocator/controller/repairip.go.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::time::Instant;

use super::{
    SERVICES,
    addresses::{self, Holder, IP_ADDRESSES},
    held,
};
use crate::{
    context::{Api, now},
    internal,
    watch_cache::{Filter, Object, Since, Watch, WatchCache},
};

/// So long an IPAddress may be without its Service: another server may be about to write it.
const GRACE: SignedDuration = SignedDuration::from_secs(60);
/// After an error the watches are started again so much later.
const RETRY: Duration = Duration::from_secs(5);

/// What an IPAddress needs.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Nothing,
    /// Its Service does not have it.
    Release(Holder),
    /// Its Service does not have it yet, and may still come.
    Wait(SignedDuration),
}

/// `has_it`: whether the Service that the IPAddress names has the address.
fn plan(address: &Value, has_it: impl Fn(&Holder) -> bool, now: Timestamp) -> Plan {
    let Some(holder) = Holder::named_by(address).filter(|holder| !has_it(holder)) else {
        return Plan::Nothing;
    };
    let created = address["metadata"]["creationTimestamp"].as_str();
    let created = created.and_then(|text| text.parse::<Timestamp>().ok());
    let age = created.map_or(GRACE, |created| now.duration_since(created));
    if age >= GRACE {
        Plan::Release(holder)
    } else {
        Plan::Wait(GRACE - age)
    }
}

/// Runs until the server is gone or shuts down. It holds nothing that would keep the server.
pub(crate) async fn run(api: Weak<Api>, cache: Weak<WatchCache>) {
    loop {
        let Some(watches) = cache.upgrade() else { return };
        if watches.is_closed() {
            return;
        }
        let started = async {
            Ok((
                watch(&watches, SERVICES).await?,
                watch(&watches, IP_ADDRESSES).await?,
            ))
        };
        let started = started.await;
        drop(watches);
        let followed = match started {
            Ok((services, addresses)) => follow(&api, services, addresses).await,
            Err(error) => Err(error),
        };
        match followed {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(error = &*error, "repair of ClusterIPs starts over");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn watch(cache: &WatchCache, prefix: &str) -> Result<Watch, Failure> {
    let resource = cache.resource(prefix).ok_or("not stored")?;
    Ok(Watch::start(cache, resource, Filter::default(), Since::Now).await?)
}

/// Checks everything, then whatever changes, until a watch ends.
async fn follow(api: &Weak<Api>, mut services: Watch, mut addresses: Watch) -> Result<(), Failure> {
    let mut waiting: BTreeMap<Instant, IpAddr> = BTreeMap::new();
    while let Some(object) = services.next_initial() {
        let Some(api) = api.upgrade() else { return Ok(()) };
        service(&api, &object).await;
    }
    while let Some(object) = addresses.next_initial() {
        let Some(api) = api.upgrade() else { return Ok(()) };
        waiting.extend(address(&api, object.name()).await);
    }
    loop {
        let due = waiting.first_key_value().map(|(at, _)| *at);
        let due = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        tokio::select! {
            changed = services.next() => {
                let (Some((_, event)), Some(api)) = (changed?, api.upgrade()) else { return Ok(()) };
                if let Some(object) = &event.current {
                    service(&api, object).await;
                }
            }
            changed = addresses.next() => {
                let (Some((_, event)), Some(api)) = (changed?, api.upgrade()) else { return Ok(()) };
                if let Some(object) = event.current.as_ref().or(event.previous.as_ref()) {
                    // A deletion concerns the Service that had it, everything else the object.
                    if event.current.is_none() && let Some(holder) = Holder::named_by(&object.value()) {
                        let services = api.cache.resource(SERVICES);
                        if let Some(object) = services.and_then(|services| services.get(&holder.key())) {
                            service(&api, &object).await;
                        }
                    }
                    waiting.extend(address(&api, object.name()).await);
                }
            }
            () = tokio::time::sleep_until(due), if !waiting.is_empty() => {
                let Some(api) = api.upgrade() else { return Ok(()) };
                if let Some((_, name)) = waiting.pop_first() {
                    waiting.extend(address(&api, &name.to_string()).await);
                }
            }
        }
    }
}

/// Makes the IPAddresses that a Service lacks.
async fn service(api: &Arc<Api>, object: &Object) {
    let service = object.value();
    let holder = Holder::of(&service);
    for address in held(&service).addresses {
        // The newest state decides: the Service may have given it up meanwhile.
        if api.cache.fresh().await.is_err() || !addresses::holds(api, &holder, address) {
            continue;
        }
        match addresses::stored(api, address).map(|object| Holder::named_by(&object)) {
            Some(Some(named)) if named == holder => {}
            Some(_) => tracing::warn!(
                %address, namespace = holder.namespace, name = holder.name,
                "the ClusterIP of a Service belongs to somebody else: create the Service anew"
            ),
            None => {
                let made = addresses::object(address, &holder);
                let path = "/apis/networking.k8s.io/v1/ipaddresses";
                match internal::request(api, http::Method::POST, path, Some(&made)).await {
                    Ok(_) => tracing::info!(%address, "IPAddress of a Service restored"),
                    Err(status) if status.code == 409 => {}
                    Err(status) => tracing::warn!(%address, error = status.message, "IPAddress not restored"),
                }
            }
        }
    }
}

/// Deletes an IPAddress whose Service does not have it, or says when to look again.
async fn address(api: &Arc<Api>, name: &str) -> Option<(Instant, IpAddr)> {
    let address: IpAddr = name.parse().ok()?;
    api.cache.fresh().await.ok()?;
    let object = addresses::stored(api, address)?;
    match plan(&object, |holder| addresses::holds(api, holder, address), now()) {
        Plan::Nothing => None,
        Plan::Release(holder) => {
            tracing::info!(%address, "IPAddress without its Service deleted");
            addresses::release(api, address, &holder).await;
            None
        }
        Plan::Wait(time) => {
            let time = Duration::try_from(time).unwrap_or_default();
            Some((Instant::now() + time, address))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans() {
        let holder = Holder {
            namespace: "n".to_owned(),
            name: "s".to_owned(),
        };
        let mut object = addresses::object("10.96.0.9".parse().unwrap(), &holder);
        object["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
        let at = |seconds: i64| Timestamp::from_second(1_767_225_600 + seconds).unwrap();
        assert_eq!(plan(&object, |_| true, at(100)), Plan::Nothing);
        assert_eq!(plan(&object, |_| false, at(100)), Plan::Release(holder));
        assert_eq!(
            plan(&object, |_| false, at(20)),
            Plan::Wait(SignedDuration::from_secs(40))
        );
        object["metadata"]["labels"] = Value::Null;
        assert_eq!(plan(&object, |_| false, at(100)), Plan::Nothing);
    }
}

//! What a Service costs the agent in memory: what is in use, counted at the allocator and so the same on every machine, and what
//! the process keeps of the system's after a cold start, which is that and the gaps between.

#![expect(unsafe_code, reason = "an allocator that counts is one")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    collections::VecDeque,
    fs,
    hint::black_box,
    net::Ipv4Addr,
    sync::atomic::{AtomicUsize, Ordering},
};

use k8s_openapi::{
    api::{core::v1 as core, discovery::v1 as discovery},
    apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry, ObjectMeta},
};
use kube::runtime::watcher::Event;
use proxy_ebpf::{
    desired::{EndpointSlice, ObjectName, Service},
    objects::Objects,
    plan::{Entries, Tables},
    programs::{SLOTS_PER_FRONTEND, frontends_for},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

/// As many as DESIGN.md's target is about, with three endpoints each.
const SERVICES: u32 = 50_000;
const ENDPOINTS: u32 = 3;
/// So many at a time are listed by the agent's watches.
const PAGE: u32 = 500;
/// Bytes for each of them: the target.
const EACH_MAX: usize = 1500;

/// The system's allocator, which knows how much is in use.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

/// As the C library rounds: a header of a word, in units of two.
fn taken(layout: Layout) -> usize {
    (layout.size() + size_of::<usize>())
        .next_multiple_of(2 * size_of::<usize>())
        .max(4 * size_of::<usize>())
}

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(taken(layout), Ordering::Relaxed);
        // SAFETY: the caller keeps to the same contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(taken(layout), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_service_with_three_endpoints_takes_little_memory() {
    let (before, kept_before) = (IN_USE.load(Ordering::Relaxed), kept());
    let mut objects = Objects::default();
    objects.on_service(Event::Init);
    objects.on_slice(Event::Init);
    for page in 0..SERVICES / PAGE {
        let numbers = || page * PAGE..(page + 1) * PAGE;
        for service in decoded(numbers().map(service)) {
            let name = name(&service.metadata);
            let service = Service::from_api(&service);
            assert!(service.is_some());
            objects.on_service(Event::InitApply((name, service)));
        }
        for slice in decoded(numbers().map(slice)) {
            let name = name(&slice.metadata);
            let slice = EndpointSlice::from_api(&slice, "node1");
            assert!(slice.is_some());
            objects.on_slice(Event::InitApply((name, slice)));
        }
    }
    objects.on_service(Event::InitDone);
    objects.on_slice(Event::InitDone);
    let held = IN_USE.load(Ordering::Relaxed) - before;
    let mut tables = Tables::new(Entries::default());
    drop(tables.plan_all(objects.all()));
    assert_eq!(tables.backends(), (SERVICES * ENDPOINTS) as usize);
    // A cold agent that was told how many there are replaces no map.
    let (sizes, room) = (tables.sizes(), frontends_for(SERVICES.into()) as usize);
    let is_enough = sizes.frontends.iter().all(|count| *count <= room)
        && sizes
            .backends
            .iter()
            .all(|count| *count <= SLOTS_PER_FRONTEND as usize * room)
        && sizes.slots <= SLOTS_PER_FRONTEND as usize * room;
    assert!(is_enough, "{sizes:?} is more than {room}");
    let all = IN_USE.load(Ordering::Relaxed) - before;
    // As the agent does once it is in step.
    heap::release();
    let kept = kept().saturating_sub(kept_before);
    black_box((&objects, &tables));
    let each = |bytes: usize| bytes / SERVICES as usize;
    println!(
        "{} bytes a Service: {} for the API's objects, {} for the tables; {} kept",
        each(all),
        each(held),
        each(all - held),
        each(kept)
    );
    assert!(each(all) <= EACH_MAX, "{} bytes a Service", each(all));
    // Other allocators give back what they like.
    if cfg!(target_env = "gnu") {
        assert!(each(kept) <= EACH_MAX, "{} bytes a Service are kept", each(kept));
    }
}

/// How much memory of this process is backed by the machine's and was written to, in bytes.
fn kept() -> usize {
    let text =
        fs::read_to_string("/proc/self/smaps_rollup").expect("read what the kernel says of this process");
    let dirty = text.lines().find_map(|line| line.strip_prefix("Private_Dirty:"));
    let kib = dirty.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    kib.expect("a number of kilobytes") << 10
}

/// A page of a list as the API's client hands it out: decoded as a whole, then object by object.
fn decoded<T: Serialize + DeserializeOwned>(objects: impl Iterator<Item = T>) -> VecDeque<T> {
    let text = serde_json::to_vec(&objects.collect::<Vec<_>>()).expect("JSON");
    serde_json::from_slice(&text).expect("what was encoded")
}

fn name(metadata: &ObjectMeta) -> ObjectName {
    ObjectName::new("fill", metadata.name.as_deref().expect("a name"))
}

/// With what is usual beside what the agent needs.
fn metadata(number: u32) -> ObjectMeta {
    let name = format!("s-{number}");
    let label = |key: &str| (key.to_owned(), name.clone());
    ObjectMeta {
        uid: Some(format!("0a1b2c3d-0000-4000-8000-{number:012}")),
        resource_version: Some(number.to_string()),
        labels: Some([label("app"), label("kubernetes.io/service-name")].into()),
        managed_fields: Some(vec![ManagedFieldsEntry {
            manager: Some("kubectl".to_owned()),
            operation: Some("Update".to_owned()),
            fields_v1: Some(FieldsV1(
                json!({ "f:spec": { "f:ports": { "f:port": {} }, "f:type": {} } }),
            )),
            ..ManagedFieldsEntry::default()
        }]),
        namespace: Some("fill".to_owned()),
        name: Some(name),
        ..ObjectMeta::default()
    }
}

fn service(number: u32) -> core::Service {
    core::Service {
        metadata: metadata(number),
        spec: Some(core::ServiceSpec {
            cluster_ips: Some(vec![Ipv4Addr::from(0x0a60_0001 + number).to_string()]),
            ports: Some(vec![core::ServicePort {
                port: 80,
                protocol: Some("TCP".to_owned()),
                ..core::ServicePort::default()
            }]),
            ..core::ServiceSpec::default()
        }),
        ..core::Service::default()
    }
}

fn slice(number: u32) -> discovery::EndpointSlice {
    let first = 0x0b00_0001 + number * ENDPOINTS;
    let endpoints = (first..first + ENDPOINTS).map(|bits| discovery::Endpoint {
        addresses: vec![Ipv4Addr::from(bits).to_string()],
        ..discovery::Endpoint::default()
    });
    discovery::EndpointSlice {
        metadata: metadata(number),
        address_type: "IPv4".to_owned(),
        endpoints: Some(endpoints.collect()),
        ports: Some(vec![discovery::EndpointPort {
            port: Some(80),
            protocol: Some("TCP".to_owned()),
            ..discovery::EndpointPort::default()
        }]),
    }
}

//! What a Service costs the agent in memory, counted at the allocator: the same on every machine and in every run.

#![expect(unsafe_code, reason = "an allocator that counts is one")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    hint::black_box,
    net::Ipv4Addr,
    sync::atomic::{AtomicUsize, Ordering},
};

use k8s_openapi::{
    api::{core::v1 as core, discovery::v1 as discovery},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::runtime::watcher::Event;
use proxy_ebpf::{
    desired::{EndpointSlice, ObjectName, Service},
    objects::Objects,
    plan::{Entries, Tables},
};

/// As many as DESIGN.md's target is about, with three endpoints each.
const SERVICES: u32 = 50_000;
const ENDPOINTS: u32 = 3;
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
    let before = IN_USE.load(Ordering::Relaxed);
    let mut objects = Objects::default();
    objects.on_service(Event::Init);
    objects.on_slice(Event::Init);
    for number in 0..SERVICES {
        let name = ObjectName::new("fill", &format!("s-{number}"));
        let service = Service::from_api(&service(number));
        assert!(service.is_some());
        objects.on_service(Event::InitApply((name.clone(), service)));
        let slice = EndpointSlice::from_api(&slice(number), "node1");
        assert!(slice.is_some());
        let name = ObjectName::new("fill", &format!("s-{number}"));
        objects.on_slice(Event::InitApply((name, slice)));
    }
    objects.on_service(Event::InitDone);
    objects.on_slice(Event::InitDone);
    let held = IN_USE.load(Ordering::Relaxed) - before;
    let mut tables = Tables::new(Entries::default());
    drop(tables.plan_all(objects.all()));
    assert_eq!(tables.backends(), (SERVICES * ENDPOINTS) as usize);
    let all = IN_USE.load(Ordering::Relaxed) - before;
    black_box((&objects, &tables));
    let each = |bytes: usize| bytes / SERVICES as usize;
    println!(
        "{} bytes a Service: {} for the API's objects, {} for the tables",
        each(all),
        each(held),
        each(all - held)
    );
    assert!(each(all) <= EACH_MAX, "{} bytes a Service", each(all));
}

fn service(number: u32) -> core::Service {
    core::Service {
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
        metadata: ObjectMeta {
            namespace: Some("fill".to_owned()),
            labels: Some([("kubernetes.io/service-name".to_owned(), format!("s-{number}"))].into()),
            ..ObjectMeta::default()
        },
        address_type: "IPv4".to_owned(),
        endpoints: Some(endpoints.collect()),
        ports: Some(vec![discovery::EndpointPort {
            port: Some(80),
            protocol: Some("TCP".to_owned()),
            ..discovery::EndpointPort::default()
        }]),
    }
}

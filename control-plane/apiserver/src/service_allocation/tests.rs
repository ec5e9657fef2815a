//! Families, addresses and ports by the rules of upstream's service storage.

use super::*;

fn allocator(ranges: &[&str]) -> ServiceAllocator {
    ServiceAllocator::new(ranges.iter().map(|range| range.parse().unwrap()).collect()).unwrap()
}

/// What a Service's spec becomes, but for the addresses, which only a whole server has.
fn settle(allocator: &ServiceAllocator, spec: Value) -> Result<Value, String> {
    let mut service = json!({"kind": "Service", "metadata": {"name": "a"}, "spec": spec});
    let (mut errors, mut taken) = (ErrorList::new(), Taken::default());
    allocator.settle_families(&mut service, &mut errors);
    if errors.is_empty() {
        let mut pool = allocator.pool.lock();
        let before = Taken::default();
        take_ports(
            &mut pool,
            &mut service["spec"],
            &before,
            &mut taken,
            &mut errors,
            false,
        );
    }
    if errors.is_empty() {
        Ok(service["spec"].take())
    } else {
        Err(errors.message())
    }
}

const DUAL: &[&str] = &["10.96.0.0/16", "fd00:10:96::/112"];

#[test]
fn defaults_to_the_first_family() {
    let spec = settle(&allocator(DUAL), json!({"type": "ClusterIP"})).unwrap();
    assert_eq!(spec["ipFamilyPolicy"], "SingleStack");
    assert_eq!(spec["ipFamilies"], json!(["IPv4"]));
}

#[test]
fn dual_stack_when_asked_for() {
    let asked = json!({"type": "ClusterIP", "ipFamilyPolicy": "PreferDualStack"});
    let spec = settle(&allocator(DUAL), asked.clone()).unwrap();
    assert_eq!(spec["ipFamilies"], json!(["IPv4", "IPv6"]));
    let single = settle(&allocator(&DUAL[..1]), asked).unwrap();
    assert_eq!(single["ipFamilies"], json!(["IPv4"]));
    let required = json!({"type": "ClusterIP", "ipFamilyPolicy": "RequireDualStack"});
    let refused = settle(&allocator(&DUAL[..1]), required).unwrap_err();
    assert!(
        refused.contains("this cluster is not configured for dual-stack services"),
        "{refused}"
    );
    let ipv6 = settle(
        &allocator(DUAL),
        json!({"type": "ClusterIP", "ipFamilies": ["IPv6"]}),
    )
    .unwrap();
    assert_eq!(ipv6["ipFamilies"], json!(["IPv6"]));
}

#[test]
fn headless_and_external_name() {
    let headless = settle(
        &allocator(DUAL),
        json!({"clusterIP": "None", "selector": {"a": "b"}}),
    )
    .unwrap();
    assert_eq!(headless["ipFamilies"], json!(["IPv4"]));
    let without_selector = settle(&allocator(DUAL), json!({"clusterIP": "None"})).unwrap();
    assert_eq!(without_selector["ipFamilyPolicy"], "RequireDualStack");
    let external = settle(
        &allocator(DUAL),
        json!({"type": "ExternalName", "externalName": "x"}),
    )
    .unwrap();
    assert!(external.get("clusterIP").is_none() && external.get("ipFamilies").is_none());
}

#[test]
fn node_ports() {
    let allocator = allocator(DUAL);
    let ports = json!([{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]);
    let spec = settle(&allocator, json!({"type": "NodePort", "ports": ports})).unwrap();
    assert_eq!(spec["ports"][0]["nodePort"], spec["ports"][1]["nodePort"]);
    let number = spec["ports"][0]["nodePort"].clone();
    let again = json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": number}]});
    let refused = settle(&allocator, again).unwrap_err();
    assert!(
        refused.contains("provided port is already allocated"),
        "{refused}"
    );
    let outside = json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 80}]});
    let refused = settle(&allocator, outside).unwrap_err();
    assert!(
        refused.contains("The range of valid ports is 30000-32767"),
        "{refused}"
    );
}

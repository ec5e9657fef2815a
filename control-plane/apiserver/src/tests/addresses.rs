//! ClusterIPs as IPAddress objects, and the ServiceCIDRs they come from.

use std::time::Duration;

use serde_json::{Value, json};

use super::Fixture;

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";

fn service(name: &str, spec: Value) -> Value {
    let mut service = json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
    for (field, value) in spec.as_object().unwrap() {
        service["spec"][field.as_str()] = value.clone();
    }
    service
}

async fn names(fixture: &Fixture) -> Vec<String> {
    let list = fixture.ok("GET", ADDRESSES, None).await;
    let items = list["items"].as_array().unwrap().iter();
    items
        .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
        .collect()
}

/// Waits until the condition holds; each change of an IPAddress is a chance.
async fn eventually(fixture: &Fixture, what: &str, holds: impl Fn(&[String]) -> bool) {
    let wait = async {
        let mut events = fixture.watch(&format!("{ADDRESSES}?watch=true")).await;
        while !holds(&names(fixture).await) {
            events.next().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .expect(what);
}

#[tokio::test]
async fn the_flags_become_the_service_cidr_kubernetes() {
    let fixture = Fixture::new().await;
    let cidr = fixture.ok("GET", &format!("{CIDRS}/kubernetes"), None).await;
    assert_eq!(cidr["spec"]["cidrs"], json!(["10.96.0.0/16", "fd00:10:96::/112"]));
    assert_eq!(cidr["status"]["conditions"][0]["type"], "Ready");
    assert_eq!(cidr["status"]["conditions"][0]["status"], "True");
    let own = fixture.ok("GET", &format!("{ADDRESSES}/10.96.0.1"), None).await;
    assert_eq!(
        own["spec"]["parentRef"],
        json!({"resource": "services", "namespace": "default", "name": "kubernetes"})
    );
    // A second start finds everything as it should be, and writes nothing of it again.
    let revision = fixture.revision().await;
    let fixture = fixture.restart().await;
    let again = fixture.ok("GET", &format!("{CIDRS}/kubernetes"), None).await;
    assert_eq!(again, cidr);
    assert_eq!(fixture.revision().await, revision);
}

#[tokio::test]
async fn a_service_holds_its_addresses_as_objects() {
    let fixture = Fixture::new().await;
    let both = json!({"ipFamilyPolicy": "RequireDualStack"});
    let created = fixture.ok("POST", SERVICES, service("a", both)).await;
    let addresses: Vec<String> = serde_json::from_value(created["spec"]["clusterIPs"].clone()).unwrap();
    for (address, family) in addresses.iter().zip(["IPv4", "IPv6"]) {
        let object = fixture.ok("GET", &format!("{ADDRESSES}/{address}"), None).await;
        assert_eq!(object["spec"]["parentRef"]["name"], "a");
        assert_eq!(
            object["metadata"]["labels"],
            json!({
                "ipaddress.kubernetes.io/ip-family": family,
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            })
        );
    }
    // Giving one family up gives its address back, becoming external both.
    let single = json!({"spec": {"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"], "clusterIPs": [addresses[0]]}});
    fixture.ok("PATCH", &format!("{SERVICES}/a"), single).await;
    assert_eq!(names(&fixture).await.len(), 2);
    let external = json!({"spec": {"type": "ExternalName", "externalName": "x.y", "clusterIP": null, "clusterIPs": null}});
    fixture.ok("PATCH", &format!("{SERVICES}/a"), external).await;
    assert_eq!(names(&fixture).await, ["10.96.0.1"]);
    // A deletion as well, before its answer.
    fixture.ok("POST", SERVICES, service("b", json!({}))).await;
    assert_eq!(names(&fixture).await.len(), 2);
    fixture.ok("DELETE", &format!("{SERVICES}/b"), None).await;
    assert_eq!(names(&fixture).await, ["10.96.0.1"]);
}

#[tokio::test]
async fn what_is_refused_leaves_nothing_behind() {
    let fixture = Fixture::new().await;
    for (name, spec, why) in [
        (
            "a",
            json!({"clusterIP": "1.2.3.4"}),
            "failed to allocate IP 1.2.3.4: the provided network does not match",
        ),
        (
            "b",
            json!({"clusterIP": "10.96.0.1"}),
            "failed to allocate IP 10.96.0.1: provided IP is already allocated",
        ),
        // The first family's address is taken before the second one is refused.
        (
            "c",
            json!({"ipFamilyPolicy": "RequireDualStack", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd01::1"]}),
            "failed to allocate IP fd01::1",
        ),
        (
            "d",
            json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}),
            "provided port is not in the valid range",
        ),
    ] {
        let (code, status) = fixture.call("POST", SERVICES, service(name, spec)).await;
        assert_eq!(code, 422, "{status}");
        assert!(status["message"].as_str().unwrap().contains(why), "{status}");
    }
    eventually(&fixture, "all given back", |names| names == ["10.96.0.1"]).await;
    // A dry run takes nothing, and looks all the same.
    let revision = fixture.revision().await;
    let dry = format!("{SERVICES}?dryRun=All");
    fixture.ok("POST", &dry, service("e", json!({}))).await;
    let (code, _) = fixture
        .call("POST", &dry, service("e", json!({"clusterIP": "10.96.0.1"})))
        .await;
    assert_eq!((code, fixture.revision().await), (422, revision));
}

#[tokio::test]
async fn a_further_service_cidr_gives_further_addresses() {
    let fixture = Fixture::new().await;
    let asked = service("a", json!({"clusterIP": "10.97.0.9"}));
    assert_eq!(fixture.call("POST", SERVICES, asked.clone()).await.0, 422);
    let cidr = json!({"metadata": {"name": "more", "finalizers": ["example.com/hold"]}, "spec": {"cidrs": ["10.97.0.0/24"]}});
    fixture.ok("POST", CIDRS, cidr).await;
    fixture.ok("POST", SERVICES, asked.clone()).await;
    // Nothing is taken from one that is going.
    fixture.ok("DELETE", &format!("{CIDRS}/more"), None).await;
    let (code, _) = fixture
        .call("POST", SERVICES, service("b", json!({"clusterIP": "10.97.0.10"})))
        .await;
    assert_eq!(code, 422);
}

#[tokio::test]
async fn what_disagrees_is_put_right() {
    let fixture = Fixture::new().await;
    let created = fixture
        .ok("POST", SERVICES, service("a", json!({"clusterIP": "10.96.0.50"})))
        .await;
    assert_eq!(created["spec"]["clusterIP"], "10.96.0.50");
    // An IPAddress that somebody deleted comes back.
    fixture
        .ok("DELETE", &format!("{ADDRESSES}/10.96.0.50"), None)
        .await;
    eventually(&fixture, "restored", |names| {
        names.contains(&"10.96.0.50".to_owned())
    })
    .await;
    // What a crash left of a Service that was never written does not keep that Service from being written.
    let mut left = fixture.ok("GET", &format!("{ADDRESSES}/10.96.0.50"), None).await;
    left["metadata"] = json!({"name": "10.96.0.60", "labels": left["metadata"]["labels"]});
    left["spec"]["parentRef"]["name"] = "b".into();
    fixture.ok("POST", ADDRESSES, left).await;
    let asked = json!({"clusterIP": "10.96.0.60"});
    assert_eq!(
        fixture
            .call("POST", SERVICES, service("c", asked.clone()))
            .await
            .0,
        422
    );
    fixture.ok("POST", SERVICES, service("b", asked)).await;
}

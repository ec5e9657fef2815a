//! ClusterIPs and node ports over the whole path, and over a restart.

use serde_json::{Value, json};

use super::Fixture;

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, spec: Value) -> Value {
    let mut service = json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
    for (field, value) in spec.as_object().unwrap() {
        service["spec"][field.as_str()] = value.clone();
    }
    service
}

#[tokio::test]
async fn addresses_are_taken_once_and_given_back() {
    let fixture = Fixture::new().await;
    let own = fixture.ok("GET", &format!("{SERVICES}/kubernetes"), None).await;
    assert_eq!(own["spec"]["clusterIP"], "10.96.0.1");
    let asked = json!({"clusterIP": "10.96.0.77"});
    let created = fixture.ok("POST", SERVICES, service("a", asked.clone())).await;
    assert_eq!(created["spec"]["clusterIPs"], json!(["10.96.0.77"]));
    let (code, status) = fixture.call("POST", SERVICES, service("b", asked.clone())).await;
    assert_eq!(code, 422);
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("provided IP is already allocated"),
        "{status}"
    );

    // What is taken survives a restart.
    let fixture = fixture.restart().await;
    assert_eq!(
        fixture
            .call("POST", SERVICES, service("b", asked.clone()))
            .await
            .0,
        422
    );
    fixture.ok("DELETE", &format!("{SERVICES}/a"), None).await;
    fixture.ok("POST", SERVICES, service("b", asked)).await;
}

#[tokio::test]
async fn an_update_keeps_what_it_does_not_name() {
    let fixture = Fixture::new().await;
    let created = fixture
        .ok("POST", SERVICES, service("a", json!({"type": "NodePort"})))
        .await;
    let port = created["spec"]["ports"][0]["nodePort"].clone();
    assert!(
        port.as_u64().is_some_and(|port| (30000..=32767).contains(&port)),
        "{created:#}"
    );
    let replaced = fixture
        .ok(
            "PUT",
            &format!("{SERVICES}/a"),
            service("a", json!({"type": "NodePort", "selector": {"x": "y"}})),
        )
        .await;
    assert_eq!(replaced["spec"]["clusterIP"], created["spec"]["clusterIP"]);
    assert_eq!(replaced["spec"]["ports"][0]["nodePort"], port);
    // Back to a plain ClusterIP the port is free again.
    fixture
        .ok(
            "PUT",
            &format!("{SERVICES}/a"),
            service("a", json!({"type": "ClusterIP"})),
        )
        .await;
    let mut other = service("b", json!({"type": "NodePort"}));
    other["spec"]["ports"][0]["nodePort"] = port;
    fixture.ok("POST", SERVICES, other).await;
}

#[tokio::test]
async fn concurrent_creations_never_share_an_address() {
    let fixture = Fixture::new().await;
    let creations = (0..30).map(|at| fixture.ok("POST", SERVICES, service(&format!("s{at}"), json!({}))));
    // Futures of one task still interleave at every wait for the store.
    let created = futures::future::join_all(creations).await;
    let mut addresses: Vec<&str> = created
        .iter()
        .map(|one| one["spec"]["clusterIP"].as_str().unwrap())
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), 30);
}

//! A real API server's answers (v1.20.2), sent through the whole server: first a minimal object of each kind is created,
//! then come the requests that must be refused. The `api` crate compares the objects themselves; here it is the codes,
//! reasons and messages, which also come from admission, allocation and the store.

use serde_json::{Value, json};

use super::Fixture;

const CREATIONS: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../api/tests/data/creations.jsonl"
));
const ERRORS: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../api/tests/data/errors.jsonl"
));

/// (part of a recorded message, why ours is another one).
const DIFFERENCES: &[(&str, &str)] = &[
    (
        "must be less than or equal to cpu limit",
        "the limit is named since 1.26",
    ),
    ("quantities must match", "another JSON decoder since 1.23"),
    ("decode slice", "another JSON decoder since 1.23"),
    ("decode base64", "another JSON decoder since 1.23"),
    ("sysctls[0].name", "slashes are allowed in sysctls since 1.23"),
    ("IntOrString{Type:0", "values print themselves since 1.22"),
    ("resource.Quantity{", "values print themselves since 1.22"),
    ("[]string{", "lists print themselves as JSON"),
    ("map[string]string{", "maps print themselves as JSON"),
    ("Ingress.extensions", "the group is networking.k8s.io since 1.22"),
    (r#"Namespace "a.b""#, "dots are named since 1.26"),
    ("Foo.rec.io", "custom resources are not served yet"),
];

fn rows(text: &str) -> impl Iterator<Item = (Value, Value)> {
    let lines: Vec<Value> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let pairs: Vec<_> = lines
        .chunks(2)
        .map(|pair| (pair[0].clone(), pair[1].clone()))
        .collect();
    pairs.into_iter()
}

async fn send(fixture: &Fixture, request: &Value) -> (u16, Value) {
    let body = match &request["body"] {
        Value::String(text) => text.clone().into_bytes(),
        body => body.to_string().into_bytes(),
    };
    fixture.post_bytes(request["path"].as_str().unwrap(), body).await
}

#[tokio::test]
async fn refusals_as_recorded() {
    let fixture = Fixture::new().await;
    fixture
        .ok("POST", "/api/v1/namespaces", json!({"metadata": {"name": "rec"}}))
        .await;
    // A controller's work.
    let accounts = "/api/v1/namespaces/rec/serviceaccounts";
    fixture
        .ok("POST", accounts, json!({"metadata": {"name": "default"}}))
        .await;
    let mut failures = Vec::new();
    for (request, _) in rows(CREATIONS) {
        let (code, answer) = send(&fixture, &request).await;
        if code != 201 {
            failures.push(format!("{}: {code} {}", request["path"], answer["message"]));
        }
    }
    for (request, want) in rows(ERRORS) {
        let (code, got) = send(&fixture, &request).await;
        let message = want["message"].as_str().unwrap_or_default();
        let want_code = want["code"].as_u64().unwrap_or(201);
        let same = u64::from(code) == want_code
            && (code == 201 || got["reason"] == want["reason"] && got["message"] == want["message"]);
        let listed = DIFFERENCES.iter().find(|(part, _)| message.contains(part));
        if same != listed.is_none() {
            failures.push(format!(
                "got  {code} {}\nwant {want_code} {message:?} {}",
                got["message"],
                listed.map_or("", |(_, why)| why)
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

//! Every kind that discovery names, by every verb and in every form that it is served in. `every_kind.txt` has a body for
//! each that can be created; a kind without one fails the test.

use std::collections::BTreeMap;

use api::registry::{Resource, Verb};
use http::header::{ACCEPT, CONTENT_TYPE};
use serde_json::{Value, json};

use super::{
    Fixture,
    wire::{Answer, Call},
};
use crate::protobuf;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const TABLE: &str = "application/json;as=Table;g=meta.k8s.io;v=v1";
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// The bodies, by group/version and plural.
fn bodies() -> BTreeMap<(String, String), Value> {
    let lines = include_str!("every_kind.txt").lines();
    lines
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| {
            let (version, rest) = line.split_once(' ').unwrap();
            let (plural, body) = rest.split_once(' ').unwrap();
            let body = serde_json::from_str(body).unwrap_or_else(|error| panic!("{line}: {error}"));
            ((version.to_owned(), plural.to_owned()), body)
        })
        .collect()
}

/// A kind under test.
struct Kind<'a> {
    fixture: &'a Fixture,
    resource: &'a Resource,
    body: Value,
    collection: String,
    one: String,
    name: String,
}

impl Kind<'_> {
    fn has(&self, verb: Verb) -> bool {
        self.resource.verbs.contains(verb)
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(http::HeaderName, &str)],
        body: &Value,
    ) -> Answer {
        let mut call = Call::new(method, path);
        call.headers = headers.to_vec();
        call.body = if body.is_null() {
            Vec::new()
        } else {
            body.to_string().into_bytes()
        };
        let answer = self.fixture.send(call).await;
        assert!(
            (200..300).contains(&answer.code),
            "{method} {path} {headers:?}: {} {:#}",
            answer.code,
            answer.value()
        );
        answer
    }

    async fn json(&self, method: &str, path: &str, body: &Value) -> Value {
        self.send(method, path, &[(CONTENT_TYPE, "application/json")], body)
            .await
            .value()
    }

    async fn patch(&self, path: &str, media: &str, patch: &Value) -> Value {
        let media = format!("application/{media}");
        self.send("PATCH", path, &[(CONTENT_TYPE, &media)], patch)
            .await
            .value()
    }

    fn check_type(&self, object: &Value) {
        assert_eq!(object["kind"], *self.resource.kind, "{}", self.one);
        assert_eq!(object["apiVersion"], self.resource.api_version(), "{}", self.one);
    }

    /// An object out of a protobuf body, as the server reads one.
    fn decoded(&self, bytes: &[u8]) -> Value {
        let opened = protobuf::open(bytes).unwrap_or_else(|error| panic!("{}: {error}", self.one));
        let object = opened.object(self.resource.schema).unwrap();
        let ignore = api::decode::FieldValidation::Ignore;
        let mut object = api::decode::decode_value(object, self.resource.expected(), ignore)
            .unwrap()
            .value;
        // Protobuf does not carry the types of objects within objects.
        let templates = object
            .pointer_mut("/spec/volumeClaimTemplates")
            .and_then(Value::as_array_mut);
        for template in templates.into_iter().flatten() {
            template["apiVersion"] = "v1".into();
            template["kind"] = "PersistentVolumeClaim".into();
        }
        object
    }

    async fn create(&self) -> Value {
        let dry = format!("{}?dryRun=All", self.collection);
        let made = self.json("POST", &dry, &self.body).await;
        self.check_type(&made);
        assert_eq!(
            self.fixture.call("GET", &self.one, None).await.0,
            404,
            "{}",
            self.one
        );
        let created = self.json("POST", &self.collection, &self.body).await;
        self.check_type(&created);
        for field in ["uid", "creationTimestamp", "resourceVersion"] {
            assert!(
                created["metadata"][field]
                    .as_str()
                    .is_some_and(|text| !text.is_empty()),
                "{} {field}",
                self.one
            );
        }
        let (code, status) = self
            .fixture
            .call("POST", &self.collection, self.body.clone())
            .await;
        assert_eq!(
            (code, status["reason"].as_str()),
            (409, Some("AlreadyExists")),
            "{}",
            self.one
        );
        if self.body["metadata"]["name"] == "every" {
            let mut generated = self.body.clone();
            generated["metadata"] = json!({"generateName": "every-"});
            let made = self.json("POST", &dry, &generated).await;
            let name = made["metadata"]["name"].as_str().unwrap();
            let suffix = name.strip_prefix("every-").unwrap();
            let alphabet = b"bcdfghjklmnpqrstvwxz2456789";
            assert!(
                suffix.len() == 5 && suffix.bytes().all(|byte| alphabet.contains(&byte)),
                "{name}"
            );
        }
        created
    }

    /// Reads it in every form; `created` is what it is.
    async fn read(&self, created: &Value) {
        let got = self.json("GET", &self.one, &Value::Null).await;
        assert_eq!(&got, created);
        let list = self.json("GET", &self.collection, &Value::Null).await;
        assert_eq!(list["kind"], *self.resource.list_kind, "{}", self.collection);
        assert_eq!(list["apiVersion"], self.resource.api_version());
        assert!(
            list["metadata"]["resourceVersion"]
                .as_str()
                .is_some_and(|rv| rv != "0")
        );
        let find = |list: &Value, items: &str, name: &str| {
            let items = list[items].as_array().unwrap().iter();
            items
                .filter(|item| item.pointer(name).is_some_and(|own| *own == *self.name))
                .count()
        };
        assert_eq!(find(&list, "items", "/metadata/name"), 1, "{}", self.collection);

        for (path, rows) in [(&self.one, 1), (&self.collection, usize::MAX)] {
            let table = self
                .send("GET", path, &[(ACCEPT, TABLE)], &Value::Null)
                .await
                .value();
            assert_eq!(
                (table["kind"].as_str(), &table["apiVersion"]),
                (Some("Table"), &json!("meta.k8s.io/v1"))
            );
            let columns = table["columnDefinitions"].as_array().unwrap();
            assert_eq!(
                columns[0]["name"],
                if self.resource.plural == "events" {
                    "Last Seen"
                } else {
                    "Name"
                },
                "{path}"
            );
            let got = table["rows"].as_array().unwrap();
            assert!(rows == usize::MAX || got.len() == rows, "{path}");
            for row in got {
                assert_eq!(row["cells"].as_array().unwrap().len(), columns.len(), "{path}");
                assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
            }
            assert_eq!(find(&table, "rows", "/object/metadata/name"), 1, "{path}");
        }
        let metadata = self
            .send("GET", &self.one, &[(ACCEPT, METADATA)], &Value::Null)
            .await
            .value();
        assert_eq!(metadata["kind"], "PartialObjectMetadata");
        assert_eq!(metadata["metadata"], created["metadata"]);
        let as_list = METADATA.replace("Metadata;", "MetadataList;");
        let list = self
            .send("GET", &self.collection, &[(ACCEPT, &as_list)], &Value::Null)
            .await
            .value();
        assert_eq!(list["kind"], "PartialObjectMetadataList");
        assert_eq!(find(&list, "items", "/metadata/name"), 1);
        let yaml = self
            .send("GET", &self.one, &[(ACCEPT, "application/yaml")], &Value::Null)
            .await;
        let parsed = api::decode::yaml_to_value(&yaml.body).unwrap();
        assert_eq!(&parsed, created, "{}", self.one);

        let answer = self
            .send("GET", &self.one, &[(ACCEPT, PROTOBUF)], &Value::Null)
            .await;
        assert_eq!(answer.header(CONTENT_TYPE), PROTOBUF);
        assert_eq!(&self.decoded(&answer.body), created, "{}", self.one);
        let list = self
            .send("GET", &self.collection, &[(ACCEPT, PROTOBUF)], &Value::Null)
            .await;
        assert!(list.body.starts_with(b"k8s\0"));
    }

    /// Changes it by every kind of write; returns its last state.
    async fn change(&self, created: &Value) -> Value {
        let label = |object: &Value, key: &str| object["metadata"]["labels"][key].clone();
        let mut object = created.clone();
        object["metadata"]["labels"]["put"] = "1".into();
        let updated = self.json("PUT", &self.one, &object).await;
        self.check_type(&updated);
        let revision = |object: &Value| {
            object["metadata"]["resourceVersion"]
                .as_str()
                .unwrap()
                .parse::<u64>()
                .unwrap()
        };
        assert!(revision(&updated) > revision(created));
        assert_eq!(label(&updated, "put"), "1");
        let generation = |object: &Value| object["metadata"]["generation"].as_u64();
        // Those who read EndpointSlices go by their labels: they count.
        let counts = u64::from(self.resource.plural == "endpointslices");
        assert_eq!(
            generation(&updated),
            generation(created).map(|generation| generation + counts),
            "{}",
            self.one
        );
        let again = self.json("PUT", &self.one, &updated).await;
        assert_eq!(
            again, updated,
            "{}: nothing changed, nothing is written",
            self.one
        );
        object["metadata"]["labels"]["put"] = "2".into();
        let (code, status) = self.fixture.call("PUT", &self.one, object).await;
        assert_eq!(
            (code, status["reason"].as_str()),
            (409, Some("Conflict")),
            "{}",
            self.one
        );

        let merge = json!({"metadata": {"labels": {"merge": "1"}}});
        assert_eq!(
            label(&self.patch(&self.one, "merge-patch+json", &merge).await, "merge"),
            "1"
        );
        let strategic = json!({"metadata": {"labels": {"strategic": "1"}}});
        let patched = self
            .patch(&self.one, "strategic-merge-patch+json", &strategic)
            .await;
        assert_eq!(label(&patched, "strategic"), "1");
        let json_patch = json!([{"op": "add", "path": "/metadata/labels/json", "value": "1"}]);
        assert_eq!(
            label(
                &self.patch(&self.one, "json-patch+json", &json_patch).await,
                "json"
            ),
            "1"
        );
        let config = json!({
            "apiVersion": self.resource.api_version(), "kind": self.resource.kind,
            "metadata": {"name": self.name, "labels": {"apply": "1"}},
        });
        let path = format!("{}?fieldManager=every", self.one);
        let applied = self.patch(&path, "apply-patch+yaml", &config).await;
        assert_eq!(label(&applied, "apply"), "1");
        assert_eq!(applied["metadata"]["managedFields"][0]["manager"], "every");
        let dry = format!("{}?dryRun=All", self.one);
        let nothing = self
            .patch(
                &dry,
                "merge-patch+json",
                &json!({"metadata": {"labels": {"dry": "1"}}}),
            )
            .await;
        assert_eq!(label(&nothing, "dry"), "1");
        assert_eq!(self.json("GET", &self.one, &Value::Null).await, applied);

        // The same in protobuf: what was read is sent back, and nothing changed.
        let bytes = protobuf::encode::object(
            &self.resource.api_version(),
            &self.resource.kind,
            self.resource.schema,
            applied.as_object().unwrap(),
        );
        let mut call = Call::new("PUT", &self.one)
            .header(CONTENT_TYPE, PROTOBUF)
            .header(ACCEPT, PROTOBUF);
        call.body = bytes;
        let answer = self.fixture.send(call).await;
        assert_eq!(answer.code, 200, "{}", self.one);
        assert_eq!(self.decoded(&answer.body), applied, "{}", self.one);
        applied
    }

    /// Its parts, where it has them.
    async fn parts(&self) {
        for part in ["status", "scale"] {
            if self.resource.subresource(part).is_none() {
                continue;
            }
            let path = format!("{}/{part}", self.one);
            let got = self.json("GET", &path, &Value::Null).await;
            let kind = if part == "scale" {
                "Scale"
            } else {
                &self.resource.kind
            };
            assert_eq!(got["kind"], *kind, "{path}");
            self.json("PUT", &path, &got).await;
            for media in ["merge-patch+json", "strategic-merge-patch+json"] {
                assert_eq!(
                    self.patch(&path, media, &json!({})).await["kind"],
                    *kind,
                    "{path}"
                );
            }
            self.patch(&path, "json-patch+json", &json!([])).await;
            let config = json!({
                "apiVersion": got["apiVersion"], "kind": kind, "metadata": {"name": self.name},
            });
            let apply = format!("{path}?fieldManager=part");
            assert_eq!(
                self.patch(&apply, "apply-patch+yaml", &config).await["kind"],
                *kind,
                "{path}"
            );
            let read = self.send("GET", &path, &[(ACCEPT, PROTOBUF)], &Value::Null).await;
            assert!(read.body.starts_with(b"k8s\0"), "{path}");
        }
    }

    async fn delete(&self) {
        if self.has(Verb::DeleteCollection) {
            let path = format!("{}?labelSelector=apply=1&dryRun=All", self.collection);
            let list = self.json("DELETE", &path, &Value::Null).await;
            assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "{path}");
            self.json(
                "DELETE",
                &path.replace(
                    "&dryRun=All",
                    "&gracePeriodSeconds=0&propagationPolicy=Background",
                ),
                &Value::Null,
            )
            .await;
        } else {
            self.json("DELETE", &self.one, &Value::Null).await;
        }
        let (code, _) = self.fixture.call("GET", &self.one, None).await;
        // What others have to see off first is still there.
        let waits = self.resource.plural == "namespaces";
        assert_eq!(code, if waits { 200 } else { 404 }, "{}", self.one);
    }
}

/// The uid of an object, or of the one in a table's only row.
fn uid(object: &Value) -> &Value {
    match object["kind"].as_str() {
        Some("Table") => &object["rows"][0]["object"]["metadata"]["uid"],
        _ => &object["metadata"]["uid"],
    }
}

/// Events in JSON of a watch that starts behind the creation; those of this object alone, since several versions of a kind
/// have one store.
async fn watched(kind: &Kind<'_>, created: &Value, accept: &str) -> Vec<(String, Value)> {
    let from = created["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!(
        "{}?watch=1&timeoutSeconds=1&resourceVersion={from}",
        kind.collection
    );
    let answer = kind.send("GET", &path, &[(ACCEPT, accept)], &Value::Null).await;
    let lines = answer
        .body
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    let events = lines.map(|line| {
        let mut event: Value = serde_json::from_slice(line).unwrap();
        (event["type"].as_str().unwrap().to_owned(), event["object"].take())
    });
    events.filter(|(_, object)| uid(object) == uid(created)).collect()
}

/// The protobuf events of the same watch.
async fn watched_in_protobuf(kind: &Kind<'_>, created: &Value) -> Vec<Value> {
    let from = created["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!(
        "{}?watch=1&timeoutSeconds=1&resourceVersion={from}",
        kind.collection
    );
    let accept = format!("{PROTOBUF};stream=watch");
    let answer = kind.send("GET", &path, &[(ACCEPT, &accept)], &Value::Null).await;
    let (mut rest, mut objects) = (&answer.body[..], Vec::new());
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let (event, tail) = tail.split_at(u32::from_be_bytes(*length) as usize);
        // The raw object is an envelope within the event.
        let start = event.windows(4).position(|window| window == b"k8s\0").unwrap();
        objects.push(kind.decoded(&event[start..]));
        rest = tail;
    }
    objects.retain(|object| uid(object) == uid(created));
    objects
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_every_verb_and_in_every_form() {
    let fixture = Fixture::new().await;
    let account = json!({"metadata": {"name": "default"}});
    fixture
        .ok("POST", "/api/v1/namespaces/default/serviceaccounts", account)
        .await;
    let mut bodies = bodies();
    let registry = api::registry::Registry::builtin();
    let mut watches = Vec::new();
    let mut count = 0;
    for resource in registry.resources() {
        if !resource.verbs.contains(Verb::Create) || !resource.verbs.contains(Verb::Get) {
            continue;
        }
        let version = resource.api_version();
        let mut body = bodies
            .remove(&(version.clone(), resource.plural.to_string()))
            .unwrap_or_else(|| panic!("no body for {version} {}", resource.plural));
        if body["metadata"]["name"].is_null() {
            body["metadata"]["name"] = "every".into();
        }
        let root = if version.contains('/') { "apis" } else { "api" };
        let namespace = if resource.namespaced {
            "namespaces/default/"
        } else {
            ""
        };
        let collection = format!("/{root}/{version}/{namespace}{}", resource.plural);
        let name = body["metadata"]["name"].as_str().unwrap().to_owned();
        let kind = Kind {
            fixture: &fixture,
            resource,
            body,
            one: format!("{collection}/{name}"),
            collection,
            name,
        };
        let created = kind.create().await;
        kind.read(&created).await;
        let last = kind.change(&created).await;
        kind.parts().await;
        kind.delete().await;
        assert!(kind.has(Verb::Watch));
        watches.push((kind, created, last));
        count += 1;
    }
    assert!(
        bodies.is_empty(),
        "bodies of kinds that are not served: {bodies:?}"
    );
    assert!(count >= 60, "{count}");
    // All together, because each watch lasts a second.
    let watches = watches.iter().map(|(kind, created, last)| async move {
        let events = watched(kind, created, "application/json").await;
        let types: Vec<&str> = events.iter().map(|(of, _)| of.as_str()).collect();
        assert!(
            types.len() >= 6 && types[..types.len() - 1].iter().all(|of| *of == "MODIFIED"),
            "{}: {types:?}",
            kind.one
        );
        let terminating = kind.resource.plural == "namespaces";
        assert_eq!(
            types.last(),
            Some(&if terminating { "MODIFIED" } else { "DELETED" }),
            "{}",
            kind.one
        );
        for (_, object) in &events {
            kind.check_type(object);
        }
        assert!(events.iter().any(|(_, object)| object == last), "{}", kind.one);
        let in_protobuf = watched_in_protobuf(kind, created).await;
        let objects: Vec<&Value> = events.iter().map(|(_, object)| object).collect();
        assert_eq!(in_protobuf.iter().collect::<Vec<_>>(), objects, "{}", kind.one);
        let tables = watched(kind, created, TABLE).await;
        assert_eq!(tables.len(), events.len(), "{}", kind.one);
        for (i, (_, table)) in tables.iter().enumerate() {
            assert_eq!(table["kind"], "Table");
            let columns = table["columnDefinitions"]
                .as_array()
                .map(Vec::len)
                .unwrap_or_default();
            assert_eq!(
                columns > 0,
                i == 0,
                "{}: only the first event has columns",
                kind.one
            );
            assert_eq!(table["rows"].as_array().map(Vec::len), Some(1));
        }
        let metadata = watched(kind, created, METADATA).await;
        assert_eq!(metadata.len(), events.len());
        assert!(
            metadata
                .iter()
                .all(|(_, object)| object["kind"] == "PartialObjectMetadata")
        );
    });
    futures::future::join_all(watches).await;
}

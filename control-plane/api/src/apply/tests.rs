//! Tables after upstream's: structured-merge-diff `merge/*_test.go`, `fieldpath/serialize_test.go`, apimachinery
//! `managedfields/internal/*_test.go`.

use super::*;
use crate::registry::Registry;
use crate::schema::TypeRef;
use serde_json::{Value, json};

/// An object and the requests it has seen.
struct Live {
    registry: Registry,
    path: (&'static str, &'static str, &'static str),
    object: Option<Value>,
    managed: Option<Value>,
    clock: u32,
}

impl Live {
    fn new(group: &'static str, version: &'static str, plural: &'static str) -> Live {
        Live {
            registry: Registry::builtin(),
            path: (group, version, plural),
            object: None,
            managed: None,
            clock: 0,
        }
    }

    fn deployment() -> Live {
        Live::new("apps", "v1", "deployments")
    }

    fn config_map() -> Live {
        Live::new("", "v1", "configmaps")
    }

    fn write<T>(
        &mut self,
        manager: &str,
        subresource: &str,
        call: impl FnOnce(&mut Live, &Write<'_>) -> T,
    ) -> T {
        let registry = self.registry.clone();
        let (group, version, plural) = self.path;
        let resource = registry.find(group, version, plural).unwrap();
        self.clock += 1;
        let versions = ServedVersions::new(&registry, resource);
        let write = Write {
            manager,
            api_version: &resource.api_version(),
            subresource,
            reset: match subresource {
                "status" => &["spec"],
                "" => &["status"],
                _ => &[],
            },
            now: &format!("2026-01-01T00:00:{:02}Z", self.clock),
            schema: resource.schema,
            versions: &versions,
        };
        call(self, &write)
    }

    fn update(&mut self, manager: &str, new: Value) {
        self.update_at(manager, "", new, None);
    }

    fn update_at(&mut self, manager: &str, subresource: &str, new: Value, given: Option<Value>) {
        let new = self.settled(new).unwrap();
        self.write(manager, subresource, |live, write| {
            let before = live.object.as_ref().map(|object| (object, live.managed.as_ref()));
            live.managed = track(write, before, &new, given.as_ref());
        });
        self.object = Some(new);
    }

    fn settled(&self, value: Value) -> Result<Value, crate::status::Status> {
        let (group, version, plural) = self.path;
        let resource = self.registry.find(group, version, plural).unwrap();
        let mode = crate::decode::FieldValidation::Ignore;
        Ok(crate::decode::decode_value(value, resource.expected(), mode)?.value)
    }

    fn try_apply(&mut self, manager: &str, config: Value, force: bool) -> Result<(), ApplyError> {
        let applied = self.write(manager, "", |live, write| {
            let before = live.object.as_ref().map(|object| (object, live.managed.as_ref()));
            apply(write, before, &config, force, |value| live.settled(value))
        })?;
        self.object = Some(self.settled(applied.object)?);
        self.managed = applied.managed_fields;
        Ok(())
    }

    fn apply(&mut self, manager: &str, config: Value) {
        self.try_apply(manager, config, false).unwrap();
    }

    /// The messages of the conflicts.
    fn conflict(&mut self, manager: &str, config: Value) -> String {
        match self.try_apply(manager, config, false) {
            Err(ApplyError::Conflicts(conflicts)) => conflict_status(&conflicts).message.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn object(&self) -> &Value {
        self.object.as_ref().unwrap()
    }

    /// The fields of a manager; null when it has none.
    fn fields(&self, manager: &str) -> Value {
        self.entry(manager)["fieldsV1"].clone()
    }

    fn entry(&self, manager: &str) -> Value {
        let entries = self.managed.as_ref().and_then(Value::as_array);
        let mut entries = entries.into_iter().flatten();
        entries
            .find(|entry| entry["manager"] == manager)
            .cloned()
            .unwrap_or_default()
    }

    fn managers(&self) -> Vec<String> {
        let entries = self
            .managed
            .as_ref()
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        entries
            .map(|entry| {
                format!(
                    "{}/{}",
                    entry["manager"].as_str().unwrap(),
                    entry["operation"].as_str().unwrap()
                )
            })
            .collect()
    }
}

fn config_map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data})
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": spec})
}

fn containers(containers: Value) -> Value {
    deployment(json!({"template": {"spec": {"containers": containers}}}))
}

fn names(live: &Live) -> Vec<&str> {
    let containers = &live.object()["spec"]["template"]["spec"]["containers"];
    containers
        .as_array()
        .into_iter()
        .flatten()
        .map(|c| c["name"].as_str().unwrap())
        .collect()
}

#[test]
fn fields_v1_round_trip() {
    for set in [
        json!({"f:a": {}, "f:b": {".": {}, "f:c": {}}, "f:d": {"f:e": {}}}),
        json!({"f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}}}}),
        json!({"f:finalizers": {".": {}, "v:\"a\"": {}, "v:1": {}, "v:true": {}}}),
        json!({"f:list": {"i:0": {}, "i:1": {"f:x": {}}}}),
    ] {
        assert_eq!(FieldSet::from_fields_v1(&set).unwrap().to_fields_v1(), set);
    }
    let spelled = json!({"k:{ \"protocol\": \"TCP\", \"containerPort\": 80 }": {}});
    let one = json!({"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {}});
    assert_eq!(FieldSet::from_fields_v1(&spelled).unwrap().to_fields_v1(), one);
    for bad in [
        json!([]),
        json!({"x:a": {}}),
        json!({"f:a": 1}),
        json!({"k:[]": {}}),
        json!({"v:": {}}),
        json!({"i:-": {}}),
    ] {
        assert!(FieldSet::from_fields_v1(&bad).is_none(), "{bad}");
    }
}

#[test]
fn field_set_algebra() {
    let set = |value: Value| FieldSet::from_fields_v1(&value).unwrap();
    let a = set(json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}}));
    let b = set(json!({"f:a": {}, "f:d": {}}));
    let mut both = a.clone();
    both.add(&b);
    assert_eq!(
        both,
        set(json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}, "f:d": {}}))
    );
    let mut left = a.clone();
    left.subtract(&b);
    assert_eq!(left, set(json!({"f:a": {"f:b": {}}, "f:c": {}})));
    let mut trees = a.clone();
    trees.subtract_trees(&b);
    assert_eq!(trees, set(json!({"f:c": {}})));
    assert_eq!(a.intersection(&b), set(json!({"f:a": {}})));
    let paths = set(
        json!({"f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {"f:name": {}}}, "f:x": {"v:\"y\"": {}, "i:2": {}}}}),
    );
    assert_eq!(
        paths.paths(),
        [
            ".spec.ports[port=80,protocol=\"TCP\"].name",
            ".spec.x[2]",
            ".spec.x[=\"y\"]"
        ]
    );
}

#[test]
fn a_created_deployment_is_tracked_as_upstream_does() {
    let mut live = Live::deployment();
    let mut object = deployment(json!({
        "replicas": 1,
        "selector": {"matchLabels": {"app": "a"}},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}},
        "template": {
            "metadata": {"labels": {"app": "a"}},
            "spec": {"containers": [{"name": "c", "image": "i", "resources": {}, "ports": [{"containerPort": 80, "protocol": "TCP"}]}], "securityContext": {}},
        },
    }));
    object["metadata"]["labels"] = json!({"app": "a"});
    object["metadata"]["uid"] = "u".into();
    object["status"] = json!({"replicas": 3});
    live.update("kubectl-create", object);
    assert_eq!(
        live.managed,
        Some(json!([{
            "manager": "kubectl-create", "operation": "Update", "apiVersion": "apps/v1",
            "time": "2026-01-01T00:00:01Z", "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {
                    "f:replicas": {}, "f:selector": {},
                    "f:strategy": {"f:rollingUpdate": {".": {}, "f:maxSurge": {}}, "f:type": {}},
                    "f:template": {
                        "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                        "f:spec": {
                            "f:containers": {"k:{\"name\":\"c\"}": {
                                ".": {}, "f:image": {}, "f:name": {}, "f:resources": {},
                                "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}, "f:protocol": {}}},
                            }},
                            "f:securityContext": {},
                        },
                    },
                },
            },
        }]))
    );
}

#[test]
fn applying_what_is_not_there() {
    let mut live = Live::config_map();
    live.apply("one", config_map(json!({"a": "1"})));
    assert_eq!(live.object()["data"], json!({"a": "1"}));
    assert_eq!(live.fields("one"), json!({"f:data": {"f:a": {}}}));
    assert_eq!(live.managers(), ["one/Apply"]);
}

#[test]
fn conflicts_and_force() {
    let mut live = Live::config_map();
    live.apply("one", config_map(json!({"a": "1", "b": "1"})));
    let message = live.conflict("two", config_map(json!({"a": "2", "c": "2"})));
    assert_eq!(
        message,
        "Apply failed with 1 conflict: conflict with \"one\": .data.a"
    );
    let message = live.conflict("two", config_map(json!({"a": "2", "b": "2"})));
    assert_eq!(
        message,
        "Apply failed with 2 conflicts: conflicts with \"one\":\n- .data.a\n- .data.b"
    );
    live.try_apply("two", config_map(json!({"a": "2", "c": "2"})), true)
        .unwrap();
    assert_eq!(live.object()["data"], json!({"a": "2", "b": "1", "c": "2"}));
    assert_eq!(live.fields("one"), json!({"f:data": {"f:b": {}}}));
    assert_eq!(live.fields("two"), json!({"f:data": {"f:a": {}, "f:c": {}}}));
}

#[test]
fn equal_values_are_shared_and_stay_until_the_last_owner_goes() {
    let mut live = Live::config_map();
    live.apply("one", config_map(json!({"a": "1", "b": "1"})));
    live.apply("two", config_map(json!({"a": "1"})));
    live.apply("one", config_map(json!({"b": "1"})));
    assert_eq!(live.object()["data"], json!({"a": "1", "b": "1"}));
    live.apply("two", config_map(json!({})));
    assert_eq!(live.object()["data"], json!({"b": "1"}));
    live.apply(
        "one",
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}),
    );
    assert!(live.object().get("data").is_none());
}

#[test]
fn an_update_takes_fields_and_makes_conflicts() {
    let mut live = Live::deployment();
    live.apply("one", deployment(json!({"replicas": 1, "paused": true})));
    let mut scaled = live.object().clone();
    scaled["spec"]["replicas"] = 3.into();
    live.update_at("kubectl", "scale", scaled, None);
    assert_eq!(live.fields("one"), json!({"f:spec": {"f:paused": {}}}));
    assert_eq!(live.fields("kubectl"), json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(live.entry("kubectl")["subresource"], "scale");
    let message = live.conflict("one", deployment(json!({"replicas": 1, "paused": true})));
    assert_eq!(
        message,
        "Apply failed with 1 conflict: conflict with \"kubectl\" with subresource \"scale\" using apps/v1: .spec.replicas"
    );
    // Naming it with the value it has shares it.
    live.apply("one", deployment(json!({"replicas": 3, "paused": true})));
    assert_eq!(
        live.fields("one"),
        json!({"f:spec": {"f:paused": {}, "f:replicas": {}}})
    );
    // Not naming it gives it away.
    live.apply("one", deployment(json!({"paused": true})));
    assert_eq!(live.object()["spec"]["replicas"], 3);
}

#[test]
fn an_update_that_removes_a_field_removes_its_ownership() {
    let mut live = Live::config_map();
    live.apply("one", config_map(json!({"a": "1", "b": "1"})));
    live.update("two", config_map(json!({"b": "1"})));
    assert_eq!(live.fields("one"), json!({"f:data": {"f:b": {}}}));
    assert_eq!(live.fields("two"), Value::Null);
}

#[test]
fn keyed_lists_merge_by_item() {
    let mut live = Live::deployment();
    live.apply(
        "one",
        containers(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}])),
    );
    live.apply(
        "two",
        containers(json!([{"name": "c", "image": "2"}, {"name": "b"}])),
    );
    assert_eq!(names(&live), ["a", "c", "b"]);
    live.apply("one", containers(json!([{"name": "b", "image": "1"}])));
    assert_eq!(names(&live), ["c", "b"]);
    // The applier's item goes, its field that somebody else owns keeps it.
    live.apply("two", containers(json!([{"name": "b"}])));
    live.apply("one", deployment(json!({})));
    assert_eq!(
        live.object()["spec"]["template"]["spec"]["containers"][0]["name"],
        "b"
    );
    assert_eq!(
        live.object()["spec"]["template"]["spec"]["containers"][0].get("image"),
        None
    );
}

#[test]
fn merged_order_follows_the_configuration() {
    let list = |names: &[&str]| containers(names.iter().map(|name| json!({"name": name})).collect());
    for (live_names, config, expect) in [
        (&["a", "b", "c"][..], &["c", "b", "a"][..], &["c", "b", "a"][..]),
        (&["a", "b", "c"], &["a", "c", "b"], &["a", "c", "b"]),
        (&["a", "b", "c"], &["x", "b"], &["a", "x", "b", "c"]),
        (&["a", "b"], &["c"], &["a", "b", "c"]),
        (&["a", "b", "c", "d"], &["d", "a"], &["b", "c", "d", "a"]),
    ] {
        let mut live = Live::deployment();
        live.update("other", list(live_names));
        live.apply("one", list(config));
        assert_eq!(names(&live), expect, "{live_names:?} {config:?}");
    }
}

#[test]
fn a_default_completes_a_key() {
    let ports = |ports: Value| containers(json!([{"name": "a", "ports": ports}]));
    let mut live = Live::deployment();
    live.apply("one", ports(json!([{"containerPort": 80}])));
    let ports_of = |live: &Live| live.object()["spec"]["template"]["spec"]["containers"][0]["ports"].clone();
    let key = "k:{\"containerPort\":80,\"protocol\":\"TCP\"}";
    let owned = live.fields("one");
    let owned = &owned["f:spec"]["f:template"]["f:spec"]["f:containers"]["k:{\"name\":\"a\"}"]["f:ports"];
    assert_eq!(owned[key], json!({".": {}, "f:containerPort": {}}));
    // The same port with its protocol spelled out is the same item.
    live.apply(
        "two",
        ports(json!([{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "UDP"}])),
    );
    assert_eq!(ports_of(&live).as_array().unwrap().len(), 2);
}

#[test]
fn sets_and_atomics() {
    let meta = |finalizers: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "finalizers": finalizers}});
    let mut live = Live::config_map();
    live.apply("one", meta(json!(["a/a", "a/b"])));
    live.apply("two", meta(json!(["a/b", "a/c"])));
    assert_eq!(
        live.object()["metadata"]["finalizers"],
        json!(["a/a", "a/b", "a/c"])
    );
    live.apply("one", meta(json!(["a/a"])));
    assert_eq!(
        live.object()["metadata"]["finalizers"],
        json!(["a/a", "a/b", "a/c"])
    );
    live.apply("two", meta(json!([])));
    assert_eq!(live.object()["metadata"]["finalizers"], json!(["a/a"]));

    // A label selector is one field.
    let selector = |labels: Value| deployment(json!({"selector": {"matchLabels": labels}}));
    let mut live = Live::deployment();
    live.apply("one", selector(json!({"a": "1"})));
    let message = live.conflict("two", selector(json!({"b": "1"})));
    assert_eq!(
        message,
        "Apply failed with 1 conflict: conflict with \"one\": .spec.selector"
    );
    live.try_apply("two", selector(json!({"b": "1"})), true).unwrap();
    assert_eq!(
        live.object()["spec"]["selector"],
        json!({"matchLabels": {"b": "1"}})
    );
}

#[test]
fn one_value_spelled_in_two_ways_is_no_conflict() {
    let with = |cpu: &str| containers(json!([{"name": "a", "resources": {"limits": {"cpu": cpu}}}]));
    let mut live = Live::deployment();
    live.apply("one", with("1"));
    live.apply("two", with("1000m"));
    assert_eq!(live.managers(), ["one/Apply", "two/Apply"]);
}

#[test]
fn nothing_changed_keeps_the_time() {
    let mut live = Live::config_map();
    live.apply("one", config_map(json!({"a": "1"})));
    live.update("two", config_map(json!({"a": "1", "b": "1"})));
    let before = live.managed.clone();
    live.apply("one", config_map(json!({"a": "1"})));
    let object = live.object().clone();
    live.update("two", object);
    assert_eq!(live.managed, before);
}

#[test]
fn status_has_managers_of_its_own() {
    let mut live = Live::deployment();
    live.apply("one", deployment(json!({"replicas": 1})));
    let mut object = live.object().clone();
    object["status"] = json!({"replicas": 1, "conditions": [{"type": "Available", "status": "True"}]});
    object["spec"]["replicas"] = 7.into();
    live.update_at("controller", "status", object.clone(), None);
    let status = json!({"f:status": {
        "f:conditions": {".": {}, "k:{\"type\":\"Available\"}": {".": {}, "f:status": {}, "f:type": {}}},
        "f:replicas": {},
    }});
    let mut fields = live.fields("controller");
    // Times that Go always writes are values too.
    for time in ["f:lastUpdateTime", "f:lastTransitionTime"] {
        let condition = &mut fields["f:status"]["f:conditions"]["k:{\"type\":\"Available\"}"];
        condition.as_object_mut().unwrap().remove(time);
    }
    assert_eq!(fields, status);
    assert_eq!(live.entry("controller")["subresource"], "status");
    assert_eq!(live.fields("one"), json!({"f:spec": {"f:replicas": {}}}));
    // The main endpoint does not track the status, whatever the configuration says.
    let mut config = deployment(json!({"replicas": 7}));
    config["status"] = json!({"replicas": 9});
    live.apply("one", config);
    assert_eq!(live.fields("one"), json!({"f:spec": {"f:replicas": {}}}));
}

#[test]
fn untracked_objects_stay_so_until_applied_to() {
    let mut live = Live::config_map();
    live.object = Some(config_map(json!({"a": "1"})));
    live.update("one", config_map(json!({"a": "2"})));
    assert_eq!(live.managed, None);
    let message = live.conflict("two", config_map(json!({"a": "3"})));
    assert_eq!(
        message,
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.a"
    );
    live.apply("two", config_map(json!({"b": "1"})));
    assert_eq!(live.managers(), ["two/Apply", "before-first-apply/Update"]);
}

#[test]
fn managed_fields_given_in_a_request() {
    for reset in [json!([]), json!([{}])] {
        let mut live = Live::config_map();
        live.update("one", config_map(json!({"a": "1"})));
        live.update_at("one", "", config_map(json!({"a": "2"})), Some(reset));
        assert_eq!(live.managed, None);
    }
    let mut live = Live::config_map();
    live.update("one", config_map(json!({"a": "1"})));
    let mut given = live.managed.clone().unwrap();
    given[0]["manager"] = "two".into();
    given[0]["operation"] = "Apply".into();
    live.update_at("one", "", config_map(json!({"a": "1"})), Some(given));
    assert_eq!(live.managers(), ["two/Apply"]);
    // What cannot be read is not taken.
    live.update_at(
        "one",
        "",
        config_map(json!({"a": "1"})),
        Some(json!([{"manager": "x"}])),
    );
    assert_eq!(live.managers(), ["two/Apply"]);
    // Subresources do not set it.
    live.update_at("one", "status", config_map(json!({"a": "1"})), Some(json!([])));
    assert_eq!(live.managers(), ["two/Apply"]);
}

#[test]
fn coming_from_client_side_apply() {
    let annotated = |data: Value, last: Value| {
        let mut object = config_map(data);
        object["metadata"]["annotations"] =
            json!({"kubectl.kubernetes.io/last-applied-configuration": config_map(last).to_string()});
        object
    };
    let mut live = Live::config_map();
    live.update(
        "kubectl-client-side-apply",
        annotated(json!({"a": "1"}), json!({"a": "1"})),
    );
    let message = live.conflict("other", config_map(json!({"a": "2"})));
    assert_eq!(
        message,
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using v1: .data.a"
    );
    live.apply("kubectl", config_map(json!({"a": "2"})));
    assert_eq!(live.object()["data"], json!({"a": "2"}));
    let annotations = &live.object()["metadata"]["annotations"];
    let last = annotations["kubectl.kubernetes.io/last-applied-configuration"]
        .as_str()
        .unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(last).unwrap(),
        config_map(json!({"a": "2"}))
    );

    // What somebody changed since is a conflict still.
    let mut live = Live::config_map();
    live.update(
        "kubectl-client-side-apply",
        annotated(json!({"a": "1"}), json!({"a": "1"})),
    );
    let mut edited = live.object().clone();
    edited["data"]["a"] = "5".into();
    live.update("kubectl-edit", edited);
    let message = live.conflict("kubectl", config_map(json!({"a": "2"})));
    assert_eq!(
        message,
        "Apply failed with 1 conflict: conflict with \"kubectl-edit\" using v1: .data.a"
    );
}

/// Rows of structured-merge-diff's `merge/duplicates_test.go`.
#[test]
fn duplicates_that_are_there_are_one_field() {
    let ports = |ports: Value| containers(json!([{"name": "c", "image": "i", "ports": ports}]));
    let of = |live: &Live, manager: &str| {
        live.fields(manager)["f:spec"]["f:template"]["f:spec"]["f:containers"]["k:{\"name\":\"c\"}"]["f:ports"].clone()
    };
    let port = |number: i64, name: &str| json!({"containerPort": number, "protocol": "TCP", "name": name});
    let (one, two) = (port(80, "a"), port(80, "b"));
    let mut live = Live::deployment();
    live.update("updater", ports(json!([one, two, port(81, "c")])));
    let key = "k:{\"containerPort\":80,\"protocol\":\"TCP\"}";
    assert_eq!(of(&live, "updater")[key], json!({}));
    assert_eq!(
        of(&live, "updater")["k:{\"containerPort\":81,\"protocol\":\"TCP\"}"],
        json!({".": {}, "f:containerPort": {}, "f:name": {}, "f:protocol": {}})
    );
    // Who applies other items leaves them be; who applies theirs takes their place, all of them being one field.
    live.apply("other", ports(json!([port(82, "d")])));
    let names = |live: &Live| -> Vec<Value> {
        let ports = live.object()["spec"]["template"]["spec"]["containers"][0]["ports"].as_array();
        ports
            .into_iter()
            .flatten()
            .map(|port| port["name"].clone())
            .collect()
    };
    assert_eq!(names(&live), ["a", "b", "c", "d"]);
    let conflict = live.conflict("applier", ports(json!([port(80, "x")])));
    assert!(
        conflict.ends_with(".ports[containerPort=80,protocol=\"TCP\"]"),
        "{conflict}"
    );
    live.try_apply("applier", ports(json!([port(80, "x")])), true)
        .unwrap();
    assert_eq!(names(&live), ["x", "c", "d"]);
    assert_eq!(of(&live, "updater").get(key), None);
    assert_eq!(
        of(&live, "applier")[key],
        json!({".": {}, "f:containerPort": {}, "f:name": {}, "f:protocol": {}})
    );
    // An update that makes duplicates takes the field from whoever had it.
    live.update("maker", ports(json!([port(80, "x"), port(80, "y")])));
    assert_eq!(of(&live, "maker")[key], json!({}));
    assert_eq!(of(&live, "applier").get(key), None);
    // Changing one of them changes the field, leaving one of them removes it and adds that one.
    live.update("changer", ports(json!([port(80, "x"), port(80, "z")])));
    assert_eq!(of(&live, "changer")[key], json!({}));
    assert_eq!(of(&live, "maker").get(key), None);
    live.update("tidier", ports(json!([port(80, "x")])));
    assert_eq!(
        of(&live, "tidier")[key],
        json!({".": {}, "f:containerPort": {}, "f:name": {}, "f:protocol": {}})
    );
    // Duplicates in what is applied are refused.
    let refused = live
        .try_apply("applier", ports(json!([one, two])), true)
        .unwrap_err();
    assert!(
        refused
            .to_string()
            .ends_with(".ports: duplicate entries for key [containerPort=80,protocol=\"TCP\"]"),
        "{refused}"
    );
}

#[test]
fn an_annotation_that_would_be_too_long_goes() {
    let mut live = Live::config_map();
    let mut object = config_map(json!({"a": "1"}));
    object["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": config_map(json!({"a": "1"})).to_string()});
    live.update("kubectl-client-side-apply", object);
    live.apply("kubectl", config_map(json!({"a": "x".repeat(256 << 10)})));
    let annotations = live.object()["metadata"].get("annotations");
    assert_eq!(
        annotations.and_then(|a| a.get("kubectl.kubernetes.io/last-applied-configuration")),
        None
    );
}

#[test]
fn the_oldest_updates_are_put_together() {
    let mut live = Live::config_map();
    let mut data = serde_json::Map::new();
    for i in 0..13 {
        data.insert(format!("k{i}"), "1".into());
        live.update(&format!("m{i}"), config_map(Value::Object(data.clone())));
    }
    let managers = live.managers();
    assert_eq!(managers.len(), 10);
    assert_eq!(managers[0], "ancient-changes/Update");
    assert_eq!(
        live.fields("ancient-changes"),
        json!({"f:data": {".": {}, "f:k0": {}, "f:k1": {}, "f:k2": {}, "f:k3": {}}})
    );
    assert_eq!(live.entry("ancient-changes")["time"], "2026-01-01T00:00:04Z");
}

#[test]
fn configurations_that_cannot_be() {
    for (config, error) in [
        (
            deployment(json!({"nope": 1})),
            ".spec.nope: field not declared in schema",
        ),
        (
            containers(json!([{"image": "a"}])),
            ".spec.template.spec.containers: element 0: associative list with keys has an element that omits all key fields [\"name\"] (and doesn't have default values for any key fields)",
        ),
        (
            containers(json!([{"name": "a"}, {"name": "a"}])),
            ".spec.template.spec.containers: duplicate entries for key [name=\"a\"]",
        ),
        (deployment(json!([])), ".spec: expected map, got &{[]}"),
        (
            deployment(json!({"x": 1, "y": 1})),
            "errors:\n  .spec.x: field not declared in schema\n  .spec.y: field not declared in schema",
        ),
    ] {
        let got = Live::deployment().try_apply("one", config, false).unwrap_err();
        assert_eq!(got.to_string(), error);
    }
}

#[test]
fn managers_at_another_version_of_the_kind() {
    let v1 = |cpu: i64| {
        json!({
            "apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "a"}, "targetCPUUtilizationPercentage": cpu},
        })
    };
    let mut live = Live::new("autoscaling", "v1", "horizontalpodautoscalers");
    live.apply("one", v1(50));
    // Another writes by v2: the object and what it says are the same there.
    let registry = live.registry.clone();
    let old = registry
        .find("autoscaling", "v1", "horizontalpodautoscalers")
        .unwrap();
    let v2 = ServedVersions::new(&registry, old)
        .convert(live.object(), "autoscaling/v1", "autoscaling/v2")
        .unwrap();
    live.path = ("autoscaling", "v2", "horizontalpodautoscalers");
    live.object = Some(v2.clone());
    let mut changed = v2;
    changed["spec"]["maxReplicas"] = 5.into();
    live.update("two", changed);
    assert_eq!(live.entry("one")["apiVersion"], "autoscaling/v1");
    assert!(live.fields("one")["f:spec"].get("f:maxReplicas").is_none());
    assert!(
        live.fields("one")["f:spec"]
            .get("f:targetCPUUtilizationPercentage")
            .is_some()
    );
    assert_eq!(live.fields("two"), json!({"f:spec": {"f:maxReplicas": {}}}));
}

#[test]
fn names_of_managers() {
    assert_eq!(
        manager_from_user_agent("kubectl/v1.32.0 (linux/amd64)"),
        "kubectl"
    );
    assert_eq!(manager_from_user_agent(""), "");
    assert_eq!(manager_from_user_agent(&"x".repeat(200)).len(), 128);
    assert_eq!(
        manager_problem(&"x".repeat(129)),
        Some(ManagerProblem::TooLong(128))
    );
    assert_eq!(manager_problem("a\nb"), Some(ManagerProblem::NotPrintable(1)));
    assert_eq!(manager_problem("kubectl"), None);
}

/// Every built-in type's zero value can be walked, compared and merged with itself.
#[test]
fn every_type_is_walked() {
    for ty in TypeRef::all() {
        let zero = crate::decode::zero_message(ty);
        let shape = shape::Shape::of_type(ty);
        assert!(tree::Difference::between(shape, &zero, &zero).is_empty());
        assert_eq!(tree::merge(shape, &zero, &zero), zero);
    }
}

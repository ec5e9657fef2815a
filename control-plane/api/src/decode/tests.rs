use super::*;
use serde_json::json;

fn expected(name: &'static str, group: &'static str, version: &'static str) -> Expected<'static> {
    let schema = TypeRef::by_name(name).expect(name);
    Expected {
        group,
        version,
        kind: schema.short_name(),
        schema,
    }
}

fn pod() -> Expected<'static> {
    expected("io.k8s.api.core.v1.Pod", "", "v1")
}

fn decoded(body: &str) -> Value {
    decode(body.as_bytes(), Media::Json, pod(), FieldValidation::Strict)
        .unwrap_or_else(|e| panic!("{e}"))
        .value
}

fn error(body: &str) -> String {
    decode(body.as_bytes(), Media::Json, pod(), FieldValidation::Strict)
        .unwrap_err()
        .message
        .clone()
}

#[test]
fn an_object_comes_out_as_go_would_write_it() {
    let pod = decoded(
        r#"{"metadata":{"name":"a","labels":{},"annotations":null,"creationTimestamp":null},
            "spec":{"hostNetwork":false,"nodeName":"","terminationGracePeriodSeconds":0,
            "containers":[{"image":"i","resources":{"limits":{"cpu":"0.5","memory":"1024Ki"}},"stdin":false,
              "env":[{"name":"A","value":""}], "command":[]}]}}"#,
    );
    assert_eq!(
        pod,
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "status": {},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "", "image": "i",
                "resources": {"limits": {"cpu": "500m", "memory": "1Mi"}}, "env": [{"name": "A"}]}]}})
    );
}

#[test]
fn unknown_and_duplicate_fields_are_found_at_once() {
    let body = r#"{"metadata":{"name":"a","name":"b","labels":{"x":"1","x":"2"}},"spec":{"foo":1,"containers":[{"bar":{"a":[1]}},{}]},"Kind":"x"}"#;
    let strict = decode(body.as_bytes(), Media::Json, pod(), FieldValidation::Strict).unwrap_err();
    assert_eq!(
        strict.message,
        r#"Pod in version "v1" cannot be handled as a Pod: strict decoding error: duplicate field "metadata.name", duplicate field "metadata.labels.x", unknown field "spec.foo", unknown field "spec.containers[0].bar", unknown field "Kind""#
    );
    assert_eq!((strict.code, strict.reason.as_str()), (400, "BadRequest"));
    let warned = decode(body.as_bytes(), Media::Json, pod(), FieldValidation::Warn).unwrap();
    assert_eq!(warned.warnings.len(), 5);
    assert_eq!(warned.warnings[2], r#"unknown field "spec.foo""#);
    assert_eq!(warned.value["metadata"]["name"], "b");
    assert_eq!(warned.value["spec"].get("foo"), None);
    let ignored = decode(body.as_bytes(), Media::Json, pod(), FieldValidation::Ignore).unwrap();
    assert!(ignored.warnings.is_empty());
}

#[test]
fn wrong_types_are_told_as_go_tells_them() {
    let cases = [
        (
            r#"{"spec":{"containers":"x"}}"#,
            "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            r#"{"spec":{"containers":[{"env":[{"value":5}]}]}}"#,
            "json: cannot unmarshal number into Go struct field EnvVar.spec.containers.env.value of type string",
        ),
        (
            r#"{"metadata":{"labels":{"a":true}}}"#,
            "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            r#"{"spec":{"priority":3000000000}}"#,
            "json: cannot unmarshal number 3000000000 into Go struct field PodSpec.spec.priority of type int32",
        ),
        (
            r#"{"spec":{"priority":1.5}}"#,
            "json: cannot unmarshal number 1.5 into Go struct field PodSpec.spec.priority of type int32",
        ),
        (
            r#"{"spec":{"restartPolicy":[]}}"#,
            "json: cannot unmarshal array into Go struct field PodSpec.spec.restartPolicy of type v1.RestartPolicy",
        ),
        (
            r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"abc"}}}]}}"#,
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
    ];
    for (body, want) in cases {
        assert_eq!(
            error(body),
            format!("Pod in version \"v1\" cannot be handled as a Pod: {want}"),
            "{body}"
        );
    }
}

#[test]
fn unreadable_bodies() {
    let start = "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: ";
    let cases = [
        (
            r#"{"metadata":"#,
            r#"unexpected end of JSON input ({"metadata":)"#,
        ),
        ("", "unexpected end of JSON input (<empty>)"),
        (
            r#"{"a" 1}"#,
            r#"invalid character '1' after object key ({"a" 1})"#,
        ),
        (
            r#"{"a":1 x}"#,
            r#"invalid character 'x' after object key:value pair ({"a":1 x})"#,
        ),
        ("{} x", "invalid character 'x' after top-level value ({} x)"),
        (
            "hello",
            "invalid character 'h' looking for beginning of value (68656c6c6f)",
        ),
    ];
    for (body, want) in cases {
        assert_eq!(error(body), format!("{start}{want}"), "{body}");
    }
}

#[test]
fn kinds_are_checked_against_the_endpoint() {
    assert_eq!(
        error(r#"{"apiVersion":"v1","kind":"Service"}"#),
        r#"Service in version "v1" cannot be handled as a Pod: converting (v1.Service) to (core.Pod): unknown conversion"#
    );
    assert_eq!(
        error(r#"{"apiVersion":"apps/v1","kind":"Pod"}"#),
        r#"Pod in version "v1" cannot be handled as a Pod: no kind "Pod" is registered for version "apps/v1" in scheme "k8s.io/kubernetes/pkg/api/legacyscheme/scheme.go:30""#
    );
    let hpa = expected(
        "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
        "autoscaling",
        "v2",
    );
    let body = br#"{"apiVersion":"autoscaling/v1","kind":"HorizontalPodAutoscaler"}"#;
    assert_eq!(
        decode(body, Media::Json, hpa, FieldValidation::Warn)
            .unwrap_err()
            .message,
        "the API version in the data (autoscaling/v1) does not match the expected API version (autoscaling/v2)"
    );
    let options = expected("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions", "", "v1");
    let body = br#"{"apiVersion":"apps/v1","kind":"DeleteOptions","gracePeriodSeconds":0}"#;
    let value = decode(body, Media::Json, options, FieldValidation::Warn)
        .unwrap()
        .value;
    assert_eq!(value["gracePeriodSeconds"], 0);
}

#[test]
fn yaml_is_the_same() {
    let body = b"metadata:\n  name: a\nspec:\n  containers:\n  - name: c\n    image: \"1\"\n";
    let value = decode(body, Media::Yaml, pod(), FieldValidation::Strict)
        .unwrap()
        .value;
    assert_eq!(value["spec"]["containers"][0]["image"], "1");
    let twice = b"metadata:\n  name: a\n  name: b\n";
    assert!(decode(twice, Media::Yaml, pod(), FieldValidation::Strict).is_err());
    assert_eq!(
        decode(twice, Media::Yaml, pod(), FieldValidation::Warn)
            .unwrap()
            .warnings
            .len(),
        1
    );
    assert_eq!(
        decode(b"\xff\xfe", Media::Yaml, pod(), FieldValidation::Warn)
            .unwrap_err()
            .code,
        400
    );
    assert_eq!(
        decode(b"a: [", Media::Yaml, pod(), FieldValidation::Warn)
            .unwrap_err()
            .code,
        400
    );
}

#[test]
fn unions_of_json_schema() {
    let crd = expected(
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
        "apiextensions.k8s.io",
        "v1",
    );
    let schema = json!({"type": "object", "additionalProperties": false, "items": {"type": "string"},
        "dependencies": {"a": ["b"]}, "default": {"x": null}, "enum": [1, "a", null],
        "properties": {"p": {"additionalProperties": {"type": "integer", "maximum": 1.5, "minimum": 2.0}}}});
    let body = json!({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}}}]}});
    let value = decode_value(body, crd, FieldValidation::Strict).unwrap().value;
    let got = &value["spec"]["versions"][0];
    assert_eq!(got["subresources"], json!({"status": {}}));
    let got = &got["schema"]["openAPIV3Schema"];
    assert_eq!(got["additionalProperties"], false);
    assert_eq!(got["default"], json!({"x": null}));
    assert_eq!(got["enum"], json!([1, "a", null]));
    assert_eq!(
        got["properties"]["p"]["additionalProperties"],
        json!({"type": "integer", "maximum": 1.5, "minimum": 2})
    );
}

#[test]
fn deep_and_large_bodies_are_refused() {
    assert!(error(&"[".repeat(5000)).contains("unexpected end of JSON input"));
    let crd = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
    let mut value = json!({});
    for _ in 0..200 {
        value = json!({"not": value});
    }
    assert!(decode_value(value, expected(crd, "", "v1"), FieldValidation::Warn).is_err());
    let text = r#"{"not":"#.repeat(5000);
    let refused = decode(
        text.as_bytes(),
        Media::Json,
        expected(crd, "", "v1"),
        FieldValidation::Warn,
    )
    .unwrap_err();
    assert!(
        refused.message.contains("exceeded max depth"),
        "{}",
        refused.message
    );
    let large = vec![b' '; MAX_BODY + 1];
    assert_eq!(
        decode(&large, Media::Json, pod(), FieldValidation::Warn)
            .unwrap_err()
            .code,
        413
    );
}

#[test]
fn nulls_in_lists_and_maps_become_zero_values() {
    let value =
        decoded(r#"{"metadata":{"finalizers":[null,"a"],"labels":{"a":null}},"spec":{"containers":[null]}}"#);
    assert_eq!(value["metadata"]["finalizers"], json!(["", "a"]));
    assert_eq!(value["metadata"]["labels"], json!({"a": ""}));
    assert_eq!(
        value["spec"]["containers"],
        json!([{"name": "", "resources": {}}])
    );
}

//! Both ways, on real bytes and on random objects of every kind.

use api::registry::Registry;

use super::*;

fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![tag << 3 | 2, u8::try_from(bytes.len()).unwrap()];
    out.extend_from_slice(bytes);
    out
}

fn body(raw: &[u8]) -> Vec<u8> {
    let type_meta = [field(1, b"v1"), field(2, b"ConfigMap")].concat();
    [MAGIC.to_vec(), field(1, &type_meta), field(2, raw)].concat()
}

#[test]
fn a_config_map() {
    let schema = TypeRef::by_name("io.k8s.api.core.v1.ConfigMap").unwrap();
    let metadata = [field(1, b"a"), field(2, b""), field(8, b"")].concat();
    let entry = [field(1, b"x"), field(2, b"y")].concat();
    let bytes = body(&[field(1, &metadata), field(2, &entry)].concat());
    let envelope = open(&bytes).unwrap();
    assert_eq!(
        envelope.object(schema).unwrap(),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "y"}})
    );
    for cut in 0..bytes.len() {
        // Whatever is cut off, there is an answer.
        let _ = open(&bytes[..cut]).and_then(|envelope| envelope.object(schema));
    }
}

#[test]
fn durations_as_go_writes_them() {
    for (nanoseconds, text) in [
        (0, "0s"),
        (1, "1ns"),
        (1_500, "1.5µs"),
        (300_000_000, "300ms"),
        (1_500_000_000, "1.5s"),
        (60_000_000_000, "1m0s"),
        (3_600_000_000_000, "1h0m0s"),
        (-5_000_000_000, "-5s"),
    ] {
        assert_eq!(go_duration(nanoseconds), text);
    }
}

#[test]
fn a_real_body_in_both_directions() {
    // What upstream's code writes for this object, put together by hand from the numbers of generated.proto.
    let object = json!({
        "metadata": {"name": "a", "creationTimestamp": "1970-01-01T00:00:01Z"},
        "spec": {
            "ports": [{"port": 80, "targetPort": "http"}],
            "selector": {"b": "2", "a": "1"},
            "clusterIP": "None",
            "sessionAffinity": "None",
        },
        "status": {"loadBalancer": {}},
    });
    let time = [0x08, 1, 0x10, 0];
    let metadata = [
        field(1, b"a"),
        field(2, b""),
        field(3, b""),
        field(4, b""),
        field(5, b""),
        field(6, b""),
        vec![7 << 3, 0],
        field(8, &time),
    ];
    let target = [vec![1 << 3, 1, 2 << 3, 0], field(3, b"http")].concat();
    let port = [
        field(1, b""),
        field(2, b""),
        vec![3 << 3, 80],
        field(4, &target),
        vec![5 << 3, 0],
    ];
    let entry = |key, value| field(2, &[field(1, key), field(2, value)].concat());
    let long_key = |tag: u8, wire: u8| vec![(tag & 0x0f) << 3 | wire | 0x80, tag >> 4];
    let spec = [
        field(1, &port.concat()),
        entry(b"a", b"1"),
        entry(b"b", b"2"),
        field(3, b"None"),
        field(4, b""),
        field(7, b"None"),
        field(8, b""),
        field(10, b""),
        field(11, b""),
        vec![12 << 3, 0],
        vec![13 << 3, 0],
        // Ten bytes on: `publishNotReadyAddresses`; numbers from 16 on have keys of two bytes.
    ];
    let spec = spec.concat();
    let status = field(1, b"");
    let schema = TypeRef::by_name("io.k8s.api.core.v1.Service").unwrap();
    let encoded = encode::message(schema, object.as_object().unwrap());
    let head = [field(1, &metadata.concat())].concat();
    assert_eq!(encoded[..head.len()], head);
    let wire = spec_of(&encoded);
    assert_eq!(wire[..spec.len()], spec, "{wire:02x?}");
    assert!(
        !wire.windows(2).any(|bytes| bytes == long_key(17, 2)),
        "ipFamilyPolicy is a pointer"
    );
    assert!(encoded.ends_with(&field(3, &status)));
    let enveloped = encode::object("v1", "Service", schema, object.as_object().unwrap());
    let type_meta = [field(1, b"v1"), field(2, b"Service")].concat();
    assert!(enveloped.starts_with(&[MAGIC, &field(1, &type_meta)].concat()));
    assert!(enveloped.ends_with(&[0x1a, 0, 0x22, 0]));
}

/// The bytes of field 2.
fn spec_of(message: &[u8]) -> Vec<u8> {
    let mut reader = Reader(message);
    while let Some((tag, wire)) = reader.field().unwrap() {
        if let (2, Wire::Bytes(bytes)) = (tag, wire) {
            return bytes.to_vec();
        }
    }
    panic!("no field 2");
}

#[test]
fn scalars_as_upstream_writes_them() {
    let encoded = |schema: &str, object: Value| {
        encode::message(TypeRef::by_name(schema).unwrap(), object.as_object().unwrap())
    };
    // A negative int32 takes ten bytes, a pointer to 0 is written, a list of integers is not packed.
    assert_eq!(
        encoded(
            "io.k8s.api.core.v1.PodSecurityContext",
            json!({"runAsUser": 0, "supplementalGroups": [1, 300]})
        ),
        [2 << 3, 0, 4 << 3, 1, 4 << 3, 0xac, 2]
    );
    assert_eq!(
        encoded("io.k8s.api.core.v1.PodAffinityTerm", json!({"topologyKey": "k"})),
        field(3, b"k")
    );
    assert_eq!(
        encoded(
            "io.k8s.api.core.v1.PreferredSchedulingTerm",
            json!({"weight": -1, "preference": {}})
        ),
        [
            &[8_u8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1][..],
            &field(2, b"")
        ]
        .concat()
    );
    let quantity = field(1, b"100m");
    assert_eq!(
        encoded(
            "io.k8s.api.core.v1.ResourceRequirements",
            json!({"limits": {"cpu": "100m"}})
        ),
        field(1, &[field(1, b"cpu"), field(2, &quantity)].concat())
    );
    // A lease's times have microseconds.
    assert_eq!(
        encoded(
            "io.k8s.api.coordination.v1.LeaseSpec",
            json!({"renewTime": "1970-01-01T00:00:01.000002Z"})
        ),
        field(4, &[8, 1, 0x10, 0xd0, 0x0f])
    );
    // An embedded object stays JSON.
    assert_eq!(
        encoded(
            "io.k8s.api.apps.v1.ControllerRevision",
            json!({"data": {"a": 1}, "revision": 3})
        )[..],
        [
            field(
                1,
                &[
                    field(1, b""),
                    field(2, b""),
                    field(3, b""),
                    field(4, b""),
                    field(5, b""),
                    field(6, b""),
                    vec![7 << 3, 0],
                    field(8, b"")
                ]
                .concat()
            ),
            field(2, &field(1, br#"{"a":1}"#)),
            vec![3 << 3, 3],
        ]
        .concat()
    );
}

#[test]
fn random_objects_of_every_kind_come_back_the_same() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for resource in Registry::builtin().resources() {
        for _ in 0..40 {
            let object = random.message(resource.schema, 0);
            let bytes = encode::object(&resource.api_version(), &resource.kind, resource.schema, &object);
            let envelope = open(&bytes).unwrap();
            assert_eq!(
                (envelope.api_version, envelope.kind),
                (&*resource.api_version(), &*resource.kind)
            );
            let back = message(resource.schema, envelope.raw, 0).unwrap();
            assert_eq!(Value::Object(back), Value::Object(object), "{resource:?}");
        }
    }
}

/// The fields that protobuf answers leave out because their numbers are not known. A shorter list is better; a longer one
/// means that a field lost its number.
#[test]
fn fields_without_a_number() {
    let unknown: Vec<String> = TypeRef::all()
        .flat_map(|schema| {
            let fields = schema.declared_fields();
            fields
                .filter(|field| field.tag() == 0 && !field.is_inline())
                .map(move |field| format!("{}.{}", schema.short_name(), field.name()))
        })
        .collect();
    assert_eq!(unknown.len(), UNKNOWN_NUMBERS, "{unknown:#?}");
}

const UNKNOWN_NUMBERS: usize = 64;

/// Objects as the decoder makes them: no zero values that JSON leaves out, no empty lists.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }

    fn message(&mut self, schema: TypeRef, depth: usize) -> Map<String, Value> {
        let mut object = Map::new();
        for field in schema.declared_fields().filter(|field| field.tag() > 0) {
            if let (true, FieldType::Message(inner)) = (field.is_inline(), field.ty()) {
                object.extend(self.message(inner, depth + 1));
                continue;
            }
            let optional = field.is_pointer()
                || matches!(
                    field.ty(),
                    FieldType::List(_) | FieldType::Map(_) | FieldType::Bytes
                );
            if optional && (depth > 7 || self.next(3) > 0) {
                continue;
            }
            let value = self.value(field.elem(), depth, field.is_pointer() || !field.omitempty());
            if !value.is_null() {
                object.insert(field.name().to_owned(), value);
            }
        }
        object
    }

    /// A value; null where a zero value would have to be left out.
    fn value(&mut self, elem: Elem, depth: usize, zero_is_written: bool) -> Value {
        let value = match elem.ty() {
            FieldType::String => ["", "a", "long text, with ünïcode"][self.next(3) as usize].into(),
            FieldType::Int32 => [0, 1, -1, i32::MAX, i32::MIN][self.next(5) as usize].into(),
            FieldType::Int64 => [0, 300, -1, i64::MAX, i64::MIN][self.next(5) as usize].into(),
            FieldType::Bool => (self.next(2) == 0).into(),
            FieldType::Double => [1.5, -2.25][self.next(2) as usize].into(),
            FieldType::Bytes => STANDARD.encode([0, 255, self.next(256) as u8]).into(),
            FieldType::Quantity => ["0", "100m", "5Gi"][self.next(3) as usize].into(),
            FieldType::IntOrString => {
                [json!(8080), json!("http"), json!("25%")][self.next(3) as usize].clone()
            }
            FieldType::Time => "2026-01-02T03:04:05Z".into(),
            FieldType::MicroTime => "2026-01-02T03:04:05.000006Z".into(),
            FieldType::Duration => ["0s", "1h0m0s", "1.5s"][self.next(3) as usize].into(),
            FieldType::RawExtension | FieldType::FieldsV1 => json!({"f:a": {"b": [1, null, true]}}),
            FieldType::Json => [json!(0), json!("x"), json!({"a": []})][self.next(3) as usize].clone(),
            FieldType::SchemaOrArray => match self.next(2) {
                0 => json!([self.schema(depth), self.schema(depth)]),
                _ => self.schema(depth),
            },
            FieldType::SchemaOrBool => match self.next(3) {
                0 => self.schema(depth),
                flag => (flag == 1).into(),
            },
            FieldType::SchemaOrStrings => match self.next(2) {
                0 => json!(["a", "b"]),
                _ => self.schema(depth),
            },
            FieldType::Message(schema) => Value::Object(self.message(schema, depth + 1)),
            FieldType::List(inner) => (0..=self.next(2))
                .map(|_| self.value(inner, depth + 1, true))
                .collect(),
            FieldType::Map(inner) => {
                let entries =
                    ["", "a", "b.c/d"].map(|key| (key.to_owned(), self.value(inner, depth + 1, true)));
                Value::Object(entries.into_iter().collect())
            }
        };
        if zero_is_written || !is_zero(&value) {
            value
        } else {
            Value::Null
        }
    }

    fn schema(&mut self, depth: usize) -> Value {
        let schema = TypeRef::by_name(SCHEMA_PROPS).unwrap();
        Value::Object(self.message(schema, depth + 2))
    }
}

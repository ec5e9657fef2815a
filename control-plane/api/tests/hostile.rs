//! Nothing a client sends may panic: seeded random objects, shaped by each kind's schema but with wrong and missing
//! values, go through everything a request goes through. A failing seed is printed; add it to `SEEDS`.

use api::decode::{FieldValidation, Media, decode, decode_value};
use api::patch::{json_patch, merge_patch, strategic_merge};
use api::registry::{Registry, Resource};
use api::schema::{Elem, FieldType, TypeRef};
use api::selector::{FieldSelector, LabelSelector};
use api::table::{IncludeObject, table};
use serde_json::{Map, Value, json};

/// Seeds that failed once.
const SEEDS: &[u64] = &[];
/// Objects per kind and run.
const ROUNDS: u64 = 60;
const MAX_DEPTH: u32 = 9;

/// SplitMix64: enough randomness, the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

const TEXTS: &[&str] = &[
    "",
    "a",
    "web",
    "-a",
    "a.b/c",
    "a/b/c",
    "..",
    "../x",
    "/x",
    "é\u{301}",
    "\u{0}",
    "%",
    "1Gi",
    "-5",
    "1e99",
    "0.0000001m",
    "25%",
    "%5",
    "TCP",
    "ClusterIP",
    "ExternalName",
    "RollingUpdate",
    "Always",
    "In",
    "Exists",
    "Gt",
    "10.0.0.1",
    "fd00::1",
    "::ffff:1.2.3.4",
    "10.0.0.0/33",
    "* * * * *",
    "2024-01-01T00:00:00Z",
    "9999-12-31T23:59:60Z",
    "eA==",
    "metadata.labels['a",
    "metadata.labels['a']",
    "system-x",
    "Indexed",
    "LoadBalancer",
    "None",
];
const NUMBERS: &[i64] = &[
    0,
    1,
    -1,
    80,
    65_536,
    i64::MAX,
    i64::MIN,
    2_147_483_648,
    1_000_000_001,
];

fn any(random: &mut Random) -> Value {
    match random.below(8) {
        0 => Value::Null,
        1 => true.into(),
        2 => NUMBERS[random.below(NUMBERS.len())].into(),
        3 => json!(1.5),
        4 => random.pick(TEXTS).into(),
        5 => json!([]),
        6 => json!({}),
        _ => json!([{"a": null}, "b"]),
    }
}

fn value(random: &mut Random, ty: FieldType, depth: u32, hostile: bool) -> Value {
    if hostile && random.one_in(40) {
        return any(random);
    }
    let elem = |random: &mut Random, elem: Elem| value(random, elem.ty(), depth + 1, hostile);
    match ty {
        FieldType::Bool => random.one_in(2).into(),
        FieldType::Int32 => (NUMBERS[random.below(NUMBERS.len())] as i32).into(),
        FieldType::Int64 => NUMBERS[random.below(NUMBERS.len())].into(),
        FieldType::Double => json!(0.5),
        FieldType::IntOrString if random.one_in(2) => 80.into(),
        FieldType::Quantity if !hostile => random.pick(&["1", "-1", "100m", "1Gi", "1e3", "0"]).into(),
        FieldType::Bytes if !hostile => "eA==".into(),
        FieldType::Time | FieldType::MicroTime if !hostile => "2024-01-01T00:00:00.5Z".into(),
        FieldType::Duration if !hostile => "1h".into(),
        FieldType::Message(inner) => message(random, inner, depth + 1, hostile),
        FieldType::List(inner) => (0..random.below(3)).map(|_| elem(random, inner)).collect(),
        FieldType::Map(inner) => (0..random.below(3))
            .map(|_| (random.pick(TEXTS).to_string(), elem(random, inner)))
            .collect(),
        FieldType::RawExtension | FieldType::FieldsV1 | FieldType::Json => any(random),
        FieldType::SchemaOrBool => true.into(),
        _ => random.pick(TEXTS).into(),
    }
}

fn message(random: &mut Random, ty: TypeRef, depth: u32, hostile: bool) -> Value {
    let mut out = Map::new();
    if depth > MAX_DEPTH {
        return Value::Object(out);
    }
    for field in ty.fields() {
        // Deep fields are rarer, or every object would be enormous.
        if random.one_in(1 + depth as usize / 3) && !matches!(field.name(), "apiVersion" | "kind") {
            out.insert(field.name().into(), value(random, field.ty(), depth, hostile));
        }
    }
    if hostile && random.one_in(6) {
        out.insert(random.pick(TEXTS).into(), any(random));
    }
    Value::Object(out)
}

/// Whether the object was good enough to go the whole way.
fn exercise(resource: &Resource, seed: u64) -> bool {
    let mut random = Random(seed);
    // Wholly hostile objects hardly get past decoding; half of them are well-typed.
    let hostile = random.one_in(2);
    let raw = message(&mut random, resource.schema, 0, hostile);
    let other = message(&mut random, resource.schema, 0, hostile);
    let bytes = raw.to_string();
    let from_text = decode(
        bytes.as_bytes(),
        Media::Json,
        resource.expected(),
        FieldValidation::Strict,
    );
    let cut = random.below(bytes.len() + 1);
    let cut = bytes.as_bytes()[..cut].to_vec();
    let _ = decode(&cut, Media::Json, resource.expected(), FieldValidation::Warn);
    let from_value = decode_value(raw.clone(), resource.expected(), FieldValidation::Strict);
    assert_eq!(
        from_text.is_ok(),
        from_value.is_ok(),
        "decoding depends on where from: {bytes}"
    );
    if let Ok(patched) = strategic_merge(&raw, &other, resource.schema) {
        let _ = decode_value(patched, resource.expected(), FieldValidation::Ignore);
    }
    let _ = merge_patch(&raw, &other);
    let _ = json_patch(&raw, other.to_string().as_bytes());

    let decoded =
        |value: Value| decode_value(value, resource.expected(), FieldValidation::Ignore).map(|d| d.value);
    let (Ok(mut object), Ok(mut update)) = (decoded(raw), decoded(other)) else {
        return false;
    };
    let strategy = resource.strategy;
    strategy.default(&mut object);
    let once = object.clone();
    strategy.default(&mut object);
    assert_eq!(object, once, "defaulting twice differs from once");
    strategy.prepare_for_create(&mut object);
    let _ = api::status::invalid("g", "K", "n", strategy.validate(&object)).to_value();
    // What the server made, it also decodes without complaint.
    let again = decode_value(object.clone(), resource.expected(), FieldValidation::Strict);
    assert!(again.is_ok(), "{:?}", again.err());
    strategy.default(&mut update);
    let mut status = update.clone();
    strategy.prepare_for_update(&mut update, &object);
    let _ = strategy.validate_update(&update, &object).message();
    strategy.prepare_for_status_update(&mut status, &object);
    let _ = strategy.validate_status_update(&status, &object).message();
    let _ = (
        strategy.deletion(&object, Some(-5)),
        strategy.warnings_of_given(&object),
        strategy.warnings(&object, None),
    );
    for (field, _) in strategy.selectable_fields(&object) {
        assert!(strategy.is_selectable(field));
    }
    let now = "2026-01-01T00:00:00Z".parse().expect("a time");
    let _ = table(
        resource,
        [&object, &status].into_iter(),
        json!({}),
        IncludeObject::Object,
        true,
        now,
    );
    if resource.storage.version != resource.gvk() {
        let (own, stored) = (resource.api_version(), resource.storage.version.api_version());
        let there = strategy
            .convert(object, &own, &stored)
            .expect("conversion to the stored version");
        strategy.convert(there, &stored, &own).expect("conversion back");
    }
    true
}

#[test]
fn objects_of_every_kind() {
    let registry = Registry::builtin();
    let mut whole = 0;
    for (i, resource) in registry.resources().enumerate() {
        let seeds = (0..ROUNDS).map(|n| n * 1009 + i as u64);
        for seed in seeds.chain(SEEDS.iter().copied()) {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| exercise(resource, seed)));
            assert!(outcome.is_ok(), "{resource:?} seed {seed}");
            whole += usize::from(outcome.unwrap_or(false));
        }
    }
    assert!(
        whole > 1000,
        "only {whole} objects were well-typed: the test shows little"
    );
}

#[test]
fn selectors_and_bodies_of_random_text() {
    let mut random = Random(7);
    let signs = [
        "=", "==", "!=", "!", ",", "in", "notin", "(", ")", ">", "<", " ", "\\",
    ];
    let registry = Registry::builtin();
    let pods = registry.find("", "v1", "pods").expect("pods");
    for _ in 0..5000 {
        let mut text = String::new();
        for _ in 0..random.below(8) {
            text.push_str(if random.one_in(2) {
                random.pick(TEXTS)
            } else {
                random.pick(&signs)
            });
        }
        if let Ok(selector) = LabelSelector::parse(&text) {
            let printed = selector.to_string();
            let again = LabelSelector::parse(&printed);
            assert!(again.is_ok(), "{text:?} prints as {printed:?}");
        }
        let _ = FieldSelector::parse(&text);
        let _ = api::quantity::Quantity::parse(&text);
        let _ = decode(
            text.as_bytes(),
            Media::Yaml,
            pods.expected(),
            FieldValidation::Warn,
        );
        let _ = decode(
            text.as_bytes(),
            Media::Json,
            pods.expected(),
            FieldValidation::Warn,
        );
        let _ = pods.key(Some(&text), &text);
    }
}

//! Turns `schema/v1.37.txt` into `static` tables: names interned in one string, rows of small integers, no pointers,
//! so that the tables stay in read-only pages and cost neither heap nor relocations. The descriptions come from elsewhere:
//! see `descriptions`.

mod descriptions;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;

const SOURCE: &str = "schema/v1.37.txt";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-changed=build");
    let text = std::fs::read_to_string(SOURCE).unwrap_or_else(|e| panic!("{SOURCE}: {e}"));
    let types = parse(&text);
    let directory = std::path::PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let length = descriptions::write(&types, &directory.join("descriptions.deflate"));
    let out = directory.join("schema.rs");
    let rows = emit(&types)
        + &format!(
            "static DESCRIPTIONS: &[u8] = include_bytes!(concat!(env!(\"OUT_DIR\"), \"/descriptions.deflate\"));\n\
             const DESCRIPTIONS_LENGTH: usize = {length};\n"
        );
    std::fs::write(&out, rows).unwrap_or_else(|e| panic!("{}: {e}", out.display()));
}

struct Type {
    /// `core/v1`
    package: String,
    /// `io.k8s.api.core.v1`
    prefix: String,
    name: String,
    atomic: bool,
    fields: Vec<Field>,
}

impl Type {
    /// `io.k8s.api.core.v1.Pod`
    fn full_name(&self) -> String {
        format!("{}.{}", self.prefix, self.name)
    }
}

#[derive(Default)]
struct Field {
    name: String,
    ty: String,
    tag: u16,
    pointer: bool,
    inline: bool,
    omitempty: bool,
    required: bool,
    /// `-` stands for a merge of primitives.
    merge: Option<String>,
    key: Option<String>,
    retain: bool,
    replace: bool,
    list: u16,
    list_keys: String,
    atomic: bool,
    default: String,
    /// Of a feature that is off.
    off: bool,
}

fn parse(text: &str) -> Vec<Type> {
    let mut types: Vec<Type> = Vec::new();
    let (mut package, mut prefix) = (String::new(), String::new());
    for (i, line) in text.lines().enumerate() {
        let at = || format!("{SOURCE}:{}: {line}", i + 1);
        let mut words = line.split_whitespace();
        let Some(first) = words.next() else { continue };
        if first.starts_with('#') {
            continue;
        }
        if !line.starts_with(' ') {
            match first {
                "package" => {
                    package = words.next().unwrap_or_else(|| panic!("{}", at())).into();
                    prefix = words.next().unwrap_or_else(|| panic!("{}", at())).into();
                }
                "type" => types.push(Type {
                    package: package.clone(),
                    prefix: prefix.clone(),
                    name: words.next().unwrap_or_else(|| panic!("{}", at())).into(),
                    atomic: words.next() == Some("atomic"),
                    fields: Vec::new(),
                }),
                _ => panic!("neither package nor type: {}", at()),
            }
            continue;
        }
        let ty = words.next().unwrap_or_else(|| panic!("{}", at()));
        let mut field = Field {
            inline: first == "inline" && !ty.starts_with('*') && !ty.starts_with("string"),
            pointer: ty.starts_with('*'),
            ty: ty.trim_start_matches('*').into(),
            tag: words
                .next()
                .and_then(|t| t.parse().ok())
                .unwrap_or_else(|| panic!("no tag: {}", at())),
            ..Field::default()
        };
        if !field.inline {
            field.name = first.into();
        }
        for flag in words {
            let (name, value) = flag.split_once('=').unwrap_or((flag, ""));
            match name {
                "opt" => field.omitempty = true,
                "req" => field.required = true,
                "merge" => field.merge = Some(value.into()),
                "key" => field.key = Some(value.into()),
                "retain" => field.retain = true,
                "replace" => field.replace = true,
                "off" => field.off = true,
                "map" | "struct" => field.atomic = value == "atomic",
                "default" => field.default = value.into(),
                "list" => {
                    let (kind, keys) = value.split_once(':').unwrap_or((value, ""));
                    field.list = match kind {
                        "atomic" => 1,
                        "set" => 2,
                        "map" => 3,
                        _ => panic!("unknown list type: {}", at()),
                    };
                    field.list_keys = keys.into();
                }
                _ => panic!("unknown flag {name}: {}", at()),
            }
        }
        types
            .last_mut()
            .unwrap_or_else(|| panic!("field outside a type: {}", at()))
            .fields
            .push(field);
    }
    types.sort_by_key(Type::full_name);
    types
}

/// `core/v1.Pod`: the message that a field holds, alone or in lists or maps.
fn inner(package: &str, field: &Field) -> Option<String> {
    let mut name = field.ty.as_str();
    while let Some(rest) = name.strip_prefix("[]").or_else(|| name.strip_prefix("map[]")) {
        name = rest;
    }
    let name = name.split(':').next()?;
    match name.contains('.') {
        true => Some(name.to_owned()),
        false if name.starts_with(|c: char| c.is_ascii_uppercase()) => Some(format!("{package}.{name}")),
        false => None,
    }
}

/// The types in which a field of a feature that is off can be, however deep.
fn holders_of_off(types: &[Type]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    loop {
        let before = found.len();
        for ty in types {
            let holds = |field: &Field| {
                field.off || inner(&ty.package, field).is_some_and(|name| found.contains(&name))
            };
            if ty.fields.iter().any(holds) {
                found.insert(format!("{}.{}", ty.package, ty.name));
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

/// Interns strings in one text; a string is offset * 256 + length.
#[derive(Default)]
struct Strings {
    text: String,
    seen: HashMap<String, u32>,
}

impl Strings {
    fn intern(&mut self, s: &str) -> u32 {
        if let Some(&known) = self.seen.get(s) {
            return known;
        }
        assert!(s.len() < 256, "{s} is too long");
        let offset = self.text.find(s).unwrap_or_else(|| {
            self.text.push_str(s);
            self.text.len() - s.len()
        });
        assert!(offset < 1 << 24);
        let packed = (offset as u32) << 8 | s.len() as u32;
        self.seen.insert(s.into(), packed);
        packed
    }
}

struct Emitter<'a> {
    strings: Strings,
    /// Index by `core/v1.Pod`.
    index: BTreeMap<String, usize>,
    types: &'a [Type],
    elems: Vec<(u8, u16, u32)>,
    elem_index: HashMap<(u8, u16, u32), u16>,
}

impl Emitter<'_> {
    /// The row of a type expression, and its Go spelling.
    fn elem(&mut self, package: &str, ty: &str) -> (u16, String) {
        let (kind, arg, go) = if let Some(rest) = ty.strip_prefix("[]") {
            let (arg, go) = self.elem(package, rest);
            (100, arg, format!("[]{go}"))
        } else if let Some(rest) = ty.strip_prefix("map[]") {
            let (arg, go) = self.elem(package, rest);
            (101, arg, format!("map[string]{go}"))
        } else {
            let (name, go) = ty.split_once(':').map_or((ty, None), |(n, g)| (n, Some(g)));
            let version = package.rsplit('/').next().unwrap_or_default();
            match name {
                "string" => (
                    0,
                    0,
                    go.map_or_else(|| "string".to_string(), |g| format!("{version}.{g}")),
                ),
                "int32" => (1, 0, "int32".into()),
                "int64" => (2, 0, "int64".into()),
                "bool" => (3, 0, "bool".into()),
                "double" => (4, 0, "float64".into()),
                "bytes" => (5, 0, "[]uint8".into()),
                "Quantity" => (6, 0, "resource.Quantity".into()),
                "IntOrString" => (7, 0, "intstr.IntOrString".into()),
                "Time" => (8, 0, "v1.Time".into()),
                "MicroTime" => (9, 0, "v1.MicroTime".into()),
                "Duration" => (10, 0, "v1.Duration".into()),
                "RawExtension" => (11, 0, "runtime.RawExtension".into()),
                "FieldsV1" => (12, 0, "v1.FieldsV1".into()),
                "Json" => (13, 0, "v1.JSON".into()),
                "SchemaOrArray" => (14, 0, "v1.JSONSchemaPropsOrArray".into()),
                "SchemaOrBool" => (15, 0, "v1.JSONSchemaPropsOrBool".into()),
                "SchemaOrStrings" => (16, 0, "v1.JSONSchemaPropsOrStringArray".into()),
                _ => {
                    let full = if name.contains('.') {
                        name.to_string()
                    } else {
                        format!("{package}.{name}")
                    };
                    let index = *self
                        .index
                        .get(&full)
                        .unwrap_or_else(|| panic!("unknown type {full}"));
                    let version = self.types[index].package.rsplit('/').next().unwrap_or_default();
                    (99, index as u16, format!("{version}.{}", self.types[index].name))
                }
            }
        };
        let row = (kind, arg, self.strings.intern(&go));
        let next = self.elems.len() as u16;
        let id = *self.elem_index.entry(row).or_insert(next);
        if id == next {
            self.elems.push(row);
        }
        (id, go)
    }
}

fn emit(types: &[Type]) -> String {
    let index = types
        .iter()
        .enumerate()
        .map(|(i, t)| (format!("{}.{}", t.package, t.name), i))
        .collect();
    let mut e = Emitter {
        strings: Strings::default(),
        index,
        types,
        elems: Vec::new(),
        elem_index: HashMap::new(),
    };
    let off = holders_of_off(types);
    let leads = |package: &str, field: &Field| inner(package, field).is_some_and(|name| off.contains(&name));
    let (mut type_rows, mut field_rows) = (String::new(), String::new());
    let mut extra_rows = vec![(0u32, 0u32, 0u32)];
    let mut fields = 0usize;
    for t in types {
        let name = e.strings.intern(&t.full_name());
        let short = t.name.len();
        let _ = writeln!(
            type_rows,
            "TypeRow {{ name: Str({name}), short: {short}, first: {fields}, len: {}, atomic: {} }},",
            t.fields.len(),
            t.atomic
        );
        for f in &t.fields {
            fields += 1;
            let (ty, _) = e.elem(&t.package, &f.ty);
            let name = e.strings.intern(&f.name);
            let primitive_merge = f.merge.as_deref() == Some("-");
            let key = f
                .merge
                .as_deref()
                .filter(|k| *k != "-")
                .or(f.key.as_deref())
                .unwrap_or("");
            let extra = (
                e.strings.intern(key),
                e.strings.intern(&f.list_keys),
                e.strings.intern(&f.default),
            );
            let extra = if key.is_empty() && f.list_keys.is_empty() && f.default.is_empty() {
                0
            } else {
                extra_rows.iter().position(|r| *r == extra).unwrap_or_else(|| {
                    extra_rows.push(extra);
                    extra_rows.len() - 1
                })
            };
            let flags = u16::from(f.pointer)
                | u16::from(f.omitempty) << 1
                | u16::from(f.required) << 2
                | u16::from(f.inline) << 3
                | u16::from(f.merge.is_some() || primitive_merge) << 4
                | u16::from(f.retain) << 5
                | u16::from(f.replace) << 6
                | f.list << 7
                | u16::from(f.atomic) << 9
                | u16::from(f.off) << 10
                | u16::from(leads(&t.package, f)) << 11;
            let _ = writeln!(
                field_rows,
                "FieldRow {{ name: Str({name}), ty: {ty}, tag: {}, flags: {flags}, extra: {extra} }},",
                f.tag
            );
        }
    }
    let elems: String = e
        .elems
        .iter()
        .map(|(kind, arg, go)| format!("ElemRow {{ kind: {kind}, arg: {arg}, go: Str({go}) }},\n"))
        .collect();
    let extras: String = extra_rows
        .iter()
        .map(|(k, l, d)| {
            format!("ExtraRow {{ merge_key: Str({k}), list_keys: Str({l}), default: Str({d}) }},\n")
        })
        .collect();
    format!(
        "static STRINGS: &str = {:?};\n\
         static TYPES: [TypeRow; {}] = [\n{type_rows}];\n\
         static FIELDS: [FieldRow; {fields}] = [\n{field_rows}];\n\
         static ELEMS: [ElemRow; {}] = [\n{elems}];\n\
         static EXTRAS: [ExtraRow; {}] = [\n{extras}];\n",
        e.strings.text,
        types.len(),
        e.elems.len(),
        extra_rows.len(),
    )
}

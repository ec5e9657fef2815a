//! The descriptions of types and fields, taken from the sources of the library `k8s-openapi` while we are built.
//!
//! The sentences are Kubernetes' own and stay out of our tree. The library has them as values of its schemas (its feature
//! `schemars`), but compiling it once more for the build machine would double what building this crate costs; its
//! generated sources have one line per description, which takes a few milliseconds to read.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Type;

const LIBRARY: &str = "k8s-openapi";
/// The library's folder of the version whose types we serve.
const VERSION: &str = "v1_37";

/// What is known of the library's types: descriptions by OpenAPI name and field, that of the type itself under "".
#[derive(Default)]
struct Texts(HashMap<String, HashMap<String, String>>);

/// Writes the descriptions of all types, then of all fields in the order of the tables, each ended by a zero byte and all of
/// them deflated. Returns the length of the text.
pub(crate) fn write(types: &[Type], out: &Path) -> usize {
    let library = directory();
    println!("cargo::rerun-if-changed={}", library.join("Cargo.toml").display());
    let mut texts = Texts::default();
    let sources = library.join("src").join(VERSION);
    texts
        .read(&sources)
        .unwrap_or_else(|e| panic!("{}: {e}", sources.display()));

    let mut all = String::new();
    let mut push = |text: &str| {
        all.push_str(text);
        all.push('\0');
    };
    for ty in types {
        push(&texts.of_type(types, ty));
    }
    for ty in types {
        for field in &ty.fields {
            push(&texts.of_field(types, ty, &field.name));
        }
    }
    let file = std::fs::File::create(out).unwrap_or_else(|e| panic!("{}: {e}", out.display()));
    let mut encoder = flate2::write::DeflateEncoder::new(file, flate2::Compression::best());
    let written = encoder
        .write_all(all.as_bytes())
        .and_then(|()| encoder.finish().map(drop));
    written.unwrap_or_else(|e| panic!("{}: {e}", out.display()));
    all.len()
}

/// Where cargo keeps the library: wherever its manifest is, be that a registry, a vendored folder or a patch.
fn directory() -> PathBuf {
    let target = std::env::var("TARGET").expect("cargo sets TARGET");
    let cargo = std::env::var_os("CARGO").expect("cargo sets CARGO");
    let arguments = ["metadata", "--format-version=1", "--locked", "--filter-platform"];
    let output = Command::new(cargo)
        .args(arguments)
        .arg(target)
        .output()
        .unwrap_or_else(|e| panic!("cargo metadata: {e}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata: {errors}");
    let metadata = String::from_utf8_lossy(&output.stdout);
    let manifests = metadata.split("\"manifest_path\":\"").skip(1);
    manifests
        .filter_map(|rest| Path::new(rest.split('"').next()?).parent())
        .find(|directory| {
            let name = directory.file_name().unwrap_or_default().to_string_lossy();
            name.strip_prefix(LIBRARY)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
                && directory.join("src").join(VERSION).is_dir()
        })
        .unwrap_or_else(|| panic!("the workspace depends on no {LIBRARY} that has {VERSION}"))
        .to_owned()
}

impl Texts {
    fn read(&mut self, path: &Path) -> std::io::Result<()> {
        for entry in std::fs::read_dir(path)? {
            let path = entry?.path();
            if path.is_dir() {
                self.read(&path)?;
            } else {
                self.read_source(&std::fs::read_to_string(&path)?);
            }
        }
        Ok(())
    }

    /// Of a source file only the schema matters: the type's name, then descriptions, whose depth is that of their indentation.
    fn read_source(&mut self, source: &str) {
        let Some((_, schema)) = source.split_once("fn schema_name()") else {
            return;
        };
        let mut lines = schema.lines().skip(1);
        let Some(name) = lines.next().and_then(literal) else {
            return;
        };
        let fields = self.0.entry(name).or_default();
        let mut field = String::new();
        for line in lines {
            let text = line.trim_start();
            match line.len() - text.len() {
                12 if text.starts_with("\"description\": ") => {
                    fields.extend(value(text).map(|text| (String::new(), text)));
                }
                16 if text.starts_with('"') => field = literal(text).unwrap_or_default(),
                20 if text.starts_with("\"description\": ") || text.starts_with("schema_obj.ensure") => {
                    fields.extend(value(text).map(|text| (field.clone(), text)));
                }
                _ => (),
            }
        }
    }

    fn get(&self, ty: &str, field: &str) -> Option<&str> {
        self.0.get(ty)?.get(field).map(String::as_str)
    }

    fn of_type(&self, types: &[Type], ty: &Type) -> String {
        if let Some(text) = self.get(&ty.full_name(), "") {
            return text.to_owned();
        }
        match item_of(types, ty) {
            Some(item) => format!("A list of {} objects.", item.name),
            None => String::new(),
        }
    }

    /// The library knows no types that are only part of others (`TypeMeta`), and has one type for all lists.
    fn of_field(&self, types: &[Type], ty: &Type, field: &str) -> String {
        if let Some(text) = self.get(&ty.full_name(), field) {
            return text.to_owned();
        }
        let is_part = |outer: &&Type| {
            let mut fields = outer.fields.iter();
            fields.any(|f| f.inline && f.ty.rsplit('.').next() == Some(&ty.name))
        };
        let mut outer = types.iter().filter(is_part);
        if let Some(text) = outer.find_map(|outer| self.get(&outer.full_name(), field)) {
            return text.to_owned();
        }
        match (field, item_of(types, ty)) {
            ("items", Some(item)) => format!("The {} objects.", item.name),
            ("metadata", Some(_)) => {
                "What is true of the list as a whole, as its resourceVersion.".to_owned()
            }
            _ => String::new(),
        }
    }
}

/// What a list type is a list of.
fn item_of<'a>(types: &'a [Type], list: &Type) -> Option<&'a Type> {
    let item = list.name.strip_suffix("List")?;
    let mut types = types.iter();
    types.find(|ty| ty.name == item && ty.prefix == list.prefix)
}

/// The string literal that a line of the form `"key": "…"` or `insert("key", "…")` has after its key.
fn value(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("\"description\"")?;
    literal(rest)
}

/// The first string literal of a text.
fn literal(text: &str) -> Option<String> {
    let mut chars = text.split_once('"')?.1.chars();
    let mut out = String::new();
    loop {
        match chars.next()? {
            '"' => return Some(out),
            '\\' => out.push(match chars.next()? {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                '0' => '\0',
                'u' => {
                    let code: String = chars.by_ref().take_while(|c| *c != '}').collect();
                    u32::from_str_radix(code.trim_start_matches('{'), 16)
                        .ok()
                        .and_then(char::from_u32)?
                }
                other => other,
            }),
            other => out.push(other),
        }
    }
}

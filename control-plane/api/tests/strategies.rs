//! What the server says to objects of every kind, as scripts: `data/strategies/*.txt`.
//!
//! A script is read line by line:
//!
//! - `# …` is a comment;
//! - `kind GROUP/VERSION PLURAL` begins a kind, the `| ` lines after it are an object in YAML;
//! - `> create EDITS` creates the object with edits made to it, `> update EDITS`, `> status EDITS` and `> SUBRESOURCE EDITS` update
//!   the created one;
//! - `> old EDITS` changes what the following updates find;
//! - `> show POINTER EDITS` creates the object and shows a part of what is stored, `> shown POINTER EDITS` updates the created one,
//!   `> showed POINTER EDITS` its status;
//! - `> warn EDITS` tells what the creator is warned of, `> warned EDITS` what the updater is.
//!
//! Edits are `/json/pointer=JSON` (`/-` appends), or `-/json/pointer` to remove, with spaces between them (and no ` /` within); `«x*3»` is `xxx`. The lines
//! after a `>` are the answer: a message per line, or `ok`. `UPDATE_EXPECT=1` writes the answers down; whoever does that compares
//! them with upstream's tables (`pkg/apis/*/validation/*_test.go`).

use api::decode::{FieldValidation, decode_value, yaml_to_value};
use api::meta;
use api::registry::{Registry, Resource};
use api::validation::ErrorList;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// The time at which everything happens.
const NOW: &str = "2026-01-02T03:04:05Z";

/// The state of a script.
struct Script {
    registry: Registry,
    resource: Option<Arc<Resource>>,
    object: Value,
    old: Value,
}

impl Script {
    fn resource(&self) -> &Resource {
        self.resource.as_deref().expect("a kind comes first")
    }

    fn begin(&mut self, line: &str, yaml: &str) {
        let (version, plural) = line.split_once(' ').expect(line);
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let resource = self.registry.find(group, version, plural).expect(line);
        self.resource = Some(resource.clone());
        self.object = yaml_to_value(yaml.as_bytes()).expect(yaml);
        let metadata = meta::metadata_mut(&mut self.object);
        metadata.entry("name").or_insert("a".into());
        if resource.namespaced {
            metadata.entry("namespace").or_insert("ns".into());
        }
        self.old = self.create("").0;
    }

    /// What the server does with a creation, and what it says.
    fn create(&self, edits: &str) -> (Value, ErrorList) {
        let strategy = self.resource().strategy;
        let mut object = self.decoded(edited(&self.object, edits));
        meta::metadata_mut(&mut object).insert("uid".into(), "uid-1".into());
        strategy.default(&mut object);
        strategy.prepare_for_create(&mut object);
        strategy.stamp("", &mut object, None, NOW);
        let errors = strategy.validate(&object);
        (object, errors)
    }

    /// What the server does with an update, and what it says.
    fn update(&self, edits: &str) -> (Value, ErrorList) {
        let strategy = self.resource().strategy;
        let mut new = self.decoded(edited(&self.old, edits));
        strategy.default(&mut new);
        strategy.stamp("", &mut new, Some(&self.old), NOW);
        strategy.prepare_for_update(&mut new, &self.old);
        let errors = strategy.validate_update(&new, &self.old);
        (new, errors)
    }

    fn update_part(&self, part: &str, edits: &str) -> (Value, ErrorList) {
        let strategy = self.resource().strategy;
        let mut new = self.decoded(edited(&self.old, edits));
        strategy.default(&mut new);
        strategy.stamp(part, &mut new, Some(&self.old), NOW);
        let errors = if part == "status" {
            strategy.prepare_for_status_update(&mut new, &self.old);
            strategy.validate_status_update(&new, &self.old)
        } else {
            strategy.prepare_for_subresource_update(part, &mut new, &self.old);
            strategy.validate_subresource_update(part, &new, &self.old)
        };
        (new, errors)
    }

    fn decoded(&self, value: Value) -> Value {
        let decoded = decode_value(value.clone(), self.resource().expected(), FieldValidation::Strict);
        decoded.unwrap_or_else(|error| panic!("{value}: {error}")).value
    }

    fn answer(&mut self, command: &str) -> String {
        let (verb, edits) = command.split_once(' ').unwrap_or((command, ""));
        let errors = match verb {
            "create" => self.create(edits).1,
            "update" => self.update(edits).1,
            "old" => {
                let mut old = self.decoded(edited(&self.old, edits));
                self.resource().strategy.default(&mut old);
                self.old = old;
                return String::new();
            }
            "show" | "shown" | "showed" => {
                let (pointer, edits) = edits.split_once(' ').unwrap_or((edits, ""));
                let (stored, _) = match verb {
                    "show" => self.create(edits),
                    "shown" => self.update(edits),
                    _ => self.update_part("status", edits),
                };
                let shown = stored.pointer(pointer).cloned().unwrap_or_default();
                return serde_json::to_string_pretty(&shown).expect("JSON") + "\n";
            }
            "warn" | "warned" => {
                let strategy = self.resource().strategy;
                let warnings = match verb {
                    "warn" => {
                        let mut given = self.decoded(edited(&self.object, edits));
                        strategy.default(&mut given);
                        let mut warnings = strategy.warnings_of_given(&given);
                        warnings.extend(strategy.warnings(&self.create(edits).0, None));
                        warnings
                    }
                    _ => strategy.warnings(&self.update(edits).0, Some(&self.old)),
                };
                return warnings.iter().map(|warning| format!("{warning}\n")).collect();
            }
            part => self.update_part(part, edits).1,
        };
        let lines: Vec<String> = errors.iter().map(|e| e.message().replace('\n', "\\n")).collect();
        match lines.is_empty() {
            true => "ok\n".into(),
            false => lines.join("\n") + "\n",
        }
    }
}

fn edited(object: &Value, edits: &str) -> Value {
    let mut object = object.clone();
    for edit in repeated(edits)
        .replace(" /", "\n/")
        .replace(" -/", "\n-/")
        .lines()
    {
        if edit.is_empty() {
            continue;
        }
        if let Some(pointer) = edit.strip_prefix('-') {
            let (parent, field) = pointer.rsplit_once('/').expect(edit);
            match object.pointer_mut(parent).expect(edit) {
                Value::Object(map) => drop(map.remove(&unescaped(field))),
                Value::Array(items) => drop(items.remove(field.parse().expect(edit))),
                _ => panic!("{edit}"),
            }
            continue;
        }
        let (pointer, value) = edit.split_once('=').expect(edit);
        let value: Value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        let mut at = &mut object;
        for step in pointer.split('/').skip(1).map(unescaped) {
            if !at.is_object() && !at.is_array() {
                *at = if step == "-" { json!([]) } else { json!({}) };
            }
            at = match at {
                Value::Array(items) => {
                    let index = step.parse().unwrap_or(items.len());
                    items.resize(items.len().max(index + 1), Value::Null);
                    &mut items[index]
                }
                map => &mut map[step],
            };
        }
        *at = value;
    }
    object
}

/// Writes `«x*3»` out as `xxx`.
fn repeated(edits: &str) -> String {
    let mut parts = edits.split('«');
    let mut out = parts.next().unwrap_or("").to_owned();
    for part in parts {
        let (repeat, rest) = part.split_once('»').expect(edits);
        let (text, times) = repeat.rsplit_once('*').expect(edits);
        out += &text.repeat(times.parse().expect(edits));
        out += rest;
    }
    out
}

fn unescaped(step: &str) -> String {
    step.replace("~1", "/").replace("~0", "~")
}

/// The script with the answers that it gets.
fn answered(text: &str) -> String {
    let mut script = Script {
        registry: Registry::builtin(),
        resource: None,
        object: Value::Null,
        old: Value::Null,
    };
    let mut out = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(kind) = line.strip_prefix("kind ") {
            out += &format!("{line}\n");
            let mut yaml = String::new();
            while let Some(line) = lines.next_if(|line| line.starts_with('|')) {
                out += &format!("{line}\n");
                yaml += &format!("{}\n", line.strip_prefix("| ").unwrap_or(""));
            }
            script.begin(kind, &yaml);
        } else if let Some(command) = line.strip_prefix("> ") {
            out += &format!("{line}\n{}", script.answer(command));
        } else if line.starts_with('#') || line.is_empty() {
            out += &format!("{line}\n");
        }
    }
    out
}

#[test]
fn scripts() {
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/strategies");
    let mut failures = Vec::new();
    let mut seen = 0;
    for entry in std::fs::read_dir(&directory).expect("the scripts") {
        let path = entry.expect("a script").path();
        let text = std::fs::read_to_string(&path).expect("a script");
        let got = answered(&text);
        seen += 1;
        if update && got != text {
            std::fs::write(&path, &got).expect("a script");
        }
        let lines = text.lines().zip(got.lines());
        let difference = lines.enumerate().find(|(_, (want, got))| want != got);
        if let (false, Some((i, (want, got)))) = (update, difference) {
            failures.push(format!(
                "{}:{}\n  want {want}\n  got  {got}",
                path.display(),
                i + 1
            ));
        } else if !update && got != text {
            failures.push(format!("{}: one is longer than the other", path.display()));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(seen > 9, "{seen} scripts");
}

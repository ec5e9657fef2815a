//! The project's own rules, as tests whose message says what to do.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::build;

/// All Rust files that belong to the project.
fn sources() -> Vec<PathBuf> {
    let mut pending = vec![build::root()];
    let mut found = Vec::new();
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            if path.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    assert!(found.len() > 50, "the walk found only {} files", found.len());
    found
}

fn shown(path: &Path) -> String {
    path.strip_prefix(build::root())
        .unwrap_or(path)
        .display()
        .to_string()
}

/// Collects what `rule` says of each file and fails with all of it.
fn check(advice: &str, rule: impl Fn(&Path, &str) -> Option<String>) {
    let mut broken = Vec::new();
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap_or_default();
        if let Some(what) = rule(&path, &text) {
            broken.push(format!("{}: {what}", shown(&path)));
        }
    }
    broken.sort();
    assert!(broken.is_empty(), "{advice}\n  {}", broken.join("\n  "));
}

#[test]
fn every_module_says_what_it_is() {
    check(
        "Begin the file with `//!`: what it owns and which invariant it keeps.",
        |path, text| {
            let is_test = path.file_name().is_some_and(|name| name == "tests.rs");
            (!is_test && !text.starts_with("//!") && !text.starts_with("#!"))
                .then(|| "no module documentation".to_owned())
        },
    );
}

#[test]
fn plans_are_pure() {
    check(
        "A plan takes what it needs, the time included, as arguments; move the effect to its caller.",
        |path, text| {
            if path.file_name().is_none_or(|name| name != "plan.rs") {
                return None;
            }
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            let effects = [
                "tokio::",
                "kube::Client",
                "aya::",
                "nix::",
                "std::fs",
                "Instant::now()",
                "SystemTime::now()",
                "Timestamp::now()",
                "rand::",
            ];
            effects
                .iter()
                .find(|effect| code.contains(*effect))
                .map(|effect| format!("uses {effect}"))
        },
    );
}

#[test]
fn nothing_is_put_off_in_a_comment() {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];
    check("Do it, or open an issue.", |_, text| {
        marks
            .iter()
            .find(|mark| text.contains(*mark))
            .map(|mark| format!("contains {mark}"))
    });
}

#[test]
fn unsafe_code_says_why_it_is_sound() {
    check("Write a `// SAFETY:` line above the block.", |path, text| {
        // The eBPF programs read the kernel's context through raw pointers on every line; their header states the rule.
        if shown(path).starts_with("proxy-ebpf/ebpf/") {
            return None;
        }
        let lines: Vec<&str> = text.lines().collect();
        let bare = lines.iter().enumerate().find(|(index, line)| {
            let opens = line.contains(concat!("unsafe", " {")) && !line.trim_start().starts_with("//");
            opens
                && !lines[index.saturating_sub(4)..*index]
                    .iter()
                    .any(|before| before.contains("SAFETY:"))
        });
        bare.map(|(index, _)| format!("line {} has an unsafe block without a reason", index + 1))
    });
}

/// A document that names tests as `file::function`.
const KNOWN_BUGS: &str = "docs/known-bugs.md";

#[test]
fn tests_that_are_named_exist() {
    let text = fs::read_to_string(build::root().join(KNOWN_BUGS)).expect("the document is there");
    let named: Vec<_> = text
        .split('`')
        .filter_map(|code| code.split_once(".rs::"))
        .map(|(file, function)| (format!("{file}.rs"), function))
        .collect();
    assert!(named.len() > 40, "the document names only {} tests", named.len());
    let missing: Vec<_> = named
        .iter()
        .filter(|(file, function)| {
            let source = fs::read_to_string(build::root().join(file)).unwrap_or_default();
            !source.contains(&format!("fn {function}("))
        })
        .map(|(file, function)| format!("{file}::{function}"))
        .collect();
    assert!(
        missing.is_empty(),
        "{KNOWN_BUGS} names tests that do not exist: rename them there too\n  {}",
        missing.join("\n  ")
    );
}

/// Where tests are named from, and where they are: scenarios in a list, functions in the files of a folder.
const TEST_PLACES: [(&str, &str); 6] = [
    ("services", "tests/tests/services/main.rs"),
    ("nodes", "tests/tests/nodes/main.rs"),
    ("story", "tests/tests/story/main.rs"),
    ("node", "tests/tests/node/main.rs"),
    ("kernel", "proxy-ebpf/agent/tests/kernel"),
    ("agent", "proxy-ebpf/agent/src"),
];

/// The tests that a document names, each as place and name.
fn named_tests(text: &str) -> Vec<(&str, &str)> {
    let spans = text.split('`').skip(1).step_by(2);
    spans
        .filter_map(|span| span.split_once("::"))
        .filter(|(place, name)| !name.is_empty() && TEST_PLACES.iter().any(|(known, _)| known == place))
        .collect()
}

fn exists(place: &str, name: &str) -> bool {
    let root = TEST_PLACES.iter().find(|(known, _)| *known == place);
    let root = root.map(|(_, path)| build::root().join(path)).unwrap_or_default();
    let of_place = sources().into_iter().filter(|path| path.starts_with(&root));
    let functions = root.is_dir();
    of_place
        .map(|path| fs::read_to_string(path).unwrap_or_default())
        .any(|text| match functions {
            true => text
                .split("#[test]")
                .skip(1)
                .any(|test| test.trim_start().starts_with(&format!("fn {name}("))),
            false => text.contains(&format!("\"{name}\"")),
        })
}

#[test]
fn the_feature_table_names_tests_that_exist() {
    let mut broken = Vec::new();
    let mut named = Vec::new();
    for document in ["README.md", "docs/services.md"] {
        let text = fs::read_to_string(build::root().join(document)).unwrap_or_default();
        for (place, name) in named_tests(&text) {
            if !exists(place, name) {
                broken.push(format!("{document}: there is no {place}::{name}"));
            }
            named.push(format!("{place}::{name}"));
        }
        // A row that says that something is there says how it is known.
        let rows = text.lines().filter(|line| {
            let cells: Vec<&str> = line.split(" | ").collect();
            cells.len() >= 5 && cells[1].starts_with('✔')
        });
        for row in rows.filter(|row| named_tests(row).is_empty()) {
            broken.push(format!("{document}: no test is named in: {row}"));
        }
    }
    for suite in ["services", "nodes"] {
        let path = build::root().join(format!("tests/tests/{suite}/main.rs"));
        let text = fs::read_to_string(path).unwrap_or_default();
        let list = text.split_once("const SCENARIOS").map_or("", |(_, list)| list);
        for name in list.split('"').skip(1).step_by(2) {
            if !named.contains(&format!("{suite}::{name}")) {
                broken.push(format!("docs/services.md: no row names {suite}::{name}"));
            }
        }
    }
    assert!(named.len() > 30, "only {} tests are named", named.len());
    assert!(
        broken.is_empty(),
        "Keep the feature tables in step with the tests.\n  {}",
        broken.join("\n  ")
    );
}

//! A set of fields as a tree of path elements, and its `FieldsV1` form.
//!
//! An element is kept as `FieldsV1` spells it (`f:spec`, `k:{"name":"a"}`, `v:"x"`, `i:3`), so reading and writing an
//! entry is moving strings, and comparing elements is comparing text. Keys within `k:` are sorted and values are
//! compact JSON, which makes the text unique.

use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// A set of fields. A field may be in it, or some of the fields below it, or both.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// No node here is empty.
    nodes: BTreeMap<Box<str>, Node>,
}

/// A path element's place in a set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Node {
    /// The field itself is in the set.
    pub(super) member: bool,
    /// What of the fields below it is.
    pub(super) children: FieldSet,
}

impl Node {
    fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }
}

impl FieldSet {
    /// Whether no field is in it.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Reads `fieldsV1`; `None` when it is not one.
    pub fn from_fields_v1(value: &Value) -> Option<FieldSet> {
        let mut set = FieldSet::default();
        for (element, value) in value.as_object()? {
            if element == "." {
                continue;
            }
            let below = value.as_object()?;
            let node = Node {
                member: below.is_empty() || below.contains_key("."),
                children: FieldSet::from_fields_v1(value)?,
            };
            set.put(canonical(element)?, node);
        }
        Some(set)
    }

    /// The `fieldsV1` form.
    pub fn to_fields_v1(&self) -> Value {
        Value::Object(self.fields())
    }

    fn fields(&self) -> Map<String, Value> {
        let field = |(element, node): (&str, &Node)| {
            let mut below = node.children.fields();
            if node.member && !below.is_empty() {
                below.insert(".".into(), Value::Object(Map::new()));
            }
            (element.to_owned(), Value::Object(below))
        };
        self.nodes().map(field).collect()
    }

    /// The fields in it as people read them: `.spec.containers[name="a"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect_paths("", &mut out);
        out
    }

    fn collect_paths(&self, prefix: &str, out: &mut Vec<String>) {
        let readable = |element: &str| format!("{prefix}{}", readable(element));
        for (element, _) in self.nodes.iter().filter(|(_, node)| node.member) {
            out.push(readable(element));
        }
        for (element, node) in &self.nodes {
            if !node.children.is_empty() {
                node.children.collect_paths(&readable(element), out);
            }
        }
    }

    /// Adds what another set has.
    pub fn add(&mut self, other: &FieldSet) {
        for (element, theirs) in &other.nodes {
            match self.nodes.get_mut(element) {
                Some(own) => {
                    own.member |= theirs.member;
                    own.children.add(&theirs.children);
                }
                None => drop(self.nodes.insert(element.clone(), theirs.clone())),
            }
        }
    }

    /// Takes away what another set has. Of a field and those below it, each goes only if it is itself in the other.
    pub fn subtract(&mut self, other: &FieldSet) {
        self.subtract_where(other, false);
    }

    /// Takes away what another set has, along with all that is below it.
    pub fn subtract_trees(&mut self, other: &FieldSet) {
        self.subtract_where(other, true);
    }

    fn subtract_where(&mut self, other: &FieldSet, trees: bool) {
        if other.is_empty() {
            return;
        }
        self.nodes.retain(|element, own| {
            let Some(theirs) = other.nodes.get(element) else {
                return true;
            };
            if trees && theirs.member {
                return false;
            }
            own.member &= !theirs.member;
            own.children.subtract_where(&theirs.children, trees);
            !own.is_empty()
        });
    }

    /// What both have.
    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        let mut out = FieldSet::default();
        for (element, own) in &self.nodes {
            if let Some(theirs) = other.nodes.get(element) {
                let node = Node {
                    member: own.member && theirs.member,
                    children: own.children.intersection(&theirs.children),
                };
                out.put(element.clone(), node);
            }
        }
        out
    }

    /// A node by its element.
    pub(super) fn get(&self, element: &str) -> Option<&Node> {
        self.nodes.get(element)
    }

    /// The nodes in the order of their elements.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(element, node)| (&**element, node))
    }

    /// Adds a node unless it is empty.
    pub(super) fn put(&mut self, element: impl Into<Box<str>>, node: Node) {
        if node.is_empty() {
            return;
        }
        match self.nodes.entry(element.into()) {
            Entry::Vacant(entry) => drop(entry.insert(node)),
            Entry::Occupied(mut entry) => {
                let own = entry.get_mut();
                own.member |= node.member;
                own.children.add(&node.children);
            }
        }
    }

    /// A set of fields by their dotted paths.
    pub(super) fn of(paths: &[&str]) -> FieldSet {
        let mut set = FieldSet::default();
        for path in paths {
            let mut node = Node {
                member: true,
                children: FieldSet::default(),
            };
            let mut names = path.rsplit('.').peekable();
            while let Some(name) = names.next() {
                let mut parent = FieldSet::default();
                parent.put(format!("f:{name}"), node);
                if names.peek().is_none() {
                    set.add(&parent);
                    break;
                }
                node = Node {
                    member: false,
                    children: parent,
                };
            }
        }
        set
    }
}

/// The one spelling of an element; `None` when it is none.
fn canonical(element: &str) -> Option<Box<str>> {
    let (kind, rest) = element.split_once(':')?;
    match kind {
        "f" => Some(element.into()),
        "i" => rest.parse::<u64>().ok().map(|_| element.into()),
        "v" | "k" => {
            let value: Value = serde_json::from_str(rest).ok()?;
            (kind == "v" || value.is_object()).then(|| format!("{kind}:{value}").into())
        }
        _ => None,
    }
}

/// An element in a path that people read.
pub(super) fn readable(element: &str) -> String {
    let Some((kind, rest)) = element.split_once(':') else {
        return element.to_string();
    };
    match kind {
        "f" => format!(".{rest}"),
        "i" => format!("[{rest}]"),
        "v" => format!("[={rest}]"),
        _ => {
            let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("[{}]", keys.join(","))
        }
    }
}

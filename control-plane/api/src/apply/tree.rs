//! What is done to values over their shapes: their fields, their differences, merging, removing.

use super::field_set::{FieldSet, Node, readable};
use super::shape::Shape;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap, HashSet};

/// The fields that a configuration names. Errors are texts with paths, of all that cannot be.
pub(super) fn fields_of(shape: Shape, value: &Value) -> Result<FieldSet, Vec<String>> {
    let mut errors = Vec::new();
    let node = walk_fields(shape, value, &mut errors);
    match errors.is_empty() {
        true => Ok(node.children),
        false => Err(errors),
    }
}

/// The same of an object that has been checked already.
pub(super) fn known_fields_of(shape: Shape, value: &Value) -> FieldSet {
    walk_fields(shape, value, &mut Vec::new()).children
}

fn walk_fields(shape: Shape, value: &Value, errors: &mut Vec<String>) -> Node {
    let mut node = Node::default();
    match (shape, value) {
        (Shape::Struct(_) | Shape::Map(_), Value::Object(map)) => {
            for (key, value) in map {
                let Some(child) = shape.child(key) else {
                    errors.push(format!(".{key}: field not declared in schema"));
                    continue;
                };
                let mark = errors.len();
                let mut below = walk_fields(child.shape, value, errors);
                prefix(errors, mark, || format!(".{key}"));
                below.member |= !child.named || is_nothing(value) && !value.is_array();
                node.children.put(format!("f:{key}"), below);
            }
        }
        (Shape::Set | Shape::Keyed(..), Value::Array(items)) => {
            let mut seen = HashSet::new();
            for (i, item) in items.iter().enumerate() {
                match shape.element(item) {
                    Ok(element) => {
                        let mark = errors.len();
                        let mut below = walk_fields(shape.item(), item, errors);
                        prefix(errors, mark, || readable(&element));
                        below.member = true;
                        if !seen.insert(element.clone()) {
                            errors.push(format!(": duplicate entries for key {}", readable(&element)));
                            // Items that cannot be told apart are one field.
                            below.children = FieldSet::default();
                        }
                        node.children.put(element, below);
                    }
                    Err(why) => errors.push(format!(": element {i}: {why}")),
                }
            }
        }
        (Shape::Leaf, _) => node.member = true,
        (_, Value::Null) => {}
        (Shape::Struct(_) | Shape::Map(_), other) => {
            errors.push(format!(": expected map, got {}", described(other)));
        }
        (_, other) => errors.push(format!(": expected list, got {}", described(other))),
    }
    node
}

fn prefix(errors: &mut [String], mark: usize, segment: impl Fn() -> String) {
    for error in &mut errors[mark..] {
        error.insert_str(0, &segment());
    }
}

fn described(value: &Value) -> String {
    format!("&{{{value}}}")
}

/// What is different.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Difference {
    /// Fields that are new or have a new value.
    pub(super) changed: FieldSet,
    /// Fields that are gone.
    pub(super) removed: FieldSet,
}

impl Difference {
    /// Of two objects.
    pub(super) fn between(shape: Shape, old: &Value, new: &Value) -> Difference {
        let (mut changed, mut removed) = (Node::default(), Node::default());
        compare(shape, Some(old), Some(new), &mut changed, &mut removed);
        Difference {
            changed: changed.children,
            removed: removed.children,
        }
    }

    /// Leaves out fields and all below them.
    pub(super) fn without(mut self, fields: &FieldSet) -> Difference {
        self.changed.subtract_trees(fields);
        self.removed.subtract_trees(fields);
        self
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

/// Stands where Go writes `null`.
static NULL: Value = Value::Null;

fn compare(shape: Shape, old: Option<&Value>, new: Option<&Value>, changed: &mut Node, removed: &mut Node) {
    if old == new {
        return;
    }
    let nothing = |value: Option<&Value>| value.is_none_or(is_nothing);
    if matches!(shape, Shape::Leaf) || nothing(old) && nothing(new) {
        match new {
            Some(_) => changed.member = true,
            None => removed.member = true,
        }
        return;
    }
    match shape {
        Shape::Struct(_) | Shape::Map(_) => compare_maps(shape, old, new, changed, removed),
        _ => compare_lists(shape, old, new, changed, removed),
    }
    changed.member |= old.is_none();
    removed.member |= new.is_none();
}

fn compare_maps(
    shape: Shape,
    old: Option<&Value>,
    new: Option<&Value>,
    changed: &mut Node,
    removed: &mut Node,
) {
    let (old, new) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
    let added = new
        .into_iter()
        .flatten()
        .filter(|(key, _)| !old.is_some_and(|old| old.contains_key(*key)));
    let both = old
        .into_iter()
        .flatten()
        .map(|(key, value)| (key, Some(value), new.and_then(|new| new.get(key))));
    for (key, before, after) in both.chain(added.map(|(key, value)| (key, None, Some(value)))) {
        if before == after {
            continue;
        }
        let Some(child) = shape.child(key) else { continue };
        let absent =
            |map: Option<&Map<String, Value>>| (child.written_when_null && map.is_some()).then_some(&NULL);
        let (mut more, mut less) = (Node::default(), Node::default());
        compare(
            child.shape,
            before.or_else(|| absent(old)),
            after.or_else(|| absent(new)),
            &mut more,
            &mut less,
        );
        let element = format!("f:{key}");
        changed.children.put(element.as_str(), more);
        removed.children.put(element, less);
    }
}

fn compare_lists(
    shape: Shape,
    old: Option<&Value>,
    new: Option<&Value>,
    changed: &mut Node,
    removed: &mut Node,
) {
    let mut items: BTreeMap<String, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
    for item in elements(old) {
        if let Ok(element) = shape.element(item) {
            items.entry(element).or_default().0.push(item);
        }
    }
    for item in elements(new) {
        if let Ok(element) = shape.element(item) {
            items.entry(element).or_default().1.push(item);
        }
    }
    for (element, (before, after)) in items {
        let (mut more, mut less) = (Node::default(), Node::default());
        match (before.as_slice(), after.as_slice()) {
            ([] | [_], [] | [_]) => compare(
                shape.item(),
                before.first().copied(),
                after.first().copied(),
                &mut more,
                &mut less,
            ),
            // Items that cannot be told apart are one field; whatever was in the one that was there alone is gone with it.
            ([_, _, ..], [_, _, ..]) => more.member = before != after,
            ([_, _, ..], after) => {
                if let [one] = after {
                    compare(shape.item(), None, Some(one), &mut more, &mut less);
                }
                less.member = true;
            }
            (before, _) => {
                if let [one] = before {
                    compare(shape.item(), Some(one), None, &mut more, &mut less);
                }
                more.member = true;
            }
        }
        changed.children.put(element.as_str(), more);
        removed.children.put(element, less);
    }
}

fn elements(list: Option<&Value>) -> impl Iterator<Item = &Value> {
    list.and_then(Value::as_array).into_iter().flatten()
}

/// Null, or an empty list or map.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// The live value with a configuration merged into it.
pub(super) fn merge(shape: Shape, live: &Value, config: &Value) -> Value {
    if matches!(shape, Shape::Leaf) || is_nothing(live) && is_nothing(config) {
        return config.clone();
    }
    match (shape, live, config) {
        (_, _, Value::Null) => live.clone(),
        (_, Value::Null, _) => config.clone(),
        (Shape::Struct(_) | Shape::Map(_), Value::Object(live), Value::Object(config)) => {
            let mut out = live.clone();
            for (key, value) in config {
                let merged = match (live.get(key), shape.child(key)) {
                    (Some(live), Some(child)) => merge(child.shape, live, value),
                    _ => value.clone(),
                };
                out.insert(key.clone(), merged);
            }
            Value::Object(out)
        }
        (Shape::Set | Shape::Keyed(..), Value::Array(live), Value::Array(config)) => {
            Value::Array(merge_lists(shape, live, config))
        }
        _ => config.clone(),
    }
}

/// Items of both in the order of the configuration; those only the live list has stay behind the ones they followed. Live
/// items that cannot be told apart are not merged with one of the configuration: it takes their place.
fn merge_lists(shape: Shape, live: &[Value], config: &[Value]) -> Vec<Value> {
    let key = |item: &Value| shape.element(item).unwrap_or_default();
    let live: Vec<(String, &Value)> = live.iter().map(|item| (key(item), item)).collect();
    let config: Vec<(String, &Value)> = config.iter().map(|item| (key(item), item)).collect();
    let in_config: HashMap<&str, usize> = places(&config).map(|(key, at)| (key, at[0])).collect();
    let in_live: HashMap<&str, Vec<usize>> = places(&live).collect();
    let mut out = Vec::with_capacity(live.len().max(config.len()));
    let mut shared = config
        .iter()
        .map(|(key, _)| key.as_str())
        .filter(|key| in_live.contains_key(key))
        .peekable();
    let (mut l, mut r) = (0, 0);
    while l < live.len() || r < config.len() {
        if let Some((key, own)) = live.get(l) {
            match in_config.get(key.as_str()) {
                None => {
                    out.push((*own).clone());
                    l += 1;
                    continue;
                }
                // Its turn comes where the configuration has it.
                Some(at) if *at != r && (shared.peek() != Some(&key.as_str()) || *at < r) => {
                    l += 1;
                    continue;
                }
                Some(_) => {}
            }
        }
        let Some((key, theirs)) = config.get(r) else { break };
        match in_live.get(key.as_str()).map(Vec::as_slice) {
            Some(at) => {
                out.push(match at {
                    [one] => merge(shape.item(), live[*one].1, theirs),
                    _ => (*theirs).clone(),
                });
                shared.next_if_eq(&key.as_str());
                if live.get(l).is_some_and(|(own, _)| own == key) {
                    l += 1;
                }
            }
            None => out.push((*theirs).clone()),
        }
        r += 1;
    }
    out
}

/// Where each key is, the first place first.
fn places<'a>(items: &'a [(String, &Value)]) -> impl Iterator<Item = (&'a str, Vec<usize>)> {
    let mut places: HashMap<&str, Vec<usize>> = HashMap::with_capacity(items.len());
    for (i, (key, _)) in items.iter().enumerate() {
        places.entry(key).or_default().push(i);
    }
    places.into_iter()
}

/// The value without the fields of a set; what is left empty by that becomes null.
pub(super) fn remove(shape: Shape, value: &Value, set: &FieldSet) -> Value {
    if set.is_empty() {
        return value.clone();
    }
    match (shape, value) {
        (Shape::Struct(_) | Shape::Map(_), Value::Object(map)) => {
            let keep = |(key, value): (&String, &Value)| {
                let kept = match (set.get(&format!("f:{key}")), shape.child(key)) {
                    (Some(node), _) if node.member => return None,
                    (Some(node), Some(child)) => remove(child.shape, value, &node.children),
                    _ => value.clone(),
                };
                Some((key.clone(), kept))
            };
            let kept: Map<String, Value> = map.iter().filter_map(keep).collect();
            some_or_null(kept.is_empty(), Value::Object(kept))
        }
        (Shape::Set | Shape::Keyed(..), Value::Array(items)) => {
            let keep = |item: &Value| {
                let node = shape.element(item).ok().and_then(|element| set.get(&element));
                match node {
                    Some(node) if node.member => None,
                    Some(node) => Some(remove(shape.item(), item, &node.children)),
                    None => Some(item.clone()),
                }
            };
            let kept: Vec<Value> = items.iter().filter_map(keep).collect();
            some_or_null(kept.is_empty(), Value::Array(kept))
        }
        _ => value.clone(),
    }
}

fn some_or_null(empty: bool, value: Value) -> Value {
    if empty { Value::Null } else { value }
}

/// The set with all declared fields on the way to its fields in it too, so that removing can take emptied ones along.
pub(super) fn with_named(shape: Shape, set: &FieldSet) -> FieldSet {
    let mut out = FieldSet::default();
    for (element, node) in set.nodes() {
        let (below, named) = match element.strip_prefix("f:") {
            Some(key) => shape
                .child(key)
                .map_or((Shape::Leaf, false), |child| (child.shape, child.named)),
            None => (shape.item(), false),
        };
        let node = Node {
            member: node.member || named && !node.children.is_empty(),
            children: with_named(below, &node.children),
        };
        out.put(element, node);
    }
    out
}

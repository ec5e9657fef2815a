//! Names and the small values that claims and slices share.

use crate::strategy::access::text;
use crate::validation::text::{
    label_problems, label_value_problems, qualified_name_problems, subdomain_problems,
};
use crate::validation::{ErrorList, FieldError};
use serde_json::Value;

/// Longest names, in bytes.
const MAX_POOL: usize = 253;
const MAX_DRIVER: usize = 63;
const MAX_IDENTIFIER: usize = 32;
/// Longest attribute or capacity name: a domain, a slash and an identifier.
const MAX_QUALIFIED: usize = MAX_DRIVER + 1 + MAX_IDENTIFIER;
const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];

/// A driver's name: a subdomain in whatever case.
pub(super) fn driver(name: &str, path: &str, errors: &mut ErrorList) {
    if errors.present(path, name) {
        if name.len() > MAX_DRIVER {
            errors.push(FieldError::too_long(path, MAX_DRIVER));
        }
        errors.problems(path, name, subdomain_problems(&name.to_lowercase()));
    }
}

/// A pool's name: subdomains between slashes.
pub(super) fn pool(name: &str, path: &str, errors: &mut ErrorList) {
    if errors.present(path, name) {
        if name.len() > MAX_POOL {
            errors.push(FieldError::too_long(path, MAX_POOL));
        }
        for step in name.split('/') {
            errors.problems(path, step, subdomain_problems(step));
        }
    }
}

/// A device's name.
pub(super) fn device(name: &str, path: &str, errors: &mut ErrorList) {
    errors.problems(path, name, label_problems(name));
}

/// An attribute's or capacity's name: an identifier of C, behind a domain or not.
pub(super) fn qualified(name: &str, path: &str, errors: &mut ErrorList) {
    let steps: Vec<&str> = name.split('/').collect();
    match steps[..] {
        [name] => identifier(name, path, errors),
        [domain, name] => {
            match domain {
                "" => errors.invalid(path, "", "the domain must not be empty"),
                domain => driver(domain, path, errors),
            }
            match name {
                "" => errors.invalid(path, "", "the name must not be empty"),
                name => identifier(name, path, errors),
            }
        }
        _ => errors.invalid(path, name, "must not contain more than one slash"),
    }
}

/// The same, and there is a domain.
pub(super) fn fully_qualified(name: &str, path: &str, errors: &mut ErrorList) {
    qualified(name, path, errors);
    if !name.contains('/') {
        let detail = "a fully qualified name must be a domain and a name separated by a slash";
        errors.invalid(path, name, detail);
    }
}

fn identifier(name: &str, path: &str, errors: &mut ErrorList) {
    if name.len() > MAX_IDENTIFIER {
        errors.push(FieldError::too_long(path, MAX_IDENTIFIER));
    }
    let mut bytes = name.bytes();
    let fits = bytes.next().is_some_and(|b| b == b'_' || b.is_ascii_alphabetic())
        && bytes.all(|b| b == b'_' || b.is_ascii_alphanumeric());
    if !fits {
        let detail = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";
        errors.invalid(path, name, detail);
    }
}

/// The path of a map's value: a key too long for any name is shown without its middle.
pub(super) fn key_path(path: &str, key: &str) -> String {
    if key.len() <= MAX_QUALIFIED {
        return format!("{path}[{key}]");
    }
    let kept = MAX_QUALIFIED - "...".len();
    let head = key.floor_char_boundary(kept.div_ceil(2));
    let tail = key.ceil_char_boundary(key.len() - kept / 2);
    format!("{path}[{}...{}]", &key[..head], &key[tail..])
}

/// The identifier of one share of a device.
pub(super) fn uid(uid: &str, path: &str, errors: &mut ErrorList) {
    let fits = |(i, b): (usize, u8)| match i {
        8 | 13 | 18 | 23 => b == b'-',
        _ => matches!(b, b'0'..=b'9' | b'a'..=b'f'),
    };
    if uid.len() != 36 || !uid.bytes().enumerate().all(fits) {
        errors.invalid(path, uid, "must be a lowercase UUID in 8-4-4-4-12 format");
    }
}

/// A taint of a device. An effect that is not new was checked when it was.
pub(super) fn taint(taint: &Value, old: Option<&Value>, path: &str, errors: &mut ErrorList) {
    let (key, value) = (text(taint, "/key"), text(taint, "/value"));
    errors.problems(&format!("{path}.key"), key, qualified_name_problems(key));
    if !value.is_empty() {
        errors.problems(&format!("{path}.value"), value, label_value_problems(value));
    }
    let (effect, at) = (text(taint, "/effect"), format!("{path}.effect"));
    if old.is_none_or(|old| text(old, "/effect") != effect) && errors.present(&at, effect) {
        errors.one_of(&at, effect, &EFFECTS);
    }
}

/// What taints a claim puts up with.
pub(super) fn toleration(toleration: &Value, path: &str, errors: &mut ErrorList) {
    let (key, value) = (text(toleration, "/key"), text(toleration, "/value"));
    if !key.is_empty() {
        errors.problems(&format!("{path}.key"), key, qualified_name_problems(key));
    }
    let at = format!("{path}.value");
    match text(toleration, "/operator") {
        "Exists" if !value.is_empty() => {
            errors.invalid(at, value, "must be empty for operator `Exists`");
        }
        "Exists" => {}
        "Equal" => errors.problems(&at, value, label_value_problems(value)),
        "" => errors.required(format!("{path}.operator"), ""),
        other => errors.one_of(&format!("{path}.operator"), other, &["Equal", "Exists"]),
    }
    let effect = text(toleration, "/effect");
    if !effect.is_empty() {
        errors.one_of(&format!("{path}.effect"), effect, &EFFECTS);
    }
}

/// Keys occur once.
pub(super) fn unique<K: PartialEq + Into<Value> + Clone>(keys: &[K], path: &str, errors: &mut ErrorList) {
    for (i, key) in keys.iter().enumerate() {
        if keys[..i].contains(key) {
            errors.duplicate(format!("{path}[{i}]"), key.clone());
        }
    }
}

/// The texts at a pointer of every item.
pub(super) fn keys<'a>(items: &'a [Value], pointer: &str) -> Vec<&'a str> {
    items.iter().map(|item| text(item, pointer)).collect()
}

/// Conditions that a device reports before a pod is bound to its node, and those that say it never will.
pub(super) fn binding(owner: &Value, path: &str, errors: &mut ErrorList) {
    const MAX_CONDITIONS: usize = 4;
    let strings = |field: &str| {
        let items = owner.get(field).and_then(Value::as_array);
        let items = items.into_iter().flatten().filter_map(Value::as_str);
        items.collect::<Vec<_>>()
    };
    let (good, bad) = (strings("bindingConditions"), strings("bindingFailureConditions"));
    let (good_at, bad_at) = (
        format!("{path}.bindingConditions"),
        format!("{path}.bindingFailureConditions"),
    );
    for (conditions, at) in [(&good, &good_at), (&bad, &bad_at)] {
        if errors.too_many(at, conditions.len(), MAX_CONDITIONS) {
            continue;
        }
        for (i, name) in conditions.iter().enumerate() {
            errors.problems(&format!("{at}[{i}]"), name, qualified_name_problems(name));
        }
    }
    unique(&good, &good_at, errors);
    for (i, condition) in bad.iter().enumerate() {
        let at = format!("{bad_at}[{i}]");
        if bad[..i].contains(condition) {
            errors.duplicate(at.clone(), *condition);
        }
        if good.contains(condition) {
            let detail = "bindingFailureConditions must not overlap with bindingConditions";
            errors.invalid(at, *condition, detail);
        }
    }
    if good.is_empty() && !bad.is_empty() {
        let detail = "bindingConditions are required to use bindingFailureConditions";
        errors.invalid(good_at, owner["bindingConditions"].clone(), detail);
    } else if bad.is_empty() && !good.is_empty() {
        let detail = "bindingFailureConditions are required to use bindingConditions";
        errors.invalid(bad_at, owner["bindingFailureConditions"].clone(), detail);
    }
}

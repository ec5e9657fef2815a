//! The little that selectors ask of an object, in one piece of memory: a box for each label and each field would take as much
//! as a small object itself.

use std::sync::{Arc, RwLock};

use serde_json::{Map, Value};

/// An object's labels and selectable fields.
#[derive(Debug)]
pub(super) struct Facts {
    /// Keys and values of labels by turns, then the values of the fields, one after the other.
    text: Box<str>,
    /// Where in `text` each of them ends.
    ends: Box<[u32]>,
    /// The fields' names, shared by all objects that have the same.
    fields: Arc<[&'static str]>,
}

impl Facts {
    pub(super) fn new(labels: Option<&Map<String, Value>>, fields: &[(&'static str, String)]) -> Facts {
        let labels = labels.into_iter().flatten();
        let labels = labels.flat_map(|(key, value)| [key.as_str(), value.as_str().unwrap_or_default()]);
        let mut text = String::new();
        let mut ends = Vec::new();
        for piece in labels.chain(fields.iter().map(|(_, value)| value.as_str())) {
            text.push_str(piece);
            // An object is far smaller than this number can count.
            ends.push(u32::try_from(text.len()).unwrap_or(u32::MAX));
        }
        Facts {
            text: text.into(),
            ends: ends.into(),
            fields: shared(fields.iter().map(|(name, _)| *name)),
        }
    }

    pub(super) fn label(&self, key: &str) -> Option<&str> {
        let labels = self.ends.len() - self.fields.len();
        let at = (0..labels).step_by(2).find(|at| self.piece(*at) == key)?;
        Some(self.piece(at + 1))
    }

    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let labels = self.ends.len() - self.fields.len();
        let at = self.fields.iter().position(|field| *field == name)?;
        Some(self.piece(labels + at))
    }

    fn piece(&self, at: usize) -> &str {
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[start as usize..self.ends[at] as usize]
    }
}

/// The same names in the same order are one list; there are as many as kinds with fields of their own.
fn shared(names: impl ExactSizeIterator<Item = &'static str> + Clone) -> Arc<[&'static str]> {
    static KNOWN: RwLock<Vec<Arc<[&'static str]>>> = RwLock::new(Vec::new());
    let same = |known: &&Arc<[&'static str]>| known.iter().copied().eq(names.clone());
    // Nobody panics while holding this lock; were somebody to, the lists would still be whole.
    let known = KNOWN.read().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(known) = known.iter().find(same) {
        return known.clone();
    }
    drop(known);
    let mut known = KNOWN.write().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(known) = known.iter().find(same) {
        return known.clone();
    }
    let new: Arc<[&'static str]> = names.collect();
    known.push(new.clone());
    new
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn found_again() {
        let labels = json!({"app": "web", "": "x", "none": "", "number": 1, "ü": "ö"});
        let fields = [("spec.a", "1".to_owned()), ("spec.b", String::new())];
        let facts = Facts::new(labels.as_object(), &fields);
        for (key, value) in [
            ("app", Some("web")),
            ("", Some("x")),
            ("none", Some("")),
            ("number", Some("")),
            ("ü", Some("ö")),
            ("web", None),
            ("spec.a", None),
        ] {
            assert_eq!(facts.label(key), value, "{key}");
        }
        for (name, value) in [("spec.a", Some("1")), ("spec.b", Some("")), ("app", None)] {
            assert_eq!(facts.field(name), value, "{name}");
        }
        let other = Facts::new(None, &fields);
        assert!(Arc::ptr_eq(&facts.fields, &other.fields));
        assert_eq!((other.label("app"), other.field("spec.a")), (None, Some("1")));
        let nothing = Facts::new(None, &[]);
        assert_eq!((nothing.label(""), nothing.field("spec.a")), (None, None));
    }
}

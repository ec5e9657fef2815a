//! An object's JSON as it is in memory. What many objects have in common is there once: the `fieldsV1` of their managers, which
//! are as long as all the rest of a pod and the same for all that one client made alike.

use std::{
    collections::HashSet,
    ops::Range,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use serde_json::{Map, Value};

use super::object::{encode_with, entries, write};

/// Shorter parts are not worth what sharing takes.
const SHARED_BYTES_MIN: usize = 256;

/// The text of an object.
#[derive(Debug)]
pub(super) struct Text {
    /// What is only this object's.
    own: Bytes,
    /// What comes between, each with its place in `own`.
    shared: Box<[(u32, Bytes)]>,
}

impl Text {
    /// Encodes an object.
    pub(super) fn new(object: &Map<String, Value>) -> Text {
        let mut parts = Vec::new();
        let out = encode_with(object, |out, key, value| match value.as_object() {
            Some(metadata) if key == "metadata" => write_metadata(out, metadata, &mut parts),
            _ => write(out, value),
        });
        parts.retain(|part| part.len() >= SHARED_BYTES_MIN);
        if parts.is_empty() {
            return Text {
                own: out.into_boxed_slice().into(),
                shared: Box::default(),
            };
        }
        let mut own = Vec::with_capacity(out.len() - parts.iter().map(Range::len).sum::<usize>());
        let mut shared = Vec::with_capacity(parts.len());
        let mut after = 0;
        for part in parts {
            own.extend_from_slice(&out[after..part.start]);
            // No object is so large that this number could not tell.
            let at = u32::try_from(own.len()).unwrap_or(u32::MAX);
            after = part.end;
            shared.push((at, share(&out[part])));
        }
        own.extend_from_slice(&out[after..]);
        Text {
            own: own.into_boxed_slice().into(),
            shared: shared.into(),
        }
    }

    /// How many bytes no other object has.
    pub(super) fn own_size(&self) -> usize {
        self.own.len()
    }

    /// The whole.
    pub(super) fn bytes(&self) -> Bytes {
        if self.shared.is_empty() {
            return self.own.clone();
        }
        let shared = self.shared.iter().map(|(_, part)| part.len());
        let mut whole = Vec::with_capacity(self.own.len() + shared.sum::<usize>());
        for piece in self.pieces() {
            whole.extend_from_slice(&piece);
        }
        whole.into()
    }

    /// The whole, piece by piece. The first piece reaches beyond the type.
    pub(super) fn pieces(&self) -> impl Iterator<Item = Bytes> {
        let mut after = 0;
        let pieces = self.shared.iter().flat_map(move |(at, part)| {
            let before = self.own.slice(after..*at as usize);
            after = *at as usize;
            [before, part.clone()]
        });
        let last = self.shared.last().map_or(0, |(at, _)| *at as usize);
        pieces.chain(std::iter::once(self.own.slice(last..)))
    }
}

/// Writes the metadata and notes where the `fieldsV1` of its managers are.
fn write_metadata(out: &mut Vec<u8>, metadata: &Map<String, Value>, parts: &mut Vec<Range<usize>>) {
    out.push(b'{');
    entries(out, metadata.iter(), |out, key, value| match value.as_array() {
        Some(managers) if key == "managedFields" => {
            out.push(b'[');
            for (at, manager) in managers.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                match manager.as_object() {
                    Some(manager) => write_manager(out, manager, parts),
                    None => write(out, manager),
                }
            }
            out.push(b']');
        }
        _ => write(out, value),
    });
    out.push(b'}');
}

fn write_manager(out: &mut Vec<u8>, manager: &Map<String, Value>, parts: &mut Vec<Range<usize>>) {
    out.push(b'{');
    entries(out, manager.iter(), |out, key, value| {
        let start = out.len();
        write(out, value);
        if key == "fieldsV1" {
            parts.push(start..out.len());
        }
    });
    out.push(b'}');
}

/// All parts that objects share.
#[derive(Default)]
struct Parts {
    all: HashSet<Bytes>,
    /// With so many, those that no object has any more are looked for.
    sweep_at: usize,
}

/// When the first sweep comes.
const SWEEP_MIN: usize = 256;

/// The bytes as they may be in memory already.
fn share(part: &[u8]) -> Bytes {
    static PARTS: Mutex<Option<Parts>> = Mutex::new(None);
    // No code panics while it holds this lock.
    let mut parts = PARTS.lock().unwrap_or_else(PoisonError::into_inner);
    parts.get_or_insert_default().share(part)
}

impl Parts {
    fn share(&mut self, part: &[u8]) -> Bytes {
        if let Some(known) = self.all.get(part) {
            return known.clone();
        }
        if self.all.len() >= self.sweep_at.max(SWEEP_MIN) {
            self.all.retain(|part| !part.is_unique());
            self.sweep_at = 2 * self.all.len();
        }
        let new = Bytes::from(part.to_vec().into_boxed_slice());
        self.all.insert(new.clone());
        new
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::object::{encode, without_type},
        *,
    };

    fn object(name: &str, managers: &[Value]) -> Value {
        json!({
            "kind": "Pod", "apiVersion": "v1", "spec": {"managedFields": [{"fieldsV1": {"f:a": {}}}]},
            "metadata": {"name": name, "managedFields": managers, "resourceVersion": "7"},
        })
    }

    fn manager(name: &str, fields: usize) -> Value {
        let fields: Map<String, Value> = (0..fields)
            .map(|at| (format!("f:field{at}"), json!({})))
            .collect();
        json!({"manager": name, "operation": "Update", "fieldsV1": fields, "time": "2026-01-01T00:00:00Z"})
    }

    #[test]
    fn the_pieces_are_the_whole() {
        for managers in [
            vec![],
            vec![manager("a", 1)],
            vec![manager("a", 100)],
            vec![manager("a", 100), manager("b", 3), manager("c", 200)],
            vec![json!("none"), json!({"fieldsV1": "text"}), manager("a", 50)],
        ] {
            let object = object("a", &managers);
            let text = Text::new(object.as_object().unwrap());
            let expected = encode(object.as_object().unwrap());
            assert_eq!(text.bytes(), expected);
            let pieces: Vec<Bytes> = text.pieces().collect();
            assert_eq!(pieces.concat(), expected);
            let first = without_type(&pieces[0], "v1", "Pod");
            assert!(expected.ends_with(&[&[first], &pieces[1..]].concat().concat()));
            assert_eq!(serde_json::from_slice::<Value>(&expected).unwrap(), object);
        }
        let odd = json!({"metadata": {"managedFields": {"fieldsV1": {}}}});
        let text = Text::new(odd.as_object().unwrap());
        assert_eq!(text.bytes(), encode(odd.as_object().unwrap()));
    }

    #[test]
    fn equal_parts_are_in_memory_once() {
        let [one, other] = ["one", "other"].map(|name| {
            let object = object(name, &[manager(name, 100), manager("b", 101)]);
            Text::new(object.as_object().unwrap())
        });
        for (mine, its) in one.shared.iter().zip(&other.shared) {
            assert_eq!(mine.1.as_ptr(), its.1.as_ptr());
        }
        assert_eq!((one.shared.len(), other.shared.len()), (2, 2));
    }

    #[test]
    fn what_nobody_has_is_forgotten() {
        let mut parts = Parts::default();
        let part = |number: usize| format!("part {number}").into_bytes();
        let held: Vec<Bytes> = (0..10).map(|number| parts.share(&part(number))).collect();
        for number in 10..10 * SWEEP_MIN {
            parts.share(&part(number));
        }
        assert!(parts.all.len() <= SWEEP_MIN, "{}", parts.all.len());
        for (number, held) in held.iter().enumerate() {
            assert_eq!(parts.share(&part(number)).as_ptr(), held.as_ptr());
        }
    }
}

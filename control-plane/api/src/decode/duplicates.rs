//! Fields that a document gives twice, found without a schema: in patches, which no schema describes, and in YAML, whose
//! parser keeps the last of them.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// Complaints beyond this many are not collected.
const MAX_COMPLAINTS: usize = 100;

/// `duplicate field "a[0].b"` for each field that JSON gives more than once, in order.
///
/// # Errors
///
/// When it is not JSON.
pub fn duplicate_fields(json: &[u8]) -> serde_json::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    Seed::<String>::root(&mut String::new(), &mut found).deserialize(&mut deserializer)?;
    deserializer.end()?;
    let text = |twice: &Twice| format!("duplicate field {}", crate::status::quote(&twice.path));
    Ok(found.iter().map(text).collect())
}

/// `line 3: key "a" already set in map` for each key that YAML gives more than once, in order.
pub(super) fn duplicate_keys(yaml: &str) -> Result<Vec<String>, serde_saphyr::Error> {
    use serde_saphyr::options::DuplicateKeyPolicy;
    let options =
        serde_saphyr::options! { duplicate_keys: DuplicateKeyPolicy::PassThrough, with_snippet: false };
    let mut found = Vec::new();
    serde_saphyr::with_deserializer_from_str_with_options(yaml, options, |deserializer| {
        Seed::<Spanned<String>>::root(&mut String::new(), &mut found).deserialize(deserializer)
    })?;
    let text = |twice: &Twice| {
        let key = crate::status::quote(&twice.key);
        format!("line {}: key {key} already set in map", twice.line)
    };
    Ok(found.iter().map(text).collect())
}

/// A field that was there before.
struct Twice {
    key: String,
    path: String,
    line: u64,
}

/// A key, and the line it is on where that is known.
trait Key: for<'de> Deserialize<'de> {
    fn parts(self) -> (String, u64);
}

impl Key for String {
    fn parts(self) -> (String, u64) {
        (self, 0)
    }
}

impl Key for Spanned<String> {
    fn parts(self) -> (String, u64) {
        let line = self.referenced.line();
        (self.value, line)
    }
}

struct Seed<'a, K> {
    path: &'a mut String,
    found: &'a mut Vec<Twice>,
    key: PhantomData<K>,
}

impl<'a, K> Seed<'a, K> {
    fn root(path: &'a mut String, found: &'a mut Vec<Twice>) -> Self {
        Seed {
            path,
            found,
            key: PhantomData,
        }
    }
}

impl<'de, K: Key> DeserializeSeed<'de> for Seed<'_, K> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, K: Key> Visitor<'de> for Seed<'_, K> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a document")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        let end = self.path.len();
        while let Some(key) = map.next_key::<K>()? {
            let (key, line) = key.parts();
            if end > 0 {
                self.path.push('.');
            }
            self.path.push_str(&key);
            if !seen.insert(key.clone()) && self.found.len() < MAX_COMPLAINTS {
                let path = self.path.clone();
                self.found.push(Twice { key, path, line });
            }
            map.next_value_seed(Seed::<K>::root(self.path, self.found))?;
            self.path.truncate(end);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let end = self.path.len();
        for i in 0usize.. {
            self.path.push_str(&format!("[{i}]"));
            let more = items.next_element_seed(Seed::<K>::root(self.path, self.found))?;
            self.path.truncate(end);
            if more.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

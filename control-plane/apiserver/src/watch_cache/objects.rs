//! Objects in key order, in chunks.
//!
//! A chunk holds some hundreds of them, so counting the objects before a key (what remains after a page) adds up chunk
//! lengths instead of visiting objects, and the map itself costs little more than two pointers for each object.

use std::{ops::Bound, sync::Arc};

use super::{Object, chunk::Chunk};

/// A chunk that would grow beyond this is split. Inserting moves half of it on average, which is 2 KiB.
const CHUNK_MAX: usize = 512;

/// A sorted set of objects, by key.
#[derive(Default)]
pub(super) struct Objects {
    /// None is empty.
    chunks: Vec<Chunk>,
    len: usize,
}

/// A place between two objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    chunk: usize,
    offset: usize,
}

impl Objects {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.chunks.iter().flat_map(Chunk::objects)
    }

    pub(super) fn get(&self, key: &str) -> Option<&Arc<Object>> {
        let at = self.search(key).ok()?;
        self.chunks.get(at.chunk)?.objects().get(at.offset)
    }

    /// Puts an object in its place; returns the one that was there.
    pub(super) fn insert(&mut self, object: Arc<Object>) -> Option<Arc<Object>> {
        let at = match self.search(&object.key) {
            Ok(at) => return Some(self.chunks[at.chunk].replace(at.offset, object)),
            Err(at) => at,
        };
        self.len += 1;
        let last = self.chunks.len().saturating_sub(1);
        let Some(chunk) = self.chunks.get_mut(at.chunk) else {
            self.chunks.push(Chunk::new(object));
            return None;
        };
        if chunk.len() < CHUNK_MAX {
            chunk.insert(at.offset, object);
        } else if at.chunk == last && at.offset == chunk.len() {
            // Keys that come in order, as when the cache is filled, leave full chunks behind.
            self.chunks.push(Chunk::new(object));
        } else {
            let mut upper = chunk.split_off(CHUNK_MAX / 2);
            match at.offset.checked_sub(CHUNK_MAX / 2) {
                Some(offset) => upper.insert(offset, object),
                None => chunk.insert(at.offset, object),
            }
            self.chunks.insert(at.chunk + 1, upper);
        }
        None
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<Arc<Object>> {
        let at = self.search(key).ok()?;
        self.len -= 1;
        let chunk = &mut self.chunks[at.chunk];
        let removed = chunk.remove(at.offset);
        if chunk.is_empty() {
            self.chunks.remove(at.chunk);
        } else if chunk.len() < CHUNK_MAX / 8 {
            self.join(at.chunk);
        }
        Some(removed)
    }

    /// Moves a chunk that has become small into its neighbour, if there is room.
    fn join(&mut self, chunk: usize) {
        let left = if chunk + 1 < self.chunks.len() {
            chunk
        } else {
            chunk.saturating_sub(1)
        };
        let (Some(one), Some(other)) = (self.chunks.get(left), self.chunks.get(left + 1)) else {
            return;
        };
        if one.len() + other.len() <= CHUNK_MAX / 2 {
            let right = self.chunks.remove(left + 1);
            self.chunks[left].extend(right);
        }
    }

    /// The objects whose keys lie between the bounds, in order.
    pub(super) fn range<'a>(
        &'a self,
        start: Bound<&str>,
        end: Bound<&str>,
    ) -> impl Iterator<Item = &'a Arc<Object>> + use<'a> {
        let (from, to) = (self.after(start), self.before(end));
        let (first, last) = (from.chunk, to.chunk.min(self.chunks.len().saturating_sub(1)));
        let chunks = self.chunks.get(first..=last).unwrap_or_default();
        chunks.iter().enumerate().flat_map(move |(at, chunk)| {
            let objects = chunk.objects();
            let skip = if at == 0 { from.offset } else { 0 };
            let until = if first + at == to.chunk {
                to.offset
            } else {
                objects.len()
            };
            objects.get(skip..until).unwrap_or_default()
        })
    }

    /// How many objects lie between the bounds.
    pub(super) fn count(&self, start: Bound<&str>, end: Bound<&str>) -> usize {
        self.rank(self.before(end))
            .saturating_sub(self.rank(self.after(start)))
    }

    fn rank(&self, at: Position) -> usize {
        let before = self.chunks.iter().take(at.chunk).map(Chunk::len).sum::<usize>();
        before + at.offset
    }

    /// The place before the first object that is inside a lower bound.
    fn after(&self, bound: Bound<&str>) -> Position {
        match bound {
            Bound::Unbounded => Position { chunk: 0, offset: 0 },
            Bound::Included(key) => self.search(key).unwrap_or_else(|at| at),
            Bound::Excluded(key) => self.behind(key),
        }
    }

    /// The place after the last object that is inside an upper bound.
    fn before(&self, bound: Bound<&str>) -> Position {
        match bound {
            Bound::Unbounded => Position {
                chunk: self.chunks.len(),
                offset: 0,
            },
            Bound::Included(key) => self.behind(key),
            Bound::Excluded(key) => self.search(key).unwrap_or_else(|at| at),
        }
    }

    fn behind(&self, key: &str) -> Position {
        match self.search(key) {
            Ok(at) => Position {
                offset: at.offset + 1,
                ..at
            },
            Err(at) => at,
        }
    }

    /// Where the key is, or where it would have to be put.
    fn search(&self, key: &str) -> Result<Position, Position> {
        let after = self.chunks.partition_point(|chunk| chunk.first() <= key);
        let at = after.saturating_sub(1);
        let found = self.chunks.get(at).map_or(Err(0), |chunk| chunk.search(key));
        found
            .map(|offset| Position { chunk: at, offset })
            .map_err(|offset| Position { chunk: at, offset })
    }
}

impl FromIterator<Arc<Object>> for Objects {
    fn from_iter<I: IntoIterator<Item = Arc<Object>>>(objects: I) -> Self {
        let mut all = Objects::default();
        for object in objects {
            all.insert(object);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use api::registry::Registry;
    use rand::{RngExt, SeedableRng, rngs::StdRng};
    use serde_json::json;

    use super::*;

    const PREFIX: &str = "/registry/configmaps/";

    fn object(number: u32) -> Arc<Object> {
        let registry = Registry::builtin();
        let resource = registry.find("", "v1", "configmaps").unwrap();
        let key: Arc<str> = key(number).into();
        Arc::new(Object::new(resource, PREFIX, key, json!({"metadata": {}}), 1).unwrap())
    }

    /// In names that differ late and early, where one is a beginning of another, and in namespaces of few objects.
    fn key(number: u32) -> String {
        match number % 4 {
            0 => format!("{PREFIX}n/{number:05}"),
            1 => format!(
                "{PREFIX}n/{}",
                "long-name-".repeat(number as usize / 500) + &number.to_string()
            ),
            2 => format!(
                "{PREFIX}ns-{}/{}",
                number / 40,
                "a".repeat(number as usize % 40 + 1)
            ),
            _ => format!("{PREFIX}n-{number:x}/same"),
        }
    }

    /// Seeded changes, compared with a plain map at every step that may split, join or empty chunks.
    #[test]
    fn like_a_map() {
        let mut random = StdRng::seed_from_u64(7);
        let (mut objects, mut model) = (Objects::default(), BTreeMap::new());
        let all: Vec<_> = (0..3000).map(object).collect();
        for step in 0..12_000 {
            let number = random.random_range(0..3000_u32);
            let one = &all[number as usize];
            // It grows first, and shrinks then.
            if random.random_range(0..10) < if step < 6000 { 8 } else { 2 } {
                assert_eq!(
                    objects.insert(one.clone()).is_some(),
                    model.insert(one.key.clone(), number).is_some()
                );
            } else {
                assert_eq!(
                    objects.remove(&one.key).is_some(),
                    model.remove(&one.key).is_some()
                );
            }
            if step % 97 > 0 {
                continue;
            }
            assert_eq!(objects.len(), model.len());
            assert!(objects.iter().map(|object| &object.key).eq(model.keys()));
            assert!(
                objects
                    .chunks
                    .iter()
                    .all(|chunk| !chunk.is_empty() && chunk.len() <= CHUNK_MAX)
            );
            let (low, high) = (
                key(random.random_range(0..3000)),
                key(random.random_range(0..3000)),
            );
            let (low, high) = (low.clone().min(high.clone()), low.max(high) + "0");
            for start in [Bound::Included(&*low), Bound::Excluded(&*low), Bound::Unbounded] {
                for end in [Bound::Included(&*high), Bound::Excluded(&*high), Bound::Unbounded] {
                    let expect: Vec<_> = model.range::<str, _>((start, end)).map(|(key, _)| key).collect();
                    let seen: Vec<_> = objects.range(start, end).map(|object| &object.key).collect();
                    assert_eq!(seen, expect);
                    assert_eq!(objects.count(start, end), expect.len());
                }
            }
            assert_eq!(objects.get(&low).is_some(), model.contains_key(&*low));
        }
        assert!(objects.len() > 100);
    }

    #[test]
    fn in_order_leaves_full_chunks() {
        let mut all: Vec<_> = (0..2000).map(object).collect();
        all.sort_unstable_by_key(|object| object.key.clone());
        let objects: Objects = all.into_iter().collect();
        assert_eq!(objects.chunks.len(), 2000_usize.div_ceil(CHUNK_MAX));
    }
}

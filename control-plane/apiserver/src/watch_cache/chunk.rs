//! Some hundreds of objects in key order, among which a key is found without visiting many of them.
//!
//! Each object lies elsewhere in memory and its key elsewhere again: a binary search over keys waits for memory at every step
//! where there are many objects. So the eight bytes of each key that follow what all have in common stand side by side.

use std::sync::Arc;

use super::Object;

const MARK_BYTES: usize = 8;

/// Objects, at least one, by key.
#[derive(Debug)]
pub(super) struct Chunk {
    first: Arc<str>,
    /// How many bytes all keys begin with in common, or fewer.
    common: usize,
    /// The bytes of each key after those, as a number that sorts like them.
    marks: Vec<u64>,
    objects: Vec<Arc<Object>>,
}

impl Chunk {
    pub(super) fn new(object: Arc<Object>) -> Chunk {
        Chunk::of(vec![object])
    }

    /// Of objects in order, at least one.
    fn of(objects: Vec<Arc<Object>>) -> Chunk {
        let mut chunk = Chunk {
            first: objects[0].key.clone(),
            common: 0,
            marks: Vec::new(),
            objects,
        };
        chunk.mark_anew();
        chunk
    }

    pub(super) fn objects(&self) -> &[Arc<Object>] {
        &self.objects
    }

    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// The key of the first object.
    pub(super) fn first(&self) -> &str {
        &self.first
    }

    /// Where the key is, or where it would have to be put.
    pub(super) fn search(&self, key: &str) -> Result<usize, usize> {
        let (key, first) = (key.as_bytes(), self.first.as_bytes());
        let rest = match key.split_at_checked(self.common) {
            Some((common, rest)) if *common == first[..self.common] => rest,
            // It lies before or after all of them.
            _ if key < first => return Err(0),
            _ => return Err(self.len()),
        };
        let mark = mark(rest);
        let from = self.marks.partition_point(|other| *other < mark);
        let same = self.marks[from..].partition_point(|other| *other == mark);
        let found = self.objects[from..from + same].binary_search_by(|object| object.key.as_bytes().cmp(key));
        found.map(|at| from + at).map_err(|at| from + at)
    }

    /// Puts another object with the same key into the place of one.
    pub(super) fn replace(&mut self, at: usize, object: Arc<Object>) -> Arc<Object> {
        std::mem::replace(&mut self.objects[at], object)
    }

    pub(super) fn insert(&mut self, at: usize, object: Arc<Object>) {
        // Between two others it has in common with them what they have.
        let outside = at == 0 || at == self.len();
        let shares = common(&self.first, &object.key) >= self.common;
        self.marks.insert(
            at,
            mark(object.key.as_bytes().get(self.common..).unwrap_or_default()),
        );
        self.objects.insert(at, object);
        if at == 0 {
            self.first = self.objects[0].key.clone();
        }
        if outside && !shares {
            self.mark_anew();
        }
    }

    /// Only a chunk that goes may be left without objects.
    pub(super) fn remove(&mut self, at: usize) -> Arc<Object> {
        self.marks.remove(at);
        let removed = self.objects.remove(at);
        if let (0, Some(first)) = (at, self.objects.first()) {
            self.first = first.key.clone();
        }
        removed
    }

    /// Takes away all objects from a place on, which is neither the first nor the end.
    pub(super) fn split_off(&mut self, at: usize) -> Chunk {
        let upper = Chunk::of(self.objects.split_off(at));
        self.mark_anew();
        upper
    }

    /// Adds the objects of the next chunk.
    pub(super) fn extend(&mut self, next: Chunk) {
        self.objects.extend(next.objects);
        self.mark_anew();
    }

    fn mark_anew(&mut self) {
        let last = self.objects.last().map_or(&*self.first, |last| &*last.key);
        self.common = if self.objects.len() > 1 {
            common(&self.first, last)
        } else {
            // Nothing tells yet where the next one will differ: most likely not before the name.
            self.first.rfind('/').unwrap_or(0)
        };
        self.marks.clear();
        let marks = self
            .objects
            .iter()
            .map(|object| mark(&object.key.as_bytes()[self.common..]));
        self.marks.extend(marks);
    }
}

/// How many bytes two keys begin with in common.
fn common(one: &str, other: &str) -> usize {
    one.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count()
}

/// The first bytes as a number. Where one is a beginning of the other they may be equal, never in the wrong order.
fn mark(bytes: &[u8]) -> u64 {
    let mut first = [0; MARK_BYTES];
    let length = bytes.len().min(MARK_BYTES);
    first[..length].copy_from_slice(&bytes[..length]);
    u64::from_be_bytes(first)
}

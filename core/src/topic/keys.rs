//! A table of keys that are found by hash. Each look-up, whatever it finds, reads one line of the processor's cache:
//! when there are a million keys it is out of the cache, and that is what a look-up costs. (`hashbrown` reads two.)

use crate::topic::slab::Key;
use alloc::vec;
use alloc::vec::Vec;

/// Keys, found by hash. What they are of is the caller's business: it compares, and hashes again when the table grows.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// As many as a power of two, or none.
    lines: Vec<Line>,
    len: usize,
}

/// Some keys with the same lower bits of their hashes, and such as found no place in the lines before.
#[derive(Debug, Clone, Default)]
#[repr(align(64))]
struct Line {
    /// Of each key that is here the highest bits of its hash and a bit that says so; 0: the place is free.
    tags: [u8; PLACES],
    /// How many keys would have been here, but are in a line behind it.
    passed: u32,
    keys: [Option<Key>; PLACES],
}

const PLACES: usize = 12;
const _: () = assert!(size_of::<Line>() == 64);

impl Line {
    #[inline]
    fn find(&self, tag: u8, mut is_it: impl FnMut(Key) -> bool) -> Option<Key> {
        let mut places = self.places(tag);
        while places != 0 {
            if let Some(Some(key)) = self.keys.get(places.trailing_zeros() as usize / 8)
                && is_it(*key)
            {
                return Some(*key);
            }
            places &= places - 1;
        }
        None
    }

    /// The places with this tag: each is the bit 7 of its byte. All tags are compared at once; behind one that is right
    /// may be some that are not.
    #[inline]
    fn places(&self, tag: u8) -> u128 {
        const ONES: u128 = u128::MAX / 0xFF;
        let mut tags = [0; 16];
        tags[..PLACES].copy_from_slice(&self.tags);
        let differences = u128::from_le_bytes(tags) ^ (ONES * u128::from(tag));
        differences.wrapping_sub(ONES) & !differences & ONES << 7
    }
}

impl Keys {
    pub(super) const fn new() -> Self {
        Self { lines: Vec::new(), len: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All keys, in an order that depends on their history.
    pub(super) fn iter(&self) -> impl Iterator<Item = Key> {
        self.lines.iter().flat_map(|line| line.keys).flatten()
    }

    /// The key with this hash that `is_it`.
    #[inline]
    pub(super) fn find(&self, hash: u64, mut is_it: impl FnMut(Key) -> bool) -> Option<Key> {
        let tag = tag(hash);
        let mut at = self.home(hash);
        let line = self.lines.get(at)?;
        let found = line.find(tag, &mut is_it);
        if found.is_some() || line.passed == 0 {
            return found;
        }
        for _ in 1..self.lines.len() {
            at = self.next(at);
            let line = self.lines.get(at)?;
            let found = line.find(tag, &mut is_it);
            if found.is_some() || line.passed == 0 {
                return found;
            }
        }
        None
    }

    /// Adds a key that is not there. `rehash` tells the hash of any other.
    pub(super) fn insert(&mut self, hash: u64, key: Key, rehash: impl Fn(Key) -> u64) {
        if self.len >= self.lines.len() * FULL {
            self.resize((self.lines.len() * 2).max(1), rehash);
        }
        self.place(hash, key);
        self.len += 1;
    }

    /// Takes a key out. Returns whether it was there.
    pub(super) fn remove(&mut self, hash: u64, key: Key, rehash: impl Fn(Key) -> u64) -> bool {
        let mut at = self.home(hash);
        for passed in 0..self.lines.len() {
            let line = &mut self.lines[at];
            if let Some(place) = line.keys.iter().position(|other| *other == Some(key)) {
                (line.tags[place], line.keys[place]) = (0, None);
                self.len -= 1;
                let mut before = self.home(hash);
                for _ in 0..passed {
                    self.lines[before].passed -= 1;
                    before = self.next(before);
                }
                // Long before it is full again: a removal stays O(1) on average.
                if self.len < self.lines.len() * FULL / 8 {
                    self.resize(self.lines.len() / 2, rehash);
                }
                return true;
            }
            if line.passed == 0 {
                return false;
            }
            at = self.next(at);
        }
        false
    }

    fn place(&mut self, hash: u64, key: Key) {
        let mut at = self.home(hash);
        // There is room: it is never full.
        while let Some(line) = self.lines.get_mut(at) {
            if let Some(place) = line.tags.iter().position(|tag| *tag == 0) {
                (line.tags[place], line.keys[place]) = (tag(hash), Some(key));
                return;
            }
            line.passed += 1;
            at = self.next(at);
        }
    }

    fn resize(&mut self, lines: usize, rehash: impl Fn(Key) -> u64) {
        let old = core::mem::replace(&mut self.lines, vec![Line::default(); lines]);
        for key in old.iter().flat_map(|line| line.keys).flatten() {
            self.place(rehash(key), key);
        }
    }

    #[inline]
    fn home(&self, hash: u64) -> usize {
        hash as usize & self.lines.len().wrapping_sub(1)
    }

    fn next(&self, at: usize) -> usize {
        (at + 1) & (self.lines.len() - 1)
    }
}

#[inline]
fn tag(hash: u64) -> u8 {
    (hash >> 57) as u8 | 0x80
}

/// Keys per line, on average, from which on the table grows: then three of a hundred are not in their lines.
const FULL: usize = 9;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Seed;
    use crate::topic::slab::Slab;
    use core::hash::BuildHasher;
    use proptest::prelude::*;

    fn keys(count: usize) -> Vec<Key> {
        let mut slab = Slab::new();
        (0..count).map(|_| slab.insert(())).collect()
    }

    proptest! {
        #[test]
        fn what_was_inserted_is_found_until_it_is_removed(
            ops in prop::collection::vec((0usize..200, any::<bool>()), 0..600),
            // Few different hashes, so that lines overflow.
            bits in 0u32..9,
        ) {
            let hasher = Seed(3).hasher(0);
            let hash = |key: Key| hasher.hash_one(key) & ((1 << bits) - 1);
            let (all, mut table, mut there) = (keys(200), Keys::new(), [false; 200]);
            for (n, insert) in ops {
                let key = all[n];
                match (insert, there[n]) {
                    (true, false) => table.insert(hash(key), key, hash),
                    (true, true) => continue,
                    (false, known) => prop_assert_eq!(table.remove(hash(key), key, hash), known),
                }
                there[n] = insert;
                for (n, key) in all.iter().enumerate() {
                    prop_assert_eq!(table.find(hash(*key), |other| other == *key).is_some(), there[n]);
                }
                prop_assert_eq!(table.is_empty(), !there.contains(&true));
            }
        }
    }

    #[test]
    fn nearly_every_key_is_in_its_line_and_memory_returns() {
        let hasher = Seed(3).hasher(0);
        let hash = |key: Key| hasher.hash_one(key);
        let (all, mut table) = (keys(9 << 10), Keys::new());
        all.iter().for_each(|key| table.insert(hash(*key), *key, hash));
        assert_eq!(table.lines.len(), 1 << 10, "as full as can be");
        let passed: u32 = table.lines.iter().map(|line| line.passed).sum();
        assert!(passed < 9 << 10 >> 3, "{passed}");
        all[1..].iter().for_each(|key| assert!(table.remove(hash(*key), *key, hash)));
        assert!(table.lines.len() <= 2);
        assert!(table.remove(hash(all[0]), all[0], hash));
        assert_eq!((table.lines.len(), table.len), (0, 0));
    }
}

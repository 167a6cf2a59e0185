//! Changes that are made together.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Bound;

/// Changes of entries, to be made in one step. What is put and removed again before it is committed never reaches the disk.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Key ranges that are emptied before anything else happens.
    cleared: Vec<(Vec<u8>, Vec<u8>)>,
    changes: BTreeMap<Vec<u8>, Pending>,
    bytes: usize,
}

#[derive(Debug, Clone)]
struct Pending {
    value: Option<Vec<u8>>,
    /// The store surely has no such entry.
    fresh: bool,
}

/// One step of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    /// Remove every entry whose key is in `from..to`.
    Clear {
        /// The first key.
        from: &'a [u8],
        /// Behind the last one.
        to: &'a [u8],
    },
    /// The entry is there, with this value, whatever was there before.
    Put {
        /// Its key.
        key: &'a [u8],
        /// Its value.
        value: &'a [u8],
    },
    /// There is no such entry. There may have been none before.
    Remove {
        /// Its key.
        key: &'a [u8],
    },
}

impl Batch {
    /// The entry is to have this value.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.set(key, Some(value), false);
    }

    /// The same for an entry that the store surely does not have: when it is removed from this batch, nothing is left.
    pub fn put_new(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.set(key, Some(value), true);
    }

    /// The entry is to be gone.
    pub fn remove(&mut self, key: Vec<u8>) {
        match self.changes.get(&key) {
            Some(pending) if pending.fresh => self.forget(&key),
            _ => self.set(key, None, false),
        }
    }

    /// All entries from `from` to before `to` are to be gone; what is put afterwards stays.
    pub fn clear(&mut self, from: Vec<u8>, to: Vec<u8>) {
        if from >= to {
            return;
        }
        let range = (Bound::Included(&from), Bound::Excluded(&to));
        let inside: Vec<Vec<u8>> =
            self.changes.range::<Vec<u8>, _>(range).map(|(key, _)| key.clone()).collect();
        inside.iter().for_each(|key| self.forget(key));
        self.bytes += from.len() + to.len();
        self.cleared.push((from, to));
    }

    /// The changes, in an order in which they can be made: ranges first, then the entries by their keys.
    pub fn changes(&self) -> impl Iterator<Item = Change<'_>> {
        let cleared = self.cleared.iter().map(|(from, to)| Change::Clear { from, to });
        cleared.chain(self.changes.iter().map(|(key, pending)| match &pending.value {
            Some(value) => Change::Put { key, value },
            None => Change::Remove { key },
        }))
    }

    /// Nothing is to be changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cleared.is_empty() && self.changes.is_empty()
    }

    /// The bytes of all keys and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Forgets all changes.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    fn set(&mut self, key: Vec<u8>, value: Option<Vec<u8>>, fresh: bool) {
        let size = key.len() + value.as_ref().map_or(0, Vec::len);
        // What was new stays new.
        let fresh = fresh || self.changes.get(&key).is_some_and(|pending| pending.fresh);
        self.forget(&key);
        self.bytes += size;
        self.changes.insert(key, Pending { value, fresh });
    }

    fn forget(&mut self, key: &[u8]) {
        if let Some(pending) = self.changes.remove(key) {
            self.bytes -= key.len() + pending.value.map_or(0, |value| value.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn key(key: &str) -> Vec<u8> {
        key.as_bytes().to_vec()
    }

    #[test]
    fn what_is_put_as_new_and_removed_leaves_nothing() {
        let mut batch = Batch::default();
        batch.put_new(key("a"), key("1"));
        batch.put(key("a"), key("22"));
        assert_eq!(batch.bytes(), 3);
        batch.remove(key("a"));
        assert!(batch.is_empty());
        assert_eq!(batch.bytes(), 0);
    }

    #[test]
    fn what_may_be_in_the_store_is_removed_there() {
        let mut batch = Batch::default();
        batch.put(key("a"), key("1"));
        batch.remove(key("a"));
        assert_eq!(batch.changes().collect::<Vec<_>>(), vec![Change::Remove { key: b"a" }]);
    }

    #[test]
    fn a_cleared_range_takes_what_was_put_before_and_not_what_comes_after() {
        let mut batch = Batch::default();
        ["a", "b", "c"].iter().for_each(|name| batch.put(key(name), key("1")));
        batch.clear(key("a"), key("c"));
        batch.put(key("b"), key("2"));
        let clear = Change::Clear { from: b"a", to: b"c" };
        let (two, three) = (Change::Put { key: b"b", value: b"2" }, Change::Put { key: b"c", value: b"1" });
        assert_eq!(batch.changes().collect::<Vec<_>>(), vec![clear, two, three]);
        assert_eq!(batch.bytes(), 6);
    }
}

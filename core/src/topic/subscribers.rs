//! A set of small values, found by key: the subscribers of a filter, the filters of a session. Mostly it has one
//! value or a few, sometimes a hundred thousand, and a publish walks it from end to end.

use crate::hash::HashState;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::hash::{BuildHasher, Hash};
use core::mem;
use hashbrown::HashTable;

/// A value that carries its key.
pub(super) trait Keyed: Copy {
    /// What tells two values of a list apart.
    type Key: Copy + Eq + Hash;
    /// The key of this value.
    fn key(&self) -> Self::Key;
}

/// An unordered list with at most one value per key. Insert, replace and remove are O(1): a short list is searched,
/// a long one has an index beside it. One value needs no memory of its own.
#[derive(Debug)]
pub(super) enum List<T> {
    /// One value, in place.
    One(T),
    /// Empty, or two to [`SHORT_MAX`].
    Short(Vec<T>),
    /// More, with an index.
    Long(Box<Long<T>>),
}

/// Above this length searching the values costs more than hashing the key.
const SHORT_MAX: usize = 32;

impl<T: Keyed> List<T> {
    /// An empty list.
    pub(super) const fn new() -> Self {
        Self::Short(Vec::new())
    }

    #[inline]
    pub(super) fn as_slice(&self) -> &[T] {
        match self {
            Self::One(value) => core::slice::from_ref(value),
            Self::Short(values) => values,
            Self::Long(long) => &long.values,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.as_slice().len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }

    pub(super) fn get(&self, key: T::Key, hasher: &HashState) -> Option<&T> {
        self.position(key, hasher).map(|at| &self.as_slice()[at])
    }

    /// Adds a value, or replaces the one that has its key and returns that.
    pub(super) fn insert(&mut self, value: T, hasher: &HashState) -> Option<T> {
        if let Some(at) = self.position(value.key(), hasher) {
            return Some(mem::replace(&mut self.as_mut_slice()[at], value));
        }
        match self {
            Self::One(first) => {
                let mut values = Vec::with_capacity(2);
                values.extend([*first, value]);
                *self = Self::Short(values);
            }
            Self::Short(values) if values.is_empty() => *self = Self::One(value),
            Self::Short(values) => {
                values.push(value);
                if values.len() > SHORT_MAX {
                    *self = Self::Long(Box::new(Long::new(mem::take(values), hasher)));
                }
            }
            Self::Long(long) => long.push(value, hasher),
        }
        None
    }

    /// Takes a value out; the last one takes its place.
    pub(super) fn remove(&mut self, key: T::Key, hasher: &HashState) -> Option<T> {
        let at = self.position(key, hasher)?;
        let removed = match self {
            Self::One(value) => {
                let value = *value;
                *self = Self::new();
                value
            }
            Self::Short(values) => {
                let value = values.swap_remove(at);
                if let [last] = values[..] {
                    *self = Self::One(last);
                } else {
                    give_back(values);
                }
                value
            }
            Self::Long(long) => {
                let value = long.swap_remove(at, hasher);
                // Half the length at which the index was made: a list that breathes does not rebuild it all the time.
                if long.values.len() <= SHORT_MAX / 2 {
                    *self = Self::Short(mem::take(&mut long.values));
                }
                value
            }
        };
        Some(removed)
    }

    fn as_mut_slice(&mut self) -> &mut [T] {
        match self {
            Self::One(value) => core::slice::from_mut(value),
            Self::Short(values) => values,
            Self::Long(long) => &mut long.values,
        }
    }

    fn position(&self, key: T::Key, hasher: &HashState) -> Option<usize> {
        match self {
            Self::Long(long) => long.position(key, hasher),
            _ => self.as_slice().iter().position(|value| value.key() == key),
        }
    }
}

/// Values and the index that finds their positions.
#[derive(Debug)]
pub(super) struct Long<T> {
    values: Vec<T>,
    positions: HashTable<u32>,
}

impl<T: Keyed> Long<T> {
    fn new(values: Vec<T>, hasher: &HashState) -> Self {
        let mut positions = HashTable::with_capacity(values.len());
        for (at, value) in values.iter().enumerate() {
            let rehash = |&at: &u32| hasher.hash_one(values[at as usize].key());
            positions.insert_unique(hasher.hash_one(value.key()), at as u32, rehash);
        }
        Self { values, positions }
    }

    fn position(&self, key: T::Key, hasher: &HashState) -> Option<usize> {
        let at = self.positions.find(hasher.hash_one(key), |&at| self.values[at as usize].key() == key)?;
        Some(*at as usize)
    }

    fn push(&mut self, value: T, hasher: &HashState) {
        let Self { values, positions } = self;
        values.push(value);
        let rehash = |&at: &u32| hasher.hash_one(values[at as usize].key());
        positions.insert_unique(hasher.hash_one(value.key()), values.len() as u32 - 1, rehash);
    }

    fn swap_remove(&mut self, at: usize, hasher: &HashState) -> T {
        let Self { values, positions } = self;
        let last = values.len() - 1;
        if let Ok(entry) = positions.find_entry(hasher.hash_one(values[at].key()), |&p| p as usize == at) {
            entry.remove();
        }
        let moved = positions.find_mut(hasher.hash_one(values[last].key()), |&p| p as usize == last);
        if let Some(position) = moved {
            *position = at as u32;
        }
        let value = values.swap_remove(at);
        give_back(values);
        shrink(positions, |&at| hasher.hash_one(values[at as usize].key()));
        value
    }
}

/// Returns memory to the allocator when three quarters of it are unused, so that a removal stays O(1) on average.
fn give_back<T>(values: &mut Vec<T>) {
    if values.len() < values.capacity() / 4 {
        values.shrink_to(values.len() * 2);
    }
}

/// The same for a table.
pub(super) fn shrink<T>(table: &mut HashTable<T>, rehash: impl Fn(&T) -> u64) {
    if table.len() < table.capacity() / 4 {
        table.shrink_to(table.len() * 2, rehash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Seed;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Debug, Clone, Copy, PartialEq)]
    struct Pair(u16, u32);

    impl Keyed for Pair {
        type Key = u16;
        fn key(&self) -> u16 {
            self.0
        }
    }

    proptest! {
        #[test]
        fn a_list_is_a_map(ops in prop::collection::vec((0u16..80, any::<u32>(), 0u8..5), 0..500)) {
            let hasher = Seed(7).hasher(0);
            let mut list = List::new();
            let mut model = BTreeMap::new();
            // A tide: first mostly insertions, then mostly removals, so that every shape is taken on and left again.
            let turn = ops.len() / 2;
            for (n, (key, value, kind)) in ops.into_iter().enumerate() {
                if (kind > 0) == (n < turn) {
                    let old = list.insert(Pair(key, value), &hasher).map(|pair| pair.1);
                    prop_assert_eq!(old, model.insert(key, value));
                } else {
                    let old = list.remove(key, &hasher).map(|pair| pair.1);
                    prop_assert_eq!(old, model.remove(&key));
                }
                prop_assert_eq!(list.get(key, &hasher).map(|pair| pair.1), model.get(&key).copied());
                prop_assert_eq!(list.len(), model.len());
                prop_assert_eq!(list.is_empty(), model.is_empty());
                let mut all: Vec<_> = list.as_slice().iter().map(|pair| (pair.0, pair.1)).collect();
                all.sort_unstable();
                prop_assert!(all.into_iter().eq(model.iter().map(|(k, v)| (*k, *v))));
            }
        }
    }

    #[test]
    fn a_list_of_one_is_no_bigger_than_a_vec() {
        assert_eq!(size_of::<List<crate::topic::Subscription>>(), size_of::<Vec<u8>>());
    }

    #[test]
    fn a_long_list_gives_its_memory_back() {
        let hasher = Seed(7).hasher(0);
        let mut list = List::new();
        for key in 0..10_000 {
            list.insert(Pair(key, 0), &hasher);
        }
        for key in 100..10_000 {
            list.remove(key, &hasher);
        }
        let List::Long(long) = &list else { panic!("100 values are a long list") };
        assert!(long.values.capacity() <= 400 && long.positions.capacity() <= 1_000);
        for key in 1..100 {
            list.remove(key, &hasher);
        }
        assert!(matches!(list, List::One(Pair(0, 0))));
    }
}

//! Values at places that do not move, named by a key of four bytes.

use alloc::vec::Vec;
use core::fmt;
use core::num::NonZeroU32;

/// A place of a [`Slab`]. `Option<Key>` has four bytes too. No generation: whoever keeps a key knows that it is in
/// use.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key(NonZeroU32);

impl Key {
    fn new(index: usize) -> Self {
        Self(NonZeroU32::MIN.saturating_add(index as u32))
    }

    /// What to hash.
    pub(super) fn number(self) -> u32 {
        self.0.get()
    }

    fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.index())
    }
}

/// Owns values and reuses their places. Gives memory back as far as the places at its end are free.
#[derive(Debug)]
pub(super) struct Slab<T> {
    entries: Vec<Option<T>>,
    /// Places to reuse. Some may have been cut off since: all of these are discarded before the slab grows again, so
    /// no place is ever in here twice.
    free: Vec<Key>,
    len: usize,
}

impl<T> Slab<T> {
    pub(super) const fn new() -> Self {
        Self { entries: Vec::new(), free: Vec::new(), len: 0 }
    }

    /// Whether no value is stored.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many values are stored.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn insert(&mut self, value: T) -> Key {
        self.len += 1;
        while let Some(key) = self.free.pop() {
            if let Some(entry) = self.entries.get_mut(key.index()) {
                debug_assert!(entry.is_none(), "a free place is in use");
                *entry = Some(value);
                return key;
            }
        }
        if self.entries.len() == self.entries.capacity() {
            // A quarter instead of the double: a big table that is half empty would be a third of the whole index.
            self.entries.reserve_exact(self.entries.len() / 4 + 4);
        }
        self.entries.push(Some(value));
        Key::new(self.entries.len() - 1)
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        let value = self.entries.get_mut(key.index())?.take()?;
        self.len -= 1;
        self.free.push(key);
        while self.entries.pop_if(|entry| entry.is_none()).is_some() {}
        if self.entries.is_empty() {
            *self = Self::new();
        } else if self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to(self.entries.len() * 2);
            self.free.retain(|key| key.index() < self.entries.len());
            self.free.shrink_to_fit();
        }
        Some(value)
    }

    #[inline]
    pub(super) fn get(&self, key: Key) -> Option<&T> {
        let value = self.entries.get(key.index()).and_then(Option::as_ref);
        debug_assert!(value.is_some(), "{key:?} is not in use");
        value
    }

    #[inline]
    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let value = self.entries.get_mut(key.index()).and_then(Option::as_mut);
        debug_assert!(value.is_some(), "{key:?} is not in use");
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn places_in_use_keep_their_value_and_the_rest_is_reused(ops in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut slab = Slab::new();
            let mut model: Vec<(Key, u32)> = Vec::new();
            for (n, op) in ops.into_iter().enumerate() {
                if op < 120 || model.is_empty() {
                    let key = slab.insert(n as u32);
                    prop_assert!(model.iter().all(|(other, _)| *other != key));
                    model.push((key, n as u32));
                } else {
                    let (key, value) = model.swap_remove(op as usize % model.len());
                    prop_assert_eq!(slab.remove(key), Some(value));
                }
                prop_assert_eq!(slab.len(), model.len());
                prop_assert_eq!(slab.is_empty(), model.is_empty());
                prop_assert!(model.iter().all(|(key, value)| slab.get(*key) == Some(value)));
            }
        }
    }

    #[test]
    fn memory_returns_when_values_go() {
        let mut slab = Slab::new();
        let keys: Vec<_> = (0..10_000).map(|n| slab.insert(n)).collect();
        for key in &keys[1..] {
            slab.remove(*key);
        }
        assert!(slab.entries.capacity() < 16 && slab.free.capacity() < 16);
        slab.remove(keys[0]);
        assert_eq!((slab.entries.capacity(), slab.free.capacity()), (0, 0));
    }

    #[test]
    fn it_grows_by_a_quarter_and_gives_back_what_is_three_quarters_empty_in_few_steps() {
        let mut slab = Slab::new();
        let (mut steps, mut capacity) = (0, 0);
        let mut looks = |slab: &Slab<u32>| {
            let now = slab.entries.capacity();
            steps += u32::from(std::mem::replace(&mut capacity, now) != now);
            (now, steps)
        };
        let keys: Vec<_> = (0..1_000_u32)
            .map(|n| {
                let key = slab.insert(n);
                let (capacity, _) = looks(&slab);
                assert!(capacity <= slab.len() * 5 / 4 + 4, "{capacity} places for {}", slab.len());
                key
            })
            .collect();
        let (_, steps_up) = looks(&slab);
        assert!((10..40).contains(&steps_up), "grown {steps_up} times");
        for key in keys.iter().rev() {
            slab.remove(*key);
            let (capacity, _) = looks(&slab);
            assert!(capacity <= slab.len() * 4 + 3, "{capacity} places for {}", slab.len());
            assert!(slab.free.len() <= 1_000 - slab.len() && slab.free.iter().all(|key| key.index() < 1_000));
        }
        let (_, steps) = looks(&slab);
        assert!((3..15).contains(&(steps - steps_up)), "given back {} times", steps - steps_up);
    }

    #[test]
    fn places_that_are_free_are_used_again_after_memory_was_given_back() {
        let mut slab = Slab::new();
        let keys: Vec<_> = (0..1_000_u32).map(|n| slab.insert(n)).collect();
        for (n, key) in keys.iter().enumerate().filter(|(n, _)| (20..1_000).contains(n) && *n != 150) {
            assert_eq!(slab.remove(*key), Some(n as u32));
        }
        assert_eq!((slab.len(), slab.entries.len()), (21, 151));
        for n in 0..100 {
            slab.insert(n);
        }
        assert_eq!(slab.entries.len(), 151, "there was room");
    }

    #[test]
    fn places_that_were_cut_off_are_not_remembered_for_long() {
        let mut slab = Slab::new();
        let keys: Vec<_> = (0..1_000_u32).map(|n| slab.insert(n)).collect();
        for key in &keys[100..] {
            slab.remove(*key);
        }
        // Shrunk when fewer than a quarter were left.
        assert!(
            slab.free.len() <= slab.entries.capacity(),
            "{} for {}",
            slab.free.len(),
            slab.entries.capacity()
        );
    }
}

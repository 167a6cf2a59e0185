//! Ids with a generation, the registry that hands them out, and tables keyed by them. A stale id finds nothing.

use crate::broker::Owner;
use crate::saved::{Malformed, Reader, Saved, Writer, saved};
use alloc::vec::Vec;
use core::fmt;
use core::marker::PhantomData;
use core::num::NonZeroU32;

/// A key of [`Slots`] and [`Table`].
pub trait Id: Copy + Eq + fmt::Debug {
    /// Makes the id; only [`Slots`] should.
    fn new(index: u32, generation: u32) -> Self;
    /// The place, reused after the generation ended.
    fn index(self) -> u32;
    /// Which use of the place.
    fn generation(self) -> u32;
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            /// One more than the index: so there is room for `None`.
            place: NonZeroU32,
            generation: u32,
        }

        impl Id for $name {
            #[inline]
            fn new(index: u32, generation: u32) -> Self {
                Self { place: NonZeroU32::MIN.saturating_add(index), generation }
            }
            #[inline]
            fn index(self) -> u32 {
                self.place.get() - 1
            }
            #[inline]
            fn generation(self) -> u32 {
                self.generation
            }
        }

        saved! { struct $name { place, generation } }

        const _: () = assert!(size_of::<Option<$name>>() == 8);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({}.{})", stringify!($name), self.index(), self.generation)
            }
        }
    };
}

id! {
    /// One network connection, from `accept` to `disconnected`.
    ConnectionId
}
id! {
    /// One session: what MQTT keeps per Client Identifier. Also the identity of a subscription of the program.
    SessionId
}
id! {
    /// A question the machine asked the outside; answered by `complete`, or withdrawn by `Forget`.
    Ticket
}

/// A shard: one machine on one core. A single machine is shard 0.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

/// A position in the log of stored records. The first record has position 1.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogSeq(pub u64);

/// Owns values and hands out the ids of their places.
#[derive(Debug)]
pub struct Slots<K, T> {
    entries: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
    key: PhantomData<K>,
}

impl<K: Id, T> Default for Slots<K, T> {
    fn default() -> Self {
        Self { entries: Vec::new(), free: Vec::new(), key: PhantomData }
    }
}

impl<K: Id, T> Slots<K, T> {
    /// Stores a value under a new id.
    pub fn insert(&mut self, value: T) -> K {
        self.insert_with(|_| value)
    }

    /// Stores a value that knows its id.
    pub fn insert_with(&mut self, make: impl FnOnce(K) -> T) -> K {
        if let Some(index) = self.free.pop() {
            let entry = &mut self.entries[index as usize];
            let id = K::new(index, entry.0);
            entry.1 = Some(make(id));
            return id;
        }
        let id = K::new(self.entries.len() as u32, 0);
        self.entries.push((0, Some(make(id))));
        id
    }

    /// Takes the value out; the id is stale from now on.
    pub fn remove(&mut self, id: K) -> Option<T> {
        let entry = self.entries.get_mut(id.index() as usize)?;
        if entry.0 != id.generation() {
            return None;
        }
        let value = entry.1.take()?;
        entry.0 = entry.0.wrapping_add(1);
        self.free.push(id.index());
        Some(value)
    }

    /// The value of an id that is not stale.
    #[inline]
    #[must_use]
    pub fn get(&self, id: K) -> Option<&T> {
        match self.entries.get(id.index() as usize) {
            Some((generation, Some(value))) if *generation == id.generation() => Some(value),
            _ => None,
        }
    }

    /// The value of an id that is not stale, to change.
    #[inline]
    pub fn get_mut(&mut self, id: K) -> Option<&mut T> {
        match self.entries.get_mut(id.index() as usize) {
            Some((generation, Some(value))) if *generation == id.generation() => Some(value),
            _ => None,
        }
    }

    /// How many values there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Whether there is no value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All ids in the order of their places.
    pub fn ids(&self) -> impl Iterator<Item = K> + '_ {
        self.iter().map(|(id, _)| id)
    }

    /// All values in the order of their places.
    pub fn iter(&self) -> impl Iterator<Item = (K, &T)> + '_ {
        self.entries
            .iter()
            .enumerate()
            .filter_map(|(i, (generation, value))| Some((K::new(i as u32, *generation), value.as_ref()?)))
    }
}

/// A middleware's own values beside somebody else's [`Slots`].
#[derive(Debug)]
pub struct Table<K, T> {
    entries: Vec<(u32, Option<T>)>,
    key: PhantomData<K>,
}

impl<K: Id, T> Default for Table<K, T> {
    fn default() -> Self {
        Self { entries: Vec::new(), key: PhantomData }
    }
}

impl<K: Id, T> Table<K, T> {
    /// Sets the value of an id, replacing what an older id left at its place.
    pub fn insert(&mut self, id: K, value: T) -> Option<T> {
        let index = id.index() as usize;
        self.reach(index);
        let entry = &mut self.entries[index];
        let old = entry.1.replace(value);
        let same = entry.0 == id.generation();
        entry.0 = id.generation();
        if same { old } else { None }
    }

    /// Takes out what an older id left at the place of an id.
    pub fn take_older(&mut self, id: K) -> Option<(K, T)> {
        let entry = self.entries.get_mut(id.index() as usize)?;
        if entry.0 == id.generation() {
            return None;
        }
        let older = K::new(id.index(), entry.0);
        entry.1.take().map(|value| (older, value))
    }

    #[inline]
    fn reach(&mut self, index: usize) {
        if index >= self.entries.len() {
            self.grow(index + 1);
        }
    }

    #[cold]
    fn grow(&mut self, length: usize) {
        self.entries.resize_with(length, || (0, None));
    }

    /// The value, made first if there is none.
    #[inline]
    pub fn get_or_insert_with(&mut self, id: K, make: impl FnOnce() -> T) -> &mut T {
        let index = id.index() as usize;
        self.reach(index);
        let entry = &mut self.entries[index];
        if entry.0 != id.generation() {
            *entry = (id.generation(), None);
        }
        entry.1.get_or_insert_with(make)
    }

    /// Takes the value out.
    pub fn remove(&mut self, id: K) -> Option<T> {
        let entry = self.entries.get_mut(id.index() as usize)?;
        if entry.0 == id.generation() { entry.1.take() } else { None }
    }

    /// The id whose value is at a place.
    #[must_use]
    pub fn id_at(&self, index: u32) -> Option<K> {
        let (generation, value) = self.entries.get(index as usize)?;
        value.as_ref().map(|_| K::new(index, *generation))
    }

    /// All values in the order of their places, those of ids that are stale by now too.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().filter_map(|(_, value)| value.as_ref())
    }

    /// The value of an id.
    #[inline]
    #[must_use]
    pub fn get(&self, id: K) -> Option<&T> {
        match self.entries.get(id.index() as usize) {
            Some((generation, Some(value))) if *generation == id.generation() => Some(value),
            _ => None,
        }
    }

    /// The value of an id, to change.
    #[inline]
    pub fn get_mut(&mut self, id: K) -> Option<&mut T> {
        match self.entries.get_mut(id.index() as usize) {
            Some((generation, Some(value))) if *generation == id.generation() => Some(value),
            _ => None,
        }
    }
}

impl From<ConnectionId> for Owner {
    fn from(id: ConnectionId) -> Self {
        Self::Connection(id)
    }
}

impl From<SessionId> for Owner {
    fn from(id: SessionId) -> Self {
        Self::Session(id)
    }
}

impl From<Ticket> for Owner {
    fn from(id: Ticket) -> Self {
        Self::Ticket(id)
    }
}

/// Reads the places of [`Slots`] and [`Table`]: a value knows whose it is.
fn load_entries<K: Id + Into<Owner>, T: Saved>(
    from: &mut Reader<'_>,
) -> Result<Vec<(u32, Option<T>)>, Malformed> {
    let mut entries = Vec::new();
    for index in 0..from.count()? {
        let generation = u32::load(from)?;
        from.owner = Some(K::new(index as u32, generation).into());
        entries.push((generation, Option::load(from)?));
    }
    from.owner = None;
    Ok(entries)
}

impl<K: Id + Into<Owner>, T: Saved> Saved for Slots<K, T> {
    fn save(&self, to: &mut Writer<'_>) {
        let Self { entries, free, key: _ } = self;
        entries.save(to);
        free.save(to);
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let entries = load_entries::<K, T>(from)?;
        let free = load_free(from, entries.iter().map(|(_, value)| value.is_none()))?;
        Ok(Self { entries, free, key: PhantomData })
    }
}

/// Reads the list of free places: each of them once, in the order in which they will be used.
pub(crate) fn load_free(
    from: &mut Reader<'_>,
    places: impl Iterator<Item = bool>,
) -> Result<Vec<u32>, Malformed> {
    let mut unlisted: Vec<bool> = places.collect();
    let free = Vec::<u32>::load(from)?;
    for &index in &free {
        let listed = unlisted.get_mut(index as usize).is_some_and(core::mem::take);
        from.ensure(listed)?;
    }
    from.ensure(!unlisted.contains(&true))?;
    Ok(free)
}

impl<K: Id + Into<Owner>, T: Saved> Saved for Table<K, T> {
    fn save(&self, to: &mut Writer<'_>) {
        let Self { entries, key: _ } = self;
        entries.save(to);
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self { entries: load_entries::<K, T>(from)?, key: PhantomData })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    #[test]
    fn a_stale_id_finds_nothing() {
        let mut slots = Slots::<ConnectionId, u8>::default();
        let mut table = Table::<ConnectionId, u8>::default();
        let old = slots.insert(1);
        table.insert(old, 10);
        assert_eq!(slots.remove(old), Some(1));
        let new = slots.insert(2);
        assert_eq!(new.index(), old.index());
        assert_eq!((slots.get(old), slots.get(new)), (None, Some(&2)));
        assert_eq!((table.get(old), table.get(new)), (Some(&10), None));
        assert_eq!((table.take_older(old), table.take_older(new)), (None, Some((old, 10))));
        table.insert(old, 10);
        assert_eq!(*table.get_or_insert_with(new, || 20), 20);
        assert_eq!(table.get(old), None);
        assert_eq!(slots.remove(old), None);
    }

    proptest! {
        #[test]
        fn an_id_finds_its_own_value_or_nothing(ops in vec((any::<bool>(), any::<Index>()), 1..200)) {
            let mut slots = Slots::<ConnectionId, usize>::default();
            let mut table = Table::<ConnectionId, usize>::default();
            // All ids there ever were, and whether their values are still there.
            let mut ids: Vec<(ConnectionId, bool)> = Vec::new();
            for (insert, at) in ops {
                if insert || ids.is_empty() {
                    let id = slots.insert(ids.len());
                    prop_assert!(ids.iter().all(|(other, _)| *other != id), "given twice: {:?}", id);
                    prop_assert_eq!(table.get(id), None, "what an older id left");
                    prop_assert_eq!(table.insert(id, ids.len()), None);
                    ids.push((id, true));
                } else {
                    let at = at.index(ids.len());
                    let (id, there) = ids[at];
                    prop_assert_eq!(slots.remove(id), there.then_some(at));
                    // A middleware may forget to forget.
                    if there && at % 2 == 0 {
                        prop_assert_eq!(table.remove(id), Some(at));
                    }
                    ids[at].1 = false;
                }
                for (n, (id, there)) in ids.iter().enumerate() {
                    let expected = there.then_some(n);
                    prop_assert_eq!(slots.get(*id).copied(), expected, "{:?}", id);
                    prop_assert_eq!(slots.get_mut(*id).copied(), expected, "{:?}", id);
                    let beside = table.get(*id).copied();
                    prop_assert!(beside == expected || (!there && beside == Some(n)), "{:?}: {:?}", id, beside);
                }
                let mut live: Vec<_> = ids.iter().filter(|(_, there)| *there).map(|(id, _)| *id).collect();
                live.sort_by_key(|id| id.index());
                prop_assert_eq!((slots.len(), slots.is_empty()), (live.len(), live.is_empty()));
                prop_assert!(slots.ids().eq(live));
            }
        }
    }
}

//! All subscriptions, found by topic and by session.
//!
//! A filter without wildcard is found by one look-up of the whole topic, filters with wildcards by a walk down the
//! tree of their levels. Neither cost grows with subscriptions that do not match.
//!
//! Every subscription is in two lists: in that of its filter (or of its shared group) and in that of its session. All
//! changes are O(1), whatever the lengths, so a session that ends costs time in proportion to its own subscriptions.
//!
//! Measured with a million subscriptions of a hundred clients, half of them with wildcards, everything counted: 154 bytes
//! each, of which 31 are the text (`culex-bench scale subscription`). From a thousand to a million a topic costs the same
//! steps, but the memory they touch leaves the cache: a delivery takes two to three times as long.

use crate::hash::{HashState, Seed};
use crate::id::{SessionId, Table};
use crate::packet::{SubscriptionOptions, topic_name};
use crate::topic::filter::{check_wildcards, is_topic_name, is_wildcard};
use crate::topic::keys::Keys;
use crate::topic::slab::{Key, Slab};
use crate::topic::subscribers::{Keyed, List, shrink};
use crate::topic::trie::Trie;
use alloc::boxed::Box;
use core::hash::{BuildHasher, Hasher};
use core::hint::black_box;
use core::num::NonZeroU32;
use hashbrown::HashTable;

/// Who gets a message that matches a filter, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscription {
    /// The subscriber.
    pub session: SessionId,
    /// QoS, No Local, Retain As Published, Retain Handling.
    pub options: SubscriptionOptions,
    /// The Subscription Identifier.
    pub identifier: Option<NonZeroU32>,
}

impl Subscription {
    /// Whether it gets what this session publishes [MQTT-3.8.3-3].
    #[inline]
    pub(crate) fn hears(&self, publisher: Option<SessionId>) -> bool {
        !self.options.no_local || publisher != Some(self.session)
    }
}

// A fan-out reads one after the other, four to a cache line.
const _: () = assert!(size_of::<Subscription>() <= 16);
// The memory of a million filters is mostly this.
const _: () = assert!(size_of::<Option<Filter>>() <= 48 && size_of::<Option<Group>>() <= 56);

/// The subscription index. See the module.
#[derive(Debug)]
pub struct SubscriptionIndex {
    filters: Slab<Filter>,
    /// Filters by their text, those with wildcards too.
    texts: Keys,
    /// The wildcard filters once more.
    trie: Trie,
    groups: Slab<Group>,
    /// Groups by filter and ShareName.
    names: HashTable<Key>,
    sessions: Table<SessionId, List<Place>>,
    hasher: HashState,
    len: usize,
}

/// Somebody subscribed to this, or a group did.
#[derive(Debug)]
struct Filter {
    text: Box<str>,
    subscribers: List<Subscription>,
    /// The first of a chain.
    groups: Option<Key>,
    /// In the tree, if there are wildcards.
    node: Option<Key>,
}

/// The Shared Subscription of a filter and a ShareName.
#[derive(Debug)]
struct Group {
    filter: Key,
    name: Box<str>,
    /// The neighbours in the chain of the filter's groups: it makes a filter without groups, and that is nearly
    /// every one, smaller than a list would.
    previous: Option<Key>,
    next: Option<Key>,
    members: List<Subscription>,
    /// Whose turn it is; may be one past the end.
    cursor: u32,
}

/// Where a subscription of a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    Filter(Key),
    Group(Key),
}

impl Keyed for Subscription {
    type Key = SessionId;
    fn key(&self) -> SessionId {
        self.session
    }
}

impl Keyed for Place {
    type Key = Self;
    fn key(&self) -> Self {
        *self
    }
}

impl SubscriptionIndex {
    /// An empty index.
    #[must_use]
    pub fn new(seed: Seed) -> Self {
        Self {
            filters: Slab::new(),
            texts: Keys::new(),
            trie: Trie::new(seed),
            groups: Slab::new(),
            names: HashTable::new(),
            sessions: Table::default(),
            hasher: seed.hasher(PURPOSE),
            len: 0,
        }
    }

    /// Adds a subscription. `filter` is well-formed and without `$share/…/`, `share` the ShareName, `session` not
    /// stale. Returns true if the subscription existed before and was replaced [MQTT-3.8.4-3].
    pub fn subscribe(
        &mut self,
        filter: &str,
        share: Option<&str>,
        session: SessionId,
        options: SubscriptionOptions,
        identifier: Option<NonZeroU32>,
    ) -> bool {
        debug_assert!(!filter.is_empty() && check_wildcards(filter).is_ok(), "not well-formed: {filter}");
        let key = self.find_filter(filter).unwrap_or_else(|| self.add_filter(filter));
        let place = match share {
            None => Place::Filter(key),
            Some(name) => {
                Place::Group(self.find_group(key, name).unwrap_or_else(|| self.add_group(key, name)))
            }
        };
        let subscription = Subscription { session, options, identifier };
        let hasher = &self.hasher;
        let list = match place {
            Place::Filter(key) => self.filters.get_mut(key).map(|filter| &mut filter.subscribers),
            Place::Group(key) => self.groups.get_mut(key).map(|group| &mut group.members),
        };
        if list.and_then(|list| list.insert(subscription, hasher)).is_some() {
            return true;
        }
        self.sessions.get_or_insert_with(session, List::new).insert(place, hasher);
        self.len += 1;
        false
    }

    /// Removes a subscription. Returns whether it existed.
    pub fn unsubscribe(&mut self, filter: &str, share: Option<&str>, session: SessionId) -> bool {
        let Some(place) = self.find(filter, share) else { return false };
        if !self.leave(place, session) {
            return false;
        }
        if let Some(places) = self.sessions.get_mut(session) {
            places.remove(place, &self.hasher);
            if places.is_empty() {
                self.sessions.remove(session);
            }
        }
        true
    }

    /// Removes all subscriptions of a session. Returns how many there were.
    pub fn remove_session(&mut self, session: SessionId) -> usize {
        let Some(places) = self.sessions.remove(session) else { return 0 };
        for place in places.as_slice() {
            let existed = self.leave(*place, session);
            debug_assert!(existed, "a session lists what it is not subscribed to");
        }
        places.len()
    }

    /// How many subscriptions a session has.
    #[must_use]
    pub fn count(&self, session: SessionId) -> usize {
        self.sessions.get(session).map_or(0, List::len)
    }

    /// How many subscriptions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no subscription.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The subscriptions of a session in no particular order: ShareName, filter, options, Subscription Identifier.
    pub fn filters(
        &self,
        session: SessionId,
    ) -> impl Iterator<Item = (Option<&str>, &str, SubscriptionOptions, Option<NonZeroU32>)> {
        let places = self.sessions.get(session).map_or(&[][..], List::as_slice);
        places.iter().filter_map(move |place| {
            let (share, filter, list) = match *place {
                Place::Filter(key) => {
                    let filter = self.filters.get(key)?;
                    (None, filter, &filter.subscribers)
                }
                Place::Group(key) => {
                    let group = self.groups.get(key)?;
                    (Some(&*group.name), self.filters.get(group.filter)?, &group.members)
                }
            };
            let subscription = list.get(session, &self.hasher)?;
            Some((share, &*filter.text, subscription.options, subscription.identifier))
        })
    }

    /// Calls `each` for every subscription that matches a Topic Name, and of every shared group that matches for one
    /// member: the first for which `prefer` is true, beginning with the one whose turn it is; if it is true for
    /// none, the one whose turn it is. Then it is the turn of the next.
    ///
    /// Allocates nothing. The order is the same for the same history. Of a group in which nobody is preferred every
    /// member is asked, so it costs as much as a fan-out to all of them.
    pub fn matches(
        &mut self,
        topic: &str,
        each: impl FnMut(Subscription),
        prefer: impl FnMut(&Subscription) -> bool,
    ) {
        self.matches_where(topic, each, prefer, |_, _| true);
    }

    /// The same, but of the shared groups only those for which `shared`, given Topic Filter and ShareName, is true.
    pub fn matches_where(
        &mut self,
        topic: &str,
        mut each: impl FnMut(Subscription),
        mut prefer: impl FnMut(&Subscription) -> bool,
        mut shared: impl FnMut(&str, &str) -> bool,
    ) {
        debug_assert!(is_topic_name(topic), "not a Topic Name: {topic}");
        let exact = self.find_filter(topic);
        let Self { filters, groups, trie, .. } = self;
        let filters = &*filters;
        let mut deliver = |key: Key| {
            let Some(filter) = filters.get(key) else { return };
            let mut next = filter.groups;
            let mut chosen;
            let mut subscribers = filter.subscribers.as_slice();
            loop {
                // Called from here only, so that it can be inlined.
                subscribers.iter().copied().for_each(&mut each);
                let Some(group) = next.and_then(|key| groups.get_mut(key)) else { break };
                next = group.next;
                if shared(&filter.text, &group.name) {
                    chosen = group.choose(&mut prefer);
                    subscribers = chosen.as_slice();
                } else {
                    subscribers = &[];
                }
            }
        };
        if trie.is_empty() {
            if let Some(key) = exact {
                deliver(key);
            }
            return;
        }
        let mut all = |keys: &[Option<Key>]| {
            // Read once before, without doing anything with it: so the processor fetches all of them at once.
            for filter in keys.iter().flatten().filter_map(|key| filters.get(*key)) {
                black_box(filter.subscribers.as_slice().first().copied());
            }
            keys.iter().flatten().copied().for_each(&mut deliver);
        };
        let mut found = Found::default();
        if let Some(key) = exact {
            found.push(key, &mut all);
        }
        trie.walk(topic, |key| found.push(key, &mut all));
        all(&found.keys[..found.count]);
    }

    /// One member of a shared group, as [`matches`](Self::matches) finds it; none if there is no such group.
    pub fn choose(
        &mut self,
        filter: &str,
        share: &str,
        prefer: impl FnMut(&Subscription) -> bool,
    ) -> Option<Subscription> {
        match self.find(filter, Some(share))? {
            Place::Group(key) => self.groups.get_mut(key)?.choose(prefer),
            Place::Filter(_) => None,
        }
    }

    /// How many members a shared group has, or how many subscribers, groups apart, a filter.
    #[must_use]
    pub fn members(&self, filter: &str, share: Option<&str>) -> usize {
        let list = match self.find(filter, share) {
            Some(Place::Filter(key)) => self.filters.get(key).map(|filter| &filter.subscribers),
            Some(Place::Group(key)) => self.groups.get(key).map(|group| &group.members),
            None => None,
        };
        list.map_or(0, List::len)
    }

    /// Whether no subscription has a wildcard.
    pub(crate) fn is_exact(&self) -> bool {
        self.trie.is_empty()
    }

    /// The subscriptions that match a Topic Name, if they are on one list or there are none: without a shared group, and
    /// without one session on two lists. `None` also for what is no Topic Name.
    pub(crate) fn only_list(&mut self, topic: &[u8]) -> Option<&[Subscription]> {
        let Self { filters, trie, .. } = self;
        let exact = find_text(&self.texts, filters, &self.hasher, topic);
        let (mut only, mut lists) = (exact, u32::from(exact.is_some()));
        if exact.is_none() || !trie.is_empty() {
            let topic = match exact.and_then(|key| filters.get(key)) {
                // Whatever is spelled like a filter is a text, but perhaps one with wildcards.
                Some(filter) if filter.node.is_none() => &*filter.text,
                Some(_) => return None,
                None => topic_name(topic)?,
            };
            trie.walk_while(topic, |key| {
                only = Some(key);
                lists += 1;
                lists < 2
            });
        }
        match (only, lists) {
            (None, _) => Some(&[]),
            (Some(key), 1) => {
                let filter = filters.get(key).filter(|filter| filter.groups.is_none())?;
                Some(filter.subscribers.as_slice())
            }
            _ => None,
        }
    }

    /// Whether nothing is kept any more, not even inside: so it must be when there is no subscription.
    #[must_use]
    pub fn holds_nothing(&self) -> bool {
        self.filters.is_empty()
            && self.texts.is_empty()
            && self.trie.is_bare()
            && self.groups.is_empty()
            && self.names.is_empty()
    }

    fn find(&self, filter: &str, share: Option<&str>) -> Option<Place> {
        let filter = self.find_filter(filter)?;
        match share {
            None => Some(Place::Filter(filter)),
            Some(name) => self.find_group(filter, name).map(Place::Group),
        }
    }

    #[inline]
    fn find_filter(&self, text: &str) -> Option<Key> {
        find_text(&self.texts, &self.filters, &self.hasher, text.as_bytes())
    }

    fn find_group(&self, filter: Key, name: &str) -> Option<Key> {
        let is_it = |key: &Key| {
            self.groups.get(*key).is_some_and(|group| group.filter == filter && *group.name == *name)
        };
        self.names.find(hash_name(&self.hasher, filter, name), is_it).copied()
    }

    fn add_filter(&mut self, text: &str) -> Key {
        let Self { filters, texts, trie, hasher, .. } = self;
        let key =
            filters.insert(Filter { text: text.into(), subscribers: List::new(), groups: None, node: None });
        texts.insert(hash_text(hasher, text), key, |key| rehash_text(filters, hasher, key));
        if is_wildcard(text)
            && let Some(filter) = filters.get_mut(key)
        {
            filter.node = Some(trie.insert(text, key));
        }
        key
    }

    fn add_group(&mut self, filter: Key, name: &str) -> Key {
        let Self { filters, groups, names, hasher, .. } = self;
        let next = filters.get(filter).and_then(|filter| filter.groups);
        let group =
            Group { filter, name: name.into(), previous: None, next, members: List::new(), cursor: 0 };
        let key = groups.insert(group);
        names.insert_unique(hash_name(hasher, filter, name), key, |key| rehash_name(groups, hasher, *key));
        if let Some(next) = next.and_then(|next| groups.get_mut(next)) {
            next.previous = Some(key);
        }
        if let Some(filter) = filters.get_mut(filter) {
            filter.groups = Some(key);
        }
        key
    }

    /// Takes a subscription off its filter or group, and removes these if it was the last. The session's list is for
    /// the caller.
    fn leave(&mut self, place: Place, session: SessionId) -> bool {
        let left = match place {
            Place::Filter(key) => self.filters.get_mut(key).map(|filter| &mut filter.subscribers),
            Place::Group(key) => self.groups.get_mut(key).map(|group| &mut group.members),
        };
        if left.and_then(|list| list.remove(session, &self.hasher)).is_none() {
            return false;
        }
        self.len -= 1;
        match place {
            Place::Filter(key) => self.remove_filter_if_unused(key),
            Place::Group(key) => self.remove_group_if_unused(key),
        }
        true
    }

    fn remove_group_if_unused(&mut self, key: Key) {
        let Self { filters, groups, names, hasher, .. } = self;
        let Some(group) = groups.get(key) else { return };
        if !group.members.is_empty() {
            return;
        }
        let (filter, previous, next) = (group.filter, group.previous, group.next);
        if let Ok(name) = names.find_entry(hash_name(hasher, filter, &group.name), |other| *other == key) {
            name.remove();
        }
        groups.remove(key);
        shrink(names, |key| rehash_name(groups, hasher, *key));
        match previous {
            Some(previous) => groups.get_mut(previous).map(|group| group.next = next),
            None => filters.get_mut(filter).map(|filter| filter.groups = next),
        };
        if let Some(next) = next.and_then(|next| groups.get_mut(next)) {
            next.previous = previous;
        }
        self.remove_filter_if_unused(filter);
    }

    fn remove_filter_if_unused(&mut self, key: Key) {
        let Self { filters, texts, trie, hasher, .. } = self;
        let Some(filter) = filters.get(key) else { return };
        if !filter.subscribers.is_empty() || filter.groups.is_some() {
            return;
        }
        texts.remove(hash_text(hasher, &filter.text), key, |key| rehash_text(filters, hasher, key));
        if let Some(node) = filter.node {
            trie.remove(&filter.text, node);
        }
        filters.remove(key);
    }
}

impl Group {
    fn choose(&mut self, prefer: impl FnMut(&Subscription) -> bool) -> Option<Subscription> {
        let members = self.members.as_slice();
        let turn = if (self.cursor as usize) < members.len() { self.cursor as usize } else { 0 };
        let (before, from) = members.split_at(turn);
        let preferred = from.iter().chain(before).position(prefer);
        let chosen = (turn + preferred.unwrap_or(0)) % members.len().max(1);
        self.cursor = chosen as u32 + 1;
        members.get(chosen).copied()
    }
}

/// Filters that match, until there are enough of them to be worked off.
#[derive(Default)]
struct Found {
    keys: [Option<Key>; FOUND_MAX],
    count: usize,
}

impl Found {
    #[inline]
    fn push(&mut self, key: Key, all: impl FnOnce(&[Option<Key>])) {
        self.keys[self.count] = Some(key);
        self.count += 1;
        if self.count == FOUND_MAX {
            all(&self.keys);
            self.count = 0;
        }
    }
}

const FOUND_MAX: usize = 16;

/// Separates the hashes of the index from those of other tables.
const PURPOSE: u64 = 0x0069_6e64_6578;

/// The filter of this spelling.
#[inline]
fn find_text(texts: &Keys, filters: &Slab<Filter>, hasher: &HashState, text: &[u8]) -> Option<Key> {
    let is_it = |key: Key| filters.get(key).is_some_and(|filter| *filter.text.as_bytes() == *text);
    texts.find(hash_bytes(hasher, text), is_it)
}

#[inline]
fn hash_text(hasher: &HashState, text: &str) -> u64 {
    hash_bytes(hasher, text.as_bytes())
}

#[inline]
fn hash_bytes(hasher: &HashState, text: &[u8]) -> u64 {
    let mut hasher = hasher.build_hasher();
    hasher.write(text);
    hasher.finish()
}

fn rehash_text(filters: &Slab<Filter>, hasher: &HashState, key: Key) -> u64 {
    filters.get(key).map_or(0, |filter| hash_text(hasher, &filter.text))
}

fn hash_name(hasher: &HashState, filter: Key, name: &str) -> u64 {
    let mut hasher = hasher.build_hasher();
    hasher.write_u32(filter.number());
    hasher.write(name.as_bytes());
    hasher.finish()
}

fn rehash_name(groups: &Slab<Group>, hasher: &HashState, key: Key) -> u64 {
    groups.get(key).map_or(0, |group| hash_name(hasher, group.filter, &group.name))
}

mod saved;
#[cfg(test)]
mod tests;

//! The index as what it means: who is subscribed to what, in the order in which a message reaches them. Its tables and
//! its tree are made anew, so whatever the bytes say, they agree with each other.

use super::{Key, List, Place, Subscription, SubscriptionIndex};
use crate::hash::Seed;
use crate::id::SessionId;
use crate::saved::{Malformed, Reader, Saved, Writer, saved};
use crate::topic::filter::is_filter;
use alloc::boxed::Box;
use alloc::vec::Vec;

saved! { struct Subscription { session, options, identifier } }

impl SubscriptionIndex {
    /// Appends all subscriptions, by filter in the order of their texts.
    pub fn save(&self, to: &mut Writer<'_>) {
        let Self { filters: _, texts, trie: _, groups: _, names: _, sessions: _, hasher: _, len: _ } = self;
        let mut keys: Vec<(&str, Key)> =
            texts.iter().filter_map(|key| Some((&*self.filters.get(key)?.text, key))).collect();
        keys.sort_unstable();
        to.number(keys.len() as u64);
        for (text, key) in keys {
            to.bytes(text.as_bytes());
            let Some(filter) = self.filters.get(key) else { continue };
            save_list(&filter.subscribers, to);
            // A new group comes first in the chain: the last one must be made first.
            let mut groups = Vec::new();
            let mut next = filter.groups;
            while let Some((key, group)) = next.and_then(|key| Some((key, self.groups.get(key)?))) {
                next = group.next;
                groups.push(key);
            }
            to.number(groups.len() as u64);
            for group in groups.iter().rev().filter_map(|key| self.groups.get(*key)) {
                to.bytes(group.name.as_bytes());
                to.number(u64::from(group.cursor));
                save_list(&group.members, to);
            }
        }
    }

    /// Reads what [`save`](Self::save) appended. `exists` says whether there is such a session.
    ///
    /// # Errors
    /// The bytes do not say subscriptions of sessions that exist.
    pub fn load(
        seed: Seed,
        from: &mut Reader<'_>,
        exists: impl Fn(SessionId) -> bool,
    ) -> Result<Self, Malformed> {
        let mut index = Self::new(seed);
        for _ in 0..from.count()? {
            let text = Box::<str>::load(from)?;
            from.ensure(is_filter(&text) && index.find_filter(&text).is_none())?;
            index.load_list(&text, None, from, &exists)?;
            for _ in 0..from.count()? {
                let (name, cursor) = (Box::<str>::load(from)?, u32::load(from)?);
                from.ensure(index.find(&text, Some(&name)).is_none())?;
                index.load_list(&text, Some(&name), from, &exists)?;
                let Some(Place::Group(key)) = index.find(&text, Some(&name)) else {
                    return Err(from.malformed());
                };
                if let Some(group) = index.groups.get_mut(key) {
                    group.cursor = cursor;
                }
            }
            // Each is there because of somebody.
            from.ensure(index.find_filter(&text).is_some())?;
        }
        Ok(index)
    }

    fn load_list(
        &mut self,
        filter: &str,
        share: Option<&str>,
        from: &mut Reader<'_>,
        exists: &impl Fn(SessionId) -> bool,
    ) -> Result<(), Malformed> {
        for _ in 0..from.count()? {
            let Subscription { session, options, identifier } = Saved::load(from)?;
            from.ensure(exists(session))?;
            let twice = self.subscribe(filter, share, session, options, identifier);
            from.ensure(!twice)?;
        }
        Ok(())
    }
}

fn save_list(list: &List<Subscription>, to: &mut Writer<'_>) {
    let list = list.as_slice();
    to.number(list.len() as u64);
    list.iter().for_each(|subscription| subscription.save(to));
}

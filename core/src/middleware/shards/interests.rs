//! What other shards want.

use crate::hash::Seed;
use crate::id::{Id, SessionId, ShardId};
use crate::middleware::memory_backend::split_share;
use crate::packet::SubscriptionOptions;
use crate::saved::{Malformed, Reader, Saved, Writer, saved};
use crate::topic::SubscriptionIndex;
use crate::topic::filter::is_filter;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::num::NonZeroU32;

/// The Topic Filters of other shards: found as subscriptions are, with shards in the place of sessions.
#[derive(Debug)]
pub(super) struct Interests {
    index: SubscriptionIndex,
    of: u16,
    /// By number, which stands in the index as a Subscription Identifier: the Shared Subscriptions of a filter.
    groups: BTreeMap<NonZeroU32, Vec<Group>>,
    /// Their numbers.
    numbers: BTreeMap<Box<str>, NonZeroU32>,
}

/// A Shared Subscription that has members at other shards.
#[derive(Debug)]
struct Group {
    /// `$share/…/…`
    name: Box<str>,
    members: Vec<(ShardId, u32)>,
    /// Whose turn it is.
    turn: u32,
}

saved! { struct Group { name, members, turn } }

impl Interests {
    pub(super) fn new(seed: Seed, of: u16) -> Self {
        // Not the hashes of the subscriptions that are here.
        let index = SubscriptionIndex::new(Seed(seed.0 ^ PURPOSE));
        Self { index, of, groups: BTreeMap::new(), numbers: BTreeMap::new() }
    }

    /// A shard has so many members of a Shared Subscription from now on; of any other filter, some subscriber or none.
    pub(super) fn set(&mut self, shard: ShardId, filter: &str, members: u32) {
        match split_share(filter) {
            Some((_, plain)) if is_filter(plain) => self.set_group(shard, filter, plain, members),
            None if is_filter(filter) => self.set_plain(filter, session(shard.0), members > 0, None),
            _ => {}
        }
    }

    fn set_plain(&mut self, filter: &str, who: SessionId, wants: bool, number: Option<NonZeroU32>) {
        if wants {
            self.index.subscribe(filter, None, who, SubscriptionOptions::default(), number);
        } else {
            self.index.unsubscribe(filter, None, who);
        }
    }

    fn set_group(&mut self, shard: ShardId, name: &str, filter: &str, members: u32) {
        let number = match self.numbers.get(filter) {
            Some(number) => *number,
            None if members == 0 => return,
            None => {
                let last = self.groups.last_key_value();
                let next = last.map_or(Some(NonZeroU32::MIN), |(last, _)| last.checked_add(1));
                let Some(number) = next else { return };
                self.numbers.insert(filter.into(), number);
                self.set_plain(filter, session(self.of), true, Some(number));
                number
            }
        };
        let groups = self.groups.entry(number).or_default();
        let at = groups.iter().position(|group| *group.name == *name).unwrap_or_else(|| {
            groups.push(Group { name: name.into(), members: Vec::new(), turn: 0 });
            groups.len() - 1
        });
        let group = &mut groups[at];
        match group.members.iter().position(|(of, _)| *of == shard) {
            Some(place) if members == 0 => drop(group.members.remove(place)),
            Some(place) => group.members[place].1 = members,
            None if members == 0 => {}
            None => group.members.push((shard, members)),
        }
        if group.members.is_empty() {
            groups.remove(at);
        }
        if groups.is_empty() {
            self.groups.remove(&number);
            self.numbers.remove(filter);
            self.set_plain(filter, session(self.of), false, None);
        }
    }

    /// Calls `each` for every other shard that wants a message, and, with its name, for every Shared Subscription for which
    /// another one is chosen; `members` says how many members of one there are at `me`. Whether there was any.
    pub(super) fn matches(
        &mut self,
        topic: &str,
        me: ShardId,
        members: impl Fn(&str) -> u32,
        mut each: impl FnMut(ShardId, Option<Box<str>>),
    ) -> bool {
        let Self { index, groups, .. } = self;
        let mut found = false;
        index.matches(
            topic,
            |wanted| match wanted.identifier {
                None => {
                    found = true;
                    each(ShardId(wanted.session.index() as u16), None);
                }
                Some(number) => {
                    for group in groups.get_mut(&number).into_iter().flatten() {
                        let here = members(&group.name);
                        if let Some(to) = group.choose(here).filter(|to| *to != me) {
                            found = true;
                            each(to, Some(group.name.clone()));
                        }
                    }
                }
            },
            |_| true,
        );
        found
    }

    /// A shard that has members of a Shared Subscription; none where there are some `here`, and it is their turn.
    pub(super) fn choose(&mut self, name: &str, me: ShardId, here: u32) -> Option<ShardId> {
        let (_, filter) = split_share(name)?;
        let groups = self.groups.get_mut(self.numbers.get(filter)?)?;
        let group = groups.iter_mut().find(|group| *group.name == *name)?;
        group.choose(here).filter(|to| *to != me)
    }

    pub(super) fn save(&self, to: &mut Writer<'_>) {
        let Self { index, of: _, groups, numbers } = self;
        index.save(to);
        groups.save(to);
        numbers.save(to);
    }

    pub(super) fn load(seed: Seed, of: u16, from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let exists = |who: SessionId| who.index() <= u32::from(of) && who.generation() == 0;
        let index = SubscriptionIndex::load(Seed(seed.0 ^ PURPOSE), from, exists)?;
        let interests = Self { index, of, groups: Saved::load(from)?, numbers: Saved::load(from)? };
        let known = interests.groups.values().flatten().flat_map(|group| &group.members);
        from.ensure(known.into_iter().all(|(shard, members)| shard.0 < of && *members > 0))?;
        Ok(interests)
    }
}

impl Group {
    /// Every member gets its turn, wherever it is; none: those that are here.
    fn choose(&mut self, here: u32) -> Option<ShardId> {
        let all = self.members.iter().map(|(_, members)| u64::from(*members)).sum::<u64>() + u64::from(here);
        let turn = u64::from(self.turn) % all.max(1);
        self.turn = (turn + 1) as u32;
        let mut before = u64::from(here);
        if turn < before {
            return None;
        }
        self.members.iter().find_map(|(shard, members)| {
            before += u64::from(*members);
            (turn < before).then_some(*shard)
        })
    }
}

/// A shard as the index knows it; the one behind the last stands for Shared Subscriptions.
fn session(shard: u16) -> SessionId {
    SessionId::new(shard.into(), 0)
}

/// Separates the hashes of this index from those of the subscriptions that are here.
const PURPOSE: u64 = 0x696E_7465_7265_7374;

//! The retained messages in the order of their topics. That order makes a topic a good cursor: a page goes on behind
//! the last topic seen, whatever changed in between.

use crate::message::Message;
use crate::saved::{Malformed, Reader, Saved, Writer};
use crate::time::Wall;
use crate::topic::filter::is_wildcard;
use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::collections::btree_set::Range;
use alloc::string::String;
use alloc::vec::Vec;
use core::borrow::Borrow;
use core::cmp::Ordering;
use core::ops::Bound;

/// At most one message per topic [MQTT-3.3.1-5].
#[derive(Debug, Default)]
pub struct Retained {
    messages: BTreeSet<ByTopic>,
    bytes: usize,
    /// How many will expire.
    expiring: usize,
}

/// A message that is compared by its topic only.
#[derive(Debug)]
struct ByTopic(Message);

impl Borrow<str> for ByTopic {
    fn borrow(&self) -> &str {
        self.0.topic()
    }
}

impl Ord for ByTopic {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.topic().cmp(other.0.topic())
    }
}

impl PartialOrd for ByTopic {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ByTopic {
    fn eq(&self, other: &Self) -> bool {
        self.0.topic() == other.0.topic()
    }
}

impl Eq for ByTopic {}

impl Retained {
    /// No messages.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps a message for its topic and returns the one it replaces. That an empty payload removes is for the
    /// caller [MQTT-3.3.1-6].
    pub fn set(&mut self, message: Message) -> Option<Message> {
        self.bytes += message.size();
        self.expiring += usize::from(message.expires().is_some());
        let old = self.messages.replace(ByTopic(message))?.0;
        Some(self.forget(old))
    }

    /// Removes the message of a topic.
    pub fn remove(&mut self, topic: &str) -> Option<Message> {
        let old = self.messages.take(topic)?.0;
        Some(self.forget(old))
    }

    fn forget(&mut self, old: Message) -> Message {
        self.bytes -= old.size();
        self.expiring -= usize::from(old.expires().is_some());
        old
    }

    /// The message of a topic.
    #[must_use]
    pub fn get(&self, topic: &str) -> Option<&Message> {
        self.messages.get(topic).map(|entry| &entry.0)
    }

    /// All messages in the order of their topics.
    pub fn all(&self) -> impl Iterator<Item = &Message> {
        self.messages.iter().map(|entry| &entry.0)
    }

    /// How many messages there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// How many messages will expire, or have and were not yet removed.
    #[must_use]
    pub fn expiring(&self) -> usize {
        self.expiring
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The sum of their sizes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Calls `each` with messages whose topics match a well-formed filter, in the order of the topics, from behind
    /// `after` on (from the start if there is none). The page ends when `each` returns false, which has had that
    /// message then, or when `scan_max` topics were looked at, matching or not, but at least one.
    ///
    /// Returns `after` for the next page, or nothing if this was the last. Between two pages messages may come and
    /// go: each that stays is seen exactly once.
    pub fn page(
        &self,
        filter: &str,
        after: Option<&str>,
        scan_max: usize,
        mut each: impl FnMut(&Message) -> bool,
    ) -> Option<Box<str>> {
        if !is_wildcard(filter) {
            if after.is_none_or(|after| after < filter)
                && let Some(message) = self.get(filter)
            {
                each(message);
            }
            return None;
        }
        let mut seek = String::new();
        let start = match after.map(|after| (after, look(filter, after, &mut seek).1)) {
            None => Bound::Included(literal_prefix(filter)),
            Some((_, Then::Done)) => return None,
            Some((_, Then::Seek)) => Bound::Included(&*seek),
            Some((after, Then::Next)) => Bound::Excluded(after),
        };
        let mut topics = self.from(start);
        let mut looked = 0;
        while let Some(ByTopic(message)) = topics.next() {
            let topic = message.topic();
            let (matches, then) = look(filter, topic, &mut seek);
            looked += 1;
            let more = !matches || each(message);
            match then {
                Then::Done => return None,
                _ if !more || looked >= scan_max => return Some(topic.into()),
                Then::Next => {}
                // Mostly it is the next topic all the same: do not search the tree for what lies at hand.
                Then::Seek => match topics.clone().next() {
                    Some(next) if next.0.topic() < &*seek => topics = self.from(Bound::Included(&seek)),
                    _ => {}
                },
            }
        }
        None
    }

    /// Removes messages that have expired among the `scan_max` topics behind `after`. Returns how to go on like
    /// [`page`](Self::page), so that a timer can sweep all messages in small steps. `each` gets what is removed.
    pub fn expire(
        &mut self,
        now: Wall,
        after: Option<&str>,
        scan_max: usize,
        mut each: impl FnMut(Message),
    ) -> Option<Box<str>> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut topics = self.from(start).map(|entry| &entry.0);
        let page: Vec<_> = topics.by_ref().take(scan_max.max(1)).collect();
        let cursor = topics.next().and(page.last()).map(|message| message.topic().into());
        let expired: Vec<Message> =
            page.into_iter().filter(|message| message.expired(now)).cloned().collect();
        for message in expired {
            self.remove(message.topic());
            each(message);
        }
        cursor
    }

    fn from(&self, start: Bound<&str>) -> Range<'_, ByTopic> {
        self.messages.range::<str, _>((start, Bound::Unbounded))
    }
}

impl Saved for Retained {
    fn save(&self, to: &mut Writer<'_>) {
        let Self { messages, bytes: _, expiring: _ } = self;
        to.number(messages.len() as u64);
        messages.iter().for_each(|ByTopic(message)| message.save(to));
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut retained = Self::new();
        for _ in 0..from.count()? {
            let message = Message::load(from)?;
            from.ensure(retained.set(message).is_none())?;
        }
        Ok(retained)
    }
}

/// The least topic that a wildcard filter could match, as far as it is spelled out: before this there is none.
fn literal_prefix(filter: &str) -> &str {
    match filter.find(['+', '#']) {
        Some(at) if filter.ends_with('#') && at + 1 == filter.len() => &filter[..at.saturating_sub(1)],
        Some(at) => &filter[..at],
        None => filter,
    }
}

/// Where the next topic that could match is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Next,
    /// At the topic that was written to `seek`, or behind it.
    Seek,
    /// Nowhere.
    Done,
}

/// Compares a topic with a wildcard filter. If they differ at one level, so do all topics that begin alike: these
/// are skipped at once, that is why `+/temperature` does not look at everything else that devices retain.
///
/// Topics are ordered by bytes, and `/` is not the least: below `a` comes `a-`, then `a/…`, then `a0`. So a sub-tree
/// lies between `a/` and `a0`, and apart from its root.
fn look(filter: &str, topic: &str, seek: &mut String) -> (bool, Then) {
    let mut to = |parts: [&str; 3]| {
        seek.clear();
        seek.extend(parts);
        Then::Seek
    };
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return (false, to(["%", "", ""])); // [MQTT-4.7.2-1]: past all that begin with $
    }
    // The end of the last level that a + stood for: only there can a topic differ and still match.
    let mut free: Option<usize> = None;
    let mut start = Some(0);
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        if level == "#" {
            return (true, Then::Next);
        }
        let Some(at) = start else {
            // The topic is too short. If a + stood for its end, others of the same length come first.
            let next = if free == Some(topic.len()) { Then::Next } else { to([topic, "/", ""]) };
            return (false, next);
        };
        let (before, rest) = topic.split_at(at);
        let length = rest.find('/').unwrap_or(rest.len());
        start = (length < rest.len()).then_some(at + length + 1);
        if level == "+" {
            free = Some(at + length);
        } else if level != &rest[..length] {
            if level > rest {
                return (false, to([before, level, ""]));
            }
            // `a-` is between `a` and `a/…`.
            if levels.peek().is_some() && level.bytes().chain([b'/']).gt(rest.bytes()) {
                return (false, to([before, level, "/"]));
            }
            return (false, free.map_or(Then::Done, |end| to([&topic[..end], AFTER_SLASH, ""])));
        }
    }
    let then = match free {
        Some(end) if end == topic.len() => Then::Next,
        Some(end) => to([&topic[..end], AFTER_SLASH, ""]),
        None => Then::Done,
    };
    (start.is_none(), then)
}

/// The character behind `/`: with it instead a whole sub-tree is past.
const AFTER_SLASH: &str = "0";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::QoS;
    use crate::topic::filter;
    use crate::topic::filter::tests as make;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet as Model};
    use std::format;

    fn message(topic: &str, payload: &[u8]) -> Message {
        Message::new(topic, payload, QoS::AtMostOnce, true).unwrap()
    }

    fn expiring(topic: &str, soon: bool) -> Message {
        let expires = Some(Wall(if soon { 10 } else { 10_000 }));
        Message::with_properties(topic, b"x", QoS::AtMostOnce, true, &[], expires).unwrap()
    }

    fn retained<'a>(topics: impl IntoIterator<Item = &'a str>) -> Retained {
        let mut retained = Retained::new();
        for topic in topics {
            retained.set(message(topic, b"x"));
        }
        retained
    }

    /// All matches in pages of this size.
    fn all(retained: &Retained, filter: &str, scan_max: usize) -> Vec<String> {
        let mut found = Vec::new();
        let mut after: Option<Box<str>> = None;
        loop {
            after = retained.page(filter, after.as_deref(), scan_max, |message| {
                found.push(message.topic().into());
                true
            });
            if after.is_none() {
                return found;
            }
        }
    }

    /// How many topics are looked at.
    fn cost(retained: &Retained, filter: &str) -> usize {
        let mut pages = 1;
        let mut after = None;
        while let Some(cursor) = retained.page(filter, after.as_deref(), 1, |_| true) {
            pages += 1;
            after = Some(cursor);
        }
        pages
    }

    #[test]
    fn a_message_replaces_that_of_its_topic() {
        let mut retained = retained(["a"]);
        let old = retained.set(message("a", b"yz"));
        assert_eq!(old.unwrap().payload(), b"x", "[MQTT-3.3.1-5]");
        assert_eq!(retained.bytes(), message("a", b"yz").size());
        assert_eq!(retained.get("a").unwrap().payload(), b"yz");
        assert!(retained.remove("b").is_none());
        assert_eq!(retained.remove("a").unwrap().payload(), b"yz");
        assert_eq!((retained.len(), retained.bytes(), retained.is_empty()), (0, 0, true));
    }

    #[test]
    fn a_page_ends_when_the_reader_has_enough() {
        let retained = retained(["a", "b", "c"]);
        let cursor = retained.page("#", None, 100, |message| message.topic() != "b");
        assert_eq!(cursor.as_deref(), Some("b"));
        assert_eq!(retained.page("#", cursor.as_deref(), 0, |_| true).as_deref(), Some("c"));
        assert_eq!(retained.page("#", Some("c"), 0, |_| true), None);
        assert_eq!(retained.page("#", None, 2, |_| true).as_deref(), Some("b"), "so many were looked at");
    }

    #[test]
    fn an_exact_filter_goes_on_behind_what_was_sent() {
        let retained = retained(["b"]);
        for (after, expected) in [(None, 1), (Some("a"), 1), (Some("b"), 0), (Some("c"), 0)] {
            let mut found = 0;
            let next = retained.page("b", after, 0, |_| {
                found += 1;
                true
            });
            assert_eq!((found, next), (expected, None), "after {after:?}");
        }
    }

    #[test]
    fn an_exact_filter_is_one_page() {
        let retained = retained(["a", "b"]);
        let mut found = 0;
        assert_eq!(
            retained.page("b", None, 0, |_| {
                found += 1;
                false
            }),
            None
        );
        assert_eq!(
            retained.page("b", Some("b"), 1, |_| {
                found += 1;
                true
            }),
            None
        );
        assert_eq!(found, 1);
    }

    #[test]
    fn what_cannot_match_is_skipped() {
        let topics: Vec<_> = (0..200)
            .flat_map(|device| (0..50).map(move |n| format!("site/{device:03}/{n:02}")))
            .chain((0..200).flat_map(|device| {
                ["a", "temp", "temp/raw", "z"].map(|name| format!("site/{device:03}/{name}"))
            }))
            .chain((0..1000).flat_map(|n| ["a", "z", "$SYS"].map(|root| format!("{root}/{n}"))))
            .collect();
        let retained = retained(topics.iter().map(|topic| &topic[..]));
        assert_eq!(all(&retained, "site/+/temp", 7).len(), 200);
        for (filter, most) in [
            ("site/+/temp", 200 * 3),
            ("site/007/#", 56),
            ("site/007/+", 57),
            ("+/7", 12),
            ("$SYS/7/#", 2),
            ("nothing/+", 2),
            ("+/nothing", 8),
        ] {
            let cost = cost(&retained, filter);
            assert!(cost <= most, "{filter} looks at {cost} topics of {}", retained.len());
        }
    }

    #[test]
    fn a_sweep_removes_what_expired_in_small_steps() {
        let mut retained = Retained::new();
        for n in 0..100u8 {
            retained.set(expiring(&format!("a/{n}"), n % 2 == 0));
        }
        let mut after = None;
        let mut steps = 0;
        loop {
            steps += 1;
            after = retained.expire(Wall(1_000), after.as_deref(), 10, drop);
            if after.is_none() {
                break;
            }
        }
        assert_eq!((steps, retained.len()), (10, 50));
        assert_eq!(retained.expire(Wall(1_000), None, 50, drop), None);
    }

    proptest! {
        #[test]
        fn pages_agree_with_the_definition(
            topics in prop::collection::btree_set(make::topic(), 0..60),
            filters in prop::collection::vec(make::filter(), 1..10),
            scan_max in 1usize..20,
        ) {
            let retained = retained(topics.iter().map(|topic| &topic[..]));
            for filter in &filters {
                let expected: Vec<_> = topics.iter().filter(|t| filter::matches(filter, t)).cloned().collect();
                prop_assert_eq!(all(&retained, filter, scan_max), expected, "{}", filter);
            }
        }

        #[test]
        fn what_stays_between_pages_is_seen_exactly_once(
            topics in prop::collection::btree_set(make::topic(), 0..60),
            changes in prop::collection::vec((make::topic(), any::<bool>()), 0..60),
            filter in make::filter(),
            scan_max in 1usize..5,
        ) {
            let mut retained = retained(topics.iter().map(|topic| &topic[..]));
            let mut present = topics.clone();
            let mut stayed = topics;
            let mut seen = Vec::new();
            let mut changes = changes.into_iter();
            let mut after: Option<Box<str>> = None;
            loop {
                after = retained.page(&filter, after.as_deref(), scan_max, |message| {
                    seen.push(String::from(message.topic()));
                    true
                });
                if after.is_none() {
                    break;
                }
                for (topic, add) in changes.by_ref().take(3) {
                    if add {
                        retained.set(message(&topic, b"new"));
                        present.insert(topic);
                    } else {
                        retained.remove(&topic);
                        present.remove(&topic);
                        stayed.remove(&topic);
                    }
                }
            }
            prop_assert_eq!(retained.len(), present.len());
            prop_assert!(seen.is_sorted(), "{:?}", seen);
            let once: Model<_> = seen.iter().cloned().collect();
            prop_assert_eq!(once.len(), seen.len());
            prop_assert!(seen.iter().all(|topic| filter::matches(&filter, topic)));
            prop_assert!(stayed.iter().filter(|t| filter::matches(&filter, t)).all(|t| once.contains(t)));
        }

        #[test]
        fn what_is_kept_is_counted(
            ops in prop::collection::vec((make::topic(), 0u8..8, prop::collection::vec(any::<u8>(), 0..9)), 1..80),
            step in 0usize..5,
        ) {
            let mut retained = Retained::new();
            let mut model: BTreeMap<String, Message> = BTreeMap::new();
            for (now, (topic, what, payload)) in ops.into_iter().enumerate() {
                let now = now as u64;
                match what {
                    0 => prop_assert_eq!(retained.remove(&topic), model.remove(&topic)),
                    1 => {
                        let mut after = None;
                        loop {
                            after = retained.expire(Wall(now), after.as_deref(), step, drop);
                            if after.is_none() {
                                break;
                            }
                        }
                        model.retain(|_, message| message.expires().is_none_or(|at| at > Wall(now)));
                    }
                    _ => {
                        let expires = (what > 4).then(|| Wall(now + u64::from(what)));
                        let message = Message::with_properties(&topic, &payload, QoS::AtMostOnce, true, &[], expires);
                        let message = message.unwrap();
                        prop_assert_eq!(retained.set(message.clone()), model.insert(topic, message));
                    }
                }
                prop_assert_eq!((retained.len(), retained.is_empty()), (model.len(), model.is_empty()));
                prop_assert_eq!(retained.bytes(), model.values().map(Message::size).sum::<usize>());
                let expiring = model.values().filter(|message| message.expires().is_some()).count();
                prop_assert_eq!(retained.expiring(), expiring);
                prop_assert!(model.iter().all(|(topic, message)| retained.get(topic) == Some(message)));
            }
        }
    }
}

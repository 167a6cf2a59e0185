//! Subscriptions and retained messages against a naive definition of what matches, written for this alone.

use crate::script::Script;
use culex_core::id::Id;
use culex_core::packet::{QoS, RetainHandling, SubscriptionOptions};
use culex_core::topic::{Filter, Retained, Subscription, SubscriptionIndex, filter, is_topic_name};
use culex_core::{Message, Seed, SessionId, Wall};
use std::collections::BTreeMap;
use std::num::NonZeroU32;

/// Target `topics`: see the table in `fuzz/README.md`.
///
/// # Panics
/// If something that must hold does not.
pub fn topics(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let mut world = World {
        index: SubscriptionIndex::new(Seed(script.byte().into())),
        subscribed: Vec::new(),
        generations: [0; SESSIONS],
        retained: Retained::new(),
        kept: BTreeMap::new(),
        page: None,
        now: 0,
        serial: 0,
    };
    while let Some(op) = script.next() {
        world.perform(op & 0x0F, usize::from(op >> 4), &mut script);
        assert_eq!(world.index.len(), world.subscribed.len());
        assert_eq!(world.index.holds_nothing(), world.subscribed.is_empty());
        assert_eq!(world.retained.len(), world.kept.len());
        assert_eq!(world.retained.bytes(), world.kept.values().map(Message::size).sum::<usize>());
    }
    for who in 0..SESSIONS {
        world.end_session(who);
    }
    assert!(world.index.holds_nothing() && world.index.is_empty());
}

const SESSIONS: usize = 16;

/// Levels that meet often, among them such as sort before and behind `/`.
const LEVELS: [&str; 11] = ["a", "b", "", "a-", "a0", "$x", "$share", "ä", "x", "+", "#"];

/// A text of levels, or any.
fn words(script: &mut Script<'_>) -> String {
    match script.byte() {
        0xFF => script.text().into(),
        choices => {
            let count = choices % 5 + 1;
            let levels: Vec<_> = (0..count).map(|_| script.pick(&LEVELS)).collect();
            levels.join("/")
        }
    }
}

/// The Topic Name in the text: wildcards are replaced by a letter.
fn topic(script: &mut Script<'_>) -> String {
    let topic = words(script).replace(['+', '#'], "a");
    if topic.is_empty() { "/".into() } else { topic }
}

/// What the standard says about a filter, level by level.
mod naive {
    /// ShareName and filter, if it is well-formed.
    pub(super) fn parse(text: &str) -> Option<(Option<&str>, &str)> {
        let levels: Vec<&str> = text.split('/').collect();
        let (share, from) = match levels[..] {
            ["$share", name, _, ..] if name.is_empty() || name.contains(['+', '#']) => return None,
            ["$share", name, ..] if levels.len() > 2 => (Some(name), 2),
            ["$share", _, ..] => return None,
            _ => (None, 0),
        };
        let rest = &levels[from..];
        let good = |(at, level): (usize, &&str)| match *level {
            "#" => at + 1 == rest.len(),
            "+" => true,
            name => !name.contains(['+', '#', '\0']),
        };
        let skipped: usize = levels[..from].iter().map(|level| level.len() + 1).sum();
        let filter = &text[skipped..];
        (!filter.is_empty() && text.len() < 65_536 && rest.iter().enumerate().all(good))
            .then_some((share, filter))
    }

    pub(super) fn matches(filter: &str, topic: &str) -> bool {
        let filter: Vec<&str> = filter.split('/').collect();
        let topic: Vec<&str> = topic.split('/').collect();
        !(topic[0].starts_with('$') && ["+", "#"].contains(&filter[0])) && levels(&filter, &topic)
    }

    fn levels(filter: &[&str], topic: &[&str]) -> bool {
        match (filter, topic) {
            ([], []) | (["#"], _) => true,
            (["+", filter @ ..], [_, topic @ ..]) => levels(filter, topic),
            ([one, filter @ ..], [other, topic @ ..]) => one == other && levels(filter, topic),
            _ => false,
        }
    }
}

struct Subscribed {
    who: usize,
    share: Option<String>,
    filter: String,
    options: SubscriptionOptions,
    identifier: Option<NonZeroU32>,
}

/// A page of retained messages that goes on.
struct Page {
    filter: String,
    after: Option<Box<str>>,
    /// Those that matched when it began, and were there ever since.
    owed: Vec<String>,
    seen: Vec<String>,
}

struct World {
    index: SubscriptionIndex,
    subscribed: Vec<Subscribed>,
    generations: [u32; SESSIONS],
    retained: Retained,
    kept: BTreeMap<String, Message>,
    page: Option<Page>,
    now: u64,
    /// Tells subscriptions apart.
    serial: u32,
}

impl World {
    fn perform(&mut self, op: u8, who: usize, script: &mut Script<'_>) {
        match op {
            0..=3 => self.subscribe(who, script),
            4 => self.unsubscribe(who, script),
            5 => self.end_session(who),
            6 => self.touch_what_is_gone(who, script),
            7 | 8 => {
                let topic = topic(script);
                self.publish(&topic, who);
            }
            9 => self.take_turns(script),
            10 | 11 => self.retain(script),
            12 => {
                let topic = topic(script);
                assert_eq!(self.retained.remove(&topic), self.kept.remove(&topic));
                self.forget(&topic);
            }
            13 => self.begin_page(script),
            14 => self.next_page(usize::from(script.byte() % 8)),
            _ => self.expire(script),
        }
    }

    fn session(&self, who: usize) -> SessionId {
        SessionId::new(who as u32, self.generations[who])
    }

    /// Core's opinion of a filter must be the naive one.
    fn parse(text: &str) -> Option<(Option<&str>, &str)> {
        let expected = naive::parse(text);
        let parsed = Filter::parse(text);
        assert_eq!(parsed.map(|parsed| (parsed.share, parsed.filter)).ok(), expected, "{text:?}");
        if let Ok(parsed) = parsed {
            assert_eq!(parsed.wildcard, parsed.filter.contains(['+', '#']), "{text:?}");
            let again = match parsed.share {
                Some(share) => format!("$share/{share}/{}", parsed.filter),
                None => parsed.filter.into(),
            };
            assert_eq!(again, text);
        }
        expected
    }

    fn place(&self, who: usize, share: Option<&str>, filter: &str) -> Option<usize> {
        let is_it =
            |one: &Subscribed| one.who == who && one.share.as_deref() == share && one.filter == filter;
        self.subscribed.iter().position(is_it)
    }

    fn subscribe(&mut self, who: usize, script: &mut Script<'_>) {
        let text = words(script);
        let Some((share, filter)) = Self::parse(&text) else { return };
        let flags = script.byte();
        let options = SubscriptionOptions {
            qos: QoS::from_bits(flags & 3).unwrap_or_default(),
            no_local: flags & 4 != 0,
            retain_as_published: flags & 8 != 0,
            retain_handling: RetainHandling::default(),
        };
        self.serial += 1;
        // By it is told for which group a session got a message.
        let named = share.is_some() || flags & 16 == 0;
        let identifier = if named { NonZeroU32::new(self.serial) } else { None };
        let existed = self.index.subscribe(filter, share, self.session(who), options, identifier);
        let old = self.place(who, share, filter);
        assert_eq!(existed, old.is_some(), "{text:?} of {who}");
        if let Some(at) = old {
            self.subscribed.swap_remove(at);
        }
        let (share, filter) = (share.map(String::from), filter.into());
        self.subscribed.push(Subscribed { who, share, filter, options, identifier });
        self.check_session(who);
    }

    fn unsubscribe(&mut self, who: usize, script: &mut Script<'_>) {
        let text = match script.byte() {
            // One that there is.
            0x80.. if !self.subscribed.is_empty() => {
                let one = &self.subscribed[usize::from(script.byte()) % self.subscribed.len()];
                one.share.iter().map(|share| format!("$share/{share}/")).collect::<String>() + &one.filter
            }
            _ => words(script),
        };
        let Some((share, filter)) = Self::parse(&text) else { return };
        let old = self.place(who, share, filter);
        assert_eq!(self.index.unsubscribe(filter, share, self.session(who)), old.is_some());
        if let Some(at) = old {
            self.subscribed.swap_remove(at);
        }
        self.check_session(who);
    }

    fn end_session(&mut self, who: usize) {
        let before = self.subscribed.len();
        self.subscribed.retain(|one| one.who != who);
        assert_eq!(self.index.remove_session(self.session(who)), before - self.subscribed.len());
        self.check_session(who);
        self.generations[who] += 1;
    }

    /// A session that ended has nothing, whoever has its place now.
    fn touch_what_is_gone(&mut self, who: usize, script: &mut Script<'_>) {
        let Some(generation) = self.generations[who].checked_sub(1) else { return };
        let gone = SessionId::new(who as u32, generation);
        assert_eq!((self.index.count(gone), self.index.filters(gone).count()), (0, 0));
        let text = words(script);
        if let Some((share, filter)) = Self::parse(&text) {
            assert!(!self.index.unsubscribe(filter, share, gone));
        }
        assert_eq!(self.index.remove_session(gone), 0);
        self.check_session(who);
    }

    fn check_session(&self, who: usize) {
        let session = self.session(who);
        let mut listed: Vec<_> = self.index.filters(session).collect();
        let mut expected: Vec<_> = self
            .subscribed
            .iter()
            .filter(|one| one.who == who)
            .map(|one| (one.share.as_deref(), &*one.filter, one.options, one.identifier))
            .collect();
        assert_eq!(self.index.count(session), expected.len());
        listed.sort_by_key(|(share, filter, ..)| (*share, *filter));
        expected.sort_by_key(|(share, filter, ..)| (*share, *filter));
        assert_eq!(listed, expected);
    }

    /// Everybody who subscribed alone gets it, and of every group one: the preferred if he is in it.
    fn publish(&mut self, topic: &str, preferred: usize) {
        assert!(is_topic_name(topic), "{topic:?}");
        let mut found: Vec<Subscription> = Vec::new();
        let prefer = self.session(preferred);
        self.index.matches(topic, |one| found.push(one), |one| one.session == prefer);
        let mut groups: BTreeMap<(&str, &str), Vec<Subscription>> = BTreeMap::new();
        for one in &self.subscribed {
            let matches = naive::matches(&one.filter, topic);
            assert_eq!(filter::matches(&one.filter, topic), matches, "{} {topic}", one.filter);
            if !matches {
                continue;
            }
            let (session, options, identifier) = (self.session(one.who), one.options, one.identifier);
            let expected = Subscription { session, options, identifier };
            match &one.share {
                Some(share) => groups.entry((share, &one.filter)).or_default().push(expected),
                None => {
                    let at = found.iter().position(|found| *found == expected);
                    found.swap_remove(at.unwrap_or_else(|| panic!("{topic} misses {expected:?}")));
                }
            }
        }
        assert_eq!(found.len(), groups.len(), "{topic}: {found:?}, {groups:?}");
        for (group, members) in groups {
            let preferred = members.iter().find(|member| member.session == prefer);
            let may = |one: &Subscription| match preferred {
                Some(preferred) => one == preferred,
                None => members.contains(one),
            };
            let at = found.iter().position(may);
            found.swap_remove(at.unwrap_or_else(|| panic!("{topic}: nobody of {group:?}")));
        }
    }

    /// While a group stays as it is, everybody in it has his turn.
    fn take_turns(&mut self, script: &mut Script<'_>) {
        let topic = topic(script);
        let mut groups: BTreeMap<(&str, &str), Vec<SessionId>> = BTreeMap::new();
        for one in &self.subscribed {
            if let Some(share) = &one.share
                && naive::matches(&one.filter, &topic)
            {
                groups.entry((share, &one.filter)).or_default().push(self.session(one.who));
            }
        }
        // Only alone it can be told who got it for which group.
        let [(group, members)] = &groups.into_iter().collect::<Vec<_>>()[..] else { return };
        let alone = |one: &Subscribed| one.share.is_none() && naive::matches(&one.filter, &topic);
        if self.subscribed.iter().any(alone) {
            return;
        }
        let mut turns = Vec::new();
        for _ in 0..members.len() {
            self.index.matches(&topic, |one| turns.push(one.session), |_| false);
        }
        turns.sort_unstable();
        let mut members = members.clone();
        members.sort_unstable();
        assert_eq!(turns, members, "{group:?}");
    }

    fn retain(&mut self, script: &mut Script<'_>) {
        let topic = topic(script);
        let how = script.byte();
        let expires = (how & 1 != 0).then(|| Wall(self.now + u64::from(how >> 1)));
        let Ok(message) =
            Message::with_properties(&topic, script.short(), QoS::AtMostOnce, true, &[], expires)
        else {
            return;
        };
        assert_eq!(self.retained.set(message.clone()), self.kept.insert(topic.clone(), message));
        assert_eq!(self.retained.get(&topic), self.kept.get(&topic));
    }

    /// A message that was removed is owed to nobody, even if another one takes its place.
    fn forget(&mut self, topic: &str) {
        if let Some(page) = &mut self.page {
            page.owed.retain(|owed| owed != topic);
        }
    }

    fn begin_page(&mut self, script: &mut Script<'_>) {
        let text = words(script);
        let Some((_, filter)) = Self::parse(&text) else { return };
        let owed = self.kept.keys().filter(|topic| naive::matches(filter, topic)).cloned().collect();
        self.page = Some(Page { filter: filter.into(), after: None, owed, seen: Vec::new() });
    }

    fn next_page(&mut self, scan_max: usize) {
        let Some(mut page) = self.page.take() else { return };
        let (kept, most) = (&self.kept, scan_max.max(1));
        let mut found = 0;
        page.after = self.retained.page(&page.filter, page.after.as_deref(), scan_max, |message| {
            assert_eq!(Some(message), kept.get(message.topic()), "not the last one");
            page.seen.push(message.topic().into());
            found += 1;
            true
        });
        assert!(found <= most, "{found} on a page of {most}");
        assert!(page.seen.is_sorted_by(|one, other| one < other), "out of order or twice: {:?}", page.seen);
        assert!(page.seen.iter().all(|topic| naive::matches(&page.filter, topic)), "{}", page.filter);
        if page.after.is_some() {
            self.page = Some(page);
        } else {
            let missing: Vec<_> = page.owed.iter().filter(|topic| !page.seen.contains(topic)).collect();
            assert!(missing.is_empty(), "{} misses {missing:?}", page.filter);
        }
    }

    /// Time passes, and what expired goes, in steps of any size.
    fn expire(&mut self, script: &mut Script<'_>) {
        self.now += u64::from(script.byte());
        let step = usize::from(script.byte() % 8);
        let now = Wall(self.now);
        let mut after = None;
        for _ in 0..=self.kept.len() {
            after = self.retained.expire(now, after.as_deref(), step, drop);
            if after.is_none() {
                break;
            }
        }
        assert_eq!(after, None, "a sweep without end");
        let gone: Vec<_> = self
            .kept
            .iter()
            .filter(|(_, message)| message.expired(now))
            .map(|(topic, _)| topic.clone())
            .collect();
        for topic in gone {
            self.kept.remove(&topic);
            self.forget(&topic);
        }
        let expiring = self.kept.values().filter(|message| message.expires().is_some()).count();
        assert_eq!(self.retained.expiring(), expiring);
    }
}

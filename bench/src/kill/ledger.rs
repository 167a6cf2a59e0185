//! What was promised, what arrived, and what is wrong with it.
//!
//! There is one thread, so everything has its place in one order: a message that was sent for the first time after SUBACK
//! and was acknowledged to the end before UNSUBSCRIBE is owed, one that was sent after UNSUBACK must not come.

use super::client::Token;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The messages of one publisher at one QoS, in the order in which they were sent.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) topic: String,
    pub(super) qos: u8,
    /// Whether somebody is owed them: not what expires.
    pub(super) lasting: bool,
    pub(super) messages: Vec<Life>,
}

/// When what happened to a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Life {
    sent: u64,
    acknowledged: Option<u64>,
    done: Option<u64>,
}

/// A subscription, from its beginning to its end.
#[derive(Debug)]
struct Span {
    filter: String,
    qos: u8,
    asked: u64,
    granted: Option<u64>,
    leaving: Option<u64>,
    left: Option<u64>,
}

impl Span {
    /// It was there before the message was sent, and until it was done.
    fn promises(&self, life: &Life) -> bool {
        self.granted.is_some_and(|granted| granted < life.sent)
            && self.leaving.is_none_or(|leaving| life.done.is_some_and(|done| done < leaving))
    }
}

/// What a subscriber subscribed to and got.
#[derive(Debug, Default)]
pub(super) struct Account {
    name: String,
    spans: Vec<Span>,
    /// By stream: how often each number came, and the highest one.
    got: BTreeMap<usize, (Vec<u8>, Option<u64>)>,
}

/// A retained message: its writes, the number of the last acknowledged one.
#[derive(Debug, Default)]
struct Kept {
    writes: u64,
    acknowledged: Option<u64>,
}

/// Wills by their number.
#[derive(Debug, Default)]
struct Wills {
    owed: BTreeSet<u64>,
    forbidden: BTreeSet<u64>,
    /// The connection ended by a goodbye, at this time; not known whether that is durable.
    settled: BTreeMap<u64, u64>,
    got: BTreeMap<u64, u32>,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    clock: u64,
    pub(super) streams: Vec<Stream>,
    pub(super) accounts: Vec<Account>,
    kept: BTreeMap<usize, Kept>,
    wills: Wills,
    pub(super) counts: Counts,
    /// The first breaches in words.
    pub(super) breaches: Vec<String>,
}

/// What is said in the end.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) delivered: u64,
    /// Deliveries that are owed and never came.
    pub(super) lost: u64,
    /// A message at QoS 2 that came twice.
    pub(super) duplicates: u64,
    /// A message at QoS 1 that came more than once: allowed.
    pub(super) repeated: u64,
    pub(super) disorder: u64,
    /// Messages that came to who had unsubscribed before they were sent.
    pub(super) unasked: u64,
    pub(super) sessions_lost: u64,
    /// Sessions that were there although their time was over.
    pub(super) sessions_left: u64,
    pub(super) retained_wrong: u64,
    pub(super) wills_lost: u64,
    pub(super) wills_wrong: u64,
    pub(super) expired: u64,
    pub(super) unfinished: u64,
}

impl Counts {
    /// Whether anything is not as it must be.
    pub(super) fn is_breach(&self) -> bool {
        let Self { delivered: _, repeated: _, .. } = self;
        let allowed = Self { delivered: self.delivered, repeated: self.repeated, ..Self::default() };
        *self != allowed
    }
}

impl Ledger {
    /// The next moment.
    pub(super) fn now(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    pub(super) fn breach(&mut self, words: impl FnOnce() -> String) {
        if self.breaches.len() < BREACHES_MAX {
            self.breaches.push(words());
        }
    }

    pub(super) fn add_account(&mut self, name: &str) {
        self.accounts.push(Account { name: name.to_owned(), ..Account::default() });
    }

    /// A message is about to be sent for the first time; gives its number.
    pub(super) fn send(&mut self, stream: usize) -> u64 {
        let sent = self.now();
        let messages = &mut self.streams[stream].messages;
        messages.push(Life { sent, acknowledged: None, done: None });
        messages.len() as u64 - 1
    }

    pub(super) fn acknowledge(&mut self, token: Token) {
        let now = self.now();
        let life = &mut self.streams[token.stream].messages[token.number as usize];
        life.acknowledged = Some(now);
        let sent = life.sent;
        // It is durable, and with it all that happened before it was sent.
        self.wills.settled.retain(|number, closed| {
            let durable = *closed < sent;
            if durable {
                self.wills.forbidden.insert(*number);
            }
            !durable
        });
        if let Some(kept) = self.kept.get_mut(&token.stream) {
            kept.acknowledged = kept.acknowledged.max(Some(token.number));
        }
    }

    pub(super) fn done(&mut self, token: Token) {
        let now = self.now();
        self.streams[token.stream].messages[token.number as usize].done = Some(now);
    }

    pub(super) fn subscribing(&mut self, account: usize, filter: &str, qos: u8) {
        let asked = self.now();
        let spans = &mut self.accounts[account].spans;
        let filter = filter.to_owned();
        // What is asked for again, because nobody answered, began when it was asked for the first time.
        if !spans.iter().any(|span| span.filter == filter && span.leaving.is_none()) {
            spans.push(Span { filter, qos, asked, granted: None, leaving: None, left: None });
        }
    }

    pub(super) fn subscribed(&mut self, account: usize) {
        let now = self.now();
        for span in self.accounts[account].spans.iter_mut().filter(|span| span.leaving.is_none()) {
            span.granted.get_or_insert(now);
        }
    }

    pub(super) fn is_subscribed(&self, account: usize) -> bool {
        self.accounts[account].spans.iter().any(|span| span.leaving.is_none())
    }

    pub(super) fn unsubscribing(&mut self, account: usize, filter: &str) {
        let now = self.now();
        let spans = self.accounts[account].spans.iter_mut();
        for span in spans.filter(|span| span.filter == filter && span.left.is_none()) {
            span.leaving.get_or_insert(now);
        }
    }

    pub(super) fn unsubscribed(&mut self, account: usize) {
        let now = self.now();
        let spans = self.accounts[account].spans.iter_mut();
        for span in spans.filter(|span| span.leaving.is_some()) {
            span.left.get_or_insert(now);
        }
    }

    /// A message came to a subscriber.
    pub(super) fn deliver(&mut self, account: usize, topic: &str, payload: &[u8]) {
        let number = payload.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
        self.counts.delivered += 1;
        if topic.starts_with("w/") {
            *self.wills.got.entry(number.unwrap_or(u64::MAX)).or_default() += 1;
            return;
        }
        let stream = self.streams.iter().position(|stream| stream.topic == topic);
        let known = stream
            .zip(number)
            .filter(|(stream, number)| (*number as usize) < self.streams[*stream].messages.len());
        let Some((at, number)) = known else {
            self.counts.unasked += 1;
            return self.breach(|| format!("a message that nobody sent: {topic} {number:?}"));
        };
        let stream = &self.streams[at];
        let Account { name, spans, got } = &mut self.accounts[account];
        let (times, highest) = got.entry(at).or_default();
        if times.len() <= number as usize {
            times.resize(number as usize + 1, 0);
        }
        let before = times[number as usize];
        times[number as usize] = before.saturating_add(1);
        let life = stream.messages[number as usize];
        let matching = || spans.iter().filter(|span| matches(&span.filter, topic));
        let qos = matching().map(|span| span.qos.min(stream.qos)).max().unwrap_or_default();
        let asked = matching().any(|span| {
            life.done.is_none_or(|done| span.asked <= done) && span.left.is_none_or(|left| life.sent < left)
        });
        // Who subscribed in between may get a later one first, when a publisher sends both again.
        let promised = matching().any(|span| span.promises(&life));
        let early = promised && highest.is_some_and(|highest| number < highest);
        *highest = (*highest).max(Some(number));
        let line = format!("{name}: {topic} {number}");
        match before {
            0 if early => {
                self.counts.disorder += 1;
                self.breach(|| format!("{line} came after later ones"));
            }
            0 => {}
            _ if qos == 2 => {
                self.counts.duplicates += 1;
                self.breach(|| format!("{line} came again at QoS 2"));
            }
            _ => self.counts.repeated += 1,
        }
        if !asked {
            self.counts.unasked += 1;
            self.breach(|| format!("{line} came although it was sent outside of the subscription"));
        }
    }

    /// Who was away until everything of that had expired must not have got it.
    pub(super) fn expired_for(&mut self, account: usize) {
        for (at, stream) in self.streams.iter().enumerate().filter(|(_, stream)| !stream.lasting) {
            let got = self.accounts[account].got.get(&at);
            let count = got.map_or(0, |(times, _)| times.iter().filter(|times| **times > 0).count());
            self.counts.expired += count as u64;
            if count > 0 {
                self.breaches
                    .push(format!("{count} messages of {} came after they had expired", stream.topic));
            }
        }
    }

    /// A message of this stream is retained.
    pub(super) fn keep(&mut self, stream: usize) {
        self.kept.entry(stream).or_default().writes += 1;
    }

    /// What a new subscriber got as retained.
    pub(super) fn check_kept(&mut self, found: &BTreeMap<String, u64>) {
        let mut wrong = Vec::new();
        for (stream, Kept { writes, acknowledged }) in &self.kept {
            let topic = &self.streams[*stream].topic;
            let right = match found.get(topic) {
                Some(number) => *number < *writes && acknowledged.is_none_or(|last| *number >= last),
                None => acknowledged.is_none(),
            };
            if !right {
                let number = found.get(topic);
                wrong.push(format!("{topic}: {number:?} is retained, {acknowledged:?} was acknowledged"));
            }
        }
        self.counts.retained_wrong += wrong.len() as u64;
        wrong.into_iter().for_each(|line| self.breach(|| line));
    }

    pub(super) fn owe_will(&mut self, number: u64) {
        self.wills.owed.insert(number);
    }

    /// The broker closed after a goodbye.
    pub(super) fn settle_will(&mut self, number: u64) {
        let now = self.now();
        self.wills.settled.insert(number, now);
    }

    /// The broker is dead: what it did last and acknowledged nothing after may not be durable.
    pub(super) fn killed(&mut self) {
        self.wills.settled.clear();
    }

    /// What is owed and did not come.
    pub(super) fn missing(&self, account: usize) -> Vec<(usize, u64)> {
        let Account { spans, got, .. } = &self.accounts[account];
        let mut missing = Vec::new();
        for (at, stream) in self.streams.iter().enumerate().filter(|(_, stream)| stream.lasting) {
            let spans: Vec<_> = spans.iter().filter(|span| matches(&span.filter, &stream.topic)).collect();
            let times = got.get(&at).map_or(&[][..], |(times, _)| times);
            for (number, life) in stream.messages.iter().enumerate() {
                let owed = life.acknowledged.is_some() && spans.iter().any(|span| span.promises(life));
                if owed && times.get(number).is_none_or(|times| *times == 0) {
                    missing.push((at, number as u64));
                }
            }
        }
        missing
    }

    pub(super) fn wills_missing(&self) -> usize {
        self.wills.owed.iter().filter(|number| !self.wills.got.contains_key(number)).count()
    }

    /// What is wrong in the end.
    pub(super) fn close(&mut self) {
        for account in 0..self.accounts.len() {
            let missing = self.missing(account);
            self.counts.lost += missing.len() as u64;
            if let Some((stream, number)) = missing.first() {
                let (name, topic) = (&self.accounts[account].name, &self.streams[*stream].topic);
                let line = format!("{name}: {} messages never came, first {topic} {number}", missing.len());
                self.breaches.push(line);
            }
        }
        self.counts.wills_lost = self.wills_missing() as u64;
        let wrong = self.wills.forbidden.iter().filter(|number| self.wills.got.contains_key(number));
        self.counts.wills_wrong = wrong.count() as u64;
        if self.counts.wills_lost + self.counts.wills_wrong > 0 {
            let Counts { wills_lost, wills_wrong, .. } = self.counts;
            self.breaches.push(format!("{wills_lost} wills never came, {wills_wrong} came after a goodbye"));
        }
        let messages = self.streams.iter().flat_map(|stream| &stream.messages);
        self.counts.unfinished = messages.filter(|life| life.done.is_none()).count() as u64;
    }

    /// Messages that were sent, and that were acknowledged.
    pub(super) fn sums(&self) -> (usize, usize) {
        let messages = || self.streams.iter().flat_map(|stream| &stream.messages);
        (messages().count(), messages().filter(|life| life.acknowledged.is_some()).count())
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = [
            ("delivered", self.delivered),
            ("of them again at QoS 1, which is allowed", self.repeated),
            ("lost: acknowledged, owed, never delivered", self.lost),
            ("duplicates at QoS 2", self.duplicates),
            ("out of order", self.disorder),
            ("sent outside of the subscription", self.unasked),
            ("sessions lost", self.sessions_lost),
            ("sessions there after their time", self.sessions_left),
            ("retained messages wrong", self.retained_wrong),
            ("wills lost", self.wills_lost),
            ("wills after a goodbye", self.wills_wrong),
            ("expired messages delivered", self.expired),
            ("never acknowledged to the end", self.unfinished),
        ];
        lines.iter().try_for_each(|(what, count)| writeln!(f, "{what:<42} {count}"))
    }
}

/// Whether a filter of the script matches.
fn matches(filter: &str, topic: &str) -> bool {
    let mut levels = topic.split('/');
    for level in filter.split('/') {
        match (level, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (level, Some(name)) if level == name => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

const BREACHES_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        let stream = Stream { topic: "p/0/q2".into(), qos: 2, lasting: true, messages: Vec::new() };
        ledger.streams.push(stream);
        ledger.add_account("s");
        ledger
    }

    fn send(ledger: &mut Ledger) -> Token {
        Token { stream: 0, number: ledger.send(0) }
    }

    fn finish(ledger: &mut Ledger, token: Token) {
        ledger.acknowledge(token);
        ledger.done(token);
    }

    #[test]
    fn what_was_acknowledged_within_a_subscription_is_owed() {
        let mut ledger = ledger();
        let before = send(&mut ledger);
        ledger.subscribing(0, "p/#", 2);
        ledger.subscribed(0);
        let [owed, open, last] = [(); 3].map(|()| send(&mut ledger));
        finish(&mut ledger, before);
        finish(&mut ledger, owed);
        ledger.unsubscribing(0, "p/#");
        finish(&mut ledger, last);
        assert_eq!(ledger.missing(0), [(0, owed.number)]);
        ledger.deliver(0, "p/0/q2", &owed.number.to_be_bytes());
        ledger.close();
        assert_eq!((ledger.counts.lost, ledger.counts.unfinished), (0, 1), "{open:?} is nobody's fault");
    }

    #[test]
    fn duplicates_disorder_and_what_nobody_asked_for_are_breaches() {
        let mut ledger = ledger();
        ledger.subscribing(0, "p/+/q2", 2);
        ledger.subscribed(0);
        let numbers = [(); 3].map(|()| send(&mut ledger).number.to_be_bytes());
        for number in [numbers[1], numbers[1], numbers[0]] {
            ledger.deliver(0, "p/0/q2", &number);
        }
        assert_eq!((ledger.counts.duplicates, ledger.counts.disorder, ledger.counts.unasked), (1, 1, 0));
        ledger.unsubscribing(0, "p/+/q2");
        ledger.unsubscribed(0);
        let late = send(&mut ledger);
        ledger.deliver(0, "p/0/q2", &late.number.to_be_bytes());
        assert_eq!(ledger.counts.unasked, 1);
        assert!(
            ledger.counts.is_breach()
                && !Counts { delivered: 1, repeated: 1, ..Counts::default() }.is_breach()
        );
    }

    #[test]
    fn a_retained_message_is_the_last_one_acknowledged_or_a_later_one() {
        let mut ledger = ledger();
        for _ in 0..3 {
            send(&mut ledger);
            ledger.keep(0);
        }
        ledger.acknowledge(Token { stream: 0, number: 1 });
        let mut wrong = |found: Option<u64>| {
            let before = ledger.counts.retained_wrong;
            ledger.check_kept(&found.map(|number| ("p/0/q2".to_owned(), number)).into_iter().collect());
            ledger.counts.retained_wrong - before
        };
        assert_eq!([None, Some(0), Some(1), Some(2), Some(3)].map(&mut wrong), [1, 1, 0, 0, 1]);
    }
}

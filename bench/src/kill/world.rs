//! The clients, what they do in a round, and the broker between its kills.

use super::broker::Durable;
use super::client::{Client, Event, Outgoing, Token};
use super::ledger::{Ledger, Stream};
use crate::Trouble;
use culex_core::hash::{Random, Seed};
use culex_core::packet::{QoS, Version};
use rustix::event::{Timespec, poll};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Publishers and then subscribers have these numbers, behind them who has a will, who says goodbye before its will is due,
/// and who comes back too late.
const PUBLISHERS: usize = 4;
const WILL: usize = PUBLISHERS + SUBSCRIBERS.len();
const POLITE: usize = WILL + 1;
const LATE: usize = POLITE + 1;
/// Each publisher has these streams.
const KINDS: [&str; 4] = ["q1", "q2", "x", "r"];
const SHORT: usize = 2;
const RETAINED: usize = 3;

/// Who subscribes to what.
struct Script {
    name: &'static str,
    version: Version,
    filters: &'static [(&'static str, QoS)],
    presence: Presence,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    /// In every round, from its beginning.
    Always,
    /// Drawn for each round: there, away, coming or leaving.
    Sometimes,
    /// As before, and reads little at a time.
    Slow,
    /// There, and it unsubscribes and subscribes again.
    Changing,
    /// Subscribed, and away until the end.
    Away,
}

const SUBSCRIBERS: [Script; 6] = [
    Script {
        name: "all",
        version: Version::V5,
        filters: &[("p/#", QoS::ExactlyOnce), ("w/#", QoS::AtLeastOnce)],
        presence: Presence::Always,
    },
    Script {
        name: "old",
        version: Version::V311,
        filters: &[("p/#", QoS::AtLeastOnce)],
        presence: Presence::Sometimes,
    },
    Script {
        name: "once",
        version: Version::V311,
        filters: &[("p/+/q2", QoS::ExactlyOnce)],
        presence: Presence::Sometimes,
    },
    Script {
        name: "slow",
        version: Version::V5,
        filters: &[("p/0/#", QoS::AtLeastOnce), ("p/1/#", QoS::ExactlyOnce)],
        presence: Presence::Slow,
    },
    Script {
        name: "changing",
        version: Version::V5,
        filters: &[("p/2/#", QoS::ExactlyOnce)],
        presence: Presence::Changing,
    },
    Script {
        name: "away",
        version: Version::V5,
        filters: &[("p/#", QoS::ExactlyOnce)],
        presence: Presence::Away,
    },
];

/// What a client does in a round, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Come,
    /// With DISCONNECT.
    Leave,
    Break,
    Change,
}

/// A subscription that the broker was asked for, until it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Nothing,
    Subscribe,
    Unsubscribe,
}

pub(super) struct World {
    pub(super) broker: Durable,
    pub(super) ledger: Ledger,
    clients: Vec<Client>,
    /// By client: whether the broker acknowledged its session.
    known: Vec<bool>,
    wishes: Vec<Wish>,
    /// What each publisher draws its messages from.
    scripts: Vec<Random>,
    random: Random,
    traffic_ms: u64,
    /// Whether a single sequence of what is durable is promised.
    in_order: bool,
    windows: [usize; PUBLISHERS],
    publishing: bool,
    round: u64,
    /// When who comes back late went, and since when that is durable.
    went: Option<Instant>,
    gone: Option<Instant>,
    /// When this round began, and how much was acknowledged by then.
    began: Instant,
    acknowledged: usize,
    said_goodbye: bool,
    buffer: Box<[u8]>,
    pub(super) restarts: Vec<Duration>,
    kills: [u64; 2],
    pub(super) kept: u64,
}

impl World {
    pub(super) fn new(broker: Durable, seed: u64, traffic_ms: u64, in_order: bool) -> Self {
        let mut random = Random::new(Seed(seed));
        let (mut ledger, mut clients) = (Ledger::default(), Vec::new());
        for publisher in 0..PUBLISHERS {
            let version = if publisher % 2 == 0 { Version::V5 } else { Version::V311 };
            clients.push(Client::new(&format!("publisher-{publisher}"), version));
            for kind in KINDS {
                let (topic, qos) = match kind {
                    "r" => (format!("r/{publisher}"), 1),
                    "q2" => (format!("p/{publisher}/q2"), 2),
                    kind => (format!("p/{publisher}/{kind}"), 1),
                };
                let lasting = kind != KINDS[SHORT];
                ledger.streams.push(Stream { topic, qos, lasting, messages: Vec::new() });
            }
        }
        for script in &SUBSCRIBERS {
            clients.push(Client::new(script.name, script.version));
            ledger.add_account(script.name);
        }
        for name in ["will", "polite", "late"] {
            clients.push(Client::new(name, Version::V5));
        }
        clients[LATE].expiry_s = EXPIRY_S;
        let scripts = (0..PUBLISHERS).map(|_| Random::new(Seed(random.next()))).collect();
        let count = clients.len();
        Self {
            broker,
            ledger,
            clients,
            known: vec![false; count],
            wishes: vec![Wish::Nothing; count],
            scripts,
            random,
            traffic_ms,
            in_order,
            windows: [1; PUBLISHERS],
            publishing: false,
            round: 0,
            went: None,
            gone: None,
            began: Instant::now(),
            acknowledged: 0,
            said_goodbye: false,
            buffer: vec![0; 64 * 1024].into(),
            restarts: Vec::new(),
            kills: [0; 2],
            kept: 0,
        }
    }

    pub(super) fn kills(&self) -> String {
        format!("{}, {}", self.kills[0] + self.kills[1], self.kills[1])
    }

    /// A life of the broker, and its end.
    pub(super) fn round(&mut self, round: u64) -> Result<(), Trouble> {
        (self.round, self.began) = (round, Instant::now());
        if round > 0 && self.draw(5) == 0 {
            // Killed while it opens what it left, or just after.
            let patience = Duration::from_micros(self.draw(60_000));
            self.broker.spawn()?;
            std::thread::sleep(patience);
            self.broker.kill()?;
            self.kills[1] += 1;
        }
        self.start()?;
        if round == 0 {
            self.settle()?;
        }
        let mut acts = self.acts();
        self.publishing = true;
        for window in &mut self.windows {
            *window = 1 + (self.random.next() % WINDOW_MAX) as usize;
        }
        let (begin, until) = (Instant::now(), Duration::from_millis(10 + self.draw(self.traffic_ms)));
        while begin.elapsed() < until {
            while acts.last().is_some_and(|(at, _, _)| *at <= begin.elapsed()) {
                if let Some((_, client, act)) = acts.pop() {
                    self.act(client, act)?;
                }
            }
            self.turn()?;
            if self.broker.died() {
                return Err(Trouble::new(format!("the broker ended by itself: {}", self.broker.said())));
            }
        }
        self.kill()
    }

    /// Everybody comes back, nothing new is sent, and what is owed has to arrive.
    pub(super) fn drain(&mut self) -> Result<(), Trouble> {
        self.publishing = false;
        self.start()?;
        let away = self.away();
        for client in (0..WILL).filter(|client| *client != away) {
            self.act(client, Act::Come)?;
        }
        self.until(|world| {
            world.clients[..PUBLISHERS].iter().all(|client| client.ready && client.in_flight() == 0)
        })?;
        // What expires does so before its receiver comes.
        let expired = Instant::now() + EXPIRED;
        self.until(|_| Instant::now() > expired)?;
        self.act(away, Act::Come)?;
        self.until(|world| {
            let accounts = 0..SUBSCRIBERS.len();
            world.ledger.wills_missing() == 0
                && accounts.into_iter().all(|account| world.ledger.missing(account).is_empty())
        })?;
        // What comes behind that nobody is owed, as duplicates.
        let quiet = Instant::now() + QUIET;
        self.until(|_| Instant::now() > quiet)?;
        self.ledger.expired_for(SUBSCRIBERS.len() - 1);
        self.ledger.close();
        self.kept = self.broker.bytes();
        Ok(())
    }

    /// Turns until it is so, or nothing arrived for a long time: what is missing then is seen in the end.
    fn until(&mut self, mut so: impl FnMut(&Self) -> bool) -> Result<(), Trouble> {
        let (mut last, mut since) = (0, Instant::now());
        let mut look = Instant::now();
        loop {
            // Looking takes time where there are many messages.
            if look.elapsed() > LOOK {
                if so(self) {
                    return Ok(());
                }
                look = Instant::now();
            }
            self.turn()?;
            let now = self.ledger.now();
            // The clock of the ledger counts itself, and whatever happened.
            if now > last + 1 {
                since = Instant::now();
            }
            last = now;
            if since.elapsed() > PATIENCE {
                return Ok(());
            }
        }
    }

    fn start(&mut self) -> Result<(), Trouble> {
        let took = self.broker.start()?;
        if self.round > 0 {
            self.restarts.push(took);
        }
        self.look_at_kept()
    }

    /// A stranger gets the retained messages.
    fn look_at_kept(&mut self) -> Result<(), Trouble> {
        let mut stranger = Client::new("stranger", Version::V5);
        stranger.fleeting = true;
        stranger.connect(self.broker.address)?;
        let (mut found, mut events, begin) = (BTreeMap::new(), Vec::new(), Instant::now());
        loop {
            let mut sockets: Vec<_> = stranger.poll().into_iter().collect();
            poll(&mut sockets, Some(&TURN))?;
            stranger.read(&mut self.buffer, &mut events)?;
            for event in events.drain(..) {
                match event {
                    Event::Connected { .. } => stranger.subscribe(&[("r/#", QoS::AtMostOnce)]),
                    Event::Subscribed => stranger.ping(),
                    Event::Message { topic, payload } => {
                        found.insert(
                            topic,
                            payload.first_chunk().map_or(u64::MAX, |b| u64::from_be_bytes(*b)),
                        );
                    }
                    Event::Pong => {
                        self.ledger.check_kept(&found);
                        return Ok(());
                    }
                    _ => return Err(Trouble::new(format!("a stranger is not served: {event:?}"))),
                }
            }
            stranger.flush();
            if begin.elapsed() > PATIENCE {
                return Err(Trouble::new("a stranger is not served"));
            }
        }
    }

    /// The first round: everybody subscribes before anybody sends.
    fn settle(&mut self) -> Result<(), Trouble> {
        for client in PUBLISHERS..WILL {
            self.wishes[client] = Wish::Subscribe;
            self.act(client, Act::Come)?;
        }
        self.until(|world| world.wishes.iter().all(|wish| *wish == Wish::Nothing))?;
        (PUBLISHERS..WILL).try_for_each(|client| self.act(client, Act::Leave))
    }

    /// What is going to happen in this round, the last one first.
    fn acts(&mut self) -> Vec<(Duration, usize, Act)> {
        let mut acts = Vec::new();
        for client in 0..self.clients.len() {
            let presence = match client.checked_sub(PUBLISHERS) {
                Some(subscriber) if client < WILL => SUBSCRIBERS[subscriber].presence,
                _ => Presence::Always,
            };
            let [kind, first, second] =
                [self.draw(4), self.draw(self.traffic_ms), self.draw(self.traffic_ms)];
            let mut add = |at: u64, act: Act| acts.push((Duration::from_millis(at), client, act));
            match presence {
                // Again soon, and then for a long time not.
                _ if client == LATE && self.round % 16 > 1 => {}
                Presence::Away => {}
                Presence::Sometimes | Presence::Slow => match kind {
                    0 => add(0, Act::Come),
                    1 => {}
                    2 => add(first, Act::Come),
                    _ => {
                        add(0, Act::Come);
                        add(first, if second % 2 == 0 { Act::Leave } else { Act::Break });
                    }
                },
                Presence::Changing => {
                    add(0, Act::Come);
                    add(first, Act::Change);
                    add(second, Act::Change);
                }
                Presence::Always => {
                    add(0, Act::Come);
                    if client < WILL && kind == 0 {
                        add(first, Act::Break);
                        add(first + second / 4, Act::Come);
                    }
                    if client == LATE && kind % 2 == 0 {
                        add(first, Act::Leave);
                    }
                }
            }
        }
        acts.sort_by_key(|(at, _, _)| std::cmp::Reverse(*at));
        acts
    }

    fn act(&mut self, client: usize, act: Act) -> Result<(), Trouble> {
        match act {
            Act::Come => {
                if client == WILL || client == POLITE {
                    let number = self.round * 2 + u64::from(client == POLITE);
                    let topic = format!("w/{}", self.clients[client].name);
                    self.clients[client].will = Some((topic, number.to_be_bytes().to_vec()));
                    self.said_goodbye = false;
                }
                self.clients[client].connect(self.broker.address)?;
            }
            Act::Leave if self.clients[client].ready => {
                self.clients[client].disconnect();
                // The goodbye is read before anything else of the next connection.
                self.clients[client].close();
                self.gone(client);
            }
            Act::Break => self.clients[client].close(),
            Act::Change if self.clients[client].ready && self.wishes[client] == Wish::Nothing => {
                let subscribed = self.ledger.is_subscribed(client - PUBLISHERS);
                self.wishes[client] = if subscribed { Wish::Unsubscribe } else { Wish::Subscribe };
                self.wish(client);
            }
            Act::Leave | Act::Change => {}
        }
        Ok(())
    }

    fn gone(&mut self, client: usize) {
        if client == LATE {
            self.went = Some(Instant::now());
        }
    }

    /// Asks for what it wishes.
    fn wish(&mut self, client: usize) {
        let Some(account) = client.checked_sub(PUBLISHERS).filter(|account| *account < SUBSCRIBERS.len())
        else {
            return;
        };
        let filters = SUBSCRIBERS[account].filters;
        match self.wishes[client] {
            Wish::Nothing => {}
            Wish::Subscribe => {
                for (filter, qos) in filters {
                    self.ledger.subscribing(account, filter, *qos as u8);
                }
                self.clients[client].subscribe(filters);
            }
            Wish::Unsubscribe => {
                for (filter, _) in filters {
                    self.ledger.unsubscribing(account, filter);
                    self.clients[client].unsubscribe(filter);
                }
            }
        }
    }

    /// Waits a moment for something to happen, and lets everybody react.
    fn turn(&mut self) -> Result<(), Trouble> {
        if self.publishing {
            (0..PUBLISHERS).for_each(|publisher| self.publish(publisher));
        }
        self.clients.iter_mut().for_each(Client::flush);
        // Who is slow wakes nobody.
        let slow = |client: usize| {
            client.checked_sub(PUBLISHERS).and_then(|at| SUBSCRIBERS.get(at)).map(|script| script.presence)
                == Some(Presence::Slow)
        };
        let awake = self.clients.iter().enumerate().filter(|(client, _)| !slow(*client));
        let mut sockets: Vec<_> = awake.filter_map(|(_, client)| client.poll()).collect();
        poll(&mut sockets, Some(&TURN))?;
        let mut events = Vec::new();
        for client in 0..self.clients.len() {
            let much = if slow(client) && self.publishing { SLOW_BYTES } else { self.buffer.len() };
            self.clients[client].read(&mut self.buffer[..much], &mut events)?;
            for event in events.drain(..) {
                self.happened(client, event);
            }
        }
        Ok(())
    }

    fn happened(&mut self, client: usize, event: Event) {
        match event {
            Event::Connected { present } => self.connected(client, present),
            Event::Message { topic, payload } => {
                if let Some(account) = client.checked_sub(PUBLISHERS) {
                    self.ledger.deliver(account, &topic, &payload);
                }
            }
            Event::Acknowledged(token) => self.ledger.acknowledge(token),
            Event::Done(token) => self.ledger.done(token),
            Event::Subscribed => {
                self.ledger.subscribed(client - PUBLISHERS);
                self.wishes[client] = Wish::Nothing;
            }
            Event::Unsubscribed => {
                self.ledger.unsubscribed(client - PUBLISHERS);
                self.wishes[client] = Wish::Nothing;
            }
            // The broker closed: it still runs.
            Event::Closed if client == POLITE && self.said_goodbye && self.in_order && self.publishing => {
                self.ledger.settle_will(self.round * 2 + 1);
            }
            Event::Pong | Event::Closed => {}
        }
    }

    fn connected(&mut self, client: usize, present: bool) {
        let known = std::mem::replace(&mut self.known[client], true);
        let name = self.clients[client].name.clone();
        if client == LATE {
            let away = self.went.take().map(|went| went.elapsed());
            let early = away.is_none_or(|away| away < EARLY);
            let gone = self.gone.take().map(|gone| gone.elapsed());
            if present && gone.is_some_and(|gone| gone > EXPIRED) {
                self.ledger.counts.sessions_left += 1;
                self.ledger.breach(|| format!("{name}: its session is there after {gone:?}"));
            }
            if known && !present && early {
                self.ledger.counts.sessions_lost += 1;
                self.ledger.breach(|| format!("{name}: its session is gone after {away:?}"));
            }
            return;
        }
        if known && !present {
            self.ledger.counts.sessions_lost += 1;
            self.ledger.breach(|| format!("{name}: its session is gone"));
            // As a program does that wants to go on; what was promised stays promised.
            let subscriber = client.checked_sub(PUBLISHERS).filter(|at| *at < SUBSCRIBERS.len());
            if subscriber.is_some_and(|account| self.ledger.is_subscribed(account)) {
                self.wishes[client] = Wish::Subscribe;
            }
        }
        self.wish(client);
        if client == POLITE {
            self.said_goodbye = true;
            self.clients[client].disconnect();
        }
    }

    /// Fills the window.
    fn publish(&mut self, publisher: usize) {
        let client = &mut self.clients[publisher];
        while client.ready && client.in_flight() < self.windows[publisher] {
            let random = self.scripts[publisher].next();
            // Only MQTT 5.0 has messages that expire.
            let kind = match random % 20 {
                0 => RETAINED,
                1 if publisher.is_multiple_of(2) => SHORT,
                other => (other % 2) as usize,
            };
            let stream = publisher * KINDS.len() + kind;
            let number = self.ledger.send(stream);
            let size = match (random >> 32) % 100 {
                0 => 5000,
                1..10 => 300 + (random >> 40) % 1200,
                _ => 8 + (random >> 40) % 200,
            };
            let mut payload = number.to_be_bytes().to_vec();
            payload.resize(size as usize, random as u8);
            let expiry_s = match kind {
                SHORT => Some(EXPIRY_S),
                0 if publisher.is_multiple_of(2) => Some(3600),
                _ => None,
            };
            if kind == RETAINED {
                self.ledger.keep(stream);
            }
            let Stream { topic, qos, .. } = &self.ledger.streams[stream];
            client.publish(Outgoing {
                token: Token { stream, number },
                topic: topic.clone(),
                payload,
                qos: QoS::from_bits(*qos).unwrap_or_default(),
                retain: kind == RETAINED,
                expiry_s,
            });
        }
    }

    fn kill(&mut self) -> Result<(), Trouble> {
        self.broker.kill()?;
        self.kills[0] += 1;
        self.publishing = false;
        // What it said before it died counts.
        let mut events = Vec::new();
        for client in 0..self.clients.len() {
            let was_ready = self.clients[client].ready;
            while self.clients[client].is_open() {
                self.clients[client].read(&mut self.buffer, &mut events)?;
                for event in events.drain(..) {
                    self.happened(client, event);
                }
            }
            if client == WILL && was_ready {
                self.ledger.owe_will(self.round * 2);
            }
            if client == LATE && was_ready {
                self.went = Some(Instant::now());
            }
        }
        self.ledger.killed();
        // What was acknowledged after it was gone is durable, and so is that it is gone.
        let acknowledged = self.ledger.sums().1;
        if self.went.is_some_and(|went| went < self.began) && acknowledged > self.acknowledged {
            self.gone.get_or_insert(Instant::now());
        }
        self.acknowledged = acknowledged;
        Ok(())
    }

    fn away(&self) -> usize {
        PUBLISHERS + SUBSCRIBERS.len() - 1
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.random.next() % below.max(1)
    }
}

const WINDOW_MAX: u64 = 16;
const SLOW_BYTES: usize = 512;
const EXPIRY_S: u32 = 1;
/// Surely longer than that, and surely shorter.
const EXPIRED: Duration = Duration::from_millis(2500);
const EARLY: Duration = Duration::from_millis(800);
const QUIET: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(100);
const TURN: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

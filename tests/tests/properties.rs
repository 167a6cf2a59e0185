//! What holds for every session of every client: splitting bytes changes nothing, a replay gives the same bytes,
//! nothing panics, whoever waits is woken, and nothing is left behind.

#![allow(clippy::unwrap_used)] // in a test, a panic is the report

use culex_core::broker::{Action, Disconnect, Input, Peer, Query};
use culex_core::middleware::{Authenticate, Authentication, Authorize, Decision, Notices, PacketEmitter};
use culex_core::middleware::{Permission, Wanted};
use culex_core::packet::*;
use culex_core::testing::{connect, disconnect, id, properties, publish, subscribe_filters, will};
use culex_core::{
    Answer, Broker, Close, Config, ConnectionId, Credentials, LogSeq, Mono, Now, Seed, Stack, Ticket,
    Violation, Wall,
};
use culex_core::{config::ListenerConfig, id::Id};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Which connection of a session a step is about.
const PLACES: usize = 4;
const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];
const CLIENTS: [&str; 3] = ["alice", "bob", "carol"];
const TOPICS: [&str; 6] = ["a", "a/b", "a/b/c", "b", "ask/a", "no/b"];
const FILTERS: [&str; 9] = ["a", "a/+", "#", "+/b/#", "$share/g/a/#", "$share/g/#", "ask/#", "no/#", "a/#/b"];

/// One thing that happens.
#[derive(Debug, Clone)]
enum Step {
    /// A packet, or several in one go.
    Send(usize, Vec<Sent>),
    /// Bytes that mean nothing.
    Garbage(usize, Vec<u8>),
    /// The connection breaks.
    Cut(usize),
    /// The layer below MQTT finds a broken rule.
    Violate(usize),
    /// Its socket takes no more output, or takes it again.
    Clog(usize, bool),
    /// The oldest question (or the newest) is answered.
    Answer(bool, u8),
    /// Milliseconds pass.
    Pass(u16),
    /// What was stored is durable, all but the newest so many records. Nothing, if the machine stores nothing.
    Commit(u8),
    /// What is not durable by now never will be.
    CommitFails,
}

/// A packet, in the terms of the small pools above.
#[derive(Debug, Clone)]
enum Sent {
    Connect {
        version: usize,
        client: usize,
        clean: bool,
        keep_alive: u16,
        will: bool,
        expiry: u32,
        method: bool,
    },
    Publish {
        topic: usize,
        qos: u8,
        packet_id: u16,
        retain: bool,
        alias: u16,
        length: usize,
    },
    Ack(u8, u16),
    Subscribe {
        filters: Vec<(usize, u8)>,
        packet_id: u16,
        identifier: u32,
    },
    Unsubscribe(Vec<usize>, u16),
    Pingreq,
    Disconnect(bool),
    Auth,
}

fn qos(number: u8) -> QoS {
    QoS::from_bits(number % 3).unwrap()
}

#[allow(clippy::too_many_lines)] // one arm per packet
fn encode(sent: &Sent, version: &mut Version) -> Vec<u8> {
    let mut bytes = Vec::new();
    let v5 = |list: &[Property<'_>], version: Version| match version {
        Version::V5 => properties(list),
        _ => Properties::EMPTY,
    };
    let packet_of =
        |packet: &Packet<'_>, version: Version, bytes: &mut Vec<u8>| packet.encode(version, bytes).unwrap();
    match *sent {
        Sent::Connect { version: v, client, clean, keep_alive, will: with_will, expiry, method } => {
            *version = VERSIONS[v % 3];
            let mut list = vec![Property::SessionExpiryInterval(expiry), Property::TopicAliasMaximum(2)];
            list.push(Property::ReceiveMaximum(std::num::NonZeroU16::new(3).unwrap()));
            if method {
                list.push(Property::AuthenticationMethod("dance"));
            }
            let will = with_will.then(|| will("a/b", b"gone"));
            let clean_start = clean || *version == Version::V31 && expiry == 0;
            let properties = v5(&list, *version);
            let packet = Connect {
                clean_start,
                keep_alive,
                will,
                properties,
                ..connect(*version, CLIENTS[client % 3])
            };
            packet_of(&Packet::Connect(packet), *version, &mut bytes);
        }
        Sent::Publish { topic, qos: q, packet_id, retain, alias, length } => {
            // 3 stands for alias 1 without a topic.
            let number = if alias == 3 { 1 } else { alias };
            let list = [Property::TopicAlias(number), Property::MessageExpiryInterval(u32::from(packet_id))];
            let list = if alias == 0 { &list[1..] } else { &list[..] };
            let topic = if *version == Version::V5 && alias == 3 { "" } else { TOPICS[topic % TOPICS.len()] };
            let payload = "x".repeat(length);
            let packet_id = (q % 3 > 0).then(|| id(packet_id));
            let properties = v5(list, *version);
            let packet = Publish { retain, packet_id, properties, ..publish(topic, &payload, qos(q)) };
            packet_of(&Packet::Publish(packet), *version, &mut bytes);
        }
        Sent::Ack(kind, packet_id) => {
            let ack = Ack::success(id(packet_id));
            let packet = match kind % 4 {
                0 => Packet::Puback(ack),
                1 => Packet::Pubrec(ack),
                2 => Packet::Pubrel(ack),
                _ => Packet::Pubcomp(ack),
            };
            packet_of(&packet, *version, &mut bytes);
        }
        Sent::Subscribe { ref filters, packet_id, identifier } => {
            let options = |options: u8| SubscriptionOptions::new(qos(options));
            let list: Vec<_> =
                filters.iter().map(|(f, o)| (FILTERS[f % FILTERS.len()], options(*o))).collect();
            let identifier = std::num::NonZeroU32::new(identifier).map(Property::SubscriptionIdentifier);
            let properties = v5(identifier.as_slice(), *version);
            let filters = subscribe_filters(&list);
            let packet = Subscribe { packet_id: id(packet_id), properties, filters: filters.as_filters() };
            packet_of(&Packet::Subscribe(packet), *version, &mut bytes);
        }
        Sent::Unsubscribe(ref filters, packet_id) => {
            let mut buf = UnsubscribeFiltersBuf::new();
            for filter in filters {
                buf.push(FILTERS[filter % FILTERS.len()]).unwrap();
            }
            let (packet_id, filters) = (id(packet_id), buf.as_filters());
            let packet = Unsubscribe { packet_id, properties: Properties::EMPTY, filters };
            packet_of(&Packet::Unsubscribe(packet), *version, &mut bytes);
        }
        Sent::Pingreq => packet_of(&Packet::Pingreq, *version, &mut bytes),
        Sent::Disconnect(clean) => {
            let clean = clean || *version != Version::V5;
            let reason = if clean { ReasonCode::Success } else { ReasonCode::DisconnectWithWill };
            packet_of(&disconnect(reason, &[]), *version, &mut bytes);
        }
        Sent::Auth => {
            let properties = properties(&[Property::AuthenticationMethod("dance")]);
            let packet = Auth { reason: ReasonCode::ContinueAuthentication, properties };
            packet_of(&Packet::Auth(packet), Version::V5, &mut bytes);
        }
    }
    bytes
}

/// Asks about every client but alice, and about every exchange by the method `dance`.
struct Door;

impl Authenticate for Door {
    fn authenticate(&mut self, who: &Credentials) -> Decision {
        if &*who.client_id == "alice" { Decision::Allow } else { Decision::Ask }
    }

    fn method(&self, name: &str) -> bool {
        name == "dance"
    }
}

fn policy(_: &str, _: Option<&str>, wanted: Wanted<'_>) -> Permission {
    let (Wanted::Publish { topic: text, .. }
    | Wanted::Subscribe { filter: text, .. }
    | Wanted::Will { topic: text, .. }) = wanted;
    match text.split('/').next() {
        Some("ask") => Permission::Ask,
        Some("no") => Permission::Deny(ReasonCode::NotAuthorized),
        _ => Permission::Allow,
    }
}

fn stack(durable: bool) -> Stack {
    let all = Notices { sessions: true, subscriptions: true, messages: true };
    let stack = if durable { Stack::durable() } else { Stack::standard() };
    let stack = stack
        .replace("Authentication", Authentication::new(Door))
        .and_then(|stack| stack.replace("Authorize", Authorize::new(policy)))
        .and_then(|stack| stack.replace("PacketEmitter", PacketEmitter::new(all)));
    stack.unwrap()
}

fn limits() -> Config {
    let listeners = vec![ListenerConfig { mount_point: "a/".into(), ..Default::default() }];
    Config { parked_max: 4, in_flight_max: 4, queue_messages_max: 8, listeners, ..Config::default() }
}

fn machine(now: Now) -> Broker {
    machine_with(limits(), false, now)
}

fn machine_with(config: Config, durable: bool, now: Now) -> Broker {
    Broker::new(Arc::new(config), stack(durable), Seed(42), now)
}

/// How the bytes of one step are given to the machine.
type Split<'a> = &'a mut dyn FnMut(usize) -> usize;

/// What each connection got.
type Outputs = BTreeMap<(u32, u32), Vec<u8>>;

/// A machine with everything around it.
struct World {
    broker: Broker,
    now: Now,
    places: [Option<ConnectionId>; PLACES],
    versions: [Version; PLACES],
    clogged: Vec<ConnectionId>,
    /// The places of all connections there ever were.
    used: BTreeSet<u32>,
    asked: Vec<(Ticket, Query)>,
    durable: bool,
    /// The newest record that left, and how far it is known that they are durable.
    stored: LogSeq,
    committed: LogSeq,
    store_failed: bool,
    /// Whom the machine does not read: it owes each of them a Credit or a Close.
    owed: Vec<ConnectionId>,
    /// What happened, and whether the actions were taken after it.
    inputs: Vec<(Now, Input, bool)>,
    outputs: Outputs,
    actions: Vec<String>,
}

impl World {
    fn new() -> Self {
        Self::with(limits(), false)
    }

    fn with(config: Config, durable: bool) -> Self {
        let now = Now { mono: Mono(1_000_000_000), wall: Wall(1_700_000_000_000) };
        Self {
            broker: machine_with(config, durable, now),
            now,
            places: [None; PLACES],
            versions: [Version::V311; PLACES],
            clogged: Vec::new(),
            used: BTreeSet::new(),
            asked: Vec::new(),
            durable,
            stored: LogSeq(0),
            committed: LogSeq(0),
            store_failed: false,
            owed: Vec::new(),
            inputs: Vec::new(),
            outputs: BTreeMap::new(),
            actions: Vec::new(),
        }
    }

    fn apply(&mut self, input: Input) {
        self.inputs.push((self.now, input.clone(), false));
        self.broker.apply(self.now, input);
        self.drain();
    }

    fn drain(&mut self) {
        if let Some((_, _, taken)) = self.inputs.last_mut() {
            *taken = true;
        }
        loop {
            while let Some(action) = self.broker.poll_action() {
                self.actions.push(format!("{action:?}"));
                match action {
                    Action::Ask { ticket, query } => self.asked.push((ticket, *query)),
                    Action::Store { seq, .. } => self.stored = seq,
                    Action::Forget { ticket } => self.asked.retain(|(asked, _)| *asked != ticket),
                    Action::Credit { id } | Action::Close { id, .. } => self.owed.retain(|owed| *owed != id),
                    _ => {}
                }
            }
            let Some(transmit) = self.broker.poll_transmit() else { return };
            let id = transmit.id();
            let mut count = 0;
            if !self.clogged.contains(&id) {
                let output = self.outputs.entry((id.index(), id.generation())).or_default();
                transmit.chunks().for_each(|chunk| output.extend_from_slice(chunk));
                count = transmit.len();
            }
            transmit.written(count);
            self.inputs.push((self.now, Input::Written { id, count }, true));
        }
    }

    fn place(&mut self, place: usize) -> ConnectionId {
        if let Some(id) = self.places[place] {
            return id;
        }
        let peer = Peer { listener: place as u16, ..Peer::default() };
        let id = self.broker.accept(self.now, peer.clone()).unwrap();
        self.inputs.push((self.now, Input::Accept(peer), true));
        self.drain();
        self.used.insert(id.index());
        self.places[place] = Some(id);
        self.versions[place] = Version::V311;
        id
    }

    fn send(&mut self, place: usize, mut bytes: &[u8], split: Split<'_>) {
        let id = self.place(place);
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(split(bytes.len()).clamp(1, bytes.len()));
            let input = Input::Receive { id, bytes: now.to_vec().into() };
            self.inputs.push((self.now, input.clone(), false));
            self.broker.apply(self.now, input);
            bytes = later;
            // An adapter asks before it reads: who got 0 waits.
            if self.broker.read_credit(id) == 0 && !self.owed.contains(&id) {
                self.owed.push(id);
            }
        }
        // Once all has come: when output is taken may change what comes first, an acknowledgement or one more of many
        // retained messages.
        self.drain();
    }

    fn cut(&mut self, place: usize) {
        if let Some(id) = self.places[place].take() {
            self.apply(Input::Disconnected { id, cause: Disconnect::Error });
            self.owed.retain(|owed| *owed != id);
        }
    }

    fn answer(&mut self, newest: bool, how: u8) {
        if self.asked.is_empty() {
            return;
        }
        let (ticket, query) = self.asked.remove(if newest { self.asked.len() - 1 } else { 0 });
        let enhanced = matches!(&query, Query::Authenticate(who) if who.method.is_some());
        let answer = match how % 4 {
            0 => Answer::Deny(ReasonCode::NotAuthorized),
            1 if enhanced => Answer::Continue(b"more".as_slice().into()),
            2 => Answer::PerFilter(vec![None, Some(ReasonCode::QuotaExceeded)]),
            3 => Answer::AllowAs("root".into()),
            _ => Answer::Allow,
        };
        self.apply(Input::Complete { ticket, answer });
    }

    /// Lets time pass, deadline by deadline.
    fn pass(&mut self, ms: u64) {
        let end = self.now.plus_ms(ms);
        while let Some(at) = self.broker.deadline().filter(|at| *at <= end.mono) {
            self.now = self.now.plus_ms(at.since(self.now.mono).div_ceil(1_000_000));
            self.apply(Input::Tick);
        }
        self.now = end;
        self.apply(Input::Tick);
    }

    fn step(&mut self, step: &Step, split: Split<'_>) {
        match step {
            Step::Send(place, packets) => {
                // Whoever was closed comes again, as a new connection.
                if let Some(id) = self.places[*place]
                    && self.actions.iter().any(|action| *action == format!("{:?}", close(id)))
                {
                    self.cut(*place);
                }
                self.place(*place);
                let mut version = self.versions[*place];
                let bytes: Vec<u8> = packets.iter().flat_map(|packet| encode(packet, &mut version)).collect();
                self.versions[*place] = version;
                self.send(*place, &bytes, split);
            }
            Step::Garbage(place, bytes) => self.send(*place, bytes, split),
            Step::Cut(place) => self.cut(*place),
            Step::Violate(place) => {
                let Some(id) = self.places[*place] else { return };
                let violation = Violation::protocol("MQTT-6.0.0-1");
                self.apply(Input::Violated { id, violation });
            }
            Step::Clog(place, clogged) => {
                let Some(id) = self.places[*place] else { return };
                self.clogged.retain(|other| *other != id);
                if *clogged {
                    self.clogged.push(id);
                } else {
                    self.apply(Input::Writable(id));
                }
            }
            Step::Answer(newest, how) => self.answer(*newest, *how),
            Step::Pass(ms) => self.pass(u64::from(*ms)),
            Step::Commit(but) => self.commit(u64::from(*but)),
            Step::CommitFails => {
                self.store_failed = self.durable;
                if self.durable {
                    self.apply(Input::CommitFailed(LogSeq(self.committed.0 + 1)));
                }
            }
        }
    }

    fn commit(&mut self, but: u64) {
        let through = LogSeq(self.stored.0.saturating_sub(but));
        if through > self.committed && !self.store_failed {
            self.committed = through;
            self.apply(Input::Committed(through));
        }
    }

    /// Takes the sockets' blockages away and waits until all questions have timed out; then everything is durable.
    fn settle(&mut self) {
        for id in std::mem::take(&mut self.clogged) {
            self.apply(Input::Writable(id));
        }
        self.pass(20_000);
        self.commit(0);
    }

    /// Ends all connections, then all sessions.
    fn end(&mut self) {
        (0..PLACES).for_each(|place| self.cut(place));
        self.settle();
        for client in CLIENTS {
            // Who starts clean and does not want to be kept leaves nothing behind.
            let mut bytes = Vec::new();
            connect(Version::V311, client).encode(Version::V311, &mut bytes).unwrap();
            self.send(0, &bytes, &mut |all| all);
            self.answer(false, 3);
            self.cut(0);
        }
        // Retained messages outlive their clients, until they expire and are swept up.
        self.pass(200_000);
    }
}

fn close(id: ConnectionId) -> Action {
    Action::Close { id, how: Close::Finish }
}

fn play(steps: &[Step], split: Split<'_>) -> World {
    play_in(World::new(), steps, split)
}

fn play_in(mut world: World, steps: &[Step], split: Split<'_>) -> World {
    steps.iter().for_each(|step| world.step(step, split));
    world
}

fn sent() -> impl Strategy<Value = Sent> {
    let packet_id = || 1..5u16;
    prop_oneof![
        2 => (0..3usize, 0..3usize, any::<bool>(), prop_oneof![Just(0u16), Just(1), Just(60)], any::<bool>(),
            prop_oneof![Just(0u32), Just(2), Just(u32::MAX)], proptest::bool::weighted(0.2))
            .prop_map(|(version, client, clean, keep_alive, will, expiry, method)| {
                Sent::Connect { version, client, clean, keep_alive, will, expiry, method }
            }),
        8 => (0..TOPICS.len(), 0..3u8, packet_id(), any::<bool>(), prop_oneof![3 => Just(0u16), 1 => 1..4u16],
            prop_oneof![4 => 0..20usize, 1 => Just(5_000usize)])
            .prop_map(|(topic, qos, packet_id, retain, alias, length)| {
                Sent::Publish { topic, qos, packet_id, retain, alias, length }
            }),
        5 => (any::<u8>(), packet_id()).prop_map(|(kind, packet_id)| Sent::Ack(kind, packet_id)),
        5 => (vec((0..FILTERS.len() - 1, 0..3u8), 1..4), packet_id(), prop_oneof![Just(0u32), 1..300u32])
            .prop_map(|(filters, packet_id, identifier)| Sent::Subscribe { filters, packet_id, identifier }),
        2 => (vec(0..FILTERS.len() - 1, 1..3), packet_id()).prop_map(|(filters, id)| Sent::Unsubscribe(filters, id)),
        2 => Just(Sent::Pingreq),
        1 => any::<bool>().prop_map(Sent::Disconnect),
        1 => Just(Sent::Auth),
    ]
}

/// A connection that begins as it should, and goes on as it likes.
fn beginning() -> impl Strategy<Value = Vec<Sent>> {
    let connect = (
        0..3usize,
        0..3usize,
        any::<bool>(),
        any::<bool>(),
        prop_oneof![Just(0u32), Just(2), Just(u32::MAX)],
    )
        .prop_map(|(version, client, clean, will, expiry)| Sent::Connect {
            version,
            client,
            clean,
            keep_alive: 60,
            will,
            expiry,
            method: false,
        });
    (connect, vec(sent(), 0..5)).prop_map(|(connect, mut rest)| {
        rest.retain(|sent| !matches!(sent, Sent::Connect { .. } | Sent::Auth));
        rest.insert(0, connect);
        rest
    })
}

fn step() -> impl Strategy<Value = Step> {
    let place = || 0..PLACES;
    prop_oneof![
        6 => (place(), beginning()).prop_map(|(place, packets)| Step::Send(place, packets)),
        12 => (place(), vec(sent().prop_filter("in the middle", |sent| !matches!(sent, Sent::Connect { .. })), 1..5))
            .prop_map(|(place, packets)| Step::Send(place, packets)),
        1 => (place(), vec(sent(), 1..3)).prop_map(|(place, packets)| Step::Send(place, packets)),
        1 => (place(), vec(any::<u8>(), 1..40)).prop_map(|(place, bytes)| Step::Garbage(place, bytes)),
        2 => place().prop_map(Step::Cut),
        1 => place().prop_map(Step::Violate),
        2 => (place(), any::<bool>()).prop_map(|(place, clogged)| Step::Clog(place, clogged)),
        8 => (any::<bool>(), any::<u8>()).prop_map(|(newest, how)| Step::Answer(newest, how)),
        2 => prop_oneof![1..50u16, 500..7_000u16].prop_map(Step::Pass),
        6 => prop_oneof![60 => (0..6u8).prop_map(Step::Commit), 1 => Just(Step::CommitFails)],
    ]
}

/// Whole sessions: beginnings first, so that most of what follows means something.
fn session() -> impl Strategy<Value = Vec<Step>> {
    let opening: Vec<_> =
        (0..PLACES).map(|place| beginning().prop_map(move |sent| Step::Send(place, sent))).collect();
    (opening, vec(step(), 0..30)).prop_map(|(mut steps, rest)| {
        steps.extend(rest);
        steps
    })
}

/// `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig { cases: 4 * default.cases, failure_persistence: None, max_shrink_iters: 4_000, ..default }
}

fn assert_same(split: &World, whole: &World) -> Result<(), TestCaseError> {
    prop_assert_eq!(&split.actions, &whole.actions);
    prop_assert_eq!(&split.outputs, &whole.outputs);
    prop_assert_eq!(split.broker.deadline(), whole.broker.deadline());
    prop_assert_eq!(split.broker.sessions(), whole.broker.sessions());
    Ok(())
}

/// Feeds recorded inputs to another machine; what it says must be what was said.
fn replay(inputs: &[(Now, Input, bool)], first: Now) -> (Outputs, Vec<String>) {
    let mut broker = machine(first);
    let said = feed(&mut broker, inputs);
    assert!(broker.poll_transmit().is_none());
    said
}

/// The same for a machine in any state.
fn feed(broker: &mut Broker, inputs: &[(Now, Input, bool)]) -> (Outputs, Vec<String>) {
    let (mut outputs, mut actions) = (BTreeMap::new(), Vec::new());
    for (now, input, taken) in inputs {
        if let Input::Written { id, count } = input {
            let transmit = broker.poll_transmit().unwrap();
            assert_eq!(transmit.id(), *id);
            let output: &mut Vec<u8> = outputs.entry((id.index(), id.generation())).or_default();
            output.extend(transmit.chunks().flatten().take(*count));
        }
        broker.apply(*now, input.clone());
        if let Input::Receive { id, .. } = input {
            let _ = broker.read_credit(*id);
        }
        while *taken && let Some(action) = broker.poll_action() {
            actions.push(format!("{action:?}"));
        }
    }
    outputs.retain(|_, output| !output.is_empty());
    (outputs, actions)
}

/// Limits that are met all the time.
fn narrow() -> Config {
    Config {
        parked_max: 2,
        in_flight_max: 1,
        queue_messages_max: 2,
        retained_messages_max: 3,
        outbox_bytes_max: 100,
        notices_max: 3,
        actions_max: 2,
        topic_alias_maximum: 1,
        topic_alias_outbound_max: 1,
        ..limits()
    }
}

fn snapshot(broker: &Broker) -> Vec<u8> {
    let mut bytes = Vec::new();
    broker.snapshot(&mut bytes);
    bytes
}

/// A snapshot between any two inputs, whatever was not taken yet; then the same for both machines.
fn assert_goes_on(world: &World, config: &Config, at: usize) -> Result<(), TestCaseError> {
    let (before, after) = world.inputs.split_at(at);
    let mut broker = machine_with(config.clone(), world.durable, World::new().now);
    feed(&mut broker, before);
    let bytes = snapshot(&broker);
    let mut copy = Broker::from_snapshot(None, stack(world.durable), &bytes).unwrap();
    prop_assert_eq!(copy.config(), config);
    prop_assert_eq!(copy.records(), broker.records());
    prop_assert!(snapshot(&copy) == bytes, "not the same state");
    prop_assert_eq!(copy.deadline(), broker.deadline());
    prop_assert_eq!(copy.stats(), broker.stats());
    prop_assert_eq!(feed(&mut copy, after), feed(&mut broker, after));
    prop_assert_eq!(copy.deadline(), broker.deadline());
    prop_assert!(snapshot(&copy) == snapshot(&broker), "not the same state in the end");
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_restored_snapshot_goes_on_as_the_machine_does(
        steps in session(),
        cuts in vec(1..100usize, 1..20),
        at in any::<prop::sample::Index>(),
        tight in any::<bool>(),
        durable in any::<bool>(),
        ended in any::<bool>(),
    ) {
        let config = if tight { narrow() } else { limits() };
        let mut cuts = cuts.iter().cycle();
        let mut world = play_in(World::with(config.clone(), durable), &steps, &mut |_| *cuts.next().unwrap());
        if ended {
            world.end();
        }
        assert_goes_on(&world, &config, at.index(world.inputs.len() + 1))?;
    }

    #[test]
    fn no_bytes_make_reading_a_snapshot_panic(
        steps in session(),
        at in any::<prop::sample::Index>(),
        forged in vec((any::<prop::sample::Index>(), any::<u8>(), 0..4u8), 1..6),
        tight in any::<bool>(),
        durable in any::<bool>(),
    ) {
        let config = if tight { narrow() } else { limits() };
        let world = play_in(World::with(config.clone(), durable), &steps, &mut |all| all);
        let (before, after) = world.inputs.split_at(at.index(world.inputs.len() + 1));
        let mut broker = machine_with(config, durable, World::new().now);
        feed(&mut broker, before);
        let whole = snapshot(&broker);
        let mut bytes = whole.clone();
        for (place, value, how) in forged {
            let place = place.index(bytes.len() - 8);
            match how {
                0 => bytes[place] = value,
                1 => bytes[place] = bytes[place].wrapping_add(1),
                2 => bytes[place] ^= 1 << (value % 8),
                _ => drop(bytes.remove(place)),
            }
        }
        if bytes != whole {
            prop_assert!(Broker::from_snapshot(None, stack(durable), &bytes).is_err());
        }
        // Somebody who knows how makes it look whole.
        let end = bytes.len() - 8;
        let digest = culex_core::saved::digest(&bytes[..end]).to_le_bytes();
        bytes[end..].copy_from_slice(&digest);
        if let Ok(mut broker) = Broker::from_snapshot(None, stack(durable), &bytes) {
            for (now, input, _) in after {
                broker.apply(*now, input.clone());
                while broker.poll_action().is_some() {}
                while let Some(transmit) = broker.poll_transmit() {
                    let length = transmit.len();
                    transmit.written(length);
                }
            }
            let _ = snapshot(&broker);
        }
    }

    #[test]
    fn splitting_bytes_changes_nothing(steps in session(), cuts in vec(1..40usize, 1..20)) {
        let whole = play(&steps, &mut |all| all);
        let mut cuts = cuts.iter().cycle();
        let random = play(&steps, &mut |_| *cuts.next().unwrap());
        assert_same(&random, &whole)?;
        let single = play(&steps, &mut |_| 1);
        assert_same(&single, &whole)?;
    }

    #[test]
    fn the_same_inputs_give_the_same_outputs(steps in session(), cuts in vec(1..100usize, 1..20)) {
        let mut cuts = cuts.iter().cycle();
        let mut world = play(&steps, &mut |_| *cuts.next().unwrap());
        world.end();
        world.outputs.retain(|_, output| !output.is_empty());
        let first = World::new().now;
        let (outputs, actions) = replay(&world.inputs, first);
        prop_assert_eq!(&actions, &world.actions);
        prop_assert_eq!(&outputs, &world.outputs);
    }

    #[test]
    fn whoever_waits_is_woken_and_nothing_is_left_behind(steps in session()) {
        let mut world = play(&steps, &mut |all| all);
        world.settle();
        // Invariant 8.
        prop_assert!(world.owed.is_empty(), "still waiting: {:?}", world.owed);
        prop_assert!(world.asked.is_empty());
        world.end();
        prop_assert_eq!((world.broker.connections(), world.broker.sessions()), (0, 0));
        prop_assert_eq!(world.broker.deadline(), None);
        // The places of all connections are free again, and no others are needed.
        for _ in 0..world.used.len() {
            let id = world.broker.accept(world.now, Peer::default()).unwrap();
            prop_assert!(world.used.remove(&id.index()), "{:?} is a new place", id);
        }
    }

    #[test]
    fn garbage_closes_and_never_panics(bytes in vec(any::<u8>(), 0..300), connected in any::<bool>(), cut in 1..20usize) {
        let mut world = World::new();
        if connected {
            let connect = Sent::Connect { version: bytes.len(), client: 0, clean: true, keep_alive: 0, will: true,
                expiry: 0, method: false };
            world.step(&Step::Send(0, vec![connect]), &mut |all| all);
        }
        world.send(0, &bytes, &mut |_| cut);
        world.end();
        prop_assert_eq!((world.broker.connections(), world.broker.sessions()), (0, 0));
        prop_assert_eq!(world.broker.deadline(), None);
    }
}

/// A long session of one connection that has everything in it.
fn long_session() -> Vec<Sent> {
    let connect = |client| Sent::Connect {
        version: 2,
        client,
        clean: false,
        keep_alive: 60,
        will: true,
        expiry: 100,
        method: false,
    };
    // bob is asked about: everything behind his CONNECT waits.
    let mut session = vec![connect(1)];
    session.push(Sent::Subscribe {
        filters: vec![(2, 2), (6, 1), (7, 0), (4, 1)],
        packet_id: 1,
        identifier: 7,
    });
    for n in 0..6 {
        let packet_id = u16::from(n) % 3 + 1;
        let publish =
            |topic, alias| Sent::Publish { topic, qos: n, packet_id, retain: n % 2 == 0, alias, length: 10 };
        session.extend([publish(usize::from(n), 0), publish(4, 1), publish(5, 3), Sent::Pingreq]);
        session.extend((0..4).map(|kind| Sent::Ack(kind, packet_id)));
    }
    let large = Sent::Publish { topic: 0, qos: 1, packet_id: 4, retain: false, alias: 0, length: 300 };
    session.extend([
        large,
        Sent::Unsubscribe(vec![2, 3], 2),
        Sent::Subscribe { filters: vec![(2, 1)], packet_id: 3, identifier: 0 },
    ]);
    session.extend([Sent::Pingreq, Sent::Disconnect(false)]);
    session
}

#[test]
fn a_session_split_at_every_byte_is_the_same_session() {
    let session = long_session();
    let answers = (0..40).map(|n| Step::Answer(n % 3 == 0, [3, 1, 1, 2, 3, 0][n % 6]));
    let mut steps = vec![Step::Send(0, session)];
    steps.extend(answers);
    let whole = play(&steps, &mut |all| all);
    let output = whole.outputs.values().next().unwrap();
    let last = culex_core::testing::decode(output, Version::V5).pop();
    // It was not ended before it said DISCONNECT itself.
    assert!(matches!(last, Some(Packet::Pingresp)), "{last:?}");
    let length = whole.inputs.iter().find_map(|(_, input, _)| match input {
        Input::Receive { bytes, .. } => Some(bytes.len()),
        _ => None,
    });
    let length = length.unwrap();
    assert!(length > 500);
    for at in 1..length {
        let mut first = true;
        let split = play(&steps, &mut |all| if std::mem::take(&mut first) { at } else { all });
        assert_same(&split, &whole).unwrap_or_else(|error| panic!("split at {at}: {error}"));
    }
}

//! The short way of plain messages: what comes out is what comes out of the chain.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)] // in a test, a panic is the report

use culex_core::packet::*;
use culex_core::testing::*;
use culex_core::{Config, ConnectionId, Hooks, Middleware, Stack};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Wants to see everything that the short way leaves out, and so switches it off.
struct Onlooker(Hooks);

impl Middleware for Onlooker {
    fn name(&self) -> &'static str {
        "Onlooker"
    }

    fn wants(&self) -> Hooks {
        self.0
    }
}

/// Somebody does something.
#[derive(Debug, Clone)]
enum Step {
    /// In place of an earlier connection.
    Connect(usize, Version, bool, Option<u32>, u16),
    Subscribe(usize, usize, QoS, bool, Option<u32>),
    Unsubscribe(usize, usize),
    /// Packets in one input, cut in two at some place.
    Publish(usize, Vec<Packed>, prop::sample::Index),
    Cut(usize),
    Clog(usize, bool),
    Pass(u16),
}

/// A PUBLISH: topic, first byte, bytes of payload, whether it has a property.
type Packed = (usize, u8, usize, bool);

const TOPICS: [&[u8]; 9] = [b"a", b"a/b", b"a/b/c", b"$x/a", b"", b"a/+", b"#", b"a\0", b"\xC3\x28"];
const FILTERS: [&str; 10] =
    ["a", "a/b", "a/b/c", "a/+", "a/#", "#", "$x/+", "a/+/c", "$share/g/a", "$share/g/a/+"];
/// Those from here on are shared.
const SHARED: usize = 8;
const CLIENTS: usize = 4;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let client = 0..CLIENTS;
    let qos =
        prop::sample::select(vec![QoS::AtMostOnce, QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]);
    let version =
        prop::sample::select(vec![Version::V31, Version::V311, Version::V311, Version::V5, Version::V5]);
    let size = prop::sample::select(vec![0usize, 1, 20, 20, 20, 150, 5_000]);
    let first = prop::sample::select(vec![0x30u8, 0x30, 0x30, 0x30, 0x30, 0x31, 0x32, 0x34, 0x38]);
    let topic = prop_oneof![8 => 0usize..4, 1 => 4..TOPICS.len()];
    let packed = (topic, first, size, prop::bool::weighted(0.1));
    let limit = prop::option::weighted(0.2, 30u32..200);
    let step = prop_oneof![
        2 => (client.clone(), version, any::<bool>(), limit, prop::sample::select(vec![0u16, 0, 0, 1]))
            .prop_map(|(client, version, clean, limit, aliases)| Step::Connect(client, version, clean, limit, aliases)),
        4 => (client.clone(), 0..FILTERS.len(), qos, any::<bool>(), prop::option::weighted(0.2, 1u32..300))
            .prop_map(|(client, filter, qos, local, id)| Step::Subscribe(client, filter, qos, local, id)),
        1 => (client.clone(), 0..FILTERS.len()).prop_map(|(client, filter)| Step::Unsubscribe(client, filter)),
        8 => (client.clone(), prop::collection::vec(packed, 1..4), any::<prop::sample::Index>())
            .prop_map(|(client, packets, at)| Step::Publish(client, packets, at)),
        1 => client.clone().prop_map(Step::Cut),
        1 => (client, any::<bool>()).prop_map(|(client, clogged)| Step::Clog(client, clogged)),
        1 => (0u16..2_000).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..60)
}

/// Everything that could be seen of a machine; with `trace`, which switches the short way off, too.
fn live(config: &Config, stack: Stack, steps: &[Step], trace: bool) -> Vec<String> {
    let mut bench = Bench::with(config.clone(), stack);
    bench.broker.trace(trace);
    let program = bench.broker.subscribe(bench.now, "a/b/#").unwrap();
    let mut clients: BTreeMap<usize, (ConnectionId, Version)> = BTreeMap::new();
    let mut seen = Vec::new();
    for step in steps {
        match step {
            Step::Connect(client, version, clean, limit, aliases) => {
                let all = wishes(*clean, *limit, *aliases);
                let properties =
                    if *version == Version::V5 { all.as_properties() } else { Properties::EMPTY };
                let name = format!("client-{client}");
                let packet =
                    Connect { clean_start: *clean, keep_alive: 1, properties, ..connect(*version, &name) };
                clients.insert(*client, (bench.try_connect(&packet), *version));
            }
            Step::Subscribe(client, filter, qos, no_local, identifier) => {
                let Some((id, version)) = clients.get(client) else { continue };
                let v5 = *version == Version::V5;
                let options = SubscriptionOptions {
                    no_local: *no_local && v5 && *filter < SHARED,
                    ..SubscriptionOptions::new(*qos)
                };
                let mut properties = PropertiesBuf::new();
                if let (Some(identifier), true) = (identifier, v5) {
                    properties.push(Property::SubscriptionIdentifier((*identifier).try_into().unwrap()));
                }
                let mut filters = SubscribeFiltersBuf::new();
                filters.push(FILTERS[*filter], options).unwrap();
                let (properties, filters) = (properties.as_properties(), filters.as_filters());
                bench
                    .send(*id, &Packet::Subscribe(Subscribe { packet_id: self::id(9), properties, filters }));
            }
            Step::Unsubscribe(client, filter) => {
                let Some((id, _)) = clients.get(client) else { continue };
                bench.unsubscribe(*id, FILTERS[*filter]);
            }
            Step::Publish(client, packets, at) => {
                let Some((id, version)) = clients.get(client) else { continue };
                let bytes: Vec<u8> = packets.iter().flat_map(|packed| wire(*packed, *version)).collect();
                let (head, tail) = bytes.split_at(at.index(bytes.len() + 1));
                for bytes in [head, tail] {
                    bench.broker.receive(bench.now, *id, bytes);
                    seen.push(state(&bench));
                    bench.drain();
                    while bench.broker.poll_traced().is_some() {}
                }
            }
            Step::Cut(client) => {
                if let Some((id, _)) = clients.remove(client) {
                    bench.cut(id);
                }
            }
            Step::Clog(client, clogged) => {
                if let Some((id, _)) = clients.get(client) {
                    bench.clog(*id, *clogged);
                }
            }
            Step::Pass(ms) => bench.pass_ms((*ms).into()),
        }
        for (client, (id, _)) in &clients {
            seen.push(format!("{client}: {:?}", bench.output(*id)));
        }
        seen.push(format!("{:?} {:?} {:?}", bench.closes, bench.notices, bench.broker.stats()));
        seen.extend(bench.forwards.drain(..).map(|forward| format!("{program:?} {forward:?}")));
    }
    seen
}

fn wishes(clean: bool, limit: Option<u32>, aliases: u16) -> PropertiesBuf {
    let mut all = PropertiesBuf::new();
    all.push(Property::SessionExpiryInterval(if clean { 0 } else { 60 }));
    if let Some(limit) = limit {
        all.push(Property::MaximumPacketSize(limit));
    }
    all.push(Property::TopicAliasMaximum(aliases));
    all
}

/// The state of a machine has all outputs, in the order in which they leave.
fn state(bench: &Bench) -> String {
    let mut state = Vec::new();
    bench.broker.snapshot(&mut state);
    let sum = state.iter().fold(0u64, |sum, byte| sum.wrapping_mul(31) ^ u64::from(*byte));
    format!("[{} {sum}]", state.len())
}

fn wire((topic, first, size, property): Packed, version: Version) -> Vec<u8> {
    let topic = TOPICS[topic];
    let mut body = [&(topic.len() as u16).to_be_bytes()[..], topic].concat();
    if first & 0b110 > 0 {
        body.extend([0, 7]);
    }
    if version == Version::V5 {
        // Payload Format Indicator.
        body.extend(if property { &[2, 1, 0][..] } else { &[0][..] });
    }
    body.resize(body.len() + size, b'x');
    let mut bytes = vec![first];
    let mut length = body.len();
    while length > 0x7F {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend(body);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_short_way_leads_where_the_chain_does(steps in steps(), small in any::<bool>(), queue in any::<bool>()) {
        let mut config = Config { queue_qos0: queue, ..Config::default() };
        if small {
            (config.packet_size_max, config.outbox_bytes_max) = (8_000, 8_000);
        }
        for stack in [Stack::standard, Stack::durable] {
            prop_assert_eq!(live(&config, stack(), &steps, false), live(&config, stack(), &steps, true));
        }
        // Another part has another name in every snapshot.
        let outputs = |stack| {
            let mut seen = live(&config, stack, &steps, false);
            seen.retain(|line| !line.starts_with('['));
            seen
        };
        let short = outputs(Stack::standard());
        for hooks in [Hooks::PUBLISH, Hooks::RELAY, Hooks::PUBLISH | Hooks::RELAY | Hooks::FORWARD | Hooks::PACKET] {
            let stack = Stack::standard().insert_before("Connection", Onlooker(hooks)).unwrap();
            prop_assert_eq!(&short, &outputs(stack), "{:?}", hooks);
        }
    }
}

#[test]
fn who_gets_it_by_other_means_keeps_his_place() {
    for trace in [false, true] {
        let mut bench = Bench::new();
        let properties = properties(&[Property::TopicAliasMaximum(5)]);
        let first = bench.connect(Version::V311, "first");
        let wishes = Connect { properties, ..connect(Version::V5, "wishes") };
        let (second, _) = bench.connect_with(&wishes);
        let third = bench.connect(Version::V311, "third");
        for id in [first, second, third] {
            bench.subscribe(id, "a", QoS::AtMostOnce);
        }
        bench.broker.trace(trace);
        bench.broker.receive(bench.now, first, b"\x30\x04\0\x01am");
        let mut order = Vec::new();
        while let Some(transmit) = bench.broker.poll_transmit() {
            order.push(transmit.id());
            let length = transmit.len();
            transmit.written(length);
        }
        assert_eq!(order, [first, second, third], "{trace}");
    }
}

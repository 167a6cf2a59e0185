//! Mount points: what clients of several listeners hear of each other is what a naive model says.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)] // in a test, a panic is the report

use culex_core::config::ListenerConfig;
use culex_core::packet::*;
use culex_core::testing::*;
use culex_core::topic::filter::matches;
use culex_core::{Config, ConnectionId, Stack};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const MOUNT_POINTS: [&str; 3] = ["", "a/", "a/b/"];
const CLIENTS: usize = 5;

#[derive(Debug, Clone)]
enum Step {
    Publish {
        client: usize,
        topic: String,
        qos: QoS,
        retain: bool,
    },
    Subscribe {
        client: usize,
        filter: String,
    },
    Unsubscribe {
        client: usize,
        filter: String,
    },
    Cut {
        client: usize,
    },
    /// By this listener.
    Come {
        client: usize,
        listener: usize,
    },
}

fn text(levels: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(levels), 1..4).prop_map(|levels| levels.join("/"))
}

fn topic() -> impl Strategy<Value = String> {
    text(&["a", "b", "", "$x", "$a"]).prop_filter("it has a byte", |topic| !topic.is_empty())
}

fn filter() -> impl Strategy<Value = String> {
    let last = prop::sample::select(vec!["", "/#"]);
    let filter = (text(&["a", "b", "+", "+", "$x", "$a", ""]), last).prop_map(|(levels, last)| levels + last);
    prop_oneof![4 => filter, 1 => Just("#".to_owned())].prop_filter("it has a byte", |text| !text.is_empty())
}

fn step() -> impl Strategy<Value = Step> {
    let client = || 0..CLIENTS;
    let qos = prop::sample::select(vec![QoS::AtLeastOnce, QoS::ExactlyOnce]);
    prop_oneof![
        8 => (client(), topic(), qos, any::<bool>())
            .prop_map(|(client, topic, qos, retain)| Step::Publish { client, topic, qos, retain }),
        4 => (client(), filter()).prop_map(|(client, filter)| Step::Subscribe { client, filter }),
        1 => (client(), filter()).prop_map(|(client, filter)| Step::Unsubscribe { client, filter }),
        1 => client().prop_map(|client| Step::Cut { client }),
        2 => (client(), 0..3usize).prop_map(|(client, listener)| Step::Come { client, listener }),
    ]
}

/// The topic or filter that a client means.
fn full(mount_point: &str, text: &str) -> String {
    match text.starts_with('$') {
        true if !mount_point.is_empty() => format!("${mount_point}{text}"),
        _ => format!("{mount_point}{text}"),
    }
}

/// What a client has to say to mean this topic, if it can.
fn seen(mount_point: &str, topic: &str) -> Option<String> {
    let ends = topic.char_indices().map(|(at, _)| &topic[at..]);
    ends.filter(|end| full(mount_point, end) == topic).map(Into::into).next()
}

#[derive(Default)]
struct Member {
    /// Its mount point, while it is connected.
    at: Option<&'static str>,
    connection: Option<ConnectionId>,
    filters: BTreeSet<String>,
    /// Full topics and payloads that wait for it.
    waiting: Vec<(String, String)>,
}

impl Member {
    /// What it hears now, in no order.
    fn hears(&mut self) -> Vec<String> {
        let Some(mount_point) = self.at else { return Vec::new() };
        let heard =
            |(topic, payload): (String, String)| Some(format!("{}: {payload}", seen(mount_point, &topic)?));
        let mut heard: Vec<_> = self.waiting.drain(..).filter_map(heard).collect();
        heard.sort();
        heard
    }
}

struct World {
    bench: Bench,
    members: Vec<Member>,
    retained: BTreeMap<String, String>,
}

impl World {
    fn new() -> Self {
        let listener = |mount_point: &str| ListenerConfig {
            mount_point: mount_point.into(),
            ..ListenerConfig::default()
        };
        let listeners = MOUNT_POINTS.iter().map(|mount_point| listener(mount_point)).collect();
        let bench = Bench::with(Config { listeners, ..Config::default() }, Stack::standard());
        let members = (0..CLIENTS).map(|_| Member::default()).collect();
        let mut world = Self { bench, members, retained: BTreeMap::new() };
        (0..CLIENTS).for_each(|client| world.come(client, client % 3));
        world
    }

    fn come(&mut self, client: usize, listener: usize) {
        self.bench.peer.listener = listener as u16;
        let name = format!("client-{client}");
        let version = if client == 0 { Version::V31 } else { Version::V311 };
        let (id, _) = self.bench.connect_with(&Connect { clean_start: false, ..connect(version, &name) });
        let member = &mut self.members[client];
        (member.at, member.connection) = (Some(MOUNT_POINTS[listener]), Some(id));
    }

    fn publish(&mut self, topic: &str, payload: &str, retain: bool) {
        for member in &mut self.members {
            if member.filters.iter().any(|filter| matches(filter, topic)) {
                member.waiting.push((topic.into(), payload.into()));
            }
        }
        if retain {
            self.retained.insert(topic.into(), payload.into());
        }
    }

    fn perform(&mut self, number: usize, step: Step) {
        let client = match step {
            Step::Come { client, listener } => return self.come(client, listener),
            Step::Publish { client, .. }
            | Step::Subscribe { client, .. }
            | Step::Unsubscribe { client, .. }
            | Step::Cut { client } => client,
        };
        let member = &mut self.members[client];
        let (Some(mount_point), Some(id)) = (member.at, member.connection) else { return };
        match step {
            Step::Publish { topic, qos, retain, .. } => {
                let payload = number.to_string();
                let packet = Publish { retain, ..publish(&topic, &payload, qos) };
                self.bench.send(id, &Packet::Publish(packet));
                self.publish(&full(mount_point, &topic), &payload, retain);
            }
            Step::Subscribe { filter, .. } => {
                self.bench.subscribe(id, &filter, QoS::AtLeastOnce);
                let filter = full(mount_point, &filter);
                let retained = self.retained.iter().filter(|(topic, _)| matches(&filter, topic));
                member.waiting.extend(retained.map(|(topic, payload)| (topic.clone(), payload.clone())));
                member.filters.insert(filter);
            }
            Step::Unsubscribe { filter, .. } => {
                self.bench.unsubscribe(id, &filter);
                member.filters.remove(&full(mount_point, &filter));
            }
            Step::Cut { .. } => {
                self.bench.cut(id);
                (member.at, member.connection) = (None, None);
            }
            Step::Come { .. } => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_client_hears_what_is_in_its_view(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for (number, step) in steps.into_iter().enumerate() {
            world.perform(number, step);
            for (client, member) in world.members.iter_mut().enumerate() {
                let Some(id) = member.connection else { continue };
                let mut heard = world.bench.handshake(id);
                heard.sort();
                prop_assert_eq!(heard, member.hears(), "client {} in step {}", client, number);
            }
        }
    }
}

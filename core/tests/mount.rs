//! Mount points: all that the clients of a listener say and hear is below its prefix.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)] // in a test, a panic is the report

use culex_core::broker::{Fate, Notice, Traced};
use culex_core::config::ListenerConfig;
use culex_core::middleware::{Authorize, Notices, PacketEmitter, Permission, Wanted};
use culex_core::packet::*;
use culex_core::testing::*;
use culex_core::{Config, ConnectionId, LogSeq, Message, Origin, Stack};
use std::sync::{Arc, Mutex};

const Q0: QoS = QoS::AtMostOnce;
const Q1: QoS = QoS::AtLeastOnce;
const Q2: QoS = QoS::ExactlyOnce;
const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

fn mounted(mount_points: &[&str]) -> Config {
    let listener = |mount_point: &&str| ListenerConfig {
        mount_point: (*mount_point).into(),
        ..ListenerConfig::default()
    };
    let config = Config { listeners: mount_points.iter().map(listener).collect(), ..Config::default() };
    config.check().unwrap();
    config
}

/// Listener 0 has no mount point, 1 has `m/`, 2 has `other/`.
fn bench() -> Bench {
    Bench::with(mounted(&["", "m/", "other/"]), Stack::standard())
}

fn by(bench: &mut Bench, listener: u16, packet: &Connect<'_>) -> ConnectionId {
    bench.peer.listener = listener;
    bench.connect_with(packet).0
}

fn client(bench: &mut Bench, listener: u16, name: &str) -> ConnectionId {
    by(bench, listener, &connect(Version::V5, name))
}

fn lasting(name: &str) -> Connect<'_> {
    Connect { clean_start: false, ..connect(Version::V311, name) }
}

fn stored(bench: &Bench, client_id: &str) -> Vec<String> {
    let found = bench.broker.inspect(client_id).unwrap();
    found.subscriptions.iter().map(|one| one.filter.to_string()).collect()
}

#[test]
fn what_a_client_says_is_below_its_mount_point_and_what_it_hears_comes_from_there() {
    for (version, qos) in VERSIONS.into_iter().flat_map(|version| [Q0, Q1, Q2].map(|qos| (version, qos))) {
        let mut bench = bench();
        let all = client(&mut bench, 0, "all");
        bench.subscribe(all, "#", qos);
        let inside = by(&mut bench, 1, &connect(version, "inside"));
        let same = by(&mut bench, 1, &connect(version, "same"));
        let other = client(&mut bench, 2, "other");
        for id in [inside, same, other] {
            bench.subscribe(id, "a/+", qos);
        }
        bench.publish(inside, "a/b", "1", qos);
        assert_eq!(bench.handshake(inside), ["a/b: 1"]);
        assert_eq!(bench.handshake(same), ["a/b: 1"]);
        assert_eq!(bench.handshake(all), ["m/a/b: 1"]);
        assert!(bench.handshake(other).is_empty(), "below its own there is nothing");
        bench.publish(all, "m/a/c", "2", qos);
        assert_eq!(bench.handshake(inside), ["a/c: 2"]);
        bench.handshake(all);
        bench.publish(all, "a/b", "3", qos);
        assert!(bench.handshake(inside).is_empty());
    }
}

#[test]
fn one_message_goes_to_each_as_it_knows_it() {
    // Small, and large enough to be shared; several of each class, in turn.
    for payload in ["x".to_owned(), "x".repeat(10_000)] {
        for qos in [Q0, Q1] {
            let mut bench = bench();
            let mut clients = Vec::new();
            for round in 0..3 {
                for (listener, seen) in [(1, "t"), (0, "m/t"), (1, "t"), (0, "m/t")] {
                    let id = client(&mut bench, listener, &format!("{round}-{}", clients.len()));
                    bench.subscribe(id, if listener == 0 { "m/#" } else { "#" }, qos);
                    clients.push((id, seen));
                }
            }
            let publisher = client(&mut bench, 0, "publisher");
            bench.publish(publisher, "m/t", &payload, qos);
            for (id, seen) in clients {
                assert_eq!(bench.handshake(id), [format!("{seen}: {payload}")]);
            }
        }
    }
}

#[test]
fn a_topic_alias_stands_for_the_topic_as_the_client_knows_it() {
    // [MQTT-3.3.2-7], [MQTT-3.3.2-12]
    let mut bench = bench();
    let aliases = properties(&[Property::TopicAliasMaximum(5)]);
    let all = client(&mut bench, 0, "all");
    bench.subscribe(all, "#", Q0);
    let ann = by(&mut bench, 1, &Connect { properties: aliases, ..connect(Version::V5, "ann") });
    bench.subscribe(ann, "#", Q0);
    for topic in ["t", "", ""] {
        let properties = properties(&[Property::TopicAlias(3)]);
        bench.send(ann, &Packet::Publish(Publish { properties, ..publish(topic, "x", Q0) }));
    }
    assert_eq!(bench.messages(all), ["m/t: x"; 3]);
    let lines = bench.lines(ann);
    assert_eq!(lines[0], "PUBLISH q0 t: x [TopicAlias(1)]");
    assert_eq!(lines[1..], ["PUBLISH q0 : x [TopicAlias(1)]"; 2]);
}

#[test]
fn a_will_is_published_below_the_mount_point() {
    for version in VERSIONS {
        let mut bench = bench();
        let all = client(&mut bench, 0, "all");
        bench.subscribe(all, "#", Q0);
        let will = Will {
            topic: "gone",
            payload: b"ann",
            qos: Q0,
            retain: false,
            properties: match version {
                Version::V5 => properties(&[Property::ResponseTopic("back"), Property::ContentType("t")]),
                _ => Properties::EMPTY,
            },
        };
        let ann = by(&mut bench, 1, &Connect { will: Some(will), ..connect(version, "ann") });
        bench.cut(ann);
        let expected = match version {
            Version::V5 => "PUBLISH q0 m/gone: ann [ResponseTopic(\"m/back\"), ContentType(\"t\")]",
            _ => "PUBLISH q0 m/gone: ann",
        };
        assert_eq!(bench.lines(all), [expected]);
    }
}

#[test]
fn retained_messages_are_those_below_the_mount_point() {
    let mut bench = bench();
    let all = client(&mut bench, 0, "all");
    for topic in ["a", "m", "m/a", "m/b/c", "other/a"] {
        bench.send(all, &retained(topic, topic, Q0));
    }
    let ann = client(&mut bench, 1, "ann");
    bench.send(ann, &retained("own", "own", Q0));
    for qos in [Q0, Q1] {
        bench.subscribe(ann, "#", qos);
        // `m/#` matches `m` as well [MQTT-4.7.1-1], which is not below `m/`.
        assert_eq!(bench.handshake(ann), ["a: m/a", "b/c: m/b/c", "own: own"]);
    }
    assert_eq!(bench.broker.stats().dropped_outside_mount, 2);
    bench.subscribe(all, "+/own", Q0);
    assert_eq!(bench.messages(all), ["m/own: own"]);
}

#[test]
fn a_response_topic_is_where_the_other_side_finds_it() {
    let mut bench = bench();
    let with = |topic: &'static str, response| Publish {
        properties: properties(&[
            Property::ResponseTopic(response),
            Property::TopicAlias(1),
            Property::CorrelationData(b"7"),
        ]),
        ..publish(topic, "?", Q0)
    };
    let (all, ann) = (client(&mut bench, 0, "all"), client(&mut bench, 1, "ann"));
    bench.subscribe(all, "m/ask", Q0);
    bench.subscribe(ann, "do", Q0);
    bench.send(ann, &Packet::Publish(with("ask", "answers")));
    let expected = "PUBLISH q0 m/ask: ? [ResponseTopic(\"m/answers\"), CorrelationData([55])]";
    assert_eq!(bench.lines(all), [expected]);
    bench.send(all, &Packet::Publish(with("m/do", "m/done")));
    let expected = "PUBLISH q0 do: ? [CorrelationData([55]), ResponseTopic(\"done\")]";
    assert_eq!(bench.lines(ann), [expected]);
    // It could not publish there, so it is not told.
    bench.send(all, &Packet::Publish(with("m/do", "done")));
    assert_eq!(bench.lines(ann), ["PUBLISH q0 do: ? [CorrelationData([55])]"]);
}

#[test]
fn unsubscribing_names_the_same_subscription() {
    // [MQTT-3.10.4-1], [MQTT-3.11.3-2]
    let mut bench = bench();
    let ann = client(&mut bench, 1, "ann");
    bench.subscribe(ann, "a/#", Q0);
    bench.subscribe(ann, "$share/g/b", Q0);
    bench.output(ann);
    assert_eq!(stored(&bench, "ann"), ["$share/g/m/b", "m/a/#"]);
    for (filter, code) in [("m/a/#", "11"), ("a/#", "00"), ("a/#", "11"), ("$share/g/b", "00")] {
        bench.unsubscribe(ann, filter);
        assert_eq!(bench.lines(ann), [format!("UNSUBACK [{code}] #778")], "{filter}");
    }
    assert!(stored(&bench, "ann").is_empty());
}

#[test]
fn shared_groups_of_two_mount_points_are_two_unless_their_full_filter_is_one() {
    let mut bench = bench();
    let (ann, bob) = (client(&mut bench, 1, "ann"), client(&mut bench, 2, "bob"));
    let all = client(&mut bench, 0, "all");
    for id in [ann, bob] {
        bench.subscribe(id, "$share/g/#", Q0);
    }
    for topic in ["m/t", "other/t"] {
        bench.publish(all, topic, "1", Q0);
    }
    assert_eq!(
        (bench.messages(ann), bench.messages(bob)),
        (vec!["t: 1".to_owned()], vec!["t: 1".to_owned()])
    );
    bench.subscribe(all, "$share/g/m/#", Q0);
    let mut heard = 0;
    for _ in 0..4 {
        bench.publish(bob, "x", "not there", Q0);
        bench.publish(ann, "t", "2", Q0);
        heard += bench.messages(all).len();
    }
    assert_eq!((heard, bench.messages(ann).len()), (2, 2), "they take turns");
}

#[test]
fn wildcards_at_the_beginning_do_not_match_dollar_topics_below_a_mount_point_either() {
    // [MQTT-4.7.2-1]
    let mut bench = bench();
    let (all, ann) = (client(&mut bench, 0, "all"), client(&mut bench, 1, "ann"));
    bench.subscribe(all, "#", Q0);
    for filter in ["#", "+/x", "$own/#"] {
        bench.subscribe(ann, filter, Q0);
    }
    bench.output(ann);
    bench.publish(ann, "$own/x", "1", Q0);
    assert_eq!(bench.messages(ann), ["$own/x: 1"]);
    assert!(bench.messages(all).is_empty());
    bench.subscribe(all, "$m/#", Q0);
    bench.publish(ann, "$own/x", "2", Q0);
    assert_eq!(bench.messages(all), ["$m/$own/x: 2"], "that is where it is");
    // What would look like one from below cannot be heard there, nor `$SYS` of the broker.
    bench.messages(ann);
    bench.subscribe(ann, "$SYS/#", Q0);
    for topic in ["m/$own/x", "$m/own/x", "$SYS/x", "$m/", "m/"] {
        bench.publish(all, topic, "3", Q0);
    }
    assert!(bench.messages(ann).is_empty());
}

#[test]
fn a_session_that_comes_back_below_another_mount_point_hears_what_is_below_that() {
    for stack in [Stack::standard, Stack::durable] {
        let mut bench = Bench::with(mounted(&["", "m/", "other/", "m/a/"]), stack());
        let commit = |bench: &mut Bench| {
            let last = bench.stores.last().map_or(LogSeq(0), |(seq, _)| *seq);
            bench.broker.committed(bench.now, last);
            bench.drain();
        };
        let come = |bench: &mut Bench, listener| {
            bench.peer.listener = listener;
            let id = bench.try_connect(&lasting("ann"));
            commit(bench);
            id
        };
        bench.broker.trace(true);
        let all = by(&mut bench, 0, &connect(Version::V5, "all"));
        let ann = come(&mut bench, 1);
        bench.subscribe_all(ann, &[("#", SubscriptionOptions::new(Q2))]);
        commit(&mut bench);
        bench.publish_as(all, 1, "m/b", "in flight", Q1);
        commit(&mut bench);
        assert_eq!(bench.messages(ann), ["b: in flight"]);
        bench.cut(ann);
        for (packet_id, topic) in [(2, "m/b"), (3, "m/a/x")] {
            bench.publish_as(all, packet_id, topic, "queued", Q1);
        }
        let ann = come(&mut bench, 3);
        // [MQTT-3.2.2-3]: the session is there, whatever of it can be heard.
        let lines = bench.lines(ann);
        assert!(lines[0].starts_with("CONNACK 00 present"), "{lines:?}");
        commit(&mut bench);
        let rest: Vec<_> = lines[1..].iter().cloned().chain(bench.lines(ann)).collect();
        assert!(rest.len() == 1 && rest[0].ends_with(" x: queued"), "{rest:?}");
        assert_eq!(bench.broker.stats().dropped_outside_mount, 2);
        let outside = |traced: &Traced| matches!(traced, Traced::Delivery { fate: Fate::OutsideMount, topic, .. } if **topic == *"m/b");
        assert_eq!(std::iter::from_fn(|| bench.broker.poll_traced()).filter(outside).count(), 2);
        assert_eq!(stored(&bench, "ann"), ["m/#"], "the subscription is what it was");
        bench.cut(ann);
        // Without a mount point it hears full topics, of messages that were its own too: what was in flight is sent again.
        let ann = come(&mut bench, 0);
        let again = bench.handshake(ann);
        assert_eq!(again, ["m/a/x: queued"]);
        bench.publish_as(all, 4, "m/c", "now", Q1);
        commit(&mut bench);
        assert_eq!(bench.handshake(ann), ["m/c: now"]);
    }
}

#[test]
fn what_is_too_long_below_a_mount_point_is_refused() {
    // [MQTT-4.7.3-3]
    let mut bench = bench();
    let ann = client(&mut bench, 1, "ann");
    let (fits, long) = ("x".repeat(65_533), "x".repeat(65_534));
    bench.subscribe(ann, &fits, Q0);
    bench.publish(ann, &fits, "1", Q0);
    assert_eq!(bench.messages(ann), [format!("{fits}: 1")]);
    for (qos, answer) in [(Q1, "PUBACK 90 #1"), (Q2, "PUBREC 90 #1")] {
        bench.publish(ann, &long, "2", qos);
        assert_eq!(bench.lines(ann), [answer]);
    }
    let properties = properties(&[Property::ResponseTopic(&long)]);
    bench.send(ann, &Packet::Publish(Publish { properties, ..publish("t", "2", Q1) }));
    assert_eq!(bench.lines(ann), ["PUBACK 90 #1"]);
    let shared = format!("$share/g/{}", "x".repeat(65_525));
    for filter in [&long, &shared, &format!("${}", &long[2..])] {
        bench.subscribe_all(
            ann,
            &[("t", SubscriptionOptions::default()), (filter, SubscriptionOptions::default())],
        );
        assert_eq!(bench.lines(ann), ["SUBACK [8F, 8F] #777"]);
        bench.unsubscribe(ann, filter);
        assert_eq!(bench.lines(ann), ["UNSUBACK [8F] #778"]);
    }
    assert_eq!(stored(&bench, "ann").len(), 1);
    let will = Will { topic: &long, payload: b"", qos: Q0, retain: false, properties: Properties::EMPTY };
    for (version, answer) in [(Version::V5, "CONNACK 90"), (Version::V311, "CONNACK 88")] {
        let bob = bench.try_connect(&Connect { will: Some(will.clone()), ..connect(version, "bob") });
        assert_eq!(bench.lines(bob), [answer]);
        assert!(bench.closed(bob));
    }
    // UNSUBACK of 3.1.1 cannot say no.
    let old = by(&mut bench, 1, &connect(Version::V311, "old"));
    bench.unsubscribe(old, &long);
    assert!(bench.closed(old));
}

#[test]
fn many_filters_do_not_grow_beyond_the_largest_packet() {
    let config = Config { packet_size_max: 1_000, ..mounted(&["a-prefix-of-many-bytes/"]) };
    let mut bench = Bench::with(config, Stack::standard());
    let ann = client(&mut bench, 0, "ann");
    let names: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    let filters: Vec<_> = names.iter().map(|name| (&**name, SubscriptionOptions::default())).collect();
    bench.subscribe_all(ann, &filters[..40]);
    assert!(bench.lines(ann)[0].starts_with("SUBACK [00, 00"));
    bench.subscribe_all(ann, &filters);
    assert!(bench.lines(ann)[0].starts_with("SUBACK [97, 97"));
}

#[test]
fn what_is_malformed_stays_malformed() {
    let filters = ["a#", "#/a", "$share//t", "$share/g/", "$share/g", "$share/g+/t"];
    for filter in filters {
        // [MQTT-4.7.1-1], [MQTT-4.8.2-1], [MQTT-4.8.2-2]: the prefix makes no Topic Filter of what is none.
        let mut bench = bench();
        let ann = client(&mut bench, 1, "ann");
        bench.subscribe_all(ann, &[(filter, SubscriptionOptions::default())]);
        assert_eq!(bench.lines(ann), ["DISCONNECT 81"], "{filter}");
    }
    // [MQTT-3.3.2-8]
    let mut bench = bench();
    let ann = client(&mut bench, 1, "ann");
    bench.bytes(ann, b"\x30\x03\0\0\0");
    assert_eq!(bench.lines(ann), ["DISCONNECT 82"]);
}

#[test]
fn policies_notices_and_the_program_know_full_topics() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = asked.clone();
    let authorize = Authorize::new(move |_: &str, _: Option<&str>, wanted: Wanted<'_>| {
        log.lock().unwrap().push(match wanted {
            Wanted::Publish { topic, .. } | Wanted::Will { topic, .. } => topic.to_owned(),
            Wanted::Subscribe { filter, .. } => filter.to_owned(),
        });
        Permission::Allow
    });
    let emitter = PacketEmitter::new(Notices { sessions: false, subscriptions: true, messages: true });
    let stack = Stack::standard().replace("Authorize", authorize).unwrap();
    let stack = stack.replace("PacketEmitter", emitter).unwrap();
    let mut bench = Bench::with(mounted(&["m/"]), stack);
    bench.broker.subscribe(bench.now, "m/+").unwrap();
    let will = Will { topic: "w", payload: b"", qos: Q0, retain: false, properties: Properties::EMPTY };
    let ann = by(&mut bench, 0, &Connect { will: Some(will), ..connect(Version::V5, "ann") });
    bench.subscribe(ann, "$share/g/s", Q0);
    bench.publish(ann, "t", "1", Q0);
    assert_eq!(*asked.lock().unwrap(), ["m/w", "$share/g/m/s", "m/t"]);
    let notices: Vec<_> = bench.notices.iter().collect();
    assert!(
        matches!(&notices[..], [Notice::Subscribed { filter, .. }, Notice::Published { message, .. }]
            if **filter == *"m/s" && message.topic() == "m/t"),
        "{notices:?}"
    );
    assert_eq!(bench.forwards[0].message().unwrap().topic(), "m/t");
    bench.subscribe(ann, "#", Q0);
    bench.output(ann);
    let message = Message::new("m/p", b"hello", Q1, false).unwrap();
    bench.broker.publish(bench.now, message, Origin::Program).unwrap();
    bench.drain();
    assert_eq!(bench.messages(ann), ["p: hello"]);
}

#[test]
fn what_waits_for_an_answer_is_put_below_the_mount_point_once() {
    let authorize = Authorize::new(|_: &str, _: Option<&str>, _: Wanted<'_>| Permission::Ask);
    let stack = Stack::standard().replace("Authorize", authorize).unwrap();
    let mut bench = Bench::with(mounted(&["", "m/"]), stack);
    let program = bench.broker.subscribe(bench.now, "#").unwrap();
    let ann = client(&mut bench, 1, "ann");
    let long = "x".repeat(65_534);
    bench.publish_as(ann, 1, "first", "1", Q1);
    // Its answer does not overtake that of what waits before it.
    bench.publish_as(ann, 2, &long, "2", Q1);
    bench.publish_as(ann, 3, "$x", "3", Q1);
    assert!(bench.lines(ann).is_empty());
    for _ in 0..2 {
        bench.answer(culex_core::Answer::Allow);
    }
    assert_eq!(bench.lines(ann), ["PUBACK 00 #1", "PUBACK 90 #2", "PUBACK 10 #3"]);
    let topics: Vec<_> = bench.forwards.iter().map(|one| one.message().unwrap().topic().to_owned()).collect();
    assert_eq!(topics, ["m/first"]);
    assert!(bench.forwards.iter().all(|one| one.receivers[0].session == program));
}

#[test]
fn a_log_holds_full_topics() {
    let mut bench = Bench::with(mounted(&["m/"]), Stack::durable());
    let will = Will { topic: "w", payload: b"", qos: Q0, retain: false, properties: Properties::EMPTY };
    let expiry = properties(&[Property::SessionExpiryInterval(9)]);
    let ann =
        bench.try_connect(&Connect { will: Some(will), properties: expiry, ..connect(Version::V5, "ann") });
    let commit = |bench: &mut Bench| {
        bench.broker.committed(bench.now, bench.stores.last().unwrap().0);
        bench.drain();
    };
    commit(&mut bench);
    bench.subscribe_all(ann, &[("#", SubscriptionOptions::new(Q1))]);
    commit(&mut bench);
    bench.send(ann, &retained("t", "1", Q1));
    let log: Vec<String> = bench.stores.iter().map(|(_, record)| format!("{record:?}")).collect();
    let topics: Vec<&str> =
        log.iter().flat_map(|record| record.split('"')).filter(|text| text.starts_with("m/")).collect();
    assert_eq!(topics, ["m/w", "m/#", "m/#", "m/#", "m/t"], "{log:#?}");
    // And a machine made of it keeps its promises below the same mount point.
    let records: Vec<_> = bench.stores.drain(..).map(|(_, record)| record).collect();
    let mut again = Bench::with(mounted(&["m/"]), Stack::durable());
    again.broker.restore(records).unwrap();
    again.drain();
    let ann = again.try_connect(&Connect {
        clean_start: false,
        properties: properties(&[Property::SessionExpiryInterval(9)]),
        ..connect(Version::V5, "ann")
    });
    let last = again.stores.last().unwrap().0;
    again.broker.committed(again.now, last);
    again.drain();
    let lines = again.lines(ann);
    assert!(lines.iter().any(|line| line.ends_with(" t: 1")), "{lines:?}");
}

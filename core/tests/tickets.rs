//! Questions to the outside: who may connect, who may do what, and what waits until it is known.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)] // in a test, a panic is the report

use culex_core::middleware::{Authenticate, Authentication, Authorize, Decision, Permission, Wanted};
use culex_core::packet::*;
use culex_core::testing::*;
use culex_core::{Access, Answer, Config, ConnectionId, Credentials, Query, Stack, Ticket};
use std::collections::BTreeSet;

const Q0: QoS = QoS::AtMostOnce;
const Q1: QoS = QoS::AtLeastOnce;
const Q2: QoS = QoS::ExactlyOnce;
const PINGREQ: &[u8] = b"\xC0\x00";

fn with(config: Config, authentication: Authentication, authorize: Authorize) -> Bench {
    let stack = Stack::standard().replace("Authentication", authentication);
    Bench::with(config, stack.and_then(|stack| stack.replace("Authorize", authorize)).unwrap())
}

/// Every CONNECT is a question.
fn asks_who() -> Bench {
    with(Config::default(), Authentication::ask(), Authorize::everything())
}

/// What concerns a topic with `ask` in it is a question, what has `no` in it is denied, the rest is allowed.
fn policy(_: &str, _: Option<&str>, wanted: Wanted<'_>) -> Permission {
    let (Wanted::Publish { topic: text, .. }
    | Wanted::Subscribe { filter: text, .. }
    | Wanted::Will { topic: text, .. }) = wanted;
    match text {
        text if text.contains("ask") => Permission::Ask,
        text if text.contains("no") => Permission::Deny(ReasonCode::NotAuthorized),
        _ => Permission::Allow,
    }
}

fn asks_what() -> Bench {
    with(Config::default(), Authentication::anonymous(), Authorize::new(policy))
}

fn complete(bench: &mut Bench, ticket: Ticket, answer: Answer) {
    bench.broker.complete(bench.now, ticket, answer);
    bench.drain();
}

/// Takes the questions that were asked since the last time.
fn tickets(bench: &mut Bench) -> Vec<Ticket> {
    bench.asks.drain(..).map(|(ticket, _)| ticket).collect()
}

fn topic(query: &Query) -> &str {
    match query {
        Query::Authorize { access: Access::Publish { topic, .. } | Access::Will { topic, .. }, .. } => topic,
        other => panic!("{other:?}"),
    }
}

fn credit(bench: &Bench, id: ConnectionId) -> bool {
    bench.broker.read_credit(id) > 0
}

fn encoded(packets: &[Packet<'_>], version: Version) -> Vec<u8> {
    let mut bytes = Vec::new();
    packets.iter().for_each(|packet| packet.encode(version, &mut bytes).unwrap());
    bytes
}

/// A client with a `t` subscription that everybody's messages go to.
fn listener(bench: &mut Bench) -> ConnectionId {
    let id = bench.connect(Version::V5, "listener");
    bench.subscribe(id, "#", Q2);
    id
}

#[test]
fn a_callback_decides_who_connects() {
    let decide = |who: &Credentials| match who.password.as_deref() {
        Some(b"right") => Decision::AllowAs("somebody".into()),
        Some(_) => Decision::Deny(ReasonCode::BadUserNameOrPassword),
        None => Decision::Deny(ReasonCode::Banned),
    };
    let names = |_: &str, user_name: Option<&str>, _: Wanted<'_>| match user_name {
        Some("somebody") => Permission::Allow,
        _ => Permission::Deny(ReasonCode::NotAuthorized),
    };
    let mut bench = with(Config::default(), Authentication::new(decide), Authorize::new(names));
    for (version, password, answer) in [
        (Version::V5, Some(&b"right"[..]), "CONNACK 00"),
        (Version::V5, Some(b"wrong"), "CONNACK 86"),
        (Version::V5, None, "CONNACK 8A"),
    ] {
        let id =
            bench.try_connect(&Connect { user_name: Some("root"), password, ..connect(version, "alice") });
        assert!(bench.lines(id)[0].starts_with(answer));
        assert_eq!(bench.closed(id), password != Some(b"right"));
        if !bench.closed(id) {
            bench.publish(id, "t", "x", Q1);
            assert_eq!(bench.lines(id), ["PUBACK 10 #1"], "known by the name it was given");
        }
    }
    for (password, answer) in [(Some(&b"wrong"[..]), b"\x20\x02\x00\x04"), (None, b"\x20\x02\x00\x05")] {
        let id = bench.try_connect(&Connect {
            user_name: Some("root"),
            password,
            ..connect(Version::V311, "bob")
        });
        assert_eq!(bench.output(id), answer);
        assert!(bench.closed(id));
    }
}

#[test]
fn a_ticket_decides_who_connects() {
    for (answer, v5, v3) in [
        (Answer::Allow, "CONNACK 00", 0),
        (Answer::AllowAs("root".into()), "CONNACK 00", 0),
        (Answer::Deny(ReasonCode::BadUserNameOrPassword), "CONNACK 86", 4),
        (Answer::Deny(ReasonCode::ServerBusy), "CONNACK 89", 3),
        // An answer that makes no sense is none.
        (Answer::PerFilter(vec![None]), "CONNACK 87", 5),
        (Answer::Custom(b"yes".as_slice().into()), "CONNACK 87", 5),
    ] {
        let mut bench = asks_who();
        let new = bench.try_connect(&connect(Version::V5, "alice"));
        let old = bench.try_connect(&connect(Version::V311, "bob"));
        assert!(bench.output(new).is_empty() && bench.output(old).is_empty());
        for _ in 0..2 {
            bench.answer(answer.clone());
        }
        assert!(bench.lines(new)[0].starts_with(v5));
        assert_eq!(bench.output(old), [0x20, 2, 0, v3]);
        assert_eq!(bench.closed(new), v3 != 0);
        assert_eq!(bench.broker.sessions(), if v3 == 0 { 2 } else { 0 });
        assert!(bench.forgotten.is_empty());
    }
}

#[test]
fn a_question_has_everything_that_connect_says() {
    let mut bench = asks_who();
    bench.try_connect(&Connect {
        user_name: Some("root"),
        password: Some(b"secret"),
        ..connect(Version::V31, "alice")
    });
    let (_, Query::Authenticate(who)) = &bench.asks[0] else { panic!("{:?}", bench.asks) };
    assert_eq!(
        (&*who.client_id, who.user_name.as_deref(), who.version),
        ("alice", Some("root"), Version::V31)
    );
    assert_eq!(who.password.as_deref(), Some(&b"secret"[..]));
    assert!(!format!("{:?}", bench.asks).contains("secret"));
}

#[test]
fn without_an_answer_in_time_the_answer_is_no() {
    let mut bench = asks_who();
    let alice = bench.try_connect(&connect(Version::V5, "alice"));
    bench.pass_ms(4_999);
    assert!(bench.output(alice).is_empty());
    bench.pass_ms(1);
    assert_eq!(bench.lines(alice), ["CONNACK 87"]);
    assert!(bench.closed(alice));
    let asked = tickets(&mut bench);
    assert_eq!(bench.forgotten, asked);
    assert_eq!(bench.broker.stats().asks_timed_out, 1);
    // Late, and without effect.
    complete(&mut bench, asked[0], Answer::Allow);
    assert!(bench.output(alice).is_empty());
    assert_eq!(bench.broker.sessions(), 0);
}

#[test]
fn an_answer_counts_once_and_only_for_its_question() {
    let mut bench = asks_who();
    let alice = bench.try_connect(&connect(Version::V311, "alice"));
    let first = tickets(&mut bench)[0];
    bench.cut(alice);
    assert_eq!(bench.forgotten, [first]);
    let bob = bench.try_connect(&connect(Version::V311, "bob"));
    // The places of connection and ticket are used again, but not their ids.
    complete(&mut bench, first, Answer::Allow);
    assert!(bench.output(bob).is_empty());
    let second = tickets(&mut bench)[0];
    complete(&mut bench, second, Answer::Allow);
    complete(&mut bench, second, Answer::Deny(ReasonCode::Banned));
    assert_eq!(bench.output(bob), [0x20, 2, 0, 0]);
    assert!(!bench.closed(bob));
    assert_eq!(bench.forgotten.len(), 1);
}

#[test]
fn every_ticket_is_answered_or_forgotten_once() {
    let mut bench = asks_what();
    let mut asked = BTreeSet::new();
    let mut answered = BTreeSet::new();
    for round in 0..40 {
        let id = bench.connect(Version::V5, "alice");
        for n in 0..10 {
            bench.publish_as(id, n + 1, &format!("ask/{n}"), "x", Q1);
        }
        let tickets = tickets(&mut bench);
        asked.extend(tickets.iter().copied());
        for ticket in tickets.iter().skip(round % 11) {
            complete(&mut bench, *ticket, Answer::Allow);
            answered.insert(*ticket);
        }
        match round % 4 {
            0 => bench.cut(id),
            1 => bench.bytes(id, b"\xF0\x05garbage"),
            2 => bench.leave(id),
            _ => bench.pass_ms(1),
        }
    }
    bench.pass_ms(100_000);
    assert_eq!(asked.len(), 400);
    let forgotten: BTreeSet<Ticket> = bench.forgotten.iter().copied().collect();
    assert_eq!(forgotten.len(), bench.forgotten.len());
    assert!(forgotten.is_disjoint(&answered));
    assert_eq!(&forgotten | &answered, asked);
}

#[test]
fn nothing_is_read_while_connect_waits() {
    let mut bench = asks_who();
    let alice = bench.accept();
    assert!(credit(&bench, alice));
    bench.send(alice, &Packet::Connect(connect(Version::V311, "alice")));
    assert!(!credit(&bench, alice));
    assert!(bench.credits.is_empty());
    // Bytes that came all the same are not lost.
    let mut subscribe = subscribe_filters(&[("t", SubscriptionOptions::new(Q0))]);
    let filters = std::mem::take(&mut subscribe);
    let subscribe =
        Subscribe { packet_id: id(7), properties: Properties::EMPTY, filters: filters.as_filters() };
    let hello = publish("t", "hello", Q1);
    let bytes =
        encoded(&[Packet::Subscribe(subscribe), Packet::Publish(hello), Packet::Pingreq], Version::V311);
    bytes.chunks(3).for_each(|chunk| bench.bytes(alice, chunk));
    assert!(bench.output(alice).is_empty());
    bench.answer(Answer::Allow);
    assert!(credit(&bench, alice));
    assert_eq!(bench.credits, [alice]);
    let lines = bench.lines(alice);
    assert_eq!(lines, ["CONNACK 00", "SUBACK [00] #7", "PUBLISH q0 t: hello", "PUBACK 00 #1", "PINGRESP"]);
}

#[test]
fn what_follows_a_refused_connect_is_not_processed() {
    let mut bench = asks_who();
    let alice = bench.accept();
    let publish = publish("t", "hello", Q0);
    let bytes =
        encoded(&[Packet::Connect(connect(Version::V311, "alice")), Packet::Publish(publish)], Version::V311);
    bench.bytes(alice, &bytes);
    bench.answer(Answer::Deny(ReasonCode::NotAuthorized));
    assert_eq!(bench.output(alice), [0x20, 2, 0, 5]);
    assert_eq!(bench.broker.stats().publishes_received, 0);
}

#[test]
fn connect_and_its_answer_have_to_come_in_time() {
    let config = Config { ask_timeout_ms: 60_000, ..Config::default() };
    let mut bench = with(config, Authentication::ask(), Authorize::everything());
    let alice = bench.try_connect(&connect(Version::V5, "alice"));
    bench.pass_ms(10_000);
    assert_eq!(bench.lines(alice), ["CONNACK 80"]);
    assert!(bench.closed(alice));
    let asked = tickets(&mut bench);
    assert_eq!(bench.forgotten, asked);
}

#[test]
fn a_callback_decides_who_does_what() {
    let mut bench = asks_what();
    let listener = listener(&mut bench);
    for (version, id_of, denied) in [(Version::V5, "alice", "87"), (Version::V311, "bob", "00")] {
        let id = bench.connect(version, id_of);
        bench.publish_as(id, 1, "no", "x", Q0);
        bench.publish_as(id, 2, "no", "x", Q1);
        bench.publish_as(id, 3, "no", "x", Q2);
        bench.publish_as(id, 4, "yes", "x", Q1);
        let expected = [format!("PUBACK {denied} #2"), format!("PUBREC {denied} #3"), "PUBACK 00 #4".into()];
        assert_eq!(bench.lines(id), expected);
        let one = SubscriptionOptions::new(Q1);
        bench.subscribe_all(id, &[("yes", one), ("no", one), ("also", one)]);
        let denied = if version == Version::V5 { "87" } else { "80" };
        assert_eq!(bench.lines(id), [format!("SUBACK [01, {denied}, 01] #777")]);
        // A will that may not be left: the connection may not be made.
        let with_will = Connect { will: Some(will("no", b"x")), ..connect(version, "carol") };
        let refused = bench.try_connect(&with_will);
        assert!(bench.closed(refused));
    }
    assert_eq!(bench.handshake(listener), ["yes: x", "yes: x"]);
}

#[test]
fn tickets_decide_about_publish_subscribe_and_will() {
    let mut bench = asks_what();
    let alice = bench.connect(Version::V5, "alice");
    bench.publish_as(alice, 1, "ask", "x", Q1);
    bench.answer(Answer::Deny(ReasonCode::QuotaExceeded));
    assert_eq!(bench.lines(alice), ["PUBACK 97 #1"]);
    bench.publish_as(alice, 2, "ask", "x", Q1);
    bench.answer(Answer::Allow);
    assert_eq!(bench.lines(alice), ["PUBACK 10 #2"]);
    // Remembered.
    bench.publish_as(alice, 3, "ask", "x", Q1);
    assert!(bench.asks.is_empty());
    assert_eq!(bench.lines(alice), ["PUBACK 10 #3"]);

    let two = SubscriptionOptions::new(Q2);
    bench.subscribe_all(alice, &[("ask/1", two), ("no", two), ("ask/2", two), ("ask/3", two)]);
    let verdicts = vec![Some(ReasonCode::Banned), None, None];
    bench.answer(Answer::PerFilter(verdicts));
    // What the callback denied stays denied, and what has no verdict is. SUBACK has no word for a ban.
    assert_eq!(bench.lines(alice), ["SUBACK [80, 87, 02, 87] #777"]);
    bench.subscribe_all(alice, &[("ask/1", two), ("no", two)]);
    bench.answer(Answer::Allow);
    assert_eq!(bench.lines(alice), ["SUBACK [02, 87] #777"]);
    bench.subscribe_all(alice, &[("ask/1", two), ("ok", two)]);
    bench.answer(Answer::Deny(ReasonCode::NotAuthorized));
    assert_eq!(bench.lines(alice), ["SUBACK [87, 87] #777"]);

    for (answer, line) in
        [(Answer::Deny(ReasonCode::NotAuthorized), "CONNACK 87"), (Answer::Allow, "CONNACK 00")]
    {
        let with_will = Connect { will: Some(will("ask/will", b"x")), ..connect(Version::V5, "bob") };
        let bob = bench.try_connect(&with_will);
        assert_eq!(topic(&bench.asks[0].1), "ask/will");
        bench.answer(answer);
        assert!(bench.lines(bob)[0].starts_with(line));
    }
}

#[test]
fn a_connect_may_have_two_questions() {
    let mut bench = with(Config::default(), Authentication::ask(), Authorize::new(policy));
    let with_will = Connect { will: Some(will("ask/will", b"x")), ..connect(Version::V5, "bob") };
    let bob = bench.try_connect(&with_will);
    bench.bytes(bob, PINGREQ);
    bench.answer(Answer::AllowAs("robert".into()));
    assert!(!credit(&bench, bob) && bench.credits.is_empty());
    let (_, Query::Authorize { user_name, .. }) = &bench.asks[0] else { panic!("{:?}", bench.asks) };
    assert_eq!(user_name.as_deref(), Some("robert"));
    bench.answer(Answer::Allow);
    assert_eq!(bench.credits, [bob]);
    assert!(bench.lines(bob)[1..] == ["PINGRESP"]);
}

#[test]
fn packets_behind_one_that_waits_keep_their_order() {
    let mut bench = asks_what();
    let listener = listener(&mut bench);
    let alice = bench.connect(Version::V5, "alice");
    bench.subscribe(alice, "mine", Q1);
    bench.publish_as(listener, 9, "mine", "for alice", Q1);
    bench.output(alice);

    bench.publish_as(alice, 1, "ask", "1", Q1);
    bench.publish_as(alice, 2, "t", "2", Q1);
    bench.publish_as(alice, 0, "t", "3", Q0);
    bench.publish_as(alice, 3, "no", "4", Q1);
    bench.publish_as(alice, 4, "t", "5", Q2);
    bench.acknowledge(alice, PacketType::Pubrel, 4);
    bench.subscribe_all(alice, &[("later", SubscriptionOptions::new(Q1))]);
    // Handled by an earlier part of the chain than what waits before it.
    bench.publish_as(alice, 5, "t", "6", Q1);
    bench.unsubscribe(alice, "mine");
    assert!(bench.output(alice).is_empty());
    // Signs of life and answers pass.
    bench.bytes(alice, PINGREQ);
    bench.acknowledge(alice, PacketType::Puback, 1);
    assert_eq!(bench.lines(alice), ["PINGRESP"]);
    bench.answer(Answer::Allow);
    let expected = [
        "PUBACK 00 #1",
        "PUBACK 00 #2",
        "PUBACK 87 #3",
        "PUBREC 00 #4",
        "PUBCOMP 00 #4",
        "SUBACK [01] #777",
        "PUBACK 00 #5",
        "UNSUBACK [00] #778",
    ];
    assert_eq!(bench.lines(alice), expected);
    assert_eq!(bench.handshake(listener), ["mine: for alice", "ask: 1", "t: 2", "t: 3", "t: 5", "t: 6"]);
}

/// All orders of 0, 1, 2, 3.
fn orders() -> Vec<[usize; 4]> {
    let mut orders = Vec::new();
    for n in 0..256 {
        let order = [n & 3, n >> 2 & 3, n >> 4 & 3, n >> 6];
        if (0..4).all(|k| order.contains(&k)) {
            orders.push(order);
        }
    }
    orders
}

#[test]
fn look_ups_overlap_and_effects_stay_in_arrival_order() {
    for order in orders() {
        let mut bench = asks_what();
        let listener = listener(&mut bench);
        let alice = bench.connect(Version::V311, "alice");
        for n in 0..4 {
            bench.publish_as(alice, n + 1, &format!("ask/{n}"), "x", Q1);
        }
        let tickets = tickets(&mut bench);
        assert_eq!(tickets.len(), 4, "all were asked at once");
        let mut known = [false; 4];
        for n in order {
            let answer = if n == 2 { Answer::Deny(ReasonCode::NotAuthorized) } else { Answer::Allow };
            complete(&mut bench, tickets[n], answer);
            known[n] = true;
            let done = known.iter().take_while(|known| **known).count();
            let output = bench.handshake(listener);
            let last = output.last().map(|message| message[4..5].parse::<usize>().unwrap());
            assert!(last.is_none_or(|last| last < done), "{order:?}: {output:?} after {known:?}");
        }
        let acks: Vec<String> = (1..=4).map(|n| format!("PUBACK 00 #{n}")).collect();
        assert_eq!(bench.lines(alice), acks);
        assert_eq!(bench.broker.stats().publishes_received, 3, "listener's are none, one was refused");
    }
}

#[test]
fn another_connection_does_not_wait() {
    let mut bench = asks_what();
    let (alice, bob) = (bench.connect(Version::V311, "alice"), bench.connect(Version::V311, "bob"));
    bench.publish(alice, "ask", "x", Q1);
    bench.publish(bob, "t", "x", Q1);
    assert_eq!(bench.lines(bob), ["PUBACK 00 #1"]);
    assert!(bench.output(alice).is_empty());
}

#[test]
fn only_so_many_packets_wait() {
    let config = Config { parked_max: 4, ..Config::default() };
    let mut bench = with(config, Authentication::anonymous(), Authorize::new(policy));
    let listener = listener(&mut bench);
    let alice = bench.connect(Version::V311, "alice");
    bench.publish_as(alice, 1, "ask", "1", Q1);
    for n in 2..=4 {
        assert!(credit(&bench, alice));
        bench.publish_as(alice, n, "t", &n.to_string(), Q1);
    }
    assert!(!credit(&bench, alice));
    // What comes all the same is kept as bytes, PINGREQ included.
    bench.publish_as(alice, 5, "t", "5", Q1);
    bench.bytes(alice, PINGREQ);
    assert!(bench.output(alice).is_empty() && bench.credits.is_empty());
    bench.answer(Answer::Allow);
    assert_eq!(bench.lines(alice)[4..], ["PUBACK 00 #5", "PINGRESP"]);
    assert_eq!(bench.credits, [alice]);
    assert_eq!(bench.handshake(listener).len(), 5);
}

#[test]
fn keep_alive_does_not_end_whom_we_do_not_read() {
    let config = Config { parked_max: 1, ask_timeout_ms: 60_000, ..Config::default() };
    let mut bench = with(config, Authentication::anonymous(), Authorize::new(policy));
    let (alice, _) = bench.connect_with(&Connect { keep_alive: 1, ..connect(Version::V5, "alice") });
    bench.publish(alice, "ask", "x", Q1);
    assert!(!credit(&bench, alice));
    bench.pass_ms(30_000);
    assert!(!bench.closed(alice));
    bench.answer(Answer::Allow);
    bench.pass_ms(3_000);
    assert_eq!(bench.lines(alice), ["PUBACK 10 #1", "DISCONNECT 8D"]);
}

/// All connections are gone, and their `places` are used again.
fn gone(bench: &mut Bench, places: u32) {
    assert_eq!((bench.broker.connections(), bench.broker.sessions()), (0, 0));
    let ids: Vec<ConnectionId> = (0..places).map(|_| bench.accept()).collect();
    for id in ids {
        assert!(culex_core::id::Id::index(id) < places);
        bench.cut(id);
    }
    assert_eq!(bench.broker.deadline(), None);
}

#[test]
fn disconnect_waits_for_what_was_said_before_it() {
    for version in [Version::V311, Version::V5] {
        let mut bench = asks_what();
        let with_will = Connect { will: Some(will("will", b"gone")), ..connect(version, "alice") };
        let (alice, _) = bench.connect_with(&with_will);
        bench.broker.subscribe(bench.now, "#").unwrap();
        bench.publish(alice, "ask", "x", Q1);
        bench.send(alice, &disconnect(ReasonCode::Success, &[]));
        assert!(!bench.closed(alice));
        bench.answer(Answer::Allow);
        assert!(bench.closed(alice));
        assert_eq!(bench.lines(alice), ["PUBACK 00 #1"]);
        bench.cut(alice);
        let forwarded: Vec<_> =
            bench.forwards.iter().map(|forward| forward.message().unwrap().topic()).collect();
        assert_eq!(forwarded, ["ask"], "no will");
    }
}

#[test]
fn what_a_client_said_before_it_left_still_counts() {
    for (goodbye, answer) in [(false, true), (true, true), (false, false), (true, false)] {
        let mut bench = asks_what();
        let with_will = Connect { will: Some(will("will", b"gone")), ..connect(Version::V311, "alice") };
        let (alice, _) = bench.connect_with(&with_will);
        let listener = listener(&mut bench);
        bench.publish_as(alice, 1, "ask", "x", Q1);
        bench.publish_as(alice, 2, "t", "y", Q1);
        if goodbye {
            bench.send(alice, &disconnect(ReasonCode::Success, &[]));
        }
        bench.cut(alice);
        assert_eq!(bench.broker.connections(), 1, "it is not counted any more");
        assert!(bench.messages(listener).is_empty(), "nor is its will published yet");
        if answer {
            bench.answer(Answer::Allow);
        } else {
            bench.pass_ms(5_000);
        }
        let mut expected = vec!["ask: x", "t: y", "will: gone"];
        expected.retain(|line| (answer || *line != "ask: x") && (!goodbye || *line != "will: gone"));
        assert_eq!(bench.handshake(listener), expected);
        bench.leave(listener);
        gone(&mut bench, 2);
        assert!(!bench.closed(alice), "its socket was closed before");
    }
}

#[test]
fn what_was_not_even_looked_at_when_a_client_left_still_counts() {
    let config = Config { parked_max: 2, ..Config::default() };
    let mut bench = with(config, Authentication::anonymous(), Authorize::new(policy));
    let listener = listener(&mut bench);
    let alice = bench.connect(Version::V311, "alice");
    for n in 0..6 {
        bench.publish_as(alice, 1, if n % 3 == 0 { "ask" } else { "t" }, &n.to_string(), Q0);
    }
    bench.cut(alice);
    bench.answer(Answer::Deny(ReasonCode::NotAuthorized));
    bench.answer(Answer::Allow);
    assert_eq!(bench.handshake(listener), ["t: 1", "t: 2", "ask: 3", "t: 4", "t: 5"]);
    assert!(bench.credits.is_empty());
    assert_eq!(bench.broker.connections(), 1);
}

#[test]
fn a_client_that_left_while_it_waited_is_taken_over_and_gone() {
    for shutdown in [false, true] {
        let mut bench = asks_what();
        let alice = bench.connect(Version::V311, "alice");
        bench.publish_as(alice, 1, "ask", "x", Q1);
        bench.cut(alice);
        if shutdown {
            bench.broker.shutdown(bench.now);
            bench.drain();
            assert_eq!((bench.broker.connections(), bench.broker.deadline()), (0, None));
        } else {
            let again = bench.connect(Version::V311, "alice");
            bench.cut(again);
            gone(&mut bench, 2);
        }
        let asked = tickets(&mut bench);
        assert_eq!(bench.forgotten, asked);
        assert!(!bench.closed(alice));
    }
}

#[test]
fn a_violation_ends_a_client_and_what_it_waits_for() {
    let mut bench = asks_what();
    let alice = bench.connect(Version::V5, "alice");
    bench.publish_as(alice, 1, "ask", "x", Q1);
    bench.publish_as(alice, 2, "t", "x", Q1);
    bench.bytes(alice, b"\xF0\x05garbage");
    let asked = tickets(&mut bench);
    assert_eq!(bench.forgotten, asked);
    assert!(bench.lines(alice)[0].starts_with("DISCONNECT 8"));
    bench.cut(alice);
    gone(&mut bench, 1);
}

#[test]
fn a_stranger_cannot_take_a_session_over() {
    // Takeover only after authentication (invariant 11).
    let check = |who: &Credentials| match who.password.as_deref() {
        Some(b"right") => Decision::Allow,
        Some(b"maybe") => Decision::Ask,
        _ => Decision::Deny(ReasonCode::BadUserNameOrPassword),
    };
    let mut bench = with(Config::default(), Authentication::new(check), Authorize::everything());
    let known = Connect {
        clean_start: false,
        password: Some(b"right"),
        user_name: Some("alice"),
        ..connect(Version::V311, "alice")
    };
    let (alice, _) = bench.connect_with(&known);
    bench.subscribe(alice, "t", Q1);
    for (password, version) in
        [(&b"wrong"[..], Version::V311), (b"wrong", Version::V5), (b"maybe", Version::V5)]
    {
        let stranger = Connect { version, clean_start: true, password: Some(password), ..known.clone() };
        let stranger = bench.try_connect(&stranger);
        if password == b"maybe" {
            assert!(!bench.closed(alice), "nothing happens before it is known");
            bench.answer(Answer::Deny(ReasonCode::BadUserNameOrPassword));
        }
        assert!(bench.closed(stranger) && !bench.closed(alice));
        bench.cut(stranger);
    }
    bench.publish(alice, "t", "still here", Q1);
    assert_eq!(bench.handshake(alice), ["t: still here"]);
    // The owner may.
    let (again, present) = bench.connect_with(&known);
    assert!(present && bench.closed(alice) && !bench.closed(again));
}

/// Knows the method `dance`.
struct Dance;

impl Authenticate for Dance {
    fn authenticate(&mut self, _: &Credentials) -> Decision {
        Decision::Allow
    }

    fn method(&self, name: &str) -> bool {
        name == "dance"
    }
}

fn dances() -> Bench {
    with(Config::default(), Authentication::new(Dance), Authorize::everything())
}

fn dance<'a>(method: &str, data: &[u8]) -> Connect<'a> {
    let list = [Property::AuthenticationMethod(method), Property::AuthenticationData(data)];
    Connect { properties: properties(&list), ..connect(Version::V5, "alice") }
}

fn auth(method: &str, data: &[u8]) -> Packet<'static> {
    let list = [Property::AuthenticationMethod(method), Property::AuthenticationData(data)];
    Packet::Auth(Auth { reason: ReasonCode::ContinueAuthentication, properties: properties(&list) })
}

fn step(bench: &Bench) -> &[u8] {
    let (_, Query::Authenticate(who)) = &bench.asks[0] else { panic!("{:?}", bench.asks) };
    assert_eq!(who.method.as_deref(), Some("dance"));
    who.data.as_deref().unwrap()
}

#[test]
fn enhanced_authentication_goes_back_and_forth() {
    let mut bench = dances();
    let alice = bench.try_connect(&dance("dance", b"one"));
    assert_eq!(step(&bench), b"one");
    for (ours, theirs) in [(&b"two"[..], &b"three"[..]), (b"four", b"five")] {
        assert!(!credit(&bench, alice));
        bench.answer(Answer::Continue(ours.into()));
        assert!(credit(&bench, alice), "it is the client's turn");
        // [MQTT-4.12.0-2]
        let packets = bench.packets(alice);
        assert!(packets[0].contains("ContinueAuthentication") && packets[0].contains("dance"), "{packets:?}");
        // [MQTT-4.12.0-3]
        bench.send(alice, &auth("dance", theirs));
        assert_eq!(step(&bench), theirs);
    }
    bench.bytes(alice, PINGREQ);
    bench.answer(Answer::Allow);
    let lines = bench.lines(alice);
    assert!(lines[0].starts_with("CONNACK 00") && lines[0].contains("dance"), "{lines:?}");
    assert_eq!(lines[1..], ["PINGRESP"]);
    assert!(bench.forgotten.is_empty());
    // The exchange is over: there is nothing to continue.
    bench.send(alice, &auth("dance", b"six"));
    assert_eq!(bench.lines(alice), ["DISCONNECT 82"]);
    assert!(bench.asks.is_empty());
}

#[test]
fn enhanced_authentication_ends_in_many_ways() {
    // An unknown method.
    let mut bench = dances();
    let id = bench.try_connect(&dance("song", b""));
    assert_eq!(bench.lines(id), ["CONNACK 8C"]);
    // Refused at the second step.
    let id = bench.try_connect(&dance("dance", b"one"));
    bench.answer(Answer::Continue(b"two".as_slice().into()));
    bench.output(id);
    bench.send(id, &auth("dance", b"three"));
    bench.answer(Answer::Deny(ReasonCode::NotAuthorized));
    assert_eq!(bench.lines(id), ["CONNACK 87"]);
    // Another method, another packet, nothing at all, no answer.
    for (answer, line) in
        [(Some(auth("song", b"")), "CONNACK 82"), (Some(Packet::Pingreq), "CONNACK 82"), (None, "CONNACK 80")]
    {
        let id = bench.try_connect(&dance("dance", b"one"));
        bench.answer(Answer::Continue(b"two".as_slice().into()));
        bench.output(id);
        match answer {
            Some(packet) => bench.send(id, &packet),
            None => bench.pass_ms(10_000),
        }
        assert_eq!(bench.lines(id), [line]);
        assert!(bench.closed(id));
    }
    let id = bench.try_connect(&dance("dance", b"one"));
    bench.answer(Answer::Continue(b"two".as_slice().into()));
    bench.output(id);
    bench.send(id, &auth("dance", b"three"));
    bench.pass_ms(5_000);
    assert_eq!(bench.lines(id), ["CONNACK 87"]);
    let asked = tickets(&mut bench);
    assert_eq!(bench.forgotten, asked);
    assert_eq!(bench.broker.sessions(), 0);
}

#[test]
fn an_alias_that_waits_means_what_it_meant_when_it_came() {
    let mut bench = asks_what();
    let listener = listener(&mut bench);
    let alice = bench.connect(Version::V5, "alice");
    let alias = || properties(&[Property::TopicAlias(1), Property::ContentType("text")]);
    let mut send = |topic: &'static str, payload: &'static str| {
        bench.send(alice, &Packet::Publish(Publish { properties: alias(), ..publish(topic, payload, Q0) }));
    };
    send("ask/1", "a");
    send("", "b");
    send("ask/2", "c");
    send("", "d");
    send("t", "e");
    send("", "f");
    let tickets = tickets(&mut bench);
    assert_eq!(tickets.len(), 4);
    for ticket in tickets.into_iter().rev() {
        complete(&mut bench, ticket, Answer::Allow);
    }
    let lines = bench.lines(listener);
    assert!(lines.iter().all(|line| line.contains("ContentType")), "{lines:?}");
    let topics: Vec<&str> = lines.iter().map(|line| line.split(' ').nth(2).unwrap()).collect();
    assert_eq!(topics, ["ask/1:", "ask/1:", "ask/2:", "ask/2:", "t:", "t:"]);
}

#[test]
fn a_message_that_waits_expires_from_when_it_came() {
    let mut bench = asks_what();
    let listener = listener(&mut bench);
    let alice = bench.connect(Version::V5, "alice");
    let properties = properties(&[Property::MessageExpiryInterval(10)]);
    bench.send(alice, &Packet::Publish(Publish { properties, ..publish("ask", "x", Q0) }));
    bench.pass_ms(3_000);
    bench.answer(Answer::Allow);
    // [MQTT-3.3.2-6]
    assert!(bench.lines(listener)[0].contains("MessageExpiryInterval(7)"));
}

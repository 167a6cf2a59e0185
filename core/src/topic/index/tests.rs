use super::*;
use crate::id::Id;
use crate::packet::QoS;
use crate::topic::filter;
use crate::topic::filter::tests as make;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::format;
use std::string::String;
use std::vec::Vec;

fn session(index: u32) -> SessionId {
    SessionId::new(index, 0)
}

fn index() -> SubscriptionIndex {
    SubscriptionIndex::new(Seed(1))
}

fn subscribe(index: &mut SubscriptionIndex, filter: &str, share: Option<&str>, who: u32) -> bool {
    index.subscribe(filter, share, session(who), SubscriptionOptions::default(), None)
}

/// Who gets a message, sorted.
fn receivers(index: &mut SubscriptionIndex, topic: &str) -> Vec<u32> {
    let mut found = Vec::new();
    index.matches(topic, |subscription| found.push(subscription.session.index()), |_| true);
    found.sort_unstable();
    found
}

#[test]
fn every_filter_that_matches_delivers() {
    let mut index = index();
    let filters = ["a/b", "a/+", "a/#", "#", "+/+", "a/b/#", "+/b/#", "a/+/#"];
    for (n, filter) in filters.iter().enumerate() {
        assert!(!subscribe(&mut index, filter, None, n as u32));
    }
    for (n, filter) in ["a", "b/a", "a/b/c", "/a/b", "a/b/", "$a/b", "+"].iter().enumerate() {
        subscribe(&mut index, filter, None, 100 + n as u32);
    }
    assert_eq!(receivers(&mut index, "a/b"), [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn an_index_is_empty_until_somebody_subscribes_and_after_everybody_left() {
    for (filter, share) in [("a", None), ("a/+", None), ("a", Some("g")), ("#", Some("g"))] {
        let mut index = index();
        assert!(index.is_empty() && index.holds_nothing());
        index.subscribe(filter, share, session(0), SubscriptionOptions::default(), None);
        assert!(!index.is_empty() && !index.holds_nothing(), "{filter} {share:?}");
        index.unsubscribe(filter, share, session(0));
        assert!(index.is_empty() && index.holds_nothing(), "{filter} {share:?}");
    }
}

#[test]
fn a_leading_wildcard_does_not_match_a_dollar_topic() {
    let mut index = index();
    for (n, filter) in ["#", "+/a", "+/#", "$x/a", "$x/#", "$x/+"].iter().enumerate() {
        subscribe(&mut index, filter, None, n as u32);
    }
    assert_eq!(receivers(&mut index, "$x/a"), [3, 4, 5], "[MQTT-4.7.2-1]");
    assert_eq!(receivers(&mut index, "a/$x"), [0, 2]);
}

#[test]
fn a_second_subscription_to_a_filter_replaces_the_first() {
    let mut index = index();
    let options = SubscriptionOptions { qos: QoS::AtLeastOnce, ..Default::default() };
    for filter in ["a", "a/+"] {
        assert!(!subscribe(&mut index, filter, None, 1));
        assert!(index.subscribe(filter, None, session(1), options, NonZeroU32::new(5)), "[MQTT-3.8.4-3]");
    }
    assert_eq!((index.len(), index.count(session(1))), (2, 2));
    let mut found = Vec::new();
    index.matches("a", |subscription| found.push(subscription), |_| true);
    assert_eq!(found, [Subscription { session: session(1), options, identifier: NonZeroU32::new(5) }]);
}

#[test]
fn an_ordinary_and_a_shared_subscription_to_one_filter_are_two() {
    let mut index = index();
    for share in [None, Some("x"), Some("y")] {
        assert!(!subscribe(&mut index, "a/#", share, 1));
    }
    assert_eq!(receivers(&mut index, "a"), [1, 1, 1]);
    assert!(index.unsubscribe("a/#", Some("x"), session(1)));
    assert!(!index.unsubscribe("a/#", Some("x"), session(1)));
    assert!(!index.unsubscribe("a", None, session(1)));
    assert!(!index.unsubscribe("a/#", None, session(2)));
    assert_eq!(receivers(&mut index, "a"), [1, 1]);
    assert_eq!(index.remove_session(session(1)), 2);
    assert!(index.holds_nothing() && index.is_empty());
}

#[test]
fn a_shared_group_takes_turns() {
    let mut index = index();
    for who in 0..3 {
        subscribe(&mut index, "a", Some("x"), who);
    }
    let turns: Vec<_> = (0..6).map(|_| receivers(&mut index, "a")[0]).collect();
    assert_eq!(turns, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn a_shared_group_prefers_and_still_takes_turns() {
    let mut index = index();
    for who in 0..4 {
        subscribe(&mut index, "+", Some("x"), who);
    }
    let mut turn = |preferred: &[u32]| {
        let mut found = Vec::new();
        let prefer = |subscription: &Subscription| preferred.contains(&subscription.session.index());
        index.matches("a", |subscription| found.push(subscription.session.index()), prefer);
        assert_eq!(found.len(), 1);
        found[0]
    };
    assert_eq!([turn(&[1, 3]), turn(&[1, 3]), turn(&[1, 3])], [1, 3, 1]);
    // Nobody is preferred: whose turn it is gets it, and the turn goes on.
    assert_eq!([turn(&[]), turn(&[]), turn(&[]), turn(&[0])], [2, 3, 0, 0]);
}

#[test]
fn a_turn_survives_members_that_leave() {
    let mut index = index();
    for who in 0..3 {
        subscribe(&mut index, "a", Some("x"), who);
    }
    assert_eq!([receivers(&mut index, "a")[0], receivers(&mut index, "a")[0]], [0, 1]);
    index.remove_session(session(2));
    assert_eq!([receivers(&mut index, "a")[0], receivers(&mut index, "a")[0]], [0, 1]);
    index.remove_session(session(0));
    assert_eq!([receivers(&mut index, "a")[0], receivers(&mut index, "a")[0]], [1, 1]);
}

#[test]
fn a_stale_session_has_nothing() {
    let mut index = index();
    index.subscribe("a", None, SessionId::new(0, 1), SubscriptionOptions::default(), None);
    assert_eq!(index.remove_session(session(0)), 0);
    assert_eq!((index.count(session(0)), index.filters(session(0)).count()), (0, 0));
    assert!(!index.unsubscribe("a", None, session(0)));
    assert_eq!(index.len(), 1);
}

#[test]
fn the_deepest_filter_matches_the_deepest_topic() {
    let mut index = index();
    let topic = "/".repeat(65_534);
    let filter = ["+", &topic[..]].concat();
    subscribe(&mut index, &filter, None, 1);
    subscribe(&mut index, "#", None, 2);
    assert_eq!(receivers(&mut index, &topic), [1, 2]);
    assert_eq!(receivers(&mut index, "/a/b"), [2]);
    index.remove_session(session(1));
    index.remove_session(session(2));
    assert!(index.holds_nothing());
}

#[test]
fn a_long_level_is_told_from_one_that_begins_alike() {
    let mut index = index();
    let long = "x".repeat(40);
    subscribe(&mut index, &format!("{long}/+"), None, 1);
    subscribe(&mut index, &format!("{}/+", &long[1..]), None, 2);
    assert_eq!(receivers(&mut index, &format!("{long}/a")), [1]);
    assert_eq!(receivers(&mut index, &format!("{}/a", &long[1..])), [2]);
}

#[test]
fn many_sessions_leave_one_filter_and_one_session_leaves_many() {
    let mut index = index();
    for n in 0..20_000 {
        subscribe(&mut index, "all/#", None, n);
        subscribe(&mut index, &format!("own/{n}/+"), None, 7);
        subscribe(&mut index, "work", Some(&format!("{n}")), n);
    }
    assert_eq!(index.len(), 60_000);
    for n in (0..20_000).rev() {
        assert_eq!(index.remove_session(session(n)), if n == 7 { 20_002 } else { 2 });
    }
    assert!(index.holds_nothing());
}

type Model = BTreeMap<(u32, Option<String>, String), (SubscriptionOptions, Option<NonZeroU32>)>;

type Delivery = (u32, SubscriptionOptions, Option<NonZeroU32>);

#[derive(Debug, Clone)]
enum Op {
    Subscribe(String, Option<&'static str>, u32, u8),
    Unsubscribe(String, Option<&'static str>, u32),
    RemoveSession(u32),
    Match(String, u32),
}

fn op() -> impl Strategy<Value = Op> {
    // More sessions than a short list has room for.
    let who = || prop_oneof![3 => 0u32..4, 2 => 0u32..60];
    let share = || prop::sample::select(vec![None, None, None, Some("x"), Some("y")]);
    let filter =
        || prop_oneof![make::filter(), prop::sample::select(vec!["a/+", "a/b"]).prop_map(String::from)];
    prop_oneof![
        6 => (filter(), share(), who(), 0u8..12).prop_map(|(f, s, w, o)| Op::Subscribe(f, s, w, o)),
        2 => (filter(), share(), who()).prop_map(|(f, s, w)| Op::Unsubscribe(f, s, w)),
        1 => who().prop_map(Op::RemoveSession),
        4 => (make::topic(), who()).prop_map(|(t, w)| Op::Match(t, w)),
    ]
}

/// The ordinary subscriptions must be delivered one by one, and one member of every shared group.
fn check_match(index: &mut SubscriptionIndex, model: &Model, topic: &str, preferred: u32) {
    let mut found = Vec::new();
    let prefer = |subscription: &Subscription| subscription.session == session(preferred);
    index.matches(topic, |s| found.push((s.session.index(), s.options, s.identifier)), prefer);
    let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let mut take = |wanted: &[Delivery]| {
        let at = found.iter().position(|one| wanted.contains(one));
        at.map(|at| found.swap_remove(at)).is_some()
    };
    for ((who, share, filter), (options, identifier)) in model {
        if filter::matches(filter, topic) {
            let expected = (*who, *options, *identifier);
            match share {
                None => assert!(take(&[expected]), "{topic}: {filter} misses"),
                Some(share) => groups.entry((share, filter)).or_default().push(expected),
            }
        }
    }
    for (group, members) in groups {
        let wanted: Vec<_> = match members.iter().find(|member| member.0 == preferred) {
            Some(preferred) => [*preferred].into(),
            None => members,
        };
        assert!(take(&wanted), "{topic}: nobody of {group:?}");
    }
    assert!(found.is_empty(), "{topic}: {found:?} for nothing");
}

fn check_session(index: &SubscriptionIndex, model: &Model, who: u32) {
    let mut listed: Vec<_> = index
        .filters(session(who))
        .map(|(s, f, o, i)| ((who, s.map(String::from), f.into()), (o, i)))
        .collect();
    listed.sort_by(|one, other| one.0.cmp(&other.0));
    let expected: Vec<_> =
        model.iter().filter(|((w, ..), _)| *w == who).map(|(k, v)| (k.clone(), *v)).collect();
    assert_eq!(index.count(session(who)), expected.len());
    assert_eq!(listed, expected);
}

proptest! {
    #[test]
    fn the_index_agrees_with_the_definition(ops in prop::collection::vec(op(), 1..200)) {
        let mut index = index();
        let mut model = Model::new();
        for (n, op) in ops.into_iter().enumerate() {
            match op {
                Op::Subscribe(filter, share, who, o) => {
                    let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][usize::from(o % 3)];
                    let options = SubscriptionOptions { qos, no_local: o > 5, ..Default::default() };
                    // Tells apart what two groups deliver to one session.
                    let identifier = NonZeroU32::new(n as u32 + 1);
                    let existed = index.subscribe(&filter, share, session(who), options, identifier);
                    let old = model.insert((who, share.map(String::from), filter), (options, identifier));
                    prop_assert_eq!(existed, old.is_some());
                    check_session(&index, &model, who);
                }
                Op::Unsubscribe(filter, share, who) => {
                    let existed = index.unsubscribe(&filter, share, session(who));
                    let old = model.remove(&(who, share.map(String::from), filter));
                    prop_assert_eq!(existed, old.is_some());
                    check_session(&index, &model, who);
                }
                Op::RemoveSession(who) => {
                    let before = model.len();
                    model.retain(|(w, ..), _| *w != who);
                    prop_assert_eq!(index.remove_session(session(who)), before - model.len());
                    check_session(&index, &model, who);
                }
                Op::Match(topic, preferred) => check_match(&mut index, &model, &topic, preferred),
            }
            prop_assert_eq!(index.len(), model.len());
            prop_assert_eq!(index.holds_nothing(), model.is_empty());
        }
        for who in 0..60 {
            index.remove_session(session(who));
        }
        prop_assert!(index.holds_nothing());
    }

    #[test]
    fn turns_are_fair_while_the_members_stay(members in 1u32..80, rounds in 1usize..4) {
        let mut index = index();
        for who in 0..members {
            subscribe(&mut index, "a/#", Some("x"), who);
        }
        let mut got = vec![0; members as usize];
        for _ in 0..members as usize * rounds {
            got[receivers(&mut index, "a/b")[0] as usize] += 1;
        }
        prop_assert!(got.iter().all(|n| *n == rounds));
    }
}

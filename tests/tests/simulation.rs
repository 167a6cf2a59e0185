//! A share of the simulations for every run of the tests, and the simulator put to the test itself. `culex sim` runs more.
#![allow(clippy::unwrap_used)]

use culex_simulation::runs::{FAILURES_MAX, Limit, Runs, Story, Summary};
use culex_simulation::script::{Op, Step};
use culex_simulation::trace::{Entry, Kind};
use culex_simulation::{Broken, Outcome, Profile, Promise, Script, Trace, html, simulate};
use std::collections::BTreeSet;

fn run(first: u64, seeds: u64, profile: Profile, jobs: usize) -> Summary {
    let limit = Limit::Seeds(seeds);
    Runs { first, limit, profile: Some(profile), jobs, ..Runs::default() }.run(&|_| {})
}

#[test]
fn every_promise_is_put_to_the_test_and_kept() {
    let mut seen = BTreeSet::new();
    for profile in Profile::ALL {
        let summary = run(0, 100, profile, 2);
        assert!(summary.failures.is_empty(), "{:#?}", summary.failures);
        assert_eq!(summary.seeds, 100);
        seen.extend(summary.promises.into_keys());
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), Promise::ALL);
}

#[test]
fn the_same_seeds_give_the_same_digest_on_any_number_of_threads() {
    for profile in [Profile::Crash, Profile::Asks] {
        let (alone, together) = (run(5, 20, profile, 1), run(5, 20, profile, 3));
        assert_eq!(alone.digest, together.digest);
        assert_eq!((alone.inputs, alone.virtual_us), (together.inputs, together.virtual_us));
        assert_eq!(alone.promises, together.promises);
        assert_ne!(alone.digest, run(6, 20, profile, 1).digest);
    }
}

#[test]
fn a_trace_changes_nothing() {
    for seed in 0..20 {
        let script = Script::draw(seed, None);
        assert_eq!(simulate(&script, None), simulate(&script, Some(&mut Trace::default())));
    }
}

#[test]
fn a_step_that_does_nothing_can_be_taken_out_and_nothing_changes() {
    let mut shorter = 0;
    for seed in 0..40 {
        let script = Script::draw(seed, Some(Profile::Crash));
        let whole = simulate(&script, None);
        // The last step stays: the end of the story is counted from it.
        for at in 0..script.steps.len() - 1 {
            let mut other = script.clone();
            let step = other.steps.remove(at);
            if does_nothing(&script, at) {
                shorter += 1;
                assert_eq!(simulate(&other, None), whole, "seed {seed} without {step}");
            }
        }
    }
    assert!(shorter > 10, "only {shorter} steps did nothing");
}

/// A client that is not connected cannot do it: nothing comes of the step, so nothing may come of its absence.
fn does_nothing(script: &Script, at: usize) -> bool {
    let Some(client) = script.steps[at].op.client() else { return false };
    let before = script.steps[..at].iter().rev().find(|step| match step.op {
        Op::Connect { client: other, .. } | Op::Cut { client: other } | Op::Vanish { client: other } => {
            other == client
        }
        _ => false,
    });
    let gone = before.is_some_and(|step| matches!(step.op, Op::Cut { .. } | Op::Vanish { .. }));
    gone && matches!(script.steps[at].op, Op::Subscribe { .. } | Op::Unsubscribe { .. } | Op::Garbage { .. })
}

/// What the other clients do, and how often the broker crashes before, changes nothing of how a client's bytes are cut and
/// delayed.
#[test]
fn what_is_left_to_chance_for_a_client_does_not_depend_on_others() {
    let mut seen = 0;
    for seed in 0..40 {
        let mut script = Script::draw(seed, Some(Profile::Network));
        // Nobody subscribes, so that nobody has to do with anybody else, and no partition concerns all.
        script.steps.retain(|step| {
            let alone = !matches!(step.op, Op::Subscribe { .. } | Op::Reuse { .. } | Op::Partition { .. });
            alone && step.op.client().is_some()
        });
        let last = script.clients.len() - 1;
        let mut other = script.clone();
        let end = script.steps.last().cloned();
        other.steps.retain(|step| step.op.client() == Some(last) || Some(step) == end.as_ref());
        let told = |script: &Script| {
            let mut trace = Trace::default();
            let _ = simulate(script, Some(&mut trace));
            let packet = |entry: &&Entry| entry.client == Some(last) && is_packet(entry);
            // Numbers name the messages of all.
            let kind = |entry: &Entry| (entry.at, entry.text.split(' ').next().map(ToOwned::to_owned));
            trace.entries.iter().filter(packet).map(kind).collect::<Vec<_>>()
        };
        let packets = told(&script);
        seen += packets.len();
        assert_eq!(packets, told(&other), "seed {seed}");
    }
    assert!(seen > 500, "only {seen} packets");
}

#[test]
fn an_earlier_step_is_the_same_whatever_comes_later() {
    for seed in 0..20 {
        let script = Script::draw(seed, Some(Profile::Network));
        let half = Script { steps: script.steps[..script.steps.len() / 2].to_vec(), ..script.clone() };
        let until = half.steps.last().unwrap().at_ms * 1_000;
        let told = |script: &Script| {
            let mut trace = Trace::default();
            let _ = simulate(script, Some(&mut trace));
            trace.entries.retain(|entry| entry.at < until);
            trace.entries
        };
        assert_eq!(told(&script), told(&half));
    }
}

/// A broker that is said to lose what it acknowledged whenever it crashes after a message of QoS 2 was published.
fn forgetful(script: &Script, trace: Option<&mut Trace>) -> Outcome {
    let mut outcome = simulate(script, trace);
    let published =
        script.steps.iter().position(|step| matches!(step.op, Op::Publish { client: 0, count: 1, .. }));
    let crashed = script.steps.iter().rposition(|step| matches!(step.op, Op::Crash { .. }));
    if published.zip(crashed).is_some_and(|(published, crashed)| published < crashed) {
        let promise = Promise::AcknowledgedIsDelivered;
        outcome.broken = Some((27_462_000, Broken { promise, what: "m1 <is> lost & gone".into() }));
    }
    outcome
}

/// A broker that panics when a client sends nonsense.
fn touchy(script: &Script, trace: Option<&mut Trace>) -> Outcome {
    let outcome = simulate(script, trace);
    assert!(!script.steps.iter().any(|step| matches!(step.op, Op::Garbage { .. })), "that hurt");
    outcome
}

#[test]
fn a_failure_is_found_and_made_small() {
    let limit = Limit::Seeds(60);
    let runs = Runs { limit, profile: Some(Profile::Crash), simulate: forgetful, ..Runs::default() };
    let summary = runs.run(&|_| {});
    let together = Runs { jobs: 3, ..runs }.run(&|_| {});
    assert_eq!(summary.failures, together.failures);
    let (seed, failure) = summary.failures.first_key_value().unwrap();
    assert_eq!(failure.what, "broken at 27.462 s: AcknowledgedIsDelivered: m1 <is> lost & gone");
    assert_eq!(summary.failed, summary.failures.len() as u64);

    let story = Story::of(&Script::draw(*seed, Some(Profile::Crash)), 1_000, forgetful);
    let kept: Vec<&Op> = story.script.steps.iter().map(|step| &step.op).collect();
    assert!(matches!(kept[..], [Op::Publish { .. }, Op::Crash { .. }]), "{kept:?}");
    assert_eq!(story.failure().as_ref(), Some(&failure.what));
    assert_eq!(story.command(), format!("culex sim --seed {seed} --runs 1 --profile crash"));
}

#[test]
fn a_panic_is_a_failure_like_any_other() {
    let limit = Limit::Seeds(20);
    let runs = Runs { limit, profile: Some(Profile::Network), simulate: touchy, ..Runs::default() };
    let summary = runs.run(&|_| {});
    let (seed, failure) = summary.failures.first_key_value().unwrap();
    assert_eq!(failure.what, "panicked: that hurt");
    let story = Story::of(&Script::draw(*seed, Some(Profile::Network)), 1_000, touchy);
    assert_eq!(story.script.steps.len(), 1);
    assert_eq!(story.failure().as_deref(), Some("panicked: that hurt"));
    assert!(html::page(&story, "test").contains("<a href=\"#broken\">panicked: that hurt</a>"));
}

#[test]
fn of_many_failures_the_first_are_kept() {
    let fails: fn(&Script, Option<&mut Trace>) -> Outcome = |script, _| Outcome {
        broken: Some((0, Broken { promise: Promise::Will, what: script.seed.to_string() })),
        digest: 0,
        inputs: 0,
        virtual_us: 0,
        seen: BTreeSet::new(),
    };
    let limit = Limit::Seeds(1_000);
    let summary = Runs { first: 7, limit, jobs: 2, simulate: fails, ..Runs::default() }.run(&|_| {});
    assert_eq!((summary.failed, summary.failures.len()), (1_000, FAILURES_MAX));
    assert!(summary.failures.keys().copied().eq(7..7 + FAILURES_MAX as u64));
}

#[test]
fn the_picture_shows_every_entry_and_the_promise_that_was_broken() {
    let seed = (0..).find(|seed| forgetful(&crash(*seed), None).broken.is_some()).unwrap();
    let mut story = Story::of(&crash(seed), 0, forgetful);
    let clients = story.script.clients.len();
    story.trace.entries.push(Entry {
        at: 27_462_000,
        client: None,
        kind: Kind::Broken,
        text: "<script>alert('&')</script>".into(),
    });
    let page = html::page(&story, "culex <test>");
    assert!(page.starts_with("<!doctype html>"));
    for what in [
        "<a href=\"#broken\">broken at 27.462 s: AcknowledgedIsDelivered: m1 &lt;is&gt; lost &amp; gone</a>",
        "&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;",
        "culex &lt;test&gt;",
        "fault killed",
        "stored: ",
        ">client0 <small",
        "the script is over",
        &story.command(),
    ] {
        assert!(page.contains(what), "{what} is missing");
    }
    assert_eq!(page.matches("id=\"broken\"").count(), 1);
    assert!(page.contains(&format!("--lanes:{}", clients + 1)));
    assert!(!page.contains("<script"), "something was not escaped");
    // All packets are there, and nothing comes from elsewhere.
    let packets =
        story.trace.entries.iter().filter(|entry| entry.client.is_some() && is_packet(entry)).count();
    assert_eq!(page.matches("<p class=\"arrow\"").count(), packets);
    assert!(!page.contains("http") && !page.contains("src=") && !page.contains("url("));
}

/// The story of a script that is not drawn.
fn story(ops: Vec<(u64, Op)>) -> Story {
    let steps = ops.into_iter().map(|(at_ms, op)| Step { at_ms, op }).collect();
    let mut script = Script { steps, ..crash(1) };
    script.clients.iter_mut().for_each(|plan| plan.keep_alive_s = 0);
    Story::of(&script, 0, simulate)
}

#[test]
fn the_picture_shows_for_how_long_something_is_wrong() {
    let connect = |client| Op::Connect { client, clean: true, expiry_s: 60, will: None };
    let page = html::page(
        &story(vec![
            (0, connect(0)),
            (1_000, Op::Stall { client: 0, ms: 500 }),
            (1_200, connect(1)),
            (2_000, Op::Partition { ms: 300 }),
            (2_100, Op::Vanish { client: 1 }),
            (5_000, Op::Crash { down_ms: 700 }),
        ]),
        "test",
    );
    let rows = || page.lines().filter(|line| line.starts_with("<div class=\"r "));
    let row = |what: &str| rows().find(|line| line.contains(what)).unwrap();
    let (stall, open, up) =
        ("<b class=\"stall\" style=\"--c:0\">", "<b style=\"--c:0\">", "<b class=\"up\">");
    assert!(
        row("reads nothing for 500 ms").contains(stall) && row("reads nothing for 500 ms").contains(open)
    );
    assert!(row("no byte moves").contains("frozen") && row("vanishes").contains("frozen"));
    let killed = row("the broker is killed");
    assert!(killed.contains("fault killed down") && !killed.contains(up) && !killed.contains(open));
    let back = row("the broker is back");
    assert!(!back.contains("down") && !back.contains("frozen") && !back.contains(stall) && back.contains(up));
    assert!(page.contains("<time>5.000</time>") && row("+2.900 s").contains("r gap"));
}

#[test]
fn a_picture_of_thousands_of_entries_stays_small() {
    let mut story = story(vec![(0, Op::Connect { client: 0, clean: true, expiry_s: 0, will: None })]);
    let entry = |number: u64| Entry {
        at: 9_000_000 + number,
        client: Some(0),
        kind: Kind::Out,
        text: format!("PUBLISH q1 #1 a/b/c: {number:06}"),
    };
    story.trace.entries.extend((0..3_000).map(entry));
    let page = html::page(&story, "test");
    assert!(page.contains(": 002999</span>") && page.len() < 1_000_000, "{} bytes", page.len());
}

fn crash(seed: u64) -> Script {
    Script::draw(seed, Some(Profile::Crash))
}

fn is_packet(entry: &Entry) -> bool {
    matches!(entry.kind, Kind::In | Kind::Out)
}

#[test]
fn a_script_reads_line_by_line() {
    let script = Script {
        steps: vec![Step { at_ms: 1_500, op: Op::Crash { down_ms: 30 } }],
        ..Script::draw(1, Some(Profile::Crash))
    };
    let text = script.to_string();
    assert_eq!(text.lines().count(), script.clients.len() + 1);
    assert!(text.ends_with("       1.500 s  the broker crashes, and is back after 30 ms\n"), "{text}");
}

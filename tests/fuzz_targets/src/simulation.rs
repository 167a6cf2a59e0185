//! Whole stories: clients with habits, a network that loses, a disk that forgets, and a model of what MQTT promises that
//! watches. The bytes are a script of the simulator.

use culex_simulation::{Script, Trace, shrink, simulate};
use std::fmt::Write;

/// Simulations to spend on making what was found short enough to be read.
const TRIES: usize = 300;

/// Target `world`: see the table in `fuzz/README.md`.
///
/// # Panics
/// If a promise is broken. The message says which, and tells the story.
pub fn world(bytes: &[u8]) {
    let script = Script::from_bytes(bytes);
    let outcome = simulate(&script, None);
    if outcome.broken.is_some() {
        panic!("{}", tell(&script));
    }
}

/// A short script that breaks the same promise, and what happens in it.
fn tell(script: &Script) -> String {
    let (script, outcome) = shrink(script, TRIES);
    let mut trace = Trace::default();
    let _ = simulate(&script, Some(&mut trace));
    let mut text = String::new();
    if let Some((_, broken)) = outcome.broken {
        // Writing to a String cannot fail.
        writeln!(text, "{broken}").ok();
    }
    writeln!(text, "profile {}, seed {}", script.profile, script.seed).ok();
    script.clients.iter().enumerate().for_each(|(at, plan)| {
        writeln!(text, "client {at}: {plan:?}").ok();
    });
    script.steps.iter().for_each(|step| {
        writeln!(text, "{} ms: {:?}", step.at_ms, step.op).ok();
    });
    text + &trace.text()
}

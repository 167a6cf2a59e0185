//! The machine driven by hand: bytes in, bytes out. There is no socket, no clock and no thread but this one; what a
//! runtime adds is where the bytes come from and what time it is.
//!
//! ```sh
//! cargo run -p culex-examples --example by_hand
//! ```
#![allow(clippy::print_stdout)]

use culex_core::{Broker, Config, Now, Peer, Refused, Seed, Stack};
use std::sync::Arc;

const CONNECT_ALICE: &[u8] = b"\x10\x11\0\x04MQTT\x04\x02\0\x3C\0\x05alice";
const CONNECT_BOB: &[u8] = b"\x10\x0F\0\x04MQTT\x04\x02\0\x3C\0\x03bob";
const SUBSCRIBE: &[u8] = b"\x82\x0E\0\x01\0\x09kitchen/+\0";
const PUBLISH: &[u8] = b"\x30\x18\0\x13kitchen/temperature21C";

fn main() -> Result<(), Refused> {
    let transcript = conversation(Seed(42))?;
    transcript.iter().for_each(|line| println!("{line}"));

    // The same seed and the same inputs: the same outputs, byte for byte.
    assert_eq!(transcript, conversation(Seed(42))?);
    Ok(())
}

/// Two clients connect, one subscribes, the other publishes. Returns all that went in and came out.
fn conversation(seed: Seed) -> Result<Vec<String>, Refused> {
    let mut now = Now::default();
    let mut broker = Broker::new(Arc::new(Config::default()), Stack::standard(), seed, now);
    let alice = broker.accept(now, Peer::default())?;
    let bob = broker.accept(now, Peer::default())?;

    let mut transcript = Vec::new();
    for (id, bytes) in [(alice, CONNECT_ALICE), (bob, CONNECT_BOB), (alice, SUBSCRIBE), (bob, PUBLISH)] {
        now = now.plus_ms(1);
        transcript.push(format!("in      {id:?} {}", bytes.escape_ascii()));
        broker.receive(now, id, bytes);
        while let Some(action) = broker.poll_action() {
            transcript.push(format!("action  {action:?}"));
        }
        while let Some(transmit) = broker.poll_transmit() {
            let (id, bytes) = (transmit.id(), transmit.chunks().collect::<Vec<_>>().concat());
            transcript.push(format!("out     {id:?} {}", bytes.escape_ascii()));
            transmit.written(bytes.len());
        }
    }
    // A runtime would sleep until then, or until there are bytes.
    transcript.push(format!("tick at {:?}", broker.deadline()));

    let arrived = format!("out     {alice:?} {}", PUBLISH.escape_ascii());
    assert!(transcript.contains(&arrived), "alice gets the message as bob sent it");
    Ok(transcript)
}

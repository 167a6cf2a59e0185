//! `culex-bench machine`: the machine alone passes messages on, for whoever counts its instructions. Two runs with different
//! numbers of bursts differ by what the messages cost, and by nothing else.

use crate::Trouble;
use clap::Args;
use culex_core::{Broker, Config, Now, Peer, Seed, Stack};
use std::sync::Arc;

/// How much the machine has to do.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// Of the messages and the subscription: 0 or 1
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    qos: u8,
    /// Bursts of 32 messages of 64 bytes, from one client to another
    #[arg(long, default_value_t = 100)]
    bursts: u32,
}

/// Passes them on; says how many arrived.
pub(crate) fn run(plan: &Plan) -> Result<String, Trouble> {
    let Plan { qos, bursts } = *plan;
    let mut now = Now::default();
    // Without a store: the standard chain keeps everything in memory.
    let mut broker = Broker::new(Arc::new(Config::default()), Stack::standard(), Seed(42), now);
    let refused = |refused| Trouble::new(format!("{refused:?}"));
    let alice = broker.accept(now, Peer::default()).map_err(refused)?;
    let bob = broker.accept(now, Peer::default()).map_err(refused)?;
    broker.receive(now, alice, b"\x10\x11\0\x04MQTT\x04\x02\0\0\0\x05alice");
    broker.receive(now, bob, b"\x10\x0F\0\x04MQTT\x04\x02\0\0\0\x03bob");
    broker.receive(now, alice, &[b"\x82\x0C\0\x01\0\x07bench/0", &[qos][..]].concat());
    drain(&mut broker, |_, _| {});
    let (burst, mut arrived) = (burst(qos), 0);
    for _ in 0..bursts {
        now = now.plus_ms(1);
        broker.receive(now, bob, &burst);
        let mut acks = Vec::new();
        drain(&mut broker, |to, bytes| {
            let mut rest = if to == alice { bytes } else { &[] };
            while let [_, length, body @ ..] = rest {
                arrived += 1;
                if qos > 0 {
                    acks.extend([0x40, 2]);
                    acks.extend(body.get(TOPIC_BYTES..TOPIC_BYTES + 2).unwrap_or_default());
                }
                rest = body.get(usize::from(*length)..).unwrap_or_default();
            }
        });
        broker.receive(now, alice, &acks);
        drain(&mut broker, |_, _| {});
    }
    Ok(format!("{arrived} messages at QoS {qos}\n"))
}

/// All messages of a burst, as one read gives them.
fn burst(qos: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    for id in 1..=BURST {
        let rest = TOPIC_BYTES + 2 * usize::from(qos > 0) + PAYLOAD_BYTES;
        bytes.extend([0x30 | qos << 1, rest as u8, 0, 7]);
        bytes.extend(b"bench/0");
        if qos > 0 {
            bytes.extend(u16::from(id).to_be_bytes());
        }
        bytes.extend([b'x'; PAYLOAD_BYTES]);
    }
    bytes
}

fn drain(broker: &mut Broker, mut each: impl FnMut(culex_core::ConnectionId, &[u8])) {
    while broker.poll_action().is_some() {}
    while let Some(transmit) = broker.poll_transmit() {
        let mut written = 0;
        for chunk in transmit.chunks() {
            written += chunk.len();
            // No payload of a burst is long enough for a chunk of its own.
            each(transmit.id(), chunk);
        }
        transmit.written(written);
    }
}

const BURST: u8 = 32;
const PAYLOAD_BYTES: usize = 64;
/// A topic of seven letters and its length.
const TOPIC_BYTES: usize = 9;

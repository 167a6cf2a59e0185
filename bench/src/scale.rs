//! `culex-bench scale`: what the machine alone keeps of each thing there may be many of, and what an operation costs when there
//! are many. Bytes are exact, for this program's allocator counts them; nanoseconds are CPU time of this thread.

use crate::Trouble;
use crate::counted::Counted;
use clap::{Args, ValueEnum};
use culex_core::{Broker, Config, ConnectionId, Disconnect, Now, Peer, Seed, Stack};
use rustix::time::{ClockId, clock_gettime};
use std::fmt::Arguments;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// Things there are many of; all if none is named
    #[arg(value_enum)]
    things: Vec<Thing>,
    /// How many of each there are
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,100000,1000000")]
    counts: Vec<u32>,
    /// Writes every figure as a line of JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Thing {
    /// Connections that sent CONNECT
    Connection,
    /// The same with a subscription each
    Subscriber,
    /// Sessions whose client is away
    Session,
    /// Subscriptions of 100 clients: half exact, half with wildcards; every topic matches four
    Subscription,
    /// Retained messages
    Retained,
    /// Messages of QoS 1 in the queue of one client
    Queued,
}

/// One thing, so many of it.
struct Row {
    thing: Thing,
    count: u32,
    kept: Counted,
    /// To make one.
    make_ns: f64,
    /// To use one: a delivery, a message taken.
    use_ns: Option<f64>,
}

/// Measures; gives a table.
pub(crate) fn run(plan: &Plan) -> Result<String, Trouble> {
    Counted::begin();
    let things = if plan.things.is_empty() { Thing::value_variants() } else { &plan.things };
    let mut table = String::from(
        "| what | how many | bytes asked for | bytes of chunks | allocations | made for one | ns to make | ns to use |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    let mut json = String::new();
    for &thing in things {
        for &count in plan.counts.iter().filter(|count| **count > 0) {
            let row = measure(thing, count)?;
            row.table(&mut table);
            row.json(&mut json);
        }
    }
    if let Some(path) = &plan.json {
        fs::write(path, json).map_err(|error| Trouble::new(format!("{}: {error}", path.display())))?;
    }
    Ok(table)
}

fn measure(thing: Thing, count: u32) -> Result<Row, Trouble> {
    let mut machine = Machine::new();
    // What there is one of, whatever there is many of.
    let publisher = machine.connect(format_args!("publisher"), true)?;
    let mut clients = Vec::new();
    match thing {
        Thing::Subscription => {
            for n in 0..100 {
                clients.push(machine.connect(format_args!("s{n}"), true)?);
            }
        }
        Thing::Queued => {
            let client = machine.connect(format_args!("away"), false)?;
            machine.subscribe(client, format_args!("off/data"), 1);
            machine.leave(client);
        }
        _ => {}
    }
    // So that what grows with the first is there.
    machine.publish(publisher, format_args!("nothing/of/this"), 1, false);
    let (before, began) = (Counted::now(), cpu());
    for n in 0..count {
        match thing {
            Thing::Connection => drop(machine.connect(format_args!("mq12ab34c{n}"), true)?),
            Thing::Subscriber => {
                let client = machine.connect(format_args!("mq12ab34c{n}"), true)?;
                machine.subscribe(client, format_args!("cmd/{n}/ch/0/set"), 0);
            }
            Thing::Session => {
                let client = machine.connect(format_args!("mq12ab34c{n}"), false)?;
                machine.leave(client);
            }
            Thing::Subscription => machine.subscribe_mixed(clients[n as usize % clients.len()], n),
            Thing::Retained => {
                machine.publish(publisher, format_args!("ret/mq12ab/{}/{}/state", n % 100, n / 100), 1, true);
            }
            Thing::Queued => machine.publish(publisher, format_args!("off/data"), 1, false),
        }
    }
    let (elapsed, kept) = (cpu() - began, Counted::now() - before);
    let make_ns = elapsed.as_nanos() as f64 / f64::from(count);
    let use_ns = machine.uses(thing, count, publisher)?;
    Ok(Row { thing, count, kept, make_ns, use_ns })
}

/// A machine that is driven by hand.
struct Machine {
    broker: Broker,
    now: Now,
    packet: Vec<u8>,
    /// PUBLISH packets that it wrote.
    delivered: u32,
    /// What acknowledges those of QoS 1.
    acks: Vec<u8>,
}

impl Machine {
    fn new() -> Self {
        let now = Now::default();
        // Nothing is dropped, however many there are.
        let config = Config {
            connections_max: u32::MAX,
            queue_messages_max: u32::MAX,
            queue_bytes_max: u64::MAX,
            ..Config::default()
        };
        let broker = Broker::new(Arc::new(config), Stack::standard(), Seed(42), now);
        Self { broker, now, packet: Vec::new(), delivered: 0, acks: Vec::new() }
    }

    fn connect(&mut self, client_id: Arguments<'_>, clean: bool) -> Result<ConnectionId, Trouble> {
        let peer = Peer { address: Some(([127, 0, 0, 1], 1883).into()), ..Peer::default() };
        let id = self.broker.accept(self.now, peer).map_err(|why| Trouble::new(format!("{why:?}")))?;
        self.begin(0x10);
        self.packet.extend(b"\0\x04MQTT\x04");
        // A Keep Alive of a minute.
        self.packet.extend([u8::from(clean) << 1, 0, 60]);
        self.text(client_id);
        self.receive(id);
        Ok(id)
    }

    fn leave(&mut self, id: ConnectionId) {
        self.begin(0xE0);
        self.receive(id);
        self.broker.disconnected(self.now, id, Disconnect::Closed);
    }

    fn subscribe(&mut self, id: ConnectionId, filter: Arguments<'_>, qos: u8) {
        self.begin(0x82);
        self.packet.extend([0, 1]);
        self.text(filter);
        self.packet.push(qos);
        self.receive(id);
    }

    /// Subscription number `n`: four for each device, of different clients.
    fn subscribe_mixed(&mut self, id: ConnectionId, n: u32) {
        let device = n / 4;
        let (site, line) = (device / 1_000, device / 100 % 10);
        match n % 4 {
            2 => self.subscribe(id, format_args!("site/{site}/line/+/dev/{device}/temp"), 0),
            3 if device.is_multiple_of(2) => {
                self.subscribe(id, format_args!("site/{site}/line/{line}/dev/{device}/#"), 0);
            }
            3 => self.subscribe(id, format_args!("site/+/line/{line}/dev/{device}/+"), 0),
            _ => self.subscribe(id, format_args!("site/{site}/line/{line}/dev/{device}/temp"), 0),
        }
    }

    fn publish(&mut self, id: ConnectionId, topic: Arguments<'_>, qos: u8, retain: bool) {
        self.begin(0x30 | qos << 1 | u8::from(retain));
        self.text(topic);
        if qos > 0 {
            self.packet.extend([0, 1]);
        }
        self.packet.extend([b'x'; PAYLOAD_BYTES]);
        self.receive(id);
    }

    /// Uses all there is: how long it takes for each.
    fn uses(&mut self, thing: Thing, count: u32, publisher: ConnectionId) -> Result<Option<f64>, Trouble> {
        self.delivered = 0;
        let began = cpu();
        let expected = match thing {
            Thing::Connection | Thing::Subscriber | Thing::Session => return Ok(None),
            Thing::Subscription => {
                let devices = count / 4;
                let mut random: u64 = 1;
                for _ in 0..TOPICS {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let device = (((random >> 32) * u64::from(devices)) >> 32) as u32;
                    let (site, line) = (device / 1_000, device / 100 % 10);
                    let topic = format_args!("site/{site}/line/{line}/dev/{device}/temp");
                    self.publish(publisher, topic, 0, false);
                }
                TOPICS * 4
            }
            Thing::Retained => {
                let client = self.connect(format_args!("reader"), true)?;
                self.subscribe(client, format_args!("#"), 0);
                count
            }
            Thing::Queued => {
                let client = self.connect(format_args!("away"), false)?;
                while !self.acks.is_empty() {
                    std::mem::swap(&mut self.acks, &mut self.packet);
                    self.acks.clear();
                    self.broker.receive(self.now, client, &self.packet);
                    self.drain();
                }
                count
            }
        };
        let ns = (cpu() - began).as_nanos() as f64 / f64::from(expected);
        if self.delivered != expected {
            return Err(Trouble::new(format!("{thing:?}: {} of {expected} were delivered", self.delivered)));
        }
        Ok(Some(ns))
    }

    fn begin(&mut self, first: u8) {
        self.packet.clear();
        self.packet.extend([first, 0]);
    }

    fn text(&mut self, text: Arguments<'_>) {
        let at = self.packet.len();
        self.packet.extend([0, 0]);
        // Writing to memory does not fail.
        let _ = self.packet.write_fmt(text);
        let length = (self.packet.len() - at - 2) as u16;
        self.packet[at..at + 2].copy_from_slice(&length.to_be_bytes());
    }

    /// All packets are shorter than 128 bytes: their length is one byte.
    fn receive(&mut self, id: ConnectionId) {
        self.packet[1] = self.packet.len() as u8 - 2;
        self.now = self.now.plus_ms(1);
        self.broker.receive(self.now, id, &self.packet);
        self.drain();
    }

    fn drain(&mut self) {
        while self.broker.poll_action().is_some() {}
        while let Some(transmit) = self.broker.poll_transmit() {
            let mut written = 0;
            for chunk in transmit.chunks() {
                written += chunk.len();
                let mut rest = chunk;
                while let [first, length, body @ ..] = rest {
                    if first >> 4 == 3 {
                        self.delivered += 1;
                    }
                    if first >> 1 & 3 == 1 && first >> 4 == 3 {
                        let topic = 2 + usize::from(body[1]);
                        self.acks.extend([0x40, 2, body[topic], body[topic + 1]]);
                    }
                    rest = body.get(usize::from(*length)..).unwrap_or_default();
                }
            }
            transmit.written(written);
            while self.broker.poll_action().is_some() {}
        }
    }
}

impl Row {
    fn each(&self, sum: i64) -> f64 {
        sum as f64 / f64::from(self.count)
    }

    fn table(&self, out: &mut String) {
        let Self { thing, count, kept, make_ns, use_ns } = self;
        let [bytes, chunks, live, made] =
            [kept.bytes, kept.chunks, kept.live, kept.made].map(|sum| self.each(sum));
        let use_ns = use_ns.map_or("–".to_owned(), |ns| format!("{ns:.0}"));
        *out += &format!(
            "| {} | {count} | {bytes:.0} | {chunks:.0} | {live:.2} | {made:.2} | {make_ns:.0} | {use_ns} |\n",
            thing.name()
        );
    }

    fn json(&self, out: &mut String) {
        let Self { thing, count, kept, make_ns, use_ns } = self;
        let [bytes, chunks, live, made] =
            [kept.bytes, kept.chunks, kept.live, kept.made].map(|sum| self.each(sum));
        let use_ns = use_ns.map_or("null".to_owned(), |ns| format!("{ns:.1}"));
        *out += &format!(
            "{{\"what\": \"{}\", \"count\": {count}, \"bytes\": {bytes:.1}, \"chunk_bytes\": {chunks:.1}, \
             \"allocations\": {live:.3}, \"made\": {made:.3}, \"make_ns\": {make_ns:.1}, \"use_ns\": {use_ns}}}\n",
            thing.name()
        );
    }
}

impl Thing {
    fn name(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Subscriber => "connection with a subscription",
            Self::Session => "session",
            Self::Subscription => "subscription",
            Self::Retained => "retained message",
            Self::Queued => "queued message",
        }
    }
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

const PAYLOAD_BYTES: usize = 64;
/// Random topics that are published to many subscriptions.
const TOPICS: u32 = 50_000;

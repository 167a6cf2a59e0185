//! What happens in a simulation: drawn from a seed, or written down.
//!
//! A [`Script`] says who takes part and what is done when. Everything that is left to chance (how bytes are cut, how long
//! they are on their way, when an answer comes) is drawn from the script's seed, for each connection, question and tick on its own.
//! These are numbered in the order in which they come: a script with a step taken out tells the same story up to there,
//! and mostly a similar one behind it, and can be shrunk.

mod bytes;

use crate::random::Random;
use culex_core::Config;
use culex_core::config::Overflow;
use culex_core::packet::{QoS, Version};
use std::fmt;

/// A whole simulation.
#[derive(Debug, Clone, PartialEq)]
pub struct Script {
    /// Where chance comes from.
    pub seed: u64,
    /// How the broker is set up and what may go wrong.
    pub profile: Profile,
    /// Who takes part.
    pub clients: Vec<Plan>,
    /// What is done, in the order of time.
    pub steps: Vec<Step>,
}

/// Something that is done at a time.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Milliseconds since the beginning.
    pub at_ms: u64,
    /// What.
    pub op: Op,
}

/// A kind of simulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Nothing goes wrong: every QoS 0 message arrives too.
    Calm,
    /// Connections break, stall and are taken over; bytes are cut anywhere.
    Network,
    /// The same with tight limits: small queues, windows and outboxes.
    Narrow,
    /// The same, and the broker keeps everything on a disk, crashes and comes back; syncs are slow.
    Crash,
    /// The same, and a sync fails.
    Disk,
    /// The same as `Network`, with authentication and authorization that take their time, say no, or never answer.
    Asks,
}

impl Profile {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Calm, Self::Network, Self::Narrow, Self::Crash, Self::Disk, Self::Asks];

    /// What it is called on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Network => "network",
            Self::Narrow => "narrow",
            Self::Crash => "crash",
            Self::Disk => "disk",
            Self::Asks => "asks",
        }
    }

    /// The profile of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.name() == name)
    }

    /// The broker stores what it acknowledges.
    #[must_use]
    pub const fn durable(self) -> bool {
        matches!(self, Self::Crash | Self::Disk)
    }

    /// Who connects, publishes and subscribes is asked for.
    #[must_use]
    pub const fn asks(self) -> bool {
        matches!(self, Self::Asks)
    }

    /// The settings of the broker, as far as they are drawn.
    #[must_use]
    pub fn config(self, random: &mut Random) -> Config {
        let mut config = Config {
            packet_size_max: 4096,
            overlapping_once: random.percent(70),
            linger_ms: 500,
            topic_alias_outbound_max: random.between(0, 3) as u16,
            queue_qos0: random.percent(20),
            ..Config::default()
        };
        if self == Self::Narrow {
            config.in_flight_max = random.between(1, 4) as u16;
            config.receive_maximum = random.between(1, 4) as u16;
            config.outbox_bytes_max = 4096;
            config.queue_messages_max = random.between(2, 8) as u32;
            config.queue_bytes_max = random.between(512, 4096);
            config.queue_overflow =
                random.pick(&[Overflow::DropOldest, Overflow::DropNewest, Overflow::Disconnect]);
            config.actions_max = 16;
            config.parked_max = 2;
        } else if self.asks() {
            config.parked_max = random.between(1, 4) as u16;
        } else if random.percent(50) {
            config.in_flight_max = random.between(1, 8) as u16;
        }
        config
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A client and its habits.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The version it speaks.
    pub version: Version,
    /// Seconds; 0: none.
    pub keep_alive_s: u16,
    /// Messages it takes before it acknowledges one (MQTT 5.0).
    pub receive_maximum: u16,
    /// Topic Aliases it allows (MQTT 5.0).
    pub topic_alias_maximum: u16,
    /// Milliseconds it takes to acknowledge a message.
    pub ack_ms: u64,
    /// Milliseconds a byte is on its way at most, in each direction.
    pub latency_ms: u64,
    /// Bytes its socket holds before the broker can write no more.
    pub socket_bytes: usize,
}

/// A will to leave with CONNECT.
#[derive(Debug, Clone, PartialEq)]
pub struct WillPlan {
    /// Its topic.
    pub topic: &'static str,
    /// Its QoS.
    pub qos: QoS,
    /// Whether it is retained.
    pub retain: bool,
    /// Seconds (MQTT 5.0).
    pub delay_s: u32,
}

/// One thing that is done.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// A client connects; if it is connected, on a second connection, which takes over its session.
    Connect {
        /// Which client.
        client: usize,
        /// Clean Start, or Clean Session.
        clean: bool,
        /// Session Expiry Interval in seconds (MQTT 5.0; before, without `clean`, for ever).
        expiry_s: u32,
        /// Its will.
        will: Option<WillPlan>,
    },
    /// A client says DISCONNECT and closes.
    Disconnect {
        /// Which client.
        client: usize,
        /// Asks for its will all the same (0x04, MQTT 5.0).
        with_will: bool,
    },
    /// A client's connection breaks: both sides know.
    Cut {
        /// Which client.
        client: usize,
    },
    /// A client vanishes: the broker is not told, and learns of it by Keep Alive or a takeover.
    Vanish {
        /// Which client.
        client: usize,
    },
    /// A client reads nothing for some time.
    Stall {
        /// Which client.
        client: usize,
        /// Milliseconds.
        ms: u64,
    },
    /// A client subscribes to one filter or several.
    Subscribe {
        /// Which client.
        client: usize,
        /// The filters.
        filters: Vec<Wish>,
        /// A Subscription Identifier; 0: none (MQTT 5.0).
        identifier: u32,
    },
    /// A client unsubscribes.
    Unsubscribe {
        /// Which client.
        client: usize,
        /// The filter.
        filter: &'static str,
    },
    /// A client publishes.
    Publish {
        /// Which client.
        client: usize,
        /// The topic.
        topic: &'static str,
        /// The QoS.
        qos: QoS,
        /// RETAIN.
        retain: bool,
        /// Bytes of payload beyond what names the message; `None`: no payload at all.
        padding: Option<usize>,
        /// Message Expiry Interval in seconds; 0: none (MQTT 5.0).
        expiry_s: u32,
        /// So many messages, one behind the other.
        count: usize,
    },
    /// A client sends what is no MQTT.
    Garbage {
        /// Which client.
        client: usize,
        /// Which nonsense.
        kind: u8,
    },
    /// The program around the broker publishes.
    ProgramPublish {
        /// The topic.
        topic: &'static str,
        /// The QoS.
        qos: QoS,
        /// RETAIN.
        retain: bool,
    },
    /// No byte of any connection moves for so many milliseconds.
    Partition {
        /// Milliseconds.
        ms: u64,
    },
    /// Syncs take so many milliseconds from now on.
    SlowDisk {
        /// Milliseconds.
        ms: u64,
    },
    /// The next sync fails, for good: the broker is restarted a second later.
    FailSync,
    /// The broker is killed and restarted.
    Crash {
        /// Milliseconds until it is back.
        down_ms: u64,
    },
}

/// One filter of a SUBSCRIBE.
#[derive(Debug, Clone, PartialEq)]
pub struct Wish {
    /// The Topic Filter.
    pub filter: &'static str,
    /// The QoS asked for.
    pub qos: QoS,
    /// No Local.
    pub no_local: bool,
    /// Retain As Published.
    pub retain_as_published: bool,
    /// Retain Handling: 0, 1 or 2.
    pub retain_handling: u8,
}

impl Op {
    /// The client that does it.
    #[must_use]
    pub const fn client(&self) -> Option<usize> {
        match *self {
            Self::Connect { client, .. }
            | Self::Disconnect { client, .. }
            | Self::Cut { client }
            | Self::Vanish { client }
            | Self::Stall { client, .. }
            | Self::Subscribe { client, .. }
            | Self::Unsubscribe { client, .. }
            | Self::Publish { client, .. }
            | Self::Garbage { client, .. } => Some(client),
            _ => None,
        }
    }
}

/// Few topics, so that clients meet.
const TOPICS: [&str; 6] = ["a", "a/b", "a/b/c", "b", "b/c", "c"];
const FILTERS: [&str; 9] = ["a", "a/+", "a/#", "#", "+/b", "b", "b/#", "+", "a/b"];
const SHARED: [&str; 3] = ["$share/g/a/#", "$share/g/b", "$share/h/#"];
const VERSIONS: [Version; 6] =
    [Version::V5, Version::V5, Version::V5, Version::V311, Version::V311, Version::V31];

impl Script {
    /// The script of a seed. Without a profile the seed chooses that too.
    #[must_use]
    pub fn draw(seed: u64, profile: Option<Profile>) -> Self {
        let mut random = Random::new(seed);
        let drawn = random.pick(&Profile::ALL);
        let profile = profile.unwrap_or(drawn);
        let clients: Vec<Plan> = (0..random.between(2, 5)).map(|_| draw_plan(&mut random, profile)).collect();
        let mut steps = Vec::new();
        let mut at_ms = 0;
        for client in 0..clients.len() {
            steps.push(Step { at_ms, op: draw_connect(&mut random, profile, client) });
            at_ms += random.below(20);
            if random.percent(80) {
                at_ms += random.below(200);
                steps.push(Step { at_ms, op: draw_subscribe(&mut random, client) });
            }
        }
        for _ in 0..random.between(10, 60) {
            at_ms += if random.percent(70) { random.below(100) } else { random.below(4_000) };
            let client = random.below(clients.len() as u64) as usize;
            steps.push(Step { at_ms, op: draw_op(&mut random, profile, client) });
        }
        Self { seed, profile, clients, steps }
    }
}

fn draw_plan(random: &mut Random, profile: Profile) -> Plan {
    let calm = profile == Profile::Calm;
    Plan {
        version: random.pick(&VERSIONS),
        keep_alive_s: random.pick(&[0, 0, 2, 5, 30]),
        receive_maximum: random.pick(&[65_535, 65_535, 20, 3, 1]),
        topic_alias_maximum: random.pick(&[0, 0, 2, 10]),
        ack_ms: if random.percent(60) { 0 } else { random.below(300) },
        latency_ms: if random.percent(50) { 0 } else { random.below(80) },
        socket_bytes: if calm || random.percent(50) { 1 << 20 } else { random.between(1, 3_000) as usize },
    }
}

fn draw_connect(random: &mut Random, profile: Profile, client: usize) -> Op {
    let will = (!profile.asks() && random.percent(40)).then(|| WillPlan {
        topic: random.pick(&TOPICS),
        qos: draw_qos(random),
        retain: random.percent(25),
        delay_s: random.pick(&[0, 0, 1, 5, 30]),
    });
    let expiry_s = if profile.asks() {
        random.pick(&[0, u32::MAX])
    } else {
        random.pick(&[0, 3, 10, 3_600, 3_600, 3_600, u32::MAX])
    };
    Op::Connect { client, clean: random.percent(25), expiry_s, will }
}

fn draw_qos(random: &mut Random) -> QoS {
    random.pick(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::ExactlyOnce])
}

fn draw_filter(random: &mut Random) -> &'static str {
    if random.percent(15) { random.pick(&SHARED) } else { random.pick(&FILTERS) }
}

fn draw_subscribe(random: &mut Random, client: usize) -> Op {
    let count = random.pick(&[1, 1, 1, 2, 3]);
    let filters = (0..count)
        .map(|_| {
            let filter = draw_filter(random);
            Wish {
                filter,
                qos: draw_qos(random),
                // A Protocol Error on a shared subscription [MQTT-3.8.3-4].
                no_local: random.percent(10) && !filter.starts_with('$'),
                retain_as_published: random.percent(20),
                retain_handling: random.pick(&[0, 0, 0, 1, 2]),
            }
        })
        .collect();
    Op::Subscribe {
        client,
        filters,
        identifier: if random.percent(25) { random.between(1, 3) as u32 } else { 0 },
    }
}

fn draw_publish(random: &mut Random, client: usize) -> Op {
    let retain = random.percent(20);
    Op::Publish {
        client,
        topic: random.pick(&TOPICS),
        qos: draw_qos(random),
        retain,
        padding: if retain && random.percent(25) {
            None
        } else {
            Some(if random.percent(80) { random.below(20) } else { random.below(2_000) } as usize)
        },
        expiry_s: if random.percent(10) { random.between(1, 5) as u32 } else { 0 },
        count: if random.percent(80) { 1 } else { random.between(2, 12) as usize },
    }
}

fn draw_op(random: &mut Random, profile: Profile, client: usize) -> Op {
    let dice = random.below(100);
    match dice {
        0..45 => draw_publish(random, client),
        45..57 => draw_subscribe(random, client),
        57..61 => Op::Unsubscribe { client, filter: draw_filter(random) },
        61..70 => draw_connect(random, profile, client),
        70..74 => Op::Disconnect { client, with_will: random.percent(30) },
        74..77 => Op::ProgramPublish {
            topic: random.pick(&TOPICS),
            qos: draw_qos(random),
            retain: random.percent(20),
        },
        _ if profile == Profile::Calm => draw_publish(random, client),
        77..83 => Op::Cut { client },
        83..86 => Op::Vanish { client },
        86..90 => Op::Stall { client, ms: random.below(3_000) },
        90..92 => Op::Garbage { client, kind: random.below(256) as u8 },
        92..94 => Op::Partition { ms: random.below(3_000) },
        _ if !profile.durable() => draw_connect(random, profile, client),
        94..96 => Op::SlowDisk { ms: random.below(300) },
        96..99 => Op::Crash { down_ms: random.below(3_000) },
        _ if profile == Profile::Disk => Op::FailSync,
        _ => Op::Crash { down_ms: 0 },
    }
}

//! What happens in a simulation: drawn from a seed, or written down.
//!
//! A [`Script`] says who takes part and what is done when. Everything that is left to chance (how bytes are cut, how long
//! they are on their way, when an answer comes) is drawn from the script's seed, for each write, question, tick and crash
//! on its own: by whom it concerns and by the time at which it happens, never by what happened before. So a script with a
//! step taken out tells the same story up to there, and behind it everything that the step has no part in happens as it
//! did: it can be shrunk.

mod bytes;
mod draw;

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
    /// How many machines share the work of the broker: 1, unless somebody says otherwise. With a disk there is one.
    pub shards: u16,
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
        config.deliver_after_commit = self.durable() && random.percent(30);
        if self.durable() && random.percent(60) {
            // Most of a queue lies on the disk.
            config.queue_memory_messages_max = random.between(1, 4) as u32;
            config.queue_memory_bytes_max = random.between(1, 4_096);
            if random.percent(30) {
                config.queue_messages_max = random.between(2, 8) as u32;
                config.queue_overflow = random.pick(&[Overflow::DropOldest, Overflow::DropNewest]);
            }
        }
        config.topic_alias_maximum = random.pick(&[32, 32, 2, 0]);
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
    /// Bytes of the largest packet it accepts; 0: of any (MQTT 5.0).
    pub packet_bytes_max: u32,
    /// Packet Identifiers that it uses in turn: with few of them one is soon used again. Not 0.
    pub packet_ids: u16,
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
    /// Message Expiry Interval in seconds; 0: none (MQTT 5.0).
    pub expiry_s: u32,
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
        /// The Topic Alias to use; 0: none (MQTT 5.0).
        alias: u16,
        /// Which properties it has that receivers must get as they are, see [`crate::model::Dress`] (MQTT 5.0).
        dress: u8,
        /// So many messages, one behind the other.
        count: usize,
    },
    /// A client makes a mistake: it uses the Packet Identifier of a message that is in flight for another message, with
    /// QoS 2, or for a SUBSCRIBE. Without a message in flight it does nothing.
    Reuse {
        /// Which client.
        client: usize,
        /// The topic of the message; the filter of the SUBSCRIBE.
        topic: &'static str,
        /// It is a SUBSCRIBE.
        subscribe: bool,
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
            | Self::Reuse { client, .. }
            | Self::Garbage { client, .. } => Some(client),
            _ => None,
        }
    }
}

/// Few topics, so that clients meet.
const TOPICS: [&str; 6] = ["a", "a/b", "a/b/c", "b", "b/c", "c"];
const FILTERS: [&str; 9] = ["a", "a/+", "a/#", "#", "+/b", "b", "b/#", "+", "a/b"];
const SHARED: [&str; 3] = ["$share/g/a/#", "$share/g/b", "$share/h/#"];

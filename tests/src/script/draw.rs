//! Scripts drawn from a seed.

use super::{FILTERS, Op, Plan, Profile, SHARED, Script, Step, TOPICS, WillPlan, Wish};
use crate::model::{Dress, matches, share};
use crate::random::Random;
use culex_core::packet::{QoS, Version};

const VERSIONS: [Version; 6] =
    [Version::V5, Version::V5, Version::V5, Version::V311, Version::V311, Version::V31];

impl Script {
    /// The script of a seed. Without a profile the seed chooses that too.
    #[must_use]
    pub fn draw(seed: u64, profile: Option<Profile>) -> Self {
        let mut random = Random::new(seed);
        let drawn = random.pick(&Profile::ALL);
        let profile = profile.unwrap_or(drawn);
        let clients: Vec<Plan> =
            (0..random.between(2, 5)).map(|client| draw_plan(&mut random.fork(client), profile)).collect();
        let mut draft =
            Draft { profile, at_ms: 0, steps: Vec::new(), subscribed: vec![Vec::new(); clients.len()] };
        for client in 0..clients.len() {
            draft.begin(&mut random.fork(BEGIN + client as u64), client);
        }
        for step in 0..random.between(10, 60) {
            draft.go_on(&mut random.fork(STEP + step));
        }
        Self { seed, profile, clients, steps: draft.steps, shards: 1 }
    }
}

/// Each client, and each step, has chance of its own: what one draws does not change what another draws.
const BEGIN: u64 = 0x100;
const STEP: u64 = 0x200;

/// A script that is being drawn.
struct Draft {
    profile: Profile,
    at_ms: u64,
    steps: Vec<Step>,
    /// The filters that each client subscribed to, to choose from when it unsubscribes.
    subscribed: Vec<Vec<&'static str>>,
}

impl Draft {
    fn add(&mut self, op: Op) {
        if let Op::Subscribe { client, filters, .. } = &op {
            self.subscribed[*client].extend(filters.iter().map(|wish| wish.filter));
        }
        self.steps.push(Step { at_ms: self.at_ms, op });
    }

    fn later(&mut self, wait_ms: u64, op: Op) {
        self.at_ms += wait_ms;
        self.add(op);
    }

    /// A client comes.
    fn begin(&mut self, random: &mut Random, client: usize) {
        self.add(draw_connect(random, self.profile, client));
        self.at_ms += random.below(20);
        if random.percent(80) {
            self.later(random.below(200), draw_subscribe(random, client));
        }
    }

    fn go_on(&mut self, random: &mut Random) {
        self.at_ms += if random.percent(70) { random.below(100) } else { random.below(4_000) };
        let client = random.below(self.subscribed.len() as u64) as usize;
        let dice = random.below(100);
        if self.profile.durable() && (92..95).contains(&dice) {
            return self.crash_before_the_commit(random, client);
        }
        let op = self.draw_op(random, client, dice);
        self.add(op);
    }

    fn draw_op(&self, random: &mut Random, client: usize, dice: u64) -> Op {
        let profile = self.profile;
        match dice {
            0..43 => draw_publish(random, client),
            43..45 => {
                let subscribe = random.percent(25);
                Op::Reuse { client, topic: random.pick(&TOPICS), subscribe }
            }
            45..55 => draw_subscribe(random, client),
            55..61 => self.draw_unsubscribe(random, client),
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
            92..95 => Op::Partition { ms: random.below(3_000) },
            _ if !profile.durable() => draw_connect(random, profile, client),
            95..97 => Op::SlowDisk { ms: random.below(300) },
            97..99 => Op::Crash { down_ms: random.below(3_000) },
            _ if profile == Profile::Disk => Op::FailSync,
            _ => Op::Crash { down_ms: 0 },
        }
    }

    /// Mostly a filter that the client subscribed to.
    fn draw_unsubscribe(&self, random: &mut Random, client: usize) -> Op {
        let known = &self.subscribed[client];
        let filter =
            if known.is_empty() || random.percent(15) { draw_filter(random) } else { random.pick(known) };
        Op::Unsubscribe { client, filter }
    }

    /// Syncs are slow; a client asks for something, and the broker is killed while that is on its way to the disk. Then
    /// everybody is back, and somebody publishes to what it was about.
    fn crash_before_the_commit(&mut self, random: &mut Random, client: usize) {
        let sync_ms = random.between(20, 300);
        self.add(Op::SlowDisk { ms: sync_ms });
        let op = match random.below(10) {
            0..5 => self.draw_unsubscribe(random, client),
            5..7 => draw_subscribe(random, client),
            _ => draw_publish(random, client),
        };
        let topic = match &op {
            Op::Unsubscribe { filter, .. } => topic_of(random, filter),
            Op::Subscribe { filters, .. } => filters.first().and_then(|wish| topic_of(random, wish.filter)),
            _ => None,
        };
        self.later(random.below(50), op);
        self.later(random.between(1, 2 * sync_ms), Op::Crash { down_ms: random.below(500) });
        self.later(600, draw_return(client));
        let other =
            (client + 1 + random.below(self.subscribed.len() as u64 - 1) as usize) % self.subscribed.len();
        self.later(random.below(50), draw_return(other));
        let mut publish = draw_publish(random, other);
        if let Op::Publish { topic: any, .. } = &mut publish {
            *any = topic.unwrap_or(any);
        }
        self.later(random.between(100, 800), publish);
    }
}

/// A topic that a filter matches, if there is one.
fn topic_of(random: &mut Random, filter: &str) -> Option<&'static str> {
    let (_, filter) = share(filter);
    let topics: Vec<&'static str> = TOPICS.into_iter().filter(|topic| matches(filter, topic)).collect();
    (!topics.is_empty()).then(|| random.pick(&topics))
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
        packet_bytes_max: random.pick(&[0, 0, 0, 100, 300]),
        packet_ids: random.pick(&[60_000, 60_000, 20, 3]),
    }
}

fn draw_connect(random: &mut Random, profile: Profile, client: usize) -> Op {
    let will = (!profile.asks() && random.percent(40)).then(|| WillPlan {
        topic: random.pick(&TOPICS),
        qos: draw_qos(random),
        retain: random.percent(25),
        delay_s: random.pick(&[0, 0, 1, 5, 30]),
        expiry_s: random.pick(&[0, 0, 0, 1, 5]),
    });
    let expiry_s = if profile.asks() {
        random.pick(&[0, u32::MAX])
    } else {
        random.pick(&[0, 3, 10, 3_600, 3_600, 3_600, u32::MAX])
    };
    Op::Connect { client, clean: random.percent(25), expiry_s, will }
}

/// A client comes back to its session.
fn draw_return(client: usize) -> Op {
    Op::Connect { client, clean: false, expiry_s: 3_600, will: None }
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
        alias: if random.percent(30) { random.between(1, 3) as u16 } else { 0 },
        dress: if random.percent(20) { random.below(Dress::KINDS) as u8 } else { 0 },
        count: if random.percent(80) { 1 } else { random.between(2, 12) as usize },
    }
}

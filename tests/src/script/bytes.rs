//! Scripts read from arbitrary bytes, for fuzzing: every byte string is a script, and few bytes are a short one.
//!
//! ```text
//! profile and clients · seed, 2 bytes · 2 bytes of habits per client · then one step after the other:
//! what (low half) and who (high half) · how long after the step before · what the step needs
//! ```
//!
//! The details are in `fuzz/README.md`. What a profile has no room for (a crash without a disk, a broken connection in a
//! calm world) becomes a PUBLISH, as it does in [`Script::draw`].

use super::{FILTERS, Op, Plan, Profile, SHARED, Script, Step, TOPICS, WillPlan, Wish};
use culex_core::packet::{QoS, Version};

/// More steps are not read: a story should be one that can be told.
const STEPS_MAX: usize = 60;

impl Script {
    /// The script that these bytes are; behind their end every byte is 0. It has as many steps as there are bytes for,
    /// 60 at most.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut bytes = Bytes(bytes);
        let mut first = bytes.digits();
        let profile = first.pick(&Profile::ALL);
        let count = 2 + first.below(4);
        let seed = u64::from(bytes.next()) | u64::from(bytes.next()) << 8;
        let clients: Vec<Plan> = (0..count).map(|_| plan(&mut bytes, profile)).collect();
        let (mut steps, mut at_ms) = (Vec::new(), 0);
        while !bytes.0.is_empty() && steps.len() < STEPS_MAX {
            let what = bytes.next();
            at_ms += match bytes.next() {
                wait @ 0..100 => u64::from(wait),
                wait => u64::from(wait - 99) * 25,
            };
            let op = op(what & 0x0F, usize::from(what >> 4) % count, profile, &mut bytes);
            steps.push(Step { at_ms, op });
        }
        Self { seed, profile, clients, steps, shards: 1 }
    }
}

/// The rest of the bytes.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// The next byte as several small choices.
    fn digits(&mut self) -> Digits {
        Digits(self.next().into())
    }
}

/// A byte as a number in a mixed radix: each choice takes a digit.
struct Digits(usize);

impl Digits {
    fn below(&mut self, end: usize) -> usize {
        let digit = self.0 % end;
        self.0 /= end;
        digit
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn flag(&mut self) -> bool {
        self.below(2) == 1
    }

    fn qos(&mut self) -> QoS {
        self.pick(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
    }

    fn filter(&mut self) -> &'static str {
        let at = self.below(FILTERS.len() + SHARED.len());
        FILTERS.get(at).copied().unwrap_or_else(|| SHARED[at - FILTERS.len()])
    }
}

fn plan(bytes: &mut Bytes<'_>, profile: Profile) -> Plan {
    let (mut first, mut second) = (bytes.digits(), bytes.digits());
    let socket_bytes = second.pick(&[1 << 20, 1, 300, 3_000]);
    Plan {
        version: first.pick(&[Version::V5, Version::V311, Version::V31]),
        keep_alive_s: first.pick(&[0, 2, 5, 30]),
        receive_maximum: first.pick(&[65_535, 20, 3, 1]),
        topic_alias_maximum: first.pick(&[0, 2, 10]),
        ack_ms: second.pick(&[0, 20, 100, 300]),
        latency_ms: second.pick(&[0, 5, 30, 80]),
        socket_bytes: if profile == Profile::Calm { 1 << 20 } else { socket_bytes },
        packet_bytes_max: second.pick(&[0, 100, 300]),
        packet_ids: first.pick(&[60_000, 3]),
    }
}

fn op(what: u8, client: usize, profile: Profile, bytes: &mut Bytes<'_>) -> Op {
    let calm = profile == Profile::Calm;
    match what {
        2 => {
            let mut digits = bytes.digits();
            Op::Reuse { client, topic: digits.pick(&TOPICS), subscribe: digits.flag() }
        }
        3 | 4 => subscribe(client, bytes),
        5 => Op::Unsubscribe { client, filter: bytes.digits().filter() },
        6 => connect(client, profile, bytes),
        7 => Op::Disconnect { client, with_will: bytes.digits().flag() },
        8 => {
            let mut digits = bytes.digits();
            Op::ProgramPublish { topic: digits.pick(&TOPICS), qos: digits.qos(), retain: digits.flag() }
        }
        9 if !calm => Op::Cut { client },
        10 if !calm => Op::Vanish { client },
        11 if !calm => Op::Stall { client, ms: u64::from(bytes.next()) * 12 },
        12 if !calm => Op::Garbage { client, kind: bytes.next() },
        13 if !calm => Op::Partition { ms: u64::from(bytes.next()) * 12 },
        14 if profile.durable() => Op::SlowDisk { ms: bytes.next().into() },
        15 if profile.durable() => match bytes.next() {
            255 if profile == Profile::Disk => Op::FailSync,
            down => Op::Crash { down_ms: u64::from(down) * 12 },
        },
        _ => publish(client, bytes),
    }
}

fn connect(client: usize, profile: Profile, bytes: &mut Bytes<'_>) -> Op {
    let mut digits = bytes.digits();
    let clean = digits.below(4) == 3;
    let expiry_s = digits.pick(&[3_600, 0, u32::MAX, 3, 10]);
    let will = digits.flag().then(|| {
        let mut digits = bytes.digits();
        let (topic, qos, retain) = (digits.pick(&TOPICS), digits.qos(), digits.flag());
        let delay_s = digits.pick(&[0, 1, 5, 30]);
        WillPlan { topic, qos, retain, delay_s, expiry_s: digits.pick(&[0, 1]) }
    });
    if profile.asks() {
        // Neither wills nor sessions that end in between: as in scripts that are drawn.
        let expiry_s = if expiry_s == 0 { 0 } else { u32::MAX };
        return Op::Connect { client, clean, expiry_s, will: None };
    }
    Op::Connect { client, clean, expiry_s, will }
}

fn subscribe(client: usize, bytes: &mut Bytes<'_>) -> Op {
    let mut digits = bytes.digits();
    let count = 1 + digits.below(3);
    let identifier = digits.below(4) as u32;
    let filters = (0..count).map(|_| wish(bytes)).collect();
    Op::Subscribe { client, filters, identifier }
}

fn wish(bytes: &mut Bytes<'_>) -> Wish {
    let filter = bytes.digits().filter();
    let mut digits = bytes.digits();
    Wish {
        filter,
        qos: digits.qos(),
        // A Protocol Error on a shared subscription [MQTT-3.8.3-4].
        no_local: digits.flag() && !filter.starts_with('$'),
        retain_as_published: digits.flag(),
        retain_handling: digits.below(3) as u8,
    }
}

fn publish(client: usize, bytes: &mut Bytes<'_>) -> Op {
    let (mut digits, mut size, mut more) = (bytes.digits(), bytes.digits(), bytes.digits());
    let (topic, qos, retain) = (digits.pick(&TOPICS), digits.qos(), digits.flag());
    let padding = match size.below(4) {
        // Only what is retained may have no payload: nothing names such a message.
        3 if retain => None,
        2 => Some(size.0 * 31),
        _ => Some(size.0 % 20),
    };
    let (expiry_s, count) = (more.below(6) as u32, 1 + more.below(12));
    let (alias, dress) = (digits.below(4) as u16, more.pick(&[0, 5, 26, 63]));
    Op::Publish { client, topic, qos, retain, padding, expiry_s, alias, dress, count }
}

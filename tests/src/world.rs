//! The world around a broker: clock, network, disk, clients, program. Everything that happens is drawn from the seed of a
//! [`Script`]; nothing waits for real time.

mod broker;
mod clients;
mod limits;
mod settle;
mod shard;

use crate::client::Client;
use crate::model::{Broken, Model, Promise, Rules};
use crate::net::Link;
use crate::random::{Digest, Random};
use crate::script::{Profile, Script};
use crate::trace::{Entry, Kind, Trace};
use culex_core::middleware::{Authentication, Authorize, Permission, Shards, Wanted};
use culex_core::{Broker, Config, ConnectionId, LogSeq, Now, Seed, ShardId, Stack, Ticket};
use shard::Shard;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

/// How a simulation ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The promise that was broken, and when (virtual microseconds).
    pub broken: Option<(u64, Broken)>,
    /// Over everything that went into the broker and came out: the same script gives the same.
    pub digest: u64,
    /// Inputs the broker was given.
    pub inputs: u64,
    /// Virtual microseconds.
    pub virtual_us: u64,
    /// Promises that were put to the test.
    pub seen: BTreeSet<Promise>,
}

/// Runs a script to its end, or to the first broken promise.
#[must_use]
pub fn simulate(script: &Script, trace: Option<&mut Trace>) -> Outcome {
    let mut world = World::new(script, trace);
    world.run();
    world.outcome()
}

/// Runs a script with another broker after every so many events: one made from a snapshot of the one before. Nothing may
/// be different for that.
#[must_use]
pub fn simulate_with_snapshots(script: &Script, every: u64) -> Outcome {
    let mut world = World::new(script, None);
    world.snapshot_every = every;
    world.run();
    world.outcome()
}

/// How many machines share the work. Those that store what they acknowledge work alone.
fn machines(script: &Script) -> u16 {
    if script.profile.durable() { 1 } else { script.shards.max(1) }
}

/// Something that is going to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A step of the script.
    Step(usize),
    /// Bytes may have arrived at the broker.
    Up(usize),
    /// Bytes may have arrived at a client.
    Down(usize),
    /// A client has thought about an acknowledgement.
    Think(usize),
    /// A client may have to say that it is there.
    Ping(usize),
    /// A timer of a shard is due.
    Tick(usize),
    /// The disk of a shard, in one of its lives, begins, or has ended, to write.
    Sync(usize, u64),
    Synced(usize, u64),
    /// What another shard said may have arrived at a shard.
    Hear(usize),
    /// A question is answered.
    Answer(u64),
    /// The broker is killed; it is started again.
    Kill(u64),
    Start,
    /// The end of the story, in steps.
    Settle(u8),
}

/// A question of the broker, and what it will be told.
#[derive(Debug)]
struct Question {
    shard: usize,
    ticket: Ticket,
    answer: culex_core::Answer,
    asked_at: u64,
}

/// What chance is drawn for, beside whom it concerns and when.
mod key {
    pub(super) const SETTINGS: u64 = 1;
    /// And the shard.
    pub(super) const SEED: u64 = 0x40;
    pub(super) const TICK: u64 = 3;
    pub(super) const CRASH: u64 = 4;
    pub(super) const QUESTION: u64 = 5;
    pub(super) const TURN: u64 = 6;
    /// And the shard.
    pub(super) const CHANNEL: u64 = 0x80;
    /// And the client.
    pub(super) const CONNECTION: u64 = 0x100;
}

struct World<'a> {
    script: &'a Script,
    config: Arc<Config>,
    random: Random,
    now: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    scheduled: u64,
    shards: Vec<Shard>,
    links: Vec<Link>,
    /// The connections of each shard.
    by_id: BTreeMap<(usize, ConnectionId), usize>,
    clients: Vec<Client>,
    /// How long a sync takes, and whether the next one fails.
    sync_us: u64,
    sync_fails: bool,
    tickets: BTreeMap<u64, Question>,
    asked: u64,
    /// How many questions were asked at one moment.
    asked_at_once: (u64, u64),
    model: Model,
    trace: Option<&'a mut Trace>,
    digest: Digest,
    inputs: u64,
    frozen_until: u64,
    /// The story is over: nothing goes wrong any more.
    settling: bool,
    broken: Option<(u64, Broken)>,
    found: Vec<(String, Option<usize>)>,
    /// Events between snapshots; 0: none is taken.
    snapshot_every: u64,
    happened: u64,
}

impl<'a> World<'a> {
    fn new(script: &'a Script, mut trace: Option<&'a mut Trace>) -> Self {
        let random = Random::new(script.seed ^ 0x5EED);
        let config = Arc::new(script.profile.config(&mut random.fork(key::SETTINGS)));
        let clients: Vec<Client> = script
            .clients
            .iter()
            .enumerate()
            .map(|(index, plan)| Client::new(plan.clone(), format!("client{index}")))
            .collect();
        if let Some(trace) = &mut trace {
            trace.clients = clients.iter().map(|client| client.name.clone()).collect();
        }
        let rules = Rules {
            durable: script.profile.durable(),
            overlapping_once: config.overlapping_once,
            asks: script.profile.asks(),
            in_flight_max: config.in_flight_max,
            linger_us: u64::from(config.linger_ms) * 1_000 + 50_000,
            sync_us: if script.profile.durable() { 650_000 } else { 0 },
            after_commit: config.deliver_after_commit,
            lag_us: if machines(script) > 1 { 100_000 } else { 0 },
        };
        Self {
            script,
            config,
            random,
            now: 0,
            events: BinaryHeap::new(),
            scheduled: 0,
            shards: (0..machines(script)).map(|_| Shard::new()).collect(),
            links: Vec::new(),
            by_id: BTreeMap::new(),
            clients,
            sync_us: 1_000,
            sync_fails: false,
            tickets: BTreeMap::new(),
            asked: 0,
            asked_at_once: (0, 0),
            model: Model::new(rules),
            trace,
            digest: Digest::default(),
            inputs: 0,
            frozen_until: 0,
            settling: false,
            broken: None,
            found: Vec::new(),
            snapshot_every: 0,
            happened: 0,
        }
    }

    /// The chain of a shard, of so many.
    fn stack_of(&self, shard: usize) -> Stack {
        let (stack, of) = (Self::stack(self.script.profile), self.shards.len());
        if of == 1 {
            return stack;
        }
        let part = Shards::new(ShardId(shard as u16), of as u16, Seed(self.script.seed));
        stack.shard(part)
    }

    fn stack(profile: Profile) -> Stack {
        let stack = if profile.durable() { Stack::durable() } else { Stack::standard() };
        if !profile.asks() {
            return stack;
        }
        let ask = |_: &str, _: Option<&str>, _: Wanted<'_>| Permission::Ask;
        let replaced = stack
            .replace("Authentication", Authentication::ask())
            .and_then(|stack| stack.replace("Authorize", Authorize::new(ask)));
        replaced.unwrap_or_else(|_| Stack::standard())
    }

    /// The clocks of this moment: both begin at something other than 0.
    fn clock(&self) -> Now {
        let mut now = Now::default().plus_ms(1_700_000_000_000);
        now.mono.0 = self.now * 1_000;
        now.wall.0 += self.now / 1_000;
        now
    }

    fn start(&mut self) {
        for shard in 0..self.shards.len() {
            self.start_shard(shard);
        }
    }

    fn start_shard(&mut self, shard: usize) {
        let stack = self.stack_of(shard);
        let seed = Seed(self.random.fork(key::SEED + shard as u64).fork(self.now).bits());
        let mut broker = Broker::new(Arc::clone(&self.config), stack, seed, self.clock());
        self.shards[shard].tick_at = u64::MAX;
        if self.script.profile.durable() {
            let disk = &mut self.shards[shard].disk;
            if disk.life > 0 {
                self.model.tested(Promise::Restored);
            }
            let restored = disk.open(seed).and_then(|records| {
                broker.restore_through(LogSeq(0), records).map_err(|error| error.to_string())
            });
            if let Err(what) = restored {
                self.breaks(Broken { promise: Promise::Restored, what });
            }
        }
        self.shards[shard].broker = Some(broker);
    }

    fn run(&mut self) {
        self.start();
        for (index, step) in self.script.steps.iter().enumerate() {
            self.schedule(step.at_ms * 1_000, Event::Step(index));
        }
        let end = self.script.steps.last().map_or(0, |step| step.at_ms) + 1_000;
        self.schedule(end * 1_000, Event::Settle(0));
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            self.now = at;
            self.model.advance(at);
            self.happen(event);
            self.drain();
            self.happened += 1;
            if self.snapshot_every > 0 && self.happened.is_multiple_of(self.snapshot_every) {
                self.replace_by_snapshots();
            }
            self.model.turn_ended();
            if self.broken.is_some() {
                return;
            }
        }
    }

    /// Every machine ends here, and another one goes on in its place.
    fn replace_by_snapshots(&mut self) {
        for shard in 0..self.shards.len() {
            let Some(broker) = &self.shards[shard].broker else { continue };
            let mut snapshot = Vec::new();
            broker.snapshot(&mut snapshot);
            match Broker::from_snapshot(None, self.stack_of(shard), &snapshot) {
                Ok(broker) => self.shards[shard].broker = Some(broker),
                Err(error) => self.breaks(Broken { promise: Promise::Restored, what: format!("{error:?}") }),
            }
        }
    }

    fn schedule(&mut self, at: u64, event: Event) {
        self.scheduled += 1;
        self.events.push(Reverse((at.max(self.now), self.scheduled, event)));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Step(index) => {
                self.within_limits();
                self.perform(&self.script.steps[index].op);
            }
            Event::Up(link) => self.goes_up(link),
            Event::Down(link) => self.goes_down(link),
            Event::Think(client) => self.think(client),
            Event::Ping(client) => self.ping(client),
            Event::Tick(shard) => self.tick(shard),
            Event::Sync(shard, life) => self.sync(shard, life),
            Event::Synced(shard, life) => self.synced(shard, life),
            Event::Hear(shard) => self.hears(shard),
            Event::Answer(number) => self.answer(number),
            Event::Kill(down_us) => self.kill(down_us),
            Event::Start => self.restart(),
            Event::Settle(part) => self.settle(part),
        }
    }

    /// A promise was broken: only the first one counts, what follows may follow from it.
    fn breaks(&mut self, broken: Broken) {
        if self.broken.is_none() {
            self.note(None, Kind::Broken, || broken.to_string());
            self.broken = Some((self.now, broken));
        }
    }

    fn check(&mut self, check: Result<(), Broken>) {
        if let Err(broken) = check {
            self.breaks(broken);
        }
    }

    fn note(&mut self, client: Option<usize>, kind: Kind, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.entries.push(Entry { at: self.now, client, kind, text: text() });
        }
    }

    fn outcome(self) -> Outcome {
        Outcome {
            broken: self.broken,
            digest: self.digest.0,
            inputs: self.inputs,
            virtual_us: self.now,
            seen: self.model.seen().clone(),
        }
    }
}

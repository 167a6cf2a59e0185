//! Shards: the machines of one broker, each with its own disk, and the channels between them. There is one shard, because the
//! machine does not share its work yet; everything around it is made for several.

use super::limits::Most;
use super::{Event, World, key};
use crate::model::{Broken, Promise};
use culex_core::broker::ShardMessage;
use culex_core::{Broker, LogSeq, Record, ShardId};
use std::collections::VecDeque;

/// One machine and what belongs to it.
pub(super) struct Shard {
    /// None while it is down.
    pub(super) broker: Option<Broker>,
    pub(super) disk: Disk,
    /// When it will be ticked.
    pub(super) tick_at: u64,
    /// The most connections and sessions it had at a time.
    pub(super) most: Most,
    /// What other shards told it and it has not heard yet, with the time at which it will.
    channel: VecDeque<(u64, ShardId, ShardMessage)>,
}

/// A disk: what is on it, and what is on its way to it.
#[derive(Debug, Default)]
pub(super) struct Disk {
    pub(super) log: Vec<Record>,
    pub(super) pending: Vec<(LogSeq, Record)>,
    pub(super) writing: Vec<(LogSeq, Record)>,
    /// A sync is announced or under way.
    pub(super) busy: bool,
    /// Counts the broker's lives: what belonged to an earlier one is forgotten.
    pub(super) life: u64,
}

impl Disk {
    /// Everything the machine stored is on it.
    pub(super) fn is_quiet(&self) -> bool {
        !self.busy
    }
}

impl Shard {
    pub(super) fn new() -> Self {
        Self {
            broker: None,
            disk: Disk::default(),
            tick_at: u64::MAX,
            most: Most::default(),
            channel: VecDeque::new(),
        }
    }

    /// The machine dies, with what it was told and did not hear.
    pub(super) fn dies(&mut self) {
        self.broker = None;
        self.channel.clear();
        self.disk.life += 1;
        self.disk.busy = false;
    }
}

impl World<'_> {
    /// The shards in the order in which they get to work in this turn.
    pub(super) fn turn(&self) -> impl Iterator<Item = usize> + use<> {
        let count = self.shards.len();
        let first = self.random.fork(key::TURN).fork(self.now).below(count as u64) as usize;
        (0..count).map(move |next| (first + next) % count)
    }

    /// One shard tells another something, which takes its time; what it told before arrives before.
    pub(super) fn tells(&mut self, from: usize, to: ShardId, message: ShardMessage) {
        let Some(hearer) = self.shards.get_mut(usize::from(to.0)) else {
            let what = format!("{message:?} is for {to:?}, which does not exist");
            return self.breaks(Broken { promise: Promise::WellFormed, what });
        };
        let wait = self.random.fork(key::CHANNEL + from as u64).fork(self.now).below(2_000);
        let due = hearer.channel.back().map_or(0, |(due, ..)| *due).max(self.now + wait);
        hearer.channel.push_back((due, ShardId(from as u16), message));
        self.schedule(due, Event::Hear(to.0.into()));
    }

    /// A shard hears what has arrived.
    pub(super) fn hears(&mut self, shard: usize) {
        let now = self.clock();
        let Shard { broker: Some(broker), channel, .. } = &mut self.shards[shard] else { return };
        if channel.front().is_some_and(|(due, ..)| *due <= self.now)
            && let Some((_, from, message)) = channel.pop_front()
        {
            self.inputs += 1;
            broker.from_shard(now, from, message);
        }
    }
}

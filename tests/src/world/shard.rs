//! Shards: the machines of one broker, each with its own disk, and the channels between them.

use super::limits::Most;
use super::{Event, World, key};
use crate::model::{Broken, Promise};
use culex_core::broker::{Fetch, Moved};
use culex_core::store::{Batch, Durability, Image, MemoryStore, Store};
use culex_core::{Broker, ConnectionId, LogSeq, Record, Seed, ShardId};
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
    channel: VecDeque<(u64, ShardId, Told)>,
}

/// What comes from another shard.
#[derive(Debug)]
pub(super) enum Told {
    /// What its machine says.
    Said(Vec<u8>),
    /// A connection.
    Moved(usize, Box<Moved>),
}

/// A disk: what is on it, and what is on its way to it.
#[derive(Debug, Default)]
pub(super) struct Disk {
    store: MemoryStore,
    /// Who turns records into entries; none before the broker has ever started on it.
    image: Option<Image>,
    pub(super) pending: VecDeque<Work>,
    pub(super) writing: Vec<Work>,
    /// A sync is announced or under way.
    pub(super) busy: bool,
    /// A sync failed: nothing is written or read any more in this life of the broker.
    pub(super) failed: bool,
    /// Counts the broker's lives: what belonged to an earlier one is forgotten.
    pub(super) life: u64,
}

/// What a disk is asked for, in this order.
#[derive(Debug, Clone)]
pub(super) enum Work {
    Store(LogSeq, Record),
    Fetch(Fetch),
}

impl Work {
    fn record(&self) -> Option<&Record> {
        match self {
            Self::Store(_, record) => Some(record),
            Self::Fetch(_) => None,
        }
    }
}

impl Disk {
    /// Takes what is written next: everything, but for what comes behind something that is to be read.
    pub(super) fn begin(&mut self) {
        while let Some(work) = self.pending.pop_front() {
            let last = matches!(work, Work::Fetch(_));
            self.writing.push(work);
            if last {
                break;
            }
        }
    }

    /// Reads a part of a queue.
    pub(super) fn fetch(&self, fetch: &Fetch) -> Result<Vec<Record>, String> {
        let Some(image) = &self.image else { return Err("a disk without a broker".into()) };
        let Fetch { client_id, skip, messages_max, bytes_max, .. } = fetch;
        let queued = image.queued(&self.store, client_id, *skip, *messages_max, *bytes_max);
        queued.map_err(|error| error.to_string())
    }

    /// What a broker finds when it starts.
    pub(super) fn open(&mut self, seed: Seed) -> Result<Vec<Record>, String> {
        let mut records = Vec::new();
        let opened = Image::open(&self.store, seed, &mut |record| {
            records.push(record);
            true
        });
        self.image = Some(opened.map_err(|error| error.to_string())?);
        let mut batch = Batch::default();
        Image::initialize(&mut batch);
        self.commit(&batch)?;
        Ok(records)
    }

    /// Puts records on the disk, all of them or none.
    pub(super) fn write(&mut self, work: &[Work]) -> Result<(), String> {
        let Some(image) = &mut self.image else { return Err("a disk without a broker".into()) };
        let mut batch = Batch::default();
        for record in work.iter().filter_map(Work::record) {
            image.apply(record, &mut batch).map_err(|error| error.to_string())?;
        }
        self.commit(&batch)
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), String> {
        self.store.commit(batch, Durability::Disk).map_err(|error| error.to_string())
    }

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
        (self.disk.busy, self.disk.failed) = (false, false);
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
    pub(super) fn tells(&mut self, from: usize, to: ShardId, told: Told) {
        let Some(hearer) = self.shards.get_mut(usize::from(to.0)) else {
            let what = format!("{told:?} is for {to:?}, which does not exist");
            return self.breaks(Broken { promise: Promise::WellFormed, what });
        };
        let most = if self.settling { 50 } else { 2_000 };
        let wait = self.random.fork(key::CHANNEL + from as u64).fork(self.now).below(most);
        let due = hearer.channel.back().map_or(0, |(due, ..)| *due).max(self.now + wait);
        hearer.channel.push_back((due, ShardId(from as u16), told));
        self.schedule(due, Event::Hear(to.0.into()));
    }

    /// What a machine has to say to the others goes on its way; now and then the channel is full, and it stays.
    pub(super) fn takes_along(&mut self, shard: usize) -> bool {
        let mut random = self.random.fork(key::CHANNEL + shard as u64).fork(self.now ^ 1);
        if !self.settling && random.percent(10) {
            // It is looked at again soon, whatever happens.
            let broker = self.shards[shard].broker.as_mut();
            if broker.is_some_and(|broker| broker.shard().1 > 1) {
                self.schedule(self.now + 1_000, Event::Hear(shard));
            }
            return false;
        }
        let mut any = false;
        for to in 0..self.shards.len() {
            let to = ShardId(to as u16);
            let said = self.shards[shard].broker.as_mut().and_then(|broker| broker.take_for_shard(to));
            if let Some(said) = said {
                any = true;
                self.digest.bytes(&said);
                self.tells(shard, to, Told::Said(said));
            }
        }
        any
    }

    /// A connection goes where it belongs. On its way it belongs to nobody.
    pub(super) fn hands_over(&mut self, from: usize, id: ConnectionId, to: ShardId, moved: Box<Moved>) {
        let Some(link) = self.by_id.remove(&(from, id)) else {
            let what = format!("{id:?} was handed over, but it is not there");
            return self.breaks(Broken { promise: Promise::WellFormed, what });
        };
        self.links[link].id = None;
        self.links[link].moving = true;
        self.tells(from, to, Told::Moved(link, moved));
    }

    /// A shard hears what has arrived.
    pub(super) fn hears(&mut self, shard: usize) {
        let now = self.clock();
        let Shard { broker: Some(broker), channel, .. } = &mut self.shards[shard] else { return };
        if channel.front().is_none_or(|(due, ..)| *due > self.now) {
            return;
        }
        match channel.pop_front() {
            Some((_, from, Told::Said(said))) => {
                self.inputs += 1;
                broker.from_shard(now, from, &said);
            }
            Some((_, _, Told::Moved(link, moved))) => self.takes_over(shard, link, *moved),
            None => {}
        }
    }

    fn takes_over(&mut self, shard: usize, link: usize, moved: Moved) {
        let now = self.clock();
        self.links[link].moving = false;
        let Some(broker) = &mut self.shards[shard].broker else { return };
        self.inputs += 2;
        let Ok(id) = broker.accept(now, moved.peer) else {
            let what = "a connection that was handed over is not accepted".into();
            return self.breaks(Broken { promise: Promise::WellFormed, what });
        };
        self.links[link].shard = shard;
        self.links[link].id = Some(id);
        self.by_id.insert((shard, id), link);
        broker.receive(now, id, &moved.received);
        match self.links[link].lost.take() {
            Some(cause) => self.disconnected(link, cause),
            None => self.schedule(self.now, Event::Up(link)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::{Profile, Script};
    use std::collections::BTreeSet;

    fn said(number: u8) -> Told {
        Told::Said(vec![9, number])
    }

    #[test]
    fn what_a_shard_tells_another_arrives_late_and_in_its_order() {
        let script = Script::draw(1, Some(Profile::Calm));
        let mut world = World::new(&script, None);
        world.shards.push(Shard::new());
        world.start();
        for number in 0..20 {
            world.now = number;
            world.tells(0, ShardId(1), said(number as u8));
        }
        let channel = &world.shards[1].channel;
        let dues: Vec<u64> = channel.iter().map(|(due, ..)| *due).collect();
        assert!(dues.is_sorted() && dues[0] > 0, "{dues:?}");
        let told: Vec<String> = channel.iter().map(|(_, _, told)| format!("{told:?}")).collect();
        assert_eq!(told, (0..20).map(|number| format!("{:?}", said(number))).collect::<Vec<_>>());

        world.hears(1);
        assert_eq!(world.inputs, 0, "nothing has arrived yet");
        world.now = dues[19];
        (0..30).for_each(|_| world.hears(1));
        assert_eq!((world.inputs, world.shards[1].channel.len()), (20, 0));
        assert_eq!(world.broken, None);
        world.tells(0, ShardId(2), said(0));
        assert!(world.broken.is_some(), "there is no third shard");
    }

    #[test]
    fn shards_get_to_work_in_any_order() {
        let script = Script::draw(1, Some(Profile::Calm));
        let mut world = World::new(&script, None);
        world.shards.push(Shard::new());
        let mut orders = BTreeSet::new();
        for now in 0..20 {
            world.now = now;
            orders.insert(world.turn().collect::<Vec<_>>());
        }
        assert_eq!(orders, BTreeSet::from([vec![0, 1], vec![1, 0]]));
    }
}

//! Memory: while the story is told every list stays within the limit that the settings name for it; when everybody is gone
//! and has left nothing behind, what a machine keeps is what its places for connections and sessions need.

use super::World;
use super::shard::Shard;
use crate::model::{Broken, Promise};
use culex_core::Broker;
use culex_core::packet::{QoS, Version};

/// The most connections and sessions there were at a time: a machine keeps places for as many.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Most {
    connections: usize,
    sessions: usize,
}

impl Most {
    /// Looks at how many there are.
    pub(super) fn look(&mut self, broker: &Broker) {
        self.connections = self.connections.max(broker.connections());
        self.sessions = self.sessions.max(broker.sessions());
    }
}

impl World<'_> {
    /// What one client may cost, list by list.
    pub(super) fn within_limits(&mut self) {
        for shard in 0..self.shards.len() {
            self.shard_within_limits(shard);
        }
    }

    fn shard_within_limits(&mut self, shard: usize) {
        let Some(broker) = &self.shards[shard].broker else { return };
        self.model.tested(Promise::Bounded);
        let config = &self.config;
        for client in &self.clients {
            let Some(seen) = broker.inspect(&client.name) else { continue };
            let parked = seen.connection.as_ref().map_or(0, |connection| connection.parked);
            let held = if seen.version == Version::V5 { seen.incoming.len() } else { 0 };
            let window = usize::from(config.in_flight_max);
            // Without a store all of it is in memory, and QoS 0 always is.
            let here =
                seen.queue.iter().filter(|queued| queued.qos > QoS::AtMostOnce && seen.queue_outside > 0);
            // What made room may be lost with a crash, and what it made room for not.
            let crashed = self.shards[shard].disk.life > 0;
            let queue_max = if crashed { u64::MAX } else { config.queue_messages_max.into() };
            let lists = [
                (
                    "messages of its queue in memory",
                    here.count() as u64,
                    config.queue_memory_messages_max.into(),
                ),
                ("messages in its queue", (seen.queue.len() + seen.queue_outside) as u64, queue_max),
                ("bytes in its queue", seen.queue_bytes, config.queue_bytes_max),
                ("messages in flight", seen.in_flight.len() as u64, window as u64),
                ("Packet Identifiers held", held as u64, config.receive_maximum.into()),
                ("packets that wait for answers", parked as u64, config.parked_max.into()),
                ("subscriptions", seen.subscriptions.len() as u64, FILTERS),
                ("pages of retained messages", seen.retained_pages.len() as u64, FILTERS),
            ];
            if let Some((list, count, most)) = lists.into_iter().find(|(_, count, most)| count > most) {
                let what = format!("{}: {count} {list}, the limit is {most}", client.name);
                return self.breaks(Broken { promise: Promise::Bounded, what });
            }
        }
    }

    /// Everybody is gone, no session is left and nothing is retained: what is kept is kept for nobody.
    pub(super) fn nothing_is_kept(&mut self) {
        for shard in 0..self.shards.len() {
            self.shard_keeps_nothing(shard);
        }
    }

    fn shard_keeps_nothing(&mut self, shard: usize) {
        let now = self.clock();
        let stack = self.stack_of(shard);
        let Shard { broker: Some(broker), most, .. } = &mut self.shards[shard] else { return };
        let (sessions, records, timer) = (broker.sessions(), broker.records(), broker.deadline());
        if sessions > 0 || !records.is_empty() || timer.is_some() {
            let what = format!("{sessions} sessions, the records {records:?}, a timer at {timer:?}");
            return self.breaks(Broken { promise: Promise::NothingLeft, what });
        }
        let kept = size(broker);
        let seed = culex_core::Seed(self.script.seed);
        let new = Broker::new(std::sync::Arc::clone(&self.config), stack, seed, now);
        let Most { connections, sessions } = *most;
        // What was counted for every other shard grew as well.
        let others = SHARD_BYTES * (usize::from(new.shard().1) - 1);
        let most =
            size(&new) + others + OTHER_BYTES + CONNECTION_BYTES * connections + SESSION_BYTES * sessions;
        if kept > most {
            let what = format!(
                "{kept} bytes are kept for nobody, after {connections} connections and {sessions} sessions at a time \
                 {most} would do"
            );
            self.breaks(Broken { promise: Promise::Bounded, what });
        }
    }
}

/// The topic filters that there are: more subscriptions no session can have.
const FILTERS: u64 = 24;
/// What each connection and each session there was at a time leaves behind in a snapshot: places in tables, for whoever
/// comes next; and what counters need. Measured: the largest of 30,000 stories need all of it but a few bytes.
const CONNECTION_BYTES: usize = 11;
const SESSION_BYTES: usize = 24;
const OTHER_BYTES: usize = 30;
const SHARD_BYTES: usize = 12;

fn size(broker: &Broker) -> usize {
    let mut bytes = Vec::new();
    broker.snapshot(&mut bytes);
    bytes.len()
}

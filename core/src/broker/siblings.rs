//! The machines that share the work of one broker, each a shard of it: where a client belongs, and what is on its way
//! between them.

use super::said::{Said, redact};
use super::{Action, Answer, Broker, Heard, Peer, Relay, What};
use crate::broker::state::State;
use crate::connection::Phase;
use crate::hash::Seed;
use crate::id::{ConnectionId, LogSeq, ShardId, Ticket};
use crate::packet::Version;
use crate::redact::Redaction;
use crate::saved::{Malformed, Reader, Saved, Writer, saved};
use crate::time::Now;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::hash::BuildHasher;

/// A machine among others.
#[derive(Debug)]
pub(crate) struct Siblings {
    pub(crate) me: ShardId,
    /// How many there are, this one included.
    pub(crate) of: u16,
    /// The same for all, so that all find the same home.
    key: Seed,
    /// What the adapter shall take to each shard.
    pub(crate) out: Vec<Vec<u8>>,
    /// How much the adapter took the last time.
    taken: Vec<usize>,
    /// Packets that waited for the others, which have heard by now.
    pub(crate) agreed: Vec<Ticket>,
    /// Acknowledgements that wait for others.
    pub(crate) waiting: usize,
}

// How much was taken is a hint.
saved! { struct Siblings { me, of, key, out, taken, agreed, waiting } }

impl Siblings {
    pub(crate) fn new(me: ShardId, of: u16, key: Seed) -> Self {
        let none = || (0..of).map(|_| Vec::new()).collect();
        let taken = (0..of).map(|_| 0).collect();
        Self { me, of, key, out: none(), taken, agreed: Vec::new(), waiting: 0 }
    }

    /// Replaces what nobody else may read in what the adapter did not take yet.
    pub(crate) fn redact(&mut self, redaction: &Redaction<'_>) {
        self.out.iter_mut().for_each(|out| redact(out, redaction));
    }

    /// Which shard it is, of how many, and what they have in common.
    pub(crate) fn place(&self) -> (ShardId, (u16, Seed)) {
        (self.me, (self.of, self.key))
    }

    /// The shard that has the session of a client.
    pub(crate) fn home(&self, client_id: &str) -> ShardId {
        let hash = self.key.hasher(HOME).hash_one(client_id.as_bytes());
        // The high half of a product is as even as the hash, and cheaper than a remainder.
        ShardId(((u128::from(hash) * u128::from(self.of)) >> 64) as u16)
    }

    /// All but this one.
    pub(crate) fn others(&self) -> impl Iterator<Item = ShardId> + use<> {
        let me = self.me;
        (0..self.of).map(ShardId).filter(move |shard| *shard != me)
    }

    /// Where to write what a shard is to be told.
    pub(crate) fn tell(&mut self, to: ShardId, say: impl FnOnce(&mut Vec<u8>)) {
        if let (Some(out), Some(taken)) =
            (self.out.get_mut(usize::from(to.0)), self.taken.get(usize::from(to.0)))
        {
            if out.capacity() == 0 {
                out.reserve(*taken);
            }
            say(out);
        }
    }

    /// So much waits that no connection is read until it was taken, or done.
    pub(crate) fn is_behind(&self, acknowledgements_max: usize) -> bool {
        self.waiting > acknowledgements_max || self.out.iter().any(|out| out.len() > SHARD_BYTES_MAX)
    }
}

/// A connection on its way to another shard.
#[derive(Clone)]
pub struct Moved {
    /// Who it is.
    pub peer: Peer,
    /// What was received, from the CONNECT on, and not worked off.
    pub received: Vec<u8>,
}

impl Saved for Moved {
    fn save(&self, to: &mut Writer<'_>) {
        let Self { peer, received } = self;
        peer.save(to);
        to.bytes(received);
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (peer, mut received) = (Peer::load(from)?, from.bytes()?.to_vec());
        if let Some(redaction) = from.redaction() {
            redaction.stream(&mut received, Version::V311, u32::MAX);
        }
        Ok(Self { peer, received })
    }
}

impl fmt::Debug for Moved {
    // There may be a password in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Moved")
            .field("peer", &self.peer)
            .field("bytes", &self.received.len())
            .finish_non_exhaustive()
    }
}

impl State {
    /// Tells all others the same.
    pub(crate) fn tell_others(&mut self, say: impl Fn(&mut Vec<u8>)) {
        if let Some(siblings) = &mut self.siblings {
            siblings.others().for_each(|to| siblings.tell(to, &say));
        }
    }

    /// The shard to which a client belongs, if it is another one.
    pub(crate) fn home_elsewhere(&self, client_id: &str) -> Option<ShardId> {
        let siblings = self.siblings.as_ref()?;
        // Who has no name gets one that belongs here.
        let home = if client_id.is_empty() { siblings.me } else { siblings.home(client_id) };
        (home != siblings.me).then_some(home)
    }
}

impl Broker {
    /// What another shard said, as [`take_for_shard`](Self::take_for_shard) gave it there: whole, and in its order.
    pub fn from_shard(&mut self, now: Now, from: ShardId, bytes: &[u8]) {
        self.begin(now, None);
        let known = self.state.siblings.as_ref().is_some_and(|one| from.0 < one.of && from != one.me);
        if !known {
            return;
        }
        let mut rest = bytes;
        while let Some((said, behind)) = Said::decode(rest) {
            rest = behind;
            self.hear(from, said);
            while let Some(ticket) = self.state.siblings.as_mut().and_then(|one| one.agreed.pop()) {
                if let Some(question) = self.state.tickets.get(ticket) {
                    self.state.timers.cancel(question.timer);
                    self.answer(ticket, Answer::Allow);
                }
            }
        }
        if !self.state.stalled.is_empty() {
            self.unstall_all();
        }
    }

    fn hear(&mut self, from: ShardId, said: Said<'_>) {
        (self.state.from, self.state.kept) = (None, None);
        let heard = match said {
            Said::Publish { publication, portion, acked } => {
                let before = self.state.assigned;
                self.state.work.push(Action::Relay(Relay {
                    what: What::Current,
                    publisher: None,
                    ack: None,
                    gated: false,
                    inbound: None,
                    shard: Some(from),
                    portion,
                }));
                self.run(Some(&publication));
                if !acked {
                    return;
                }
                let stored = self.state.assigned > before;
                let through = if stored { self.state.assigned } else { LogSeq(0) };
                Heard::Relayed { through }
            }
            Said::Interest { filter, members } => Heard::Interest { filter: filter.into(), members },
            Said::Sync { clock } => Heard::Sync { clock },
            Said::Ack { number } => Heard::Ack { number },
        };
        self.state.work.push(Action::Heard { from, heard });
        self.run(None);
    }

    /// What another shard has to be told, if anything: give it to [`from_shard`](Self::from_shard) over there, all that is
    /// taken in the order in which it was taken. Who has no room for it leaves it here: then connections are read no
    /// longer, until it is taken.
    #[must_use]
    pub fn take_for_shard(&mut self, to: ShardId) -> Option<Vec<u8>> {
        let siblings = self.state.siblings.as_mut()?;
        let out = siblings.out.get_mut(usize::from(to.0)).filter(|out| !out.is_empty())?;
        let taken = core::mem::take(out);
        siblings.taken[usize::from(to.0)] = taken.len().min(SHARD_BYTES_MAX);
        if taken.len() > SHARD_BYTES_MAX {
            self.unstall_all();
        }
        Some(taken)
    }

    /// Which shard this is, and of how many; a machine alone is the first of one.
    #[must_use]
    pub fn shard(&self) -> (ShardId, u16) {
        self.state.siblings.as_ref().map_or((ShardId(0), 1), |siblings| (siblings.me, siblings.of))
    }

    /// A CONNECT that belongs elsewhere: its connection goes there, as soon as the bytes are at hand.
    pub(super) fn moves(&mut self, id: ConnectionId, client_id: &str) -> bool {
        let Some(home) = self.state.home_elsewhere(client_id) else { return false };
        if self.state.connections.get(id).is_none_or(|connection| connection.phase != Phase::Opened) {
            return false;
        }
        self.state.moving = Some(home);
        true
    }

    /// Hands a connection over with what was received and not worked off.
    pub(super) fn hand_over(&mut self, id: ConnectionId, shard: ShardId, received: Vec<u8>) {
        self.closed_hooks(id);
        self.run(None);
        self.state.stalled.remove(&id);
        let Some(connection) = self.state.remove_connection(id) else { return };
        // It is counted where it arrives.
        let stats = &mut self.state.stats;
        stats.connections_accepted = stats.connections_accepted.saturating_sub(1);
        stats.bytes_received = stats.bytes_received.saturating_sub(received.len() as u64);
        stats.packets_received = stats.packets_received.saturating_sub(1);
        let moved = Box::new(Moved { peer: connection.peer, received });
        self.state.out.push_back(Action::HandOver { id, shard, moved });
    }
}

/// Separates the hash from those of other tables.
const HOME: u64 = 0x686F_6D65;
/// Bytes for one shard above which no connection is read. One input may go beyond it.
const SHARD_BYTES_MAX: usize = 1024 * 1024;

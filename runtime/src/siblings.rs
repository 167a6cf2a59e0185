//! The shards of one broker, each in a thread of its own: what goes from one to another, and what they count together.
//!
//! Every shard has a mailbox. What its machine says to another goes there once per turn, as one piece, and is heard in a
//! turn over there; a connection that belongs there goes the same way, with its socket and its layers. Nobody ever waits: a
//! mailbox with no room for a shard is told so, what that shard still has to say stays in its machine, which then reads
//! less, and it is woken when there is room. Each empties its own mailbox whatever becomes of the others, so there will be.
//!
//! Nothing is shared on the way of a message but the mailbox it goes through. Connections are counted together, once when
//! they come and once when they go.

use crate::commands::Commands;
use crate::links::Line;
use culex_core::broker::Moved;
use culex_core::{Config, ConnectionId, Refused, ShardId};
use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

/// The other shards, as one of them sees them.
pub(crate) struct Siblings {
    me: ShardId,
    shared: Arc<Shared>,
    /// Shards that had no room the last time, a bit each.
    full: u64,
    /// Connections that the machine gave away and whose sockets are still here.
    leaving: HashMap<ConnectionId, (ShardId, Arrival)>,
    /// Counted among the shards that have nothing to do any more.
    ended: bool,
}

/// A connection on its way to another shard, without its socket.
pub struct Arrival {
    pub(crate) moved: Box<Moved>,
    pub(crate) line: Option<Box<Line>>,
}

impl fmt::Debug for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrival").field("moved", &self.moved).finish_non_exhaustive()
    }
}

/// What all shards of a broker have in common.
struct Shared {
    mailboxes: Box<[Mailbox]>,
    connections: Count,
    /// By the number of the listener.
    listeners: Box<[Count]>,
    /// Shards that were shut down and have nothing to do any more.
    ended: AtomicUsize,
    /// All are to stop at once.
    aborted: AtomicBool,
}

/// Connections, and how many there may be.
struct Count {
    now: AtomicUsize,
    most: usize,
}

struct Mailbox {
    mail: Mutex<Mail>,
    /// Wakes up the shard it belongs to.
    commands: Arc<Commands>,
}

struct Mail {
    said: VecDeque<(ShardId, Vec<u8>)>,
    /// Sockets are of a type of the runtime's own.
    moved: VecDeque<(Box<dyn Any + Send>, Arrival)>,
    /// How much of a shard waits in here.
    bytes: [usize; SHARDS_MAX],
    /// Shards that wait for room, a bit each.
    waiting: u64,
    /// Nobody looks any more.
    closed: bool,
}

impl Mail {
    fn new(closed: bool) -> Self {
        let (said, moved) = (VecDeque::new(), VecDeque::new());
        Self { said, moved, bytes: [0; SHARDS_MAX], waiting: 0, closed }
    }

    fn is_empty(&self) -> bool {
        self.said.is_empty() && self.moved.is_empty()
    }
}

impl Siblings {
    /// One for each of these shards.
    pub(crate) fn of(commands: &[Arc<Commands>], config: &Config) -> Vec<Self> {
        let count = |most| Count { now: AtomicUsize::new(0), most };
        let mailbox = |commands: &Arc<Commands>| Mailbox {
            mail: Mutex::new(Mail::new(false)),
            commands: commands.clone(),
        };
        let limit = |most: u32| if most == 0 { usize::MAX } else { most as usize };
        let shared = Arc::new(Shared {
            mailboxes: commands.iter().map(mailbox).collect(),
            connections: count(config.connections_max as usize),
            listeners: config.listeners.iter().map(|one| count(limit(one.connections_max))).collect(),
            ended: AtomicUsize::new(0),
            aborted: AtomicBool::new(false),
        });
        let sibling = |me| Self {
            me: ShardId(me as u16),
            shared: shared.clone(),
            full: 0,
            leaving: HashMap::new(),
            ended: false,
        };
        (0..commands.len()).map(sibling).collect()
    }

    /// Ends all of them.
    pub(crate) fn ending(&self) -> Ending {
        Ending(self.shared.clone())
    }

    /// Counts a connection, unless there are as many as there may be in all shards.
    pub(crate) fn admit(&self, listener: u16) -> Result<(), Refused> {
        let Shared { connections, listeners, .. } = &*self.shared;
        connections.add()?;
        let listener = listeners.get(usize::from(listener));
        let added = listener.map_or(Ok(()), Count::add);
        if added.is_err() {
            connections.remove();
        }
        added
    }

    /// A connection is gone.
    pub(crate) fn release(&self, listener: u16) {
        self.shared.connections.remove();
        if let Some(count) = self.shared.listeners.get(usize::from(listener)) {
            count.remove();
        }
    }

    /// The shards that have room for what they are told.
    pub(crate) fn open(&self) -> impl Iterator<Item = ShardId> + use<> {
        let closed = self.full | 1 << self.me.0;
        let count = self.shared.mailboxes.len() as u16;
        (0..count).filter(move |shard| closed & (1 << shard) == 0).map(ShardId)
    }

    /// Tells a shard something.
    pub(crate) fn tell(&mut self, to: ShardId, said: Vec<u8>) {
        let Some(mailbox) = self.shared.mailboxes.get(usize::from(to.0)) else { return };
        let mut mail = mailbox.lock();
        if mail.closed {
            return;
        }
        let wake = mail.is_empty();
        let from = usize::from(self.me.0);
        mail.bytes[from] += said.len();
        if mail.bytes[from] >= MAIL_BYTES_MAX {
            mail.waiting |= 1 << from;
            self.full |= 1 << to.0;
        }
        mail.said.push_back((self.me, said));
        drop(mail);
        if wake {
            mailbox.commands.mail_news();
        }
    }

    /// Looks which of the shards that had no room have some now.
    pub(crate) fn look_for_room(&mut self) {
        let mut full = self.full;
        while full != 0 {
            let to = full.trailing_zeros() as usize;
            full &= full - 1;
            let mut mail = self.shared.mailboxes[to].lock();
            if mail.closed || mail.bytes[usize::from(self.me.0)] < MAIL_BYTES_MAX {
                self.full &= !(1 << to);
            } else {
                mail.waiting |= 1 << self.me.0;
            }
        }
    }

    /// The next that another shard said.
    pub(crate) fn hear(&mut self) -> Option<(ShardId, Vec<u8>)> {
        let mut mail = self.mailbox().lock();
        let (from, said) = mail.said.pop_front()?;
        let bytes = &mut mail.bytes[usize::from(from.0)];
        *bytes -= said.len();
        // Half of it is free: so who waits is not woken for every piece.
        let room = *bytes <= MAIL_BYTES_MAX / 2 && mail.waiting & (1 << from.0) != 0;
        if room {
            mail.waiting &= !(1 << from.0);
        }
        drop(mail);
        if room {
            self.shared.mailboxes[usize::from(from.0)].commands.mail_news();
        }
        Some((from, said))
    }

    /// Whether something lies in the mailbox.
    pub(crate) fn has_mail(&self) -> bool {
        !self.mailbox().lock().is_empty()
    }

    /// The machine gave a connection away: next comes [`hand_over`](Self::hand_over), or [`forget`](Self::forget).
    pub(crate) fn leaves(&mut self, id: ConnectionId, to: ShardId, arrival: Arrival) {
        self.leaving.insert(id, (to, arrival));
    }

    /// The socket of a connection that leaves.
    pub(crate) fn hand_over(&mut self, id: ConnectionId, socket: Box<dyn Any + Send>) {
        let Some((to, arrival)) = self.leaving.remove(&id) else { return };
        let Some(mailbox) = self.shared.mailboxes.get(usize::from(to.0)) else { return };
        let mut mail = mailbox.lock();
        if mail.closed {
            drop(mail);
            return self.release(arrival.moved.peer.listener);
        }
        let wake = mail.is_empty();
        mail.moved.push_back((socket, arrival));
        drop(mail);
        if wake {
            mailbox.commands.mail_news();
        }
    }

    /// The next connection that comes from another shard.
    pub(crate) fn take_moved(&mut self) -> Option<(Box<dyn Any + Send>, Arrival)> {
        self.mailbox().lock().moved.pop_front()
    }

    /// The socket of a connection that leaves is gone; says whether there is such a connection.
    pub(crate) fn forget(&mut self, id: ConnectionId) -> bool {
        let Some((_, arrival)) = self.leaving.remove(&id) else { return false };
        self.release(arrival.moved.peer.listener);
        true
    }

    /// This shard was shut down and has nothing to do; says whether that is so of all of them.
    pub(crate) fn has_ended(&mut self) -> bool {
        if !self.leaving.is_empty() || self.full != 0 || self.has_mail() {
            return false;
        }
        let ended = self.count_ended();
        // Whoever was counted before had said everything before.
        ended == self.shared.mailboxes.len() && !self.has_mail()
    }

    /// Whether all are to stop at once.
    pub(crate) fn is_aborted(&self) -> bool {
        self.shared.aborted.load(Ordering::Relaxed)
    }

    fn count_ended(&mut self) -> usize {
        if self.ended {
            return self.shared.ended.load(Ordering::Acquire);
        }
        self.ended = true;
        let ended = self.shared.ended.fetch_add(1, Ordering::AcqRel) + 1;
        if ended == self.shared.mailboxes.len() {
            self.shared.wake();
        }
        ended
    }

    fn mailbox(&self) -> &Mailbox {
        &self.shared.mailboxes[usize::from(self.me.0)]
    }
}

/// Nobody looks into the mailbox any more.
impl Drop for Siblings {
    fn drop(&mut self) {
        let rest = mem::replace(&mut *self.mailbox().lock(), Mail::new(true));
        for shard in (0..SHARDS_MAX).filter(|shard| rest.waiting & (1 << shard) != 0) {
            self.shared.mailboxes[shard].commands.mail_news();
        }
        for (_, arrival) in &rest.moved {
            self.release(arrival.moved.peer.listener);
        }
        self.count_ended();
    }
}

impl fmt::Debug for Siblings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Siblings").field("me", &self.me).finish_non_exhaustive()
    }
}

impl Shared {
    fn wake(&self) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.commands.mail_news());
    }
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, Mail> {
        // No code that can panic runs under the lock.
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Count {
    fn add(&self) -> Result<(), Refused> {
        if self.now.fetch_add(1, Ordering::Relaxed) < self.most {
            return Ok(());
        }
        self.remove();
        Err(Refused::Full)
    }

    fn remove(&self) {
        self.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Ends all shards of a broker at once when it is dropped.
pub(crate) struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.aborted.store(true, Ordering::Relaxed);
        self.0.wake();
    }
}

/// The threads of all shards but the first. Dropping it ends them at once and waits until they have.
#[must_use = "dropping it ends the shards"]
pub struct Threads {
    threads: Vec<JoinHandle<io::Result<()>>>,
    ending: Option<Ending>,
}

impl Threads {
    /// Starts a thread for each of them. Whatever ends one of them but a shutdown, ends all.
    pub(crate) fn start<T: Send + 'static>(
        ending: Option<Ending>,
        shards: Vec<T>,
        run: impl Fn(T) -> io::Result<()> + Clone + Send + 'static,
    ) -> io::Result<Self> {
        let mut started = Self { threads: Vec::new(), ending };
        for (number, shard) in (1..).zip(shards) {
            let run = run.clone();
            let ending = started.ending.as_ref().map(|ending| Ending(ending.0.clone()));
            let thread = Builder::new().name(format!("culex-shard-{number}")).spawn(move || {
                // Dropped in a panic as well. In an orderly end all have ended.
                let _ending = ending;
                run(shard)
            })?;
            started.threads.push(thread);
        }
        Ok(started)
    }

    /// Waits until all have ended.
    ///
    /// # Errors
    /// What ended one of them.
    ///
    /// # Panics
    /// If one of them did.
    pub fn join(mut self) -> io::Result<()> {
        let mut ended = Ok(());
        for thread in mem::take(&mut self.threads) {
            match thread.join() {
                Ok(result) => ended = ended.and(result),
                Err(payload) => std::panic::resume_unwind(payload),
            }
        }
        ended
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        drop(self.ending.take());
        for thread in mem::take(&mut self.threads) {
            // Somebody hears of the first panic already.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads").field("threads", &self.threads.len()).finish_non_exhaustive()
    }
}

/// Shards that a broker may have.
pub(crate) const SHARDS_MAX: usize = 64;
/// What one shard may have in the mailbox of another; one piece may go beyond it.
const MAIL_BYTES_MAX: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use culex_core::broker::Peer;
    use culex_core::config::ListenerConfig;
    use culex_core::id::Id;
    use std::task::Waker;

    fn family(count: usize, config: &Config) -> (Vec<Arc<Commands>>, Vec<Siblings>) {
        let commands: Vec<_> = (0..count).map(|_| Arc::new(Commands::default())).collect();
        let siblings = Siblings::of(&commands, config);
        (commands, siblings)
    }

    #[test]
    fn who_has_no_room_is_told_nothing_until_half_of_it_is_free() {
        let (commands, mut all) = family(3, &Config::default());
        let piece = || vec![0; MAIL_BYTES_MAX / 4];
        for _ in 0..4 {
            assert_eq!(all[0].open().collect::<Vec<_>>(), [ShardId(1), ShardId(2)]);
            all[0].tell(ShardId(1), piece());
        }
        assert_eq!(all[0].open().collect::<Vec<_>>(), [ShardId(2)]);
        // What a shard has room for concerns each of the others by itself.
        all[2].tell(ShardId(1), piece());
        assert_eq!(all[2].open().count(), 2);
        assert!(commands[1].ready(Waker::noop()) && !commands[0].ready(Waker::noop()));
        assert!(all[1].hear().is_some_and(|(from, _)| from == ShardId(0)));
        assert!(!commands[0].ready(Waker::noop()), "a quarter is free");
        assert!(all[1].hear().is_some());
        assert!(commands[0].ready(Waker::noop()), "half of it is free");
        all[0].look_for_room();
        assert_eq!(all[0].open().count(), 2);
        let rest: Vec<u16> = std::iter::from_fn(|| all[1].hear()).map(|(from, _)| from.0).collect();
        assert_eq!(rest, [0, 0, 2]);
        assert!(!all[1].has_mail());
    }

    #[test]
    fn who_is_gone_is_waited_for_by_nobody() {
        let (commands, mut all) = family(2, &Config::default());
        all[0].tell(ShardId(1), vec![0; MAIL_BYTES_MAX]);
        assert_eq!(all[0].open().count(), 0);
        drop(all.pop());
        assert!(commands[0].ready(Waker::noop()));
        all[0].look_for_room();
        all[0].tell(ShardId(1), vec![0; MAIL_BYTES_MAX]);
        assert_eq!(all[0].open().count(), 1);
        assert!(all[0].has_ended());
    }

    #[test]
    fn connections_are_counted_by_the_listener_and_in_all() {
        let listener = ListenerConfig { connections_max: 2, ..ListenerConfig::default() };
        let listeners = vec![listener, ListenerConfig::default()];
        let config = Config { connections_max: 3, listeners, ..Config::default() };
        let (_, mut all) = family(2, &config);
        assert_eq!((all[0].admit(0), all[1].admit(0)), (Ok(()), Ok(())));
        assert_eq!(all[1].admit(0), Err(Refused::Full));
        // One that no listener accepted counts, too.
        assert_eq!(all[1].admit(u16::MAX), Ok(()));
        assert_eq!(all[0].admit(1), Err(Refused::Full));
        all[1].release(0);
        assert_eq!(all[0].admit(1), Ok(()));
        // On its way to another shard a connection counts once, and no longer when that is gone.
        let arrival = |listener| {
            let peer = Peer { listener, ..Peer::default() };
            Arrival { moved: Box::new(Moved { peer, received: Vec::new() }), line: None }
        };
        let id = |index| ConnectionId::new(index, 0);
        all[0].leaves(id(1), ShardId(1), arrival(1));
        all[0].hand_over(id(1), Box::new(()));
        assert_eq!(all[0].admit(0), Err(Refused::Full));
        assert!(all[1].has_mail() && !all[1].has_ended());
        drop(all.pop());
        assert_eq!(all[0].admit(1), Ok(()));
        all[0].leaves(id(2), ShardId(1), arrival(1));
        assert!(all[0].forget(id(2)) && !all[0].forget(id(2)));
        assert_eq!(all[0].admit(1), Ok(()));
    }

    #[test]
    fn shards_end_when_all_have_nothing_to_do() {
        let (commands, mut all) = family(2, &Config::default());
        all[1].tell(ShardId(0), vec![1]);
        assert!(!all[0].has_ended() && !all[1].has_ended());
        assert!(all[0].hear().is_some());
        commands[1].take_mail_news();
        assert!(all[0].has_ended());
        assert!(commands[1].ready(Waker::noop()), "the last one wakes the others up");
        assert!(all[1].has_ended());
        assert!(!all[0].is_aborted());
        drop(all[1].ending());
        assert!(all[0].is_aborted());
    }
}

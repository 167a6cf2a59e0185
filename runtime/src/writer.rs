//! The thread that keeps the store.
//!
//! It takes everything that is queued, turns it into one batch, commits it, and says how far the log is durable now;
//! meanwhile the next batch piles up. So the slower the disk, the more each commit carries, without any timer. The shard
//! never waits for it: while the queue is full it leaves actions in the machine, which then reads nothing more.
//!
//! A failure is final. Nothing is written from then on until the broker is started anew: what a disk says after a sync that
//! failed is worth nothing, and records that come after a gap mean something else.

use crate::commands::{Commands, Control};
use crate::store::{Engine, Snapshot, StoreFailed};
use culex_core::broker::Fetch;
use culex_core::store::{Batch, Durability, Image};
use culex_core::{LogSeq, Record};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

#[cfg(test)]
mod tests;

/// The shard's end: what is to be stored goes in, how far it got comes out. When it is dropped the thread ends, after what it was
/// given is committed.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    commands: Arc<Commands>,
    thread: Option<JoinHandle<()>>,
    /// What came since the last [`flush`](Self::flush): one lock per turn, not one per record.
    jobs: Vec<Job>,
    bytes: usize,
    /// What the machine was told.
    told: LogSeq,
    failed: bool,
}

/// What the thread is to do, in this order.
pub(crate) enum Job {
    /// Keep a record.
    Store { seq: LogSeq, record: Box<Record> },
    /// Read a part of a queue.
    Fetch(Box<Fetch>),
    /// Give away the entries as they are after everything that came before.
    Snapshot(SyncSender<Result<Snapshot, StoreFailed>>),
}

/// News for the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// Everything up to here is durable.
    pub(crate) committed: Option<LogSeq>,
    /// Nothing from here on will ever be.
    pub(crate) failed: Option<LogSeq>,
}

struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    /// The size of what is queued, for a look without the lock.
    bytes: AtomicUsize,
    committed: AtomicU64,
    /// The first position that will never be durable; [`NEVER`]: all may be.
    failed: AtomicU64,
}

#[derive(Default)]
struct Queue {
    jobs: Vec<Job>,
    /// Nobody puts anything in, or takes anything out, any more.
    closed: bool,
}

impl Writer {
    /// Starts the thread, which says at once that there is something to do: a machine that was restored has things to do
    /// before anybody connects.
    pub(crate) fn start(
        engine: Box<dyn Engine>,
        image: Image,
        durability: Durability,
        commands: Arc<Commands>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            work: Condvar::new(),
            bytes: AtomicUsize::new(0),
            committed: AtomicU64::new(0),
            failed: AtomicU64::new(NEVER),
        });
        commands.store_news();
        let batch = Batch::default();
        let keeper =
            Keeper { engine, image, durability, batch, shared: shared.clone(), commands: commands.clone() };
        let thread = Builder::new().name("store".to_owned()).spawn(move || keeper.run())?;
        let (jobs, told) = (Vec::new(), LogSeq(0));
        Ok(Self { shared, commands, thread: Some(thread), jobs, bytes: 0, told, failed: false })
    }

    /// Whether more may be put in. If not there will be news.
    pub(crate) fn has_room(&self) -> bool {
        self.bytes + self.shared.bytes.load(Ordering::Relaxed) < QUEUE_BYTES_MAX
    }

    /// Has a record kept.
    pub(crate) fn store(&mut self, seq: LogSeq, record: Box<Record>) {
        self.bytes += bytes_of(&record);
        self.jobs.push(Job::Store { seq, record });
    }

    /// Has a part of a queue read, as it is behind everything that was stored so far.
    pub(crate) fn fetch(&mut self, fetch: Box<Fetch>) {
        self.jobs.push(Job::Fetch(fetch));
    }

    /// Has the entries given away as they are behind everything that was stored so far.
    pub(crate) fn snapshot(&mut self, to: SyncSender<Result<Snapshot, StoreFailed>>) {
        self.jobs.push(Job::Snapshot(to));
    }

    /// Lets the thread see what was put in.
    pub(crate) fn flush(&mut self) {
        if self.jobs.is_empty() {
            return;
        }
        let mut queue = self.shared.lock();
        if queue.closed {
            drop(queue);
            answer_unread(&self.commands, self.jobs.drain(..));
        } else {
            let idle = queue.jobs.is_empty();
            queue.jobs.append(&mut self.jobs);
            self.shared.bytes.fetch_add(self.bytes, Ordering::Relaxed);
            drop(queue);
            if idle {
                self.shared.work.notify_one();
            }
        }
        self.bytes = 0;
    }

    /// What the machine has not heard yet.
    pub(crate) fn news(&mut self) -> News {
        let mut news = News::default();
        let committed = LogSeq(self.shared.committed.load(Ordering::Acquire));
        if committed > self.told {
            self.told = committed;
            news.committed = Some(committed);
        }
        let failed = self.shared.failed.load(Ordering::Acquire);
        if failed != NEVER && !self.failed {
            self.failed = true;
            news.failed = Some(LogSeq(failed));
        }
        news
    }

    /// Whether something up to this position still becomes durable.
    pub(crate) fn is_behind(&self, position: LogSeq) -> bool {
        !self.failed && self.told < position
    }

    /// Forgets what the thread has not taken yet: there is no time for it.
    pub(crate) fn give_up(&mut self) {
        self.jobs.clear();
        let rest = self.shared.close();
        drop(rest);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.flush();
        self.shared.lock().closed = true;
        self.shared.work.notify_one();
        if let Some(thread) = self.thread.take() {
            // Its panics are caught and told where they happen.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("told", &self.told)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No code that can panic runs under the lock.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all that is queued; waits for it if there is nothing. Nothing comes: that is the end.
    fn wait(&self) -> VecDeque<Job> {
        let mut queue = self.lock();
        while queue.jobs.is_empty() && !queue.closed {
            queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        self.take(&mut queue)
    }

    fn take(&self, queue: &mut Queue) -> VecDeque<Job> {
        self.bytes.store(0, Ordering::Relaxed);
        std::mem::take(&mut queue.jobs).into()
    }

    /// Takes nothing any more, and gives back what was not done.
    fn close(&self) -> VecDeque<Job> {
        let mut queue = self.lock();
        queue.closed = true;
        self.take(&mut queue)
    }
}

/// The thread's end.
struct Keeper {
    engine: Box<dyn Engine>,
    image: Image,
    durability: Durability,
    batch: Batch,
    shared: Arc<Shared>,
    commands: Arc<Commands>,
}

/// What is in the log from here on is lost.
struct Failure {
    from: LogSeq,
    why: StoreFailed,
}

impl Keeper {
    fn run(mut self) {
        loop {
            let mut jobs = self.shared.wait();
            if jobs.is_empty() {
                return;
            }
            while !jobs.is_empty() {
                if let Err(failure) = self.batch(&mut jobs) {
                    return self.fail(&failure, jobs);
                }
            }
        }
    }

    /// Does the first of the jobs, and with it those of its kind behind it, as many as a batch takes. A job that reads comes to
    /// the front when everything before it is committed.
    fn batch(&mut self, jobs: &mut VecDeque<Job>) -> Result<(), Failure> {
        match jobs.front() {
            Some(Job::Store { seq, .. }) => {
                let from = *seq;
                // An engine that panics is one that failed.
                let through = catch_unwind(AssertUnwindSafe(|| self.store(from, jobs)))
                    .unwrap_or_else(|_| Err(panicked()))
                    .map_err(|why| Failure { from, why })?;
                if jobs.is_empty() {
                    // Before the news, so that there is room when the shard hears them.
                    *jobs = self.shared.take(&mut self.shared.lock());
                }
                self.shared.committed.store(through.0, Ordering::Release);
                self.commands.store_news();
            }
            Some(Job::Fetch(_)) => {
                if let Some(Job::Fetch(fetch)) = jobs.pop_front() {
                    self.fetch(&fetch);
                }
            }
            Some(Job::Snapshot(_)) => {
                if let Some(Job::Snapshot(to)) = jobs.pop_front() {
                    let snapshot = catch_unwind(AssertUnwindSafe(|| self.engine.snapshot()));
                    // Who asked may have gone.
                    let _ = to.try_send(snapshot.unwrap_or_else(|_| Err(panicked())));
                }
            }
            None => {}
        }
        Ok(())
    }

    fn fetch(&self, fetch: &Fetch) {
        let found = catch_unwind(AssertUnwindSafe(|| self.engine.fetch(&self.image, fetch)));
        let queued = found.unwrap_or_else(|_| Err(panicked())).unwrap_or_else(|why| {
            // The machine tells the client to go, and asks again when it is back.
            tracing::error!("the queue of {:?} cannot be read: {why}", fetch.client_id);
            Vec::new()
        });
        self.commands.control(Control::Fetched { session: fetch.session, queued });
    }

    /// Commits records; gives the position of the last one.
    fn store(&mut self, from: LogSeq, jobs: &mut VecDeque<Job>) -> Result<LogSeq, StoreFailed> {
        let mut through = from;
        while self.batch.bytes() < BATCH_BYTES_MAX
            && let Some(Job::Store { seq, record }) = jobs.front()
        {
            self.image.apply(record, &mut self.batch).map_err(StoreFailed::new)?;
            through = *seq;
            jobs.pop_front();
        }
        // What came and went meanwhile leaves nothing to be written.
        if !self.batch.is_empty() {
            self.engine.commit(&self.batch, self.durability)?;
            self.batch.reset();
        }
        Ok(through)
    }

    fn fail(self, Failure { from, why }: &Failure, jobs: VecDeque<Job>) {
        tracing::error!(
            "{why}: nothing is stored any more, and nothing is acknowledged that would have to be, until the broker is \
             started anew"
        );
        // Who waits for a snapshot hears that there will be none.
        answer_unread(&self.commands, jobs.into_iter().chain(self.shared.close()));
        self.shared.failed.store(from.0, Ordering::Release);
        self.commands.store_news();
    }
}

/// What was to be read will not be.
fn answer_unread(commands: &Commands, jobs: impl IntoIterator<Item = Job>) {
    for job in jobs {
        if let Job::Fetch(fetch) = job {
            commands.control(Control::Fetched { session: fetch.session, queued: Vec::new() });
        }
    }
}

fn panicked() -> StoreFailed {
    StoreFailed::new("the store panicked")
}

/// About what a record costs while it is queued. A message that several have is counted for each: it may be the only thing
/// that keeps it.
fn bytes_of(record: &Record) -> usize {
    let more = match record {
        Record::Relayed(relayed) => relayed.message.size() + relayed.recipients.len() * RECORD_BYTES,
        Record::Queued { message, .. }
        | Record::InFlight { message, .. }
        | Record::Will { message, .. }
        | Record::Inbound { message: Some(message), .. }
        | Record::Retained(message) => message.size(),
        _ => 0,
    };
    RECORD_BYTES + more
}

/// No position.
const NEVER: u64 = u64::MAX;
/// Records that wait for the thread. As much may be in its hands.
const QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What one commit carries; the last record may go beyond it.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// A record without its message.
const RECORD_BYTES: usize = 160;

//! What the program asks of a running broker: queued by any thread, taken by the shard.

use crate::Stream;
use crate::handle::ConnectError;
use crate::store::{Snapshot, StoreFailed};
use culex_core::{Answer, Message, Peer, Record, SessionId, Ticket};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

/// The queue between [`Handle`](crate::Handle)s and their shard.
///
/// Published messages are limited by number and bytes, streams by number. The rest needs no limit of its own: there is
/// one answer per question, one unsubscribe per subscription, one question for life or for a snapshot per thread that waits for it.
#[derive(Debug, Default)]
pub struct Commands {
    queues: Mutex<Queues>,
    keys: AtomicU64,
}

/// The shard's end of the queue: when it is dropped, the queue refuses everything.
#[derive(Debug, Default)]
pub(crate) struct Inbox(pub(crate) Arc<Commands>);

impl Drop for Inbox {
    fn drop(&mut self) {
        self.0.stop();
    }
}

#[derive(Debug, Default)]
struct Queues {
    publish: VecDeque<Message>,
    publish_bytes: usize,
    /// The machine could not take the first message: it alone is no reason to wake up.
    held: bool,
    control: VecDeque<Control>,
    subscribes: usize,
    given: VecDeque<(Stream, Peer)>,
    /// The writer has news: what they are, it says itself.
    store_news: bool,
    /// There is something in the mailbox of the shard, or room in that of another.
    mail_news: bool,
    shutdown: bool,
    stopped: bool,
    waker: Option<Waker>,
}

/// A command that is never held back.
#[derive(Debug)]
pub(crate) enum Control {
    Subscribe {
        key: u64,
        filter: Box<str>,
        subscriber: Subscriber,
    },
    Unsubscribe {
        key: u64,
    },
    Complete {
        ticket: Ticket,
        answer: Answer,
    },
    /// Answer that the shard takes its turns.
    Ping(SyncSender<()>),
    /// A part of a queue was read.
    Fetched {
        session: SessionId,
        queued: Vec<Record>,
    },
    /// Give the entries of the store away.
    Snapshot(SyncSender<Result<Snapshot, StoreFailed>>),
}

/// The shard's end of a subscription.
#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(crate) sender: async_channel::Sender<Message>,
    pub(crate) missed: Arc<AtomicU64>,
}

impl Commands {
    /// Whether there is something to take; if not, `waker` is woken once there is.
    #[must_use]
    pub fn ready(&self, waker: &Waker) -> bool {
        let mut queues = self.lock();
        if queues.has_work() {
            return true;
        }
        if !queues.waker.as_ref().is_some_and(|old| old.will_wake(waker)) {
            queues.waker = Some(waker.clone());
        }
        false
    }

    /// Names a subscription.
    pub(crate) fn next_key(&self) -> u64 {
        self.keys.fetch_add(1, Ordering::Relaxed)
    }

    /// Appends a message; gives it back if there are too many or the broker stopped.
    pub(crate) fn publish(&self, message: Message) -> Result<(), Message> {
        let mut queues = self.lock();
        let bytes = bytes_of(&message);
        let full =
            queues.publish.len() >= PUBLISH_MESSAGES_MAX || queues.publish_bytes + bytes > PUBLISH_BYTES_MAX;
        // One message that is larger than the limit passes when it is alone.
        if queues.stopped || (full && !queues.publish.is_empty()) {
            return Err(message);
        }
        queues.publish_bytes += bytes;
        queues.publish.push_back(message);
        wake(queues);
        Ok(())
    }

    /// Appends a command; `false`: the broker stopped, or too many subscriptions wait.
    pub(crate) fn control(&self, command: Control) -> bool {
        let mut queues = self.lock();
        if queues.stopped {
            return false;
        }
        if matches!(command, Control::Subscribe { .. }) {
            if queues.subscribes >= SUBSCRIBES_MAX {
                return false;
            }
            queues.subscribes += 1;
        }
        queues.control.push_back(command);
        wake(queues);
        true
    }

    /// Appends a stream that the shard is to serve.
    pub(crate) fn give(&self, stream: Stream, peer: Peer) -> Result<(), ConnectError> {
        let mut queues = self.lock();
        let refused = match () {
            () if queues.stopped => Err(ConnectError::Stopped),
            () if queues.given.len() >= GIVEN_MAX => Err(ConnectError::Full),
            () => {
                queues.given.push_back((stream, peer));
                wake(queues);
                return Ok(());
            }
        };
        drop(queues);
        refused
    }

    pub(crate) fn take_given(&self) -> Option<(Stream, Peer)> {
        self.lock().given.pop_front()
    }

    /// Lets the shard look at how far the store is.
    pub(crate) fn store_news(&self) {
        let mut queues = self.lock();
        queues.store_news = true;
        wake(queues);
    }

    pub(crate) fn take_store_news(&self) -> bool {
        std::mem::take(&mut self.lock().store_news)
    }

    /// Lets the shard look into its mailbox, and for room in those of others.
    pub(crate) fn mail_news(&self) {
        let mut queues = self.lock();
        queues.mail_news = true;
        wake(queues);
    }

    pub(crate) fn take_mail_news(&self) -> bool {
        std::mem::take(&mut self.lock().mail_news)
    }

    /// Asks the broker to say goodbye.
    pub(crate) fn shutdown(&self) {
        let mut queues = self.lock();
        queues.shutdown = true;
        wake(queues);
    }

    /// Whether the broker is no more.
    pub(crate) fn stopped(&self) -> bool {
        self.lock().stopped
    }

    fn stop(&self) {
        let mut queues = self.lock();
        // What a message or a subscriber does when dropped must not find the lock taken.
        let rest = std::mem::replace(&mut *queues, Queues { stopped: true, ..Queues::default() });
        drop(queues);
        drop(rest);
    }

    pub(crate) fn take_control(&self) -> VecDeque<Control> {
        let mut queues = self.lock();
        queues.subscribes = 0;
        std::mem::take(&mut queues.control)
    }

    pub(crate) fn take_shutdown(&self) -> bool {
        std::mem::take(&mut self.lock().shutdown)
    }

    pub(crate) fn published(&self) -> usize {
        self.lock().publish.len()
    }

    pub(crate) fn take_published(&self) -> Option<Message> {
        let mut queues = self.lock();
        queues.held = false;
        let message = queues.publish.pop_front()?;
        queues.publish_bytes -= bytes_of(&message);
        Some(message)
    }

    /// Puts back what the machine could not take.
    pub(crate) fn hold(&self, message: Message) {
        let mut queues = self.lock();
        queues.held = true;
        queues.publish_bytes += bytes_of(&message);
        queues.publish.push_front(message);
    }

    /// Whether the machine could not take the first message.
    pub(crate) fn is_held(&self) -> bool {
        self.lock().held
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        // No code that can panic runs under the lock.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queues {
    fn has_work(&self) -> bool {
        self.shutdown
            || self.store_news
            || self.mail_news
            || !self.given.is_empty()
            || !self.control.is_empty()
            || (!self.held && !self.publish.is_empty())
    }
}

fn wake(mut queues: MutexGuard<'_, Queues>) {
    let waker = queues.waker.take();
    drop(queues);
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn bytes_of(message: &Message) -> usize {
    message.topic().len() + message.payload().len()
}

/// Messages that wait for the shard.
const PUBLISH_MESSAGES_MAX: usize = 1024;
/// Their topics and payloads together.
const PUBLISH_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Streams of the program that wait for the shard.
const GIVEN_MAX: usize = 1024;
/// Subscriptions that wait for the shard.
const SUBSCRIBES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use culex_core::packet::QoS;
    use std::sync::atomic::AtomicUsize;

    fn message(bytes: usize) -> Message {
        Message::new("t", &vec![0; bytes], QoS::AtMostOnce, false).unwrap()
    }

    #[test]
    fn publishing_is_limited_by_number_and_by_bytes() {
        let commands = Commands::default();
        for _ in 0..PUBLISH_MESSAGES_MAX {
            commands.publish(message(1)).unwrap();
        }
        assert!(commands.publish(message(1)).is_err());
        while commands.take_published().is_some() {}
        commands.publish(message(PUBLISH_BYTES_MAX + 1)).unwrap();
        assert!(commands.publish(message(1)).is_err());
        commands.take_published();
        assert!(commands.publish(message(1)).is_ok());
    }

    #[test]
    fn the_waker_is_woken_once_per_registration() {
        struct Count(AtomicUsize);
        impl std::task::Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let commands = Commands::default();
        assert!(!commands.ready(&count.clone().into()));
        commands.publish(message(1)).unwrap();
        commands.publish(message(1)).unwrap();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(commands.ready(&count.into()));
    }

    #[test]
    fn a_stopped_broker_takes_nothing() {
        let inbox = Inbox::default();
        let commands = inbox.0.clone();
        drop(inbox);
        assert!(commands.publish(message(1)).is_err());
        assert!(!commands.control(Control::Unsubscribe { key: 1 }));
    }
}

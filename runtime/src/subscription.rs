//! A subscription of the embedding program.

use crate::commands::{Commands, Control, Subscriber};
use culex_core::Message;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Messages that match a Topic Filter, received by the program itself. Dropping it unsubscribes.
///
/// The broker never waits for the program: when [`MESSAGES_MAX`](Self::MESSAGES_MAX) messages are queued, further ones
/// are dropped and counted.
#[derive(Debug)]
pub struct Subscription {
    key: u64,
    receiver: async_channel::Receiver<Message>,
    missed: Arc<AtomicU64>,
    commands: Arc<Commands>,
}

impl Subscription {
    /// How many messages wait at most.
    pub const MESSAGES_MAX: usize = 1024;

    pub(crate) fn new(key: u64, commands: Arc<Commands>) -> (Self, Subscriber) {
        let (sender, receiver) = async_channel::bounded(Self::MESSAGES_MAX);
        let missed = Arc::new(AtomicU64::new(0));
        let subscriber = Subscriber { sender, missed: missed.clone() };
        (Self { key, receiver, missed, commands }, subscriber)
    }

    /// Waits for the next message, blocking the thread; `None`: the broker stopped. Not for async code.
    pub fn recv(&mut self) -> Option<Message> {
        self.receiver.recv_blocking().ok()
    }

    /// The next message if one waits.
    pub fn try_recv(&mut self) -> Option<Message> {
        self.receiver.try_recv().ok()
    }

    /// Waits for the next message; `None`: the broker stopped. Dropping the future loses no message.
    pub async fn next(&mut self) -> Option<Message> {
        self.receiver.recv().await.ok()
    }

    /// How many messages were dropped so far because the program did not take them in time.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.commands.control(Control::Unsubscribe { key: self.key });
    }
}

impl Subscriber {
    pub(crate) fn deliver(&self, message: Message) {
        if self.sender.try_send(message).is_err() {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

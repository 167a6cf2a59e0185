//! Counters of one machine.

use crate::saved::{Malformed, Reader, Saved, Writer};

macro_rules! stats {
    ($($(#[doc = $doc:literal])+ $name:ident,)*) => {
        /// What happened since the start. All counters only grow.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Stats {
            $($(#[doc = $doc])+ pub $name: u64,)*
        }

        impl Stats {
            fn counters(&mut self) -> impl Iterator<Item = &mut u64> {
                [$(&mut self.$name,)*].into_iter()
            }

            /// Every counter by name.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

impl Saved for Stats {
    fn save(&self, to: &mut Writer<'_>) {
        self.iter().for_each(|(_, count)| to.number(count));
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut stats = Self::default();
        for counter in stats.counters() {
            *counter = from.number()?;
            // They only grow.
            from.ensure(*counter < u64::MAX / 2)?;
        }
        Ok(stats)
    }
}

stats! {
    /// Connections accepted.
    connections_accepted,
    /// Connections refused by `accept`.
    connections_refused,
    /// CONNECT packets answered with an error.
    connects_refused,
    /// Connections that ended because the peer broke a rule.
    violations,
    /// Sessions made.
    sessions_started,
    /// Sessions ended.
    sessions_ended,
    /// Sessions taken over by another connection.
    takeovers,
    /// Connections closed because the client was silent for too long.
    keep_alive_timeouts,
    /// Bytes received.
    bytes_received,
    /// Bytes written.
    bytes_sent,
    /// Packets received.
    packets_received,
    /// PUBLISH packets received.
    publishes_received,
    /// PUBLISH packets sent.
    publishes_sent,
    /// PUBLISH and other packets refused by policy.
    refused,
    /// QoS 0 messages dropped because the receiver's outbox was full.
    dropped_slow,
    /// QoS 0 messages not kept because the receiver was not connected.
    dropped_offline,
    /// Messages not sent because they are larger than the client accepts.
    dropped_too_large,
    /// Messages not sent because they are outside the mount point of the receiver's listener.
    dropped_outside_mount,
    /// Messages that expired before they could be sent.
    dropped_expired,
    /// Messages dropped because a queue was full.
    dropped_queue_full,
    /// Messages not retained because there were too many.
    dropped_retained_full,
    /// Messages queued.
    queued,
    /// Questions without an answer in time.
    asks_timed_out,
}

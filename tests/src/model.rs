//! The reference: what MQTT promises, said independently of the broker's code (only the packet types are shared).
//!
//! The model stands between the network and the broker and sees every packet at the moment its last byte goes in or comes
//! out. What happens *inside* may take time (an answer, a disk): so each effect has a [`Span`], from the moment it may
//! have happened (its cause went in) to the moment it surely has (its acknowledgement came out). What the broker sends
//! must be possible at some moment of those spans; what it owes is what was so for all of them. That makes the model
//! right for any broker that keeps MQTT's promises, however it works inside.

mod acks;
mod debts;
mod deliveries;
mod dress;
mod retained;
mod sessions;
mod wills;

pub use deliveries::{name, payload};
pub use dress::Dress;

use culex_core::packet::{Packet, QoS, Version};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

/// A moment: how many things had happened before.
pub type Seq = u64;
/// Virtual time in microseconds.
pub type Micros = u64;

/// How late the broker may be with what is due at a time.
pub const TOLERANCE: Micros = 100_000;

/// Something that happens at one moment, from `may` on, at the latest at `sure`. Without `sure` it may never happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Not before.
    pub may: Seq,
    /// Not after, if it surely happens.
    pub sure: Option<Seq>,
}

/// What is promised; each has a checker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// A QoS 1 or 2 message that was acknowledged reaches every session that was subscribed and lives.
    AcknowledgedIsDelivered,
    /// A QoS 0 message reaches every connected subscriber when nothing goes wrong.
    CalmIsComplete,
    /// A QoS 2 message reaches the program behind a client once per session and subscription.
    ExactlyOnce,
    /// A QoS 0 or 1 message is sent no more often than it was published, but for marked repetitions.
    NoUnmarkedRepetition,
    /// Messages of a publisher on a topic at a QoS arrive in the order they were published.
    Order,
    /// Payload and properties of a message arrive as they were published.
    Unchanged,
    /// What is sent matches a subscription that may be in force, with its QoS, flags and identifiers.
    OnlyWhatWasSubscribed,
    /// One member of a shared subscription's group gets a message.
    OnePerGroup,
    /// Acknowledgements answer something, once, in the order it was asked.
    AcknowledgementsInOrder,
    /// Packet Identifiers are not reused while they are in use; no more in flight than Receive Maximum.
    Window,
    /// After PUBREL a PUBLISH is not repeated; PUBREL only after PUBREC.
    ReleaseOnce,
    /// Session Present says whether the session is there.
    SessionPresent,
    /// A will is published when it is owed, once, and otherwise not.
    Will,
    /// What is retained is what was written last.
    RetainedIsLastWrite,
    /// A message is not sent for the first time after it expired.
    Expiry,
    /// A connection is closed only for a reason, and a violation closes it.
    Close,
    /// A connection that is not read will be read again.
    NotStuck,
    /// Every question is answered or withdrawn once.
    TicketsResolved,
    /// Memory stays within the formula of the settings.
    Bounded,
    /// What was refused by policy has no effect.
    Refusal,
    /// A machine restored from its log has the state it had there.
    Restored,
    /// What the broker sends is MQTT.
    WellFormed,
    /// When all is over nothing is left.
    NothingLeft,
}

impl Promise {
    /// All of them: whoever adds one has it put to the test by every run of the tests.
    pub const ALL: [Self; 23] = [
        Self::AcknowledgedIsDelivered,
        Self::CalmIsComplete,
        Self::ExactlyOnce,
        Self::NoUnmarkedRepetition,
        Self::Order,
        Self::Unchanged,
        Self::OnlyWhatWasSubscribed,
        Self::OnePerGroup,
        Self::AcknowledgementsInOrder,
        Self::Window,
        Self::ReleaseOnce,
        Self::SessionPresent,
        Self::Will,
        Self::RetainedIsLastWrite,
        Self::Expiry,
        Self::Close,
        Self::NotStuck,
        Self::TicketsResolved,
        Self::Bounded,
        Self::Refusal,
        Self::Restored,
        Self::WellFormed,
        Self::NothingLeft,
    ];
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Which.
    pub promise: Promise,
    /// What was seen, in words.
    pub what: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.promise, self.what)
    }
}

/// The outcome of a check.
pub type Check = Result<(), Broken>;

pub(crate) fn broken<T>(promise: Promise, what: impl Into<String>) -> Result<T, Broken> {
    Err(Broken { promise, what: what.into() })
}

/// What the model has to know of how the broker is set up.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// What is acknowledged outlives the broker.
    pub durable: bool,
    /// A message goes once to a session with several matching subscriptions.
    pub overlapping_once: bool,
    /// Answers are asked for: what a packet does may happen later.
    pub asks: bool,
    /// Outgoing QoS 1 and 2 messages in flight per client.
    pub in_flight_max: u16,
    /// Microseconds a closing connection may take to take its last packets.
    pub linger_us: Micros,
    /// Microseconds until what is stored is surely on the disk, if that works.
    pub sync_us: Micros,
    /// QoS 1 waits for the disk, as QoS 2 does.
    pub after_commit: bool,
    /// Microseconds until all machines that share the work know what nobody waits for; 0: there is one machine.
    pub lag_us: Micros,
}

/// What was published and is not acknowledged.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Lagging {
    Message(usize),
    Write(usize),
}

/// A message that will be published.
#[derive(Debug, Clone, Default)]
pub struct Announced {
    /// The client that publishes it; `None`: the program.
    pub publisher: Option<usize>,
    /// Its topic.
    pub topic: String,
    /// Its QoS.
    pub qos: QoS,
    /// RETAIN.
    pub retain: bool,
    /// Message Expiry Interval in seconds; 0: none.
    pub expiry_s: u32,
    /// Bytes of its payload beyond its name.
    pub padding: usize,
    /// Its properties.
    pub dress: Dress,
}

/// A message, or a will.
#[derive(Debug, Clone, Default)]
pub(crate) struct Publication {
    pub(crate) publisher: Option<usize>,
    pub(crate) topic: String,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) expiry_s: u32,
    pub(crate) padding: usize,
    pub(crate) dress: Dress,
    pub(crate) is_will: bool,
    /// When it came in first; `None`: nobody published it (yet).
    pub(crate) start: Option<Seq>,
    pub(crate) start_at: Micros,
    /// When it was acknowledged: from then on everybody it concerns has it coming.
    pub(crate) end: Option<Seq>,
    /// How often it was published.
    pub(crate) receipts: u32,
    /// The session that published it last.
    pub(crate) received_by: Option<usize>,
    /// How often it came in, repetitions of QoS 2 included.
    pub(crate) arrivals: u32,
    pub(crate) refused: bool,
    /// Its Packet Identifier was used for two messages, and nobody knows which of them the broker took.
    pub(crate) mistaken: bool,
    /// The links of its QoS 0 receivers when it came in.
    pub(crate) links: Vec<usize>,
    /// Per group: how often it went to a member.
    pub(crate) shared: BTreeMap<String, u32>,
}

#[derive(Debug, Clone)]
pub(crate) struct Sub {
    pub(crate) filter: String,
    pub(crate) share: Option<String>,
    pub(crate) qos: QoS,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) retain_handling: u8,
    pub(crate) identifier: u32,
    pub(crate) from: Span,
    /// It was there before, surely.
    pub(crate) existed: bool,
    pub(crate) until: Option<Span>,
}

impl Sub {
    /// It may be in force at some moment from `a` to `b`.
    pub(crate) fn may(&self, a: Seq, b: Seq) -> bool {
        self.from.may <= b && self.until.and_then(|until| until.sure).is_none_or(|end| end >= a)
    }

    /// It is surely in force at every moment from `a` to `b`.
    pub(crate) fn sure(&self, a: Seq, b: Seq) -> bool {
        self.from.sure.is_some_and(|from| from <= a) && self.until.is_none_or(|until| until.may > b)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Sent,
    Received,
    Released,
}

#[derive(Debug, Clone)]
pub(crate) struct Flight {
    pub(crate) message: Option<usize>,
    pub(crate) qos: QoS,
    pub(crate) phase: Phase,
    /// The connection it was last sent on.
    pub(crate) link: usize,
    /// It was in flight when the broker was killed.
    pub(crate) before_crash: bool,
    /// Its end went in while the broker may have given up on the connection, which then could not be seen.
    pub(crate) perhaps_over: bool,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Sent {
    /// New messages (no DUP), live and retained.
    pub(crate) live: u32,
    pub(crate) retained: u32,
    /// New messages at QoS 0 and 1, of both kinds.
    pub(crate) at_most_once: u32,
    pub(crate) at_least_once: u32,
    /// How often it may be sent as a new one.
    pub(crate) allowed: u32,
    /// How often the program behind the client got it: at QoS 2, as a retained one, at all.
    pub(crate) app_exactly_once: u32,
    pub(crate) app_retained: u32,
    pub(crate) app: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct WillState {
    pub(crate) message: usize,
    pub(crate) delay_s: u32,
    /// From when to when it is due, once its connection ended without a word.
    pub(crate) due: Option<(Micros, Micros)>,
}

/// One session, from its beginning to its end.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) client: usize,
    /// CONNACK was seen.
    pub(crate) begun: bool,
    pub(crate) born: Seq,
    /// Nothing happened that leaves open whether it still is what the model thinks.
    pub(crate) sure: bool,
    /// Seconds; `u32::MAX`: for ever.
    pub(crate) expiry_s: u32,
    pub(crate) ended: bool,
    pub(crate) link: Option<usize>,
    /// Between when and when its connection ended.
    pub(crate) left: Option<(Micros, Micros)>,
    pub(crate) subs: Vec<Sub>,
    pub(crate) in_flight: BTreeMap<u16, Flight>,
    pub(crate) inbound: BTreeMap<u16, (Option<usize>, Seq)>,
    pub(crate) will: Option<WillState>,
    pub(crate) sent: BTreeMap<usize, Sent>,
    pub(crate) order: BTreeMap<(Option<usize>, String, QoS, QoS), usize>,
    /// Connections it had, and crashes it lived through.
    pub(crate) links: u32,
    pub(crate) first_link: usize,
    pub(crate) crashes: u32,
    pub(crate) last_crash: Seq,
}

/// One connection as the broker sees it.
#[derive(Debug)]
pub(crate) struct LinkState {
    pub(crate) client: usize,
    pub(crate) version: Version,
    pub(crate) receive_maximum: u16,
    pub(crate) keep_alive_s: u16,
    pub(crate) connect: Option<Connecting>,
    pub(crate) life: Option<usize>,
    pub(crate) expected: VecDeque<acks::Expected>,
    pub(crate) aliases: BTreeMap<u16, String>,
    /// Those of the client.
    pub(crate) own_aliases: BTreeMap<u16, String>,
    /// When the last packet went in.
    pub(crate) heard_at: Micros,
    pub(crate) opened_at: Micros,
    /// Why the broker may close it.
    pub(crate) may_close: Option<&'static str>,
    /// It must be closed: a violation went in.
    pub(crate) must_close: bool,
    pub(crate) said_goodbye: bool,
    /// The broker wants it closed: what still comes in is not looked at.
    pub(crate) closing: bool,
    /// Its socket was full at some time; it is now.
    pub(crate) clogged: bool,
    pub(crate) full: bool,
    pub(crate) gone: bool,
}

impl LinkState {
    /// Its client was silent for one and a half times its Keep Alive [MQTT-3.1.2-22].
    pub(crate) fn slept(&self, now: Micros) -> bool {
        let patience = u64::from(self.keep_alive_s) * 1_500_000;
        patience > 0 && now.saturating_sub(self.heard_at) + 1_000 >= patience
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Connecting {
    pub(crate) clean: bool,
    pub(crate) expiry_s: u32,
    pub(crate) start: Seq,
    pub(crate) at: Micros,
    pub(crate) will: Option<WillState>,
    pub(crate) acknowledged: bool,
}

/// The reference. Feed it what happens; it says what is wrong.
#[derive(Debug)]
pub struct Model {
    pub(crate) rules: Rules,
    pub(crate) seq: Seq,
    pub(crate) now: Micros,
    pub(crate) publications: Vec<Publication>,
    pub(crate) lives: Vec<Life>,
    /// The session of each client, if it may have one.
    pub(crate) current: BTreeMap<usize, usize>,
    pub(crate) links: BTreeMap<usize, LinkState>,
    pub(crate) writes: Vec<retained::Write>,
    /// Everything before this is on the disk.
    pub(crate) durable_until: Seq,
    pub(crate) crashes: Vec<Seq>,
    /// Messages were dropped because something was full: then nothing is owed that may be among them.
    pub(crate) dropped: bool,
    pub(crate) failed: bool,
    /// When the broker had last worked off everything.
    pub(crate) turn: Seq,
    /// The broker is not there.
    pub(crate) down: bool,
    pub(crate) seen: BTreeSet<Promise>,
    /// Wills that were called off, and when: a crash may undo that.
    pub(crate) undone: Vec<(usize, Seq)>,
    /// Messages and writes that all machines will know of, and when.
    pub(crate) lagging: VecDeque<(Micros, Lagging)>,
    /// The Maximum Packet Size of each client.
    pub(crate) packet_bytes_max: BTreeMap<usize, usize>,
}

impl Model {
    /// Nothing happened yet.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            seq: 0,
            now: 0,
            publications: Vec::new(),
            lives: Vec::new(),
            current: BTreeMap::new(),
            links: BTreeMap::new(),
            writes: Vec::new(),
            durable_until: 0,
            crashes: Vec::new(),
            dropped: false,
            failed: false,
            turn: 0,
            down: false,
            seen: BTreeSet::new(),
            undone: Vec::new(),
            lagging: VecDeque::new(),
            packet_bytes_max: BTreeMap::new(),
        }
    }

    /// A message that will be published; its number names it.
    pub fn announce(&mut self, announced: Announced) -> usize {
        let Announced { publisher, topic, qos, retain, expiry_s, padding, dress } = announced;
        let known =
            Publication { publisher, topic, qos, retain, expiry_s, padding, dress, ..Publication::default() };
        self.publications.push(known);
        self.publications.len() - 1
    }

    /// The next message's number.
    #[must_use]
    pub fn next_message(&self) -> usize {
        self.publications.len()
    }

    /// Which promises were put to the test.
    #[must_use]
    pub fn seen(&self) -> &BTreeSet<Promise> {
        &self.seen
    }

    /// Messages were dropped because something was full.
    pub fn drops(&mut self) {
        self.dropped = true;
    }

    /// The store failed for good: what is refused from now on is no wonder.
    pub fn store_failed(&mut self) {
        self.failed = true;
    }

    /// Whether the store failed since the broker was started.
    #[must_use]
    pub fn is_failed(&self) -> bool {
        self.failed
    }

    /// Whether messages were dropped because something was full.
    #[must_use]
    pub fn has_dropped(&self) -> bool {
        self.dropped
    }

    /// A promise was put to the test.
    pub fn tested(&mut self, promise: Promise) {
        self.seen.insert(promise);
    }

    /// Everything so far is on the disk.
    pub fn all_durable(&mut self) {
        self.durable_until = self.seq;
        self.writes_durable();
    }

    pub(crate) fn step(&mut self, now: Micros) -> Seq {
        self.now = self.now.max(now);
        self.seq += 1;
        self.seq
    }

    /// A packet went into the broker, all of it.
    pub fn goes_in(&mut self, now: Micros, link: usize, packet: &Packet<'_>) {
        let seq = self.step(now);
        let Some(state) = self.links.get_mut(&link) else { return };
        if state.full && state.slept(now) {
            // It was given up for silence, which cannot be seen yet.
            state.may_close = Some("keep alive");
        }
        state.heard_at = now;
        if state.must_close || state.said_goodbye || state.closing {
            return;
        }
        if !matches!(packet, Packet::Connect(_)) && state.connect.is_none() {
            state.must_close = true;
            return;
        }
        match packet {
            Packet::Connect(connect) => self.connect_in(link, connect),
            Packet::Publish(publish) => self.publish_in(seq, link, publish),
            Packet::Puback(ack) => self.finished(link, ack.packet_id.get(), QoS::AtLeastOnce),
            Packet::Pubrec(ack) => self.received(link, ack.packet_id.get()),
            Packet::Pubrel(ack) => self.released(link, ack.packet_id.get()),
            Packet::Pubcomp(ack) => self.finished(link, ack.packet_id.get(), QoS::ExactlyOnce),
            Packet::Subscribe(subscribe) => self.subscribe_in(seq, link, subscribe),
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe_in(seq, link, unsubscribe),
            Packet::Disconnect(disconnect) => self.disconnect_in(link, disconnect),
            Packet::Pingreq => self.expect(link, acks::Expected::Pingresp),
            _ => {}
        }
    }

    /// What went in is no packet: the connection must end.
    pub fn nonsense(&mut self, link: usize) {
        if let Some(state) = self.links.get_mut(&link) {
            state.must_close = !state.said_goodbye;
            state.may_close = Some("nonsense");
        }
    }

    /// A packet came out of the broker, all of it.
    ///
    /// # Errors
    /// If it breaks a promise.
    pub fn comes_out(&mut self, now: Micros, link: usize, packet: &Packet<'_>) -> Check {
        let seq = self.step(now);
        self.seen.insert(Promise::WellFormed);
        match packet {
            Packet::Connack(connack) => self.connack_out(seq, link, connack),
            Packet::Publish(publish) => self.publish_out(seq, link, publish),
            Packet::Pubrel(ack) => self.pubrel_out(link, ack.packet_id.get()),
            Packet::Puback(ack) | Packet::Pubrec(ack) | Packet::Pubcomp(ack) => {
                let expected = acks::Expected::of(packet, ack.packet_id.get());
                self.ack_out(seq, link, &expected, ack.reason.is_error())
            }
            Packet::Suback(suback) => self.suback_out(seq, link, suback),
            Packet::Unsuback(unsuback) => self.unsuback_out(seq, link, unsuback.packet_id.get()),
            Packet::Pingresp => self.ack_out(seq, link, &acks::Expected::Pingresp, false),
            Packet::Disconnect(_) => Ok(()),
            other => broken(Promise::WellFormed, format!("a broker does not send {other:?}")),
        }
    }
}

/// Whether a filter matches a topic, said as plainly as possible (4.7.1, without `$`-topics).
#[must_use]
pub fn matches(filter: &str, topic: &str) -> bool {
    let mut topic = topic.split('/');
    let mut filter = filter.split('/');
    loop {
        match (filter.next(), topic.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(level), Some(name)) if level == name => {}
            _ => return false,
        }
    }
}

/// The group and the filter of a Topic Filter (4.8.2).
#[must_use]
pub fn share(filter: &str) -> (Option<&str>, &str) {
    match filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/')) {
        Some((group, filter)) => (Some(group), filter),
        None => (None, filter),
    }
}

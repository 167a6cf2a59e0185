//! The middleware `Shards`.

mod interests;

use super::memory_backend::split_share;
use super::{Flow, Hooks, Middleware};
use crate::broker::{
    Action, Answer, Cx, Heard, Portion, Relay, RelayAck, Reply, Siblings, say_ack, say_interest, say_publish,
    say_sync,
};
use crate::hash::{HashMap, Seed};
use crate::id::{ConnectionId, LogSeq, ShardId, Ticket};
use crate::packet::{Packet, PacketId, PacketType, QoS, ReasonCode, Subscribe};
use crate::saved::{Malformed, Reader, Saved, Writer, saved};
use crate::topic::Filter;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use interests::Interests;

/// One of several machines that share the work of a broker: what has to be agreed upon with the others.
///
/// * **listens**: SUBSCRIBE, relay, reply, interest, heard, agree, closed
/// * **emits**: reply (when the others are done), agree (gated); to the other shards: messages, interests
/// * **owns**: what other shards want; who waits for which of them; which retained message is the latest
///
/// A session lives at the shard that its Client Identifier says. A message is relayed where it was published, and once at
/// every other shard that has a subscriber; retained messages are kept by all. SUBSCRIBE waits until the others know what
/// is wanted, PUBACK and PUBREC wait until the others have the message.
#[derive(Debug)]
pub struct Shards {
    me: ShardId,
    of: u16,
    key: Seed,
    /// Of the filters that somebody here has or wants.
    own: Option<HashMap<Box<str>, Own>>,
    interests: Interests,
    peers: Vec<Peer>,
    /// Counts what waits.
    waits: u64,
    waiting: BTreeMap<u64, Waiting>,
    /// Filters of a SUBSCRIBE that is not answered yet.
    subscribing: BTreeMap<(ConnectionId, PacketId), Vec<Box<str>>>,
    retained: Versions,
    /// The relay that is being performed, if others have to acknowledge it.
    current: Option<Current>,
    /// For whom the message in hand is, by shard.
    targets: Vec<Target>,
}

/// A filter that somebody here has, or wants.
#[derive(Debug, Default, Clone, Copy)]
struct Own {
    /// Members, or subscribers.
    members: u32,
    /// What the others were told.
    told: u32,
    /// SUBSCRIBE packets that wait.
    wanted: u32,
}

/// Another shard.
#[derive(Debug, Default)]
struct Peer {
    /// How much it was told that it shall acknowledge.
    asked: u64,
    /// For whom, from the first that it did not: the last of them is number `asked`.
    awaited: VecDeque<Option<u64>>,
    /// How much of what it said wants an acknowledgement.
    heard: u64,
}

/// Something that waits for acknowledgements of other shards.
#[derive(Debug)]
struct Waiting {
    missing: u32,
    who: Who,
}

#[derive(Debug)]
enum Who {
    /// An acknowledgement for a client, and its place among the others of its connection.
    Client { order: u64, reply: Reply },
    /// One for another shard, which waits for these records, too.
    Shard { to: ShardId, number: u64, through: LogSeq },
    /// A SUBSCRIBE.
    Packet(Ticket),
    /// To forget versions of retained messages.
    Versions,
}

/// Versions of retained messages: whoever writes one takes the next after all it has seen; of two with the same number that
/// of the higher shard is the later. They matter only while an older message may still be on its way: what all others have
/// acknowledged to know of is forgotten.
#[derive(Debug, Default)]
struct Versions {
    clock: u64,
    recent: BTreeMap<Box<str>, (u64, ShardId)>,
    /// Those that the others are being told of.
    older: BTreeMap<Box<str>, (u64, ShardId)>,
    asking: bool,
}

#[derive(Debug)]
struct Current {
    ack: Option<RelayAck>,
    wait: u64,
    missing: u32,
}

#[derive(Debug, Default)]
struct Target {
    plain: bool,
    groups: Vec<Box<str>>,
}

saved! {
    struct Own { members, told, wanted }
    struct Peer { asked, awaited, heard }
    struct Waiting { missing, who }
    enum Who { 0 Client { order, reply }, 1 Shard { to, number, through }, 2 Packet(ticket), 3 Versions, }
    struct Versions { clock, recent, older, asking }
}

impl Shards {
    /// The part of the machine that is number `me` of `of`. `key` is the same for all: it decides where a client belongs.
    ///
    /// # Panics
    /// If there is no such shard.
    #[must_use]
    pub fn new(me: ShardId, of: u16, key: Seed) -> Self {
        assert!(me.0 < of, "shards are counted from 0");
        Self {
            me,
            of,
            key,
            own: None,
            interests: Interests::new(Seed(0), of),
            peers: (0..of).map(|_| Peer::default()).collect(),
            waits: 0,
            waiting: BTreeMap::new(),
            subscribing: BTreeMap::new(),
            retained: Versions::default(),
            current: None,
            targets: (0..of).map(|_| Target::default()).collect(),
        }
    }
}

impl Middleware for Shards {
    fn name(&self) -> &'static str {
        "Shards"
    }

    fn save(&self, to: &mut Writer<'_>) {
        // `current` and `targets` belong to the relay in hand.
        let Self {
            me: _, of: _, key: _, own, interests, peers, waits, waiting, subscribing, retained, ..
        } = self;
        own.save(to);
        interests.save(to);
        peers.save(to);
        waits.save(to);
        waiting.save(to);
        subscribing.save(to);
        retained.save(to);
    }

    fn load(&mut self, cx: &mut Cx<'_>, from: &mut Reader<'_>) -> Result<(), Malformed> {
        from.hash_with(cx.seed().hasher(PURPOSE));
        self.own = Saved::load(from)?;
        self.interests = Interests::load(cx.seed(), self.of, from)?;
        self.peers = Saved::load(from)?;
        self.waits = Saved::load(from)?;
        self.waiting = Saved::load(from)?;
        self.subscribing = Saved::load(from)?;
        self.retained = Saved::load(from)?;
        let counts = |peer: &Peer| {
            peer.asked.max(peer.heard) < u64::MAX / 2 && peer.awaited.len() as u64 <= peer.asked
        };
        let peers = self.peers.len() == usize::from(self.of) && self.peers.iter().all(counts);
        let fits = cx.state.siblings.as_ref().is_some_and(|one| (one.me, one.of) == (self.me, self.of));
        from.ensure(peers && fits && self.own.is_some() && self.retained.clock < u64::MAX / 2)
    }

    fn wants(&self) -> Hooks {
        Hooks::SUBSCRIBE
            | Hooks::RELAY
            | Hooks::REPLY
            | Hooks::INTEREST
            | Hooks::HEARD
            | Hooks::AGREE
            | Hooks::CLOSED
    }

    fn install(&mut self, cx: &mut Cx<'_>) {
        self.own = Some(HashMap::with_hasher(cx.seed().hasher(PURPOSE)));
        self.interests = Interests::new(cx.seed(), self.of);
        cx.state.siblings = Some(Box::new(Siblings::new(self.me, self.of, self.key)));
    }

    /// Waits until all shards know that what it subscribes to is wanted here.
    fn subscribe(&mut self, cx: &mut Cx<'_>, from: ConnectionId, packet: &mut Subscribe<'_>) -> Flow {
        if packet.filters.iter().any(|(text, _)| Filter::parse(text).is_err()) {
            // SubscriptionManager says what is wrong with it.
            return Flow::Next;
        }
        let mut wanted = Vec::new();
        for (index, (text, _)) in packet.filters.iter().enumerate() {
            if cx.filter_refused(index).is_none() {
                self.own_mut(text).wanted += 1;
                self.tell_interest(cx, text);
                wanted.push(super::boxed(text));
            }
        }
        self.subscribing.entry((from, packet.packet_id)).or_default().extend(wanted);
        let ticket = cx.wait_for_shards(from);
        self.ask_all(cx, Who::Packet(ticket));
        Flow::Suspend
    }

    fn answer(&mut self, _: &mut Cx<'_>, _: ConnectionId, _: &mut Packet<'_>, answer: Answer) -> Flow {
        match answer {
            Answer::Allow => Flow::Next,
            _ => Flow::Refuse(ReasonCode::UnspecifiedError),
        }
    }

    fn action(&mut self, cx: &mut Cx<'_>, action: &mut Action) -> Flow {
        match action {
            Action::Relay(relay) => {
                self.relay(cx, relay);
                return Flow::Next;
            }
            Action::Reply(reply) => return self.reply(cx, reply),
            Action::Interest { filter, members } => {
                self.own_mut(filter).members = *members;
                self.tell_interest(cx, filter);
            }
            Action::Heard { from, heard } => self.heard(cx, *from, heard),
            Action::Agree { to, number } => say(cx, *to, |out| say_ack(out, *number)),
            _ => return Flow::Next,
        }
        Flow::Done
    }

    fn closed(&mut self, cx: &mut Cx<'_>, id: ConnectionId) {
        let first = (id, PacketId::MIN);
        while let Some((&(of, packet_id), _)) = self.subscribing.range(first..).next()
            && of == id
        {
            self.subscribed(cx, id, packet_id);
        }
    }
}

impl Shards {
    fn own_mut(&mut self, filter: &str) -> &mut Own {
        // Made when this part was installed.
        let key = self.key;
        let own = self.own.get_or_insert_with(|| HashMap::with_hasher(key.hasher(PURPOSE)));
        own.entry(super::boxed(filter)).or_default()
    }

    /// Tells the others what is wanted here, if that is not what they know.
    fn tell_interest(&mut self, cx: &mut Cx<'_>, filter: &str) {
        let own = self.own_mut(filter);
        let wanted = u32::from(own.wanted > 0);
        let now = match split_share(filter) {
            Some(_) => own.members.max(wanted),
            None => own.members.min(1).max(wanted),
        };
        if now != own.told {
            own.told = now;
            cx.state.tell_others(|out| say_interest(out, filter, now));
        }
        if let (true, Some(own)) = (now == 0, &mut self.own) {
            own.remove(filter);
        }
    }

    /// A SUBSCRIBE was answered, or its connection is over: what is wanted is what was subscribed to.
    fn subscribed(&mut self, cx: &mut Cx<'_>, id: ConnectionId, packet_id: PacketId) {
        for filter in self.subscribing.remove(&(id, packet_id)).into_iter().flatten() {
            let own = self.own_mut(&filter);
            own.wanted = own.wanted.saturating_sub(1);
            self.tell_interest(cx, &filter);
        }
    }

    /// Takes a message to the other shards that want it.
    fn relay(&mut self, cx: &mut Cx<'_>, relay: &mut Relay) {
        let Some(publication) = cx.publication(&relay.what) else { return };
        let (topic, qos, retain) = (publication.topic, publication.qos, publication.retain);
        if publication.expired(cx.now().wall) && !retain {
            // Nobody gets it. But what it says about the retained message of its topic is to be so everywhere.
            return;
        }
        if relay.ack.is_some() || relay.shard.is_some() {
            self.current = None;
        }
        let mut version = None;
        let found = match relay.shard {
            None => {
                let (own, me) = (&self.own, self.me);
                let members =
                    |group: &str| own.as_ref().and_then(|own| own.get(group)).map_or(0, |own| own.members);
                let (targets, mut elsewhere) = (&mut self.targets, Vec::new());
                let mut found = self.interests.matches(topic, me, members, |to, group| {
                    let Some(target) = targets.get_mut(usize::from(to.0)) else { return };
                    match group {
                        None => target.plain = true,
                        Some(group) => {
                            target.groups.push(group.clone());
                            elsewhere.push(group);
                        }
                    }
                });
                if found {
                    cx.state.matched = true;
                }
                if retain {
                    version = Some(self.retained.next(topic, self.me));
                    found = true;
                }
                if !elsewhere.is_empty() {
                    relay.portion = Some(Box::new(Portion { groups: elsewhere, ..Portion::default() }));
                }
                found
            }
            Some(from) => match &mut relay.portion {
                None => false,
                Some(portion) => {
                    if let Some(version) = portion.version {
                        portion.outdated = !self.retained.note(topic, version, from);
                    }
                    self.choose_again(portion)
                }
            },
        };
        if !found {
            return self.forget_versions(cx);
        }
        let acked = relay.ack.is_some() || relay.shard.is_some() && qos > QoS::AtMostOnce;
        self.wait_for(acked.then_some(relay.ack));
        self.tell_targets(cx, relay, version, acked);
        self.forget_versions(cx);
    }

    /// Takes the message in hand to the shards that were found.
    fn tell_targets(&mut self, cx: &mut Cx<'_>, relay: &Relay, version: Option<u64>, acked: bool) {
        let hops = relay.portion.as_ref().map_or(0, |portion| portion.hops);
        for index in 0..self.of {
            let to = ShardId(index);
            let Some(target) = self.targets.get_mut(usize::from(index)) else { break };
            let Target { plain, groups } = core::mem::take(target);
            if to == self.me || !(plain || version.is_some() || !groups.is_empty()) {
                continue;
            }
            let simple = version.is_none() && groups.is_empty();
            // Whoever keeps a retained message asks itself who wants it.
            let plain = plain || version.is_some();
            let portion = (!simple).then(|| Portion {
                plain,
                groups,
                hops: hops.saturating_add(1),
                version,
                outdated: false,
            });
            let Some(publication) = cx.publication(&relay.what) else { break };
            let say = |out: &mut Vec<u8>| say_publish(out, &publication, portion.as_ref(), acked);
            if let Some(siblings) = &mut cx.state.siblings {
                siblings.tell(to, say);
            }
            if acked {
                self.await_ack(to);
            }
        }
    }

    /// A Shared Subscription for which this shard was chosen may have no member here any more: another is chosen.
    fn choose_again(&mut self, portion: &mut Portion) -> bool {
        let Self { own, interests, targets, me, of, .. } = self;
        let members = |group: &str| own.as_ref().and_then(|own| own.get(group)).map_or(0, |own| own.members);
        let mut found = false;
        portion.groups.retain(|group| {
            if members(group) > 0 || u32::from(portion.hops) > 2 * u32::from(*of) {
                return true;
            }
            let Some(to) = interests.choose(group, *me, 0) else { return true };
            if let Some(target) = targets.get_mut(usize::from(to.0)) {
                target.groups.push(group.clone());
                found = true;
            }
            false
        });
        found
    }

    /// From here on [`await_ack`](Self::await_ack) counts.
    fn wait_for(&mut self, ack: Option<Option<RelayAck>>) {
        if let Some(ack) = ack {
            self.waits += 1;
            self.current = Some(Current { ack, wait: self.waits, missing: 0 });
        }
    }

    fn await_ack(&mut self, to: ShardId) {
        if let (Some(current), Some(peer)) = (&mut self.current, self.peers.get_mut(usize::from(to.0))) {
            current.missing += 1;
            peer.asked += 1;
            peer.awaited.push_back(Some(current.wait));
        }
    }

    /// Asks all others whether they have heard everything.
    fn ask_all(&mut self, cx: &mut Cx<'_>, who: Who) {
        let clock = self.retained.clock;
        cx.state.tell_others(|out| say_sync(out, clock));
        self.waits += 1;
        for (index, peer) in self.peers.iter_mut().enumerate() {
            if index != usize::from(self.me.0) {
                peer.asked += 1;
                peer.awaited.push_back(Some(self.waits));
            }
        }
        self.wait(cx, self.waits, Waiting { missing: u32::from(self.of) - 1, who });
    }

    fn wait(&mut self, cx: &mut Cx<'_>, number: u64, waiting: Waiting) {
        if waiting.missing == 0 {
            return self.done(cx, waiting.who);
        }
        self.waiting.insert(number, waiting);
        self.note_waiting(cx);
    }

    fn note_waiting(&self, cx: &mut Cx<'_>) {
        if let Some(siblings) = &mut cx.state.siblings {
            siblings.waiting = self.waiting.len();
        }
    }

    /// Holds the acknowledgement of what other shards do not have yet.
    fn reply(&mut self, cx: &mut Cx<'_>, reply: &Reply) -> Flow {
        if reply.packet == PacketType::Suback {
            self.subscribed(cx, reply.to, reply.packet_id);
            return Flow::Next;
        }
        let answers =
            |ack: RelayAck| (ack.to, ack.packet, ack.packet_id) == (reply.to, reply.packet, reply.packet_id);
        let of_current = |current: &mut Current| current.ack.is_some_and(answers);
        let Some(Current { wait, missing, .. }) = self.current.take_if(of_current) else { return Flow::Next };
        let kept = cx.state.opening.take();
        if missing == 0 || cx.connection(reply.to).is_none() {
            cx.state.opening = kept;
            return Flow::Next;
        }
        let order = kept.unwrap_or_else(|| {
            let order = cx.state.next_order();
            cx.state.keep_place(reply.to, order);
            order
        });
        count_gated(cx, reply, true);
        let who = Who::Client { order, reply: reply.clone() };
        self.wait(cx, wait, Waiting { missing, who });
        Flow::Done
    }

    fn heard(&mut self, cx: &mut Cx<'_>, from: ShardId, heard: &Heard) {
        match heard {
            Heard::Relayed { through } => {
                let number = self.next_heard(from);
                let current = self.current.take_if(|current| current.ack.is_none());
                let who = Who::Shard { to: from, number, through: *through };
                let (wait, missing) = current.map_or((0, 0), |current| (current.wait, current.missing));
                self.wait(cx, wait, Waiting { missing, who });
            }
            Heard::Interest { filter, members } => self.interests.set(from, filter, *members),
            Heard::Sync { clock } => {
                self.retained.clock = self.retained.clock.max(*clock);
                let number = self.next_heard(from);
                say(cx, from, |out| say_ack(out, number));
            }
            Heard::Ack { number } => self.acknowledged(cx, from, *number),
        }
    }

    fn next_heard(&mut self, from: ShardId) -> u64 {
        self.peers.get_mut(usize::from(from.0)).map_or(0, |peer| {
            peer.heard += 1;
            peer.heard
        })
    }

    fn acknowledged(&mut self, cx: &mut Cx<'_>, from: ShardId, number: u64) {
        let Some(peer) = self.peers.get_mut(usize::from(from.0)) else { return };
        let first = peer.asked + 1 - peer.awaited.len() as u64;
        let place = number.checked_sub(first).and_then(|at| peer.awaited.get_mut(at as usize));
        let Some(wait) = place.and_then(Option::take) else { return };
        while peer.awaited.front().is_some_and(Option::is_none) {
            peer.awaited.pop_front();
        }
        let Some(waiting) = self.waiting.get_mut(&wait) else { return };
        waiting.missing -= 1;
        if waiting.missing == 0
            && let Some(Waiting { who, .. }) = self.waiting.remove(&wait)
        {
            self.note_waiting(cx);
            self.done(cx, who);
        }
    }

    /// All others are done with what somebody waited for.
    fn done(&mut self, cx: &mut Cx<'_>, who: Who) {
        match who {
            Who::Client { order, reply } => {
                count_gated(cx, &reply, false);
                cx.state.opening = Some(order);
                cx.emit(Action::Reply(reply));
            }
            Who::Shard { to, number, through } if through > cx.state.committed => {
                let order = cx.state.next_order();
                cx.state.from = None;
                cx.state.gate(through, order, Action::Agree { to, number });
            }
            Who::Shard { to, number, .. } => say(cx, to, |out| say_ack(out, number)),
            Who::Packet(ticket) => {
                if let Some(siblings) = &mut cx.state.siblings {
                    siblings.agreed.push(ticket);
                }
            }
            Who::Versions => {
                self.retained.asking = false;
                self.retained.older.clear();
                self.forget_versions(cx);
            }
        }
    }

    /// Versions are forgotten when all others know of them.
    fn forget_versions(&mut self, cx: &mut Cx<'_>) {
        if !self.retained.asking && !self.retained.recent.is_empty() {
            self.retained.asking = true;
            self.retained.older = core::mem::take(&mut self.retained.recent);
            self.ask_all(cx, Who::Versions);
        }
    }
}

impl Versions {
    /// The version of a message that is published here.
    fn next(&mut self, topic: &str, me: ShardId) -> u64 {
        self.clock = self.clock.saturating_add(1);
        self.older.remove(topic);
        self.recent.insert(topic.into(), (self.clock, me));
        self.clock
    }

    /// A message comes from another shard. False: a later one is known.
    fn note(&mut self, topic: &str, version: u64, from: ShardId) -> bool {
        self.clock = self.clock.max(version);
        let known = self.recent.get(topic).or_else(|| self.older.get(topic));
        if known.is_some_and(|known| *known > (version, from)) {
            return false;
        }
        self.older.remove(topic);
        self.recent.insert(topic.into(), (version, from));
        true
    }
}

/// Counts a PUBACK that waits among those that its client was not sent yet, or not any more.
fn count_gated(cx: &mut Cx<'_>, reply: &Reply, waits: bool) {
    if let (PacketType::Puback, Some(connection)) = (reply.packet, cx.connection_mut(reply.to)) {
        let gated = connection.gated;
        connection.gated = if waits { gated.saturating_add(1) } else { gated.saturating_sub(1) };
    }
}

fn say(cx: &mut Cx<'_>, to: ShardId, say: impl FnOnce(&mut Vec<u8>)) {
    if let Some(siblings) = &mut cx.state.siblings {
        siblings.tell(to, say);
    }
}

/// Separates the hashes of this part from those of other tables.
const PURPOSE: u64 = 0x7368_6172_6473;

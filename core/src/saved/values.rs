//! The words of MQTT and of the machine.

use super::{Malformed, Reader, Saved, Writer, saved};
use crate::broker::{
    Access, Action, Answer, Close, Credentials, Disconnect, Effect, Fetch, Fetched, Forward, Heard,
    Identifiers, Input, Notice, OpenSession, Origin, Owner, Peer, Portion, Query, Queued, Receiver,
    Recipient, Record, Relay, RelayAck, Relayed, Reply, Settled, Source, SubscribeTopic, TopicSubscribed,
    TopicUnsubscribed, UnsubscribeTopic, What,
};
use crate::connection::{Farewell, Phase};
use crate::error::{Clause, Violation};
use crate::hash::Seed;
use crate::id::{LogSeq, ShardId};
use crate::middleware::Flow;
use crate::packet::{PacketType, QoS, ReasonCode, RetainHandling, SubscriptionOptions, Version};
use crate::session::Session;
use crate::spec::STATEMENTS;
use crate::time::{Mono, Now, Wall};
use crate::topic::filter::is_filter;
use alloc::boxed::Box;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

saved! {
    tuple Mono
    tuple Wall
    tuple LogSeq
    tuple ShardId
    tuple Seed
    struct Now { mono, wall }
    enum QoS { 0 AtMostOnce, 1 AtLeastOnce, 2 ExactlyOnce, }
    enum Version { 3 V31, 4 V311, 5 V5, }
    enum RetainHandling { 0 Send, 1 SendIfNew, 2 Never, }
    struct SubscriptionOptions { qos, no_local, retain_as_published, retain_handling }
    enum Phase { 0 Opened, 1 Connecting, 2 Connected, 3 Closing, 4 Closed, }
    enum Disconnect { 0 Eof, 1 Error, 2 Closed, }
    enum Close { 0 Finish, 1 Drop, }
    enum Owner { 0 Connection(id), 1 Session(id), 2 Ticket(id), 3 Part, }
    enum Flow { 0 Next, 1 Done, 2 Refuse(reason), 3 Violation(violation), 4 Suspend, }
    struct Violation { clause, reason }
    struct Farewell { reason_string, server_reference }
    struct Session { client_id, connection, version, expiry, queued, outside, subscriptions, paging, stored, left, program }
    struct Peer { address, listener, identity }
    enum Origin { 0 Program, 2 Session(session), }
}

// What happens to the machine.
saved! {
    enum Input {
        0 Accept(peer),
        1 Receive { id, bytes },
        2 Written { id, count },
        3 Writable(id),
        4 Disconnected { id, cause },
        5 Tick,
        6 Complete { ticket, answer },
        7 Committed(through),
        8 CommitFailed(first),
        9 FromShard { from, message },
        10 Publish { message, origin },
        11 Subscribe(filter),
        12 Unsubscribe(id),
        13 Shutdown,
        14 Violated { id, violation },
        15 Identified { id, peer },
        16 Fetched { session, queued },
    }
}

// What the machine wants done.
saved! {
    enum Action {
        0 Relay(relay),
        1 Forward(forward),
        2 Reply(reply),
        3 OpenSession(open),
        4 SessionOpened { session, connection, present },
        5 CleanDisconnect { session, reason },
        6 UncleanDisconnect { session },
        7 SessionEnded { session },
        8 CloseClient { id, reason },
        9 SubscribeTopic(topic),
        10 TopicSubscribed(topic),
        11 UnsubscribeTopic(topic),
        12 TopicUnsubscribed(topic),
        13 Unsubscribed { to, packet_id },
        14 StoreRetained(message),
        15 LookupRetained(topic),
        16 StoreOffline { session, queued },
        17 LookupOffline { session, most },
        18 StoreSession { session },
        19 StoreInbound { session, packet_id, held },
        20 Room { session },
        21 WantRoom { session },
        22 Restore { session, record },
        23 Store { seq, record },
        24 Ask { ticket, query },
        25 Forget { ticket },
        26 Close { id, how },
        27 Credit { id },
        28 HandOver { id, shard, moved },
        29 Heard { from, heard },
        30 Notice(notice),
        31 SessionAttached { session, connection },
        32 Dropped { session },
        33 RetainedSent { session, filter },
        34 Deliver { session, packet_id },
        35 SessionRestored { session },
        36 Fetch(fetch),
        37 Fetched(fetched),
        38 HoldBack(forward),
        39 Interest { filter, members },
        40 Agree { to, number },
    }
    struct Fetch { session, client_id, skip, messages_max, bytes_max }
    struct Fetched { session, queued }
    enum What { 0 Current, 1 Kept(message), }
    struct Relay { what, publisher, ack, gated, inbound, shard, portion }
    struct Portion { plain, groups, hops, version, outdated }
    enum Heard { 0 Relayed { through }, 1 Interest { filter, members }, 2 Sync { clock }, 3 Ack { number }, }
    struct RelayAck { to, packet, packet_id }
    struct Forward { what, receivers, held }
    struct Receiver { session, qos, retain, source, identifiers }
    enum Source { 0 Relay, 1 Queue, 2 Retained, }
    enum Identifiers { 0 None, 1 One(identifier), 2 Many(identifiers), }
    struct Queued { message, qos, retain, identifiers, source }
    struct Reply { to, packet, packet_id, reason, codes }
    struct OpenSession { connection, clean_start, expiry, client_id }
    struct TopicSubscribed { topic, existed }
    struct UnsubscribeTopic { session, filter, share }
    struct TopicUnsubscribed { topic, existed }
}

// What the outside is asked, answers, is told and keeps.
saved! {
    enum Query {
        0 Authenticate(who),
        1 Authorize { client_id, user_name, access },
        2 Custom(question),
    }
    struct Credentials { connection, peer, version, client_id, user_name, password, method, data }
    enum Access {
        0 Publish { topic, qos, retain },
        1 Subscribe { filters },
        2 Will { topic, qos, retain },
    }
    enum Answer {
        0 Allow,
        1 AllowAs(name),
        2 AllowWith { user_name, data },
        3 Deny(reason),
        4 Redirect { server_reference, moved },
        5 PerFilter(verdicts),
        6 Continue(data),
        7 Custom(answer),
    }
    enum Notice {
        0 Connected { client_id, connection, session_present },
        1 Disconnected { client_id, clean },
        2 SessionEnded { client_id },
        3 Subscribed { client_id, filter, qos },
        4 Unsubscribed { client_id, filter },
        5 Published { client_id, message },
        6 Violated { connection, peer, violation },
        7 Dropped(count),
    }
    enum Record {
        0 Session { client_id, expiry, left },
        1 SessionEnded { client_id },
        2 Subscription { client_id, filter, options, identifier },
        3 Unsubscription { client_id, filter },
        4 Retained(message),
        5 Page { client_id, filter, options, identifier, after },
        6 PageEnded { client_id, filter },
        7 Will { client_id, message, expiry_s, delay_s },
        8 WillGone { client_id },
        9 Inbound { client_id, packet_id, message },
        10 InboundGone { client_id, packet_id },
        11 Relayed(relayed),
        12 Queued { client_id, message, qos, retain, identifiers },
        13 Dropped { client_id },
        14 Sent { client_id, packet_id },
        15 InFlight { client_id, packet_id, message, qos, retain, identifiers, paged },
        16 Received { client_id, packet_id },
        17 Acknowledged { client_id, packet_id },
    }
    struct Relayed { message, settled, retained, recipients }
    enum Settled { 0 Nothing, 1 Inbound { client_id, packet_id }, 2 Will { client_id }, }
    enum Effect { 0 None, 1 Set, 2 Removed, }
    struct Recipient { client_id, qos, retain, identifiers, packet_id }
}

impl Saved for SubscribeTopic {
    fn save(&self, to: &mut Writer<'_>) {
        let Self { session, filter, share, options, identifier } = self;
        (*session, *options).save(to);
        filter.save(to);
        share.save(to);
        identifier.save(to);
    }
    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (session, options) = Saved::load(from)?;
        let (filter, share, identifier) = (load_filter(from)?, Saved::load(from)?, Saved::load(from)?);
        Ok(Self { session, filter, share, options, identifier })
    }
}

impl Saved for ReasonCode {
    fn save(&self, to: &mut Writer<'_>) {
        to.byte(*self as u8);
    }
    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Self::from_u8(from.byte()?).ok_or(from.malformed())
    }
}

impl Saved for PacketType {
    fn save(&self, to: &mut Writer<'_>) {
        to.byte(*self as u8);
    }
    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Self::from_bits(from.byte()?).ok_or(from.malformed())
    }
}

/// A number of bytes.
impl Saved for usize {
    fn save(&self, to: &mut Writer<'_>) {
        to.number(*self as u64);
    }
    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let value = from.number()?;
        Self::try_from(value).map_err(|_| from.malformed())
    }
}

impl Saved for Clause {
    fn save(&self, to: &mut Writer<'_>) {
        to.bytes(self.0.as_bytes());
    }
    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let text = Box::<str>::load(from)?;
        let known = STATEMENTS.iter().map(|statement| statement.id).find(|id| **id == *text);
        // A section, or the name of a rule of somebody's own middleware: one that waits to be told is rare, and
        // whoever reads a snapshot does so once.
        Ok(Self(known.unwrap_or_else(|| Box::leak(text))))
    }
}

impl Saved for SocketAddr {
    fn save(&self, to: &mut Writer<'_>) {
        match self {
            Self::V4(address) => {
                to.byte(4);
                address.ip().to_bits().save(to);
            }
            Self::V6(address) => {
                to.byte(6);
                to.bytes(&address.ip().octets());
                address.flowinfo().save(to);
                address.scope_id().save(to);
            }
        }
        self.port().save(to);
    }
    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        match from.byte()? {
            4 => {
                let ip = IpAddr::V4(Ipv4Addr::from_bits(u32::load(from)?));
                Ok(Self::new(ip, u16::load(from)?))
            }
            6 => {
                let octets: [u8; 16] = from.bytes()?.try_into().map_err(|_| from.malformed())?;
                let (flow, scope) = (u32::load(from)?, u32::load(from)?);
                Ok(Self::V6(SocketAddrV6::new(Ipv6Addr::from(octets), u16::load(from)?, flow, scope)))
            }
            _ => Err(from.malformed()),
        }
    }
}

/// A Topic Filter as the index wants it: well-formed, and without `$share/…/`.
pub(crate) fn load_filter(from: &mut Reader<'_>) -> Result<Box<str>, Malformed> {
    let text = Box::<str>::load(from)?;
    from.ensure(is_filter(&text))?;
    Ok(text)
}

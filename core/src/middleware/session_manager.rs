//! The middleware `SessionManager`.

use super::{Flow, Hooks, Middleware, boxed};
use crate::broker::{Action, Cx, Effect, OpenSession, Owner, Record, Relayed, Settled, TimerId};
use crate::connection::Phase;
use crate::error::Violation;
use crate::hash::HashState;
use crate::id::{ConnectionId, SessionId, Slots, Table};
use crate::message::{Message, Publication};
use crate::packet::{
    Connack, Connect, Disconnect, Packet, PropertiesBuf, Property, QoS, ReasonCode, Version,
};
use crate::saved::{Malformed, Reader, Saved, Writer, saved};
use crate::session::Session;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use core::hash::BuildHasher;
use hashbrown::HashTable;

/// Sessions: which client id belongs to which session, takeover, expiry, CONNACK.
///
/// * **listens**: CONNECT, DISCONNECT, open session, session opened, clean and unclean disconnect, session ended,
///   restore, session restored, closed, timer
/// * **emits**: open session, store session, session attached, session opened (gated), CONNACK, close (0x8E), session
///   ended, restore (with its session)
/// * **owns**: client id → session; when sessions expire
#[derive(Debug, Default)]
pub struct SessionManager {
    names: Names,
    expiry: Table<SessionId, TimerId>,
    /// What CONNACK has to tell, between CONNECT and CONNACK.
    opening: BTreeMap<ConnectionId, Opening>,
}

/// Finds sessions by their Client Identifiers, which only they have: an entry is an id.
#[derive(Debug, Default)]
struct Names {
    sessions: HashTable<SessionId>,
    /// Made with the machine's seed when it is installed.
    hasher: Option<HashState>,
}

impl Names {
    fn hash(&self, client_id: &str) -> u64 {
        self.hasher.map_or(0, |hasher| hasher.hash_one(client_id))
    }

    fn find(&self, sessions: &Slots<SessionId, Session>, client_id: &str) -> Option<SessionId> {
        let is_it =
            |id: &SessionId| sessions.get(*id).is_some_and(|session| *session.client_id == *client_id);
        self.sessions.find(self.hash(client_id), is_it).copied()
    }

    /// Adds a session whose Client Identifier no other has.
    fn add(&mut self, sessions: &Slots<SessionId, Session>, id: SessionId) {
        let name = |id: &SessionId| sessions.get(*id).map_or("", |session| &session.client_id);
        let hash = self.hash(name(&id));
        let hasher = self.hasher;
        let rehash = |id: &SessionId| hasher.map_or(0, |hasher| hasher.hash_one(name(id)));
        self.sessions.insert_unique(hash, id, rehash);
    }

    fn remove(&mut self, client_id: &str, id: SessionId) {
        if let Ok(entry) = self.sessions.find_entry(self.hash(client_id), |other| *other == id) {
            entry.remove();
        }
    }
}

#[derive(Debug)]
struct Opening {
    assigned: bool,
    asked_expiry: u32,
    expiry: u32,
    method: Option<Box<str>>,
    attempts: u8,
}

saved! { struct Opening { assigned, asked_expiry, expiry, method, attempts } }

impl Middleware for SessionManager {
    fn name(&self) -> &'static str {
        "SessionManager"
    }

    fn save(&self, to: &mut Writer<'_>) {
        // The names follow from the sessions.
        let Self { names: _, expiry, opening } = self;
        expiry.save(to);
        opening.save(to);
    }

    fn load(&mut self, cx: &mut Cx<'_>, from: &mut Reader<'_>) -> Result<(), Malformed> {
        self.names = Names { hasher: Some(cx.seed().hasher(PURPOSE)), ..Names::default() };
        let sessions = &cx.state.sessions;
        for (id, session) in sessions.iter().filter(|(_, session)| !session.program) {
            from.ensure(self.names.find(sessions, &session.client_id).is_none())?;
            self.names.add(sessions, id);
        }
        self.expiry = Saved::load(from)?;
        self.opening = Saved::load(from)?;
        // Each attempt counts one more.
        from.ensure(self.opening.values().all(|opening| opening.attempts <= ATTEMPTS_MAX))
    }

    fn wants(&self) -> Hooks {
        Hooks::CONNECT
            | Hooks::DISCONNECT
            | Hooks::OPEN_SESSION
            | Hooks::SESSION_OPENED
            | Hooks::CLEAN_DISCONNECT
            | Hooks::UNCLEAN_DISCONNECT
            | Hooks::SESSION_ENDED
            | Hooks::RESTORE
            | Hooks::SESSION_RESTORED
            | Hooks::CLOSED
    }

    fn install(&mut self, cx: &mut Cx<'_>) {
        self.names.hasher = Some(cx.seed().hasher(PURPOSE));
    }

    fn connect(&mut self, cx: &mut Cx<'_>, from: ConnectionId, packet: &mut Connect<'_>) -> Flow {
        let v5 = packet.version == Version::V5;
        if packet.client_id.is_empty() && !(v5 || packet.version == Version::V311 && packet.clean_start) {
            // [MQTT-3.1.3-8 of 3.1.1]: only a clean session can do without a name; 3.1 always has one.
            return Flow::Refuse(ReasonCode::ClientIdentifierNotValid);
        }
        // 3.x knows two lifetimes: as long as the connection, and for ever.
        let asked_expiry = match packet.properties.session_expiry_interval() {
            Some(seconds) if v5 => seconds,
            None if v5 => 0,
            _ if packet.clean_start => 0,
            _ => u32::MAX,
        };
        let expiry = asked_expiry.min(cx.config().session_expiry_max_s);
        let nameless = packet.client_id.is_empty();
        let client_id = if nameless { self.assign(cx) } else { boxed(packet.client_id) };
        let assigned = nameless || cx.connection(from).is_some_and(|connection| connection.named);
        let method = packet.properties.authentication_method().map(boxed);
        self.opening.insert(from, Opening { assigned, asked_expiry, expiry, method, attempts: 0 });
        cx.emit(Action::OpenSession(Box::new(OpenSession {
            connection: from,
            clean_start: packet.clean_start,
            expiry,
            client_id,
        })));
        Flow::Done
    }

    fn disconnect(&mut self, cx: &mut Cx<'_>, from: ConnectionId, packet: &mut Disconnect<'_>) -> Flow {
        let most = cx.config().session_expiry_max_s;
        let session = cx.session_of(from).and_then(|session| cx.session_mut(session));
        if let (Some(seconds), Some(session)) = (packet.properties.session_expiry_interval(), session) {
            // [MQTT-3.14.2-2]: what ends with the connection cannot be made to outlive it.
            if session.expiry == 0 && seconds > 0 {
                return Flow::Violation(Violation::protocol("MQTT-3.14.2-2"));
            }
            session.expiry = seconds.min(most);
        }
        Flow::Next
    }

    fn action(&mut self, cx: &mut Cx<'_>, action: &mut Action) -> Flow {
        match action {
            Action::OpenSession(open) => return self.open(cx, open),
            Action::SessionOpened { session, connection, present } => {
                return self.opened(cx, *session, *connection, *present);
            }
            Action::CleanDisconnect { session, .. } | Action::UncleanDisconnect { session } => {
                self.detached(cx, *session);
            }
            Action::SessionEnded { session } => self.ended(cx, *session),
            Action::Restore { session: None, record } => {
                self.find_session(cx, record);
                return Flow::Done;
            }
            Action::Restore { session: Some(session), record } => self.restore(cx, *session, record),
            Action::SessionRestored { session } => self.restored(cx, *session),
            _ => {}
        }
        Flow::Next
    }

    fn closed(&mut self, _: &mut Cx<'_>, id: ConnectionId) {
        self.opening.remove(&id);
    }

    fn timer(&mut self, cx: &mut Cx<'_>, owner: Owner) {
        if let Owner::Session(session) = owner {
            // [MQTT-3.1.2-23]
            self.expiry.remove(session);
            cx.emit(Action::SessionEnded { session });
        }
    }
}

impl SessionManager {
    fn find(&self, cx: &Cx<'_>, client_id: &str) -> Option<SessionId> {
        self.names.find(&cx.state.sessions, client_id)
    }

    /// A name nobody has [MQTT-3.1.3-6] [MQTT-3.2.2-16].
    fn assign(&self, cx: &mut Cx<'_>) -> Box<str> {
        loop {
            let name = format!("auto-{:016x}", cx.random().next());
            if self.find(cx, &name).is_none() && cx.state.home_elsewhere(&name).is_none() {
                return name.into();
            }
        }
    }

    /// Makes way for a new connection, then attaches it to its session.
    fn open(&mut self, cx: &mut Cx<'_>, open: &mut OpenSession) -> Flow {
        let id = open.connection;
        match cx.connection(id).map(|connection| connection.phase) {
            Some(Phase::Connecting) => {}
            // Nobody in the chain moves connections on: this one would wait for ever.
            Some(Phase::Opened) => return Flow::Refuse(ReasonCode::ImplementationSpecificError),
            _ => return Flow::Done,
        }
        let existing = self.find(cx, &open.client_id);
        if let Some(opening) = self.opening.get_mut(&id) {
            opening.attempts += 1;
            if opening.attempts > ATTEMPTS_MAX {
                // A middleware does not let what is in the way go.
                return Flow::Refuse(ReasonCode::ServerUnavailable);
            }
        }
        if let Some(old) = existing.and_then(|session| cx.session(session)?.connection) {
            // [MQTT-3.1.4-3]: the old connection ends first, with all that follows from it (its will, if owed).
            cx.stats().takeovers += 1;
            cx.close_client(old, ReasonCode::SessionTakenOver);
            cx.emit(Action::OpenSession(Box::new(open.clone())));
            return Flow::Done;
        }
        if let (Some(session), true) = (existing, open.clean_start) {
            // [MQTT-3.1.2-4]
            cx.emit(Action::SessionEnded { session });
            cx.emit(Action::OpenSession(Box::new(open.clone())));
            return Flow::Done;
        }
        let version = cx.connection(id).map_or(Version::V5, |connection| connection.version);
        let session = existing.unwrap_or_else(|| self.start(cx, &open.client_id, version));
        if let Some(timer) = self.expiry.remove(session) {
            cx.cancel(timer);
        }
        if let Some(state) = cx.session_mut(session) {
            state.connection = Some(id);
            state.version = version;
            state.expiry = open.expiry;
            state.left = None;
        }
        self.note_stored(cx, session, open.expiry);
        cx.wait_for_endings(id, &open.client_id);
        if let Some(connection) = cx.connection_mut(id) {
            connection.session = Some(session);
        }
        if open.expiry > 0 || cx.session(session).is_some_and(|state| state.stored) {
            cx.emit(Action::StoreSession { session });
        }
        cx.emit(Action::SessionAttached { session, connection: id });
        let present = existing.is_some();
        cx.emit(Action::SessionOpened { session, connection: id, present });
        Flow::Done
    }

    fn start(&mut self, cx: &mut Cx<'_>, client_id: &str, version: Version) -> SessionId {
        cx.stats().sessions_started += 1;
        let session = cx.state.sessions.insert(Session {
            client_id: client_id.into(),
            connection: None,
            version,
            expiry: 0,
            queued: 0,
            outside: 0,
            subscriptions: 0,
            paging: false,
            stored: false,
            left: None,
            program: false,
        });
        self.names.add(&cx.state.sessions, session);
        session
    }

    /// Writes CONNACK: nothing else reaches the client before it [MQTT-3.2.0-1].
    fn opened(&mut self, cx: &mut Cx<'_>, session: SessionId, id: ConnectionId, present: bool) -> Flow {
        let Some(opening) = self.opening.remove(&id) else { return Flow::Next };
        let mut properties = PropertiesBuf::default();
        if let Some(connection) = cx.connection(id) {
            if connection.phase != Phase::Connecting {
                return Flow::Next;
            }
            if connection.version == Version::V5 {
                announce(cx, id, session, &opening, &mut properties);
            }
        }
        let connack = Connack {
            session_present: present,
            reason: ReasonCode::Success,
            properties: properties.as_properties(),
        };
        if !cx.send(id, &Packet::Connack(connack)) {
            // What it must be told does not fit into what it accepts: it is refused, and nobody hears of it
            // [MQTT-3.14.0-1].
            cx.close_client(id, ReasonCode::PacketTooLarge);
            return Flow::Done;
        }
        if let Some(connection) = cx.connection_mut(id) {
            connection.phase = Phase::Connected;
        }
        Flow::Next
    }

    /// What ends with its connection is not stored: for the log, a session that is resumed to end ends at once. But while only
    /// the store has messages of its queue they must stay there: then it ends with a restart, too.
    fn note_stored(&mut self, cx: &mut Cx<'_>, session: SessionId, expiry: u32) {
        let outside = cx.session(session).is_some_and(|state| state.outside > 0);
        if expiry == 0 && !outside {
            cx.journal(session, |client_id| Record::SessionEnded { client_id });
        }
        let stored = (expiry > 0 || outside) && cx.durable();
        if let Some(state) = cx.session_mut(session) {
            state.stored = stored;
        }
    }

    fn detached(&mut self, cx: &mut Cx<'_>, session: SessionId) {
        let wall = cx.now().wall;
        let Some(state) = cx.session_mut(session) else { return };
        state.left = Some(wall);
        if state.expiry > 0 || state.stored {
            cx.emit(Action::StoreSession { session });
        }
        self.away(cx, session);
    }

    /// Nobody is connected: its time runs.
    fn away(&mut self, cx: &mut Cx<'_>, session: SessionId) {
        let Some(state) = cx.session(session) else { return };
        if state.over(cx.now().wall) {
            cx.emit(Action::SessionEnded { session });
        } else if state.expiry != u32::MAX {
            let at = cx.now().mono.plus_ms(state.remaining_ms(state.expiry, cx.now().wall));
            let timer = cx.arm(at, Owner::Session(session));
            if let Some(earlier) = self.expiry.insert(session, timer) {
                cx.cancel(earlier);
            }
        }
    }

    /// After a restart nobody is connected; who was, left now.
    fn restored(&mut self, cx: &mut Cx<'_>, session: SessionId) {
        match cx.session(session) {
            Some(state) if state.left.is_some() => self.away(cx, session),
            Some(_) => self.detached(cx, session),
            None => {}
        }
    }

    /// Finds out whose a record of an earlier machine is, and sends it round for those who own what it is about.
    fn find_session(&mut self, cx: &mut Cx<'_>, record: &mut Record) {
        let session = match &*record {
            Record::Retained(_) => None,
            Record::Relayed(relayed) => return self.take_apart(cx, relayed),
            // A session that is not stored may still have a will.
            Record::Session { client_id, .. } | Record::Will { client_id, .. } => {
                Some(self.find(cx, client_id).unwrap_or_else(|| self.start(cx, client_id, Version::V5)))
            }
            record => match record.client_id().and_then(|client_id| self.find(cx, client_id)) {
                Some(session) => Some(session),
                // The session ended, and the will with it.
                None if matches!(record, Record::WillGone { .. }) => return,
                None => {
                    cx.state.unknown = record.client_id().map(Into::into);
                    return;
                }
            },
        };
        let record = Box::new(record.clone());
        match session {
            Some(_) => cx.emit(Action::Restore { session, record }),
            None => {
                if let Record::Retained(message) = *record {
                    cx.emit(Action::StoreRetained(message));
                }
            }
        }
    }

    /// A relay of an earlier machine, as what came of it for each.
    fn take_apart(&mut self, cx: &mut Cx<'_>, relayed: &Relayed) {
        let Relayed { message, settled, retained, recipients } = relayed;
        match retained {
            Effect::None => {}
            Effect::Set => cx.emit(Action::StoreRetained(message.clone())),
            Effect::Removed => {
                let nothing = Message::keep(&Publication { payload: &[], ..message.publication() });
                cx.emit(Action::StoreRetained(nothing));
            }
        }
        for recipient in recipients {
            let client_id = recipient.client_id.clone();
            let (message, identifiers) = (message.clone(), recipient.identifiers.clone());
            let (qos, retain) = (recipient.qos, recipient.retain);
            let record = match recipient.packet_id {
                None => Record::Queued { client_id, message, qos, retain, identifiers },
                Some(packet_id) => {
                    let paged = false;
                    Record::InFlight { client_id, packet_id, message, qos, retain, identifiers, paged }
                }
            };
            cx.emit(Action::Restore { session: None, record: Box::new(record) });
        }
        if let Settled::Inbound { client_id, .. } | Settled::Will { client_id } = settled
            && let Some(session) = self.find(cx, client_id)
        {
            let record = Box::new(Record::Relayed(Relayed { recipients: [].into(), ..relayed.clone() }));
            cx.emit(Action::Restore { session: Some(session), record });
        }
    }

    fn restore(&mut self, cx: &mut Cx<'_>, session: SessionId, record: &Record) {
        match *record {
            Record::Session { expiry, left, .. } => {
                if let Some(state) = cx.session_mut(session) {
                    (state.expiry, state.left, state.stored) = (expiry, left, true);
                }
            }
            Record::SessionEnded { .. } => cx.emit(Action::SessionEnded { session }),
            _ => {}
        }
    }

    fn ended(&mut self, cx: &mut Cx<'_>, session: SessionId) {
        if let Some(timer) = self.expiry.remove(session) {
            cx.cancel(timer);
        }
        cx.journal(session, |client_id| Record::SessionEnded { client_id });
        if let Some(state) = cx.session(session) {
            self.names.remove(&state.client_id, session);
        }
    }
}

/// What CONNACK announces to an MQTT 5.0 client: only what differs from the standard's defaults.
fn announce(
    cx: &Cx<'_>,
    id: ConnectionId,
    session: SessionId,
    opening: &Opening,
    properties: &mut PropertiesBuf,
) {
    let (config, Some(connection)) = (cx.config(), cx.connection(id)) else { return };
    if opening.expiry != opening.asked_expiry {
        properties.push(Property::SessionExpiryInterval(opening.expiry));
    }
    if let Some(maximum) = core::num::NonZeroU16::new(config.receive_maximum)
        && maximum.get() != u16::MAX
    {
        properties.push(Property::ReceiveMaximum(maximum));
    }
    if let Some(maximum @ (QoS::AtMostOnce | QoS::AtLeastOnce)) = QoS::from_bits(config.qos_max) {
        properties.push(Property::MaximumQoS(maximum));
    }
    if !config.retain_available {
        properties.push(Property::RetainAvailable(false));
    }
    let packet_limit = connection.packet_limit(config);
    if packet_limit < PACKET_SIZE_MAX {
        properties.push(Property::MaximumPacketSize(packet_limit));
    }
    if let (true, Some(session)) = (opening.assigned, cx.session(session)) {
        properties.push(Property::AssignedClientIdentifier(&session.client_id));
    }
    if config.topic_alias_maximum > 0 {
        properties.push(Property::TopicAliasMaximum(config.topic_alias_maximum));
    }
    if !config.wildcard_subscription_available {
        properties.push(Property::WildcardSubscriptionAvailable(false));
    }
    if !config.subscription_identifiers_available {
        properties.push(Property::SubscriptionIdentifierAvailable(false));
    }
    if !config.shared_subscription_available {
        properties.push(Property::SharedSubscriptionAvailable(false));
    }
    if connection.keep_alive_lowered {
        properties.push(Property::ServerKeepAlive(connection.keep_alive_s));
    }
    if let Some(method) = &opening.method {
        properties.push(Property::AuthenticationMethod(method));
    }
    if let Some(data) = &connection.authentication_data {
        properties.push(Property::AuthenticationData(data));
    }
    // [MQTT-3.1.2-28]: only who asked is told.
    if connection.response_information && !config.response_information.is_empty() {
        properties.push(Property::ResponseInformation(&config.response_information));
    }
}

/// Once to end the old connection, once to end the old session, once to attach.
const ATTEMPTS_MAX: u8 = 3;
const PURPOSE: u64 = 0x5e55_1001;
/// No packet of MQTT is larger.
const PACKET_SIZE_MAX: u32 = 268_435_460;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::{Stack, tests::Watched};
    use crate::testing::{Bench, connect};

    /// Lets no session open.
    struct Refuses;

    impl Middleware for Refuses {
        fn name(&self) -> &'static str {
            "Refuses"
        }
        fn wants(&self) -> Hooks {
            Hooks::OPEN_SESSION
        }
        fn action(&mut self, _: &mut Cx<'_>, _: &mut Action) -> Flow {
            Flow::Refuse(ReasonCode::ServerBusy)
        }
    }

    #[test]
    fn what_connack_would_have_told_is_forgotten_with_its_connection() {
        let watched = Watched::new(SessionManager::default());
        let stack = Stack::standard()
            .replace("SessionManager", watched.clone())
            .and_then(|stack| stack.insert_before("Connection", Refuses))
            .unwrap();
        let mut bench = Bench::with(crate::Config::default(), stack);
        for _ in 0..3 {
            let alice = bench.try_connect(&connect(Version::V5, "alice"));
            assert_eq!(bench.lines(alice), ["CONNACK 89"]);
            bench.cut(alice);
        }
        assert!(watched.part().opening.is_empty());
    }
}

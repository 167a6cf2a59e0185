//! The whole state of a machine as bytes, and a machine from them.

use super::state::{MACHINE, State};
use super::{Action, Broker, Cx, Forward, What};
use crate::config::{Config, ListenerConfig, Setting};
use crate::hash::Seed;
use crate::id::ShardId;
use crate::middleware::{Shards, Stack};
use crate::redact::Redaction;
use crate::saved::{Malformed, Reader, Saved, Writer, digest};
use crate::time::Now;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

/// Why a machine cannot be made from a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadSnapshot {
    /// The bytes are none.
    Unknown,
    /// Another version of the program took it: only that can read it.
    Version(Box<str>),
    /// Bytes were changed, or are missing.
    Damaged,
    /// It belongs to a machine with another chain: these parts, in this order.
    Stack(Vec<String>),
    /// It was not taken by this program, whatever it claims.
    Malformed(Malformed),
}

impl From<Malformed> for BadSnapshot {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl fmt::Display for BadSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("not a snapshot of a machine"),
            Self::Version(version) => write!(f, "taken by version {version}, this is {VERSION}"),
            Self::Damaged => f.write_str("damaged: its bytes are not those that were written"),
            Self::Stack(names) => write!(f, "taken of a machine with another chain: {}", names.join(", ")),
            Self::Malformed(malformed) => write!(f, "not taken by this program: {malformed}"),
        }
    }
}

impl core::error::Error for BadSnapshot {}

impl Broker {
    /// Appends the complete state: a machine made of it by [`from_snapshot`](Self::from_snapshot) does the same as this
    /// one with every input from here on, and so do its outputs that were not taken yet. Between any two inputs.
    ///
    /// The settings and the seed go along. What a program gave to the chain does not: policies, handlers, and the state
    /// of middlewares of its own that do not [save](crate::Middleware::save) it.
    ///
    /// It holds what clients sent, wills and messages and, while a CONNECT waits for its answer, passwords. Only the
    /// version of the program that took it can read it. Costs as much time as copying what clients left here.
    pub fn snapshot(&self, out: &mut Vec<u8>) {
        debug_assert!(
            self.state.work.is_empty() && self.state.deferred.is_empty(),
            "an input is being worked off"
        );
        let start = out.len();
        out.extend_from_slice(MAGIC);
        let mut to = Writer::sharing(out);
        to.bytes(VERSION.as_bytes());
        to.number(LAYOUT);
        self.stack.names().map(String::from).collect::<Vec<_>>().save(&mut to);
        self.state.siblings.as_ref().map(|siblings| siblings.place()).save(&mut to);
        save_config(&self.state.config, &mut to);
        self.state.seed.save(&mut to);
        self.state.now.save(&mut to);
        to.section(|to| self.state.save(to));
        for part in self.stack.parts() {
            to.section(|to| part.save(to));
        }
        let digest = digest(&out[start..]);
        out.extend_from_slice(&digest.to_le_bytes());
    }

    /// A machine in the state of a snapshot. `stack` is made as for the machine that was asked for it. Without a
    /// `config` its settings are those of the snapshot; with other ones it goes on under those.
    ///
    /// # Errors
    /// The bytes are not a snapshot by this version of the program of a machine with this chain.
    pub fn from_snapshot(
        config: Option<Arc<Config>>,
        stack: Stack,
        bytes: &[u8],
    ) -> Result<Self, BadSnapshot> {
        Self::read_snapshot(config, stack, bytes, None)
    }

    /// The same machine without what only its owner may read. It does the same, with text in the place of payloads and
    /// passwords; what it has to say and did not is lost, all but its length.
    ///
    /// # Errors
    /// As [`from_snapshot`](Self::from_snapshot).
    pub fn from_snapshot_redacted(
        stack: Stack,
        bytes: &[u8],
        redaction: &Redaction<'_>,
    ) -> Result<Self, BadSnapshot> {
        Self::read_snapshot(None, stack, bytes, Some(redaction))
    }

    fn read_snapshot(
        config: Option<Arc<Config>>,
        stack: Stack,
        bytes: &[u8],
        redaction: Option<&Redaction<'_>>,
    ) -> Result<Self, BadSnapshot> {
        let (mut from, names, _) = head(bytes, redaction)?;
        if !stack.names().eq(names.iter().map(|name| &**name)) {
            return Err(BadSnapshot::Stack(names));
        }
        let own = load_config(&mut from)?;
        let (seed, now) = (Seed::load(&mut from)?, Now::load(&mut from)?);
        let config = config.unwrap_or_else(|| Arc::new(own));
        // A new machine: its parts are installed, and then all state is replaced.
        let mut broker = Self::new(config.clone(), stack, seed, now);
        let durable = broker.state.durable;
        broker.state = State { durable, ..State::new(config, seed, now) };
        from.parts = broker.stack.len() as u8;
        from.section(|from| broker.state.load(from))?;
        for part in 0..broker.stack.len() as u8 {
            from.part = part;
            from.section(|from| {
                let mut cx = Cx { state: &mut broker.state, current: None, part };
                broker.stack.part(part).load(&mut cx, from)
            })?;
        }
        from.end()?;
        // What a part may have emitted while it was made is not what it was asked for.
        broker.state.work.clear();
        broker.state.deferred.clear();
        Ok(broker)
    }

    /// The part of the chain that makes the machine of a snapshot one of several; none: it was alone.
    ///
    /// # Errors
    /// The bytes are not a snapshot by this version of the program.
    pub fn shards_of_snapshot(bytes: &[u8]) -> Result<Option<Shards>, BadSnapshot> {
        let (from, _, place) = head(bytes, None)?;
        let Some((me, (of, key))) = place else { return Ok(None) };
        from.ensure(me.0 < of)?;
        Ok(Some(Shards::new(me, of, key)))
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.state.config
    }
}

/// What a snapshot says first: the names of the chain, and which of several machines it was taken of.
type Head<'a> = (Reader<'a>, Vec<String>, Option<(ShardId, (u16, Seed))>);

fn head<'a>(bytes: &'a [u8], redaction: Option<&'a Redaction<'a>>) -> Result<Head<'a>, BadSnapshot> {
    let (body, end) = bytes.split_last_chunk::<8>().ok_or(BadSnapshot::Unknown)?;
    let rest = body.strip_prefix(MAGIC).ok_or(BadSnapshot::Unknown)?;
    let mut from = redaction.map_or_else(|| Reader::new(rest), |one| Reader::redacting(rest, one));
    let version = from.bytes().map_err(|_| BadSnapshot::Unknown)?;
    if version != VERSION.as_bytes() {
        return Err(BadSnapshot::Version(String::from_utf8_lossy(version).into()));
    }
    if digest(body) != u64::from_le_bytes(*end) {
        return Err(BadSnapshot::Damaged);
    }
    let layout = from.number()?;
    from.ensure(layout == LAYOUT)?;
    let names = Vec::<String>::load(&mut from)?;
    let place = Saved::load(&mut from)?;
    Ok((from, names, place))
}

fn save_config(config: &Config, to: &mut Writer<'_>) {
    let own = |get: &dyn Fn(&str) -> Option<String>, settings: &[Setting]| -> Vec<(String, String)> {
        settings.iter().filter_map(|setting| Some((setting.key.into(), get(setting.key)?))).collect()
    };
    own(&|key| config.get(key), Config::settings()).save(to);
    let listeners = config.listeners.iter();
    let listeners: Vec<_> =
        listeners.map(|listener| own(&|key| listener.get(key), ListenerConfig::settings())).collect();
    listeners.save(to);
}

fn load_config(from: &mut Reader<'_>) -> Result<Config, Malformed> {
    let mut config = Config::default();
    for (key, value) in Vec::<(String, String)>::load(from)? {
        from.ensure(config.set(&key, &value).is_ok())?;
    }
    for settings in Vec::<Vec<(String, String)>>::load(from)? {
        let mut listener = ListenerConfig::default();
        for (key, value) in settings {
            from.ensure(listener.set(&key, &value).is_ok())?;
        }
        from.ensure(listener.check().is_ok())?;
        config.listeners.push(listener);
    }
    Ok(config)
}

/// Lists the fields of the state: those that are saved, then those that are empty between two inputs, hold nothing but
/// room for later, or follow from the others.
macro_rules! fields {
    ($($field:ident),*; $($other:ident),*) => {
        impl State {
            fn save(&self, to: &mut Writer<'_>) {
                let Self { $($field,)* $($other: _,)* } = self;
                $($field.save(to);)*
            }

            fn load_fields(&mut self, from: &mut Reader<'_>) -> Result<(), Malformed> {
                $(self.$field = Saved::load(from)?;)*
                Ok(())
            }
        }
    };
}

fields! {
    // The timers first: whoever holds one must find it.
    timers, connections, sessions, stats, random, linger, from, arrived, asked, verdicts, matched, held, tickets,
    assigned, committed, store_failed, failed_from, gates, gate_order, out, notices, notices_dropped, dirty, stalled,
    shutting_down, endings, relay_record, siblings;
    config, seed, now, full, per_listener, departed, work, deferred, running, kept, opening, pool, receivers, restoring, durable,
    unknown, moving, trace
}

impl State {
    fn load(&mut self, from: &mut Reader<'_>) -> Result<(), Malformed> {
        from.part = MACHINE;
        self.load_fields(from)?;
        self.set_up_connections(from.redaction());
        if let (Some(siblings), Some(redaction)) = (&mut self.siblings, from.redaction()) {
            siblings.redact(redaction);
        }
        self.departed = self.connections.iter().filter(|(_, one)| one.departed.is_some()).count();
        // Ids that name nobody would find nothing, but a part may make room for what it keeps beside them.
        let session = |id| self.sessions.get(id).is_some();
        let connections = self.connections.iter().all(|(_, one)| one.session.is_none_or(session));
        let connection = |id| self.connections.get(id).is_some();
        let sessions = self.sessions.iter().all(|(_, one)| one.connection.is_none_or(connection));
        let questions = self.tickets.iter().all(|(_, question)| question.part < from.parts);
        let gate = |action: &Action| {
            matches!(
                action,
                Action::Relay(_)
                    | Action::Reply(_)
                    | Action::Agree { .. }
                    | Action::SessionOpened { .. }
                    | Action::Deliver { .. }
                    | Action::Forward(Forward { held: true, what: What::Kept(_), .. })
            )
        };
        let gates = self.gates.values().all(|(_, action)| gate(action));
        let counters = self.assigned.0.max(self.gate_order).max(self.notices_dropped) < u64::MAX / 2;
        from.ensure(connections && sessions && questions && gates && counters)
    }

    /// What follows from the settings, which may be other ones; and what nobody else may read.
    fn set_up_connections(&mut self, redaction: Option<&Redaction<'_>>) {
        let ids: Vec<_> = self.connections.ids().collect();
        for id in ids {
            let Some(connection) = self.connections.get_mut(id) else { continue };
            connection.set_up(&self.config);
            if let Some(redaction) = redaction {
                connection.redact(id, redaction);
            }
            if let Some(count) = self.per_listener.get_mut(usize::from(connection.peer.listener)) {
                *count += 1;
            }
        }
    }
}

const MAGIC: &[u8] = b"culex machine\n";
/// The version of the program that can read it.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Rises when what is saved changes between two releases.
const LAYOUT: u64 = 4;

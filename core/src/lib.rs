//! An MQTT broker as a pure state machine: bytes, ticks and answers go in, actions and bytes come out.
//!
//! [`Broker`] holds all protocol and routing state and does no I/O: it reads no clock, opens no socket, starts no
//! thread. Whatever runs it does four things, as in this loop, which compiles:
//!
//! ```no_run
//! use culex_core::{Action, Broker, Close, Config, ConnectionId, Disconnect, Now, Peer, Seed, Stack};
//! use std::sync::Arc;
//! # fn now() -> Now { Now::default() }
//! # fn next_event(_: Option<culex_core::Mono>) -> Event { Event::Tick }
//! # fn write(_: ConnectionId, _: Vec<&[u8]>) -> usize { 0 }
//! # fn shut_down(_: ConnectionId) {}
//! # fn close(_: ConnectionId) {}
//! # enum Event { Accepted(Peer), Read(ConnectionId, Vec<u8>), Writable(ConnectionId), Gone(ConnectionId), Tick }
//!
//! // The seed is where all of the machine's chance comes from: hash keys and generated names.
//! let mut broker = Broker::new(Arc::new(Config::default()), Stack::standard(), Seed(42), now());
//! loop {
//!     // 1. Something happens, or the deadline passes. (Where `read_credit` is 0, do not read.)
//!     match next_event(broker.deadline()) {
//!         Event::Accepted(peer) => drop(broker.accept(now(), peer)),
//!         Event::Read(id, bytes) => broker.receive(now(), id, &bytes),
//!         Event::Writable(id) => broker.writable(id),
//!         Event::Gone(id) => broker.disconnected(now(), id, Disconnect::Eof),
//!         Event::Tick => broker.tick(now()),
//!     }
//!     // 2. Do what the machine wants done.
//!     while let Some(action) = broker.poll_action() {
//!         match action {
//!             Action::Close { id, how: Close::Finish } => shut_down(id),
//!             Action::Close { id, how: Close::Drop } => close(id),
//!             Action::Ask { ticket, .. } => {
//!                 broker.complete(now(), ticket, culex_core::Answer::Allow);
//!             }
//!             _ => {}
//!         }
//!     }
//!     // 3. Write what it wrote: each connection's output in one vectored write.
//!     while let Some(transmit) = broker.poll_transmit() {
//!         let written = write(transmit.id(), transmit.chunks().collect());
//!         transmit.written(written);
//!     }
//! }
//! ```
//!
//! # Where things are
//!
//! | module | what |
//! |---|---|
//! | [`broker`] | the machine: inputs, actions, the work queue, waiting for answers and for the disk |
//! | [`middleware`] | the chain: twelve parts, each replaceable, and the [`Stack`] that orders them |
//! | [`packet`] | the control packets of MQTT 3.1, 3.1.1 and 5.0, one file each |
//! | [`topic`] | filters, the subscription index, the retained messages |
//! | [`connection`], [`session`] | what several middlewares know of a connection, of a session |
//! | [`config`] | every setting, its default and meaning, in one table |
//! | [`store`] | the durable state as entries, and what an engine has to keep |
//! | [`saved`] | state as bytes: snapshots of a machine, inputs on record |
//! | [`redact`] | the same without payloads and passwords |
//! | [`message`], [`id`], [`time`], [`hash`], [`error`] | words the others share |
//!
//! # What holds, always
//!
//! * The same seed and the same inputs give the same outputs, byte for byte; splitting input bytes anywhere changes
//!   nothing.
//! * No acknowledgement leaves before what it promises is durable; acknowledgements of a connection leave in order.
//! * Any input may follow any other. Stale ids are no-ops. Nothing a peer sends makes it panic.
//! * Every queue has a limit in [`Config`]; where one is full, [`Broker::read_credit`] or a stated policy takes over.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod broker;
pub mod config;
pub mod connection;
pub mod error;
pub mod hash;
pub mod id;
pub mod message;
pub mod middleware;
pub mod packet;
pub mod redact;
pub mod saved;
pub mod session;
pub mod spec;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod time;
pub mod topic;

pub use broker::{
    Access, Action, Answer, BadSnapshot, Broker, Close, Credentials, Cx, Disconnect, Forward, Input,
    Inspection, Notice, Origin, Owner, Peer, Query, Receiver, Record, Refused, Relay, RestoreError, Restored,
    Restoring, Stats, Transmit, What,
};
pub use config::Config;
pub use error::{Clause, Misuse, Violation};
pub use hash::Seed;
pub use id::{ConnectionId, LogSeq, SessionId, ShardId, Ticket};
pub use message::{Message, Publication};
pub use middleware::{Flow, Hooks, Middleware, Stack};
pub use time::{Mono, Now, Wall};

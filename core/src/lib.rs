//! The pure core of Culex.
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
pub mod session;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod time;
pub mod topic;

pub use broker::{
    Access, Action, Answer, Broker, Close, Credentials, Cx, Disconnect, Forward, Input, Notice, Origin, Owner, Peer,
    Query, Receiver, Refused, Relay, Stats, Transmit, What,
};
pub use config::Config;
pub use error::{Clause, Misuse, Violation};
pub use hash::Seed;
pub use id::{ConnectionId, LogSeq, SessionId, ShardId, Ticket};
pub use message::{Message, Publication};
pub use middleware::{Flow, Hooks, Middleware, Stack};
pub use time::{Mono, Now, Wall};

//! What the runtimes of Culex share. An adapter adds sockets, tasks or threads, and sleeping; nothing else.
//!
//! | part | what it is |
//! |---|---|
//! | [`Builder`], [`Prepared`] | the same settings, with the same names, for every runtime |
//! | [`Handle`], [`Subscription`], [`Responder`] | how the program talks to a running broker, from any thread |
//! | [`Listener`], [`ListenUrl`], [`Transport`] | where to listen, and what carries MQTT |
//! | [`Pipe`], [`Stream`] | connections that the program has itself, without a listener |
//! | [`Driver`] | the machine, its clock, the byte layers of its connections, and everything that needs no socket |
//! | [`Recorder`], [`Recording`], [`Replay`] | the flight recorder: what happened to the machine, and doing it again |
//! | [`Snapshot`], [`StoreFailed`] | what [`Builder::store`] keeps, read while the broker runs |
//! | [`Shard`], [`Socket`] | a driver with its connections, for runtimes whose sockets report readiness |
//! | [`Threads`], [`Arrival`], [`Movable`] | several shards: their threads, and connections that go from one to another |
//!
//! Who embeds Culex takes `culex-tokio`, `culex-smol` or `culex-std` and does not need this crate by name.
#![forbid(unsafe_code)]

mod accept;
mod builder;
mod clock;
mod commands;
mod driver;
mod handle;
#[cfg(any(test, feature = "testing"))]
#[cfg_attr(not(feature = "testing"), allow(unreachable_pub))] // the suite shows it
#[path = "testing/held.rs"]
mod held;
mod links;
mod listen;
mod listener;
mod pipe;
mod recorder;
mod redact;
mod replay;
mod shard;
mod siblings;
mod store;
mod stream;
mod subscription;
#[cfg(feature = "testing")]
pub mod testing;
mod writer;

pub use accept::AcceptErrors;
pub use builder::{Adapter, Builder, Prepared, Sockets};
pub use clock::Clock;
pub use commands::Commands;
pub use driver::{Driver, Effect, Turn, Written};
pub use handle::{ConnectError, Handle, Rejected, Responder, SubscribeError};
pub use listen::{ListenAddress, ListenUrl, ListenUrlError, Transport};
pub use listener::{Accepted, ListenSocket, Listener, SocketFile};
pub use pipe::{Pipe, PipeReader, PipeWriter};
pub use recorder::Recorder;
pub use redact::Redacted;
pub use replay::{BadRecording, Did, Difference, Recording, Replay, Step, Stuck};
pub use shard::{Movable, Shard, Socket};
pub use siblings::{Arrival, Threads};
pub use store::{Snapshot, StoreFailed};
pub use stream::{AsyncStream, Stream};
pub use subscription::Subscription;

pub use culex_link::{
    CertificateIdentity, CertificatePair, ClientCertificates, Demand, Origins, Pem, Tls, TlsError,
    TlsSettings, TlsVersion, Trusted,
};

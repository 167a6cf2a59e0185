//! The Culex MQTT broker on blocking threads.
//!
//! ```
//! use culex_core::{Message, packet::QoS};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let broker = culex_std::Broker::builder().listen("mqtt://127.0.0.1:0").bind()?;
//! println!("listening on {}", broker.local_addrs()[0]);
//! let handle = broker.handle();
//! let running = std::thread::spawn(move || broker.run());
//!
//! let mut subscription = handle.subscribe("greetings/#")?;
//! handle.publish(Message::new("greetings/all", b"hello", QoS::AtMostOnce, false)?)?;
//! assert_eq!(subscription.recv().map(|message| message.payload().to_vec()), Some(b"hello".to_vec()));
//!
//! handle.shutdown();
//! running.join().unwrap()?;
//! # Ok(())
//! # }
//! ```
//!
//! One thread owns the machine and writes, one waits for new connections and for full sockets, and every connection has
//! a thread with a small stack that only reads. For programs without an async runtime and for hundreds of clients;
//! for thousands take `culex-tokio` or `culex-smol`. With [`Builder::shards`](Builder) there are several of the first two.
#![forbid(unsafe_code)]

mod connection;
mod poller;
mod shard;
mod stream;

pub use crate::stream::{Duplex, Halves, stream};
pub use culex_runtime::{
    ConnectError, Handle, ListenUrl, ListenUrlError, Listener, Pipe, Rejected, Responder, Stream,
    SubscribeError, Subscription, Transport,
};

use culex_runtime::{Adapter, Prepared};
use std::io;
use std::net::SocketAddr;

/// The broker on blocking threads: see [`Broker::builder`].
#[derive(Debug)]
pub struct Broker;

/// Collects the settings of a broker.
pub type Builder = culex_runtime::Builder<Broker>;

impl Broker {
    /// Begins with the default settings and no listener.
    pub fn builder() -> Builder {
        Builder::default()
    }
}

impl Adapter for Broker {
    type Bound = Bound;
}

/// A broker that listens; its connections wait until it runs.
#[must_use = "it does nothing until it runs"]
#[derive(Debug)]
pub struct Bound(Prepared);

impl From<Prepared> for Bound {
    fn from(prepared: Prepared) -> Self {
        Self(prepared)
    }
}

impl Bound {
    /// The URLs of the listeners, in the order they were asked for, with the addresses and ports that were bound.
    #[must_use]
    pub fn urls(&self) -> &[ListenUrl] {
        self.0.urls()
    }

    /// The addresses of the listeners of TCP, in the order they were asked for, with the ports the system chose.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        self.0.local_addrs()
    }

    /// A handle to the broker; it works before the broker runs.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.0.handle()
    }

    /// Serves until [`Handle::shutdown`]; the calling thread owns the machine of the first shard, and a thread of its own that of
    /// each further one.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn run(self) -> io::Result<()> {
        let (driver, sockets, others) = self.0.start(shard::run)?;
        shard::run(driver, sockets)?;
        others.join()
    }

    /// The same as [`run`](Self::run), by the name it has in the asynchronous runtimes.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_blocking(self) -> io::Result<()> {
        self.run()
    }
}

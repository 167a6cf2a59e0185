//! The settings of a broker, the same for every runtime.

use crate::commands::Inbox;
use crate::links::{HANDSHAKES_MAX, Links};
use crate::listener::Listening;
use crate::store::Engine;
use crate::writer::Writer;
use crate::{Clock, Driver, Handle, ListenSocket, ListenUrl, Listener, Recorder, Responder};
use culex_core::config::ListenerConfig;
use culex_core::store::{Durability, Store};
use culex_core::{Broker, Config, Notice, Query, Restored, Seed, Stack, Wall};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A runtime, as far as the builder knows it.
pub trait Adapter {
    /// A broker that listens but does not run yet.
    type Bound: From<Prepared>;
}

pub(crate) type OnAsk = Box<dyn FnMut(Query, Responder) + Send>;
pub(crate) type OnNotice = Box<dyn FnMut(Notice) + Send>;

/// Collects the settings of a broker; get one from the runtime's `Broker::builder()`.
#[must_use]
pub struct Builder<A> {
    listeners: Vec<Listener>,
    options: Options,
    adapter: PhantomData<fn() -> A>,
}

struct Options {
    config: Config,
    chain: Option<Box<dyn Fn() -> Stack + Send>>,
    store: Option<(Box<dyn Engine>, Durability)>,
    seed: Option<Seed>,
    on_ask: OnAsk,
    on_notice: OnNotice,
    shutdown: Duration,
    recorder: Option<Recorder>,
    wall: Option<Box<dyn Fn() -> Wall + Send>>,
}

impl<A: Adapter> Builder<A> {
    /// How long a shutdown waits for clients to close, in milliseconds, unless
    /// [`shutdown_ms`](Self::shutdown_ms) says otherwise.
    pub const SHUTDOWN_MS: u64 = 5000;

    /// Where to listen, with the defaults of [`Listener`]: `mqtt://HOST:PORT`, `ws://HOST:PORT/PATH` or `unix:PATH`, see
    /// [`ListenUrl`]. May be called several times; without it only the program itself connects, publishes and subscribes.
    /// A URL that is wrong is told by [`bind`](Self::bind).
    pub fn listen(self, url: impl ToString) -> Self {
        self.listener(Listener::new(url))
    }

    /// Where to listen and how. Listeners are numbered in the order they come in, from 0 on.
    pub fn listener(mut self, listener: Listener) -> Self {
        self.listeners.push(listener);
        self
    }

    /// The settings of the machine.
    pub fn config(mut self, config: Config) -> Self {
        self.options.config = config;
        self
    }

    /// Makes the chain of middlewares, once per shard. Without it: all built-in ones, [`Stack::durable`] if there is a
    /// [`store`](Self::store) and [`Stack::standard`] if not.
    pub fn chain(mut self, chain: impl Fn() -> Stack + Send + 'static) -> Self {
        self.options.chain = Some(Box::new(chain));
        self
    }

    /// Keeps what has to survive in this store, and begins with what it holds: nothing is acknowledged before it survives what
    /// `durability` says. Without it everything is kept in memory. The store gets a thread of its own. A chain that is
    /// given as well has to be one that stores, as [`Stack::durable`] does.
    ///
    /// The store is read by [`bind`](Self::bind), before anybody can connect. A commit that fails is final: what has to be
    /// durable is refused from then on, until the broker is started anew.
    pub fn store(mut self, store: impl Store + Send + 'static, durability: Durability) -> Self {
        self.options.store = Some((Box::new(store), durability));
        self
    }

    /// All randomness of the machine. Without it: drawn from the system. Who can guess it can provoke collisions.
    pub fn seed(mut self, seed: Seed) -> Self {
        self.options.seed = Some(seed);
        self
    }

    /// Gets the questions of the machine, on its own thread: it must not block, only hand the [`Responder`] on to who
    /// finds the answer. Without it every question is refused.
    pub fn on_ask(mut self, on_ask: impl FnMut(Query, Responder) + Send + 'static) -> Self {
        self.options.on_ask = Box::new(on_ask);
        self
    }

    /// Gets what the machine wants the program to know, on its own thread: it must not block.
    pub fn on_notice(mut self, on_notice: impl FnMut(Notice) + Send + 'static) -> Self {
        self.options.on_notice = Box::new(on_notice);
        self
    }

    /// Records what happens to the machine, from its first input on. Without it nothing is recorded, and that costs
    /// nothing. Give each broker a recorder of its own.
    pub fn record(mut self, recorder: Recorder) -> Self {
        self.options.recorder = Some(recorder);
        self
    }

    /// Tells the time of day instead of the system, for tests: it may jump. It is asked once per turn, on the thread of the
    /// machine. How much time passes is still told by the system's monotonic clock.
    pub fn wall_clock(mut self, wall: impl Fn() -> Wall + Send + 'static) -> Self {
        self.options.wall = Some(Box::new(wall));
        self
    }

    /// How long a shutdown waits for clients to close, in milliseconds.
    pub fn shutdown_ms(mut self, milliseconds: u64) -> Self {
        self.options.shutdown = Duration::from_millis(milliseconds);
        self
    }

    /// Restores what the store holds, if there is one, then starts to listen, all addresses or none. Connections wait until
    /// the result runs.
    ///
    /// # Errors
    /// One line that names the URL: it is wrong ([`InvalidInput`](io::ErrorKind::InvalidInput)) or cannot be listened on. Or
    /// a [`StoreFailed`](crate::StoreFailed): the store cannot be read, what it says makes no sense, or it cannot be written.
    pub fn bind(self) -> io::Result<A::Bound> {
        self.prepare().map(Into::into)
    }

    pub(crate) fn prepare(self) -> io::Result<Prepared> {
        let Self { listeners, mut options, .. } = self;
        for (number, listener) in listeners.iter().enumerate() {
            if let Some(config) = listener.machine_config() {
                let configs = &mut options.config.listeners;
                configs.resize(configs.len().max(number + 1), ListenerConfig::default());
                configs[number] = config.clone();
            }
        }
        let inbox = Inbox::default();
        let clock = Clock::start(options.wall);
        let seed = options.seed.unwrap_or_else(|| Seed(RandomState::new().hash_one(0)));
        let chain = match (&options.chain, &options.store) {
            (Some(chain), _) => chain(),
            (None, Some(_)) => Stack::durable(),
            (None, None) => Stack::standard(),
        };
        let mut broker = Broker::new(Arc::new(options.config), chain, seed, clock.now());
        // Before there is anybody to connect.
        let restore = |(engine, durability)| restore(engine, durability, seed, &mut broker, &inbox);
        let (writer, restored) = options.store.map(restore).transpose()?.unzip();
        let listening = listeners.into_iter().map(Listener::bind).collect::<io::Result<Vec<_>>>()?;
        let urls: Vec<ListenUrl> = listening.iter().map(|listening| listening.url.clone()).collect();
        let addresses =
            listening.iter().filter_map(|listening| listening.socket.as_ref()?.local_addr()).collect();
        let handle = Handle::new(inbox.0.clone(), restored);
        let layers = listening.iter().map(|listening| listening.layers.clone()).collect();
        let links = Links::new(layers, HANDSHAKES_MAX);
        let Options { on_ask, on_notice, shutdown, recorder, .. } = options;
        let mut driver = Driver::new(broker, links, clock, inbox, on_ask, on_notice, shutdown);
        driver.store(writer);
        driver.record(recorder);
        Ok(Prepared { listening, urls, addresses, handle, driver })
    }
}

fn restore(
    mut engine: Box<dyn Engine>,
    durability: Durability,
    seed: Seed,
    broker: &mut Broker,
    inbox: &Inbox,
) -> io::Result<(Writer, Restored)> {
    let began = Instant::now();
    let (image, restored) = engine.restore(broker, seed, durability).map_err(io::Error::other)?;
    let (took, Restored { records, sessions }) = (began.elapsed(), restored);
    tracing::info!(sessions, records, ?took, "restored from the store");
    Ok((Writer::start(engine, image, durability, inbox.0.clone())?, restored))
}

impl<A: Adapter> Default for Builder<A> {
    fn default() -> Self {
        let options = Options {
            config: Config::default(),
            chain: None,
            store: None,
            seed: None,
            on_ask: Box::new(|_, responder| drop(responder)),
            on_notice: Box::new(drop),
            shutdown: Duration::from_millis(Self::SHUTDOWN_MS),
            recorder: None,
            wall: None,
        };
        Self { listeners: Vec::new(), options, adapter: PhantomData }
    }
}

impl<A> fmt::Debug for Builder<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("listeners", &self.listeners).finish_non_exhaustive()
    }
}

/// A broker that listens, before its runtime drives it.
pub struct Prepared {
    listening: Vec<Listening>,
    urls: Vec<ListenUrl>,
    addresses: Vec<SocketAddr>,
    handle: Handle,
    driver: Driver,
}

impl Prepared {
    /// The URLs of the listeners, in the order they were asked for, with the addresses and ports that were bound.
    #[must_use]
    pub fn urls(&self) -> &[ListenUrl] {
        &self.urls
    }

    /// The addresses of the listeners of TCP, in the order they were asked for, with the ports the system chose.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// A handle to the broker; it works before the broker runs.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The machine, and the sockets that listen, with their numbers.
    #[must_use]
    pub fn into_parts(self) -> (Driver, Vec<(u16, ListenSocket)>) {
        let sockets = (0..).zip(self.listening);
        (self.driver, sockets.filter_map(|(number, it)| Some((number, it.socket?))).collect())
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").field("urls", &self.urls).finish_non_exhaustive()
    }
}

//! The settings of a broker, the same for every runtime.

use crate::commands::Inbox;
use crate::links::{HANDSHAKES_MAX, Links};
use crate::listener::Listening;
use crate::siblings::{Ending, SHARDS_MAX, Siblings, Threads};
use crate::store::Engine;
use crate::writer::Writer;
use crate::{Clock, Driver, Handle, ListenSocket, ListenUrl, Listener, Recorder, Responder};
use culex_core::config::ListenerConfig;
use culex_core::middleware::Shards;
use culex_core::store::{Durability, Store};
use culex_core::{Broker, Config, Notice, Query, Restored, Seed, ShardId, Stack, Wall};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
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
    shards: usize,
    chain: Option<Box<dyn Fn() -> Stack + Send>>,
    store: Option<(Box<dyn Engine>, Durability)>,
    seed: Option<Seed>,
    on_ask: OnAsk,
    on_notice: OnNotice,
    shutdown: Duration,
    recorders: Vec<Recorder>,
    wall: Option<Arc<dyn Fn() -> Wall + Send + Sync>>,
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

    /// Shards that a broker may have.
    pub const SHARDS_MAX: usize = SHARDS_MAX;

    /// How many shards share the work, each in a thread of its own: 1 unless this is said, at most
    /// [`SHARDS_MAX`](Self::SHARDS_MAX). A good number is that of the cores the broker has to itself. To clients and to the
    /// program they are one broker. What the chain and a message have to do with it, says
    /// [`Shards`].
    pub fn shards(mut self, shards: usize) -> Self {
        self.options.shards = shards;
        self
    }

    /// Makes the chain of middlewares, once per shard; if there are several, [`Stack::shard`] is called on it. Without it: all built-in ones, [`Stack::durable`] if there is a
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
    /// finds the answer. Without it every question is refused. Several shards call it one at a time.
    pub fn on_ask(mut self, on_ask: impl FnMut(Query, Responder) + Send + 'static) -> Self {
        self.options.on_ask = Box::new(on_ask);
        self
    }

    /// Gets what the machine wants the program to know, on its own thread: it must not block. Several shards call it one
    /// at a time.
    pub fn on_notice(mut self, on_notice: impl FnMut(Notice) + Send + 'static) -> Self {
        self.options.on_notice = Box::new(on_notice);
        self
    }

    /// Records what happens to the machine, from its first input on. Without it nothing is recorded, and that costs
    /// nothing. Give each broker a recorder of its own, and if it has several shards call this once for each: they are
    /// recorded apart, the first one that is given records the first shard.
    pub fn record(mut self, recorder: Recorder) -> Self {
        self.options.recorders.push(recorder);
        self
    }

    /// Tells the time of day instead of the system, for tests: it may jump. It is asked once per turn, on the thread of the
    /// machine. How much time passes is still told by the system's monotonic clock.
    pub fn wall_clock(mut self, wall: impl Fn() -> Wall + Send + Sync + 'static) -> Self {
        self.options.wall = Some(Arc::new(wall));
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
        let count = options.shards;
        let wrong = match count {
            1..=SHARDS_MAX if count > 1 && options.store.is_some() => {
                Some("what is stored is kept by one shard".to_owned())
            }
            1..=SHARDS_MAX => None,
            _ => Some(format!("a broker has 1 to {SHARDS_MAX} shards, not {count}")),
        };
        if let Some(wrong) = wrong {
            return Err(io::Error::new(ErrorKind::InvalidInput, wrong));
        }
        let clock = Clock::start(options.wall.take());
        let seed = options.seed.unwrap_or_else(|| Seed(RandomState::new().hash_one(0)));
        let inboxes: Vec<Inbox> = (0..count).map(|_| Inbox::default()).collect();
        let config = Arc::new(std::mem::take(&mut options.config));
        let mut brokers: Vec<Broker> =
            (0..count).map(|me| options.machine(&config, me, seed, &clock)).collect();
        // Before there is anybody to connect.
        let restore = |(engine, durability)| restore(engine, durability, seed, &mut brokers[0], &inboxes[0]);
        let (mut writer, restored) = options.store.take().map(restore).transpose()?.unzip();
        let listening = listeners.into_iter().map(Listener::bind).collect::<io::Result<Vec<_>>>()?;
        let urls: Vec<ListenUrl> = listening.iter().map(|listening| listening.url.clone()).collect();
        let addresses =
            listening.iter().filter_map(|listening| listening.socket.as_ref()?.local_addr()).collect();
        let commands: Vec<_> = inboxes.iter().map(|inbox| inbox.0.clone()).collect();
        let handle = Handle::new(commands.clone().into(), restored);
        let layers: Vec<_> = listening.iter().map(|listening| listening.layers.clone()).collect();
        let siblings = if count > 1 { Siblings::of(&commands, &config) } else { Vec::new() };
        let ending = siblings.first().map(Siblings::ending);
        let (mut siblings, mut recorders) = (siblings.into_iter(), options.recorders.into_iter());
        let sockets = shared_sockets(listening, count)?;
        let callbacks = shared_callbacks(options.on_ask, options.on_notice, count);
        let parts = brokers.into_iter().zip(inboxes).zip(sockets).zip(callbacks);
        let shards = parts.map(|(((broker, inbox), sockets), (on_ask, on_notice))| {
            let links = Links::new(layers.clone(), HANDSHAKES_MAX);
            let clock = clock.clone();
            let mut driver = Driver::new(broker, links, clock, inbox, on_ask, on_notice, options.shutdown);
            driver.store(writer.take());
            driver.siblings(siblings.next());
            driver.record(recorders.next());
            (driver, sockets)
        });
        let shards = shards.collect();
        Ok(Prepared { shards, urls, addresses, handle, ending })
    }
}

impl Options {
    /// The machine of a shard.
    fn machine(&self, config: &Arc<Config>, me: usize, seed: Seed, clock: &Clock) -> Broker {
        let chain = match (&self.chain, &self.store) {
            (Some(chain), _) => chain(),
            (None, Some(_)) => Stack::durable(),
            (None, None) => Stack::standard(),
        };
        let (me, of) = (me as u16, self.shards as u16);
        let chain = if of > 1 { chain.shard(Shards::new(ShardId(me), of, seed)) } else { chain };
        // What shards choose at random differs, names of clients for instance.
        let own = Seed(seed.0.wrapping_add(u64::from(me).wrapping_mul(ODD)));
        Broker::new(config.clone(), chain, own, clock.now())
    }
}

/// The sockets that listen, for each shard: all accept from the same ones.
fn shared_sockets(listening: Vec<Listening>, count: usize) -> io::Result<Vec<Sockets>> {
    let first: Sockets =
        (0..).zip(listening).filter_map(|(number, it): (u16, _)| Some((number, it.socket?))).collect();
    let mut all = Vec::new();
    for _ in 1..count {
        let again = first.iter().map(|(number, socket)| Ok((*number, socket.try_clone()?)));
        all.push(again.collect::<io::Result<_>>()?);
    }
    // Its file goes with the first shard.
    all.insert(0, first);
    Ok(all)
}

/// What the program wants to hear, for each shard.
fn shared_callbacks(on_ask: OnAsk, on_notice: OnNotice, count: usize) -> Vec<(OnAsk, OnNotice)> {
    if count == 1 {
        return vec![(on_ask, on_notice)];
    }
    let (ask, notice) = (Arc::new(Mutex::new(on_ask)), Arc::new(Mutex::new(on_notice)));
    let pair = |_| {
        let (ask, notice) = (ask.clone(), notice.clone());
        let on_ask: OnAsk = Box::new(move |query, responder| {
            ask.lock().unwrap_or_else(PoisonError::into_inner)(query, responder);
        });
        let on_notice: OnNotice =
            Box::new(move |heard| notice.lock().unwrap_or_else(PoisonError::into_inner)(heard));
        (on_ask, on_notice)
    };
    (0..count).map(pair).collect()
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
            shards: 1,
            chain: None,
            store: None,
            seed: None,
            on_ask: Box::new(|_, responder| drop(responder)),
            on_notice: Box::new(drop),
            shutdown: Duration::from_millis(Self::SHUTDOWN_MS),
            recorders: Vec::new(),
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
    shards: Vec<(Driver, Sockets)>,
    urls: Vec<ListenUrl>,
    addresses: Vec<SocketAddr>,
    handle: Handle,
    ending: Option<Ending>,
}

/// The sockets that listen, with the numbers of their listeners.
pub type Sockets = Vec<(u16, ListenSocket)>;

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

    /// The machine of the first shard and its sockets, to be run by the caller. All others begin to run here, by `run`, each in a
    /// thread of its own.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(
        self,
        run: impl Fn(Driver, Sockets) -> io::Result<()> + Clone + Send + 'static,
    ) -> io::Result<(Driver, Sockets, Threads)> {
        let mut others = self.shards;
        let (driver, sockets) = others.remove(0);
        let threads = Threads::start(self.ending, others, move |(driver, sockets)| run(driver, sockets))?;
        Ok((driver, sockets, threads))
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").field("urls", &self.urls).finish_non_exhaustive()
    }
}

/// Makes of one seed several.
const ODD: u64 = 0x9E37_79B9_7F4A_7C15;

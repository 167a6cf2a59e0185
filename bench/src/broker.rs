//! A broker as a process of its own: how it is started, and what it uses.

use crate::Trouble;
use crate::stream::{Address, Place, Transport};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Which broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Kind {
    /// `culex serve` on tokio.
    Tokio,
    /// `culex serve` on smol.
    Smol,
    /// `culex serve` on blocking threads.
    Std,
    /// For comparison.
    Mosquitto,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Tokio, Self::Smol, Self::Std, Self::Mosquitto];

    /// mosquitto 2.0 as Debian builds it answers no WebSocket handshake here.
    pub(crate) fn speaks(self, transport: Transport) -> bool {
        self != Self::Mosquitto || !transport.has_websocket()
    }

    /// A thread per connection.
    pub(crate) fn has_threads(self) -> bool {
        self == Self::Std
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tokio => "tokio",
            Self::Smol => "smol",
            Self::Std => "std",
            Self::Mosquitto => "mosquitto",
        })
    }
}

/// A directory with a throw-away certificate, and where the files of brokers go. Dropping it removes it.
pub(crate) struct Scratch {
    path: PathBuf,
    /// Every handshake is a full one.
    pub(crate) full: Arc<rustls::ClientConfig>,
    /// Sessions are resumed.
    pub(crate) resuming: Arc<rustls::ClientConfig>,
}

impl Scratch {
    pub(crate) fn new() -> Result<Self, Trouble> {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("culex-bench-{}-{number}", std::process::id()));
        fs::create_dir(&path)?;
        // P-256, as most certificates of brokers.
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        fs::write(path.join("broker.crt"), made.cert.pem())?;
        fs::write(path.join("broker.key"), made.signing_key.serialize_pem())?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone())?;
        let resuming = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let mut full = resuming.clone();
        full.resumption = rustls::client::Resumption::disabled();
        Ok(Self { path, full: full.into(), resuming: resuming.into() })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A broker that runs. Dropping it kills it.
pub(crate) struct Broker {
    child: Child,
    places: Vec<Place>,
}

impl Broker {
    /// Starts `program` as `kind` with a listener for each transport, on core 0 if `pinned`; then this thread is on core 1.
    pub(crate) fn start(
        program: &Path,
        kind: Kind,
        scratch: &Scratch,
        pinned: bool,
    ) -> Result<Self, Trouble> {
        let places = places(kind, scratch)?;
        let file = scratch.path.join(format!("{kind}.conf"));
        fs::write(
            &file,
            if kind == Kind::Mosquitto { mosquitto(&places, scratch) } else { culex(&places, kind, scratch) },
        )?;
        let mut command = Command::new(program);
        match kind {
            // It warns of being run by root.
            Kind::Mosquitto => command.arg("-c").arg(&file).stderr(Stdio::null()),
            _ => command.args(["serve", "--config"]).arg(&file),
        };
        command.stdin(Stdio::null()).stdout(Stdio::null());
        if pinned {
            pin(0)?;
        }
        let child = command.spawn().map_err(|error| Trouble::new(format!("{}: {error}", program.display())));
        if pinned {
            pin(1)?;
        }
        let mut broker = Self { child: child?, places };
        broker.wait()?;
        Ok(broker)
    }

    fn wait(&mut self) -> Result<(), Trouble> {
        let until = Instant::now() + START_MAX;
        let is_there = |place: &Place| match &place.address {
            Address::Tcp(address) => std::net::TcpStream::connect(address).is_ok(),
            Address::Unix(path) => std::os::unix::net::UnixStream::connect(path).is_ok(),
        };
        while !self.places.iter().all(is_there) {
            if let Some(status) = self.child.try_wait()? {
                return Err(Trouble::new(format!("the broker ended at its start: {status}")));
            }
            if Instant::now() > until {
                return Err(Trouble::new("the broker does not listen"));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    pub(crate) fn place(&self, transport: Transport) -> Option<&Place> {
        self.places.iter().find(|place| place.transport == transport)
    }

    /// Microseconds of CPU so far, in steps of a clock tick (mostly 10 ms).
    pub(crate) fn cpu_us(&self) -> Result<f64, Trouble> {
        cpu_us(&self.child.id().to_string())
    }

    /// Bytes of memory that are its own: program text and other files that are mapped do not count.
    pub(crate) fn memory(&self) -> Result<f64, Trouble> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id()))?;
        let private = text.lines().filter(|line| line.starts_with("Private_"));
        let kilobytes = private.filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
        Ok(kilobytes.sum::<f64>() * 1024.0)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU of a process, user and system, all threads.
pub(crate) fn cpu_us(process: &str) -> Result<f64, Trouble> {
    let text = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // Behind the name, which may hold anything: utime and stime are the fields 14 and 15 of proc(5).
    let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    let ticks: f64 = fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    Ok(ticks * 1e6 / rustix::param::clock_ticks_per_second() as f64)
}

fn pin(core: usize) -> Result<(), Trouble> {
    let mut cores = CpuSet::new();
    cores.set(core);
    Ok(sched_setaffinity(None, &cores)?)
}

fn places(kind: Kind, scratch: &Scratch) -> Result<Vec<Place>, Trouble> {
    // All are held until all are known, so that none comes twice.
    let mut held = Vec::new();
    let mut places = Vec::new();
    for transport in Transport::ALL.into_iter().filter(|transport| kind.speaks(*transport)) {
        let address = if transport == Transport::Unix {
            let path = scratch.path.join(format!("{kind}.sock"));
            let _ = fs::remove_file(&path);
            Address::Unix(path)
        } else {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let address = listener.local_addr()?;
            held.push(listener);
            Address::Tcp(address)
        };
        places.push(Place { transport, address });
    }
    Ok(places)
}

fn culex(places: &[Place], kind: Kind, scratch: &Scratch) -> String {
    let mut text = format!("runtime = \"{kind}\"\nlog = \"error\"\n");
    for Place { transport, address } in places {
        let url = match (transport, address) {
            (Transport::Ws, Address::Tcp(address)) => format!("ws://{address}/mqtt"),
            (Transport::Tls, Address::Tcp(address)) => format!("mqtts://{address}"),
            (Transport::Wss, Address::Tcp(address)) => format!("wss://{address}/mqtt"),
            (_, Address::Tcp(address)) => format!("mqtt://{address}"),
            (_, Address::Unix(path)) => format!("unix:{}", path.display()),
        };
        text += &format!("[[listener]]\nurl = \"{url}\"\n");
        if transport.has_tls() {
            let path = scratch.path.display();
            text += &format!("certificate = \"{path}/broker.crt\"\nkey = \"{path}/broker.key\"\n");
        }
    }
    text
}

/// Nothing on the disk, no limits that drop messages.
fn mosquitto(places: &[Place], scratch: &Scratch) -> String {
    let mut text = "user root\nallow_anonymous true\npersistence false\nmax_inflight_messages 0\nmax_queued_messages 0\n\
        max_queued_bytes 0\nsys_interval 0\nset_tcp_nodelay true\nlog_dest none\n"
        .to_owned();
    for Place { transport, address } in places {
        text += &match address {
            Address::Tcp(SocketAddr::V4(address)) => {
                format!("listener {} {}\n", address.port(), address.ip())
            }
            Address::Tcp(address) => format!("listener {}\n", address.port()),
            Address::Unix(path) => format!("listener 0 {}\n", path.display()),
        };
        if transport.has_tls() {
            let path = scratch.path.display();
            text += &format!("certfile {path}/broker.crt\nkeyfile {path}/broker.key\n");
        }
    }
    text
}

const START_MAX: Duration = Duration::from_secs(20);

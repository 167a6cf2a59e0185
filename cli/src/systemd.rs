//! What a service manager and a broker tell each other: sockets that listen already, and how the broker is.
//!
//! The protocol is systemd's, and others speak it: `LISTEN_FDS` (sd_listen_fds(3)), `NOTIFY_SOCKET` (sd_notify(3)) and
//! `WATCHDOG_USEC` (sd_watchdog_enabled(3)). Without these variables nothing here does anything.

use crate::listener::ListenerSettings;
use crate::problem::{Problem, words};
use culex_runtime::{Handle, ListenAddress, ListenUrl, Listener, Tls};
use listenfd::ListenFd;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::{self, UnixDatagram};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

/// The sockets that the service manager opened. Each belongs to the listener that has its address.
#[derive(Debug, Default)]
pub(crate) struct Given(Vec<(Address, OwnedFd)>);

#[derive(Debug, PartialEq, Eq)]
enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Given {
    /// Takes them over. To be called once, before anything else opens a file.
    ///
    /// # Errors
    /// One of them is no socket that listens.
    pub(crate) fn take() -> Result<Self, Problem> {
        let mut sockets = ListenFd::from_env();
        let mut given = Vec::new();
        for index in 0..sockets.len() {
            let socket = take_one(&mut sockets, index).map_err(|error| {
                Problem::failure(format!("a socket of the service manager: {}", words(&error)))
            })?;
            given.push(socket);
        }
        Ok(Self(given))
    }

    /// All listeners, each on a socket that was given if there is one with its address.
    ///
    /// # Errors
    /// No URL has the address of a socket: whoever connects to it would wait for ever.
    pub(crate) fn listeners(
        self,
        settings: &[ListenerSettings],
        mut tls: impl FnMut(usize) -> Option<Tls>,
    ) -> Result<Vec<Listener>, Problem> {
        let listeners = settings.iter().enumerate();
        let mut listeners: Vec<_> =
            listeners.map(|(index, settings)| Some(settings.listener(tls(index)))).collect();
        for (address, socket) in self.0 {
            let mut urls = settings.iter().map(|settings| &settings.url);
            let position = urls.position(|url| address.is_of(url)).ok_or_else(|| {
                Problem::mistakes(vec![format!(
                    "the service manager listens on {address}, but no listener has this address"
                )])
            })?;
            listeners[position] = listeners[position].take().map(|listener| listener.socket(socket));
        }
        Ok(listeners.into_iter().flatten().collect())
    }
}

fn take_one(sockets: &mut ListenFd, index: usize) -> io::Result<(Address, OwnedFd)> {
    if let Ok(Some(listener)) = sockets.take_unix_listener(index) {
        let address = listener.local_addr()?;
        let path = address.as_pathname().ok_or_else(|| io::Error::other("a Unix socket without a path"))?;
        return Ok((Address::Unix(path.into()), listener.into()));
    }
    let listener = sockets.take_tcp_listener(index)?.ok_or_else(|| io::Error::other("it was taken"))?;
    Ok((Address::Tcp(listener.local_addr()?), listener.into()))
}

impl Address {
    fn is_of(&self, url: &ListenUrl) -> bool {
        match (self, url.address()) {
            (Self::Tcp(address), _) => url.resolve().is_ok_and(|addresses| addresses.contains(address)),
            (Self::Unix(path), ListenAddress::Unix(wanted)) => {
                std::path::absolute(wanted).is_ok_and(|wanted| wanted == *path)
            }
            (Self::Unix(_), _) => false,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// Tells the service manager how the broker is, if there is one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Notifier {
    socket: Option<OsString>,
}

impl Notifier {
    /// The one that the environment names.
    pub(crate) fn from_env() -> Self {
        Self { socket: std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) }
    }

    /// The broker listens.
    pub(crate) fn ready(&self) {
        self.tell("READY=1");
    }

    /// The broker reads its files anew; `ready` says that it is done.
    pub(crate) fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let us = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={us}"));
    }

    /// The broker says goodbye.
    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    fn tell(&self, state: &str) {
        let Some(name) = &self.socket else { return };
        if let Err(error) = send(name, state) {
            tracing::warn!("cannot tell the service manager {state}: {}", words(&error));
        }
    }

    /// As often as the service manager wants to hear it, tells it that the broker takes its turns: if it does.
    pub(crate) fn watch(&self, handle: Handle) -> io::Result<()> {
        let variable = |name| std::env::var(name).ok();
        let Some(every) = watchdog(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID")) else {
            return Ok(());
        };
        let notifier = self.clone();
        let watch = move || {
            loop {
                if handle.is_alive(every) {
                    notifier.tell("WATCHDOG=1");
                }
                thread::sleep(every);
            }
        };
        thread::Builder::new().name("watchdog".to_owned()).spawn(watch).map(drop)
    }
}

/// How often to report, which is twice as often as asked; `None`: nobody asked this process.
fn watchdog(microseconds: Option<String>, pid: Option<String>) -> Option<Duration> {
    let microseconds = microseconds?.parse().ok().filter(|us| *us > 0)?;
    let ours = |pid: String| pid.parse() == Ok(std::process::id());
    pid.is_none_or(ours).then(|| Duration::from_micros(microseconds) / 2)
}

/// One datagram.
fn send(name: &OsStr, state: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    // A service manager that does not read must not stop the broker.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &address(name)?).map(drop)
}

/// A name that begins with `@` is no file.
fn address(name: &OsStr) -> io::Result<net::SocketAddr> {
    #[cfg(target_os = "linux")]
    if let Some(name) = name.as_encoded_bytes().strip_prefix(b"@") {
        return <net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name);
    }
    net::SocketAddr::from_pathname(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_belongs_to_the_listener_with_its_address() {
        let is_of = |address: &Address, url: &str| address.is_of(&url.parse().expect("a URL"));
        let tcp = Address::Tcp(([127, 0, 0, 1], 1883).into());
        assert!(is_of(&tcp, "mqtt://127.0.0.1") && is_of(&tcp, "ws://127.0.0.1:1883/mqtt"));
        assert!(!is_of(&tcp, "mqtt://127.0.0.1:1884") && !is_of(&tcp, "unix:/x") && !is_of(&tcp, "mqtt://*"));
        assert!(is_of(&Address::Tcp("[::]:1883".parse().expect("an address")), "mqtt://*"));
        let unix = Address::Unix("/run/x".into());
        assert!(is_of(&unix, "unix:/run/x") && !is_of(&unix, "unix:/run/y"));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_service_manager_without_a_file_is_told_as_well() {
        use std::os::linux::net::SocketAddrExt;
        let name = format!("culex-test-{}", std::process::id());
        let address = net::SocketAddr::from_abstract_name(&name).expect("a name");
        let manager = UnixDatagram::bind_addr(&address).expect("a socket");
        Notifier { socket: Some(format!("@{name}").into()) }.ready();
        let mut datagram = [0; 20];
        let count = manager.recv(&mut datagram).expect("a datagram");
        assert_eq!(&datagram[..count], b"READY=1");
    }

    #[test]
    fn the_watchdog_is_fed_twice_as_often_as_it_asks() {
        let watchdog = |us: Option<&str>, pid: Option<String>| watchdog(us.map(str::to_owned), pid);
        let every = Some(Duration::from_secs(1));
        assert_eq!(watchdog(Some("2000000"), None), every);
        assert_eq!(watchdog(Some("2000000"), Some(std::process::id().to_string())), every);
        assert_eq!(watchdog(Some("2000000"), Some("1".to_owned())), None);
        assert_eq!(watchdog(Some("0"), None), None);
        assert_eq!(watchdog(Some("x"), None), None);
        assert_eq!(watchdog(None, None), None);
    }
}

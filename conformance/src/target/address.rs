//! Any broker at an address.

use super::stream::{Place, Stream, Tls, Trust};
use super::websocket::WebSocket;
use super::{Broker, Leave, Read, Target};
use std::fmt;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, ToSocketAddrs as _};
use std::time::{Duration, Instant};

/// A broker at a URL; by WebSocket with `ws` and `wss`.
#[derive(Debug, Clone)]
pub struct Address {
    url: String,
    place: Place,
    tls: Option<Tls>,
    websocket: bool,
    patience: Duration,
}

/// An address that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlError(String);

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UrlError {}

impl Address {
    /// A broker at `mqtt://host[:port]`, `mqtts://…`, `ws://host[:port][/path]`, `wss://…` or `unix:path`, that may take
    /// `patience` for an answer. TLS needs to know whom to trust.
    ///
    /// # Errors
    /// It has another form, the host is not known, or what TLS needs is not there.
    pub fn new(url: &str, patience: Duration, trust: Option<&Trust>) -> Result<Self, UrlError> {
        let wrong = |what: &str| UrlError(format!("{url}: {what}"));
        let whole = || wrong("expected mqtt://host:port, ws://host:port/path, mqtts://, wss:// or unix:path");
        if let Some(path) = url.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            let place = Place::Unix(path.into());
            return Ok(Self { url: url.to_owned(), place, tls: None, websocket: false, patience });
        }
        let (scheme, rest) = url.split_once("://").ok_or_else(whole)?;
        let (websocket, secure, port) = match scheme {
            "mqtt" => (false, false, 1883),
            "mqtts" => (false, true, 8883),
            "ws" => (true, false, 80),
            "wss" => (true, true, 443),
            _ => return Err(whole()),
        };
        let place =
            if websocket { rest.split('/').next().unwrap_or_default() } else { rest.trim_end_matches('/') };
        let (host, port) = match place.rsplit_once(':') {
            Some((host, digits)) if !digits.ends_with(']') => (host, digits.parse().map_err(|_| whole())?),
            _ => (place, port),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(whole());
        }
        let mut addresses = (host, port).to_socket_addrs().map_err(|error| wrong(&error.to_string()))?;
        let address = addresses.next().ok_or_else(|| wrong("the host has no address"))?;
        let tls = match (secure, trust) {
            (false, _) => None,
            (true, None) => {
                return Err(wrong("TLS needs to know whom to trust: --ca-file FILE or --insecure"));
            }
            (true, Some(trust)) => {
                let protocol = if websocket { "http/1.1" } else { "mqtt" };
                Some(Tls::new(host, trust, protocol).map_err(UrlError)?)
            }
        };
        Ok(Self { url: url.to_owned(), place: Place::Tcp(address), tls, websocket, patience })
    }
}

impl Target for Address {
    fn broker(&self, needs: &[(String, String)], websocket: bool) -> Result<Box<dyn Broker>, String> {
        if websocket && !self.websocket {
            return Err("needs WebSocket: give a URL that begins with ws:// or wss://".into());
        }
        if let Some((key, value)) = needs.first() {
            return Err(format!("needs {key} = {value}, which cannot be set from here"));
        }
        Ok(Box::new(AtAddress { address: self.clone(), connections: Vec::new() }))
    }

    fn name(&self) -> String {
        self.url.clone()
    }

    fn parallel(&self) -> usize {
        16
    }
}

#[derive(Debug)]
struct AtAddress {
    address: Address,
    connections: Vec<Connection>,
}

#[derive(Debug)]
struct Connection {
    stream: Stream,
    websocket: Option<Box<WebSocket>>,
}

impl Connection {
    /// Reads what comes next on the wire.
    fn read_wire(&mut self, within: Duration) -> Read {
        let _ = self.stream.set_read_timeout(within.max(Duration::from_millis(1)));
        let mut bytes = vec![0; 65_536];
        match self.stream.read(&mut bytes) {
            Ok(0) => Read::Closed,
            Ok(count) => {
                bytes.truncate(count);
                Read::Bytes(bytes)
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => Read::Nothing,
                _ => Read::Closed,
            },
        }
    }

    /// Reads once; what came by WebSocket may hold no data at all.
    fn read_once(&mut self, within: Duration) -> Read {
        let (bytes, websocket) = match (self.read_wire(within), &mut self.websocket) {
            (Read::Bytes(bytes), Some(websocket)) => (bytes, websocket),
            (read, _) => return read,
        };
        let mut plain = Vec::new();
        let received = websocket.receive(&bytes, &mut plain);
        // Answers to pings and to a goodbye.
        let _ = self.stream.write_all(&websocket.take_wire());
        received.map_or_else(Read::Wrong, |()| Read::Bytes(plain))
    }

    fn read(&mut self, within: Duration) -> Read {
        let end = Instant::now() + within;
        loop {
            match self.read_once(end.saturating_duration_since(Instant::now())) {
                Read::Bytes(bytes) if bytes.is_empty() => {}
                read => return read,
            }
        }
    }

    /// Sends the request of a WebSocket and waits for the answer.
    fn upgrade(&mut self, within: Duration) -> Result<(), String> {
        let end = Instant::now() + within;
        let Some(websocket) = &mut self.websocket else { return Ok(()) };
        let _ = self.stream.write_all(&websocket.take_wire());
        while self.websocket.as_ref().is_some_and(|websocket| !websocket.is_open()) {
            match self.read_once(end.saturating_duration_since(Instant::now())) {
                Read::Bytes(bytes) if bytes.is_empty() => {}
                Read::Bytes(_) => return Err("data before there was a CONNECT".into()),
                Read::Closed => return Err("the broker closed instead of upgrading".into()),
                Read::Nothing => return Err("no answer to the request for a WebSocket".into()),
                Read::Wrong(wrong) => return Err(wrong),
            }
        }
        Ok(())
    }
}

impl Broker for AtAddress {
    fn open(&mut self, offers: &[String]) -> Result<usize, String> {
        let Address { url, place, tls, websocket, patience } = &self.address;
        let stream = Stream::connect(place, tls.as_ref(), *patience)
            .map_err(|error| format!("cannot connect: {error}"))?;
        let websocket = websocket.then(|| WebSocket::new(url, offers)).transpose()?;
        let mut connection = Connection { stream, websocket: websocket.map(Box::new) };
        connection.upgrade(*patience)?;
        self.connections.push(connection);
        Ok(self.connections.len() - 1)
    }

    fn write(&mut self, connection: usize, bytes: &[u8]) {
        let Connection { stream, websocket } = &mut self.connections[connection];
        // A broker that has closed does not listen; what it said is still to be read.
        let _ = match websocket {
            None => stream.write_all(bytes),
            Some(websocket) => {
                websocket.send(bytes);
                stream.write_all(&websocket.take_wire())
            }
        };
    }

    fn write_frame(&mut self, connection: usize, frame: &[u8]) {
        let _ = self.connections[connection].stream.write_all(frame);
    }

    fn read(&mut self, connection: usize, within: Duration) -> Read {
        self.connections[connection].read(within)
    }

    fn leave(&mut self, connection: usize, _how: Leave) {
        self.connections[connection].stream.shutdown(Shutdown::Write);
        // The broker closes when it has read the end: then it knows.
        let end = Instant::now() + LEAVE_TIME;
        while Instant::now() < end && matches!(self.read(connection, LEAVE_TIME), Read::Bytes(_)) {}
        self.connections[connection].stream.shutdown(Shutdown::Both);
    }

    fn pass(&mut self, time: Duration) {
        std::thread::sleep(time);
    }

    fn settle(&mut self) {
        std::thread::sleep(SETTLE_TIME);
    }

    fn patience(&self) -> Duration {
        self.address.patience
    }

    fn virtual_time(&self) -> bool {
        false
    }
}

const LEAVE_TIME: Duration = Duration::from_millis(500);
const SETTLE_TIME: Duration = Duration::from_millis(30);

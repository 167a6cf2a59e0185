//! Any broker at an address.

use super::websocket::WebSocket;
use super::{Broker, Leave, Read, Target};
use std::fmt;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

/// A broker at `mqtt://host:port` or, by WebSocket, at `ws://host:port/path`.
#[derive(Debug, Clone)]
pub struct Tcp {
    url: String,
    address: SocketAddr,
    patience: Duration,
    websocket: bool,
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

impl Tcp {
    /// A broker at an address of the form `mqtt://host[:port]` or `ws://host[:port][/path]`, that may take `patience`
    /// for an answer.
    ///
    /// # Errors
    /// It has another form, or the host is not known.
    pub fn new(url: &str, patience: Duration) -> Result<Self, UrlError> {
        let wrong = || UrlError(format!("{url}: expected mqtt://host:port or ws://host:port/path"));
        let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
        let (websocket, port, place) = match scheme {
            "mqtt" => (false, 1883, rest.trim_end_matches('/')),
            "ws" => (true, 80, rest.split('/').next().unwrap_or_default()),
            _ => return Err(wrong()),
        };
        if place.is_empty() {
            return Err(wrong());
        }
        let has_port = place.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let place = if has_port { place.to_owned() } else { format!("{place}:{port}") };
        let mut addresses = place.to_socket_addrs().map_err(|error| UrlError(format!("{url}: {error}")))?;
        let address = addresses.next().ok_or_else(|| UrlError(format!("{url}: the host has no address")))?;
        Ok(Self { url: url.to_owned(), address, patience, websocket })
    }
}

impl Target for Tcp {
    fn broker(&self, needs: &[(String, String)], websocket: bool) -> Result<Box<dyn Broker>, String> {
        if websocket && !self.websocket {
            return Err("needs WebSocket: give a URL that begins with ws://".into());
        }
        if let Some((key, value)) = needs.first() {
            return Err(format!("needs {key} = {value}, which cannot be set from here"));
        }
        let Self { address, patience, .. } = *self;
        let websocket = self.websocket.then(|| self.url.clone());
        Ok(Box::new(AtAddress { address, patience, websocket, connections: Vec::new() }))
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
    address: SocketAddr,
    patience: Duration,
    /// The URL, if connections are by WebSocket.
    websocket: Option<String>,
    connections: Vec<Connection>,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    websocket: Option<Box<WebSocket>>,
}

impl Connection {
    /// Reads what comes next on the wire.
    fn read_wire(&mut self, within: Duration) -> Read {
        let _ = self.stream.set_read_timeout(Some(within.max(Duration::from_millis(1))));
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
        let connect = || {
            let stream = TcpStream::connect_timeout(&self.address, self.patience)?;
            stream.set_nodelay(true)?;
            stream.set_write_timeout(Some(self.patience))?;
            Ok(stream)
        };
        let stream = connect().map_err(|error: std::io::Error| format!("cannot connect: {error}"))?;
        let websocket = self.websocket.as_ref().map(|url| WebSocket::new(url, offers)).transpose()?;
        let mut connection = Connection { stream, websocket: websocket.map(Box::new) };
        connection.upgrade(self.patience)?;
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
        let _ = self.connections[connection].stream.shutdown(Shutdown::Write);
        // The broker closes when it has read the end: then it knows.
        let end = Instant::now() + LEAVE_TIME;
        while Instant::now() < end && matches!(self.read(connection, LEAVE_TIME), Read::Bytes(_)) {}
        let _ = self.connections[connection].stream.shutdown(Shutdown::Both);
    }

    fn pass(&mut self, time: Duration) {
        std::thread::sleep(time);
    }

    fn settle(&mut self) {
        std::thread::sleep(SETTLE_TIME);
    }

    fn patience(&self) -> Duration {
        self.patience
    }

    fn virtual_time(&self) -> bool {
        false
    }
}

const LEAVE_TIME: Duration = Duration::from_millis(500);
const SETTLE_TIME: Duration = Duration::from_millis(30);

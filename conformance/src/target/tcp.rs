//! Any broker at an address.

use super::{Broker, Leave, Read, Target};
use std::fmt;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

/// A broker at `mqtt://host:port`.
#[derive(Debug, Clone)]
pub struct Tcp {
    url: String,
    address: SocketAddr,
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

impl Tcp {
    /// A broker at an address of the form `mqtt://host[:port]`, that may take `patience` for an answer.
    ///
    /// # Errors
    /// It has another form, or the host is not known.
    pub fn new(url: &str, patience: Duration) -> Result<Self, UrlError> {
        let place = url.strip_prefix("mqtt://").map(|rest| rest.trim_end_matches('/'));
        let Some(place) = place.filter(|place| !place.is_empty()) else {
            return Err(UrlError(format!("{url}: expected mqtt://host:port")));
        };
        let has_port = place.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let place = if has_port { place.to_owned() } else { format!("{place}:1883") };
        let mut addresses = place.to_socket_addrs().map_err(|error| UrlError(format!("{url}: {error}")))?;
        let address = addresses.next().ok_or_else(|| UrlError(format!("{url}: the host has no address")))?;
        Ok(Self { url: url.to_owned(), address, patience })
    }
}

impl Target for Tcp {
    fn broker(&self, needs: &[(String, String)]) -> Result<Box<dyn Broker>, String> {
        if let Some((key, value)) = needs.first() {
            return Err(format!("needs {key} = {value}, which cannot be set from here"));
        }
        let Self { address, patience, .. } = *self;
        Ok(Box::new(AtAddress { address, patience, streams: Vec::new() }))
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
    streams: Vec<TcpStream>,
}

impl Broker for AtAddress {
    fn open(&mut self) -> Result<usize, String> {
        let connect = || {
            let stream = TcpStream::connect_timeout(&self.address, self.patience)?;
            stream.set_nodelay(true)?;
            stream.set_write_timeout(Some(self.patience))?;
            Ok(stream)
        };
        let stream = connect().map_err(|error: std::io::Error| format!("cannot connect: {error}"))?;
        self.streams.push(stream);
        Ok(self.streams.len() - 1)
    }

    fn write(&mut self, connection: usize, bytes: &[u8]) {
        // A broker that has closed does not listen; what it said is still to be read.
        let _ = self.streams[connection].write_all(bytes);
    }

    fn read(&mut self, connection: usize, within: Duration) -> Read {
        let stream = &mut self.streams[connection];
        let _ = stream.set_read_timeout(Some(within.max(Duration::from_millis(1))));
        let mut bytes = vec![0; 65_536];
        match stream.read(&mut bytes) {
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

    fn leave(&mut self, connection: usize, _how: Leave) {
        let _ = self.streams[connection].shutdown(Shutdown::Write);
        // The broker closes when it has read the end: then it knows.
        let end = Instant::now() + LEAVE_TIME;
        while Instant::now() < end && matches!(self.read(connection, LEAVE_TIME), Read::Bytes(_)) {}
        let _ = self.streams[connection].shutdown(Shutdown::Both);
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

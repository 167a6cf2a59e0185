//! Where a listener is, and a socket to it with the layers that a client needs: TLS and WebSocket.

use crate::Trouble;
use rustix::fd::{AsFd, BorrowedFd};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What carries MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Transport {
    Tcp,
    Unix,
    Ws,
    Tls,
    Wss,
}

impl Transport {
    pub(crate) const ALL: [Self; 5] = [Self::Tcp, Self::Unix, Self::Ws, Self::Tls, Self::Wss];

    pub(crate) fn has_tls(self) -> bool {
        matches!(self, Self::Tls | Self::Wss)
    }

    pub(crate) fn has_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Unix => "unix",
            Self::Ws => "ws",
            Self::Tls => "tls",
            Self::Wss => "wss",
        })
    }
}

/// A listener.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) transport: Transport,
    pub(crate) address: Address,
}

#[derive(Debug, Clone)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// A socket and its layers.
pub(crate) struct Stream {
    socket: Socket,
    tls: Option<Box<ClientConnection>>,
    websocket: bool,
    /// Bytes for the socket, of which so many were written.
    wire: Vec<u8>,
    written: usize,
    /// A frame that is being made, and what was received of one that is not complete.
    frame: Vec<u8>,
    frames: Vec<u8>,
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Connects, and shakes the hands that the transport has. It blocks until [`unblock`](Self::unblock).
    pub(crate) fn open(place: &Place, tls: &Arc<rustls::ClientConfig>) -> Result<Self, Trouble> {
        let socket = match &place.address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Socket::Tcp(stream)
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Socket::Unix(stream)
            }
        };
        let tls = match place.transport.has_tls() {
            true => {
                let name = ServerName::try_from("localhost")?;
                Some(Box::new(ClientConnection::new(tls.clone(), name)?))
            }
            false => None,
        };
        let (wire, frame, frames) = (Vec::new(), Vec::new(), Vec::new());
        let mut stream = Self { socket, tls, websocket: false, wire, written: 0, frame, frames };
        stream.shake_hands()?;
        if place.transport.has_websocket() {
            stream.upgrade()?;
        }
        Ok(stream)
    }

    fn shake_hands(&mut self) -> Result<(), Trouble> {
        let (Some(tls), socket) = (&mut self.tls, &mut self.socket) else { return Ok(()) };
        while tls.is_handshaking() {
            tls.complete_io(socket)?;
        }
        Ok(())
    }

    fn upgrade(&mut self) -> Result<(), Trouble> {
        self.put(REQUEST);
        self.flush()?;
        let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
        while !answer.ends_with(b"\r\n\r\n") {
            self.fill(&mut buffer, &mut answer)?;
        }
        if !answer.starts_with(b"HTTP/1.1 101") {
            return Err(Trouble::new(format!("no WebSocket: {}", String::from_utf8_lossy(&answer))));
        }
        self.websocket = true;
        Ok(())
    }

    /// Whether TLS took up an earlier session.
    pub(crate) fn is_resumed(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.handshake_kind() == Some(rustls::HandshakeKind::Resumed))
    }

    /// From now on reading and writing do not wait.
    pub(crate) fn unblock(&self) -> io::Result<()> {
        match &self.socket {
            Socket::Tcp(stream) => stream.set_nonblocking(true),
            Socket::Unix(stream) => stream.set_nonblocking(true),
        }
    }

    /// Takes one packet to be written, which becomes a frame and a record of its own: that is what nearly all client
    /// libraries do, who write each packet as it comes.
    pub(crate) fn put(&mut self, packet: &[u8]) {
        self.frame.clear();
        if self.websocket {
            match packet.len() {
                length @ ..126 => self.frame.extend_from_slice(&[0x82, 0x80 | length as u8]),
                length => {
                    self.frame.extend_from_slice(&[0x82, 0x80 | 126]);
                    self.frame.extend_from_slice(&(length as u16).to_be_bytes());
                }
            }
            self.frame.extend_from_slice(&MASK);
            self.frame.extend(packet.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        }
        let bytes = if self.websocket { &self.frame[..] } else { packet };
        match &mut self.tls {
            None => self.wire.extend_from_slice(bytes),
            Some(tls) => {
                // Writing into a `Vec` cannot fail, and the library takes a packet of this size as a whole.
                let _ = tls.writer().write_all(bytes);
                while tls.wants_write() && tls.write_tls(&mut self.wire).is_ok() {}
            }
        }
    }

    /// Writes what was taken; `false`: the socket is full.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        while self.written < self.wire.len() {
            match self.socket.write(&self.wire[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.wire.clear();
        self.written = 0;
        Ok(true)
    }

    /// Reads once and appends what it carried.
    pub(crate) fn fill(&mut self, buffer: &mut [u8], plain: &mut Vec<u8>) -> Result<(), Trouble> {
        let count = match self.socket.read(buffer) {
            Ok(0) => return Err(Trouble::new("the broker closed a connection")),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let mut wire = &buffer[..count];
        let target = if self.websocket { &mut self.frames } else { &mut *plain };
        match &mut self.tls {
            None => target.extend_from_slice(wire),
            Some(tls) => {
                while !wire.is_empty() {
                    tls.read_tls(&mut wire)?;
                    let waiting = tls.process_new_packets()?.plaintext_bytes_to_read();
                    let before = target.len();
                    target.resize(before + waiting, 0);
                    tls.reader().read_exact(&mut target[before..])?;
                }
            }
        }
        if self.websocket {
            unframe(&mut self.frames, plain)?;
        }
        Ok(())
    }
}

/// Takes the complete frames of a broker away: data, not masked.
fn unframe(frames: &mut Vec<u8>, plain: &mut Vec<u8>) -> Result<(), Trouble> {
    let mut done = 0;
    while let [0x82, short, rest @ ..] = &frames[done..] {
        let (length, extra) = match (short, rest) {
            (0..126, _) => (usize::from(*short), 0),
            (126, [a, b, ..]) => (usize::from(u16::from_be_bytes([*a, *b])), 2),
            (127, [0, 0, 0, 0, a, b, c, d, ..]) => (u32::from_be_bytes([*a, *b, *c, *d]) as usize, 8),
            _ => break,
        };
        let Some(payload) = rest.get(extra..extra + length) else { break };
        plain.extend_from_slice(payload);
        done += 2 + extra + length;
    }
    if frames.get(done).is_some_and(|first| *first != 0x82) {
        return Err(Trouble::new("expected a frame of data from the broker"));
    }
    frames.drain(..done);
    Ok(())
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(stream) => stream.as_fd(),
            Socket::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const REQUEST: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";
/// The same for all: only a browser has to hide what it sends.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
/// How long an answer may take before the run has failed.
const PATIENCE: Duration = Duration::from_secs(20);

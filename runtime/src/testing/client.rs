//! A client of raw bytes: it knows just enough to test a runtime.

use super::tls::{self, Secured};
use crate::{
    AsyncStream, Handle, ListenAddress, Listener, Pipe, PipeReader, PipeWriter, Prepared, Transport,
};
use culex_core::Peer;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tungstenite::{ClientRequestBuilder, Error, Message, WebSocket, client};

/// A blocking MQTT 3.1.1 client; every wait ends with a panic after ten seconds.
#[derive(Debug)]
pub struct Client(Stream);

/// Where a broker is reached, and how.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Where.
    pub at: At,
    /// Whether MQTT is carried by WebSocket.
    pub websocket: bool,
}

/// Where a broker is reached.
#[derive(Debug, Clone, Copy)]
pub enum At {
    /// By TCP.
    Tcp(SocketAddr),
    /// By TLS.
    Tls(SocketAddr),
    /// By a Unix socket.
    Unix(&'static Path),
    /// Inside the program, by the layers of this listener.
    Program(&'static Handle, u16),
    /// The same, by a stream of which the broker only learns through tasks whether it takes something.
    Async(&'static Handle, u16),
}

/// A row of the table of transports that the suite is run over.
#[derive(Debug, Clone, Copy)]
pub enum Over {
    /// `mqtt://`
    Tcp,
    /// `ws://`
    WebSocket,
    /// `mqtts://`
    Tls,
    /// `wss://`
    WebSocketTls,
    /// `unix:`
    Unix,
    /// A pipe, without layers.
    Pipe,
    /// A pipe, with WebSocket.
    PipeWebSocket,
    /// An asynchronous stream that sends nothing before it is flushed.
    Async,
}

/// A row of the table, and how many shards share the work.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    pub(super) over: Over,
    pub(super) shards: usize,
}

impl From<Over> for Setting {
    fn from(over: Over) -> Self {
        over.shards(1)
    }
}

impl Over {
    /// The same with so many shards.
    #[must_use]
    pub fn shards(self, shards: usize) -> Setting {
        Setting { over: self, shards }
    }

    /// A listener of this kind; `name` is unique.
    pub fn listener(self, name: &str) -> Listener {
        match self {
            Self::Tcp => Listener::new("mqtt://127.0.0.1:0"),
            Self::WebSocket => Listener::new("ws://127.0.0.1:0/mqtt"),
            Self::Tls => Listener::new("mqtts://127.0.0.1:0").tls(tls::broker()),
            Self::WebSocketTls => Listener::new("wss://127.0.0.1:0/mqtt").tls(tls::broker()),
            Self::Unix => Listener::new(format!("unix:{}", std::env::temp_dir().join(name).display())),
            Self::Pipe | Self::Async => Listener::program(Transport::mqtt()),
            Self::PipeWebSocket => Listener::program(Transport::websocket("/mqtt")),
        }
    }
}

impl Place {
    /// Where the first listener of a broker is. What it needs to know is leaked: a place is copied at will.
    #[must_use]
    pub fn of(prepared: &Prepared) -> Self {
        let url = &prepared.urls()[0];
        let at = match url.address() {
            ListenAddress::Unix(path) => At::Unix(Box::leak(path.clone())),
            ListenAddress::Program => At::Program(Box::leak(Box::new(prepared.handle())), 0),
            ListenAddress::Tcp { .. } if url.transport().tls => At::Tls(prepared.local_addrs()[0]),
            ListenAddress::Tcp { .. } => At::Tcp(prepared.local_addrs()[0]),
        };
        Self { at, websocket: url.transport().websocket.is_some() }
    }

    /// The same place, reached in the way of this row.
    #[must_use]
    pub(crate) fn by(mut self, over: Over) -> Self {
        if let (At::Program(handle, listener), Over::Async) = (self.at, over) {
            self.at = At::Async(handle, listener);
        }
        self
    }

    /// Whether somebody listens there. A broker listens inside its program for as long as it runs.
    #[must_use]
    pub fn is_open(self) -> bool {
        match self.at {
            At::Tcp(address) | At::Tls(address) => TcpStream::connect(address).is_ok(),
            // Nobody who connects is needed for it to close.
            At::Unix(path) => path.exists(),
            At::Program(..) | At::Async(..) => false,
        }
    }

    /// Opens a connection and sends nothing.
    #[must_use]
    pub fn open(self) -> Wire {
        match self.at {
            At::Tcp(address) => Wire::Tcp(connect(address)),
            At::Tls(address) => Wire::Tls(Secured::new(connect(address))),
            At::Unix(path) => {
                let stream = UnixStream::connect(path).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                Wire::Unix(stream)
            }
            At::Program(handle, listener) | At::Async(handle, listener) => {
                let (mut ours, theirs) = Pipe::pair();
                ours.set_read_timeout(Some(PATIENCE));
                let stream = match self.at {
                    At::Async(..) => Buffered::stream(theirs),
                    _ => theirs.into(),
                };
                handle.accept(stream, Peer { listener, ..Peer::default() }).unwrap();
                Wire::Pipe(ours)
            }
        }
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A pipe that takes all it is given and sends it when it is told to, as a stream of TLS may.
struct Buffered {
    reader: PipeReader,
    writer: PipeWriter,
    buffer: Vec<u8>,
}

impl Buffered {
    fn stream(pipe: Pipe) -> crate::Stream {
        let (reader, writer) = pipe.split();
        crate::Stream::of_async(Self { reader, writer, buffer: Vec::new() })
    }
}

impl AsyncStream for Buffered {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.reader.poll_read(cx, buffer).map(Ok)
    }

    fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.buffer.len() >= BUFFERED_BYTES {
            ready!(self.poll_flush(cx))?;
        }
        let slice = slices.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| slice);
        let count = slice.len().min(BUFFERED_BYTES);
        self.buffer.extend_from_slice(&slice[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.buffer.is_empty() {
            let count = ready!(self.writer.poll_write(cx, &self.buffer))?;
            self.buffer.drain(..count);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        self.writer.end();
        Poll::Ready(Ok(()))
    }
}

/// What a stream with a buffer keeps before it has to send.
const BUFFERED_BYTES: usize = 4096;

/// A connection of a client below WebSocket.
#[derive(Debug)]
pub enum Wire {
    /// By TCP.
    Tcp(TcpStream),
    /// By TLS.
    Tls(Secured),
    /// By a Unix socket.
    Unix(UnixStream),
    /// Inside the program.
    Pipe(Pipe),
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
            Self::Pipe(pipe) => pipe.read(buffer),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buffer),
            Self::Tls(stream) => stream.write(buffer),
            Self::Unix(stream) => stream.write(buffer),
            Self::Pipe(pipe) => pipe.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl From<SocketAddr> for Place {
    fn from(address: SocketAddr) -> Self {
        Self { at: At::Tcp(address), websocket: false }
    }
}

#[derive(Debug)]
enum Stream {
    Plain(Wire),
    /// With what was received and not read yet.
    WebSocket(Box<WebSocket<Wire>>, io::Cursor<Vec<u8>>),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (socket, received) = match self {
            Self::Plain(stream) => return stream.read(buffer),
            Self::WebSocket(socket, received) => (socket, received),
        };
        loop {
            match received.read(buffer)? {
                0 => {}
                count => return Ok(count),
            }
            match socket.read() {
                Ok(Message::Binary(payload)) => *received = io::Cursor::new(payload.into()),
                Ok(Message::Close(_)) | Err(Error::ConnectionClosed | Error::Protocol(_)) => return Ok(0),
                Ok(_) => {}
                Err(Error::Io(error)) => return Err(error),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }
}

impl Client {
    /// Opens a connection and sends nothing of MQTT.
    #[must_use]
    pub fn open(place: impl Into<Place>) -> Self {
        let place = place.into();
        let wire = place.open();
        if !place.websocket {
            return Self(Stream::Plain(wire));
        }
        let url = "ws://broker/mqtt".parse().unwrap();
        let request = ClientRequestBuilder::new(url).with_sub_protocol("mqtt");
        let (socket, _) = client(request, wire).unwrap();
        Self(Stream::WebSocket(Box::new(socket), io::Cursor::default()))
    }

    /// The WebSocket below.
    ///
    /// # Panics
    /// There is none.
    pub fn websocket(&mut self) -> &mut WebSocket<Wire> {
        match &mut self.0 {
            Stream::WebSocket(socket, _) => socket,
            Stream::Plain(_) => panic!("this client has no WebSocket"),
        }
    }

    /// Opens a connection and waits for CONNACK.
    #[must_use]
    pub fn connect(place: impl Into<Place>, client_id: &str) -> Self {
        let mut client = Self::open(place);
        client.send(&Self::connect_packet(4, client_id));
        assert_eq!(client.packet().unwrap(), [0x20, 2, 0, 0]);
        client
    }

    /// A CONNECT of MQTT 3.1.1 (4) or 5.0 (5), Clean Session, without Keep Alive.
    #[must_use]
    pub fn connect_packet(version: u8, client_id: &str) -> Vec<u8> {
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', version, 2, 0, 0];
        if version == 5 {
            body.push(0);
        }
        body.extend((client_id.len() as u16).to_be_bytes());
        body.extend(client_id.as_bytes());
        packet(0x10, &body)
    }

    /// Sends bytes, by WebSocket in one frame.
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).unwrap();
    }

    /// The same, for a connection that may be closed.
    ///
    /// # Errors
    /// It is.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.0 {
            Stream::Plain(stream) => stream.write_all(bytes),
            Stream::WebSocket(socket, _) => {
                socket.send(Message::binary(bytes.to_vec())).map_err(io::Error::other)
            }
        }
    }

    /// Subscribes at QoS 0 and waits for SUBACK.
    pub fn subscribe(&mut self, filter: &str) {
        let mut body = vec![0, 1];
        body.extend((filter.len() as u16).to_be_bytes());
        body.extend(filter.as_bytes());
        body.push(0);
        self.send(&packet(0x82, &body));
        assert_eq!(self.packet().unwrap(), [0x90, 3, 0, 1, 0]);
    }

    /// Publishes at QoS 0.
    pub fn publish(&mut self, topic: &str, payload: &[u8]) {
        let body = [&(topic.len() as u16).to_be_bytes(), topic.as_bytes(), payload].concat();
        self.send(&packet(0x30, &body));
    }

    /// Sends PINGREQ and expects PINGRESP next: nothing else was sent before.
    pub fn ping(&mut self) {
        self.send(&[0xC0, 0]);
        assert_eq!(self.packet().unwrap(), [0xD0, 0]);
    }

    /// The topic and payload of the next packet, a PUBLISH at QoS 0.
    pub fn message(&mut self) -> (String, Vec<u8>) {
        let packet = self.packet().unwrap();
        assert_eq!(packet[0], 0x30);
        let body = &packet[1 + packet[1..].iter().take_while(|byte| **byte >= 128).count() + 1..];
        let end = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
        (String::from_utf8(body[2..end].to_vec()).unwrap(), body[end..].to_vec())
    }

    /// The next packet as a whole; `None`: the broker closed the connection.
    pub fn packet(&mut self) -> Option<Vec<u8>> {
        let mut packet = vec![self.byte()?];
        let (mut length, mut shift) = (0, 0);
        loop {
            let byte = self.byte()?;
            packet.push(byte);
            length |= usize::from(byte & 127) << shift;
            shift += 7;
            if byte < 128 {
                break;
            }
        }
        let header = packet.len();
        packet.resize(header + length, 0);
        self.0.read_exact(&mut packet[header..]).unwrap();
        Some(packet)
    }

    fn byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        match self.0.read(&mut byte) {
            Ok(0) => None,
            Ok(_) => Some(byte[0]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no packet: {error}"),
        }
    }
}

/// How long a client waits for anything.
const PATIENCE: Duration = Duration::from_secs(10);

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut rest = body.len();
    loop {
        let byte = (rest % 128) as u8;
        rest /= 128;
        packet.push(if rest > 0 { byte | 128 } else { byte });
        if rest == 0 {
            break;
        }
    }
    packet.extend(body);
    packet
}

//! A client of raw bytes: it knows just enough to test a runtime.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use tungstenite::{ClientRequestBuilder, Error, Message, WebSocket, client};

/// A blocking MQTT 3.1.1 client; every wait ends with a panic after ten seconds.
#[derive(Debug)]
pub struct Client(Stream);

/// Where a broker listens, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The address.
    pub address: SocketAddr,
    /// What carries MQTT.
    pub over: Over,
}

/// What carries MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// Nothing but TCP.
    Tcp,
    /// WebSocket.
    WebSocket,
}

impl From<SocketAddr> for Place {
    fn from(address: SocketAddr) -> Self {
        Self { address, over: Over::Tcp }
    }
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    /// With what was received and not read yet.
    WebSocket(Box<WebSocket<TcpStream>>, io::Cursor<Vec<u8>>),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (socket, received) = match self {
            Self::Tcp(stream) => return stream.read(buffer),
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
        let Place { address, over } = place.into();
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self(match over {
            Over::Tcp => Stream::Tcp(stream),
            Over::WebSocket => {
                let url = format!("ws://{address}/mqtt").parse().unwrap();
                let request = ClientRequestBuilder::new(url).with_sub_protocol("mqtt");
                let (socket, _) = client(request, stream).unwrap();
                Stream::WebSocket(Box::new(socket), io::Cursor::default())
            }
        })
    }

    /// The WebSocket below.
    ///
    /// # Panics
    /// There is none.
    pub fn websocket(&mut self) -> &mut WebSocket<TcpStream> {
        match &mut self.0 {
            Stream::WebSocket(socket, _) => socket,
            Stream::Tcp(_) => panic!("this client has no WebSocket"),
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
        match &mut self.0 {
            Stream::Tcp(stream) => stream.write_all(bytes).unwrap(),
            Stream::WebSocket(socket, _) => socket.send(Message::binary(bytes.to_vec())).unwrap(),
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

//! The client's side of a WebSocket, without a socket: tungstenite's, over memory.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use tungstenite::handshake::MidHandshake;
use tungstenite::handshake::client::{ClientHandshake, Response};
use tungstenite::protocol::WebSocketConfig;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use tungstenite::{ClientRequestBuilder, Error, HandshakeError, Message, client::IntoClientRequest};

/// A client's end of a connection.
#[derive(Debug)]
pub(super) struct WebSocket(State);

#[derive(Debug)]
enum State {
    Handshake(MidHandshake<ClientHandshake<Memory>>),
    Open(tungstenite::WebSocket<Memory>),
    /// What the broker did wrong.
    Failed,
}

impl WebSocket {
    /// A connection to `url` that offers these subprotocols.
    pub(super) fn new(url: &str, offers: &[String]) -> Result<Self, String> {
        let url = url.parse().map_err(|error| format!("{url}: {error}"))?;
        let request = offers
            .iter()
            .fold(ClientRequestBuilder::new(url), |request, name| request.with_sub_protocol(name));
        let request = request.into_client_request().map_err(|error| error.to_string())?;
        let config =
            WebSocketConfig::default().read_buffer_size(4096).max_frame_size(None).max_message_size(None);
        let started = ClientHandshake::start(Memory::default(), request, Some(config))
            .map_err(|error| error.to_string())?;
        Self::after(started.handshake())
    }

    fn after(
        step: Result<(tungstenite::WebSocket<Memory>, Response), HandshakeError<ClientHandshake<Memory>>>,
    ) -> Result<Self, String> {
        let (socket, response) = match step {
            Ok(done) => done,
            Err(HandshakeError::Interrupted(waiting)) => return Ok(Self(State::Handshake(waiting))),
            Err(HandshakeError::Failure(error)) => return Err(format!("no WebSocket: {error}")),
        };
        // [MQTT-6.0.0-4]
        match response.headers().get("Sec-WebSocket-Protocol").map(|value| value.as_bytes()) {
            Some(b"mqtt") => Ok(Self(State::Open(socket))),
            other => Err(format!(
                "the subprotocol {:?}, expected \"mqtt\"",
                other.map(String::from_utf8_lossy).unwrap_or_default()
            )),
        }
    }

    /// Whether the handshake is over.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.0, State::Open(_))
    }

    /// Takes what came from the broker and appends the data in it to `plain`. After its goodbye there is no more.
    pub(super) fn receive(&mut self, wire: &[u8], plain: &mut Vec<u8>) -> Result<(), String> {
        if let Some(memory) = self.memory() {
            memory.incoming.extend(wire);
        }
        self.0 = match std::mem::replace(&mut self.0, State::Failed) {
            State::Handshake(waiting) => Self::after(waiting.handshake())?.0,
            other => other,
        };
        let State::Open(socket) = &mut self.0 else { return Ok(()) };
        loop {
            match socket.read() {
                Ok(Message::Binary(payload)) => plain.extend_from_slice(&payload),
                // [MQTT-6.0.0-1]
                Ok(Message::Text(_)) => return Err("a text frame".into()),
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => return Ok(()),
                Err(error) => return Err(format!("no WebSocket: {error}")),
            }
        }
    }

    /// Sends data in one frame.
    pub(super) fn send(&mut self, plain: &[u8]) {
        if let State::Open(socket) = &mut self.0 {
            // Who said goodbye does not listen any more.
            let _ = socket.send(Message::binary(plain.to_vec()));
        }
    }

    /// What is to be written to the broker.
    pub(super) fn take_wire(&mut self) -> Vec<u8> {
        self.memory().map(|memory| std::mem::take(&mut memory.outgoing)).unwrap_or_default()
    }

    fn memory(&mut self) -> Option<&mut Memory> {
        match &mut self.0 {
            State::Handshake(waiting) => Some(waiting.get_mut().get_mut()),
            State::Open(socket) => Some(socket.get_mut()),
            State::Failed => None,
        }
    }
}

/// Both directions of a connection.
#[derive(Debug, Default)]
struct Memory {
    incoming: VecDeque<u8>,
    outgoing: Vec<u8>,
}

impl Read for Memory {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.incoming.read(buffer)? {
            0 => Err(ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outgoing.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The kind of a frame by its name in a scenario.
pub(crate) fn kind(name: &str) -> Option<OpCode> {
    Some(match name {
        "text" => OpCode::Data(Data::Text),
        "binary" => OpCode::Data(Data::Binary),
        "continue" => OpCode::Data(Data::Continue),
        "ping" => OpCode::Control(Control::Ping),
        "pong" => OpCode::Control(Control::Pong),
        "close" => OpCode::Control(Control::Close),
        _ => return None,
    })
}

/// A frame of a client as it is on the wire; `last`: it ends its message.
pub(crate) fn frame(opcode: OpCode, last: bool, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xFA, 0x21, 0x3D];
    let header = FrameHeader { is_final: last, opcode, mask: Some(mask), ..FrameHeader::default() };
    let mut wire = Vec::new();
    // Writing into a `Vec` cannot fail.
    let _ = header.format(payload.len() as u64, &mut wire);
    wire.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    wire
}

//! WebSocket (RFC 6455), the side of the server, as MQTT wants it (MQTT 5.0, chapter 6).
//!
//! The payload of a frame goes up as it comes in: no frame and no message is kept, so their size needs no limit, and
//! what a frame claims to be is never allocated. Frames of the broker hold what one write would have held.

mod forwarded;
mod frames;
mod handshake;
mod origin;

pub use handshake::HANDSHAKE_BYTES_MAX;
pub use origin::{NotOrigins, Origins};

use crate::{Layer, Learnt, Progress, Trusted};
use culex_core::Violation;
use frames::{Frames, Read};
use handshake::Handshake;
use std::io::IoSlice;
use std::sync::Arc;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

/// A connection by WebSocket: the HTTP upgrade, then frames.
#[derive(Debug)]
pub struct WebSocket {
    phase: Phase,
    /// The answer to the HTTP request, until it is sent.
    response: Option<Box<[u8]>>,
    /// The answer to the last ping. An earlier one that was not sent yet is not needed any more (RFC 6455, 5.5.3).
    pong: Option<Box<[u8]>>,
    /// For whom a trusted proxy forwarded the request.
    learnt: Option<Box<Learnt>>,
}

/// What a listener for WebSocket wants of requests. Cheap to clone.
#[derive(Debug, Clone)]
pub struct WebSocketSettings {
    /// Their path, as it stands in a request: it begins with `/`.
    pub path: Arc<str>,
    /// Which web pages may connect.
    pub origins: Origins,
    /// Peers whose `X-Forwarded-For` or `X-Real-IP` is believed; by default nobody's.
    pub forwarded: Trusted,
}

impl WebSocketSettings {
    /// Requests for `path`, from pages of the same origin, and no proxy.
    #[must_use]
    pub fn new(path: Arc<str>) -> Self {
        Self { path, origins: Origins::default(), forwarded: Trusted::default() }
    }
}

#[derive(Debug)]
enum Phase {
    Handshake(Box<Handshake>),
    Open(Frames),
    /// The peer said goodbye, or must go: with this code, or none.
    Closing(Option<CloseCode>),
    /// Nothing more is sent.
    Closed,
}

impl WebSocket {
    /// A new connection to a listener that serves `path`, as it stands in a request: it begins with `/`.
    #[must_use]
    pub fn new(path: Arc<str>) -> Self {
        Self::with(WebSocketSettings::new(path))
    }

    /// A new connection to a listener with these settings.
    #[must_use]
    pub fn with(settings: WebSocketSettings) -> Self {
        let phase = Phase::Handshake(Box::new(Handshake::new(settings)));
        Self { phase, response: None, pong: None, learnt: None }
    }

    fn shake_hands(&mut self, wire: &[u8], plain: &mut Vec<u8>) -> Progress {
        let Phase::Handshake(handshake) = &mut self.phase else { return Progress::Open };
        let Some((used, answer)) = handshake.receive(wire) else { return Progress::Open };
        self.response = Some(answer.response);
        self.learnt = handshake.forwarded_for().map(|address| {
            let address = Some(address);
            Box::new(Learnt { address, identity: None })
        });
        if let Err(failure) = answer.verdict {
            self.phase = Phase::Closed;
            return Progress::Failed(failure);
        }
        self.phase = Phase::Open(Frames::default());
        self.frames(&wire[used..], plain)
    }

    fn frames(&mut self, mut wire: &[u8], plain: &mut Vec<u8>) -> Progress {
        let Phase::Open(frames) = &mut self.phase else { return Progress::Open };
        loop {
            match frames.read(&mut wire, plain) {
                Ok(Read::More) => return Progress::Open,
                Ok(Read::Ping(payload)) => self.pong = Some(payload),
                Ok(Read::Close(code)) => {
                    self.phase = Phase::Closing(code);
                    return Progress::Closed;
                }
                Err((violation, code)) => {
                    self.phase = Phase::Closing(Some(code));
                    return Progress::Violated(violation);
                }
            }
        }
    }
}

impl Layer for WebSocket {
    fn receive(&mut self, wire: &[u8], plain: &mut Vec<u8>) -> Progress {
        match self.phase {
            Phase::Handshake(_) => self.shake_hands(wire, plain),
            Phase::Open(_) => self.frames(wire, plain),
            Phase::Closing(_) | Phase::Closed => Progress::Open,
        }
    }

    fn speaks(&self) -> bool {
        self.response.is_some() || self.pong.is_some()
    }

    fn send(&mut self, plain: &[IoSlice<'_>], wire: &mut Vec<u8>) {
        wire.extend(self.response.take().unwrap_or_default());
        if let Some(pong) = self.pong.take() {
            header(OpCode::Control(Control::Pong), pong.len(), wire);
            wire.extend_from_slice(&pong);
        }
        // While it is closing a connection may still be told why, in MQTT's words.
        let length: usize = plain.iter().map(|slice| slice.len()).sum();
        if length > 0 && matches!(self.phase, Phase::Open(_) | Phase::Closing(_)) {
            wire.reserve(length + HEADER_BYTES_MAX);
            // [MQTT-6.0.0-1]
            header(OpCode::Data(Data::Binary), length, wire);
            plain.iter().for_each(|slice| wire.extend_from_slice(slice));
        }
    }

    fn close(&mut self, wire: &mut Vec<u8>) {
        self.send(&[], wire);
        let code = match std::mem::replace(&mut self.phase, Phase::Closed) {
            Phase::Open(_) => Some(CloseCode::Normal),
            Phase::Closing(code) => code,
            Phase::Handshake(_) | Phase::Closed => return,
        };
        let payload = code.map(|code| u16::from(code).to_be_bytes());
        let payload: &[u8] = payload.as_ref().map_or(&[], |code| code);
        header(OpCode::Control(Control::Close), payload.len(), wire);
        wire.extend_from_slice(payload);
    }

    fn learnt(&mut self) -> Option<Learnt> {
        self.learnt.take().map(|learnt| *learnt)
    }

    fn told(&mut self, peer: &Learnt) {
        if let Phase::Handshake(handshake) = &mut self.phase {
            handshake.peer = peer.address;
        }
    }

    fn is_shaking_hands(&self) -> bool {
        matches!(self.phase, Phase::Handshake(_))
    }
}

/// Appends the header of a frame of the server: final, and not masked.
fn header(opcode: OpCode, length: usize, wire: &mut Vec<u8>) {
    let header = FrameHeader { opcode, ..FrameHeader::default() };
    // Writing into a `Vec` cannot fail.
    let _ = header.format(length as u64, wire);
}

/// A peer broke a rule of RFC 6455.
const fn broken(section: &'static str) -> Violation {
    Violation::protocol(section)
}

/// The header of a frame, with the mask that frames of clients have.
const HEADER_BYTES_MAX: usize = 14;

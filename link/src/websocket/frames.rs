//! What a client sends once the connection is upgraded: frames, read as they come.

use super::{HEADER_BYTES_MAX, broken};
use culex_core::Violation;
use std::io::Cursor;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

/// Where in the stream of frames a connection is.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// The beginning of a header that is not complete yet, and how many bytes that are.
    head: [u8; HEADER_BYTES_MAX],
    head_bytes: u8,
    frame: Option<Frame>,
    /// A message was begun and its last fragment has not come.
    fragmented: bool,
}

/// The frame that is being read.
#[derive(Debug)]
struct Frame {
    /// How many bytes of its payload are still to come.
    left: u64,
    /// What to combine the next byte with, and those behind it.
    mask: [u8; 4],
    /// The payload of a control frame, which is kept until it is complete; data goes up at once.
    control: Option<(Control, Vec<u8>)>,
}

/// What came in.
#[derive(Debug)]
pub(super) enum Read {
    /// All there was was data.
    More,
    /// A ping with this payload.
    Ping(Box<[u8]>),
    /// The peer says goodbye; answer with this code, or with none.
    Close(Option<CloseCode>),
}

impl Frames {
    /// Reads the front of `wire` away and appends the data in it to `plain`. An error says which rule was broken and
    /// the code to close with.
    pub(super) fn read(
        &mut self,
        wire: &mut &[u8],
        plain: &mut Vec<u8>,
    ) -> Result<Read, (Violation, CloseCode)> {
        loop {
            let Some(frame) = &mut self.frame else {
                let Some((header, length)) = self.header(wire)? else { return Ok(Read::More) };
                self.frame = Some(self.begin(&header, length)?);
                continue;
            };
            let here = usize::try_from(frame.left).unwrap_or(usize::MAX).min(wire.len());
            let (payload, rest) = wire.split_at(here);
            *wire = rest;
            frame.take(payload, plain);
            if frame.left > 0 {
                return Ok(Read::More);
            }
            let frame = self.frame.take();
            match frame.and_then(|frame| frame.control) {
                Some((Control::Ping, payload)) => return Ok(Read::Ping(payload.into())),
                Some((Control::Close, payload)) => return close(&payload).map(Read::Close),
                // A pong that nobody asked for is a sign of life, of which MQTT has its own.
                _ => {}
            }
        }
    }

    /// The next header, once it is complete.
    fn header(&mut self, wire: &mut &[u8]) -> Result<Option<(FrameHeader, u64)>, (Violation, CloseCode)> {
        let before = usize::from(self.head_bytes);
        let more = wire.len().min(HEADER_BYTES_MAX - before);
        self.head[before..before + more].copy_from_slice(&wire[..more]);
        let mut head = Cursor::new(&self.head[..before + more]);
        let Ok(parsed) = FrameHeader::parse(&mut head) else {
            return Err((broken("RFC 6455 5.2"), CloseCode::Protocol));
        };
        // What lies behind the header is read where it is. A header is never complete without new bytes.
        let used = if parsed.is_some() { head.position() as usize - before } else { more };
        self.head_bytes = if parsed.is_some() { 0 } else { (before + more) as u8 };
        *wire = &wire[used..];
        Ok(parsed)
    }

    /// Looks a header over.
    fn begin(&mut self, header: &FrameHeader, length: u64) -> Result<Frame, (Violation, CloseCode)> {
        let wrong = |section| Err((broken(section), CloseCode::Protocol));
        if header.rsv1 || header.rsv2 || header.rsv3 || length > i64::MAX as u64 {
            return wrong("RFC 6455 5.2");
        }
        let Some(mask) = header.mask else { return wrong("RFC 6455 5.1") };
        let control = match header.opcode {
            OpCode::Control(_) if !header.is_final || length > CONTROL_BYTES_MAX => {
                return wrong("RFC 6455 5.5");
            }
            OpCode::Control(control) => Some((control, Vec::new())),
            // [MQTT-6.0.0-1]
            OpCode::Data(Data::Text) => {
                return Err((Violation::protocol("MQTT-6.0.0-1"), CloseCode::Unsupported));
            }
            OpCode::Data(data) => {
                if self.fragmented != (data == Data::Continue) {
                    return wrong("RFC 6455 5.4");
                }
                self.fragmented = !header.is_final;
                None
            }
        };
        Ok(Frame { left: length, mask, control })
    }
}

impl Frame {
    fn take(&mut self, payload: &[u8], plain: &mut Vec<u8>) {
        let target = self.control.as_mut().map_or(plain, |(_, kept)| kept);
        let start = target.len();
        target.extend_from_slice(payload);
        // Sixteen bytes at a time, which the compiler makes one instruction.
        let mut wide = [0; 16];
        wide.as_chunks_mut().0.iter_mut().for_each(|part: &mut [u8; 4]| *part = self.mask);
        let (chunks, rest) = target[start..].as_chunks_mut::<16>();
        for chunk in chunks {
            chunk.iter_mut().zip(wide).for_each(|(byte, mask)| *byte ^= mask);
        }
        rest.iter_mut().zip(wide).for_each(|(byte, mask)| *byte ^= mask);
        self.mask.rotate_left(payload.len() % 4);
        self.left -= payload.len() as u64;
    }
}

/// The code to answer a close frame with.
fn close(payload: &[u8]) -> Result<Option<CloseCode>, (Violation, CloseCode)> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return match payload {
            [] => Ok(None),
            _ => Err((broken("RFC 6455 5.5.1"), CloseCode::Protocol)),
        };
    };
    if std::str::from_utf8(reason).is_err() {
        return Err((broken("RFC 6455 5.5.1"), CloseCode::Invalid));
    }
    let code = CloseCode::from(u16::from_be_bytes(*code));
    Ok(Some(if code.is_allowed() { code } else { CloseCode::Protocol }))
}

/// The payload of a control frame (RFC 6455, 5.5).
const CONTROL_BYTES_MAX: u64 = 125;

//! The byte layers of one connection, between its socket and the machine. Pure: no socket, no clock, no thread, and
//! no randomness.
//!
//! A [`Layer`] turns the bytes of the wire into those that MQTT is made of, and back. Who drives it owns the buffers:
//! a layer keeps only what it cannot understand yet and what it wants to say itself, each within a named limit. A
//! connection of plain TCP has no layer.
//!
//! ```
//! use culex_link::{Layer, Progress, WebSocket};
//! use std::io::IoSlice;
//!
//! let mut layer = WebSocket::new("/mqtt".into());
//! let request = b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
//!     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";
//! let pingreq_in_a_frame = [0x82, 0x82, 0, 0, 0, 0, 0xC0, 0];
//! let (mut plain, mut wire) = (Vec::new(), Vec::new());
//! assert_eq!(layer.receive(request, &mut plain), Progress::Open);
//! assert_eq!(layer.receive(&pingreq_in_a_frame, &mut plain), Progress::Open);
//! assert_eq!(plain, [0xC0, 0]); // for Broker::receive
//!
//! layer.send(&[IoSlice::new(&[0xD0, 0])], &mut wire); // from Broker::poll_transmit
//! assert!(wire.starts_with(b"HTTP/1.1 101 ") && wire.ends_with(&[0x82, 2, 0xD0, 0]));
//! ```
#![forbid(unsafe_code)]

mod websocket;

pub use websocket::{HANDSHAKE_BYTES_MAX, WebSocket};

use culex_core::Violation;
use std::fmt;
use std::io::IoSlice;

/// One layer of a connection. Splitting the bytes of the wire anywhere changes nothing.
pub trait Layer: fmt::Debug + Send {
    /// Takes all of `wire` and appends what it carried to `plain`. Call it no more once it was not [`Progress::Open`]:
    /// what comes then is ignored.
    fn receive(&mut self, wire: &[u8], plain: &mut Vec<u8>) -> Progress;

    /// Whether the layer has something to say of its own, for which [`send`](Self::send) is called with nothing.
    fn speaks(&self) -> bool;

    /// Appends what the layer has to say and then `plain`, in its form, to `wire`. After the end of the connection
    /// only the layer's last words are appended: nobody reads the rest.
    fn send(&mut self, plain: &[IoSlice<'_>], wire: &mut Vec<u8>);

    /// Appends the layer's goodbye: nothing is sent afterwards.
    fn close(&mut self, wire: &mut Vec<u8>);
}

/// What became of a connection with the bytes that came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It goes on.
    Open,
    /// The peer said goodbye in the layer's own words: it sends nothing more and expects the connection to be closed.
    Closed,
    /// The peer broke a rule: tell the machine, write what it says, then [`close`](Layer::close).
    Violated(Violation),
}

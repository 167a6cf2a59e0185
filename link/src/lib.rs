//! The byte layers of one connection, between its socket and the machine. Pure: no socket, no clock, no thread.
//!
//! A [`Layer`] turns the bytes of the wire into those that MQTT is made of, and back. Who drives it owns the buffers:
//! a layer keeps only what it cannot understand yet and what it wants to say itself, each within a named limit. A
//! [`Link`] is the layers of one connection, the outermost first: [`Proxy`] ▸ `Tls` (feature `tls`) ▸ [`WebSocket`]. A connection of
//! plain TCP has none. [`Layers`] says which a listener wants.
//!
//! The same bytes lead to the same, with one exception: TLS draws random numbers. What it carries is the same, what it
//! says on the wire is not, so a recording is made of what is inside of it.
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

mod link;
mod proxy;
#[cfg(feature = "tls")]
mod tls;
mod trusted;
mod websocket;

pub use link::{Buffers, Carries, Layers, Link};
pub use proxy::{PROXY_BYTES_MAX, Proxy};
#[cfg(feature = "tls")]
pub use tls::{
    CertificateIdentity, CertificatePair, ClientCertificates, Demand, Pem, TLS_HANDSHAKE_BYTES_MAX,
    TLS_SESSIONS_MAX, Tls, TlsError, TlsSettings, TlsVersion,
};
pub use trusted::{NotTrusted, Trusted};
pub use websocket::{HANDSHAKE_BYTES_MAX, NotOrigins, Origins, WebSocket, WebSocketSettings};

use culex_core::Violation;
use std::fmt;
use std::io::IoSlice;
use std::net::SocketAddr;

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

    /// What the layer found out about the peer, once: ask after [`receive`](Self::receive), before the plain bytes of
    /// the same call are handed on.
    fn learnt(&mut self) -> Option<Learnt> {
        None
    }

    /// What the layers outside of this one know of the peer, its socket included: when the connection begins and when
    /// they learn more, before they hand on more bytes.
    fn told(&mut self, _peer: &Learnt) {}

    /// Whether the layer is still busy with its beginning: no plain bytes came by it yet.
    fn is_shaking_hands(&self) -> bool {
        false
    }

    /// Whether from now on the layer only passes bytes on: it may be left out.
    fn is_done(&self) -> bool {
        false
    }
}

/// What a layer found out about the peer. `None`: nothing new.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Learnt {
    /// Where the peer really is; port 0: unknown.
    pub address: Option<SocketAddr>,
    /// Who the peer is, proven by what the layer trusts: 1 to [`IDENTITY_BYTES_MAX`] bytes without control characters.
    pub identity: Option<Box<str>>,
}

/// Bytes of an identity; who has a longer one is refused.
pub const IDENTITY_BYTES_MAX: usize = 256;

/// An identity, if the bytes can be one.
fn identity(bytes: &[u8]) -> Option<Box<str>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let fits = (1..=IDENTITY_BYTES_MAX).contains(&text.len()) && !text.contains(char::is_control);
    fits.then(|| text.into())
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
    /// There is no connection to speak MQTT by, and none to tell the peer so in MQTT: [`close`](Layer::close), which
    /// appends the layer's last words, and close the socket.
    Failed(Failure),
}

/// Why a layer failed, for the operator's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    layer: &'static str,
    reason: &'static str,
    detail: &'static str,
}

impl Failure {
    /// `layer` is the word for who failed, `reason` a line that says what was expected or what came.
    #[must_use]
    pub const fn new(layer: &'static str, reason: &'static str) -> Self {
        Self { layer, reason, detail: "" }
    }

    /// The same with what exactly it was about.
    #[must_use]
    pub const fn about(mut self, detail: &'static str) -> Self {
        self.detail = detail;
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.layer, self.reason)?;
        if !self.detail.is_empty() {
            write!(f, " ({})", self.detail)?;
        }
        Ok(())
    }
}

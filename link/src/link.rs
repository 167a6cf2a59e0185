//! The layers of one connection as one, and which layers the connections of a listener have.

use crate::{Layer, Learnt, Progress, Proxy, Trusted, WebSocket, WebSocketSettings};
use culex_core::Wall;
use std::io::IoSlice;
use std::net::SocketAddr;

/// The layers of one connection, the outermost first. It can be moved to another thread.
///
/// Between two layers the bytes lie in [`Buffers`], which all connections of a thread share: a link owns nothing but
/// its layers, and a connection with one layer pays for no other.
#[derive(Debug)]
pub struct Link {
    layers: Vec<Box<dyn Layer>>,
    /// What is known of the peer: first of all where its socket is.
    known: Learnt,
    /// It knows more than it told.
    news: bool,
    /// It is over: what comes in is ignored.
    ended: bool,
}

/// Where bytes lie on their way from one layer to the next. They are kept for no longer than a call.
#[derive(Debug, Default)]
pub struct Buffers {
    front: Vec<u8>,
    back: Vec<u8>,
}

impl Link {
    /// A new connection from `address` with these layers, the outermost first.
    #[must_use]
    pub fn new(address: Option<SocketAddr>, mut layers: Vec<Box<dyn Layer>>) -> Self {
        let known = Learnt { address, identity: None };
        layers.iter_mut().for_each(|layer| layer.told(&known));
        layers.shrink_to_fit();
        Self { layers, known, news: false, ended: false }
    }

    /// Takes all of `wire` and appends what it carried to `plain`: no more than came in, and what an incomplete record of
    /// TLS held back. Once it was not [`Progress::Open`] all that comes is ignored.
    pub fn receive(&mut self, wire: &[u8], buffers: &mut Buffers, plain: &mut Vec<u8>) -> Progress {
        if self.ended {
            return Progress::Open;
        }
        let Buffers { front, back } = buffers;
        let mut end = Progress::Open;
        let last = self.layers.len().checked_sub(1);
        if last.is_none() {
            plain.extend_from_slice(wire);
        }
        for index in 0..self.layers.len() {
            let (layer, inner) =
                self.layers[index..].split_first_mut().expect("the index is that of a layer");
            let from: &[u8] = if index == 0 { wire } else { back };
            let progress = if Some(index) == last {
                layer.receive(from, plain)
            } else {
                front.clear();
                layer.receive(from, front)
            };
            if let Some(Learnt { address, identity }) = layer.learnt() {
                self.known.address = address.or(self.known.address);
                self.known.identity = identity.or(self.known.identity.take());
                inner.iter_mut().for_each(|layer| layer.told(&self.known));
                self.news = true;
            }
            // What ends the inner layer came before what ends the outer one.
            if progress != Progress::Open {
                end = progress;
            }
            std::mem::swap(front, back);
        }
        self.ended = end != Progress::Open;
        if self.layers.iter().any(|layer| layer.is_done()) {
            self.layers.retain(|layer| !layer.is_done());
            self.layers.shrink_to_fit();
        }
        end
    }

    /// All that is known of the peer, if a layer found something out: ask after [`receive`](Self::receive), before the
    /// plain bytes are handed on.
    pub fn learnt(&mut self) -> Option<Learnt> {
        std::mem::take(&mut self.news).then(|| self.known.clone())
    }

    /// Where the peer is, as far as it is known.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.known.address
    }

    /// Whether a layer has something to say of its own, for which [`send`](Self::send) is called with nothing.
    #[must_use]
    pub fn speaks(&self) -> bool {
        self.layers.iter().any(|layer| layer.speaks())
    }

    /// Whether a layer is still busy with its beginning.
    #[must_use]
    pub fn is_shaking_hands(&self) -> bool {
        self.layers.iter().any(|layer| layer.is_shaking_hands())
    }

    /// Whether all layers have done their work and bytes only pass: the connection needs no link any more.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        self.layers.is_empty() && !self.ended
    }

    /// Appends what the layers have to say and then `plain`, in their form, to `wire`.
    pub fn send(&mut self, plain: &[IoSlice<'_>], buffers: &mut Buffers, wire: &mut Vec<u8>) {
        self.out(plain, false, buffers, wire);
    }

    /// Appends the goodbye of each layer, the innermost first: nothing is sent afterwards.
    pub fn close(&mut self, buffers: &mut Buffers, wire: &mut Vec<u8>) {
        self.out(&[], true, buffers, wire);
    }

    fn out(&mut self, plain: &[IoSlice<'_>], close: bool, buffers: &mut Buffers, wire: &mut Vec<u8>) {
        let Buffers { front, back } = buffers;
        let innermost = self.layers.len().saturating_sub(1);
        if self.layers.is_empty() {
            plain.iter().for_each(|slice| wire.extend_from_slice(slice));
        }
        for (index, layer) in self.layers.iter_mut().enumerate().rev() {
            let between = [IoSlice::new(back)];
            let from = if index == innermost { plain } else { &between };
            let to = if index == 0 { &mut *wire } else { &mut *front };
            if index > 0 {
                to.clear();
            }
            layer.send(from, to);
            if close {
                layer.close(to);
            }
            std::mem::swap(front, back);
        }
    }
}

/// What is inside of TLS: the application protocol that is agreed on in the handshake (ALPN).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Carries {
    /// `mqtt`
    Mqtt,
    /// `http/1.1`
    WebSocket,
}

/// Which layers the connections of a listener have. None by default: plain TCP.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    /// Connections come from these proxies only, and begin with a header of the PROXY protocol.
    pub proxy: Option<Trusted>,
    /// What is inside of it is TLS.
    #[cfg(feature = "tls")]
    pub tls: Option<crate::Tls>,
    /// MQTT is inside of WebSocket.
    pub websocket: Option<WebSocketSettings>,
}

impl Layers {
    /// Whether a socket from there may connect. One without an address (a Unix socket) is let in by the permissions of
    /// its file.
    #[must_use]
    pub fn admits(&self, address: Option<SocketAddr>) -> bool {
        match (&self.proxy, address) {
            (Some(trusted), Some(address)) => trusted.contains(address.ip()),
            _ => true,
        }
    }

    /// Whether a handshake costs more than looking at bytes: those of TLS compute signatures.
    #[must_use]
    pub fn has_costly_handshake(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        false
    }

    /// What time it is, for the certificates of handshakes that go on.
    pub fn set_time(&self, now: Wall) {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            tls.set_time(now);
        }
        #[cfg(not(feature = "tls"))]
        let _ = now;
    }

    /// The layers of a new connection from `address`; `None`: it needs none.
    #[must_use]
    pub fn link(&self, address: Option<SocketAddr>) -> Option<Link> {
        let mut layers: Vec<Box<dyn Layer>> = Vec::new();
        if self.proxy.is_some() {
            layers.push(Box::new(Proxy::new()));
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            let carries = if self.websocket.is_some() { Carries::WebSocket } else { Carries::Mqtt };
            layers.push(tls.accept(carries));
        }
        if let Some(settings) = &self.websocket {
            layers.push(Box::new(WebSocket::with(settings.clone())));
        }
        (!layers.is_empty()).then(|| Link::new(address, layers))
    }
}

//! The byte layers of connections, between their sockets and the machine. A connection of plain TCP has none.
//!
//! The machine decides when a connection ends. A layer only delays that: its goodbye must be written before the socket
//! is told to finish; how long that may take is the machine's business as well, which asks for `Close::Drop` in the end.

use crate::{Effect, Written};
use culex_core::id::Table;
use culex_core::{Close, ConnectionId, Disconnect, Peer, Refused, Violation, Wall};
use culex_link::{Buffers, Layers, Learnt, Link, Progress};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};

/// The links of one machine's connections.
#[derive(Debug)]
pub(crate) struct Links {
    /// What carries MQTT, by the number of the listener.
    listeners: Vec<Layers>,
    links: Table<ConnectionId, Box<Line>>,
    /// Those of connections that the machine gave away, and whose place another one has already.
    leaving: Vec<(ConnectionId, Box<Line>)>,
    /// Links that have something to write; each is in here at most once.
    dirty: VecDeque<ConnectionId>,
    /// What the sockets are to be told.
    effects: VecDeque<Effect>,
    /// What came in by a link, while the machine takes it.
    plain: Vec<u8>,
    /// What goes out by a link, while its socket takes it.
    wire: Vec<u8>,
    /// What is between two layers.
    buffers: Buffers,
    /// How many costly handshakes are not over, and how many may be.
    shaking: usize,
    handshakes_max: usize,
    /// How many more steps of costly handshakes are done in this turn, and who waits for a later one; each is in here
    /// at most once.
    steps: usize,
    waiting: VecDeque<ConnectionId>,
}

/// A link and its socket.
#[derive(Debug)]
pub(crate) struct Line {
    link: Link,
    listener: u16,
    /// What the socket did not take: no more than was offered to it at once.
    rest: Vec<u8>,
    /// A step of the handshake that waits for its turn: no more than was read at once.
    put_off: Vec<u8>,
    end: End,
    /// The socket was full.
    full: bool,
    dirty: bool,
    /// Its handshake costs much and is not over.
    shaking: bool,
    /// The peer broke this rule when the machine had given the connection away: the next one is to hear of it.
    violation: Option<Violation>,
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    NotYet,
    /// The peer said goodbye; the machine is still busy with what came before.
    Left,
    /// The peer said goodbye: answer if it can be done at once, and close.
    Leave,
    /// A layer failed: write its last words if it can be done at once, and close.
    Fail,
    /// The machine wants no more: write what there is, then finish.
    Finish,
}

/// What came in by a link.
#[derive(Debug)]
pub(crate) struct Carried<'l> {
    /// What the layers found out about the peer, before the machine gets the bytes.
    pub(crate) learnt: Option<Learnt>,
    pub(crate) plain: &'l [u8],
    pub(crate) progress: Progress,
}

impl Links {
    /// Of costly handshakes, at most `handshakes_max` are under way at once.
    pub(crate) fn new(listeners: Vec<Layers>, handshakes_max: usize) -> Self {
        Self {
            listeners,
            links: Table::default(),
            leaving: Vec::new(),
            dirty: VecDeque::new(),
            effects: VecDeque::new(),
            plain: Vec::new(),
            wire: Vec::new(),
            buffers: Buffers::default(),
            shaking: 0,
            handshakes_max,
            steps: STEPS_PER_TURN,
            waiting: VecDeque::new(),
        }
    }

    /// Whether a connection may come in; asked before the machine is.
    pub(crate) fn admit(&self, peer: &Peer) -> Result<(), Refused> {
        let Some(layers) = self.listeners.get(usize::from(peer.listener)) else { return Ok(()) };
        if !layers.admits(peer.address) {
            tracing::info!(address = ?peer.address, listener = peer.listener, "refused: not one of the listener's proxies");
            return Err(Refused::Peer);
        }
        if layers.has_costly_handshake() && self.shaking >= self.handshakes_max {
            tracing::debug!(address = ?peer.address, listener = peer.listener, "refused: too many handshakes at once");
            return Err(Refused::Full);
        }
        Ok(())
    }

    /// A connection was accepted: gives it the layers of its listener.
    pub(crate) fn accept(&mut self, id: ConnectionId, peer: &Peer) {
        let Some(layers) = self.listeners.get(usize::from(peer.listener)) else { return };
        let Some(link) = layers.link(peer.address) else { return };
        let shaking = layers.has_costly_handshake();
        self.shaking += usize::from(shaking);
        let line = Line {
            link,
            listener: peer.listener,
            rest: Vec::new(),
            put_off: Vec::new(),
            end: End::NotYet,
            full: false,
            dirty: false,
            shaking,
            violation: None,
        };
        self.insert(id, Box::new(line));
    }

    fn insert(&mut self, id: ConnectionId, line: Box<Line>) {
        self.leaving.extend(self.links.take_older(id));
        self.links.insert(id, line);
    }

    /// Whether a connection has layers.
    #[inline]
    pub(crate) fn has(&self, id: ConnectionId) -> bool {
        self.links.get(id).is_some()
    }

    /// A connection is gone; says how, if a layer knows better than the socket.
    pub(crate) fn remove(&mut self, id: ConnectionId) -> Option<Disconnect> {
        let line = self.links.remove(id)?;
        self.shaking -= usize::from(line.shaking);
        match line.end {
            End::Left | End::Leave => Some(Disconnect::Eof),
            End::Fail => Some(Disconnect::Error),
            End::NotYet | End::Finish => None,
        }
    }

    /// A connection goes to another shard, with its layers.
    pub(crate) fn leaves(&mut self, id: ConnectionId) -> Option<Box<Line>> {
        let older = |leaving: &mut Vec<(ConnectionId, Box<Line>)>| {
            let place = leaving.iter().position(|(older, _)| *older == id)?;
            Some(leaving.swap_remove(place).1)
        };
        let line = self.links.remove(id).or_else(|| older(&mut self.leaving))?;
        self.shaking -= usize::from(line.shaking);
        Some(line)
    }

    /// A connection comes from another shard; says what rule its peer broke before it came.
    pub(crate) fn arrive(&mut self, id: ConnectionId, mut line: Box<Line>) -> Option<Violation> {
        self.shaking += usize::from(line.shaking);
        let violation = line.violation.take();
        // Its socket is asked anew, and here it stands in no list.
        (line.full, line.dirty) = (false, false);
        let (speaks, waits) = (line.has_output(), !line.put_off.is_empty());
        self.insert(id, line);
        if speaks {
            self.touch(id);
        }
        if waits {
            self.waiting.push_back(id);
        }
        violation
    }

    /// The peer broke a rule, and the machine has no such connection any more.
    pub(crate) fn violated(&mut self, id: ConnectionId, violation: Violation) {
        if let Some(line) = self.links.get_mut(id) {
            line.violation = Some(violation);
        }
    }

    /// How much may be read from a connection, as far as its layers are concerned.
    #[inline]
    pub(crate) fn read_credit(&self, id: ConnectionId) -> usize {
        match self.links.get(id) {
            Some(line) if !line.put_off.is_empty() => 0,
            Some(line) if line.shaking => HANDSHAKE_READ_BYTES,
            _ => usize::MAX,
        }
    }

    /// Whether these bytes are a step of a costly handshake for which there is no time in this turn: then they are kept,
    /// and nothing is to be read until [`Effect::Credit`].
    pub(crate) fn put_off(&mut self, id: ConnectionId, wire: &[u8]) -> bool {
        let Some(line) = self.links.get_mut(id).filter(|line| line.shaking) else { return false };
        if self.steps > 0 && self.waiting.is_empty() {
            self.steps -= 1;
            return false;
        }
        if line.put_off.is_empty() {
            self.waiting.push_back(id);
        }
        line.put_off.extend_from_slice(wire);
        true
    }

    /// The next step that was put off and for which there is time now.
    pub(crate) fn poll_put_off(&mut self) -> Option<(ConnectionId, Vec<u8>)> {
        while self.steps > 0 {
            let id = self.waiting.pop_front()?;
            let Some(wire) = self.take_put_off(id) else { continue };
            self.steps -= 1;
            self.effects.push_back(Effect::Credit { id });
            return Some((id, wire));
        }
        None
    }

    /// What was put off of a connection.
    pub(crate) fn take_put_off(&mut self, id: ConnectionId) -> Option<Vec<u8>> {
        let wire = std::mem::take(&mut self.links.get_mut(id)?.put_off);
        (!wire.is_empty()).then_some(wire)
    }

    /// A turn is over; says whether something was put off, so that the next one has to begin at once.
    pub(crate) fn end_turn(&mut self) -> bool {
        self.steps = STEPS_PER_TURN;
        !self.waiting.is_empty()
    }

    /// What the bytes of the wire carry, and what becomes of the connection.
    pub(crate) fn receive(&mut self, wall: Wall, id: ConnectionId, wire: &[u8]) -> Carried<'_> {
        self.plain.clear();
        let Some(line) = self.links.get_mut(id) else {
            return Carried { learnt: None, plain: &[], progress: Progress::Open };
        };
        if line.shaking
            && let Some(layers) = self.listeners.get(usize::from(line.listener))
        {
            layers.set_time(wall);
        }
        let progress = line.link.receive(wire, &mut self.buffers, &mut self.plain);
        let learnt = line.link.learnt();
        if progress == Progress::Closed && line.end == End::NotYet {
            line.end = End::Left;
        }
        let speaks = line.link.speaks();
        if line.shaking && !line.link.is_shaking_hands() {
            line.shaking = false;
            self.shaking -= 1;
        }
        // All its layers have done their work: from now on it is a connection like one of plain TCP.
        let needed = !line.link.is_bare() || line.end != End::NotYet || !line.rest.is_empty();
        if speaks {
            self.touch(id);
        }
        if !needed {
            self.links.remove(id);
        }
        Carried { learnt, plain: &self.plain, progress }
    }

    /// Where a peer is, as far as its layers know.
    pub(crate) fn address(&self, id: ConnectionId) -> Option<std::net::SocketAddr> {
        self.links.get(id).and_then(|line| line.link.address())
    }

    /// Whether the peer said goodbye and the machine is still busy with what came before.
    pub(crate) fn has_left(&self, id: ConnectionId) -> bool {
        self.links.get(id).is_some_and(|link| link.end == End::Left)
    }

    /// Closes a connection whose peer said goodbye, after an answer.
    pub(crate) fn leave(&mut self, id: ConnectionId) {
        self.end(id, End::Leave);
    }

    /// Closes a connection one of whose layers failed, after its last words.
    pub(crate) fn fail(&mut self, id: ConnectionId) {
        self.end(id, End::Fail);
    }

    /// The machine wants no more; `false`: there is no link, the socket can be told at once.
    pub(crate) fn finish(&mut self, id: ConnectionId) -> bool {
        let linked = self.has(id);
        self.end(id, End::Finish);
        linked
    }

    fn end(&mut self, id: ConnectionId, end: End) {
        let Some(link) = self.links.get_mut(id) else { return };
        // Who is to be closed at once stays so.
        if !link.end.is_at_once() {
            link.end = end;
        }
        // Who said goodbye does not have to be waited for.
        link.full &= !link.end.is_at_once();
        self.touch(id);
    }

    /// A full socket has room again.
    pub(crate) fn writable(&mut self, id: ConnectionId) {
        if let Some(link) = self.links.get_mut(id) {
            link.full = false;
            self.touch(id);
        }
    }

    /// Whether the socket of a link is full.
    pub(crate) fn is_full(&self, id: ConnectionId) -> bool {
        self.links.get(id).is_some_and(|link| link.full)
    }

    /// The next link that has something to write on its own.
    pub(crate) fn poll_dirty(&mut self) -> Option<ConnectionId> {
        while let Some(id) = self.dirty.pop_front() {
            let Some(link) = self.links.get_mut(id) else { continue };
            link.dirty = false;
            if !link.full && link.has_output() {
                return Some(id);
            }
        }
        None
    }

    /// What a socket is to be told.
    pub(crate) fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Takes all of `plain` and writes once: first what an earlier write left, if there is something.
    pub(crate) fn write(
        &mut self,
        id: ConnectionId,
        plain: &[IoSlice<'_>],
        write: &mut impl FnMut(ConnectionId, &[IoSlice<'_>]) -> io::Result<usize>,
    ) -> Written {
        let Some(link) = self.links.get_mut(id) else { return Written::All };
        self.wire.clear();
        self.wire.append(&mut link.rest);
        // What an earlier write left goes out alone, or a peer that reads little and pings much would make it grow.
        let speaks = self.wire.is_empty() || !plain.is_empty();
        if speaks {
            link.link.send(plain, &mut self.buffers, &mut self.wire);
            if link.end == End::Finish || link.end.is_at_once() {
                link.link.close(&mut self.buffers, &mut self.wire);
            }
        }
        let (count, written) = match self.wire.len() {
            0 => (0, Written::All),
            offered => write_once(offered, || write(id, &[IoSlice::new(&self.wire)])),
        };
        link.rest = self.wire[count..].into();
        link.full = written == Written::Full;
        match (link.end, written) {
            // Whoever wrote closes the socket.
            (_, Written::Broken) => {}
            (End::Leave | End::Fail, _) => self.effects.push_back(Effect::Close { id, how: Close::Drop }),
            (End::Finish, Written::All) if speaks => {
                link.end = End::NotYet;
                self.effects.push_back(Effect::Close { id, how: Close::Finish });
            }
            (_, Written::All) if link.has_output() => self.touch(id),
            _ => {}
        }
        written
    }

    fn touch(&mut self, id: ConnectionId) {
        if let Some(link) = self.links.get_mut(id)
            && !link.dirty
        {
            link.dirty = true;
            self.dirty.push_back(id);
        }
    }
}

impl Line {
    fn has_output(&self) -> bool {
        !self.rest.is_empty() || self.link.speaks() || self.end == End::Finish || self.end.is_at_once()
    }
}

impl End {
    /// Whether one attempt to write is all there is time for.
    fn is_at_once(self) -> bool {
        matches!(self, Self::Leave | Self::Fail)
    }
}

/// Writes once; how many bytes of those offered, and how it went.
pub(crate) fn write_once(offered: usize, mut write: impl FnMut() -> io::Result<usize>) -> (usize, Written) {
    loop {
        return match write() {
            Ok(count) if count == offered => (count, Written::All),
            Ok(count) => (count, Written::Full),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == ErrorKind::WouldBlock => (0, Written::Full),
            Err(_) => (0, Written::Broken),
        };
    }
}

/// Steps of costly handshakes (a ClientHello, a client's certificate) in one turn: the others wait for the next one. A
/// signature of RSA with 2048 bits takes about a millisecond, one of ECDSA a thirtieth of that.
pub(crate) const STEPS_PER_TURN: usize = 8;
/// What is read at once of a connection whose handshake costs much: the step that is put off is no longer.
const HANDSHAKE_READ_BYTES: usize = 4 * 1024;
/// Costly handshakes under way at once, unless the program says otherwise.
pub(crate) const HANDSHAKES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use culex_core::id::Id;
    use culex_link::WebSocketSettings;

    const REQUEST: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";
    const WALL: Wall = Wall(0);
    const PING: &[u8] = &[0x89, 0x81, 0, 0, 0, 0, b'p'];
    const GOODBYE: &[u8] = &[0x88, 0x80, 0, 0, 0, 0];

    fn websocket() -> Layers {
        Layers { websocket: Some(WebSocketSettings::new("/mqtt".into())), ..Layers::default() }
    }

    /// A socket that takes so many bytes.
    fn socket(room: usize) -> impl FnMut(ConnectionId, &[IoSlice<'_>]) -> io::Result<usize> {
        move |_, slices| match slices.iter().map(|slice| slice.len()).sum::<usize>().min(room) {
            0 => Err(ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }

    /// A link whose handshake is over.
    fn linked() -> (Links, ConnectionId) {
        let mut links = Links::new(vec![websocket()], 1);
        let id = ConnectionId::new(3, 1);
        links.accept(id, &Peer::default());
        links.receive(WALL, id, REQUEST);
        assert_eq!(links.poll_dirty(), Some(id));
        assert_eq!(links.write(id, &[], &mut socket(1000)), Written::All);
        (links, id)
    }

    #[test]
    fn a_listener_of_tcp_has_no_link() {
        let mut links = Links::new(vec![Layers::default()], 1);
        let id = ConnectionId::new(0, 0);
        links.accept(id, &Peer::default());
        assert!(!links.has(id) && !links.is_full(id) && !links.finish(id));
        assert!(links.poll_dirty().is_none() && links.poll_effect().is_none());
    }

    /// However much a peer pings while it reads little, no more is kept than was offered once.
    #[test]
    fn what_a_full_socket_leaves_does_not_grow() {
        let (mut links, id) = linked();
        let payload = vec![0; 1000];
        assert_eq!(links.write(id, &[IoSlice::new(&payload)], &mut socket(10)), Written::Full);
        let kept = links.links.get(id).unwrap().rest.len();
        for _ in 0..500 {
            links.receive(WALL, id, PING);
            assert!(links.poll_dirty().is_none(), "it is full");
            links.writable(id);
            assert_eq!(links.poll_dirty(), Some(id));
            assert_eq!(links.write(id, &[], &mut socket(1)), Written::Full);
        }
        assert_eq!(links.links.get(id).unwrap().rest.len(), kept - 500);
        // Then what was asked meanwhile is answered, once.
        links.writable(id);
        assert_eq!(links.write(id, &[], &mut socket(1000)), Written::All);
        assert_eq!(links.poll_dirty(), Some(id));
        let mut said = Vec::new();
        let mut listen = |_: ConnectionId, slices: &[IoSlice<'_>]| {
            slices.iter().for_each(|slice| said.extend_from_slice(slice));
            Ok(slices.iter().map(|slice| slice.len()).sum())
        };
        assert_eq!(links.write(id, &[], &mut listen), Written::All);
        assert_eq!(said, [0x8A, 1, b'p']);
        let idle = links.links.get(id).unwrap();
        assert!(idle.rest.capacity() == 0 && links.poll_dirty().is_none());
    }

    #[test]
    fn a_socket_is_told_to_finish_when_the_goodbye_is_written() {
        let (mut links, id) = linked();
        assert_eq!(links.write(id, &[IoSlice::new(b"bytes")], &mut socket(3)), Written::Full);
        assert!(links.finish(id));
        assert!(links.poll_dirty().is_none() && links.poll_effect().is_none(), "the socket is full");
        links.writable(id);
        assert_eq!(links.poll_dirty(), Some(id));
        assert_eq!(links.write(id, &[], &mut socket(1000)), Written::All);
        assert!(links.poll_effect().is_none(), "the goodbye is still to be written");
        assert_eq!(links.poll_dirty(), Some(id));
        assert_eq!(links.write(id, &[], &mut socket(2)), Written::Full);
        assert!(links.poll_effect().is_none());
        links.writable(id);
        while let Some(id) = links.poll_dirty() {
            assert_eq!(links.write(id, &[], &mut socket(1000)), Written::All);
        }
        assert_eq!(links.poll_effect(), Some(Effect::Close { id, how: Close::Finish }));
        assert!(links.poll_dirty().is_none() && links.poll_effect().is_none());
    }

    /// Who said goodbye and does not read is not waited for.
    #[test]
    fn who_said_goodbye_is_dropped_after_one_attempt_to_answer() {
        for room in [0, 1, 1000] {
            let (mut links, id) = linked();
            assert_eq!(links.receive(WALL, id, GOODBYE).progress, Progress::Closed);
            assert!(links.has_left(id) && links.poll_effect().is_none(), "the machine decides when");
            links.leave(id);
            assert_eq!(links.poll_dirty(), Some(id));
            let _ = links.write(id, &[], &mut socket(room));
            assert_eq!(links.poll_effect(), Some(Effect::Close { id, how: Close::Drop }));
            assert_eq!(links.remove(id), Some(Disconnect::Eof));
            assert!(!links.has(id));
        }
    }

    /// Connections of clients behind a proxy at 10.0.0.1.
    fn behind_a_proxy() -> (Links, Peer) {
        let layers = Layers { proxy: Some("10.0.0.1".parse().unwrap()), ..Layers::default() };
        let address = Some(([10, 0, 0, 1], 999).into());
        (Links::new(vec![layers], 1), Peer { address, ..Peer::default() })
    }

    #[test]
    fn a_listener_for_proxies_admits_nobody_else() {
        let (links, mut peer) = behind_a_proxy();
        assert_eq!(links.admit(&peer), Ok(()));
        peer.address = Some(([10, 0, 0, 2], 999).into());
        assert_eq!(links.admit(&peer), Err(Refused::Peer));
    }

    #[test]
    fn a_link_that_has_nothing_left_to_do_is_gone() {
        let (mut links, peer) = behind_a_proxy();
        let id = ConnectionId::new(0, 0);
        links.accept(id, &peer);
        let carried = links.receive(WALL, id, b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 1883\r\nbytes");
        assert_eq!((carried.plain, carried.progress), (&b"bytes"[..], Progress::Open));
        assert_eq!(carried.learnt.unwrap().address, Some(([192, 0, 2, 1], 4711).into()));
        assert!(!links.has(id) && links.poll_dirty().is_none() && links.remove(id).is_none());
    }

    #[test]
    fn who_fails_below_mqtt_hears_the_last_words_and_is_dropped() {
        for room in [0, 10, 1000] {
            let mut links = Links::new(vec![websocket()], 1);
            let id = ConnectionId::new(3, 1);
            links.accept(id, &Peer::default());
            let progress = links.receive(WALL, id, b"POST / HTTP/1.1\r\n\r\n").progress;
            assert!(matches!(progress, Progress::Failed(_)));
            links.fail(id);
            assert_eq!(links.poll_dirty(), Some(id));
            let mut said = Vec::new();
            let mut listen = |_: ConnectionId, slices: &[IoSlice<'_>]| {
                slices.iter().for_each(|slice| said.extend_from_slice(slice));
                said.truncate(room);
                Ok(said.len())
            };
            let _ = links.write(id, &[], &mut listen);
            assert!(b"HTTP/1.1 405 Method".starts_with(&said[..said.len().min(19)]));
            // Whatever the machine says meanwhile.
            assert!(links.finish(id));
            assert_eq!(links.poll_effect(), Some(Effect::Close { id, how: Close::Drop }));
            assert_eq!(links.remove(id), Some(Disconnect::Error));
        }
    }
}

//! The byte layers of connections, between their sockets and the machine. A connection of plain TCP has none.
//!
//! The machine decides when a connection ends. A layer only delays that: its goodbye must be written before the socket
//! is told to finish; how long that may take is the machine's business as well, which asks for `Close::Drop` in the end.

use crate::{Effect, Transport, Written};
use culex_core::id::Table;
use culex_core::{Close, ConnectionId};
use culex_link::{Layer, Progress, WebSocket};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};

/// The links of one machine's connections.
#[derive(Debug)]
pub(crate) struct Links {
    /// What carries MQTT, by the number of the listener.
    transports: Vec<Transport>,
    links: Table<ConnectionId, Box<Link>>,
    /// Links that have something to write; each is in here at most once.
    dirty: VecDeque<ConnectionId>,
    /// What the sockets are to be told.
    effects: VecDeque<Effect>,
    /// What came in by a link, while the machine takes it.
    plain: Vec<u8>,
    /// What goes out by a link, while its socket takes it.
    wire: Vec<u8>,
}

#[derive(Debug)]
struct Link {
    layer: Box<dyn Layer>,
    /// What the socket did not take: no more than was offered to it at once.
    rest: Vec<u8>,
    end: End,
    /// The socket was full.
    full: bool,
    dirty: bool,
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    NotYet,
    /// The peer said goodbye; the machine is still busy with what came before.
    Left,
    /// The peer said goodbye: answer if it can be done at once, and close.
    Leave,
    /// The machine wants no more: write what there is, then finish.
    Finish,
}

impl Links {
    pub(crate) fn new(transports: Vec<Transport>) -> Self {
        let (dirty, effects) = (VecDeque::new(), VecDeque::new());
        Self { transports, links: Table::default(), dirty, effects, plain: Vec::new(), wire: Vec::new() }
    }

    /// A connection was accepted: gives it the layers of its listener.
    pub(crate) fn accept(&mut self, id: ConnectionId, listener: u16) {
        let transport = self.transports.get(usize::from(listener));
        let Some(path) = transport.and_then(|transport| transport.websocket.as_ref()) else { return };
        let layer = Box::new(WebSocket::new(path.clone()));
        let link = Link { layer, rest: Vec::new(), end: End::NotYet, full: false, dirty: false };
        self.links.insert(id, Box::new(link));
    }

    /// Whether a connection has layers.
    #[inline]
    pub(crate) fn has(&self, id: ConnectionId) -> bool {
        self.links.get(id).is_some()
    }

    /// A connection is gone; says whether its peer had said goodbye.
    pub(crate) fn remove(&mut self, id: ConnectionId) -> bool {
        self.links.remove(id).is_some_and(|link| matches!(link.end, End::Left | End::Leave))
    }

    /// What the bytes of the wire carry, and what becomes of the connection.
    pub(crate) fn receive(&mut self, id: ConnectionId, wire: &[u8]) -> (&[u8], Progress) {
        self.plain.clear();
        let Some(link) = self.links.get_mut(id) else { return (&[], Progress::Open) };
        let progress = link.layer.receive(wire, &mut self.plain);
        if progress == Progress::Closed && link.end == End::NotYet {
            link.end = End::Left;
        }
        if link.layer.speaks() {
            self.touch(id);
        }
        (&self.plain, progress)
    }

    /// Whether the peer said goodbye and the machine is still busy with what came before.
    pub(crate) fn has_left(&self, id: ConnectionId) -> bool {
        self.links.get(id).is_some_and(|link| link.end == End::Left)
    }

    /// Closes a connection whose peer said goodbye, after an answer.
    pub(crate) fn leave(&mut self, id: ConnectionId) {
        self.end(id, End::Leave);
    }

    /// The machine wants no more; `false`: there is no link, the socket can be told at once.
    pub(crate) fn finish(&mut self, id: ConnectionId) -> bool {
        let linked = self.has(id);
        self.end(id, End::Finish);
        linked
    }

    fn end(&mut self, id: ConnectionId, end: End) {
        let Some(link) = self.links.get_mut(id) else { return };
        link.end = end;
        // Who said goodbye does not have to be waited for.
        link.full &= end != End::Leave;
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
            link.layer.send(plain, &mut self.wire);
            if matches!(link.end, End::Leave | End::Finish) {
                link.layer.close(&mut self.wire);
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
            (End::Leave, _) => self.effects.push_back(Effect::Close { id, how: Close::Drop }),
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

impl Link {
    fn has_output(&self) -> bool {
        !self.rest.is_empty() || self.layer.speaks() || matches!(self.end, End::Leave | End::Finish)
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

#[cfg(test)]
mod tests {
    use super::*;
    use culex_core::id::Id;

    const REQUEST: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";
    const PING: &[u8] = &[0x89, 0x81, 0, 0, 0, 0, b'p'];
    const GOODBYE: &[u8] = &[0x88, 0x80, 0, 0, 0, 0];

    /// A socket that takes so many bytes.
    fn socket(room: usize) -> impl FnMut(ConnectionId, &[IoSlice<'_>]) -> io::Result<usize> {
        move |_, slices| match slices.iter().map(|slice| slice.len()).sum::<usize>().min(room) {
            0 => Err(ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }

    /// A link whose handshake is over.
    fn linked() -> (Links, ConnectionId) {
        let mut links = Links::new(vec![Transport::websocket("/mqtt")]);
        let id = ConnectionId::new(3, 1);
        links.accept(id, 0);
        links.receive(id, REQUEST);
        assert_eq!(links.poll_dirty(), Some(id));
        assert_eq!(links.write(id, &[], &mut socket(1000)), Written::All);
        (links, id)
    }

    #[test]
    fn a_listener_of_tcp_has_no_link() {
        let mut links = Links::new(vec![Transport::mqtt()]);
        let id = ConnectionId::new(0, 0);
        links.accept(id, 0);
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
            links.receive(id, PING);
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
            assert_eq!(links.receive(id, GOODBYE).1, Progress::Closed);
            assert!(links.has_left(id) && links.poll_effect().is_none(), "the machine decides when");
            links.leave(id);
            assert_eq!(links.poll_dirty(), Some(id));
            let _ = links.write(id, &[], &mut socket(room));
            assert_eq!(links.poll_effect(), Some(Effect::Close { id, how: Close::Drop }));
            assert!(links.remove(id) && !links.has(id));
        }
    }
}

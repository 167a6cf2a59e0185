//! The calls of the machine. They are functions of their own so that callgrind can count inside them only
//! (`--toggle-collect`): what a client does is no cost of the machine.

use culex_core::broker::Transmit;
use culex_core::{Action, Broker, ConnectionId, Disconnect, Now, Peer};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Whether the machine is at work: then allocations are its own.
#[inline]
#[must_use]
pub fn is_inside() -> bool {
    INSIDE.load(Relaxed)
}

static INSIDE: AtomicBool = AtomicBool::new(false);

/// See [`Broker::accept`].
#[inline(never)]
pub fn accept(broker: &mut Broker, now: Now) -> Option<ConnectionId> {
    INSIDE.store(true, Relaxed);
    let id = broker.accept(now, Peer::default()).ok();
    INSIDE.store(false, Relaxed);
    id
}

/// See [`Broker::receive`].
#[inline(never)]
pub fn receive(broker: &mut Broker, now: Now, id: ConnectionId, bytes: &[u8]) {
    INSIDE.store(true, Relaxed);
    broker.receive(now, id, bytes);
    INSIDE.store(false, Relaxed);
}

/// See [`Broker::disconnected`].
#[inline(never)]
pub fn disconnected(broker: &mut Broker, now: Now, id: ConnectionId) {
    INSIDE.store(true, Relaxed);
    broker.disconnected(now, id, Disconnect::Eof);
    INSIDE.store(false, Relaxed);
}

/// See [`Broker::poll_transmit`].
#[inline(never)]
pub fn transmit(broker: &mut Broker) -> Option<Transmit<'_>> {
    broker.poll_transmit()
}

/// All of it was written.
#[inline(never)]
pub fn written(transmit: Transmit<'_>) {
    INSIDE.store(true, Relaxed);
    let length = transmit.len();
    transmit.written(length);
    INSIDE.store(false, Relaxed);
}

/// See [`Broker::poll_action`].
#[inline(never)]
pub fn action(broker: &mut Broker) -> Option<Action> {
    INSIDE.store(true, Relaxed);
    let action = broker.poll_action();
    INSIDE.store(false, Relaxed);
    action
}

//! What the tests of the parts share: a part of the chain that a test can look into while the machine runs it.

use super::{Flow, Hooks, Middleware};
use crate::broker::{Action, Answer, Cx, Owner};
use crate::id::ConnectionId;
use crate::packet::{Ack, Auth, Connect, Disconnect, Packet, PacketType, Publish};
use std::sync::{Arc, Mutex, MutexGuard};

/// A middleware in two hands: the chain's and the test's.
#[derive(Debug, Default)]
pub(crate) struct Watched<M>(Arc<Mutex<M>>);

impl<M> Clone for Watched<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M> Watched<M> {
    pub(crate) fn new(part: M) -> Self {
        Self(Arc::new(Mutex::new(part)))
    }

    pub(crate) fn part(&self) -> MutexGuard<'_, M> {
        self.0.lock().unwrap()
    }
}

/// Hooks that are passed on with their arguments.
macro_rules! pass_on {
    ($($hook:ident($($name:ident: $kind:ty),*) $(-> $result:ty)?;)*) => {
        $(fn $hook(&mut self, cx: &mut Cx<'_>, $($name: $kind),*) $(-> $result)? {
            self.part().$hook(cx, $($name),*)
        })*
    };
}

impl<M: Middleware> Middleware for Watched<M> {
    fn name(&self) -> &'static str {
        self.part().name()
    }

    fn wants(&self) -> Hooks {
        self.part().wants()
    }

    pass_on! {
        install();
        packet(from: ConnectionId, packet: PacketType) -> Flow;
        connect(from: ConnectionId, packet: &mut Connect<'_>) -> Flow;
        publish(from: ConnectionId, packet: &mut Publish<'_>) -> Flow;
        puback(from: ConnectionId, packet: &Ack<'_>) -> Flow;
        pubrec(from: ConnectionId, packet: &Ack<'_>) -> Flow;
        pubcomp(from: ConnectionId, packet: &Ack<'_>) -> Flow;
        pingreq(from: ConnectionId) -> Flow;
        disconnect(from: ConnectionId, packet: &mut Disconnect<'_>) -> Flow;
        auth(from: ConnectionId, packet: &mut Auth<'_>) -> Flow;
        closed(id: ConnectionId);
        action(action: &mut Action) -> Flow;
        answer(from: ConnectionId, packet: &mut Packet<'_>, answer: Answer) -> Flow;
        timer(owner: Owner);
    }
}

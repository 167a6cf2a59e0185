//! The middleware `KeepAlive`.

use super::{Flow, Hooks, Middleware};
use crate::broker::{Action, Cx, Owner, TimerId};
use crate::id::{ConnectionId, Table};
use crate::packet::{Connect, Packet, PacketType, ReasonCode, Version};
use crate::saved::{saved, saved_part};
use crate::time::Mono;

/// Keep alive: answers PINGREQ, and ends connections that were silent for too long.
///
/// * **listens**: CONNECT, any packet, PINGREQ, session opened, closed, timer
/// * **emits**: PINGRESP, close (0x8D)
/// * **owns**: when each client was last heard. Its timer is re-armed lazily, so a packet costs one store.
#[derive(Debug, Default)]
pub struct KeepAlive {
    alive: Table<ConnectionId, Alive>,
}

/// Of each connection with a Keep Alive, so it is small: how long that is, the connection knows.
#[derive(Debug)]
struct Alive {
    heard: Mono,
    timer: TimerId,
}

const _: () = assert!(size_of::<Option<Alive>>() == 16);

saved! { struct Alive { heard, timer } }

impl Middleware for KeepAlive {
    fn name(&self) -> &'static str {
        "KeepAlive"
    }

    saved_part! { alive; }

    fn shortens(&self) -> Hooks {
        Hooks::PACKET
    }

    fn wants(&self) -> Hooks {
        Hooks::CONNECT | Hooks::PACKET | Hooks::PINGREQ | Hooks::SESSION_OPENED | Hooks::CLOSED
    }

    fn connect(&mut self, cx: &mut Cx<'_>, from: ConnectionId, packet: &mut Connect<'_>) -> Flow {
        let Some(connection) = cx.connection(from) else { return Flow::Done };
        let most = cx.config().keep_alive_max_of(connection.peer.listener);
        // 3.x clients cannot be told another Keep Alive: theirs counts.
        let lower =
            packet.version == Version::V5 && most > 0 && (packet.keep_alive == 0 || packet.keep_alive > most);
        let keep_alive = if lower { most } else { packet.keep_alive };
        if let Some(connection) = cx.connection_mut(from) {
            connection.keep_alive_s = keep_alive;
            connection.keep_alive_lowered = lower;
        }
        Flow::Next
    }

    fn packet(&mut self, cx: &mut Cx<'_>, from: ConnectionId, _: PacketType) -> Flow {
        if let Some(alive) = self.alive.get_mut(from) {
            alive.heard = cx.now().mono;
        }
        Flow::Next
    }

    fn pingreq(&mut self, cx: &mut Cx<'_>, from: ConnectionId) -> Flow {
        // [MQTT-3.12.4-1]
        if !cx.send(from, &Packet::Pingresp) {
            cx.close_client(from, ReasonCode::PacketTooLarge);
        }
        Flow::Done
    }

    fn action(&mut self, cx: &mut Cx<'_>, action: &mut Action) -> Flow {
        let Action::SessionOpened { connection: id, .. } = *action else { return Flow::Next };
        let keep_alive_s = cx.connection(id).map_or(0, |connection| connection.keep_alive_s);
        // [MQTT-3.1.2-22]: 0 turns it off.
        if keep_alive_s > 0 {
            let heard = cx.now().mono;
            let timer = cx.arm(heard.plus_ms(patience_ms(keep_alive_s)), Owner::Connection(id));
            self.alive.insert(id, Alive { heard, timer });
        }
        Flow::Next
    }

    fn closed(&mut self, cx: &mut Cx<'_>, id: ConnectionId) {
        if let Some(alive) = self.alive.remove(id) {
            cx.cancel(alive.timer);
        }
    }

    fn timer(&mut self, cx: &mut Cx<'_>, owner: Owner) {
        let Owner::Connection(id) = owner else { return };
        let (Some(alive), Some(connection)) = (self.alive.get_mut(id), cx.connection(id)) else { return };
        let now = cx.now().mono;
        // While we do not read, silence is our own doing.
        if connection.paused() {
            alive.heard = now;
        }
        let due = alive.heard.plus_ms(patience_ms(connection.keep_alive_s));
        if due > now {
            alive.timer = cx.arm(due, owner);
        } else {
            self.alive.remove(id);
            cx.stats().keep_alive_timeouts += 1;
            cx.close_client(id, ReasonCode::KeepAliveTimeout);
        }
    }
}

/// One and a half times the Keep Alive [MQTT-3.1.2-22].
fn patience_ms(keep_alive_s: u16) -> u64 {
    u64::from(keep_alive_s) * 1_500
}

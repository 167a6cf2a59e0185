//! The middleware `Connection`.

use super::{Flow, Hooks, Middleware};
use crate::broker::{Action, Cx, Owner, Peer, TimerId};
use crate::config::IdentityUse;
use crate::connection::{Phase, Verdict, verdict};
use crate::error::Violation;
use crate::id::{ConnectionId, Table};
use crate::packet::{Connect, Disconnect, PacketType, ReasonCode, Version};
use crate::saved::saved_part;

/// The phases of a connection: the first packet is CONNECT, there is only one, and it comes in time.
///
/// * **listens**: accepted, any packet, CONNECT, DISCONNECT, session opened, closed, timer
/// * **emits**: close
/// * **owns**: the connect timeout; the facts of CONNECT on the connection (version, the client's limits); whom a listener
///   wants (`identity`, `allow_anonymous`)
#[derive(Debug, Default)]
pub struct Connection {
    timeouts: Table<ConnectionId, TimerId>,
}

impl Connection {
    fn disarm(&mut self, cx: &mut Cx<'_>, id: ConnectionId) {
        if let Some(timer) = self.timeouts.remove(id) {
            cx.cancel(timer);
        }
    }
}

impl Middleware for Connection {
    fn name(&self) -> &'static str {
        "Connection"
    }

    saved_part! { timeouts; }

    fn shortens(&self) -> Hooks {
        Hooks::PACKET
    }

    fn wants(&self) -> Hooks {
        Hooks::ACCEPT
            | Hooks::PACKET
            | Hooks::CONNECT
            | Hooks::DISCONNECT
            | Hooks::SESSION_OPENED
            | Hooks::CLOSED
    }

    fn accept(&mut self, cx: &mut Cx<'_>, id: ConnectionId, _: &Peer) -> Flow {
        let at = cx.now().mono.plus_ms(u64::from(cx.config().connect_timeout_ms));
        self.timeouts.insert(id, cx.arm(at, Owner::Connection(id)));
        Flow::Next
    }

    fn packet(&mut self, cx: &mut Cx<'_>, from: ConnectionId, packet: PacketType) -> Flow {
        let Some(connection) = cx.connection(from) else { return Flow::Done };
        match verdict(connection.phase, packet) {
            Verdict::Allowed => Flow::Next,
            Verdict::Ignored => Flow::Done,
            Verdict::Forbidden(violation) => Flow::Violation(violation),
        }
    }

    fn connect(&mut self, cx: &mut Cx<'_>, from: ConnectionId, packet: &mut Connect<'_>) -> Flow {
        if let Some(connection) = cx.connection_mut(from) {
            let properties = &packet.properties;
            connection.phase = Phase::Connecting;
            connection.version = packet.version;
            connection.user_name = packet.user_name.map(super::boxed);
            connection.packet_size_max = properties.maximum_packet_size().map_or(u32::MAX, Into::into);
            connection.receive_maximum = properties.receive_maximum().map_or(u16::MAX, Into::into);
            connection.topic_alias_maximum = properties.topic_alias_maximum().unwrap_or(0);
            connection.response_information = properties.request_response_information().unwrap_or(false);
            connection.problem_information = properties.request_problem_information().unwrap_or(true);
        }
        if let Some(reason) = unwelcome(cx, from, packet) {
            return Flow::Refuse(reason);
        }
        if cx.config().redirect_to.is_empty() {
            return Flow::Next;
        }
        // [MQTT-4.11.0-1]: everybody is served elsewhere.
        let (reference, moved) = (cx.config().redirect_to.clone(), cx.config().redirect_permanently);
        cx.redirect(from, &reference);
        Flow::Refuse(if moved { ReasonCode::ServerMoved } else { ReasonCode::UseAnotherServer })
    }

    fn disconnect(&mut self, cx: &mut Cx<'_>, from: ConnectionId, packet: &mut Disconnect<'_>) -> Flow {
        let Some(connection) = cx.connection(from) else { return Flow::Done };
        // Only a server names another server.
        if connection.version == Version::V5 && packet.properties.server_reference().is_some() {
            return Flow::Violation(Violation::protocol("MQTT-3.14.2.2.5"));
        }
        Flow::Next
    }

    fn action(&mut self, cx: &mut Cx<'_>, action: &mut Action) -> Flow {
        if let Action::SessionOpened { connection, .. } = action {
            self.disarm(cx, *connection);
        }
        Flow::Next
    }

    fn closed(&mut self, cx: &mut Cx<'_>, id: ConnectionId) {
        self.disarm(cx, id);
    }

    /// No complete CONNECT, or no end of its authentication, in time [MQTT-3.1.4-1 of 3.1.1: "a reasonable time"].
    fn timer(&mut self, cx: &mut Cx<'_>, owner: Owner) {
        if let Owner::Connection(id) = owner {
            self.timeouts.remove(id);
            cx.close_client(id, ReasonCode::MaximumConnectTime);
        }
    }
}

/// Why the listener of a connection does not want this client, whatever authentication says.
fn unwelcome(cx: &Cx<'_>, from: ConnectionId, packet: &Connect<'_>) -> Option<ReasonCode> {
    let peer = &cx.connection(from)?.peer;
    let listener = cx.config().listener(peer.listener);
    let identity = peer.identity.as_deref();
    let anonymous = identity.is_none()
        && packet.user_name.is_none()
        && packet.properties.authentication_method().is_none();
    if anonymous && !listener.allow_anonymous {
        return Some(ReasonCode::NotAuthorized);
    }
    match (listener.identity, identity) {
        // It cannot be a User Name.
        (IdentityUse::UserName, Some(identity)) if packet.user_name != Some(identity) => {
            Some(ReasonCode::BadUserNameOrPassword)
        }
        (IdentityUse::ClientId, Some(identity)) if packet.client_id != identity => {
            Some(ReasonCode::ClientIdentifierNotValid)
        }
        _ => None,
    }
}

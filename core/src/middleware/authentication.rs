//! The middleware `Authentication`.

use super::{Flow, Hooks, Middleware};
use crate::broker::{Answer, Credentials, Cx, Query};
use crate::connection::Phase;
use crate::error::Violation;
use crate::id::{ConnectionId, Table};
use crate::packet::{Auth, Connect, Packet, PropertiesBuf, Property, ReasonCode};
use crate::saved::saved_part;
use alloc::boxed::Box;
use bytes::Bytes;
use core::fmt;

/// What a policy says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Come in.
    Allow,
    /// Come in under this User Name.
    AllowAs(Box<str>),
    /// Stay out; an MQTT 5.0 client is told this reason.
    Deny(ReasonCode),
    /// Go to another server.
    Redirect {
        /// Its Server Reference.
        server_reference: Box<str>,
        /// For good (0x9D) or for now (0x9C).
        moved: bool,
    },
    /// The outside knows: emits a ticket and waits for its answer.
    Ask,
}

/// A policy of authentication. Any `FnMut(&Credentials) -> Decision` is one.
pub trait Authenticate: Send {
    /// Decides about a CONNECT. It runs on the machine's thread: what takes long says [`Decision::Ask`].
    fn authenticate(&mut self, who: &Credentials) -> Decision;

    /// Whether enhanced authentication by this method is known; its steps are always asked.
    fn method(&self, name: &str) -> bool {
        let _ = name;
        false
    }
}

impl<F: FnMut(&Credentials) -> Decision + Send> Authenticate for F {
    fn authenticate(&mut self, who: &Credentials) -> Decision {
        self(who)
    }
}

/// Who may connect: runs before a session is touched, so that a stranger cannot take one over.
///
/// * **listens**: CONNECT, AUTH, closed, answer
/// * **emits**: ask (authenticate), AUTH, refuse
/// * **owns**: its policy; the Authentication Method of each connection that has one
pub struct Authentication {
    policy: Box<dyn Authenticate>,
    /// The method of the exchange that is going on.
    methods: Table<ConnectionId, Box<str>>,
}

impl fmt::Debug for Authentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authentication").finish_non_exhaustive()
    }
}

impl Authentication {
    /// Authentication by a policy.
    #[must_use]
    pub fn new(policy: impl Authenticate + 'static) -> Self {
        Self { policy: Box::new(policy), methods: Table::default() }
    }

    /// Everybody comes in.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::new(|_: &Credentials| Decision::Allow)
    }

    /// Every CONNECT is a question to the outside.
    #[must_use]
    pub fn ask() -> Self {
        Self::new(|_: &Credentials| Decision::Ask)
    }
}

impl Middleware for Authentication {
    fn name(&self) -> &'static str {
        "Authentication"
    }

    saved_part! { methods; policy }

    fn wants(&self) -> Hooks {
        Hooks::CONNECT | Hooks::AUTH | Hooks::CLOSED
    }

    fn connect(&mut self, cx: &mut Cx<'_>, from: ConnectionId, packet: &mut Connect<'_>) -> Flow {
        let Some(connection) = cx.connection(from) else { return Flow::Done };
        let properties = &packet.properties;
        let method = properties.authentication_method();
        let who = Credentials {
            connection: from,
            peer: connection.peer.clone(),
            version: packet.version,
            client_id: packet.client_id.into(),
            user_name: packet.user_name.map(Into::into),
            password: packet.password.map(Bytes::copy_from_slice),
            method: method.map(Into::into),
            data: properties.authentication_data().map(Bytes::copy_from_slice),
        };
        match method {
            Some(method) if self.policy.method(method) => {
                self.methods.insert(from, method.into());
                cx.ask(from, Query::Authenticate(who))
            }
            // [MQTT-4.12.0-1]
            Some(_) => Flow::Refuse(ReasonCode::BadAuthenticationMethod),
            None => match self.policy.authenticate(&who) {
                Decision::Allow => Flow::Next,
                Decision::AllowAs(name) => allow_as(cx, from, Some(name)),
                Decision::Deny(reason) => Flow::Refuse(reason),
                Decision::Redirect { server_reference, moved } => {
                    redirect(cx, from, &server_reference, moved)
                }
                Decision::Ask => cx.ask(from, Query::Authenticate(who)),
            },
        }
    }

    /// A further step of enhanced authentication [MQTT-4.12.0-3], or the first of a re-authentication [MQTT-4.12.1-1].
    fn auth(&mut self, cx: &mut Cx<'_>, from: ConnectionId, packet: &mut Auth<'_>) -> Flow {
        let Some(connection) = cx.connection(from) else { return Flow::Done };
        let method = packet.properties.authentication_method();
        let begun = self.methods.get(from).map(|method| &**method);
        // [MQTT-4.12.0-5], [MQTT-4.12.1-1]: the method stays that of CONNECT.
        if begun.is_none() || begun != method {
            return Flow::Violation(Violation::protocol("MQTT-4.12.0-5"));
        }
        let again = match (packet.reason, connection.phase) {
            (ReasonCode::ContinueAuthentication, _) if connection.waits_for_auth() => false,
            (ReasonCode::ReAuthenticate, Phase::Connected) if !connection.authenticates() => true,
            // There is nothing to continue, or one exchange is going on already.
            _ => return Flow::Violation(Violation::protocol("MQTT-4.12.0-3")),
        };
        let who = Credentials {
            connection: from,
            peer: connection.peer.clone(),
            version: connection.version,
            client_id: cx
                .session_of(from)
                .and_then(|s| cx.session(s))
                .map_or_else(Box::default, |s| s.client_id.clone()),
            user_name: connection.user_name.clone(),
            password: None,
            method: method.map(Into::into),
            data: packet.properties.authentication_data().map(Bytes::copy_from_slice),
        };
        let waits = cx.ask(from, Query::Authenticate(who));
        // The packet that began the exchange gets the answer; one that continues it has done its part.
        if again { waits } else { Flow::Done }
    }

    fn answer(
        &mut self,
        cx: &mut Cx<'_>,
        from: ConnectionId,
        packet: &mut Packet<'_>,
        answer: Answer,
    ) -> Flow {
        let method = self.methods.get(from);
        let (user_name, data) = match (answer, method) {
            (Answer::Allow, _) => (None, None),
            (Answer::AllowAs(name), _) => (Some(name), None),
            (Answer::AllowWith { user_name, data }, Some(_)) => (user_name, Some(data)),
            (Answer::Continue(data), Some(method)) => {
                // [MQTT-4.12.0-2]
                say(cx, from, ReasonCode::ContinueAuthentication, method, Some(&data));
                return Flow::Suspend;
            }
            (Answer::Deny(reason), _) => return Flow::Refuse(reason),
            (Answer::Redirect { server_reference, moved }, _) => {
                return redirect(cx, from, &server_reference, moved);
            }
            // [MQTT-4.12.0-6]: there is no AUTH for who did not begin with a method, as no 3.x client can.
            _ => return Flow::Refuse(ReasonCode::NotAuthorized),
        };
        if let (Packet::Auth(_), Some(method)) = (&*packet, method) {
            say(cx, from, ReasonCode::Success, method, data.as_ref());
        } else if let Some(connection) = cx.connection_mut(from) {
            connection.authentication_data = data.map(Box::new);
        }
        let flow = allow_as(cx, from, user_name);
        if matches!(packet, Packet::Auth(_)) { Flow::Done } else { flow }
    }

    fn closed(&mut self, _: &mut Cx<'_>, id: ConnectionId) {
        self.methods.remove(id);
    }
}

fn allow_as(cx: &mut Cx<'_>, from: ConnectionId, name: Option<Box<str>>) -> Flow {
    if let (Some(name), Some(connection)) = (name, cx.connection_mut(from)) {
        connection.user_name = Some(name);
    }
    Flow::Next
}

fn redirect(cx: &mut Cx<'_>, from: ConnectionId, server_reference: &str, moved: bool) -> Flow {
    cx.redirect(from, server_reference);
    Flow::Refuse(if moved { ReasonCode::ServerMoved } else { ReasonCode::UseAnotherServer })
}

fn say(cx: &mut Cx<'_>, to: ConnectionId, reason: ReasonCode, method: &str, data: Option<&Bytes>) {
    let mut properties = PropertiesBuf::default();
    properties.push(Property::AuthenticationMethod(method));
    if let Some(data) = data {
        properties.push(Property::AuthenticationData(data));
    }
    let properties = properties.as_properties();
    if !cx.send(to, &Packet::Auth(Auth { reason, properties })) {
        cx.close_client(to, ReasonCode::PacketTooLarge);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::{Stack, tests::Watched};
    use crate::packet::Properties;
    use crate::testing::{Bench, connect, properties};

    struct Asks;

    impl Authenticate for Asks {
        fn authenticate(&mut self, _: &Credentials) -> Decision {
            Decision::Ask
        }
        fn method(&self, _: &str) -> bool {
            true
        }
    }

    #[test]
    fn the_method_of_a_connection_is_forgotten_with_it() {
        let watched = Watched::new(Authentication::new(Asks));
        let stack = Stack::standard().replace("Authentication", watched.clone()).unwrap();
        let mut bench = Bench::with(crate::Config::default(), stack);
        let properties: Properties<'_> = properties(&[Property::AuthenticationMethod("m")]);
        let alice =
            bench.try_connect(&Connect { properties, ..connect(crate::packet::Version::V5, "alice") });
        assert!(watched.part().methods.get(alice).is_some());
        bench.cut(alice);
        assert!(watched.part().methods.get(alice).is_none());
    }
}

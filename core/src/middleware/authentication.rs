//! Who may connect: runs before a session is touched, so that a stranger cannot take one over.
//!
//! * **listens**: CONNECT, AUTH, closed, answer
//! * **emits**: ask (authenticate), AUTH, refuse
//! * **owns**: its policy; the method of each exchange that is going on

use super::{Flow, Hooks, Middleware};
use crate::broker::{Answer, Credentials, Cx, Query};
use crate::connection::Phase;
use crate::error::Violation;
use crate::id::{ConnectionId, Table};
use crate::packet::{Auth, Connect, Packet, Properties, PropertiesBuf, Property, ReasonCode};
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

/// See the [module](self).
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

    fn wants(&self) -> Hooks {
        Hooks::CONNECT | Hooks::AUTH | Hooks::CLOSED
    }

    fn connect(&mut self, cx: &mut Cx<'_>, from: ConnectionId, packet: &mut Connect<'_>) -> Flow {
        let Some(connection) = cx.connection(from) else { return Flow::Done };
        let properties = &packet.properties;
        let method = properties.authentication_method();
        let who = Credentials {
            peer: connection.peer.clone(),
            version: packet.version,
            client_id: packet.client_id.into(),
            user_name: packet.user_name.map(Into::into),
            password: packet.password.map(Bytes::copy_from_slice),
            method: method.map(Into::into),
            data: properties.authentication_data().map(Bytes::copy_from_slice),
        };
        match method {
            Some(method) if self.policy.method(method) => cx.ask(from, Query::Authenticate(who)),
            // [MQTT-4.12.0-1]
            Some(_) => Flow::Refuse(ReasonCode::BadAuthenticationMethod),
            None => match self.policy.authenticate(&who) {
                Decision::Allow => Flow::Next,
                Decision::AllowAs(name) => allow_as(cx, from, name),
                Decision::Deny(reason) => Flow::Refuse(reason),
                Decision::Ask => cx.ask(from, Query::Authenticate(who)),
            },
        }
    }

    /// A further step of enhanced authentication [MQTT-4.12.0-3].
    fn auth(&mut self, cx: &mut Cx<'_>, from: ConnectionId, packet: &mut Auth<'_>) -> Flow {
        let Some(connection) = cx.connection(from) else { return Flow::Done };
        let method = packet.properties.authentication_method();
        let begun = self.methods.get(from).map(|method| &**method);
        // [MQTT-4.12.0-5]: the method stays that of CONNECT; without an exchange there is nothing to continue.
        let continues =
            packet.reason == ReasonCode::ContinueAuthentication && connection.phase == Phase::Connecting;
        if !continues || begun.is_none() || begun != method {
            return Flow::Violation(Violation::protocol("MQTT-4.12.0-5"));
        }
        let who = Credentials {
            peer: connection.peer.clone(),
            version: connection.version,
            client_id: Box::default(),
            user_name: connection.user_name.clone(),
            password: None,
            method: method.map(Into::into),
            data: packet.properties.authentication_data().map(Bytes::copy_from_slice),
        };
        // The CONNECT that waits gets the answer; the AUTH packet itself has done its part.
        let _ = cx.ask(from, Query::Authenticate(who));
        Flow::Done
    }

    fn answer(
        &mut self,
        cx: &mut Cx<'_>,
        from: ConnectionId,
        packet: &mut Packet<'_>,
        answer: Answer,
    ) -> Flow {
        match answer {
            Answer::Allow => Flow::Next,
            Answer::AllowAs(name) => allow_as(cx, from, name),
            Answer::Continue(data) => {
                let Packet::Connect(connect) = packet else { return Flow::Done };
                // [MQTT-4.12.0-6]: there is no AUTH for who did not begin with a method, as no 3.x client can.
                let Some(method) = connect.properties.authentication_method() else {
                    return Flow::Refuse(ReasonCode::NotAuthorized);
                };
                let mut properties = PropertiesBuf::default();
                properties.push(Property::AuthenticationMethod(method));
                properties.push(Property::AuthenticationData(&data));
                self.methods.insert(from, method.into());
                let properties: Properties<'_> = properties.as_properties();
                // [MQTT-4.12.0-2]
                cx.send(from, &Packet::Auth(Auth { reason: ReasonCode::ContinueAuthentication, properties }));
                Flow::Suspend
            }
            Answer::Deny(reason) => Flow::Refuse(reason),
            Answer::PerFilter(_) | Answer::Custom(_) => Flow::Refuse(ReasonCode::NotAuthorized),
        }
    }

    fn closed(&mut self, _: &mut Cx<'_>, id: ConnectionId) {
        self.methods.remove(id);
    }
}

fn allow_as(cx: &mut Cx<'_>, from: ConnectionId, name: Box<str>) -> Flow {
    if let Some(connection) = cx.connection_mut(from) {
        connection.user_name = Some(name);
    }
    Flow::Next
}

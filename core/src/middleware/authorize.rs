//! The middleware `Authorize`.

use super::{Flow, Hooks, Middleware};
use crate::broker::{Access, Answer, Cx, Query};
use crate::id::{ConnectionId, Table};
use crate::packet::{Connect, Packet, Publish, QoS, ReasonCode, Subscribe};
use crate::saved::{saved, saved_part};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::fmt;

/// What a policy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// Yes.
    Allow,
    /// No; an MQTT 5.0 client is told this reason.
    Deny(ReasonCode),
    /// The outside knows.
    Ask,
}

/// What a client wants to do, borrowed.
#[derive(Debug, Clone, Copy)]
pub enum Wanted<'a> {
    /// Publish to a topic.
    Publish {
        /// The Topic Name.
        topic: &'a str,
        /// Its QoS.
        qos: QoS,
        /// Its RETAIN flag.
        retain: bool,
    },
    /// Subscribe to a filter.
    Subscribe {
        /// The Topic Filter as sent.
        filter: &'a str,
        /// The Maximum QoS asked for.
        qos: QoS,
    },
    /// Leave a Will.
    Will {
        /// The Will Topic.
        topic: &'a str,
        /// Its QoS.
        qos: QoS,
        /// Its RETAIN flag.
        retain: bool,
    },
}

/// A policy of authorization.
pub trait Policy: Send {
    /// Whether it wants to see CONNECT with a will, PUBLISH, SUBSCRIBE: what it does not want costs nothing.
    fn wants(&self) -> Hooks {
        Hooks::CONNECT | Hooks::PUBLISH | Hooks::SUBSCRIBE
    }

    /// Decides. `user_name` is the name the client was authenticated by. It runs on the machine's thread: what takes
    /// long says [`Permission::Ask`].
    fn permit(&mut self, client_id: &str, user_name: Option<&str>, wanted: Wanted<'_>) -> Permission;
}

impl<F: FnMut(&str, Option<&str>, Wanted<'_>) -> Permission + Send> Policy for F {
    fn permit(&mut self, client_id: &str, user_name: Option<&str>, wanted: Wanted<'_>) -> Permission {
        self(client_id, user_name, wanted)
    }
}

/// Who may do what (the ancestor's *authorizePacket*).
///
/// * **listens**: what its policy wants of PUBLISH, SUBSCRIBE, CONNECT with a will; closed, answer
/// * **emits**: ask (authorize), refuse
/// * **owns**: its policy; per connection, a bounded list of what the outside allowed to publish (topic, QoS, RETAIN)
pub struct Authorize {
    policy: Option<Box<dyn Policy>>,
    allowed: Table<ConnectionId, VecDeque<Allowed>>,
}

/// What the outside allowed: just this, for a policy may look at all of it.
struct Allowed {
    topic: Box<str>,
    qos: QoS,
    retain: bool,
}

saved! { struct Allowed { topic, qos, retain } }

impl fmt::Debug for Authorize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorize").field("policy", &self.policy.is_some()).finish_non_exhaustive()
    }
}

impl Authorize {
    /// Everybody may do everything: listens to nothing.
    #[must_use]
    pub fn everything() -> Self {
        Self { policy: None, allowed: Table::default() }
    }

    /// Authorization by a policy.
    #[must_use]
    pub fn new(policy: impl Policy + 'static) -> Self {
        Self { policy: Some(Box::new(policy)), allowed: Table::default() }
    }

    fn permit(&mut self, cx: &Cx<'_>, from: ConnectionId, client_id: &str, wanted: Wanted<'_>) -> Permission {
        let Some(policy) = &mut self.policy else { return Permission::Allow };
        let user_name = cx.connection(from).and_then(|connection| connection.user_name.as_deref());
        policy.permit(client_id, user_name, wanted)
    }
}

fn ask(cx: &mut Cx<'_>, from: ConnectionId, client_id: &str, access: Access) -> Flow {
    let user_name = cx.connection(from).and_then(|connection| connection.user_name.clone());
    cx.ask(from, Query::Authorize { client_id: client_id.into(), user_name, access })
}

fn client_id(cx: &Cx<'_>, from: ConnectionId) -> Box<str> {
    let session = cx.session_of(from).and_then(|session| cx.session(session));
    session.map(|session| session.client_id.clone()).unwrap_or_default()
}

impl Middleware for Authorize {
    fn name(&self) -> &'static str {
        "Authorize"
    }

    saved_part! { allowed; policy }

    fn wants(&self) -> Hooks {
        self.policy.as_ref().map_or(Hooks::NONE, |policy| policy.wants() | Hooks::CLOSED)
    }

    fn connect(&mut self, cx: &mut Cx<'_>, from: ConnectionId, packet: &mut Connect<'_>) -> Flow {
        let Some(will) = &packet.will else { return Flow::Next };
        let (topic, qos, retain) = (will.topic, will.qos, will.retain);
        match self.permit(cx, from, packet.client_id, Wanted::Will { topic, qos, retain }) {
            Permission::Allow => Flow::Next,
            Permission::Deny(reason) => Flow::Refuse(reason),
            Permission::Ask => {
                ask(cx, from, packet.client_id, Access::Will { topic: topic.into(), qos, retain })
            }
        }
    }

    fn publish(&mut self, cx: &mut Cx<'_>, from: ConnectionId, packet: &mut Publish<'_>) -> Flow {
        let topic = &*packet.topic;
        let (qos, retain) = (packet.qos, packet.retain);
        let same =
            |allowed: &Allowed| (allowed.qos, allowed.retain) == (qos, retain) && *allowed.topic == *topic;
        let known = self.allowed.get(from).is_some_and(|known| known.iter().any(same));
        if known || cx.accepted_before(from, packet) {
            return Flow::Next;
        }
        let client_id = client_id(cx, from);
        match self.permit(cx, from, &client_id, Wanted::Publish { topic, qos, retain }) {
            Permission::Allow => Flow::Next,
            Permission::Deny(reason) => Flow::Refuse(reason),
            Permission::Ask => {
                ask(cx, from, &client_id, Access::Publish { topic: topic.into(), qos, retain })
            }
        }
    }

    fn subscribe(&mut self, cx: &mut Cx<'_>, from: ConnectionId, packet: &mut Subscribe<'_>) -> Flow {
        let client_id = client_id(cx, from);
        let mut unknown = false;
        for (index, (filter, options)) in packet.filters.iter().enumerate() {
            match self.permit(cx, from, &client_id, Wanted::Subscribe { filter, qos: options.qos }) {
                Permission::Allow => {}
                Permission::Deny(reason) => cx.refuse_filter(index, reason),
                Permission::Ask => unknown = true,
            }
        }
        if !unknown {
            return Flow::Next;
        }
        let filters = packet.filters.iter().map(|(filter, options)| (filter.into(), options.qos)).collect();
        ask(cx, from, &client_id, Access::Subscribe { filters })
    }

    fn answer(
        &mut self,
        cx: &mut Cx<'_>,
        from: ConnectionId,
        packet: &mut Packet<'_>,
        answer: Answer,
    ) -> Flow {
        match answer {
            Answer::Allow | Answer::AllowAs(_) | Answer::AllowWith { .. } => {
                if let Packet::Publish(publish) = packet {
                    let topics = self.allowed.get_or_insert_with(from, VecDeque::new);
                    if topics.len() >= ALLOWED_MAX {
                        topics.pop_front();
                    }
                    let (qos, retain) = (publish.qos, publish.retain);
                    topics.push_back(Allowed { topic: (*publish.topic).into(), qos, retain });
                }
                Flow::Next
            }
            Answer::PerFilter(verdicts) => {
                let Packet::Subscribe(subscribe) = packet else {
                    return Flow::Refuse(ReasonCode::NotAuthorized);
                };
                for index in 0..subscribe.filters.len() {
                    // A filter without a verdict is refused.
                    let verdict = verdicts.get(index).copied().unwrap_or(Some(ReasonCode::NotAuthorized));
                    if let Some(reason) = verdict {
                        cx.refuse_filter(index, reason);
                    }
                }
                Flow::Next
            }
            Answer::Deny(reason) => Flow::Refuse(reason),
            Answer::Continue(_) | Answer::Redirect { .. } | Answer::Custom(_) => {
                Flow::Refuse(ReasonCode::NotAuthorized)
            }
        }
    }

    fn closed(&mut self, _: &mut Cx<'_>, id: ConnectionId) {
        self.allowed.remove(id);
    }
}

/// What is remembered as allowed, per connection.
const ALLOWED_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::{Stack, tests::Watched};
    use crate::packet::Version;
    use crate::testing::Bench;

    #[test]
    fn what_a_connection_was_allowed_is_forgotten_with_it() {
        let watched = Watched::new(Authorize::new(|_: &str, _: Option<&str>, _: Wanted<'_>| Permission::Ask));
        let stack = Stack::standard().replace("Authorize", watched.clone()).unwrap();
        let mut bench = Bench::with(crate::Config::default(), stack);
        let alice = bench.connect(Version::V5, "alice");
        bench.publish(alice, "t", "m", QoS::AtMostOnce);
        bench.answer(Answer::Allow);
        assert!(watched.part().allowed.get(alice).is_some());
        bench.cut(alice);
        assert!(watched.part().allowed.get(alice).is_none());
    }
}

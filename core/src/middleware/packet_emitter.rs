//! The middleware `PacketEmitter`.

use super::{Flow, Hooks, Middleware};
use crate::broker::{Action, Cx, Notice};
use crate::id::SessionId;
use crate::saved::saved_part;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

/// Which notices are wanted. Violations by peers are always told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notices {
    /// Clients connect, disconnect, their sessions end.
    pub sessions: bool,
    /// Clients subscribe and unsubscribe.
    pub subscriptions: bool,
    /// Messages are published: each is kept, which costs an allocation.
    pub messages: bool,
}

/// A handler is called while the machine works: it must not block.
type Handler = Box<dyn FnMut(&Notice) + Send>;

/// What the embedding program hears of.
///
/// * **listens**: what was asked for; never changes anything, so removing it changes no other output
/// * **emits**: notices
/// * **owns**: the limit of the notices that wait, the counter of those that were dropped, handlers per client
pub struct PacketEmitter {
    notices: Notices,
    handlers: Vec<(Box<str>, Handler)>,
}

impl Default for PacketEmitter {
    /// Sessions only.
    fn default() -> Self {
        Self::new(Notices { sessions: true, subscriptions: false, messages: false })
    }
}

impl fmt::Debug for PacketEmitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PacketEmitter").field("notices", &self.notices).finish_non_exhaustive()
    }
}

impl PacketEmitter {
    /// An emitter of some notices.
    #[must_use]
    pub fn new(notices: Notices) -> Self {
        Self { notices, handlers: Vec::new() }
    }

    /// Calls `handler` at once for every notice about one client, as well as emitting it.
    #[must_use]
    pub fn on(mut self, client_id: &str, handler: impl FnMut(&Notice) + Send + 'static) -> Self {
        self.handlers.push((client_id.into(), Box::new(handler)));
        self
    }

    fn tell(&mut self, cx: &mut Cx<'_>, notice: Notice) {
        if let Some(client_id) = about(&notice) {
            let handlers = self.handlers.iter_mut().filter(|(client, _)| **client == *client_id);
            handlers.for_each(|(_, handler)| handler(&notice));
        }
        if cx.state.notices.len() >= cx.config().notices_max as usize {
            cx.state.notices_dropped += 1;
        } else {
            cx.state.notices.push_back(notice);
        }
    }
}

fn about(notice: &Notice) -> Option<&str> {
    match notice {
        Notice::Connected { client_id, .. }
        | Notice::Disconnected { client_id, .. }
        | Notice::SessionEnded { client_id }
        | Notice::Subscribed { client_id, .. }
        | Notice::Unsubscribed { client_id, .. } => Some(client_id),
        Notice::Published { client_id, .. } => client_id.as_deref(),
        Notice::Violated { .. } | Notice::Dropped(_) => None,
    }
}

fn client_id(cx: &Cx<'_>, session: SessionId) -> Option<Box<str>> {
    let session = cx.session(session)?;
    (!session.program).then(|| session.client_id.clone())
}

impl Middleware for PacketEmitter {
    fn name(&self) -> &'static str {
        "PacketEmitter"
    }

    // All of it comes with the chain.
    saved_part! { ; notices, handlers }

    fn wants(&self) -> Hooks {
        let mut hooks = Hooks::NOTICE;
        if self.notices.sessions {
            hooks = hooks
                | Hooks::SESSION_OPENED
                | Hooks::CLEAN_DISCONNECT
                | Hooks::UNCLEAN_DISCONNECT
                | Hooks::SESSION_ENDED;
        }
        if self.notices.subscriptions {
            hooks = hooks | Hooks::TOPIC_SUBSCRIBED | Hooks::TOPIC_UNSUBSCRIBED;
        }
        if self.notices.messages {
            hooks = hooks | Hooks::RELAY;
        }
        hooks
    }

    fn action(&mut self, cx: &mut Cx<'_>, action: &mut Action) -> Flow {
        let notice = match action {
            Action::Notice(notice) => {
                let notice = (**notice).clone();
                self.tell(cx, notice);
                return Flow::Done;
            }
            Action::SessionOpened { session, connection, present } => {
                client_id(cx, *session).map(|client_id| Notice::Connected {
                    client_id,
                    connection: *connection,
                    session_present: *present,
                })
            }
            Action::CleanDisconnect { session, .. } => {
                client_id(cx, *session).map(|client_id| Notice::Disconnected { client_id, clean: true })
            }
            Action::UncleanDisconnect { session } => {
                client_id(cx, *session).map(|client_id| Notice::Disconnected { client_id, clean: false })
            }
            Action::SessionEnded { session } => {
                client_id(cx, *session).map(|client_id| Notice::SessionEnded { client_id })
            }
            Action::TopicSubscribed(subscribed) => {
                let topic = &subscribed.topic;
                let (filter, qos) = (topic.filter.clone(), topic.options.qos);
                client_id(cx, topic.session).map(|client_id| Notice::Subscribed { client_id, filter, qos })
            }
            Action::TopicUnsubscribed(unsubscribed) => {
                let filter = unsubscribed.topic.filter.clone();
                client_id(cx, unsubscribed.topic.session)
                    .map(|client_id| Notice::Unsubscribed { client_id, filter })
            }
            Action::Relay(relay) => {
                let client_id = relay.publisher.and_then(|session| client_id(cx, session));
                cx.keep(&relay.what).map(|message| Notice::Published { client_id, message })
            }
            _ => None,
        };
        if let Some(notice) = notice {
            self.tell(cx, notice);
        }
        Flow::Next
    }
}

//! The middleware `RetainManager`.

use super::{Flow, Hooks, Middleware};
use crate::broker::{Action, Cx, Record};
use crate::packet::{QoS, RetainHandling};
use alloc::boxed::Box;

/// Retained messages: when they are stored, and when a subscription gets them.
///
/// * **listens**: relay, topic subscribed
/// * **emits**: store retained, look up retained
/// * **owns**: the rules of Retain Handling; the messages are the backend's
#[derive(Debug, Default)]
pub struct RetainManager;

impl Middleware for RetainManager {
    fn name(&self) -> &'static str {
        "RetainManager"
    }

    fn wants(&self) -> Hooks {
        Hooks::RELAY_RETAINED | Hooks::TOPIC_SUBSCRIBED
    }

    fn action(&mut self, cx: &mut Cx<'_>, action: &mut Action) -> Flow {
        match action {
            Action::Relay(relay) => {
                // [MQTT-3.3.1-5], [MQTT-3.3.1-8]
                let outdated = relay.portion.as_ref().is_some_and(|portion| portion.outdated);
                if cx.is_retained(&relay.what)
                    && !outdated
                    && let Some(message) = cx.keep(&relay.what)
                {
                    cx.emit(Action::StoreRetained(message));
                }
            }
            Action::TopicSubscribed(subscribed) => {
                let topic = &subscribed.topic;
                // [MQTT-3.3.1-9], [MQTT-3.3.1-10], [MQTT-3.3.1-11]; none for shared subscriptions (4.8.2).
                let wanted = match topic.options.retain_handling {
                    RetainHandling::Send => true,
                    RetainHandling::SendIfNew => !subscribed.existed,
                    RetainHandling::Never => false,
                };
                if wanted && topic.share.is_none() {
                    // Before SUBACK is made, which waits for it: what it promises outlives a crash.
                    if topic.options.qos > QoS::AtMostOnce {
                        let (options, identifier) = topic.to_record();
                        let filter = topic.filter.clone();
                        cx.journal(topic.session, |client_id| Record::Page {
                            client_id,
                            filter,
                            options,
                            identifier,
                            after: None,
                        });
                    }
                    // Behind SUBACK, as clients like it.
                    cx.emit_last(Action::LookupRetained(Box::new(topic.clone())));
                }
            }
            _ => {}
        }
        Flow::Next
    }
}

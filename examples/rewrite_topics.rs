//! A middleware of one's own: PUBLISH to `devices/…` goes on as `dev/…`. No socket is needed to see it work: the bench
//! that the project's own tests use drives the machine.
//!
//! ```sh
//! cargo run -p culex-examples --example rewrite_topics
//! ```

use culex_core::middleware::UnknownMiddleware;
use culex_core::packet::{Publish, QoS, Version};
use culex_core::testing::Bench;
use culex_core::{Config, ConnectionId, Cx, Flow, Hooks, Middleware, Stack};

struct RewriteTopics;

impl Middleware for RewriteTopics {
    fn name(&self) -> &'static str {
        "RewriteTopics"
    }

    /// All that is not wanted costs nothing.
    fn wants(&self) -> Hooks {
        Hooks::PUBLISH
    }

    fn publish(&mut self, _: &mut Cx<'_>, _: ConnectionId, packet: &mut Publish<'_>) -> Flow {
        // The new topic is the shorter one, so it always fits into a packet.
        if let Some(rest) = packet.topic.strip_prefix("devices/") {
            packet.topic = format!("dev/{rest}").into();
        }
        Flow::Next
    }
}

fn main() -> Result<(), UnknownMiddleware> {
    // Behind Authorize, which so sees the topic as the client sent it; before InboundManager, which takes the message.
    let stack = Stack::standard().insert_before("InboundManager", RewriteTopics)?;
    let mut bench = Bench::with(Config::default(), stack);

    let alice = bench.connect(Version::V5, "alice");
    let lamp = bench.connect(Version::V311, "lamp");
    bench.subscribe(alice, "dev/#", QoS::AtMostOnce);
    bench.publish(lamp, "devices/lamp/state", "on", QoS::AtMostOnce);
    bench.publish(lamp, "weather", "rain", QoS::AtMostOnce);
    bench.publish(lamp, "dev/lamp/state", "off", QoS::AtMostOnce);

    assert_eq!(bench.messages(alice), ["dev/lamp/state: on", "dev/lamp/state: off"]);
    Ok(())
}

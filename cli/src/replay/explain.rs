//! `culex explain`: why a client got messages on a topic, or did not. The machine itself says what it did with each.

use super::{begin, describe, each_step, parse, read, seconds};
use crate::problem::Problem;
use crate::say;
use clap::Args;
use culex_core::broker::{Fate, Traced};
use culex_core::packet::PacketId;
use culex_core::topic::filter::matches;
use culex_core::topic::{Filter, is_topic_name};
use culex_core::{Broker, SessionId};
use std::collections::HashMap;
use std::path::PathBuf;

/// What `explain` takes.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The recording
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The Topic Name of the messages
    #[arg(long, value_name = "TOPIC", value_parser = topic)]
    message: String,
    /// The Client Identifier
    #[arg(long, value_name = "ID")]
    client: String,
}

fn topic(text: &str) -> Result<String, String> {
    if is_topic_name(text) {
        Ok(text.to_owned())
    } else {
        Err("expected a topic without wildcards".to_owned())
    }
}

/// Does it.
pub(crate) fn explain(args: &ExplainArgs) -> Result<(), Problem> {
    let bytes = read(&args.file)?;
    let recording = parse(&args.file, &bytes)?;
    let mut replay = begin(&args.file, &recording)?;
    replay.trace();
    let mut story = Story { args, flights: HashMap::new(), messages: 0, sent: 0, lines: Vec::new() };
    each_step(&args.file, &mut replay, None, |replay, step| {
        let (began, before) = (replay.began().unwrap_or(step.now), story.lines.len());
        while let Some(traced) = replay.poll_traced() {
            story.tell(replay.broker(), &traced);
        }
        story.ended(replay.broker());
        for line in &mut story.lines[before..] {
            *line = format!("{:>10.3} s  {line}", seconds(began, step.now));
        }
    })?;
    story.lines.iter().for_each(|line| say(line));
    let Story { messages, sent, .. } = story;
    let (topic, client) = (&args.message, &args.client);
    say(&format!("{messages} messages were published on {topic}; {sent} were sent to client {client:?}"));
    Ok(())
}

struct Story<'a> {
    args: &'a ExplainArgs,
    /// The Packet Identifiers of these messages on their way to the client's session.
    flights: HashMap<PacketId, SessionId>,
    messages: u64,
    sent: u64,
    lines: Vec<String>,
}

impl Story<'_> {
    fn tell(&mut self, broker: &Broker, traced: &Traced) {
        match traced {
            Traced::Refused { from, topic, reason } if **topic == *self.args.message => {
                self.messages += 1;
                let who = describe::connection(broker, *from);
                self.lines.push(format!("{who} published it: refused ({reason}), so nobody got it"));
            }
            Traced::Relayed { topic, qos, payload_bytes, publisher, receivers }
                if **topic == *self.args.message =>
            {
                self.messages += 1;
                let who = publisher_name(broker, *publisher);
                let why = self.why(broker, *publisher, receivers);
                self.lines
                    .push(format!("{who} published it (QoS {}, {payload_bytes} bytes): {why}", *qos as u8));
            }
            Traced::Expired { topic, publisher } if **topic == *self.args.message => {
                self.messages += 1;
                let who = publisher_name(broker, *publisher);
                self.lines.push(format!("{who} published it: it expired before it could be passed on"));
            }
            Traced::Delivery { session, topic, fate } if self.is_client(broker, *session) => {
                if let Fate::Sent { packet_id: Some(packet_id), .. } = fate {
                    // Another message may have had the identifier before.
                    self.flights.remove(packet_id);
                }
                if **topic == *self.args.message {
                    self.fate(*session, *fate);
                }
            }
            Traced::Acknowledged { session, packet_id }
                if self.is_client(broker, *session) && self.flights.remove(packet_id).is_some() =>
            {
                self.lines.push(format!("  acknowledged (packet {packet_id})"));
            }
            _ => {}
        }
    }

    fn is_client(&self, broker: &Broker, session: SessionId) -> bool {
        broker
            .session(session)
            .is_some_and(|session| !session.program && *session.client_id == *self.args.client)
    }

    /// Why the client is among the receivers, or not.
    fn why(&self, broker: &Broker, publisher: Option<SessionId>, receivers: &[SessionId]) -> String {
        let client = &self.args.client;
        let Some(found) = broker.inspect(client) else {
            return format!("{client:?} has no session, so nothing is kept for it");
        };
        let matching: Vec<_> = found
            .subscriptions
            .iter()
            .filter(|one| Filter::parse(&one.filter).is_ok_and(|f| matches(f.filter, &self.args.message)))
            .collect();
        let filters: Vec<&str> = matching.iter().map(|one| &*one.filter).collect();
        let filters = filters.join(", ");
        if receivers.contains(&found.session) {
            // It may have unsubscribed in the same breath.
            let by = if filters.is_empty() { "a filter it no longer has" } else { &filters };
            return format!("{client:?} is to get it by {by}");
        }
        if matching.is_empty() {
            let all: Vec<&str> = found.subscriptions.iter().map(|one| &*one.filter).collect();
            let all = if all.is_empty() { "none".to_owned() } else { all.join(", ") };
            return format!("{client:?} has no filter that matches; its filters: {all}");
        }
        if publisher == Some(found.session) && matching.iter().any(|one| one.options.no_local) {
            return format!("{client:?} does not get its own messages by {filters} (No Local)");
        }
        if matching.iter().all(|one| one.filter.starts_with("$share/")) {
            return format!("it was the turn of another member of {filters}");
        }
        format!("{client:?} subscribed to {filters} only after it")
    }

    fn fate(&mut self, session: SessionId, fate: Fate) {
        let line = match fate {
            Fate::Sent { qos, packet_id, again } => {
                self.sent += u64::from(!again);
                let packet = packet_id.map(|id| format!(", packet {id}")).unwrap_or_default();
                if let Some(packet_id) = packet_id {
                    self.flights.insert(packet_id, session);
                }
                let again = if again { " again, because it was not acknowledged" } else { "" };
                format!("sent{again} (QoS {}{packet})", qos as u8)
            }
            Fate::Gated { packet_id } => {
                format!("in flight (packet {packet_id}): it is sent when that is durable")
            }
            Fate::Queued { length } => format!("queued, as number {length}: it could not be sent at once"),
            Fate::Slow => {
                "dropped: more waits for this client than outbox_bytes_max, and QoS 0 is not queued".into()
            }
            Fate::Offline => "dropped: it is not connected, and QoS 0 is not queued".into(),
            Fate::Ending => "dropped: it is not connected, and its session ends with its connection".into(),
            Fate::TooLarge => "dropped: larger than the client accepts (its Maximum Packet Size)".into(),
            Fate::OutsideMount => "dropped: outside the mount point of its listener (mount_point)".into(),
            Fate::QueueFull => "dropped: its queue is full (queue_messages_max or queue_bytes_max)".into(),
            Fate::Displaced => "dropped from its full queue for a newer one (queue_overflow)".into(),
            Fate::Expired => "dropped: it expired in its queue".into(),
        };
        self.lines.push(format!("  {line}"));
    }

    /// A session that ended takes with it what was in flight and in its queue.
    fn ended(&mut self, broker: &Broker) {
        let before = self.flights.len();
        self.flights.retain(|_, session| broker.session(*session).is_some());
        if self.flights.len() < before {
            self.lines.push("  its session ended: what was not acknowledged is gone".to_owned());
        }
    }
}

fn publisher_name(broker: &Broker, publisher: Option<SessionId>) -> String {
    match publisher.map(|session| broker.session(session)) {
        Some(Some(session)) => format!("client {:?}", session.client_id),
        Some(None) => "a client that is gone".to_owned(),
        None => "the program".to_owned(),
    }
}

//! What a machine knows, in words.

use culex_core::broker::Stage;
use culex_core::packet::{Packet, QoS, Version};
use culex_core::saved::digest;
use culex_core::{Broker, ConnectionId, Inspection, Message, Now, Wall};
use std::fmt::Write;

/// A time, as in 2026-01-31T23:59:59.999Z.
pub(crate) fn utc(wall: Wall) -> String {
    let (days, ms) = (wall.0 / 86_400_000, wall.0 % 86_400_000);
    // Days since 0000-03-01, so that a leap day is the last of its year.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1_000)
}

/// Whose connection it is, as far as that is known.
pub(crate) fn connection(broker: &Broker, id: ConnectionId) -> String {
    let connection = broker.connection(id);
    let session = connection.and_then(|connection| broker.session(connection.session?));
    match (session, connection.and_then(|connection| connection.peer.address)) {
        (Some(session), _) => format!("client {:?}", session.client_id),
        (None, Some(address)) => format!("connection from {address}"),
        (None, None) => format!("{id:?}"),
    }
}

/// The same, and whether its client is known.
pub(crate) fn client(broker: &Broker, id: ConnectionId) -> (String, bool) {
    let session = broker.connection(id).and_then(|connection| connection.session);
    (connection(broker, id), session.is_some())
}

/// The protocol version it speaks.
pub(crate) fn version(broker: &Broker, id: ConnectionId) -> Version {
    broker.connection(id).map_or(Version::V311, |connection| connection.version)
}

/// A packet, without its identifier if that may differ for no reason.
pub(crate) fn packet(packet: &Packet<'_>, version: Version) -> String {
    let v5 = version == Version::V5;
    match packet {
        Packet::Publish(publish) => {
            let retain = if publish.retain { ", retain" } else { "" };
            let (qos, length) = (publish.qos as u8, publish.payload.len());
            let topic = if publish.topic.is_empty() { "(by its alias)" } else { &publish.topic };
            let print = digest(&publish.payload) as u32;
            format!("PUBLISH {topic} (QoS {qos}{retain}, {length} bytes, {print:08x})")
        }
        Packet::Connack(connack) if connack.reason.is_error() => format!("CONNACK: {}", connack.reason),
        Packet::Connack(connack) => format!("CONNACK (session present: {})", connack.session_present),
        Packet::Disconnect(disconnect) => format!("DISCONNECT: {}", disconnect.reason),
        Packet::Puback(ack) if v5 => format!("PUBACK {}: {}", ack.packet_id, ack.reason),
        Packet::Pubrec(ack) if v5 => format!("PUBREC {}: {}", ack.packet_id, ack.reason),
        Packet::Suback(suback) => format!("SUBACK {}: {:?}", suback.packet_id, suback.reasons),
        Packet::Unsuback(unsuback) => format!("UNSUBACK {}: {:?}", unsuback.packet_id, unsuback.reasons),
        Packet::Puback(ack) => format!("PUBACK {}", ack.packet_id),
        Packet::Pubrec(ack) => format!("PUBREC {}", ack.packet_id),
        Packet::Pubrel(_) => "PUBREL".to_owned(),
        Packet::Pubcomp(ack) => format!("PUBCOMP {}", ack.packet_id),
        Packet::Pingresp => "PINGRESP".to_owned(),
        other => format!("{:?}", other.packet_type()),
    }
}

/// Everything about a client.
pub(crate) fn inspection(found: &Inspection, now: Now) -> String {
    let mut text = format!("client {:?} at {}\n", found.client_id, utc(now.wall));
    let mut line = |name: &str, rest: String| {
        let _ = writeln!(text, "  {name}: {rest}");
    };
    let expiry = match found.expiry_s {
        0 => "ends with its connection".to_owned(),
        u32::MAX => "never expires".to_owned(),
        seconds => format!("expires after {seconds} s"),
    };
    line("session", format!("{:?}, {expiry}", found.version));
    match &found.connection {
        None => line("connection", "none".to_owned()),
        Some(one) => {
            let from = one.peer.address.map_or_else(|| "this process".to_owned(), |a| a.to_string());
            let paused = if one.paused { ", it is not read" } else { "" };
            let blocked = if one.blocked { ", its socket is full" } else { "" };
            line("connection", format!("{:?} from {from}{paused}{blocked}", one.phase));
            line("keep alive", format!("{} s", one.keep_alive_s));
            line("receive maximum", one.receive_maximum.to_string());
            line("waits to be written", format!("{} bytes", one.outbox_bytes));
            if one.parked > 0 {
                line("waits for answers", format!("{} packets", one.parked));
            }
        }
    }
    for subscription in &found.subscriptions {
        let identifier = subscription.identifier.map(|one| format!(", identifier {one}")).unwrap_or_default();
        let qos = subscription.options.qos as u8;
        line("subscription", format!("{} (QoS {qos}{identifier})", subscription.filter));
    }
    for filter in &found.retained_pages {
        line("retained messages are being sent", filter.to_string());
    }
    line("in flight", format!("{} messages", found.in_flight.len()));
    for flight in found.in_flight.iter().take(LISTED_MAX) {
        let stage = match flight.stage {
            Stage::Unsent => "not sent on this connection yet",
            Stage::Gated => "sent as soon as that is durable",
            Stage::Sent => "sent, not acknowledged",
            Stage::Released => "released, PUBCOMP is awaited",
        };
        let what =
            flight.message.as_ref().map_or_else(String::new, |m| format!(": {}", message(m, flight.qos)));
        line(&format!("  {}", flight.packet_id), format!("{stage}{what}"));
    }
    let all = found.queue.len() + found.queue_outside;
    line("queue", format!("{all} messages, {} bytes, {} in memory", found.queue_bytes, found.queue.len()));
    for queued in found.queue.iter().take(LISTED_MAX) {
        line("  next", message(&queued.message, queued.qos));
    }
    if !found.incoming.is_empty() {
        line("its own QoS 2 messages before PUBREL", format!("{:?}", found.incoming));
    }
    if let Some(will) = &found.will {
        line("will", message(will, will.qos()));
    }
    text
}

fn message(message: &Message, qos: QoS) -> String {
    format!("{} (QoS {}, {} bytes)", message.topic(), qos as u8, message.payload().len())
}

/// More than that nobody reads.
const LISTED_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_000, "2024-02-29T23:59:59.000Z"),
            (1_798_761_599_001, "2026-12-31T23:59:59.001Z"),
        ] {
            assert_eq!(utc(Wall(ms)), text);
        }
    }
}

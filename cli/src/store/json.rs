//! Records as lines of JSON.

use crate::replay::utc;
use culex_core::packet::QoS;
use culex_core::{Message, Record};
use std::fmt::{self, Display, Write as _};

/// An object on one line.
pub(crate) struct Line(String);

impl Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{}}}", self.0)
    }
}

impl Line {
    /// What a record says.
    pub(crate) fn of(record: &Record) -> Self {
        let mut line = Self(String::new());
        line.text("record", name(record));
        if let Some(client_id) = record.client_id() {
            line.text("client_id", client_id);
        }
        match record {
            Record::Session { expiry, left, .. } => {
                match *expiry {
                    u32::MAX => line.bare("expiry_s", "null"),
                    expiry => line.bare("expiry_s", expiry),
                }
                if let Some(left) = left {
                    line.text("left", &utc(*left));
                }
            }
            Record::Subscription { filter, options, identifier, .. } => {
                line.subscription(filter, *options, *identifier);
            }
            Record::Page { filter, options, identifier, after, .. } => {
                line.subscription(filter, *options, *identifier);
                if let Some(after) = after {
                    line.text("after", after);
                }
            }
            Record::Retained(message) => line.message(message),
            Record::Will { message, expiry_s, delay_s, .. } => {
                line.bare("delay_s", delay_s);
                if let Some(expiry_s) = expiry_s {
                    line.bare("message_expiry_s", expiry_s);
                }
                line.message(message);
            }
            Record::Inbound { packet_id, message, .. } => {
                line.bare("packet_id", packet_id.get());
                if let Some(message) = message {
                    line.message(message);
                }
            }
            Record::Queued { message, qos, retain, .. } => line.delivery(message, *qos, *retain),
            Record::InFlight { packet_id, message, qos, retain, .. } => {
                line.bare("packet_id", packet_id.get());
                line.delivery(message, *qos, *retain);
            }
            Record::InboundGone { packet_id, .. } | Record::Received { packet_id, .. } => {
                line.bare("packet_id", packet_id.get());
            }
            _ => {}
        }
        line
    }

    fn subscription(&mut self, filter: &str, options: u8, identifier: u32) {
        self.text("filter", filter);
        self.bare("options", options);
        if identifier > 0 {
            self.bare("identifier", identifier);
        }
    }

    fn delivery(&mut self, message: &Message, qos: QoS, retain: bool) {
        self.bare("delivery_qos", qos as u8);
        self.bare("delivery_retain", retain);
        self.message(message);
    }

    fn message(&mut self, message: &Message) {
        self.text("topic", message.topic());
        self.bare("qos", message.qos() as u8);
        self.bare("retain", message.retain());
        if let Some(expires) = message.expires() {
            self.text("expires", &utc(expires));
        }
        let properties = message.properties();
        if !properties.is_empty() {
            let all: Vec<String> =
                properties.iter().map(|property| quoted(&format!("{property:?}"))).collect();
            self.bare("properties", format_args!("[{}]", all.join(",")));
        }
        match std::str::from_utf8(message.payload()) {
            Ok(text) => self.text("payload", text),
            Err(_) => {
                let hex = message.payload().iter().fold(String::new(), |mut hex, byte| {
                    // Writing into a String cannot fail.
                    let _ = write!(hex, "{byte:02x}");
                    hex
                });
                self.text("payload_hex", &hex);
            }
        }
    }

    fn text(&mut self, key: &str, value: &str) {
        self.bare(key, quoted(value));
    }

    fn bare(&mut self, key: &str, value: impl Display) {
        let comma = if self.0.is_empty() { "" } else { "," };
        // As above.
        let _ = write!(self.0, "{comma}\"{key}\":{value}");
    }
}

fn name(record: &Record) -> &'static str {
    match record {
        Record::Session { .. } => "session",
        Record::Subscription { .. } => "subscription",
        Record::Page { .. } => "page",
        Record::Retained(_) => "retained",
        Record::Will { .. } => "will",
        Record::Inbound { .. } => "inbound",
        Record::InboundGone { .. } => "inbound_gone",
        Record::Queued { .. } => "queued",
        Record::InFlight { .. } => "in_flight",
        Record::Received { .. } => "received",
        _ => "other",
    }
}

/// A JSON string.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            c if c.is_control() => {
                // As above.
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_text_where_it_can_be() {
        let line = |payload: &[u8]| {
            let message = Message::new("a/\"b\"", payload, QoS::AtLeastOnce, true).unwrap();
            Line::of(&Record::Retained(message)).to_string()
        };
        let head = r#"{"record":"retained","topic":"a/\"b\"","qos":1,"retain":true,"#;
        assert_eq!(line("one\ntwo\u{1}".as_bytes()), format!(r#"{head}"payload":"one\ntwo\u0001"}}"#));
        assert_eq!(line(&[0xFF, 0]), format!(r#"{head}"payload_hex":"ff00"}}"#));
    }
}

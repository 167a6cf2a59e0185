//! Scripts in words: what a person reads of a failing seed.

use crate::model::Dress;
use crate::script::{Op, Plan, Script, Step, WillPlan, Wish};
use culex_core::packet::{QoS, Version};
use std::fmt;

impl fmt::Display for Script {
    /// The clients, then the steps, one line each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (client, plan) in self.clients.iter().enumerate() {
            writeln!(f, "  client{client}: {plan}")?;
        }
        for step in &self.steps {
            writeln!(f, "  {step}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>10} s  ", seconds(self.at_ms))?;
        if let Some(client) = self.op.client() {
            write!(f, "client{client} ")?;
        }
        self.op.fmt(f)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MQTT {}", version(self.version))?;
        if self.keep_alive_s > 0 {
            write!(f, ", Keep Alive {} s", self.keep_alive_s)?;
        }
        if self.version == Version::V5 {
            write!(f, ", Receive Maximum {}", self.receive_maximum)?;
            write!(f, ", Topic Alias Maximum {}", self.topic_alias_maximum)?;
            if self.packet_bytes_max > 0 {
                write!(f, ", Maximum Packet Size {}", self.packet_bytes_max)?;
            }
        }
        if self.packet_ids < 60_000 {
            write!(f, ", {} Packet Identifiers in turn", self.packet_ids)?;
        }
        write!(f, ", acknowledges after {} ms, {} ms away", self.ack_ms, self.latency_ms)?;
        write!(f, ", a socket of {} bytes", self.socket_bytes)
    }
}

impl fmt::Display for Op {
    /// The predicate of a sentence whose subject is [`Op::client`]; a whole sentence where there is none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Connect { clean, expiry_s, ref will, .. } => {
                let clean = if clean { ", clean" } else { "" };
                let expiry = duration(expiry_s);
                write!(f, "connects{clean}, Session Expiry Interval {expiry}")?;
                will.as_ref().map_or(Ok(()), |will| write!(f, ", {will}"))
            }
            Self::Disconnect { with_will: true, .. } => f.write_str("says DISCONNECT, asks for its will"),
            Self::Disconnect { .. } => f.write_str("says DISCONNECT"),
            Self::Cut { .. } => f.write_str("loses its connection"),
            Self::Vanish { .. } => f.write_str("vanishes without a word"),
            Self::Stall { ms, .. } => write!(f, "reads nothing for {ms} ms"),
            Self::Subscribe { ref filters, identifier, .. } => {
                let filters: Vec<String> = filters.iter().map(ToString::to_string).collect();
                write!(f, "subscribes to {}", filters.join("; "))?;
                if identifier > 0 { write!(f, "; Subscription Identifier {identifier}") } else { Ok(()) }
            }
            Self::Unsubscribe { filter, .. } => write!(f, "unsubscribes from {filter}"),
            Self::Publish { topic, qos, retain, padding, expiry_s, alias, dress, count, .. } => {
                let times = if count == 1 { String::new() } else { format!(" {count} times") };
                write!(f, "publishes{times} to {topic}, {}{}", level(qos), retained(retain))?;
                match padding {
                    None => f.write_str(", no payload")?,
                    Some(0) => {}
                    Some(padding) => write!(f, ", {padding} bytes more")?,
                }
                if expiry_s > 0 {
                    write!(f, ", expires after {expiry_s} s")?;
                }
                if alias > 0 {
                    write!(f, ", with Topic Alias {alias}")?;
                }
                if dress > 0 { write!(f, ", with {}", Dress(dress)) } else { Ok(()) }
            }
            Self::Reuse { topic, subscribe: false, .. } => {
                write!(f, "publishes to {topic} with the Packet Identifier of another message")
            }
            Self::Reuse { topic, .. } => {
                write!(f, "subscribes to {topic} with the Packet Identifier of a message")
            }
            Self::Garbage { kind, .. } => write!(f, "sends nonsense of kind {kind}"),
            Self::ProgramPublish { topic, qos, retain } => {
                write!(f, "the program publishes to {topic}, {}{}", level(qos), retained(retain))
            }
            Self::Partition { ms } => write!(f, "no byte moves for {ms} ms"),
            Self::SlowDisk { ms } => write!(f, "a sync takes {ms} ms from now on"),
            Self::FailSync => f.write_str("the next sync fails"),
            Self::Crash { down_ms } => write!(f, "the broker crashes, and is back after {down_ms} ms"),
        }
    }
}

impl fmt::Display for WillPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "will to {}, {}{}", self.topic, level(self.qos), retained(self.retain))?;
        if self.delay_s > 0 {
            write!(f, ", delayed by {} s", self.delay_s)?;
        }
        if self.expiry_s > 0 { write!(f, ", expires after {} s", self.expiry_s) } else { Ok(()) }
    }
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.filter, level(self.qos))?;
        if self.no_local {
            f.write_str(", No Local")?;
        }
        if self.retain_as_published {
            f.write_str(", Retain As Published")?;
        }
        if self.retain_handling > 0 {
            write!(f, ", Retain Handling {}", self.retain_handling)
        } else {
            Ok(())
        }
    }
}

/// Milliseconds as seconds.
fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1_000, ms % 1_000)
}

fn duration(seconds: u32) -> String {
    if seconds == u32::MAX { "for ever".into() } else { format!("{seconds} s") }
}

/// The number of a version.
pub(crate) const fn version(version: Version) -> &'static str {
    match version {
        Version::V31 => "3.1",
        Version::V311 => "3.1.1",
        Version::V5 => "5.0",
    }
}

const fn level(qos: QoS) -> &'static str {
    match qos {
        QoS::AtMostOnce => "QoS 0",
        QoS::AtLeastOnce => "QoS 1",
        QoS::ExactlyOnce => "QoS 2",
    }
}

const fn retained(retain: bool) -> &'static str {
    if retain { ", retained" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_reads_as_a_sentence() {
        let op = Op::Publish {
            client: 2,
            topic: "a/b",
            qos: QoS::ExactlyOnce,
            retain: true,
            padding: Some(7),
            expiry_s: 3,
            alias: 2,
            dress: Dress::CONTENT_TYPE | Dress::TWO_USER_PROPERTIES,
            count: 4,
        };
        let sentence = Step { at_ms: 12_034, op }.to_string();
        let expected = "    12.034 s  client2 publishes 4 times to a/b, QoS 2, retained, 7 bytes more, expires after 3 s, \
                        with Topic Alias 2, with Content Type, two User Properties";
        assert_eq!(sentence, expected);
    }
}

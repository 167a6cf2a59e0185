//! Every setting of the machine in one table: name, type, default, meaning. The config file, the environment and the
//! list of what differs from the defaults all come from it.

mod listener;

pub use listener::{IdentityUse, ListenerConfig};

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its name in files; upper case with `CULEX_` before it in the environment.
    pub key: &'static str,
    /// What its value looks like.
    pub kind: &'static str,
    /// What it is for.
    pub doc: &'static str,
    /// Its default.
    pub default: fn() -> String,
}

/// A setting that cannot be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettingError {
    /// There is no such setting.
    UnknownKey,
    /// The value is not of the setting's kind.
    Invalid {
        /// What was expected.
        expected: &'static str,
    },
    /// Two settings contradict each other.
    Contradiction(&'static str),
}

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKey => f.write_str("unknown setting"),
            Self::Invalid { expected } => write!(f, "expected {expected}"),
            Self::Contradiction(what) => f.write_str(what),
        }
    }
}

impl core::error::Error for SettingError {}

/// A type a setting can have.
trait Value: Sized + fmt::Display {
    const KIND: &'static str;
    fn parse(text: &str) -> Option<Self>;
}

macro_rules! number {
    ($($ty:ty: $kind:literal),*) => {$(
        impl Value for $ty {
            const KIND: &'static str = $kind;
            fn parse(text: &str) -> Option<Self> {
                text.parse().ok()
            }
        }
    )*};
}

impl Value for String {
    const KIND: &'static str = "a text";
    fn parse(text: &str) -> Option<Self> {
        // It has to fit into a UTF-8 Encoded String [MQTT-1.5.4-2].
        (text.len() <= usize::from(u16::MAX) && !text.contains('\0')).then(|| text.into())
    }
}

number! {
    u8: "a whole number from 0 to 255",
    u16: "a whole number from 0 to 65535",
    u32: "a whole number from 0 to 4294967295",
    u64: "a whole number",
    bool: "true or false"
}

/// What happens to a message for a session whose queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// The oldest queued message makes room.
    DropOldest,
    /// The new message is dropped.
    DropNewest,
    /// The new message is dropped and the client, if it is connected, is disconnected (0x97).
    Disconnect,
}

impl fmt::Display for Overflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DropOldest => "drop-oldest",
            Self::DropNewest => "drop-newest",
            Self::Disconnect => "disconnect",
        })
    }
}

impl Value for Overflow {
    const KIND: &'static str = "drop-oldest, drop-newest or disconnect";
    fn parse(text: &str) -> Option<Self> {
        match text {
            "drop-oldest" => Some(Self::DropOldest),
            "drop-newest" => Some(Self::DropNewest),
            "disconnect" => Some(Self::Disconnect),
            _ => None,
        }
    }
}

macro_rules! settings {
    (
        $(#[doc = $about:literal])+
        struct $name:ident {
            $($(#[doc = $doc:literal])+ $key:ident: $ty:ty = $default:expr;)*
        }
        $(besides {
            $(#[doc = $other_doc:literal])+ $other:ident: $other_ty:ty
        })?
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {
            $($(#[doc = $doc])+ pub $key: $ty,)*
            $($(#[doc = $other_doc])+ pub $other: $other_ty,)?
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)* $($other: <$other_ty>::default(),)? }
            }
        }

        impl $name {
            /// All settings, in the order of their documentation.
            #[must_use]
            pub fn settings() -> &'static [Setting] {
                &[$(Setting {
                    key: stringify!($key),
                    kind: <$ty as Value>::KIND,
                    doc: concat!($($doc, "\n"),+),
                    default: || { let value: $ty = $default; value.to_string() },
                },)*]
            }

            /// Sets one setting from text.
            ///
            /// # Errors
            /// If there is no such setting, or the value is not of its kind: nothing was changed.
            pub fn set(&mut self, key: &str, value: &str) -> Result<(), SettingError> {
                match key {
                    $(stringify!($key) => {
                        self.$key = <$ty as Value>::parse(value)
                            .ok_or(SettingError::Invalid { expected: <$ty as Value>::KIND })?;
                    })*
                    _ => return Err(SettingError::UnknownKey),
                }
                Ok(())
            }

            /// The value of a setting as text.
            #[must_use]
            pub fn get(&self, key: &str) -> Option<String> {
                match key {
                    $(stringify!($key) => Some(self.$key.to_string()),)*
                    _ => None,
                }
            }

            /// The settings that differ from the defaults: key, value, default.
            #[must_use]
            pub fn changed(&self) -> Vec<(&'static str, String, String)> {
                Self::settings()
                    .iter()
                    .filter_map(|setting| {
                        let (value, default) = (self.get(setting.key)?, (setting.default)());
                        (value != default).then_some((setting.key, value, default))
                    })
                    .collect()
            }

            /// The whole table as text, one `key = default` with its documentation per setting.
            #[must_use]
            pub fn document() -> String {
                document(Self::settings())
            }
        }
    };
}

use settings;

settings! {
    /// The settings of a machine. `Config::default()` is what `culex serve` runs with.
    struct Config {
        /// Connections at once; further ones are closed as they are accepted.
        connections_max: u32 = 1_000_000;
        /// Milliseconds from the accepted connection to a complete CONNECT and its authentication.
        connect_timeout_ms: u32 = 10_000;
        /// Milliseconds a question to the outside (authentication, authorization) may take; then it counts as refused.
        ask_timeout_ms: u32 = 5_000;
        /// Packets of one connection that may wait behind such a question.
        parked_max: u16 = 64;
        /// Milliseconds a closing connection may take to flush its last packets, and again to close its side.
        linger_ms: u32 = 2_000;
        /// Seconds: longer Keep Alives, and none at all, are lowered to this for MQTT 5.0 (Server Keep Alive). 0: as the
        /// client wishes.
        keep_alive_max_s: u16 = 0;
        /// Bytes of the largest packet a client may send (Maximum Packet Size).
        packet_size_max: u32 = 16_777_216;
        /// Incoming QoS 1 and 2 messages not yet acknowledged, per client (Receive Maximum). 1 to 65535.
        receive_maximum: u16 = 1_024;
        /// Topic Aliases a client may use, per connection.
        topic_alias_maximum: u16 = 32;
        /// Topic Aliases the broker uses towards a client that allows them.
        topic_alias_outbound_max: u16 = 32;
        /// Levels of a Topic Name or Topic Filter.
        topic_levels_max: u16 = 200;
        /// Subscriptions per session; one more, even if it replaced another, is answered with 0x97.
        subscriptions_max: u32 = 1_000_000;
        /// Seconds a session outlives its connection at most. 4294967295: for ever.
        session_expiry_max_s: u32 = u32::MAX;
        /// The highest QoS a client may publish with or subscribe to.
        qos_max: u8 = 2;
        /// Whether messages can be retained.
        retain_available: bool = true;
        /// Whether filters may hold + and #.
        wildcard_subscription_available: bool = true;
        /// Whether $share filters are allowed.
        shared_subscription_available: bool = true;
        /// Whether Subscription Identifiers are allowed.
        subscription_identifiers_available: bool = true;
        /// Whether a message goes once to a session with several matching subscriptions (with all their identifiers), or
        /// once per subscription.
        overlapping_once: bool = true;
        /// Whether a payload that claims to be UTF-8 (Payload Format Indicator) is checked; one that is not is refused
        /// (0x99).
        payload_format_check: bool = false;
        /// What a client that asks for Response Information is told, for instance a topic it may use; empty: nothing.
        response_information: String = String::new();
        /// Whether an MQTT 5.0 client that is refused or disconnected is told the clause it broke (Reason String).
        reason_strings: bool = false;
        /// The Server Reference to which every new client is sent (0x9C); empty: they are served here.
        redirect_to: String = String::new();
        /// Whether that is for good (0x9D instead of 0x9C).
        redirect_permanently: bool = false;
        /// Retained messages in total; a message for a further topic is passed on but not retained.
        retained_messages_max: u32 = 10_000_000;
        /// Bytes of retained messages in total.
        retained_bytes_max: u64 = 1_073_741_824;
        /// Outgoing QoS 1 and 2 messages in flight per client; a lower Receive Maximum of the client counts. 1 to 65535.
        in_flight_max: u16 = 1_024;
        /// Messages in the queue of one session.
        queue_messages_max: u32 = 262_144;
        /// Bytes in the queue of one session.
        queue_bytes_max: u64 = 67_108_864;
        /// Whether a QoS 1 message reaches subscribers only when it is durable. If not, they may have it a moment before its
        /// publisher is told that it is kept, and it may be lost with a crash just then. Only where there is a store; QoS 2 always
        /// waits.
        deliver_after_commit: bool = false;
        /// Messages of the queue of one session that are kept in memory where a store has them, too: the others are read back
        /// when the client takes them. At least 1.
        queue_memory_messages_max: u32 = 1_000;
        /// Their bytes; one message may be longer.
        queue_memory_bytes_max: u64 = 1_048_576;
        /// What happens when the queue of a session is full.
        queue_overflow: Overflow = Overflow::DropOldest;
        /// Whether QoS 0 messages are queued for sessions that are not connected.
        queue_qos0: bool = false;
        /// Bytes waiting to be written to one connection. Above it QoS 0 messages are dropped, QoS 1 and 2 are queued.
        outbox_bytes_max: u32 = 16_777_216;
        /// Notices waiting for the embedding program; more are dropped and counted.
        notices_max: u32 = 1_024;
        /// Actions waiting for the adapter; above it no connection is read.
        actions_max: u32 = 65_536;
    }
    besides {
        /// The settings of single listeners, by [`Peer::listener`](crate::Peer::listener). A listener that is missing
        /// has the defaults. They are no part of [`settings`](Self::settings).
        listeners: Vec<ListenerConfig>
    }
}

impl Config {
    /// The settings of a listener.
    #[must_use]
    pub fn listener(&self, listener: u16) -> &ListenerConfig {
        self.listeners.get(usize::from(listener)).unwrap_or(&listener::DEFAULT)
    }

    /// Bytes of the largest packet that clients of a listener may send.
    #[must_use]
    pub fn packet_size_max_of(&self, listener: u16) -> u32 {
        match self.listener(listener).packet_size_max {
            0 => self.packet_size_max,
            own => own.min(self.packet_size_max),
        }
    }

    /// Seconds of the longest Keep Alive of clients of a listener; 0: any.
    #[must_use]
    pub fn keep_alive_max_of(&self, listener: u16) -> u16 {
        let both = [self.keep_alive_max_s, self.listener(listener).keep_alive_max_s];
        both.into_iter().filter(|most| *most > 0).min().unwrap_or(0)
    }

    /// Checks the settings against each other and against the standard's limits.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn check(&self) -> Result<(), SettingError> {
        self.listeners.iter().try_for_each(ListenerConfig::check)?;
        let contradiction = if self.receive_maximum == 0 {
            "receive_maximum: expected 1 to 65535"
        } else if self.in_flight_max == 0 {
            "in_flight_max: expected 1 to 65535"
        } else if self.qos_max > 2 {
            "qos_max: expected 0, 1 or 2"
        } else if self.packet_size_max < 128 {
            "packet_size_max: expected at least 128"
        } else if self.topic_levels_max == 0 {
            "topic_levels_max: expected at least 1"
        } else if u64::from(self.outbox_bytes_max) < u64::from(self.packet_size_max) {
            "outbox_bytes_max: expected at least packet_size_max, or its packets could never be sent"
        } else if self.connect_timeout_ms == 0 {
            "connect_timeout_ms: expected at least 1"
        } else if self.parked_max == 0 {
            "parked_max: expected at least 1"
        } else if self.queue_memory_messages_max == 0 {
            "queue_memory_messages_max: expected at least 1"
        } else if self.actions_max == 0 {
            "actions_max: expected at least 1"
        } else if self.listeners.iter().any(|listener| listener.packet_size_max > self.packet_size_max) {
            "packet_size_max of a listener: expected at most packet_size_max of the broker"
        } else {
            return Ok(());
        };
        Err(SettingError::Contradiction(contradiction))
    }
}

fn document(settings: &[Setting]) -> String {
    let mut text = String::new();
    for setting in settings {
        for line in setting.doc.lines() {
            text.push_str(&format!("#{line}\n"));
        }
        let default = (setting.default)();
        let quote =
            if default.parse::<u64>().is_err() && default.parse::<bool>().is_err() { "\"" } else { "" };
        text.push_str(&format!(
            "# Expected: {}.\n{} = {quote}{default}{quote}\n\n",
            setting.kind, setting.key
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_can_be_read_and_set_by_its_name() {
        let mut config = Config::default();
        for setting in Config::settings() {
            let value = config.get(setting.key).unwrap();
            assert_eq!(value, (setting.default)());
            config.set(setting.key, &value).unwrap();
        }
        assert!(config.changed().is_empty());
        assert_eq!(config.check(), Ok(()));
    }

    #[test]
    fn a_wrong_value_changes_nothing_and_says_what_was_expected() {
        let mut config = Config::default();
        let expected = "a whole number from 0 to 65535";
        assert_eq!(config.set("receive_maximum", "70000"), Err(SettingError::Invalid { expected }));
        assert_eq!(config.set("recieve_maximum", "7"), Err(SettingError::UnknownKey));
        assert_eq!(config, Config::default());
        config.set("queue_overflow", "disconnect").unwrap();
        assert_eq!(config.changed(), [("queue_overflow", "disconnect".into(), "drop-oldest".into())]);
        config.set("receive_maximum", "0").unwrap();
        assert!(config.check().is_err());
    }
}

//! What can be set for one listener: how its clients differ from those of the others.

use super::{Setting, SettingError, Value, document, settings};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

/// What becomes of who the transport says a peer is ([`Peer::identity`](crate::Peer::identity)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentityUse {
    /// Nothing but that policies can read it.
    Ignore,
    /// It is the User Name, whatever CONNECT says.
    UserName,
    /// It is the Client Identifier: another one is refused, an empty one becomes it.
    ClientId,
}

impl fmt::Display for IdentityUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ignore => "ignore",
            Self::UserName => "user-name",
            Self::ClientId => "client-id",
        })
    }
}

impl Value for IdentityUse {
    const KIND: &'static str = "ignore, user-name or client-id";
    fn parse(text: &str) -> Option<Self> {
        match text {
            "ignore" => Some(Self::Ignore),
            "user-name" => Some(Self::UserName),
            "client-id" => Some(Self::ClientId),
            _ => None,
        }
    }
}

settings! {
    /// The settings of one listener. The defaults make it no different from the others.
    struct ListenerConfig {
        /// The topic prefix below which everything is that clients of this listener say and hear, for instance site-a/;
        /// empty: none. It ends with / and does not begin with $.
        mount_point: String = String::new();
        /// What becomes of who the transport says a client is, from a client certificate for instance. user-name: it
        /// replaces the User Name of CONNECT. client-id: it is the Client Identifier, and any other is refused (0x85).
        identity: IdentityUse = IdentityUse::Ignore;
        /// Connections of this listener at once; further ones are closed as they are accepted. 0: as many as the broker takes.
        connections_max: u32 = 0;
        /// Whether a CONNECT may come without User Name, without Authentication Method and without an identity from the
        /// transport, if authentication allows it; else it is refused (0x87).
        allow_anonymous: bool = true;
        /// Bytes of the largest packet a client may send (Maximum Packet Size), at most that of the broker. 0: that of
        /// the broker.
        packet_size_max: u32 = 0;
        /// Seconds: longer Keep Alives, and none at all, are lowered to this for MQTT 5.0 (Server Keep Alive); that of the
        /// broker counts where it is lower. 0: that of the broker.
        keep_alive_max_s: u16 = 0;
    }
}

/// What a listener has that nothing was set for.
pub(super) static DEFAULT: ListenerConfig = ListenerConfig {
    mount_point: String::new(),
    identity: IdentityUse::Ignore,
    connections_max: 0,
    allow_anonymous: true,
    packet_size_max: 0,
    keep_alive_max_s: 0,
};

impl ListenerConfig {
    /// Checks the settings of one listener. [`Config::check`](super::Config::check) compares them with those of the broker.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn check(&self) -> Result<(), SettingError> {
        let mount_point = &*self.mount_point;
        let contradiction = if mount_point.contains(['+', '#', '\0']) {
            "mount_point: expected no wildcards and no U+0000"
        } else if mount_point.starts_with('$') {
            "mount_point: expected not to begin with $"
        } else if !mount_point.is_empty() && !mount_point.ends_with('/') {
            // Else a client's `#` would be half a level of a filter.
            "mount_point: expected / at its end"
        } else if mount_point.len() > MOUNT_POINT_BYTES_MAX {
            "mount_point: expected at most 256 bytes"
        } else if (1..128).contains(&self.packet_size_max) {
            "packet_size_max: expected 0 or at least 128"
        } else {
            return Ok(());
        };
        Err(SettingError::Contradiction(contradiction))
    }
}

/// Each Topic Filter of a SUBSCRIBE grows by so much at most.
const MOUNT_POINT_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;
    use alloc::vec;

    #[test]
    fn a_listener_that_is_not_configured_has_the_defaults() {
        let mut config = Config::default();
        assert_eq!(config.listener(7), &ListenerConfig::default());
        assert_eq!(DEFAULT, ListenerConfig::default());
        config.listeners = vec![ListenerConfig::default(); 2];
        config.listeners[1].set("identity", "client-id").unwrap();
        assert_eq!(config.listener(1).identity, IdentityUse::ClientId);
        assert_eq!(config.listener(0), config.listener(2));
        assert_eq!(config.listeners[1].changed(), [("identity", "client-id".into(), "ignore".into())]);
        assert_eq!(config.check(), Ok(()));
    }

    #[test]
    fn every_setting_of_a_listener_can_be_read_and_set_by_its_name() {
        let mut listener = ListenerConfig::default();
        for setting in ListenerConfig::settings() {
            let value = listener.get(setting.key).unwrap();
            assert_eq!(value, (setting.default)());
            listener.set(setting.key, &value).unwrap();
            assert!(ListenerConfig::document().contains(setting.key));
        }
        assert!(listener.changed().is_empty());
        assert_eq!(
            listener.set("identity", "root"),
            Err(SettingError::Invalid { expected: IdentityUse::KIND })
        );
        assert_eq!(listener.set("nothing", ""), Err(SettingError::UnknownKey));
    }

    #[test]
    fn a_mount_point_is_a_topic_prefix() {
        let check = |mount_point: &str| {
            let listener = ListenerConfig { mount_point: mount_point.into(), ..ListenerConfig::default() };
            Config { listeners: vec![listener], ..Config::default() }.check().is_ok()
        };
        let long = "x".repeat(255) + "/";
        for good in ["", "a/", "a/b/", "/", "//", " /", &long] {
            assert!(check(good), "{good}");
        }
        for bad in ["a", "+/", "a/#/", "a\0/", "$a/", "$SYS/", "a/b", &("x".to_string() + &long)] {
            assert!(!check(bad), "{bad}");
        }
    }

    #[test]
    fn the_lower_keep_alive_counts() {
        let mut config = Config { listeners: vec![ListenerConfig::default()], ..Config::default() };
        for (broker, listener, expected) in [(0, 0, 0), (7, 0, 7), (0, 9, 9), (7, 9, 7), (9, 7, 7)] {
            config.keep_alive_max_s = broker;
            config.listeners[0].keep_alive_max_s = listener;
            assert_eq!(config.keep_alive_max_of(0), expected);
            assert_eq!(config.keep_alive_max_of(1), broker);
        }
    }

    #[test]
    fn a_listener_takes_no_larger_packets_than_the_broker() {
        let small = ListenerConfig { packet_size_max: 128, ..ListenerConfig::default() };
        let mut config = Config { listeners: vec![small], ..Config::default() };
        assert_eq!(config.check(), Ok(()));
        assert_eq!((config.packet_size_max_of(0), config.packet_size_max_of(1)), (128, 16_777_216));
        config.listeners[0].packet_size_max = 16_777_217;
        assert!(config.check().is_err());
        assert_eq!(config.packet_size_max_of(0), 16_777_216, "whatever was checked");
        config.listeners[0].packet_size_max = 127;
        assert!(config.check().is_err());
    }
}

//! Blame is in the type: [`Violation`] is the peer's fault and becomes a reason code, [`Misuse`] the caller's.

use crate::packet::ReasonCode;
use core::fmt;

/// The id of a normative statement, for instance `MQTT-3.1.2-24`. Ids of MQTT 5.0 stand as they are; a rule that
/// the standard states without a number is named by its section, `MQTT-3.3.2.3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Clause(pub &'static str);

impl fmt::Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// A peer broke a rule. It is told by `reason` and the connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation {
    /// The statement that was broken.
    pub clause: Clause,
    /// What MQTT 5.0 tells the peer; 3.x peers only see the close.
    pub reason: ReasonCode,
}

impl Violation {
    /// A packet that cannot be parsed: reason code 0x81.
    #[must_use]
    pub const fn malformed(clause: &'static str) -> Self {
        Self { clause: Clause(clause), reason: ReasonCode::MalformedPacket }
    }

    /// A packet that can be parsed but is not allowed: reason code 0x82.
    #[must_use]
    pub const fn protocol(clause: &'static str) -> Self {
        Self { clause: Clause(clause), reason: ReasonCode::ProtocolError }
    }

    /// A rule with a reason code of its own.
    #[must_use]
    pub const fn with(clause: &'static str, reason: ReasonCode) -> Self {
        Self { clause: Clause(clause), reason }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} (0x{:02X}) [{}]", self.reason, self.reason as u8, self.clause)
    }
}

impl core::error::Error for Violation {}

/// The embedding program asked for something that cannot be: nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Misuse {
    /// A topic name that is empty, too long or holds a wildcard or U+0000.
    TopicName,
    /// A topic filter that is not well-formed.
    TopicFilter,
    /// A packet that does not fit into the Variable Byte Integer of its length.
    TooLarge,
}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TopicName => "not a topic name: it must have 1 to 65,535 bytes and no wildcard",
            Self::TopicFilter => "not a topic filter: # stands last, + and # fill a whole level",
            Self::TooLarge => "larger than an MQTT packet can be",
        })
    }
}

impl core::error::Error for Misuse {}

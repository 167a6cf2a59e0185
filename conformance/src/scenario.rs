//! What a scenario is, once it has been read.

use crate::value::{Pattern, Value};
use culex_core::packet::Version;
use std::time::Duration;

/// One story about a broker, and the statements it proves.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The file it was read from.
    pub file: String,
    /// The line of its title.
    pub line: usize,
    /// What happens, as a sentence.
    pub title: String,
    /// The statements: ids of MQTT 5.0 as they are, those of 3.1.1 behind `311:`.
    pub clauses: Vec<String>,
    /// The versions it is told for.
    pub versions: Vec<Version>,
    /// Settings the broker must have: name and value.
    pub needs: Vec<(String, String)>,
    /// Its connections are by WebSocket, whatever else the broker offers.
    pub websocket: bool,
    pub(crate) steps: Vec<Step>,
}

impl Scenario {
    /// How long it waits in total when it is told for a version.
    #[must_use]
    pub fn waits(&self, version: Version) -> Duration {
        let time = |step: &Step| match step.action {
            Action::Wait(time) | Action::Quiet { time, .. } => time,
            Action::Expect { within: Some(time), .. } => time,
            _ => Duration::ZERO,
        };
        self.steps.iter().filter(|step| step.tells(version)).map(time).sum()
    }
}

/// One line of a scenario.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) line: usize,
    pub(crate) text: String,
    /// The versions it is for; empty: all.
    pub(crate) guard: Vec<Version>,
    pub(crate) action: Action,
}

impl Step {
    pub(crate) fn tells(&self, version: Version) -> bool {
        self.guard.is_empty() || self.guard.contains(&version)
    }

    /// Whether it is about WebSocket.
    pub(crate) fn needs_websocket(&self) -> bool {
        match &self.action {
            Action::Open(_, offers) => offers != &["mqtt"],
            Action::Send { what, .. } => matches!(what, Send::Frame(_)),
            _ => false,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// Opens a connection; by WebSocket it offers these subprotocols.
    Open(String, Vec<String>),
    Send {
        to: String,
        what: Send,
        hold: bool,
    },
    Expect {
        from: String,
        alternatives: Vec<Vec<Expected>>,
        within: Option<Duration>,
    },
    /// CONNECT, and a CONNACK that accepts.
    Connect(String, Vec<(String, Value)>),
    /// SUBSCRIBE, and a SUBACK that grants.
    Subscribe(String, Vec<(String, Value)>),
    /// PUBLISH, and the whole exchange that its QoS wants.
    Publish(String, Vec<(String, Value)>),
    /// DISCONNECT, then the end of the connection.
    Disconnect(String, Vec<(String, Value)>),
    /// A PINGREQ whose answer is the next packet; without a name: on all connections.
    Fence(Option<String>),
    Quiet {
        of: String,
        time: Duration,
    },
    Wait(Duration),
    Cut(String),
}

#[derive(Debug, Clone)]
pub(crate) enum Send {
    Hex(Vec<u8>),
    /// A WebSocket frame, as it is on the wire.
    Frame(Vec<u8>),
    Packet {
        name: String,
        fields: Vec<(String, Value)>,
    },
}

/// One expected packet, or the end of the connection.
#[derive(Debug, Clone)]
pub(crate) enum Expected {
    Close,
    Packet { name: String, fields: Vec<(String, Pattern)> },
}

/// The word for a version in scenarios and reports.
#[must_use]
pub fn version_name(version: Version) -> &'static str {
    match version {
        Version::V31 => "3.1",
        Version::V311 => "3.1.1",
        Version::V5 => "5",
    }
}

/// The version of a word.
#[must_use]
pub fn version_of(name: &str) -> Option<Version> {
    match name {
        "3.1" => Some(Version::V31),
        "3.1.1" => Some(Version::V311),
        "5" | "5.0" => Some(Version::V5),
        _ => None,
    }
}

//! What a scenario is told to: a broker in this process, or one at an address.

mod address;
mod machine;
mod stream;
mod websocket;

pub use address::{Address, UrlError};
pub use machine::InProcess;
pub use stream::Trust;
pub(crate) use websocket::{frame, kind};

use std::time::Duration;

/// Where brokers come from. A scenario gets one of its own if that is possible.
pub trait Target: Sync {
    /// A broker with these settings; `websocket`: its connections must be by WebSocket.
    ///
    /// # Errors
    /// Why this target cannot have them: the scenario is skipped.
    fn broker(&self, needs: &[(String, String)], websocket: bool) -> Result<Box<dyn Broker>, String>;

    /// What is tested, for the report.
    fn name(&self) -> String;

    /// How many scenarios may run at once.
    fn parallel(&self) -> usize;
}

/// What came from a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// Bytes.
    Bytes(Vec<u8>),
    /// The broker closed it.
    Closed,
    /// Nothing in the time that was given.
    Nothing,
    /// Something that cannot be, below MQTT.
    Wrong(String),
}

/// How a client ends its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// After DISCONNECT.
    Peace,
    /// Without a word.
    Cut,
}

/// A broker, seen from its clients. Connections are numbered in the order in which they were opened.
pub trait Broker {
    /// Opens a connection; if it is one by WebSocket, it offers these subprotocols.
    ///
    /// # Errors
    /// Why there is none.
    fn open(&mut self, offers: &[String]) -> Result<usize, String>;

    /// Writes to a connection, by WebSocket in one frame; nobody hears it if the broker has closed it.
    fn write(&mut self, connection: usize, bytes: &[u8]);

    /// Writes the bytes of a WebSocket frame.
    fn write_frame(&mut self, connection: usize, frame: &[u8]);

    /// Reads from a connection; waits for so long.
    fn read(&mut self, connection: usize, within: Duration) -> Read;

    /// Ends a connection, and gives the broker the time to notice.
    fn leave(&mut self, connection: usize, how: Leave);

    /// Lets time pass.
    fn pass(&mut self, time: Duration);

    /// Gives what is on its way to other clients the time to arrive.
    fn settle(&mut self);

    /// How long to wait for an expected packet when the scenario does not say.
    fn patience(&self) -> Duration;

    /// Whether waiting costs nothing.
    fn virtual_time(&self) -> bool;
}

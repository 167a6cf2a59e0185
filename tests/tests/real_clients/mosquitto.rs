//! Single mosquitto_pub and mosquitto_sub, for what is about getting in.

use crate::certificates::{Authority, Certified};
use crate::program::Running;
use std::process::{Command, Stdio};

/// Seconds after which a client ends by itself, so that none outlives its test.
const SECONDS_MAX: &str = "30";

/// How one of mosquitto's clients comes in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Visitor {
    arguments: Vec<String>,
    /// Variables of its environment.
    variables: Vec<(String, String)>,
}

impl Visitor {
    /// By the loopback, to a port.
    pub(crate) fn to(port: &str) -> Self {
        Self::default().with(&["-h", "127.0.0.1", "-p", port])
    }

    /// Further arguments; a later one counts.
    pub(crate) fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// By TLS.
    pub(crate) fn trusting(self, authority: &Authority) -> Self {
        self.with(&["--cafile", &authority.file])
    }

    pub(crate) fn showing(self, certified: &Certified) -> Self {
        self.with(&["--cert", &certified.chain, "--key", &certified.key])
    }

    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Publishes a message at QoS 1.
    ///
    /// # Errors
    /// What the client said when it did not get PUBACK.
    pub(crate) fn publish(&self, topic: &str, payload: &str) -> Result<(), String> {
        let mut command = self.command(&["timeout", SECONDS_MAX, "mosquitto_pub"]);
        command.args(["-q", "1", "-t", topic, "-m", payload]).stdin(Stdio::null());
        let done = command.output().expect("mosquitto_pub was started before");
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        if done.status.success() { Ok(()) } else { Err(said) }
    }

    /// A running mosquitto_sub that has its SUBACK. It prints the payloads that it gets.
    #[track_caller]
    pub(crate) fn subscribe(&self, topic: &str) -> Running {
        // Without a terminal its lines would stay in the output buffer.
        let mut command = self.command(&["stdbuf", "-oL", "mosquitto_sub", "-W", SECONDS_MAX]);
        command.args(["-d", "-q", "1", "-t", topic, "-F", "payload %p"]);
        let mut running = Running::start(&mut command);
        running.wait_for("Subscribed (");
        running
    }

    fn command(&self, client: &[&str]) -> Command {
        let mut command = Command::new(client[0]);
        command.args(&client[1..]).args(&self.arguments);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }
}

//! What is installed, and what its script is.

use crate::program::workspace;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Whom the scripts in `tests/clients` drive.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Client {
    Mosquitto,
    Paho,
    MqttJs,
}

impl Client {
    /// The command that runs the client's script, or what is missing.
    pub(crate) fn script(self) -> Result<Command, String> {
        let (interpreter, script) = match self {
            Client::Mosquitto => {
                mosquitto()?;
                need("python3", &["--version"], "python3, which drives mosquitto_pub, is not installed")?;
                (PathBuf::from("python3"), "mosquitto_clients.py")
            }
            Client::Paho => {
                let python = workspace().join(".venv/bin/python");
                let missing = "paho-mqtt is not installed (run tests/clients/install.sh)";
                need(&python, &["-c", "import paho.mqtt.client"], missing)?;
                (python, "paho_clients.py")
            }
            Client::MqttJs => {
                mqttjs()?;
                (PathBuf::from("node"), "mqttjs_clients.js")
            }
        };
        let mut command = Command::new(interpreter);
        command.arg(clients().join(script)).env("PYTHONDONTWRITEBYTECODE", "1");
        Ok(command)
    }
}

/// The scripts and what they need.
pub(crate) fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

/// Fails with what is missing of mosquitto's clients.
pub(crate) fn mosquitto() -> Result<(), String> {
    for tool in ["mosquitto_pub", "mosquitto_sub", "stdbuf", "timeout"] {
        need(tool, &["--help"], &format!("{tool} is not installed (see tests/clients/install.sh)"))?;
    }
    Ok(())
}

/// Fails with what is missing of MQTT.js.
pub(crate) fn mqttjs() -> Result<(), String> {
    need("node", &["--version"], "node, which runs MQTT.js, is not installed")?;
    if !clients().join("node_modules/mqtt/package.json").exists() {
        return Err("MQTT.js is not installed (run tests/clients/install.sh)".into());
    }
    Ok(())
}

/// Fails with `missing` unless the tool can be started. What it answers does not matter, except to an import.
pub(crate) fn need(tool: impl AsRef<Path>, arguments: &[&str], missing: &str) -> Result<(), String> {
    need_command(&mut Command::new(tool.as_ref()), arguments, missing)
}

/// As [`need`].
pub(crate) fn need_command(command: &mut Command, arguments: &[&str], missing: &str) -> Result<(), String> {
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.status() {
        // mosquitto_sub ends its help with status 1.
        Ok(status) if status.success() || arguments == ["--help"] => Ok(()),
        Ok(_) | Err(_) => Err(missing.into()),
    }
}

/// Whether what a test needs is there; it is skipped if not, or fails if all have to run.
pub(crate) fn has(needed: Result<(), String>) -> bool {
    needed.map_err(|missing| skip(&missing)).is_ok()
}

/// Skips a test for what is missing, or fails if all have to run.
pub(crate) fn skip(missing: &str) {
    assert!(std::env::var_os("CULEX_REQUIRE_CLIENTS").is_none_or(|value| value != "1"), "missing: {missing}");
    tell_skipped(missing);
}

/// Says so even where the test harness captures what tests print.
pub(crate) fn tell_skipped(missing: &str) {
    let _ = writeln!(io::stderr(), "SKIPPED: {missing}");
}

//! MQTT.js in a page of headless Chromium.

use crate::certificates::Authority;
use crate::client::{clients, has, mqttjs, need, tell_skipped};
use crate::directory::Directory;
use crate::program::{Listening, Program, Running, free_port};
use std::process::Command;
use std::time::Duration;

/// How long the script may take. It keeps a shorter time itself.
const SCRIPT_TIME_MAX: Duration = Duration::from_secs(90);

#[test]
fn a_page_whose_origin_is_listed_speaks_mqtt() {
    visit("ws", "", Origin::Listed);
}

#[test]
fn a_page_whose_origin_is_listed_speaks_mqtt_by_tls() {
    let directory = Directory::new();
    let certified = Authority::new(&directory, "authority").host(&directory, &["127.0.0.1"]);
    visit("wss", &certified.keys(), Origin::Listed);
}

#[test]
fn a_page_of_another_origin_stays_out() {
    visit("ws", "", Origin::Another);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Listed,
    Another,
}

/// Runs the checks in a page that comes from another port than the broker's.
fn visit(scheme: &str, keys: &str, origin: Origin) {
    let Some(mut script) = script() else { return };
    let port = free_port();
    let origins = match origin {
        Origin::Listed => format!("origins = 'http://127.0.0.1:{port}'"),
        Origin::Another => String::new(),
    };
    let listening = Listening::new(format!("{scheme}://127.0.0.1:0/mqtt"), format!("{keys}{origins}"));
    let mut program = Program::start("tokio", &[listening]);
    let url = format!("{scheme}://127.0.0.1:{}/mqtt", program.port(0));
    script.args(["--url", &url, "--origin-port", &port.to_string()]);
    if origin == Origin::Another {
        script.arg("--refused");
    }
    let (success, lines) = Running::start(&mut script).finish(SCRIPT_TIME_MAX);
    let passed = !lines.is_empty() && lines.iter().all(|line| line.starts_with("ok "));
    assert!(success && passed, "{}\n{}", lines.join("\n"), program.running.stop_and_read());
    if origin == Origin::Another {
        program.logs("pages of this origin may not connect");
    }
}

/// The script with a browser that starts. None is no failure, also where all clients are required: not every system
/// has one to install.
fn script() -> Option<Command> {
    if !has(mqttjs()) {
        return None;
    }
    let given = std::env::var("CHROMIUM").ok();
    let names = given.as_deref().into_iter().chain(["chromium", "chromium-browser", "google-chrome"]);
    let Some(browser) = names.into_iter().find(|name| need(name, &["--version"], "").is_ok()) else {
        tell_skipped("no browser: Chromium is not installed");
        return None;
    };
    let mut command = Command::new("node");
    command.arg(clients().join("browser_client.js")).env("CHROMIUM", browser);
    Some(command)
}

//! The long lists of checks, and short ones for what differs in the transport only.

use crate::certificates::Authority;
use crate::client::{Client, skip};
use crate::directory::Directory;
use crate::program::{Listening, Program, Running};
use std::process::Command;
use std::time::Duration;

/// How long a script may take. It keeps a shorter time itself; this ends one that hangs.
const SCRIPT_TIME_MAX: Duration = Duration::from_secs(90);

macro_rules! checks {
    ($($name:ident: $client:ident by $transport:ident on $runtime:literal, $list:ident;)+) => {$(
        #[test]
        fn $name() {
            check(Client::$client, Transport::$transport, $runtime, List::$list);
        }
    )+};
}

checks! {
    mosquitto_clients_on_tokio: Mosquitto by Tcp on "tokio", Long;
    mosquitto_clients_on_smol: Mosquitto by Tcp on "smol", Long;
    mosquitto_clients_on_std: Mosquitto by Tcp on "std", Long;
    mosquitto_clients_by_tls_on_tokio: Mosquitto by Tls on "tokio", Long;
    mosquitto_clients_by_tls_on_smol: Mosquitto by Tls on "smol", Short;
    mosquitto_clients_by_tls_on_std: Mosquitto by Tls on "std", Short;
    mosquitto_clients_by_unix_socket_on_tokio: Mosquitto by Unix on "tokio", Long;
    mosquitto_clients_by_unix_socket_on_smol: Mosquitto by Unix on "smol", Short;
    mosquitto_clients_by_unix_socket_on_std: Mosquitto by Unix on "std", Short;

    paho_clients_on_tokio: Paho by Tcp on "tokio", Long;
    paho_clients_on_smol: Paho by Tcp on "smol", Long;
    paho_clients_on_std: Paho by Tcp on "std", Long;
    paho_clients_by_tls_on_tokio: Paho by Tls on "tokio", Long;
    paho_clients_by_tls_on_smol: Paho by Tls on "smol", Short;
    paho_clients_by_tls_on_std: Paho by Tls on "std", Short;
    paho_clients_by_websocket_on_tokio: Paho by WebSocket on "tokio", Long;
    paho_clients_by_websocket_on_smol: Paho by WebSocket on "smol", Short;
    paho_clients_by_websocket_on_std: Paho by WebSocket on "std", Short;

    mqttjs_clients_on_tokio: MqttJs by Tcp on "tokio", Long;
    mqttjs_clients_on_smol: MqttJs by Tcp on "smol", Long;
    mqttjs_clients_on_std: MqttJs by Tcp on "std", Long;
    mqttjs_clients_by_websocket_on_tokio: MqttJs by WebSocket on "tokio", Long;
    mqttjs_clients_by_websocket_on_smol: MqttJs by WebSocket on "smol", Long;
    mqttjs_clients_by_websocket_on_std: MqttJs by WebSocket on "std", Long;
    mqttjs_clients_by_websocket_and_tls_on_tokio: MqttJs by WebSocketTls on "tokio", Long;
    mqttjs_clients_by_websocket_and_tls_on_smol: MqttJs by WebSocketTls on "smol", Short;
    mqttjs_clients_by_websocket_and_tls_on_std: MqttJs by WebSocketTls on "std", Short;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Tcp,
    Tls,
    Unix,
    WebSocket,
    WebSocketTls,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum List {
    Long,
    /// Connect, publish and subscribe.
    Short,
}

/// Runs the script of one client against the program on one runtime.
fn check(client: Client, transport: Transport, runtime: &str, list: List) {
    let mut script = match client.script() {
        Ok(script) => script,
        Err(missing) => return skip(&missing),
    };
    let directory = Directory::new();
    let mut broker = Program::start(runtime, &[transport.listener(&directory)]);
    script.args(["--host", "127.0.0.1", "--port", &broker.port(0)]);
    transport.tell(client, &mut script, &directory);
    if list == List::Short {
        script.arg("--short");
    }
    let (success, lines) = Running::start(&mut script).finish(SCRIPT_TIME_MAX);
    let failed: Vec<_> = lines.iter().filter(|line| !line.starts_with("ok ")).collect();
    let passed = lines.len() - failed.len();
    let alive = broker.running.is_alive();
    assert!(
        success && failed.is_empty() && passed > 0 && alive,
        "{client:?} by {transport:?} on {runtime}: {passed} checks passed\n{}\nthe program {}; its output:\n{}",
        failed.into_iter().map(String::as_str).collect::<Vec<_>>().join("\n"),
        if alive { "kept running" } else { "ended by itself" },
        broker.running.stop_and_read(),
    );
}

impl Transport {
    /// A listener of the program, and the files it needs.
    fn listener(self, directory: &Directory) -> Listening {
        let keys = || Authority::new(directory, AUTHORITY).host(directory, &["127.0.0.1"]).keys();
        match self {
            Transport::Tcp => Listening::new("mqtt://127.0.0.1:0", ""),
            Transport::Tls => Listening::new("mqtts://127.0.0.1:0", keys()),
            Transport::Unix => Listening::new(format!("unix:{}", directory.path(SOCKET)), ""),
            // The path is the default, of both sides.
            Transport::WebSocket => Listening::new("ws://127.0.0.1:0", ""),
            Transport::WebSocketTls => Listening::new("wss://127.0.0.1:0", keys()),
        }
    }

    /// What a script is told about it, besides host and port.
    fn tell(self, client: Client, script: &mut Command, directory: &Directory) {
        if matches!(self, Transport::Tls | Transport::WebSocketTls) {
            script.args(["--cafile", &directory.path(&format!("{AUTHORITY}.ca"))]);
        }
        match (client, self) {
            (_, Transport::Unix) => script.args(["--unix", &directory.path(SOCKET)]),
            (Client::Paho, Transport::WebSocket) => script.args(["--websocket", "/mqtt"]),
            (_, Transport::WebSocket) => script.args(["--protocol", "ws"]),
            (_, Transport::WebSocketTls) => script.args(["--protocol", "wss"]),
            (_, Transport::Tcp | Transport::Tls) => script,
        };
    }
}

const AUTHORITY: &str = "authority";
const SOCKET: &str = "broker.sock";

//! The program `culex` against clients that others wrote: mosquitto_pub and mosquitto_sub, paho-mqtt, MQTT.js,
//! which also comes by WebSocket as in a browser.
//!
//! The checks are the scripts in `tests/clients`; run by hand they work against any broker. A client that is not
//! installed is skipped by name, or fails the test when `CULEX_REQUIRE_CLIENTS=1`. The program is `$CULEX_BIN`, else
//! the newest `culex` of the target directory, else it is built.

use std::collections::HashSet;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a script may take. It keeps a shorter time itself; this ends one that hangs.
const SCRIPT_TIME_MAX: Duration = Duration::from_secs(90);
/// How long the program may take until it accepts.
const START_TIME_MAX: Duration = Duration::from_secs(20);
/// Between two attempts to connect to a program that is starting.
const START_POLL: Duration = Duration::from_millis(10);
/// How many ports are tried: between finding a free one and binding it, somebody else can take it.
const PORTS_TRIED_MAX: usize = 5;
/// How much of the program's output a failure shows.
const OUTPUT_LINES_MAX: usize = 50;

#[test]
fn mosquitto_clients_on_tokio() {
    check(Client::Mosquitto, "tokio");
}

#[test]
fn mosquitto_clients_on_smol() {
    check(Client::Mosquitto, "smol");
}

#[test]
fn mosquitto_clients_on_std() {
    check(Client::Mosquitto, "std");
}

#[test]
fn paho_clients_on_tokio() {
    check(Client::Paho, "tokio");
}

#[test]
fn paho_clients_on_smol() {
    check(Client::Paho, "smol");
}

#[test]
fn paho_clients_on_std() {
    check(Client::Paho, "std");
}

#[test]
fn mqttjs_clients_on_tokio() {
    check(Client::MqttJs, "tokio");
}

#[test]
fn mqttjs_clients_on_smol() {
    check(Client::MqttJs, "smol");
}

#[test]
fn mqttjs_clients_on_std() {
    check(Client::MqttJs, "std");
}

#[test]
fn mqttjs_clients_by_websocket_on_tokio() {
    check(Client::MqttJsWebSocket, "tokio");
}

#[test]
fn mqttjs_clients_by_websocket_on_smol() {
    check(Client::MqttJsWebSocket, "smol");
}

#[test]
fn mqttjs_clients_by_websocket_on_std() {
    check(Client::MqttJsWebSocket, "std");
}

/// Runs the script of one client against the program on one runtime.
fn check(client: Client, runtime: &str) {
    let script = match client.script() {
        Ok(script) => script,
        Err(missing) => return skip(&missing),
    };
    let mut broker = Program::start(client.scheme(), runtime);
    let report = run(script, broker.address);
    let failed: Vec<_> = report.lines.iter().filter(|line| !line.starts_with("ok ")).collect();
    let passed = report.lines.len() - failed.len();
    let alive = broker.is_alive();
    assert!(
        report.success && failed.is_empty() && passed > 0 && alive,
        "{client:?} on {runtime}: {passed} checks passed\n{}\nthe program {}; its output:\n{}",
        failed.into_iter().map(String::as_str).collect::<Vec<_>>().join("\n"),
        if alive { "kept running" } else { "ended by itself" },
        broker.stop_and_read(),
    );
}

/// Says so even where the test harness captures what tests print.
fn skip(missing: &str) {
    assert!(std::env::var_os("CULEX_REQUIRE_CLIENTS").is_none_or(|value| value != "1"), "missing: {missing}");
    let _ = writeln!(io::stderr(), "SKIPPED: {missing}");
}

#[derive(Clone, Copy, Debug)]
enum Client {
    Mosquitto,
    Paho,
    MqttJs,
    MqttJsWebSocket,
}

impl Client {
    /// What the URL of its listener begins with. The path by WebSocket is the default, of both sides.
    fn scheme(self) -> &'static str {
        if matches!(self, Client::MqttJsWebSocket) { "ws" } else { "mqtt" }
    }

    /// The command that runs the client's script, or what is missing.
    fn script(self) -> Result<Command, String> {
        let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
        let (interpreter, script) = match self {
            Client::Mosquitto => {
                for tool in ["mosquitto_pub", "mosquitto_sub", "stdbuf"] {
                    need(
                        tool,
                        &["--help"],
                        &format!("{tool} is not installed (see tests/clients/install.sh)"),
                    )?;
                }
                need("python3", &["--version"], "python3, which drives mosquitto_pub, is not installed")?;
                (PathBuf::from("python3"), "mosquitto_clients.py")
            }
            Client::Paho => {
                let python = workspace().join(".venv/bin/python");
                let missing = "paho-mqtt is not installed (run tests/clients/install.sh)";
                need(&python, &["-c", "import paho.mqtt.client"], missing)?;
                (python, "paho_clients.py")
            }
            Client::MqttJs | Client::MqttJsWebSocket => {
                need("node", &["--version"], "node, which runs MQTT.js, is not installed")?;
                if !clients.join("node_modules/mqtt/package.json").exists() {
                    return Err("MQTT.js is not installed (run tests/clients/install.sh)".into());
                }
                (PathBuf::from("node"), "mqttjs_clients.js")
            }
        };
        let mut command = Command::new(interpreter);
        command.arg(clients.join(script)).env("PYTHONDONTWRITEBYTECODE", "1");
        if self.scheme() == "ws" {
            command.args(["--protocol", "ws"]);
        }
        Ok(command)
    }
}

/// Fails with `missing` unless the tool can be started. What it answers does not matter, except to an import.
fn need(tool: impl AsRef<Path>, arguments: &[&str], missing: &str) -> Result<(), String> {
    let tool = tool.as_ref();
    let mut command = Command::new(tool);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.status() {
        // mosquitto_sub ends its help with status 1.
        Ok(status) if status.success() || arguments == ["--help"] => Ok(()),
        Ok(_) | Err(_) => Err(missing.into()),
    }
}

struct Report {
    success: bool,
    lines: Vec<String>,
}

/// Runs a script to its end; a script that hangs is ended and reported.
fn run(mut script: Command, address: SocketAddr) -> Report {
    script.args(["--host", &address.ip().to_string(), "--port", &address.port().to_string()]);
    script.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = script.spawn().expect("the interpreter was started before");
    let output = output_of(&mut child);
    let ends = Instant::now() + SCRIPT_TIME_MAX;
    let mut lines = Vec::new();
    loop {
        match output.recv_timeout(ends.saturating_duration_since(Instant::now())) {
            Ok(line) => lines.push(line),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let _ = child.kill();
                lines.push(format!("FAIL: did not end within {SCRIPT_TIME_MAX:?}"));
                break;
            }
        }
    }
    let success = child.wait().is_ok_and(|status| status.success());
    Report { success, lines }
}

/// The lines of both of a process's outputs, as they come. Disconnected once both have ended.
fn output_of(child: &mut Child) -> Receiver<String> {
    let (lines, output) = channel();
    if let Some(stdout) = child.stdout.take() {
        pass_on(stdout, lines.clone());
    }
    if let Some(stderr) = child.stderr.take() {
        pass_on(stderr, lines);
    }
    output
}

fn pass_on(source: impl Read + Send + 'static, lines: Sender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(source).split(b'\n').map_while(Result::ok) {
            // A receiver that is gone has no use for the rest; reading on keeps the process from blocking.
            let _ = lines.send(String::from_utf8_lossy(&line).into_owned());
        }
    });
}

/// A running `culex`, ended when dropped.
struct Program {
    child: Child,
    output: Receiver<String>,
    address: SocketAddr,
}

impl Program {
    /// Starts it on a free port and returns once it accepts.
    fn start(scheme: &str, runtime: &str) -> Program {
        let mut reasons = Vec::new();
        for _ in 0..PORTS_TRIED_MAX {
            match Program::start_on(free_port(), scheme, runtime) {
                Ok(program) => return program,
                Err(reason) => reasons.push(reason),
            }
        }
        panic!("{} does not start:\n{}", program_path().display(), reasons.join("\n"));
    }

    fn start_on(port: u16, scheme: &str, runtime: &str) -> Result<Program, String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut command = Command::new(program_path());
        command.args(["serve", "--listen", &format!("{scheme}://{address}"), "--runtime", runtime]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        let output = output_of(&mut child);
        let mut program = Program { child, output, address };
        let ends = Instant::now() + START_TIME_MAX;
        while program.is_alive() {
            let accepts = TcpStream::connect_timeout(&address, START_TIME_MAX).is_ok();
            // Whoever else got the port would accept as well, while the program ends.
            if accepts && program.is_alive() {
                return Ok(program);
            }
            if Instant::now() > ends {
                return Err(format!("does not accept on {address}:\n{}", program.stop_and_read()));
            }
            // The outside has no event for "it listens now".
            thread::sleep(START_POLL);
        }
        Err(format!("ended by itself:\n{}", program.stop_and_read()))
    }

    fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The last lines that it printed, complete because it is ended first.
    fn stop_and_read(&mut self) -> String {
        self.stop();
        let lines: Vec<_> = self.output.iter().collect();
        lines[lines.len().saturating_sub(OUTPUT_LINES_MAX)..].join("\n")
    }

    fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A port that is free now and that no other test of this process was given.
fn free_port() -> u16 {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port on the loopback");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
        if given.get_or_insert_default().insert(port) {
            return port;
        }
    }
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is a folder of the workspace")
}

/// The program under test; found, or built, once per process.
fn program_path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        if let Some(given) = std::env::var_os("CULEX_BIN") {
            return PathBuf::from(given);
        }
        newest_program().unwrap_or_else(|| {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let built = Command::new(cargo).args(["build", "-p", "culex"]).current_dir(workspace()).status();
            assert!(built.is_ok_and(|status| status.success()), "cargo build -p culex failed");
            newest_program().expect("cargo build -p culex leaves the program in the target directory")
        })
    })
}

/// The newest `culex` in the target directory, so that an old release build does not hide what was just built.
fn newest_program() -> Option<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let name = format!("culex{}", std::env::consts::EXE_SUFFIX);
    ["debug", "release"]
        .iter()
        .map(|profile| workspace().join(&target).join(profile).join(&name))
        .filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)))
        .max()
        .map(|(_, path)| path)
}

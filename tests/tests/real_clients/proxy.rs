//! HAProxy in front: what a listener behind it knows of its clients.

use crate::certificates::Authority;
use crate::client::{self, has, need_command};
use crate::directory::Directory;
use crate::mosquitto::Visitor;
use crate::program::{Listening, Program, Running, free_port};
use std::fmt::Write as _;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// How long HAProxy may take until it accepts, and how often it is asked.
const START_TIME_MAX: Duration = Duration::from_secs(20);
const START_POLL: Duration = Duration::from_millis(10);
/// Another address of this machine than those of HAProxy and the broker.
const CLIENT: &str = "127.0.0.9";
/// The listener lets in HAProxy, and refuses packets that it would else take.
const BEHIND: &str = "proxies = '127.0.0.1'\npacket_size_max = 1_000\n";

/// A running HAProxy with one place to listen for each server behind it.
struct HaProxy {
    ports: Vec<u16>,
    _running: Running,
    _directory: Directory,
}

/// How HAProxy serves: options of its `bind` and of its `server` line, and the port of the broker.
struct Route<'a> {
    bind: &'a str,
    server: &'a str,
    to: String,
}

impl HaProxy {
    #[track_caller]
    fn start(routes: &[Route<'_>]) -> HaProxy {
        let directory = Directory::new();
        let ready = directory.path("ready");
        let mut settings = format!(
            "defaults\n mode tcp\n timeout connect 20s\n timeout client 20s\n timeout server 20s\n\
             listen ready\n bind unix@{ready}\n"
        );
        let ports: Vec<_> = routes.iter().map(|_| free_port()).collect();
        for (Route { bind, server, to }, port) in routes.iter().zip(&ports) {
            writeln!(
                settings,
                "listen to-{port}\n bind 127.0.0.1:{port} {bind}\n server broker 127.0.0.1:{to} {server}"
            )
            .unwrap();
        }
        let file = directory.write("haproxy.cfg", &settings);
        let mut running = Running::start(haproxy().args(["-db", "-f", &file]));
        let ends = Instant::now() + START_TIME_MAX;
        while UnixStream::connect(&ready).is_err() {
            assert!(running.is_alive() && Instant::now() < ends, "{}", running.stop_and_read());
            // The outside has no event for "it listens now".
            thread::sleep(START_POLL);
        }
        HaProxy { ports, _running: running, _directory: directory }
    }

    /// A client from an address of its own.
    fn visitor(&self, route: usize) -> Visitor {
        Visitor::to(&self.ports[route].to_string()).with(&["-A", CLIENT])
    }
}

/// Where Debian has it is not in everybody's `PATH`.
fn haproxy() -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("haproxy");
    command.env("PATH", format!("{path}:/usr/sbin"));
    command
}

fn needed() -> Result<(), String> {
    client::mosquitto()?;
    need_command(&mut haproxy(), &["-v"], "haproxy is not installed")
}

#[test]
fn behind_haproxy_a_client_keeps_its_address() {
    if !has(needed()) {
        return;
    }
    for runtime in ["tokio", "smol", "std"] {
        let mut program = Program::start(runtime, &[Listening::new("mqtt://127.0.0.1:0", BEHIND)]);
        let route = |server| Route { bind: "", server, to: program.port(0) };
        let haproxy = HaProxy::start(&[route("send-proxy"), route("send-proxy-v2")]);
        for version in 0..2 {
            let visitor = haproxy.visitor(version);
            visitor.publish("t", "hello").unwrap();
            assert!(visitor.publish("t", &"x".repeat(1_000)).is_err());
            let line = program.logs(" broke a rule: ");
            assert!(line.contains(&format!(" {CLIENT}:")), "{line}");
        }
    }
}

#[test]
fn behind_haproxy_tls_is_as_without() {
    if !has(needed()) {
        return;
    }
    let directory = Directory::new();
    let authority = Authority::new(&directory, "authority");
    let keys = authority.host(&directory, &["127.0.0.1"]).keys();
    let mut program = Program::start("tokio", &[Listening::new("mqtts://127.0.0.1:0", keys + BEHIND)]);
    let haproxy = HaProxy::start(&[Route { bind: "", server: "send-proxy-v2", to: program.port(0) }]);
    let visitor = haproxy.visitor(0).trusting(&authority);
    visitor.publish("t", "hello").unwrap();
    assert!(visitor.publish("t", &"x".repeat(1_000)).is_err());
    let line = program.logs(" broke a rule: ");
    assert!(line.contains(&format!(" {CLIENT}:")), "{line}");
    // What fails in TLS is the client's, too.
    assert!(haproxy.visitor(0).publish("t", "hello").is_err());
    let line = program.logs("expected TLS, found something else");
    assert!(line.contains(CLIENT), "{line}");
}

#[test]
fn haproxy_tells_whose_certificate_it_saw() {
    if !has(needed()) {
        return;
    }
    let directory = Directory::new();
    let authority = Authority::new(&directory, "authority");
    let host = authority.host(&directory, &["127.0.0.1"]);
    // HAProxy wants both in one file.
    let both = [host.chain, host.key].map(|file| std::fs::read_to_string(file).unwrap()).concat();
    let certificate = directory.write("haproxy.pem", &both);
    let keys = format!("{BEHIND}identity = 'client-id'");
    let mut program = Program::start("tokio", &[Listening::new("mqtt://127.0.0.1:0", keys)]);
    let bind = format!("ssl crt {certificate} ca-file {} verify required", authority.file);
    let haproxy =
        HaProxy::start(&[Route { bind: &bind, server: "send-proxy-v2-ssl-cn", to: program.port(0) }]);
    let device = authority.client(&directory, "device-7", 7);
    let visitor = haproxy.visitor(0).trusting(&authority).showing(&device);
    visitor.clone().with(&["-i", "device-7"]).publish("t", "hello").unwrap();
    program.logs("connected client_id=\"device-7\"");
    let refused = visitor.with(&["-i", "device-8"]).publish("t", "hello").unwrap_err();
    assert!(refused.contains("identifier rejected"), "{refused}");
}

#[test]
fn who_comes_around_haproxy_is_refused() {
    if !has(needed()) {
        return;
    }
    let elsewhere = "proxies = ['127.0.0.2', '10.0.0.0/8']";
    let listeners =
        [Listening::new("mqtt://127.0.0.1:0", BEHIND), Listening::new("mqtt://127.0.0.1:0", elsewhere)];
    let mut program = Program::start("tokio", &listeners);
    assert!(Visitor::to(&program.port(0)).publish("t", "hello").is_err());
    let line = program.logs("a connection failed below MQTT");
    assert!(line.contains("PROXY protocol"), "{line}");
    // A client that is none of the proxies, and a proxy that is not in the list.
    assert!(Visitor::to(&program.port(0)).with(&["-A", CLIENT]).publish("t", "hello").is_err());
    let line = program.logs("not one of the listener's proxies");
    assert!(line.contains(CLIENT), "{line}");
    let haproxy = HaProxy::start(&[Route { bind: "", server: "send-proxy-v2", to: program.port(1) }]);
    assert!(haproxy.visitor(0).publish("t", "hello").is_err());
    let line = program.logs("not one of the listener's proxies");
    assert!(line.contains("127.0.0.1:"), "{line}");
}

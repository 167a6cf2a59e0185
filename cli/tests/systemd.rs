//! The program under a service manager, whose part is played here.
#![allow(clippy::unwrap_used)] // as in tests

mod common;

use common::{Serving, culex, run};
use rustix::process::Signal;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The program with one socket, as a service manager starts it: the socket is its fourth file, and the variables are
/// for this process alone.
fn with_socket(socket: impl Into<OwnedFd>, args: &[&str]) -> Command {
    let program = culex(args);
    let mut command = Command::new("sh");
    command.args(["-c", "LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\" 3<&0 </dev/null"]);
    command.arg(program.get_program()).args(program.get_args());
    for (name, _) in program.get_envs() {
        command.env_remove(name);
    }
    command.stdin(Stdio::from(socket.into()));
    command
}

fn path(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("culex-systemd-{name}-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

/// The service manager's end of what the broker tells it.
fn manager(path: &Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket
}

fn told(manager: &UnixDatagram) -> String {
    let mut datagram = [0; 100];
    let count = manager.recv(&mut datagram).expect("the broker tells something");
    String::from_utf8(datagram[..count].to_vec()).unwrap()
}

#[test]
fn a_socket_of_the_service_manager_is_served_on_every_runtime() {
    for runtime in ["tokio", "smol", "std"] {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let url = format!("mqtt://{address}");
        let broker = Serving::start(&mut with_socket(socket, &["--listen", &url, "--runtime", runtime]));
        assert_eq!(broker.addresses(), [address]);
        drop(broker.connect());
        broker.signal(Signal::TERM);
        assert_eq!(broker.end(), Some(0));
    }
}

#[test]
fn a_unix_socket_of_the_service_manager_stays_its_own() {
    let path = path("given");
    let socket = UnixListener::bind(&path).unwrap();
    let url = format!("unix:{}", path.display());
    let broker = Serving::start(&mut with_socket(socket, &["--listen", &url]));
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a").unwrap();
    let mut connack = [0; 4];
    client.read_exact(&mut connack).unwrap();
    assert_eq!(connack, *b"\x20\x02\x00\x00");
    drop(client);
    broker.signal(Signal::TERM);
    assert_eq!(broker.end(), Some(0));
    assert!(path.exists(), "who made it removes it");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_socket_that_no_listener_asks_for_is_a_mistake() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let outcome = run(&mut with_socket(socket, &["--listen", "mqtt://127.0.0.1:1"]));
    let expected = format!("the service manager listens on {address}, but no listener has this address\n");
    assert_eq!((outcome.code, outcome.err), (Some(2), expected));
}

#[test]
fn a_file_that_is_no_socket_is_told() {
    let file = std::fs::File::open("/dev/null").unwrap();
    let outcome = run(&mut with_socket(file, &[]));
    let expected = "a socket of the service manager: fd 3 is not a socket\n".to_owned();
    assert_eq!((outcome.code, outcome.err), (Some(1), expected));
}

#[test]
fn sockets_for_another_process_are_left_alone() {
    let mut command = culex(&["--listen", "mqtt://127.0.0.1:0"]);
    let broker = Serving::start(command.env("LISTEN_FDS", "1").env("LISTEN_PID", "1"));
    drop(broker.connect());
}

#[test]
fn the_service_manager_is_told_of_start_life_and_end() {
    let path = path("notify");
    let manager = manager(&path);
    let mut command = culex(&["--listen", "mqtt://127.0.0.1:0"]);
    let broker = Serving::start(command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "40000"));
    assert_eq!(told(&manager), "READY=1");
    for _ in 0..3 {
        assert_eq!(told(&manager), "WATCHDOG=1");
    }
    broker.signal(Signal::HUP);
    while !told(&manager).starts_with("RELOADING=1\nMONOTONIC_USEC=") {}
    while told(&manager) != "READY=1" {}
    broker.signal(Signal::TERM);
    while told(&manager) != "STOPPING=1" {}
    assert_eq!(broker.end(), Some(0));
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_service_manager_that_is_not_there_stops_nobody() {
    let mut command = culex(&["--listen", "mqtt://127.0.0.1:0"]);
    let broker = Serving::start(command.env("NOTIFY_SOCKET", "/nowhere/at/all"));
    drop(broker.connect());
}

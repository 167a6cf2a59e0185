//! Runs the program as an operator would.
#![allow(dead_code)] // every test file uses its own part of this
#![allow(clippy::unwrap_used)] // as in tests

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

/// Longer than anything here takes, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The program, without settings of whoever runs the tests.
pub(crate) fn culex(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_culex"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CULEX_") {
            command.env_remove(name);
        }
    }
    command.args(args).stdin(Stdio::null());
    command
}

/// What a run that ended by itself left behind.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs the program to its end, which must come by itself.
pub(crate) fn run(command: &mut Command) -> Outcome {
    run_within(PATIENCE, command)
}

/// The same for what takes long.
pub(crate) fn run_within(patience: Duration, command: &mut Command) -> Outcome {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let pid = pid(&child);
    let (done, output) = channel();
    thread::spawn(move || done.send(child.wait_with_output()));
    let Ok(output) = output.recv_timeout(patience) else {
        let _ = kill_process(pid, Signal::KILL);
        panic!("the program did not end by itself: {command:?}");
    };
    let output = output.expect("the program ran");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the program prints UTF-8");
    Outcome { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap()
}

/// A file with these lines; `name` must be unique among all tests.
pub(crate) fn file(name: &str, text: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).expect("the directory for temporary files is writable");
    path
}

/// A broker that runs until it is dropped.
pub(crate) struct Serving {
    child: Child,
    out: Receiver<String>,
    /// What it printed before it was ready.
    pub(crate) lines: Vec<String>,
}

impl Serving {
    /// Starts a broker and waits until it is ready.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut serving = Self::spawn(command);
        loop {
            let line = serving.out.recv_timeout(PATIENCE).expect("the broker says that it is ready");
            let last = ["everything is kept in memory", "what is acknowledged survives"]
                .iter()
                .any(|last| line.starts_with(last));
            serving.lines.push(line);
            if last {
                return serving;
            }
        }
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the program starts");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let (lines, out) = channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
        Self { child, out, lines: Vec::new() }
    }

    /// The addresses of its listeners.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        let address = |url: &str| url.split('/').nth(2)?.parse().ok();
        self.urls().map(|url| address(url).expect("an address with a port")).collect()
    }

    /// The URLs of its listeners.
    pub(crate) fn urls(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().filter_map(|line| line.strip_prefix("listening on ")?.split(' ').next())
    }

    /// Connects an MQTT 3.1.1 client to the first listener and waits for CONNACK and the answer to a PINGREQ.
    pub(crate) fn connect(&self) -> TcpStream {
        let mut client = TcpStream::connect(self.addresses()[0]).expect("the listener accepts");
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a\xC0\x00").unwrap();
        let mut answers = [0; 6];
        client.read_exact(&mut answers).expect("CONNACK and PINGRESP");
        assert_eq!(answers, *b"\x20\x02\x00\x00\xD0\x00");
        client
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(pid(&self.child), signal).expect("the broker still runs");
    }

    /// Waits for the end and gives the exit code.
    pub(crate) fn end(mut self) -> Option<i32> {
        // Standard output closes when the program ends, whatever the reason.
        while self.out.recv_timeout(PATIENCE).is_ok() {}
        self.child.wait().unwrap().code()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

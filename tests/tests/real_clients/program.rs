//! Programs that run while a test does: culex above all.

use crate::directory::Directory;
use rustix::process::{Pid, Signal, kill_process};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long a program may take to do what is waited for. Generous: a slow machine is no failure.
const PATIENCE: Duration = Duration::from_secs(20);
/// How much of the program's output a failure shows.
const OUTPUT_LINES_MAX: usize = 50;

/// A process and what it prints, on both of its outputs; ended when dropped.
pub(crate) struct Running {
    child: Child,
    output: Receiver<String>,
    lines: Vec<String>,
    /// How many of the lines were waited for.
    passed: usize,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Running {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let output = output_of(&mut child);
        Running { child, output, lines: Vec::new(), passed: 0 }
    }

    /// The next line in which `text` stands; those before it are passed over.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        let ends = Instant::now() + PATIENCE;
        loop {
            if self.passed == self.lines.len() {
                match self.output.recv_timeout(ends.saturating_duration_since(Instant::now())) {
                    Ok(line) => self.lines.push(line),
                    Err(error) => panic!("{error}, waiting for {text:?} in:\n{}", self.stop_and_read()),
                }
            }
            self.passed += 1;
            if self.lines[self.passed - 1].contains(text) {
                return self.lines[self.passed - 1].clone();
            }
        }
    }

    /// The lines until its end; one that says so if it does not end within `most` and is ended.
    pub(crate) fn finish(mut self, most: Duration) -> (bool, Vec<String>) {
        let ends = Instant::now() + most;
        loop {
            match self.output.recv_timeout(ends.saturating_duration_since(Instant::now())) {
                Ok(line) => self.lines.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let _ = self.child.kill();
                    self.lines.push(format!("FAIL: did not end within {most:?}"));
                    break;
                }
            }
        }
        let success = self.child.wait().is_ok_and(|status| status.success());
        (success, std::mem::take(&mut self.lines))
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid =
            i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process has a number");
        kill_process(pid, signal).expect("the process was not waited for");
    }

    /// The last lines that it printed, complete because it is ended first.
    pub(crate) fn stop_and_read(&mut self) -> String {
        self.stop();
        self.lines.extend(self.output.iter());
        self.lines[self.lines.len().saturating_sub(OUTPUT_LINES_MAX)..].join("\n")
    }

    fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
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

/// A running `culex`.
pub(crate) struct Program {
    pub(crate) running: Running,
    ports: Vec<u16>,
    _settings: Directory,
}

/// One listener: a URL, whose port may be 0, and the other keys of its table.
pub(crate) struct Listening {
    pub(crate) url: String,
    pub(crate) keys: String,
}

impl Listening {
    pub(crate) fn new(url: impl Into<String>, keys: impl Into<String>) -> Self {
        Self { url: url.into(), keys: keys.into() }
    }
}

impl Program {
    /// Starts it and returns once it accepts.
    #[track_caller]
    pub(crate) fn start(runtime: &str, listeners: &[Listening]) -> Program {
        let mut settings = "log = 'info,culex=debug'\n".to_owned();
        for Listening { url, keys } in listeners {
            writeln!(settings, "[[listener]]\nurl = '{url}'\n{keys}").unwrap();
        }
        let directory = Directory::new();
        let file = directory.write("culex.toml", &settings);
        let mut command = Command::new(program_path());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CULEX_") {
                command.env_remove(name);
            }
        }
        command.args(["serve", "--config", &file, "--runtime", runtime]);
        let mut running = Running::start(&mut command);
        let ports = listeners.iter().map(|_| port(&running.wait_for("listening on "))).collect();
        Program { running, ports, _settings: directory }
    }

    /// The port of a listener, by its number.
    pub(crate) fn port(&self, listener: usize) -> String {
        self.ports[listener].to_string()
    }

    /// The next line of its log in which `text` stands.
    #[track_caller]
    pub(crate) fn logs(&mut self, text: &str) -> String {
        self.running.wait_for(text)
    }
}

/// From `listening on mqtt://127.0.0.1:1883 (tokio)`; 0 for a Unix socket.
fn port(line: &str) -> u16 {
    let digits = line.rsplit(':').next().unwrap_or_default();
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().unwrap_or_default()
}

/// A port that is free now, for programs that do not tell which they took. It is below those that Linux gives to
/// connections, which come and go meanwhile, and a parallel run of the tests begins at another one.
pub(crate) fn free_port() -> u16 {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 12_000;
    loop {
        let given = GIVEN.fetch_add(1, Ordering::Relaxed);
        assert!(given < COUNT, "all ports are taken");
        let offset = std::process::id().wrapping_mul(100).wrapping_add(given) % COUNT;
        let port = u16::try_from(FIRST + offset).expect("the last of them is below 32768");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

pub(crate) fn workspace() -> &'static Path {
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

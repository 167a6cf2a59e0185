//! A broker that keeps its state in a directory, is killed, and started again on the same directory and port.

use crate::Trouble;
use std::fs::{self, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Which broker, and how it is to keep its state.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Culex {
        runtime: String,
        /// None: it keeps nothing.
        durability: Option<String>,
    },
    /// Persistence with this autosave_interval in seconds; 0: what it has when it starts and ends.
    Mosquitto { autosave_s: u32 },
}

/// A place for a broker, which may be running.
pub(crate) struct Durable {
    program: PathBuf,
    pub(crate) directory: PathBuf,
    pub(crate) address: SocketAddr,
    child: Option<Child>,
    file: PathBuf,
}

impl Durable {
    /// Makes the directory anew. `more`: further lines of the configuration of Culex.
    pub(crate) fn new(
        program: PathBuf,
        kind: &Kind,
        directory: PathBuf,
        more: &str,
    ) -> Result<Self, Trouble> {
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir_all(&directory)?;
        let directory = directory.canonicalize()?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let file = directory.join("conf");
        fs::write(&file, configuration(kind, &directory.display().to_string(), address, more))?;
        Ok(Self { program, directory, address, child: None, file })
    }

    /// Starts it and does not wait.
    pub(crate) fn spawn(&mut self) -> Result<(), Trouble> {
        let mut command = Command::new(&self.program);
        if self.program.ends_with("mosquitto") {
            command.arg("-c");
        } else {
            command.args(["serve", "--config"]);
        }
        let log = OpenOptions::new().create(true).append(true).open(self.directory.join("log"))?;
        command.arg(&self.file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn();
        self.child =
            Some(child.map_err(|error| Trouble::new(format!("{}: {error}", self.program.display())))?);
        Ok(())
    }

    /// Starts it; how long it took until it listened.
    pub(crate) fn start(&mut self) -> Result<Duration, Trouble> {
        let begin = Instant::now();
        self.spawn()?;
        self.wait(begin)
    }

    /// Waits until it listens; how long that was since `begin`.
    pub(crate) fn wait(&mut self, begin: Instant) -> Result<Duration, Trouble> {
        while TcpStream::connect(self.address).is_err() {
            if let Some(status) =
                self.child.as_mut().and_then(|child| child.try_wait().transpose()).transpose()?
            {
                return Err(Trouble::new(format!(
                    "the broker ended at its start: {status}\n{}",
                    self.said()
                )));
            }
            if begin.elapsed() > START_MAX {
                return Err(Trouble::new("the broker does not listen"));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(begin.elapsed())
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<(), Trouble> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Ended although nobody killed it.
    pub(crate) fn died(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(Some(_))))
    }

    /// What it wrote to its log.
    pub(crate) fn said(&self) -> String {
        let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        // mosquitto says it every time.
        log.lines().filter(|line| !line.contains("should not be run as root")).collect::<Vec<_>>().join("\n")
    }

    /// A number from a file of its in /proc, behind this word: bytes, or kB as they are there.
    pub(crate) fn figure(&self, file: &str, word: &str) -> Result<u64, Trouble> {
        let id = self.child.as_ref().map(Child::id).unwrap_or_default();
        let text = fs::read_to_string(format!("/proc/{id}/{file}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix(word));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.ok_or_else(|| Trouble::new(format!("/proc/{id}/{file} does not say {word}")))
    }

    /// Bytes of what it keeps.
    pub(crate) fn bytes(&self) -> u64 {
        let files = fs::read_dir(self.directory.join("data")).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|data| data.len()).sum()
    }
}

impl Drop for Durable {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

fn configuration(kind: &Kind, directory: &str, address: SocketAddr, more: &str) -> String {
    match kind {
        Kind::Culex { runtime, durability } => {
            let listen =
                format!("listen = \"mqtt://{address}\"\nruntime = \"{runtime}\"\nlog = \"warn\"\n{more}");
            match durability {
                None => listen,
                Some(durability) => {
                    format!("{listen}data = \"{directory}/data\"\ndurability = \"{durability}\"\n")
                }
            }
        }
        Kind::Mosquitto { autosave_s } => {
            // It writes where it is told and makes no directory.
            let _ = fs::create_dir(format!("{directory}/data"));
            format!(
                "user root\nallow_anonymous true\npersistence true\npersistence_location {directory}/data/\n\
                 autosave_interval {autosave_s}\nmax_inflight_messages 0\nmax_queued_messages 0\n\
                 max_queued_bytes 0\nsys_interval 0\nset_tcp_nodelay true\nlog_dest none\nlistener {} {}\n",
                address.port(),
                address.ip()
            )
        }
    }
}

/// The limits of Culex, raised so that no queue of a test is full.
pub(crate) const ROOMY: &str = "queue_messages_max = 20000000\nqueue_bytes_max = 20000000000\n";
const START_MAX: Duration = Duration::from_secs(120);

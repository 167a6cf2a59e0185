//! `culex-bench transports`: the rounds.

use crate::Trouble;
use crate::broker::{Broker, Kind, Scratch, cpu_us};
use crate::client::Client;
use crate::load::{Case, Load};
use crate::report::{Key, Report};
use crate::stream::Transport;
use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, thread};

/// What is measured, and for how long.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// The program `culex` [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    bin: Option<PathBuf>,
    /// The brokers
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Kind::ALL)]
    brokers: Vec<Kind>,
    /// What carries MQTT
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Transport::ALL)]
    transports: Vec<Transport>,
    /// How often CPU is measured; the median counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds per case and round
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Idle connections; a tenth of them for a broker with a thread per connection
    #[arg(long, default_value_t = 5000)]
    idle: usize,
    /// Connections that are made one after another
    #[arg(long, default_value_t = 1000)]
    connects: usize,
    /// Where mosquitto is; without it there is no comparison
    #[arg(long, value_name = "PATH", default_value = "/usr/sbin/mosquitto")]
    mosquitto: PathBuf,
    /// Write every single figure there as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// A smoke run: everything once and for a moment, without mosquitto; the figures mean nothing
    #[arg(long)]
    quick: bool,
}

/// What is measured; the first four are microseconds of the broker's CPU per message delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Figure {
    Qos0,
    Qos1,
    FanOut,
    /// One message on its way in all.
    Single,
    /// Bytes of memory per idle connection.
    Idle,
    /// Microseconds of CPU per connection: accept, handshakes, CONNECT, and the end.
    Connect,
    /// The same, when the session of TLS is resumed.
    Resume,
}

impl Figure {
    const CASES: [(Self, Case); 4] = [
        (Self::Qos0, Case { groups: 50, subscribers: 1, qos: 0, burst: 32 }),
        (Self::Qos1, Case { groups: 50, subscribers: 1, qos: 1, burst: 32 }),
        (Self::FanOut, Case { groups: 1, subscribers: 100, qos: 0, burst: 32 }),
        (Self::Single, Case { groups: 1, subscribers: 1, qos: 0, burst: 1 }),
    ];
}

/// Measures everything.
pub(crate) fn run(plan: &Plan) -> Result<Report, Trouble> {
    let mut runs = Runs::new(plan)?;
    let rounds = if plan.quick { 1 } else { plan.rounds };
    for round in 0..rounds {
        // Whoever comes first in one round comes last in another.
        for turn in 0..runs.brokers.len() {
            let kind = runs.brokers[(round + turn) % runs.brokers.len()];
            runs.note(&format!("round {} of {rounds}: {kind}", round + 1));
            runs.messages(kind)?;
            runs.connections(kind)?;
            if round == 0 {
                runs.idle(kind)?;
            }
        }
    }
    if let Some(path) = &plan.json {
        fs::write(path, runs.report.json())?;
    }
    Ok(runs.report)
}

struct Runs<'p> {
    plan: &'p Plan,
    brokers: Vec<Kind>,
    culex: PathBuf,
    scratch: Scratch,
    pinned: bool,
    report: Report,
}

impl<'p> Runs<'p> {
    fn new(plan: &'p Plan) -> Result<Self, Trouble> {
        raise_open_files()?;
        let has = |kind: &Kind| *kind != Kind::Mosquitto || (plan.mosquitto.exists() && !plan.quick);
        let brokers: Vec<_> = plan.brokers.iter().copied().filter(has).collect();
        let culex = match &plan.bin {
            Some(path) => path.clone(),
            None => std::env::current_exe()?.with_file_name("culex"),
        };
        let pinned = !plan.quick && thread::available_parallelism()?.get() > 1;
        Ok(Self { plan, brokers, culex, scratch: Scratch::new()?, pinned, report: Report::default() })
    }

    fn note(&self, line: &str) {
        if !self.plan.quick {
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }

    fn start(&self, kind: Kind) -> Result<Broker, Trouble> {
        let program: &Path = if kind == Kind::Mosquitto { &self.plan.mosquitto } else { &self.culex };
        Broker::start(program, kind, &self.scratch, self.pinned)
    }

    fn transports(&self, kind: Kind) -> impl Iterator<Item = Transport> + use<> {
        self.plan.transports.clone().into_iter().filter(move |transport| kind.speaks(*transport))
    }

    fn messages(&mut self, kind: Kind) -> Result<(), Trouble> {
        let broker = self.start(kind)?;
        let time = Duration::from_secs_f64(if self.plan.quick { 0.02 } else { self.plan.seconds });
        for transport in self.transports(kind) {
            let Some(place) = broker.place(transport) else { continue };
            for (figure, mut case) in Figure::CASES {
                if self.plan.quick {
                    (case.groups, case.subscribers) = (case.groups.min(3), case.subscribers.min(5));
                }
                let mut load = Load::connect(case, place, &self.scratch.full)?;
                // Buffers grow to their size.
                load.run(time / 5)?;
                let (broker_before, own_before, began) = (broker.cpu_us()?, cpu_us("self")?, Instant::now());
                let count = load.run(time)? as f64;
                let took = began.elapsed();
                let key = Key { broker: kind, transport, figure };
                self.report.add(key, (broker.cpu_us()? - broker_before) / count);
                self.report.generator(key, cpu_us("self")? - own_before, count, took);
            }
        }
        Ok(())
    }

    fn connections(&mut self, kind: Kind) -> Result<(), Trouble> {
        let broker = self.start(kind)?;
        let count = if self.plan.quick { 5 } else { self.plan.connects };
        for transport in self.transports(kind) {
            let Some(place) = broker.place(transport) else { continue };
            let mut configs = vec![(Figure::Connect, &self.scratch.full)];
            if transport.has_tls() {
                configs.push((Figure::Resume, &self.scratch.resuming));
            }
            for (figure, config) in configs {
                // The first one has nothing to resume.
                Client::connect(place, config, "first")?.disconnect()?;
                let before = broker.cpu_us()?;
                for _ in 0..count {
                    let client = Client::connect(place, config, "one")?;
                    if client.stream.is_resumed() != (figure == Figure::Resume) {
                        return Err(Trouble::new(format!("{kind}, {transport}: not the handshake expected")));
                    }
                    client.disconnect()?;
                }
                let key = Key { broker: kind, transport, figure };
                self.report.add(key, (broker.cpu_us()? - before) / count as f64);
            }
        }
        Ok(())
    }

    /// Once: it is the same each time. A new broker for each transport: memory that was used once stays with a process.
    fn idle(&mut self, kind: Kind) -> Result<(), Trouble> {
        let wanted = if self.plan.quick { 20 } else { self.plan.idle };
        let count = if kind.has_threads() { wanted / 10 } else { wanted };
        for transport in self.transports(kind) {
            let broker = self.start(kind)?;
            let Some(place) = broker.place(transport) else { continue };
            let tls = &self.scratch.full;
            // What is there once, is there before.
            Client::connect(place, tls, "first")?.disconnect()?;
            let before = broker.memory()?;
            let connect = |number| Client::connect(place, tls, &format!("idle-{number}"));
            let clients = (0..count).map(connect).collect::<Result<Vec<_>, _>>()?;
            let bytes = (broker.memory()? - before) / count as f64;
            drop(clients);
            self.report.add(Key { broker: kind, transport, figure: Figure::Idle }, bytes);
        }
        Ok(())
    }
}

/// Every connection is an open file, here and in the broker, which inherits the limit.
fn raise_open_files() -> Result<(), Trouble> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

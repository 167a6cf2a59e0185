//! The command line.

use crate::conformance::ConformanceArgs;
use crate::problem::Problem;
use crate::replay::{ExplainArgs, RedactArgs, ReplayArgs};
use crate::settings::{Given, Source, Value};
use crate::sim::SimArgs;
use crate::store::StoreArgs;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// What the operator asked for.
pub(crate) enum Command {
    /// Run a broker.
    Serve(ServeArgs),
    /// Look a configuration file over.
    CheckConfig {
        /// The file.
        file: PathBuf,
    },
    /// Score a broker.
    Conformance(ConformanceArgs),
    /// Do a recording again.
    Replay(ReplayArgs),
    /// Say why a client got messages or did not.
    Explain(ExplainArgs),
    /// Write a recording without payloads and passwords.
    Redact(RedactArgs),
    /// Simulate brokers.
    Sim(SimArgs),
    /// Look at durable state.
    Store(StoreArgs),
    /// Print all settings.
    Settings,
    /// Print this text: help or version.
    Help(String),
}

/// An MQTT broker.
#[derive(Debug, Parser)]
#[command(name = "culex", version, args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
struct Line {
    #[command(subcommand)]
    command: Option<Word>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
enum Word {
    /// Run a broker (also what happens without a command)
    Serve(ServeArgs),
    /// Look a configuration file over: "ok", or one line per mistake
    CheckConfig {
        /// The TOML file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Score a broker against the statements of the MQTT standards
    Conformance(ConformanceArgs),
    /// Do again what `serve --record` recorded, and check that the broker does the same
    Replay(ReplayArgs),
    /// Say of every message on a topic in a recording why a client got it or did not
    Explain(ExplainArgs),
    /// Write a recording that can be given away: payloads, passwords and the like are replaced, and it replays as before
    Redact(RedactArgs),
    /// Simulate brokers under faults, a seed each, against a model of what MQTT promises
    Sim(SimArgs),
    /// Look at what `serve --data` keeps: info, check, compact, dump, backup
    #[command(subcommand)]
    Store(StoreArgs),
    /// Print every setting with its meaning and default, as a commented configuration file
    Settings,
}

/// What `serve` takes.
#[derive(Debug, Default, Args)]
pub(crate) struct ServeArgs {
    /// Listen here; repeat it for several places; ws://HOST:PORT/PATH for WebSocket [default: mqtt://127.0.0.1:1883]
    #[arg(long, value_name = "mqtt://HOST:PORT")]
    listen: Vec<String>,
    /// Read settings from this TOML file; `culex settings` prints all of them
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// What carries the broker: tokio, smol or std [default: tokio]
    #[arg(long, value_name = "RUNTIME")]
    runtime: Option<String>,
    /// How many shards share the work, each in a thread of its own [default: as many as there are cores; 1 with --data]
    #[arg(long, value_name = "N")]
    shards: Option<String>,
    /// off, error, warn, info, debug, trace, or a filter such as info,culex_tokio=debug [default: info]
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,
    /// Keep what has to survive in this directory, and acknowledge nothing before it does
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Keep what happens in memory, and write it into this directory at a panic, at SIGUSR1 and at the end
    #[arg(long, value_name = "DIR")]
    record: Option<String>,
    /// The seed of all random choices, to repeat a run
    #[arg(long, value_name = "N", hide = true)]
    pub(crate) seed: Option<u64>,
}

impl ServeArgs {
    /// The settings among the arguments.
    pub(crate) fn given(&self) -> Vec<Given> {
        let mut given = Vec::new();
        let mut give = |key: &str, argument: &'static str, value: Value| {
            given.push(Given { key: key.to_owned(), value, source: Source::Argument(argument) });
        };
        if !self.listen.is_empty() {
            give("listen", "--listen", Value::Many(self.listen.clone()));
        }
        if let Some(runtime) = &self.runtime {
            give("runtime", "--runtime", Value::Text(runtime.clone()));
        }
        if let Some(shards) = &self.shards {
            give("shards", "--shards", Value::Text(shards.clone()));
        }
        if let Some(log) = &self.log {
            give("log", "--log", Value::Text(log.clone()));
        }
        if let Some(directory) = &self.data {
            give("data", "--data", Value::Text(directory.clone()));
        }
        if let Some(directory) = &self.record {
            give("record", "--record", Value::Text(directory.clone()));
        }
        given
    }
}

/// Reads the command line of this process.
pub(crate) fn parse() -> Result<Command, Problem> {
    match Line::try_parse() {
        Ok(Line { command: None, serve }) => Ok(Command::Serve(serve)),
        Ok(Line { command: Some(Word::Serve(serve)), .. }) => Ok(Command::Serve(serve)),
        Ok(Line { command: Some(Word::CheckConfig { file }), .. }) => Ok(Command::CheckConfig { file }),
        Ok(Line { command: Some(Word::Conformance(args)), .. }) => Ok(Command::Conformance(args)),
        Ok(Line { command: Some(Word::Replay(args)), .. }) => Ok(Command::Replay(args)),
        Ok(Line { command: Some(Word::Explain(args)), .. }) => Ok(Command::Explain(args)),
        Ok(Line { command: Some(Word::Redact(args)), .. }) => Ok(Command::Redact(args)),
        Ok(Line { command: Some(Word::Sim(args)), .. }) => Ok(Command::Sim(args)),
        Ok(Line { command: Some(Word::Store(args)), .. }) => Ok(Command::Store(args)),
        Ok(Line { command: Some(Word::Settings), .. }) => Ok(Command::Settings),
        Err(error) if error.use_stderr() => Err(Problem::mistakes(vec![brief(&error.to_string())])),
        Err(help) => Ok(Command::Help(help.to_string())),
    }
}

/// clap explains a mistake in paragraphs: what is wrong, a tip, usage. One line keeps the first two.
fn brief(explanation: &str) -> String {
    let mut line = String::from("culex: ");
    let mut words = 0;
    for word in
        explanation.lines().take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
    {
        let word = word.trim().trim_start_matches("error: ");
        if !word.is_empty() {
            line.push_str(if words == 0 {
                ""
            } else if line.ends_with(':') {
                " "
            } else {
                "; "
            });
            line.push_str(word);
            words += 1;
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Line::command().debug_assert();
    }

    #[test]
    fn an_explanation_of_many_lines_becomes_one() {
        let long = "error: unexpected argument '--lisen' found\n\n  tip: a similar argument exists: '--listen'\n\n\
                    Usage: culex [OPTIONS]\n\nFor more information, try '--help'.\n";
        let short = "culex: unexpected argument '--lisen' found; tip: a similar argument exists: '--listen'";
        assert_eq!(brief(long), short);
    }
}

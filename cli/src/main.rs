//! `culex`, the MQTT broker as a program: `culex serve`, `culex check-config FILE`, `culex settings`, `culex replay FILE` for
//! what `serve` recorded and `culex redact FILE OUT` to give it away, `culex store` for what it keeps, `culex sim`.
//!
//! Everything here is for the operator: settings and where they come from ([`settings`], [`mod@file`], [`environment`]),
//! errors of one line each ([`problem`]), and the start and end of a broker on one of the runtimes ([`serve`]), with or
//! without a service manager ([`systemd`]).

mod args;
mod certificates;
mod conformance;
mod data;
mod environment;
mod file;
mod listener;
mod log;
mod nearest;
mod problem;
mod recording;
mod reference;
mod replay;
mod runtime;
mod serve;
mod settings;
mod sim;
mod store;
mod systemd;

use args::{Command, ServeArgs};
use certificates::Certificates;
use problem::Problem;
use settings::Settings;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    match args::parse().and_then(perform) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            let mut stderr = std::io::stderr().lock();
            for line in &problem.lines {
                // When nobody reads the error any more there is nowhere left to report that.
                let _ = writeln!(stderr, "{line}");
            }
            ExitCode::from(problem.code)
        }
    }
}

fn perform(command: Command) -> Result<(), Problem> {
    match command {
        Command::Serve(args) => serve::serve(gather(&args)?, args.seed),
        Command::CheckConfig { file } => check_config(&file),
        Command::Conformance(args) => {
            let (table, passed) = conformance::conformance(args)?;
            say(table.trim_end());
            // The failures are in the table: there is nothing to add, but the exit code says it.
            if passed { Ok(()) } else { Err(Problem { lines: Vec::new(), code: 1 }) }
        }
        Command::Replay(args) => replay::replay(&args),
        Command::Explain(args) => replay::explain(&args),
        Command::Redact(args) => replay::redact(&args),
        Command::Sim(args) => {
            let (text, kept) = sim::sim(&args)?;
            say(text.trim_end());
            // As above.
            if kept { Ok(()) } else { Err(Problem { lines: Vec::new(), code: 1 }) }
        }
        Command::Store(args) => {
            let said = store::store(&args)?;
            if !said.is_empty() {
                say(&said);
            }
            Ok(())
        }
        Command::Settings => {
            say(reference::settings().trim_end());
            Ok(())
        }
        Command::Help(text) => {
            say(text.trim_end());
            Ok(())
        }
    }
}

/// Lays the sources over each other: default, file, environment, command line. All mistakes are reported at once.
fn gather(args: &ServeArgs) -> Result<Settings, Problem> {
    let mut settings = Settings::default();
    let mut mistakes = Vec::new();
    if let Some(path) = &args.config {
        match file::read(path) {
            Ok(file) => settings.apply_file(&file, &mut mistakes),
            Err(lines) => mistakes.extend(lines),
        }
    }
    let (given, unknown) = environment::read(std::env::vars_os());
    mistakes.extend(unknown);
    settings.apply_all(&given, &mut mistakes);
    settings.apply_all(&args.given(), &mut mistakes);
    if mistakes.is_empty() {
        mistakes = settings.check();
    }
    if mistakes.is_empty() { Ok(settings) } else { Err(Problem::mistakes(mistakes)) }
}

fn check_config(path: &Path) -> Result<(), Problem> {
    let mut settings = Settings::default();
    let mut mistakes = Vec::new();
    settings.apply_file(&file::read(path).map_err(Problem::mistakes)?, &mut mistakes);
    if mistakes.is_empty() {
        mistakes = settings.check();
    }
    if !mistakes.is_empty() {
        return Err(Problem::mistakes(mistakes));
    }
    Certificates::load(&settings.listeners())?;
    say(&format!("{}: ok", path.display()));
    Ok(())
}

/// Prints a line for the operator. A closed standard output is no reason to stop serving.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

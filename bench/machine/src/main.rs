//! `culex-bench-machine CASE BURSTS`: does one case, to be counted by callgrind. `culex-bench-machine budget FILE`: has all of
//! them counted and compares with what they may cost.

mod allocations;
mod budget;

use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["budget", file] => budget::check(file),
        [name, bursts] => one(name, bursts),
        _ => Err(format!("expected CASE BURSTS or budget FILE; cases: {}", names())),
    };
    match result {
        Ok(report) => {
            let _ = write!(std::io::stdout(), "{report}");
            ExitCode::SUCCESS
        }
        Err(trouble) => {
            let _ = writeln!(std::io::stderr(), "{trouble}");
            ExitCode::FAILURE
        }
    }
}

fn one(name: &str, bursts: &str) -> Result<String, String> {
    let case = culex_bench_machine::case(name).ok_or_else(|| format!("expected one of: {}", names()))?;
    let bursts = bursts.parse().map_err(|_| format!("expected a number of bursts, got {bursts}"))?;
    let mut before = 0;
    let units = case.run(bursts, || before = allocations::count());
    Ok(format!("{units} units, {} allocations\n", allocations::count() - before))
}

fn names() -> String {
    culex_bench_machine::CASES.iter().map(|case| case.name).collect::<Vec<_>>().join(", ")
}

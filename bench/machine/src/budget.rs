//! Has valgrind count what a unit of each case costs, and compares.

use culex_bench_machine::{CASES, Case};
use std::fmt::Write as _;
use std::process::Command;
use toml::{Table, Value};

/// Counts all cases of `file` and says which are over their budget, which is an error.
///
/// # Errors
/// A case costs too much or has no budget, or nothing could be counted.
pub(crate) fn check(file: &str) -> Result<String, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let budgets: Table = text.parse().map_err(|error| format!("{file}: {error}"))?;
    let (ours, theirs) = (compiler()?, budgets.get("rustc").and_then(Value::as_str).unwrap_or_default());
    let binding = ours == theirs || std::env::var_os(FORCED).is_some();
    let mut report = format!("Per unit, with rustc {ours}\n\n{HEADER}\n");
    let mut failed = Vec::new();
    for case in CASES {
        let cost = Cost::of(case)?;
        let allowed = budgets.get(case.name).and_then(Cost::read);
        let (line, fails) = compare(case, cost, allowed);
        report.push_str(&line);
        failed.extend(fails.then_some(case.name));
    }
    if failed.is_empty() {
        return Ok(report);
    }
    let _ = writeln!(
        report,
        "\nOver budget: {}. What costs more on purpose says so in {file}.",
        failed.join(", ")
    );
    if binding {
        return Err(report);
    }
    let _ = writeln!(
        report,
        "WARNING ONLY: the budgets are those of rustc {theirs}, and this is {ours}. {FORCED}=1 makes them count."
    );
    Ok(report)
}

/// What a unit costs.
#[derive(Debug, Clone, Copy)]
struct Cost {
    instructions: f64,
    allocations: f64,
}

impl Cost {
    /// The difference of a long and a short run, per unit.
    fn of(case: &Case) -> Result<Self, String> {
        let [short, long] = [case.bursts, 3 * case.bursts].map(|bursts| Run::of(case, bursts));
        let (short, long) = (short?, long?);
        let units = long.units - short.units;
        let per_unit = |of: fn(&Run) -> f64| (of(&long) - of(&short)) / units;
        Ok(Self {
            instructions: per_unit(|run| run.instructions),
            allocations: per_unit(|run| run.allocations),
        })
    }

    fn read(budget: &Value) -> Option<Self> {
        let number = |name| match budget.get(name)? {
            Value::Integer(number) => Some(*number as f64),
            Value::Float(number) => Some(*number),
            _ => None,
        };
        Some(Self { instructions: number("instructions")?, allocations: number("allocations")? })
    }
}

/// One line of the table, and whether it is too much.
fn compare(case: &Case, cost: Cost, allowed: Option<Cost>) -> (String, bool) {
    let Cost { instructions, allocations } = cost;
    let Some(budget) = allowed else {
        let line = format!("{:<16}{instructions:>10.0}{:>10}{allocations:>8.2}  no budget\n", case.name, "");
        return (line, true);
    };
    let share = instructions / budget.instructions;
    let many = allocations > budget.allocations + ALLOCATIONS_SLACK;
    let verdict = match share {
        _ if many => format!("TOO MANY ALLOCATIONS: {:.2} are allowed", budget.allocations),
        share if share > 1.0 + SLACK => format!("OVER by {:.1} %", 100.0 * (share - 1.0)),
        share if share < 1.0 - SLACK => format!("{:.1} % below: lower the budget", 100.0 * (1.0 - share)),
        _ => String::new(),
    };
    let name = case.name;
    let line = format!(
        "{name:<16}{instructions:>10.0}{:>10.0}{allocations:>8.2}  per {}  {verdict}\n",
        budget.instructions, case.unit
    );
    (line, many || share > 1.0 + SLACK)
}

/// What was counted in one run of a case.
#[derive(Debug)]
struct Run {
    units: f64,
    instructions: f64,
    allocations: f64,
}

impl Run {
    fn of(case: &Case, bursts: u32) -> Result<Self, String> {
        let this = std::env::current_exe().map_err(|error| error.to_string())?;
        let run = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"])
            .arg("--toggle-collect=culex_bench_machine::measured::*")
            .arg(this)
            .args([case.name, &bursts.to_string()])
            .output()
            .map_err(|error| format!("valgrind: {error}"))?;
        let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
        let word = |text: &str, before: &str, after: &str| -> Option<f64> {
            let rest = &text[text.find(before)? + before.len()..];
            rest.split(after).next()?.trim().parse().ok()
        };
        let counted = || {
            Some(Self {
                units: word(&out, "", " units")?,
                allocations: word(&out, "units, ", " allocations")?,
                instructions: word(&err, "Collected :", "\n")?,
            })
        };
        counted().ok_or_else(|| format!("{}: valgrind says no figures:\n{out}{err}", case.name))
    }
}

/// The version of the compiler that is in use.
fn compiler() -> Result<String, String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = Command::new(rustc).arg("--version").output().map_err(|error| format!("rustc: {error}"))?;
    let said = String::from_utf8_lossy(&said.stdout);
    Ok(said.split_whitespace().nth(1).unwrap_or_default().into())
}

/// Makes the budgets count whatever the compiler.
const FORCED: &str = "CULEX_BUDGET_FORCED";
/// How far instructions may be from their budget.
const SLACK: f64 = 0.03;
/// Buffers that grow now and then.
const ALLOCATIONS_SLACK: f64 = 0.01;
const HEADER: &str = "case            instructions  budget  allocations";

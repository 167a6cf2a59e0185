//! `culex-bench machine`: the machine alone at work, for whoever looks closer at what its instructions do. The cases, and the
//! budgets they have to keep, are in `bench/machine`.

use crate::Trouble;
use clap::Args;
use culex_bench_machine::CASES;

/// How much the machine has to do.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// What it does
    #[arg(long, default_value = "qos0-v4", value_parser = clap::builder::PossibleValuesParser::new(CASES.iter().map(|case| case.name)))]
    case: String,
    /// How often: mostly bursts of 32 messages of 64 bytes
    #[arg(long, default_value_t = 100)]
    bursts: u32,
}

/// Does it; says how many units of the case that were.
pub(crate) fn run(plan: &Plan) -> Result<String, Trouble> {
    let case = culex_bench_machine::case(&plan.case).ok_or_else(|| Trouble::new("no such case"))?;
    let units = case.run(plan.bursts, || {});
    Ok(format!("{units} times {}\n", case.unit))
}

//! The same program on three runtimes: each module below is the same file, `any_runtime/program.rs`, with another import.
//!
//! ```sh
//! cargo run -p culex-examples --example any_runtime
//! ```

mod on_tokio {
    use culex_tokio as culex;
    include!("any_runtime/program.rs");
}

mod on_smol {
    use culex_smol as culex;
    include!("any_runtime/program.rs");
}

mod on_std {
    use culex_std as culex;
    include!("any_runtime/program.rs");
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    on_tokio::program()?;
    on_smol::program()?;
    on_std::program()
}

#[cfg(test)]
mod tests {
    #[test]
    fn one_program_runs_on_every_runtime() {
        assert!(super::main().is_ok());
    }
}

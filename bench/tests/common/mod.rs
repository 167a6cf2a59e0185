//! The programs.

use std::path::PathBuf;
use std::process::Command;

/// The broker beside the program under test; built if it is not there, as with `cargo test -p culex-bench`.
pub(crate) fn culex() -> PathBuf {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_culex-bench")).with_file_name("culex");
    if !program.exists() {
        let mut cargo = Command::new(env!("CARGO"));
        assert!(cargo.args(["build", "--package", "culex", "--profile", "test"]).status().unwrap().success());
    }
    program
}

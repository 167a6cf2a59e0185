//! How long the adapters are: `cargo test -p culex-runtime --test lines -- --nocapture` prints a table.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // as in tests

use std::fs;
use std::path::Path;

/// An adapter and its lines of code at most. An adapter is a loop around the driver: when it grows, what it got belongs
/// into `culex-runtime`. That on threads is the longest: it has no reactor of others, so it waits for sockets itself.
const ADAPTERS: [(&str, usize); 3] = [("runtime-tokio", 300), ("runtime-smol", 300), ("runtime-std", 700)];

/// Lines that are neither empty nor a comment.
fn lines(file: &Path) -> usize {
    let text = fs::read_to_string(file).unwrap();
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")).count()
}

#[test]
fn adapters_stay_short() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for (adapter, max) in ADAPTERS {
        let files = fs::read_dir(root.join(adapter).join("src")).unwrap();
        let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        files.sort();
        let mut sum = 0;
        for file in files {
            let count = lines(&file);
            sum += count;
            println!("{count:>5}  {adapter}/{}", file.file_name().unwrap().display());
        }
        println!("{sum:>5}  {adapter}, of at most {max}\n");
        assert!(sum <= max, "{adapter} has {sum} lines of code");
    }
}

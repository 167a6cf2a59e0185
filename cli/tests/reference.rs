//! What the program says about itself.

mod common;

use common::{culex, file, run};

/// `docs/configuration.md`, and where in it the settings stand.
fn document() -> (std::path::PathBuf, String, std::ops::Range<usize>) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let text = std::fs::read_to_string(&path).expect("docs/configuration.md");
    let opening = "```toml settings\n";
    let start = text.find(opening).expect("a block of settings") + opening.len();
    let end = start + text[start..].find("```").expect("the end of the block");
    (path, text, start..end)
}

#[test]
fn the_documented_settings_are_those_of_the_program() {
    let settings = run(&mut culex(&["settings"])).out;
    let (path, mut text, block) = document();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        text.replace_range(block, &settings);
        std::fs::write(path, text).unwrap();
        return;
    }
    assert!(
        text[block] == settings,
        "docs/configuration.md is out of date: UPDATE_DOCS=1 cargo test -p culex --test reference"
    );
}

#[test]
fn the_printed_settings_are_a_file_that_changes_nothing() {
    let settings = run(&mut culex(&["settings"])).out;
    let path = file("all_comments.toml", &settings);
    let name = path.to_str().unwrap();
    assert_eq!(run(&mut culex(&["check-config", name])).out, format!("{name}: ok\n"));

    let active: String = settings
        .lines()
        .map(|line| {
            line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line).to_owned() + "\n"
        })
        .collect();
    assert!(active.contains("\nlisten = \"mqtt://127.0.0.1:1883\"\n"));
    assert!(active.contains("\nreceive_maximum = 1024\n"));
    let path = file("all_active.toml", &active);
    let name = path.to_str().unwrap();
    assert_eq!(run(&mut culex(&["check-config", name])).out, format!("{name}: ok\n"));
}

#[test]
fn help_and_version_go_to_standard_output() {
    let help = run(&mut culex(&["--help"]));
    assert_eq!((help.code, help.err.as_str()), (Some(0), ""));
    for word in ["--listen", "--config", "--runtime", "--log", "check-config", "settings"] {
        assert!(help.out.contains(word), "{word} is not in\n{}", help.out);
    }
    assert!(!help.out.contains("--seed"));
    let version = run(&mut culex(&["--version"]));
    assert_eq!(
        (version.code, version.out.as_str()),
        (Some(0), concat!("culex ", env!("CARGO_PKG_VERSION"), "\n"))
    );
}

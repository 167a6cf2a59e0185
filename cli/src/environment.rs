//! Settings from the environment: `CULEX_` and the key in upper case.

use crate::nearest::nearest;
use crate::settings::{self, Given, Source, Value};
use std::ffi::OsString;

/// What every variable of ours begins with.
const PREFIX: &str = "CULEX_";
/// Variables of the test suite, which runs this program.
const NOT_SETTINGS: [&str; 2] = ["CULEX_BIN", "CULEX_REQUIRE_CLIENTS"];

/// The settings among the variables, in the order of their names, and a line per variable that is none.
pub(crate) fn read(variables: impl Iterator<Item = (OsString, OsString)>) -> (Vec<Given>, Vec<String>) {
    let mut ours: Vec<(String, OsString)> = variables
        .filter_map(|(name, value)| Some((name.to_str()?.to_owned(), value)))
        .filter(|(name, _)| name.starts_with(PREFIX) && !NOT_SETTINGS.contains(&name.as_str()))
        .collect();
    ours.sort();
    let mut given = Vec::new();
    let mut mistakes = Vec::new();
    for (variable, value) in ours {
        let Some(key) = settings::keys().find(|key| name_of(key) == variable) else {
            mistakes.push(unknown(&variable));
            continue;
        };
        match value.into_string() {
            Ok(text) => given.push(Given {
                key: key.to_owned(),
                value: Value::Text(text),
                source: Source::Environment(variable),
            }),
            Err(_) => mistakes.push(format!("{variable}: expected UTF-8 text, found other bytes")),
        }
    }
    (given, mistakes)
}

fn unknown(variable: &str) -> String {
    let word = variable[PREFIX.len()..].to_ascii_lowercase();
    match nearest(&word, settings::keys()) {
        Some(key) => format!("{variable}: unknown setting, did you mean {}?", name_of(key)),
        None => format!("{variable}: unknown setting, `culex settings` prints all of them"),
    }
}

fn name_of(key: &str) -> String {
    format!("{PREFIX}{}", key.to_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_pairs(pairs: &[(&str, &str)]) -> (Vec<Given>, Vec<String>) {
        read(pairs.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))))
    }

    #[test]
    fn only_our_prefix_counts() {
        let (given, mistakes) = read_pairs(&[("PATH", "/bin"), ("CULEX_LOG", "warn"), ("CULEX_BIN", "x")]);
        assert_eq!((given.len(), mistakes.len()), (1, 0));
        assert_eq!(given[0].key, "log");
    }

    #[test]
    fn an_unknown_variable_is_named_with_the_nearest_one() {
        let (_, lines) = read_pairs(&[("CULEX_LISTN", "x"), ("CULEX_log", "x"), ("CULEX_TLS_KEY", "x")]);
        assert_eq!(
            lines,
            [
                "CULEX_LISTN: unknown setting, did you mean CULEX_LISTEN?",
                "CULEX_TLS_KEY: unknown setting, `culex settings` prints all of them",
                "CULEX_log: unknown setting, did you mean CULEX_LOG?",
            ]
        );
    }
}

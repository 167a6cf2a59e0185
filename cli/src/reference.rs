//! The table of all settings, as a configuration file in which every line is a comment.

use crate::listener::LISTENER;
use crate::settings::PROGRAM;
use culex_core::Config;
use culex_core::config::ListenerConfig;
use std::fmt::Write;

const HEAD: &str = "\
# Every setting of culex with its default. Remove a leading # to change one.
#
# Each can also be given as an environment variable, CULEX_ and the key in upper case (CULEX_LISTEN), and the
# first few as arguments (`culex --help`). Arguments go before the environment, the environment before the file.
";

/// The documented table of all settings.
pub(crate) fn settings() -> String {
    let mut text = String::from(HEAD);
    for setting in &PROGRAM {
        entry(&mut text, setting.doc, None, setting.key, setting.default);
    }
    for setting in Config::settings() {
        entry(&mut text, setting.doc, Some(setting.kind), setting.key, &(setting.default)());
    }
    text.push_str(LISTENERS);
    for setting in &LISTENER {
        entry(&mut text, setting.doc, None, setting.key, setting.default);
    }
    for setting in ListenerConfig::settings() {
        entry(&mut text, setting.doc, Some(setting.kind), setting.key, &(setting.default)());
    }
    text
}

const LISTENERS: &str = "
# A listener that needs more than a URL has a table of its own, behind all other settings. The default of `listen` is
# then not listened on.

#[[listener]]
";

fn entry(text: &mut String, doc: &str, kind: Option<&str>, key: &str, default: &str) {
    text.push('\n');
    let kind = kind.map(|kind| format!("Expected: {kind}."));
    for line in wrapped(doc, 108).into_iter().chain(kind) {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "# {line}");
    }
    let number = default.parse::<i128>().is_ok_and(|number| number.to_string() == default);
    let bare = number || matches!(default, "true" | "false");
    let _ = if bare { writeln!(text, "#{key} = {default}") } else { writeln!(text, "#{key} = {default:?}") };
}

/// Breaks a text into lines of at most `width` characters, between words.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

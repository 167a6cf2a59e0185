//! The configuration file: TOML, flat but for a `[[listener]]` table for each listener that needs more than a URL. Every
//! mistake is one line, `FILE:LINE: KEY: expected WHAT, found WHAT`.

use crate::problem::{one_line, words};
use crate::settings::{Given, Source, Value};
use std::path::Path;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

/// What the file gives, in the order of its lines.
#[derive(Debug, Default)]
pub(crate) struct File {
    pub(crate) given: Vec<Given>,
    /// The `[[listener]]` tables: where each begins, and what is in it.
    pub(crate) listeners: Vec<(Source, Vec<Given>)>,
}

/// Reads a file, or says what is to be printed about it.
pub(crate) fn read(path: &Path) -> Result<File, Vec<String>> {
    let bytes = std::fs::read(path)
        .map_err(|error| vec![format!("cannot read {}: {}", path.display(), words(&error))])?;
    parse(&path.display().to_string(), &bytes)
}

fn parse(name: &str, bytes: &[u8]) -> Result<File, Vec<String>> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        vec![format!(
            "{name}:{}: expected UTF-8 text, found other bytes",
            line_at(bytes, error.valid_up_to())
        )]
    })?;
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut lines: Vec<(usize, String)> = errors
        .iter()
        .map(|error| {
            let line = line_at(bytes, error.span().map_or(0, |span| span.start));
            (line, format!("{name}:{line}: not valid TOML: {}", one_line(error.message())))
        })
        .collect();
    if !lines.is_empty() {
        // One slip often makes several errors on its line; the first is the one to read.
        lines.sort_by_key(|(line, _)| *line);
        lines.dedup_by_key(|(line, _)| *line);
        return Err(lines.into_iter().map(|(_, text)| text).collect());
    }
    let source = |offset| Source::File { name: name.to_owned(), line: line_at(bytes, offset) };
    let listeners = table.get_ref().get(LISTENER).and_then(|value| tables(value.get_ref()));
    let read = |table: &DeTable<'_>| {
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let given = |(key, value): (&Spanned<_>, &Spanned<_>)| {
            let key: &Spanned<DeString<'_>> = key;
            let source = source(key.span().start);
            Given { key: key.get_ref().to_string(), value: value_of(value.get_ref()), source }
        };
        entries.into_iter().map(given).collect::<Vec<_>>()
    };
    let mut given = read(table.get_ref());
    if listeners.is_some() {
        given.retain(|given| given.key != LISTENER);
    }
    let listeners = listeners.unwrap_or_default();
    let listeners = listeners.into_iter().map(|(start, table)| (source(start), read(table))).collect();
    Ok(File { given, listeners })
}

/// The tables of an array, if it is one of nothing else, and where they begin.
fn tables<'v, 'i>(value: &'v DeValue<'i>) -> Option<Vec<(usize, &'v DeTable<'i>)>> {
    let DeValue::Array(items) = value else { return None };
    let table = |item: &'v Spanned<DeValue<'i>>| match item.get_ref() {
        DeValue::Table(table) => Some((item.span().start, table)),
        _ => None,
    };
    items.iter().map(table).collect::<Option<Vec<_>>>().filter(|tables| !tables.is_empty())
}

/// The key of the tables.
const LISTENER: &str = "listener";

fn value_of(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Boolean(truth) => Value::Bare(truth.to_string()),
        // A number that does not even fit here is shown as it was written and refused by its setting.
        DeValue::Integer(number) => Value::Bare(
            i128::from_str_radix(number.as_str(), number.radix())
                .map_or_else(|_| number.to_string(), |number| number.to_string()),
        ),
        DeValue::Array(items) => {
            let texts = items.iter().map(|item| item.get_ref().as_str().map(str::to_owned));
            texts
                .collect::<Option<Vec<_>>>()
                .map_or(Value::Other("an array that is not of strings"), Value::Many)
        }
        DeValue::Float(_) => Value::Other("a number with a fraction"),
        DeValue::Datetime(_) => Value::Other("a date or time"),
        DeValue::Table(_) => Value::Other("a table"),
    }
}

/// The number of the line in which the byte at `offset` stands, counted from 1.
fn line_at(bytes: &[u8], offset: usize) -> usize {
    1 + bytes[..offset.min(bytes.len())].iter().filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_in_the_order_of_their_lines_and_know_them() {
        let given = parse("c.toml", b"# a comment\n\nruntime = \"std\"\nlog = \"warn\"\n").unwrap().given;
        let seen: Vec<_> = given.iter().map(|given| (given.key.as_str(), given.source.clone())).collect();
        let at = |line| Source::File { name: "c.toml".to_owned(), line };
        assert_eq!(seen, [("runtime", at(3)), ("log", at(4))]);
    }

    #[test]
    fn tables_of_listeners_know_where_they_are() {
        let text = b"log = \"warn\"\n\n[[listener]]\nurl = \"unix:x\"\nproxies = [\"::1\"]\n[[listener]]\n";
        let file = parse("c.toml", text).unwrap();
        let at = |line| Source::File { name: "c.toml".to_owned(), line };
        assert_eq!(file.given.len(), 1);
        let seen: Vec<_> =
            file.listeners.iter().map(|(source, given)| (source.clone(), given.len())).collect();
        assert_eq!(seen, [(at(3), 2), (at(6), 0)]);
        assert_eq!(file.listeners[0].1[1].source, at(5));
        for wrong in ["listener = 1\n", "[listener]\nurl = \"unix:x\"\n", "listener = []\n"] {
            let file = parse("c.toml", wrong.as_bytes()).unwrap();
            assert_eq!((file.given.len(), file.listeners.len()), (1, 0), "{wrong}");
        }
    }

    #[test]
    fn numbers_of_any_base_arrive_as_decimals() {
        let given =
            parse("c.toml", b"a = 0x10\nb = 1_000\nc = -1\nd = 99999999999999999999999999999999999999999\n");
        let values: Vec<_> = given.unwrap().given.into_iter().map(|given| given.value).collect();
        let bare = |text: &str| Value::Bare(text.to_owned());
        let large = bare("99999999999999999999999999999999999999999");
        assert_eq!(values, [bare("16"), bare("1000"), bare("-1"), large]);
    }

    #[test]
    fn every_line_that_is_not_toml_is_reported_once() {
        let lines = parse("c.toml", b"listen = \nlog = \"info\"\nrun time = 1\n").unwrap_err();
        assert_eq!(lines.len(), 2, "{lines:#?}");
        assert!(lines[0].starts_with("c.toml:1: not valid TOML: "), "{lines:#?}");
        assert!(lines[1].starts_with("c.toml:3: not valid TOML: "), "{lines:#?}");
    }

    #[test]
    fn a_key_that_stands_twice_is_reported_where_it_stands_again() {
        let lines = parse("c.toml", b"log = \"info\"\nlog = \"warn\"\n").unwrap_err();
        assert_eq!(lines, ["c.toml:2: not valid TOML: duplicate key"]);
    }

    #[test]
    fn bytes_that_are_not_text_are_refused_with_their_line() {
        let lines = parse("c.toml", b"log = \"info\"\nruntime = \"\xff\"\n").unwrap_err();
        assert_eq!(lines, ["c.toml:2: expected UTF-8 text, found other bytes"]);
    }
}

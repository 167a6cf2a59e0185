//! The configuration file: flat TOML. Every mistake is one line, `FILE:LINE: KEY: expected WHAT, found WHAT`.

use crate::problem::{one_line, words};
use crate::settings::{Given, Source, Value};
use std::path::Path;
use toml::de::{DeTable, DeValue};

/// What the file gives, in the order of its lines, or the lines to print about it.
pub(crate) fn read(path: &Path) -> Result<Vec<Given>, Vec<String>> {
    let bytes = std::fs::read(path)
        .map_err(|error| vec![format!("cannot read {}: {}", path.display(), words(&error))])?;
    parse(&path.display().to_string(), &bytes)
}

fn parse(name: &str, bytes: &[u8]) -> Result<Vec<Given>, Vec<String>> {
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
    let mut given: Vec<(usize, Given)> = table
        .get_ref()
        .iter()
        .map(|(key, value)| {
            let line = line_at(bytes, key.span().start);
            let source = Source::File { name: name.to_owned(), line };
            (line, Given { key: key.get_ref().to_string(), value: value_of(value.get_ref()), source })
        })
        .collect();
    given.sort_by_key(|(line, _)| *line);
    Ok(given.into_iter().map(|(_, given)| given).collect())
}

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
        let given = parse("c.toml", b"# a comment\n\nruntime = \"std\"\nlog = \"warn\"\n").unwrap();
        let seen: Vec<_> = given.iter().map(|given| (given.key.as_str(), given.source.clone())).collect();
        let at = |line| Source::File { name: "c.toml".to_owned(), line };
        assert_eq!(seen, [("runtime", at(3)), ("log", at(4))]);
    }

    #[test]
    fn numbers_of_any_base_arrive_as_decimals() {
        let given =
            parse("c.toml", b"a = 0x10\nb = 1_000\nc = -1\nd = 99999999999999999999999999999999999999999\n");
        let values: Vec<_> = given.unwrap().into_iter().map(|given| given.value).collect();
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

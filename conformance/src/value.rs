//! The words of a scenario line: `name=value` tokens, values to send, patterns to expect.

use std::collections::BTreeMap;

/// What was captured so far, by name.
pub(crate) type Variables = BTreeMap<String, Vec<u8>>;

/// A value to send, or one that is expected exactly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// As written, bare or in quotes. Topics and Client Identifiers are made unique.
    Text(Vec<u8>),
    /// As written, and never made unique: `literal(#)`, `hex(c3 28)`.
    Literal(Vec<u8>),
    /// So many bytes: `size(70000)`.
    Size(usize),
    /// What was captured: `$id`.
    Variable(String),
}

impl Value {
    /// Reads a value.
    pub(crate) fn parse(token: &str) -> Result<Self, String> {
        let inside = |name: &str| {
            token
                .strip_prefix(name)
                .and_then(|rest| rest.strip_prefix('('))
                .and_then(|rest| rest.strip_suffix(')'))
        };
        if let Some(name) = token.strip_prefix('$').filter(|name| is_name(name)) {
            return Ok(Self::Variable(name.to_owned()));
        }
        if let Some(digits) = inside("hex") {
            return hex(digits).map(Self::Literal);
        }
        if let Some(text) = inside("literal") {
            return unquote(text).map(Self::Literal);
        }
        if let Some(number) = inside("size") {
            let size =
                number.trim().parse().map_err(|_| format!("size({number}): expected a number of bytes"))?;
            return Ok(Self::Size(size));
        }
        unquote(token).map(Self::Text)
    }

    /// The bytes to send.
    pub(crate) fn bytes(&self, variables: &Variables) -> Result<Vec<u8>, String> {
        Ok(match self {
            Self::Text(bytes) | Self::Literal(bytes) => bytes.clone(),
            Self::Size(size) => vec![b'x'; *size],
            Self::Variable(name) => {
                variables.get(name).cloned().ok_or_else(|| format!("${name} was not captured before"))?
            }
        })
    }

    /// The number that the value says.
    pub(crate) fn number(&self, variables: &Variables) -> Result<u64, String> {
        let bytes = self.bytes(variables)?;
        let text = String::from_utf8_lossy(&bytes);
        number(&text).ok_or_else(|| format!("{text}: expected a number"))
    }
}

/// What one field of a received packet may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Atom {
    /// It is there.
    Any,
    /// It is not there.
    Absent,
    /// It is there and differs.
    Not(Value),
    /// A number between two, both included.
    Range(u64, u64),
    /// It is this.
    Is(Value),
}

impl Atom {
    fn parse(token: &str) -> Result<Self, String> {
        Ok(match token {
            "any" => Self::Any,
            "absent" => Self::Absent,
            _ => {
                if let Some(rest) = token.strip_prefix('!') {
                    return Value::parse(rest).map(Self::Not);
                }
                match range(token) {
                    Some((low, high)) => Self::Range(low, high),
                    None => Self::Is(Value::parse(token)?),
                }
            }
        })
    }
}

/// What a field is expected to be: for each of its values, in their order, the alternatives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern(pub(crate) Vec<Vec<Atom>>);

impl Pattern {
    /// Reads `1`, `1|2`, `1,2`, `any`, `absent`, `!7`, `1..5`. Commas separate the values of a numeric field only.
    pub(crate) fn parse(token: &str, numeric: bool) -> Result<Self, String> {
        let values = if numeric { split(token, ',') } else { vec![token] };
        let alternatives =
            |value: &str| split(value, '|').into_iter().map(Atom::parse).collect::<Result<Vec<_>, _>>();
        values.into_iter().map(alternatives).collect::<Result<_, _>>().map(Self)
    }
}

/// A number, decimal or hexadecimal with 0x.
pub(crate) fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn range(token: &str) -> Option<(u64, u64)> {
    let (low, high) = token.split_once("..")?;
    let low = if low.is_empty() { 0 } else { number(low)? };
    let high = if high.is_empty() { u64::MAX } else { number(high)? };
    Some((low, high))
}

/// Whether this can be the name of a connection or variable.
pub(crate) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// Bytes from hexadecimal digits; spaces are ignored, text in quotes stands for its bytes.
pub(crate) fn hex(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    for token in tokens(text)? {
        if token.starts_with('"') {
            bytes.extend(unquote(&token)?);
            continue;
        }
        if !token.len().is_multiple_of(2) || !token.is_ascii() {
            return Err(format!("{token}: expected pairs of hexadecimal digits"));
        }
        for i in (0..token.len()).step_by(2) {
            let pair = &token[i..i + 2];
            bytes.push(u8::from_str_radix(pair, 16).map_err(|_| format!("{pair}: not hexadecimal"))?);
        }
    }
    Ok(bytes)
}

/// Splits a line at spaces, but not inside quotes or parentheses. A token that begins with # begins a comment.
pub(crate) fn tokens(line: &str) -> Result<Vec<String>, String> {
    let (mut all, mut token, mut quoted, mut depth) = (Vec::new(), String::new(), false, 0u32);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if quoted {
            token.push(c);
            match c {
                '\\' => token.extend(chars.next()),
                '"' => quoted = false,
                _ => {}
            }
            continue;
        }
        match c {
            '#' if token.is_empty() => break,
            c if c.is_whitespace() && depth == 0 => {
                if !token.is_empty() {
                    all.push(std::mem::take(&mut token));
                }
                continue;
            }
            '"' => quoted = true,
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        token.push(c);
    }
    if quoted {
        return Err("a quote is not closed".into());
    }
    if !token.is_empty() {
        all.push(token);
    }
    Ok(all)
}

/// Splits at a character outside of quotes and parentheses.
fn split(token: &str, at: char) -> Vec<&str> {
    let (mut parts, mut start, mut quoted, mut depth, mut escaped) = (Vec::new(), 0, false, 0u32, false);
    for (i, c) in token.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = quoted,
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth = depth.saturating_sub(1),
            c if c == at && !quoted && depth == 0 => {
                parts.push(&token[start..i]);
                start = i + c.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(&token[start..]);
    parts
}

/// Text in quotes with its escapes resolved; bare text as it is.
fn unquote(token: &str) -> Result<Vec<u8>, String> {
    let Some(inner) = token.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return Ok(token.as_bytes().to_vec());
    };
    let mut bytes = Vec::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            bytes.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        match chars.next() {
            Some('n') => bytes.push(b'\n'),
            Some('0') => bytes.push(0),
            Some('x') => {
                let digits: String = chars.by_ref().take(2).collect();
                bytes.push(u8::from_str_radix(&digits, 16).map_err(|_| format!("\\x{digits}: not a byte"))?);
            }
            Some(c @ ('"' | '\\')) => bytes.push(c as u8),
            other => return Err(format!("unknown escape {other:?}: there are \\n \\0 \\xNN \\\" \\\\")),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_splits_at_spaces_outside_of_quotes_and_parentheses() {
        let line = r##"a > PUBLISH topic="a b" payload=hex(01 02) filter=a/# # comment "x"##;
        let expected = ["a", ">", "PUBLISH", r#"topic="a b""#, "payload=hex(01 02)", "filter=a/#"];
        assert_eq!(tokens(line).unwrap(), expected);
    }

    #[test]
    fn values_say_bytes() {
        let none = Variables::new();
        let bytes = |token: &str| Value::parse(token).unwrap().bytes(&none).unwrap();
        assert_eq!(bytes("hex(c3 28 \"a\")"), b"\xC3\x28a");
        assert_eq!(bytes(r#""a\0\xff""#), b"a\0\xFF");
        assert_eq!(bytes("size(3)"), b"xxx");
        assert_eq!(Value::parse("0x1f").unwrap().number(&none), Ok(31));
        assert!(Value::parse("$id").unwrap().bytes(&none).is_err());
    }

    #[test]
    fn patterns_have_alternatives_and_lists() {
        let pattern = Pattern::parse("0x80|0x8F,1..2", true).unwrap();
        assert_eq!(pattern.0.len(), 2);
        assert_eq!(pattern.0[0].len(), 2);
        assert_eq!(pattern.0[1], [Atom::Range(1, 2)]);
        assert_eq!(Pattern::parse("a,b", false).unwrap().0.len(), 1);
    }
}

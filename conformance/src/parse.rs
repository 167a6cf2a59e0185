//! Reads scenario files; `tests/conformance/README.md` describes the format.

use crate::scenario::{Action, Expected, Scenario, Send, Step, version_name, version_of};
use crate::target;
use crate::value::{Pattern, Value, hex, is_name, tokens};
use crate::wire;
use culex_core::packet::Version;
use std::time::Duration;

/// Reads the scenarios of a file.
///
/// # Errors
/// `file:line: what is wrong` for the first mistake.
pub fn parse(file: &str, text: &str) -> Result<Vec<Scenario>, String> {
    let mut all: Vec<Scenario> = Vec::new();
    for (line, text) in logical_lines(text) {
        let wrong = |what: String| format!("{file}:{line}: {what}");
        if let Some(title) = text.strip_prefix("scenario:") {
            finish(all.last())?;
            all.push(Scenario {
                file: file.to_owned(),
                line,
                title: title.trim().to_owned(),
                clauses: Vec::new(),
                versions: Vec::new(),
                needs: Vec::new(),
                websocket: false,
                steps: Vec::new(),
            });
            continue;
        }
        let scenario = all.last_mut().ok_or_else(|| wrong("expected `scenario: …` first".into()))?;
        if !header(scenario, &text).map_err(wrong)? {
            let step = step(line, &text).map_err(wrong)?;
            scenario.steps.push(step);
        }
    }
    finish(all.last())?;
    Ok(all)
}

/// Lines without comments and blank lines; an indented line continues the one before it.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (i, raw) in text.lines().enumerate() {
        let trimmed = raw.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        match lines.last_mut() {
            Some((_, last)) if raw.starts_with([' ', '\t']) => {
                last.push(' ');
                last.push_str(trimmed);
            }
            _ => lines.push((i + 1, trimmed.to_owned())),
        }
    }
    lines
}

fn finish(scenario: Option<&Scenario>) -> Result<(), String> {
    let Some(Scenario { file, line, clauses, versions, steps, websocket, .. }) = scenario else {
        return Ok(());
    };
    if let (false, Some(step)) = (websocket, steps.iter().find(|step| step.needs_websocket())) {
        let Step { line, text, .. } = step;
        return Err(format!("{file}:{line}: {text}: only with `transport: websocket`"));
    }
    for (missing, what) in
        [(clauses.is_empty(), "clauses:"), (versions.is_empty(), "versions:"), (steps.is_empty(), "a step")]
    {
        if missing {
            return Err(format!("{file}:{line}: the scenario has no {what}"));
        }
    }
    Ok(())
}

/// Reads `clauses:`, `versions:`, `needs:`; says whether the line was one of them.
fn header(scenario: &mut Scenario, text: &str) -> Result<bool, String> {
    let text = text.split(" #").next().unwrap_or(text).trim_end();
    if let Some(rest) = text.strip_prefix("clauses:") {
        scenario.clauses.extend(rest.split_whitespace().map(str::to_owned));
    } else if let Some(rest) = text.strip_prefix("versions:") {
        scenario.versions = versions(rest)?;
    } else if let Some(rest) = text.strip_prefix("needs:") {
        let (key, value) = rest.split_once('=').ok_or("expected `needs: setting = value`")?;
        scenario.needs.push((key.trim().to_owned(), value.trim().to_owned()));
    } else if let Some(rest) = text.strip_prefix("transport:") {
        match rest.trim() {
            "websocket" => scenario.websocket = true,
            other => return Err(format!("{other}: expected `transport: websocket`")),
        }
    } else {
        return Ok(false);
    }
    match scenario.steps.is_empty() {
        true => Ok(true),
        false => Err("clauses, versions, needs and transport stand before the first step".into()),
    }
}

fn versions(text: &str) -> Result<Vec<Version>, String> {
    let read = |word| version_of(word).ok_or_else(|| format!("{word}: expected 3.1, 3.1.1 or 5"));
    text.split_whitespace().map(read).collect()
}

fn step(line: usize, text: &str) -> Result<Step, String> {
    let (guard, rest) = match text.strip_prefix('[') {
        None => (Vec::new(), text),
        Some(rest) => {
            let (guard, rest) = rest.split_once(']').ok_or("a guard is not closed: `[5] …`")?;
            (versions(guard)?, rest.trim())
        }
    };
    let words = tokens(rest)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Ok(Step { line, text: text.to_owned(), guard, action: action(&words)? })
}

fn action(words: &[&str]) -> Result<Action, String> {
    match words {
        ["wait", time] => return duration(time).map(Action::Wait),
        ["fence"] => return Ok(Action::Fence(None)),
        [] => return Err("a guard without a step".into()),
        _ => {}
    }
    let (name, rest) = (words[0], &words[1..]);
    if !is_name(name) {
        return Err(format!("{name}: expected a connection (a, b, alice), `wait` or `fence`"));
    }
    let name = name.to_owned();
    Ok(match rest {
        ["open"] => Action::Open(name, vec!["mqtt".into()]),
        ["open", offers] => Action::Open(name, offered(offers)?),
        ["cut"] => Action::Cut(name),
        ["fence"] => Action::Fence(Some(name)),
        ["quiet", time] => Action::Quiet { of: name, time: duration(time)? },
        ["connect", fields @ ..] => Action::Connect(name, sent_fields("CONNECT", fields)?),
        ["subscribe", fields @ ..] => Action::Subscribe(name, sent_fields("SUBSCRIBE", fields)?),
        ["publish", fields @ ..] => Action::Publish(name, sent_fields("PUBLISH", fields)?),
        ["disconnect", fields @ ..] => Action::Disconnect(name, sent_fields("DISCONNECT", fields)?),
        [">>", "frame", ..] => return Err("a frame is sent at once: `>`".into()),
        [arrow @ (">" | ">>"), what @ ..] => {
            Action::Send { to: name, what: send(what)?, hold: *arrow == ">>" }
        }
        ["<", what @ ..] => expect(name, what)?,
        _ => {
            return Err(
                "expected open, connect, subscribe, publish, disconnect, >, >>, <, fence, quiet or cut"
                    .into(),
            );
        }
    })
}

/// Reads `offers=chat,mqtt`.
fn offered(word: &str) -> Result<Vec<String>, String> {
    match pair(word)? {
        ("offers", names) => Ok(names.split(',').map(str::to_owned).collect()),
        (other, _) => Err(format!("{other}: expected offers=NAME,NAME")),
    }
}

fn send(words: &[&str]) -> Result<Send, String> {
    match words {
        ["frame", "part", kind, rest @ ..] => frame(kind, false, rest),
        ["frame", kind, rest @ ..] => frame(kind, true, rest),
        ["hex", rest @ ..] => hex(&rest.join(" ")).map(Send::Hex),
        [name, fields @ ..] => {
            Ok(Send::Packet { name: (*name).to_owned(), fields: sent_fields(name, fields)? })
        }
        [] => Err("expected a packet or `hex …`".into()),
    }
}

fn frame(kind: &str, last: bool, payload: &[&str]) -> Result<Send, String> {
    let wrong = || format!("{kind}: expected text, binary, continue, ping, pong or close");
    let opcode = target::kind(kind).ok_or_else(wrong)?;
    Ok(Send::Frame(target::frame(opcode, last, &hex(&payload.join(" "))?)))
}

fn pair(word: &str) -> Result<(&str, &str), String> {
    word.split_once('=').ok_or_else(|| format!("{word}: expected name=value"))
}

fn sent_fields(packet: &str, words: &[&str]) -> Result<Vec<(String, Value)>, String> {
    wire::check_sent_packet(packet)?;
    let mut fields: Vec<(String, Value)> = Vec::new();
    for word in words {
        let (name, value) = pair(word)?;
        wire::check_sent_field(packet, name)?;
        let option = packet == "SUBSCRIBE" && ["qos", "nl", "rap", "rh", "options"].contains(&name);
        if option && !fields.iter().any(|(name, _)| name == "filter") {
            return Err(format!("{name}: an option stands behind the filter= that it belongs to"));
        }
        fields.push((name.to_owned(), Value::parse(value)?));
    }
    Ok(fields)
}

fn expect(from: String, words: &[&str]) -> Result<Action, String> {
    let (words, within) = match words {
        [words @ .., "within", time] => (words, Some(duration(time)?)),
        _ => (words, None),
    };
    let mut alternatives = Vec::new();
    for alternative in words.split(|word| *word == "or") {
        let set = alternative.split(|word| *word == "and").map(expected).collect::<Result<Vec<_>, _>>()?;
        alternatives.push(set);
    }
    Ok(Action::Expect { from, alternatives, within })
}

fn expected(words: &[&str]) -> Result<Expected, String> {
    match words {
        [] => Err("expected a packet or CLOSE".into()),
        ["CLOSE"] => Ok(Expected::Close),
        [name, rest @ ..] => {
            wire::check_received_packet(name)?;
            let mut fields = Vec::new();
            for word in rest {
                let (field, pattern) = pair(word)?;
                let numeric = wire::check_received_field(name, field)?;
                fields.push((field.to_owned(), Pattern::parse(pattern, numeric)?));
            }
            Ok(Expected::Packet { name: (*name).to_owned(), fields })
        }
    }
}

/// Reads `1.5s` or `200ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text}: expected a time like 1.5s or 200ms");
    let seconds = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(ms), _) => ms.parse::<f64>().map_err(|_| wrong())? / 1000.0,
        (_, Some(s)) => s.parse::<f64>().map_err(|_| wrong())?,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

/// The versions of a scenario as its header says them.
pub(crate) fn versions_text(versions: &[Version]) -> String {
    versions.iter().map(|version| version_name(*version)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_scenarios_with_headers_and_steps() {
        let text = "# why\nscenario: a story\nclauses: MQTT-3.1.0-1 311:MQTT-3.1.0-1\nversions: 3.1.1 5\n\
                    needs: retain_available = false\n\na connect clean=1\n[5] a < DISCONNECT reason=0x82\n\
                    \x20 or CLOSE within 1.5s\n";
        let scenarios = parse("x.scenario", text).unwrap();
        assert_eq!(scenarios.len(), 1);
        let story = &scenarios[0];
        assert_eq!((story.line, story.clauses.len(), story.steps.len()), (2, 2, 2));
        assert_eq!(story.needs, [("retain_available".to_owned(), "false".to_owned())]);
        let Action::Expect { alternatives, within, .. } = &story.steps[1].action else { panic!() };
        assert_eq!((alternatives.len(), *within), (2, Some(Duration::from_millis(1500))));
    }

    #[test]
    fn a_mistake_says_where_it_is() {
        let head = "scenario: a story\nclauses: MQTT-3.1.0-1\nversions: 5\n";
        for (step, what) in [
            ("a > PUBLISH tropic=x", "tropic"),
            ("a > PUBLISHED", "PUBLISHED"),
            ("a < PINGREQ", "PINGREQ"),
            ("a > SUBSCRIBE qos=1 filter=t", "qos"),
            ("a < CONNACK prop.nothing=1", "nothing"),
            ("a connect =", "no such field"),
            ("A open", "connection"),
            ("a > frame text \"x\"", "transport"),
            ("a > frame words", "words"),
            ("wait 5", "time"),
        ] {
            let error = parse("x.scenario", &format!("{head}{step}\n")).unwrap_err();
            assert!(error.starts_with("x.scenario:4: ") && error.contains(what), "{error}");
        }
    }
}

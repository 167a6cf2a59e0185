//! What happened, drawn: a message sequence chart in one HTML file that needs nothing else, no script and no network.
//!
//! The broker is the lane on the left, each client has one beside it, time goes down. A row is an entry of the trace, so
//! the height says nothing of how long something took: the times at the left do, and where nothing happens for long the
//! gap says how long. Everything is laid out by CSS: a page of some thousand rows stays quick, can be searched and printed.

mod chart;
mod style;

use crate::runs::Story;
use std::fmt::Write;

/// The page of a story; `program` says which program it was.
#[must_use]
pub fn page(story: &Story, program: &str) -> String {
    let script = &story.script;
    let title = format!("Seed {} ({})", script.seed, script.profile);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width\">\n<title>{title}</title>\n<style>\n{}</style>\n",
        style::SHEET
    );
    // Writing to a String cannot fail, here and below.
    write!(page, "<header>\n<h1>{title}</h1>\n").ok();
    match story.failure() {
        Some(failure) => {
            writeln!(page, "<p class=\"verdict bad\"><a href=\"#broken\">{}</a></p>", escape(&failure)).ok();
        }
        None => page.push_str("<p class=\"verdict good\">Every promise was kept.</p>\n"),
    }
    facts(&mut page, story, program);
    told(&mut page, story);
    promises(&mut page, story);
    page.push_str("</header>\n");
    page.push_str(LEGEND);
    chart::draw(&mut page, story);
    page.push_str("</html>\n");
    page
}

fn facts(page: &mut String, story: &Story, program: &str) {
    page.push_str("<dl>\n");
    let mut fact = |name: &str, what: &str| {
        writeln!(page, "<div><dt>{name}</dt><dd>{}</dd></div>", escape(what)).ok();
    };
    fact("program", program);
    if let Ok(outcome) = &story.ending {
        fact("digest", &format!("{:016x}", outcome.digest));
        fact("inputs", &outcome.inputs.to_string());
        fact("virtual time", &format!("{} s", thousandths(outcome.virtual_us / 1_000)));
    }
    fact("to see it again", &story.command());
    page.push_str("</dl>\n");
}

fn told(page: &mut String, story: &Story) {
    let script = &story.script;
    let (steps, drawn) = (script.steps.len(), story.steps_drawn);
    let of = if steps < drawn { format!(" of the {drawn} that the seed drew") } else { String::new() };
    let open = if steps <= 12 { " open" } else { "" };
    writeln!(page, "<details{open}><summary>The script: {steps} steps{of}</summary>").ok();
    writeln!(page, "<pre>{}</pre></details>", escape(&script.to_string())).ok();
}

fn promises(page: &mut String, story: &Story) {
    let Ok(outcome) = &story.ending else { return };
    let seen: Vec<String> = outcome.seen.iter().map(|promise| format!("{promise:?}")).collect();
    writeln!(page, "<details><summary>{} promises were put to the test</summary>", seen.len()).ok();
    writeln!(page, "<p>{}</p></details>", escape(&seen.join(", "))).ok();
}

/// What the colours mean, and what can be left out. The boxes come before the chart: CSS looks only forwards.
const LEGEND: &str = "<div class=\"legend\">\
<label><input type=\"checkbox\" id=\"show-ack\" checked> acknowledgements</label>\
<label><input type=\"checkbox\" id=\"show-ping\" checked> pings</label>\
<label><input type=\"checkbox\" id=\"show-step\" checked> what clients do</label>\
<label><input type=\"checkbox\" id=\"show-note\" checked> what the broker does</label>\
<span class=\"key con\">connection</span><span class=\"key sub\">subscription</span>\
<span class=\"key pub\">message</span><span class=\"key ack\">acknowledgement</span>\
<span class=\"key dup\">repeated</span><span class=\"key fault\">fault</span></div>\n";

/// Milliseconds as seconds.
fn thousandths(ms: u64) -> String {
    format!("{}.{:03}", ms / 1_000, ms % 1_000)
}

/// Text that is nothing but text, wherever in the page it stands.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\n' => safe.push('\n'),
            c if c.is_control() => safe.push(char::REPLACEMENT_CHARACTER),
            c => safe.push(c),
        }
    }
    safe
}
